// Words and bytes of a map that a writer in one process and readers in others touch at the same time. Freestanding.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace shortfuse::vm::maps {

template <class T> inline T load_relaxed(const T *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
template <class T> inline T load_acquire(const T *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
template <class T> inline void store_relaxed(T *word, T value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }
template <class T> inline void store_release(T *word, T value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wtsan"
inline void fence_release() { __atomic_thread_fence(__ATOMIC_RELEASE); }
inline void fence_acquire() { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
#pragma GCC diagnostic pop

inline uint64_t load_u64(const void *from) {
  uint64_t word;
  __builtin_memcpy(&word, from, sizeof word);
  return word;
}
inline uint32_t load_u32(const void *from) {
  uint32_t word;
  __builtin_memcpy(&word, from, sizeof word);
  return word;
}
inline uint16_t load_u16(const void *from) {
  uint16_t word;
  __builtin_memcpy(&word, from, sizeof word);
  return word;
}

// A number that is checked and then used, out of a key, which may lie in a value that others write: it is read once. In
// bitcode the compiler of policies sees to that (lower/jit.cc), and a key that is known stays known.
inline uint32_t load_once_u32(const void *from) {
  uint32_t word = load_u32(from);
#ifndef SF_FOR_BITCODE
  asm("" : "+r"(word));
#endif
  return word;
}

// Into and out of values, which other threads may read or write meanwhile: as the kernel's maps, word by word where
// words fit, so that an aligned number is never seen half.
inline void copy_shared(void *dst, const void *src, size_t n) {
  auto *to = static_cast<unsigned char *>(dst);
  const auto *from = static_cast<const unsigned char *>(src);
  const uintptr_t both = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from);
  size_t i = 0;
  for (; (both & 7) == 0 && i + 8 <= n; i += 8) {
    store_relaxed(reinterpret_cast<uint64_t *>(to + i), load_relaxed(reinterpret_cast<const uint64_t *>(from + i)));
  }
  for (; (both & 3) == 0 && i + 4 <= n; i += 4) {
    store_relaxed(reinterpret_cast<uint32_t *>(to + i), load_relaxed(reinterpret_cast<const uint32_t *>(from + i)));
  }
  for (; i < n; ++i) store_relaxed(to + i, load_relaxed(from + i));
}

inline void clear_shared(void *dst, size_t n) {
  auto *to = static_cast<unsigned char *>(dst);
  size_t i = 0;
  const bool aligned = (reinterpret_cast<uintptr_t>(to) & 7) == 0;
  for (; aligned && i + 8 <= n; i += 8) store_relaxed(reinterpret_cast<uint64_t *>(to + i), uint64_t{0});
  for (; i < n; ++i) store_relaxed(to + i, static_cast<unsigned char>(0));
}

// A key that lies in memory which others may write meanwhile (a program may keep it in a map's value), read once: what
// is hashed, compared and stored is the same.
template <uint32_t Max> struct OwnKey {
  OwnKey(const void *key, uint32_t size) { copy_shared(bytes, key, size); }
  alignas(8) unsigned char bytes[Max];
};

constexpr uint64_t kOddA = 0x9fb21c651e98df25ull;
constexpr uint64_t kOddB = 0xd6e8feb86659fd93ull;
constexpr uint64_t kOddC = 0xa0f2ec75a1fe1575ull;

inline uint64_t fold(uint64_t a, uint64_t b) {
  unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// The last len < 8 bytes of a key as a number.
inline uint64_t load_rest(const unsigned char *p, uint32_t len) {
  uint64_t rest = 0;
  if (len & 4) rest = load_u32(p), p += 4;
  if (len & 2) rest = rest << 16 | load_u16(p), p += 2;
  if (len & 1) rest = rest << 8 | *p;
  return rest;
}

// Products of 64x64 bits, their halves folded, with a seed that is random per map: one product for keys of up to 8
// bytes; else one per 16 bytes and two for what is left, added up, with the seed in both factors, so that nobody can
// choose bytes that make one 0. The products do not wait for each other.
//
// The last factor is fixed, and a good one: keys that count up, in steps of 1 to 4096, are spread more evenly than by
// chance (of a million none to 3 % find no slot in packed.h, where chance leaves 3.7 %). With a random factor every
// eighth map had up to 39 % of such keys in chains. Who does not know the seed cannot tell which keys it puts together.
inline uint64_t hash_word(uint64_t seed, uint64_t word) { return fold(word ^ seed, kOddC); }
inline uint64_t hash_key(uint64_t seed, const void *bytes, uint32_t len) {
  const auto *p = static_cast<const unsigned char *>(bytes);
  if (len <= 8) return hash_word(seed, len == 8 ? load_u64(p) : load_rest(p, len));
  uint64_t place = seed ^ kOddA, sum = len;
#pragma GCC unroll 8
  for (; len >= 16; p += 16, len -= 16, place += kOddB) sum += fold(load_u64(p) ^ place, load_u64(p + 8) ^ seed);
  if (len >= 8) sum += fold(load_u64(p) ^ place, seed ^ kOddB), p += 8, len -= 8;
  return fold(sum ^ load_rest(p, len) ^ seed, kOddC);
}

}  // namespace shortfuse::vm::maps
