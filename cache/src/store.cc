#include "store.h"

#include <sys/random.h>
#include <time.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <new>

#include "index.h"
#include "shared.h"

namespace shortfuse::cache {

namespace {

constexpr uint32_t kSpanBytes = 65536;
constexpr uint32_t kSpanUnits = kSpanBytes / SF_REF_UNIT;
constexpr unsigned kColdSample = 8;  // spans that are looked at before one is taken over
constexpr uint32_t kAnyPrice = ~0u;
/// The index in use begins with so many buckets and grows by this factor when they are half full; at the limit it takes
/// all that there are: moving more entries than it holds by then would keep everybody waiting for too long.
constexpr uint64_t kIndexFirst = 1024, kIndexGrowth = 4, kIndexInSteps = 1 << 16;
constexpr uint64_t kEntriesPerBucket = SF_INDEX_BUCKET_ENTRIES / 2;

/// Slot sizes in units of 64 bytes. Small ones finely, for attributes and names; 65 holds a data page; the large ones
/// divide a span evenly.
constexpr uint16_t kSlotUnits[] = {1,  2,  3,  4,  5,  6,  7,  8,  10, 12, 14,  16,  20,  24,  28,
                                   32, 40, 48, 56, 65, 80, 96, 113, 128, 146, 170, 204, 256, 341, 512};
constexpr unsigned kClasses = std::size(kSlotUnits);
static_assert(kSlotUnits[kClasses - 1] * SF_REF_UNIT == Store::kPayloadMax + sizeof(sf_record));

/// Size class by units; the largest slot has 512.
constexpr auto kClassOfUnits = [] {
  std::array<uint8_t, 513> table{};
  unsigned size_class = 0;
  for (unsigned units = 0; units < table.size(); ++units) {
    if (units > kSlotUnits[size_class]) ++size_class;
    table[units] = static_cast<uint8_t>(size_class);
  }
  return table;
}();

unsigned class_of(uint32_t payload_len) {
  return kClassOfUnits[(sizeof(sf_record) + payload_len + SF_REF_UNIT - 1) / SF_REF_UNIT];
}

uint64_t coarse_now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

/// 64 KiB of one chunk. In the list of its class while it has one, and among that class's partial spans while it
/// has a free slot.
struct Store::Span {
  uint32_t number;             ///< counted from chunk 0: chunk * spans_per_chunk + place in it
  int16_t size_class = -1;     ///< -1: free
  uint16_t slots = 0;
  uint16_t used = 0;
  bool partial = false;
  // Since the global hand came by:
  bool aged = false;           ///< the class's own hand has aged it
  bool fresh = false;          ///< a record was put into it
  Span *next = nullptr, *prev = nullptr;                  ///< ring of the class, for its hand
  Span *next_partial = nullptr, *prev_partial = nullptr;  ///< list of the class
  uint64_t used_bits[kSpanUnits / 64] = {};
  uint64_t referenced_bits[kSpanUnits / 64] = {};
};

struct Store::Chunk {
  Fd fd;
  uint32_t generation;
  uint32_t free_spans;
  std::unique_ptr<Span[]> spans;
};

struct Store::SizeClass {
  uint16_t units = 0, slots = 0;
  uint32_t spans = 0;
  Span *partial = nullptr;
  Span *hand = nullptr;          ///< in the ring of spans
  uint32_t hand_slot = 0;
  uint32_t evicted_since_balance = 0;
  uint32_t spared_since_balance = 0;
};

std::expected<std::unique_ptr<Store>, std::string> Store::create(uint64_t budget_bytes) {
  auto segment = Segment::create(budget_bytes);
  if (!segment) return std::unexpected(segment.error());
  return std::make_unique<Store>(std::move(*segment));
}

Store::Store(Segment segment) : segment_(std::move(segment)) {
  const sf_segment_header *header = segment_.header();
  const int opened = sf_view_open(&view_, header, segment_.head_bytes(), segment_.chunks());
  assert(opened == 0);
  (void)opened;
  view_.now_ns = coarse_now_ns;
  use_index(std::min(kIndexFirst, header->index_buckets));
  chunks_.resize(header->chunks_max);
  spans_per_chunk_ = static_cast<uint32_t>(header->chunk_bytes / kSpanBytes);
  span_shift_ = static_cast<uint32_t>(std::countr_zero(spans_per_chunk_));
  clock_span_ = spans_per_chunk_;
  classes_ = std::make_unique<SizeClass[]>(kClasses);
  for (unsigned i = 0; i < kClasses; ++i) {
    classes_[i].units = kSlotUnits[i];
    classes_[i].slots = static_cast<uint16_t>(kSpanUnits / kSlotUnits[i]);
  }
  // A random start, so that no payload can pretend to be the record that a reader expects (reader.cc). The top
  // bit stays clear: room for 2^62 writes.
  uint64_t random = 0;
  if (getrandom(&random, sizeof random, 0) != sizeof random) random = header->hash_seed * kOddC;
  version_ = random & (~0ull >> 1) & ~1ull;
}

Store::~Store() = default;

std::vector<Cache::Chunk> Store::chunks() const {
  std::vector<Cache::Chunk> list;
  for (uint32_t i = 0; i < chunks_.size(); ++i) {
    if (chunks_[i]) list.push_back({i, chunks_[i]->generation, chunks_[i]->fd.get()});
  }
  return list;
}

// ---- places

sf_record *Store::record_at(uint64_t ref) const {
  return reinterpret_cast<sf_record *>(segment_.chunks() + ref * SF_REF_UNIT);
}

uint64_t Store::ref_of(const Span &span, uint32_t slot) const {
  return static_cast<uint64_t>(span.number) * kSpanUnits + slot * kSlotUnits[span.size_class];
}

/// The span and slot of a ref; null when no record can begin there. Any number is allowed.
Store::Span *Store::span_of(uint64_t ref, uint32_t *slot) const {
  const uint64_t number = ref / kSpanUnits;
  const uint64_t chunk = number >> span_shift_;
  if (chunk >= chunks_.size() || !chunks_[chunk]) return nullptr;
  Span &span = chunks_[chunk]->spans[number & (spans_per_chunk_ - 1)];
  if (span.size_class < 0) return nullptr;
  const auto units = static_cast<uint32_t>(ref % kSpanUnits);
  *slot = units / kSlotUnits[span.size_class];
  if (*slot >= span.slots || *slot * kSlotUnits[span.size_class] != units) return nullptr;
  return &span;
}

/// Entry and record of a key, or nulls.
Store::Place Store::locate(const RecordKey &key) const {
  const uint64_t hash = index_hash(view_.hash_seed, key.kind, key.key, key.sub);
  for (uint64_t number : {first_bucket(hash, mask_), second_bucket(hash, mask_)}) {
    uint64_t *entries = bucket(number);
    for (unsigned i = 0; i < SF_INDEX_BUCKET_ENTRIES; ++i) {
      if (entries[i] == 0 || index_tag(entries[i]) != index_tag(hash)) continue;
      sf_record *record = record_at(entries[i] & kRefMask);
      if (record->kind != key.kind || record->key != key.key) continue;
      if (key.kind != SF_REC_ATTR && record->sub != key.sub) continue;
      if (!key.name.empty() && (record->len < 8 + key.name.size() ||
                                std::memcmp(record->payload + 8, key.name.data(), key.name.size()) != 0)) {
        continue;
      }
      if (key.kind == SF_REC_DENTRY && record->len != 8 + key.name.size()) continue;
      if (key.kind == SF_REC_XATTR && load_u32(record->payload) != key.name.size()) continue;
      return {entries + i, record};
    }
  }
  return {nullptr, nullptr};
}

/// The index entry that leads to a record in use.
uint64_t *Store::entry_of(uint64_t ref) const {
  const sf_record *record = record_at(ref);
  const uint64_t hash = index_hash(view_.hash_seed, record->kind, record->key, record->sub);
  const uint64_t wanted = index_tag(hash) << kTagShift | ref;
  for (uint64_t number : {first_bucket(hash, mask_), second_bucket(hash, mask_)}) {
    uint64_t *entries = bucket(number);
    for (unsigned i = 0; i < SF_INDEX_BUCKET_ENTRIES; ++i) {
      if (entries[i] == wanted) return entries + i;
    }
  }
  return nullptr;
}

// ---- records

const sf_record *Store::find(const RecordKey &key) const { return locate(key).record; }

bool Store::put(const RecordKey &key, const RecordFields &fields, std::initializer_list<Bytes> parts) {
  size_t len = 0;
  for (Bytes part : parts) len += part.size();
  if (len > kPayloadMax) return false;
  const unsigned size_class = class_of(static_cast<uint32_t>(len));

  // Over the old record, if it has a slot of the right size; else it goes first (absent for a moment: a miss).
  if (Place old = locate(key); old.record != nullptr) {
    const uint64_t ref = *old.entry & kRefMask;
    if (class_of(old.record->len) == size_class) {
      count(old.record, -1);
      write(old.record, key, fields, static_cast<uint32_t>(len), parts);
      count(old.record, 1);
      touch(ref);
      return true;
    }
    remove(key);
  }

  const uint64_t ref = allocate(size_class);
  if (ref == 0) return false;
  write(record_at(ref), key, fields, static_cast<uint32_t>(len), parts);
  count(record_at(ref), 1);
  if (entries_ > (mask_ + 1) * kEntriesPerBucket && mask_ != view_.index_mask) grow_index();
  publish(index_hash(view_.hash_seed, key.kind, key.key, key.sub), ref);
  // Not marked as referenced: it lies behind the hand and has a whole round to be touched in. If new records were
  // marked, every bit would be set and CLOCK would be a queue.
  return true;
}

/// The seqlock's writing half. Readers that see the odd version, or two versions, throw their copy away.
void Store::write(sf_record *record, const RecordKey &key, const RecordFields &fields, uint32_t len,
                  std::initializer_list<Bytes> parts) {
  version_ += 2;
  store_relaxed(&record->version, version_ - 1);
  // The odd version, and whatever index entry was cleared before, become visible before any byte below.
  fence_release();
  store_relaxed(&record->key, key.key);
  store_relaxed(&record->sub, key.sub);
  store_relaxed(&record->expires_ns, fields.expires_ns);
  store_relaxed(&record->kind, static_cast<uint8_t>(key.kind));
  store_relaxed(&record->flags, fields.flags);
  store_relaxed(&record->epoch, fields.epoch);
  store_relaxed(&record->len, len);
  unsigned char *to = record->payload;
  for (Bytes part : parts) {
    copy_to_shared(to, part.data(), part.size());
    to += part.size();
  }
  // Release: a reader that sees this version sees all of the above.
  store_release(&record->version, version_);
}

void Store::amend(const sf_record *found, uint64_t sub, uint8_t flags) {
  auto *record = const_cast<sf_record *>(found);
  version_ += 2;
  store_relaxed(&record->version, version_ - 1);
  fence_release();
  store_relaxed(&record->sub, sub);
  store_relaxed(&record->flags, flags);
  store_release(&record->version, version_);
}

/// Makes a written record reachable; where both buckets are full, in the place of another one.
void Store::publish(uint64_t hash, uint64_t ref) {
  const uint64_t entry = index_tag(hash) << kTagShift | ref;
  uint64_t *buckets[] = {bucket(first_bucket(hash, mask_)), bucket(second_bucket(hash, mask_))};
  for (uint64_t *entries : buckets) {
    for (unsigned i = 0; i < SF_INDEX_BUCKET_ENTRIES; ++i) {
      if (entries[i] != 0) continue;
      // Release: whoever finds the entry finds the record complete.
      store_release(entries + i, entry);
      return;
    }
  }
  if (mask_ != view_.index_mask) {
    grow_index();
    return publish(hash, ref);
  }
  uint64_t *victim = nullptr;
  for (unsigned i = 0; i < 2 * SF_INDEX_BUCKET_ENTRIES; ++i) {
    const unsigned at = index_hand_++ % (2 * SF_INDEX_BUCKET_ENTRIES);
    victim = buckets[at / SF_INDEX_BUCKET_ENTRIES] + at % SF_INDEX_BUCKET_ENTRIES;
    uint32_t slot;
    const Span *span = span_of(*victim & kRefMask, &slot);
    if ((span->referenced_bits[slot / 64] >> (slot % 64) & 1) == 0) break;
  }
  evict(*victim & kRefMask);
  store_release(victim, entry);
}

void Store::use_index(uint64_t buckets) {
  mask_ = buckets - 1;
  // Release: see mask_in_use() in reader.cc.
  store_release(&segment_.header()->index_used, buckets);
}

/// Each entry of a bucket stays or moves to one of the new buckets, which get entries from this one only and so have
/// room. A reader may miss a record that moves, or find its entry gone and look again; both are harmless.
void Store::grow_index() {
  const uint64_t before = mask_, room = view_.index_mask + 1;
  const uint64_t next = (before + 1) * kIndexGrowth;
  const uint64_t buckets = next > kIndexInSteps ? room : std::min(next, room);
  for (uint64_t from = 0; from <= before; ++from) {
    for (unsigned i = 0; i < SF_INDEX_BUCKET_ENTRIES; ++i) {
      uint64_t *old = bucket(from) + i;
      if (*old == 0) continue;
      const sf_record *record = record_at(*old & kRefMask);
      const uint64_t hash = index_hash(view_.hash_seed, record->kind, record->key, record->sub);
      const bool first = first_bucket(hash, before) == from;
      const uint64_t to = first ? first_bucket(hash, buckets - 1) : second_bucket(hash, buckets - 1);
      if (to == from) continue;
      uint64_t *free = bucket(to);
      while (*free != 0) ++free;
      store_release(free, *old);
      store_relaxed(old, uint64_t{0});
    }
  }
  use_index(buckets);
}

bool Store::remove(const RecordKey &key) {
  const Place place = locate(key);
  if (place.record == nullptr) return false;
  const uint64_t ref = *place.entry & kRefMask;
  // Relaxed is enough for readers (either is a moment of their call); the fence in the next write() to this slot
  // orders the two.
  store_relaxed(place.entry, uint64_t{0});
  free_slot(ref);
  return true;
}

void Store::clear() {
  const uint64_t evictions = evictions_;
  for (auto &chunk : chunks_) {
    if (!chunk) continue;
    for (uint32_t i = 0; i < spans_per_chunk_; ++i) {
      if (chunk->spans[i].size_class >= 0) empty_span(chunk->spans[i]);
    }
  }
  evictions_ = evictions;
  trim();
}

void Store::remove_kinds(sf_record_kind one, sf_record_kind other) {
  for (uint64_t i = 0; i < (mask_ + 1) * SF_INDEX_BUCKET_ENTRIES; ++i) {
    uint64_t *entry = segment_.index() + i;
    if (*entry == 0) continue;
    const uint64_t ref = *entry & kRefMask;
    const uint8_t kind = record_at(ref)->kind;
    if (kind != one && kind != other) continue;
    store_relaxed(entry, uint64_t{0});
    free_slot(ref);
  }
}

void Store::count(const sf_record *record, int sign) {
  const auto step = static_cast<uint64_t>(static_cast<int64_t>(sign));
  entries_ += step;
  records_[record->kind] += step;
  bytes_[record->kind] += step * (sizeof(sf_record) + record->len);
}

void Store::touch(uint64_t ref) {
  uint32_t slot;
  Span *span = span_of(ref, &slot);
  if (span == nullptr || (span->used_bits[slot / 64] >> (slot % 64) & 1) == 0) return;
  span->referenced_bits[slot / 64] |= 1ull << (slot % 64);
}

// ---- slots

/// A ref of a free slot, marked as used; 0 when nothing can be evicted either.
uint64_t Store::allocate(unsigned number) {
  SizeClass &size_class = classes_[number];
  // Ends: each round takes a slot, gains a span, or evicts at least one record of a finite number.
  while (true) {
    if (size_class.partial != nullptr) return take_slot(*size_class.partial);
    if (Span *span = new_span(number); span != nullptr) return take_slot(*span);
    if (size_class.spans == 0) {
      if (!take_over_coldest(number, kAnyPrice)) return 0;
      continue;
    }
    if (++size_class.evicted_since_balance > size_class.slots) {
      const uint32_t met = size_class.evicted_since_balance + size_class.spared_since_balance;
      const uint32_t in_use_permille = size_class.spared_since_balance * uint64_t{1000} / met;
      size_class.evicted_since_balance = size_class.spared_since_balance = 0;
      if (take_over_coldest(number, in_use_permille)) continue;
    }
    if (!evict_by_clock(size_class)) return 0;
  }
}

uint64_t Store::take_slot(Span &span) {
  for (uint32_t word = 0; word < std::size(span.used_bits); ++word) {
    if (span.used_bits[word] == ~0ull) continue;
    const uint32_t slot = word * 64 + static_cast<uint32_t>(std::countr_one(span.used_bits[word]));
    span.used_bits[word] |= 1ull << (slot % 64);
    span.referenced_bits[word] &= ~(1ull << (slot % 64));
    span.fresh = true;
    if (++span.used == span.slots) {
      SizeClass &size_class = classes_[span.size_class];
      if (span.prev_partial != nullptr) span.prev_partial->next_partial = span.next_partial;
      if (span.next_partial != nullptr) span.next_partial->prev_partial = span.prev_partial;
      if (size_class.partial == &span) size_class.partial = span.next_partial;
      span.next_partial = span.prev_partial = nullptr;
      span.partial = false;
    }
    return ref_of(span, slot);
  }
  __builtin_unreachable();  // a partial span has a free slot
}

/// The slot's record is already unreachable.
void Store::free_slot(uint64_t ref) {
  uint32_t slot;
  Span &span = *span_of(ref, &slot);
  count(record_at(ref), -1);
  span.used_bits[slot / 64] &= ~(1ull << (slot % 64));
  --span.used;
  SizeClass &size_class = classes_[span.size_class];
  if (!span.partial) {
    span.partial = true;
    span.prev_partial = nullptr;
    span.next_partial = size_class.partial;
    if (size_class.partial != nullptr) size_class.partial->prev_partial = &span;
    size_class.partial = &span;
  }
  // The last span of a class is kept: it would be fetched again at once.
  if (span.used == 0 && size_class.spans > 1) release_span(span);
}

void Store::evict(uint64_t ref) {
  store_relaxed(entry_of(ref), uint64_t{0});
  free_slot(ref);
  ++evictions_;
}

/// Advances the hand of the class until one record is gone. False when the class has none.
bool Store::evict_by_clock(SizeClass &size_class) {
  // Two rounds suffice: the first clears every reference bit.
  for (uint32_t spans = 2 * size_class.spans + 1; spans > 0; --spans) {
    Span *span = size_class.hand;
    for (; size_class.hand_slot < span->slots; ++size_class.hand_slot) {
      const uint32_t slot = size_class.hand_slot;
      const uint64_t bit = 1ull << (slot % 64);
      if ((span->used_bits[slot / 64] & bit) == 0) continue;
      if ((span->referenced_bits[slot / 64] & bit) != 0) {
        span->referenced_bits[slot / 64] &= ~bit;
        ++size_class.spared_since_balance;
        continue;
      }
      ++size_class.hand_slot;
      evict(ref_of(*span, slot));
      return true;
    }
    span->aged = true;
    size_class.hand = span->next;
    size_class.hand_slot = 0;
  }
  return false;
}

/// Looks at the next few spans, and of those that are other classes' empties the one with the fewest referenced
/// records, if they are at most `limit_permille` of its slots. Spans whose class evicts nothing are aged here. False
/// when nothing was emptied.
bool Store::take_over_coldest(unsigned taker, uint32_t limit_permille) {
  Span *coldest = nullptr;
  const uint64_t spans = chunks_.size() << span_shift_;
  unsigned seen = 0;
  for (uint64_t step = 0; step < spans && (seen < kColdSample || limit_permille == kAnyPrice); ++step) {
    if (++clock_span_ >= spans) clock_span_ = spans_per_chunk_;
    Chunk *chunk = chunks_[clock_span_ >> span_shift_].get();
    if (chunk == nullptr) continue;
    Span &span = chunk->spans[clock_span_ & (spans_per_chunk_ - 1)];
    if (span.size_class < 0) continue;
    ++seen;
    if (span.size_class == static_cast<int>(taker)) continue;
    uint32_t referenced = 0;
    for (unsigned i = 0; i < std::size(span.used_bits); ++i) {
      referenced += static_cast<uint32_t>(std::popcount(span.used_bits[i] & span.referenced_bits[i]));
    }
    // What has just come is spared once, as the hand of its class would.
    const uint32_t permille = referenced * 1000 / span.slots + (span.fresh ? 1000 : 0);
    if (!span.aged) std::ranges::fill(span.referenced_bits, 0);
    span.aged = span.fresh = false;
    if (permille <= limit_permille) {
      if (permille == 0 && limit_permille == 0) {
        empty_span(span);
        return true;
      }
      coldest = &span;
      limit_permille = permille == 0 ? 0 : permille - 1;
    }
  }
  if (coldest == nullptr) return false;
  empty_span(*coldest);
  return true;
}

/// Evicts all records of a span and gives it back to its chunk.
void Store::empty_span(Span &span) {
  for (uint32_t slot = 0; slot < span.slots && span.used > 0; ++slot) {
    if ((span.used_bits[slot / 64] >> (slot % 64) & 1) == 0) continue;
    const uint64_t ref = ref_of(span, slot);
    evict(ref);
    if (span.size_class < 0) return;  // that was the last one, and the span has been released by it
  }
  release_span(span);
}

// ---- spans and chunks

Store::Span *Store::new_span(unsigned number) {
  if (free_spans_ == 0 && !add_chunk()) return nullptr;
  for (auto &chunk : chunks_) {
    if (!chunk || chunk->free_spans == 0) continue;
    for (uint32_t i = 0; i < spans_per_chunk_; ++i) {
      Span &span = chunk->spans[i];
      if (span.size_class >= 0) continue;
      --chunk->free_spans;
      --free_spans_;
      SizeClass &size_class = classes_[number];
      span.size_class = static_cast<int16_t>(number);
      span.slots = size_class.slots;
      span.partial = true;
      span.prev_partial = nullptr;
      span.next_partial = size_class.partial;
      if (size_class.partial != nullptr) size_class.partial->prev_partial = &span;
      size_class.partial = &span;
      if (size_class.hand == nullptr) {
        size_class.hand = span.next = span.prev = &span;
      } else {
        span.next = size_class.hand;
        span.prev = size_class.hand->prev;
        span.prev->next = span.next->prev = &span;
      }
      ++size_class.spans;
      return &span;
    }
  }
  __builtin_unreachable();  // free_spans_ counts the free spans of all chunks
}

/// An empty span becomes free.
void Store::release_span(Span &span) {
  SizeClass &size_class = classes_[span.size_class];
  if (span.prev_partial != nullptr) span.prev_partial->next_partial = span.next_partial;
  if (span.next_partial != nullptr) span.next_partial->prev_partial = span.prev_partial;
  if (size_class.partial == &span) size_class.partial = span.next_partial;
  if (size_class.hand == &span) {
    size_class.hand = span.next == &span ? nullptr : span.next;
    size_class.hand_slot = 0;
  }
  span.prev->next = span.next;
  span.next->prev = span.prev;
  --size_class.spans;
  const uint32_t number = span.number;
  span = Span{};
  span.number = number;
  ++chunks_[number / spans_per_chunk_]->free_spans;
  ++free_spans_;
}

bool Store::add_chunk() {
  for (uint32_t index = 1; index < chunks_.size(); ++index) {
    if (chunks_[index]) continue;
    auto chunk = std::make_unique<Chunk>();
    if (!segment_.add_chunk(index, chunk->fd)) return false;
    chunk->generation = ++generation_;
    chunk->free_spans = spans_per_chunk_;
    chunk->spans = std::make_unique<Span[]>(spans_per_chunk_);
    for (uint32_t i = 0; i < spans_per_chunk_; ++i) chunk->spans[i].number = index * spans_per_chunk_ + i;
    // First mapped here, then declared to exist; any entry into it comes later still.
    store_release(&view_.mapped_generation[index], chunk->generation);
    store_release(&segment_.header()->chunk_generation[index], chunk->generation);
    free_spans_ += spans_per_chunk_;
    chunks_[index] = std::move(chunk);
    return true;
  }
  return false;
}

void Store::trim() {
  bool spare = false;
  for (uint32_t index = 1; index < chunks_.size(); ++index) {
    if (!chunks_[index] || chunks_[index]->free_spans != spans_per_chunk_) continue;
    if (spare) drop_chunk(index);
    spare = true;
  }
}

/// The chunk is wholly empty: no entry leads into it any more.
void Store::drop_chunk(uint32_t index) {
  store_release(&segment_.header()->chunk_generation[index], 0u);
  store_release(&view_.mapped_generation[index], 0u);
  segment_.drop_chunk(index, chunks_[index]->fd);
  chunks_[index].reset();
  free_spans_ -= spans_per_chunk_;
}

void Store::add_stats(Stats &stats) const {
  stats.budget_bytes = segment_.header()->budget_bytes;
  stats.index_buckets = segment_.header()->index_buckets;
  for (const auto &chunk : chunks_) {
    if (!chunk) continue;
    ++stats.chunks;
    stats.used_bytes += static_cast<uint64_t>(spans_per_chunk_ - chunk->free_spans) * kSpanBytes;
  }
  for (unsigned kind = 0; kind < SF_REC_KINDS; ++kind) {
    stats.records[kind] += records_[kind];
    stats.bytes[kind] += bytes_[kind];
  }
  stats.evictions += evictions_;
}

}  // namespace shortfuse::cache
