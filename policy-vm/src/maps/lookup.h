// Where the parts of a map lie, and the lookups that machine code has in line. Freestanding; compiled also to bitcode.
//
// Every size comes from the shape, as arguments, so that a constant shape folds: what lies in shared memory decides
// neither a size nor an offset. Of the storage a lookup reads the seed, `taken`, a bucket and an element.
//
// A HASH with small keys and values: packed.h. All other hash tables: an array of buckets of one cache line each. A
// bucket has kSlots places: a byte of the key's hash (the tag; 0: free) and an element's number. Keys that find no
// place in their bucket are linked from it in a chain. An element is a key and a value; its number is its address, and
// it never moves. With max_entries keys a bucket has 5 of 8 places in use, and 1 key in 40 is in a chain.
//
//   lookup: hash -> bucket (one line) -> all tags compared at once -> element (one line, or as many as the key has)
//
// What it costs. A million keys of 64 bytes, half of them hot (as it is read in packed.h), keys made before, in line,
// measured in turn, medians: 108 to 122 ns; the hash and the line that it leads to, nothing compared: 34 to 37; the key
// compared in a place that the hash tells by itself, which is two lines: 65. So 30 ns is less than the hash takes, and
// out of reach of a table that compares 64 bytes; with 1,024 entries it takes 11. Tried:
//   - tags in an array of their own, which the caches hold, and elements at places that follow from their tags': 73 to
//     76. 1.6 times the elements, an update that moves its key among few places, a version that every reader checks;
//   - huge pages: a tenth less. The system gives them to shared memory only where shmem_enabled says so; MADV_COLLAPSE
//     makes them anywhere, of all the map's memory at once, held elements or not;
//   - less hashing: one product after the other instead of a sum of them, 51 with the comparison in a known place;
//     CRC32 40, for which anybody can find keys that collide, whatever the seed.
// Fewer keys per bucket (4, 3) made nothing faster.
#pragma once
#include "maps/shared.h"
#include "shortfuse/vm/map.h"

namespace shortfuse::vm::maps {

#define SF_MAP_INLINE [[gnu::always_inline]] inline

constexpr uint64_t kMapMagic = 0x3370616d667573ull;
constexpr uint32_t kSlots = 8;
constexpr uint32_t kKeysPerBucket = 5;   // on average, when full
constexpr uint32_t kSpareElements = 64;  // see pool.h
constexpr uint32_t kNone = ~0u;          // no element
constexpr int kRestarts = 8;             // of a reader whose elements were taken from under it
// A chain has no more links: a key that would make one longer is refused as by a full map, so that who knows the seed
// (it lies in the storage, which all clients map) and chooses keys cannot make lookups in other processes long. Keys
// that were not chosen never get there: of a full map a bucket of 8 places has 5 keys on average, and 8 + 65 or more
// with a probability of 10^-57 (Poisson); a packed one (packed.h) of 4 places has 2, and 4 + 65 with 10^-78, one of 3
// places 1.5, and 3 + 65 with 10^-85. A chain grows only while all slots are in use, so that nothing changes where keys
// come and go.
constexpr uint32_t kLinksMax = 64;

// The first bytes of every storage. One cache line per kind of use.
struct Header {
  uint64_t magic;
  struct sf_map_shape shape;  // compared by sf_map_check(), used by nobody
  uint32_t reserved2;
  uint64_t seed;
  uint64_t reserved0[3];
  // Written by the writer, looked at by readers.
  uint32_t taken;             // elements brought into use so far
  uint32_t reserved1;
  uint64_t words[7];          // the kind's own
  // The writer's own.
  uint32_t count;
  uint32_t fresh;             // elements from this number on were never used
  uint32_t queued;            // elements in the queue of the unused
  uint32_t free_first, free_last;  // number + 1
  uint32_t hand;              // LRU
  uint32_t lock;              // the thread that writes
  uint32_t refused;           // writes that did not get the lock in time
  uint32_t reserved3[8];
  uint64_t others[8];         // what somebody else writes (the reader of a ring)
};
static_assert(sizeof(struct sf_map_shape) == 20 && offsetof(Header, taken) == 64 && offsetof(Header, count) == 128 &&
              offsetof(Header, others) == 192 && sizeof(Header) == 256);
constexpr size_t kHeaderBytes = sizeof(Header);

struct Bucket {
  uint64_t tags;              // a byte per slot
  uint32_t chain;             // number + 1 of the first element that found no slot; 0: none
  uint32_t element[kSlots];   // number + 1
  uint32_t reserved[5];
};
static_assert(sizeof(Bucket) == 64);

constexpr uint64_t round8(uint64_t n) { return (n + 7) & ~uint64_t{7}; }
constexpr uint64_t round64(uint64_t n) { return (n + 63) & ~uint64_t{63}; }

SF_MAP_INLINE Header *header_of(const void *storage) { return static_cast<Header *>(const_cast<void *>(storage)); }
SF_MAP_INLINE unsigned char *at(const void *storage, uint64_t offset) {
  return static_cast<unsigned char *>(const_cast<void *>(storage)) + offset;
}

// ---- ARRAY: values back to back. PERCPU_ARRAY: the same once per CPU, in cache lines of its own.

constexpr uint64_t array_bytes_per_cpu(uint32_t value_size, uint32_t max_entries) {
  return round64(round8(value_size) * max_entries);
}
SF_MAP_INLINE void *array_lookup(const void *storage, const void *key, uint32_t value_size, uint32_t max_entries) {
  const uint32_t index = load_once_u32(key);
  return index < max_entries ? at(storage, kHeaderBytes + index * round8(value_size)) : nullptr;
}
SF_MAP_INLINE void *percpu_array_lookup(const void *storage, const void *key, uint32_t value_size, uint32_t max_entries,
                                        uint32_t cpu) {
  const uint32_t index = load_once_u32(key);
  if (index >= max_entries || cpu >= SF_MAP_CPUS) return nullptr;
  return at(storage, kHeaderBytes + cpu * array_bytes_per_cpu(value_size, max_entries) + index * round8(value_size));
}

// ---- HASH, LRU_HASH, PERCPU_HASH

// Values beside their keys; those of a PERCPU_HASH per CPU, by the element's number.
struct HashLayout {
  uint32_t key_size, value_size, max_entries;
  bool per_cpu;

