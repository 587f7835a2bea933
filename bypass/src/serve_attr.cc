// stat, access and statfs out of the cache.
#include "kernel.h"
#include "op.h"
#include "stat_fill.h"

namespace shortfuse::bypass {

constexpr uint32_t kNsecMax = 999999999;

bool plain_attr(const fuse_attr &attr) {
  return !is_block_device(attr.mode) && owners_are_mapped(attr) && attr.size <= INT64_MAX;
}

static uint32_t block_size(const fuse_attr &attr, const RootFacts &root) {
  if (attr.blksize == 0) return root.blksize;
  return 1u << (31 - __builtin_clz(attr.blksize));
}

// The kernel makes a device number only of device nodes.
static uint32_t device_number(const fuse_attr &attr) { return is_char_device(attr.mode) ? attr.rdev : 0; }

static uint32_t nsec(uint32_t value) { return value > kNsecMax ? kNsecMax : value; }

void fill_stat(struct stat *out, const fuse_attr &a, const RootFacts &root) {
  struct stat st = {};
  st.st_dev = root.dev;
  st.st_ino = a.ino;
  st.st_nlink = a.nlink;
  st.st_mode = a.mode;
  st.st_uid = a.uid;
  st.st_gid = a.gid;
  st.st_rdev = device_number(a);
  st.st_size = static_cast<long>(a.size);
  st.st_blksize = block_size(a, root);
  st.st_blocks = static_cast<long>(a.blocks);
  st.st_atime = a.atime;
  st.st_atime_nsec = nsec(a.atimensec);
  st.st_mtime = a.mtime;
  st.st_mtime_nsec = nsec(a.mtimensec);
  st.st_ctime = a.ctime;
  st.st_ctime_nsec = nsec(a.ctimensec);
  __builtin_memcpy(out, &st, sizeof st);
}

static statx_timestamp stamp(uint64_t sec, uint32_t ns) {
  statx_timestamp out = {};
  out.tv_sec = static_cast<int64_t>(sec);
  out.tv_nsec = nsec(ns);
  return out;
}

void fill_statx(struct statx *out, const fuse_attr &a, const RootFacts &root, bool mount_root) {
  struct statx st;
  __builtin_memset(&st, 0, sizeof st);
  st.stx_mask = root.stx_mask;
  st.stx_blksize = block_size(a, root);
  st.stx_attributes = root.attributes | (mount_root ? STATX_ATTR_MOUNT_ROOT : 0);
  st.stx_attributes_mask = root.attributes_mask;
  st.stx_nlink = a.nlink;
  st.stx_uid = a.uid;
  st.stx_gid = a.gid;
  st.stx_mode = static_cast<uint16_t>(a.mode);
  st.stx_ino = a.ino;
  st.stx_size = a.size;
  st.stx_blocks = a.blocks;
  st.stx_atime = stamp(a.atime, a.atimensec);
  st.stx_mtime = stamp(a.mtime, a.mtimensec);
  st.stx_ctime = stamp(a.ctime, a.ctimensec);
  uint32_t rdev = device_number(a);
  st.stx_rdev_major = (rdev & 0xfff00) >> 8;
  st.stx_rdev_minor = (rdev & 0xff) | ((rdev >> 12) & 0xfff00);
  st.stx_dev_major = root.dev_major;
  st.stx_dev_minor = root.dev_minor;
  st.stx_mnt_id = root.mnt_id;
  __builtin_memcpy(out, &st, sizeof st);
}

void fill_statfs(struct statfs *out, const fuse_kstatfs &s, const RootFacts &root) {
  struct statfs st = {};
  st.f_type = static_cast<long>(root.statfs_type);
  st.f_bsize = s.bsize;
  st.f_blocks = static_cast<long>(s.blocks);
  st.f_bfree = static_cast<long>(s.bfree);
  st.f_bavail = static_cast<long>(s.bavail);
  st.f_files = static_cast<long>(s.files);
  st.f_ffree = static_cast<long>(s.ffree);
  __builtin_memcpy(&st.f_fsid, &root.fsid, sizeof root.fsid);
  st.f_namelen = s.namelen;
  st.f_frsize = s.frsize != 0 ? s.frsize : s.bsize;
  st.f_flags = static_cast<long>(__atomic_load_n(&root.statfs_flags, __ATOMIC_RELAXED));
  __builtin_memcpy(out, &st, sizeof st);
}

// do_faccessat(): EROFS comes before the mode bits on a read-only file system and after them on a read-only mount, so
// where both would speak we do not know which this is.
static bool serve_access(Op *op) {
  const fuse_attr &attr = op->attr.attr;
  int mode = op->access_mode;
  uint32_t flags = op->flags_of_mount;
  uint64_t own_flags = __atomic_load_n(&op->mount->root.statfs_flags, __ATOMIC_RELAXED);
  bool noexec = (flags & SF_MNT_NOEXEC) || (own_flags & kStNoExec);
  if ((mode & kMayExec) && is_regular(attr.mode) && noexec) return op->answer(-EACCES);
  // The daemon decides: only it knows.
  if (!(flags & SF_MNT_DEFAULT_PERMISSIONS)) return op->give_up(SF_MISS_PERMISSION);
  bool read_only = (flags & SF_MNT_READ_ONLY) || (own_flags & kStReadOnly);
  bool plain = is_regular(attr.mode) || is_directory(attr.mode) || is_link(attr.mode);
  Decision decision = permission(*op->creds, flags & ~static_cast<uint32_t>(SF_MNT_READ_ONLY), attr, mode);
  if (decision == Decision::Unknown) return op->give_up(SF_MISS_PERMISSION);
  bool allowed = decision == Decision::Allowed;
  if ((mode & kMayWrite) && read_only && plain) {
    return allowed ? op->answer(-EROFS) : op->give_up(SF_MISS_PERMISSION);
  }
  return op->answer(allowed ? 0 : -EACCES);
}

bool serve_attr(Op *op) {
  if (!op->need_attr()) return false;
  if (!plain_attr(op->attr.attr)) return op->give_up(SF_MISS_UNSUPPORTED);
  if (op->kind == SF_OP_ACCESS) return serve_access(op);
  if (op->wants_atime && (op->attr.flags & SF_RECF_ATIME_STALE)) {
    return op->missing(SF_FIND_ABSENT, SF_MISS_ATTR, SF_HINT_ATTR, op->nid);
  }
  return op->answer(0);
}

bool serve_statfs(Op *op) {
  sf_find find = sf_find_statfs(&op->mount->view, &op->moment, op->statfs);
  if (find != SF_FIND_OK) return op->missing(find, SF_MISS_STATFS, SF_HINT_STATFS, SF_NID_ROOT);
  return op->answer(0);
}

}  // namespace shortfuse::bypass
