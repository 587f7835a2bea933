// Maps at moments that are hard to meet: a thread is held up on a page that it may not touch yet, while another
// (here: the signal's handler) does what a second writer, or the owner of a key, could do in between.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <set>
#include <utility>

#include "maps/testing.h"
#include "shortfuse/vm/abi.h"

namespace {

constexpr uint64_t kAny = 0;
constexpr size_t kPage = 4096;

/// Pages of our own, the map's storage or a key's.
class Pages {
 public:
  explicit Pages(size_t bytes) : bytes_((bytes + kPage - 1) & ~(kPage - 1)) {
    void *got = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (got == MAP_FAILED) abort();
    begin_ = static_cast<unsigned char *>(got);
  }
  ~Pages() { munmap(begin_, bytes_); }
  Pages(const Pages &) = delete;
  unsigned char *begin() const { return begin_; }

 private:
  size_t bytes_;
  unsigned char *begin_;
};

struct Moment {
  unsigned char *page = nullptr;
  std::function<void()> then;
  int times = 0;
} moment;

void at_the_moment(int, siginfo_t *info, void *) {
  const auto at = reinterpret_cast<uintptr_t>(info->si_addr), page = reinterpret_cast<uintptr_t>(moment.page);
  if (page == 0 || at < page || at >= page + kPage) abort();
  if (mprotect(moment.page, kPage, PROT_READ | PROT_WRITE) != 0) abort();
  ++moment.times;
  moment.then();
}

unsigned char *page_of(const void *at) {
  return reinterpret_cast<unsigned char *>(reinterpret_cast<uintptr_t>(at) & ~(kPage - 1));
}

class MapRace : public ::testing::Test {
 protected:
  MapRace() {
    struct sigaction action{};
    action.sa_sigaction = at_the_moment;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    if (sigaction(SIGSEGV, &action, &before_) != 0) abort();
  }
  ~MapRace() override {
    sigaction(SIGSEGV, &before_, nullptr);
    moment = {};
  }
  /// The next access to the page that `protection` forbids waits until `then` has run.
  static void hold_up(const void *at, int protection, std::function<void()> then) {
    moment.page = page_of(at);
    moment.then = std::move(then);
    moment.times = 0;
    if (mprotect(moment.page, kPage, protection) != 0) abort();
  }

