// A read waits for the daemon, and meanwhile another thread puts something else behind its descriptor: it answers for
// the file that it began with, and what is behind the number now is not touched.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include "support/harness.h"

namespace shortfuse::tests {
namespace {

/// Until the thread is inside of a system call that waits: its number is one of these.
bool waits_in(pid_t thread, std::initializer_list<long> calls) {
  return eventually([&] {
    long now = -1;
    std::ifstream("/proc/self/task/" + std::to_string(thread) + "/syscall") >> now;
    return std::find(calls.begin(), calls.end(), now) != calls.end();
  });
}

/// All threads of it, each of which may be in the middle of an answer when the signal is sent.
bool stop(pid_t process) {
  if (kill(process, SIGSTOP) != 0) return false;
  return eventually([&] {
    for (const auto &task : std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/task")) {
      std::string id, name, state;
      std::ifstream(task.path() / "stat") >> id >> name >> state;
      if (state != "T") return false;
    }
    return true;
  });
}

struct Calling {
  std::atomic<pid_t> id = 0;
  std::thread thread;
  template <typename Call>
  explicit Calling(Call call) : thread([this, call] {
    id = static_cast<pid_t>(syscall(SYS_gettid));
    call();
  }) {
    while (id == 0) std::this_thread::yield();
  }
};

/// FILE DAEMON OTHER
SF_WORKER(replaced) {
  const pid_t daemon = std::stoi(args.at(1));
  const int file = open(args.at(0).c_str(), O_RDONLY), other = open(args.at(2).c_str(), O_RDONLY);
  // While somebody may write, no contents are served: the daemon has to be asked.
  const int writer = open(args.at(0).c_str(), O_WRONLY);
  if (file < 0 || other < 0 || writer < 0) return 1;
  char bytes[20] = "";
  ssize_t result = -1;
  if (!stop(daemon)) return 1;
  Calling caller([&] { result = read(file, bytes, sizeof bytes); });
  const bool asked = waits_in(caller.id, {SYS_read, SYS_pread64});
  Calling replacer([&] { dup2(other, file); });
  const bool replaced = eventually([&] {
    char target[4096];
    const ssize_t length = readlink(("/proc/self/fd/" + std::to_string(file)).c_str(), target, sizeof target);
    return std::string(target, length > 0 ? static_cast<size_t>(length) : 0) == args.at(2);
  });
  kill(daemon, SIGCONT);
  caller.thread.join();
  replacer.thread.join();
  std::printf("%s%s%zd %.20s other at %ld\n", asked ? "" : "was not asked ", replaced ? "" : "was not replaced ",
              result, bytes, static_cast<long>(lseek(other, 0, SEEK_CUR)));
  return 0;
}

TEST(Replaced, AReadAnswersForTheFileItBeganWith) {
  for (bool hooked : {false, true}) {
    TempDir temp;
    std::string text;
    for (int i = 0; i < 100'000; ++i) text += "line " + std::to_string(10'000 + i % 1000) + "\n";
    write_file(temp.dir("source") + "/file", text);
    write_file(temp / "other", std::string(50, 'o'));
    Mount mount(temp / "source", temp.dir("mnt"), {});
    if (hooked) run(worker("replaced_warm", {temp / "mnt/file"}, true));
    Spec spec =
        worker("replaced", {temp / "mnt/file", std::to_string(mount.daemon().pid()), temp / "other"}, hooked);
    spec.out = temp / "out";
    Process process(spec);
    EXPECT_EQ(process.wait(std::chrono::seconds(60)), 0);
    kill(mount.daemon().pid(), SIGCONT);
    EXPECT_EQ(read_file(spec.out), "20 " + text.substr(0, 20) + " other at 0\n") << hooked;
  }
}

/// FILE: what a policy keeps of it without its contents.
SF_WORKER(replaced_warm) {
  struct stat st;
  for (int look = 0; look < 3; ++look) {
    if (stat(args.at(0).c_str(), &st) != 0) return 1;
    nap_ms(20);
  }
  return 0;
}

}  // namespace
}  // namespace shortfuse::tests
