// Who may see what: permission checks by the hook are the kernel's, for root, for others where the mounter shares, and
// for an ordinary user with a mount of its own. Where there is no sharing, others simply use the kernel's way.
#include <grp.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "support/agent.h"
#include "support/control.h"
#include "support/harness.h"

namespace shortfuse::tests {
namespace {

constexpr uid_t kNobody = 65534;  // has a passwd entry, which fusermount3 wants
constexpr uid_t kUser = 23456, kOther = 34567;

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
  EXPECT_EQ(root.ask_often("read " + mount.point() + "/f"), "contents");
  Agent::Options as;
  as.uid = kUser;
  Agent agent(temp, as);
  EXPECT_EQ(agent.ask_often("stat " + mount.point() + "/f"), "EACCES");
  EXPECT_EQ(agent.ask_often("list " + mount.point()), "EACCES");
  agent.finish();
  root.finish();
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

// A registry that somebody else prepared is not believed.
TEST_F(Users, AForgedRegistryIsIgnored) {
  std::string forged = "/tmp/shortfuse-" + std::to_string(kOther);
  if (std::filesystem::exists(forged)) GTEST_SKIP() << forged << " is in use";
  ASSERT_EQ(mkdir(forged.c_str(), 0777), 0);
  ASSERT_EQ(chmod(forged.c_str(), 0777), 0);
  ASSERT_EQ(chown(forged.c_str(), kUser, kUser), 0);
  write_file(forged + "/generation", std::string(8, '\xff'));
  write_file(forged + "/1-0.sock", "no socket");
  make_tree(temp / "source", 10);
  Agent::Options as;
  as.uid = kOther;
  Agent agent(temp, as);
  EXPECT_EQ(agent.ask_often("read " + (temp / "source/dir0/file5")), read_file(temp / "source/dir0/file5"));
  agent.finish();
  std::filesystem::remove_all(forged);
}

}  // namespace
}  // namespace shortfuse::tests
