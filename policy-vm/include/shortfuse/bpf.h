/* What eBPF programs in C need of any target: sections, maps, helpers, questions about types.
 *
 *     clang -target bpf -mcpu=v3 -O2 -g -c my.bpf.c -o my.bpf.o
 *
 * Policies of shortfuse include <shortfuse/policy.h>, which includes this; plug-ins of applications that embed the
 * virtual machine (vm/engine.h) include this one. */
#ifndef SHORTFUSE_BPF_H
#define SHORTFUSE_BPF_H
#ifdef __bpf__

#include <linux/types.h>
typedef __u8 u8; typedef __u16 u16; typedef __u32 u32; typedef __u64 u64; typedef __s32 s32; typedef __s64 s64;

#define SEC(name) __attribute__((section(name), used))
#define __ksym __attribute__((section(".ksyms")))
#define __weak __attribute__((weak))
#define __uint(name, val) int (*name)[val]
#define __type(name, val) typeof(val) *name
#define __array(name, val) typeof(val) *name[]
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

/* Behind a struct: accesses say by name which field they mean, and are fitted to what loads the object (CO-RE). */
#define SF_BY_NAME __attribute__((preserve_access_index))

/* ---- asking what is there where the object is loaded: constants once it is loaded, so that what is behind an
 * `if` of them is not even looked at where it cannot work. Also for types of one's own with a flavour in the name
 * ("struct sf_fuse_ctx___v2" is struct sf_fuse_ctx). Reading a field needs nothing: write ctx->node. */
#ifndef bpf_core_field_exists
#define bpf_core_field_offset(field) __builtin_preserve_field_info(field, 0)
#define bpf_core_field_size(field) __builtin_preserve_field_info(field, 1)
#define bpf_core_field_exists(field) __builtin_preserve_field_info(field, 2)
#define bpf_core_type_exists(type) __builtin_preserve_type_info(*(typeof(type) *)0, 0)
#define bpf_core_type_size(type) __builtin_preserve_type_info(*(typeof(type) *)0, 1)
#define bpf_core_type_matches(type) __builtin_preserve_type_info(*(typeof(type) *)0, 2)
#define bpf_core_enum_value_exists(type, value) __builtin_preserve_enum_value(*(typeof(type) *)value, 0)
#define bpf_core_enum_value(type, value) __builtin_preserve_enum_value(*(typeof(type) *)value, 1)
#endif

/* ---- helpers with the kernel's numbers and meaning. Who runs is the caller: in the daemon as FUSE names it, whose pid
 * is the calling thread's. */
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
/* -E2BIG: the map is full; or some 70 keys of a HASH have the same place, which only keys chosen for it do. */
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static u32 (*const bpf_get_prandom_u32)(void) = (void *)7;
static u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static long (*const bpf_tail_call)(void *ctx, void *prog_array, u32 index) = (void *)12;
static u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static u64 (*const bpf_get_current_uid_gid)(void) = (void *)15;
static long (*const bpf_map_push_elem)(void *map, const void *value, u64 flags) = (void *)87;
static long (*const bpf_map_pop_elem)(void *map, void *value) = (void *)88;
static long (*const bpf_map_peek_elem)(void *map, void *value) = (void *)89;
static long (*const bpf_ringbuf_output)(void *ringbuf, void *data, u64 size, u64 flags) = (void *)130;
static void *(*const bpf_ringbuf_reserve)(void *ringbuf, u64 size, u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, u64 flags) = (void *)132;
static void (*const bpf_ringbuf_discard)(void *data, u64 flags) = (void *)133;
static u64 (*const bpf_ringbuf_query)(void *ringbuf, u64 flags) = (void *)134;
/* Elements that come and go meanwhile may or may not be visited. Where very many do (more than 60 between two visits)
 * some that stay may be left out, or visited twice. */
static long (*const bpf_for_each_map_elem)(void *map, void *callback, void *callback_ctx, u64 flags) = (void *)164;
static long (*const bpf_loop)(u32 nr_loops, void *callback, void *callback_ctx, u64 flags) = (void *)181;
static long (*const bpf_strncmp)(const char *s1, u32 s1_size, const char *s2) = (void *)182;
static void *(*const bpf_map_lookup_percpu_elem)(void *map, const void *key, u32 cpu) = (void *)195;

/* ---- maps, declared as with libbpf in SEC(".maps"). Contents survive a swap to a policy that declares the same map,
 * with pinning LIBBPF_PIN_BY_NAME a remount too (not those of RINGBUF, PROG_ARRAY, ARRAY_OF_MAPS, nor of per-CPU kinds
 * whose values are not all counters). A program in a section "?fuse/read" is verified and not attached: tail calls
 * reach it, by a PROG_ARRAY with __array(values, int (void *)) and .values = {[0] = (void *)&program}. */
#ifndef _UAPI__LINUX_BPF_H__
enum {
  BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PROG_ARRAY = 3, BPF_MAP_TYPE_PERCPU_HASH = 5,
  BPF_MAP_TYPE_PERCPU_ARRAY = 6, BPF_MAP_TYPE_LRU_HASH = 9, BPF_MAP_TYPE_LPM_TRIE = 11,
  BPF_MAP_TYPE_ARRAY_OF_MAPS = 12, BPF_MAP_TYPE_QUEUE = 22, BPF_MAP_TYPE_STACK = 23, BPF_MAP_TYPE_RINGBUF = 27,
  BPF_MAP_TYPE_BLOOM_FILTER = 30
};
enum { BPF_ANY = 0, BPF_NOEXIST = 1, BPF_EXIST = 2 };        /* bpf_map_update_elem; push: BPF_EXIST drops the oldest */
enum { BPF_F_NO_PREALLOC = 1 };                              /* map_flags: wanted for an LPM_TRIE */
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };      /* bpf_ringbuf_output, _submit, _discard */
enum { BPF_RB_AVAIL_DATA = 0, BPF_RB_RING_SIZE = 1, BPF_RB_CONS_POS = 2, BPF_RB_PROD_POS = 3 }; /* _query */
struct bpf_lpm_trie_key { __u32 prefixlen; __u8 data[0]; };  /* bits that count, then the bytes */
#endif
#ifndef LIBBPF_PIN_BY_NAME
#define LIBBPF_PIN_NONE 0
#define LIBBPF_PIN_BY_NAME 1
#endif
#endif /* __bpf__ */
#endif
