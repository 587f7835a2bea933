// memcpy and friends, hidden: the compiler makes calls to them, and libc's may use vector registers, which a system
// call preserves.
//
// Most copies here are records of 16 to 256 bytes: words, four at a time. `rep movsb` has a start-up cost of tens of
// nanoseconds on many processors and wins only for larger ones.
#include <stddef.h>
#include <stdint.h>

namespace {

constexpr size_t kStringInstructionFrom = 512;
using Word = uint64_t __attribute__((may_alias, aligned(1)));
using Half = uint32_t __attribute__((may_alias, aligned(1)));
using Short = uint16_t __attribute__((may_alias, aligned(1)));

inline uint64_t load(const uint8_t *p) { return *(const Word *)p; }
inline void store(uint8_t *p, uint64_t value) { *(Word *)p = value; }

// Both ends are read before anything is written, so these also move overlapping bytes.
inline void move_up_to_16(uint8_t *to, const uint8_t *from, size_t bytes) {
  if (bytes >= 8) {
    uint64_t a = load(from), b = load(from + bytes - 8);
    store(to, a);
    store(to + bytes - 8, b);
  } else if (bytes >= 4) {
    uint32_t a = *(const Half *)from, b = *(const Half *)(from + bytes - 4);
    *(Half *)to = a;
    *(Half *)(to + bytes - 4) = b;
  } else if (bytes >= 2) {
    uint16_t a = *(const Short *)from, b = *(const Short *)(from + bytes - 2);
    *(Short *)to = a;
    *(Short *)(to + bytes - 2) = b;
  } else if (bytes) {
    *to = *from;
  }
}

}  // namespace

extern "C" {

void *memcpy(void *__restrict to, const void *__restrict from, size_t bytes) {
  auto d = (uint8_t *)to;
  auto s = (const uint8_t *)from;
  if (bytes <= 16) {
    move_up_to_16(d, s, bytes);
    return to;
  }
  if (bytes >= kStringInstructionFrom) {
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(bytes)::"memory");
    return to;
  }
  for (; bytes > 32; bytes -= 32, d += 32, s += 32) {
    uint64_t a = load(s), b = load(s + 8), c = load(s + 16), e = load(s + 24);
    store(d, a);
    store(d + 8, b);
    store(d + 16, c);
    store(d + 24, e);
  }
  if (bytes > 16) {
    uint64_t a = load(s), b = load(s + 8);
    uint64_t c = load(s + bytes - 16), e = load(s + bytes - 8);
    store(d, a);
    store(d + 8, b);
    store(d + bytes - 16, c);
    store(d + bytes - 8, e);
  } else {
    move_up_to_16(d, s, bytes);
  }
  return to;
}

void *memmove(void *to, const void *from, size_t bytes) {
  auto d = (uint8_t *)to;
  auto s = (const uint8_t *)from;
  if (bytes <= 16) {
    move_up_to_16(d, s, bytes);
  } else if ((uintptr_t)d - (uintptr_t)s >= bytes) {  // `to` is not inside [from, from + bytes)
    for (; bytes > 16; bytes -= 8, d += 8, s += 8) {
      uint64_t word = load(s);
      __asm__ volatile("" ::: "memory");
      store(d, word);
    }
    move_up_to_16(d, s, bytes);
  } else {
    for (; bytes > 16; bytes -= 8) {
      uint64_t word = load(s + bytes - 8);
      __asm__ volatile("" ::: "memory");
      store(d + bytes - 8, word);
    }
    move_up_to_16(d, s, bytes);
  }
  return to;
}

void *memset(void *to, int value, size_t bytes) {
  auto d = (uint8_t *)to;
  uint64_t word = 0x0101010101010101ull * (uint8_t)value;
  if (bytes >= kStringInstructionFrom) {
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(bytes) : "a"(value) : "memory");
    return to;
  }
  for (; bytes >= 8; bytes -= 8, d += 8) {
    __asm__ volatile("" ::: "memory");
    store(d, word);
  }
  for (; bytes; bytes--) {
    __asm__ volatile("" ::: "memory");
    *d++ = (uint8_t)value;
  }
  return to;
}

int memcmp(const void *a, const void *b, size_t bytes) {
  auto x = (const uint8_t *)a, y = (const uint8_t *)b;
  for (; bytes >= 8; bytes -= 8, x += 8, y += 8) {
    uint64_t p = load(x), q = load(y);
    if (p != q) return __builtin_bswap64(p) < __builtin_bswap64(q) ? -1 : 1;
  }
  for (; bytes; bytes--, x++, y++)
    if (*x != *y) return *x < *y ? -1 : 1;
  return 0;
}

}  // extern "C"
