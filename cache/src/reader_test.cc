/* The reader's small parts; what it does with records is in cache_test, readers_test and corrupt_test. */
#include "shortfuse/cache/reader.h"

#include <sys/mman.h>

#include <random>
#include <set>

#include "index.h"
#include "testing.h"

namespace shortfuse::cache {
namespace {

using namespace testing;

/// Memory that ends where a page without access begins.
class GuardedPage {
 public:
  GuardedPage() {
    base_ = static_cast<char *>(mmap(nullptr, 3 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_EQ(0, mprotect(base_ + 4096, 4096, PROT_READ | PROT_WRITE));
  }
  ~GuardedPage() { munmap(base_, 3 * 4096); }
  char *start() { return base_ + 4096; }
  char *end() { return base_ + 2 * 4096; }

 private:
  char *base_;
};

TEST(Copy, CopiesExactlyAndTouchesNothingElse) {
  GuardedPage from, to;
  for (size_t i = 0; i < 4096; ++i) from.start()[i] = static_cast<char>(i * 7 + i / 256);
  for (size_t size = 0; size <= 600; ++size) {
    std::memset(to.start(), 0x55, 4096);
    sf_copy(to.end() - size, from.end() - size, size);
    ASSERT_EQ(0, std::memcmp(to.end() - size, from.end() - size, size)) << size;
    ASSERT_EQ(0x55, to.end()[-static_cast<ptrdiff_t>(size) - 1]) << size;
    sf_copy(to.start(), from.start(), size);
    ASSERT_EQ(0, std::memcmp(to.start(), from.start(), size)) << size;
  }
  sf_copy(to.start(), from.start(), 4096);
  EXPECT_EQ(0, std::memcmp(to.start(), from.start(), 4096));
}

TEST(NameHash, ReadsOnlyTheNameAndAllOfIt) {
  sf_view view{};
  view.hash_seed = 12345;
  GuardedPage low, high;
  for (size_t len = 1; len <= SF_NAME_MAX; ++len) {
    char *name = high.end() - len;
    std::memset(name, 'a', len);
    std::memset(low.start(), 'a', len);
    const uint64_t hash = sf_name_hash(&view, name, len);
    ASSERT_EQ(hash, sf_name_hash(&view, low.start(), len));
    for (size_t i = 0; i < len; ++i) {
      name[i] = 'b';
      ASSERT_NE(hash, sf_name_hash(&view, name, len)) << len << " " << i;
      name[i] = 'a';
    }
    if (len > 1) {
      ASSERT_NE(hash, sf_name_hash(&view, name, len - 1));
    }
  }
}

TEST(NameHash, SpreadsSimilarNames) {
  sf_view view{};
  view.hash_seed = 99;
  std::set<uint64_t> whole;
  std::vector<int> low(1024), high(1024);
  constexpr int kNames = 200000;
  for (int i = 0; i < kNames; ++i) {
    const std::string name = "file" + std::to_string(i) + ".txt";
    const uint64_t hash = sf_name_hash(&view, name.data(), name.size());
    whole.insert(hash);
    ++low[hash % 1024];
    ++high[hash >> 54];
  }
  EXPECT_EQ(size_t{kNames}, whole.size());
  for (int i = 0; i < 1024; ++i) {
    EXPECT_NEAR(kNames / 1024, low[i], 90) << "low bits";
    EXPECT_NEAR(kNames / 1024, high[i], 90) << "high bits";
  }
}

TEST(IndexHash, SpreadsSequentialKeysOverBucketsAndTags) {
  constexpr uint64_t kBuckets = 4096;
  for (uint64_t seed : {0x123456789abcdefull, 0xfedcba9876543210ull}) {
    std::vector<int> first(kBuckets), second(kBuckets), tags(256);
    int same = 0;
    constexpr int kKeys = 100 * kBuckets;
    for (int i = 0; i < kKeys; ++i) {
      const uint64_t hash = index_hash(seed, SF_REC_DATA, 1000 + static_cast<uint64_t>(i) / 64, i % 64);
      ++first[first_bucket(hash, kBuckets - 1)];
      ++second[second_bucket(hash, kBuckets - 1)];
      ++tags[index_tag(hash) % 256];
      same += first_bucket(hash, kBuckets - 1) == second_bucket(hash, kBuckets - 1);
    }
    EXPECT_LT(same, kKeys / 1000);
    for (uint64_t i = 0; i < kBuckets; ++i) {
      EXPECT_NEAR(100, first[i], 65) << i;
      EXPECT_NEAR(100, second[i], 65) << i;
    }
    for (int count : tags) EXPECT_NEAR(kKeys / 256, count, 250);
  }
}

TEST(ViewOpen, RefusesWhatIsNoSegment) {
  auto cache = make_cache();
  std::vector<unsigned char> head(cache->head_bytes());
  const auto *good = reinterpret_cast<const unsigned char *>(cache->header());
  auto opens = [&](auto change, size_t bytes) {
    std::memcpy(head.data(), good, head.size());
    change(reinterpret_cast<sf_segment_header *>(head.data()));
    sf_view view{};
    const int result = sf_view_open(&view, head.data(), bytes, nullptr);
    EXPECT_TRUE(result == 0 || result == -EINVAL);
    return result == 0;
  };
  const size_t all = head.size();
  EXPECT_TRUE(opens([](auto *) {}, all));
  EXPECT_FALSE(opens([](auto *) {}, all - 1)) << "the index does not fit";
  EXPECT_FALSE(opens([](auto *) {}, 100));
  EXPECT_FALSE(opens([](auto *h) { h->magic ^= 1; }, all));
  EXPECT_FALSE(opens([](auto *h) { ++h->format; }, all));
  EXPECT_FALSE(opens([](auto *h) { h->header_bytes = 4096; }, all));
  EXPECT_FALSE(opens([](auto *h) { h->index_buckets = 0; }, all));
  EXPECT_FALSE(opens([](auto *h) { h->index_buckets -= 1; }, all));
  EXPECT_FALSE(opens([](auto *h) { h->index_buckets = 1ull << 63; }, all));
  EXPECT_FALSE(opens([](auto *h) { h->chunk_bytes += 64; }, all));
  EXPECT_FALSE(opens([](auto *h) { h->chunk_bytes = 4096; }, all));
  EXPECT_FALSE(opens([](auto *h) { h->chunk_bytes = 1ull << 63; }, all));
  EXPECT_FALSE(opens([](auto *h) { h->chunks_max = 0; }, all));
  EXPECT_FALSE(opens([](auto *h) { h->chunks_max = SF_CHUNKS_MAX + 1; }, all));
}

TEST(FindRef, LeadsToTheRecordAndCanBeTouched) {
  auto cache = make_cache();
  const Nid file = cache->learn(10, SF_NID_ROOT, "file", false, Holder::Kernel);
  EXPECT_EQ(0u, sf_find_ref(&cache->view(), SF_REC_ATTR, file, 0));
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(1), kNever));
  const uint64_t ref = sf_find_ref(&cache->view(), SF_REC_ATTR, file, 0);
  ASSERT_NE(0u, ref);
  const auto *record = reinterpret_cast<const sf_record *>(cache->view().chunks + ref * SF_REF_UNIT);
  EXPECT_EQ(file, record->key);
  EXPECT_EQ(SF_REC_ATTR, record->kind);
  std::mt19937_64 random(3);
  std::vector<uint64_t> hostile = {ref, 0, ~0ull, ref + 1, 1ull << 48};
  for (int i = 0; i < 100000; ++i) hostile.push_back(random() >> (random() % 64));
  cache->touched(hostile);
}

}  // namespace
}  // namespace shortfuse::cache
