#include "slot_table.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

namespace shortfuse::passthrough {
namespace {

TEST(SlotTable, NumbersStartAtOneAndAreFoundOncePublished) {
  SlotTable<int> table;
  auto [id, object] = table.reserve();
  EXPECT_EQ(id, 1u);
  EXPECT_EQ(table.find(id), nullptr);
  *object = 7;
  table.publish(id);
  ASSERT_NE(table.find(id), nullptr);
  EXPECT_EQ(*table.find(id), 7);
  EXPECT_EQ(table.size(), 1u);
}

TEST(SlotTable, ANumberIsNeverUsedTwice) {
  SlotTable<int> table;
  std::set<uint64_t> seen;
  for (int i = 0; i < 10000; ++i) {
    auto [id, object] = table.reserve();
    EXPECT_TRUE(seen.insert(id).second);
    table.publish(id);
    if (i % 3) table.retire(id);
  }
  EXPECT_EQ(table.size(), 3334u);
}

TEST(SlotTable, AnOldNumberFindsNothing) {
  SlotTable<int> table;
  auto first = table.reserve();
  table.publish(first.id);
  table.retire(first.id);
  auto second = table.reserve();
  table.publish(second.id);
  EXPECT_EQ(first.object, second.object);
  EXPECT_EQ(table.find(first.id), nullptr);
  EXPECT_EQ(table.find(second.id), second.object);
  EXPECT_GT(SlotTable<int>::generation(second.id), SlotTable<int>::generation(first.id));
}

TEST(SlotTable, StrangeNumbersFindNothing) {
  SlotTable<int> table;
  for (uint64_t id : {0ull, 1ull, 4096ull, 0xFFFFFFFull, ~0ull, 1ull << 28, 1ull << 63}) {
    EXPECT_EQ(table.find(id), nullptr) << id;
  }
}

TEST(SlotTable, ThreadsGetDifferentNumbers) {
  SlotTable<uint64_t> table;
  auto work = [&] {
    for (int i = 0; i < 20000; ++i) {
      auto [id, object] = table.reserve();
      *object = id;
      table.publish(id);
      ASSERT_EQ(*table.find(id), id);
      if (i % 8) table.retire(id);
    }
  };
  std::thread threads[4];
  for (auto& thread : threads) thread = std::thread(work);
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(table.size(), 4u * 2500);
}

}  // namespace
}  // namespace shortfuse::passthrough
