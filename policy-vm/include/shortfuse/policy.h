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
 *                 listxattr statfs. Runs once the path has been found in the cache. May serve from the cache, deny or
 *                 pass; a denial here alone protects nothing, as other processes ask the kernel: deny in fuse/ too.
 *                 May not write shared maps.
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
#include <shortfuse/bpf.h>
#define SF_U64 __u64
#define SF_U32 __u32
#define SF_S32 __s32
#else
#include <stdint.h>
#define SF_U64 uint64_t
#define SF_U32 uint32_t
#define SF_S32 int32_t
#define SF_BY_NAME
#endif

/* All fields are read-only. New fields are appended; `size` is how much of it this shortfuse knows. An object runs on
 * older and newer versions alike: what may not be there is asked for first, and the rest finds its place when loaded:
 *     if (bpf_core_field_exists(ctx->colour)) use(ctx->colour);
 * A context does not change while programs run, so what a comparison shows of a field is known where it is read again:
 *     if (ctx->offset < 64) return table[ctx->offset]; */
struct sf_syscall_ctx {
  SF_U32 size;
  SF_U32 op;       /* enum sf_op */
  SF_U64 node;     /* the node (an opaque number, unique while the daemon runs) the call is about */
  SF_U64 ino;      /* always 0 here for now: reserved */
  SF_U64 offset;   /* read: file offset. readdir: cookie */
  SF_U64 length;   /* read, readdir, readlink, getxattr, listxattr: size of the caller's buffer */
  SF_U32 flags;    /* open: O_*; stat: 0 or AT_SYMLINK_NOFOLLOW; access: the mode asked for */
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
  SF_U32 flags;    /* open, create, opendir: O_*; lseek: SEEK_*; ioctl: the command; else 0 */
  SF_U64 offset;   /* read, write, readdir, fallocate, lseek */
  SF_U64 length;   /* read, write, readdir */
  SF_U32 arg_bytes; /* of the request after its header, for sf_arg() */
  SF_U32 origin;   /* 0 kernel, 1 the bridge itself (a fetch for a hint or a read-ahead) */
} SF_BY_NAME;

struct sf_fuse_exit_ctx {
  struct sf_fuse_ctx req;
  SF_U32 reply_bytes; /* of the reply after its header, for sf_reply() */
  SF_S32 error;       /* 0, or what can be kept too: -ENOENT of lookup, -ENODATA of getxattr, -ENOTTY of ioctl */
} SF_BY_NAME;

/* As a time to live for sf_keep(): do not keep. That of what exists, or that of what does not. */
#define SF_DROP (~0ull)

#ifdef __bpf__
/* ---- serving; usable in syscall/OP and, where a request of that meaning exists, in fuse/OP.
 * SF_SERVED when the cache held what the call needs and it has been answered, SF_PASS when not. They answer the
 * call that the context describes and no other: return their result. */
extern int sf_serve_attr(void *ctx) __ksym;    /* stat, access; fuse/getattr */
extern int sf_serve_entry(void *ctx) __ksym;   /* fuse/lookup, of what does not exist */
extern int sf_serve_link(void *ctx) __ksym;    /* readlink */
extern int sf_serve_data(void *ctx) __ksym;    /* read */
extern int sf_serve_listing(void *ctx) __ksym; /* readdir */
extern int sf_serve_xattr(void *ctx) __ksym;   /* getxattr, listxattr */
extern int sf_serve_statfs(void *ctx) __ksym;  /* statfs */
extern int sf_serve_open(void *ctx) __ksym;    /* open: the file system does not see it; for those that need not */

/* ---- keeping; fuse_exit/OP only. Puts what the reply tells into the cache: attributes, names and statfs for ttl_ns
 * nanoseconds (0: until something changes it through the mount), contents (data, listing, link, xattrs) for as long as
 * the attributes that they belong to; negative_ttl_ns likewise for "no such entry". SF_DROP: not at all.
 * Covers every kind of reply that can be kept (lookup, getattr, setattr, create..., readdir(plus), readlink, read,
 * getxattr, listxattr, statfs; of lseek, where a file's next hole is; of ioctl, that a file is no terminal, which
 * programs ask of every file they open). 0 on success; -ENOTSUP for replies that have nothing to keep. */
extern int sf_keep(struct sf_fuse_exit_ctx *ctx, u64 ttl_ns, u64 negative_ttl_ns) __ksym;
/* Forget what is cached of the request's node. */
extern int sf_forget(void *ctx) __ksym;
/* fuse/OP, fuse_exit/OP: have the bridge read [offset, offset + length) of the request's node into the cache. 0, or
 * -EINVAL: for a request of the bridge's own, or in a policy without fuse_exit/read. */
extern int sf_prefetch(void *ctx, u64 offset, u64 length) __ksym;

/* ---- looking. */
/* The path, relative to the mount, of what the request names (parent and name, or the node): "a/b", "" for the
 * root; NUL-terminated. Returns its length, or -ENAMETOOLONG, -ENOENT (not known). fuse/OP and fuse_exit/OP. */
extern int sf_path(void *ctx, char *buf, u32 size) __ksym;
/* size bytes of the request's arguments (of the reply) from byte `offset`; 0 or -EINVAL. */
extern int sf_arg(void *ctx, u32 offset, void *buf, u32 size) __ksym;
extern int sf_reply(struct sf_fuse_exit_ctx *ctx, u32 offset, void *buf, u32 size) __ksym;

#endif
#endif
