// Every answer about a path that is served equals the kernel's answer about the same tree.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <random>

#include "attach_internal.h"
#include "creds.h"
#include "fixture.h"
#include "shortfuse/cache/layout.h"

namespace shortfuse::bypass {
namespace {

constexpr uint32_t kPlainMount = SF_MNT_DEFAULT_PERMISSIONS | SF_MNT_ALLOW_OTHER;

std::string stat_text(long result, const struct stat &st) {
  if (result != 0) return "errno " + std::to_string(-result);
  std::string text;
  for (uint64_t v : {uint64_t(st.st_dev), uint64_t(st.st_ino), uint64_t(st.st_mode), uint64_t(st.st_nlink),
                     uint64_t(st.st_uid), uint64_t(st.st_gid), uint64_t(st.st_rdev), uint64_t(st.st_size),
                     uint64_t(st.st_blksize), uint64_t(st.st_blocks), uint64_t(st.st_mtim.tv_sec),
                     uint64_t(st.st_mtim.tv_nsec), uint64_t(st.st_ctim.tv_nsec)}) {
    text += std::to_string(v) + " ";
  }
  return text;
}

using Caller = decltype(&through);

std::string do_stat(Caller call, long nr, const std::string &path) {
  struct stat st = {};
  return stat_text(call(nr, arg(path.c_str()), arg(&st), 0, 0, 0, 0), st);
}
std::string do_fstatat(Caller call, int dirfd, const std::string &path, int flags) {
  struct stat st = {};
  return stat_text(call(SYS_newfstatat, dirfd, arg(path.c_str()), arg(&st), flags, 0, 0), st);
}
std::string do_statx(Caller call, int dirfd, const std::string &path, int flags, unsigned mask) {
  struct statx sx;
  memset(&sx, 0, sizeof sx);
  long r = call(SYS_statx, dirfd, arg(path.c_str()), flags, mask, arg(&sx), 0);
  if (r != 0) return "errno " + std::to_string(-r);
  sx.stx_attributes &= ~static_cast<uint64_t>(STATX_ATTR_MOUNT_ROOT);
  sx.stx_atime = {};
  return std::string(reinterpret_cast<char *>(&sx), sizeof sx);
}
std::string do_access(Caller call, const std::string &path, int mode) {
  return std::to_string(call(SYS_access, arg(path.c_str()), mode, 0, 0, 0, 0));
}
std::string do_readlink(Caller call, const std::string &path, int room) {
  char buffer[256] = {};
  long n = call(SYS_readlink, arg(path.c_str()), arg(buffer), room, 0, 0, 0);
  return n < 0 ? "errno " + std::to_string(-n) : std::string(buffer, static_cast<size_t>(n));
}

// A tree in which every kind of turn a path can take occurs.
void plant(Tree &tree) {
  tree.dir("a");
  tree.dir("a/b");
  tree.dir("a/b/c");
  tree.dir("closed", 0700);
  tree.dir("closed/in");
  tree.dir("searchable", 0711);
  tree.dir("sticky", 01777);
  tree.file("f", "hello");
  tree.file("a/f", "in a", 0600);
  tree.file("a/b/x", "run", 0755);
  tree.file("closed/f", "secret");
  tree.file("searchable/f", "x", 0640);
  tree.link("to_f", "f");
  tree.link("to_a", "a");
  tree.link("a/up", "..");
  tree.link("a/b/far", "../../a/b/c/");
  tree.link("loop", "loop");
  tree.link("ping", "pong");
  tree.link("pong", "ping");
  tree.link("dangling", "nowhere");
  tree.link("absolute", tree.path("a/b"));
  tree.link("outside", "/etc/passwd");
  tree.link("slashed", "a/");
  tree.link("file_slashed", "f/");
  tree.link("dots", "./a/./b/../b");
  tree.link("deep", "to_a/up/to_a/b");
  tree.link("sticky/link", "../f");
}

// Known not to be, in every directory that does not have them.
const std::vector<std::string> kAbsent = {"nowhere", "absent", "zz", "a", "b", "c", "f", "x", "up", "far", "to_f", "in",
                                          "to_a", "loop", "dangling", "absolute", "slashed", "dots", "deep", "link"};

std::string random_path(std::mt19937 &rng, const Tree &tree) {
  static const char *const kNames[] = {"a", "b", "c", "f", "x", "up", "far", "to_f", "to_a", "loop", "ping", "dangling",
                                       "absolute", "outside", "slashed", "file_slashed", "dots", "deep", "closed",
                                       "in", "searchable", "sticky", "link", ".", "..", "absent", "zz", "unknown"};
  std::string path = rng() % 4 == 0 ? "" : tree.root() + "/";
  unsigned n = rng() % 5;
  for (unsigned i = 0; i <= n; ++i) {
    if (i != 0) path += rng() % 6 == 0 ? "//" : "/";
    path += kNames[rng() % (sizeof kNames / sizeof *kNames)];
  }
  if (rng() % 5 == 0) path += "/";
  return path;
}

// The kernel's answer before and after: a path may lead out of the tree, to what others change.
template <typename Ask>
void expect_same(const Ask &ask) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    const std::string before = ask(by_kernel), got = ask(through);
    if (got == before) return;
    if (ask(by_kernel) != before) continue;
    ASSERT_EQ(got, before);
  }
  FAIL() << "it never stays the same";
}

