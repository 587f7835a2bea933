/* Operations on a node alone: found, forgotten, looked at. */
#include <fcntl.h>
#include <linux/limits.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "filesystem.h"

namespace shortfuse::passthrough {
namespace {

void on_lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  Filesystem& fs = filesystem_of(req);
  const Inode* dir = node_of(req, parent);
  if (!dir || !name_ok(req, name)) return;
  auto entry = with_descriptors(fs, [&]() -> std::expected<fuse_entry_param, int> {
    if (fs.settings.default_permissions) return enter(fs, *dir, name);
    ActingAs caller(fs.callers, req);
    if (caller.error()) return std::unexpected(caller.error());
    return enter(fs, *dir, name);
  });
  if (!entry && entry.error() == ENOENT && fs.settings.negative_timeout_s > 0) {
    fuse_entry_param absent{};
    absent.entry_timeout = fs.settings.negative_timeout_s;
    fuse_reply_entry(req, &absent);
    return;
  }
  reply_entry(req, entry);
}

void on_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count) {
  filesystem_of(req).inodes.forget(ino, count);
  fuse_reply_none(req);
}

void on_forget_multi(fuse_req_t req, size_t count, fuse_forget_data* forgets) {
  Filesystem& fs = filesystem_of(req);
  for (size_t i = 0; i < count; ++i) fs.inodes.forget(forgets[i].ino, forgets[i].nlookup);
  fuse_reply_none(req);
}

void on_getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info*) {
  Filesystem& fs = filesystem_of(req);
  const Inode* inode = node_of(req, ino);
  if (!inode) return;
  struct stat attr;
  if (int error = fs.source.attributes(inode->fd, &attr)) return reply_error(req, error);
  fuse_reply_attr(req, &attr, fs.settings.attr_timeout_s);
}

void on_readlink(fuse_req_t req, fuse_ino_t ino) {
  const Inode* inode = node_of(req, ino);
  if (!inode) return;
  char target[PATH_MAX + 1];
  ssize_t length = readlinkat(inode->fd, "", target, sizeof target);
  if (length < 0) return reply_error(req, errno);
  if (static_cast<size_t>(length) >= sizeof target) return reply_error(req, ENAMETOOLONG);
  target[length] = '\0';
  fuse_reply_readlink(req, target);
}

/// Asked only without default_permissions: may the caller do this to the source's object?
void on_access(fuse_req_t req, fuse_ino_t ino, int mask) {
  Filesystem& fs = filesystem_of(req);
  const Inode* inode = node_of(req, ino);
  if (!inode) return;
  int error = 0;
  {
    ActingAs caller(fs.callers, req, {.unprivileged = true});
    error = caller.error();
    if (!error && syscall(SYS_faccessat2, inode->fd, "", mask, AT_EMPTY_PATH | AT_EACCESS) != 0) error = errno;
  }
  reply_error(req, error);
}

void on_statfs(fuse_req_t req, fuse_ino_t ino) {
  const Inode* inode = node_of(req, ino);
  if (!inode) return;
  struct statvfs stats;
  if (fstatvfs(inode->fd, &stats) != 0) return reply_error(req, errno);
  fuse_reply_statfs(req, &stats);
}

}  // namespace

void add_node_operations(fuse_lowlevel_ops* ops) {
  ops->lookup = on_lookup;
  ops->forget = on_forget;
  ops->forget_multi = on_forget_multi;
  ops->getattr = on_getattr;
  ops->readlink = on_readlink;
  ops->access = on_access;
  ops->statfs = on_statfs;
}

}  // namespace shortfuse::passthrough
