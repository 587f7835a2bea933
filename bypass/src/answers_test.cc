// Questions that programs ask of a file before they read it: is it a terminal, where is a hole, is it really empty?
// Answered where the file system has answered before, or has no such call; else the kernel's.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "files.h"
#include "fixture.h"

namespace shortfuse::bypass {
namespace {

constexpr uint32_t kPlainMount = SF_MNT_DEFAULT_PERMISSIONS | SF_MNT_ALLOW_OTHER;
constexpr long kHoleAt = 1 << 16, kSize = 3 << 16;

struct Answers : testing::Test {
  Tree tree{kPlainMount};

  void SetUp() override {
    tree.file("f", std::string(kSize, 'x'));
    tree.file("empty", "");
    tree.attach();
    tree.policy({SF_OP_STAT, SF_OP_READ, SF_OP_READDIR});
  }
  void TearDown() override {
    for (int fd = 3; fd < 100; ++fd) through(SYS_close, fd);
  }
  int open_it(const std::string &name, int flags = O_RDONLY) {
    return static_cast<int>(through(SYS_open, arg(tree.path(name).c_str()), flags));
  }
  void asked(sf_question question, uint64_t from = 0, uint64_t to = 0) {
    ASSERT_TRUE(tree.cache().fill_answer(tree.cache().moment(), tree.nid("f"), question, from, to));
  }
  void flag(uint32_t flag) { __atomic_or_fetch(&tree.cache().header()->mount_flags, flag, __ATOMIC_RELAXED); }
};

// The answer that is kept is not what the kernel would say of this file, so it shows who answered.
TEST_F(Answers, WithinTheStretchThatIsKnown) {
  const int fd = open_it("f");
  EXPECT_EQ(through(SYS_lseek, fd, 0, SEEK_HOLE), kSize) << "the kernel's: nothing is known";
  asked(SF_ASKED_HOLE, 100, kHoleAt);
  for (long at : {100l, 5000l, kHoleAt - 1}) {
    EXPECT_EQ(through(SYS_lseek, fd, at, SEEK_HOLE), kHoleAt) << at;
    EXPECT_EQ(through(SYS_lseek, fd, 0, SEEK_CUR), kHoleAt) << "the offset has moved there";
    EXPECT_EQ(through(SYS_lseek, fd, at, SEEK_DATA), at) << at;
    EXPECT_EQ(through(SYS_lseek, fd, 0, SEEK_CUR), at);
  }
  char byte = 0;
  EXPECT_EQ(through(SYS_read, fd, arg(&byte), 1), 1) << "and reads go on from there";
  EXPECT_EQ(through(SYS_lseek, fd, 0, SEEK_CUR), kHoleAt);
}

TEST_F(Answers, BeyondItTheKernelIsAsked) {
  const int fd = open_it("f"), plain = open(tree.path("f").c_str(), O_RDONLY);
  asked(SF_ASKED_HOLE, 100, kHoleAt);
  for (int whence : {SEEK_HOLE, SEEK_DATA}) {
    for (long at : {-1l, 0l, 99l, kHoleAt, kSize - 1, kSize, kSize + 1, INT64_MAX}) {
      EXPECT_EQ(through(SYS_lseek, fd, at, whence), by_kernel(SYS_lseek, plain, at, whence)) << at << " " << whence;
    }
  }
  close(plain);
}

TEST_F(Answers, WithoutTheCallAFileIsDataToItsEnd) {
  flag(SF_MNT_NO_LSEEK);
  const uint64_t before = Tree::counts(SF_OP_LSEEK).served;
  const int fd = open_it("f"), empty = open_it("empty");
  for (long at : {0l, 1l, kSize - 1}) {
    EXPECT_EQ(through(SYS_lseek, fd, at, SEEK_HOLE), kSize);
    EXPECT_EQ(through(SYS_lseek, fd, at, SEEK_DATA), at);
  }
  for (long at : {-1l, kSize, kSize + 1, INT64_MAX}) {
    EXPECT_EQ(through(SYS_lseek, fd, at, SEEK_HOLE), -ENXIO);
    EXPECT_EQ(through(SYS_lseek, fd, at, SEEK_DATA), -ENXIO);
  }
  EXPECT_EQ(through(SYS_lseek, fd, 0, SEEK_CUR), kSize - 1) << "what fails moves nothing";
  EXPECT_EQ(through(SYS_lseek, empty, 0, SEEK_HOLE), -ENXIO);
  EXPECT_EQ(Tree::counts(SF_OP_LSEEK).served, before + 16);
}

TEST_F(Answers, NotOfContentsThatHaveChanged) {
  const int fd = open_it("f");
  asked(SF_ASKED_HOLE, 0, kHoleAt);
  tree.cache().drop_node(tree.nid("f"));
  EXPECT_EQ(through(SYS_lseek, fd, 0, SEEK_HOLE), kSize);
}

// The number is closed unseen in the end: then it shows who answers.
TEST_F(Answers, IsItATerminal) {
  termios t;
  const int fd = open_it("f"), writer = open_it("f", O_WRONLY), path = open_it("f", O_PATH);
  EXPECT_EQ(through(SYS_ioctl, fd, TCGETS, arg(&t)), -ENOTTY) << "the kernel's";
  asked(SF_ASKED_TERMINAL);
  // A bad address would be looked at by a terminal only.
  EXPECT_EQ(through(SYS_ioctl, fd, TCGETS, 1), -ENOTTY);
  EXPECT_EQ(through(SYS_ioctl, writer, TCGETS, arg(&t)), -ENOTTY);
  EXPECT_EQ(through(SYS_ioctl, path, TCGETS, arg(&t)), -EBADF);
  ASSERT_EQ(by_kernel(SYS_close, fd), 0);
  EXPECT_EQ(through(SYS_ioctl, fd, TCGETS, arg(&t)), -ENOTTY) << "known without the kernel";
  tree.cache().drop_node(tree.nid("f"));
  EXPECT_EQ(through(SYS_ioctl, fd, TCGETS, arg(&t)), -EBADF);
  tree.policy({SF_OP_STAT});
  EXPECT_EQ(through(SYS_ioctl, fd, TCGETS, arg(&t)), -EBADF) << "a policy that serves no reads";
  through(SYS_close, fd);
}

TEST_F(Answers, EmptyOnlyWhereItIsKnownToBe) {
  char byte;
  const int fd = open_it("empty");
  const Counts before = Tree::counts(SF_OP_READ);
  EXPECT_EQ(through(SYS_read, fd, arg(&byte), 1), 0);
  EXPECT_EQ(Tree::counts(SF_OP_READ).missed, before.missed + 1) << "it may have contents nevertheless";
  ASSERT_TRUE(tree.cache().fill_data(tree.cache().moment(), tree.nid("empty"), 0, {}, true));
  EXPECT_EQ(through(SYS_read, fd, arg(&byte), 1), 0);
  EXPECT_EQ(through(SYS_pread64, fd, arg(&byte), 1, 5), 0);
  EXPECT_EQ(Tree::counts(SF_OP_READ).served, before.served + 2);
  // A file system that shows contents although it says there are none.
  const std::byte some[] = {std::byte{'x'}};
  ASSERT_TRUE(tree.cache().fill_data(tree.cache().moment(), tree.nid("empty"), 0, some, true));
  EXPECT_EQ(through(SYS_read, fd, arg(&byte), 1), 0);
  EXPECT_EQ(Tree::counts(SF_OP_READ).served, before.served + 2);
}

}  // namespace
}  // namespace shortfuse::bypass