void compare(std::mt19937 &rng, const Tree &tree, int dirfd, int rounds) {
  for (int i = 0; i < rounds && !testing::Test::HasFatalFailure(); ++i) {
    std::string path = random_path(rng, tree);
    SCOPED_TRACE(path);
    switch (rng() % 6) {
      case 0: expect_same([&](Caller call) { return do_stat(call, SYS_stat, path); }); break;
      case 1: expect_same([&](Caller call) { return do_stat(call, SYS_lstat, path); }); break;
      case 2: {
        int flags = rng() % 2 ? AT_SYMLINK_NOFOLLOW : 0;
        expect_same([&](Caller call) { return do_fstatat(call, dirfd, path, flags); });
        break;
      }
      case 3: {
        int mode = static_cast<int>(rng() % 8);
        expect_same([&](Caller call) { return do_access(call, path, mode); });
        break;
      }
      case 4: expect_same([&](Caller call) { return do_readlink(call, path, 200); }); break;
      case 5: {
        // Some file systems leave out times that were not asked for; FUSE does not.
        unsigned mask = STATX_TYPE | STATX_MODE | STATX_SIZE | STATX_INO | STATX_MTIME | STATX_CTIME;
        expect_same([&](Caller call) { return do_statx(call, dirfd, path, 0, mask); });
        break;
      }
    }
  }
}

// Runs in a child, so that ids, groups and the working directory can be changed. 0: all was as expected.
int in_child(const std::function<void()> &body) {
  pid_t pid = fork();
  if (pid == 0) {
    body();
    _exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  return status;
}

TEST(Path, RandomPathsAsRoot) {
  Tree tree(kPlainMount);
  plant(tree);
  int dirfd = open(tree.path("a/b").c_str(), O_RDONLY | O_DIRECTORY);
  tree.attach(kAbsent);
  ASSERT_EQ(chdir(tree.path("a").c_str()), 0);
  int fd = static_cast<int>(through(SYS_open, arg(tree.path("a/b").c_str()), O_RDONLY | O_DIRECTORY));
  std::mt19937 rng(1);
  auto before = Tree::all_counts();
  compare(rng, tree, fd, 40000);
  auto after = Tree::all_counts();
  EXPECT_GT(after.served - before.served, 20000u);
  EXPECT_EQ(chdir("/"), 0);
  through(SYS_close, fd);
  close(dirfd);
}

struct Who {
  uid_t uid;
  gid_t gid;
  std::vector<gid_t> groups;
};

TEST(Path, RandomPathsAsOthers) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  Tree tree(kPlainMount);
  plant(tree);
  tree.give("a", 1001, 2001);
  chmod(tree.path("a").c_str(), 0750);
  tree.give("a/b", 1002, 2002);
  chmod(tree.path("a/b").c_str(), 0070);
  tree.give("closed", 1001, 2001);
  tree.give("searchable/f", 1002, 2001);
  tree.attach(kAbsent);
  const Who people[] = {
      {1001, 2001, {}}, {1002, 2002, {2001}}, {1003, 2003, {2002, 2001}}, {1003, 2002, {}}, {1004, 2004, {}}};
  for (const Who &who : people) {
    int status = in_child([&] {
      ASSERT_EQ(syscall(SYS_setgroups, who.groups.size(), who.groups.data()), 0);
      ASSERT_EQ(syscall(SYS_setresgid, who.gid, who.gid, who.gid), 0);
      ASSERT_EQ(syscall(SYS_setresuid, who.uid, who.uid, who.uid), 0);
      ASSERT_EQ(chdir(tree.root().c_str()), 0);
      std::mt19937 rng(who.uid * 31 + who.gid);
      auto before = Tree::all_counts();
      compare(rng, tree, AT_FDCWD, 20000);
      ASSERT_GT(Tree::all_counts().served - before.served, 5000u);
    });
    EXPECT_EQ(status, 0) << who.uid;
  }
}

