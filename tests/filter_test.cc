// Filters of system calls that kill: a program that lives under one without the hook does so with it.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "support/harness.h"

namespace shortfuse::tests {
namespace {

// What the hook calls and programs may well not.
constexpr long kRare[] = {SYS_prctl, SYS_socket, SYS_connect, SYS_name_to_handle_at, SYS_madvise, SYS_membarrier,
                          SYS_capget, SYS_getresuid, SYS_recvmsg, SYS_prlimit64, SYS_memfd_create, SYS_statx};

/// From now on the call ends the process, or fails with EPERM. By the hooked libc: it has to notice.
bool forbid(long nr, bool kill) {
  sock_filter code[] = {
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, static_cast<uint32_t>(nr)},
      {BPF_RET | BPF_K, 0, 0, kill ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | EPERM},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
  sock_fprog program = {4, code};
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

int stat_some(const std::string &path, int times) {
  struct stat st = {};
  for (int i = 0; i < times; ++i) {
    if (stat(path.c_str(), &st) != 0) return 4;
    nap_ms(2);
  }
  return st.st_size == 5 ? 0 : 5;
}

}  // namespace

SF_WORKER(stats) { return stat_some(args.at(0), std::atoi(args.at(1).c_str())); }

// NR HOW REPORT PATH TIMES: forbids it, then runs the worker `stats` with the hook.
SF_WORKER(starts_under_filter) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 2;
  setenv("LD_PRELOAD", hook_library().c_str(), 1);
  setenv("SHORTFUSE_REPORT", args.at(2).c_str(), 1);
  const std::string self = own_program();
  if (!forbid(std::atol(args.at(0).c_str()), args.at(1) == "kills")) return 3;
  execl(self.c_str(), self.c_str(), "--worker", "stats", args.at(3).c_str(), args.at(4).c_str(), nullptr);
  return 6;
}

// PATH: is served, then forbids all of kRare, and goes on, with a thread, a child, and an end that would be reported.
SF_WORKER(sets_filter) {
  if (int failed = stat_some(args.at(0), 200)) return failed;
  int fd = open(args.at(0).c_str(), O_RDONLY | O_CLOEXEC);
  char bytes[8];
  if (fd < 0 || read(fd, bytes, 2) != 2) return 2;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 2;
  for (long nr : kRare) {
    if (nr != SYS_madvise && !forbid(nr, true)) return 3;  // libc gives a thread's stack back
  }
  if (int failed = stat_some(args.at(0), 3)) return failed;
  if (read(fd, bytes, 8) != 3 || close(fd) != 0) return 7;
  if (DIR *dir = opendir(std::filesystem::path(args.at(0)).parent_path().c_str())) {
    while (readdir(dir) != nullptr) continue;
    closedir(dir);
  }
  const pid_t child = fork();
  if (child == 0) exit(stat_some(args.at(0), 3));
  int status;
  return waitpid(child, &status, 0) == child && status == 0 ? 0 : 8;
}

namespace {

class Filter : public testing::Test {
 protected:
  Filter() {
    write_file(temp.dir("source") + "/f", "hello");
    mount.emplace(temp / "source", temp.dir("mnt"), Mount::Options{});
    path = mount->point() + "/f";
  }
  Finished start_under(long nr, const char *how, int times, std::map<std::string, std::string> env = {}) {
    std::filesystem::remove(report);
    Spec spec = worker("starts_under_filter", {std::to_string(nr), how, report, path, std::to_string(times)}, false);
    spec.env = std::move(env);
    return run(spec);
  }
  TempDir temp;
  std::optional<Mount> mount;
  std::string path, report = temp / "report";
};

TEST_F(Filter, OfTheStartKillsNobody) {
  for (long nr : kRare) {
    if (nr == SYS_prlimit64) continue;  // libc itself, for the size of stacks
    const Finished done = start_under(nr, "kills", 1);
    EXPECT_EQ(done.status, 0) << "call " << nr << ": " << done.err;
  }
}

TEST_F(Filter, ThatAnswersWithErrorsMayBeNamed) {
  EXPECT_EQ(start_under(SYS_sched_setscheduler, "errors", 20).status, 0);
  EXPECT_FALSE(std::filesystem::exists(report)) << "it did not keep to the kernel: " << read_file(report);
  const bool served = eventually([&] {
    if (start_under(SYS_sched_setscheduler, "errors", 200, {{"SHORTFUSE_FILTERED", "1"}}).status != 0) return false;
    return Report::read(report).served("stat") > 0;
  }, std::chrono::seconds(30));
  EXPECT_TRUE(served);
}

TEST_F(Filter, SetLaterKillsNobody) {
  const bool served = eventually([&] {
    std::filesystem::remove(report);
    Spec spec = worker("sets_filter", {path}, true);
    spec.report = report;
    const Finished done = run(spec);
    EXPECT_EQ(done.status, 0) << done.err;
    return done.status != 0 || Report::read(report).served("stat") > 0;
  }, std::chrono::seconds(30));
  EXPECT_TRUE(served) << "it was never served before";
}

}  // namespace
}  // namespace shortfuse::tests
