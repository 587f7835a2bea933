// HASH: what is hard to tell from outside. Keys that come and go under readers and iterations, and a writer that is
// killed anywhere, against a model that knows what it had done. (What users see: map_test.cc.)
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "maps/packed.h"
#include "maps/testing.h"

namespace {

using shortfuse::vm::testing::TestMap;

// The key 0, whose word is that of a free slot, is a key like any other.
TEST(HashMap, KeyOfZeroesIsAKey) {
  for (uint32_t key_size : {1u, 4u, 5u, 8u, 12u}) {
    TestMap map(SF_MAP_HASH, key_size, 8, 3);
    const unsigned char zero[12] = {}, one[12] = {1};
    uint64_t value = 5;
    EXPECT_EQ(nullptr, sf_map_lookup(&map.handle, zero, 0));
    EXPECT_EQ(-ENOENT, sf_map_delete(&map.handle, zero));
    EXPECT_EQ(-ENOENT, sf_map_update(&map.handle, zero, &value, 2, 0));
    ASSERT_EQ(0, sf_map_update(&map.handle, one, &value, 0, 0));
    EXPECT_EQ(nullptr, sf_map_lookup(&map.handle, zero, 0)) << "free slots are no keys";
    value = 6;
    ASSERT_EQ(0, sf_map_update(&map.handle, zero, &value, 1, 0));
    EXPECT_EQ(-EEXIST, sf_map_update(&map.handle, zero, &value, 1, 0));
    EXPECT_EQ(2u, sf_map_count(&map.handle));
    EXPECT_EQ(6u, *static_cast<uint64_t *>(sf_map_lookup(&map.handle, zero, 0)));
    value = 7;
    ASSERT_EQ(0, sf_map_update(&map.handle, zero, &value, 2, 0));
    EXPECT_EQ(7u, *static_cast<uint64_t *>(sf_map_lookup(&map.handle, zero, 0)));
    std::multiset<int> walked, stepped;
    unsigned char key[12] = {};
    for (int more = sf_map_next_key(&map.handle, nullptr, key); more == 0 && walked.size() < 9;
         more = sf_map_next_key(&map.handle, key, key)) {
      walked.insert(key[0]);
    }
    sf_map_cursor cursor{};
    while (sf_map_step(&map.handle, &cursor, 0) != 0) stepped.insert(*static_cast<const unsigned char *>(cursor.key));
    EXPECT_EQ((std::multiset<int>{0, 1}), walked);
    EXPECT_EQ(walked, stepped);
    EXPECT_EQ(0, sf_map_delete(&map.handle, zero));
    EXPECT_EQ(nullptr, sf_map_lookup(&map.handle, zero, 0));
    EXPECT_EQ(1u, sf_map_count(&map.handle));
  }
}

// Keys come and go under iterations: each key that they meet was there.
TEST(HashMap, IterationMeetsOnlyKeysThatWere) {
  for (uint32_t key_size : {4u, 8u}) {
    constexpr uint64_t kSteady = 40, kAll = 100, kFirst = 1000;  // 0 never was a key
    TestMap map(SF_MAP_HASH, key_size, 8, 90);
    for (uint64_t key = kFirst; key < kFirst + kSteady; ++key)
      ASSERT_EQ(0, sf_map_update(&map.handle, &key, &key, 0, 0));
    std::atomic<bool> stop{false};
    std::atomic<int> rounds{0};
    std::thread reader([&] {
      for (; !stop.load(std::memory_order_relaxed); ++rounds) {
        sf_map_cursor cursor{};
        while (sf_map_step(&map.handle, &cursor, 0) != 0) {
          // As a whole, as programs read it: the writer may be putting another one there.
          const uint64_t key =
              key_size == 4 ? __atomic_load_n(static_cast<const uint32_t *>(cursor.key), __ATOMIC_RELAXED)
                            : __atomic_load_n(static_cast<const uint64_t *>(cursor.key), __ATOMIC_RELAXED);
          ASSERT_TRUE(key >= kFirst && key < kFirst + kAll) << key;
        }
        uint64_t key = 0;
        int steps = 0;
        for (int more = sf_map_next_key(&map.handle, nullptr, &key); more == 0 && ++steps < 1000;
             more = sf_map_next_key(&map.handle, &key, &key)) {
          ASSERT_TRUE(key >= kFirst && key < kFirst + kAll) << key;
        }
      }
    });
    std::mt19937 random(10);
    for (uint64_t step = 1; step < 100000 || (rounds < 100 && !HasFailure()); ++step) {
      const uint64_t key = kFirst + random() % kAll;
      if (key >= kFirst + kSteady && random() % 2 != 0) sf_map_delete(&map.handle, &key);
      else sf_map_update(&map.handle, &key, &key, 0, 0);
    }
    stop = true;
    reader.join();
  }
}

// ---- keys chosen to have one bucket

struct Kind { uint32_t type, key, value; };
constexpr Kind kKinds[] = {{SF_MAP_HASH, 4, 8},      {SF_MAP_HASH, 8, 8},      {SF_MAP_HASH, 12, 8},
                           {SF_MAP_PERCPU_HASH, 8, 8}, {SF_MAP_LRU_HASH, 8, 8}};

struct Flooded {
  explicit Flooded(const Kind &kind) : map(kind.type, kind.key, kind.value, kEntries) {
    maps::header_of(map.data())->seed = 0x1234567890abcdef;
    packed = kind.type == SF_MAP_HASH && maps::is_packed(kind.key, kind.value, kEntries);
    slots = packed ? maps::PackedLayout{kind.key, kEntries}.slots() : maps::kSlots;
    for (uint64_t key = 1; keys.size() < kKeysOfBucket; ++key) (bucket_of(key) == 3 ? keys : others).push_back(key);
  }
  uint32_t bucket_of(uint64_t number) const {
    const Bytes key(number);
    const uint64_t seed = maps::header_of(map.handle.storage)->seed;
    const uint32_t size = map.shape.key_size;
    if (packed) {
      return maps::index_by(maps::hash_word(seed, maps::packed_key(key.bytes, size)),
                            maps::PackedLayout{size, kEntries}.buckets());
    }
    return maps::index_by(maps::hash_key(seed, key.bytes, size), maps::HashLayout{size, 8, kEntries, false}.buckets());
  }
  struct Bytes {
    explicit Bytes(uint64_t number) : words{number, 0}, bytes(reinterpret_cast<const unsigned char *>(words)) {}
    uint64_t words[2];
    const unsigned char *bytes;
  };
  int update(uint64_t key, uint64_t flags = 0) { return map.update(Bytes(key).bytes, &key, flags); }
  int erase(uint64_t key) { return map.erase(Bytes(key).bytes); }
  bool has(uint64_t key) {
    const void *value = map.find(Bytes(key).bytes);
    return value != nullptr && memcmp(value, &key, sizeof key) == 0;
  }
  size_t in_bucket() {
    return static_cast<size_t>(std::count_if(keys.begin(), keys.end(), [&](uint64_t key) { return has(key); }));
  }

