// Which function of inline.cc looks into a map.
#pragma once
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "maps/packed.h"

namespace shortfuse::vm {

/// Without its prefix; of key sizes that have a function of their own, that one. "": the host's table is asked. What
/// looks at more than a few lines of memory is called there: a lookup in an LPM_TRIE of 1,024 prefixes takes 84 ns, of
/// which a call by the table is 2. `of_cpu`: for bpf_map_lookup_percpu_elem().
inline std::string lookup_name(const sf_map_shape &shape, bool of_cpu) {
  const auto sized = [&](std::string name, std::initializer_list<uint32_t> sizes) {
    const bool own = std::find(sizes.begin(), sizes.end(), shape.key_size) != sizes.end();
    return own ? name + std::to_string(shape.key_size) : name;
  };
  const auto of_elements = [&](const char *name) { return sized(name, {4, 8, 12, 16, 24, 32, 64}); };
  if (shape.type == SF_MAP_PERCPU_ARRAY) return "percpu_array";
  if (shape.type == SF_MAP_PERCPU_HASH) return of_elements("percpu_hash");
  if (of_cpu) return "";
  const bool packed = maps::is_packed(shape.key_size, shape.value_size, shape.max_entries);
  switch (shape.type) {
    case SF_MAP_ARRAY: return "array";
    case SF_MAP_ARRAY_OF_MAPS: return "array_of_maps";
    case SF_MAP_HASH: return packed ? sized("packed_hash", {4, 8}) : of_elements("hash");
    case SF_MAP_LRU_HASH: return of_elements("lru_hash");
    default: return "";
  }
}

}  // namespace shortfuse::vm
