// ARRAY, PERCPU_ARRAY, and the arrays of references: PROG_ARRAY (index of a program in the image + 1) and ARRAY_OF_MAPS
// (index of a map in the policy + 1), where 0 is no reference. Values are written in place, by as many writers as like.
#include <errno.h>

#include "maps/kinds.h"

namespace shortfuse::vm::maps {
namespace {

constexpr uint32_t kReferenceBytes = sizeof(uint32_t);

bool possible(const struct sf_map_shape &shape) {
  return shape.key_size == sizeof(uint32_t) && shape.value_size != 0 && shape.value_size <= kMapBytesMax &&
         shape.max_entries != 0 && shape.max_entries <= kMapBytesMax;
}

uint64_t bytes(const struct sf_map_shape &shape) {
  return possible(shape) ? kHeaderBytes + round8(shape.value_size) * shape.max_entries : 0;
}
uint64_t percpu_bytes(const struct sf_map_shape &shape) {
  return possible(shape) ? kHeaderBytes + SF_MAP_CPUS * array_bytes_per_cpu(shape.value_size, shape.max_entries) : 0;
}
uint64_t reference_bytes(const struct sf_map_shape &shape) {
  return shape.value_size == kReferenceBytes ? bytes(shape) : 0;
}

void *lookup(const struct sf_map &map, const void *key, uint32_t) {
  return array_lookup(map.storage, key, map.shape.value_size, map.shape.max_entries);
}
void *percpu_lookup(const struct sf_map &map, const void *key, uint32_t cpu) {
  return percpu_array_lookup(map.storage, key, map.shape.value_size, map.shape.max_entries, cpu);
}

int write(const struct sf_map &map, void *to, const void *value, uint64_t flags) {
  if (flags > kExist) return -EINVAL;
  if (to == nullptr) return -E2BIG;
  if (flags == kNoExist) return -EEXIST;
  copy_shared(to, value, map.shape.value_size);
  return 0;
}
int update(struct sf_map &map, const void *key, const void *value, uint64_t flags, uint32_t) {
  return write(map, lookup(map, key, 0), value, flags);
}
int percpu_update(struct sf_map &map, const void *key, const void *value, uint64_t flags, uint32_t cpu) {
  return write(map, percpu_lookup(map, key, cpu), value, flags);
}
int update_reference(struct sf_map &map, const void *key, const void *value, uint64_t flags, uint32_t) {
  if (flags != kAny) return -EINVAL;
  return write(map, lookup(map, key, 0), value, flags);
}

int erase(struct sf_map &, const void *) { return -EINVAL; }
int erase_reference(struct sf_map &map, const void *key) {
  auto *reference = static_cast<uint32_t *>(lookup(map, key, 0));
  if (reference == nullptr) return -E2BIG;
  return __atomic_exchange_n(reference, 0, __ATOMIC_RELAXED) != 0 ? 0 : -ENOENT;
}

int next_key(const struct sf_map &map, const void *key, void *next) {
  const uint32_t index = key != nullptr ? load_once_u32(key) : ~0u;
  const uint32_t following = index >= map.shape.max_entries ? 0 : index + 1;
  if (following == map.shape.max_entries) return -ENOENT;
  __builtin_memcpy(next, &following, sizeof following);
  return 0;
}

int begin_step(const struct sf_map &map, struct sf_map_cursor *cursor) {
  if (cursor->position >= map.shape.max_entries) return 0;
  cursor->index = static_cast<uint32_t>(cursor->position++);
  cursor->key = &cursor->index;
  return 1;
}
int step(const struct sf_map &map, struct sf_map_cursor *cursor, uint32_t) {
  if (!begin_step(map, cursor)) return 0;
  cursor->value = lookup(map, &cursor->index, 0);
  return 1;
}
int percpu_step(const struct sf_map &map, struct sf_map_cursor *cursor, uint32_t cpu) {
  if (!begin_step(map, cursor)) return 0;
  cursor->value = percpu_lookup(map, &cursor->index, cpu);
  return cursor->value != nullptr;
}

}  // namespace

const Kind kArray = {.bytes = bytes, .lookup = lookup, .update = update, .erase = erase, .next_key = next_key,
                     .step = step};
const Kind kPercpuArray = {.bytes = percpu_bytes, .lookup = percpu_lookup, .update = percpu_update, .erase = erase,
                           .next_key = next_key, .step = percpu_step};
const Kind kProgArray = {.bytes = reference_bytes, .lookup = lookup, .update = update_reference,
                         .erase = erase_reference, .next_key = next_key, .step = step};
const Kind kArrayOfMaps = {.bytes = reference_bytes, .lookup = lookup, .update = update_reference,
                           .erase = erase_reference, .next_key = next_key, .step = step};

}  // namespace shortfuse::vm::maps
