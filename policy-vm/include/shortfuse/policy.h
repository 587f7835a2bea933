/* Writing a policy: the one header a .bpf.c includes.
 *
 *     #include <shortfuse/policy.h>
 *     SEC("syscall/stat")     int stat_hit(struct sf_syscall_ctx *ctx)      { return sf_serve_attr(ctx); }
 *     SEC("fuse_exit/lookup") int keep(struct sf_fuse_exit_ctx *ctx)        { return sf_keep(ctx, TTL, TTL); }
 *     char LICENSE[] SEC("license") = "GPL";
 *
 *     clang -target bpf -mcpu=v3 -O2 -g -c my.bpf.c -o my.bpf.o
 *
 * Verdicts of every program: SF_PASS, SF_SERVED, or a negative errno, which denies. Sections:
 *   syscall/OP    in the application; OP of enum sf_op: stat access readlink open read readdir getxattr
 *                 listxattr statfs. May serve from the cache, deny or pass. May not write shared maps.
 *   fuse/OP       in the daemon, when a request arrives; OP is the FUSE opcode in lower case (lookup, getattr,
 *                 open, opendir, read, readdir, readdirplus, readlink, getxattr, listxattr, statfs, unlink, ...).
 *                 May serve from the cache, deny or pass.
 *   fuse_exit/OP  in the daemon, before a successful reply (or "no such entry", "no such attribute") leaves. sf_keep()
 * puts what the reply tells into the cache; SF_PASS otherwise. A negative errno is not allowed here and counts as
 * SF_PASS. A chain of objects runs in order and stops at the first verdict other than SF_PASS (fuse_exit programs all
 * run). */
#ifndef SHORTFUSE_POLICY_H
#define SHORTFUSE_POLICY_H

#define SF_ABI_VERSION 1

enum sf_verdict { SF_PASS = 0, SF_SERVED = 1 };

#ifdef __bpf__
#include <linux/types.h>
typedef __u8 u8; typedef __u16 u16; typedef __u32 u32; typedef __u64 u64; typedef __s32 s32; typedef __s64 s64;
#define SF_U64 __u64
#define SF_U32 __u32
#define SF_S32 __s32
/* Accesses say by name which field they mean, and are fitted to the shortfuse that loads the object (CO-RE). */
#define SF_BY_NAME __attribute__((preserve_access_index))
#else
#include <stdint.h>
#define SF_U64 uint64_t
#define SF_U32 uint32_t
#define SF_S32 int32_t
#define SF_BY_NAME
#endif

/* All fields are read-only. New fields are appended; `size` is how much of it this shortfuse knows. An object runs on
 * older and newer versions alike: what may not be there is asked for first, and the rest finds its place when loaded:
 *     if (bpf_core_field_exists(ctx->colour)) use(ctx->colour); */
struct sf_syscall_ctx {
  SF_U32 size;
  SF_U32 op;       /* enum sf_op */
  SF_U64 node;     /* the node (an opaque number, unique while the daemon runs) the call is about */
  SF_U64 ino;      /* always 0 here for now: reserved */
  SF_U64 offset;   /* read: file offset. readdir: cookie */
  SF_U64 length;   /* read, readdir, getxattr: size of the caller's buffer */
  SF_U32 flags;    /* as passed: AT_*, O_*; access: the mode asked for */
  SF_U32 pid, tid;
  SF_U32 uid, gid; /* the caller's file-system ids */
  SF_U32 reserved;
} SF_BY_NAME;

struct sf_fuse_ctx {
  SF_U32 size;
  SF_U32 opcode;   /* enum fuse_opcode */
  SF_U64 unique;
  SF_U64 node;     /* as in sf_syscall_ctx, so that both sides can share a map */
  SF_U64 nodeid;   /* FUSE's */
  SF_U32 uid, gid, pid;
  SF_U32 flags;    /* open, create, opendir: O_*; else 0 */
  SF_U64 offset;   /* read, write, readdir, fallocate, lseek */
  SF_U64 length;   /* read, write, readdir */
  SF_U32 arg_bytes; /* of the request after its header, for sf_arg() */
  SF_U32 origin;   /* 0 kernel, 1 the bridge itself (a fetch for a hint or a read-ahead) */
} SF_BY_NAME;

