// HASH, PERCPU_HASH and LRU_HASH: the writer's half, and iteration. Layout and lookup: lookup.h. (HASH with small keys
// and values: packed.cc.)
//
// An update of an existing key puts a new element in the old one's place, so that a lookup finds one value or the
// other, whole, never neither. A PERCPU_HASH is written in place: each value has one writer.
//
// LRU_HASH: a full map gives up the element under a hand that goes round; one that was looked at by this process since
// the hand last came by is spared once. Readers in other processes map the storage read-only and leave no trace. A full
// chain gives up its own last element.
#include <errno.h>

#include "maps/kinds.h"
#include "maps/pool.h"

namespace shortfuse::vm::maps {
namespace {

constexpr uint32_t kKeyMax = 512;

constexpr HashLayout layout_of(const struct sf_map_shape &shape) {
  return {shape.key_size, shape.value_size, shape.max_entries, shape.type == SF_MAP_PERCPU_HASH};
}

class Table {
 public:
  explicit Table(const struct sf_map &map) : map_(map), l_(layout_of(map.shape)), header_(header_of(map.storage)) {}

  uint64_t hash(const void *key) const { return hash_key(header_->seed, key, l_.key_size); }

  // The sizes that policies use are compiled for themselves.
  uint32_t find(uint64_t hash, const void *key) const {
    switch (l_.key_size) {
      case 4: return find_sized<4>(hash, key);
      case 8: return find_sized<8>(hash, key);
      case 16: return find_sized<16>(hash, key);
      case 64: return find_sized<64>(hash, key);
      default: return find_element(map_.storage, l_, hash, key);
    }
  }
  uint32_t find(const void *key) const { return find(hash(key), key); }

  void *value(uint32_t number, uint32_t cpu) const { return value_at(map_.storage, l_, number, cpu); }
  unsigned char *key(uint32_t number) const { return key_at(map_.storage, l_, number); }
  uint8_t *mark(uint32_t number) const { return at(map_.storage, l_.marks_offset()) + number; }
  uint32_t *chain(uint32_t number) const { return chain_of(map_.storage, l_, number); }
  Bucket *bucket(uint64_t hash) const { return bucket_number(bucket_index(l_, hash)); }
  Bucket *bucket_number(uint64_t index) const { return bucket_at(map_.storage, index); }
  uint8_t *tag(Bucket *bucket, uint32_t slot) const { return reinterpret_cast<uint8_t *>(&bucket->tags) + slot; }
  uint32_t elements() const { return l_.elements(); }
  uint32_t ever_used() const {
    const uint32_t fresh = load_relaxed(&header_->fresh);
    return fresh < l_.elements() ? fresh : l_.elements();
  }
  bool in_use(uint32_t number) const { return find(key(number)) == number; }
  Header &header() const { return *header_; }
  const HashLayout &layout() const { return l_; }
  Pool pool() const {
    return {header_, reinterpret_cast<uint32_t *>(at(map_.storage, l_.queue_offset())), l_.elements()};
  }

  // Where an element that is in use hangs: the word that holds its number, and the slot's tag if it is a slot.
  struct Place { uint32_t *word; uint8_t *tag; };
  Place place_of(uint32_t number) const {
    Bucket *b = bucket(hash(key(number)));
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      if (*tag(b, slot) != 0 && b->element[slot] == number + 1) return {&b->element[slot], tag(b, slot)};
    }
    uint32_t *word = &b->chain;
    for (uint32_t links = 0; links < kLinksMax && *word - 1 < elements(); ++links) {
      if (*word == number + 1) return {word, nullptr};
      word = chain(*word - 1);
    }
    return {nullptr, nullptr};
  }

  // Whether the bucket of a new key has a place for it. `last`: the number of the last one in its chain, if not.
  bool has_room(uint64_t hash, uint32_t *last = nullptr) const {
    Bucket *b = bucket(hash);
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      if (*tag(b, slot) == 0) return true;
    }
    uint32_t link = b->chain;
    for (uint32_t links = 0; links < kLinksMax; ++links) {
      if (link - 1 >= elements()) return true;
      if (last != nullptr) *last = link - 1;
      link = *chain(link - 1);
    }
    return false;
  }

  void fill_key(uint32_t number, const void *from) const { copy_shared(key(number), from, l_.key_size); }

  void insert(uint64_t hash, uint32_t number) const {
    Bucket *b = bucket(hash);
    store_relaxed(mark(number), kInUse);
    ++header_->count;
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      if (*tag(b, slot) != 0) continue;
      store_relaxed(chain(number), 0u);              // see walk_from()
      store_release(&b->element[slot], number + 1);  // publishes key and value
      store_release(tag(b, slot), tag_of(hash));     // and this the number
      return;
    }
    store_relaxed(chain(number), b->chain);
    store_release(&b->chain, number + 1);
  }

  // False: it hangs nowhere, so that it is not ours to give back.
  bool remove(uint32_t number) const {
    const Place place = place_of(number);
    store_relaxed(mark(number), uint8_t{0});
    if (place.word == nullptr) return false;
    if (place.tag != nullptr) {
      store_release(place.tag, uint8_t{0});
    } else {
      // Release: what follows it was published before and must be seen so.
      store_release(place.word, *chain(number));
    }
    pool().give_back(number);
    --header_->count;
    return true;
  }

 private:
  template <uint32_t KeySize> uint32_t find_sized(uint64_t hash, const void *key) const {
    return find_element(map_.storage, {KeySize, l_.value_size, l_.max_entries, l_.per_cpu}, hash, key);
  }

  const struct sf_map &map_;
  HashLayout l_;
  Header *header_;
};

