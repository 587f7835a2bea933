// Policy maps (map.h): what all kinds have in common. Freestanding.
#include "shortfuse/vm/map.h"

#include <errno.h>

#include "maps/kinds.h"
#include "maps/packed.h"
#include "maps/system.h"

using namespace shortfuse::vm::maps;

namespace shortfuse::vm::maps {

const Kind *kind_of(const struct sf_map_shape &shape) {
  switch (shape.type) {
    case SF_MAP_HASH: return is_packed(shape.key_size, shape.value_size, shape.max_entries) ? &kPackedHash : &kHash;
    case SF_MAP_ARRAY: return &kArray;
    case SF_MAP_PROG_ARRAY: return &kProgArray;
    case SF_MAP_PERCPU_HASH: return &kPercpuHash;
    case SF_MAP_PERCPU_ARRAY: return &kPercpuArray;
    case SF_MAP_LRU_HASH: return &kLruHash;
    case SF_MAP_LPM_TRIE: return &kLpmTrie;
    case SF_MAP_ARRAY_OF_MAPS: return &kArrayOfMaps;
    case SF_MAP_QUEUE: return &kQueue;
    case SF_MAP_STACK: return &kStack;
    case SF_MAP_RINGBUF: return &kRingbuf;
    case SF_MAP_BLOOM_FILTER: return &kBloomFilter;
    default: return nullptr;
  }
}

}  // namespace shortfuse::vm::maps

