// What calls cost besides themselves: fuel in proportion to what a function goes through, so that no program of few
// instructions runs for minutes. Interpreter and machine code pay the same. Freestanding; compiled also to bitcode.
//
// A run has fuel for 2^26 instructions of about 4 ns (image.h).
#pragma once
#include <stdint.h>

#include "shortfuse/vm/map.h"

namespace shortfuse::vm {

inline constexpr uint64_t kBytesPaidAsOne = 8;
// A walk over a map pays for the places in it, whether anything is there or not: one instruction for so many, which are
// gone through in about 10 ns.
inline constexpr uint32_t kPlacesPaidAsOne = 4;
// A function of a mount asks the cache, takes locks and may copy whole answers: microseconds.
inline constexpr uint32_t kPaidForHostWork = 256;
// A function that makes system calls, one that may raise and survive a fault, and one that takes an element from those
// that are free, or from who was used least: about 0.25, 2 and 0.1 to 0.2 microseconds.
inline constexpr uint32_t kPaidForSystemCall = 64, kPaidForFault = 512, kPaidForElement = 32;
// Of a BLOOM_FILTER's value, each in a line of its own.
inline constexpr uint32_t kPaidPerBit = 16;

// Of a key or a value (`key`, `value`: which of them the function takes) of such a map. Nothing for a key of up to 8
// bytes: a lookup on a hit path is as cheap as it was.
constexpr uint64_t map_cost(const struct sf_map_shape &shape, bool key, bool value) {
  uint64_t cost = 0;
  if (key && shape.key_size > 0) cost += (shape.key_size - 1) / kBytesPaidAsOne;
  if (key && shape.type == SF_MAP_LPM_TRIE) cost += uint64_t{shape.key_size} * 8;  // a node per bit
  // The values of all CPUs are cleared for a new key.
  const uint64_t values = value && shape.type == SF_MAP_PERCPU_HASH ? SF_MAP_CPUS : value;
  cost += shape.value_size / kBytesPaidAsOne * values;
  const bool has_elements = shape.type == SF_MAP_HASH || shape.type == SF_MAP_LRU_HASH ||
                            shape.type == SF_MAP_PERCPU_HASH || shape.type == SF_MAP_LPM_TRIE;
  if (key && value && has_elements) cost += kPaidForElement;
  if (value && shape.type == SF_MAP_BLOOM_FILTER) cost += kPaidPerBit * uint64_t{shape.extra != 0 ? shape.extra : 5};
  return cost;
}

}  // namespace shortfuse::vm
