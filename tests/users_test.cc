// Who may see what: permission checks by the hook are the kernel's, for root, for others where the mounter shares, and
// for an ordinary user with a mount of its own. Where there is no sharing, others simply use the kernel's way.
#include <grp.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "support/agent.h"
#include "support/control.h"
#include "support/harness.h"

namespace shortfuse::tests {
namespace {

constexpr uid_t kNobody = 65534;  // has a passwd entry, which fusermount3 wants
constexpr uid_t kUser = 23456, kOther = 34567;
constexpr uid_t kDeceived = 35678;  // has nothing of its own but a registry

/// Files and directories of several owners and all kinds of modes.
std::vector<std::string> plant_permissions(const std::string &root) {
  static const mode_t modes[] = {0000, 0400, 0440, 0444, 0600, 0640, 0644, 0711, 0755, 0070, 0007, 0666, 0111, 0751};
  static const uid_t owners[] = {0, kUser, kOther};
  std::vector<std::string> names;
  for (mode_t mode : modes) {
    for (uid_t owner : owners) {
      for (uid_t group : owners) {
        char tag[64];
        std::snprintf(tag, sizeof tag, "/%03o-%u-%u", mode, owner, group);
        std::string dir = root + tag;
        std::filesystem::create_directories(dir);
        write_file(dir + "/f", tag);
        std::filesystem::create_symlink("f", dir + "/l");
        for (const auto &path : {dir + "/f", dir}) {
          if (chown(path.c_str(), owner, group) != 0 || chmod(path.c_str(), mode) != 0) throw Broken("chown " + path);
        }
        for (const char *name : {"", "/f", "/l", "/absent"}) names.push_back(std::string(tag) + name);
      }
    }
  }
  return names;
}

class Users : public testing::Test {
 protected:
  void SetUp() override {
    if (!is_root()) GTEST_SKIP() << "becoming other users needs root";
  }
  /// Asks everything about every name; the agent compares with the kernel.
  void expect_kernels_answers(Agent &agent, const std::string &point, const std::vector<std::string> &names) {
    unsigned allowed = 0, refused = 0;
    for (const auto &name : names) {
      for (const auto &question : {"stat " + point + name, "read " + point + name, "list " + point + name,
                                   "readlink " + point + name, "access " + point + name + " 4",
                                   "access " + point + name + " 2", "access " + point + name + " 1"}) {
        std::string answer = agent.ask(question);
        ASSERT_FALSE(answer.starts_with("MISMATCH")) << question << ": " << answer;
        ++(answer == "EACCES" ? refused : allowed);
      }
    }
    EXPECT_GT(allowed, 100u);
    EXPECT_GT(refused, 100u);
  }
  TempDir temp;
};

class UsersShared : public Users, public testing::WithParamInterface<const char *> {};

// With access control lists the hook cannot decide for those whom group and other bits concern, and leaves it to the
// kernel; without, it decides for all.
TEST_P(UsersShared, AnswersAreTheKernels) {
  bool lists = GetParam() == std::string("acl");
  auto names = plant_permissions(temp / "source");
  Mount::Options options;
  options.more = std::string("allow_other,bpftime_share=all,") + GetParam();
  Mount mount(temp / "source", temp.dir("mnt"), options);
  Agent root(temp, {});
  EXPECT_TRUE(root.comes_to_be_served(mount, "stat " + mount.point() + "/644-0-0"));
  // Root sees and warms everything, so that what others get is decided by the hook and not by absence.
  for (int pass = 0; pass < 3; ++pass) {
    for (const auto &name : names) {
      for (const char *verb : {"stat ", "read ", "list "}) {
        ASSERT_FALSE(root.ask(verb + mount.point() + name).starts_with("MISMATCH"));
      }
    }
  }
  for (uid_t uid : {kUser, kOther, kNobody}) {
    Agent::Options as;
    as.uid = uid;
    Agent agent(temp, as);
    EXPECT_TRUE(agent.comes_to_be_served(mount, "stat " + mount.point()));
    for (int pass = 0; pass < 2; ++pass) expect_kernels_answers(agent, mount.point(), names);
    EXPECT_GT(agent.finish().served_total(), lists ? 100u : 1000u) << "uid " << uid;
  }
  // One process that changes who it is in the middle.
  for (uid_t uid : {kUser, 0u, kOther, 0u, kUser}) {
    ASSERT_EQ(root.ask("seteuid 0"), "0");
    ASSERT_EQ(root.ask("groups " + std::to_string(uid)), "0");
    ASSERT_EQ(root.ask("seteuid " + std::to_string(uid)), "0");
    for (const auto &name : names) {
      for (const char *verb : {"stat ", "read ", "list "}) {
        std::string answer = root.ask(verb + mount.point() + name);
        ASSERT_FALSE(answer.starts_with("MISMATCH")) << verb << name << " as " << uid << ": " << answer;
      }
    }
  }
  ASSERT_EQ(root.ask("seteuid 0"), "0");
  EXPECT_GT(root.finish().served_total(), 1000u);
  mount.unmount();
}

INSTANTIATE_TEST_SUITE_P(All, UsersShared, testing::Values("acl", "noacl"),
                         [](const auto &option) { return std::string(option.param); });

// Without default_permissions only the file system knows who may have what. It is asked by all but those it runs as.
TEST_F(Users, WhatTheFileSystemDecidesIsLeftToIt) {
  auto names = plant_permissions(temp / "source");
  Mount::Options options;
  options.more = "allow_other,bpftime_share=all,nodefault_permissions";
  Mount mount(temp / "source", temp.dir("mnt"), options);
  Agent root(temp, {});
  EXPECT_TRUE(root.comes_to_be_served(mount, "stat " + mount.point() + "/644-0-0"));
  for (int pass = 0; pass < 3; ++pass) {
    for (const auto &name : names) {
      for (const char *verb : {"stat ", "read ", "list "}) root.ask(verb + mount.point() + name);
    }
  }
  Agent::Options as;
  as.uid = kUser;
  Agent agent(temp, as);
  for (int pass = 0; pass < 2; ++pass) expect_kernels_answers(agent, mount.point(), names);
  EXPECT_EQ(agent.finish().served_total(), 0u);
  EXPECT_GT(root.finish().served_total(), 1000u);
  mount.unmount();
}

TEST_F(Users, NotSharedMeansTheKernelsWay) {
  auto names = plant_permissions(temp / "source");
  Mount::Options options;
  options.more = "allow_other";
  Mount mount(temp / "source", temp.dir("mnt"), options);
  Agent::Options as;
  as.uid = kUser;
  Agent agent(temp, as);
  expect_kernels_answers(agent, mount.point(), names);
  EXPECT_EQ(agent.finish().served_total(), 0u);
  Agent root(temp, {});
  EXPECT_TRUE(root.comes_to_be_served(mount, "stat " + mount.point() + "/644-0-0"));
  EXPECT_EQ(root.ask_often("stat " + mount.point() + "/644-0-0"), root.ask("stat " + (temp / "source/644-0-0")));
  EXPECT_GT(root.finish().served_total(), 0u);
  mount.unmount();
}

// Without allow_other the kernel keeps even root's other faces out; the hook must not let anybody in.
TEST_F(Users, PrivateMountsStayPrivate) {
  write_file(temp.dir("source") + "/f", "contents");
  Mount::Options options;
  options.more = "bpftime_share=all";
  Mount mount(temp / "source", temp.dir("mnt"), options);
  Agent root(temp, {});
  EXPECT_TRUE(root.comes_to_be_served(mount, "read " + mount.point() + "/f"));
  EXPECT_EQ(root.ask_often("read " + mount.point() + "/f"), "contents");
  Agent::Options as;
  as.uid = kUser;
  Agent agent(temp, as);
  EXPECT_EQ(agent.ask_often("stat " + mount.point() + "/f"), "EACCES");
  EXPECT_EQ(agent.ask_often("list " + mount.point()), "EACCES");
  EXPECT_EQ(agent.finish().served_total(), 0u);
  EXPECT_GT(root.finish().served_total(), 0u);
  mount.unmount();
}

/// libfuse opens /dev/fuse as the user before it asks fusermount3. Where the node is for root only, this test sees
/// another one in its place, in a mount namespace of its own.
void open_dev_fuse_to_all(const TempDir &temp) {
  struct stat st;
  ASSERT_EQ(stat("/dev/fuse", &st), 0);
  if ((st.st_mode & 0006) == 0006) return;
  std::string node = temp / "fuse";
  ASSERT_EQ(unshare(CLONE_NEWNS), 0);
  ASSERT_EQ(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  ASSERT_EQ(mknod(node.c_str(), S_IFCHR, st.st_rdev), 0);
  ASSERT_EQ(chmod(node.c_str(), 0666), 0);
  ASSERT_EQ(mount(node.c_str(), "/dev/fuse", nullptr, MS_BIND, nullptr), 0);
}

TEST_F(Users, AnOrdinaryUsersOwnMount) {
  ASSERT_NO_FATAL_FAILURE(open_dev_fuse_to_all(temp));
  make_tree(temp / "source", 50);
  std::string point = temp.dir("mnt");
  for (const auto &path : {temp.path(), point, temp / "source", temp / "source/dir0", temp / "source/dir0/file5"}) {
    ASSERT_EQ(chown(path.c_str(), kNobody, kNobody), 0);
  }
  Mount::Options options;
  options.uid = kNobody;
  Mount mount(temp / "source", point, options);
  Agent::Options as;
  as.uid = kNobody;
  Agent owner(temp, as);
  std::string contents = read_file(temp / "source/dir0/file5");
  EXPECT_TRUE(owner.comes_to_be_served(mount, "read " + point + "/dir0/file5"));
  EXPECT_EQ(owner.ask_often("read " + point + "/dir0/file5"), contents);
  EXPECT_EQ(owner.ask_often("access " + point + "/dir0/file6 2"), "EACCES");
  EXPECT_GT(owner.finish().served_total(), 0u);
  // A process of somebody else trusts no daemon of this user's; the kernel keeps it out anyway.
  as.uid = kUser;
  Agent stranger(temp, as);
  EXPECT_EQ(stranger.ask_often("read " + point + "/dir0/file5"), "EACCES");
  EXPECT_EQ(stranger.finish().served_total(), 0u);
  // So does root's: its daemon is another user's, and that user could tell it anything.
  Agent root(temp, {});
  root.ask_often("read " + point + "/dir0/file5");
  EXPECT_EQ(root.finish().served_total(), 0u);
  mount.unmount();
}

/// A registry for a user, as a daemon would make it: at its socket nobody ever answers, but who knocks is counted.
class FalseRegistry {
 public:
  /// Waits for another run of this test, and takes away what one that was killed left.
  FalseRegistry(uid_t user, const std::string &announced) : path_("/tmp/shortfuse-" + std::to_string(user)) {
    if (!eventually([&] { return take_directory(); }, std::chrono::seconds(60))) throw Broken("cannot have " + path_);
    for (const auto &left : std::filesystem::directory_iterator(path_)) std::filesystem::remove_all(left);
    socket_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockaddr_un address{AF_UNIX, {}};
    std::string name = path_ + "/1-0.sock";
    name.copy(address.sun_path, sizeof address.sun_path - 1);
    struct stat st;
    char device[32];
    if (bind(socket_, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 || listen(socket_, 64) != 0 ||
        chmod(name.c_str(), 0666) != 0 || stat(announced.c_str(), &st) != 0) {
      throw Broken("cannot listen at " + name);
    }
    std::snprintf(device, sizeof device, "%lx ", st.st_dev);
    std::filesystem::create_symlink(device + announced, path_ + "/1-0.mount");
    write_file(path_ + "/generation", std::string(8, '\1'));
  }
  ~FalseRegistry() {
    std::filesystem::remove_all(path_);
    close(socket_);
    close(directory_);
  }
  FalseRegistry(const FalseRegistry &) = delete;
  void belongs_to(uid_t owner, mode_t mode) {
    if (chown(path_.c_str(), owner, owner) != 0 || chmod(path_.c_str(), mode) != 0) throw Broken("chown " + path_);
  }
  unsigned knocks() {
    unsigned count = 0;
    for (int fd; (fd = accept(socket_, nullptr, nullptr)) >= 0; ++count) close(fd);
    return count;
  }

 private:
  // The lock ends with its process. The directory may have been removed before we had it.
  bool take_directory() {
    mkdir(path_.c_str(), 0700);
    directory_ = open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat ours, there;
    if (directory_ >= 0 && flock(directory_, LOCK_EX | LOCK_NB) == 0 && fstat(directory_, &ours) == 0 &&
        stat(path_.c_str(), &there) == 0 && ours.st_ino == there.st_ino) {
      return true;
    }
    close(directory_);
    return false;
  }

  std::string path_;
  int directory_ = -1, socket_ = -1;
};

// A registry that somebody else prepared, or could write to, is not believed: nobody connects.
TEST_F(Users, AForgedRegistryIsIgnored) {
  make_tree(temp / "source", 10);
  const std::string file = temp / "source/dir0/file5", contents = read_file(file);
  FalseRegistry registry(kDeceived, temp / "source");
  Agent::Options as;
  as.uid = kDeceived;
  auto knocks = [&](uid_t owner, mode_t mode) {
    registry.belongs_to(owner, mode);
    Agent agent(temp, as);
    EXPECT_EQ(agent.ask_often("read " + file), contents);
    EXPECT_EQ(agent.finish().served_total(), 0u);
    return registry.knocks();
  };
  EXPECT_EQ(knocks(kUser, 0777), 0u);
  EXPECT_EQ(knocks(kUser, 0755), 0u);
  EXPECT_EQ(knocks(kDeceived, 0777), 0u);
  EXPECT_EQ(knocks(kDeceived, 0775), 0u);
  EXPECT_GT(knocks(kDeceived, 0755), 0u) << "not even one that is as it should be is looked at: this showed nothing";
}

}  // namespace
}  // namespace shortfuse::tests
