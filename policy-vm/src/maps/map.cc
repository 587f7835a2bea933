/* Policy maps (map.h). Freestanding.
 *
 * ARRAY: values back to back. HASH: buckets of element numbers, chained. An update of an existing key puts a new
 * element in the old one's place in its chain, so that a lookup finds one value or the other, never neither.
 *
 * An element that was taken out keeps its link, for the readers that are on it, and comes back into use through a
 * queue with spare elements: not before kSpareElements others have. `taken` counts them. So a reader can only lose
 * its way when `taken` has moved that far under it; then it looks again.
 *
 * A writer that is killed half-way leaves at worst an element that is in no chain and not free. Readers bound every
 * number and every walk. */
#include "shortfuse/vm/map.h"

#include <errno.h>

#include "shared.h"

using namespace shortfuse::vm::maps;

namespace {

constexpr uint32_t kTypeHash = 1, kTypeArray = 2; /* as in the kernel */
constexpr uint64_t kAny = 0, kNoExist = 1, kExist = 2;
constexpr uint64_t kMapMagic = 0x3170616d667573ull;
constexpr size_t kMapBytesMax = 256u << 20;
constexpr uint32_t kKeyMax = 512;
constexpr uint32_t kSpareElements = 64;
constexpr uint32_t kNone = ~0u; /* the end of a chain */
constexpr uint64_t kNoHash = 0; /* of an element that is being filled */
constexpr int kRestarts = 8;

struct MapHeader {
  uint64_t magic;
  struct sf_map_shape shape;
  uint64_t seed;
  uint32_t buckets;      /* a power of two */
  uint32_t elements;     /* max_entries and spares */
  uint32_t value_offset; /* ARRAY: of the values. HASH: of a value in its element */
  uint32_t element_bytes;
  uint64_t buckets_offset, elements_offset;
  /* The writer's own. */
  uint32_t count;
  uint32_t free_first, free_last;
  uint32_t taken; /* elements brought into use so far; readers look at it */
};
static_assert(sizeof(MapHeader) <= 128);
constexpr size_t kHeaderBytes = 128;

struct Element {
  uint32_t next;      /* in its chain; stays when the element is taken out */
  uint32_t next_free; /* in the queue of the unused */
  uint64_t hash;
  /* key, padded to 8; value, padded to 8 */
};

inline uint64_t round8(uint64_t n) { return (n + 7) & ~uint64_t{7}; }

inline MapHeader *header_of(const void *storage) { return static_cast<MapHeader *>(const_cast<void *>(storage)); }
inline unsigned char *bytes_of_map(const MapHeader *map) {
  return reinterpret_cast<unsigned char *>(const_cast<MapHeader *>(map));
}
inline uint32_t *bucket_of(const MapHeader *map, uint64_t hash) {
  return reinterpret_cast<uint32_t *>(bytes_of_map(map) + map->buckets_offset) + (hash & (map->buckets - 1));
}
inline Element *element_at(const MapHeader *map, uint32_t number) {
  return reinterpret_cast<Element *>(bytes_of_map(map) + map->elements_offset +
                                     static_cast<uint64_t>(number) * map->element_bytes);
}
inline unsigned char *key_of(Element *element) { return reinterpret_cast<unsigned char *>(element + 1); }
inline unsigned char *value_of(const MapHeader *map, Element *element) {
  return reinterpret_cast<unsigned char *>(element) + map->value_offset;
}
inline unsigned char *array_value(const MapHeader *map, uint32_t index) {
  return bytes_of_map(map) + map->value_offset + static_cast<uint64_t>(index) * map->element_bytes;
}
/* Never kNoHash. */
inline uint64_t hash_of(const MapHeader *map, const void *key) {
  return hash_bytes(map->seed, key, map->shape.key_size) | 1ull << 63;
}

/* Where the parts of a map lie. False when the shape is not supported. */
bool lay_out(const struct sf_map_shape &shape, MapHeader *map, uint64_t *bytes) {
  if (shape.max_entries == 0 || shape.value_size == 0 || shape.value_size > kMapBytesMax) return false;
  if (shape.max_entries > kMapBytesMax) return false;
  map->shape = shape;
  map->magic = kMapMagic;
  if (shape.type == kTypeArray) {
    if (shape.key_size != sizeof(uint32_t)) return false;
    map->value_offset = kHeaderBytes;
    map->element_bytes = static_cast<uint32_t>(round8(shape.value_size));
    *bytes = kHeaderBytes + static_cast<uint64_t>(shape.max_entries) * map->element_bytes;
  } else if (shape.type == kTypeHash) {
    if (shape.key_size == 0 || shape.key_size > kKeyMax) return false;
    map->elements = shape.max_entries + kSpareElements;
    map->buckets = 1;
    while (map->buckets < shape.max_entries) map->buckets *= 2;
    map->value_offset = static_cast<uint32_t>(sizeof(Element) + round8(shape.key_size));
    map->element_bytes = static_cast<uint32_t>(map->value_offset + round8(shape.value_size));
    map->buckets_offset = kHeaderBytes;
    map->elements_offset = round8(kHeaderBytes + static_cast<uint64_t>(map->buckets) * sizeof(uint32_t));
    *bytes = map->elements_offset + static_cast<uint64_t>(map->elements) * map->element_bytes;
  } else {
    return false;
  }
  return *bytes <= kMapBytesMax;
}

inline bool same_key(const MapHeader *map, Element *element, const void *key) {
  const auto *wanted = static_cast<const unsigned char *>(key);
  const unsigned char *there = key_of(element);
  uint32_t i = 0;
  for (; i + 8 <= map->shape.key_size; i += 8) {
    if (load_relaxed(reinterpret_cast<const uint64_t *>(there + i)) != load_u64(wanted + i)) return false;
  }
  for (; i < map->shape.key_size; ++i) {
    if (load_relaxed(there + i) != wanted[i]) return false;
  }
  return true;
}

/* The number of the key's element, or kNone. */
uint32_t find_element(const MapHeader *map, uint64_t hash, const void *key) {
  for (int restart = 0; restart < kRestarts; ++restart) {
    const uint32_t taken = load_acquire(&map->taken);
    uint32_t number = load_acquire(bucket_of(map, hash));
    /* Bounded: what a dying writer or a reused element left behind may be a ring. */
    for (uint32_t steps = 0; steps <= map->elements && number < map->elements; ++steps) {
      Element *element = element_at(map, number);
      /* Acquire: the key and value were written before this hash. */
      if (load_acquire(&element->hash) == hash && same_key(map, element, key)) return number;
      number = load_acquire(&element->next);
    }
    fence_acquire();
    if (load_relaxed(&map->taken) - taken < kSpareElements - 1) return kNone;
  }
  return kNone;
}

/* ---- the writer's half */

uint32_t take_free(MapHeader *map) {
  const uint32_t number = map->free_first;
  if (number >= map->elements) return kNone;
  map->free_first = element_at(map, number)->next_free;
  if (map->free_first == kNone) map->free_last = kNone;
  store_relaxed(&map->taken, map->taken + 1);
  /* The count, before anything of the element changes. */
  fence_release();
  return number;
}

void give_back(MapHeader *map, uint32_t number) {
  element_at(map, number)->next_free = kNone;
  if (map->free_last < map->elements) {
    element_at(map, map->free_last)->next_free = number;
  } else {
    map->free_first = number;
  }
  map->free_last = number;
}

/* The link that leads to an element in use; null when a killed writer left it in no chain. */
uint32_t *link_to(MapHeader *map, uint32_t number) {
  uint32_t *link = bucket_of(map, element_at(map, number)->hash);
  for (uint32_t steps = 0; steps <= map->elements && *link < map->elements; ++steps) {
    if (*link == number) return link;
    link = &element_at(map, *link)->next;
  }
  return nullptr;
}

int update_hash(MapHeader *map, const void *key, const void *value, uint64_t flags) {
  const uint64_t hash = hash_of(map, key);
  const uint32_t old = find_element(map, hash, key);
  if (old != kNone && flags == kNoExist) return -EEXIST;
  if (old == kNone && flags == kExist) return -ENOENT;
  if (old == kNone && map->count >= map->shape.max_entries) return -E2BIG;
  uint32_t *link = old != kNone ? link_to(map, old) : bucket_of(map, hash);
  const uint32_t number = take_free(map);
  if (number == kNone || link == nullptr) return -E2BIG;

  Element *element = element_at(map, number);
  store_relaxed(&element->hash, kNoHash); /* a reader on it must not match it before it is complete */
  fence_release();
  store_relaxed(&element->next, old != kNone ? element_at(map, old)->next : *link);
  copy_shared(key_of(element), key, map->shape.key_size);
  copy_shared(value_of(map, element), value, map->shape.value_size);
  store_release(&element->hash, hash); /* publishes key and value to readers that are on it */
  store_release(link, number);         /* and to the others */
  if (old != kNone) {
    give_back(map, old);
  } else {
    ++map->count;
  }
  return 0;
}

}  // namespace

