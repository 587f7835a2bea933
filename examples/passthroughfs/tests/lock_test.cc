/* Locks between processes of the mount, and between the mount and its source. */
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "mounted.h"

namespace shortfuse::passthrough::testing {
namespace {

struct flock whole(short type, off_t start = 0, off_t length = 0) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  return lock;
}

int set_lock(int fd, short type, off_t start = 0, off_t length = 0) {
  struct flock lock = whole(type, start, length);
  return fcntl(fd, F_SETLK, &lock) == 0 ? 0 : errno;
}

int wait_lock(int fd, short type) {
  struct flock lock = whole(type);
  return fcntl(fd, F_SETLKW, &lock) == 0 ? 0 : errno;
}

/// Whether this process or thread comes to sleep in that system call; /proc says "running" while it does not sleep.
bool comes_to_wait_in(long call, pid_t task) {
  const std::string wanted = std::to_string(call) + " ";
  return eventually([&] { return contents("/proc/" + std::to_string(task) + "/syscall").starts_with(wanted); });
}

/// Opens the file and waits for a lock; its exit status is open()'s errno, or 0 or fcntl()'s, with 128 added.
constexpr int kWaited = 128;
pid_t waiter_for_lock(const std::string& path) {
  return in_child([&] {
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    return fd < 0 ? errno : kWaited + wait_lock(fd, F_WRLCK);
  });
}

class Locks : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(mounted_.ok());
    write_file(mounted_.path() + "/f", "0123456789");
    fd_ = open(file().c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(fd_, 0);
  }
  void TearDown() override { close(fd_); }
  std::string file() const { return mounted_.path() + "/f"; }
  std::string source_file() const { return mounted_.source() + "/f"; }
  /// The errno of a try for a lock in another process.
  int other(const std::string& path, short type, off_t start = 0, off_t length = 0) {
    return exit_status(in_child([&] {
      int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
      return fd < 0 ? 255 : set_lock(fd, type, start, length);
    }));
  }
  Mounted mounted_{"allow_other"};
  int fd_ = -1;
};

TEST_F(Locks, ExcludeOtherProcessesOfMountAndSource) {
  EXPECT_EQ(set_lock(fd_, F_WRLCK), 0);
  EXPECT_EQ(other(file(), F_WRLCK), EAGAIN);
  EXPECT_EQ(other(file(), F_RDLCK), EAGAIN);
  EXPECT_EQ(other(source_file(), F_WRLCK), EAGAIN);
  EXPECT_EQ(set_lock(fd_, F_RDLCK), 0);
  EXPECT_EQ(other(file(), F_RDLCK), 0);
  EXPECT_EQ(other(source_file(), F_RDLCK), 0);
  EXPECT_EQ(other(source_file(), F_WRLCK), EAGAIN);
  EXPECT_EQ(set_lock(fd_, F_UNLCK), 0);
  EXPECT_EQ(other(file(), F_WRLCK), 0);
  EXPECT_EQ(other(source_file(), F_WRLCK), 0);
}

TEST_F(Locks, OfTheSourceExcludeTheMount) {
  int source = open(source_file().c_str(), O_RDWR | O_CLOEXEC);
  EXPECT_EQ(set_lock(source, F_WRLCK), 0);
  EXPECT_EQ(set_lock(fd_, F_WRLCK), EAGAIN);
  struct flock lock = whole(F_WRLCK);
  EXPECT_EQ(fcntl(fd_, F_GETLK, &lock), 0);
  EXPECT_EQ(lock.l_type, F_WRLCK);
  EXPECT_EQ(lock.l_pid, getpid());
  close(source);
  EXPECT_EQ(set_lock(fd_, F_WRLCK), 0);
}

TEST_F(Locks, HaveRanges) {
  EXPECT_EQ(set_lock(fd_, F_WRLCK, 0, 5), 0);
  EXPECT_EQ(set_lock(fd_, F_WRLCK, 8, 2), 0);
  EXPECT_EQ(other(file(), F_WRLCK, 5, 3), 0);
  EXPECT_EQ(other(file(), F_WRLCK, 5, 4), EAGAIN);
  EXPECT_EQ(set_lock(fd_, F_UNLCK, 2, 1), 0);
  EXPECT_EQ(other(file(), F_WRLCK, 2, 1), 0);
  EXPECT_EQ(other(file(), F_WRLCK, 1, 1), EAGAIN);
  EXPECT_EQ(other(file(), F_WRLCK, 3, 1), EAGAIN);
}

