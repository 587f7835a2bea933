// QUEUE and STACK: a ring of max_entries values, of which a word says where they begin and how many there are.
//
// A value that can be seen is never written: it is taken out first. `version` moves before anything does, so a reader
// that finds it where it was has copied a value that was there all the time.
#include <errno.h>

#include "maps/kinds.h"

namespace shortfuse::vm::maps {
namespace {

constexpr int kPeeksMax = 64;

struct State { uint32_t first, count; };

uint64_t bytes(const struct sf_map_shape &shape) {
  if (shape.key_size != 0 || shape.value_size == 0 || shape.value_size > kMapBytesMax || shape.max_entries == 0 ||
      shape.max_entries > kMapBytesMax) {
    return 0;
  }
  return kHeaderBytes + round8(shape.value_size) * shape.max_entries;
}

uint64_t *version_of(const struct sf_map &map) { return &header_of(map.storage)->words[0]; }

State load_state(const struct sf_map &map) {
  const uint64_t word = load_acquire(&header_of(map.storage)->words[1]);
  return {static_cast<uint32_t>(word), static_cast<uint32_t>(word >> 32)};
}
void store_state(const struct sf_map &map, State state) {
  store_release(&header_of(map.storage)->words[1], uint64_t{state.count} << 32 | state.first);
}
void begin_change(const struct sf_map &map) {
  store_relaxed(version_of(map), *version_of(map) + 1);
  fence_release();
}

// Of the value that is `n` behind the first.
void *value_of(const struct sf_map &map, State state, uint32_t n) {
  return at(map.storage, kHeaderBytes + (uint64_t{state.first} + n) % map.shape.max_entries *
                                            round8(map.shape.value_size));
}
uint32_t next_of(const struct sf_map &map, State state) { return map.shape.type == SF_MAP_STACK ? state.count - 1 : 0; }

int nothing(const struct sf_map &map, void *value) {
  clear_shared(value, map.shape.value_size);
  return -ENOENT;
}

State without_first(const struct sf_map &map, State state) {
  return {state.first + 1 == map.shape.max_entries ? 0 : state.first + 1, state.count - 1};
}

int push(struct sf_map &map, const void *value, uint64_t flags) {
  if (flags != kAny && flags != kExist) return -EINVAL;
  State state = load_state(map);
  if (state.count >= map.shape.max_entries) {
    if (flags != kExist) return -E2BIG;
    begin_change(map);
    store_state(map, state = without_first(map, state));
  }
  begin_change(map);
  copy_shared(value_of(map, state, state.count), value, map.shape.value_size);
  store_state(map, {state.first, state.count + 1});
  return 0;
}

int pop(struct sf_map &map, void *value) {
  const State state = load_state(map);
  if (state.count == 0) return nothing(map, value);
  copy_shared(value, value_of(map, state, next_of(map, state)), map.shape.value_size);
  begin_change(map);
  store_state(map, map.shape.type == SF_MAP_STACK ? State{state.first, state.count - 1} : without_first(map, state));
  return 0;
}

int peek(const struct sf_map &map, void *value) {
  for (int tries = 0; tries < kPeeksMax; ++tries) {
    const uint64_t version = load_acquire(version_of(map));
    const State state = load_state(map);
    if (state.count == 0 || state.count > map.shape.max_entries) return nothing(map, value);
    copy_shared(value, value_of(map, state, next_of(map, state)), map.shape.value_size);
    fence_acquire();
    if (load_relaxed(version_of(map)) == version) return 0;
  }
  nothing(map, value);
  return -EBUSY;
}

// First to last, as they will be popped: for people who look from outside.
int step(const struct sf_map &map, struct sf_map_cursor *cursor, uint32_t) {
  const State state = load_state(map);
  if (cursor->position >= state.count || cursor->position >= map.shape.max_entries) return 0;
  const auto n = static_cast<uint32_t>(cursor->position++);
  cursor->index = n;
  cursor->key = &cursor->index;
  cursor->value = value_of(map, state, map.shape.type == SF_MAP_STACK ? state.count - 1 - n : n);
  return 1;
}

}  // namespace

const Kind kQueue = {.bytes = bytes, .step = step, .push = push, .pop = pop, .peek = peek};
const Kind kStack = kQueue;

}  // namespace shortfuse::vm::maps
