/* Objects for object_test.cc: one per CASE_*, each compiled by itself. */
#if defined(CASE_externcount) || defined(CASE_externtype)
#define sf_forget sf_forget_as_it_is /* so that it can be declared otherwise */
#endif
#include <shortfuse/policy.h>
#undef sf_forget

#ifdef CASE_whole /* everything that is supported, in one object */
struct pair { u64 a, b; };
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 128);
  __type(key, u64);
  __type(value, struct pair);
} seen SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 8);
  __uint(key_size, 4);
  __uint(value_size, 16);
} table SEC(".maps");
const volatile u64 limit = 41;
const volatile u64 steps SEC(".rodata.more") = 3;
u64 counter = 5;
u64 zeroed[4];
static u64 hidden SEC(".data.own") = 9;

static __attribute__((noinline)) u64 twice(u64 x) { return x * 2; }
static __attribute__((noinline)) u64 sum(u64 *from, u32 n) {
  u64 s = 0;
  for (u32 i = 0; i < n && i < 4; i++) s += twice(from[i]);
  return s;
}
SEC("fuse/lookup") int one(struct sf_fuse_ctx *ctx) {
  u64 key = ctx->node, local[4] = {1, 2, 3, limit};
  struct pair *p = bpf_map_lookup_elem(&seen, &key);
  if (p) return (int)sum(&p->a, 2);
  counter++;
  hidden += steps;
  zeroed[key & 3] = sum(local, 4);
  return (int)zeroed[key & 3] + (int)counter + (int)hidden;
}
SEC("fuse/lookup") int two(struct sf_fuse_ctx *ctx) {
  return bpf_strncmp("abc", 4, "abd") < 0 ? -(int)twice(3) : SF_PASS;
}
SEC("syscall/stat") int three(struct sf_syscall_ctx *ctx) {
  u32 key = ctx->pid & 7;
  u64 *v = bpf_map_lookup_elem(&table, &key);
  return v && *v == 1 ? SF_PASS : sf_serve_attr(ctx);
}
SEC("fuse_exit/readdirplus") int four(struct sf_fuse_exit_ctx *ctx) {
  __sync_fetch_and_add(&counter, 1);
  return sf_keep(ctx, 1000, SF_DROP);
}
#endif

#ifdef CASE_loops /* what the mutations start from: loops, indexes, buffers, sub-programs */
static const char names[4][16] = {"alpha", "beta", "gamma", "delta"};
u32 hits[4];
u8 bytes[64];
static __attribute__((noinline)) u32 hash(const char *s, u32 n) {
  u32 h = 5381;
  for (u32 i = 0; i < n && i < 64; i++) h = h * 33 + s[i];
  return h;
}
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) {
  char path[64];
  int n = sf_path(ctx, path, sizeof path);
  if (n < 0 || n >= (int)sizeof path) return SF_PASS;
  for (u32 i = 0; i < 4; i++) {
    if (bpf_strncmp(path, 5, names[i]) == 0) hits[i]++;
  }
  bytes[hash(path, n) & 63]++;
  if (ctx->arg_bytes < 64 && ctx->arg_bytes > 0) sf_arg(ctx, 0, bytes, ctx->arg_bytes);
  return hits[n & 3] > 5 ? -13 : SF_PASS;
}
SEC("fuse_exit/read") int g(struct sf_fuse_exit_ctx *ctx) {
  u64 at = ctx->req.offset / 4096;
  if (at < 64) bytes[at]++;
  return sf_keep(ctx, hash(names[at & 3], 16), SF_DROP);
}
#endif

#ifdef CASE_section
SEC("fuse/lokup") int f(struct sf_fuse_ctx *ctx) { return SF_PASS; }
#endif
#ifdef CASE_side
SEC("tracepoint/open") int f(void *ctx) { return SF_PASS; }
#endif
#ifdef CASE_noprograms
int unused = 3;
#endif
#ifdef CASE_extern
extern int sf_frobnicate(void *ctx) __ksym;
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) { return sf_frobnicate(ctx); }
#endif
#ifdef CASE_externcount
extern int sf_forget(void *ctx, int more) __ksym;
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) { return sf_forget(ctx, 1); }
#endif
#ifdef CASE_externtype
extern int sf_forget(u64 node) __ksym;
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) { return sf_forget(ctx->node); }
#endif
#ifdef CASE_externvariable
extern int sf_number __ksym;
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) { return sf_number; }
#endif
#ifdef CASE_helper
static long (*const bpf_trace_printk)(const char *fmt, u32 n) = (void *)6;
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) { return bpf_trace_printk("x", 2); }
#endif
#ifdef CASE_dataaddress
static int x;
int *volatile p = &x;
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) { return *p; }
#endif
#ifdef CASE_context
SEC("syscall/stat") int f(struct sf_fuse_ctx *ctx) { return ctx->opcode; }
#endif
#ifdef CASE_unsafe
u64 values[8];
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) {
  return values[ctx->node]; /* no bound */
}
#endif
#ifdef CASE_nodebug
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) { return SF_PASS; }
#endif

char LICENSE[] SEC("license") = "GPL";
