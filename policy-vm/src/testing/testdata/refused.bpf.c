/* Policies that are refused, one per CASE_*; refused/CASE.txt is what a person reads about it. After a change that is
 * meant: SHORTFUSE_RENEW=1 build/tests/vm_refusals_test, and read the difference. */
#include <shortfuse/policy.h>

struct entry { u64 a, b; };
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 128);
  __type(key, u64);
  __type(value, struct entry);
} seen SEC(".maps");
#if defined(CASE_index) || defined(CASE_compared) || defined(CASE_recursion)
u8 bytes[64];
#else
u64 values[8];
#endif

#ifdef CASE_index
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) {
  u32 i = ctx->opcode & 255;
  if (ctx->origin == 1)
    i = 3;
  return bytes[i];
}
#endif
#ifdef CASE_compared
SEC("fuse/read") int f(struct sf_fuse_ctx *ctx) {
  u64 i = ctx->offset;
  if (i > 64)
    return SF_PASS;
  return bytes[i];
}
#endif
#ifdef CASE_unbounded
SEC("fuse/read") int f(struct sf_fuse_ctx *ctx) {
  return values[ctx->node];
}
#endif
#ifdef CASE_null
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) {
  u64 key = ctx->node;
  struct entry *e = bpf_map_lookup_elem(&seen, &key);
  return e->a;
}
#endif
#ifdef CASE_callee
static __attribute__((noinline)) u64 pick(u64 i) {
  return values[i];
}
SEC("fuse/read") int f(struct sf_fuse_ctx *ctx) {
  u64 n = ctx->size % 9;
  if (n == 5)
    return SF_PASS;
  return pick(n);
}
#endif
#ifdef CASE_stack
SEC("fuse/read") int f(struct sf_fuse_ctx *ctx) {
  char path[64];
  u32 n = ctx->size & 31;
  sf_path(ctx, path, n + 1);
  return path[40];
}
#endif
#ifdef CASE_helperloop
SEC("fuse/read") int f(struct sf_fuse_ctx *ctx) {
  while (bpf_get_prandom_u32() != 7)
    ;
  return SF_PASS;
}
#endif
#ifdef CASE_rounds
SEC("fuse/read") int f(struct sf_fuse_ctx *ctx) {
  u64 sum = 0;
  for (u32 i = 0; i < ctx->size; i++)
    sum += values[i & 7] ^ sum << 1;
  return sum & 1;
}
#endif
#ifdef CASE_nocounter
SEC("fuse/read") int f(struct sf_fuse_ctx *ctx) {
  u64 n = ctx->node, rounds = 0;
  while (n) {
    n &= n - 1;
    rounds++;
  }
  return rounds;
}
#endif
#ifdef CASE_application
SEC("syscall/stat") int f(struct sf_syscall_ctx *ctx) {
  values[1]++;
  return SF_PASS;
}
#endif
#ifdef CASE_place
SEC("fuse/lookup") int f(struct sf_fuse_exit_ctx *ctx) {
  return sf_keep(ctx, 1000, SF_DROP);
}
#endif
#ifdef CASE_leak
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) {
  values[0] = (u64)ctx;
  return SF_PASS;
}
#endif
#ifdef CASE_constant
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) {
  u64 *p = values;
  asm volatile("%0 += 64" : "+r"(p));
  return *p;
}
#endif
#ifdef CASE_contextwrite
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) {
  ctx->node = 7;
  return SF_PASS;
}
#endif
#ifdef CASE_recursion
static __attribute__((noinline)) int down(int n) {
  return n > 0 ? down(n - 1) + bytes[n & 63] : 0;
}
SEC("fuse/lookup") int f(struct sf_fuse_ctx *ctx) {
  return down(ctx->opcode);
}
#endif
#ifdef CASE_sections
SEC("fuse/lokup") int f(struct sf_fuse_ctx *ctx) {
  return SF_PASS;
}
#endif

char LICENSE[] SEC("license") = "GPL";
