/* A segment of random bytes, or of good bytes with some wrong ones, never makes a reader crash, hang, write beyond
 * its buffers or read beyond the mappings. The mappings here end at pages without access. */
#include <sys/mman.h>

#include <atomic>
#include <random>
#include <thread>

#include "testing.h"

namespace shortfuse::cache {
namespace {

using namespace testing;

constexpr int kFiles = 40;

/// A private copy of a segment, with guards, and a few keys that lead to records.
class Copy {
 public:
  Copy() : cache_(make_cache()) {
    fill();
    const sf_segment_header *header = cache_->header();
    head_bytes_ = cache_->head_bytes();
    chunk_bytes_ = header->chunk_bytes;
    head = guarded(head_bytes_);
    chunk = guarded(chunk_bytes_);
    space = chunk - chunk_bytes_;  // chunk 1 is the only one; chunk 0 is never mapped
    EXPECT_EQ(1u, cache_->chunks().size());
    restore();
    EXPECT_EQ(0, sf_view_open(&view, head, head_bytes_, space));
    view.now_ns = monotonic_ns;
    view.mapped_generation[1] = header->chunk_generation[1];
  }
  ~Copy() {
    munmap(head - kGuard, head_bytes_ + 2 * kGuard);
    munmap(chunk - kGuard, chunk_bytes_ + 2 * kGuard);
  }
  void restore() {
    std::memcpy(head, cache_->header(), head_bytes_);
    std::memcpy(chunk, cache_->view().chunks + chunk_bytes_, chunk_bytes_);
  }
  uint64_t first_cid() const { return cids_[0]; }
  uint64_t head_words() const { return head_bytes_ / 8; }
  uint64_t chunk_words() const { return chunk_bytes_ / 8; }

  /// Every kind of lookup; returns how many succeeded.
  int look_around(std::mt19937_64 &random) {
    int found = 0;
    const Nid nid = nids_[random() % nids_.size()];
    sf_attr_view attr{};
    sf_moment moment{};
    Nid other = 0;
    const std::string name = "file" + std::to_string(random() % kFiles);
    found += find_attr(view, nid, &attr) == SF_FIND_OK;
    found += find_dentry(view, SF_NID_ROOT, name, &other) == SF_FIND_OK;
    found += sf_find_node(&view, 100 + random() % kFiles, &other) == SF_FIND_OK;
    found += sf_find_parent(&view, nid, &moment, &other) == SF_FIND_OK;
    fuse_kstatfs statfs;
    found += sf_find_statfs(&view, &moment, &statfs) == SF_FIND_OK;
    const uint64_t cid = cids_[random() % cids_.size()];
    uint32_t len = 0, parts = 0;
    int error = 0;
    Guarded buffer;
    const auto from = static_cast<uint32_t>(random() % SF_PAGE_BYTES);
    const auto size = static_cast<uint32_t>(random() % (SF_PAGE_BYTES + 1));
    if (sf_find_data(&view, cid, 0, from, size, buffer.at, &len) == SF_FIND_OK) {
      ++found;
      EXPECT_LE(len, size);
    }
    found += sf_find_listing(&view, cid, 0, buffer.at, size, &len, &parts) == SF_FIND_OK;
    found += sf_find_blob(&view, SF_REC_LINK, cid, buffer.at, size, &len) == SF_FIND_OK;
    found += sf_find_blob(&view, SF_REC_XLIST, cid, buffer.at, size, &len) == SF_FIND_OK;
    found += sf_find_xattr(&view, cid, "user.name", 9, buffer.at, size, &len, &error) == SF_FIND_OK;
    sf_find_ref(&view, SF_REC_DATA, cid, 0);
    sf_view_serving(&view);
    buffer.check(size);
    return found;
  }

  unsigned char *head, *chunk, *space;
  sf_view view{};

