// A mount and a plain directory get the same random operations and must not be told apart: by a process with the hook
// and one without it, which take turns on one tree, or work at the same time on two. See differential/differ.h.
//
// The seed is fixed, and printed where something differs; SHORTFUSE_TEST_SEED gives another.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "differential/differ.h"
#include "support/harness.h"
#include "support/shared.h"

namespace shortfuse::tests {
namespace {

constexpr unsigned kBatch = 6;                    // operations per turn
constexpr char kDeep[] = "/mnt/u/u/u/u/u/u";      // what ".." may climb without leaving what is compared

struct Course {
  Signal turn;
  std::atomic<uint32_t> stop{0};
  std::atomic<uint64_t> changes{0};
};

/// mount-root plain-root seed steps shared-file index(0/1) turns(0/1) other-users(0/1) opens-served(0/1)
SF_WORKER(differ) {
  signal(SIGPIPE, SIG_IGN);
  umask(022);
  Shared<Course> course(args.at(4));
  Differ::Config config;
  config.root[kMount] = args.at(0);
  config.root[kPlain] = args.at(1);
  config.seed = std::stoull(args.at(2));
  config.other_users = args.at(7) == "1";
  config.opens_served = args.at(8) == "1";
  // Working at the same time, one does not see when the other changes a directory: each has its own count.
  std::atomic<uint64_t> own_changes{0};
  bool turns = args.at(6) == "1";
  config.changes = turns ? &course->changes : &own_changes;
  uint64_t steps = std::stoull(args.at(3));
  uint32_t me = static_cast<uint32_t>(std::stoul(args.at(5)));
  Differ differ(config);
  try {
    for (uint64_t step = 0; step < steps; ++step) {
      if (turns && step % kBatch == 0 && !course->turn.await(me, course->stop)) return 3;
      differ.step();
      if (turns && step % kBatch == kBatch - 1) course->turn.set(1 - me);
      if (!turns && step % 5000 == 4999) differ.compare_trees();
      if (!turns && course->stop.load() != 0) return 3;
    }
  } catch (const Mismatch &mismatch) {
    course->stop.store(1);
    std::fprintf(stderr, "%s\nthe operations before it (process %u):\n%s", mismatch.what(), me, differ.trail().c_str());
    return 1;
  }
  return 0;
}

struct Setting {
  const char *name, *policy;
  double kernel_timeout_s;
  bool turns;
  bool opens_served = false;
};

class Differential : public testing::TestWithParam<Setting> {};

TEST_P(Differential, CannotBeToldApart) {
  const Setting &setting = GetParam();
  TempDir temp;
  std::string source = temp.dir("source"), point = temp.dir("m/mnt"), plain = temp.dir("p/mnt");
  uint64_t seed_value = seed(20'251'121);
#ifdef SF_SANITIZED
  constexpr uint64_t kSteps = 10'000;
#else
  constexpr uint64_t kSteps = 30'000;
#endif
  uint64_t steps = scaled(kSteps, 600'000) / kBatch * kBatch;
  unsigned trees = setting.turns ? 1 : 2;
  std::string below[2];
  for (unsigned tree = 0; tree < trees; ++tree) {
    below[tree] = "/w" + std::to_string(tree) + (kDeep + 4);
    for (const auto &root : {source, plain}) Differ::plant(root + below[tree]);
  }
  if (setting.turns) below[1] = below[0];

  Mount::Options options;
  options.policy = setting.policy;
  options.kernel_timeout_s = setting.kernel_timeout_s;
  if (is_root()) options.more = "allow_other,bpftime_share=all";
  Mount mount(source, point, options);

  Process workers[2];
  for (unsigned i = 0; i < 2; ++i) {
    Spec spec = worker("differ",
                       {point + below[i], plain + below[i], std::to_string(seed_value + i), std::to_string(steps),
                        temp / "course", std::to_string(i), setting.turns ? "1" : "0", is_root() ? "1" : "0",
                        setting.opens_served ? "1" : "0"},
                       /*hooked=*/i == 0);
    // Where the kernel is asked about descriptors by calls that nobody sees, it has to have them open.
    spec.env["SHORTFUSE_OPEN"] = setting.opens_served ? "cache" : "kernel";
    spec.report = temp / "report";
    spec.err = temp / ("worker" + std::to_string(i));
    workers[i] = Process(spec);
  }
  // The one that fails stops the other.
  for (unsigned i = 0; i < 2; ++i) {
    int status = workers[i].wait(std::chrono::seconds(scaled(300, 7200)));
    EXPECT_EQ(status, 0) << (i == 0 ? "hooked" : "unhooked") << " process, seed " << seed_value + i << "\n"
                         << read_file(temp / ("worker" + std::to_string(i)));
  }
  ASSERT_FALSE(HasFailure()) << mount.log();
  try {
    tests::compare_trees(point, plain, point);
    tests::compare_trees(source, plain, point);
  } catch (const Mismatch &mismatch) {
    FAIL() << mismatch.what();
  }

  // A run in which nothing was served has compared the kernel with itself.
  auto report = Report::read(temp / "report");
  std::vector<std::string> expected = {"stat", "access", "readdir", "readlink"};
  if (std::string_view(setting.policy) == "datacache") expected.insert(expected.end(), {"read", "getxattr"});
  if (setting.opens_served) expected.push_back("open");
  for (const auto &op : expected) EXPECT_GT(report.served(op), steps / 10'000) << op << "\n" << report.text();
  EXPECT_TRUE(mount.daemon().running()) << mount.log();
  mount.unmount();
}

INSTANTIATE_TEST_SUITE_P(
    All, Differential,
    testing::Values(Setting{"MetacacheTurns", "metacache", 0, true}, Setting{"DatacacheTurns", "datacache", 0, true},
                    Setting{"DatacacheTurnsLongTimeouts", "datacache", 3600, true},
                    Setting{"MetacacheTogetherLongTimeouts", "metacache", 3600, false},
                    Setting{"DatacacheTogether", "datacache", 0, false},
                    Setting{"DatacacheTogetherLongTimeouts", "datacache", 3600, false},
                    Setting{"OpensTurns", "datacache", 0, true, true},
                    Setting{"OpensTogetherLongTimeouts", "datacache", 3600, false, true}),
    [](const auto &setting) { return std::string(setting.param.name); });

}  // namespace
}  // namespace shortfuse::tests
