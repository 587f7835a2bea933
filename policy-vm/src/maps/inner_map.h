// From what an ARRAY_OF_MAPS holds to the map itself. Freestanding; compiled also to bitcode.
#pragma once
#include "maps/lookup.h"
#include "shortfuse/vm/image.h"

namespace shortfuse::vm::maps {

// `reference`: the value that was found, or null. The numbers are the image's, and are checked against it.
SF_MAP_INLINE struct sf_map *inner_map(const void *reference, const struct sf_vm_env *env) {
  const uint32_t number = reference != nullptr ? load_relaxed(static_cast<const uint32_t *>(reference)) : 0;
  if (number == 0 || env->image == nullptr || number > env->image->maps) return nullptr;
  return env->map[number - 1];
}

}  // namespace shortfuse::vm::maps
