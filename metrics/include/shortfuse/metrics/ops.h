/* The operations, outcomes and reasons that everything here counts by.
 *
 * One list for policies, hook, bridge, `status` and the report, so that a name means the same
 * everywhere. Plain C, freestanding: the preloaded library includes it. Order is a format
 * (session segments carry arrays indexed by these): append, never reorder. */
#ifndef SHORTFUSE_METRICS_OPS_H
#define SHORTFUSE_METRICS_OPS_H

#ifdef __cplusplus
extern "C" {
#endif

/* What an application asked for; one name per meaning (stat covers stat, lstat, fstat, newfstatat, statx). */
enum sf_op {
  SF_OP_STAT = 0,
  SF_OP_ACCESS,
  SF_OP_READLINK,
  SF_OP_OPEN,
  SF_OP_READ,
  SF_OP_READDIR,
  SF_OP_GETXATTR,
  SF_OP_LISTXATTR,
  SF_OP_STATFS,
  SF_OP_LSEEK,
  SF_OP_OTHER, /* anything else on one of our mounts: always the kernel's */
  SF_OP_COUNT
};

/* How it ended. Each call on a mount is counted exactly once. */
enum sf_outcome {
  SF_OUT_SERVED = 0, /* answered in this process, no system call made */
  SF_OUT_DENIED,     /* a policy answered with an error */
  SF_OUT_MISSED,     /* we tried, something was absent: see the reason; the kernel answered */
  SF_OUT_PASSED,     /* not ours to serve (mutations, calls we do not emulate); the kernel answered */
  SF_OUT_COUNT
};

/* Why a call was missed. */
enum sf_miss {
  SF_MISS_NONE = 0,
  SF_MISS_DENTRY,      /* a path component is not in the cache */
  SF_MISS_ATTR,        /* the node's attributes are not in the cache */
  SF_MISS_DATA,        /* some page of the extent is not in the cache */
  SF_MISS_LISTING,     /* the directory's listing is not in the cache */
  SF_MISS_LINK,        /* the symbolic link's target is not in the cache */
  SF_MISS_XATTR,       /* the extended attribute is not in the cache */
  SF_MISS_STATFS,      /* the file system's figures are not in the cache */
  SF_MISS_EXPIRED,     /* it was there, its time to live has passed */
  SF_MISS_WRITER,      /* the file is open for writing: its contents are not served */
  SF_MISS_POLICY,      /* the policy passed */
  SF_MISS_NO_POLICY,   /* no program of the policy is attached to this operation */
  SF_MISS_PERMISSION,  /* we cannot decide the permission check as the kernel would */
  SF_MISS_LEFT_MOUNT,  /* the path leaves the mount (.., an absolute symbolic link) */
  SF_MISS_UNSUPPORTED, /* a flag or form of the call that is not emulated */
  SF_MISS_DETACHED,    /* the daemon is gone or the mount has changed */
  SF_MISS_FAULT,       /* the caller passed a bad pointer: the kernel reports it */
  SF_MISS_BUSY,        /* the record changed while it was read, several times */
  SF_MISS_COUNT
};

/* Stable lower-case names, as `status --json` and reports print them. NULL when out of range. */
const char *sf_op_name(unsigned op);
const char *sf_outcome_name(unsigned outcome);
const char *sf_miss_name(unsigned miss);

#ifdef __cplusplus
}
#endif
#endif
