// A process of several threads, each walking over descriptors of its own, with signals whose handlers do the same in
// small, and one event after which descriptors may no longer be followed: what is open then has to go on.
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include "descriptors/walker.h"
#include "support/harness.h"

namespace shortfuse::tests::descriptors {
namespace {

std::string root;
std::atomic<bool> failed{false}, over{false};
std::atomic<unsigned> handled{0};
std::atomic<uint64_t> wrong_in_handler{0};  // tag, file, errno

void say(const std::string &wrong) {
  failed = true;
  dprintf(2, "%s\n", wrong.c_str());
}

// A small walk in the middle of whatever was interrupted.
void handle(int) {
  static char paths[kFiles][200];
  const int before = errno;
  const unsigned turn = handled++, file = turn % kFiles;
  if (turn < kFiles && paths[file][0] == 0) std::strncpy(paths[file], path_of(root, file).c_str(), 199);
  const int fd = open(paths[file], O_RDONLY | O_CLOEXEC);
  const uint64_t tag = tag_of_descriptor(fd);
  char bytes[300];
  bool good = fd >= 0 && file_of_tag(tag) == file && read(fd, bytes, 100) == 100 && is_of(tag, 0, bytes, 100);
  const int copy = dup(fd);
  if (close(fd) != 0) good = false;
  if (read(copy, bytes, 100) != 100 || !is_of(tag, 100, bytes, 100)) good = false;
  if (turn % 64 == 63) {
    // Not fork(): what was interrupted may be the allocator.
    const auto pid = static_cast<pid_t>(syscall(SYS_fork));
    if (pid == 0) _exit(read(copy, bytes, 100) == 100 && is_of(tag, 200, bytes, 100) ? 0 : 1);
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (status != 0) good = false;
  }
  if (close(copy) != 0) good = false;
  // Said later: what was interrupted may be the allocator.
  if (!good) wrong_in_handler = tag << 32 | file << 16 | static_cast<unsigned>(errno), failed = true;
  errno = before;
}

int nothing(void *) { return 0; }

void clone_once(int flags) {
  alignas(16) static char stack[65536];
  const int pid = clone(nothing, stack + sizeof stack, flags | SIGCHLD, nullptr);
  int status;
  if (pid > 0) waitpid(pid, &status, 0);
}

void set_filter() {
  sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  sock_fprog program = {1, allow};
  syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
}

void lock_a_file() {
  const int fd = open(path_of(root, 0).c_str(), O_RDONLY | O_CLOEXEC);
  struct flock lock {};
  lock.l_type = F_RDLCK;
  fcntl(fd, F_SETLK, &lock);
  close(fd);
}

void watch_accesses() {
  const int fd = inotify_init1(IN_CLOEXEC);
  inotify_add_watch(fd, root.c_str(), IN_ACCESS);
  close(fd);
}

void change_limit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = 700;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// Its results do not matter: some need rights that the process may not have.
void happens(const std::string &event) {
  char ring[256] = {};
  unsigned long context = 0;
  if (event == "chroot") [[maybe_unused]] int ignored = chroot("/");
  if (event == "unshare-fs") unshare(CLONE_FS);
  if (event == "unshare-files") unshare(CLONE_FILES);
  if (event == "unshare-mounts") unshare(CLONE_NEWNS);
  if (event == "ring") close(static_cast<int>(syscall(SYS_io_uring_setup, 4, ring)));
  if (event == "aio") syscall(SYS_io_setup, 4, &context);
  if (event == "lock") lock_a_file();
  if (event == "limit") change_limit();
  if (event == "filter") set_filter();
  if (event == "clone-files") clone_once(CLONE_FILES);
  if (event == "clone-memory") clone_once(CLONE_VM);
  if (event == "watch") watch_accesses();
  if (event == "no-clock") prctl(PR_SET_TSC, PR_TSC_ENABLE);
  if (event == "credentials") setgid(getgid());
}

void walk(unsigned thread, uint64_t seed, uint64_t event_at, const std::string &event) {
  Walker walker(root, seed);
  for (uint64_t i = 0; !over && !failed; ++i) {
    if (thread == 0 && i == event_at) {
      happens(event);
      if (event == "unshare-files") walker.unshared();
    }
    const std::string wrong = walker.step();
    if (!wrong.empty()) return say("thread " + std::to_string(thread) + ", step " + std::to_string(i) + " (" +
                                   walker.last() + "): " + wrong);
  }
  if (std::string wrong = walker.check_all(); !failed && !wrong.empty()) say("at the end: " + wrong);
}

void end_soon(std::chrono::milliseconds time, std::vector<pthread_t> threads, bool signals, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (auto end = std::chrono::steady_clock::now() + time; std::chrono::steady_clock::now() < end && !failed;) {
    std::this_thread::sleep_for(std::chrono::microseconds(200 + random() % 3000));
    if (signals) pthread_kill(threads[random() % threads.size()], SIGUSR1);
  }
}

}  // namespace

/// root seed threads milliseconds event signals
SF_WORKER(descriptors_storm) {
  root = args.at(0);
  const uint64_t seed = std::stoull(args.at(1));
  const auto threads = static_cast<unsigned>(std::stoul(args.at(2)));
  const std::string event = args.at(4);
  for (int i = 0; i < static_cast<int>(kFiles); ++i) handle(0);  // its paths, before it interrupts anybody
  struct sigaction action {};
  action.sa_handler = handle;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  std::mt19937_64 random(seed);
  const uint64_t event_at = 20 + random() % 250;
  std::vector<std::thread> walkers;
  std::vector<pthread_t> handles;
  for (unsigned i = 0; i < threads; ++i) {
    walkers.emplace_back(walk, i, seed * 100 + i, event_at, event);
    handles.push_back(walkers.back().native_handle());
  }
  end_soon(std::chrono::milliseconds(std::stoul(args.at(3))), handles, args.at(5) == "1", seed);
  // Threads end only when no signal is sent to them any more.
  over = true;
  for (auto &thread : walkers) thread.join();
  if (const uint64_t wrong = wrong_in_handler; wrong != 0)
    dprintf(2, "in a handler, tag %lu, file %lu, errno %lu\n", wrong >> 32, wrong >> 16 & 0xffff, wrong & 0xffff);
  return failed ? 1 : 0;
}

/// number tag offset bytes: a program that was given a descriptor reads on
SF_WORKER(descriptors_inherit) {
  const int fd = std::stoi(args.at(0));
  const uint64_t tag = std::stoull(args.at(1)), offset = std::stoull(args.at(2)), wanted = std::stoull(args.at(3));
  const size_t size = size_of(tag), expected = offset >= size ? 0 : std::min<size_t>(wanted, size - offset);
  std::vector<char> bytes(wanted);
  const ssize_t got = read(fd, bytes.data(), wanted);
  if (got == static_cast<ssize_t>(expected) && is_of(tag, offset, bytes.data(), expected)) return 0;
  dprintf(2, "inherited: %zd of %zu, errno %d\n", got, expected, errno);
  return 1;
}

/// root seed: replaces files until it is killed
SF_WORKER(descriptors_change) {
  std::mt19937_64 random(std::stoull(args.at(1)));
  for (uint64_t generation = 2;; ++generation) {
    put(args.at(0), static_cast<unsigned>(random() % kFiles), generation);
    nap_ms(static_cast<unsigned>(random() % 40));
  }
}

/// root
SF_WORKER(descriptors_make) { return make_files(args.at(0)), 0; }

}  // namespace shortfuse::tests::descriptors