extern "C" {

size_t sf_map_bytes(const struct sf_map_shape *shape) {
  MapHeader map{};
  uint64_t bytes = 0;
  return lay_out(*shape, &map, &bytes) ? bytes : 0;
}

void sf_map_init(void *storage, const struct sf_map_shape *shape) {
  MapHeader map{};
  uint64_t bytes = 0;
  if (!lay_out(*shape, &map, &bytes)) return;
  auto *at = static_cast<unsigned char *>(storage);
  for (uint64_t i = 0; i < bytes; i += 8) *reinterpret_cast<volatile uint64_t *>(at + i) = 0;
  map.seed = __builtin_ia32_rdtsc() * kOddA ^ kOddC;
  map.free_first = map.free_last = kNone;
  *header_of(storage) = map;
  MapHeader *made = header_of(storage);
  for (uint32_t i = 0; i < made->buckets; ++i) *bucket_of(made, i) = kNone;
  for (uint32_t i = 0; i < made->elements; ++i) give_back(made, i);
}

int sf_map_check(const void *storage, size_t bytes, const struct sf_map_shape *shape) {
  MapHeader wanted{};
  uint64_t need = 0;
  if (bytes < kHeaderBytes || !lay_out(*shape, &wanted, &need) || bytes < need) return -EINVAL;
  const MapHeader *map = header_of(storage);
  const bool same = map->magic == wanted.magic && map->shape.type == shape->type &&
                    map->shape.key_size == shape->key_size && map->shape.value_size == shape->value_size &&
                    map->shape.max_entries == shape->max_entries && map->buckets == wanted.buckets &&
                    map->elements == wanted.elements && map->value_offset == wanted.value_offset &&
                    map->element_bytes == wanted.element_bytes && map->buckets_offset == wanted.buckets_offset &&
                    map->elements_offset == wanted.elements_offset;
  return same ? 0 : -EINVAL;
}

void *sf_map_lookup(const void *storage, const void *key) {
  const MapHeader *map = header_of(storage);
  if (map->shape.type == kTypeArray) {
    const uint32_t index = load_u32(key);
    return index < map->shape.max_entries ? array_value(map, index) : nullptr;
  }
  const uint32_t number = find_element(map, hash_of(map, key), key);
  return number != kNone ? value_of(map, element_at(map, number)) : nullptr;
}

int sf_map_update(void *storage, const void *key, const void *value, uint64_t flags) {
  MapHeader *map = header_of(storage);
  if (flags > kExist) return -EINVAL;
  if (map->shape.type != kTypeArray) return update_hash(map, key, value, flags);
  const uint32_t index = load_u32(key);
  if (index >= map->shape.max_entries) return -E2BIG;
  if (flags == kNoExist) return -EEXIST;
  copy_shared(array_value(map, index), value, map->shape.value_size);
  return 0;
}

int sf_map_delete(void *storage, const void *key) {
  MapHeader *map = header_of(storage);
  if (map->shape.type == kTypeArray) return -EINVAL;
  const uint32_t number = find_element(map, hash_of(map, key), key);
  if (number == kNone) return -ENOENT;
  /* Release: what follows it was published before and must be seen so. */
  if (uint32_t *link = link_to(map, number); link != nullptr) store_release(link, element_at(map, number)->next);
  give_back(map, number);
  --map->count;
  return 0;
}

int sf_map_next_key(const void *storage, const void *key, void *next) {
  const MapHeader *map = header_of(storage);
  if (map->shape.type == kTypeArray) {
    const uint32_t index = key != nullptr ? load_u32(key) : ~0u;
    const uint32_t following = index >= map->shape.max_entries ? 0 : index + 1;
    if (following == map->shape.max_entries) return -ENOENT;
    __builtin_memcpy(next, &following, sizeof following);
    return 0;
  }
  uint32_t number = kNone;
  uint32_t bucket = 0;
  if (key != nullptr) {
    const uint64_t hash = hash_of(map, key);
    if (const uint32_t at = find_element(map, hash, key); at != kNone) {
      number = load_acquire(&element_at(map, at)->next);
      bucket = static_cast<uint32_t>(hash & (map->buckets - 1)) + 1;
    }
  }
  while (number >= map->elements) {
    if (bucket == map->buckets) return -ENOENT;
    number = load_acquire(bucket_of(map, bucket++));
  }
  copy_shared(next, key_of(element_at(map, number)), map->shape.key_size);
  return 0;
}

int sf_map_step(const struct sf_map *handle, struct sf_map_cursor *cursor) {
  const MapHeader *map = header_of(handle->storage);
  if (handle->shape.type == kTypeArray) {
    if (cursor->position >= handle->shape.max_entries) return 0;
    cursor->index = static_cast<uint32_t>(cursor->position++);
    cursor->key = &cursor->index;
    cursor->value = array_value(map, cursor->index);
    return 1;
  }
  /* Element by element: an element that no bucket leads to is not in use. */
  while (cursor->position < map->elements) {
    Element *element = element_at(map, static_cast<uint32_t>(cursor->position++));
    const uint64_t hash = load_acquire(&element->hash);
    if (hash == kNoHash || find_element(map, hash, key_of(element)) != cursor->position - 1) continue;
    cursor->key = key_of(element);
    cursor->value = value_of(map, element);
    return 1;
  }
  return 0;
}

void *sf_map_array_values(const void *storage) {
  const MapHeader *map = header_of(storage);
  return map->shape.type == kTypeArray ? bytes_of_map(map) + map->value_offset : nullptr;
}

}  // extern "C"
