// Who is calling, and what the kernel would let them do.
#pragma once
#include "process.h"
#include "shortfuse/cache/reader.h"

namespace shortfuse::bypass {

enum class Decision { Allowed, Denied, Unknown };

/// The calling thread's credentials. Six system calls when something has changed since, else a comparison.
const Creds &creds_now();
/// Around a system call that changes credentials, of whatever thread.
void creds_changed();

/// Whether the kernel would let this process into the mount at all (fs/fuse: fuse_allow_current_process).
bool may_enter(const Creds &creds, uint32_t mount_flags, uint32_t owner_uid, uint32_t owner_gid);

/// Whether owner and group of a file are somebody in our user namespace; else the kernel shows others, and decides
/// otherwise.
bool owners_are_mapped(const fuse_attr &attr);

/// inode_permission() as FUSE implements it, without FUSE_ACCESS: mask of kMayRead, kMayWrite, kMayExec.
/// Unknown where an ACL or an unknown list of groups could decide, or the owners are nobody here.
Decision permission(const Creds &creds, uint32_t mount_flags, const fuse_attr &attr, int mask);

/// Searching any directory is allowed without looking at it. In a user namespace of one's own capabilities help only
/// with the files of those who are somebody in it.
inline bool searches_all(const Creds &creds, uint32_t mount_flags) {
  return (mount_flags & SF_MNT_DEFAULT_PERMISSIONS) == 0 ||
         (g.initial_user_ns && (creds.dac_read_search || creds.dac_override));
}

}  // namespace shortfuse::bypass
