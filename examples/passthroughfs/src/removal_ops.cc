/* Names that go or move. The nodes behind them live on until the kernel forgets them. */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "filesystem.h"

namespace shortfuse::passthrough {
namespace {

void remove_name(fuse_req_t req, fuse_ino_t parent, const char* name, int flags) {
  Filesystem& fs = filesystem_of(req);
  const Inode* dir = node_of(req, parent);
  if (!dir || !name_ok(req, name)) return;
  int error = 0;
  {
    ActingAs caller(fs.callers, req);
    error = caller.error();
    if (!error && unlinkat(dir->fd, name, flags) != 0) error = errno;
  }
  reply_error(req, error);
}

void on_unlink(fuse_req_t req, fuse_ino_t parent, const char* name) { remove_name(req, parent, name, 0); }
void on_rmdir(fuse_req_t req, fuse_ino_t parent, const char* name) { remove_name(req, parent, name, AT_REMOVEDIR); }

void on_rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
               unsigned flags) {
  Filesystem& fs = filesystem_of(req);
  const Inode* from = node_of(req, parent);
  if (!from) return;
  const Inode* to = node_of(req, new_parent);
  if (!to || !name_ok(req, name) || !name_ok(req, new_name)) return;
  int error = 0;
  {
    ActingAs caller(fs.callers, req);
    error = caller.error();
    if (!error && syscall(SYS_renameat2, from->fd, name, to->fd, new_name, flags) != 0) error = errno;
  }
  // As the kernel does where a file system does not know the flags.
  reply_error(req, error == ENOSYS ? EINVAL : error);
}

}  // namespace

void add_removal_operations(fuse_lowlevel_ops* ops) {
  ops->unlink = on_unlink;
  ops->rmdir = on_rmdir;
  ops->rename = on_rename;
}

}  // namespace shortfuse::passthrough
