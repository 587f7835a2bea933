// ctest-timeout: 600
// Storms: processes that fork, exec, duplicate, start threads and write, all at once, and check every byte they read;
// some of them are killed in the middle of it. Nothing is read wrong, nobody else is harmed, nothing is left.
//
// SHORTFUSE_SOAK=1 makes it long; the seed is fixed, SHORTFUSE_TEST_SEED gives another.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "support/control.h"
#include "support/harness.h"

extern char **environ;

namespace shortfuse::tests {
namespace {

constexpr unsigned kFiles = 300, kFilesPerDirectory = 100;

/// As make_tree() makes them.
std::string text_of(unsigned file) {
  std::string line = "line of file " + std::to_string(file) + "\n", text;
  while (text.size() < file * 37 % 9000) text += line;
  return text;
}
std::string path_of(const std::string &root, unsigned file) {
  return root + "/dir" + std::to_string(file / kFilesPerDirectory) + "/file" + std::to_string(file);
}

std::string read_on(int fd, size_t at_most = 1 << 20) {
  std::string text;
  char buffer[1500];
  ssize_t got = 1;
  while (text.size() < at_most && (got = read(fd, buffer, std::min(at_most - text.size(), sizeof buffer))) > 0)
    text.append(buffer, static_cast<size_t>(got));
  return got < 0 ? "errno " + std::to_string(errno) : text;
}

/// fd file offset: what is inherited is where it was.
SF_WORKER(storm_inherits) {
  std::string whole = text_of(static_cast<unsigned>(std::stoul(args.at(1))));
  return read_on(std::stoi(args.at(0))) == whole.substr(std::stoul(args.at(2))) ? 0 : 1;
}

/// One thread of a storm. Each action says what was wrong, or nothing.
class Gust {
 public:
  Gust(std::string root, uint64_t seed, std::string own)
      : root_(std::move(root)), own_(std::move(own)), random_(seed) {}
  std::string step();

 private:
  unsigned below(unsigned limit) { return static_cast<unsigned>(random_() % limit); }
  std::string duplicates();
  std::string forks();
  std::string spawns();
  std::string threads();
  std::string lists();
  std::string writes();
  /// A file, open after `skipped` bytes of it; -1 where that went wrong.
  int in_the_middle(unsigned file, size_t *skipped);