TEST_F(Locks, BelongToTheProcessNotToTheDescriptor) {
  int second = open(file().c_str(), O_RDWR | O_CLOEXEC);
  EXPECT_EQ(set_lock(fd_, F_WRLCK), 0);
  EXPECT_EQ(set_lock(second, F_WRLCK), 0);
  // Closing any descriptor of the file ends the process's locks.
  close(second);
  EXPECT_EQ(other(file(), F_WRLCK), 0);
}

TEST_F(Locks, AreNotInherited) {
  EXPECT_EQ(set_lock(fd_, F_WRLCK), 0);
  EXPECT_EQ(exit_status(in_child([&] { return set_lock(fd_, F_WRLCK); })), EAGAIN);
  EXPECT_EQ(other(file(), F_WRLCK), EAGAIN);
}

TEST_F(Locks, NameTheirHolder) {
  EXPECT_EQ(set_lock(fd_, F_WRLCK, 3, 4), 0);
  pid_t holder = getpid();
  int status = exit_status(in_child([&] {
    int fd = open(file().c_str(), O_RDWR | O_CLOEXEC);
    struct flock lock = whole(F_RDLCK);
    if (fcntl(fd, F_GETLK, &lock) != 0) return 1;
    return lock.l_type == F_WRLCK && lock.l_start == 3 && lock.l_len == 4 && lock.l_pid == holder ? 0 : 2;
  }));
  EXPECT_EQ(status, 0);
  struct flock lock = whole(F_WRLCK);
  EXPECT_EQ(fcntl(fd_, F_GETLK, &lock), 0);
  EXPECT_EQ(lock.l_type, F_UNLCK);
}