 private:
  struct sigaction before_{};
};

struct Made {
  Made(uint32_t type, uint32_t key, uint32_t value, uint32_t entries)
      : shape{type, key, value, entries}, pages(sf_map_bytes(&shape)), map{pages.begin(), shape, 1, 0},
        layout{key, value, entries, type == SF_MAP_PERCPU_HASH} {
    sf_map_init(map.storage, &shape);
  }
  maps::Header &header() { return *maps::header_of(map.storage); }
  uint32_t in_queue() {
    const auto *links = reinterpret_cast<uint32_t *>(maps::at(map.storage, layout.queue_offset()));
    uint32_t count = 0;
    for (uint32_t at = header().free_first; at != 0 && count <= layout.elements(); at = links[at - 1]) ++count;
    return count;
  }
  uint32_t number_of(uint32_t key) {
    const auto *value = static_cast<unsigned char *>(sf_map_lookup(&map, &key, 0));
    const auto *elements = maps::at(map.storage, layout.elements_offset());
    return static_cast<uint32_t>(static_cast<uint64_t>(value - elements) / layout.element_bytes());
  }
  sf_map_shape shape;
  Pages pages;
  sf_map map;
  maps::HashLayout layout;
};

TEST_F(MapRace, ElementGivenBackIsNotMarkedByAReaderWhoComesLate) {
  constexpr uint32_t kEntries = 20000;  // marks on pages of their own
  Made made(SF_MAP_LRU_HASH, 4, 8, kEntries);
  for (uint32_t key = 0; key < kEntries; ++key) {
    const uint64_t value = key;
    ASSERT_EQ(0, sf_map_update(&made.map, &key, &value, kAny, 0));
  }
  const uint32_t key = 10000;
  unsigned char *mark = maps::at(made.map.storage, made.layout.marks_offset()) + made.number_of(key);
  *mark = 1;  // as before anybody looked
  hold_up(mark, PROT_READ, [&] { sf_map_delete(&made.map, &key); });
  sf_map_lookup(&made.map, &key, 0);
  EXPECT_EQ(1, moment.times);
  EXPECT_EQ(0, *mark) << "it is in no bucket";
}

TEST_F(MapRace, MarkOfAnElementInTheQueueHarmsNothing) {
  constexpr uint32_t kEntries = 20;
  Made made(SF_MAP_LRU_HASH, 4, 8, kEntries);
  const uint64_t value = 1;
  for (uint32_t key = 0; key < kEntries; ++key) ASSERT_EQ(0, sf_map_update(&made.map, &key, &value, kAny, 0));
  const uint32_t gone = 5;
  const uint32_t number = made.number_of(gone);
  ASSERT_EQ(0, sf_map_delete(&made.map, &gone));
  maps::at(made.map.storage, made.layout.marks_offset())[number] = 3;
  for (uint32_t key = 100; key < 400; ++key) {
    ASSERT_EQ(0, sf_map_update(&made.map, &key, &value, kAny, 0));
    ASSERT_EQ(made.header().queued, made.in_queue()) << key;
    uint32_t found = 0;
    for (uint32_t each = 0; each < 400; ++each) found += sf_map_lookup(&made.map, &each, 0) != nullptr;
    ASSERT_EQ(made.header().count, found) << key;
    ASSERT_LE(found, kEntries);
  }
}

/* Wherever the hand comes, readers have just looked at everything. */
TEST_F(MapRace, LruNeverOutgrowsItsEntriesWhateverReadersMark) {
  constexpr uint32_t kEntries = 20000;
  Made made(SF_MAP_LRU_HASH, 4, 8, kEntries);
  const uint64_t value = 1;
  for (uint32_t key = 0; key < kEntries; ++key) ASSERT_EQ(0, sf_map_update(&made.map, &key, &value, kAny, 0));
  unsigned char *marks = maps::at(made.map.storage, made.layout.marks_offset());
  unsigned char *middle = page_of(marks + kEntries / 2), *other = middle;
  memset(marks, 3, kEntries);
  hold_up(marks, PROT_NONE, [&] {
    const bool at_middle = moment.page == middle;
    if (at_middle) memset(marks, 3, static_cast<size_t>(middle - marks));
    else memset(middle, 3, static_cast<size_t>(marks + kEntries - middle));
    std::swap(moment.page, other);
    if (mprotect(moment.page, kPage, PROT_NONE) != 0) abort();
  });
  const uint32_t key = kEntries;
  EXPECT_EQ(0, sf_map_update(&made.map, &key, &value, kAny, 0));
  ASSERT_EQ(0, mprotect(moment.page, kPage, PROT_READ | PROT_WRITE));
  EXPECT_GE(moment.times, 4) << "two rounds";
  EXPECT_EQ(kEntries, made.header().count);
  EXPECT_NE(nullptr, sf_map_lookup(&made.map, &key, 0));
  EXPECT_EQ(made.header().queued, made.in_queue());
}

/// A key across the border of two pages, whose owner changes the first part when the second is touched.
class ChangingKey {
 public:
  ChangingKey(size_t first_bytes) : pages_(2 * kPage), first_(first_bytes) {}
  unsigned char *key() const { return pages_.begin() + kPage - first_; }
  unsigned char *second() const { return pages_.begin() + kPage; }

