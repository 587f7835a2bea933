// BLOOM_FILTER: bits that only ever become 1, set by as many writers as like. As many hash functions as the shape's
// `extra` says (map_extra; 0: five, the kernel's default), and as many bits as the kernel takes for them.
#include <errno.h>

#include "maps/kinds.h"

namespace shortfuse::vm::maps {
namespace {

constexpr uint32_t kHashesUsual = 5, kHashesMax = 15;

uint32_t hashes(const struct sf_map_shape &shape) { return shape.extra != 0 ? shape.extra : kHashesUsual; }

// A power of two, at least 64.
uint64_t bits(const struct sf_map_shape &shape) {
  uint64_t wanted = uint64_t{shape.max_entries} * hashes(shape) / 5 * 7, n = 64;
  while (n < wanted) n *= 2;
  return n;
}

uint64_t bytes(const struct sf_map_shape &shape) {
  if (shape.key_size != 0 || shape.value_size == 0 || shape.value_size > kMapBytesMax || shape.max_entries == 0 ||
      shape.extra > kHashesMax) {
    return 0;
  }
  return kHeaderBytes + bits(shape) / 8;
}

// The bits of a value, one after the other: two halves of one hash, the second odd.
class Bits {
 public:
  Bits(const struct sf_map &map, const void *value)
      : words_(reinterpret_cast<uint64_t *>(at(map.storage, kHeaderBytes))), mask_(bits(map.shape) - 1),
        hash_(hash_key(header_of(map.storage)->seed, value, map.shape.value_size)),
        step_(fold(hash_, kOddB) | 1) {}
  uint64_t *word() const { return words_ + (hash_ & mask_) / 64; }
  uint64_t bit() const { return 1ull << (hash_ & 63); }
  void next() { hash_ += step_; }

 private:
  uint64_t *words_;
  uint64_t mask_, hash_, step_;
};

int push(struct sf_map &map, const void *value, uint64_t flags) {
  if (flags != kAny) return -EINVAL;
  Bits at_bit(map, value);
  for (uint32_t i = 0; i < hashes(map.shape); ++i, at_bit.next()) {
    __atomic_fetch_or(at_bit.word(), at_bit.bit(), __ATOMIC_RELAXED);
  }
  return 0;
}

// Whether the value may be in it. `value` is read.
int peek(const struct sf_map &map, void *value) {
  Bits at_bit(map, value);
  for (uint32_t i = 0; i < hashes(map.shape); ++i, at_bit.next()) {
    if ((load_relaxed(at_bit.word()) & at_bit.bit()) == 0) return -ENOENT;
  }
  return 0;
}

}  // namespace

const Kind kBloomFilter = {.bytes = bytes, .push = push, .peek = peek};

}  // namespace shortfuse::vm::maps