uint64_t bytes(const struct sf_map_shape &shape) {
  if (shape.key_size == 0 || shape.key_size > kKeyMax || shape.value_size == 0 || shape.value_size > kMapBytesMax ||
      shape.max_entries == 0 || shape.max_entries > kMapBytesMax) {
    return 0;
  }
  return layout_of(shape).bytes();
}

void *lookup(const struct sf_map &map, const void *key, uint32_t cpu) {
  if (cpu >= SF_MAP_CPUS) return nullptr;
  const Table table(map);
  const uint32_t number = table.find(key);
  return number != kNone ? table.value(number, cpu) : nullptr;
}

void *lru_lookup(const struct sf_map &map, const void *key, uint32_t) {
  return lru_hash_lookup(map.storage, key, map.shape.key_size, map.shape.value_size, map.shape.max_entries,
                         map.writable);
}

// What stands in the way of an update, or 0.
int refusal(uint32_t old, uint64_t flags) {
  if (flags > kExist) return -EINVAL;
  if (old != kNone && flags == kNoExist) return -EEXIST;
  if (old == kNone && flags == kExist) return -ENOENT;
  return 0;
}

int put(const struct sf_map &map, const Table &table, uint64_t hash, uint32_t old, const void *key,
        const void *value) {
  const uint32_t number = table.pool().take();
  if (number == kNone) return -E2BIG;
  table.fill_key(number, key);
  copy_shared(table.value(number, 0), value, map.shape.value_size);
  if (old == kNone) {
    table.insert(hash, number);
    return 0;
  }
  const Table::Place place = table.place_of(old);
  store_relaxed(table.mark(number), load_relaxed(table.mark(old)));
  store_relaxed(table.chain(number), *table.chain(old));
  if (place.word != nullptr) store_release(place.word, number + 1);
  store_relaxed(table.mark(old), uint8_t{0});
  table.pool().give_back(old);
  return 0;
}

bool takes_one_more(const struct sf_map &map, const Table &table, uint64_t hash) {
  return table.header().count < map.shape.max_entries && table.has_room(hash);
}

int update(struct sf_map &map, const void *program_key, const void *value, uint64_t flags, uint32_t) {
  const Table table(map);
  const OwnKey<kKeyMax> key(program_key, map.shape.key_size);
  const uint64_t hash = table.hash(key.bytes);
  const uint32_t old = table.find(hash, key.bytes);
  if (const int refused = refusal(old, flags)) return refused;
  if (old == kNone && !takes_one_more(map, table, hash)) return -E2BIG;
  return put(map, table, hash, old, key.bytes, value);
}

// Two rounds, of which the first may find every element looked at. Readers may have looked at all of them again by the
// second: then the next one goes.
bool evict_one(const Table &table) {
  Header &header = table.header();
  const uint32_t used = table.ever_used();
  for (uint64_t steps = 0; steps < 3ull * used; ++steps) {
    if (header.hand >= used) header.hand = 0;
    const uint32_t number = header.hand++;
    uint8_t *mark = table.mark(number);
    const uint8_t is = load_relaxed(mark);
    if ((is & kLookedAt) && steps < 2ull * used) {
      store_relaxed(mark, kInUse);
    } else if (is != 0 && table.remove(number)) {
      return true;
    }
  }
  return false;
}

// The last of a chain is the one that has been in it for longest.
bool make_room(const struct sf_map &map, const Table &table, uint64_t hash) {
  uint32_t last = kNone;
  if (!table.has_room(hash, &last)) return table.remove(last);
  return table.header().count < map.shape.max_entries || evict_one(table);
}

int lru_update(struct sf_map &map, const void *program_key, const void *value, uint64_t flags, uint32_t) {
  const Table table(map);
  const OwnKey<kKeyMax> key(program_key, map.shape.key_size);
  const uint64_t hash = table.hash(key.bytes);
  const uint32_t old = table.find(hash, key.bytes);
  if (const int refused = refusal(old, flags)) return refused;
  if (old == kNone && !make_room(map, table, hash)) return -E2BIG;
  return put(map, table, hash, old, key.bytes, value);
}

