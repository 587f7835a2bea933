/* The program as users start and stop it. */
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>

#include "mounted.h"

namespace shortfuse::passthrough::testing {
namespace {

class Command : public ::testing::Test {
 protected:
  void SetUp() override {
    base_ = make_directory();
    source_ = base_ + "/source";
    mount_ = base_ + "/mount";
    mkdir(source_.c_str(), 0755);
    mkdir(mount_.c_str(), 0755);
  }
  void TearDown() override {
    if (is_mounted(mount_)) umount2(mount_.c_str(), MNT_DETACH);
    remove_tree(base_);
  }
  std::string base_, source_, mount_;
};

TEST_F(Command, HelpAndVersion) {
  auto help = run({program(), "--help"});
  EXPECT_EQ(help.status, 0);
  for (const char* word : {"SOURCE MOUNTPOINT", "attr_timeout=", "cache=none|auto|always", "writeback", "xdev",
                           "locks=", "max_threads", "allow_other", "-f", "clone_fd"}) {
    EXPECT_NE(help.output.find(word), std::string::npos) << word;
  }
  auto version = run({program(), "-V"});
  EXPECT_EQ(version.status, 0);
  EXPECT_NE(version.output.find("passthroughfs"), std::string::npos);
}

TEST_F(Command, MistakesMountNothing) {
  const std::vector<std::vector<std::string>> mistakes{
      {},
      {source_},
      {base_ + "/missing", mount_},
      {source_, base_ + "/missing"},
      {source_, mount_, "extra"},
      {source_, mount_, "-o", "attr_timeout=x"},
      {source_, mount_, "-o", "timeout=-1"},
      {source_, mount_, "-o", "cache=maybe"},
      {source_, mount_, "-o", "locks=maybe"},
      {source_, mount_, "-o", "max_threads=x"},
      {source_, mount_, "-o", "no_such_option"},
      {source_, mount_, "--no-such-option"},
  };
  for (auto words : mistakes) {
    words.insert(words.begin(), program());
    auto result = run(words);
    EXPECT_NE(result.status, 0) << words.back();
    EXPECT_LT(result.status, 126) << words.back();
    // libfuse speaks for itself about what only it can refuse.
    bool says_why = result.output.starts_with("passthroughfs: ") || result.output.starts_with("fuse: ");
    EXPECT_TRUE(says_why) << words.back() << ": " << result.output;
    EXPECT_FALSE(is_mounted(mount_)) << words.back();
  }
}

TEST_F(Command, ASourceMustBeADirectory) {
  write_file(base_ + "/file", "x");
  auto result = run({program(), base_ + "/file", mount_});
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(result.output, "passthroughfs: source '" + base_ + "/file': Not a directory\n");
}

TEST_F(Command, GoesIntoTheBackground) {
  auto result = run({program(), source_, mount_});
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_EQ(result.output, "");
  EXPECT_TRUE(is_mounted(mount_));
  write_file(mount_ + "/a", "hello");
  EXPECT_EQ(contents(source_ + "/a"), "hello");
  EXPECT_EQ(umount(mount_.c_str()), 0);
}

TEST_F(Command, RelativePaths) {
  ASSERT_EQ(chdir(base_.c_str()), 0);
  auto result = run({program(), "source", "mount"});
  ASSERT_EQ(chdir("/"), 0);
  EXPECT_EQ(result.status, 0) << result.output;
  write_file(mount_ + "/a", "hello");
  EXPECT_EQ(contents(source_ + "/a"), "hello");
  EXPECT_EQ(umount(mount_.c_str()), 0);
}

TEST_F(Command, OverItsOwnSource) {
  write_file(source_ + "/a", "below");
  auto result = run({program(), source_, source_});
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_TRUE(is_mounted(source_));
  EXPECT_EQ(contents(source_ + "/a"), "below");
  EXPECT_EQ(umount(source_.c_str()), 0);
}

TEST_F(Command, StrangeSourceNames) {
  std::string strange = base_ + "/with,comma and\\backslash";
  mkdir(strange.c_str(), 0755);
  write_file(strange + "/a", "x");
  auto result = run({program(), strange, mount_});
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_EQ(contents(mount_ + "/a"), "x");
  EXPECT_EQ(umount(mount_.c_str()), 0);
}

TEST_F(Command, EndsAtSignals) {
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) {
    for (const char* options : {"allow_other", "allow_other,clone_fd,max_threads=2"}) {
      Mounted mounted(options);
      ASSERT_TRUE(mounted.ok());
      write_file(mounted.path() + "/a", "x");
      std::string path = mounted.path();
      EXPECT_EQ(mounted.stop(signal), 0) << signal;
      EXPECT_FALSE(is_mounted(path));
    }
  }
}

TEST_F(Command, EndsWithTheMount) {
  Mounted mounted("");
  ASSERT_TRUE(mounted.ok());
  EXPECT_EQ(mounted.stop(), 0);
}

// As mount(8) calls its helper for: mount -t fuse.passthroughfs SOURCE MOUNTPOINT
TEST_F(Command, ThroughTheMountHelper) {
  if (geteuid() != 0 || access("/usr/sbin/mount.fuse3", X_OK) != 0) GTEST_SKIP() << "needs root and mount.fuse3";
  std::string path = "PATH=" + std::filesystem::path(program()).parent_path().string() + ":/usr/bin:/bin";
  auto result = run({"env", path, "/usr/sbin/mount.fuse3", source_, mount_, "-o",
                     "rw,noatime,allow_other,attr_timeout=0.5,nofail", "-t", "fuse.passthroughfs"});
  EXPECT_EQ(result.status, 0) << result.output;
  ASSERT_TRUE(is_mounted(mount_));
  std::string mounts = contents("/proc/self/mounts");
  EXPECT_NE(mounts.find(source_ + " " + mount_ + " fuse.passthroughfs rw,noatime"), std::string::npos) << mounts;
  EXPECT_EQ(umount(mount_.c_str()), 0);
}

// The program by its path, as it need not be installed for that.
TEST_F(Command, FromAnFstab) {
  if (geteuid() != 0 || access("/usr/sbin/mount.fuse3", X_OK) != 0) GTEST_SKIP() << "needs root and mount.fuse3";
  write_file(base_ + "/fstab", program() + "#" + source_ + " " + mount_ +
             " fuse defaults,allow_other,_netdev,nofail,x-systemd.automount,cache=always 0 0\n");
  auto result = run({"mount", "-T", base_ + "/fstab", mount_});
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_TRUE(is_mounted(mount_));
  EXPECT_EQ(umount(mount_.c_str()), 0);
}

/// In mounts of its own, gives everybody /dev/fuse, as most systems do.
bool open_device_to_all(const std::string& node) {
  return unshare(CLONE_NEWNS) == 0 && mount(nullptr, "/", nullptr, MS_PRIVATE | MS_REC, nullptr) == 0 &&
         mknod(node.c_str(), S_IFCHR | 0666, makedev(10, 229)) == 0 && chmod(node.c_str(), 0666) == 0 &&
         mount(node.c_str(), "/dev/fuse", nullptr, MS_BIND, nullptr) == 0;
}

/// What an ordinary user does and sees. Returns the number of the step that fails, or 0.
int ordinary_use(const std::string& source, const std::string& mount_point) {
  if (run({program(), source, mount_point}).status != 0) return 1;
  write_file(mount_point + "/mine", "hello");
  struct stat attr;
  if (stat((mount_point + "/mine").c_str(), &attr) != 0 || attr.st_uid != 65534) return 2;
  if (open((mount_point + "/roots").c_str(), O_RDONLY) >= 0 || errno != EACCES) return 3;
  if (chown((mount_point + "/mine").c_str(), 0, 0) == 0 || errno != EPERM) return 4;
  if (mkdir((mount_point + "/dir").c_str(), 0700) != 0) return 5;
  if (rename((mount_point + "/mine").c_str(), (mount_point + "/dir/m").c_str()) != 0) return 6;
  // Somebody else's file with set-ID bits, which this user may write: the write strips them.
  int fd = open((mount_point + "/shared").c_str(), O_WRONLY);
  if (fd < 0 || write(fd, "x", 1) != 1 || fstat(fd, &attr) != 0 || (attr.st_mode & 06000) != 0) return 7;
  close(fd);
  return run({"fusermount3", "-u", mount_point}).status != 0 ? 8 : 0;
}

TEST_F(Command, AsAnOrdinaryUser) {
  if (geteuid() != 0 || access("/usr/bin/fusermount3", X_OK) != 0) GTEST_SKIP() << "needs root to become another user";
  ASSERT_EQ(chown(source_.c_str(), 65534, 65534), 0);
  ASSERT_EQ(chown(mount_.c_str(), 65534, 65534), 0);
  write_file(source_ + "/roots", "secret");
  ASSERT_EQ(chmod((source_ + "/roots").c_str(), 0600), 0);
  write_file(source_ + "/shared", "");
  ASSERT_EQ(chmod((source_ + "/shared").c_str(), 06777), 0);
  int status = exit_status(in_child([&] {
    if (!open_device_to_all(base_ + "/fuse")) return 100;
    return as_user(65534, 65534, [&] { return ordinary_use(source_, mount_); });
  }));
  if (status == 100) GTEST_SKIP() << "no mounts of one's own here";
  EXPECT_EQ(status, 0);
  EXPECT_EQ(contents(source_ + "/dir/m"), "hello");
}

}  // namespace
}  // namespace shortfuse::passthrough::testing

int main(int argc, char** argv) { return shortfuse::passthrough::testing::run_tests(argc, argv); }
