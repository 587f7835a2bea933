/* What scripts cannot say: directories as streams, mounts below the source, changes behind the kernel's back, programs,
 * mappings. */
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <set>

#include "mounted.h"

namespace shortfuse::passthrough::testing {
namespace {

struct stat stat_of(const std::string& path) {
  struct stat attr {};
  EXPECT_EQ(lstat(path.c_str(), &attr), 0) << path << ": " << strerror(errno);
  return attr;
}

std::set<std::string> names_in(DIR* dir) {
  std::set<std::string> names;
  while (dirent* entry = readdir(dir)) names.insert(entry->d_name);
  return names;
}

std::set<std::string> names_in(const std::string& path) {
  DIR* dir = opendir(path.c_str());
  if (!dir) return {};
  auto names = names_in(dir);
  closedir(dir);
  return names;
}

class Semantics : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { ASSERT_TRUE(mounted_.ok()); }
  std::string in_mount(const std::string& name) const { return mounted_.path() + "/" + name; }
  std::string in_source(const std::string& name) const { return mounted_.source() + "/" + name; }
  void make_files(const std::string& dir, int count) {
    mkdir(in_source(dir).c_str(), 0755);
    for (int i = 0; i < count; ++i) write_file(in_source(dir + "/file-" + std::to_string(i)), "");
  }
  Mounted mounted_{GetParam()};
};

TEST_P(Semantics, ListsEverythingOnceWithTrueNumbers) {
  make_files("d", 1300);
  std::map<std::string, ino_t> seen;
  DIR* dir = opendir(in_mount("d").c_str());
  ASSERT_NE(dir, nullptr);
  while (dirent* entry = readdir(dir)) {
    EXPECT_TRUE(seen.emplace(entry->d_name, entry->d_ino).second) << entry->d_name;
  }
  closedir(dir);
  EXPECT_EQ(seen.size(), 1302u);
  for (int i = 0; i < 1300; i += 7) {
    std::string name = "file-" + std::to_string(i);
    EXPECT_EQ(seen[name], stat_of(in_mount("d/" + name)).st_ino);
    EXPECT_EQ(seen[name], stat_of(in_source("d/" + name)).st_ino);
  }
  EXPECT_EQ(seen["."], stat_of(in_mount("d")).st_ino);
  EXPECT_EQ(seen[".."], stat_of(mounted_.path()).st_ino);
}

TEST_P(Semantics, SeekdirReturnsToWhatTelldirSaid) {
  make_files("d", 1300);
  DIR* dir = opendir(in_mount("d").c_str());
  ASSERT_NE(dir, nullptr);
  std::vector<std::pair<long, std::string>> places;
  for (;;) {
    long place = telldir(dir);
    dirent* entry = readdir(dir);
    if (!entry) break;
    places.emplace_back(place, entry->d_name);
  }
  std::mt19937 random(1);
  std::shuffle(places.begin(), places.end(), random);
  for (size_t i = 0; i < 300; ++i) {
    seekdir(dir, places[i].first);
    dirent* entry = readdir(dir);
    ASSERT_NE(entry, nullptr);
    EXPECT_EQ(places[i].second, entry->d_name);
  }
  rewinddir(dir);
  EXPECT_EQ(names_in(dir).size(), 1302u);
  closedir(dir);
}

TEST_P(Semantics, RewinddirSeesWhatIsNew) {
  make_files("d", 3);
  DIR* dir = opendir(in_mount("d").c_str());
  ASSERT_NE(dir, nullptr);
  EXPECT_EQ(names_in(dir).size(), 5u);
  write_file(in_mount("d/new"), "");
  unlink(in_mount("d/file-1").c_str());
  rewinddir(dir);
  EXPECT_EQ(names_in(dir), (std::set<std::string>{".", "..", "file-0", "file-2", "new"}));
  closedir(dir);
}

TEST_P(Semantics, DeletingWhileReading) {
  make_files("d", 1300);
  DIR* dir = opendir(in_mount("d").c_str());
  ASSERT_NE(dir, nullptr);
  int removed = 0;
  while (dirent* entry = readdir(dir)) {
    if (entry->d_name[0] != '.') removed += unlinkat(dirfd(dir), entry->d_name, 0) == 0;
  }
  closedir(dir);
  EXPECT_EQ(removed, 1300);
  EXPECT_EQ(rmdir(in_mount("d").c_str()), 0);
}

TEST_P(Semantics, TwoStreamsDoNotDisturbEachOther) {
  make_files("d", 700);
  DIR* a = opendir(in_mount("d").c_str());
  DIR* b = opendir(in_mount("d").c_str());
  std::vector<std::string> of_a, of_b;
  for (bool more = true; more;) {
    more = false;
    for (auto [dir, names] : {std::pair{a, &of_a}, std::pair{b, &of_b}}) {
      if (dirent* entry = readdir(dir)) {
        names->push_back(entry->d_name);
        more = true;
      }
    }
  }
  closedir(a);
  closedir(b);
  EXPECT_EQ(of_a.size(), 702u);
  EXPECT_EQ(of_a, of_b);
}

TEST_P(Semantics, LargeFilesByEveryWayOfReadingAndWriting) {
  std::string data(5 << 20, '\0');
  std::mt19937_64 random(2);
  for (size_t i = 0; i + 8 <= data.size(); i += 8) {
    uint64_t word = random();
    memcpy(&data[i], &word, 8);
  }
  write_file(in_mount("big"), data);
  EXPECT_TRUE(contents(in_source("big")) == data);
  EXPECT_TRUE(contents(in_mount("big")) == data);

  int direct = open(in_mount("big").c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  ASSERT_GE(direct, 0);
  auto* block = static_cast<char*>(aligned_alloc(4096, 65536));
  EXPECT_EQ(pread(direct, block, 65536, 1 << 20), 65536);
  EXPECT_EQ(memcmp(block, data.data() + (1 << 20), 65536), 0);
  memset(block, 'x', 65536);
  EXPECT_EQ(pwrite(direct, block, 65536, 2 << 20), 65536);
  data.replace(2 << 20, 65536, std::string(65536, 'x'));
  free(block);
  close(direct);
  EXPECT_TRUE(contents(in_mount("big")) == data);
  EXPECT_TRUE(contents(in_source("big")) == data);
}

TEST_P(Semantics, MappingsReachTheFile) {
  write_file(in_mount("m"), std::string(10000, 'a'));
  int fd = open(in_mount("m").c_str(), O_RDWR | O_CLOEXEC);
  void* map = mmap(nullptr, 10000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED && errno == ENODEV) {
    close(fd);
    GTEST_SKIP() << "no shared mappings without a cache";
  }
  ASSERT_NE(map, MAP_FAILED);
  memcpy(static_cast<char*>(map) + 5000, "mapped", 6);
  EXPECT_EQ(msync(map, 10000, MS_SYNC), 0);
  munmap(map, 10000);
  close(fd);
  EXPECT_EQ(contents(in_source("m")).substr(4998, 10), "aamappedaa");
}

TEST_P(Semantics, TemporaryFilesWithoutNames) {
  // libfuse has to know them; until then programs get the error by which they fall back to named files.
  int fd = open(mounted_.path().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0) close(fd);
  else EXPECT_EQ(errno, EOPNOTSUPP);
}

TEST_P(Semantics, OpenFilesFollowRenamesInTheSource) {
  write_file(in_source("a"), "first");
  int fd = open(in_mount("a").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(rename(in_source("a").c_str(), in_source("b").c_str()), 0);
  write_file(in_source("a"), "second");
  EXPECT_EQ(pwrite(fd, "FIRST", 5, 0), 5);
  EXPECT_EQ(fsync(fd), 0);
  EXPECT_EQ(contents(in_source("b")), "FIRST");
  EXPECT_EQ(contents(in_source("a")), "second");
  close(fd);
}

// A name that appeared in the source after the kernel learned that it does not exist.
TEST_P(Semantics, CreatingOverAnUnseenFileIsChecked) {
  if (geteuid() != 0) GTEST_SKIP() << "needs two users";
  chmod(mounted_.path().c_str(), 0777);
  EXPECT_NE(access(in_mount("x").c_str(), F_OK), 0);
  write_file(in_source("x"), "secret");
  chmod(in_source("x").c_str(), 0600);
  int status = as_user(65534, 65534, [&] {
    if (open(in_mount("x").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666) >= 0) return 1;
    if (errno != EACCES) return 2;
    if (open(in_mount("x").c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) >= 0) return 3;
    return open(in_mount("x").c_str(), O_RDWR | O_CREAT | O_EXCL, 0666) >= 0 || errno != EEXIST ? 4 : 0;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(contents(in_source("x")), "secret");
}

TEST_P(Semantics, ProgramsRunForThoseWhoMayNotReadThem) {
  if (geteuid() != 0) GTEST_SKIP() << "needs two users";
  ASSERT_EQ(run({"cp", "/bin/true", in_source("program")}).status, 0);
  chmod(in_source("program").c_str(), 0711);
  int status = as_user(65534, 65534, [&] {
    if (open(in_mount("program").c_str(), O_RDONLY | O_CLOEXEC) >= 0 || errno != EACCES) return 2;
    execl(in_mount("program").c_str(), "program", nullptr);
    return 3;
  });
  EXPECT_EQ(status, 0);
  chmod(in_source("program").c_str(), 0600);
  status = as_user(65534, 65534, [&] {
    execl(in_mount("program").c_str(), "program", nullptr);
    return errno == EACCES ? 0 : 1;
  });
  // The mode was changed in the source: within the attributes' time to live the old one may count.
  EXPECT_EQ(status, 0);
}

TEST_P(Semantics, TheMountInsideItsSourceIsNotEntered) {
  // The source is bound over a directory, so that the mount lies below the source.
  if (geteuid() != 0) GTEST_SKIP() << "needs mounts";
  std::string inner = in_source("inner");
  mkdir(inner.c_str(), 0755);
  ASSERT_EQ(mount(mounted_.path().c_str(), inner.c_str(), nullptr, MS_BIND, nullptr), 0);
  struct stat attr;
  EXPECT_NE(stat(in_mount("inner").c_str(), &attr), 0);
  EXPECT_EQ(errno, ELOOP);
  EXPECT_EQ(names_in(mounted_.path()).count("inner"), 1u);
  EXPECT_EQ(umount(inner.c_str()), 0);
  EXPECT_EQ(stat(in_mount("inner").c_str(), &attr), 0);
}

TEST_P(Semantics, OtherFileSystemsHaveNumbersOfTheirOwn) {
  if (geteuid() != 0) GTEST_SKIP() << "needs mounts";
  std::vector<std::string> dirs{"one", "two"};
  for (const auto& dir : dirs) {
    mkdir(in_source(dir).c_str(), 0755);
    ASSERT_EQ(mount("tmpfs", in_source(dir).c_str(), "tmpfs", 0, "size=1m"), 0);
    write_file(in_source(dir + "/file"), dir);
    ASSERT_EQ(link(in_source(dir + "/file").c_str(), in_source(dir + "/link").c_str()), 0);
  }
  EXPECT_NE(stat_of(in_mount("one/file")).st_ino, stat_of(in_mount("two/file")).st_ino);
  EXPECT_NE(stat_of(in_mount("one")).st_ino, stat_of(in_mount("two")).st_ino);
  EXPECT_EQ(stat_of(in_mount("one/file")).st_ino, stat_of(in_mount("one/link")).st_ino);
  EXPECT_EQ(stat_of(in_mount("one/file")).st_nlink, 2u);
  EXPECT_EQ(contents(in_mount("one/file")), "one");
  EXPECT_EQ(contents(in_mount("two/file")), "two");
  DIR* dir = opendir(in_mount("one").c_str());
  ASSERT_NE(dir, nullptr);
  while (dirent* entry = readdir(dir)) {
    if (entry->d_name[0] == '.') continue;
    EXPECT_EQ(entry->d_ino, stat_of(in_mount("one/file")).st_ino);
  }
  closedir(dir);
  EXPECT_EQ(rename(in_mount("one/file").c_str(), in_mount("two/x").c_str()), -1);
  EXPECT_EQ(errno, EXDEV);
  EXPECT_EQ(link(in_mount("one/file").c_str(), in_mount("two/x").c_str()), -1);
  EXPECT_EQ(errno, EXDEV);
  // The daemon holds what the kernel remembers.
  mounted_.drop_caches();
  for (const auto& name : dirs) EXPECT_EQ(umount2(in_source(name).c_str(), MNT_DETACH), 0);
}

TEST_P(Semantics, ADirectoryBoundToTwoPlacesIsTwoDirectories) {
  if (geteuid() != 0) GTEST_SKIP() << "needs mounts";
  mkdir(in_source("a").c_str(), 0755);
  mkdir(in_source("a/b").c_str(), 0755);
  write_file(in_source("a/f"), "here");
  ASSERT_EQ(mount(in_source("a").c_str(), in_source("a/b").c_str(), nullptr, MS_BIND, nullptr), 0);
  EXPECT_EQ(contents(in_mount("a/f")), "here");
  EXPECT_EQ(contents(in_mount("a/b/f")), "here");
  EXPECT_EQ(contents(in_mount("a/f")), "here");
  EXPECT_EQ(names_in(in_mount("a/b")), (std::set<std::string>{".", "..", "b", "f"}));
  EXPECT_EQ(names_in(in_mount("a/b/b")), (std::set<std::string>{".", ".."}));
  EXPECT_EQ(umount2(in_source("a/b").c_str(), MNT_DETACH), 0);
}

INSTANTIATE_TEST_SUITE_P(Options, Semantics,
                         ::testing::Values("allow_other,timeout=0",
                                           "allow_other,timeout=0,clone_fd,nodefault_permissions",
                                           "allow_other,cache=none"));

TEST(StayOnOneFileSystem, WhatIsMountedBelowIsNotShown) {
  if (geteuid() != 0) GTEST_SKIP() << "needs mounts";
  std::string base = make_directory();
  std::string source = base + "/source", target = base + "/mount", below = source + "/below";
  for (const auto& dir : {source, target, below}) mkdir(dir.c_str(), 0755);
  write_file(below + "/covered", "x");
  ASSERT_EQ(mount("tmpfs", below.c_str(), "tmpfs", 0, "size=1m"), 0);
  write_file(below + "/covering", "x");
  ASSERT_EQ(run({program(), source, target, "-o", "xdev"}).status, 0);
  EXPECT_EQ(names_in(target + "/below"), (std::set<std::string>{".", "..", "covered"}));
  EXPECT_EQ(umount(target.c_str()), 0);
  EXPECT_EQ(umount2(below.c_str(), MNT_DETACH), 0);
  remove_tree(base);
}

TEST(Attributes, AreTrustedAsLongAsAskedFor) {
  Mounted fresh("timeout=0"), trusting("timeout=1000");
  ASSERT_TRUE(fresh.ok() && trusting.ok());
  struct stat attr;
  for (Mounted* mounted : {&fresh, &trusting}) {
    write_file(mounted->source() + "/a", "1");
    EXPECT_EQ(stat((mounted->path() + "/a").c_str(), &attr), 0);
    EXPECT_NE(stat((mounted->path() + "/b").c_str(), &attr), 0);
    write_file(mounted->source() + "/a", "1234");
    write_file(mounted->source() + "/b", "1");
  }
  EXPECT_EQ(stat((fresh.path() + "/a").c_str(), &attr), 0);
  EXPECT_EQ(attr.st_size, 4);
  EXPECT_EQ(stat((fresh.path() + "/b").c_str(), &attr), 0);
  EXPECT_EQ(stat((trusting.path() + "/a").c_str(), &attr), 0);
  EXPECT_EQ(attr.st_size, 1);
  EXPECT_NE(stat((trusting.path() + "/b").c_str(), &attr), 0);
}

TEST(Xattr, CanBeSwitchedOff) {
  Mounted mounted("noxattr");
  ASSERT_TRUE(mounted.ok());
  write_file(mounted.path() + "/a", "1");
  EXPECT_NE(run({"setfattr", "-n", "user.a", "-v", "1", mounted.path() + "/a"}).status, 0);
}

}  // namespace
}  // namespace shortfuse::passthrough::testing

int main(int argc, char** argv) { return shortfuse::passthrough::testing::run_tests(argc, argv); }
