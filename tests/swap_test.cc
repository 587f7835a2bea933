// A policy is replaced a thousand times while hooked processes read: no call fails, no answer is wrong, and neither the
// daemon nor the readers grow.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/control.h"
#include "support/harness.h"
#include "support/shared.h"
#include "support/verify.h"

namespace shortfuse::tests {
namespace {

const char *const kPolicies[] = {"metacache", "datacache", "passall", "datacache", "passall:metacache"};
constexpr unsigned kReaders = 3;

struct Footprint {
  size_t descriptors, resident_kib, threads;
};
Footprint footprint(pid_t pid) { return {open_descriptors(pid), resident_kib(pid), threads_of(pid)}; }

void expect_not_grown(const char *what, const Footprint &before, const Footprint &after) {
  // The kernel path opens files: a few descriptors come and go. A leak of one per swap would be hundreds.
  EXPECT_LE(after.descriptors, before.descriptors + 40) << what;
  EXPECT_LE(after.threads, before.threads + 12) << what;  // libfuse keeps idle workers
#ifndef SF_SANITIZED  // a sanitiser keeps freed memory
  EXPECT_LE(after.resident_kib, before.resident_kib + 16 * 1024) << what;
#endif
}

TEST(Swap, UnderLoad) {
  TempDir temp;
  make_tree(temp / "source", 400);
  Mount mount(temp / "source", temp.dir("mnt"), {});
  Shared<Verified> board(temp / "board");
  std::vector<Process> readers;
  for (unsigned i = 0; i < kReaders; ++i) {
    Spec spec = verifier(temp / "board", temp / "source", mount.point(), seed(7) + i);
    spec.report = temp / ("report" + std::to_string(i));
    spec.err = temp / "err";
    readers.emplace_back(spec);
  }
  ASSERT_TRUE(eventually([&] { return board->readers_ready.load() == kReaders; }));

  const uint64_t swaps = scaled(1000, 20'000), settle = swaps / 4;
  pid_t daemon = mount.daemon().pid();
  Control control = control_of(daemon);
  Footprint daemon_before{}, readers_before[kReaders]{};
  uint64_t looks_before = 0;
  for (uint64_t i = 0; i < swaps; ++i) {
    const char *next = kPolicies[i % std::size(kPolicies)];
    // Now and then as a person would.
    if (i % 100 == 0) {
      swap(mount.point(), next);
    } else {
      swap_by_socket(control, next);
    }
    // The reader has to get somewhere under each policy, or nothing was under load.
    uint64_t looks = board->looks.load();
    eventually([&] { return board->looks.load() > looks + 3 || board->stop.load() != 0; }, std::chrono::seconds(5));
    for (auto &reader : readers)
      ASSERT_TRUE(reader.running()) << "after " << i << " swaps: " << read_file(temp / "err");
    if (i == settle) {
      looks_before = board->looks.load();
      daemon_before = footprint(daemon);
      for (unsigned r = 0; r < kReaders; ++r) readers_before[r] = footprint(readers[r].pid());
    }
  }
  expect_not_grown("the daemon", daemon_before, footprint(daemon));
  for (unsigned r = 0; r < kReaders; ++r) expect_not_grown("a reader", readers_before[r], footprint(readers[r].pid()));
  EXPECT_GT(board->looks.load(), looks_before + swaps);
  EXPECT_EQ(status_of(daemon)["policy"]["swaps"].get<uint64_t>(), swaps);

  board->stop.store(1);
  for (unsigned r = 0; r < kReaders; ++r) {
    EXPECT_EQ(readers[r].wait(), 0) << read_file(temp / "err");
    auto report = Report::read(temp / ("report" + std::to_string(r)));
    EXPECT_GT(report.served("stat"), 100u);
    EXPECT_GT(report.served("read"), 0u);
  }
  mount.unmount();
}

TEST(Swap, ARefusedPolicyLeavesTheOldOneInPlace) {
  TempDir temp;
  make_tree(temp / "source", 20);
  Mount mount(temp / "source", temp.dir("mnt"), {});
  std::string bad = temp / "bad.bpf.o";
  write_file(bad, read_file(policy("metacache")).substr(0, 700));
  auto before = status_of(mount.daemon().pid())["policy"];
  for (const auto &file : {bad, temp / "absent.bpf.o", temp.path()}) {
    auto done = shortfuse({"swap", mount.point(), file});
    EXPECT_NE(done.status, 0) << file;
    EXPECT_NE(done.err, "") << file;
  }
  auto after = status_of(mount.daemon().pid())["policy"];
  EXPECT_EQ(before["paths"], after["paths"]);
  EXPECT_EQ(before["swaps"], after["swaps"]);
  mount.unmount();
}

}  // namespace
}  // namespace shortfuse::tests
