// Absolute paths begin at a mount point, and so do relative ones that lead into a mount below the working directory;
// others at the working directory or at a descriptor.
#include "path.h"

#include "kernel.h"

namespace shortfuse::bypass {

static bool find_below_cwd(const char *path, Start *start) {
  start->nid = SF_NID_ROOT;
  start->from_below = true;
  for (int attempt = 0; attempt < 2 && start->cwd.version != 0; ++attempt) {
    start->mount = mount_below(start->cwd, path, &start->rest);
    Mount *m = start->mount.mount;
    if (m == nullptr || state_of(*m) == MountState::Attached) return m != nullptr;
    // What was known of the working directory is void then.
    if (!attach_announced(m) || cwd_now(&start->cwd)) return false;
  }
  return false;
}

bool find_start(int dirfd, const char *path, bool may_be_empty, Start *start) {
  if (path == nullptr) return false;
  if (path[0] == '/') {
    start->mount = mount_of_path(path, &start->rest, true);
    start->nid = SF_NID_ROOT;
    if (start->mount.mount != nullptr) [[unlikely]] return true;
    look_for_mounts();
    return false;
  }
  if (__atomic_load_n(&mounts_used, __ATOMIC_RELAXED) == 0) {
    look_for_mounts();
    return false;
  }
  if (path[0] == 0 && !may_be_empty) return false;
  start->rest = path;
  if (dirfd == AT_FDCWD) {
    if (!cwd_now(&start->cwd)) return find_below_cwd(path, start);
    start->mount = start->cwd.mount;
    start->nid = start->cwd.nid;
    return true;
  }
  start->file = file_of(dirfd);
  if (!start->file) return false;
  start->mount = start->file.mount();
  return true;
}

// A path from the mount point, by itself or by a link on the way, is ours only while the directories above lead there.
// Where the walk has read the clock, that costs nothing; where no record can expire, one call in eight reads it.
static inline bool still_leads_here(Op *op) {
  constexpr uint64_t kOneIn = 8;
  if (op->moment.now_ns == 0) {
    if (op->lane->sample_countdown % kOneIn != 0) return true;
    op->moment.now_ns = clock_coarse_ns();
  }
  return verified_lately(op->mount, op->moment.now_ns);
}

bool walk_to(Op *op, Walk *w, const Start &start, const char *path, bool follow) {
  op->file = start.file;
  op->cwd = start.cwd;
  op->wish = &w->wish;
  uint64_t nid = start.nid != 0 ? start.nid : nid_of(start.file);
  if (nid == 0) return op->give_up(SF_MISS_DENTRY);
  if (*start.rest == 0 && start.rest == path) {
    // An empty path: the node of the descriptor itself, whatever it is.
    op->nid = nid;
    return true;
  }
  w->mount = op->mount;
  w->creds = op->creds;
  w->mount_flags = op->flags_of_mount;
  w->follow = follow;
  w->moment = &op->moment;
  Walked how = walk(w, nid, start.rest, path);
  op->nid = w->nid;
  op->unmapped = w->unmapped;
  if (how == Walked::Miss) return op->give_up(w->miss);
  const bool by_mount_point = *path == '/' || start.from_below || w->from_mount_point;
  if (by_mount_point && !still_leads_here(op)) return op->give_up(SF_MISS_DETACHED);
  op->error = how == Walked::Error ? w->error : 0;
  op->have_attr = w->have_attr;
  if (w->have_attr) op->attr = w->attr;
  return true;
}

}  // namespace shortfuse::bypass