// A new key's other values are 0.
int percpu_update(struct sf_map &map, const void *program_key, const void *value, uint64_t flags, uint32_t cpu) {
  if (cpu >= SF_MAP_CPUS) return -EINVAL;
  const Table table(map);
  const OwnKey<kKeyMax> key(program_key, map.shape.key_size);
  const uint64_t hash = table.hash(key.bytes);
  const uint32_t old = table.find(hash, key.bytes);
  if (const int refused = refusal(old, flags)) return refused;
  if (old != kNone) {
    copy_shared(table.value(old, cpu), value, map.shape.value_size);
    return 0;
  }
  if (!takes_one_more(map, table, hash)) return -E2BIG;
  bool zeroed = false;
  const uint32_t number = table.pool().take(&zeroed);
  if (number == kNone) return -E2BIG;
  table.fill_key(number, key.bytes);
  // Pages that hold nothing but zeroes stay untouched.
  for (uint32_t i = 0; i < SF_MAP_CPUS && !zeroed; ++i) clear_shared(table.value(number, i), map.shape.value_size);
  copy_shared(table.value(number, cpu), value, map.shape.value_size);
  table.insert(hash, number);
  return 0;
}

int erase(struct sf_map &map, const void *program_key) {
  const Table table(map);
  const OwnKey<kKeyMax> key(program_key, map.shape.key_size);
  const uint32_t number = table.find(key.bytes);
  return number != kNone && table.remove(number) ? 0 : -ENOENT;
}

// The elements in the order of their places, which an update does not change: bucket * 16 + slot; behind the slots
// comes the chain, whose next element `link` tells (number + 1).
struct Walk {
  uint64_t position;
  uint32_t link;
};
constexpr uint32_t kInChain = kSlots, kPlacesPerBucket = 16;

uint32_t next_in_walk(const Table &table, Walk *walk) {
  for (uint64_t index; (index = walk->position / kPlacesPerBucket) < table.layout().buckets();) {
    Bucket *bucket = table.bucket_number(index);
    auto slot = static_cast<uint32_t>(walk->position % kPlacesPerBucket);
    for (; slot < kSlots; ++slot) {
      walk->position++;
      if (load_acquire(table.tag(bucket, slot)) == 0) continue;
      const uint32_t number = load_acquire(&bucket->element[slot]) - 1;
      if (number < table.elements()) return number;
    }
    const uint32_t number = (slot == kInChain ? load_acquire(&bucket->chain) : walk->link) - 1;
    if (number < table.elements()) {
      walk->position = index * kPlacesPerBucket + kInChain + 1;
      walk->link = load_acquire(table.chain(number));
      return number;
    }
    walk->position = (index + 1) * kPlacesPerBucket;
  }
  return kNone;
}

// Between looking for the key's element and for its slot an update may put another in its place: then once more. (Of an
// element that has a slot the link is 0.)
Walk walk_from(const Table &table, const void *key) {
  const uint64_t hash = table.hash(key);
  const uint64_t first = uint64_t{bucket_index(table.layout(), hash)} * kPlacesPerBucket;
  Bucket *bucket = table.bucket(hash);
  uint32_t number = table.find(hash, key), before = kNone;
  for (int restart = 0; restart < kRestarts && number != kNone; ++restart) {
    if (number == before) return {first + kInChain + 1, load_acquire(table.chain(number))};
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      if (load_acquire(table.tag(bucket, slot)) != 0 && load_relaxed(&bucket->element[slot]) == number + 1)
        return {first + slot + 1, 0};
    }
    before = number;
    number = table.find(hash, key);
  }
  // Gone: from the start, as in the kernel. Replaced all the time: with the chain, so that there is an end.
  return number == kNone ? Walk{} : Walk{first + kInChain, 0};
}

int next_key(const struct sf_map &map, const void *key, void *next) {
  const Table table(map);
  Walk walk{};
  if (key != nullptr) walk = walk_from(table, OwnKey<kKeyMax>(key, map.shape.key_size).bytes);
  const uint32_t number = next_in_walk(table, &walk);
  if (number == kNone) return -ENOENT;
  copy_shared(next, table.key(number), map.shape.key_size);
  return 0;
}

// The cursor's `reserved` counts, so that a chain made into a ring ends as well.
int step(const struct sf_map &map, struct sf_map_cursor *cursor, uint32_t cpu) {
  const Table table(map);
  if (cursor->reserved++ >= table.elements() || cpu >= SF_MAP_CPUS) return 0;
  Walk walk{cursor->position, cursor->index};
  const uint32_t number = next_in_walk(table, &walk);
  if (number == kNone) return 0;
  cursor->position = walk.position;
  cursor->index = walk.link;
  cursor->key = table.key(number);
  cursor->value = table.value(number, cpu);
  return 1;
}

void repair(struct sf_map &map) {
  const Table table(map);
  table.pool().rebuild([&](uint32_t number) {
    const bool used = table.in_use(number);
    store_relaxed(table.mark(number), used ? kInUse : uint8_t{0});
    return used;
  });
}

}  // namespace

const Kind kHash = {.bytes = bytes, .lookup = lookup, .update = update, .erase = erase, .next_key = next_key,
                    .step = step, .repair = repair};
const Kind kPercpuHash = {.bytes = bytes, .lookup = lookup, .update = percpu_update, .erase = erase,
                          .next_key = next_key, .step = step, .repair = repair};
const Kind kLruHash = {.bytes = bytes, .lookup = lru_lookup, .update = lru_update, .erase = erase,
                       .next_key = next_key, .step = step, .repair = repair};

}  // namespace shortfuse::vm::maps
