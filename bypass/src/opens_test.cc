// Opens served from the cache: what is one, what the kernel sees of it, and that nothing but the kernel's own
// descriptor ever gets into a call that the cache does not answer.
#include "opens.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <thread>
#include <utility>

#include "files.h"
#include "fixture.h"
#include "gate.h"

namespace shortfuse::bypass {
namespace {

constexpr uint32_t kPlainMount = SF_MNT_DEFAULT_PERMISSIONS | SF_MNT_ALLOW_OTHER;
constexpr int kLimitOfFiles = RLIMIT_NOFILE;
constexpr long kFiClone = 0x40049409, kFiCloneRange = 0x4020940d;

int code_verdict;             // what is said of the code of this process
int code_verdict_afterwards;  // from the second question on
int questions;
uint32_t *gives_up;           // falls to 0 when the first question is asked
int verdict_of_code() {
  if (gives_up != nullptr) *gives_up = 0;
  return ++questions == 1 ? code_verdict : code_verdict_afterwards;
}

sf_session session;

struct Opens : testing::Test {
  Tree tree{kPlainMount};
  std::string contents = std::string(4096, 'a') + std::string(4096, 'b') + "c";

  void SetUp() override {
    tree.file("f", contents);
    tree.file("empty", "");
    tree.file("secret", "xyz", 0);
    tree.dir("d");
    tree.file("d/g", "of g");
    tree.attach({"absent"});
    tree.policy({SF_OP_STAT, SF_OP_READ, SF_OP_READDIR, SF_OP_OPEN});
    memset(&session, 0, sizeof session);
    session.opens_kept = 1;
    g.process->link[0].session = &session;
    g.options.serve_opens = true;
    opens_worth = 0;
    g.opens_off = g.files_off = g.offsets_off = false;
    say_of_code(1);
    sf_bypass_allow_opens(verdict_of_code);
  }
  void TearDown() override {
    for (int fd = 3; fd < 200; ++fd) through(SYS_close, fd);
    EXPECT_FALSE(any_placeholders());
    EXPECT_EQ(std::ranges::count(session.open, 0u), std::ssize(session.open)) << "left in the open table";
    g.process->link[0].session = nullptr;
    g.options.serve_opens = false;
    g.opens_off = g.files_off = g.offsets_off = false;
  }
  static void say_of_code(int verdict, int afterwards = -2) {
    code_verdict = verdict;
    code_verdict_afterwards = afterwards == -2 ? verdict : afterwards;
    questions = 0;
  }
  int open_it(const std::string &name, int flags = O_RDONLY) {
    return static_cast<int>(through(SYS_open, arg(tree.path(name).c_str()), flags));
  }
  bool served(int fd) { return is_placeholder(file_of(fd)); }
  /// What the kernel has open under the number.
  ino_t inode_of(int fd) {
    struct ::stat st = {};
    return by_kernel(SYS_fstat, fd, arg(&st)) == 0 ? st.st_ino : 0;
  }
  ino_t inode_of(const std::string &name) {
    struct ::stat st = {};
    ::stat(tree.path(name).c_str(), &st);
    return st.st_ino;
  }
  unsigned entries_of(const std::string &name) {
    return static_cast<unsigned>(std::ranges::count(session.open, tree.nid(name)));
  }
};

TEST_F(Opens, OneThatIsServed) {
  const int fd = open_it("f"), lowest = fcntl(0, F_DUPFD, 0);
  close(lowest);
  ASSERT_TRUE(served(fd));
  EXPECT_EQ(lowest, fd + 1);
  EXPECT_NE(inode_of(fd), inode_of("f"));
  EXPECT_EQ(entries_of("f"), 1u);
  char buffer[5000];
  struct ::stat st;
  EXPECT_EQ(by_kernel(SYS_read, fd, arg(buffer), 1), -EBADF) << "what went past us must fail";
  EXPECT_EQ(through(SYS_fstat, fd, arg(&st)), 0);
  EXPECT_EQ(st.st_ino, inode_of("f"));
  EXPECT_EQ(through(SYS_read, fd, arg(buffer), sizeof buffer), 5000);
  EXPECT_EQ(std::string(buffer, 5000), contents.substr(0, 5000));
  EXPECT_EQ(through(SYS_lseek, fd, 0, SEEK_CUR), 5000);
  EXPECT_TRUE(served(fd));
  EXPECT_EQ(through(SYS_fcntl, fd, F_GETFL), by_kernel(SYS_fcntl, open(tree.path("f").c_str(), O_RDONLY), F_GETFL));
  EXPECT_EQ(through(SYS_close, fd), 0);
  EXPECT_EQ(entries_of("f"), 0u);
  EXPECT_EQ(by_kernel(SYS_fcntl, fd, F_GETFD), -EBADF);
}

TEST_F(Opens, OneThatNobodyCanOpenAnew) {
  const int fd = open_it("f");
  ASSERT_TRUE(served(fd));
  EXPECT_EQ(by_kernel(SYS_open, arg(("/proc/self/fd/" + std::to_string(fd)).c_str()), O_RDONLY), -ENXIO);
}

TEST_F(Opens, WhatTheKernelOpens) {
  for (int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_DIRECT, O_RDONLY | O_PATH, O_RDONLY | O_TRUNC, O_RDONLY | O_APPEND})
    EXPECT_FALSE(served(open_it("f", flags))) << flags;
  EXPECT_FALSE(served(open_it("empty"))) << "as long as only the file system knows whether it is";
  ASSERT_TRUE(tree.cache().fill_data(tree.cache().moment(), tree.nid("empty"), 0, {}, true));
  EXPECT_TRUE(served(open_it("empty")));
  EXPECT_TRUE(served(open_it("d", O_DIRECTORY)));
  EXPECT_EQ(open_it("f", O_DIRECTORY), -ENOTDIR);
}

TEST_F(Opens, WhatIsNoLongerKnownIsWishedFor) {
  EXPECT_TRUE(served(open_it("f")));
  EXPECT_EQ(session.hint_tail, 0u);
  tree.cache().drop_everything();
  EXPECT_FALSE(served(open_it("f")));
  ASSERT_EQ(session.hint_tail, 1u) << "the kernel may know the name, and nobody else would ask for it";
  EXPECT_TRUE(session.hint[0].kind == SF_HINT_ATTR || session.hint[0].kind == SF_HINT_DENTRY);
  EXPECT_FALSE(served(open_it("f", O_WRONLY)));
  EXPECT_EQ(session.hint_tail, 1u) << "this one was none of ours";
}

TEST_F(Opens, NotWorthIt) {
  for (int i = 0; i < 10; ++i) {
    const int fd = open_it("f");
    through(SYS_flock, fd, 1);
    through(SYS_close, fd);
  }
  EXPECT_FALSE(served(open_it("f"))) << "who makes them all real opens by the kernel";
  bool again = false;
  for (int i = 0; i < 100 && !again; ++i) {
    const int fd = open_it("f");
    again = served(fd);
    through(SYS_close, fd);
  }
  EXPECT_TRUE(again) << "not for ever";
}

TEST_F(Opens, NobodyLooksAfterThem) {
  session.opens_kept = 0;
  EXPECT_FALSE(served(open_it("f")));
  session.opens_kept = 1;
  for (unsigned i = 0; i < SF_OPEN_PROBE; ++i) session.open[sf_open_place(tree.nid("f")) + i] = 1ull << 60;
  EXPECT_FALSE(served(open_it("f"))) << "its places in the table are taken";
  for (uint64_t &entry : session.open) entry = 0;
  g.options.serve_opens = false;
  EXPECT_FALSE(served(open_it("f")));
}

TEST_F(Opens, CodeOfOthers) {
  say_of_code(-1);
  EXPECT_FALSE(served(open_it("f"))) << "not known at this moment";
  say_of_code(1, -1);
  const int fd = open_it("f");
  EXPECT_GE(fd, 0);
  EXPECT_FALSE(served(fd)) << "code came while the open was served";
  EXPECT_EQ(inode_of(fd), inode_of("f"));
  EXPECT_EQ(entries_of("f"), 0u);
  say_of_code(1);
  gives_up = &session.opens_kept;
  const int given_up = open_it("f");
  EXPECT_GE(given_up, 0);
  EXPECT_FALSE(served(given_up)) << "the session was given up while the open was served";
  EXPECT_EQ(entries_of("f"), 0u);
  gives_up = nullptr;
  session.opens_kept = 1;
  say_of_code(1);
  const int before = open_it("f");
  EXPECT_TRUE(served(before));
  say_of_code(0);
  EXPECT_FALSE(served(open_it("f")));
  EXPECT_FALSE(served(before));
  EXPECT_EQ(inode_of(before), inode_of("f"));
  say_of_code(1);
  EXPECT_FALSE(served(open_it("f"))) << "once is for good";
}

// The calls that the cache does not answer, each with a descriptor whose open was served.
TEST_F(Opens, BecomeRealBeforeOthersSeeThem) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const int out = open((tree.root() + "/out").c_str(), O_RDWR | O_CREAT, 0600), epoll = epoll_create1(0);
  int64_t range[4] = {};
  fd_set set;
  struct ::pollfd polled = {};
  struct ::epoll_event event = {};
  char handle[128] = {};
  int mount;
  struct ::timeval now = {};
  const std::vector<std::pair<const char *, std::function<long(int)>>> calls = {
      {"mmap", [](int fd) { return through(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, fd, 0); }},
      {"ioctl", [](int fd) { return through(SYS_ioctl, fd, 0x5421, 0); }},
      {"FICLONE", [&](int fd) { return through(SYS_ioctl, out, kFiClone, fd); }},
      {"FICLONERANGE", [&](int fd) { return range[0] = fd, through(SYS_ioctl, out, kFiCloneRange, arg(range)); }},
      {"flock", [](int fd) { return through(SYS_flock, fd, 1); }},
      {"fcntl", [](int fd) { return through(SYS_fcntl, fd, F_GETOWN); }},
      {"pwrite64", [](int fd) { return through(SYS_pwrite64, fd, arg("x"), 1, 0); }},
      {"fchmod", [](int fd) { return through(SYS_fchmod, fd, 0644); }},
      {"fsync", [](int fd) { return through(SYS_fsync, fd); }},
      {"sendfile", [&](int fd) { return through(SYS_sendfile, out, fd, 0, 10); }},
      {"splice", [&](int fd) { return through(SYS_splice, fd, 0, pipe_fds[1], 0, 10, 0); }},
      {"copy_file_range", [&](int fd) { return through(SYS_copy_file_range, fd, 0, out, 0, 10, 0); }},
      {"tee", [&](int fd) { return through(SYS_tee, fd, pipe_fds[1], 10, 0); }},
      {"vmsplice", [](int fd) { return through(SYS_vmsplice, fd, 0, 0, 0); }},
      {"readahead", [](int fd) { return through(SYS_readahead, fd, 0, 10); }},
      {"sync_file_range", [](int fd) { return through(SYS_sync_file_range, fd, 0, 10, 0); }},
      {"syncfs", [](int fd) { return through(SYS_syncfs, fd); }},
      {"poll", [&](int fd) { return polled = {fd, POLLIN, 0}, through(SYS_poll, arg(&polled), 1, 0); }},
      {"ppoll", [&](int fd) { return polled = {fd, POLLIN, 0}, through(SYS_ppoll, arg(&polled), 1, arg(&now), 0, 8); }},
      {"select", [&](int fd) {
         FD_ZERO(&set);
         FD_SET(fd, &set);
         return through(SYS_select, fd + 1, arg(&set), 0, 0, arg(&now));
       }},
      {"epoll_ctl", [&](int fd) { return through(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, fd, arg(&event)); }},
      {"epoll_wait", [&](int fd) { return through(SYS_epoll_wait, fd, arg(&event), 1, 0); }},
      {"getsockname", [&](int fd) { return through(SYS_getsockname, fd, arg(handle), arg(&mount)); }},
      {"name_to_handle_at", [&](int fd) {
         reinterpret_cast<unsigned *>(handle)[0] = 64;
         return through(SYS_name_to_handle_at, fd, arg(""), arg(handle), arg(&mount), AT_EMPTY_PATH);
       }},
      {"kcmp", [](int fd) { return through(SYS_kcmp, getpid(), getpid(), 0, fd, 0); }},
      {"close_range", [](int fd) { return through(SYS_close_range, fd, fd, 4); }},
      {"chroot", [](int) { return through(SYS_chroot, arg("/nothing")); }},
      {"one to come", [](int fd) { return through(500, 0, 0, 0, fd); }},
      {"/proc", [&](int fd) {
         const std::string path = "/proc/self/fd/" + std::to_string(fd);
         return through(SYS_readlink, arg(path.c_str()), arg(handle), sizeof handle);
       }},
  };
  for (const auto &[name, call] : calls) {
    opens_worth = 0;
    const int fd = open_it("f");
    ASSERT_TRUE(served(fd)) << name;
    call(fd);
    EXPECT_FALSE(served(fd)) << name;
    EXPECT_EQ(inode_of(fd), inode_of("f")) << name;
    EXPECT_EQ(entries_of("f"), 0u) << name;
    through(SYS_close, fd);
  }
  EXPECT_EQ(through(SYS_fcntl, out, F_GETFD), 0);
}

