/* Records, slots, eviction: against a model, and the few things that a model does not show. */
#include "store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "testing.h"

namespace shortfuse::cache {
namespace {

using testing::some_bytes;

std::unique_ptr<Store> make_store(uint64_t budget) {
  auto store = Store::create(budget);
  EXPECT_TRUE(store.has_value());
  return std::move(*store);
}

uint64_t total_records(const Store &store) {
  Stats stats{};
  store.add_stats(stats);
  uint64_t total = 0;
  for (uint64_t records : stats.records) total += records;
  return total;
}

/// Entries in the index that lead to a record.
uint64_t entries(Store &store) {
  uint64_t count = 0;
  for (uint64_t i = 0; i < (store.view().index_mask + 1) * SF_INDEX_BUCKET_ENTRIES; ++i) {
    count += store.segment().index()[i] != 0;
  }
  return count;
}

// Few records touch little of a large index; none is lost while it grows, and who reads meanwhile finds nothing wrong.
TEST(Store, TheIndexGrowsWithWhatIsInIt) {
  auto store = make_store(256ull << 20);
  const sf_segment_header *header = store->segment().header();
  const uint64_t first = header->index_used;
  EXPECT_LT(first * 64, header->index_buckets);
  constexpr uint64_t kRecords = 300'000;
  std::atomic<uint64_t> written{0}, found{0}, wrong{0};
  std::jthread reader([&](const std::stop_token &stop) {
    for (std::mt19937_64 random(1); !stop.stop_requested();) {
      if (written == 0) continue;
      const uint64_t key = random() % written;
      uint64_t value = 0;
      if (sf_find_node(&store->view(), key, &value) != SF_FIND_OK) continue;
      ++found;
      wrong += value != key * 3;
    }
  });
  uint64_t used = first;
  unsigned steps = 0;
  for (uint64_t key = 0; key < kRecords; ++key) {
    const uint64_t value = key * 3;
    ASSERT_TRUE(store->put({SF_REC_NODE, key}, {}, {bytes_of(value)}));
    written = key + 1;
    if (header->index_used == used) continue;
    ++steps;
    used = header->index_used;
    ASSERT_EQ(entries(*store), key + 1) << "each has one entry";
    for (uint64_t known = 0; known <= key; ++known) {
      uint64_t there = 0;
      ASSERT_NE(store->find({SF_REC_NODE, known}), nullptr);
      ASSERT_EQ(sf_find_node(&store->view(), known, &there), SF_FIND_OK);
      ASSERT_EQ(there, known * 3);
    }
  }
  EXPECT_GE(steps, 3u);
  EXPECT_EQ(used, header->index_buckets) << "all that there is, in the end";
  reader.request_stop();
  reader.join();
  EXPECT_GT(found, 0u);
  EXPECT_EQ(wrong, 0u);
  Stats stats{};
  store->add_stats(stats);
  EXPECT_EQ(stats.evictions, 0u);
  for (uint64_t key = 0; key < kRecords; ++key) ASSERT_TRUE(store->remove({SF_REC_NODE, key}));
  EXPECT_EQ(entries(*store), 0u);
}

TEST(Store, RandomOperationsMatchAModel) {
  // Sizes that meet all classes, in a store that is sometimes ample and sometimes far too small.
  for (uint64_t budget : {4ull << 20, 64ull << 20}) {
    auto store = make_store(budget);
    std::mt19937_64 random(budget);
    struct Value { size_t size; unsigned seed; };
    std::map<uint64_t, Value> model;
    uint64_t hits = 0, misses = 0;
    for (int step = 0; step < 200000; ++step) {
      const uint64_t key = random() % 4000;
      const auto kind = static_cast<sf_record_kind>(SF_REC_DATA + key % 2);  // DATA, LISTING
      const RecordKey record_key{kind, key, key / 3};
      if (random() % 4 == 0) {
        store->remove(record_key);
        model.erase(key);
      } else if (random() % 2 == 0) {
        const size_t size = random() % 8 == 0 ? random() % (Store::kPayloadMax + 1) : random() % 700;
        const Value value{size, static_cast<unsigned>(random())};
        const auto bytes = some_bytes(size, value.seed);
        const Bytes all = bytes;
        const size_t cut = size / 3;
        ASSERT_TRUE(store->put(record_key, {}, {all.first(cut), all.subspan(cut)}));
        model[key] = value;
        ASSERT_NE(nullptr, store->find(record_key)) << "at least until the next call";
      }
      const uint64_t probe = random() % 4000;
      const auto probe_kind = static_cast<sf_record_kind>(SF_REC_DATA + probe % 2);
      const sf_record *found = store->find({probe_kind, probe, probe / 3});
      const auto expected = model.find(probe);
      if (found == nullptr) {
        misses += expected != model.end();
        continue;
      }
      ASSERT_NE(model.end(), expected);
      ASSERT_EQ(expected->second.size, found->len);
      const auto bytes = some_bytes(expected->second.size, expected->second.seed);
      ASSERT_TRUE(std::ranges::equal(bytes, Bytes(reinterpret_cast<const std::byte *>(found->payload), found->len)));
      ++hits;
    }
    EXPECT_GT(hits, 10000u);
    if (budget > 32u << 20) {
      EXPECT_EQ(0u, misses) << "nothing is lost while there is room";
      EXPECT_EQ(model.size(), total_records(*store));
    } else {
      EXPECT_GT(misses, 100u) << "the small one must have evicted";
    }
    EXPECT_EQ(total_records(*store), entries(*store));
  }
}

TEST(Store, NamesThatCollideAreKeptApart) {
  auto store = make_store(4 << 20);
  auto put = [&](std::string_view name, uint64_t value) {
    return store->put({SF_REC_DENTRY, 5, 77, name}, {}, {bytes_of(value), as_bytes(name)});
  };
  ASSERT_TRUE(put("one", 1));
  ASSERT_TRUE(put("two", 2));
  ASSERT_TRUE(put("three", 3));
  ASSERT_TRUE(put("two", 22));
  EXPECT_EQ(3u, total_records(*store));
  EXPECT_EQ(22, *reinterpret_cast<const int64_t *>(store->find({SF_REC_DENTRY, 5, 77, "two"})->payload));
  EXPECT_EQ(1, *reinterpret_cast<const int64_t *>(store->find({SF_REC_DENTRY, 5, 77, "one"})->payload));
  EXPECT_EQ(nullptr, store->find({SF_REC_DENTRY, 5, 77, "thre"}));
  EXPECT_TRUE(store->remove({SF_REC_DENTRY, 5, 77, "one"}));
  EXPECT_NE(nullptr, store->find({SF_REC_DENTRY, 5, 77, "three"}));
}

TEST(Store, TooLongIsRefusedAndTheLongestIsNot) {
  auto store = make_store(4 << 20);
  EXPECT_FALSE(store->put({SF_REC_XLIST, 1}, {}, {some_bytes(Store::kPayloadMax + 1, 1)}));
  EXPECT_TRUE(store->put({SF_REC_XLIST, 1}, {}, {some_bytes(Store::kPayloadMax, 1)}));
  EXPECT_TRUE(store->put({SF_REC_XLIST, 2}, {}, {}));
}

TEST(Store, VersionsAreEvenAndNeverRepeat) {
  auto store = make_store(4 << 20);
  uint64_t last = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    ASSERT_TRUE(store->put({SF_REC_LINK, i % 7}, {}, {bytes_of(i)}));
    const sf_record *record = store->find({SF_REC_LINK, i % 7});
    ASSERT_EQ(0u, record->version & 1);
    ASSERT_GT(record->version, last);
    last = record->version;
    store->amend(record, 0, 1);
    ASSERT_GT(record->version, last);
    last = record->version;
  }
}

TEST(Store, TouchedRecordsSurviveOthers) {
  auto store = make_store(4 << 20);
  const auto page = some_bytes(4096, 1);
  for (uint64_t i = 0; i < 20; ++i) ASSERT_TRUE(store->put({SF_REC_DATA, 1, i}, {}, {page}));
  for (uint64_t i = 0; i < 20000; ++i) {
    ASSERT_TRUE(store->put({SF_REC_DATA, 2, i}, {}, {page}));
    if (i % 50 != 0) continue;
    for (uint64_t hot = 0; hot < 20; ++hot) {
      store->touch(sf_find_ref(&store->view(), SF_REC_DATA, 1, hot));
    }
  }
  int survived = 0;
  for (uint64_t i = 0; i < 20; ++i) survived += store->find({SF_REC_DATA, 1, i}) != nullptr;
  EXPECT_GE(survived, 15);
}

TEST(Store, MemoryMovesBetweenClasses) {
  auto store = make_store(4 << 20);
  const auto page = some_bytes(4096, 1), small = some_bytes(60, 2);
  for (uint64_t i = 0; i < 2000; ++i) ASSERT_TRUE(store->put({SF_REC_DATA, 1, i}, {}, {page}));
  for (uint64_t i = 0; i < 40000; ++i) ASSERT_TRUE(store->put({SF_REC_LINK, i}, {}, {small}));
  uint64_t links = 0, pages = 0;
  for (uint64_t i = 0; i < 40000; ++i) links += store->find({SF_REC_LINK, i}) != nullptr;
  for (uint64_t i = 0; i < 2000; ++i) pages += store->find({SF_REC_DATA, 1, i}) != nullptr;
  EXPECT_GT(links, 15000u) << "of about 30000 for which there is room";
  EXPECT_LT(pages, 500u);
  for (uint64_t i = 0; i < 4000; ++i) ASSERT_TRUE(store->put({SF_REC_DATA, 2, i}, {}, {page}));
  pages = 0;
  for (uint64_t i = 0; i < 4000; ++i) pages += store->find({SF_REC_DATA, 2, i}) != nullptr;
  EXPECT_GT(pages, 500u) << "of about 900";
}

TEST(Store, IndexHoldsAsManyRecordsAsItIsMadeFor) {
  auto store = make_store(16 << 20);
  // One record for 256 bytes of budget is a load of a half.
  const uint64_t count = (16 << 20) / 256;
  for (uint64_t i = 0; i < count; ++i) ASSERT_TRUE(store->put({SF_REC_NODE, i}, {}, {bytes_of(i)}));
  EXPECT_GT(total_records(*store), count * 999 / 1000) << "hardly one was evicted for want of index room";
  for (uint64_t i = 0; i < 6 * count; ++i) ASSERT_TRUE(store->put({SF_REC_NODE, i}, {}, {bytes_of(i)}));
  EXPECT_GT(total_records(*store), 2 * count * 9 / 10) << "the index fills up";
  EXPECT_EQ(total_records(*store), entries(*store));
}

TEST(Store, ClearAndTrimGiveChunksBack) {
  auto store = make_store(8 << 20);
  for (uint64_t i = 0; i < 1500; ++i) ASSERT_TRUE(store->put({SF_REC_DATA, 1, i}, {}, {some_bytes(4096, 1)}));
  EXPECT_GT(store->chunks().size(), 2u);
  store->clear();
  EXPECT_EQ(1u, store->chunks().size());
  EXPECT_EQ(0u, total_records(*store));
  EXPECT_EQ(0u, entries(*store));
  for (uint64_t i = 0; i < 1500; ++i) ASSERT_TRUE(store->put({SF_REC_DATA, 1, i}, {}, {some_bytes(4096, 1)}));
  std::map<uint32_t, uint32_t> generations;
  for (const auto &chunk : store->chunks()) {
    EXPECT_TRUE(generations.emplace(chunk.generation, chunk.index).second);
    EXPECT_EQ(chunk.generation, store->segment().header()->chunk_generation[chunk.index]);
  }
  store->remove_kinds(SF_REC_DATA, SF_REC_NODE);
  EXPECT_EQ(0u, total_records(*store));
  EXPECT_EQ(0u, entries(*store));
}

}  // namespace
}  // namespace shortfuse::cache
