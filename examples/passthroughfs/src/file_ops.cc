/* Open files: the source's file is opened once per open file of the mount, so that flags, append mode, flock() and
 * the life of unlinked files are the source's own. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>

#include "filesystem.h"

namespace shortfuse::passthrough {
namespace {

constexpr int kExecFlag = 0x20;  // __FMODE_EXEC: the kernel opens a program

using Opened = std::expected<UniqueFd, int>;

Opened open_as_self(const Filesystem& fs, const Inode& inode, int flags) {
  UniqueFd fd(fs.source.reopen(inode.fd, flags));
  if (!fd) return std::unexpected(errno);
  return fd;
}

Opened open_as_caller(const Filesystem& fs, fuse_req_t req, const Inode& inode, int flags) {
  ActingAs caller(fs.callers, req);
  if (caller.error()) return std::unexpected(caller.error());
  Opened fd = open_as_self(fs, inode, flags);
  // The kernel has granted it, or was not asked; the file belongs to somebody else than the daemon.
  if (!fd && fd.error() == EPERM && (flags & O_NOATIME)) fd = open_as_self(fs, inode, flags & ~O_NOATIME);
  return fd;
}

/// A program may be run by whoever may execute it, even if he may not read it.
Opened open_program(const Filesystem& fs, fuse_req_t req, const Inode& inode, int flags) {
  {
    ActingAs caller(fs.callers, req);
    if (caller.error()) return std::unexpected(caller.error());
    if (faccessat(fs.source.proc_fd(), ProcName(inode.fd).relative(), X_OK, AT_EACCESS) != 0) {
      return std::unexpected(errno);
    }
  }
  return open_as_self(fs, inode, flags);
}

Opened open_source(const Filesystem& fs, fuse_req_t req, const Inode& inode, int flags) {
  int source = source_flags(fs, flags);
  if ((flags & kExecFlag) && !fs.settings.default_permissions) return open_program(fs, req, inode, source);
  Opened fd = open_as_caller(fs, req, inode, source);
  if (fd || !fs.writeback) return fd;
  // The kernel's write-back cache would like to read, too, but the user may only write.
  if (fd.error() == EACCES && (flags & O_ACCMODE) == O_WRONLY) {
    return open_as_caller(fs, req, inode, (source & ~O_ACCMODE) | O_WRONLY);
  }
  // A file that may only be appended to; register_file() takes it out of the cache.
  if (fd.error() == EPERM && (flags & O_APPEND)) return open_as_caller(fs, req, inode, source | O_APPEND);
  return fd;
}

void on_open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  Filesystem& fs = filesystem_of(req);
  const Inode* inode = node_of(req, ino);
  if (!inode) return;
  // Devices and pipes are opened by the kernel itself; opening one here could block for ever.
  if (inode->version.type != S_IFREG) return reply_error(req, EINVAL);
  Opened fd = with_descriptors(fs, [&] { return open_source(fs, req, *inode, fi->flags); });
  if (!fd) return reply_error(req, fd.error());
  if (int error = register_file(fs, req, ino, std::move(*fd), fi)) return reply_error(req, error);
  if (fuse_reply_open(req, fi) != 0) drop_file(fs, fi->fh);
}

void on_release(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  drop_file(filesystem_of(req), fi->fh);
  fuse_reply_err(req, 0);
}

void on_read(fuse_req_t req, fuse_ino_t, size_t size, off_t offset, fuse_file_info* fi) {
  const OpenFile* file = file_of(req, fi);
  if (!file) return;
  fuse_bufvec data = FUSE_BUFVEC_INIT(size);
  data.buf[0].flags = static_cast<fuse_buf_flags>(FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK);
  data.buf[0].fd = file->fd;
  data.buf[0].pos = offset;
  fuse_reply_data(req, &data, FUSE_BUF_SPLICE_MOVE);
}

void on_write_buf(fuse_req_t req, fuse_ino_t, fuse_bufvec* in, off_t offset, fuse_file_info* fi) {
  Filesystem& fs = filesystem_of(req);
  const OpenFile* file = file_of(req, fi);
  if (!file) return;
  fuse_bufvec out = FUSE_BUFVEC_INIT(fuse_buf_size(in));
  out.buf[0].flags = static_cast<fuse_buf_flags>(FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK);
  out.buf[0].fd = file->fd;
  out.buf[0].pos = offset;
  ssize_t written;
  {
    // What the kernel writes back names nobody: then it is whoever opened the file.
    const fuse_ctx* context = fuse_req_ctx(req);
    ActingAs writer(fs.callers, fi->writepage ? file->uid : context->uid, fi->writepage ? file->gid : context->gid,
                    {.only_powers = true});
    written = writer.error() ? -writer.error() : fuse_buf_copy(&out, in, static_cast<fuse_buf_copy_flags>(0));
  }
  if (written < 0) return reply_error(req, static_cast<int>(-written));
  fuse_reply_write(req, static_cast<size_t>(written));
}

/// close() of one descriptor: what the source reports at a close is reported, the process's locks end.
void on_flush(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  Filesystem& fs = filesystem_of(req);
  const OpenFile* file = file_of(req, fi);
  if (!file) return;
  fs.locks.drop_owner(ino, fi->lock_owner);
  int copy = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
  // No descriptor left for the copy: the file's own close will do.
  int error = copy >= 0 && close(copy) != 0 ? errno : 0;
  reply_error(req, error);
}

void on_fsync(fuse_req_t req, fuse_ino_t, int only_data, fuse_file_info* fi) {
  const OpenFile* file = file_of(req, fi);
  if (!file) return;
  reply_error(req, (only_data ? fdatasync(file->fd) : fsync(file->fd)) == 0 ? 0 : errno);
}

void on_fallocate(fuse_req_t req, fuse_ino_t, int mode, off_t offset, off_t length, fuse_file_info* fi) {
  Filesystem& fs = filesystem_of(req);
  const OpenFile* file = file_of(req, fi);
  if (!file) return;
  int error = 0;
  {
    ActingAs caller(fs.callers, req, {.only_powers = true});
    error = caller.error();
    if (!error && fallocate(file->fd, mode, offset, length) != 0) error = errno;
  }
  reply_error(req, error);
}

void on_copy_file_range(fuse_req_t req, fuse_ino_t, off_t offset_in, fuse_file_info* fi_in, fuse_ino_t,
                        off_t offset_out, fuse_file_info* fi_out, size_t length, int flags) {
  Filesystem& fs = filesystem_of(req);
  const OpenFile* in = file_of(req, fi_in);
  if (!in) return;
  const OpenFile* out = file_of(req, fi_out);
  if (!out) return;
  ssize_t copied;
  {
    ActingAs caller(fs.callers, req, {.only_powers = true});
    if (caller.error()) copied = -caller.error();
    else copied = negative_errno(copy_file_range(in->fd, &offset_in, out->fd, &offset_out, length,
                                                 static_cast<unsigned>(flags)));
  }
  if (copied < 0) return reply_error(req, static_cast<int>(-copied));
  fuse_reply_write(req, static_cast<size_t>(copied));
}

void on_lseek(fuse_req_t req, fuse_ino_t, off_t offset, int whence, fuse_file_info* fi) {
  // What the kernel has not written yet would look like a hole: let it take everything for data.
  if (filesystem_of(req).writeback) {
    fuse_reply_err(req, ENOSYS);
    return;
  }
  const OpenFile* file = file_of(req, fi);
  if (!file) return;
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return reply_error(req, EINVAL);
  // The position itself is used by nobody: reads and writes carry their own.
  off_t at = lseek(file->fd, offset, whence);
  if (at < 0) return reply_error(req, errno);
  fuse_reply_lseek(req, at);
}

/// The inode flags and project ids that lsattr and chattr show; anything else is between a program and its device.
void on_ioctl(fuse_req_t req, fuse_ino_t, unsigned command, void*, fuse_file_info* fi, unsigned flags,
              const void* in, size_t in_size, size_t out_size) {
  Filesystem& fs = filesystem_of(req);
  union {
    int number;
    fsxattr attributes;
    char bytes[64];
  } argument{};
  size_t size;
  bool sets = command == FS_IOC_SETFLAGS || command == FS_IOC_FSSETXATTR;
  if (command == FS_IOC_GETFLAGS || command == FS_IOC_SETFLAGS || command == FS_IOC_GETVERSION) size = sizeof(int);
  else if (command == FS_IOC_FSGETXATTR || command == FS_IOC_FSSETXATTR) size = sizeof(fsxattr);
  else return reply_error(req, ENOTTY);
  if ((flags & FUSE_IOCTL_COMPAT) || (sets ? in_size : out_size) < size) return reply_error(req, ENOTTY);
  int fd;
  if (flags & FUSE_IOCTL_DIR) {
    const OpenDirectory* directory = directory_of(req, fi);
    if (!directory) return;
    fd = directory->fd;
  } else {
    const OpenFile* file = file_of(req, fi);
    if (!file) return;
    fd = file->fd;
  }
  if (sets) memcpy(&argument, in, size);
  int error = 0;
  {
    // Old kernels do not check who sets the flags: the caller has to be allowed to by the source.
    ActingAs caller(fs.callers, req, {.unprivileged = sets, .only_powers = !sets});
    error = caller.error();
    if (!error && ioctl(fd, command, &argument) < 0) error = errno;
  }
  if (error) return reply_error(req, error);
  fuse_reply_ioctl(req, 0, &argument, sets ? 0 : size);
}

}  // namespace

int source_flags(const Filesystem& fs, int flags) {
  // O_DIRECT would ask for aligned buffers, which the requests are not; bypassing the kernel's cache of the mount is
  // what the caller meant, see register_file().
  flags &= ~(O_NOFOLLOW | O_CREAT | O_EXCL | O_NOCTTY | O_DIRECT | kExecFlag);
  if (fs.writeback) {
    // The kernel fills up pages by reading and knows the end of the file better than the source.
    if ((flags & O_ACCMODE) == O_WRONLY) flags = (flags & ~O_ACCMODE) | O_RDWR;
    flags &= ~O_APPEND;
  }
  return flags;
}

int register_file(Filesystem& fs, fuse_req_t req, uint64_t node, UniqueFd fd, fuse_file_info* fi) {
  auto [id, file] = fs.files.reserve();
  if (id == 0) return ENFILE;
  const fuse_ctx* context = fuse_req_ctx(req);
  // The kernel writes back where it likes, an appending descriptor only to the end: no cache then.
  bool appends = fs.writeback && (fi->flags & O_APPEND) && (fcntl(fd.get(), F_GETFL) & O_APPEND);
  *file = OpenFile{fd.release(), node, context->uid, context->gid};
  if (const Inode* inode = fs.inodes.find(node)) inode->opens.fetch_add(1, std::memory_order_relaxed);
  fs.files.publish(id);
  fi->fh = id;
  fi->direct_io = fs.settings.cache == CacheMode::kNone || (fi->flags & O_DIRECT) || appends;
  fi->keep_cache = fs.settings.cache == CacheMode::kAlways;
  return 0;
}

void drop_file(Filesystem& fs, uint64_t handle) {
  OpenFile* file = fs.files.find(handle);
  if (!file) return;
  int fd = file->fd;
  if (const Inode* inode = fs.inodes.find(file->node)) inode->opens.fetch_sub(1, std::memory_order_relaxed);
  fs.files.retire(handle);
  close(fd);
}

void add_file_operations(fuse_lowlevel_ops* ops) {
  ops->open = on_open;
  ops->release = on_release;
  ops->read = on_read;
  ops->write_buf = on_write_buf;
  ops->flush = on_flush;
  ops->fsync = on_fsync;
  ops->fallocate = on_fallocate;
  ops->copy_file_range = on_copy_file_range;
  ops->lseek = on_lseek;
  ops->ioctl = on_ioctl;
}

}  // namespace shortfuse::passthrough
