/* programs.bpf.c for the processor: helpers are the maps' C functions. */
#ifndef SHORTFUSE_VM_BENCH_NATIVE_H
#define SHORTFUSE_VM_BENCH_NATIVE_H
#include "shortfuse/vm/map.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define PROGRAM(name) int native_##name(void *ctx)
#define MAP(name, kind, key_type, value_type, entries) extern struct sf_map name
#define in native_in

static inline void *bpf_map_lookup_elem(struct sf_map *map, const void *key) { return sf_map_lookup(map, key, 0); }
static inline long bpf_loop(u32 rounds, long (*body)(u32, void *), void *context, u64 flags) {
  (void)flags;
  for (u32 i = 0; i < rounds; i++) {
    if (body(i, context)) return i + 1;
  }
  return rounds;
}
#endif
