/* Keeps what is not there, and nothing of what is, for bridge_test.cc. */
#include <shortfuse/policy.h>

#define KEEP(op) \
  SEC("fuse_exit/" #op) int exit_##op(struct sf_fuse_exit_ctx *ctx) { \
    sf_keep(ctx, SF_DROP, 0); \
    return SF_PASS; \
  }

KEEP(lookup)
KEEP(getattr)

char LICENSE[] SEC("license") = "GPL";
