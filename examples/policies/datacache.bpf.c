/* datacache: metacache, and the contents of files, fetched ahead of the reader.
 *
 * Read metacache first. New here: replies to READ are kept, reads are served, and sf_prefetch() has the bridge read
 * ahead: the first window when a file is opened, the next one when a read continues where the last one ended. */
#include <shortfuse/policy.h>

#define SECOND 1000000000ull
#define KIB 1024ull

const volatile u64 ttl_ns = 10 * SECOND;
const volatile u64 negative_ttl_ns = 10 * SECOND;
const volatile u64 statfs_ttl_ns = 1 * SECOND;
const volatile u64 window_bytes = 128 * KIB; /* read ahead by this much */

/* Where the last read of a file ended, by node. Maps live in the daemon's shared memory; programs in the application
 * may look into them, only programs in the daemon may write. A full map loses us read-ahead, nothing else. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 4096);
  __type(key, u64);
  __type(value, u64);
} last_end SEC(".maps");

#define SERVE(op, how) SEC("syscall/" #op) int syscall_##op(struct sf_syscall_ctx *ctx) { return how(ctx); }

SERVE(stat, sf_serve_attr)
SERVE(access, sf_serve_attr)
SERVE(readlink, sf_serve_link)
SERVE(read, sf_serve_data)
SERVE(readdir, sf_serve_listing)
SERVE(getxattr, sf_serve_xattr)
SERVE(listxattr, sf_serve_xattr)
SERVE(statfs, sf_serve_statfs)
SERVE(open, sf_serve_open)

#define ANSWER(op, how) \
  SEC("fuse/" #op) int fuse_##op(struct sf_fuse_ctx *ctx) { return ctx->origin ? SF_PASS : how(ctx); }

ANSWER(lookup, sf_serve_entry)
ANSWER(getattr, sf_serve_attr)
ANSWER(readlink, sf_serve_link)
ANSWER(read, sf_serve_data)
ANSWER(getxattr, sf_serve_xattr)
ANSWER(listxattr, sf_serve_xattr)
ANSWER(statfs, sf_serve_statfs)

#define KEEP(op) \
  SEC("fuse_exit/" #op) int exit_##op(struct sf_fuse_exit_ctx *ctx) { \
    sf_keep(ctx, ttl_ns, negative_ttl_ns); \
    return SF_PASS; \
  }

KEEP(lookup) KEEP(getattr) KEEP(setattr)
KEEP(create) KEEP(mkdir) KEEP(mknod) KEEP(symlink) KEEP(link)
KEEP(readdir) KEEP(readdirplus)
KEEP(readlink) KEEP(getxattr) KEEP(listxattr)
/* What programs ask of a file before they read it: where is a hole (grep), is it a terminal (Python, Perl)? */
KEEP(lseek) KEEP(ioctl)

SEC("fuse_exit/statfs") int exit_statfs(struct sf_fuse_exit_ctx *ctx) {
  sf_keep(ctx, statfs_ttl_ns, SF_DROP);
  return SF_PASS;
}

/* A file that is opened is most likely read from its beginning. */
SEC("fuse_exit/open") int exit_open(struct sf_fuse_exit_ctx *ctx) {
  if (ctx->req.origin == 0) sf_prefetch(ctx, 0, window_bytes);
  return SF_PASS;
}

/* The bridge's own reads (origin 1) come through here too: they are kept, but do not ask for more, or a read-ahead
 * would beget the next one to the end of the file. */
SEC("fuse_exit/read") int exit_read(struct sf_fuse_exit_ctx *ctx) {
  u64 node = ctx->req.node, end = ctx->req.offset + ctx->reply_bytes;
  u64 *last;

  sf_keep(ctx, ttl_ns, SF_DROP);
  if (ctx->req.origin != 0) return SF_PASS;
  last = bpf_map_lookup_elem(&last_end, &node);
  if (last && *last == ctx->req.offset && ctx->reply_bytes > 0) sf_prefetch(ctx, end, window_bytes);
  bpf_map_update_elem(&last_end, &node, &end, BPF_ANY);
  return SF_PASS;
}

char LICENSE[] SEC("license") = "GPL";
