/* Where a record's index entry is: the arithmetic that writer and readers share. Freestanding.
 *
 * An entry is a 16-bit tag above a 48-bit ref; 0 is an empty entry, and ref 0 is never given out (chunk 0 of the
 * linear space is never made). A key has two candidate buckets of eight entries, one cache line each. The
 * first is used while it has room, so a hit costs one line of index in nearly every case.
 *
 * Hashing folds 64x64->128-bit products with a seed that is random per segment. Nobody outside the mount's owner
 * can read the seed; and full buckets only cost evictions. */
#ifndef SHORTFUSE_CACHE_INDEX_H
#define SHORTFUSE_CACHE_INDEX_H

#include "shared.h"
#include "shortfuse/cache/layout.h"

namespace shortfuse::cache {

constexpr unsigned kTagShift = 48;
constexpr uint64_t kRefMask = (1ull << kTagShift) - 1;

constexpr uint64_t kOddA = 0x9fb21c651e98df25ull;
constexpr uint64_t kOddB = 0xd6e8feb86659fd93ull;
constexpr uint64_t kOddC = 0xa0f2ec75a1fe1575ull;

inline uint64_t fold(uint64_t a, uint64_t b) {
  unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

/* Reads exactly the `len` bytes, never across their end: the last words overlap the ones before. */
inline uint64_t hash_bytes(uint64_t seed, const void *bytes, size_t len) {
  auto *p = static_cast<const unsigned char *>(bytes);
  uint64_t hash = seed ^ (len * kOddA);
  const uint64_t key = (seed << 29 | seed >> 35) ^ kOddB;
  for (; len > 16; p += 16, len -= 16) hash = fold(hash ^ load_u64(p), key ^ load_u64(p + 8));
  uint64_t a = 0, b = 0;
  if (len >= 8) {
    a = load_u64(p);
    b = load_u64(p + len - 8);
  } else if (len >= 4) {
    a = load_u32(p);
    b = load_u32(p + len - 4);
  } else if (len > 0) {
    a = p[0] | static_cast<uint64_t>(p[len / 2]) << 8 | static_cast<uint64_t>(p[len - 1]) << 16;
  }
  return fold(fold(hash ^ a, key ^ b) ^ seed, kOddC);
}

/* ATTR carries its cid in `sub`, so `sub` is no part of its key. */
inline uint64_t key_sub(unsigned kind, uint64_t sub) { return kind == SF_REC_ATTR ? 0 : sub; }

inline uint64_t index_hash(uint64_t seed, unsigned kind, uint64_t key, uint64_t sub) {
  return fold(fold(key ^ seed, key_sub(kind, sub) ^ (kOddB * (2 * kind + 1))), kOddC);
}
inline uint64_t index_tag(uint64_t hash) { return hash >> kTagShift; }
inline uint64_t first_bucket(uint64_t hash, uint64_t mask) { return hash & mask; }
inline uint64_t second_bucket(uint64_t hash, uint64_t mask) { return (hash * kOddA >> 24) & mask; }

}  // namespace shortfuse::cache

#endif
