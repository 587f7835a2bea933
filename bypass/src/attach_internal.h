// What the files of attaching need of each other.
#pragma once
#include "mount.h"

namespace shortfuse::bypass {

constexpr uint64_t kRetryNs = 1'000'000'000;  // until a daemon that could not be attached to is tried again...
constexpr unsigned kRetryDoublingsMax = 6;    // ...and so often that doubles

// REQUIRES for these: Process.attach_latch held.
Mount *free_slot();
void set_point(Mount *m, const char *point, uint32_t len);
int attach_mount(const char *socket_path);   // 0 or -errno
int attach_into(Mount *m, const char *socket_path);
/// A mount is there, by what its daemon's link says. False: the link says nothing.
bool announce(const char *socket_path, const char *text, size_t n);
/// What this registry announced and nobody has used; failed_too: also what could not be attached to.
void forget_announced(const char *registry, bool failed_too);
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
inline bool verdict_is_of_now(const Mount &m, const Verdict &v) {
  return v.serial == __atomic_load_n(&m.serial, __ATOMIC_RELAXED) &&
         v.mount_epoch == __atomic_load_n(&m.view.header->mount_epoch, __ATOMIC_ACQUIRE) &&
         v.verify_epoch == __atomic_load_n(&g.verify_epoch, __ATOMIC_ACQUIRE);
}
/// This thread has found the mount point to be this mount, and nothing has been announced since.
inline bool verified(const Mount &m) {
  const Verdict &v = t.verdict[index_of(m)];
  return verdict_is_of_now(m, v) && v.good;
}
/// Attaches to the announced mount that a descriptor (or AT_FDCWD) lies on. False: there is none.
bool attach_by_descriptor(int fd);
/// The descriptor's file system is the mount's. Nothing is asked of the daemon.
bool lies_on(int fd, const Mount &m);
struct FileLimit {  // struct rlimit64
  uint64_t cur, max;
};
/// Sets the limit of descriptors if it is `from`. False: it is not, or became another meanwhile, which then holds.
bool change_file_limit(const FileLimit &from, const FileLimit &to);
/// For a moment, until restore_file_limit(). False: it may not be, or somebody else is at it.
bool raise_file_limit(uint64_t by);
void restore_file_limit();
/// Numbers of users mean the same to the daemon and to us.
bool same_user_namespace(uint32_t daemon_pid);

}  // namespace shortfuse::bypass