TEST_F(Locks, EndWithTheirProcess) {
  int ready[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  pid_t child = in_child([&] {
    int fd = open(file().c_str(), O_RDWR | O_CLOEXEC);
    if (set_lock(fd, F_WRLCK) != 0 || write(ready[1], "x", 1) != 1) return 1;
    pause();
    return 0;
  });
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_EQ(set_lock(fd_, F_WRLCK), EAGAIN);
  kill(child, SIGKILL);
  exit_status(child);
  EXPECT_TRUE(eventually([&] { return set_lock(fd_, F_WRLCK) == 0; }));
  close(ready[0]);
  close(ready[1]);
}

TEST_F(Locks, ManyWaitWithoutHoldingUpOthers) {
  EXPECT_EQ(set_lock(fd_, F_WRLCK), 0);
  std::vector<pid_t> waiting;
  for (int i = 0; i < 40; ++i) waiting.push_back(waiter_for_lock(file()));
  for (pid_t child : waiting) ASSERT_TRUE(comes_to_wait_in(SYS_fcntl, child));
  for (int i = 0; i < 50; ++i) write_file(mounted_.path() + "/other", std::to_string(i));
  EXPECT_EQ(contents(mounted_.path() + "/other"), "49");
  for (pid_t child : waiting) EXPECT_EQ(waitpid(child, nullptr, WNOHANG), 0);
  EXPECT_EQ(set_lock(fd_, F_UNLCK), 0);
  for (pid_t child : waiting) EXPECT_EQ(exit_status(child), kWaited);
}

TEST_F(Locks, WaitingCanBeInterruptedAndKilled) {
  EXPECT_EQ(set_lock(fd_, F_WRLCK), 0);
  for (int round = 0; round < 20; ++round) {
    int ready[2];
    ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
    bool killed = round % 2;
    pid_t child = in_child([&] {
      struct sigaction action {};
      action.sa_handler = [](int) {};
      sigaction(SIGUSR1, &action, nullptr);
      int fd = open(file().c_str(), O_RDWR | O_CLOEXEC);
      if (write(ready[1], "x", 1) != 1) return 1;
      return wait_lock(fd, F_WRLCK);
    });
    char byte;
    ASSERT_EQ(read(ready[0], &byte, 1), 1);
    if (round % 3) {
      EXPECT_TRUE(comes_to_wait_in(SYS_fcntl, child));
    }
    if (killed) {
      kill(child, SIGKILL);
      EXPECT_EQ(exit_status(child), 256 + SIGKILL);
    } else {
      int status = 0;
      EXPECT_TRUE(eventually([&] {
        kill(child, SIGUSR1);
        return waitpid(child, &status, WNOHANG) == child;
      }));
      EXPECT_EQ(WEXITSTATUS(status), EINTR);
    }
    close(ready[0]);
    close(ready[1]);
  }
  EXPECT_EQ(set_lock(fd_, F_UNLCK), 0);
  EXPECT_EQ(other(source_file(), F_WRLCK), 0);
}

TEST_F(Locks, TheDaemonEndsWhileSomebodyWaits) {
  EXPECT_EQ(set_lock(fd_, F_WRLCK), 0);
  pid_t child = waiter_for_lock(file());
  EXPECT_TRUE(comes_to_wait_in(SYS_fcntl, child));
  EXPECT_EQ(mounted_.stop(SIGTERM), 0);
  EXPECT_EQ(exit_status(child), kWaited + ECONNABORTED);
}

TEST_F(Locks, OfWholeFilesByFlock) {
  int second = open(file().c_str(), O_RDONLY | O_CLOEXEC);
  int source = open(source_file().c_str(), O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(flock(fd_, LOCK_EX | LOCK_NB), 0);
  EXPECT_NE(flock(second, LOCK_EX | LOCK_NB), 0);
  EXPECT_EQ(errno, EWOULDBLOCK);
  EXPECT_NE(flock(source, LOCK_SH | LOCK_NB), 0);
  EXPECT_EQ(flock(fd_, LOCK_SH | LOCK_NB), 0);
  EXPECT_EQ(flock(second, LOCK_SH | LOCK_NB), 0);
  EXPECT_EQ(flock(source, LOCK_SH | LOCK_NB), 0);
  close(source);
  EXPECT_NE(flock(fd_, LOCK_EX | LOCK_NB), 0);
  std::atomic<bool> granted{false};
  std::atomic<pid_t> thread{0};
  std::thread waiter([&] {
    thread = gettid();
    EXPECT_EQ(flock(fd_, LOCK_EX), 0);
    granted = true;
  });
  EXPECT_TRUE(eventually([&] { return thread != 0; }) && comes_to_wait_in(SYS_flock, thread));
  EXPECT_FALSE(granted);
  // The last descriptor of an open file gives its lock back, also a copy of it.
  int copy = dup(second);
  close(second);
  usleep(20000);
  EXPECT_FALSE(granted);
  close(copy);
  waiter.join();
  EXPECT_TRUE(granted);
}

TEST_F(Locks, ReadOnlyDescriptorsTakeReadLocks) {
  int reader = open(file().c_str(), O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(set_lock(reader, F_RDLCK), 0);
  EXPECT_EQ(set_lock(reader, F_WRLCK), EBADF);
  EXPECT_EQ(other(source_file(), F_WRLCK), EAGAIN);
  close(reader);
}

TEST(LocalLocks, StayInTheMount) {
  Mounted mounted("locks=local");
  ASSERT_TRUE(mounted.ok());
  std::string file = mounted.path() + "/f", source = mounted.source() + "/f";
  write_file(file, "x");
  int fd = open(file.c_str(), O_RDWR | O_CLOEXEC);
  EXPECT_EQ(set_lock(fd, F_WRLCK), 0);
  auto other = [](const std::string& path) {
    return exit_status(in_child([&] { return set_lock(open(path.c_str(), O_RDWR | O_CLOEXEC), F_WRLCK); }));
  };
  EXPECT_EQ(other(file), EAGAIN);
  EXPECT_EQ(other(source), 0);
  EXPECT_EQ(flock(fd, LOCK_EX | LOCK_NB), 0);
  close(fd);
}

}  // namespace
}  // namespace shortfuse::passthrough::testing

int main(int argc, char** argv) { return shortfuse::passthrough::testing::run_tests(argc, argv); }
