// HASH with small keys and values: the writer's half, and iteration. Layout and lookup: packed.h.
#include "maps/packed.h"

#include <errno.h>

#include "maps/kinds.h"
#include "maps/pool.h"

namespace shortfuse::vm::maps {
namespace {

static_assert(PackedLayout{4, kPackedEntriesMax}.bytes() <= kMapBytesMax &&
              PackedLayout{8, kPackedEntriesMax}.bytes() <= kMapBytesMax);

constexpr PackedLayout layout_of(const struct sf_map_shape &shape) { return {shape.key_size, shape.max_entries}; }

// Where a key lies, or would lie: in a slot of its bucket, or in its chain.
struct Place {
  PackedBucket *bucket;
  uint64_t hash;
  uint32_t slot;     // kNone: in none
  uint32_t number;   // of its element; kNone: in the chain neither
  bool found() const { return slot != kNone || number != kNone; }
};

class PackedTable {
 public:
  explicit PackedTable(const struct sf_map &map) : map_(map), l_(layout_of(map.shape)) {}

  // Read once: what is looked for is what is stored.
  uint64_t key(const void *bytes) const {
    return packed_key(OwnKey<kPackedKeyMax>(bytes, l_.key_size).bytes, l_.key_size);
  }
  PackedBucket *bucket(uint64_t index) const { return packed_bucket(map_.storage, index); }
  uint16_t *tag(PackedBucket *b, uint32_t slot) const { return reinterpret_cast<uint16_t *>(&b->tags) + slot; }
  PackedElement *element(uint32_t number) const { return packed_element(map_.storage, l_, number); }
  uint32_t *chain(uint32_t number) const { return packed_chain(map_.storage, l_, number); }
  const PackedLayout &layout() const { return l_; }
  Header &header() const { return *header_of(map_.storage); }
  Pool pool() const {
    return {&header(), reinterpret_cast<uint32_t *>(at(map_.storage, l_.queue_offset())), l_.elements()};
  }

  Place find(uint64_t key) const {
    const uint64_t hash = hash_word(header().seed, key);
    PackedBucket *b = bucket(index_by(hash, l_.buckets()));
    const uint32_t slot = packed_slot(b, l_, hash, key);
    return {b, hash, slot, slot == kNone ? packed_in_chain(map_.storage, l_, b, key) : kNone};
  }
  uint64_t *value(const Place &place) const {
    return place.slot != kNone ? packed_value_at(place.bucket, l_, place.slot) : &element(place.number)->value;
  }

  // A key that is not there. False: there is no element for it, which a map that is not full never sees, or no place in
  // its bucket.
  bool insert(const Place &place, uint64_t key, uint64_t value) const {
    for (uint32_t slot = 0; slot < l_.slots(); ++slot) {
      if (*tag(place.bucket, slot) != 0) continue;
      ++header().count;
      store_relaxed(packed_value_at(place.bucket, l_, slot), value);
      // Release: who finds the key finds its value.
      void *to = packed_key_at(place.bucket, l_, slot);
      if (l_.short_keys()) store_release(static_cast<uint32_t *>(to), static_cast<uint32_t>(key));
      else store_release(static_cast<uint64_t *>(to), key);
      store_release(tag(place.bucket, slot), packed_tag(place.hash));  // publishes both
      return true;
    }
    if (chain_is_full(place.bucket)) return false;
    const uint32_t number = pool().take();
    if (number == kNone) return false;
    ++header().count;
    store_relaxed(&element(number)->value, value);
    store_release(&element(number)->key, key);
    store_relaxed(chain(number), place.bucket->chain);
    store_release(&place.bucket->chain, number + 1);  // publishes the element
    return true;
  }

  void remove(const Place &place) const {
    --header().count;
    if (place.slot != kNone) return store_release(tag(place.bucket, place.slot), uint16_t{0});
    uint32_t *word = &place.bucket->chain;
    for (uint32_t links = 0; links < kLinksMax && *word - 1 < l_.elements(); ++links) {
      if (*word == place.number + 1) {
        // Release: what follows it was published before and must be seen so.
        store_release(word, *chain(place.number));
        return pool().give_back(place.number);
      }
      word = chain(*word - 1);
    }
  }

  bool chain_is_full(const PackedBucket *b) const {
    uint32_t links = 0;
    for (uint32_t link = b->chain; links < kLinksMax && link - 1 < l_.elements(); ++links) link = *chain(link - 1);
    return links == kLinksMax;
  }

  bool hangs_in_a_chain(uint32_t number) const {
    const uint64_t hash = hash_word(header().seed, element(number)->key);
    const uint32_t *word = &bucket(index_by(hash, l_.buckets()))->chain;
    for (uint32_t links = 0; links < kLinksMax && *word - 1 < l_.elements(); ++links) {
      if (*word == number + 1) return true;
      word = chain(*word - 1);
    }
    return false;
  }

