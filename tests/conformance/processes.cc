// Processes that a process makes: fork, vfork, posix_spawn, clone and clone3 in their kinds. What they share, they
// share with the hook as well.
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>

#include "conformance/case.h"

extern char **environ;

namespace shortfuse::tests::conformance {
namespace {

void forks_share_offsets(const Place &) {
  int fd = open("text", O_RDONLY), copy = dup(fd);
  reads(fd, 10);
  for (int round = 0; round < 4; ++round) {
    say("child", "%s", in_child([&] {
          say("in the child", "%s", reads(fd, 10).c_str());
          say("by the duplicate", "%s", reads(copy, 10).c_str());
          if (round == 2) lseek(fd, 1000, SEEK_SET);
          int own = open("big", O_RDONLY);
          say("of its own", "%s", reads(own, 10).c_str());
          auto read_both = [&] {
            std::string of_all = reads(fd, 5);
            say("read", "%s %s", of_all.c_str(), reads(own, 5).c_str());
          };
          say("grandchild", "%s", in_child(read_both).c_str());
          say("own position", "%ld", position(own));
        }).c_str());
    say("parent", "%ld %s", position(fd), reads(copy, 10).c_str());
  }
  int later = open("text", O_RDONLY);
  say("opened later", "%s %s", reads(later, 10).c_str(), reads(later, 10).c_str());
}

void forks_take_turns(const Place &) {
  int fd = open("text", O_RDONLY), to_child[2], to_parent[2];
  if (pipe(to_child) + pipe(to_parent) != 0) return said("pipes", -1);
  reads(fd, 7);
  char byte = 0;
  pid_t pid = fork();
  if (pid == 0) {
    for (int turn = 0; turn < 20; ++turn) {
      if (read(to_child[0], &byte, 1) != 1) _exit(1);
      say("child", "%s", reads(fd, 10).c_str());
      if (turn == 10) lseek(fd, -50, SEEK_CUR);
      if (write(to_parent[1], "x", 1) != 1) _exit(1);
    }
    _exit(0);
  }
  for (int turn = 0; turn < 20; ++turn) {
    say("parent", "%s", reads(fd, 10).c_str());
    if (write(to_child[1], "x", 1) != 1 || read(to_parent[0], &byte, 1) != 1) break;
  }
  say("ended", "%s", ended(pid).c_str());
}

void vforks(const Place &) {
  int fd = open("text", O_RDONLY);
  reads(fd, 10);
  auto command = worker_command("conformance_inherits", {std::to_string(fd)});
  auto arguments = pointers(command);
  for (volatile int round = 0; round < 3;) {
    const int now = round;
    round = now + 1;
    pid_t pid = vfork();
    if (pid == 0) {
      execv(arguments[0], arguments.data());
      _exit(9);
    }
    say("exec", "%s", ended(pid).c_str());
    say("read on", "%s", reads(fd, 10).c_str());
    volatile bool same = false;
    pid = vfork();
    if (pid == 0) {
      char buffer[10];
      same = read(fd, buffer, 10) == 10 && memcmp(buffer, "line", 4) == 0;
      close(fd);
      dup2(STDOUT_FILENO, fd);
      _exit(same ? 4 : 5);
    }
    say("its own table", "%s, %d", ended(pid).c_str(), same);
    say("untouched", "%s", reads(fd, 10).c_str());
  }
  pid_t pid = vfork();
  if (pid == 0) {
    execv("/nonexistent", arguments.data());
    _exit(errno == ENOENT ? 6 : 7);
  }
  say("an exec that fails", "%s", ended(pid).c_str());
  say("contents", "%s", contents("text").c_str());
}

int closed_by_handler;

// A signal that arrives while vfork() lasts is handled before vfork() has returned, by the parent.
void vforks_and_signals(const Place &) {
  struct sigaction action = {};
  action.sa_handler = [](int) { close(closed_by_handler); };
  sigaction(SIGUSR1, &action, nullptr);
  for (int round = 0; round < 3; ++round) {
    const int fd = closed_by_handler = open("text", O_RDONLY);
    say("before", "%s", reads(fd, 10).c_str());
    pid_t pid = vfork();
    if (pid == 0) {
      kill(getppid(), SIGUSR1);
      _exit(3);
    }
    say("child", "%s", ended(pid).c_str());
    int ends[2];
    struct stat st = {};
    said("pipe", pipe(ends));
    say("its number", "%d", ends[0] == fd);
    said("written", write(ends[1], "through the pipe", 16));
    said("stat", fstat(ends[0], &st));
    say("a pipe", "%d", S_ISFIFO(st.st_mode));
    say("read", "%s", reads(ends[0], 16).c_str());
    close(ends[0]), close(ends[1]);
  }
}

void spawns(const Place &place) {
  int fd = open("text", O_RDONLY);
  reads(fd, 10);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fd, 40);
  posix_spawn_file_actions_addclose(&actions, fd);
  posix_spawn_file_actions_addopen(&actions, 41, "text", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, (place / "big").c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addchdir_np(&actions, "sub/inner");
  posix_spawn_file_actions_addopen(&actions, 42, "leaf", O_RDONLY, 0);
  auto command = worker_command("conformance_inherits", {"0", "40", "41", "42", std::to_string(fd)});
  for (int round = 0; round < 2; ++round) {
    pid_t pid = -1;
    int spawned = posix_spawn(&pid, command[0].c_str(), &actions, nullptr, pointers(command).data(), environ);
    std::string how = ended(pid);
    say("spawned", "%d, %s", spawned, how.c_str());
    say("read on", "%s", reads(fd, 10).c_str());
  }
  posix_spawn_file_actions_destroy(&actions);
  pid_t pid = -1;
  say("nothing", "%d", posix_spawn(&pid, "/nonexistent", nullptr, nullptr, pointers(command).data(), environ));
  FILE *pipe = popen("head -c 20 text; cat sub/inner/leaf", "r");
  char line[100] = "";
  size_t got = std::fread(line, 1, sizeof line, pipe);
  say("popen", "%s, %s", digest({line, got}).c_str(), status_text(pclose(pipe)).c_str());
  say("system", "%s", status_text(system("test \"$(wc -c <text)\" = 10000")).c_str());
  said("cwd is the old one", access("text", F_OK));
}

struct Shared {
  int fd;
  std::atomic<int> stage;
};

alignas(16) char stack_memory[2][262'144];

pid_t clone_on(int which, int (*function)(void *), int flags, void *argument) {
  return clone(function, stack_memory[which] + sizeof stack_memory[which], flags, argument);
}

void clones_like_fork(const Place &) {
  int fd = open("text", O_RDONLY);
  reads(fd, 10);
  long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) _exit((reads(fd, 10), lseek(fd, 0, SEEK_CUR)) == 20 ? 11 : 12);
  say("clone", "%s", ended(pid).c_str());
  said("position", position(fd));
  clone_args arguments = {};
  int pidfd = -1;
  arguments.flags = CLONE_PIDFD, arguments.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  arguments.exit_signal = SIGCHLD;
  pid = syscall(SYS_clone3, &arguments, sizeof arguments);
  if (pid == 0) _exit((reads(fd, 10), lseek(fd, 0, SEEK_CUR)) == 30 ? 13 : 14);
  say("clone3", "%s", ended(pid).c_str());
  said("position", position(fd));
  said("its descriptor", fcntl(pidfd, F_GETFD));
  say("read on", "%s", reads(fd, 10).c_str());
  said("too short", syscall(SYS_clone3, &arguments, 8));
  said("bad pointer", syscall(SYS_clone3, 8, sizeof arguments));
  say("contents", "%s", contents("text").c_str());
}

void clones_sharing_descriptors(const Place &) {
  Shared shared = {open("text", O_RDONLY), 0};
  reads(shared.fd, 10);
  // Another process, other memory, the same table of descriptors.
  int ends[2];
  said("pipe", pipe(ends));
  long pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) {
    say("in it", "%s", reads(shared.fd, 10).c_str());
    close(shared.fd);
    int other = open("big", O_RDONLY);
    say("the number again", "%d", other == shared.fd);
    lseek(other, 2000, SEEK_SET);
    _exit(0);
  }
  say("ended", "%s", ended(pid).c_str());
  say("what the number is now", "%s", reads(shared.fd, 10).c_str());
  say("contents", "%s", contents("text").c_str());
}

void clones_sharing_memory(const Place &) {
  Shared shared = {open("text", O_RDONLY), 0};
  reads(shared.fd, 10);
  // Memory without descriptors: what it closes stays open here.
  int pid = clone_on(
      0,
      [](void *argument) {
        auto all = static_cast<Shared *>(argument);
        say("in it", "%s", reads(all->fd, 10).c_str());
        close(all->fd);
        int other = open("big", O_RDONLY);
        say("its own", "%s", reads(other, 10).c_str());
        return 21;
      },
      CLONE_VM | SIGCHLD, &shared);
  say("ended", "%s", ended(pid).c_str());
  say("still there", "%s", reads(shared.fd, 10).c_str());
  // As vfork, but with a stack of its own; and everything shared, without being a thread.
  pid = clone_on(1,
                 [](void *argument) {
                   return read(static_cast<Shared *>(argument)->fd, stack_memory[0], 5) == 5 ? 22 : 23;
                 },
                 CLONE_VM | CLONE_VFORK | SIGCHLD, &shared);
  say("like vfork", "%s", ended(pid).c_str());
  said("position", position(shared.fd));
  pid = clone_on(0,
                 [](void *argument) {
                   auto all = static_cast<Shared *>(argument);
                   close(all->fd);
                   all->fd = open("big", O_RDONLY);
                   return chdir("sub") == 0 ? 24 : 25;
                 },
                 CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD, &shared);
  say("all shared", "%s", ended(pid).c_str());
  say("its file", "%s", reads(shared.fd, 10).c_str());
  say("its directory", "%s", contents("inner/leaf").c_str());
}

void working_directory_shared(const Place &) {
  long pid = syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) _exit(chdir("sub/inner") == 0 ? 31 : 32);
  say("ended", "%s", ended(pid).c_str());
  say("we moved as well", "%s", contents("leaf").c_str());
  said("mask of both", umask(022));
  say("up", "%s", contents("../../text").c_str());
}

