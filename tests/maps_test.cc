// A policy with a map of every kind on a real mount: counted in hooked processes, added up and followed by the
// command, changed by people, kept across a remount.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <sstream>

#include "support/harness.h"
#include "support/shared.h"

namespace shortfuse::tests {
namespace {

using nlohmann::json;

constexpr int kStats = 500;

/// How a process and then its child look at a file in step with the test. Each, once told to begin, goes on looking
/// until it is told that the daemon counts it, stops, and looks so many times more; `reached` is the last step done.
struct Turns {
  std::atomic<pid_t> pid{0};
  std::atomic<uint32_t> step{0}, reached{0};
};
constexpr uint32_t kBegin[] = {1, 4};  // the process's first step, its child's

int look_in_step(Turns &turns, uint32_t begin, const char *file, int times) {
  struct stat st;
  while (turns.step < begin) nap_ms(1);
  turns.pid = getpid();
  for (; turns.step == begin; nap_ms(2)) {
    if (stat(file, &st) != 0) return 1;
  }
  turns.reached = begin + 1;
  while (turns.step == begin + 1) nap_ms(1);
  for (int i = 0; i < times; ++i) {
    if (stat(file, &st) != 0) return 1;
  }
  turns.reached = begin + 2;
  return 0;
}

/// file times turns
SF_WORKER(maps_look) {
  Shared<Turns> turns(args[2]);
  const int times = std::stoi(args[1]);
  if (look_in_step(*turns, kBegin[0], args[0].c_str(), times) != 0) return 1;
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    _exit(look_in_step(*turns, kBegin[1], args[0].c_str(), times));
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

/// Goes on for ever.
SF_WORKER(maps_look_on) {
  struct stat st;
  while (stat(args[0].c_str(), &st) == 0) {}
  return 1;
}

Finished map_command(std::vector<std::string> words) {
  words.insert(words.begin(), {program("shortfuse"), "map"});
  Spec spec;
  spec.argv = std::move(words);
  return run(spec);
}

std::vector<json> lines_of(const std::string &text) {
  std::vector<json> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line));
  return out;
}

std::vector<json> dumped(const Mount &mount, const char *map) {
  const Finished done = map_command({"dump", mount.point(), map, "--json"});
  EXPECT_EQ(0, done.status) << map << ": " << done.err;
  return lines_of(done.out);
}

class Maps : public ::testing::Test {
 protected:
  // Nothing is kept where others would find it.
  Maps() : source(temp.dir("source")), point(temp.dir("mnt")) {
    write_file(source + "/file", "text");
    setenv("SHORTFUSE_STATE", (temp / "state").c_str(), 1);
  }
  ~Maps() override { unsetenv("SHORTFUSE_STATE"); }
  Mount::Options options() {
    Mount::Options out;
    out.policy = "everymap:metacache";
    return out;
  }
  /// Looks by a process and its child, each of which is counted to the last call; before that, an unknown number.
  void look(const Mount &mount, int times) {
    const std::string board = temp / ("turns" + std::to_string(boards++));
    Shared<Turns> turns(board);
    Process process(worker("maps_look", {mount.point() + "/file", std::to_string(times), board}, true));
    pid_t last = 0;
    for (const uint32_t begin : kBegin) {
      turns->step = begin;
      ASSERT_TRUE(eventually([&] { return turns->pid != last && counts(mount, turns->pid); })) << "step " << begin;
      last = turns->pid;
      turns->step = begin + 1;
      ASSERT_TRUE(eventually([&] { return turns->reached == begin + 1; }));
      const uint64_t before = counted(mount);
      turns->step = begin + 2;
      ASSERT_TRUE(eventually([&] { return turns->reached == begin + 2; }));
      EXPECT_EQ(before + static_cast<uint64_t>(times), counted(mount));
    }
    ASSERT_EQ(0, process.wait());
  }
  static bool counts(const Mount &mount, pid_t process) {
    const auto calls = dumped(mount, "calls");
    if (calls.empty()) return false;
    for (const json &one : calls[0]["values"]) {
      if (one["pid"] == process) return true;
    }
    return false;
  }
  static uint64_t counted(const Mount &mount) { return dumped(mount, "calls")[0]["value"].get<uint64_t>(); }
  TempDir temp;
  std::string source, point;
  unsigned boards = 0;
};

TEST_F(Maps, CountedInApplicationsAndAddedUp) {
  Mount mount(source, point, options());
  look(mount, kStats);
  look(mount, kStats);
  ASSERT_EQ(16u, dumped(mount, "calls").size());
  const uint64_t counted = Maps::counted(mount);
  EXPECT_GE(counted, 4u * kStats) << "two processes and their children";
  const auto nodes = dumped(mount, "by_node");
  ASSERT_EQ(1u, nodes.size());
  EXPECT_EQ(counted, nodes[0]["value"]["calls"].get<uint64_t>());
  const auto events = dumped(mount, "events");
  ASSERT_EQ(counted, events.size()) << "nothing was lost";
  EXPECT_EQ(nodes[0]["key"], events[0]["record"]["node"]);
  EXPECT_GT(events[0]["record"]["pid"].get<int>(), 0);
  // The daemon's side.
  EXPECT_GT(dumped(mount, "totals")[0]["value"].get<uint64_t>(), 0u);
  EXPECT_FALSE(dumped(mount, "recent").empty());
  EXPECT_FALSE(dumped(mount, "opcodes").empty());
  EXPECT_EQ(0, map_command({"lookup", mount.point(), "nodes", dumped(mount, "recent")[0]["key"].dump()}).status);
}

TEST_F(Maps, ReadWhileAndAfterAProcessIsKilled) {
  Mount mount(source, point, options());
  for (int round = 0; round < 5; ++round) {
    Process process(worker("maps_look_on", {mount.point() + "/file"}, true));
    uint64_t before = 0;
    ASSERT_TRUE(eventually([&] {
      if (counts(mount, process.pid())) before = counted(mount);
      return before != 0;
    }));
    process.signal(SIGKILL);
    process.wait();
    ASSERT_TRUE(eventually([&] {
      const json calls = dumped(mount, "calls")[0];
      EXPECT_GE(calls["value"].get<uint64_t>(), before) << "what was counted stays";
      return calls["values"].size() == 1 && calls["values"][0]["pid"] == 0;
    }));
    dumped(mount, "events");
  }
}

TEST_F(Maps, EventsAreFollowed) {
  Mount mount(source, point, options());
  Spec spec;
  spec.argv = {program("shortfuse"), "map", "dump", mount.point(), "events", "--follow", "--json"};
  spec.out = temp / "events";
  Process follower(spec);
  look(mount, 100);
  const auto lines = [&] {
    const std::string text = read_file(temp / "events");
    return std::count(text.begin(), text.end(), '\n');
  };
  const auto wanted = static_cast<ptrdiff_t>(counted(mount));
  EXPECT_TRUE(eventually([&] { return lines() == wanted; })) << lines() << " of " << wanted;
  EXPECT_TRUE(follower.running());
}

TEST_F(Maps, ChangedByPeople) {
  Mount mount(source, point, options());
  auto status = [&](std::vector<std::string> words) {
    words.insert(words.begin() + 1, mount.point());
    return map_command(words);
  };
  EXPECT_EQ(0, status({"update", "quiet", "0", "1"}).status);
  EXPECT_EQ("0  1\n", status({"dump", "quiet"}).out);
  look(mount, 50);
  if (is_root()) {
    EXPECT_TRUE(dumped(mount, "events").empty()) << "applications see it";
  }
  EXPECT_NE(std::string::npos, status({"update", "quiet", "0", "1", "--if-absent"}).err.find("has that key already"));
  EXPECT_NE(std::string::npos, status({"update", "quiet", "7", "1", "--if-present"}).err.find("has no such key"));
  EXPECT_EQ(0, status({"delete", "quiet", "0"}).status);
  EXPECT_NE(std::string::npos, status({"delete", "quiet", "0"}).err.find("has no such key"));
  for (int key = 0; key < 64; ++key) ASSERT_EQ(0, status({"update", "quiet", std::to_string(key), "1"}).status);
  EXPECT_NE(std::string::npos, status({"update", "quiet", "64", "1"}).err.find("is full"));
  EXPECT_NE(std::string::npos, status({"update", "calls", "0", "1"}).err.find("each process has its own"));
  EXPECT_NE(std::string::npos, status({"update", "quiet", "x", "1"}).err.find("\"x\" is not a number"));
  EXPECT_NE(std::string::npos, status({"lookup", "nothing", "1"}).err.find("it has: "));
  EXPECT_EQ(0, status({"update", "nets", "10.0.0.0/8", "9"}).status);
  EXPECT_EQ("10.0.0.1/32  9\n", status({"lookup", "nets", "10.0.0.1"}).out);
  EXPECT_EQ(1, status({"lookup", "nets", "11.0.0.1"}).status);
}

TEST_F(Maps, PinnedOnesOutliveTheMount) {
  for (int round = 0; round < 3; ++round) {
    Mount mount(source, point, options());
    const auto quiet = dumped(mount, "quiet");
    ASSERT_EQ(static_cast<size_t>(round), quiet.size());
    ASSERT_EQ(0, map_command({"update", mount.point(), "quiet", std::to_string(100 + round), "1"}).status);
    ASSERT_EQ(0, map_command({"update", mount.point(), "totals", "1", "7"}).status) << "which is not pinned";
    mount.unmount();
  }
  for (const auto &file : std::filesystem::directory_iterator(temp / "state/maps")) write_file(file.path(), "damaged");
  Mount mount(source, point, options());
  EXPECT_TRUE(dumped(mount, "quiet").empty());
  EXPECT_EQ(0, dumped(mount, "totals")[1]["value"].get<int>());
  EXPECT_NE(std::string::npos, mount.log().find("pinned map quiet begins empty")) << mount.log();
}

}  // namespace
}  // namespace shortfuse::tests
