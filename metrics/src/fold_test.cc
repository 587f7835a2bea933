#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "shortfuse/metrics/snapshot.h"

namespace shortfuse::metrics {
namespace {

struct Lanes {
  Lanes() : lane(new sf_lane[SF_LANES]()) {}
  std::span<const sf_lane> span() const { return {lane.get(), SF_LANES}; }
  std::unique_ptr<sf_lane[]> lane;
};

TEST(Ops, EveryNumberHasItsOwnNameAndNothingElseHasOne) {
  std::set<std::string> names;
  for (unsigned i = 0; i < SF_OP_COUNT; i++) EXPECT_TRUE(names.insert(sf_op_name(i)).second);
  EXPECT_EQ(sf_op_name(SF_OP_COUNT), nullptr);
  EXPECT_STREQ(sf_op_name(SF_OP_LSEEK), "lseek");
  names.clear();
  for (unsigned i = 0; i < SF_OUT_COUNT; i++) EXPECT_TRUE(names.insert(sf_outcome_name(i)).second);
  EXPECT_EQ(sf_outcome_name(SF_OUT_COUNT), nullptr);
  EXPECT_STREQ(sf_outcome_name(SF_OUT_PASSED), "passed");
  names.clear();
  for (unsigned i = 0; i < SF_MISS_COUNT; i++) EXPECT_TRUE(names.insert(sf_miss_name(i)).second);
  EXPECT_EQ(sf_miss_name(SF_MISS_COUNT), nullptr);
  EXPECT_EQ(sf_miss_name(~0u), nullptr);
  EXPECT_STREQ(sf_miss_name(SF_MISS_BUSY), "busy");
  EXPECT_STREQ(sf_miss_name(SF_MISS_EXPIRED), "expired");
  EXPECT_STREQ(sf_miss_name(SF_MISS_LEFT_MOUNT), "left_mount");
}

TEST(Histogram, BucketsAndFloorsAgree) {
  for (unsigned i = 0; i < SF_LATENCY_BUCKETS; i++) {
    const uint64_t floor = sf_latency_bucket_floor_ns(i);
    EXPECT_EQ(sf_latency_bucket(floor), i) << floor;
    if (i > 0) {
      EXPECT_EQ(sf_latency_bucket(floor - 1), i - 1) << floor;
    }
  }
  EXPECT_EQ(sf_latency_bucket(~0ull), SF_LATENCY_BUCKETS - 1u);
}

TEST(Histogram, PercentilesAreFloorsOfTheRightBucket) {
  Histogram h;
  EXPECT_EQ(h.percentile_ns(500), 0u);
  for (int i = 0; i < 90; i++) h.record(100);
  for (int i = 0; i < 9; i++) h.record(5000);
  h.record(1'000'000);
  const auto floor_of = [](uint64_t ns) { return sf_latency_bucket_floor_ns(sf_latency_bucket(ns)); };
  EXPECT_EQ(h.count(), 100u);
  EXPECT_EQ(h.percentile_ns(500), floor_of(100));
  EXPECT_EQ(h.percentile_ns(900), floor_of(100));
  EXPECT_EQ(h.percentile_ns(901), floor_of(5000));
  EXPECT_EQ(h.percentile_ns(990), floor_of(5000));
  EXPECT_EQ(h.percentile_ns(1000), floor_of(1'000'000));
  EXPECT_EQ(h.summary().max_ns, floor_of(1'000'000));
  EXPECT_EQ(h.percentile_ns(0), floor_of(100));
}

TEST(Histogram, SaturatesInsteadOfWrapping) {
  Histogram h;
  h.bucket[3] = ~0ull;
  h.bucket[9] = ~0ull;
  EXPECT_EQ(h.count(), ~0ull);
  EXPECT_EQ(h.percentile_ns(500), 3u);
  Histogram sum = h;
  sum.add(h);
  EXPECT_EQ(sum.bucket[3], ~0ull);
}

TEST(Fold, AddsLanes) {
  Lanes lanes;
  lanes.lane[0].count[SF_OP_STAT][SF_OUT_SERVED] = 3;
  lanes.lane[31].count[SF_OP_STAT][SF_OUT_SERVED] = 4;
  lanes.lane[5].count[SF_OP_READ][SF_OUT_MISSED] = 2;
  lanes.lane[5].miss[SF_OP_READ][SF_MISS_DATA] = 2;
  lanes.lane[5].latency[SF_OP_READ][1][40] = 2;
  lanes.lane[0].latency[SF_OP_STAT][0][20] = 1;
  lanes.lane[7].bytes_served = 4096;
  const ClientTotals t = fold_lanes(lanes.span());
  EXPECT_EQ(t.op[SF_OP_STAT].outcome[SF_OUT_SERVED], 7u);
  EXPECT_EQ(t.op[SF_OP_READ].miss[SF_MISS_DATA], 2u);
  EXPECT_EQ(t.op[SF_OP_READ].other.bucket[40], 2u);
  EXPECT_EQ(t.op[SF_OP_READ].served.count(), 0u);
  EXPECT_EQ(t.op[SF_OP_STAT].served.bucket[20], 1u);
  EXPECT_EQ(t.bytes_served, 4096u);
  EXPECT_EQ(t.sum(SF_OUT_SERVED), 7u);
  ClientTotals both = t;
  both.add(t);
  EXPECT_EQ(both.op[SF_OP_STAT].outcome[SF_OUT_SERVED], 14u);
  EXPECT_EQ(both.op[SF_OP_READ].other.bucket[40], 4u);
  EXPECT_EQ(both.bytes_served, 8192u);
}

TEST(Fold, HostileLanesOnlySpoilTheCounts) {
  Lanes lanes;
  std::memset(static_cast<void *>(lanes.lane.get()), 0xff, SF_LANES * sizeof(sf_lane));
  const ClientTotals t = fold_lanes(lanes.span());
  EXPECT_EQ(t.op[SF_OP_OTHER].outcome[SF_OUT_PASSED], ~0ull);
  EXPECT_EQ(t.sum(SF_OUT_PASSED), ~0ull);
  EXPECT_EQ(t.op[SF_OP_STAT].served.summary().count, ~0ull);
}

TEST(Fold, MayRunWhileALaneIsWritten) {
  Lanes lanes;
  constexpr uint64_t kCalls = 20000;
  std::thread writer([&] {
    for (uint64_t i = 1; i <= kCalls; i++) {
      __atomic_store_n(&lanes.lane[2].count[SF_OP_STAT][SF_OUT_SERVED], i, __ATOMIC_RELAXED);
    }
  });
  uint64_t last = 0;
  for (int i = 0; i < 50; i++) {
    const uint64_t now = fold_lanes(lanes.span()).op[SF_OP_STAT].outcome[SF_OUT_SERVED];
    EXPECT_GE(now, last);
    last = now;
  }
  writer.join();
  EXPECT_EQ(fold_lanes(lanes.span()).op[SF_OP_STAT].outcome[SF_OUT_SERVED], kCalls);
}

TEST(Printable, KeepsNothingThatATerminalWouldActOn) {
  const char raw[16] = {'a', '\033', '[', 'K', '\xff', '\n', 'b', '\0', 'c'};
  EXPECT_EQ(printable(raw, sizeof raw), "a?[K??b");
  const char full[4] = {'x', 'y', 'z', 'w'};
  EXPECT_EQ(printable(full, sizeof full), "xyzw");
}

TEST(BridgeCounters, SumsOverThreads) {
  BridgeCounters counters;
  constexpr int kThreads = 20, kEach = 1000;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; i++) {
        counters.seen(3);
        counters.passed(3);
        counters.replied(3, 100, i % 2 == 0 ? 0 : -2);
      }
    });
  }
  for (auto &thread : threads) thread.join();
  const auto totals = counters.totals();
  EXPECT_EQ(totals[3].seen, static_cast<uint64_t>(kThreads * kEach));
  EXPECT_EQ(totals[3].passed, static_cast<uint64_t>(kThreads * kEach));
  EXPECT_EQ(totals[3].errors, static_cast<uint64_t>(kThreads * kEach / 2));
  EXPECT_EQ(totals[3].latency.count(), static_cast<uint64_t>(kThreads * kEach));
  EXPECT_EQ(totals[3].served, 0u);
  EXPECT_EQ(totals[4].seen, 0u);
}

TEST(BridgeCounters, UnknownOpcodesAreCountedTogether) {
  BridgeCounters counters;
  counters.seen(4096);
  counters.seen(~0u);
  counters.denied(64);
  counters.served(64);
  counters.replied(1u << 31, ~0ull, 0);
  const auto totals = counters.totals();
  EXPECT_EQ(totals[0].seen, 2u);
  EXPECT_EQ(totals[0].denied, 1u);
  EXPECT_EQ(totals[0].served, 1u);
  EXPECT_EQ(totals[0].latency.bucket[SF_LATENCY_BUCKETS - 1], 1u);
}

}  // namespace
}  // namespace shortfuse::metrics