void orphans(const Place &) {
  int fd = open("text", O_RDONLY), ends[2];
  said("pipe", pipe(ends));
  reads(fd, 10);
  for (int round = 0; round < 3; ++round) {
    say("child", "%s", in_child([&] {
          pid_t own = fork();
          if (own != 0) _exit(0);
          setsid();
          std::string seen = reads(fd, 10);
          if (write(ends[1], seen.data(), seen.size()) < 0) _exit(1);
        }).c_str());
    say("of the grandchild", "%s", reads(ends[0], 1000).c_str());
    say("read on", "%s", reads(fd, 10).c_str());
  }
  pid_t killed = fork();
  if (killed == 0) {
    reads(fd, 10);
    kill(getpid(), SIGKILL);
  }
  say("killed", "%s", ended(killed).c_str());
  said("position", position(fd));
}

}  // namespace

std::vector<Case> process_cases() {
  return {
      {"fork", forks_share_offsets, {"read"}},
      {"fork_turns", forks_take_turns, {"read"}},
      {"vfork", vforks, {"read"}},
      {"vfork_signals", vforks_and_signals, {"read"}},
      {"posix_spawn", spawns, {"read", "access"}},
      {"clone_like_fork", clones_like_fork, {"read"}},
      {"clone_files", clones_sharing_descriptors, {"read"}},
      {"clone_vm", clones_sharing_memory, {"read"}},
      {"clone_fs", working_directory_shared},
      {"orphans", orphans, {"read"}},
  };
}

}  // namespace shortfuse::tests::conformance