  static constexpr uint32_t kEntries = 1000;
  static constexpr size_t kKeysOfBucket = 200;
  TestMap map;
  bool packed;
  size_t slots;
  std::vector<uint64_t> keys, others;
};

// So many keys find their place, and no more until one of them is gone; others are not concerned.
TEST(HashMap, BucketTakesSoManyKeysAndNoMore) {
  for (const Kind &kind : kKinds) {
    if (kind.type == SF_MAP_LRU_HASH) continue;
    Flooded flooded(kind);
    const size_t most = flooded.slots + maps::kLinksMax;
    for (size_t i = 0; i < flooded.keys.size(); ++i)
      ASSERT_EQ(i < most ? 0 : -E2BIG, flooded.update(flooded.keys[i])) << kind.type << " " << kind.key << " " << i;
    EXPECT_EQ(most, sf_map_count(&flooded.map.handle));
    for (size_t i = 0; i < flooded.keys.size(); ++i) ASSERT_EQ(i < most, flooded.has(flooded.keys[i])) << i;
    for (size_t i : {size_t{0}, flooded.slots, most - 1}) EXPECT_EQ(0, flooded.update(flooded.keys[i], 2));
    for (uint64_t key : flooded.others) {
      if (sf_map_count(&flooded.map.handle) == Flooded::kEntries) break;
      ASSERT_EQ(0, flooded.update(key)) << key;
    }
    EXPECT_EQ(-E2BIG, flooded.update(flooded.others.back())) << "full";
    // Room that becomes free in a slot, and in the chain.
    size_t next = most;
    for (size_t gone : {size_t{1}, flooded.slots + 1, most - 1}) {
      ASSERT_EQ(0, flooded.erase(flooded.keys[gone]));
      EXPECT_EQ(0, flooded.update(flooded.keys[next])) << gone;
      EXPECT_EQ(-E2BIG, flooded.update(flooded.keys[next + 1]));
      EXPECT_FALSE(flooded.has(flooded.keys[gone]));
      EXPECT_TRUE(flooded.has(flooded.keys[next++]));
    }
    EXPECT_EQ(most, flooded.in_bucket());
    std::set<std::string> walked;
    sf_map_cursor cursor{};
    while (sf_map_step(&flooded.map.handle, &cursor, 0) != 0)
      ASSERT_TRUE(walked.emplace(static_cast<const char *>(cursor.key), kind.key).second);
    EXPECT_EQ(sf_map_count(&flooded.map.handle), walked.size());
  }
}

// Of a map that gives way the newest keys are there.
TEST(HashMap, BucketOfLeastRecentlyUsedGivesWay) {
  Flooded flooded({SF_MAP_LRU_HASH, 8, 8});
  const size_t most = flooded.slots + maps::kLinksMax;
  for (uint64_t key : flooded.keys) {
    ASSERT_EQ(0, flooded.update(key));
    ASSERT_TRUE(flooded.has(key));
  }
  EXPECT_EQ(most, flooded.in_bucket());
  EXPECT_EQ(most, sf_map_count(&flooded.map.handle));
  for (size_t i = flooded.keys.size() - maps::kLinksMax; i < flooded.keys.size(); ++i)
    EXPECT_TRUE(flooded.has(flooded.keys[i])) << i;
}

// Keys that nobody chose, in maps that are full and stay so.
TEST(HashMap, KeysThatWereNotChosenAlwaysFindTheirPlace) {
  constexpr uint32_t kEntries = 20'000;
  for (const Kind &kind : kKinds) {
    for (uint64_t seed : {1ull, 0x9e3779b97f4a7c15ull}) {
      TestMap map(kind.type, kind.key, kind.value, kEntries);
      maps::header_of(map.data())->seed = seed;
      std::mt19937_64 random(seed);
      std::vector<uint64_t> there;
      for (uint32_t i = 0; i < 3 * kEntries; ++i) {
        if (there.size() == kEntries) {
          std::swap(there[random() % kEntries], there.back());
          const int gone = map.erase(Flooded::Bytes(there.back()).bytes);
          ASSERT_TRUE(gone == 0 || kind.type == SF_MAP_LRU_HASH);
          there.pop_back();
        }
        // One in two counts up, as numbers of files do.
        const uint64_t key = random() % 2 != 0 ? random() >> 4 : uint64_t{i} << 12;
        if (map.find(Flooded::Bytes(key).bytes) != nullptr) continue;
        ASSERT_EQ(0, map.update(Flooded::Bytes(key).bytes, &key, 0)) << kind.type << " " << kind.key << " " << i;
        there.push_back(kind.key == 4 ? key & 0xffffffff : key);
      }
      EXPECT_EQ(kEntries, sf_map_count(&map.handle));
    }
  }
}

// What stays is met once while others come and go between the steps, as long as these are few; keys in chains, too.
TEST(HashMap, IterationMeetsOnceWhatStays) {
  constexpr size_t kSteady = 60;
  for (const Kind &kind : kKinds) {
    Flooded flooded(kind);
    std::mt19937_64 random(kind.key);
    // The bucket in disorder: links that lead back and forth.
    for (size_t i = 0; i < flooded.slots + maps::kLinksMax; ++i) ASSERT_EQ(0, flooded.update(flooded.keys[i]));
    std::set<uint64_t> steady;
    while (steady.size() < kSteady) steady.insert(flooded.keys[random() % (flooded.slots + maps::kLinksMax)]);
    for (int round = 0; round < 15; ++round) {
      std::multiset<uint64_t> met;
      sf_map_cursor cursor{};
      while (sf_map_step(&flooded.map.handle, &cursor, 0) != 0) {
        uint64_t key = 0;
        memcpy(&key, cursor.key, std::min<size_t>(kind.key, 8));
        if (steady.contains(key)) met.insert(key);
        for (int i = 0; i < 30; ++i) {
          const uint64_t other = random() % 2 != 0 ? flooded.keys[random() % 100] : flooded.others[random() % 300];
          if (!steady.contains(other)) random() % 2 != 0 ? flooded.erase(other) : flooded.update(other);
        }
        if (met.size() > kSteady) break;
      }
      if (kind.type == SF_MAP_LRU_HASH) continue;  // none stays for certain
      ASSERT_EQ(kSteady, met.size()) << kind.type << " " << kind.key << " " << round;
      ASSERT_TRUE(std::equal(steady.begin(), steady.end(), met.begin()));
    }
  }
}

struct Sizes { uint32_t key, value; };
constexpr uint32_t kKeys = 120, kSteadyKeys = 30, kEntries = 100;

// What the writer has done, in memory that outlives it. Of the key that it is at nothing is known.
struct Done {
  std::atomic<uint32_t> at;                // number + 1 of a key; 0: of none
  std::atomic<uint64_t> value[kKeys];      // 0: not there
};
struct Shared {
  Done done;
  std::atomic<bool> stop;
};

struct Key {
  unsigned char bytes[64] = {};
  explicit Key(uint32_t number) {
    for (size_t i = 0; i < 64; i += 8) memcpy(bytes + i, &number, sizeof number);  // 0 is a key of zeroes
  }
};
uint64_t first_word(const void *value) {
  return __atomic_load_n(static_cast<const uint64_t *>(value), __ATOMIC_RELAXED);
}

class KilledWriterOfHash : public ::testing::TestWithParam<Sizes> {
 protected:
  KilledWriterOfHash() : shape_{SF_MAP_HASH, GetParam().key, GetParam().value, kEntries} {
    storage_ = mmap(nullptr, sf_map_bytes(&shape_), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared_ = static_cast<Shared *>(
        mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    sf_map_init(storage_, &shape_);
    map_ = {storage_, shape_, 1, 0};
  }
  ~KilledWriterOfHash() override {
    munmap(storage_, sf_map_bytes(&shape_));
    munmap(shared_, sizeof(Shared));
  }

  // An update stores the value in place; else an element that was replaced may have come into use again meanwhile.
  bool stays() const { return shape_.key_size <= 8 && shape_.value_size <= 8; }
  // Values tell their key, so that one that is another's is seen.
  static uint64_t value_for(uint32_t key, uint64_t random) { return uint64_t{key + 1} << 32 | (random & 0xffffffff); }

  void write(sf_map &map, uint32_t key, bool erase, uint64_t random) {
    uint64_t value[8] = {};
    for (uint64_t &word : value) word = value_for(key, random);
    shared_->done.at = key + 1;
    if (erase) {
      if (sf_map_delete(&map, Key(key).bytes) == 0) shared_->done.value[key] = 0;
    } else if (sf_map_update(&map, Key(key).bytes, value, 0, 0) == 0) {
      shared_->done.value[key] = value[0];
    }
    shared_->done.at = 0;
  }

  // The others than the steady ones.
  void write_for_ever(std::mt19937_64 &random) {
    sf_map map{storage_, shape_, 1, 0};
    if (sf_map_lock(&map, static_cast<uint32_t>(gettid())) != 0) _exit(1);
    for (;;) {
      const uint32_t key = kSteadyKeys + static_cast<uint32_t>(random() % (kKeys - kSteadyKeys));
      write(map, key, random() % 2 != 0, random());
      const uint32_t steady = 1 + static_cast<uint32_t>(random() % (kSteadyKeys - 1));
      write(map, steady, false, random());
    }
  }

  void read_until_stopped(std::atomic<uint64_t> &found) {
    const sf_map map{storage_, shape_, 0, 0};
    std::mt19937_64 random(3);
    while (!shared_->stop.load(std::memory_order_relaxed)) {
      const auto key = static_cast<uint32_t>(random() % kKeys);
      const void *value = sf_map_lookup(&map, Key(key).bytes, 0);
      if (value == nullptr) {
        ASSERT_GE(key, kSteadyKeys) << "it is always there";
        continue;
      }
      const uint64_t word = first_word(value);
      ASSERT_GT(word >> 32, 0u);
      ASSERT_LE(word >> 32, kKeys);
      if (key < kSteadyKeys && stays()) {
        ASSERT_EQ(key + 1, word >> 32) << "what it holds is its own";
      }
      found.fetch_add(1, std::memory_order_relaxed);
    }
  }

  // What was left is what the model says, but for the key that the writer was at.
  void compare() {
    const uint32_t at = shared_->done.at.exchange(0);
    uint32_t there = 0;
    for (uint32_t key = 0; key < kKeys; ++key) {
      const void *value = sf_map_lookup(&map_, Key(key).bytes, 0);
      there += value != nullptr;
      const uint64_t found = value != nullptr ? first_word(value) : 0, known = shared_->done.value[key];
      if (key + 1 != at) {
        ASSERT_EQ(known, found) << key;
      } else if (value != nullptr) {
        ASSERT_EQ(key + 1, found >> 32) << "whole, the old one or the new one";
      }
      shared_->done.value[key] = found;
    }
    EXPECT_EQ(there, sf_map_count(&map_));
    std::set<std::string> keys;
    sf_map_cursor cursor{};
    while (sf_map_step(&map_, &cursor, 0) != 0)
      ASSERT_TRUE(keys.emplace(static_cast<const char *>(cursor.key), shape_.key_size).second);
    EXPECT_EQ(there, keys.size());
  }

  sf_map_shape shape_;
  void *storage_;
  Shared *shared_;
  sf_map map_;
};

TEST_P(KilledWriterOfHash, LeavesWhatItHadDoneToReadersAndToTheNext) {
  ASSERT_EQ(0, sf_map_lock(&map_, static_cast<uint32_t>(gettid())));
  for (uint32_t key = 0; key < kSteadyKeys; ++key) write(map_, key, false, key);
  sf_map_unlock(&map_);
  std::atomic<uint64_t> found{0};
  std::thread reader([&] { read_until_stopped(found); });
  std::mt19937_64 random(GetParam().key);
  for (int round = 0; round < 12 && !HasFailure(); ++round) {
    const uint64_t seed = random();
    const pid_t child = fork();
    if (child == 0) {
      std::mt19937_64 own(seed);
      write_for_ever(own);
    }
    usleep(static_cast<useconds_t>(random() % 3000));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    ASSERT_EQ(0, sf_map_lock(&map_, static_cast<uint32_t>(gettid())));  // in the dead one's place
    compare();
    for (int i = 0; i < 300; ++i) {
      const uint32_t key = kSteadyKeys + static_cast<uint32_t>(random() % (kKeys - kSteadyKeys));
      write(map_, key, random() % 2 != 0, random());
    }
    compare();
    sf_map_unlock(&map_);
  }
  while (found < 1000 && !HasFailure()) usleep(100);
  shared_->stop = true;
  reader.join();
}

INSTANTIATE_TEST_SUITE_P(Sizes, KilledWriterOfHash,
                         ::testing::Values(Sizes{4, 8}, Sizes{8, 8}, Sizes{12, 8}, Sizes{64, 8}, Sizes{4, 16},
                                           Sizes{64, 40}),
                         [](const auto &test) {
                           return "Key" + std::to_string(test.param.key) + "Value" + std::to_string(test.param.value);
                         });

}  // namespace
