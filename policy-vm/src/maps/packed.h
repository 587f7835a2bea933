// HASH with keys and values of up to 8 bytes: both lie in the bucket, so that a lookup waits for one line of memory
// instead of two, one behind the other. Layout and lookup; freestanding, compiled also to bitcode. Writers: packed.cc.
//
// A bucket is one cache line: a tag of 15 bits per slot (0: free), the slots' keys, their values. A key of up to 4
// bytes is kept as a u32 and has 4 slots, a longer one as a u64 and has 3; of a full map half of them are in use.
// Keys that find no slot (by chance 1 in 27, 1 in 17; of keys that count up none) are linked from the bucket in a chain
// of elements, as in lookup.h.
//
// Nothing moves: a key stays in its slot or in its element until it is deleted, and an update stores the value, one
// word, in place. So a reader needs no second look: key and value are words, the key was stored after its value, the
// tag after both, and whoever finds tag and key has the value's place. A slot is used again as soon as it is free, so
// that a value that is still looked at after its key was deleted may be another key's, as in the kernel.
//
// What it costs. "A million entries, half of them hot" is read as: lookups of 500,000 keys, each as likely as the
// other, in a map of a million (`half` in map_bench.cc). Nothing of that stays in the caches of the machine measured
// (two cores of an AMD EPYC with a share of its caches, Linux 6.18, pages of 4 KiB, busy with others' work): a line is
// 130 to 200 ns away there. What a lookup costs is that, divided by how many lookups are under way at once, and these
// are as many as fit into the processor: every instruction takes one of its registers until all before it are done, and
// one that waits for the line a place in front of the units as well. In nanoseconds of processor time, keys of 4 bytes
// made before, in line, measured in turn, medians:
//
//   lines by their number, nothing else                                      8 to 10
//   the key hashed, and the line that the hash leads to                      9.5 to 12
//   that, and a key compared in a place that is known                        13
//   a prototype that compares four keys without a branch                     17 to 19
//   this layout                                                              23 to 26
//   a prototype with tags in an array of their own, which the caches hold    24 to 35
//
// Huge pages (MADV_COLLAPSE) gain a tenth of each. So 12 ns is what hash and line take by themselves, and out of reach
// of a table that looks for its key where the caches do not hold it; with 1,024 entries it takes 3.
#pragma once
#include "maps/lookup.h"

namespace shortfuse::vm::maps {

constexpr uint32_t kPackedKeyMax = 8, kPackedValueMax = 8;
constexpr uint32_t kPackedEntriesMax = 4'000'000;  // what fits into the largest map

constexpr bool is_packed(uint32_t key_size, uint32_t value_size, uint32_t max_entries) {
  return key_size <= kPackedKeyMax && value_size <= kPackedValueMax && max_entries <= kPackedEntriesMax;
}

struct PackedBucket {
  uint64_t tags;            // a u16 per slot
  uint32_t chain;           // number + 1 of the first element that found no slot; 0: none
  uint32_t reserved;
  uint64_t places[6];       // keys, then values
};
static_assert(sizeof(PackedBucket) == 64);

// Of a chain.
struct PackedElement {
  uint64_t key, value;
};

struct PackedLayout {
  uint32_t key_size, max_entries;

