// Descriptors and what they share: duplicates, numbers, flags, what is left after an exec, how many there may be.
#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "conformance/case.h"

namespace shortfuse::tests::conformance {
namespace {

void dup_shares_the_offset(const Place &) {
  int fd = open("text", O_RDONLY);
  say("first", "%s", reads(fd, 10).c_str());
  int other = dup(fd);
  say("through the duplicate", "%s", reads(other, 10).c_str());
  said("position of the first", position(fd));
  said("seek of the duplicate", lseek(other, 5, SEEK_SET));
  say("the first again", "%s", reads(fd, 10).c_str());
  int third = dup(other);
  close(fd);
  say("after closing the first", "%s", reads(other, 10).c_str());
  close(other);
  say("the third", "%s at %ld", reads(third, 10).c_str(), position(third));
  close(third);
  say("closed", "%s", state_of(third).c_str());
  said("dup of nothing", dup(-1));
  said("dup of closed", dup(third));
}

void dup_onto_others(const Place &) {
  int fd = open("text", O_RDONLY), target = open("big", O_RDONLY);
  reads(fd, 100);
  reads(target, 7);
  said("dup2", dup2(fd, target) == target ? 0 : -1);
  say("what the target is now", "%s", reads(target, 10).c_str());
  said("the source is at", position(fd));
  said("onto itself", dup2(fd, fd) == fd ? 0 : -1);
  say("still there", "%s", reads(fd, 10).c_str());
  said("dup3 onto itself", dup3(fd, fd, 0));
  said("dup2 of nothing", dup2(-1, target));
  say("the target after a failure", "%s", reads(target, 10).c_str());
  said("dup2 onto no number", dup2(fd, -1));
  said("dup2 onto a number too high", dup2(fd, 1 << 30));
  said("dup3 with a wrong flag", dup3(fd, target, O_APPEND));
  said("dup3", dup3(fd, target, O_CLOEXEC) == target ? 0 : -1);
  said("its flags", fcntl(target, F_GETFD));
  int ends[2];
  said("pipe", pipe(ends));
  said("a pipe in its place", dup2(ends[0], target) == target ? 0 : -1);
  said("written", write(ends[1], "of the pipe", 11));
  say("read", "%s", reads(target, 100).c_str());
  said("the file in the pipe's place", dup2(fd, ends[0]) == ends[0] ? 0 : -1);
  say("read there", "%s", reads(ends[0], 10).c_str());
}

void fcntl_duplicates_and_flags(const Place &) {
  int fd = open("text", O_RDONLY);
  reads(fd, 20);
  int high = fcntl(fd, F_DUPFD, 100), closed = fcntl(fd, F_DUPFD_CLOEXEC, 100);
  say("numbers", "%d %d", high, closed);
  say("flags", "%d %d %d", fcntl(fd, F_GETFD), fcntl(high, F_GETFD), fcntl(closed, F_GETFD));
  say("through them", "%s, %s", reads(high, 10).c_str(), reads(closed, 10).c_str());
  said("where the first is", position(fd));
  said("set", fcntl(high, F_SETFD, FD_CLOEXEC));
  say("flags after", "%d %d", fcntl(fd, F_GETFD), fcntl(high, F_GETFD));
  say("status flags", "%x", static_cast<unsigned>(fcntl(fd, F_GETFL)));
  said("append", fcntl(high, F_SETFL, O_APPEND | O_NONBLOCK));
  say("seen by the first", "%x", static_cast<unsigned>(fcntl(fd, F_GETFL)));
  say("read on", "%s", reads(fd, 10).c_str());
  said("too high", fcntl(fd, F_DUPFD, 1 << 30));
  said("negative", fcntl(fd, F_DUPFD, -1));
  said("of nothing", fcntl(-1, F_DUPFD, 0));
  said("no such command", fcntl(fd, 9999, 0));
  said("no seals", fcntl(fd, F_GET_SEALS));
  said("no pipe", fcntl(fd, F_GETPIPE_SZ));
  said("no owner", fcntl(fd, F_GETOWN));
}

void close_in_ranges(const Place &) {
  int fd[6];
  for (int &one : fd) one = open("text", O_RDONLY), reads(one, 10);
  said("contiguous", fd[5] - fd[0]);
  said("empty range", static_cast<long>(syscall(SYS_close_range, fd[2], fd[1], 0)));
  said("wrong flag", static_cast<long>(syscall(SYS_close_range, fd[1], fd[2], 1u << 20)));
  said("two of them", static_cast<long>(syscall(SYS_close_range, fd[1], fd[2], 0)));
  for (int one : fd) say("state", "%s", state_of(one).c_str());
  int ends[2];
  said("pipe", pipe(ends));
  said("where they were", ends[0] == fd[1] && ends[1] == fd[2] ? 0 : -1);
  said("written", write(ends[1], "of the pipe", 11));
  say("not of the file", "%s", reads(ends[0], 100).c_str());
  said("close on exec", static_cast<long>(syscall(SYS_close_range, fd[3], fd[4], CLOSE_RANGE_CLOEXEC)));
  for (int one : fd) said("flags", fcntl(one, F_GETFD));
  say("read on", "%s", reads(fd[3], 10).c_str());
  said("unshared", static_cast<long>(syscall(SYS_close_range, fd[4], ~0u, CLOSE_RANGE_UNSHARE)));
  for (int one : fd) say("at last", "%s", state_of(one).c_str());
  say("and on", "%s", reads(fd[3], 10).c_str());
}

void all_descriptors_closed(const Place &place) {
  int fd = open("text", O_RDONLY), dir = open("dir", O_RDONLY | O_DIRECTORY);
  std::string before = reads(fd, 10);
  for (int number = 0; number < 2048; ++number) close(number);
  int first = open("big", O_RDONLY), second = open("text", O_RDONLY);
  int out = open(place.out.c_str(), O_WRONLY | O_APPEND);
  std::string of_first = reads(first, 10);
  dup2(second, 50), dup2(out, STDERR_FILENO), dup2(out, STDOUT_FILENO);
  say("before", "%s", before.c_str());
  say("numbers", "%d %d %d", first, second, out);
  say("the lowest number", "%s", of_first.c_str());
  say("what was the second", "%s", reads(50, 10).c_str());
  say("what was in its place", "%s %s", state_of(fd).c_str(), state_of(dir).c_str());
  closefrom(3);
  say("after closefrom", "%s", state_of(3).c_str());
  say("again", "%s", contents("text").c_str());
  say("and again", "%s", contents("text").c_str());
}

void closed_through_the_listing(const Place &) {
  std::vector<int> fds;
  for (int i = 0; i < 5; ++i) fds.push_back(open("text", O_RDONLY));
  said("child", 0);
  say("child ended", "%s", in_child([&] {
        // What subprocess and daemon libraries do: each number in /proc/self/fd.
        for (int number = 3; number < 1 << 16; ++number) {
          if (fcntl(number, F_GETFD) >= 0) close(number);
        }
        say("in the child", "%s %s", state_of(fds[0]).c_str(), contents("text").c_str());
      }).c_str());
  say("in the parent", "%s", reads(fds[0], 10).c_str());
}

SF_WORKER(conformance_inherits) {
  for (const auto &number : args) {
    int fd = std::stoi(number);
    say("inherited", "%s, %s, at %ld", state_of(fd).c_str(), reads(fd, 10).c_str(), position(fd));
  }
  return 0;
}

void close_on_exec(const Place &) {
  int kept = open("text", O_RDONLY), closed = open("text", O_RDONLY | O_CLOEXEC);
  int set = open("text", O_RDONLY), cleared = open("text", O_RDONLY | O_CLOEXEC);
  fcntl(set, F_SETFD, FD_CLOEXEC);
  fcntl(cleared, F_SETFD, 0);
  int copy = dup(closed);
  for (int fd : {kept, closed, set, cleared}) reads(fd, 25);
  std::vector<std::string> numbers;
  for (int fd : {kept, closed, set, cleared, copy}) numbers.push_back(std::to_string(fd));
  auto command = worker_command("conformance_inherits", numbers);
  say("child", "%s", in_child([&] { execv(command[0].c_str(), pointers(command).data()); }).c_str());
  for (int fd : {kept, closed, set, cleared, copy}) said("position afterwards", position(fd));
  said("an exec that fails", execl("/nonexistent", "nonexistent", nullptr));
  say("read on", "%s", reads(kept, 10).c_str());
}

void few_descriptors(const Place &) {
  say("before", "%s", contents("text").c_str());
  rlimit limit = {16, 16};
  said("setrlimit", setrlimit(RLIMIT_NOFILE, &limit));
  std::vector<int> fds;
  for (;;) {
    int fd = open("text", O_RDONLY);
    if (fd < 0) break;
    fds.push_back(fd);
  }
  said("the last one", -1);
  say("how many", "%zu, the last %d", fds.size(), fds.back());
  said("dup", dup(fds[0]));
  say("read", "%s", reads(fds.back(), 10).c_str());
  said("dup2 within", dup2(fds[0], fds[1]) == fds[1] ? 0 : -1);
  said("dup2 outside", dup2(fds[0], 16));
  close(fds.back());
  said("reused", open("big", O_RDONLY) == fds.back() ? 0 : -1);
  say("of what it is now", "%s", reads(fds.back(), 10).c_str());
  for (int fd : fds) close(fd);
  say("all closed", "%s", contents("text").c_str());
}

SF_WORKER(conformance_few) {
  (void)args;
  for (int look = 0; look < 3; ++look) say("contents", "%s", contents("text").c_str());
  unsigned count = 0;
  int last = -1;
  for (int fd; (fd = open("text", O_RDONLY)) >= 0; ++count) last = fd;
  said("until", -1);
  say("count", "%u, the last %d", count, last);
  // Every number can be had by whoever asks for it.
  for (int number = 3; number < 16; ++number) said("onto", dup2(STDOUT_FILENO, number) == number ? 0 : -1);
  for (int number = 3; number < 16; ++number) close(number);
  for (int look = 0; look < 2; ++look) say("afterwards", "%s", contents("text").c_str());
  return 0;
}

void few_descriptors_from_the_start(const Place &) {
  auto command = worker_command("conformance_few", {});
  say("child", "%s", in_child([&] {
        rlimit limit = {16, 16};
        setrlimit(RLIMIT_NOFILE, &limit);
        execv(command[0].c_str(), pointers(command).data());
      }).c_str());
}

void numbers_taken_by_other_things(const Place &) {
  for (int round = 0; round < 3; ++round) {
    int fd = open("text", O_RDONLY);
    reads(fd, 10);
    close(fd);
    int pair[2];
    said("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    said("same number", pair[0] - fd);
    said("sent", write(pair[1], "by the socket", 13));
    say("received", "%s", reads(pair[0], 100).c_str());
    said("seek of a socket", position(pair[0]));
    close(pair[0]), close(pair[1]);
    fd = open("dir", O_RDONLY | O_DIRECTORY);
    say("a directory", "%s", reads(fd, 10).c_str());
    close(fd);
  }
}

}  // namespace

std::vector<Case> descriptor_cases() {
  return {
      {"dup", dup_shares_the_offset, {"read"}},
      {"dup_onto", dup_onto_others, {"read"}},
      {"fcntl", fcntl_duplicates_and_flags, {"read"}},
      {"close_range", close_in_ranges, {"read"}},
      {"all_closed", all_descriptors_closed, {"read"}},
      {"closed_in_child", closed_through_the_listing, {"read"}},
      {"cloexec", close_on_exec, {"read"}},
      {"few_descriptors", few_descriptors, {"read"}},
      {"few_descriptors_at_start", few_descriptors_from_the_start},
      {"numbers_reused", numbers_taken_by_other_things, {"read"}},
  };
}

}  // namespace shortfuse::tests::conformance