 private:
  static constexpr size_t kGuard = 1 << 16;
  struct Guarded {
    unsigned char bytes[SF_PAYLOAD_MAX + 64];
    unsigned char *at = bytes;
    Guarded() { std::memset(bytes, 0xa5, sizeof bytes); }
    void check(size_t size) const { EXPECT_EQ(0xa5, bytes[size]); }
  };
  static unsigned char *guarded(size_t bytes) {
    void *at = mmap(nullptr, bytes + 2 * kGuard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    auto *inside = static_cast<unsigned char *>(at) + kGuard;
    EXPECT_EQ(0, mprotect(inside, bytes, PROT_READ | PROT_WRITE));
    return inside;
  }
  void fill() {
    for (int i = 0; i < kFiles; ++i) {
      const std::string name = "file" + std::to_string(i);
      const bool directory = i % 4 == 0;
      const Nid nid = cache_->learn(100 + static_cast<uint64_t>(i), SF_NID_ROOT, name, directory, Holder::Kernel);
      cache_->fill_attr(cache_->moment(), nid, attr_of(5000), i % 2 == 0 ? kNever : 1'000'000'000'000);
      const Moment now = cache_->moment();
      cache_->fill_dentry(now, SF_NID_ROOT, name, nid, kNever);
      cache_->fill_data(now, nid, 0, some_bytes(5000, 1), true);
      cache_->fill_link(now, nid, std::string(200, 'l'));
      cache_->fill_xattr(now, nid, "user.name", some_bytes(300, 2), 0);
      cache_->fill_xlist(now, nid, some_bytes(100, 3));
      std::vector<std::byte> entry(24);
      entry[16] = std::byte{24};
      cache_->fill_listing(now, nid, entry);
      nids_.push_back(nid);
      cids_.push_back(cid_of(cache_->view(), nid));
    }
    cache_->fill_statfs(cache_->moment(), {}, kNever);
  }

  std::unique_ptr<Cache> cache_;
  size_t head_bytes_, chunk_bytes_;
  std::vector<Nid> nids_;
  std::vector<uint64_t> cids_;
};

uint64_t hostile_word(std::mt19937_64 &random) {
  switch (random() % 6) {
    case 0: return 0;
    case 1: return ~0ull;
    case 2: return random() % 64;
    case 3: return 1ull << (random() % 64);
    case 4: return random() >> (random() % 64);
    default: return random();
  }
}

TEST(Corrupt, GoodCopyIsRead) {
  Copy copy;
  std::mt19937_64 random(1);
  int found = 0;
  for (int i = 0; i < 1000; ++i) found += copy.look_around(random);
  EXPECT_GT(found, 6000);
}

TEST(Corrupt, WrongWordsInTheRecords) {
  Copy copy;
  std::mt19937_64 random(2);
  auto *words = reinterpret_cast<uint64_t *>(copy.chunk);
  for (int round = 0; round < 400; ++round) {
    copy.restore();
    for (int i = 0; i < 4000; ++i) words[random() % copy.chunk_words()] = hostile_word(random);
    // Lengths and kinds of records that are in use: the slots begin at multiples of 64 bytes.
    for (int i = 0; i < 4000; ++i) words[random() % copy.chunk_words() / 8 * 8 + 4] ^= hostile_word(random);
    for (int i = 0; i < 50; ++i) copy.look_around(random);
  }
}

TEST(Corrupt, WrongRefsInTheIndex) {
  Copy copy;
  std::mt19937_64 random(3);
  auto *entries = reinterpret_cast<uint64_t *>(copy.head + SF_HEADER_BYTES);
  const uint64_t count = copy.head_words() - SF_HEADER_BYTES / 8;
  for (int round = 0; round < 200; ++round) {
    copy.restore();
    for (uint64_t i = 0; i < count; ++i) {
      // The tag stays, so that the ref is followed.
      if (entries[i] != 0 && random() % 2 == 0) entries[i] ^= hostile_word(random) >> 16;
    }
    for (int i = 0; i < 200; ++i) copy.look_around(random);
  }
}

TEST(Corrupt, RecordThatClaimsToCrossTheEndOfItsChunk) {
  Copy copy;
  // A good record, moved to the very end of the chunk, where its length is a lie.
  const uint64_t cid = copy.first_cid();
  const uint64_t ref = sf_find_ref(&copy.view, SF_REC_LINK, cid, 0);
  ASSERT_NE(0u, ref);
  const uint64_t last = copy.view.chunk_bytes * 2 / SF_REF_UNIT - 1;
  auto *record = reinterpret_cast<sf_record *>(copy.space + last * SF_REF_UNIT);
  std::memcpy(static_cast<void *>(record), copy.space + ref * SF_REF_UNIT, sizeof *record);
  auto *entries = reinterpret_cast<uint64_t *>(copy.head + SF_HEADER_BYTES);
  for (uint64_t i = 0; i < copy.head_words() - SF_HEADER_BYTES / 8; ++i) {
    if ((entries[i] & ((1ull << 48) - 1)) == ref) entries[i] = (entries[i] >> 48 << 48) | last;
  }
  std::vector<char> buffer(1 << 20);
  uint32_t copied = 0;
  for (uint32_t len : {24u, 25u, 200u, uint32_t{SF_PAYLOAD_MAX}, uint32_t{SF_PAYLOAD_MAX} + 1, 1u << 20, ~0u}) {
    record->len = len;
    EXPECT_EQ(len == 24 ? SF_FIND_OK : SF_FIND_ABSENT,
              sf_find_blob(&copy.view, SF_REC_LINK, cid, buffer.data(), buffer.size(), &copied))
        << len;
  }
}

TEST(Corrupt, WrongHeader) {
  Copy copy;
  std::mt19937_64 random(4);
  auto *words = reinterpret_cast<uint64_t *>(copy.head);
  for (int round = 0; round < 2000; ++round) {
    copy.restore();
    for (int i = 0; i < 200; ++i) words[random() % (SF_HEADER_BYTES / 8)] = hostile_word(random);
    for (int i = 0; i < 20; ++i) copy.look_around(random);
    sf_view again{};
    sf_view_open(&again, copy.head, SF_HEADER_BYTES + 1024, copy.space);
  }
}

TEST(Corrupt, BytesThatChangeUnderTheReader) {
  Copy copy;
  std::atomic<bool> stop{false};
  std::thread scribbler([&] {
    std::mt19937_64 random(5);
    auto *words = reinterpret_cast<uint64_t *>(copy.chunk);
    auto *entries = reinterpret_cast<uint64_t *>(copy.head + SF_HEADER_BYTES);
    const uint64_t count = copy.head_words() - SF_HEADER_BYTES / 8;
    while (!stop) {
      __atomic_store_n(words + random() % copy.chunk_words(), hostile_word(random), __ATOMIC_RELAXED);
      uint64_t *entry = entries + random() % count;
      const uint64_t old = __atomic_load_n(entry, __ATOMIC_RELAXED);
      if (old != 0) __atomic_store_n(entry, old ^ hostile_word(random) >> 16, __ATOMIC_RELAXED);
    }
  });
  std::mt19937_64 random(6);
  for (int i = 0; i < 100000; ++i) copy.look_around(random);
  stop = true;
  scribbler.join();
}

}  // namespace
}  // namespace shortfuse::cache
