/* fcntl() and flock() locks, passed on to the source. See lock_table.h. */
#include <fcntl.h>
#include <sys/file.h>

#include "filesystem.h"

namespace shortfuse::passthrough {
namespace {

using OwnerPtr = LockTable::OwnerPtr;

/// A write lock takes a descriptor for writing, and one owner has one descriptor: so both, if that can be had.
UniqueFd open_for_locks(Filesystem& fs, const OpenFile& file) {
  for (int mode : {O_RDWR, O_RDONLY, O_WRONLY}) {
    UniqueFd fd(fs.source.reopen(file.fd, mode | O_NONBLOCK));
    if (fd) return fd;
  }
  return {};
}

std::expected<OwnerPtr, int> owner_of(Filesystem& fs, fuse_ino_t ino, const fuse_file_info& fi, const OpenFile& file,
                                      pid_t pid) {
  if (OwnerPtr known = fs.locks.find(ino, fi.lock_owner)) return known;
  UniqueFd fd = open_for_locks(fs, file);
  if (!fd) return std::unexpected(errno);
  return fs.locks.find_or_add(ino, fi.lock_owner, std::move(fd), pid);
}

void on_getlk(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi, struct flock* lock) {
  Filesystem& fs = filesystem_of(req);
  const OpenFile* file = file_of(req, fi);
  if (!file) return;
  auto owner = owner_of(fs, ino, *fi, *file, lock->l_pid);
  if (!owner) return reply_error(req, owner.error());
  fs.locks.test(req, ino, *owner, *lock);
}

void on_setlk(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi, struct flock* lock, int sleep) {
  Filesystem& fs = filesystem_of(req);
  const OpenFile* file = file_of(req, fi);
  if (!file) return;
  // Whoever has no locks has none to give up.
  if (lock->l_type == F_UNLCK && !fs.locks.find(ino, fi->lock_owner)) return reply_error(req, 0);
  auto owner = owner_of(fs, ino, *fi, *file, lock->l_pid);
  if (!owner) return reply_error(req, owner.error());
  fs.locks.set(req, *owner, *lock, sleep != 0);
}

void on_flock(fuse_req_t req, fuse_ino_t, fuse_file_info* fi, int operation) {
  const OpenFile* file = file_of(req, fi);
  if (!file) return;
  filesystem_of(req).locks.set_whole(req, file->fd, operation);
}

}  // namespace

void add_lock_operations(fuse_lowlevel_ops* ops) {
  ops->getlk = on_getlk;
  ops->setlk = on_setlk;
  ops->flock = on_flock;
}

}  // namespace shortfuse::passthrough
