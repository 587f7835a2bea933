/* The writer's side of the records: chunks, spans, slots, the index, and CLOCK eviction.
 *
 * A chunk is cut into spans of 64 KiB. A span serves one size class at a time and is cut into equal slots, one
 * record each; an empty span goes back to its chunk, so memory moves between classes. What is known of spans and
 * slots is private to the daemon: readers see the index and the records only.
 *
 * Eviction is CLOCK in the class that needs a slot: a hand goes over its slots, spares those whose reference bit
 * is set (touched, or filled again) and clears the bit. Each time a class has evicted one span's worth, it looks at
 * the next few spans of other classes and takes the coldest over, unless that is more in use than its own:
 * so the classes' shares follow the load. Both are O(1) amortised.
 *
 * Not thread-safe: the caller holds one lock around every call. Readers need none. */
#pragma once
#include <array>
#include <cstdint>
#include <expected>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "segment.h"
#include "shortfuse/cache/cache.h"

namespace shortfuse::cache {

using Bytes = std::span<const std::byte>;

inline Bytes as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte *>(text.data()), text.size()};
}
template <class T>
Bytes bytes_of(const T &value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

/// What makes a record unique. `name` only for the kinds that have one (DENTRY, XATTR; then sub is its hash).
struct RecordKey {
  sf_record_kind kind;
  uint64_t key;
  uint64_t sub = 0;
  std::string_view name = {};
};

/// The other fields of a record. `sub` replaces the key's where it is a value (ATTR).
struct RecordFields {
  uint64_t expires_ns = 0;
  uint8_t flags = 0;
  uint16_t epoch = 0;
};

class Store {
 public:
  /// The longest payload that is kept: two of the largest slots fill a span.
  static constexpr uint32_t kPayloadMax = 32768 - sizeof(sf_record);

  static std::expected<std::unique_ptr<Store>, std::string> create(uint64_t budget_bytes);
  explicit Store(Segment segment);
  ~Store();
  Store(const Store &) = delete;

  Segment &segment() { return segment_; }
  const sf_view &view() const { return view_; }
  std::vector<Cache::Chunk> chunks() const;
  uint64_t name_hash(std::string_view name) const { return sf_name_hash(&view_, name.data(), name.size()); }

  /// The record, or null. Valid until the next call that changes something. Only this class writes to it.
  const sf_record *find(const RecordKey &key) const;
  /// Writes the record, over the old one of that key if there is one. The payload is `parts` in order.
  /// False when it cannot be placed (too long, or the system has no memory at all).
  bool put(const RecordKey &key, const RecordFields &fields, std::initializer_list<Bytes> parts);
  /// Changes an existing record's sub, flags or both without touching its payload.
  void amend(const sf_record *record, uint64_t sub, uint8_t flags);
  bool remove(const RecordKey &key);
  /// Everything, whatever its kind.
  void clear();
  /// All records of two kinds (when the epoch that voids them wraps around).
  void remove_kinds(sf_record_kind one, sf_record_kind other);
  /// Sets the reference bit of the record at `ref`, if there is one.
  void touch(uint64_t ref);
  /// Gives wholly empty chunks back to the system, but for one.
  void trim();

  void add_stats(Stats &stats) const;

 private:
  struct Span;
  struct Chunk;
  struct SizeClass;
  struct Place { uint64_t *entry; sf_record *record; };

  uint64_t *bucket(uint64_t number) const { return segment_.index() + number * SF_INDEX_BUCKET_ENTRIES; }
  sf_record *record_at(uint64_t ref) const;
  uint64_t ref_of(const Span &span, uint32_t slot) const;
  Span *span_of(uint64_t ref, uint32_t *slot) const;
  Place locate(const RecordKey &key) const;
  uint64_t *entry_of(uint64_t ref) const;

  void write(sf_record *record, const RecordKey &key, const RecordFields &fields, uint32_t len,
             std::initializer_list<Bytes> parts);
  void publish(uint64_t hash, uint64_t ref);
  void use_index(uint64_t buckets);
  void grow_index();
  void count(const sf_record *record, int sign);

  uint64_t allocate(unsigned size_class);
  uint64_t take_slot(Span &span);
  void free_slot(uint64_t ref);
  void evict(uint64_t ref);
  bool evict_by_clock(SizeClass &size_class);
  bool take_over_coldest(unsigned taker, uint32_t limit_permille);
  void empty_span(Span &span);
  Span *new_span(unsigned size_class);
  bool add_chunk();
  void drop_chunk(uint32_t index);
  void release_span(Span &span);

  Segment segment_;
  sf_view view_{};
  uint64_t mask_ = 0;            ///< of the buckets in use, less one
  uint64_t entries_ = 0;         ///< records, of all kinds
  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::unique_ptr<SizeClass[]> classes_;
  uint64_t version_;             ///< of the record written last; even
  uint32_t generation_ = 0;      ///< of the chunk made last; never repeats
  uint32_t spans_per_chunk_;     ///< a power of two: 1 << span_shift_
  uint32_t span_shift_;
  uint64_t free_spans_ = 0;
  uint64_t clock_span_ = 0;      ///< the global hand, over all spans
  uint32_t index_hand_ = 0;      ///< where the next victim of a full bucket is looked for
  uint64_t evictions_ = 0;
  std::array<uint64_t, SF_REC_KINDS> records_{};
  std::array<uint64_t, SF_REC_KINDS> bytes_{};
};

}  // namespace shortfuse::cache