namespace {

// An application's thread must not be held up: its program goes on without. The daemon's write is worth waiting for.
constexpr int kSpins = 1000, kYields = 100, kYieldsPerLook = 25, kSleeps = 20, kPatientSleeps = 1000;
constexpr long kSleepNs = 50'000, kPatientSleepNs = 1'000'000;

uint32_t *lock_of(const struct sf_map *map) { return &header_of(map->storage)->lock; }

bool try_lock(struct sf_map *map, uint32_t thread, uint32_t *holder) {
  *holder = 0;
  return __atomic_compare_exchange_n(lock_of(map), holder, thread, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

// In the place of a holder that is not there any more.
bool try_relieve(struct sf_map *map, uint32_t thread, uint32_t holder) {
  return holder != 0 && !thread_is_alive(holder, map->many_processes != 0) &&
         __atomic_compare_exchange_n(lock_of(map), &holder, thread, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

// The lock is ours, and was another's who did not come to an end.
int take_over(struct sf_map *map) {
  const Kind *kind = kind_of(map->shape);
  if (kind != nullptr && kind->repair != nullptr) kind->repair(*map);
  return 0;
}

}  // namespace

extern "C" {

size_t sf_map_bytes(const struct sf_map_shape *shape) {
  if (shape->extra != 0 && shape->type != SF_MAP_BLOOM_FILTER) return 0;
  const Kind *kind = kind_of(*shape);
  const uint64_t bytes = kind != nullptr ? kind->bytes(*shape) : 0;
  return bytes <= kMapBytesMax ? bytes : 0;
}

void sf_map_init(void *storage, const struct sf_map_shape *shape) {
  Header *header = header_of(storage);
  header->shape = *shape;
  header->seed = __builtin_ia32_rdtsc() * kOddA ^ kOddC;
  store_release(&header->magic, kMapMagic);
}

int sf_map_check(const void *storage, size_t bytes, const struct sf_map_shape *shape) {
  const size_t need = sf_map_bytes(shape);
  if (need == 0 || bytes < need) return -EINVAL;
  const Header *header = header_of(storage);
  const bool same = load_acquire(&header->magic) == kMapMagic && header->shape.type == shape->type &&
                    header->shape.key_size == shape->key_size && header->shape.value_size == shape->value_size &&
                    header->shape.max_entries == shape->max_entries && header->shape.extra == shape->extra;
  return same ? 0 : -EINVAL;
}

int sf_map_lock(struct sf_map *map, uint32_t thread) {
  if (sf_map_is_free_for_all(map->shape.type)) return 0;
  uint32_t holder = 0;
  for (int tries = 0; tries < kSpins + kYields; ++tries) {
    if (try_lock(map, thread, &holder)) return 0;
    if (holder == thread) return take_over(map);
    if (tries < kSpins) {
      __builtin_ia32_pause();
      continue;
    }
    // On a machine with much to do a yield takes long: one that is gone is not waited for.
    if ((tries - kSpins) % kYieldsPerLook == 0 && try_relieve(map, thread, holder)) return take_over(map);
    yield();
  }
  const int sleeps = map->patient ? kPatientSleeps : kSleeps;
  for (int tries = 0; tries < sleeps; ++tries) {
    if (try_relieve(map, thread, holder)) return take_over(map);
    sleep_ns(map->patient ? kPatientSleepNs : kSleepNs);
    if (try_lock(map, thread, &holder)) return 0;
  }
  __atomic_add_fetch(&header_of(map->storage)->refused, 1, __ATOMIC_RELAXED);
  return -EBUSY;
}

void sf_map_unlock(struct sf_map *map) {
  if (!sf_map_is_free_for_all(map->shape.type)) store_release(lock_of(map), 0u);
}

uint32_t sf_map_refused(const struct sf_map *map) { return load_relaxed(&header_of(map->storage)->refused); }

void *sf_map_lookup(const struct sf_map *map, const void *key, uint32_t cpu) {
  switch (map->shape.type) {
    case SF_MAP_ARRAY: return array_lookup(map->storage, key, map->shape.value_size, map->shape.max_entries);
    case SF_MAP_HASH: return kind_of(map->shape)->lookup(*map, key, cpu);
    default: break;
  }
  const Kind *kind = kind_of(map->shape);
  return kind != nullptr && kind->lookup != nullptr ? kind->lookup(*map, key, cpu) : nullptr;
}

int sf_map_update(struct sf_map *map, const void *key, const void *value, uint64_t flags, uint32_t cpu) {
  const Kind *kind = kind_of(map->shape);
  return kind != nullptr && kind->update != nullptr ? kind->update(*map, key, value, flags, cpu) : -EOPNOTSUPP;
}

int sf_map_delete(struct sf_map *map, const void *key) {
  const Kind *kind = kind_of(map->shape);
  return kind != nullptr && kind->erase != nullptr ? kind->erase(*map, key) : -EOPNOTSUPP;
}

int sf_map_push(struct sf_map *map, const void *value, uint64_t flags) {
  const Kind *kind = kind_of(map->shape);
  return kind != nullptr && kind->push != nullptr ? kind->push(*map, value, flags) : -EOPNOTSUPP;
}

int sf_map_pop(struct sf_map *map, void *value) {
  const Kind *kind = kind_of(map->shape);
  return kind != nullptr && kind->pop != nullptr ? kind->pop(*map, value) : -EOPNOTSUPP;
}

int sf_map_peek(const struct sf_map *map, void *value) {
  const Kind *kind = kind_of(map->shape);
  return kind != nullptr && kind->peek != nullptr ? kind->peek(*map, value) : -EOPNOTSUPP;
}

int sf_map_next_key(const struct sf_map *map, const void *key, void *next) {
  const Kind *kind = kind_of(map->shape);
  return kind != nullptr && kind->next_key != nullptr ? kind->next_key(*map, key, next) : -EOPNOTSUPP;
}

int sf_map_step(const struct sf_map *map, struct sf_map_cursor *cursor, uint32_t cpu) {
  const Kind *kind = kind_of(map->shape);
  return kind != nullptr && kind->step != nullptr ? kind->step(*map, cursor, cpu) : 0;
}

size_t sf_map_cpu_stride(const struct sf_map_shape *shape) {
  if (shape->type == SF_MAP_PERCPU_ARRAY) return array_bytes_per_cpu(shape->value_size, shape->max_entries);
  if (shape->type != SF_MAP_PERCPU_HASH) return 0;
  return HashLayout{shape->key_size, shape->value_size, shape->max_entries, true}.cpu_value_bytes();
}

uint32_t sf_map_count(const struct sf_map *map) {
  const Header *header = header_of(map->storage);
  uint32_t count = 0;
  switch (map->shape.type) {
    case SF_MAP_HASH: case SF_MAP_LRU_HASH: case SF_MAP_PERCPU_HASH: case SF_MAP_LPM_TRIE:
      count = load_relaxed(&header->count);
      break;
    case SF_MAP_QUEUE: case SF_MAP_STACK:
      count = static_cast<uint32_t>(load_relaxed(&header->words[1]) >> 32);
      break;
    case SF_MAP_RINGBUF: case SF_MAP_BLOOM_FILTER: return 0;
    default: return map->shape.max_entries;
  }
  return count < map->shape.max_entries ? count : map->shape.max_entries;
}

void *sf_map_array_values(const struct sf_map *map) {
  return map->shape.type == SF_MAP_ARRAY ? at(map->storage, kHeaderBytes) : nullptr;
}

}  // extern "C"
