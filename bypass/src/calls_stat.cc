// stat, lstat, fstat, newfstatat, statx; access; readlink; statfs: by path or descriptor, answered from attributes.
#include "calls.h"
#include "count.h"
#include "kernel.h"
#include "path.h"
#include "stat_fill.h"

namespace shortfuse::bypass {

namespace {

// The normalised form of a call by path or descriptor.
struct ByPath {
  sf_op kind;
  int dirfd = AT_FDCWD;
  const char *path = nullptr;
  bool by_fd = false;           // the descriptor itself, no path
  bool follow = true;
  bool may_be_empty = false;
  bool supported = true;        // false: counted as a miss, made by the kernel
};

bool find(const ByPath &by, Start *start) {
  if (!by.by_fd) return find_start(by.dirfd, by.path, by.may_be_empty, start);
  start->file = file_of(by.dirfd);
  if (!start->file) return false;
  start->mount = start->file.mount();
  return true;
}

// Steps that all of these share. `set` puts the kind's own arguments into the Op; `put` hands out what was served.
template <typename Set, typename Put>
int answer(const sf_call *c, const ByPath &by, long *result, Set set, Put put) {
  Start start;
  if (!find(by, &start)) return 0;
  bool by_path = !by.by_fd && by.path[0] != 0;
  Stay stay(start.mount, by_path);
  if (!stay.entered()) {
    count_outside(by.kind, SF_MISS_DETACHED);
    return 0;
  }
  Op op(c, by.kind, start.mount, stay);
  op.file = start.file;  // for the kernel's call, however little of ours is done
  Walk w;
  static const char kNothing[] = "";
  const char *path = by.path;
  if (by.by_fd) path = start.rest = kNothing;
  set(op);
  bool ready = prepare(&op) && (by.supported || op.give_up(SF_MISS_UNSUPPORTED)) &&
               walk_to(&op, &w, start, path, by.follow);
  if (ready && run_policy(&op, result)) {
    if (!op.served) return 1;
    if (op.value >= 0) put(op);
    count_served(op);
    return 1;
  }
  *result = fall_back(&op);
  return 1;
}

int hidden(const ByPath &by, long *result) {
  if (!by.by_fd || !is_hidden_slot(by.dirfd)) return 0;
  *result = -EBADF;
  return 1;
}

}  // namespace

static void normalise_stat(const sf_call *c, ByPath *by, void **out, uint32_t *mask) {
  *mask = STATX_BASIC_STATS;
  int flags = 0;
  switch (c->nr) {
    case __NR_fstat:
      by->by_fd = true;
      by->dirfd = static_cast<int>(c->arg[0]);
      break;
    case __NR_stat:
    case __NR_lstat:
      by->path = reinterpret_cast<const char *>(c->arg[0]);
      by->follow = c->nr == __NR_stat;
      break;
    default:
      by->dirfd = static_cast<int>(c->arg[0]);
      by->path = reinterpret_cast<const char *>(c->arg[1]);
      flags = static_cast<int>(c->arg[c->nr == __NR_statx ? 2 : 3]);
  }
  *out = reinterpret_cast<void *>(c->arg[c->nr == __NR_newfstatat ? 2 : c->nr == __NR_statx ? 4 : 1]);
  by->follow = by->follow && !(flags & AT_SYMLINK_NOFOLLOW);
  by->may_be_empty = (flags & AT_EMPTY_PATH) != 0;
  int known = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT;
  if (c->nr == __NR_statx) {
    *mask = static_cast<uint32_t>(c->arg[3]);
    known |= AT_STATX_DONT_SYNC;  // the cache is never older than what the kernel would hand out
  }
  by->supported = (flags & ~known) == 0;
}

// Bits that FUSE never reports are simply not reported; the unique mount id, and whatever came later, is the kernel's.
static bool mask_supported(const Mount &m, uint32_t mask) {
  constexpr uint32_t kNeverReported = STATX_BTIME | 0x2000 /* STATX_DIOALIGN */;
  uint32_t known = STATX_BASIC_STATS | STATX_MNT_ID;
  if (!(flags_of(m) & SF_MNT_STATX) && !(m.root.stx_mask & STATX_BTIME)) known |= kNeverReported;
  return (mask & ~known) == 0 && (mask & STATX_BASIC_STATS) != 0;
}

int call_stat(const sf_call *c, long *result) {
  ByPath by{SF_OP_STAT};
  void *out;
  uint32_t mask;
  normalise_stat(c, &by, &out, &mask);
  if (hidden(by, result)) return 1;
  auto set = [&](Op &op) {
    op.flags = by.follow ? 0 : AT_SYMLINK_NOFOLLOW;
    op.wants_atime = (mask & STATX_ATIME) != 0;
    if (c->nr == __NR_statx && !mask_supported(*op.mount, mask)) by.supported = false;
  };
  auto put = [&](Op &op) {
    if (c->nr == __NR_statx) {
      fill_statx(static_cast<struct statx *>(out), op.attr.attr, op.mount->root, op.nid == SF_NID_ROOT);
    } else {
      fill_stat(static_cast<struct stat *>(out), op.attr.attr, op.mount->root);
    }
  };
  return answer(c, by, result, set, put);
}

int call_access(const sf_call *c, long *result) {
  ByPath by{SF_OP_ACCESS};
  bool at = c->nr != __NR_access;
  if (at) by.dirfd = static_cast<int>(c->arg[0]);
  by.path = reinterpret_cast<const char *>(c->arg[at ? 1 : 0]);
  int mode = static_cast<int>(c->arg[at ? 2 : 1]);
  int flags = c->nr == __NR_faccessat2 ? static_cast<int>(c->arg[3]) : 0;
  constexpr int kAtEaccess = 0x200;
  by.follow = !(flags & AT_SYMLINK_NOFOLLOW);
  by.may_be_empty = (flags & AT_EMPTY_PATH) != 0;
  by.supported = (flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | kAtEaccess)) == 0 && (mode & ~kAccessMask) == 0;
  auto set = [&](Op &op) {
    op.flags = static_cast<uint32_t>(mode);
    op.access_mode = mode;
    // By real ids, where those are others: the kernel's.
    if (!(flags & kAtEaccess) && !creds_now().same_for_access) by.supported = false;
  };
  return answer(c, by, result, set, [](Op &) {});
}

