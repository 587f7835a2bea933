// ctest-timeout: 300
// Descriptors whose open was served from the cache, in processes of many threads: each thread knows what each of its
// descriptors must be and where it stands (descriptors/walker.h), while files are replaced, handlers run, children are
// made, and the process does something after which its descriptors cannot be followed any more (CLONE_NEWNS among it).
//
// SHORTFUSE_SOAK=1 makes it long; the seed is fixed, SHORTFUSE_TEST_SEED gives another.
#include <gtest/gtest.h>

#include "support/harness.h"

namespace shortfuse::tests {
namespace {

constexpr uint64_t kMilliseconds = 250;

struct Case {
  const char *name, *event, *opens;
};
void PrintTo(const Case &given, std::ostream *out) { *out << given.name; }

class Descriptors : public testing::TestWithParam<Case> {};

TEST_P(Descriptors, AreWhatTheyWereOpenedAs) {
  TempDir temp;
  Mount mount(temp.dir("source"), temp.dir("mnt"), {});
  ASSERT_EQ(run(worker("descriptors_make", {mount.point()}, false)).status, 0);
  const uint64_t first = seed(20'261'122), runs = scaled(6, 400);
  Process changer(worker("descriptors_change", {mount.point(), std::to_string(first)}, false));
  for (uint64_t i = 0; i < runs; ++i) {
    Spec spec = worker("descriptors_storm", {mount.point(), std::to_string(first + i), std::to_string(3 + i % 4),
                                             std::to_string(kMilliseconds), GetParam().event, i % 2 == 0 ? "0" : "1"},
                       true);
    spec.env["SHORTFUSE_OPEN"] = GetParam().opens;
    spec.report = temp / "report";
    const Finished storm = run(spec);
    ASSERT_EQ(storm.status, 0) << "seed " << first + i << "\n" << storm.err;
  }
  EXPECT_TRUE(changer.running());
  changer.kill_and_reap();
  const bool opens_served = std::string_view(GetParam().opens) == "cache";
  EXPECT_EQ(Report::read(temp / "report").served("open") > 50 * runs, opens_served)
      << Report::read(temp / "report").text();
  EXPECT_GT(Report::read(temp / "report").served("read"), 0u);
  mount.unmount();
}

class OneNumber : public testing::TestWithParam<const char *> {};

TEST_P(OneNumber, IsOneFileOrAnotherToTwoThreads) {
  TempDir temp;
  Mount mount(temp.dir("source"), temp.dir("mnt"), {});
  ASSERT_EQ(run(worker("descriptors_make", {mount.point()}, false)).status, 0);
  const bool cache = std::string_view(GetParam()) == "cache";
  const std::string from = std::to_string(seed(20'261'122));
  const uint64_t steps = cache ? scaled(10'000, 1'000'000) : scaled(1000, 50'000);
  Spec spec = worker("descriptors_race", {mount.point(), from, std::to_string(steps)}, true);
  spec.env["SHORTFUSE_OPEN"] = GetParam();
  spec.report = temp / "report";
  const Finished race = run(spec, std::chrono::seconds(scaled(120, 3600)));
  EXPECT_EQ(race.status, 0) << race.err;
  const Report report = Report::read(temp / "report");
  EXPECT_EQ(report.served("open") > 1000, cache) << report.text();
  mount.unmount();
}

INSTANTIATE_TEST_SUITE_P(All, OneNumber, testing::Values("cache", "kernel"),
                         [](const auto &given) { return std::string(given.param); });

INSTANTIATE_TEST_SUITE_P(
    All, Descriptors,
    testing::Values(Case{"Nothing", "none", "cache"}, Case{"ByTheKernel", "unshare-fs", "kernel"},
                    Case{"Chroot", "chroot", "cache"}, Case{"UnshareDirectory", "unshare-fs", "cache"},
                    Case{"UnshareFiles", "unshare-files", "cache"}, Case{"UnshareMounts", "unshare-mounts", "cache"},
                    Case{"SharedWithAProcess", "clone-files", "cache"},
                    Case{"MemoryWithoutDescriptors", "clone-memory", "cache"}, Case{"Ring", "ring", "cache"},
                    Case{"Aio", "aio", "cache"}, Case{"Lock", "lock", "cache"}, Case{"Limit", "limit", "cache"},
                    Case{"Filter", "filter", "cache"}, Case{"Watch", "watch", "cache"},
                    Case{"Credentials", "credentials", "cache"}),
    [](const auto &given) { return std::string(given.param.name); });

}  // namespace
}  // namespace shortfuse::tests
