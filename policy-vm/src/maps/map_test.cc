#include "shortfuse/vm/abi.h"
#include "shortfuse/vm/map.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "maps/testing.h"

namespace {

enum : uint64_t { kAny, kNoExist, kExist };

struct Map : shortfuse::vm::testing::TestMap {
  using TestMap::TestMap;
  template <class K, class V>
  int update(K key, V value, uint64_t flags = kAny) { return sf_map_update(&handle, &key, &value, flags, 0); }
  template <class K>
  int erase(K key) { return sf_map_delete(&handle, &key); }
  template <class V, class K>
  V *find(K key) { return static_cast<V *>(sf_map_lookup(&handle, &key, 0)); }
};

TEST(Map, ShapesThatAreNotSupported) {
  auto bytes = [](uint32_t type, uint32_t key, uint32_t value, uint32_t entries) {
    const sf_map_shape shape{type, key, value, entries};
    return sf_map_bytes(&shape);
  };
  EXPECT_GT(bytes(1, 4, 8, 10), 0u);
  EXPECT_GT(bytes(2, 4, 8, 10), 0u);
  EXPECT_EQ(0u, bytes(0, 4, 8, 10));
  EXPECT_EQ(0u, bytes(4, 4, 8, 10)) << "PERF_EVENT_ARRAY";
  EXPECT_EQ(0u, bytes(3, 4, 8, 10)) << "a reference to a program is a u32";
  EXPECT_EQ(0u, bytes(2, 8, 8, 10)) << "the key of an array is its index";
  EXPECT_EQ(0u, bytes(1, 0, 8, 10));
  EXPECT_EQ(0u, bytes(1, 513, 8, 10));
  EXPECT_EQ(0u, bytes(1, 4, 0, 10));
  EXPECT_EQ(0u, bytes(1, 4, 8, 0));
  EXPECT_EQ(0u, bytes(1, 4, 8, ~0u));
  EXPECT_EQ(0u, bytes(2, 4, ~0u, ~0u));
  EXPECT_EQ(0u, bytes(2, 4, 256u << 20, 1)) << "the header does not fit any more";
}

TEST(Map, CheckTellsOtherShapesApart) {
  Map map(1, 4, 8, 10);
  EXPECT_EQ(0, sf_map_check(map.data(), map.bytes(), &map.shape));
  EXPECT_EQ(-EINVAL, sf_map_check(map.data(), map.bytes() - 8, &map.shape));
  EXPECT_EQ(-EINVAL, sf_map_check(map.data(), 0, &map.shape));
  for (sf_map_shape other : {sf_map_shape{2, 4, 8, 10}, {1, 8, 8, 10}, {1, 4, 4, 10}, {1, 4, 8, 9}}) {
    EXPECT_EQ(-EINVAL, sf_map_check(map.data(), map.bytes(), &other));
  }
  map.word(0) ^= 1;
  EXPECT_EQ(-EINVAL, sf_map_check(map.data(), map.bytes(), &map.shape));
}

TEST(Map, ArrayBehavesAsInTheKernel) {
  Map map(2, 4, 12, 3);
  struct Value { uint32_t a, b, c; };
  EXPECT_EQ(0u, map.find<Value>(0u)->a) << "zero at the start";
  EXPECT_EQ(nullptr, map.find<Value>(3u));
  EXPECT_EQ(nullptr, map.find<Value>(~0u));
  EXPECT_EQ(0, map.update(2u, Value{1, 2, 3}));
  EXPECT_EQ(3u, map.find<Value>(2u)->c);
  EXPECT_EQ(-E2BIG, map.update(3u, Value{}));
  EXPECT_EQ(-EEXIST, map.update(0u, Value{}, kNoExist));
  EXPECT_EQ(0, map.update(0u, Value{}, kExist));
  EXPECT_EQ(-EINVAL, map.update(0u, Value{}, 3));
  EXPECT_EQ(-EINVAL, map.erase(0u));
  EXPECT_EQ(map.find<char>(0u), sf_map_array_values(&map.handle));
  uint32_t key = 99, next = 99;
  EXPECT_EQ(0, sf_map_next_key(&map.handle, nullptr, &next));
  EXPECT_EQ(0u, next);
  EXPECT_EQ(0, sf_map_next_key(&map.handle, &key, &next)) << "an index out of range begins again";
  EXPECT_EQ(0u, next);
  key = 1;
  EXPECT_EQ(0, sf_map_next_key(&map.handle, &key, &next));
  EXPECT_EQ(2u, next);
  key = 2;
  EXPECT_EQ(-ENOENT, sf_map_next_key(&map.handle, &key, &next));
}

TEST(Map, HashBehavesAsInTheKernel) {
  Map map(1, 8, 8, 2);
  EXPECT_EQ(nullptr, sf_map_array_values(&map.handle));
  EXPECT_EQ(nullptr, map.find<uint64_t>(1ul));
  EXPECT_EQ(-ENOENT, map.update(1ul, 10ul, kExist));
  EXPECT_EQ(0, map.update(1ul, 10ul, kNoExist));
  EXPECT_EQ(-EEXIST, map.update(1ul, 11ul, kNoExist));
  EXPECT_EQ(0, map.update(1ul, 12ul, kExist));
  EXPECT_EQ(12u, *map.find<uint64_t>(1ul));
  EXPECT_EQ(0, map.update(2ul, 20ul));
  EXPECT_EQ(-E2BIG, map.update(3ul, 30ul));
  EXPECT_EQ(0, map.update(2ul, 21ul)) << "a full map can still be updated";
  EXPECT_EQ(-EINVAL, map.update(2ul, 20ul, 3));
  EXPECT_EQ(-ENOENT, map.erase(3ul));
  EXPECT_EQ(0, map.erase(1ul));
  EXPECT_EQ(nullptr, map.find<uint64_t>(1ul));
  EXPECT_EQ(0, map.update(3ul, 30ul));
  EXPECT_EQ(30u, *map.find<uint64_t>(3ul));
}

TEST(Map, HashMatchesAModel) {
  for (uint32_t entries : {1u, 7u, 100u, 5000u}) {
    Map map(1, 12, 20, entries);
    struct Key { uint32_t a, b, c; auto operator<=>(const Key &) const = default; };
    struct Value { uint32_t v[5]; };
    std::map<Key, uint32_t> model;
    std::mt19937 random(entries);
    auto random_key = [&] { return Key{static_cast<uint32_t>(random() % (2 * entries)), 5, random() % 2 != 0}; };
    for (int step = 0; step < 100000; ++step) {
      const Key key = random_key();
      const auto at = model.find(key);
      if (random() % 3 != 0) {
        const uint64_t flags = random() % 3;
        const auto n = static_cast<uint32_t>(random());
        const int expected = at != model.end() ? (flags == kNoExist ? -EEXIST : 0)
                             : flags == kExist ? -ENOENT
                             : model.size() == entries ? -E2BIG
                                                       : 0;
        ASSERT_EQ(expected, map.update(key, Value{{n, n, n, n, n}}, flags));
        if (expected == 0) model[key] = n;
      } else {
        ASSERT_EQ(at != model.end() ? 0 : -ENOENT, map.erase(key));
        if (at != model.end()) model.erase(at);
      }
      const Key probe = random_key();
      const Value *found = map.find<Value>(probe);
      const auto expected = model.find(probe);
      ASSERT_EQ(expected != model.end(), found != nullptr);
      if (found != nullptr) {
        ASSERT_EQ(expected->second, found->v[4]);
      }
    }
    std::set<Key> seen;
    Key key;
    for (int result = sf_map_next_key(&map.handle, nullptr, &key); result == 0;
         result = sf_map_next_key(&map.handle, &key, &key)) {
      ASSERT_TRUE(seen.insert(key).second);
      ASSERT_TRUE(model.contains(key));
    }
    EXPECT_EQ(model.size(), seen.size());
  }
}

/* A key that is always in the map is always found, whatever happens to its neighbours; and what is found was its
 * value at some time: the writer counts up and keeps the halves equal. */
TEST(Map, ReadersFindWhatIsThereWhileTheWriterWorks) {
  Map map(1, 8, 16, 64);
  struct Value { uint64_t key_and_count, copy; };
  constexpr uint64_t kSteady = 16, kAll = 60;
  for (uint64_t key = 0; key < kSteady; ++key) map.update(key, Value{key << 32, key << 32});
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> found{0};
  auto reader = [&] {
    std::mt19937 random(9);
    while (!stop.load(std::memory_order_relaxed)) {
      const uint64_t key = random() % kAll;
      const auto *value = static_cast<const Value *>(sf_map_lookup(&map.handle, &key, 0));
      if (key < kSteady) {
        ASSERT_NE(nullptr, value) << key;
      }
      if (value == nullptr) continue;
      // An element that was replaced since may show another key's value, but always a word that was written.
      ASSERT_LT(__atomic_load_n(&value->key_and_count, __ATOMIC_RELAXED) >> 32, kAll);
      found.fetch_add(1, std::memory_order_relaxed);
    }
  };
  std::thread one(reader), two(reader);
  std::mt19937 random(10);
  for (uint64_t step = 1; step < 150000 || found < 10000; ++step) {
    const uint64_t key = random() % kAll;
    const uint64_t word = key << 32 | (step & 0xffffffff);
    if (key >= kSteady && random() % 2 != 0) {
      map.erase(key);
    } else {
      ASSERT_EQ(0, map.update(key, Value{word, word}));
    }
  }
  stop = true;
  one.join();
  two.join();
}

/* The same where key and value lie in the bucket: keys of all sizes, values of all sizes, slots and chains. */
TEST(Map, SmallKeysAndValuesMatchAModel) {
  for (uint32_t key_size = 1; key_size <= 8; ++key_size) {
    for (uint32_t entries : {1u, 20u, 200u}) {
      const uint32_t value_size = 9 - key_size;
      Map map(SF_MAP_HASH, key_size, value_size, entries);
      std::map<std::string, std::string> model;
      std::mt19937 random(entries + key_size);
      const auto draw = [&](uint32_t bytes, uint64_t most) {
        const uint64_t number = random() % most;  // the first byte tells keys apart, the last is never 0
        std::string out(bytes, '\x7f');
        memcpy(out.data(), &number, bytes < 2 ? 1 : 2);
        return out;
      };
      std::map<std::string, void *> places;
      for (int step = 0; step < 30000; ++step) {
        const std::string key = draw(key_size, std::min(2 * entries, 250u)), value = draw(value_size, 60000);
        const bool there = model.contains(key);
        if (random() % 3 != 0) {
          const uint64_t flags = random() % 3;
          const int expected = there ? (flags == kNoExist ? -EEXIST : 0)
                               : flags == kExist ? -ENOENT
                               : model.size() == entries ? -E2BIG
                                                         : 0;
          ASSERT_EQ(expected, sf_map_update(&map.handle, key.data(), value.data(), flags, 0));
          if (expected == 0) model[key] = value;
          void *place = sf_map_lookup(&map.handle, key.data(), 0);
          if (there) { ASSERT_EQ(places[key], place) << "an update moves nothing"; }
          places[key] = place;
        } else {
          ASSERT_EQ(there ? 0 : -ENOENT, sf_map_delete(&map.handle, key.data()));
          model.erase(key);
        }
        ASSERT_EQ(model.size(), sf_map_count(&map.handle));
        const std::string probe = draw(key_size, std::min(2 * entries, 250u));
        const auto *found = static_cast<char *>(sf_map_lookup(&map.handle, probe.data(), 0));
        ASSERT_EQ(model.contains(probe), found != nullptr);
        if (found != nullptr) {
          ASSERT_EQ(0u, reinterpret_cast<uintptr_t>(found) % 8);
          ASSERT_EQ(model[probe], std::string(found, value_size));
          ASSERT_EQ(places[probe], found) << "nor does an insertion";
        }
      }
      std::map<std::string, std::string> walked, stepped;
      std::string key(key_size, 0);
      for (int result = sf_map_next_key(&map.handle, nullptr, key.data()); result == 0;
           result = sf_map_next_key(&map.handle, key.data(), key.data())) {
        const auto *value = static_cast<char *>(sf_map_lookup(&map.handle, key.data(), 0));
        ASSERT_TRUE(walked.emplace(key, std::string(value, value_size)).second);
      }
      EXPECT_EQ(model, walked);
      sf_map_cursor cursor{};
      while (sf_map_step(&map.handle, &cursor, 0) != 0) {
        ASSERT_TRUE(stepped.emplace(std::string(static_cast<const char *>(cursor.key), key_size),
                                    std::string(static_cast<const char *>(cursor.value), value_size)).second);
      }
      EXPECT_EQ(model, stepped);
    }
  }
}

/* Keys that are always there are always found, in slots and in chains, while others come and go around them; and a
 * value is always one that was stored. */
TEST(Map, ReadersOfSmallKeysFindWhatIsThereWhileTheWriterWorks) {
  constexpr uint64_t kSteady = 40, kAll = 100;
  for (uint32_t key_size : {4u, 8u}) {
    Map map(SF_MAP_HASH, key_size, 8, 90);
    for (uint64_t key = 0; key < kSteady; ++key) {
      const uint64_t word = key << 32;
      ASSERT_EQ(0, sf_map_update(&map.handle, &key, &word, kAny, 0));
    }
    std::atomic<bool> stop{false};
    std::atomic<uint64_t> found{0};
    std::thread reader([&] {
      std::mt19937 random(9);
      while (!stop.load(std::memory_order_relaxed)) {
        const uint64_t key = random() % kAll;
        const auto *value = static_cast<const uint64_t *>(sf_map_lookup(&map.handle, &key, 0));
        if (key < kSteady) {
          ASSERT_NE(nullptr, value) << key;
          ASSERT_EQ(key, __atomic_load_n(value, __ATOMIC_RELAXED) >> 32);
        } else if (value != nullptr) {
          ASSERT_LT(__atomic_load_n(value, __ATOMIC_RELAXED) >> 32, kAll);
        }
        found.fetch_add(value != nullptr, std::memory_order_relaxed);
      }
    });
    std::mt19937 random(10);
    for (uint64_t step = 1; step < 100000 || found < 10000; ++step) {
      const uint64_t key = random() % kAll, word = key << 32 | (step & 0xffffffff);
      if (key >= kSteady && random() % 2 != 0) sf_map_delete(&map.handle, &key);
      else sf_map_update(&map.handle, &key, &word, kAny, 0);
    }
    stop = true;
    reader.join();
  }
}

/* A reader is held up on an element (by a page without access) while that element is taken out and comes back into
 * use elsewhere. It must not lose the key behind it. */
struct HeldUp {
  char *page;
  size_t bytes;
  sf_map *map;
  uint64_t here, elsewhere;  ///< the key of the element, and the key that it is reused for
  char *element_value;
  int times;
};
HeldUp held_up;

void while_reader_is_held_up(int, siginfo_t *, void *) {
  if (mprotect(held_up.page, held_up.bytes, PROT_READ | PROT_WRITE) != 0) abort();
  ++held_up.times;
  static char value[8192];
  sf_map_delete(held_up.map, &held_up.here);
  for (int i = 0; i < 1000; ++i) {
    if (sf_map_update(held_up.map, &held_up.elsewhere, value, kAny, 0) != 0) abort();
    if (sf_map_lookup(held_up.map, &held_up.elsewhere, 0) == held_up.element_value) return;
  }
  abort();
}

/* As many keys as asked for whose bucket this is. */
std::vector<uint64_t> keys_of_bucket(const sf_map &map, uint32_t bucket, size_t count) {
  const maps::HashLayout layout{8, map.shape.value_size, map.shape.max_entries, false};
  const uint64_t seed = maps::header_of(map.storage)->seed;
  std::vector<uint64_t> keys;
  for (uint64_t key = 1; keys.size() < count; ++key) {
    if (maps::bucket_index(layout, maps::hash_key(seed, &key, 8)) == bucket) keys.push_back(key);
  }
  return keys;
}

TEST(Map, ReaderWhoseElementMovesAwayFindsItsKeyAllTheSame) {
  struct sigaction action{}, before;
  action.sa_sigaction = while_reader_is_held_up;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  ASSERT_EQ(0, sigaction(SIGSEGV, &action, &before));
  const sf_map_shape shape{1, 8, 8192, 31};
  const size_t bytes = (sf_map_bytes(&shape) + 4095) & ~size_t{4095};
  static char value[8192];
  held_up = {};
  for (int round = 0; round < 20; ++round) {
    auto *storage =
        static_cast<char *>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    sf_map_init(storage, &shape);
    sf_map map{storage, shape, 1, 0};
    // Two buckets so full that what comes more is in their chains.
    const auto here = keys_of_bucket(map, 0, 14), there = keys_of_bucket(map, 1, 13);
    for (uint64_t key : here) ASSERT_EQ(0, sf_map_update(&map, &key, value, kAny, 0));
    for (size_t i = 0; i < 12; ++i) ASSERT_EQ(0, sf_map_update(&map, &there[i], value, kAny, 0));
    // The last of `here` is the first of its chain, and is waited at.
    auto *at = static_cast<char *>(sf_map_lookup(&map, &here[13], 0));
    auto *page = reinterpret_cast<char *>(reinterpret_cast<uintptr_t>(at - 8) & ~uintptr_t{4095});
    held_up = {page, 4096, &map, here[13], there[12], at, held_up.times};
    ASSERT_EQ(0, mprotect(page, 4096, PROT_NONE));
    EXPECT_NE(nullptr, sf_map_lookup(&map, &here[12], 0)) << round;
    munmap(storage, bytes);
  }
  EXPECT_EQ(20, held_up.times);
  sigaction(SIGSEGV, &before, nullptr);
}

TEST(Map, CorruptLinksNeitherHangNorLeaveTheMap) {
  std::mt19937_64 random(4);
  struct Sizes { uint32_t key, value; };
  for (const Sizes &sizes : {Sizes{4, 8}, {8, 8}, {4, 12}}) {
    for (int round = 0; round < 200; ++round) {
      Map map(1, sizes.key, sizes.value, 50);
      unsigned char value[16] = {};
      for (uint64_t key = 0; key < 50; ++key) sf_map_update(&map.handle, &key, value, kAny, 0);
      for (int i = 0; i < 100; ++i) map.word(8 + random() % (map.bytes() / 8 - 8)) = random() >> (random() % 64);
      for (uint64_t key = 0; key < 100; ++key) {
        const auto *found = static_cast<char *>(sf_map_lookup(&map.handle, &key, 0));
        if (found == nullptr) continue;
        ASSERT_GE(found, static_cast<char *>(map.data()));
        ASSERT_LE(found + sizes.value, static_cast<char *>(map.data()) + map.bytes());
      }
      uint64_t next;
      sf_map_next_key(&map.handle, nullptr, &next);
      sf_map_cursor cursor{};
      uint32_t steps = 0;
      while (sf_map_step(&map.handle, &cursor, 0) != 0) ASSERT_LT(++steps, 200u);
      for (uint64_t key = 0; key < 100; ++key) {
        sf_map_update(&map.handle, &key, value, kAny, 0);
        sf_map_delete(&map.handle, &key);
      }
    }
  }
}

TEST(Map, LeastRecentlyUsedGiveWay) {
  constexpr uint32_t kEntries = 100;
  Map map(SF_MAP_LRU_HASH, 4, 8, kEntries);
  for (uint32_t key = 0; key < kEntries; ++key) ASSERT_EQ(0, map.update(key, uint64_t{key}));
  for (uint32_t key = 0; key < 10; ++key) ASSERT_NE(nullptr, map.find<uint64_t>(key));
  // One round of the hand: those that were looked at are spared, and never is a map full.
  for (uint32_t key = 1000; key < 1000 + kEntries - 10; ++key) {
    ASSERT_EQ(0, map.update(key, uint64_t{key}, kNoExist));
    ASSERT_NE(nullptr, map.find<uint64_t>(key)) << "what was put in last is there";
  }
  for (uint32_t key = 0; key < 10; ++key) EXPECT_NE(nullptr, map.find<uint64_t>(key)) << key;
  EXPECT_EQ(-EEXIST, map.update(5u, uint64_t{5}, kNoExist));
  EXPECT_EQ(-ENOENT, map.update(7777u, uint64_t{5}, kExist));
  uint32_t count = 0, key = 0;
  for (int more = sf_map_next_key(&map.handle, nullptr, &key); more == 0; ++count)
    more = sf_map_next_key(&map.handle, &key, &key);
  EXPECT_EQ(kEntries, count);
}

TEST(Map, ReadersInOtherProcessesLeaveNoTrace) {
  Map map(SF_MAP_LRU_HASH, 4, 8, 10);
  map.update(1u, uint64_t{1});
  const std::vector<uint64_t> before = map.storage;
  sf_map reader = map.handle;
  reader.writable = 0;
  const uint32_t key = 1;
  EXPECT_NE(nullptr, sf_map_lookup(&reader, &key, 0));
  EXPECT_EQ(before, map.storage);
}

TEST(Map, RingTakesWhatWasLeft) {
  Map map(SF_MAP_RINGBUF, 0, 0, 4096);
  uint64_t position = 0;
  char out[4096];
  EXPECT_EQ(-EAGAIN, sf_ring_take(&map.handle, &position, out, sizeof out, 0));
  auto *first = static_cast<char *>(sf_ring_reserve(&map.handle, 5, 1));
  auto *second = static_cast<char *>(sf_ring_reserve(&map.handle, 3, 1));
  memcpy(second, "two", 3);
  sf_ring_commit(second, 0, 1);
  EXPECT_EQ(-EBUSY, sf_ring_take(&map.handle, &position, out, sizeof out, 0)) << "in the order of reserving";
  memcpy(first, "first", 5);
  sf_ring_commit(first, 0, 1);
  sf_ring_commit(sf_ring_reserve(&map.handle, 8, 1), 1, 1);
  EXPECT_EQ(48u, sf_ring_query(&map.handle, 0));
  EXPECT_EQ(-ENOBUFS, sf_ring_take(&map.handle, &position, out, 4, 0));
  ASSERT_EQ(5, sf_ring_take(&map.handle, &position, out, sizeof out, 0));
  EXPECT_EQ(0, memcmp("first", out, 5));
  ASSERT_EQ(3, sf_ring_take(&map.handle, &position, out, sizeof out, 0));
  EXPECT_EQ(-EAGAIN, sf_ring_take(&map.handle, &position, out, sizeof out, 0)) << "what was discarded";
  EXPECT_EQ(0u, sf_ring_query(&map.handle, 0));
  // A record whose writer never comes back.
  ASSERT_NE(nullptr, sf_ring_reserve(&map.handle, 5, 1));
  sf_ring_commit(sf_ring_reserve(&map.handle, 7, 1), 0, 1);
  EXPECT_EQ(-ENODATA, sf_ring_take(&map.handle, &position, out, sizeof out, 1));
  EXPECT_EQ(7, sf_ring_take(&map.handle, &position, out, sizeof out, 0));
  EXPECT_EQ(nullptr, sf_ring_reserve(&map.handle, 5000, 1));
  EXPECT_EQ(1u, sf_ring_lost(&map.handle));
}

constexpr size_t kTaken = 8, kProducer = 9, kConsumer = 24;  // words of the storage

TEST(Map, RingWithAnythingInItIsReadWithinItsBounds) {
  std::mt19937_64 random(8);
  int left_behind = 0;
  for (int round = 0; round < 2000; ++round) {
    Map map(SF_MAP_RINGBUF, 0, 0, 4096);
    uint64_t position = random() % 3 == 0 ? random() & ~uint64_t{7} : 0;
    for (size_t i = kTaken; i < map.bytes() / 8; ++i) map.word(i) = random() >> (random() % 64);
    map.word(kProducer) = position + random() % 9000;
    char out[4096];
    int64_t last = 0;
    int calls = 0;
    for (; calls < 2000 && last != -EAGAIN && last != -EBUSY; ++calls) {
      const uint64_t before = position;
      last = sf_ring_take(&map.handle, &position, out, sizeof out, calls % 2);
      left_behind += last == -EPROTO;
      ASSERT_LE(position - before, 9000u);
      ASSERT_EQ(position, map.word(kConsumer));
    }
    ASSERT_LT(calls, 2000);
  }
  EXPECT_GT(left_behind, 500);
}

TEST(Map, RingPositionsThatMakeNoSenseAreLeftBehind) {
  Map map(SF_MAP_RINGBUF, 0, 0, 4096);
  static char out[8192];
  // A reader that begins at 0 with a ring that has carried more than a length can say; and one of which it cannot.
  for (uint64_t carried : {uint64_t{4096 + 8}, uint64_t{1} << 31, (uint64_t{1} << 40) + 5, uint64_t{0} - 8}) {
    map.word(kProducer) = carried;
    uint64_t position = 0;
    EXPECT_EQ(-EPROTO, sf_ring_take(&map.handle, &position, out, sizeof out, 0)) << carried;
    EXPECT_EQ(carried & ~uint64_t{7}, position);
    EXPECT_EQ(position, map.word(kConsumer));
    EXPECT_EQ(-EAGAIN, sf_ring_take(&map.handle, &position, out, sizeof out, 0)) << carried;
  }
  // Both sides go on from there.
  map.word(kProducer) = map.word(kConsumer) = 1 << 20;
  uint64_t position = 1 << 20;
  sf_ring_commit(sf_ring_reserve(&map.handle, 24, 1), 0, 1);
  EXPECT_EQ(24, sf_ring_take(&map.handle, &position, out, sizeof out, 0));
}

TEST(Map, RingRoomOfDiscardedRecordsIsFreeWhileTheNextIsWaitedFor) {
  char out[4096];
  for (bool busy : {true, false}) {
    Map map(SF_MAP_RINGBUF, 0, 0, 4096);
    uint64_t position = 0;
    sf_ring_commit(sf_ring_reserve(&map.handle, 2000, 1), 1, 1);
    void *next = sf_ring_reserve(&map.handle, 40, 1);
    if (!busy) sf_ring_commit(next, 0, 1);
    EXPECT_EQ(nullptr, sf_ring_reserve(&map.handle, 3000, 1));
    const int expected = busy ? -EBUSY : -ENOBUFS;
    EXPECT_EQ(expected, sf_ring_take(&map.handle, &position, out, busy ? sizeof out : 39, 0));
    EXPECT_NE(nullptr, sf_ring_reserve(&map.handle, 3000, 1));
  }
}

TEST(Map, RingRecordThatWasLeftOutIsNotCommittedLate) {
  Map map(SF_MAP_RINGBUF, 0, 0, 4096);
  uint64_t position = 0;
  char out[4096];
  auto *late = static_cast<char *>(sf_ring_reserve(&map.handle, 40, 1));
  EXPECT_EQ(-ENODATA, sf_ring_take(&map.handle, &position, out, sizeof out, 1));
  while (position < 4096 - 16) {  // once round, up to where the next record's bytes lie over the late one's header
    sf_ring_commit(sf_ring_reserve(&map.handle, 8, 2), 0, 2);
    ASSERT_EQ(8, sf_ring_take(&map.handle, &position, out, sizeof out, 0));
  }
  sf_ring_commit(sf_ring_reserve(&map.handle, 0, 2), 0, 2);
  ASSERT_EQ(0, sf_ring_take(&map.handle, &position, out, sizeof out, 0));
  ASSERT_EQ(4096u - 8, position);
  sf_ring_commit(sf_ring_reserve(&map.handle, 0, 2), 0, 2);
  ASSERT_EQ(0, sf_ring_take(&map.handle, &position, out, sizeof out, 0));
  auto *now = static_cast<char *>(sf_ring_reserve(&map.handle, 100, 2));
  ASSERT_EQ(late, now);
  sf_ring_commit(late, 0, 1);
  EXPECT_EQ(-EBUSY, sf_ring_take(&map.handle, &position, out, sizeof out, 0)) << "another's, which is still written";
  memset(now, 'x', 100);
  sf_ring_commit(now, 0, 2);
  sf_ring_commit(late, 1, 1);
  ASSERT_EQ(100, sf_ring_take(&map.handle, &position, out, sizeof out, 0));
  EXPECT_EQ(std::string(100, 'x'), std::string(out, 100));
}

/* A thread that does what a program would, until it is killed in the middle; then another takes the lock. */
struct Writes {
  uint32_t type, key, value, entries;
  const char *name;
};
class KilledWriter : public ::testing::TestWithParam<Writes> {
 protected:
  static void write(sf_map *map, std::mt19937 &random) {
    unsigned char bytes[64]{}, value[64]{};
    const uint32_t number = random() % (map->shape.max_entries * 2);
    memcpy(bytes, &number, 4);
    memset(value, static_cast<int>(random()), sizeof value);
    if (map->shape.type == SF_MAP_LPM_TRIE) {
      const uint32_t bits = number % 33, data = number * 0x9e3779b9u;
      memcpy(bytes, &bits, 4);
      memcpy(bytes + 4, &data, 4);
    }
    if (map->shape.type == SF_MAP_RINGBUF) {
      if (void *record = sf_ring_reserve(map, random() % 60, 1)) sf_ring_commit(record, random() % 2 != 0, 1);
    } else if (map->shape.key_size == 0) {
      random() % 2 != 0 ? sf_map_push(map, value, kExist) : sf_map_pop(map, value);
    } else if (random() % 2 != 0) {
      sf_map_update(map, bytes, value, kAny, random() % SF_MAP_CPUS);
    } else {
      sf_map_delete(map, bytes);
    }
  }
};

TEST_P(KilledWriter, LeavesAMapThatIsReadAndWritten) {
  const Writes &p = GetParam();
  const sf_map_shape shape{p.type, p.key, p.value, p.entries};
  const size_t bytes = sf_map_bytes(&shape);
  ASSERT_NE(0u, bytes);
  void *storage = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  sf_map_init(storage, &shape);
  std::mt19937 random(p.type);
  uint64_t position = 0;
  for (int round = 0; round < 60; ++round) {
    int wrote[2];
    ASSERT_EQ(0, pipe2(wrote, O_CLOEXEC));
    const pid_t child = fork();
    if (child == 0) {
      sf_map map{storage, shape, 1, 0};
      std::mt19937 own(static_cast<unsigned>(round));
      if (sf_map_lock(&map, static_cast<uint32_t>(gettid())) != 0) _exit(1);
      write(&map, own);
      if (::write(wrote[1], "", 1) != 1) _exit(2);
      for (;;) write(&map, own);
    }
    close(wrote[1]);
    char byte;
    ASSERT_EQ(1, read(wrote[0], &byte, 1)) << "it ended before it had written";
    close(wrote[0]);
    usleep(static_cast<useconds_t>(random() % 3000));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    // The lock is the dead thread's.
    sf_map map{storage, shape, 1, 0};
    ASSERT_EQ(0, sf_map_lock(&map, static_cast<uint32_t>(gettid())));
    for (int i = 0; i < 2000; ++i) write(&map, random);
    sf_map_cursor cursor{};
    uint32_t steps = 0;
    while (sf_map_step(&map, &cursor, 0) != 0) ASSERT_LE(++steps, p.entries + maps::kSpareElements);
    if (p.type == SF_MAP_RINGBUF) {
      char out[4096];
      while (sf_ring_take(&map, &position, out, sizeof out, 1) != -EAGAIN) {}
      ASSERT_NE(nullptr, sf_ring_reserve(&map, 4000, 1));
      while (sf_ring_take(&map, &position, out, sizeof out, 1) != -EAGAIN) {}
    }
    if (p.key == 0) {
      sf_map_unlock(&map);
      continue;
    }
    // It can be emptied, and filled to the last.
    unsigned char key[64]{}, value[64]{};
    while (sf_map_next_key(&map, nullptr, key) == 0) ASSERT_EQ(0, sf_map_delete(&map, key));
    for (uint32_t i = 0; i < p.entries; ++i) {
      const uint32_t bits = 32;
      memcpy(key, p.type == SF_MAP_LPM_TRIE ? &bits : &i, 4);
      memcpy(key + 4, &i, 4);
      ASSERT_EQ(0, sf_map_update(&map, key, value, kNoExist, 0)) << "round " << round << ", number " << i;
    }
    sf_map_unlock(&map);
  }
  munmap(storage, bytes);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, KilledWriter,
    ::testing::Values(Writes{SF_MAP_HASH, 8, 40, 40, "hash"}, Writes{SF_MAP_HASH, 4, 8, 40, "packed_hash4"},
                      Writes{SF_MAP_HASH, 8, 8, 40, "packed_hash8"},
                      Writes{SF_MAP_LRU_HASH, 8, 8, 40, "lru_hash"},
                      Writes{SF_MAP_PERCPU_HASH, 8, 8, 40, "percpu_hash"},
                      Writes{SF_MAP_LPM_TRIE, 8, 8, 40, "lpm_trie"},
                      Writes{SF_MAP_QUEUE, 0, 40, 40, "queue"}, Writes{SF_MAP_STACK, 0, 40, 40, "stack"},
                      Writes{SF_MAP_RINGBUF, 0, 0, 4096, "ringbuf"}),
    [](const auto &test) { return std::string(test.param.name); });

TEST(Map, LockOfOneWhoIsAliveIsNotTaken) {
  Map map(SF_MAP_HASH, 4, 8, 10);
  std::atomic<uint32_t> other{0};
  std::atomic<bool> done{false};
  std::thread holder([&] {
    ASSERT_EQ(0, sf_map_lock(&map.handle, static_cast<uint32_t>(gettid())));
    other = static_cast<uint32_t>(gettid());
    while (!done) usleep(100);
    sf_map_unlock(&map.handle);
  });
  while (other == 0) usleep(100);
  EXPECT_EQ(-EBUSY, sf_map_lock(&map.handle, static_cast<uint32_t>(gettid())));
  done = true;
  holder.join();
  EXPECT_EQ(0, sf_map_lock(&map.handle, static_cast<uint32_t>(gettid())));
  EXPECT_EQ(0, sf_map_lock(&map.handle, static_cast<uint32_t>(gettid()))) << "left by longjmp, and back";
}

TEST(Map, WriterThatIsNotLetInIsCounted) {
  for (uint32_t type : {uint32_t{SF_MAP_HASH}, uint32_t{SF_MAP_RINGBUF}}) {
    Map map(type, type == SF_MAP_HASH ? 4 : 0, type == SF_MAP_HASH ? 8 : 0, 4096);
    std::atomic<bool> held{false}, done{false};
    std::thread holder([&] {
      ASSERT_EQ(0, sf_map_lock(&map.handle, static_cast<uint32_t>(gettid())));
      held = true;
      while (!done) usleep(100);
      sf_map_unlock(&map.handle);
    });
    while (!held) usleep(100);
    sf_vm_env env{};
    const uint64_t value = 1, at = reinterpret_cast<uint64_t>(&value), of = reinterpret_cast<uint64_t>(&map.handle);
    if (type == SF_MAP_HASH) {
      EXPECT_EQ(static_cast<uint64_t>(-EBUSY), sf_vm_map_update(of, at, at, 0, 0, &env));
    } else {
      EXPECT_EQ(static_cast<uint64_t>(-EAGAIN), sf_vm_ringbuf_output(of, at, sizeof value, 0, 0, &env));
      EXPECT_EQ(1u, sf_ring_lost(&map.handle));
    }
    EXPECT_EQ(1u, sf_map_refused(&map.handle));
    done = true;
    holder.join();
  }
}

TEST(Map, PatientWriterWaits) {
  Map map(SF_MAP_HASH, 4, 8, 10);
  map.handle.patient = 1;
  std::atomic<bool> held{false};
  std::thread holder([&] {
    ASSERT_EQ(0, sf_map_lock(&map.handle, static_cast<uint32_t>(gettid())));
    held = true;
    usleep(50'000);  // much longer than one who is not patient waits
    sf_map_unlock(&map.handle);
  });
  while (!held) usleep(100);
  EXPECT_EQ(0, sf_map_lock(&map.handle, static_cast<uint32_t>(gettid())));
  sf_map_unlock(&map.handle);
  holder.join();
  // One who dies while he is waited for.
  held = false;
  std::thread dies([&] {
    ASSERT_EQ(0, sf_map_lock(&map.handle, static_cast<uint32_t>(gettid())));
    held = true;
    usleep(20'000);
  });
  while (!held) usleep(100);
  EXPECT_EQ(0, sf_map_lock(&map.handle, static_cast<uint32_t>(gettid())));
  EXPECT_EQ(0u, sf_map_refused(&map.handle));
  dies.join();
}

TEST(Map, ArraysAndBloomFiltersHaveAsManyWritersAsLike) {
  for (uint32_t type : {uint32_t{SF_MAP_ARRAY}, uint32_t{SF_MAP_PERCPU_ARRAY}, uint32_t{SF_MAP_PROG_ARRAY},
                        uint32_t{SF_MAP_ARRAY_OF_MAPS}, uint32_t{SF_MAP_BLOOM_FILTER}}) {
    Map map(type, type == SF_MAP_BLOOM_FILTER ? 0 : 4, 4, 10);
    ASSERT_EQ(0, sf_map_lock(&map.handle, 1));
    std::thread other([&] { EXPECT_EQ(0, sf_map_lock(&map.handle, static_cast<uint32_t>(gettid()))) << type; });
    other.join();
    sf_map_unlock(&map.handle);
  }
}

/* A chain that an honest writer would not have made, as somebody else may in storage of his own: it is looked at so far
 * and no further. */
TEST(Map, ForeignStorageIsLookedAtBriefly) {
  constexpr uint32_t kEntries = 200'000, kLinks = 10'000;
  Map map(SF_MAP_PERCPU_HASH, 8, 8, kEntries);
  const maps::HashLayout layout{8, 8, kEntries, true};
  for (uint64_t key = 0; key < 1000; ++key) ASSERT_EQ(0, map.update(key, key));
  const uint64_t far = 1'000'000;
  for (uint32_t i = 0; i < kLinks; ++i)
    *maps::chain_of(map.data(), layout, i + 1000) = i + 1000 + 1 < kLinks ? i + 1000 + 2 : 1;
  const uint64_t hash = maps::hash_key(maps::header_of(map.data())->seed, &far, 8);
  maps::bucket_at(map.data(), maps::bucket_index(layout, hash))->chain = 1001;
  memcpy(maps::key_at(map.data(), layout, 1000 + maps::kLinksMax), &far, 8);
  EXPECT_EQ(nullptr, sf_map_lookup(&map.handle, &far, 0));
  memcpy(maps::key_at(map.data(), layout, 1000 + maps::kLinksMax - 1), &far, 8);
  EXPECT_NE(nullptr, sf_map_lookup(&map.handle, &far, 0));
  EXPECT_EQ(nullptr, sf_map_lookup(&map.handle, &far, SF_MAP_CPUS));
}

TEST(Map, WhatCannotBePoppedIsZero) {
  Map map(SF_MAP_QUEUE, 0, 16, 3);
  map.handle.writable = 0;
  sf_vm_env env{};
  unsigned char value[16], zero[16] = {};
  memset(value, 0xa5, sizeof value);
  const auto at = [](void *p) { return reinterpret_cast<uint64_t>(p); };
  EXPECT_EQ(static_cast<uint64_t>(-EPERM), sf_vm_map_pop(at(&map.handle), at(value), 0, 0, 0, &env));
  EXPECT_EQ(0, memcmp(value, zero, sizeof value));
}

TEST(Map, QueueIsPeekedWhileItChanges) {
  for (uint32_t type : {uint32_t{SF_MAP_QUEUE}, uint32_t{SF_MAP_STACK}}) {
    Map map(type, 0, 32, 3);
    std::atomic<bool> stop{false};
    std::thread reader([&] {
      uint64_t value[4];
      while (!stop) {
        if (sf_map_peek(&map.handle, value) != 0) continue;
        for (uint64_t part : value) ASSERT_EQ(value[0], part);
      }
    });
    std::mt19937 random(2);
    for (uint64_t step = 0; step < 200000; ++step) {
      uint64_t value[4] = {step, step, step, step};
      random() % 2 != 0 ? sf_map_push(&map.handle, value, kExist) : sf_map_pop(&map.handle, value);
    }
    stop = true;
    reader.join();
  }
}

TEST(Map, PrefixesAreFoundWhileTheTrieChanges) {
  struct Prefix { uint32_t bits; unsigned char data[4]; };
  Map map(SF_MAP_LPM_TRIE, 8, 8, 300);
  ASSERT_EQ(0, map.update(Prefix{8, {10, 0, 0, 0}}, uint64_t{8}));
  std::atomic<bool> stop{false};
  std::atomic<int> looks{0};
  std::thread reader([&] {
    std::mt19937 random(3);
    for (; !stop; ++looks) {
      const auto *value = map.find<uint64_t>(Prefix{32, {10, static_cast<unsigned char>(random()), 1, 1}});
      ASSERT_NE(nullptr, value);
      const uint64_t bits = __atomic_load_n(value, __ATOMIC_RELAXED);
      ASSERT_GE(bits, 8u);
      ASSERT_LE(bits, 16u);
    }
  });
  std::mt19937 random(4);
  for (int step = 0; step < 100000 || (looks < 10000 && !HasFailure()); ++step) {
    const uint32_t bits = 9 + random() % 8;
    const Prefix prefix{bits, {10, static_cast<unsigned char>(random()), 0, 0}};
    random() % 2 != 0 ? map.update(prefix, uint64_t{bits}) : map.erase(prefix);
  }
  stop = true;
  reader.join();
}

}  // namespace
