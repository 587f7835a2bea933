// What machine code has in line instead of a call: compiled to bitcode, which libshortfuse-jit.so carries and links
// into a policy. The functions are those of the run library, from the same headers.
//
// A shape's sizes arrive as constants and fold. Keys of the usual sizes have functions of their own, so that the loops
// over them are gone before a policy is compiled.
#define SF_FOR_BITCODE
#include "isa/call_cost.h"
#include "isa/host_text.h"
#include "maps/inner_map.h"
#include "maps/packed.h"

using namespace shortfuse::vm;

// `last`: whose value of a per-CPU map, or whether an LRU_HASH may be written.
#define SF_LOOKUP(name, ...)                                                                                          \
  extern "C" void *sf_inline_##name([[maybe_unused]] const void *storage, [[maybe_unused]] const void *key,           \
                                    [[maybe_unused]] uint32_t key_size, [[maybe_unused]] uint32_t value_size,         \
                                    [[maybe_unused]] uint32_t max_entries, [[maybe_unused]] uint32_t last) {          \
    return __VA_ARGS__;                                                                                               \
  }
#define SF_HASHES(size, bytes)                                                                                        \
  SF_LOOKUP(hash##size, maps::element_lookup(storage, key, bytes, value_size, max_entries))                           \
  SF_LOOKUP(lru_hash##size, maps::lru_hash_lookup(storage, key, bytes, value_size, max_entries, last))                \
  SF_LOOKUP(percpu_hash##size, maps::percpu_hash_lookup(storage, key, bytes, value_size, max_entries, last))

SF_LOOKUP(array, maps::array_lookup(storage, key, value_size, max_entries))
SF_LOOKUP(percpu_array, maps::percpu_array_lookup(storage, key, value_size, max_entries, last))
// The sizes of lookup_name.h.
SF_HASHES(4, 4)
SF_HASHES(8, 8)
SF_HASHES(12, 12)
SF_HASHES(16, 16)
SF_HASHES(24, 24)
SF_HASHES(32, 32)
SF_HASHES(64, 64)
SF_HASHES(, key_size)
SF_LOOKUP(packed_hash4, maps::packed_lookup(storage, key, 4, max_entries))
SF_LOOKUP(packed_hash8, maps::packed_lookup(storage, key, 8, max_entries))
SF_LOOKUP(packed_hash, maps::packed_lookup(storage, key, key_size, max_entries))

// The handle of a map in an ARRAY_OF_MAPS.
extern "C" void *sf_inline_array_of_maps(const void *storage, const void *key, uint32_t max_entries,
                                         const sf_vm_env *env) {
  return maps::inner_map(maps::array_lookup(storage, key, sizeof(uint32_t), max_entries), env);
}

// Of a map that is not known when the code is made. (Its shape is its handle's, which nobody changes.)
extern "C" uint64_t sf_inline_map_cost(const struct sf_map *map, uint32_t key, uint32_t value) {
  return map_cost(map->shape, key != 0, value != 0);
}

// These two are called, where nothing is gained by having them in line.
extern "C" int64_t sf_inline_strncmp(const char *a, uint32_t size, const char *b) { return compare_text(a, size, b); }

// Zeroes `bytes` (not 0): eight at a time, then what is left. memset would be a call to outside.
extern "C" void sf_inline_clear(char *at, uint64_t bytes) {
  uint64_t i = 0;
  for (; i + 8 <= bytes; i += 8) *reinterpret_cast<volatile uint64_t *>(at + i) = 0;
  for (; i < bytes; ++i) *reinterpret_cast<volatile char *>(at + i) = 0;
}
