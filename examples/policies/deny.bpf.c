/* deny: paths that nobody gets at, with the hook or without it: EACCES for them and for everything below.
 *
 * Edit the list and compile. Programs of the daemon enforce it, so a process gains nothing by not loading the hook.
 * In a chain deny comes first: -o bpftime=deny.bpf.o:datacache.bpf.o. What a listing of the directory above shows (the
 * name and, with READDIRPLUS, the attributes) stays visible: deny keeps from use, not from sight. */
#include <shortfuse/policy.h>

/* Relative to the mount, without a slash at either end, at most 62 bytes each. */
#define NAME_BYTES 64
static const char denied[][NAME_BYTES] = {
  "secret",
  "private/key.pem",
};
#define DENIED (sizeof denied / sizeof denied[0])

#define EPERM 1
#define ENOENT 2
#define EACCES 13
#define PATH_BYTES 384 /* a program has 512 bytes of stack */

static __always_inline u32 length_of(const char *name) {
  u32 n = 0;
  while (n < NAME_BYTES - 2 && name[n]) n++;
  return n;
}

/* What becomes of a request for this path: denied when it is on the list or lies below something on it; with `moves`
 * also when something on the list lies below it, since moving a directory carries away what is in it. `unknown` is the
 * answer where no path leads to the node. */
static __always_inline int judge(void *ctx, int moves, int unknown) {
  char path[PATH_BYTES];
  int length = sf_path(ctx, path, sizeof path);

  if (length == -ENOENT) return unknown;
  if (length < 0 || length >= PATH_BYTES) return -EACCES; /* too long to judge: a guard must not fail open */
  for (u32 i = 0; i < DENIED; i++) {
    u32 n = length_of(denied[i]);
    if (bpf_strncmp(path, n, denied[i]) == 0 && (path[n] == 0 || path[n] == '/')) return -EACCES;
    if (moves && length > 0 && length < NAME_BYTES && denied[i][length] == '/' &&
        bpf_strncmp(path, length, denied[i]) == 0) return -EACCES;
  }
  return SF_PASS;
}

/* Whether the last of the request's strings, the new name of a rename, is the n bytes at `name`. */
static __always_inline int new_name_is(struct sf_fuse_ctx *ctx, const char *name, u32 n) {
  char tail[NAME_BYTES]; /* the NUL before the name, the name, its NUL */
  u32 bytes = n + 2;

  if (bytes > sizeof tail || ctx->arg_bytes < bytes) return 0;
  if (sf_arg(ctx, ctx->arg_bytes - bytes, tail, bytes) != 0) return 0;
  return tail[0] == 0 && tail[n + 1] == 0 && bpf_strncmp(tail + 1, n, name) == 0;
}

/* The directory that a rename leads to is only a number here. So nothing, wherever, may be renamed to a name that
 * occurs in the list: neither over a denied file, nor (RENAME_EXCHANGE) in exchange for one. */
static __always_inline int judge_new_name(struct sf_fuse_ctx *ctx) {
  for (u32 i = 0; i < DENIED; i++) {
    u32 from = 0, n = length_of(denied[i]);
    for (u32 to = 0; to <= n; to++) {
      if (to < n && denied[i][to] != '/') continue;
      if (to > from && new_name_is(ctx, &denied[i][from], to - from)) return -EACCES;
      from = to + 1;
    }
  }
  return SF_PASS;
}

/* Requests that name something in a directory, and requests for a node. A node whose path is unknown is an open file
 * that has been deleted. */
#define GUARD_NAME(op) SEC("fuse/" #op) int fuse_##op(struct sf_fuse_ctx *ctx) { return judge(ctx, 0, -EACCES); }
#define GUARD_NODE(op) SEC("fuse/" #op) int fuse_##op(struct sf_fuse_ctx *ctx) { return judge(ctx, 0, SF_PASS); }
#define GUARD_RENAME(op) \
  SEC("fuse/" #op) int fuse_##op(struct sf_fuse_ctx *ctx) { \
    int verdict = judge(ctx, 1, -EACCES); \
    return verdict ? verdict : judge_new_name(ctx); \
  }

GUARD_NAME(lookup) GUARD_NAME(create) GUARD_NAME(mkdir) GUARD_NAME(mknod) GUARD_NAME(symlink)
GUARD_NAME(unlink) GUARD_NAME(rmdir)
GUARD_NODE(getattr) GUARD_NODE(setattr) GUARD_NODE(access) GUARD_NODE(open) GUARD_NODE(opendir) GUARD_NODE(read)
GUARD_NODE(write) GUARD_NODE(readdir) GUARD_NODE(readdirplus) GUARD_NODE(readlink)
GUARD_NODE(getxattr) GUARD_NODE(listxattr) GUARD_NODE(setxattr) GUARD_NODE(removexattr)
GUARD_RENAME(rename) GUARD_RENAME(rename2)

/* A second name for a file would lead round the list. */
SEC("fuse/link") int fuse_link(struct sf_fuse_ctx *ctx) { return -EPERM; }

char LICENSE[] SEC("license") = "GPL";
