/* Words and bytes that a writer in one process and readers in others touch at the same time.
 *
 * Single words go through the __atomic builtins. A record's payload is copied by a seqlock: the copy may race with
 * a writer and is thrown away when it did (reader.cc). Under ThreadSanitizer, which knows no seqlocks, the copies
 * are made of relaxed atomics; everywhere else they are plain moves behind a compiler barrier. Freestanding. */
#ifndef SHORTFUSE_CACHE_SHARED_H
#define SHORTFUSE_CACHE_SHARED_H

#include <stddef.h>
#include <stdint.h>

#include "shortfuse/cache/reader.h"

namespace shortfuse::cache {

#ifdef __SANITIZE_THREAD__
constexpr bool kTsan = true;
#else
constexpr bool kTsan = false;
#endif

template <class T>
inline T load_relaxed(const T *word) {
  return __atomic_load_n(word, __ATOMIC_RELAXED);
}
template <class T>
inline T load_acquire(const T *word) {
  return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
template <class T>
inline void store_relaxed(T *word, T value) {
  __atomic_store_n(word, value, __ATOMIC_RELAXED);
}
template <class T>
inline void store_release(T *word, T value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wtsan"
/* Before the payload of a record is written: its odd version (and the removal of whatever lay there) first. */
inline void fence_release() { __atomic_thread_fence(__ATOMIC_RELEASE); }
/* After the payload was copied: only then the second look at version and entry. */
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

inline void copy_by_atomics(unsigned char *dst, const unsigned char *src, size_t n) {
  for (size_t i = 0; i < n; ++i) store_relaxed(dst + i, load_relaxed(src + i));
}

/* Out of a record; dst is private. */
inline void copy_from_shared(void *dst, const void *src, size_t n) {
  if constexpr (kTsan) {
    auto *to = static_cast<unsigned char *>(dst);
    auto *from = static_cast<const unsigned char *>(src);
    for (size_t i = 0; i < n; ++i) to[i] = load_relaxed(from + i);
  } else {
    sf_copy(dst, src, n);
  }
}

/* Into a record; src is private. */
inline void copy_to_shared(void *dst, const void *src, size_t n) {
  if constexpr (kTsan) {
    copy_by_atomics(static_cast<unsigned char *>(dst), static_cast<const unsigned char *>(src), n);
  } else {
    sf_copy(dst, src, n);
  }
}

/* Eight bytes of a record's payload, at a multiple of eight bytes. */
inline uint64_t load_payload_u64(const unsigned char *payload) {
  return load_relaxed(reinterpret_cast<const uint64_t *>(payload));
}

}  // namespace shortfuse::cache

#endif
