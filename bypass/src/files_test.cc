// Descriptors: offsets, reads, listings and xattrs through the bypass against the same descriptors of the kernel.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <random>
#include <set>
#include <thread>

#include "files.h"
#include "fixture.h"
#include "shortfuse/cache/layout.h"

namespace shortfuse::bypass {
namespace {

constexpr uint32_t kPlainMount = SF_MNT_DEFAULT_PERMISSIONS | SF_MNT_ALLOW_OTHER;

std::string random_bytes(size_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::string s(n, 0);
  for (char &c : s) c = static_cast<char>(rng());
  return s;
}

int open_ours(const Tree &tree, const std::string &name, int flags = O_RDONLY) {
  return static_cast<int>(through(SYS_open, arg(tree.path(name).c_str()), flags, 0644));
}
int open_plain(const Tree &tree, const std::string &name, int flags = O_RDONLY) {
  return static_cast<int>(by_kernel(SYS_open, arg(tree.path(name).c_str()), flags, 0644));
}
bool owned(int fd) {
  File file = file_of(fd);
  return file && position_of(file) >= 0;
}

// Reads and seeks in random order; the second descriptor is the kernel's.
TEST(Files, ReadsAndSeeksLikeThePlainFile) {
  Tree tree(kPlainMount);
  tree.file("f", random_bytes(50000, 1));
  tree.attach();
  int ours = open_ours(tree, "f"), plain = open_plain(tree, "f");
  ASSERT_TRUE(owned(ours));
  std::mt19937 rng(2);
  std::string a(70000, 0), b(70000, 0);
  for (int i = 0; i < 20000; ++i) {
    long ra = 0, rb = 0;
    a.assign(a.size(), 'z');
    b.assign(b.size(), 'z');
    size_t n = rng() % (rng() % 8 == 0 ? 60000 : 6000) + 1;
    long offset = static_cast<long>(rng() % 60000) - 1000;
    struct iovec va[3] = {{a.data(), n / 3}, {a.data() + n / 3, 0}, {a.data() + n / 3, n - n / 3}};
    struct iovec vb[3] = {{b.data(), n / 3}, {b.data() + n / 3, 0}, {b.data() + n / 3, n - n / 3}};
    switch (rng() % 8) {
      case 0:
      case 1:
        ra = through(SYS_read, ours, arg(a.data()), long(n)), rb = by_kernel(SYS_read, plain, arg(b.data()), long(n));
        break;
      case 2:
        ra = through(SYS_pread64, ours, arg(a.data()), long(n), offset),
        rb = by_kernel(SYS_pread64, plain, arg(b.data()), long(n), offset);
        break;
      case 3: ra = through(SYS_readv, ours, arg(va), 3), rb = by_kernel(SYS_readv, plain, arg(vb), 3); break;
      case 4:
        ra = through(SYS_preadv, ours, arg(va), 3, offset), rb = by_kernel(SYS_preadv, plain, arg(vb), 3, offset);
        break;
      case 5: {
        long at = rng() % 3 ? offset : -1;
        ra = through(SYS_preadv2, ours, arg(va), 3, at, 0, 0), rb = by_kernel(SYS_preadv2, plain, arg(vb), 3, at, 0, 0);
        break;
      }
      case 6: {
        int whence = static_cast<int>(rng() % 6);
        ra = through(SYS_lseek, ours, offset, whence), rb = by_kernel(SYS_lseek, plain, offset, whence);
        break;
      }
      case 7: ra = through(SYS_lseek, ours, 0, SEEK_CUR), rb = by_kernel(SYS_lseek, plain, 0, SEEK_CUR); break;
    }
    ASSERT_EQ(ra, rb) << i;
    ASSERT_EQ(a, b) << i;
    if (!owned(ours)) {
      through(SYS_close, ours);
      ours = open_ours(tree, "f");
      by_kernel(SYS_lseek, plain, 0, SEEK_SET);
    }
  }
  EXPECT_GT(Tree::counts(SF_OP_READ).served, 5000u);
  through(SYS_close, ours);
  close(plain);
}

// Pages that are missing: the kernel's data at our offset.
TEST(Files, MissesReadAtOurOffset) {
  Tree tree(kPlainMount);
  std::string bytes = random_bytes(20000, 3);
  tree.file("f", bytes);
  tree.attach();
  int fd = open_ours(tree, "f");
  std::string got(bytes.size(), 0);
  ASSERT_EQ(through(SYS_read, fd, arg(got.data()), 5000), 5000);
  tree.cache().drop_node(tree.nid("f"));
  uint64_t missed = Tree::counts(SF_OP_READ).missed;
  ASSERT_EQ(through(SYS_read, fd, arg(got.data() + 5000), 5000), 5000);
  EXPECT_EQ(Tree::counts(SF_OP_READ).missed, missed + 1);
  ASSERT_TRUE(owned(fd));
  ASSERT_EQ(through(SYS_lseek, fd, 0, SEEK_CUR), 10000);
  // A duplicate that is only there changes nothing; one that is read from makes the offset the kernel's, where we were.
  int copy = static_cast<int>(through(SYS_dup, fd));
  EXPECT_TRUE(owned(fd));
  ASSERT_EQ(through(SYS_read, copy, arg(got.data() + 10000), 4000), 4000);
  EXPECT_FALSE(owned(fd));
  ASSERT_EQ(through(SYS_read, fd, arg(got.data() + 14000), 6000), 6000);
  EXPECT_EQ(got, bytes);
  through(SYS_close, fd);
  through(SYS_close, copy);
}

void use_and_close(int copy) {
  through(SYS_lseek, copy, 0, SEEK_CUR);
  through(SYS_close, copy);
}

// The one that holds the offset is closed first: its duplicate goes on where it stood.
TEST(Files, ADuplicateOutlivesItsOrigin) {
  Tree tree(kPlainMount);
  std::string bytes = random_bytes(1000, 8);
  tree.file("f", bytes);
  tree.attach();
  char buffer[100];
  for (int way = 0; way < 3; ++way) {
    int fd = open_ours(tree, "f");
    int copy = static_cast<int>(through(SYS_dup, fd)), second = static_cast<int>(through(SYS_dup, copy));
    ASSERT_EQ(through(SYS_read, fd, arg(buffer), 60), 60);
    if (way == 0) through(SYS_close, fd);
    if (way == 1) through(SYS_close_range, fd, fd, 0);
    if (way == 2) through(SYS_dup2, 0, fd);
    ASSERT_EQ(through(SYS_read, second, arg(buffer), 40), 40);
    EXPECT_EQ(std::string(buffer, 40), bytes.substr(60, 40));
    EXPECT_EQ(through(SYS_lseek, copy, 0, SEEK_CUR), 100);
    through(SYS_close, copy);
    through(SYS_close, second);
    through(SYS_close, fd);
  }
}

TEST(Files, WhoSharesTheOffset) {
  Tree tree(kPlainMount);
  tree.file("f", random_bytes(10000, 4));
  tree.attach();
  char buffer[100];
  // fork
  int fd = open_ours(tree, "f");
  through(SYS_read, fd, arg(buffer), 100);
  EXPECT_EQ(by_kernel(SYS_lseek, fd, 0, SEEK_CUR), 0);
  sf_bypass_before_fork(SIGCHLD, 0);
  EXPECT_EQ(by_kernel(SYS_lseek, fd, 0, SEEK_CUR), 100);
  EXPECT_FALSE(owned(fd));
  through(SYS_close, fd);
  // a thread shares everything: nothing to give
  fd = open_ours(tree, "f");
  sf_bypass_before_fork(CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD, 0);
  EXPECT_TRUE(owned(fd));
  // sendmsg
  through(SYS_read, fd, arg(buffer), 50);
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  char control[CMSG_SPACE(sizeof(int))] = {};
  struct iovec iov = {buffer, 1};
  struct msghdr m = {};
  m.msg_iov = &iov;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof control;
  struct cmsghdr *c = CMSG_FIRSTHDR(&m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), &fd, sizeof fd);
  EXPECT_EQ(through(SYS_sendmsg, pair[0], arg(&m), 0), 1);
  EXPECT_FALSE(owned(fd));
  EXPECT_EQ(by_kernel(SYS_lseek, fd, 0, SEEK_CUR), 50);
  close(pair[0]);
  close(pair[1]);
  through(SYS_close, fd);
  // F_DUPFD, a look into fdinfo, exec
  struct {
    const char *what;
    void (*act)(int fd);
  } others[] = {
      {"F_DUPFD", [](int f) { use_and_close(static_cast<int>(through(SYS_fcntl, f, F_DUPFD, 100))); }},
      {"dup2", [](int f) { use_and_close(static_cast<int>(through(SYS_dup2, f, 101))); }},
      {"fdinfo", [](int) { close(static_cast<int>(through(SYS_open, arg("/proc/self/fdinfo/0"), O_RDONLY))); }},
      {"exec", [](int) { sf_bypass_before_fork(0, 1); }},
      {"SEEK_DATA", [](int f) { through(SYS_lseek, f, 0, 77); }},
  };
  for (auto &other : others) {
    fd = open_ours(tree, "f");
    through(SYS_read, fd, arg(buffer), 70);
    ASSERT_TRUE(owned(fd)) << other.what;
    other.act(fd);
    EXPECT_FALSE(owned(fd)) << other.what;
    EXPECT_EQ(by_kernel(SYS_lseek, fd, 0, SEEK_CUR), 70) << other.what;
    through(SYS_close, fd);
  }
}

TEST(Files, TransfersAtTheFilesOffsetMoveOurs) {
  Tree tree(kPlainMount);
  std::string contents;
  for (int i = 0; i < 400; ++i) contents += static_cast<char>('a' + i % 23);
  tree.file("f", contents);
  tree.attach();
  char buffer[400];
  int fd = open_ours(tree, "f"), sink = open("/tmp", O_TMPFILE | O_RDWR, 0600), pipes[2];
  ASSERT_GE(sink, 0);
  ASSERT_EQ(pipe(pipes), 0);
  ASSERT_EQ(through(SYS_read, fd, arg(buffer), 70), 70);
  EXPECT_EQ(through(SYS_sendfile, sink, fd, 0, 30), 30);
  ASSERT_TRUE(owned(fd));
  EXPECT_EQ(through(SYS_splice, fd, 0, pipes[1], 0, 20, 0), 20);
  ASSERT_TRUE(owned(fd));
  // What is refused leaves the offset where it is; a program reads then.
  EXPECT_LT(through(SYS_copy_file_range, fd, 0, pipes[1], 0, 10, 0), 0);
  EXPECT_LT(through(SYS_sendfile, 9999, fd, 0, 1), 0);
  ASSERT_TRUE(owned(fd));
  EXPECT_EQ(through(SYS_lseek, fd, 0, SEEK_CUR), 120);
  EXPECT_EQ(pread(sink, buffer, 30, 0), 30);
  EXPECT_EQ(std::string(buffer, 30), contents.substr(70, 30));
  EXPECT_EQ(read(pipes[0], buffer, 20), 20);
  EXPECT_EQ(std::string(buffer, 20), contents.substr(100, 20));
  EXPECT_EQ(through(SYS_read, fd, arg(buffer), 400), 280);
  EXPECT_EQ(std::string(buffer, 280), contents.substr(120));
  // With an offset of the caller's nothing of ours is used.
  off_t at = 5;
  EXPECT_EQ(through(SYS_sendfile, sink, fd, arg(&at), 3), 3);
  EXPECT_EQ(at, 8);
  EXPECT_TRUE(owned(fd));
  for (int one : {sink, pipes[0], pipes[1]}) close(one);
  through(SYS_close, fd);
}

TEST(Files, ANumberThatChangesItsMeaning) {
  Tree tree(kPlainMount);
  tree.file("f", "ffff");
  tree.file("g", "gggg");
  tree.attach();
  int f = open_ours(tree, "f"), g2 = open_ours(tree, "g");
  char buffer[8] = {};
  EXPECT_EQ(through(SYS_dup2, g2, f), f);
  EXPECT_EQ(through(SYS_pread64, f, arg(buffer), 4, 0), 4);
  EXPECT_STREQ(buffer, "gggg");
  // Something that is none of ours takes the number.
  int other = open("/dev/zero", O_RDONLY);
  EXPECT_EQ(through(SYS_dup3, other, f, 0), f);
  EXPECT_EQ(through(SYS_read, f, arg(buffer), 4), 4);
  EXPECT_EQ(buffer[0], 0);
  EXPECT_FALSE(file_of(f));
  // dup2 that fails leaves everything as it was.
  EXPECT_EQ(through(SYS_read, g2, arg(buffer), 2), 2);
  EXPECT_EQ(through(SYS_dup2, 9999, g2), -EBADF);
  EXPECT_EQ(through(SYS_read, g2, arg(buffer), 4), 2);
  through(SYS_close, f);
  EXPECT_EQ(through(SYS_read, f, arg(buffer), 4), -EBADF);
  through(SYS_close, g2);
  close(other);
  // close_range
  f = open_ours(tree, "f");
  EXPECT_EQ(through(SYS_close_range, f, f, 0), 0);
  EXPECT_FALSE(file_of(f));
}

TEST(Files, WritersAndOddDescriptors) {
  Tree tree(kPlainMount);
  tree.file("f", "ffff");
  tree.dir("d");
  tree.attach();
  char buffer[8] = {};
  int rw = open_ours(tree, "f", O_RDWR), wo = open_ours(tree, "f", O_WRONLY), path = open_ours(tree, "f", O_PATH);
  int direct = open_ours(tree, "f", O_RDONLY | O_DIRECT), dir = open_ours(tree, "d");
  EXPECT_FALSE(owned(rw));
  EXPECT_EQ(through(SYS_read, wo, arg(buffer), 1), -EBADF);
  EXPECT_EQ(through(SYS_pread64, wo, arg(buffer), 1, 0), -EBADF);
  EXPECT_EQ(through(SYS_read, path, arg(buffer), 1), -EBADF);
  EXPECT_EQ(through(SYS_fgetxattr, path, arg("user.x"), arg(buffer), 1), -EBADF);
  EXPECT_EQ(through(SYS_read, dir, arg(buffer), 1), -EISDIR);
  EXPECT_EQ(through(SYS_pread64, rw, arg(buffer), 4, 0), 4);
  EXPECT_EQ(through(SYS_pread64, direct, arg(buffer), 4, 0), by_kernel(SYS_pread64, direct, arg(buffer), 4, 0));
  uint64_t before = Tree::missed_for(SF_OP_READ, SF_MISS_WRITER);
  tree.cache().opened_for_write(tree.nid("f"));
  struct stat st;
  ASSERT_EQ(lstat(tree.path("f").c_str(), &st), 0);
  fuse_attr attr = {};
  attr.ino = st.st_ino;
  attr.mode = st.st_mode;
  attr.size = 4;
  tree.cache().fill_attr(tree.cache().moment(), tree.nid("f"), attr, cache::kNever);
  EXPECT_EQ(through(SYS_pread64, rw, arg(buffer), 4, 0), 4);
  EXPECT_EQ(Tree::missed_for(SF_OP_READ, SF_MISS_WRITER), before + 1);
  for (int fd : {rw, wo, path, direct, dir}) {
    if (fd >= 0) through(SYS_close, fd);
  }
}

// The kernel leaves what lies behind a name as it was.
void clear_padding(char *entries, long bytes) {
  for (long at = 0; at < bytes;) {
    auto *entry = reinterpret_cast<struct dirent64 *>(entries + at);
    char *end = entry->d_name + strlen(entry->d_name);
    memset(end, 0, static_cast<size_t>(entries + at + entry->d_reclen - end));
    at += entry->d_reclen;
  }
}

// Everything a listing says, in calls of `room` bytes.
std::string list(decltype(&through) call, int fd, size_t room, int *calls = nullptr) {
  std::string all, buffer(room, 0);
  for (;;) {
    long n = call(SYS_getdents64, fd, arg(buffer.data()), static_cast<long>(room), 0, 0, 0);
    if (calls != nullptr) ++*calls;
    if (n < 0) return "errno " + std::to_string(-n);
    if (n == 0) return all;
    clear_padding(buffer.data(), n);
    all.append(buffer.data(), static_cast<size_t>(n));
  }
}

TEST(Files, ListingsLikeTheKernel) {
  Tree tree(kPlainMount);
  tree.dir("few");
  tree.dir("many");
  for (int i = 0; i < 5; ++i) tree.file("few/n" + std::to_string(i), "");
  for (int i = 0; i < 3000; ++i) tree.file("many/" + std::string(1 + i % 60, 'n') + std::to_string(i), "");
  tree.attach();
  for (const char *name : {"few", "many"}) {
    for (size_t room : {20ul, 64ul, 300ul, 4096ul, 32768ul, 1ul << 20}) {
      int ours = open_ours(tree, name, O_RDONLY | O_DIRECTORY), plain = open_plain(tree, name, O_RDONLY | O_DIRECTORY);
      std::string expected = list(by_kernel, plain, room);
      EXPECT_TRUE(list(through, ours, room) == expected) << name << room;
      if (expected != "errno 22") {  // where the position is then depends on the file system
        EXPECT_EQ(through(SYS_lseek, ours, 0, SEEK_CUR), by_kernel(SYS_lseek, plain, 0, SEEK_CUR)) << name << room;
      }
      EXPECT_EQ(through(SYS_lseek, ours, 0, SEEK_SET), 0);
      by_kernel(SYS_lseek, plain, 0, SEEK_SET);
      EXPECT_TRUE(list(through, ours, 32768) == list(by_kernel, plain, 32768)) << "again";
      through(SYS_close, ours);
      close(plain);
    }
  }
  EXPECT_EQ(Tree::counts(SF_OP_READDIR).missed, 0u);
}

TEST(Files, SeekingInListings) {
  Tree tree(kPlainMount);
  tree.dir("d");
  for (int i = 0; i < 400; ++i) tree.file("d/name" + std::to_string(i), "");
  tree.attach();
  std::mt19937 rng(5);
  for (int round = 0; round < 50; ++round) {
    int ours = open_ours(tree, "d", O_RDONLY | O_DIRECTORY), plain = open_plain(tree, "d", O_RDONLY | O_DIRECTORY);
    std::vector<long> cookies = {0};
    for (int step = 0; step < 20; ++step) {
      if (rng() % 3 == 0) {
        long cookie = cookies[rng() % cookies.size()];
        ASSERT_EQ(through(SYS_lseek, ours, cookie, SEEK_SET), by_kernel(SYS_lseek, plain, cookie, SEEK_SET));
        continue;
      }
      char a[700] = {}, b[700] = {};
      long room = static_cast<long>(rng() % 600) + 40;
      long na = through(SYS_getdents64, ours, arg(a), room), nb = by_kernel(SYS_getdents64, plain, arg(b), room);
      ASSERT_EQ(na, nb);
      if (na < 0) {  // where the position is then depends on the file system
        by_kernel(SYS_lseek, plain, 0, SEEK_SET);
        through(SYS_lseek, ours, 0, SEEK_SET);
        continue;
      }
      clear_padding(a, na);
      clear_padding(b, nb);
      ASSERT_EQ(memcmp(a, b, static_cast<size_t>(na)), 0);
      for (long at = 0; at < na;) {
        auto *entry = reinterpret_cast<struct dirent64 *>(a + at);
        cookies.push_back(entry->d_off);
        at += entry->d_reclen;
      }
      ASSERT_EQ(through(SYS_lseek, ours, 0, SEEK_CUR), by_kernel(SYS_lseek, plain, 0, SEEK_CUR));
      // Half-way the stream becomes the kernel's, at the same place.
      if (rng() % 30 == 0) close(static_cast<int>(through(SYS_dup, ours)));
    }
    through(SYS_close, ours);
    close(plain);
  }
}

// A listing under way is one listing: changes do not show, and a listing that fits comes in one call.
TEST(Files, AStreamNeverMixesListings) {
  Tree tree(kPlainMount);
  tree.dir("d");
  for (int i = 0; i < 100; ++i) tree.file("d/name" + std::to_string(i), "");
  tree.attach();
  int plain = open_plain(tree, "d", O_RDONLY | O_DIRECTORY);
  std::string whole = list(by_kernel, plain, 32768);
  int fd = open_ours(tree, "d", O_RDONLY | O_DIRECTORY);
  char part[200];
  long n = through(SYS_getdents64, fd, arg(part), sizeof part);
  ASSERT_GT(n, 0);
  tree.cache().drop_node(tree.nid("d"));
  clear_padding(part, n);
  EXPECT_TRUE(std::string(part, static_cast<size_t>(n)) + list(through, fd, 500) == whole);
  through(SYS_close, fd);
  close(plain);
}

// Names that a listing tells.
std::set<std::string> names_in(const std::string &entries) {
  std::set<std::string> names;
  for (size_t at = 0; at < entries.size();) {
    auto *entry = reinterpret_cast<const struct dirent64 *>(entries.data() + at);
    names.insert(entry->d_name);
    at += entry->d_reclen;
  }
  return names;
}

std::string some_entries(int fd) {
  std::string part(200, 0);
  long n = through(SYS_getdents64, fd, arg(part.data()), static_cast<long>(part.size()));
  part.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return part;
}

// The cookies of a listing mean something only to it: neither a fork nor a duplicate makes the kernel go on from one.
TEST(Files, AListingUnderWayStaysHere) {
  Tree tree(kPlainMount);
  tree.dir("d");
  for (int i = 0; i < 100; ++i) tree.file("d/name" + std::to_string(i), "");
  tree.attach();
  for (int way = 0; way < 4; ++way) {
    SCOPED_TRACE(way);
    int fd = open_ours(tree, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int copy = -1, second = -1;
    std::string part = some_entries(fd);
    ASSERT_FALSE(part.empty());
    if (way == 0) sf_bypass_before_fork(SIGCHLD, 0);
    if (way == 1) sf_bypass_before_fork(0, 1);
    if (way >= 2) copy = static_cast<int>(through(SYS_dup, fd)), second = static_cast<int>(through(SYS_dup, fd));
    if (way == 2) part += some_entries(copy), part += some_entries(second), part += some_entries(fd);
    if (way == 3) through(SYS_close, fd), part += some_entries(copy), part += some_entries(second), fd = copy;
    EXPECT_EQ(by_kernel(SYS_lseek, fd, 0, SEEK_CUR), 0);
    EXPECT_TRUE(owned(fd));
    part += list(through, fd, 500);
    EXPECT_EQ(names_in(part).size(), 102u);
    for (int used : {fd, copy, second}) {
      if (used >= 0) through(SYS_close, used);
    }
  }
}

// Parent and child go on with the same listing; rewound, it is the kernel's.
TEST(Files, AChildHasTheListingToo) {
  Tree tree(kPlainMount);
  tree.dir("d");
  for (int i = 0; i < 100; ++i) tree.file("d/name" + std::to_string(i), "");
  tree.attach();
  int fd = open_ours(tree, "d", O_RDONLY | O_DIRECTORY);
  std::string part = some_entries(fd);
  sf_bypass_before_fork(SIGCHLD, 0);
  pid_t pid = fork();
  if (pid == 0) {
    bool good = names_in(part + list(through, fd, 500)).size() == 102;
    good = good && through(SYS_lseek, fd, 0, SEEK_SET) == 0 && !owned(fd);
    _exit(good && names_in(list(through, fd, 500)).size() == 102 ? 0 : 1);
  }
  int status;
  waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
  for (int i = 0; i < 50; ++i) unlink(tree.path("d/name" + std::to_string(i)).c_str());
  EXPECT_EQ(names_in(part + list(through, fd, 500)).size(), 102u);
  through(SYS_close, fd);
}

// A position found out before the number was closed and taken by another file does not fit that one.
TEST(Files, APositionBelongsToOneOpening) {
  Tree tree(kPlainMount);
  tree.file("f", "ffff");
  tree.attach();
  int fd = open_ours(tree, "f");
  File before = file_of(fd);
  ASSERT_EQ(position_of(before), 0);
  through(SYS_close, fd);
  ASSERT_EQ(open_ours(tree, "f"), fd);
  EXPECT_FALSE(move_position(before, 0, 4));
  EXPECT_LT(position_of(before), 0);
  EXPECT_EQ(position_of(file_of(fd)), 0);
  through(SYS_close, fd);
}

// A thread that gives an offset back while another closes the number never seeks in what gets the number next.
TEST(Files, GivingBackMeetsClosing) {
  Tree tree(kPlainMount);
  tree.file("f", "0123456789");
  tree.attach();
  std::string elsewhere = tree.root() + ".plain";
  close(open(elsewhere.c_str(), O_RDWR | O_CREAT, 0600));
  int number = open_ours(tree, "f");
  through(SYS_close, number);
  std::atomic<bool> stop{false};
  std::thread giver([&] {
    while (!stop) give_back(number);
    sf_bypass_thread_exit();
  });
  for (int i = 0; i < 20000; ++i) {
    char part[4];
    int fd = open_ours(tree, "f");
    ASSERT_EQ(fd, number);
    ASSERT_EQ(through(SYS_read, fd, arg(part), 4), 4);
    through(SYS_close, fd);
    int plain = static_cast<int>(by_kernel(SYS_open, arg(elsewhere.c_str()), O_RDONLY));
    ASSERT_EQ(plain, number);
    ASSERT_EQ(by_kernel(SYS_lseek, plain, 0, SEEK_CUR), 0) << i;
    ASSERT_EQ(by_kernel(SYS_lseek, plain, 0, SEEK_CUR), 0) << i;
    by_kernel(SYS_close, plain);
  }
  stop = true;
  giver.join();
  unlink(elsewhere.c_str());
}

// Closed by a call that nobody saw; the number's next file is another one.
TEST(Files, AStaleNumberIsForgotten) {
  Tree tree(kPlainMount);
  tree.file("f", "ffff");
  tree.attach();
  char buffer[8] = {};
  for (int way = 0; way < 2; ++way) {
    int fd = open_ours(tree, "f");
    by_kernel(SYS_close, fd);
    int again = -1;
    if (way == 0) again = static_cast<int>(through(SYS_open, arg("/dev/zero"), O_RDONLY));
    if (way == 1) {
      int zero = open("/dev/zero", O_RDONLY);
      if (zero == fd) zero = dup(fd), close(fd);
      again = static_cast<int>(through(SYS_dup, zero));
      close(zero);
    }
    ASSERT_EQ(again, fd);
    EXPECT_EQ(through(SYS_pread64, fd, arg(buffer), 4, 0), 4);
    EXPECT_EQ(buffer[0], 0);
    through(SYS_close, fd);
  }
}

// Threads that list one directory, rewind it and open others: no crash, and never an entry that is none.
TEST(Files, ThreadsShareAListing) {
  Tree tree(kPlainMount);
  tree.dir("d");
  for (int i = 0; i < 300; ++i) tree.file("d/name" + std::to_string(i), "");
  tree.attach();
  const uint64_t served_before = Tree::counts(SF_OP_READDIR).served;
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0}, entries{0}, shared{open_ours(tree, "d", O_RDONLY | O_DIRECTORY)};
  auto reader = [&](unsigned seed) {
    std::mt19937 rng(seed);
    char part[400];
    while (!stop) {
      int fd = shared;
      if (rng() % 16 == 0) through(SYS_lseek, fd, 0, SEEK_SET);
      long n = through(SYS_getdents64, fd, arg(part), sizeof part);
      for (long at = 0; at < n;) {
        auto *entry = reinterpret_cast<struct dirent64 *>(part + at);
        bool good = entry->d_reclen >= 24 && at + entry->d_reclen <= n &&
                    (entry->d_name[0] == '.' || strncmp(entry->d_name, "name", 4) == 0);
        if (!good) ++wrong;
        if (!good) break;
        ++entries;
        at += entry->d_reclen;
      }
      if (rng() % 64 == 0) {
        int other = open_ours(tree, "d", O_RDONLY | O_DIRECTORY);
        through(SYS_getdents64, other, arg(part), sizeof part);
#ifndef __SANITIZE_THREAD__  // what a slot says is read as it is, and counts only if its state is the same afterwards
        through(SYS_dup2, other, fd);
#endif
        through(SYS_close, other);
      }
    }
    sf_bypass_thread_exit();
  };
  std::thread a(reader, 1), b(reader, 2), c(reader, 3);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (entries < 10'000 && wrong == 0 && std::chrono::steady_clock::now() < end) usleep(1000);
  stop = true;
  a.join();
  b.join();
  c.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GE(entries, 10'000);
  EXPECT_GT(Tree::counts(SF_OP_READDIR).served, served_before);
  through(SYS_close, shared);
}

TEST(Files, Xattrs) {
  Tree tree(kPlainMount);
  tree.file("f", "x", 0600);
  tree.dir("d");
  tree.link("l", "f");
  if (setxattr(tree.path("f").c_str(), "user.one", "value", 5, 0) != 0) GTEST_SKIP() << "no xattrs here";
  setxattr(tree.path("d").c_str(), "user.two", "", 0, 0);
  setxattr(tree.path("f").c_str(), "trusted.three", "t", 1, 0);
  tree.attach();
  auto check = [&] {
    for (const char *file : {"f", "d", "l", "absent"}) {
      std::string path = tree.path(file);
      for (const char *name :
           {"user.one", "user.two", "user.absent", "trusted.three", "trusted.absent", "security.capability",
            "security.selinux", "system.posix_acl_access", "user.", "nothing", ""}) {
        for (long room : {0L, 1L, 5L, 100L}) {
          for (long nr : {long(SYS_getxattr), long(SYS_lgetxattr)}) {
            char a[100] = {}, b[100] = {};
            ASSERT_EQ(through(nr, arg(path.c_str()), arg(name), arg(a), room),
                      by_kernel(nr, arg(path.c_str()), arg(name), arg(b), room))
                << file << " " << name << " " << room;
            ASSERT_EQ(memcmp(a, b, sizeof a), 0) << file << " " << name << " " << room;
          }
        }
      }
      for (long room : {0L, 3L, 100L}) {
        char a[100] = {}, b[100] = {};
        long n = by_kernel(SYS_listxattr, arg(path.c_str()), arg(b), room);
        if (geteuid() != 0) continue;  // plain file systems hide trusted.* from others; FUSE leaves that to the daemon
        ASSERT_EQ(through(SYS_listxattr, arg(path.c_str()), arg(a), room), n);
        ASSERT_EQ(memcmp(a, b, sizeof a), 0);
      }
    }
  };
  check();
  EXPECT_GT(Tree::counts(SF_OP_GETXATTR).served, 20u);
  EXPECT_GT(Tree::counts(SF_OP_LISTXATTR).served, 5u);
  if (geteuid() != 0) return;
  pid_t pid = fork();
  if (pid == 0) {
    if (syscall(SYS_setresuid, 1001, 1001, 1001) != 0) _exit(2);
    check();
    _exit(HasFailure() ? 1 : 0);
  }
  int status;
  waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
}

// Threads that read one descriptor get each byte once; others close and open all the time.
TEST(Files, ThreadsShareAnOffset) {
  Tree tree(kPlainMount);
  constexpr size_t kWords = 100000;
  std::vector<uint32_t> words(kWords);
  for (size_t i = 0; i < kWords; ++i) words[i] = static_cast<uint32_t>(i);
  tree.file("f", std::string(reinterpret_cast<char *>(words.data()), kWords * 4));
  tree.attach();
  int fd = open_ours(tree, "f");
  std::vector<std::atomic<int>> seen(kWords);
  std::atomic<bool> stop{false};
  auto reader = [&] {
    uint32_t part[100];
    for (long n; (n = through(SYS_read, fd, arg(part), sizeof part)) > 0;) {
      for (long i = 0; i < n / 4; ++i) seen[part[i]].fetch_add(1);
    }
  };
  std::thread churn([&] {
    while (!stop) {
      int other = open_ours(tree, "f");
      char c[4];
      through(SYS_read, other, arg(c), 4);
      through(SYS_close, other);
    }
  });
  std::thread a(reader), b(reader), c(reader);
  a.join();
  b.join();
  c.join();
  stop = true;
  churn.join();
  for (size_t i = 0; i < kWords; ++i) ASSERT_EQ(seen[i], 1) << i;
  through(SYS_close, fd);
  sf_bypass_thread_exit();
}

// A child has no offset of its own that the parent does not know of, and its own counters.
TEST(Files, AChildStartsAnew) {
  Tree tree(kPlainMount);
  tree.file("f", random_bytes(1000, 6));
  tree.attach();
  int fd = open_ours(tree, "f");
  char buffer[100];
  through(SYS_read, fd, arg(buffer), 100);
  sf_bypass_before_fork(SIGCHLD, 0);
  pid_t pid = fork();
  if (pid == 0) {
    uint64_t before = Tree::counts(SF_OP_READ).served;
    bool good = before == 0 && through(SYS_read, fd, arg(buffer), 100) == 100;
    int own = open_ours(tree, "f");
    good = good && owned(own) && through(SYS_read, own, arg(buffer), 10) == 10;
    _exit(good && Tree::counts(SF_OP_READ).served == 1 ? 0 : 1);
  }
  int status;
  waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(through(SYS_lseek, fd, 0, SEEK_CUR), 200);
  through(SYS_close, fd);
}

// What another thread opens while a process forks is the parent's: the child does not move its offset, however late
// it looks at what it has inherited.
TEST(Files, AChildLeavesWhatWasOpenedMeanwhile) {
  Tree tree(kPlainMount);
  const std::string contents = random_bytes(1000, 7);
  tree.file("f", contents);
  tree.attach();
  char buffer[100];
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  sf_bypass_before_fork(SIGCHLD, 0);
  int fd = open_ours(tree, "f");  // the other thread
  through(SYS_read, fd, arg(buffer), 100);
  pid_t pid = fork();
  if (pid == 0) {
    if (read(ready[0], buffer, 1) != 1) _exit(1);
    int own = open_ours(tree, "f");
    _exit(owned(own) && through(SYS_read, own, arg(buffer), 10) == 10 ? 0 : 1);
  }
  int copy = static_cast<int>(through(SYS_dup, fd));
  ASSERT_EQ(through(SYS_read, copy, arg(buffer), 100), 100);
  EXPECT_EQ(std::string(buffer, 100), contents.substr(100, 100));
  ASSERT_EQ(write(ready[1], "x", 1), 1);
  int status;
  waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
  ASSERT_EQ(through(SYS_read, copy, arg(buffer), 100), 100);
  EXPECT_EQ(std::string(buffer, 100), contents.substr(200, 100));
  EXPECT_EQ(through(SYS_lseek, fd, 0, SEEK_CUR), 300);
  through(SYS_close, copy), through(SYS_close, fd);
  close(ready[0]), close(ready[1]);
}

TEST(Files, WorkingDirectory) {
  Tree tree(kPlainMount);
  tree.dir("d");
  tree.file("d/f", "x");
  tree.attach();
  struct stat a, b;
  ASSERT_EQ(through(SYS_chdir, arg(tree.path("d").c_str())), 0);
  uint64_t served = Tree::counts(SF_OP_STAT).served;
  EXPECT_EQ(through(SYS_stat, arg("f"), arg(&a)), 0);
  EXPECT_EQ(Tree::counts(SF_OP_STAT).served, served + 1);
  EXPECT_EQ(through(SYS_stat, arg("../d/f"), arg(&b)), 0);
  EXPECT_EQ(a.st_ino, b.st_ino);
  EXPECT_EQ(Tree::counts(SF_OP_STAT).served, served + 2);
  ASSERT_EQ(through(SYS_chdir, arg("/")), 0);
  EXPECT_EQ(through(SYS_stat, arg("f"), arg(&a)), -ENOENT);
  int fd = open_ours(tree, "d");
  ASSERT_EQ(through(SYS_fchdir, fd), 0);
  EXPECT_EQ(through(SYS_access, arg("f"), R_OK), 0);
  EXPECT_EQ(Tree::counts(SF_OP_ACCESS).served, 1u);
  ASSERT_EQ(through(SYS_chdir, arg("/")), 0);
  through(SYS_close, fd);
}

}  // namespace
}  // namespace shortfuse::bypass