 private:
  const struct sf_map &map_;
  PackedLayout l_;
};

uint64_t bytes(const struct sf_map_shape &shape) {
  const bool possible = shape.key_size != 0 && shape.value_size != 0 && shape.max_entries != 0;
  return possible ? layout_of(shape).bytes() : 0;
}

// The usual sizes are compiled for themselves.
void *lookup(const struct sf_map &map, const void *key, uint32_t) {
  switch (map.shape.key_size) {
    case 4: return packed_lookup(map.storage, key, 4, map.shape.max_entries);
    case 8: return packed_lookup(map.storage, key, 8, map.shape.max_entries);
    default: return packed_lookup(map.storage, key, map.shape.key_size, map.shape.max_entries);
  }
}

int update(struct sf_map &map, const void *program_key, const void *program_value, uint64_t flags, uint32_t) {
  if (flags > kExist) return -EINVAL;
  const PackedTable table(map);
  const uint64_t key = table.key(program_key);
  uint64_t value = 0;
  copy_shared(&value, program_value, map.shape.value_size);
  const Place place = table.find(key);
  if (place.found()) {
    if (flags == kNoExist) return -EEXIST;
    // Release: what the value may speak of was written before.
    return store_release(table.value(place), value), 0;
  }
  if (flags == kExist) return -ENOENT;
  if (table.header().count >= map.shape.max_entries) return -E2BIG;
  return table.insert(place, key, value) ? 0 : -E2BIG;
}

int erase(struct sf_map &map, const void *program_key) {
  const PackedTable table(map);
  const Place place = table.find(table.key(program_key));
  if (!place.found()) return -ENOENT;
  return table.remove(place), 0;
}

// The keys in the order of their places: bucket * 8 + slot; behind the slots comes the chain, whose next element `link`
// tells (number + 1).
struct Walk {
  uint64_t position;
  uint32_t link;
};
struct Found {
  void *key = nullptr;
  uint64_t *value = nullptr;
};
constexpr uint32_t kPlacesPerBucket = 8, kInChain = 4;

Found next_in_walk(const PackedTable &table, Walk *walk) {
  const PackedLayout &l = table.layout();
  for (uint64_t index; (index = walk->position / kPlacesPerBucket) < l.buckets();) {
    PackedBucket *bucket = table.bucket(index);
    auto slot = static_cast<uint32_t>(walk->position % kPlacesPerBucket);
    for (; slot < l.slots(); ++slot) {
      walk->position++;
      if (load_acquire(table.tag(bucket, slot)) == 0) continue;
      return {packed_key_at(bucket, l, slot), packed_value_at(bucket, l, slot)};
    }
    const uint32_t number = (slot <= kInChain ? load_acquire(&bucket->chain) : walk->link) - 1;
    if (number < l.elements()) {
      walk->position = index * kPlacesPerBucket + kInChain + 1;
      walk->link = load_acquire(table.chain(number));
      return {&table.element(number)->key, &table.element(number)->value};
    }
    walk->position = (index + 1) * kPlacesPerBucket;
  }
  return {};
}

// Behind a key; from the start when it is not there, as in the kernel.
Walk walk_from(const PackedTable &table, uint64_t key) {
  const Place place = table.find(key);
  const uint64_t first = uint64_t{index_by(place.hash, table.layout().buckets())} * kPlacesPerBucket;
  if (place.slot != kNone) return {first + place.slot + 1, 0};
  if (place.number != kNone) return {first + kInChain + 1, load_acquire(table.chain(place.number))};
  return {};
}

int next_key(const struct sf_map &map, const void *key, void *next) {
  const PackedTable table(map);
  Walk walk{};
  if (key != nullptr) walk = walk_from(table, table.key(key));
  const Found found = next_in_walk(table, &walk);
  if (found.key == nullptr) return -ENOENT;
  // As one word: the slot may be another key's at any time, never half.
  const uint64_t whole = table.layout().short_keys() ? load_acquire(static_cast<const uint32_t *>(found.key))
                                                     : load_acquire(static_cast<const uint64_t *>(found.key));
  copy_shared(next, &whole, map.shape.key_size);
  return 0;
}

// The cursor's `reserved` counts, so that a chain made into a ring ends as well.
int step(const struct sf_map &map, struct sf_map_cursor *cursor, uint32_t) {
  const PackedTable table(map);
  if (cursor->reserved++ >= table.layout().elements()) return 0;
  Walk walk{cursor->position, cursor->index};
  const Found found = next_in_walk(table, &walk);
  if (found.key == nullptr) return 0;
  cursor->position = walk.position;
  cursor->index = walk.link;
  cursor->key = found.key;
  cursor->value = found.value;
  return 1;
}

void repair(struct sf_map &map) {
  const PackedTable table(map);
  table.pool().rebuild([&](uint32_t number) { return table.hangs_in_a_chain(number); });
  uint32_t in_slots = 0;
  for (uint64_t index = 0; index < table.layout().buckets(); ++index) {
    for (uint32_t slot = 0; slot < table.layout().slots(); ++slot)
      in_slots += *table.tag(table.bucket(index), slot) != 0;
  }
  table.header().count += in_slots;
}

}  // namespace

const Kind kPackedHash = {.bytes = bytes, .lookup = lookup, .update = update, .erase = erase, .next_key = next_key,
                          .step = step, .repair = repair};

}  // namespace shortfuse::vm::maps
