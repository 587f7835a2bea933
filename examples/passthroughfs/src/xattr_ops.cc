/* Extended attributes, ACLs among them. /proc/self/fd/N leads to the object itself, so a symbolic link's own attributes
 * are reached as lgetxattr() would reach them. */
#include <fcntl.h>
#include <linux/limits.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <optional>
#include <string_view>
#include <vector>

#include "filesystem.h"

namespace shortfuse::passthrough {
namespace {

/// Values and lists are the same to FUSE: the size is asked for with size 0, then the bytes with enough room.
void reply_bytes(fuse_req_t req, const char* bytes, size_t length, size_t size) {
  if (size == 0) fuse_reply_xattr(req, length);
  else if (length > size) fuse_reply_err(req, ERANGE);
  else fuse_reply_buf(req, bytes, length);
}

void on_getxattr(fuse_req_t req, fuse_ino_t ino, const char* name, size_t size) {
  Filesystem& fs = filesystem_of(req);
  const Inode* inode = node_of(req, ino);
  if (!inode) return;
  if (size > XATTR_SIZE_MAX) size = XATTR_SIZE_MAX;
  char small[256];
  std::vector<char> large(size > sizeof small ? size : 0);
  char* value = large.empty() ? small : large.data();
  ssize_t length;
  {
    // Where the kernel checks, it has done so, and everybody reads the same value.
    std::optional<ActingAs> caller;
    if (!fs.settings.default_permissions) caller.emplace(fs.callers, req);
    if (caller && caller->error()) length = -caller->error();
    else length = negative_errno(getxattr(ProcName(inode->fd).absolute(), name, value, size));
  }
  if (length < 0) return reply_error(req, static_cast<int>(-length));
  reply_bytes(req, value, static_cast<size_t>(length), size);
}

/// The list is the one that the caller would see: without trusted.* for most.
void on_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size) {
  Filesystem& fs = filesystem_of(req);
  const Inode* inode = node_of(req, ino);
  if (!inode) return;
  std::vector<char> list(size < XATTR_LIST_MAX ? size : XATTR_LIST_MAX);
  ssize_t length;
  {
    ActingAs caller(fs.callers, req, {.only_powers = true});
    if (caller.error()) length = -caller.error();
    else length = negative_errno(listxattr(ProcName(inode->fd).absolute(), list.data(), list.size()));
  }
  if (length < 0) return reply_error(req, static_cast<int>(-length));
  reply_bytes(req, list.data(), static_cast<size_t>(length), size);
}

/// An ACL is a change of mode as well: it takes the set-group-ID bit from a file of a group that the caller is not in.
CallerNeeds change_needs(const Inode& inode, std::string_view name) {
  CallerNeeds needs;
  struct stat now;
  if (name == "system.posix_acl_access" && fstatat(inode.fd, "", &now, AT_EMPTY_PATH) == 0) {
    needs.groups = (now.st_mode & S_ISGID) != 0;
  }
  return needs;
}

void on_setxattr(fuse_req_t req, fuse_ino_t ino, const char* name, const char* value, size_t size, int flags) {
  Filesystem& fs = filesystem_of(req);
  const Inode* inode = node_of(req, ino);
  if (!inode) return;
  int error = 0;
  {
    ActingAs caller(fs.callers, req, change_needs(*inode, name));
    error = caller.error();
    if (!error && setxattr(ProcName(inode->fd).absolute(), name, value, size, flags) != 0) error = errno;
  }
  reply_error(req, error);
}

void on_removexattr(fuse_req_t req, fuse_ino_t ino, const char* name) {
  Filesystem& fs = filesystem_of(req);
  const Inode* inode = node_of(req, ino);
  if (!inode) return;
  int error = 0;
  {
    ActingAs caller(fs.callers, req, change_needs(*inode, name));
    error = caller.error();
    if (!error && removexattr(ProcName(inode->fd).absolute(), name) != 0) error = errno;
  }
  reply_error(req, error);
}

}  // namespace

void add_xattr_operations(fuse_lowlevel_ops* ops) {
  ops->getxattr = on_getxattr;
  ops->listxattr = on_listxattr;
  ops->setxattr = on_setxattr;
  ops->removexattr = on_removexattr;
}

}  // namespace shortfuse::passthrough
