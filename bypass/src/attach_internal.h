// What the files of attaching need of each other.
#pragma once
#include "mount.h"

namespace shortfuse::bypass {

// REQUIRES for these: Process.attach_latch held.
int attach_mount(const char *socket_path);   // 0 or -errno
bool attach_session(Mount *m);
void free_detached();
/// No thread of this process is between enter and leave of any mount.
bool nobody_inside();
/// Adds a session's counters to the process's own.
void fold_session(const sf_session &session);

/// Takes the latch itself; nothing when another thread holds it.
void detach(Mount *m);

/// Fills m->root and finds out whether the mount point is this mount in this process's eyes. Null when it is, else
/// why not.
const char *verify_at_attach(Mount *m);
/// Again, after the mount table, the root or the credentials changed. True when paths may be walked.
bool verify_again(Mount *m);
inline bool verified(const Mount &m) {
  return m.verified_mount_epoch == __atomic_load_n(&m.view.header->mount_epoch, __ATOMIC_ACQUIRE) &&
         m.verified_epoch == __atomic_load_n(&g.verify_epoch, __ATOMIC_ACQUIRE);
}
/// Numbers of users mean the same to the daemon and to us.
bool same_user_namespace(uint32_t daemon_pid);

}  // namespace shortfuse::bypass