 private:
  Pages pages_;
  size_t first_;
};

TEST_F(MapRace, KeyThatChangesWhileItIsStoredIsOneKey) {
  struct Key { uint64_t a, others[3], last; };
  for (uint32_t type : {uint32_t{SF_MAP_HASH}, uint32_t{SF_MAP_LRU_HASH}, uint32_t{SF_MAP_PERCPU_HASH}}) {
    for (uint64_t change = 1; change < 40; ++change) {
      Made made(type, sizeof(Key), 8, 1000);
      ChangingKey key(offsetof(Key, last));
      const Key was{1, {}, 2}, is{1 + change, {}, 2};
      memcpy(key.key(), &was, sizeof was);
      const uint64_t value = 7;
      hold_up(key.second(), PROT_NONE, [&] { memcpy(key.key(), &is, 8); });
      ASSERT_EQ(0, sf_map_update(&made.map, key.key(), &value, kAny, 0));
      ASSERT_EQ(1, moment.times);
      Key listed{};
      ASSERT_EQ(0, sf_map_next_key(&made.map, nullptr, &listed));
      EXPECT_NE(nullptr, sf_map_lookup(&made.map, &listed, 0)) << "found under the key that it has";
      EXPECT_EQ(-ENOENT, sf_map_next_key(&made.map, &listed, &listed));
      EXPECT_EQ(0, sf_map_delete(&made.map, &listed));
      EXPECT_EQ(0u, sf_map_count(&made.map));
    }
  }
}

struct Prefix { uint32_t bits; unsigned char data[4]; };

TEST_F(MapRace, PrefixThatChangesWhileItIsStoredIsNoLongerThanItsData) {
  Made made(SF_MAP_LPM_TRIE, sizeof(Prefix), 8, 10);
  const Prefix first{32, {1, 2, 3, 4}}, was{31, {1, 2, 3, 77}};
  const uint64_t value = 7;
  ASSERT_EQ(0, sf_map_update(&made.map, &first, &value, kAny, 0));
  ChangingKey key(4);
  const uint32_t is = 0xffffffff;
  auto change = [&] {
    memcpy(key.key(), &was, sizeof was);
    hold_up(key.second(), PROT_NONE, [&] { memcpy(key.key(), &is, 4); });
  };
  change();
  EXPECT_EQ(nullptr, sf_map_lookup(&made.map, key.key(), 0));
  change();
  EXPECT_EQ(0, sf_map_update(&made.map, key.key(), &value, kAny, 0));
  change();
  Prefix next{};
  EXPECT_EQ(-ENOENT, sf_map_next_key(&made.map, key.key(), &next)) << "shorter ones come last, and it is the last";
  std::set<uint32_t> bits;
  int steps = 0;
  for (int more = sf_map_next_key(&made.map, nullptr, &next); more == 0 && ++steps < 100;
       more = sf_map_next_key(&made.map, &next, &next)) {
    bits.insert(next.bits);
  }
  EXPECT_LT(steps, 100);
  EXPECT_TRUE(bits.contains(31) && bits.contains(32));
  change();
  EXPECT_EQ(0, sf_map_delete(&made.map, key.key()));
  EXPECT_EQ(1u, sf_map_count(&made.map));
}

TEST_F(MapRace, IterationGoesOnWhenItsKeyIsReplaced) {
  constexpr uint32_t kValue = 8192;
  constexpr uint32_t kKeys = 4;
  Made made(SF_MAP_HASH, 8, kValue, kKeys);  // one bucket, a page per element
  ASSERT_EQ(1u, made.layout.buckets());
  static unsigned char value[kValue];
  uint64_t keys[kKeys], at = 0;
  for (uint64_t key = 1; key <= kKeys; ++key) ASSERT_EQ(0, sf_map_update(&made.map, &key, value, kAny, 0));
  for (uint64_t key, *from = nullptr; at < kKeys && sf_map_next_key(&made.map, from, &key) == 0; from = &keys[at - 1])
    keys[at++] = key;
  ASSERT_EQ(kKeys, at);
  for (uint32_t i = 0; i + 1 < kKeys; ++i) {
    auto *element = static_cast<unsigned char *>(sf_map_lookup(&made.map, &keys[i], 0)) - 8;
    uint64_t next = 0;
    hold_up(element, PROT_NONE, [&] { sf_map_update(&made.map, &keys[i], value, kAny, 0); });
    EXPECT_EQ(0, sf_map_next_key(&made.map, &keys[i], &next)) << i;
    EXPECT_EQ(1, moment.times);
    EXPECT_EQ(keys[i + 1], next);
  }
}

}  // namespace
