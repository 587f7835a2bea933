#include "mount_table.h"

#include <gtest/gtest.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <fstream>

namespace shortfuse::bridge {
namespace {

class MountTable : public ::testing::Test {
 protected:
  std::optional<MountEntry> find(const std::string &table, const std::string &point, uint64_t dev = 0) {
    std::ofstream(path_) << table;
    return find_mount(path_, point, dev);
  }
  void TearDown() override { unlink(path_.c_str()); }
  std::string path_ = testing::TempDir() + "/mountinfo-" + std::to_string(getpid());
};

constexpr const char *kRoot = "20 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n";
constexpr const char *kFuse =
    "42 20 0:39 / /mnt/x rw,nosuid,nodev,noexec,relatime shared:3 - fuse.passthroughfs /usr/include "
    "ro,user_id=1000,group_id=100,default_permissions,allow_other\n";

TEST_F(MountTable, ReadsOptions) {
  auto entry = find(std::string(kRoot) + kFuse, "/mnt/x");
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->dev, makedev(0, 39));
  EXPECT_EQ(entry->owner_uid, 1000u);
  EXPECT_EQ(entry->owner_gid, 100u);
  EXPECT_TRUE(entry->default_permissions && entry->allow_other && entry->read_only && entry->noexec);
  EXPECT_TRUE(entry->on_top);
  EXPECT_FALSE(entry->submounts);
  EXPECT_EQ(entry->source, "/usr/include");
  EXPECT_EQ(entry->fstype, "fuse.passthroughfs");
}

TEST_F(MountTable, NotThere) {
  EXPECT_FALSE(find(kRoot, "/mnt/x"));
  EXPECT_FALSE(find(std::string(kRoot) + kFuse, "/mnt"));
  EXPECT_FALSE(find(std::string(kRoot) + kFuse, "/mnt/x", makedev(0, 40)));
  EXPECT_FALSE(find("garbage\n1 2 3\n\n- - - -\n", "/mnt/x"));
}

TEST_F(MountTable, Submounts) {
  auto entry = find(std::string(kRoot) + kFuse + "43 42 0:40 / /mnt/x/sub rw - tmpfs tmpfs rw\n", "/mnt/x");
  ASSERT_TRUE(entry);
  EXPECT_TRUE(entry->submounts);
  entry = find(std::string(kRoot) + kFuse + "43 20 0:40 / /mnt/xy rw - tmpfs tmpfs rw\n", "/mnt/x");
  EXPECT_FALSE(entry->submounts);
}

TEST_F(MountTable, Covered) {
  auto entry = find(std::string(kRoot) + kFuse + "43 42 0:40 / /mnt/x rw - tmpfs tmpfs rw\n", "/mnt/x");
  ASSERT_TRUE(entry);
  EXPECT_FALSE(entry->on_top);
  entry = find(std::string(kRoot) + kFuse + "43 20 0:40 / /mnt rw - tmpfs tmpfs rw\n", "/mnt/x");
  EXPECT_FALSE(entry->on_top);
}

TEST_F(MountTable, EscapedNames) {
  auto entry = find("42 20 0:39 / /mnt/a\\040b rw - fuse.sshfs h:\\040x rw,user_id=0\n", "/mnt/a b");
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->source, "h: x");
}

}  // namespace
}  // namespace shortfuse::bridge
