// Probes of the ways in which a process makes another or becomes one.
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "probe.h"

extern char **environ;

namespace {

bool served() {
  struct stat status;
  return stat("/fake/31", &status) == 0 && status.st_size == 31;
}

void expect_exit(pid_t pid, int code) {
  int status = -1;
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code);
}

int fork_probe(char **) {
  for (int i = 0; i < 200; i++) {
    pid_t pid = fork();
    if (pid == 0) {
      struct stat status;
      CHECK(served() == hooked());
      CHECK(stat((char *)1, &status) == -1 && errno == EFAULT);
      _exit(i & 63);
    }
    expect_exit(pid, i & 63);
    CHECK(served() == hooked());
  }
  return 0;
}

// The child of vfork has the kernel's answers (its descriptors are its own), the parent goes on being served.
int vfork_probe(char **) {
  bool expect = hooked();
  for (int i = 0; i < 300; i++) {
    pid_t pid = vfork();
    if (pid == 0) {
      struct stat status;
      bool here = stat("/fake/31", &status) == 0;
      close(0);
      // Nested: its own child is as little served, and its return does not change that.
      pid_t inner = vfork();
      if (inner == 0) _exit(stat("/fake/31", &status) == 0 ? 1 : 0);
      int inner_status;
      waitpid(inner, &inner_status, 0);
      bool after = stat("/fake/31", &status) == 0;
      if (i % 3 == 0) execl("/bin/true", "true", nullptr);
      _exit(here || after || inner_status ? 50 : 0);
    }
    expect_exit(pid, 0);
    CHECK(served() == expect);
    CHECK(fcntl(0, F_GETFD) >= 0);
  }
  return 0;
}

int spawn_probe(char **) {
  for (int i = 0; i < 100; i++) {
    pid_t pid;
    const char *arguments[] = {"sh", "-c", "exit 9", nullptr};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addclose(&actions, 0);
    posix_spawn_file_actions_addopen(&actions, 5, "/dev/null", O_RDONLY, 0);
    CHECK(posix_spawn(&pid, "/bin/sh", &actions, nullptr, (char **)arguments, environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    expect_exit(pid, 9);
    CHECK(posix_spawn(&pid, "/nonexistent", nullptr, nullptr, (char **)arguments, environ) == ENOENT);
    CHECK(served() == hooked());
  }
  CHECK(WEXITSTATUS(system("exit 3")) == 3);
  FILE *pipe = popen("echo a line", "r");
  char line[64] = "";
  CHECK(pipe && fgets(line, sizeof line, pipe) && !strcmp(line, "a line\n"));
  CHECK(pclose(pipe) == 0);
  CHECK(served() == hooked());
  return 0;
}

// clone and clone3 without libc's wrappers, with and without a stack of the child's own.
int clone_probe(char **) {
  for (int i = 0; i < 50; i++) {
    long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) _exit(served() == hooked() ? 4 : 5);
    expect_exit((pid_t)pid, 4);
    clone_args arguments = {};
    arguments.exit_signal = SIGCHLD;
    pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid == 0) _exit(served() == hooked() ? 6 : 7);
    expect_exit((pid_t)pid, 6);
    static char stack[65536];
    pid = clone([](void *) -> int { return served() ? 1 : 8; }, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD,
                nullptr);
    expect_exit((pid_t)pid, 8);
    CHECK(served() == hooked());
  }
  CHECK(syscall(SYS_clone3, 8, sizeof(clone_args)) == -1 && errno == EFAULT);
  CHECK(syscall(SYS_clone3, nullptr, 3) == -1 && errno == EINVAL);
  CHECK(served() == hooked());
  return 0;
}

// A child that shares descriptors with its parent, without being a thread: nobody is served from then on.
int odd_clone_probe(char **) {
  CHECK(served() == hooked());
  pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) _exit(served() ? 1 : 0);
  expect_exit(pid, 0);
  CHECK(!served());
  return 0;
}

int unshare_probe(char **) {
  CHECK(served() == hooked());
  CHECK(unshare(CLONE_FILES) == 0);
  CHECK(!served());
  return 0;
}

// A filter that kills for anything unexpected: only calls of the program's own are made from then on.
int seccomp_probe(char **) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  pid_t pid = fork();
  if (pid == 0) {
    if (prctl(PR_SET_SECCOMP, 1 /* strict */)) _exit(3);
    char byte = 'k';
    for (int i = 0; i < 10; i++)
      if (write(ends[1], &byte, 1) != 1) syscall(SYS_exit, 4);
    syscall(SYS_exit, 0);
  }
  expect_exit(pid, 0);
  return 0;
}

int exec_static(char **arguments) {
  for (int i = 0; i < 20; i++) {
    pid_t pid = i % 2 ? fork() : vfork();
    if (pid == 0) {
      execl(arguments[0], arguments[0], "one", nullptr);
      _exit(99);
    }
    expect_exit(pid, 17);
  }
  return 0;
}

// Counts in the report: every way of ending a process ends in sf_bypass_exit().
int end_by(char **arguments) {
  std::string way = arguments[0];
  if (way == "exit") exit(0);
  if (way == "_exit") _exit(0);
  if (way == "quick_exit") quick_exit(0);
  if (way == "syscall") syscall(SYS_exit_group, 0);
  return 0;
}

int closed_standard_descriptors(char **) {
  close(0);
  close(1);
  close(2);
  struct stat status;
  if (served() != hooked()) return 21;
  if (stat((char *)1, &status) != -1 || errno != EFAULT) return 22;
  int fd = open("/dev/null", O_RDWR);
  if (fd != 0) return 23;
  pid_t pid = fork();
  if (pid == 0) {
    execl("/bin/true", "true", nullptr);
    _exit(9);
  }
  int result;
  if (waitpid(pid, &result, 0) != pid || result) return 24;
  return 0;
}

int few_descriptors(char **) {
  rlimit few = {4, 4};
  closefrom(3);  // whoever started the test may have left some open
  CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
  pid_t pid = fork();
  if (pid == 0) {
    execl("/bin/true", "true", nullptr);
    _exit(9);
  }
  expect_exit(pid, 0);
  CHECK(served() == hooked());
  return 0;
}

int is_served(char **arguments) {
  CHECK(served() == (arguments[0][0] == '1'));
  return 0;
}

// For profilers: most of the time is spent inside of calls that are served.
int keeps_serving(char **) {
  constexpr int kCalls = 3'000'000;
  for (int i = 0; i < kCalls; i++) CHECK(served());
  return 0;
}

int is_from_cache(char **arguments) {
  CHECK(hooked());
  if (hook_state()->from_cache != (unsigned)atoi(arguments[0])) {
    fprintf(stderr, "%u modules from the cache\n", hook_state()->from_cache);
    return 1;
  }
  return 0;
}

}  // namespace

const Probe kProcessProbes[] = {
    {"fork", fork_probe},
    {"vfork", vfork_probe},
    {"spawn", spawn_probe},
    {"clone", clone_probe},
    {"odd-clone", odd_clone_probe},
    {"unshare", unshare_probe},
    {"seccomp", seccomp_probe},
    {"exec-program", exec_static},
    {"end-by", end_by},
    {"closed-standard", closed_standard_descriptors},
    {"few-descriptors", few_descriptors},
    {"served", is_served},
    {"keeps-serving", keeps_serving},
    {"is-from-cache", is_from_cache},
    {nullptr, nullptr},
};
