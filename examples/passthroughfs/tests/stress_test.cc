/* Many at once, and for long: numbers of files that are used again, nodes and descriptors that must not be lost,
 * callers that die in the middle. */
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "mounted.h"

namespace shortfuse::passthrough::testing {
namespace {

constexpr int kThreads = 6;

void in_threads(const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(body, i);
  for (auto& thread : threads) thread.join();
}

/// What an open file must keep being, whatever happens to its name and its number.
struct Held {
  int fd;
  std::string text;
  ino_t ino;
};

bool still_itself(const Held& held) {
  char text[64] = {};
  struct stat attr;
  ssize_t n = pread(held.fd, text, sizeof text, 0);
  return n == static_cast<ssize_t>(held.text.size()) && held.text == text && fstat(held.fd, &attr) == 0 &&
         attr.st_ino == held.ino && attr.st_size == n && S_ISREG(attr.st_mode);
}

// ext4 and tmpfs give the number of a deleted file to the next one. A deleted file that is still open keeps its number
// and contents; one that is closed gives it up, and nothing of the old file may be seen in the new one.
TEST(Reuse, OfNumbersNeverMixesFiles) {
  Mounted mounted("allow_other,timeout=1000");
  ASSERT_TRUE(mounted.ok());
  std::atomic<int> mixed{0}, reused{0};
  in_threads([&](int id) {
    std::string dir = mounted.path() + "/" + std::to_string(id);
    mkdir(dir.c_str(), 0755);
    std::mt19937 random(static_cast<unsigned>(id));
    std::vector<Held> held;
    ino_t last = 0;
    for (int i = 0; i < 1500; ++i) {
      std::string name = dir + "/" + std::to_string(random() % 3);
      unlink(name.c_str());
      if (i % 5 == 0) {  // a different type under the same number
        if (mkdir(name.c_str(), 0700) != 0 || rmdir(name.c_str()) != 0) ++mixed;
      }
      Held one{open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644), std::to_string(id * 100000 + i), 0};
      struct stat attr;
      if (one.fd < 0 || pwrite(one.fd, one.text.data(), one.text.size(), 0) < 0 || fstat(one.fd, &attr) != 0 ||
          attr.st_nlink != 1) {
        ++mixed;
        continue;
      }
      one.ino = attr.st_ino;
      reused += one.ino == last;
      last = one.ino;
      if (stat(name.c_str(), &attr) != 0 || attr.st_ino != one.ino) ++mixed;
      held.push_back(one);
      if (held.size() > 8) {
        size_t victim = random() % held.size();
        if (!still_itself(held[victim])) ++mixed;
        close(held[victim].fd);
        held.erase(held.begin() + static_cast<long>(victim));
      }
    }
    for (const Held& one : held) {
      if (!still_itself(one)) ++mixed;
      close(one.fd);
    }
  });
  EXPECT_EQ(mixed, 0);
}

// The same behind the kernel's back: the source replaces files while the mount looks them up.
TEST(Reuse, BehindTheMountsBack) {
  Mounted mounted("allow_other,timeout=0");
  ASSERT_TRUE(mounted.ok());
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0}, looked{0};
  std::thread replacer([&] {
    for (int i = 0; !stop; ++i) {
      std::string name = mounted.source() + "/" + std::to_string(i % 4);
      unlink(name.c_str());
      rmdir(name.c_str());
      if (i % 3 == 0) mkdir(name.c_str(), 0755);
      else if (i % 3 == 1) close(open(name.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
      else if (symlink("nowhere", name.c_str()) != 0) ++wrong;
    }
  });
  in_threads([&](int id) {
    for (int i = 0; i < 2000; ++i) {
      std::string name = mounted.path() + "/" + std::to_string((i + id) % 4);
      struct stat attr;
      if (lstat(name.c_str(), &attr) != 0) {
        if (errno != ENOENT) ++wrong;
        continue;
      }
      ++looked;
      if (!S_ISREG(attr.st_mode) && !S_ISDIR(attr.st_mode) && !S_ISLNK(attr.st_mode)) ++wrong;
      if (S_ISLNK(attr.st_mode) && attr.st_size != 7) ++wrong;
    }
  });
  stop = true;
  replacer.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(looked, 0);
}

/// Random operations in one tree, errors included; none may fail in a way that a plain directory would not.
void storm(const std::string& root, unsigned seed, int steps) {
  std::mt19937 random(seed);
  auto name = [&] { return root + "/" + std::to_string(random() % 6) + "/" + std::to_string(random() % 20); };
  for (int i = 0; i < steps; ++i) {
    std::string a = name(), b = name();
    char data[3000] = {};
    switch (random() % 12) {
      case 0: case 1: case 2: {
        int fd = open(a.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0) break;
        if (pwrite(fd, data, random() % sizeof data, 0) < 0 || pread(fd, data, sizeof data, 0) < 0) break;
        close(fd);
        break;
      }
      case 3: unlink(a.c_str()); break;
      case 4: rename(a.c_str(), b.c_str()); break;
      case 5: if (link(a.c_str(), b.c_str()) != 0) break; break;
      case 6: if (symlink("x", a.c_str()) != 0) break; break;
      case 7: mkdir(a.c_str(), 0755); break;
      case 8: rmdir(a.c_str()); break;
      case 9: chmod(a.c_str(), 0600 | (random() & 077)); break;
      case 10: if (truncate(a.c_str(), static_cast<off_t>(random() % 5000)) != 0) break; break;
      default:
        if (DIR* dir = opendir((root + "/" + std::to_string(random() % 6)).c_str())) {
          while (readdir(dir)) {}
          closedir(dir);
        }
    }
  }
}

std::string describe_tree(const std::string& root, bool with_times) {
  std::vector<std::string> lines;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    struct stat attr;
    if (lstat(entry.path().c_str(), &attr) != 0) continue;
    std::string line = std::filesystem::relative(entry.path(), root).string();
    for (uint64_t value : {static_cast<uint64_t>(attr.st_mode), static_cast<uint64_t>(attr.st_ino),
                           static_cast<uint64_t>(attr.st_nlink),
                           static_cast<uint64_t>(with_times ? attr.st_mtim.tv_nsec : 0),
                           static_cast<uint64_t>(S_ISREG(attr.st_mode) ? attr.st_size : 0)}) {
      line += " " + std::to_string(value);
    }
    if (S_ISREG(attr.st_mode)) line += " " + std::to_string(std::hash<std::string>{}(contents(entry.path())));
    lines.push_back(line);
  }
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const auto& line : lines) text += line + "\n";
  return text;
}

