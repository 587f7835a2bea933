/* Objects for object_test.cc about maps and about addresses of functions. One per CASE_*. */
#include <shortfuse/policy.h>

#define KIND(kind) __uint(type, BPF_MAP_TYPE_##kind)
#define ENTRIES(n) __uint(max_entries, n)
#define PASS SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) { return SF_PASS; }

#ifdef CASE_mapkinds
struct { KIND(HASH); ENTRIES(9); __type(key, u64); __type(value, u32); __uint(map_flags, 1); } hash SEC(".maps");
struct { KIND(ARRAY); ENTRIES(9); __type(key, u32); __type(value, u64[3]); __uint(pinning, LIBBPF_PIN_BY_NAME); }
    array SEC(".maps");
struct { KIND(PERCPU_HASH); ENTRIES(9); __type(key, char[12]); __type(value, u64); } percpu_hash SEC(".maps");
struct { KIND(PERCPU_ARRAY); ENTRIES(1); __type(key, u32); __type(value, u64); } percpu_array SEC(".maps");
struct { KIND(LRU_HASH); ENTRIES(100); __type(key, u64); __type(value, u64); } lru SEC(".maps");
struct { KIND(LPM_TRIE); ENTRIES(100); __uint(key_size, 8); __uint(value_size, 1); __uint(map_flags, 1); }
    trie SEC(".maps");
struct { KIND(QUEUE); ENTRIES(16); __type(value, u64); } queue SEC(".maps");
struct { KIND(STACK); ENTRIES(16); __type(value, u64); } stack SEC(".maps");
struct { KIND(RINGBUF); ENTRIES(8192); } ring SEC(".maps");
struct { KIND(BLOOM_FILTER); ENTRIES(1000); __type(value, u64); __uint(map_extra, 3); } bloom SEC(".maps");
PASS
#endif

#ifdef CASE_mapvalues
struct inner { KIND(ARRAY); ENTRIES(4); __type(key, u32); __type(value, u64); };
struct inner first SEC(".maps"), second SEC(".maps");
struct { KIND(ARRAY_OF_MAPS); ENTRIES(5); __type(key, u32); __array(values, struct inner); } maps SEC(".maps") = {
  .values = {[1] = &second, [3] = &first},
};
SEC("?fuse/read") int other(struct sf_fuse_ctx *ctx) { return -5; }
SEC("?fuse/read") int another(struct sf_fuse_ctx *ctx) { return -6; }
struct { KIND(PROG_ARRAY); ENTRIES(3); __type(key, u32); __array(values, int (void *)); } programs SEC(".maps") = {
  .values = {[0] = (void *)&another, [2] = (void *)&other},
};
SEC("fuse/read") int f(struct sf_fuse_ctx *ctx) { return SF_PASS; }
#endif

#ifdef CASE_callbacks
static __attribute__((noinline)) int deeper(int x) { return x & 1; }
static int each(u64 i, void *sum) { *(u64 *)sum += i; return deeper(i); }
static int again(u64 i, void *sum) { *(u64 *)sum += 2; return 0; }
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) {
  u64 sum = 0;
  bpf_loop(3, each, &sum, 0);
  bpf_loop(4, again, &sum, 0);
  bpf_loop(5, each, &sum, 0);
  return sum == 0;
}
#endif

#ifdef CASE_mapkind
struct { __uint(type, 4); ENTRIES(8); } events SEC(".maps");
PASS
#endif
#ifdef CASE_mapempty
struct { KIND(HASH); __type(key, u64); __type(value, u64); } m SEC(".maps");
PASS
#endif
#ifdef CASE_mapsize
struct { KIND(HASH); ENTRIES(500000000); __type(key, u64); __uint(value_size, 4096); } m SEC(".maps");
PASS
#endif
#ifdef CASE_mapsame
struct { KIND(HASH); ENTRIES(1); __type(key, u64); __type(value, u64); __uint(map_flags, 1); __uint(map_extra, 0); }
    m SEC(".maps");
PASS
#endif
#ifdef CASE_mapflags
struct { KIND(HASH); ENTRIES(1); __uint(map_flags, 4); __type(key, u64); __type(value, u64); } m SEC(".maps");
PASS
#endif
#ifdef CASE_maparraykey
struct { KIND(PERCPU_ARRAY); ENTRIES(1); __type(key, u64); __type(value, u64); } m SEC(".maps");
PASS
#endif
#ifdef CASE_mapringkey
struct { KIND(RINGBUF); ENTRIES(4096); __type(key, u64); } m SEC(".maps");
PASS
#endif
#ifdef CASE_mapringsize
struct { KIND(RINGBUF); ENTRIES(12288); } m SEC(".maps");
PASS
#endif
#ifdef CASE_maptriekey
struct { KIND(LPM_TRIE); ENTRIES(1); __uint(map_flags, 1); __type(key, u32); __type(value, u64); } m SEC(".maps");
PASS
#endif
#ifdef CASE_maptrieflags
struct { KIND(LPM_TRIE); ENTRIES(1); __type(key, u64); __type(value, u64); } m SEC(".maps");
PASS
#endif
#ifdef CASE_mapqueuekey
struct { KIND(QUEUE); ENTRIES(1); __type(key, u32); __type(value, u64); } m SEC(".maps");
PASS
#endif
#ifdef CASE_mapbloom
struct { KIND(BLOOM_FILTER); ENTRIES(1); __type(value, u64); __uint(map_extra, 16); } m SEC(".maps");
PASS
#endif
#ifdef CASE_mappercpu
struct { KIND(PERCPU_HASH); ENTRIES(1); __type(key, u64); __uint(value_size, 40000); } m SEC(".maps");
PASS
#endif
#ifdef CASE_mappinning
struct { KIND(ARRAY); ENTRIES(1); __type(key, u32); __type(value, u64); __uint(pinning, 2); } m SEC(".maps");
PASS
#endif
#ifdef CASE_mapfield
struct { KIND(ARRAY); ENTRIES(1); __type(key, u32); __type(value, u64); __uint(numa_node, 2); } m SEC(".maps");
PASS
#endif
#ifdef CASE_mapofnothing
struct { KIND(ARRAY_OF_MAPS); ENTRIES(1); __type(key, u32); __type(value, u32); } m SEC(".maps");
PASS
#endif
#ifdef CASE_mapother /* not what the declaration promises */
struct inner { KIND(ARRAY); ENTRIES(4); __type(key, u32); __type(value, u64); };
struct { KIND(ARRAY); ENTRIES(4); __type(key, u32); __type(value, u32); } small SEC(".maps");
struct { KIND(ARRAY_OF_MAPS); ENTRIES(1); __type(key, u32); __array(values, struct inner); } m SEC(".maps") = {
  .values = {(void *)&small},
};
PASS
#endif
#ifdef CASE_mapnoprogram
static __attribute__((noinline)) int helper(void *ctx) { return 1; }
struct { KIND(PROG_ARRAY); ENTRIES(1); __type(key, u32); __array(values, int (void *)); } m SEC(".maps") = {
  .values = {(void *)&helper},
};
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) { return helper(ctx); }
#endif
#ifdef CASE_maptoomany
struct { KIND(PROG_ARRAY); ENTRIES(1); __type(key, u32); __array(values, int (void *)); } m SEC(".maps");
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) { return SF_PASS; }
struct { KIND(PROG_ARRAY); ENTRIES(1); __type(key, u32); __array(values, int (void *)); } n SEC(".maps") = {
  .values = {(void *)&f, (void *)&f},
};
#endif

char LICENSE[] SEC("license") = "GPL";