TEST_F(Opens, DirectoriesThatPathsBeginAt) {
  for (auto call : std::vector<std::function<long(int)>>{
           [](int fd) { return through(SYS_mkdirat, fd, arg("new"), 0700); },
           [](int fd) { return through(SYS_unlinkat, fd, arg("new"), AT_REMOVEDIR); },
           [](int fd) { return through(SYS_renameat2, fd, arg("g"), fd, arg("h"), 0); },
           [](int fd) { return through(SYS_close, static_cast<int>(through(SYS_openat, fd, arg("h"), O_RDWR))); },
           [](int fd) { return through(SYS_fchdir, fd); }}) {
    opens_worth = 0;
    const int fd = open_it("d", O_DIRECTORY);
    ASSERT_TRUE(served(fd));
    EXPECT_EQ(call(fd), 0);
    EXPECT_FALSE(served(fd));
    through(SYS_close, fd);
  }
  ASSERT_EQ(through(SYS_chdir, arg("/")), 0);
}

TEST_F(Opens, DuplicatesBecomeRealTogether) {
  char buffer[100];
  const int first = open_it("f", O_CLOEXEC);
  EXPECT_EQ(through(SYS_read, first, arg(buffer), 100), 100);
  const int second = static_cast<int>(through(SYS_dup, first));
  const int third = static_cast<int>(through(SYS_fcntl, second, F_DUPFD_CLOEXEC, 60));
  EXPECT_TRUE(served(second) && served(third));
  EXPECT_EQ(through(SYS_close, first), 0);
  EXPECT_EQ(through(SYS_lseek, third, 0, SEEK_CUR), 100);
  EXPECT_EQ(through(SYS_flock, second, 1), 0);
  EXPECT_EQ(inode_of(second), inode_of("f"));
  EXPECT_EQ(inode_of(third), inode_of("f"));
  EXPECT_EQ(by_kernel(SYS_fcntl, second, F_GETFD), 0);
  EXPECT_EQ(by_kernel(SYS_fcntl, third, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(through(SYS_read, third, arg(buffer), 100), 100);
  EXPECT_EQ(through(SYS_lseek, second, 0, SEEK_CUR), 200);
  // One open for both.
  sf_bypass_switch_off();
  by_kernel(SYS_lseek, second, 7, SEEK_SET);
  EXPECT_EQ(by_kernel(SYS_lseek, third, 0, SEEK_CUR), 7);
}

// A thread reads through a duplicate while another one closes what it was made of, which holds their offset.
TEST_F(Opens, ADuplicateReadsWhileItsOriginIsClosed) {
  constexpr int kRounds = 500;
  std::atomic<int> duplicate{-1};
  std::atomic<int> wrong{0};
  std::thread reader([&] {
    for (int round = 0; round < kRounds; ++round) {
      int fd;
      while ((fd = duplicate.load()) < 0) {
      }
      char buffer[3];
      const bool at_end = through(SYS_lseek, fd, 0, SEEK_CUR) == 8191;
      const bool right = through(SYS_read, fd, arg(buffer), 3) == 2 && buffer[0] == 'b' && buffer[1] == 'c';
      wrong += !at_end || !right;
      duplicate = -1;
    }
  });
  char buffer[10];
  for (int round = 0; round < kRounds; ++round) {
    opens_worth = 0;
    const int fd = open_it("f");
    ASSERT_EQ(through(SYS_lseek, fd, 8191, SEEK_SET), 8191);
    const int other = static_cast<int>(through(SYS_dup, fd));
    ASSERT_TRUE(served(other));
    duplicate = other;
    for (std::atomic<int> i = 0; i < round % 200 * 10;) ++i;
    through(SYS_close, fd);
    while (duplicate.load() >= 0) sched_yield();
    EXPECT_EQ(through(SYS_read, other, arg(buffer), 10), 0);
    through(SYS_close, other);
  }
  reader.join();
  EXPECT_EQ(wrong, 0);
}

// Either the close came first, or the bytes that another thread has read are not read again through the duplicates.
TEST_F(Opens, AReadWhileTheNumberIsClosed) {
  if (!Gate().usable()) GTEST_SKIP() << "needs userfaultfd";
  for (bool range : {false, true}) {
    const int fd = open_it("f"), copy = static_cast<int>(through(SYS_dup, fd));
    ASSERT_TRUE(served(fd) && served(copy));
    ASSERT_EQ(through(SYS_lseek, fd, 4000, SEEK_SET), 4000);
    long got = 0;
    Gate gate;
    gate.between([&] { got = through(SYS_read, fd, arg(gate.buffer()), 1000); },
                 [&] { EXPECT_EQ(range ? through(SYS_close_range, fd, fd, 0) : through(SYS_close, fd), 0); });
    EXPECT_TRUE(got == 1000 || got == -EBADF) << got;
    EXPECT_EQ(through(SYS_lseek, copy, 0, SEEK_CUR), got == 1000 ? 5000 : 4000);
    through(SYS_close, copy);
  }
}

// The same where the close comes between the last look at the slot and the offset's step.
TEST_F(Opens, TheOffsetOfOneThatIsClosedGoesOnInItsHeir) {
  const int fd = open_it("f"), copy = static_cast<int>(through(SYS_dup, fd));
  const int third = static_cast<int>(through(SYS_dup, copy));
  const uint64_t node = tree.nid("f");
  ASSERT_EQ(through(SYS_lseek, fd, 4000, SEEK_SET), 4000);
  const File file = file_of(fd);
  EXPECT_FALSE(move_heirs_offset(file, node, 4000, 4100)) << "it is open";
  through(SYS_close, fd);
  EXPECT_FALSE(move_heirs_offset(file, tree.nid("d/g"), 4000, 4100)) << "the number is another file's";
  EXPECT_TRUE(move_heirs_offset(file, node, 4000, 4100));
  EXPECT_EQ(through(SYS_lseek, copy, 0, SEEK_CUR), 4100);
  EXPECT_EQ(through(SYS_lseek, third, 0, SEEK_CUR), 4100);
  EXPECT_FALSE(move_heirs_offset(file, node, 4000, 4200)) << "it has moved on";
  through(SYS_close, copy);
  through(SYS_close, third);
  EXPECT_FALSE(move_heirs_offset(file, node, 4100, 4200));
}

// Where a placeholder cannot be made real the call fails, and a later one that can goes on where this one stood.
TEST_F(Opens, WhatFailsOnceGoesOnWhereItStood) {
  char buffer[100];
  const int fd = open_it("f");
  ASSERT_EQ(through(SYS_lseek, fd, 4090, SEEK_SET), 4090);
  const int other = static_cast<int>(through(SYS_dup, fd));
  ASSERT_TRUE(served(other));
  tree.cache().drop_node(tree.nid("f"));
  ASSERT_EQ(rename(tree.path("f").c_str(), tree.path("away").c_str()), 0);
  for (int number : {other, fd}) {
    EXPECT_EQ(through(SYS_read, number, arg(buffer), 10), -ENOTCONN);
    EXPECT_EQ(through(SYS_lseek, number, 0, SEEK_END), -ENOTCONN);
  }
  ASSERT_EQ(rename(tree.path("away").c_str(), tree.path("f").c_str()), 0);
  EXPECT_EQ(through(SYS_lseek, other, 0, SEEK_CUR), 4090);
  EXPECT_EQ(through(SYS_read, other, arg(buffer), 10), 10);
  EXPECT_EQ(std::string(buffer, 10), "aaaaaabbbb");
  EXPECT_FALSE(served(fd));
  EXPECT_EQ(through(SYS_read, fd, arg(buffer), 1), 1);
  EXPECT_EQ(through(SYS_lseek, other, 0, SEEK_CUR), 4101);
}

TEST_F(Opens, LocksAreCountedFromTheOffset) {
  char buffer[100];
  const int fd = open_it("f");
  ASSERT_EQ(through(SYS_read, fd, arg(buffer), 100), 100);
  struct ::flock lock = {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_CUR;
  lock.l_len = 10;
  ASSERT_TRUE(served(fd));
  EXPECT_EQ(through(SYS_fcntl, fd, F_OFD_SETLK, arg(&lock)), 0);
  const int other = open(tree.path("f").c_str(), O_RDWR);
  struct ::flock found = {};
  found.l_type = F_WRLCK;
  ASSERT_EQ(fcntl(other, F_OFD_GETLK, &found), 0);
  EXPECT_EQ(found.l_start, 100);
  EXPECT_EQ(found.l_len, 10);
  close(other);
}

TEST_F(Opens, FlagsThatAreSetCountFromThenOn) {
  const int fd = open_it("f");
  ASSERT_TRUE(served(fd));
  through(SYS_fcntl, fd, F_SETFL, O_DIRECT);
  EXPECT_FALSE(served(fd));
  EXPECT_TRUE(is_set(*file_of(fd).slot, kFileDirect)) << "reads are the kernel's";
}

TEST_F(Opens, TheLastNumberIsInUse) {
  const int fd = open_it("f");
  ASSERT_TRUE(served(fd));
  struct ::rlimit before, low;
  getrlimit(RLIMIT_NOFILE, &before);
  for (bool may_be_raised : {true, false}) {
    const int again = may_be_raised ? fd : open_it("f");
    ASSERT_TRUE(served(again));
    low = {static_cast<rlim_t>(again) + 1, may_be_raised ? before.rlim_max : static_cast<rlim_t>(again) + 1};
    if (!may_be_raised && getuid() == 0) break;  // a limit that root may not raise is none
    by_kernel(SYS_prlimit64, 0, kLimitOfFiles, arg(&low), 0);
    EXPECT_EQ(dup(0), -1);
    EXPECT_EQ(through(SYS_flock, again, 1), 0);
    EXPECT_EQ(inode_of(again), inode_of("f"));
    struct ::rlimit now;
    getrlimit(RLIMIT_NOFILE, &now);
    EXPECT_EQ(now.rlim_cur, low.rlim_cur);
    by_kernel(SYS_prlimit64, 0, kLimitOfFiles, arg(&before), 0);
  }
}

// The kernel takes a number before it looks for the name: where none may be free, it is asked. (It knows one here.)
TEST_F(Opens, AnAbsentNameWhereAllNumbersMayBeUsedUp) {
  close(open((tree.root() + "/absent").c_str(), O_RDWR | O_CREAT, 0600));
  const auto kernel_is_asked = [&] {
    const int fd = open_it("absent");
    EXPECT_TRUE(fd >= 0 || fd == -ENOENT) << fd;
    return fd >= 0 && through(SYS_close, fd) == 0;
  };
  ASSERT_TRUE(served(open_it("f")));
  EXPECT_FALSE(kernel_is_asked());
  ASSERT_EQ(through(SYS_dup2, 0, last_number), last_number);
  EXPECT_TRUE(kernel_is_asked());
  EXPECT_EQ(through(SYS_close, last_number), 0);
  EXPECT_FALSE(kernel_is_asked());
  ASSERT_EQ(through(SYS_fcntl, 0, F_DUPFD, last_number), last_number);
  EXPECT_TRUE(kernel_is_asked());
  EXPECT_EQ(by_kernel(SYS_close, last_number), 0);
  EXPECT_FALSE(kernel_is_asked());
}

TEST_F(Opens, AnAbsentNameWhereAllNumbersWereUsedUpBeforeAnOpenWasServed) {
  close(open((tree.root() + "/absent").c_str(), O_RDWR | O_CREAT, 0600));
  struct ::rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  const int last = static_cast<int>(limit.rlim_cur) - 1;
  last_number = -1;  // as in a new process
  last_number_taken = false;
  ASSERT_EQ(through(SYS_dup2, 0, last), last);
  const int fd = open_it("absent");
  EXPECT_GE(fd, 0) << "the kernel is asked; it knows one here";
  EXPECT_EQ(through(SYS_close, fd), 0);
  EXPECT_EQ(through(SYS_close, last), 0);
  EXPECT_EQ(open_it("absent"), -ENOENT);
}

TEST_F(Opens, LoweringTheLimitEndsThem) {
  const int fd = open_it("f");
  struct ::rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  EXPECT_EQ(through(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, arg(&limit)), 0);
  EXPECT_TRUE(served(fd)) << "only asked";
  EXPECT_EQ(through(SYS_setrlimit, RLIMIT_NOFILE, arg(&limit)), 0);
  EXPECT_FALSE(served(fd));
  EXPECT_FALSE(served(open_it("f")));
}

// What another thread opens while a process forks: the child's copy becomes real at its first call, and the parent's
// place in the table stays.
TEST_F(Opens, AChildOfAnotherThreadsFork) {
  sf_bypass_before_fork(SIGCHLD, 0);
  const int fd = open_it("f");  // the other thread
  ASSERT_TRUE(served(fd));
  const pid_t pid = fork();
  if (pid == 0) {
    g.process->link[0].session = nullptr;
    through(SYS_fsync, 0);
    _exit(!served(fd) && inode_of(fd) == inode_of("f") && !any_placeholders() ? 0 : 1);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(entries_of("f"), 1u);
  EXPECT_TRUE(served(fd));
}

TEST_F(Opens, BecomeRealBeforeAForkAndForGoodWhenLocked) {
  int fd = open_it("f");
  sf_bypass_before_fork(SIGCHLD, 0);
  EXPECT_FALSE(served(fd));
  fd = open_it("f");
  EXPECT_TRUE(served(fd));
  struct ::flock lock = {};
  lock.l_type = F_RDLCK;
  EXPECT_EQ(through(SYS_fcntl, fd, F_SETLK, arg(&lock)), 0);
  EXPECT_FALSE(served(fd));
  EXPECT_FALSE(served(open_it("f")));
}

// Between the slot's part of a close and the kernel's, or for good where a handler leaves in between.
TEST_F(Opens, NobodySeesOneThatIsBeingClosed) {
  int sockets[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets), 0);
  const int zero = open("/dev/zero", O_RDONLY);
  char buffer[64];
  struct ::stat st;
  struct ::statx stx;
  struct ::statfs system;
  const auto send = [&](int fd) {
    ::iovec bytes = {buffer, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr m = {nullptr, 0, &bytes, 1, control, sizeof control, 0};
    *CMSG_FIRSTHDR(&m) = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &fd, sizeof fd);
    return through(SYS_sendmsg, sockets[0], arg(&m), 0);
  };
  const std::vector<std::pair<const char *, std::function<long(int)>>> calls = {
      {"read", [&](int fd) { return through(SYS_read, fd, arg(buffer), 1); }},
      {"lseek", [](int fd) { return through(SYS_lseek, fd, 0, SEEK_CUR); }},
      {"fstat", [&](int fd) { return through(SYS_fstat, fd, arg(&st)); }},
      {"newfstatat", [&](int fd) { return through(SYS_newfstatat, fd, arg(""), arg(&st), AT_EMPTY_PATH); }},
      {"statx", [&](int fd) { return through(SYS_statx, fd, arg(""), AT_EMPTY_PATH, STATX_ALL, arg(&stx)); }},
      {"fstatfs", [&](int fd) { return through(SYS_fstatfs, fd, arg(&system)); }},
      {"F_GETFL", [](int fd) { return through(SYS_fcntl, fd, F_GETFL); }},
      {"F_GETFD", [](int fd) { return through(SYS_fcntl, fd, F_GETFD); }},
      {"F_SETFD", [](int fd) { return through(SYS_fcntl, fd, F_SETFD, 0); }},
      {"F_DUPFD", [](int fd) { return through(SYS_fcntl, fd, F_DUPFD, 0); }},
      {"dup", [](int fd) { return through(SYS_dup, fd); }},
      {"dup2", [](int fd) { return through(SYS_dup2, fd, 100); }},
      {"dup2 onto itself", [](int fd) { return through(SYS_dup2, fd, fd); }},
      {"dup3", [](int fd) { return through(SYS_dup3, fd, 100, O_CLOEXEC); }},
      {"openat", [](int fd) { return through(SYS_openat, fd, arg("x"), O_RDONLY); }},
      {"fchdir", [](int fd) { return through(SYS_fchdir, fd); }},
      {"faccessat2", [](int fd) { return through(SYS_faccessat2, fd, arg(""), R_OK, AT_EMPTY_PATH); }},
      {"execveat", [](int fd) { return through(SYS_execveat, fd, arg(""), 0, 0, AT_EMPTY_PATH); }},
      {"flock", [](int fd) { return through(SYS_flock, fd, 1); }},
      {"sendmsg", send},
  };
  for (bool another : {false, true}) {
    const int fd = open_it("f"), other = another ? open_it("d/g") : -1;
    ASSERT_TRUE(served(fd));
    files_close(fd);
    EXPECT_EQ(any_placeholders(), another);
    for (const auto &[name, call] : calls) EXPECT_EQ(call(fd), -EBADF) << name;
    EXPECT_GE(through(SYS_openat, fd, arg("/dev/null"), O_RDONLY), 0) << "the descriptor is not looked at";
    EXPECT_GT(through(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, fd, 0), 0) << "nor here";
    EXPECT_EQ(through(SYS_close, fd), 0) << "who left the first close in the middle may close it";
    EXPECT_EQ(through(SYS_close, fd), -EBADF);
    for (const auto &[name, call] : calls) EXPECT_EQ(call(fd), -EBADF) << name << " of a closed one";
    through(SYS_close, other);
  }
  EXPECT_EQ(through(SYS_fcntl, zero, F_GETFL) & O_ACCMODE, O_RDONLY);
}

// Whatever gets the number afterwards is seen, who ever made it.
TEST_F(Opens, ANumberThatWasAPlaceholdersComesBack) {
  const int zero = open("/dev/zero", O_RDONLY);
  struct ::stat is_zero, st;
  ASSERT_EQ(fstat(zero, &is_zero), 0);
  const std::vector<std::function<void(int)>> makers = {
      [&](int fd) { EXPECT_EQ(through(SYS_open, arg("/dev/zero"), O_RDONLY), fd); },
      [&](int fd) { EXPECT_EQ(through(SYS_dup, zero), fd); },
      [&](int fd) { EXPECT_EQ(through(SYS_fcntl, zero, F_DUPFD, fd), fd); },
      [&](int fd) { EXPECT_EQ(through(SYS_dup2, zero, fd), fd); },
      [&](int fd) { EXPECT_EQ(by_kernel(SYS_dup2, zero, fd), fd); },
      [&](int fd) { EXPECT_EQ(by_kernel(SYS_open, arg("/dev/zero"), O_PATH), fd); },
  };
  for (size_t way = 0; way < 2 * makers.size(); ++way) {
    SCOPED_TRACE(way);
    const int fd = open_it("f");
    ASSERT_TRUE(served(fd));
    // By a close whose second half another thread has not come to yet, where the new one takes the number.
    if (way < makers.size() || way % makers.size() != 3) through(SYS_close, fd);
    else files_close(fd);
    makers[way % makers.size()](fd);
    EXPECT_EQ(through(SYS_fstat, fd, arg(&st)), 0);
    EXPECT_EQ(st.st_rdev, is_zero.st_rdev);
    EXPECT_GE(through(SYS_fcntl, fd, F_GETFL), 0);
    EXPECT_EQ(through(SYS_close, fd), 0);
    const int again = open_it("f");
    EXPECT_EQ(again, fd);
    EXPECT_TRUE(served(again));
    through(SYS_close, again);
  }
}

TEST_F(Opens, AChildInTheMiddleOfAClose) {
  const int fd = open_it("f");
  ASSERT_TRUE(served(fd));
  files_close(fd);  // by another thread
  const bool threads = std::exchange(g.has_threads, true);
  const pid_t pid = fork();
  if (pid == 0) {
    g.process->link[0].session = nullptr;
    const bool unseen = through(SYS_fcntl, fd, F_GETFL) == -EBADF && by_kernel(SYS_fcntl, fd, F_GETFD) == -EBADF;
    _exit(unseen && through(SYS_dup, 0) == fd ? 0 : 1);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
  g.has_threads = threads;
  // Nor does a program inherit it, in whatever way it is started.
  EXPECT_EQ(by_kernel(SYS_fcntl, fd, F_GETFD), 0);
  sf_bypass_before_fork(0, 1);
  EXPECT_EQ(by_kernel(SYS_fcntl, fd, F_GETFD), FD_CLOEXEC);
  by_kernel(SYS_fcntl, fd, F_SETFD, 0);
  sf_bypass_before_unseen_exec();
  EXPECT_EQ(by_kernel(SYS_fcntl, fd, F_GETFD), FD_CLOEXEC);
  const int opened = open_it("f");
  ASSERT_TRUE(served(opened));
  sf_bypass_before_unseen_exec();
  EXPECT_EQ(by_kernel(SYS_fcntl, opened, F_GETFD), FD_CLOEXEC) << "one that another thread opened since the clone";
}

TEST_F(Opens, WhoLooksIntoProcKeepsToTheKernel) {
  const int fd = open_it("f");
  EXPECT_TRUE(served(fd));
  int proc = static_cast<int>(through(SYS_open, arg("/proc/self/stat"), O_RDONLY));
  EXPECT_FALSE(served(fd)) << "it might have been the descriptor's name";
  EXPECT_TRUE(served(open_it("f"))) << "a file of /proc leads nowhere";
  through(SYS_close, proc);
  // Names alone do not say it: many a project lies in ~/dev.
  char elsewhere[] = "/tmp/sf-opens.XXXXXX";
  ASSERT_NE(mkdtemp(elsewhere), nullptr);
  const std::string before = std::filesystem::current_path(), dev = std::string(elsewhere) + "/dev";
  ASSERT_EQ(mkdir(dev.c_str(), 0700), 0);
  EXPECT_EQ(through(SYS_chdir, arg(dev.c_str())), 0);
  EXPECT_TRUE(served(open_it("f"))) << "a directory called dev";
  EXPECT_EQ(through(SYS_chdir, arg(before.c_str())), 0);
  std::filesystem::remove_all(elsewhere);
  proc = static_cast<int>(through(SYS_openat, AT_FDCWD, arg("/proc/self/fd"), O_RDONLY | O_DIRECTORY));
  EXPECT_GE(proc, 0);
  EXPECT_FALSE(served(open_it("f")));
}

TEST(OpensOfPolicies, OneThatOnlyServesIsKnown) {
  struct {
    sf_image image;
    bpf_insn insn[3];
  } it = {};
  EXPECT_FALSE(only_serves_opens(it.image));
  it.image.first[SF_SLOT_SYSCALL + SF_OP_OPEN] = 3;
  sf_image_program &program = it.image.program[2];
  program.insns_offset = offsetof(decltype(it), insn);
  program.insns = 2;
  it.insn[0] = {BPF_JMP | BPF_CALL, 0, 0, 0, SF_HOST_SERVE_OPEN};
  it.insn[1] = {BPF_JMP | BPF_EXIT, 0, 0, 0, 0};
  EXPECT_TRUE(only_serves_opens(it.image));
  program.next = 1;
  EXPECT_FALSE(only_serves_opens(it.image)) << "another one may deny";
  program.next = 0, program.insns = 3;
  EXPECT_FALSE(only_serves_opens(it.image));
  program.insns = 2, it.insn[0].imm = SF_HOST_SERVE_ATTR;
  EXPECT_FALSE(only_serves_opens(it.image));
  it.insn[0] = {BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, -13};
  EXPECT_FALSE(only_serves_opens(it.image));
}

TEST_F(Opens, NamesOfDescriptors) {
  for (const char *path : {"/proc/self/fd/3", "/dev/fd/3", "/dev/stdin", "proc/1", "../../dev/stdin", "self/fd/3",
                           "fd/3", "//proc/self", "/x/../proc"})
    EXPECT_TRUE(names_descriptors(path)) << path;
  for (const char *path : {"", "/", "/usr/share", "process", "/devices/x", "/a/fdisk", "dev_null", "/a/procs/"})
    EXPECT_FALSE(names_descriptors(path)) << path;
}

TEST_F(Opens, WithoutADaemonTheKernelsErrorIsGiven) {
  const int fd = open_it("f");
  ASSERT_EQ(unlink(tree.path("f").c_str()), 0);
  char buffer[10];
  EXPECT_EQ(through(SYS_read, fd, arg(buffer), 10), 10) << "what is kept is readable";
  EXPECT_EQ(through(SYS_flock, fd, 1), -ENOTCONN);
  EXPECT_TRUE(served(fd));
  EXPECT_EQ(through(SYS_dup, fd), fd + 1);
}

TEST_F(Opens, AnotherFileUnderTheNameIsNotTaken) {
  const int fd = open_it("f");
  const ino_t former = inode_of("f");
  ASSERT_EQ(rename(tree.path("f").c_str(), tree.path("kept").c_str()), 0);
  tree.file("f", "another");
  EXPECT_NE(through(SYS_flock, fd, 1), 0);
  EXPECT_NE(inode_of(fd), inode_of("f"));
  ASSERT_EQ(rename(tree.path("kept").c_str(), tree.path("f").c_str()), 0);
  EXPECT_EQ(through(SYS_flock, fd, 1), 0);
  EXPECT_EQ(inode_of(fd), former);
}

TEST_F(Opens, NobodyComesHereAnyMore) {
  char buffer[300];
  const int fd = open_it("f");
  EXPECT_EQ(through(SYS_read, fd, arg(buffer), 300), 300);
  sf_bypass_switch_off();
  EXPECT_EQ(inode_of(fd), inode_of("f"));
  EXPECT_EQ(by_kernel(SYS_lseek, fd, 0, SEEK_CUR), 300);
  EXPECT_FALSE(served(open_it("f")));
}

TEST_F(Opens, CallsThatMatterToThemOnlyAreNotWantedWithoutThem) {
  EXPECT_EQ(sf_bypass_wants(SYS_poll), SF_WANTED_FOR_OPENS_LATER);
  EXPECT_EQ(sf_bypass_wants(SYS_accept), SF_WANTED_FOR_OPENS_LATER);
  EXPECT_EQ(sf_bypass_wants(SYS_prlimit64), SF_WANTED_FOR_OPENS);
  EXPECT_EQ(sf_bypass_wants(SYS_pipe), SF_WANTED_LATER);
  EXPECT_EQ(sf_bypass_wants(SYS_read), SF_WANTED);
  g.options.serve_opens = false;
  EXPECT_EQ(sf_bypass_wants(SYS_poll), SF_UNWANTED);
  EXPECT_EQ(sf_bypass_wants(SYS_mmap), SF_UNWANTED);
  EXPECT_EQ(sf_bypass_wants(SYS_accept), SF_WANTED_LATER);
  EXPECT_EQ(sf_bypass_wants(SYS_read), SF_WANTED);
}

}  // namespace
}  // namespace shortfuse::bypass
