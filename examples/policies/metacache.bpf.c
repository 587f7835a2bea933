/* metacache: keeps what the file system says about files, and answers from that.
 *
 * Metadata only: attributes, names (also names that do not exist), listings, link targets, extended attributes, the
 * file system's figures. File contents always come from the file system; datacache keeps them too.
 *
 * Three places work together:
 *   fuse_exit/  the daemon's reply passes here: sf_keep() puts what it tells into the shared cache
 *   syscall/    in the application: sf_serve_*() answers a call from that cache, without any system call
 *   fuse/       the same for requests that the kernel makes, of processes without the hook
 * A program that cannot serve returns SF_PASS, which is what sf_serve_*() returns then. */
#include <shortfuse/policy.h>

#define SECOND 1000000000ull

/* How long an answer may be used. Changes made through the mount are seen at once whatever this says; it bounds how
 * long a change made behind the file system's back stays unseen. 0 would mean: until something changes it. */
const volatile u64 ttl_ns = 10 * SECOND;
const volatile u64 negative_ttl_ns = 10 * SECOND; /* for "no such file"; SF_DROP would not keep it */
const volatile u64 statfs_ttl_ns = 1 * SECOND;    /* free space changes with every write */

/* ---- in the application */
#define SERVE(op, how) SEC("syscall/" #op) int syscall_##op(struct sf_syscall_ctx *ctx) { return how(ctx); }

SERVE(stat, sf_serve_attr)
SERVE(access, sf_serve_attr)
SERVE(readlink, sf_serve_link)
SERVE(readdir, sf_serve_listing)
SERVE(getxattr, sf_serve_xattr)
SERVE(listxattr, sf_serve_xattr)
SERVE(statfs, sf_serve_statfs)
SERVE(open, sf_serve_open)

/* ---- in the daemon, when the kernel asks. Requests of the bridge itself (origin 1) fetch what is missing: answering
 * those from the cache would fetch nothing. */
#define ANSWER(op, how) \
  SEC("fuse/" #op) int fuse_##op(struct sf_fuse_ctx *ctx) { return ctx->origin ? SF_PASS : how(ctx); }

ANSWER(lookup, sf_serve_entry)
ANSWER(getattr, sf_serve_attr)
ANSWER(readlink, sf_serve_link)
ANSWER(getxattr, sf_serve_xattr)
ANSWER(listxattr, sf_serve_xattr)
ANSWER(statfs, sf_serve_statfs)

/* ---- in the daemon, when the file system has answered */
#define KEEP(op) \
  SEC("fuse_exit/" #op) int exit_##op(struct sf_fuse_exit_ctx *ctx) { \
    sf_keep(ctx, ttl_ns, negative_ttl_ns); \
    return SF_PASS; \
  }

KEEP(lookup) KEEP(getattr) KEEP(setattr)
KEEP(create) KEEP(mkdir) KEEP(mknod) KEEP(symlink) KEEP(link) /* their replies describe the new file */
KEEP(readdir) KEEP(readdirplus)
KEEP(readlink) KEEP(getxattr) KEEP(listxattr)

SEC("fuse_exit/statfs") int exit_statfs(struct sf_fuse_exit_ctx *ctx) {
  sf_keep(ctx, statfs_ttl_ns, SF_DROP);
  return SF_PASS;
}

char LICENSE[] SEC("license") = "GPL";
