// The functions on maps that programs call. Freestanding.
//
// Arguments are what the verifier has let through: r1 is a struct sf_map, memory arguments are as large as the map's
// shape says.
#include <errno.h>

#include "shortfuse/vm/image.h"
#include "shortfuse/vm/map.h"

namespace {

uint64_t as_result(int value) { return static_cast<uint64_t>(static_cast<int64_t>(value)); }
struct sf_map *map_of(uint64_t r1) { return reinterpret_cast<struct sf_map *>(r1); }
void *pointer(uint64_t value) { return reinterpret_cast<void *>(value); }

// One writer at a time. Not waited for: the holder may be the thread that a signal handler interrupted.
class Writing {
 public:
  explicit Writing(struct sf_map *map) : map_(map) {
    for (int tries = 0; tries < 1000 && !held_; ++tries) {
      uint32_t free = 0;
      held_ = __atomic_compare_exchange_n(&map->lock, &free, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
      if (!held_) __builtin_ia32_pause();
    }
  }
  ~Writing() { if (held_) __atomic_store_n(&map_->lock, 0, __ATOMIC_RELEASE); }
  bool held() const { return held_; }

 private:
  struct sf_map *map_;
  bool held_ = false;
};

}  // namespace

#define SF_VM_FUNCTION(name) \
  extern "C" uint64_t name([[maybe_unused]] uint64_t r1, [[maybe_unused]] uint64_t r2, [[maybe_unused]] uint64_t r3, \
                           [[maybe_unused]] uint64_t r4, [[maybe_unused]] uint64_t r5, [[maybe_unused]] void *env)

SF_VM_FUNCTION(sf_vm_map_lookup) {
  return reinterpret_cast<uint64_t>(sf_map_lookup(map_of(r1)->storage, pointer(r2)));
}

SF_VM_FUNCTION(sf_vm_map_update) {
  struct sf_map *map = map_of(r1);
  if (!map->writable) return as_result(-EPERM);
  Writing writing(map);
  return as_result(writing.held() ? sf_map_update(map->storage, pointer(r2), pointer(r3), r4) : -EBUSY);
}

SF_VM_FUNCTION(sf_vm_map_delete) {
  struct sf_map *map = map_of(r1);
  if (!map->writable) return as_result(-EPERM);
  Writing writing(map);
  return as_result(writing.held() ? sf_map_delete(map->storage, pointer(r2)) : -EBUSY);
}

SF_VM_FUNCTION(sf_vm_map_push) { return as_result(-EOPNOTSUPP); }
SF_VM_FUNCTION(sf_vm_map_pop) { return as_result(-EOPNOTSUPP); }
SF_VM_FUNCTION(sf_vm_map_peek) { return as_result(-EOPNOTSUPP); }
SF_VM_FUNCTION(sf_vm_map_lookup_percpu) { return 0; }
SF_VM_FUNCTION(sf_vm_ringbuf_output) { return as_result(-EOPNOTSUPP); }
SF_VM_FUNCTION(sf_vm_ringbuf_reserve) { return 0; }
SF_VM_FUNCTION(sf_vm_ringbuf_submit) { return 0; }
SF_VM_FUNCTION(sf_vm_ringbuf_discard) { return 0; }
SF_VM_FUNCTION(sf_vm_ringbuf_query) { return 0; }
SF_VM_FUNCTION(sf_vm_cpu) { return static_cast<struct sf_vm_env *>(env)->cpu; }

// r1: the context, r2: a PROG_ARRAY, r3: index.
SF_VM_FUNCTION(sf_vm_tail_call) {
  auto *e = static_cast<struct sf_vm_env *>(env);
  const auto index = static_cast<uint32_t>(r3);
  if (e->tail_calls >= SF_TAIL_CALLS_MAX) return as_result(-E2BIG);
  const auto *entry = static_cast<const uint32_t *>(sf_map_lookup(map_of(r2)->storage, &index));
  const uint32_t program = entry ? __atomic_load_n(entry, __ATOMIC_RELAXED) : 0;
  if (program == 0 || !e->image || program > e->image->programs) return as_result(-ENOENT);
  if (e->image->program[program - 1].slot != e->slot) return as_result(-ENOENT);
  e->tail_calls++;
  e->next_program = program;
  return 0;
}

// r1: map, r2: struct sf_map_cursor.
SF_VM_FUNCTION(sf_vm_map_step) {
  return as_result(sf_map_step(map_of(r1), static_cast<struct sf_map_cursor *>(pointer(r2))));
}