  constexpr bool short_keys() const { return key_size <= 4; }
  constexpr uint32_t slots() const { return short_keys() ? 4 : 3; }
  constexpr uint32_t value_place() const { return short_keys() ? 2 : 3; }
  constexpr uint32_t buckets() const { return static_cast<uint32_t>(uint64_t{max_entries} * 2 / slots()) + 1; }
  constexpr uint32_t elements() const { return max_entries + kSpareElements; }
  constexpr uint64_t chain_offset() const { return kHeaderBytes + uint64_t{buckets()} * sizeof(PackedBucket); }
  constexpr uint64_t queue_offset() const { return chain_offset() + uint64_t{elements()} * sizeof(uint32_t); }
  constexpr uint64_t elements_offset() const {
    return round64(queue_offset() + uint64_t{elements()} * sizeof(uint32_t));
  }
  constexpr uint64_t bytes() const { return elements_offset() + uint64_t{elements()} * sizeof(PackedElement); }
};

// The key as a number: the same bytes, and zeroes behind them.
SF_MAP_INLINE uint64_t packed_key(const void *key, uint32_t key_size) {
  if (key_size == 4) return load_u32(key);
  if (key_size == 8) return load_u64(key);
  uint64_t word = 0;
  for (uint32_t i = 0; i < key_size; ++i) word |= uint64_t{static_cast<const unsigned char *>(key)[i]} << 8 * i;
  return word;
}
// No tag is 0 (free) or 1 (see lanes_with()), and none has the lane's highest bit, which is packed_slot()'s.
SF_MAP_INLINE uint16_t packed_tag(uint64_t hash) { return static_cast<uint16_t>((hash & 0x7fff) | 2); }

SF_MAP_INLINE PackedBucket *packed_bucket(const void *storage, uint64_t index) {
  return reinterpret_cast<PackedBucket *>(at(storage, kHeaderBytes)) + index;
}
SF_MAP_INLINE void *packed_key_at(PackedBucket *bucket, const PackedLayout &l, uint32_t slot) {
  if (l.short_keys()) return reinterpret_cast<uint32_t *>(bucket->places) + slot;
  return &bucket->places[slot];
}
SF_MAP_INLINE uint64_t packed_key_of(PackedBucket *bucket, const PackedLayout &l, uint32_t slot) {
  const void *key = packed_key_at(bucket, l, slot);
  // Acquire: the value was written before the key.
  return l.short_keys() ? load_acquire(static_cast<const uint32_t *>(key))
                        : load_acquire(static_cast<const uint64_t *>(key));
}
SF_MAP_INLINE uint64_t *packed_value_at(PackedBucket *bucket, const PackedLayout &l, uint32_t slot) {
  return &bucket->places[l.value_place() + slot];
}
SF_MAP_INLINE PackedElement *packed_element(const void *storage, const PackedLayout &l, uint32_t number) {
  return reinterpret_cast<PackedElement *>(at(storage, l.elements_offset())) + number;
}
SF_MAP_INLINE uint32_t *packed_chain(const void *storage, const PackedLayout &l, uint32_t number) {
  return reinterpret_cast<uint32_t *>(at(storage, l.chain_offset())) + number;
}

// The key's slot, or kNone.
SF_MAP_INLINE uint32_t packed_slot(PackedBucket *bucket, const PackedLayout &l, uint64_t hash, uint64_t key) {
  constexpr uint64_t kOnes = 0x0001000100010001ull, kHigh = 0x8000800080008000ull;
  const uint64_t high = l.slots() == 4 ? kHigh : kHigh >> 16;
  // Acquire: key and value were written before their tag. Lanes that differ are 1 to 0x7fff, so that only those that
  // do not, and after such a one perhaps a 1, borrow from their highest bit: lanes_with(), shorter.
  uint64_t slots = ((load_acquire(&bucket->tags) ^ (kOnes * packed_tag(hash))) - kOnes) & high;
  for (; slots != 0; slots &= slots - 1) {
    const uint32_t slot = static_cast<uint32_t>(__builtin_ctzll(slots)) / 16;
    if (packed_key_of(bucket, l, slot) == key) [[likely]] return slot;
  }
  return kNone;
}

// The number of the key's element in the bucket's chain, or kNone. As in find_element().
SF_MAP_INLINE uint32_t packed_in_chain(const void *storage, const PackedLayout &l, PackedBucket *bucket, uint64_t key) {
  for (int restart = 0; restart < kRestarts; ++restart) {
    const uint32_t taken = load_acquire(&header_of(storage)->taken);
    uint32_t number = load_acquire(&bucket->chain) - 1, found = kNone;
    for (uint32_t links = 0; links < kLinksMax && number < l.elements() && found == kNone; ++links) {
      if (load_acquire(&packed_element(storage, l, number)->key) == key) found = number;
      else number = load_acquire(packed_chain(storage, l, number)) - 1;
    }
    fence_acquire();
    if (load_relaxed(&header_of(storage)->taken) - taken < kSpareElements - 1) [[likely]] return found;
  }
  return kNone;
}

// Where the key's value lies; null: nowhere.
SF_MAP_INLINE uint64_t *packed_find(const void *storage, const PackedLayout &l, uint64_t key) {
  const uint64_t hash = hash_word(header_of(storage)->seed, key);
  PackedBucket *bucket = packed_bucket(storage, index_by(hash, l.buckets()));
  const uint32_t slot = packed_slot(bucket, l, hash, key);
  if (slot != kNone) [[likely]] return packed_value_at(bucket, l, slot);
  if (load_acquire(&bucket->chain) == 0) return nullptr;
  const uint32_t number = packed_in_chain(storage, l, bucket, key);
  return number != kNone ? &packed_element(storage, l, number)->value : nullptr;
}

SF_MAP_INLINE void *packed_lookup(const void *storage, const void *key, uint32_t key_size, uint32_t max_entries) {
  return packed_find(storage, {key_size, max_entries}, packed_key(key, key_size));
}

// Of any HASH.
SF_MAP_INLINE void *hash_lookup(const void *storage, const void *key, uint32_t key_size, uint32_t value_size,
                                uint32_t max_entries) {
  if (is_packed(key_size, value_size, max_entries)) return packed_lookup(storage, key, key_size, max_entries);
  return element_lookup(storage, key, key_size, value_size, max_entries);
}

}  // namespace shortfuse::vm::maps
