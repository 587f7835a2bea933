/* What is created belongs to the caller: the source's file system sees the caller's identity and umask, and so gives
 * out owners, set-group-ID inheritance, default ACLs and quota as it would without us. */
#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "filesystem.h"

namespace shortfuse::passthrough {
namespace {

using Entry = std::expected<fuse_entry_param, int>;

/// The mode to create with. Where a thread cannot have a umask of its own, a default ACL is looked for by hand.
mode_t creation_mode(fuse_req_t req, const Inode& dir, mode_t mode) {
  const fuse_ctx* context = fuse_req_ctx(req);
  if (set_thread_umask(context->umask)) return mode;
  if (getxattr(ProcName(dir.fd).absolute(), "system.posix_acl_default", nullptr, 0) >= 0) return mode;
  return mode & ~context->umask;
}

/// A set-group-ID bit in the mode of a new file stays for members of the group only.
CallerNeeds creation_needs(mode_t mode) { return {.groups = (mode & S_ISGID) != 0}; }

/// Runs `make(dir, mode)`, which returns 0 or -1, as the caller; then the new name is looked up.
template <typename Make>
void create_and_enter(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, Make make) {
  Filesystem& fs = filesystem_of(req);
  const Inode* dir = node_of(req, parent);
  if (!dir || !name_ok(req, name)) return;
  Entry entry = [&]() -> Entry {
    ActingAs caller(fs.callers, req, creation_needs(mode));
    if (caller.error()) return std::unexpected(caller.error());
    if (make(dir->fd, creation_mode(req, *dir, mode)) != 0) return std::unexpected(errno);
    return with_descriptors(fs, [&] { return enter(fs, *dir, name); });
  }();
  reply_entry(req, entry);
}

void on_mknod(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, dev_t device) {
  create_and_enter(req, parent, name, mode, [=](int dir, mode_t m) { return mknodat(dir, name, m, device); });
}

void on_mkdir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode) {
  create_and_enter(req, parent, name, mode, [=](int dir, mode_t m) { return mkdirat(dir, name, m); });
}

void on_symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name) {
  create_and_enter(req, parent, name, 0, [=](int dir, mode_t) { return symlinkat(target, dir, name); });
}

void on_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char* name) {
  const Inode* inode = node_of(req, ino);
  if (!inode) return;
  int proc = filesystem_of(req).source.proc_fd();
  create_and_enter(req, parent, name, 0, [=](int dir, mode_t) {
    return linkat(proc, ProcName(inode->fd).relative(), dir, name, AT_SYMLINK_FOLLOW);
  });
}

/// The file is always new. One that appeared behind the kernel's back has not been checked for this caller: ESTALE
/// makes the kernel look again, check, and open it, or fail as it should.
std::expected<UniqueFd, int> create_file(Filesystem& fs, fuse_req_t req, const Inode& dir, const char* name,
                                         mode_t mode, int flags) {
  ActingAs caller(fs.callers, req, creation_needs(mode));
  if (caller.error()) return std::unexpected(caller.error());
  int create_flags = (source_flags(fs, flags) & ~O_TRUNC) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  UniqueFd fd(openat(dir.fd, name, create_flags, creation_mode(req, dir, mode)));
  if (fd) return fd;
  return std::unexpected(errno == EEXIST && !(flags & O_EXCL) ? ESTALE : errno);
}

void on_create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* fi) {
  Filesystem& fs = filesystem_of(req);
  const Inode* dir = node_of(req, parent);
  if (!dir || !name_ok(req, name)) return;
  auto fd = with_descriptors(fs, [&] { return create_file(fs, req, *dir, name, mode & 07777, fi->flags); });
  if (!fd) return reply_error(req, fd.error());
  // From the descriptor, not by name: another file may have the name by now.
  auto found = with_descriptors(fs, [&] { return fs.source.hold(fd->get()); });
  if (!found) return reply_error(req, found.error());
  auto entry = enter(fs, std::move(*found));
  if (!entry) return reply_error(req, entry.error());
  if (int error = register_file(fs, req, entry->ino, std::move(*fd), fi)) {
    fs.inodes.forget(entry->ino, 1);
    return reply_error(req, error);
  }
  if (fuse_reply_create(req, &*entry, fi) != 0) {
    drop_file(fs, fi->fh);
    fs.inodes.forget(entry->ino, 1);
  }
}

}  // namespace

void add_creation_operations(fuse_lowlevel_ops* ops) {
  ops->mknod = on_mknod;
  ops->mkdir = on_mkdir;
  ops->symlink = on_symlink;
  ops->link = on_link;
  ops->create = on_create;
}

}  // namespace shortfuse::passthrough