  std::string root_, own_;
  std::mt19937_64 random_;
};

int Gust::in_the_middle(unsigned file, size_t *skipped) {
  // Closed on exec, so that children of other threads do not keep it; what is handed on is duplicated.
  int fd = open(path_of(root_, file).c_str(), O_RDONLY | O_CLOEXEC);
  const std::string whole = text_of(file);
  *skipped = below(static_cast<unsigned>(whole.size()) + 1);
  if (fd >= 0 && read_on(fd, *skipped) == whole.substr(0, *skipped)) return fd;
  close(fd);
  return -1;
}

std::string Gust::duplicates() {
  const unsigned file = below(kFiles);
  size_t skipped;
  int fd = in_the_middle(file, &skipped);
  if (fd < 0) return "start of a file";
  const int copy = below(2) == 0 ? dup(fd) : fcntl(fd, F_DUPFD_CLOEXEC, static_cast<int>(below(200)));
  std::string rest = text_of(file).substr(skipped), seen;
  for (unsigned turn = 0; seen.size() < rest.size(); ++turn) {
    std::string piece = read_on(turn % 2 == 0 ? fd : copy, 1 + below(700));
    if (piece.empty() || turn > 20'000) break;
    seen += piece;
    if (turn == 3) fd = (close(fd), dup(copy));
  }
  const bool ends = lseek(copy, 0, SEEK_CUR) == static_cast<off_t>(skipped + rest.size());
  close(fd), close(copy);
  return seen == rest && ends ? "" : "what duplicates read together";
}

std::string Gust::forks() {
  const unsigned file = below(kFiles);
  size_t skipped;
  int fd = in_the_middle(file, &skipped);
  if (fd < 0) return "start of a file, before a fork";
  const std::string rest = text_of(file).substr(skipped);
  const size_t part = rest.size() / 2;
  const unsigned other = below(kFiles);
  const std::string others = path_of(root_, other);
  pid_t pid = fork();
  if (pid == 0) {
    bool right = read_on(fd, part) == rest.substr(0, part);
    int own = open(others.c_str(), O_RDONLY);
    right = right && read_on(own) == text_of(other);
    _exit(right ? 0 : 1);
  }
  int status = -1;
  if (pid > 0) waitpid(pid, &status, 0);
  const std::string seen = read_on(fd);
  close(fd);
  if (pid < 0 || status != 0) return "a forked child: " + std::to_string(status);
  return seen == rest.substr(part) ? "" : "where a forked child stopped";
}

std::string Gust::spawns() {
  const unsigned file = below(kFiles);
  size_t skipped;
  int fd = in_the_middle(file, &skipped);
  if (fd < 0) return "start of a file, before an exec";
  std::vector<std::string> strings = {own_program(), "--worker", "storm_inherits", "77", std::to_string(file),
                                      std::to_string(skipped)};
  std::vector<char *> command;
  for (auto &text : strings) command.push_back(text.data());
  command.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fd, 77);
  pid_t pid = -1;
  int status = -1;
  if (posix_spawn(&pid, command[0], &actions, nullptr, command.data(), environ) == 0) waitpid(pid, &status, 0);
  posix_spawn_file_actions_destroy(&actions);
  const std::string left = read_on(fd);
  close(fd);
  if (status != 0) return "a program that inherits: " + std::to_string(status);
  return left.empty() ? "" : "the offset after a program that inherits";
}

std::string Gust::threads() {
  std::atomic<unsigned> wrong{0};
  std::vector<std::thread> all;
  for (unsigned i = 0; i < 3; ++i) {
    const unsigned file = below(kFiles);
    all.emplace_back([this, file, &wrong] {
      struct stat st;
      int fd = open(path_of(root_, file).c_str(), O_RDONLY | O_CLOEXEC);
      wrong += read_on(fd) != text_of(file);
      close(fd);
      wrong += stat(path_of(root_, file).c_str(), &st) != 0 || st.st_size != static_cast<off_t>(text_of(file).size());
      wrong += stat((root_ + "/absent").c_str(), &st) == 0;
    });
  }
  for (auto &thread : all) thread.join();
  return wrong == 0 ? "" : "what short threads saw";
}

std::string Gust::lists() {
  DIR *listing = opendir((root_ + "/dir" + std::to_string(below(kFiles / kFilesPerDirectory))).c_str());
  if (listing == nullptr) return "opendir";
  unsigned names = 0;
  for (dirent *entry; (entry = readdir(listing)) != nullptr; ++names) {
    if (names == 50 && below(4) == 0) {
      pid_t pid = fork();
      if (pid == 0) _exit(0);
      waitpid(pid, nullptr, 0);
    }
  }
  closedir(listing);
  return names == kFilesPerDirectory + 3 ? "" : "a listing of " + std::to_string(names) + " names";
}

std::string Gust::writes() {
  std::string text(1 + below(6000), static_cast<char>('a' + below(26)));
  const std::string path = own_ + "/file";
  int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  bool written = fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  close(fd);
  fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool same = read_on(fd) == text;
  const bool gone = unlink(path.c_str()) == 0 && access(path.c_str(), F_OK) != 0;
  lseek(fd, 0, SEEK_SET);
  const bool still = read_on(fd) == text;
  close(fd);
  return written && same && gone && still ? "" : "what was written";
}

std::string Gust::step() {
  switch (below(16)) {
    case 0: return forks();
    case 1: return spawns();
    case 2:
    case 3: return threads();
    case 4: return lists();
    case 5:
    case 6: return writes();
    default: return duplicates();
  }
}

/// root own-directory steps seed
SF_WORKER(storm) {
  constexpr unsigned kThreads = 4;
  const uint64_t steps = std::stoull(args.at(2)), seed_value = std::stoull(args.at(3));
  std::atomic<bool> failed{false};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) {
    std::string own = args.at(1) + "." + std::to_string(i);
    if (mkdir(own.c_str(), 0700) != 0 && errno != EEXIST) return 2;
    threads.emplace_back([&, i, own] {
      Gust gust(args.at(0), seed_value * kThreads + i, own);
      for (uint64_t step = 0; step < steps && !failed; ++step) {
        std::string wrong = gust.step();
        if (wrong.empty()) continue;
        failed = true;
        std::fprintf(stderr, "thread %u, step %lu: %s\n", i, static_cast<unsigned long>(step), wrong.c_str());
      }
    });
  }
  for (auto &thread : threads) thread.join();
  return failed ? 1 : 0;
}

struct Weather {
  const char *name, *policy, *opens;
};
void PrintTo(const Weather &weather, std::ostream *out) { *out << weather.name; }

class Storm : public testing::TestWithParam<Weather> {};

TEST_P(Storm, NothingIsReadWrong) {
  TempDir temp;
  make_tree(temp / "source", kFiles);
  Mount::Options options;
  options.policy = GetParam().policy;
  Mount mount(temp / "source", temp.dir("mnt"), options);
  const uint64_t seed_value = seed(20'261'121), steps = scaled(150, 20'000), kills = scaled(20, 2000);
  auto start = [&](unsigned number, uint64_t how_long, bool hooked) {
    Spec spec = worker("storm", {mount.point(), mount.point() + "/own" + std::to_string(number),
                                 std::to_string(how_long), std::to_string(seed_value + number)}, hooked);
    spec.env["SHORTFUSE_OPEN"] = GetParam().opens;
    spec.err = temp / ("err" + std::to_string(number));
    spec.report = temp / "report";
    return Process(spec);
  };
  std::vector<Process> survivors;
  for (unsigned i = 0; i < 3; ++i) survivors.push_back(start(i, steps, /*hooked=*/i != 2));

  std::mt19937_64 random(seed_value);
  std::vector<pid_t> victims;
  for (uint64_t i = 0; i < kills; ++i) {
    Process victim = start(1000 + static_cast<unsigned>(i % 5), ~0ull >> 1, /*hooked=*/true);
    nap_ms(1 + static_cast<unsigned>(random() % 150));
    EXPECT_TRUE(victim.running()) << "seed " << seed_value << "\n"
                                  << read_file(temp / ("err" + std::to_string(1000 + i % 5)));
    victims.push_back(victim.pid());
    victim.kill_and_reap();
  }
  for (unsigned i = 0; i < survivors.size(); ++i) {
    EXPECT_EQ(survivors[i].wait(std::chrono::seconds(scaled(400, 7200))), 0)
        << "seed " << seed_value << "\n" << read_file(temp / ("err" + std::to_string(i)));
  }
  EXPECT_GT(Report::read(temp / "report").served("read"), steps);
  const bool opens_served = std::string_view(GetParam().opens).empty();
  EXPECT_EQ(Report::read(temp / "report").served("open") > steps, opens_served) << Report::read(temp / "report").text();
  // The killed have left nothing with the daemon; their children have ended by themselves.
  EXPECT_TRUE(eventually([&] {
    for (const auto &client : status_of(mount.daemon().pid())["clients"]) {
      if (std::ranges::find(victims, client["pid"].get<pid_t>()) != victims.end()) return false;
    }
    return true;
  })) << status_of(mount.daemon().pid()).dump();
  EXPECT_TRUE(mount.daemon().running()) << mount.log();
  mount.unmount();
}

INSTANTIATE_TEST_SUITE_P(All, Storm,
                         testing::Values(Weather{"Chain", "metacache:datacache", "kernel"},
                                         Weather{"Datacache", "datacache", "kernel"},
                                         Weather{"OpensServed", "datacache", ""}),
                         [](const auto &given) { return std::string(given.param.name); });

}  // namespace
}  // namespace shortfuse::tests
