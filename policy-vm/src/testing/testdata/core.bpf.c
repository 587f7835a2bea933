/* Objects for core_relocation_test.cc: what they know of the contexts is not what this build has. One per CASE_*. */
#define sf_fuse_ctx sf_fuse_ctx_as_it_is
#define sf_verdict sf_verdict_as_it_is
#define SF_PASS SF_PASS_AS_IT_IS
#define SF_SERVED SF_SERVED_AS_IT_IS
#include <shortfuse/policy.h>
#undef sf_fuse_ctx
#undef sf_verdict
#undef SF_PASS
#undef SF_SERVED

#define BY_NAME __attribute__((preserve_access_index))
#define PROGRAM(name) SEC("fuse/lookup") int name(struct sf_fuse_ctx *ctx)

#ifdef CASE_core_old /* a header from before most of the fields: others, fewer, elsewhere, of other sizes */
struct sf_fuse_ctx {
  u32 opcode;
  u64 offset;
  u32 node;   /* was 32 bits wide then */
  u64 uid;    /* was 64 */
  u32 size;
} BY_NAME;
PROGRAM(f) { return ctx->node == 7 && ctx->offset == 1000 && ctx->uid == 12 && ctx->opcode == 1 && ctx->size > 40; }
#endif

#ifdef CASE_core_new /* a header of the future */
struct sf_fuse_ctx {
  u32 size, colour;
  struct { /* moved into a part without a name */
    u64 node;
    union { u32 gid; u64 wide; };
  };
  u64 deadline[4];
  u32 uid;
} BY_NAME;
PROGRAM(f) {
  int seen = ctx->node == 7 && ctx->gid == 13 && ctx->uid == 12;
  if (bpf_core_field_exists(ctx->colour)) seen += ctx->colour;
  if (bpf_core_field_exists(ctx->deadline)) seen += ctx->deadline[2];
  return seen;
}
#endif

#ifdef CASE_core_flavour
struct sf_fuse_ctx;
struct sf_fuse_ctx___mine { u64 node; } BY_NAME;
struct sf_fuse_ctx___other { u32 gid, node, pid; } BY_NAME;
SEC("fuse/lookup") int f(struct sf_fuse_ctx___mine *ctx) {
  struct sf_fuse_ctx___other *same = (void *)ctx;
  return ctx->node == 7 && same->gid == 13 && same->pid == 14;
}
#endif

#ifdef CASE_core_exit /* nested, and the whole of it moved */
struct sf_fuse_ctx { u64 node, offset; } BY_NAME;
struct sf_fuse_exit_ctx___small { int error; struct sf_fuse_ctx req; } BY_NAME;
SEC("fuse_exit/lookup") int f(struct sf_fuse_exit_ctx___small *ctx) {
  return ctx->req.node == 7 && ctx->req.offset == 1000 && ctx->error == -2 ? 1 : 0;
}
#endif

#ifdef CASE_core_questions
struct sf_fuse_ctx { u64 node; u32 uid, colour; } BY_NAME;
struct sf_palette { u32 colours; } BY_NAME;
enum sf_verdict { SF_PASS = 0, SF_SERVED = 77, SF_POSTPONED = 78 };
struct sf_syscall_ctx___less { u32 op; u64 node; };
struct sf_syscall_ctx___more { u64 op; u64 node; };
#define CHECK(condition) if (!(condition)) return -__LINE__
PROGRAM(f) {
  CHECK(bpf_core_field_size(ctx->node) == 8 && bpf_core_field_size(ctx->uid) == 4);
  CHECK(bpf_core_field_offset(ctx->node) == 16);
  CHECK(bpf_core_field_exists(ctx->uid) && !bpf_core_field_exists(ctx->colour));
  CHECK(bpf_core_type_exists(struct sf_fuse_ctx) && !bpf_core_type_exists(struct sf_palette));
  CHECK(bpf_core_type_size(struct sf_fuse_ctx) > 64 && bpf_core_type_size(struct sf_palette) == 0);
  CHECK(bpf_core_enum_value(enum sf_verdict, SF_SERVED) == 1);
  CHECK(bpf_core_enum_value_exists(enum sf_verdict, SF_SERVED));
  CHECK(!bpf_core_enum_value_exists(enum sf_verdict, SF_POSTPONED));
  CHECK(bpf_core_type_matches(struct sf_syscall_ctx___less));
  CHECK(!bpf_core_type_matches(struct sf_syscall_ctx___more));
  return 1;
}
#endif