struct sf_fuse_exit_ctx {
  struct sf_fuse_ctx req;
  SF_U32 reply_bytes; /* of the reply after its header, for sf_reply() */
  SF_S32 error;       /* 0, or what can be kept too: -ENOENT of lookup, -ENODATA of getxattr */
} SF_BY_NAME;

/* As a time to live for sf_keep(): do not keep. */
#define SF_DROP (~0ull)

#ifdef __bpf__
#define SEC(name) __attribute__((section(name), used))
#define __ksym __attribute__((section(".ksyms")))
#define __weak __attribute__((weak))
#define __uint(name, val) int (*name)[val]
#define __type(name, val) typeof(val) *name
#define __array(name, val) typeof(val) *name[]
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

/* ---- asking what the shortfuse that loads the object knows: constants once it is loaded, so that what is behind an
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

/* ---- serving; usable in syscall/OP and, where a request of that meaning exists, in fuse/OP.
 * SF_SERVED when the cache held what the call needs and it has been answered, SF_PASS when not. They answer the
 * call that the context describes and no other: return their result. */
extern int sf_serve_attr(void *ctx) __ksym;    /* stat, access; fuse/getattr, fuse/access */
extern int sf_serve_entry(void *ctx) __ksym;   /* fuse/lookup: entry and attributes */
extern int sf_serve_link(void *ctx) __ksym;    /* readlink */
extern int sf_serve_data(void *ctx) __ksym;    /* read */
extern int sf_serve_listing(void *ctx) __ksym; /* readdir */
extern int sf_serve_xattr(void *ctx) __ksym;   /* getxattr, listxattr */
extern int sf_serve_statfs(void *ctx) __ksym;  /* statfs */

/* ---- keeping; fuse_exit/OP only. Puts what the reply tells into the cache for ttl_ns nanoseconds (0: until
 * something changes it through the mount); negative_ttl_ns likewise for "no such entry" (SF_DROP: do not keep).
 * Covers every kind of reply that can be kept (lookup, getattr, setattr, create..., readdir(plus), readlink, read,
 * getxattr, listxattr, statfs). 0 on success; -ENOTSUP for replies that have nothing to keep. */
extern int sf_keep(struct sf_fuse_exit_ctx *ctx, u64 ttl_ns, u64 negative_ttl_ns) __ksym;
/* Forget what is cached of the request's node. */
extern int sf_forget(void *ctx) __ksym;
/* fuse/OP, fuse_exit/OP: have the bridge read [offset, offset + length) of the request's node into the cache. */
extern int sf_prefetch(void *ctx, u64 offset, u64 length) __ksym;

/* ---- looking. */
/* The path, relative to the mount, of what the request names (parent and name, or the node): "a/b", "" for the
 * root; NUL-terminated. Returns its length, or -ENAMETOOLONG, -ENOENT (not known). fuse/OP and fuse_exit/OP. */
extern int sf_path(void *ctx, char *buf, u32 size) __ksym;
/* size bytes of the request's arguments (of the reply) from byte `offset`; 0 or -EINVAL. */
extern int sf_arg(void *ctx, u32 offset, void *buf, u32 size) __ksym;
extern int sf_reply(struct sf_fuse_exit_ctx *ctx, u32 offset, void *buf, u32 size) __ksym;

/* ---- helpers with the kernel's numbers and meaning. Where a helper writes a map: shared kinds (all but per-CPU ones
 * and ring buffers, which each process has for itself) are written by fuse/OP and fuse_exit/OP only. */
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
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
static long (*const bpf_for_each_map_elem)(void *map, void *callback, void *callback_ctx, u64 flags) = (void *)164;
static long (*const bpf_loop)(u32 nr_loops, void *callback, void *callback_ctx, u64 flags) = (void *)181;
static long (*const bpf_strncmp)(const char *s1, u32 s1_size, const char *s2) = (void *)182;
static void *(*const bpf_map_lookup_percpu_elem)(void *map, const void *key, u32 cpu) = (void *)195;

/* ---- maps, declared as with libbpf in SEC(".maps"); with pinning LIBBPF_PIN_BY_NAME the contents survive swap and
 * remount. A program in a section "?fuse/read" is verified and not attached: tail calls reach it, by a PROG_ARRAY with
 * __array(values, int (void *)) and .values = {[0] = (void *)&program}. */
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
#endif
#endif
