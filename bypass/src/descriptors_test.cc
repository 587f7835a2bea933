// Descriptors between threads, and numbers that come back: a file that is closed in the middle of a call, and calls
// that make descriptors of numbers that were closed unseen.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <functional>
#include <set>
#include <thread>

#include "files.h"
#include "fixture.h"
#include "gate.h"

namespace shortfuse::bypass {
namespace {

constexpr uint32_t kPlainMount = SF_MNT_DEFAULT_PERMISSIONS | SF_MNT_ALLOW_OTHER;

int open_ours(const Tree &tree, const std::string &name, int flags = O_RDONLY) {
  return static_cast<int>(through(SYS_open, arg(tree.path(name).c_str()), flags, 0644));
}

std::string numbered_bytes(int n) {
  std::string all;
  for (int i = 0; i < n; ++i) all += static_cast<char>('a' + i % 23);
  return all;
}

// The bytes that were read before the close are not read again through the duplicate, in whatever way it was closed,
// and whoever read them.
TEST(Descriptors, AReadMovesTheOffsetOfDuplicatesThoughItsOwnIsClosed) {
  if (!Gate().usable()) GTEST_SKIP() << "needs userfaultfd";
  const std::string bytes = numbered_bytes(5000);
  const std::function<void(int)> ways[] = {
      [](int fd) { EXPECT_EQ(through(SYS_close, fd), 0); },
      [](int fd) { EXPECT_EQ(through(SYS_close_range, fd, fd, 0), 0); },
      [](int fd) { EXPECT_EQ(through(SYS_dup2, 0, fd), fd); },
  };
  for (int way = 0; way < 6; ++way) {
    SCOPED_TRACE(way);
    Tree tree(kPlainMount);
    tree.file("f", bytes);
    tree.attach();
    char before[100], after[100];
    const int fd = open_ours(tree, "f"), copy = static_cast<int>(through(SYS_dup, fd));
    const int third = static_cast<int>(through(SYS_dup, copy));
    ASSERT_EQ(through(SYS_read, fd, arg(before), 100), 100);
    if (way >= 3) tree.cache().drop_node(tree.nid("f"));  // the kernel reads it, at our offset
    Gate gate;
    long got = 0;
    gate.between([&] { got = through(SYS_read, fd, arg(gate.buffer()), 1000); }, [&] { ways[way % 3](fd); });
    EXPECT_EQ(got, 1000);
    EXPECT_EQ(std::string(gate.buffer(), 1000), bytes.substr(100, 1000));
    EXPECT_EQ(through(SYS_lseek, copy, 0, SEEK_CUR), 1100);
    EXPECT_EQ(through(SYS_read, third, arg(after), 100), 100);
    EXPECT_EQ(std::string(after, 100), bytes.substr(1100, 100));
    for (int one : {fd, copy, third}) through(SYS_close, one);
  }
}

// Without a duplicate the bytes are the result, and nothing else is touched.
TEST(Descriptors, AReadOfAClosedFileEnds) {
  if (!Gate().usable()) GTEST_SKIP() << "needs userfaultfd";
  Tree tree(kPlainMount);
  tree.file("f", numbered_bytes(5000));
  tree.attach();
  const int fd = open_ours(tree, "f"), other = open_ours(tree, "f");
  tree.cache().drop_node(tree.nid("f"));
  Gate gate;
  long got = 0;
  gate.between([&] { got = through(SYS_read, fd, arg(gate.buffer()), 1000); }, [&] { through(SYS_close, fd); });
  EXPECT_EQ(got, 1000);
  EXPECT_EQ(through(SYS_lseek, other, 0, SEEK_CUR), 0);
  through(SYS_close, other);
}

std::multiset<std::string> names_in(const char *entries, long bytes) {
  std::multiset<std::string> names;
  for (long at = 0; at < bytes;) {
    uint16_t length;
    memcpy(&length, entries + at + 16, sizeof length);
    names.insert(entries + at + 19);
    at += length;
  }
  return names;
}

// A listing goes on in the duplicate behind what was given out, whichever of the two the call came through.
TEST(Descriptors, AListingGoesOnInDuplicatesThoughItsOwnIsClosed) {
  if (!Gate().usable()) GTEST_SKIP() << "needs userfaultfd";
  Tree tree(kPlainMount);
  tree.dir("d");
  std::multiset<std::string> all = {".", ".."};
  for (int i = 0; i < 100; ++i) {
    const std::string name = "name" + std::to_string(i);
    all.insert(name);
    tree.file("d/" + name, "");
  }
  tree.attach();
  for (const bool begun : {false, true}) {
    for (const bool by_duplicate : {false, true}) {
      SCOPED_TRACE(testing::Message() << begun << by_duplicate);
      std::multiset<std::string> seen;
      std::string room(Gate::kBytes, 0);
      auto list = [&](int fd, char *to, long bytes) {
        const long n = through(SYS_getdents64, fd, arg(to), bytes);
        EXPECT_GE(n, 0);
        seen.merge(names_in(to, n));
        return n;
      };
      const int fd = open_ours(tree, "d", O_RDONLY | O_DIRECTORY), copy = static_cast<int>(through(SYS_dup, fd));
      if (begun) list(fd, room.data(), 300);
      Gate gate;
      gate.between([&] { list(by_duplicate ? copy : fd, gate.buffer(), 400); }, [&] { through(SYS_close, fd); });
      while (list(copy, room.data(), 1000) > 0) {
      }
      EXPECT_EQ(seen, all);
      through(SYS_close, copy);
    }
  }
}

// A transfer is under way when the offset becomes the kernel's: what it has moved, the kernel's offset moves too.
TEST(Descriptors, ATransferMovesAnOffsetThatWasGivenAway) {
  for (const bool closed : {false, true}) {
    Tree tree(kPlainMount);
    tree.file("f", numbered_bytes(5000));
    tree.attach();
    const int fd = open_ours(tree, "f"), copy = static_cast<int>(through(SYS_dup, fd));
    int pipes[2];
    ASSERT_EQ(pipe(pipes), 0);
    std::string full(static_cast<size_t>(fcntl(pipes[1], F_GETPIPE_SZ)), 'x');
    ASSERT_EQ(write(pipes[1], full.data(), full.size()), static_cast<long>(full.size()));
    char buffer[100];
    ASSERT_EQ(through(SYS_read, fd, arg(buffer), 100), 100);
    std::atomic<int> tid = 0;
    long moved = 0;
    std::thread other([&] {
      tid = static_cast<int>(syscall(SYS_gettid));
      moved = through(SYS_splice, fd, 0, pipes[1], 0, 20, 0);
    });
    auto waits_in_splice = [&] {
      long nr = -1;
      return std::ifstream("/proc/self/task/" + std::to_string(tid) + "/syscall") >> nr && nr == SYS_splice;
    };
    while (!waits_in_splice()) usleep(1000);
    if (closed) through(SYS_close, fd);
    else sf_bypass_before_fork(SIGCHLD, 0);
    ASSERT_EQ(read(pipes[0], full.data(), full.size()), static_cast<long>(full.size()));
    other.join();
    EXPECT_EQ(moved, 20);
    EXPECT_EQ(by_kernel(SYS_lseek, copy, 0, SEEK_CUR), 120) << closed;
    for (int one : {pipes[0], pipes[1]}) close(one);
    for (int one : {fd, copy}) through(SYS_close, one);
  }
}

// Descriptors that a message brought.
std::vector<int> received(long socket) {
  char byte, control[CMSG_SPACE(2 * sizeof(int))] = {};
  iovec iov = {&byte, 1};
  mmsghdr m = {};
  m.msg_hdr.msg_iov = &iov;
  m.msg_hdr.msg_iovlen = 1;
  m.msg_hdr.msg_control = control;
  m.msg_hdr.msg_controllen = sizeof control;
  static bool many;
  many = !many;  // by turns
  if (many) EXPECT_EQ(through(SYS_recvmmsg, socket, arg(&m), 1, 0, 0), 1);
  else EXPECT_EQ(through(SYS_recvmsg, socket, arg(&m.msg_hdr), 0), 1);
  std::vector<int> fds(2);
  memcpy(fds.data(), CMSG_DATA(CMSG_FIRSTHDR(&m.msg_hdr)), 2 * sizeof(int));
  return fds;
}

void send_two(int socket, int fd) {
  char byte = 0, control[CMSG_SPACE(2 * sizeof(int))] = {};
  iovec iov = {&byte, 1};
  msghdr m = {};
  m.msg_iov = &iov;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof control;
  cmsghdr *c = CMSG_FIRSTHDR(&m);
  *c = {CMSG_LEN(2 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
  const int fds[] = {fd, fd};
  memcpy(CMSG_DATA(c), fds, sizeof fds);
  ASSERT_EQ(sendmsg(socket, &m, 0), 1);
}

// Closed by calls that nobody saw, the numbers come back from all kinds of calls.
TEST(Descriptors, NumbersOfOthersAreNotFiles) {
  Tree tree(kPlainMount);
  tree.file("f", "ffff");
  tree.attach();
  int sockets[2], listener = socket(AF_UNIX, SOCK_STREAM, 0), null = open("/dev/null", O_RDONLY);
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
  sockaddr name = {AF_UNIX, {}};
  ASSERT_EQ(bind(listener, &name, sizeof(sa_family_t)) | listen(listener, 8), 0);
  sockaddr_storage bound;
  socklen_t length = sizeof bound;
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr *>(&bound), &length), 0);
  int pair[2];
  auto one = [](long fd) { return std::vector<int>{static_cast<int>(fd)}; };
  auto two = [&](long result) { return result == 0 ? std::vector<int>{pair[0], pair[1]} : std::vector<int>{-1}; };
  auto accepted = [&](long nr) {
    const int peer = socket(AF_UNIX, SOCK_STREAM, 0);
    EXPECT_EQ(connect(peer, reinterpret_cast<sockaddr *>(&bound), length), 0);
    const long fd = through(nr, listener, 0, 0, 0);
    close(peer);
    return one(fd);
  };
  sigset_t none;
  sigemptyset(&none);
  const std::function<std::vector<int>()> makers[] = {
      [&] { return two(through(SYS_pipe, arg(pair))); },
      [&] { return two(through(SYS_pipe2, arg(pair), O_CLOEXEC)); },
      [&] { return two(through(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, arg(pair))); },
      [&] { return one(through(SYS_socket, AF_UNIX, SOCK_STREAM, 0)); },
      [&] { return accepted(SYS_accept); },
      [&] { return accepted(SYS_accept4); },
      [&] { send_two(sockets[0], null); return received(sockets[1]); },
      [&] { send_two(sockets[0], null); return received(sockets[1]); },
      [&] { return one(through(SYS_eventfd2, 0, 0)); },
      [&] { return one(through(SYS_epoll_create1, 0)); },
      [&] { return one(through(SYS_memfd_create, arg("x"), 0)); },
      [&] { return one(through(SYS_timerfd_create, CLOCK_MONOTONIC, 0)); },
      [&] { return one(through(SYS_signalfd4, -1, arg(&none), 8, 0)); },
      [&] { return one(through(SYS_inotify_init1, 0)); },
      [&] { return one(through(SYS_pidfd_open, getpid(), 0)); },
  };
  int at = 0;
  for (const auto &make : makers) {
    SCOPED_TRACE(at++);
    const int a = open_ours(tree, "f"), b = open_ours(tree, "f");
    ASSERT_TRUE(file_of(a) && file_of(b));
    // In the order of the numbers that the next call gets: its own helpers come before it.
    by_kernel(SYS_close, a), by_kernel(SYS_close, b);
    for (int fd : make()) {
      EXPECT_GE(fd, 0);
      EXPECT_FALSE(file_of(fd)) << fd;
      close(fd);
    }
    files_forget_stale(a), files_forget_stale(b);
  }
  // What gives back no descriptor makes nothing forgotten: 0 is a file here.
  const int kept = dup(0), fd = open_ours(tree, "f");
  ASSERT_EQ(through(SYS_dup2, fd, 0), 0);
  through(SYS_close, fd);
  ASSERT_TRUE(file_of(0));
  through(SYS_landlock_create_ruleset, 0, 0, 1);
  through(SYS_bpf, 1, 0, 0);
  EXPECT_TRUE(file_of(0));
  through(SYS_dup2, kept, 0);
  for (int used : {sockets[0], sockets[1], listener, null, kept}) close(used);
}

}  // namespace
}  // namespace shortfuse::bypass
