// The kinds of maps: what each can do. One table per kind, defined in the file of its family. Freestanding.
//
// A function that is not there: the kind has none (-EOPNOTSUPP). Shapes have passed `bytes` before anything else sees
// them; writers hold the lock.
#pragma once
#include "maps/lookup.h"
#include "shortfuse/vm/map.h"

namespace shortfuse::vm::maps {

constexpr uint64_t kAny = 0, kNoExist = 1, kExist = 2;  // as in the kernel
constexpr size_t kMapBytesMax = 256u << 20;

struct Kind {
  uint64_t (*bytes)(const struct sf_map_shape &shape);  // 0: no such map
  void *(*lookup)(const struct sf_map &map, const void *key, uint32_t cpu);
  int (*update)(struct sf_map &map, const void *key, const void *value, uint64_t flags, uint32_t cpu);
  int (*erase)(struct sf_map &map, const void *key);
  int (*next_key)(const struct sf_map &map, const void *key, void *next);
  int (*step)(const struct sf_map &map, struct sf_map_cursor *cursor, uint32_t cpu);
  int (*push)(struct sf_map &map, const void *value, uint64_t flags);
  int (*pop)(struct sf_map &map, void *value);
  int (*peek)(const struct sf_map &map, void *value);
  // Makes a map whose writer did not come to an end one that can be written again.
  void (*repair)(struct sf_map &map);
};

extern const Kind kArray, kPercpuArray, kProgArray, kArrayOfMaps;  // array.cc
extern const Kind kHash, kPercpuHash, kLruHash;                    // hash.cc
extern const Kind kPackedHash;                                     // packed.cc: a HASH with small keys and values
extern const Kind kLpmTrie, kQueue, kStack, kBloomFilter;          // lpm_trie.cc, queue.cc, bloom.cc
extern const Kind kRingbuf;                                        // ring.cc; its functions: map.h
void ring_count_lost(const struct sf_map &map);                    // a record that could not be reserved

// Null for a type that there is not.
const Kind *kind_of(const struct sf_map_shape &shape);

}  // namespace shortfuse::vm::maps