int call_readlink(const sf_call *c, long *result) {
  ByPath by{SF_OP_READLINK};
  int at = c->nr == __NR_readlinkat ? 1 : 0;
  if (at) by.dirfd = static_cast<int>(c->arg[0]);
  by.path = reinterpret_cast<const char *>(c->arg[at]);
  by.follow = false;
  int room = static_cast<int>(c->arg[at + 2]);
  by.supported = room > 0;
  auto set = [&](Op &op) {
    op.out = reinterpret_cast<void *>(c->arg[at + 1]);
    op.length = room > 0 ? static_cast<uint64_t>(room) : 0;
  };
  return answer(c, by, result, set, [](Op &) {});
}

int call_statfs(const sf_call *c, long *result) {
  ByPath by{SF_OP_STATFS};
  if (c->nr == __NR_statfs) {
    by.path = reinterpret_cast<const char *>(c->arg[0]);
  } else {
    by.by_fd = true;
    by.dirfd = static_cast<int>(c->arg[0]);
  }
  if (hidden(by, result)) return 1;
  fuse_kstatfs st;
  auto set = [&](Op &op) { op.statfs = &st; };
  auto put = [&](Op &op) { fill_statfs(reinterpret_cast<struct statfs *>(c->arg[1]), st, op.mount->root); };
  return answer(c, by, result, set, put);
}

// A name of the caller's, copied: it is compared, hashed and perhaps put into a hint. 0: not a name we handle.
static uint32_t copy_name(const char *from, char *to) {
  uint32_t n = 0;
  for (; from[n] != 0; ++n) {
    if (n == SF_NAME_MAX) return 0;
    to[n] = from[n];
  }
  to[n] = 0;
  return n;
}

int call_xattr(const sf_call *c, long *result) {
  bool get = c->nr == __NR_getxattr || c->nr == __NR_lgetxattr || c->nr == __NR_fgetxattr;
  bool by_fd = c->nr == __NR_fgetxattr || c->nr == __NR_flistxattr;
  ByPath by{get ? SF_OP_GETXATTR : SF_OP_LISTXATTR};
  char name[SF_NAME_MAX + 1];
  by.by_fd = by_fd;
  if (by_fd) {
    by.dirfd = static_cast<int>(c->arg[0]);
    File file = file_of(by.dirfd);
    by.supported = file && !is_set(*file.slot, kFilePath);
  } else {
    by.path = reinterpret_cast<const char *>(c->arg[0]);
    by.follow = c->nr == __NR_getxattr || c->nr == __NR_listxattr;
  }
  if (hidden(by, result)) return 1;
  int at = get ? 2 : 1;
  auto set = [&](Op &op) {
    op.out = reinterpret_cast<void *>(c->arg[at]);
    op.length = static_cast<uint64_t>(c->arg[at + 1]);
    constexpr uint64_t kXattrMax = 65536;
    if (op.length > kXattrMax) op.length = kXattrMax;
    if (!get) return;
    op.name_len = copy_name(reinterpret_cast<const char *>(c->arg[1]), name);
    op.name = name;
    if (op.name_len == 0) by.supported = false;
  };
  return answer(c, by, result, set, [](Op &) {});
}

}  // namespace shortfuse::bypass