  constexpr uint32_t buckets() const { return max_entries / kKeysPerBucket + 1; }
  constexpr uint32_t elements() const { return max_entries + kSpareElements; }
  constexpr uint64_t value_offset() const { return round8(key_size); }
  constexpr uint64_t element_bytes() const { return round8(key_size) + (per_cpu ? 0 : round8(value_size)); }
  constexpr uint64_t chain_offset() const { return kHeaderBytes + uint64_t{buckets()} * sizeof(Bucket); }
  constexpr uint64_t queue_offset() const { return chain_offset() + uint64_t{elements()} * sizeof(uint32_t); }
  constexpr uint64_t marks_offset() const { return queue_offset() + uint64_t{elements()} * sizeof(uint32_t); }
  constexpr uint64_t elements_offset() const { return round64(marks_offset() + elements()); }
  constexpr uint64_t cpu_values_offset() const {
    return round64(elements_offset() + uint64_t{elements()} * element_bytes());
  }
  constexpr uint64_t cpu_value_bytes() const { return round64(round8(value_size) * elements()); }
  constexpr uint64_t bytes() const { return cpu_values_offset() + (per_cpu ? SF_MAP_CPUS * cpu_value_bytes() : 0); }
};

SF_MAP_INLINE Bucket *bucket_at(const void *storage, uint64_t index) {
  return reinterpret_cast<Bucket *>(at(storage, kHeaderBytes)) + index;
}
// By the upper bits of the hash; tags are of the lower ones.
SF_MAP_INLINE uint32_t index_by(uint64_t hash, uint32_t buckets) {
  return static_cast<uint32_t>(static_cast<unsigned __int128>(hash) * buckets >> 64);
}
SF_MAP_INLINE uint32_t bucket_index(const HashLayout &l, uint64_t hash) { return index_by(hash, l.buckets()); }
SF_MAP_INLINE uint8_t tag_of(uint64_t hash) {
  const auto tag = static_cast<uint8_t>(hash);
  return static_cast<uint8_t>(tag < 2 ? tag + 2 : tag);  // 0: free; 1: see lanes_with()
}
SF_MAP_INLINE unsigned char *key_at(const void *storage, const HashLayout &l, uint32_t number) {
  return at(storage, l.elements_offset() + number * l.element_bytes());
}
SF_MAP_INLINE void *value_at(const void *storage, const HashLayout &l, uint32_t number, uint32_t cpu) {
  if (!l.per_cpu) return key_at(storage, l, number) + l.value_offset();
  return at(storage, l.cpu_values_offset() + cpu * l.cpu_value_bytes() + number * round8(l.value_size));
}
SF_MAP_INLINE uint32_t *chain_of(const void *storage, const HashLayout &l, uint32_t number) {
  return reinterpret_cast<uint32_t *>(at(storage, l.chain_offset())) + number;
}

// A key whose tag is right is nearly always the one: comparisons that the processor takes to come out equal let it go
// on to the next lookup while this one's line is still awaited.
SF_MAP_INLINE bool same_key(const unsigned char *there, const void *key, uint32_t key_size) {
  const auto *wanted = static_cast<const unsigned char *>(key);
  uint32_t i = 0;
#pragma GCC unroll 8
  for (; i + 8 <= key_size; i += 8) {
    if (load_relaxed(reinterpret_cast<const uint64_t *>(there + i)) != load_u64(wanted + i)) [[unlikely]] return false;
  }
  if (key_size & 4) {
    if (load_relaxed(reinterpret_cast<const uint32_t *>(there + i)) != load_u32(wanted + i)) [[unlikely]] return false;
    i += 4;
  }
  for (; i < key_size; ++i) {
    if (load_relaxed(there + i) != wanted[i]) [[unlikely]] return false;
  }
  return true;
}

// The highest bit of every lane of `tags` that may hold this tag; kOnes has the lowest bit of each lane. A borrow can
// add a lane above a right one, for a tag that differs in the lowest bit: another key's, which is compared anyway, and
// never a free slot's, as no tag is 1.
template <uint64_t kOnes> SF_MAP_INLINE uint64_t lanes_with(uint64_t tags, uint64_t tag, uint64_t high) {
  const uint64_t differ = tags ^ (kOnes * tag);
  return (differ - kOnes) & ~differ & high;
}
// The same for a bucket: bit 8 * n + 7 for slot n.
SF_MAP_INLINE uint64_t slots_with(const Bucket *bucket, uint8_t tag) {
  // Acquire: an element's number was written before its tag.
  return lanes_with<0x0101010101010101ull>(load_acquire(&bucket->tags), tag, 0x8080808080808080ull);
}

// The number of the key's element, or kNone. Bounded, whatever the storage holds.
SF_MAP_INLINE uint32_t find_element(const void *storage, const HashLayout &l, uint64_t hash, const void *key) {
  const Bucket *bucket = bucket_at(storage, bucket_index(l, hash));
  for (int restart = 0; restart < kRestarts; ++restart) {
    const uint32_t taken = load_acquire(&header_of(storage)->taken);
    uint32_t found = kNone;
    for (uint64_t slots = slots_with(bucket, tag_of(hash)); slots != 0; slots &= slots - 1) {
      const uint32_t slot = static_cast<uint32_t>(__builtin_ctzll(slots)) / 8;
      // Acquire: key and value were written before the number.
      const uint32_t number = load_acquire(&bucket->element[slot]) - 1;
      if (number < l.elements() && same_key(key_at(storage, l, number), key, l.key_size)) {
        found = number;
        break;
      }
    }
    if (found == kNone) [[unlikely]] {
      uint32_t number = load_acquire(&bucket->chain) - 1;
      // What a dying writer or a reused element left behind may be a ring.
      for (uint32_t links = 0; links < kLinksMax && number < l.elements(); ++links) {
        if (same_key(key_at(storage, l, number), key, l.key_size)) {
          found = number;
          break;
        }
        number = load_acquire(chain_of(storage, l, number)) - 1;
      }
    }
    // What was looked at came back into use meanwhile only if as many others did before it (pool.h): else this is the
    // key's element, whole, or the key was not there.
    fence_acquire();
    if (load_relaxed(&header_of(storage)->taken) - taken < kSpareElements - 1) [[likely]] return found;
  }
  return kNone;
}

// Of a HASH that is not packed.
SF_MAP_INLINE void *element_lookup(const void *storage, const void *key, uint32_t key_size, uint32_t value_size,
                                   uint32_t max_entries) {
  const HashLayout l{key_size, value_size, max_entries, false};
  const uint32_t number = find_element(storage, l, hash_key(header_of(storage)->seed, key, key_size), key);
  return number != kNone ? value_at(storage, l, number, 0) : nullptr;
}

constexpr uint8_t kInUse = 1, kLookedAt = 2;  // an element's mark

SF_MAP_INLINE void *lru_hash_lookup(const void *storage, const void *key, uint32_t key_size, uint32_t value_size,
                                    uint32_t max_entries, uint32_t writable) {
  const HashLayout l{key_size, value_size, max_entries, false};
  const uint32_t number = find_element(storage, l, hash_key(header_of(storage)->seed, key, key_size), key);
  if (number == kNone) return nullptr;
  if (writable != 0) {
    uint8_t *mark = at(storage, l.marks_offset()) + number, expected = kInUse;
    // Exchanged: one that was given back meanwhile stays unmarked.
    if (load_relaxed(mark) == kInUse) {
      __atomic_compare_exchange_n(mark, &expected, static_cast<uint8_t>(kInUse | kLookedAt), false, __ATOMIC_RELAXED,
                                  __ATOMIC_RELAXED);
    }
  }
  return value_at(storage, l, number, 0);
}

SF_MAP_INLINE void *percpu_hash_lookup(const void *storage, const void *key, uint32_t key_size, uint32_t value_size,
                                       uint32_t max_entries, uint32_t cpu) {
  const HashLayout l{key_size, value_size, max_entries, true};
  if (cpu >= SF_MAP_CPUS) return nullptr;
  const uint32_t number = find_element(storage, l, hash_key(header_of(storage)->seed, key, key_size), key);
  return number != kNone ? value_at(storage, l, number, cpu) : nullptr;
}

}  // namespace shortfuse::vm::maps
