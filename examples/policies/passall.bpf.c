/* passall: attached to every operation, serves nothing.
 *
 * The smallest policy. Its use is measurement: it shows what being attached costs, everything else being equal. */
#include <shortfuse/policy.h>

/* SEC() says where a program is attached: in the application (syscall/), in the daemon when a request arrives (fuse/)
 * or before the reply leaves (fuse_exit/). SF_PASS means: go on as if there were no policy. */
#define PASS_SYSCALL(op) SEC("syscall/" #op) int syscall_##op(struct sf_syscall_ctx *ctx) { return SF_PASS; }
#define PASS_FUSE(op) \
  SEC("fuse/" #op) int fuse_##op(struct sf_fuse_ctx *ctx) { return SF_PASS; } \
  SEC("fuse_exit/" #op) int exit_##op(struct sf_fuse_exit_ctx *ctx) { return SF_PASS; }

PASS_SYSCALL(stat) PASS_SYSCALL(access) PASS_SYSCALL(readlink) PASS_SYSCALL(open) PASS_SYSCALL(read)
PASS_SYSCALL(readdir) PASS_SYSCALL(getxattr) PASS_SYSCALL(listxattr) PASS_SYSCALL(statfs)

PASS_FUSE(lookup) PASS_FUSE(getattr) PASS_FUSE(setattr) PASS_FUSE(readlink) PASS_FUSE(symlink) PASS_FUSE(mknod)
PASS_FUSE(mkdir) PASS_FUSE(unlink) PASS_FUSE(rmdir) PASS_FUSE(rename) PASS_FUSE(rename2) PASS_FUSE(link)
PASS_FUSE(open) PASS_FUSE(create) PASS_FUSE(read) PASS_FUSE(write) PASS_FUSE(release) PASS_FUSE(opendir)
PASS_FUSE(readdir) PASS_FUSE(readdirplus) PASS_FUSE(releasedir) PASS_FUSE(getxattr) PASS_FUSE(listxattr)
PASS_FUSE(setxattr) PASS_FUSE(removexattr) PASS_FUSE(statfs) PASS_FUSE(access) PASS_FUSE(fsync) PASS_FUSE(flush)

char LICENSE[] SEC("license") = "GPL";