#ifdef CASE_core_unguarded
struct sf_fuse_ctx { u64 node; u32 colour; } BY_NAME;
PROGRAM(f) {
  if (ctx->node != 7) return 0;
  return ctx->colour; /* nobody asked whether it is there */
}
#endif

#ifdef CASE_core_type
struct sf_fuse_ctx { u64 node; } BY_NAME;
struct sf_palette { u32 size, colours; } BY_NAME;
PROGRAM(f) { return ((struct sf_palette *)ctx)->colours; }
#endif

#ifdef CASE_core_signed /* would have to be sign-extended */
struct sf_fuse_ctx { s32 node; } BY_NAME;
PROGRAM(f) { return ctx->node; }
#endif

#ifdef CASE_core_kind
struct sf_fuse_ctx { char node[8]; } BY_NAME;
PROGRAM(f) { return ctx->node[0]; }
#endif

#ifdef CASE_core_enumerator
struct sf_fuse_ctx { u64 node; } BY_NAME;
enum sf_verdict { SF_PASS = 0, SF_POSTPONED = 78 };
PROGRAM(f) { return bpf_core_enum_value(enum sf_verdict, SF_POSTPONED); }
#endif

/* Bit fields and arrays: ours has none, so `core_theirs` is linked against the types of `core_parts`. */
#ifdef CASE_core_parts
struct sf_fuse_ctx { u64 node; };
struct part { u8 level; u16 weight; };
struct parts {
  u32 head;
  u32 low : 3, middle : 7, high : 12;
  int sign : 5;
  u64 before;
  struct part part[4];
  char name[16];
  enum { RED, GREEN } tint;
};
struct parts parts;
PROGRAM(f) { return 1; }
#endif
#ifdef CASE_core_theirs
struct sf_fuse_ctx { u64 node; };
struct part { u16 weight; u8 level; } BY_NAME;
struct parts {
  u64 high : 12, low : 3;
  u64 middle : 7;
  s64 sign : 9;
  char name[12];
  struct part part[8];
} BY_NAME;
#define BITS(field, type) ({ \
  u64 v = 0, at = __builtin_preserve_field_info(field, 0); \
  switch (__builtin_preserve_field_info(field, 1)) { \
    case 1: v = *(u8 *)((char *)p + at); break; \
    case 2: v = *(u16 *)((char *)p + at); break; \
    case 4: v = *(u32 *)((char *)p + at); break; \
    case 8: v = *(u64 *)((char *)p + at); break; \
  } \
  v <<= __builtin_preserve_field_info(field, 4); \
  (u64)(__builtin_preserve_field_info(field, 3) ? (s64)v >> __builtin_preserve_field_info(field, 5) \
                                                : v >> __builtin_preserve_field_info(field, 5)); })
#define PARTS(name) SEC("fuse/lookup") u64 name(struct sf_fuse_ctx *ctx)
PARTS(bits) {
  struct parts *p = (void *)ctx;
  return BITS(p->low, u64) + BITS(p->middle, u64) * 10 + BITS(p->high, u64) * 10000 + BITS(p->sign, s64) * 100000000;
}
PARTS(elements) {
  struct parts *p = (void *)ctx;
  return p->part[2].weight + p->part[3].level * 1000 + p->name[5] * 1000000;
}
PARTS(beyond) {
  struct parts *p = (void *)ctx;
  return bpf_core_field_exists(p->part[6].weight);
}
#endif

char LICENSE[] SEC("license") = "GPL";
