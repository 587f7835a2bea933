/* chmod, chown, truncate, utimens: one request of FUSE, several calls below, in the order in which the kernel's own
 * file systems would let them count: owner, mode, size, times. */
#include <fcntl.h>
#include <unistd.h>

#include "filesystem.h"

namespace shortfuse::passthrough {
namespace {

constexpr uid_t kKeepUid = -1;
constexpr gid_t kKeepGid = -1;

bool may_write(const Filesystem& fs, const Inode& inode) {
  return faccessat(fs.source.proc_fd(), ProcName(inode.fd).relative(), W_OK, AT_EACCESS) == 0;
}

int set_owner(const Filesystem& fs, fuse_req_t req, const Inode& inode, uid_t uid, gid_t gid) {
  CallerNeeds needs;
  struct stat now {};
  // A set-group-ID bit without group execution stays for a member of the group: only then the groups matter.
  if (fstatat(inode.fd, "", &now, AT_EMPTY_PATH) == 0) {
    needs.groups = S_ISREG(now.st_mode) && (now.st_mode & (S_ISGID | S_IXGRP)) == S_ISGID;
  }
  ActingAs caller(fs.callers, req, needs);
  if (caller.error()) return caller.error();
  if (fchownat(inode.fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0) return 0;
  int error = errno;
  // Nothing to set: the kernel asks for this before somebody writes; the write will strip what is to be stripped.
  bool precedes = error == EPERM && uid == kKeepUid && gid == kKeepGid && S_ISREG(now.st_mode) && may_write(fs, inode);
  return precedes ? 0 : error;
}

/// Whether this is what the kernel asks for before somebody writes: set-ID bits go, the rest stays, and the caller may
/// write. The write will strip the bits, whoever owns the file.
bool precedes_a_write(const Filesystem& fs, const Inode& inode, mode_t mode) {
  struct stat now;
  if (fstatat(inode.fd, "", &now, AT_EMPTY_PATH) != 0 || !S_ISREG(now.st_mode)) return false;
  mode_t gone = (now.st_mode & 07777) ^ mode;
  return !(gone & ~static_cast<mode_t>(S_ISUID | S_ISGID)) && !(mode & gone) && may_write(fs, inode);
}

int set_mode(const Filesystem& fs, fuse_req_t req, const Inode& inode, mode_t mode) {
  ActingAs caller(fs.callers, req, {.keep_sgid = true});
  if (caller.error()) return caller.error();
  if (fchmodat(fs.source.proc_fd(), ProcName(inode.fd).relative(), mode, 0) == 0) return 0;
  int error = errno;
  return error == EPERM && precedes_a_write(fs, inode, mode) ? 0 : error;
}

/// Part of a chown: the kernel asks for a mode without set-ID bits. The source may have stripped one more than the
/// kernel thought of; none comes back.
int strip_mode(const Filesystem& fs, fuse_req_t req, const Inode& inode, mode_t mode) {
  struct stat now;
  if (fstatat(inode.fd, "", &now, AT_EMPTY_PATH) != 0) return errno;
  mode &= 07777 & (now.st_mode | ~static_cast<mode_t>(S_ISUID | S_ISGID));
  return mode == (now.st_mode & 07777) ? 0 : set_mode(fs, req, inode, mode);
}

int set_size(const Filesystem& fs, fuse_req_t req, const Inode& inode, off_t size, const OpenFile* file) {
  ActingAs caller(fs.callers, req, {.only_powers = file != nullptr});
  if (caller.error()) return caller.error();
  int result = file ? ftruncate(file->fd, size) : truncate(ProcName(inode.fd).absolute(), size);
  return result == 0 ? 0 : errno;
}

int set_times(const Filesystem& fs, fuse_req_t req, const Inode& inode, const struct stat& attr, int to_set) {
  timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
  if (to_set & FUSE_SET_ATTR_ATIME_NOW) times[0].tv_nsec = UTIME_NOW;
  else if (to_set & FUSE_SET_ATTR_ATIME) times[0] = attr.st_atim;
  if (to_set & FUSE_SET_ATTR_MTIME_NOW) times[1].tv_nsec = UTIME_NOW;
  else if (to_set & FUSE_SET_ATTR_MTIME) times[1] = attr.st_mtim;
  ActingAs caller(fs.callers, req);
  if (caller.error()) return caller.error();
  return utimensat(fs.source.proc_fd(), ProcName(inode.fd).relative(), times, 0) == 0 ? 0 : errno;
}

int set_attributes(const Filesystem& fs, fuse_req_t req, const Inode& inode, const struct stat& attr, int to_set,
                   const OpenFile* file) {
  constexpr int kOwner = FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
  constexpr int kTimes =
      FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW;
  int error = 0;
  if (to_set & kOwner) {
    error = set_owner(fs, req, inode, to_set & FUSE_SET_ATTR_UID ? attr.st_uid : kKeepUid,
                      to_set & FUSE_SET_ATTR_GID ? attr.st_gid : kKeepGid);
  }
  if (!error && (to_set & FUSE_SET_ATTR_MODE)) {
    error = to_set & kOwner ? strip_mode(fs, req, inode, attr.st_mode)
                            : set_mode(fs, req, inode, attr.st_mode & 07777);
  }
  if (!error && (to_set & FUSE_SET_ATTR_SIZE)) error = set_size(fs, req, inode, attr.st_size, file);
  if (!error && (to_set & kTimes)) error = set_times(fs, req, inode, attr, to_set);
  if (!error && !(to_set & (kOwner | kTimes | FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_SIZE))) {
    // The caller writes to a file with set-ID bits, or sets its owner to what it is: both strip the bits.
    error = set_owner(fs, req, inode, kKeepUid, kKeepGid);
  }
  return error;
}

void on_setattr(fuse_req_t req, fuse_ino_t ino, struct stat* attr, int to_set, fuse_file_info* fi) {
  Filesystem& fs = filesystem_of(req);
  const Inode* inode = node_of(req, ino);
  if (!inode) return;
  const OpenFile* file = nullptr;
  if (fi && !(file = file_of(req, fi))) return;
  if (int error = set_attributes(fs, req, *inode, *attr, to_set, file)) return reply_error(req, error);
  struct stat now;
  if (int error = fs.source.attributes(inode->fd, &now)) return reply_error(req, error);
  fuse_reply_attr(req, &now, fs.settings.attr_timeout_s);
}

}  // namespace

void add_setattr_operations(fuse_lowlevel_ops* ops) { ops->setattr = on_setattr; }

}  // namespace shortfuse::passthrough