TEST(Path, CapabilitiesDecideAsInTheKernel) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  Tree tree(kPlainMount);
  plant(tree);
  tree.give("closed", 1001, 2001);
  tree.attach(kAbsent);
  // Effective uid of somebody else, root's saved id: no capabilities are effective, access() asks for the real ids.
  int status = in_child([&] {
    ASSERT_EQ(syscall(SYS_setresuid, 0, 1005, 0), 0);
    std::mt19937 rng(7);
    compare(rng, tree, AT_FDCWD, 10000);
  });
  EXPECT_EQ(status, 0);
}

// All modes, owners and callers, asked for all accesses.
// setfsuid() is what a filter that the program was started under is likely to forbid: unless the program uses it
// itself, it is not needed. Once it is, nothing is served that it would have to answer for.
TEST(Path, AFilterMayForbidToAskForTheIds) {
  Tree tree(kPlainMount);
  tree.file("f", "x");
  tree.attach();
  pid_t pid = fork();
  if (pid == 0) {
    sock_filter code[] = {{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
                          {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_setfsuid},
                          {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
                          {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
    sock_fprog program = {4, code};
    by_kernel(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1);
    if (by_kernel(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, arg(&program)) != 0) _exit(2);
    struct stat st;
    auto stat_it = [&] { return through(SYS_stat, arg(tree.path("f").c_str()), arg(&st)); };
    bool good = stat_it() == 0 && Tree::counts(SF_OP_STAT).served == 1;
    good = good && through(SYS_setfsuid, 1001) == -EPERM;
    good = good && stat_it() == 0 && Tree::counts(SF_OP_STAT).served == 1;
    _exit(good && Tree::missed_for(SF_OP_STAT, SF_MISS_PERMISSION) == 1 ? 0 : 1);
  }
  int status;
  waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(Path, PermissionMatrix) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  Tree tree(kPlainMount);
  for (unsigned mode = 0; mode < 0777; mode += 7) {
    std::string f = "f" + std::to_string(mode), d = "d" + std::to_string(mode);
    tree.file(f, "x", mode);
    tree.give(f, 1001, 2001);
    tree.dir(d, 0755);
    tree.file(d + "/x", "x");
    tree.give(d, 1001, 2001);
    chmod(tree.path(d).c_str(), mode);
  }
  tree.attach();
  const Who people[] = {{0, 0, {}}, {1001, 2009, {}}, {1002, 2001, {}}, {1003, 2003, {2001}}, {1004, 2004, {2005}}};
  for (const Who &who : people) {
    int status = in_child([&] {
      ASSERT_EQ(syscall(SYS_setgroups, who.groups.size(), who.groups.data()), 0);
      ASSERT_EQ(syscall(SYS_setresgid, who.gid, who.gid, who.gid), 0);
      ASSERT_EQ(syscall(SYS_setresuid, who.uid, who.uid, who.uid), 0);
      for (unsigned mode = 0; mode < 0777; mode += 7) {
        for (std::string name :
             {"f" + std::to_string(mode), "d" + std::to_string(mode), "d" + std::to_string(mode) + "/x"}) {
          for (int want = 0; want < 8; ++want) {
            std::string path = tree.path(name);
            ASSERT_EQ(do_access(through, path, want), do_access(by_kernel, path, want)) << name << " " << want;
          }
          ASSERT_EQ(do_stat(through, SYS_stat, tree.path(name)), do_stat(by_kernel, SYS_stat, tree.path(name))) << name;
        }
      }
      ASSERT_EQ(Tree::counts(SF_OP_ACCESS).missed, 0u);
      ASSERT_GT(Tree::counts(SF_OP_ACCESS).served, 0u);
    });
    EXPECT_EQ(status, 0) << who.uid;
  }
}

bool put_text(const char *path, const char *text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  const bool good = fd >= 0 && write(fd, text, strlen(text)) == static_cast<ssize_t>(strlen(text));
  close(fd);
  return good;
}

// In a user namespace files of those who are nobody in it are shown as somebody else's, and no capability helps with
// them. The cache has the numbers as the file system gave them.
TEST(Path, InAUserNamespaceSomeOwnersAreNobody) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  Tree tree(kPlainMount);
  const std::pair<const char *, std::pair<uid_t, gid_t>> owners[] = {{"ours", {0, 0}},       {"user", {5000, 0}},
                                                                     {"group", {0, 5000}},   {"both", {5000, 5000}},
                                                                     {"second", {10, 4999}}, {"behind", {20, 0}}};
  for (const auto &[name, owner] : owners) {
    tree.dir(name, 0700);
    tree.file(std::string(name) + "/f", "x", 0640);
    tree.give(std::string(name) + "/f", owner.first, owner.second);
    tree.give(name, owner.first, owner.second);
  }
  tree.attach({"absent"});
  int status = in_child([&] {
    const pid_t outside = getpid();
    pid_t writer = 0;
    int go[2];
    ASSERT_EQ(pipe2(go, O_CLOEXEC), 0);
    if ((writer = fork()) == 0) {
      // Several ranges need somebody outside.
      char byte;
      const std::string proc = "/proc/" + std::to_string(outside);
      const bool good = read(go[0], &byte, 1) == 1 && put_text((proc + "/uid_map").c_str(), "0 0 1\n10 10 10\n") &&
                        put_text((proc + "/gid_map").c_str(), "0 0 1\n4990 4990 10\n");
      _exit(good ? 0 : 1);
    }
    ASSERT_EQ(syscall(SYS_unshare, CLONE_NEWUSER), 0);
    ASSERT_EQ(write(go[1], "", 1), 1);
    int written;
    ASSERT_EQ(waitpid(writer, &written, 0), writer);
    ASSERT_EQ(written, 0);
    creds_changed();
    ASSERT_TRUE(same_user_namespace(static_cast<uint32_t>(getpid())));
    ASSERT_FALSE(g.initial_user_ns);
    for (const auto &[name, owner] : owners) {
      for (const std::string &path : {tree.path(name), tree.path(name) + "/f", tree.path(name) + "/absent"}) {
        ASSERT_EQ(do_stat(through, SYS_stat, path), do_stat(by_kernel, SYS_stat, path)) << path;
        for (int want : {F_OK, R_OK, X_OK})
          ASSERT_EQ(do_access(through, path, want), do_access(by_kernel, path, want)) << path << " " << want;
      }
    }
    ASSERT_EQ(Tree::counts(SF_OP_STAT).served, 6u) << "ours and second";
    ASSERT_GT(Tree::counts(SF_OP_ACCESS).served, 0u);
  });
  EXPECT_EQ(status, 0);
}

TEST(Path, AclsAreLeftToTheKernel) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  Tree tree(kPlainMount | SF_MNT_POSIX_ACL);
  tree.dir("d", 0750);
  tree.file("d/f", "x");
  tree.attach();
  int status = in_child([&] {
    ASSERT_EQ(syscall(SYS_setresuid, 1001, 1001, 1001), 0);
    ASSERT_EQ(do_stat(through, SYS_stat, tree.path("d/f")), do_stat(by_kernel, SYS_stat, tree.path("d/f")));
    ASSERT_EQ(Tree::missed_for(SF_OP_STAT, SF_MISS_PERMISSION), 1u);
  });
  EXPECT_EQ(status, 0);
}

TEST(Path, OnlyTheOwnerMayEnterWithoutAllowOther) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  Tree tree(SF_MNT_DEFAULT_PERMISSIONS);
  tree.file("f", "x");
  tree.attach();
  int status = in_child([&] {
    do_stat(through, SYS_stat, tree.path("f"));
    ASSERT_EQ(Tree::counts(SF_OP_STAT).served, 1u);
    ASSERT_EQ(through(SYS_setresuid, 0, 1001, 0), 0);
    do_stat(through, SYS_stat, tree.path("f"));
    ASSERT_EQ(Tree::counts(SF_OP_STAT).served, 1u);
  });
  EXPECT_EQ(status, 0);
}

TEST(Path, ReasonsOfMisses) {
  Tree tree(kPlainMount);
  plant(tree);
  tree.attach(kAbsent);
  struct {
    const char *path;
    sf_miss why;
  } cases[] = {{"unknown", SF_MISS_DENTRY}, {"outside", SF_MISS_LEFT_MOUNT}, {"..", SF_MISS_LEFT_MOUNT},
               {"sticky/link", SF_MISS_PERMISSION}};
  for (auto &c : cases) {
    uint64_t before = Tree::missed_for(SF_OP_STAT, c.why);
    do_stat(through, SYS_stat, tree.path(c.path));
    EXPECT_EQ(Tree::missed_for(SF_OP_STAT, c.why), before + 1) << c.path;
  }
  tree.cache().drop_node(tree.nid("f"));
  uint64_t before = Tree::missed_for(SF_OP_STAT, SF_MISS_ATTR);
  EXPECT_EQ(do_stat(through, SYS_stat, tree.path("f")), do_stat(by_kernel, SYS_stat, tree.path("f")));
  EXPECT_EQ(Tree::missed_for(SF_OP_STAT, SF_MISS_ATTR), before + 1);
}

TEST(Path, LongPathsAndNames) {
  Tree tree(kPlainMount);
  tree.dir("d");
  std::string longest(255, 'n');
  tree.file("d/" + longest, "x");
  tree.attach({"absent"});
  std::string dots = tree.root();
  while (dots.size() + 2 < 4090) dots += "/.";
  for (size_t extra = 0; extra < 12; ++extra) {
    std::string path = dots + "/" + std::string(extra, '/') + "d";
    EXPECT_EQ(do_stat(through, SYS_stat, path), do_stat(by_kernel, SYS_stat, path)) << path.size();
    path = tree.path("absent/") + std::string(4000 + extra, 'x') + std::string(90, '/');
    EXPECT_EQ(do_stat(through, SYS_stat, path), do_stat(by_kernel, SYS_stat, path)) << path.size();
  }
  for (const std::string &name : {longest, longest + "n"}) {
    std::string path = tree.path("d/" + name);
    EXPECT_EQ(do_stat(through, SYS_stat, path), do_stat(by_kernel, SYS_stat, path));
  }
}

TEST(Path, LinksInARow) {
  Tree tree(kPlainMount);
  tree.file("l0", "x");
  for (int i = 1; i <= 45; ++i) tree.link("l" + std::to_string(i), "l" + std::to_string(i - 1));
  tree.dir("d");
  for (int i = 0; i < 12; ++i) tree.link("d/n" + std::to_string(i), i == 0 ? "." : "n" + std::to_string(i - 1) + "/.");
  tree.attach();
  for (int i = 36; i <= 45; ++i) {
    std::string path = tree.path("l" + std::to_string(i));
    EXPECT_EQ(do_stat(through, SYS_stat, path), do_stat(by_kernel, SYS_stat, path)) << i;
  }
  for (int i = 0; i < 12; ++i) {
    std::string path = tree.path("d/n" + std::to_string(i) + "/n" + std::to_string(i));
    EXPECT_EQ(do_stat(through, SYS_stat, path), do_stat(by_kernel, SYS_stat, path)) << i;
  }
}

TEST(Path, EmptyAndNull) {
  Tree tree(kPlainMount);
  tree.dir("d");
  tree.link("l", "d");
  tree.attach();
  int fd = static_cast<int>(through(SYS_open, arg(tree.path("l").c_str()), O_PATH | O_NOFOLLOW));
  int dir = static_cast<int>(through(SYS_open, arg(tree.path("d").c_str()), O_RDONLY));
  struct stat st;
  for (int f : {fd, dir, 9999, AT_FDCWD}) {
    for (int flags : {0, AT_EMPTY_PATH, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, 0x80000}) {
      EXPECT_EQ(do_fstatat(through, f, "", flags), do_fstatat(by_kernel, f, "", flags)) << f << " " << flags;
      EXPECT_EQ(through(SYS_newfstatat, f, 0, arg(&st), flags), by_kernel(SYS_newfstatat, f, 0, arg(&st), flags));
    }
  }
  EXPECT_EQ(do_fstatat(through, fd, "x", 0), do_fstatat(by_kernel, fd, "x", 0));
  through(SYS_close, fd);
  through(SYS_close, dir);
}

TEST(Path, StatxMasksAndFlags) {
  Tree tree(kPlainMount);
  tree.file("f", "x");
  tree.attach();
  for (unsigned mask :
       {0u, unsigned(STATX_BASIC_STATS), unsigned(STATX_SIZE | STATX_CTIME), unsigned(STATX_MNT_ID), 0x80000000u}) {
    for (int flags :
         {0, AT_STATX_DONT_SYNC, AT_STATX_FORCE_SYNC, AT_STATX_DONT_SYNC | AT_STATX_FORCE_SYNC, AT_NO_AUTOMOUNT, 1}) {
      EXPECT_EQ(do_statx(through, AT_FDCWD, tree.path("f"), flags, mask),
                do_statx(by_kernel, AT_FDCWD, tree.path("f"), flags, mask))
          << mask << " " << flags;
    }
  }
}

TEST(Path, Statfs) {
  Tree tree(kPlainMount);
  tree.file("f", "x");
  tree.attach({"absent"});
  struct statfs a, b;
  memset(&a, 0, sizeof a);
  memset(&b, 0, sizeof b);
  EXPECT_EQ(through(SYS_statfs, arg(tree.path("f").c_str()), arg(&a)), 0);
  EXPECT_EQ(by_kernel(SYS_statfs, arg(tree.path("f").c_str()), arg(&b)), 0);
  b.f_bfree = a.f_bfree;
  b.f_bavail = a.f_bavail;
  b.f_ffree = a.f_ffree;
  EXPECT_EQ(memcmp(&a, &b, sizeof a), 0);
  EXPECT_EQ(through(SYS_statfs, arg(tree.path("absent").c_str()), arg(&a)), -ENOENT);
}

TEST(Path, PolicyDecides) {
  Tree tree(kPlainMount);
  tree.file("f", "x");
  tree.attach();
  struct stat st;
  long path = arg(strdup(tree.path("f").c_str()));
  tree.policy({SF_OP_STAT}, -EACCES);
  EXPECT_EQ(through(SYS_stat, path, arg(&st)), -EACCES);
  tree.policy({SF_OP_READ});
  uint64_t before = Tree::missed_for(SF_OP_STAT, SF_MISS_NO_POLICY);
  EXPECT_EQ(through(SYS_stat, path, arg(&st)), 0);
  EXPECT_EQ(Tree::missed_for(SF_OP_STAT, SF_MISS_NO_POLICY), before + 1);
  free(reinterpret_cast<void *>(path));
}

// A path that ends where readable memory ends.
TEST(Path, AtTheEndOfAPage) {
  Tree tree(kPlainMount);
  tree.file("f", "x");
  tree.attach();
  char *pages = static_cast<char *>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_EQ(mprotect(pages + 4096, 4096, PROT_NONE), 0);
  for (const std::string &path : {tree.path("f"), std::string("/"), std::string("/x"), std::string("f"), tree.root()}) {
    char *at = pages + 4096 - path.size() - 1;
    memcpy(at, path.c_str(), path.size() + 1);
    struct stat a, b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    EXPECT_EQ(stat_text(through(SYS_stat, arg(at), arg(&a)), a), stat_text(by_kernel(SYS_stat, arg(at), arg(&b)), b))
        << path;
  }
  munmap(pages, 8192);
}

}  // namespace
}  // namespace shortfuse::bypass