class Storm : public ::testing::TestWithParam<const char*> {};

TEST_P(Storm, LeavesTheSameTreeAndNoDescriptors) {
  Mounted mounted(GetParam());
  ASSERT_TRUE(mounted.ok());
  for (int i = 0; i < 6; ++i) mkdir((mounted.source() + "/" + std::to_string(i)).c_str(), 0755);
  struct stat attr;
  ASSERT_EQ(stat((mounted.path() + "/0").c_str(), &attr), 0);
  mounted.drop_caches();
  size_t base = 0;
  EXPECT_TRUE(eventually([&] { return (base = mounted.descriptors()) > 0; }));

  in_threads([&](int id) { storm(mounted.path(), static_cast<unsigned>(id) + 1, 700); });
  // Callers that are killed in the middle of requests.
  for (int round = 0; round < 8; ++round) {
    pid_t child = in_child([&] {
      storm(mounted.path(), static_cast<unsigned>(100 + round), 1 << 30);
      return 0;
    });
    usleep(15000);
    kill(child, SIGKILL);
    exit_status(child);
  }
  EXPECT_GT(mounted.descriptors(), base);
  // A write-back cache still holds data; its times, kept by the kernel, are lost with a process that is killed.
  bool writeback = strstr(GetParam(), "writeback") != nullptr;
  int root = open(mounted.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  EXPECT_TRUE(syncfs(root) == 0 || writeback) << strerror(errno);
  close(root);
  EXPECT_EQ(describe_tree(mounted.path(), !writeback), describe_tree(mounted.source(), !writeback));
  // Descriptors come back when the kernel has forgotten; two workers more may have come into being.
  EXPECT_TRUE(eventually([&] {
    mounted.drop_caches();
    return mounted.descriptors() <= base + 1;
  })) << base << " at first, now " << mounted.descriptors();
  EXPECT_EQ(mounted.stop(), 0);
}

INSTANTIATE_TEST_SUITE_P(Options, Storm,
                         ::testing::Values("allow_other", "allow_other,timeout=0,cache=none",
                                           "allow_other,max_threads=1,cache=always", "allow_other,writeback"));

TEST(Descriptors, RunningShortSlowsDownButDoesNotFail) {
  if (geteuid() != 0 || access("/usr/bin/setpriv", X_OK) != 0) GTEST_SKIP() << "needs setpriv";
  Mounted mounted("allow_other,timeout=1000", {"prlimit", "--nofile=500:500", "setpriv", "--bounding-set",
                                               "-sys_resource", "--inh-caps", "-sys_resource"});
  ASSERT_TRUE(mounted.ok());
  for (int d = 0; d < 20; ++d) {
    std::string dir = mounted.source() + "/" + std::to_string(d);
    mkdir(dir.c_str(), 0755);
    for (int f = 0; f < 100; ++f) write_file(dir + "/" + std::to_string(f), "");
  }
  const size_t base = mounted.descriptors();
  int found = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(mounted.path())) {
    struct stat attr;
    EXPECT_EQ(lstat(entry.path().c_str(), &attr), 0) << strerror(errno);
    found += S_ISREG(attr.st_mode);
  }
  EXPECT_EQ(found, 2000);
  // Without a walk that asks for more, the daemon comes back below where it begins to prune: 70 % of so small a limit.
  EXPECT_TRUE(eventually([&] { return mounted.descriptors() <= base + 500 * 70 / 100; }))
      << mounted.descriptors() << " descriptors, " << base << " before";
}

}  // namespace
}  // namespace shortfuse::passthrough::testing

int main(int argc, char** argv) { return shortfuse::passthrough::testing::run_tests(argc, argv); }
