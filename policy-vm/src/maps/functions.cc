// The functions on maps that programs call. Freestanding.
//
// Arguments are what the verifier has let through: r1 is a struct sf_map, memory arguments are as large as the map's
// shape says.
#include <errno.h>

#include "isa/host_text.h"
#include "maps/inner_map.h"
#include "maps/kinds.h"
#include "maps/system.h"
#include "shortfuse/vm/image.h"
#include "shortfuse/vm/map.h"

using namespace shortfuse::vm::maps;

namespace {

uint64_t as_result(int value) { return static_cast<uint64_t>(static_cast<int64_t>(value)); }
struct sf_map *map_of(uint64_t r1) { return reinterpret_cast<struct sf_map *>(r1); }
void *pointer(uint64_t value) { return reinterpret_cast<void *>(value); }

struct sf_vm_env &env_of(void *env) { return *static_cast<struct sf_vm_env *>(env); }

uint32_t thread_of(const struct sf_vm_env &env) { return env.thread != 0 ? env.thread : gettid(); }

// One writer at a time.
class Writing {
 public:
  Writing(struct sf_map *map, const struct sf_vm_env &env) : map_(map), result_(-EPERM) {
    if (map->writable) result_ = sf_map_lock(map, thread_of(env));
  }
  ~Writing() { if (result_ == 0) sf_map_unlock(map_); }
  int result() const { return result_; }

 private:
  struct sf_map *map_;
  int result_;
};

}  // namespace

#define SF_VM_FUNCTION(name) \
  extern "C" uint64_t name([[maybe_unused]] uint64_t r1, [[maybe_unused]] uint64_t r2, [[maybe_unused]] uint64_t r3, \
                           [[maybe_unused]] uint64_t r4, [[maybe_unused]] uint64_t r5, [[maybe_unused]] void *env)

SF_VM_FUNCTION(sf_vm_map_lookup) {
  const struct sf_map *map = map_of(r1);
  void *value = sf_map_lookup(map, pointer(r2), env_of(env).cpu);
  if (map->shape.type != SF_MAP_ARRAY_OF_MAPS) return reinterpret_cast<uint64_t>(value);
  return reinterpret_cast<uint64_t>(inner_map(value, &env_of(env)));
}

SF_VM_FUNCTION(sf_vm_map_lookup_percpu) {
  return reinterpret_cast<uint64_t>(sf_map_lookup(map_of(r1), pointer(r2), static_cast<uint32_t>(r3)));
}

SF_VM_FUNCTION(sf_vm_map_update) {
  struct sf_map *map = map_of(r1);
  Writing writing(map, env_of(env));
  if (writing.result() != 0) return as_result(writing.result());
  return as_result(sf_map_update(map, pointer(r2), pointer(r3), r4, env_of(env).cpu));
}

SF_VM_FUNCTION(sf_vm_map_delete) {
  struct sf_map *map = map_of(r1);
  Writing writing(map, env_of(env));
  return as_result(writing.result() != 0 ? writing.result() : sf_map_delete(map, pointer(r2)));
}

SF_VM_FUNCTION(sf_vm_map_push) {
  struct sf_map *map = map_of(r1);
  Writing writing(map, env_of(env));
  return as_result(writing.result() != 0 ? writing.result() : sf_map_push(map, pointer(r2), r3));
}

SF_VM_FUNCTION(sf_vm_map_pop) {
  struct sf_map *map = map_of(r1);
  Writing writing(map, env_of(env));
  if (writing.result() == 0) return as_result(sf_map_pop(map, pointer(r2)));
  auto *value = static_cast<unsigned char *>(pointer(r2));  // the program may read it in any case
  for (uint32_t i = 0; i < map->shape.value_size; ++i) value[i] = 0;
  return as_result(writing.result());
}

SF_VM_FUNCTION(sf_vm_map_peek) { return as_result(sf_map_peek(map_of(r1), pointer(r2))); }

static void *reserve(struct sf_map *map, uint64_t bytes, const struct sf_vm_env &env) {
  Writing writing(map, env);
  if (writing.result() == 0) return sf_ring_reserve(map, bytes, thread_of(env));
  if (map->writable) ring_count_lost(*map);
  return nullptr;
}

SF_VM_FUNCTION(sf_vm_ringbuf_output) {
  constexpr uint64_t kNoWakeup = 1, kForceWakeup = 2;  // accepted: who reads asks
  if ((r4 & ~(kNoWakeup | kForceWakeup)) != 0) return as_result(-EINVAL);
  void *record = reserve(map_of(r1), r3, env_of(env));
  if (record == nullptr) return as_result(-EAGAIN);
  copy_shared(record, pointer(r2), r3);
  sf_ring_commit(record, 0, thread_of(env_of(env)));
  return 0;
}

SF_VM_FUNCTION(sf_vm_ringbuf_reserve) {
  void *record = r3 == 0 ? reserve(map_of(r1), r2, env_of(env)) : nullptr;
  env_of(env).open_records += record != nullptr;
  return reinterpret_cast<uint64_t>(record);
}

static uint64_t give_back(uint64_t record, int discard, struct sf_vm_env &env) {
  sf_ring_commit(pointer(record), discard, thread_of(env));
  --env.open_records;
  return 0;
}

SF_VM_FUNCTION(sf_vm_ringbuf_submit) { return give_back(r1, 0, env_of(env)); }
SF_VM_FUNCTION(sf_vm_ringbuf_discard) { return give_back(r1, 1, env_of(env)); }

extern "C" void sf_vm_discard_open(struct sf_vm_env *env) {
  env->open_records = 0;
  for (uint32_t i = 0; i < env->image->maps; ++i) {
    struct sf_map *map = env->map[i];
    if (map->shape.type != SF_MAP_RINGBUF) continue;
    const Writing writing(map, *env);
    if (writing.result() == 0) sf_ring_discard_open(map, thread_of(*env));
  }
}

SF_VM_FUNCTION(sf_vm_ringbuf_query) { return sf_ring_query(map_of(r1), r2); }
SF_VM_FUNCTION(sf_vm_cpu) { return env_of(env).cpu; }

// r1: the context, r2: a PROG_ARRAY, r3: index.
SF_VM_FUNCTION(sf_vm_tail_call) {
  auto *e = static_cast<struct sf_vm_env *>(env);
  const auto index = static_cast<uint32_t>(r3);
  if (e->tail_calls >= SF_TAIL_CALLS_MAX) return as_result(-E2BIG);
  const auto *entry = static_cast<const uint32_t *>(sf_map_lookup(map_of(r2), &index, 0));
  const uint32_t program = entry != nullptr ? load_relaxed(entry) : 0;
  if (program == 0 || !e->image || program > e->image->programs) return as_result(-ENOENT);
  if (e->image->program[program - 1].slot != e->slot) return as_result(-ENOENT);
  e->tail_calls++;
  e->next_program = program;
  return 0;
}

SF_VM_FUNCTION(sf_vm_strncmp) {
  const auto *a = static_cast<const char *>(pointer(r1)), *b = static_cast<const char *>(pointer(r3));
  return static_cast<uint64_t>(shortfuse::vm::compare_text(a, static_cast<uint32_t>(r2), b));
}

// r1: map, r2: struct sf_map_cursor.
SF_VM_FUNCTION(sf_vm_map_step) {
  return as_result(sf_map_step(map_of(r1), static_cast<struct sf_map_cursor *>(pointer(r2)), env_of(env).cpu));
}
