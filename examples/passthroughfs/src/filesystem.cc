#include "filesystem.h"

#include <unistd.h>

#include "report.h"

namespace shortfuse::passthrough {
namespace {

/// What the kernel may do by itself, and what it shall leave to us.
void on_init(void* userdata, fuse_conn_info* conn) {
  auto& fs = *static_cast<Filesystem*>(userdata);
  auto want = [&](unsigned flag, bool on) {
    if (on && (conn->capable & flag)) conn->want |= flag;
    if (!on) conn->want &= ~flag;
  };
  // The source applies the umask, as only it knows the default ACLs that stand in for it.
  want(FUSE_CAP_DONT_MASK, true);
  // The source strips set-ID bits and file capabilities, as it does for any writer.
  want(FUSE_CAP_HANDLE_KILLPRIV, true);
  want(FUSE_CAP_POSIX_ACL, fs.settings.acl && fs.settings.xattr && fs.settings.default_permissions);
  want(FUSE_CAP_WRITEBACK_CACHE, fs.settings.writeback && fs.settings.cache != CacheMode::kNone);
  want(FUSE_CAP_CACHE_SYMLINKS, fs.settings.cache != CacheMode::kNone);
  // Splicing a request out of the device costs every small one a system call more than it saves the large ones.
  want(FUSE_CAP_SPLICE_READ, false);
  if (fs.conn_options) fuse_apply_conn_info_opts(fs.conn_options, conn);
  want(FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS, fs.settings.locks_in_source &&
       (conn->want & FUSE_CAP_POSIX_LOCKS) && (conn->want & FUSE_CAP_FLOCK_LOCKS));
  fs.writeback = (conn->want & FUSE_CAP_WRITEBACK_CACHE) != 0;
  fs.pressure.start(fs.session, fs.single_threaded);
  if (fs.source.open_proc() != 0) report("/proc/self/fd has gone: most operations will fail");
}

}  // namespace

Filesystem::~Filesystem() {
  for (uint64_t i = 1, end = files.extent(); i < end; ++i) drop_file(*this, files.id_at(i));
  for (uint64_t i = 1, end = directories.extent(); i < end; ++i) {
    if (OpenDirectory* dir = directories.find(directories.id_at(i))) close(dir->fd);
  }
}

std::expected<fuse_entry_param, int> enter(Filesystem& fs, Found found) {
  fuse_entry_param entry{};
  entry.attr = found.attr;
  entry.attr_timeout = fs.settings.attr_timeout_s;
  entry.entry_timeout = fs.settings.entry_timeout_s;
  entry.ino = fs.inodes.adopt(&found);
  entry.generation = SlotTable<Inode>::generation(entry.ino);
  if (entry.ino == 0) return std::unexpected(ENFILE);
  fs.pressure.note(fs.descriptors());
  return entry;
}

std::expected<fuse_entry_param, int> enter(Filesystem& fs, const Inode& dir, const char* name) {
  auto found = fs.source.look_up(dir.fd, dir.key.mount_id, name);
  if (!found) return std::unexpected(found.error());
  return enter(fs, std::move(*found));
}

void reply_error(fuse_req_t req, int error) {
  // To FUSE, ENOSYS means "never ask again"; one odd object below must not switch an operation off for all.
  if (error == ENOSYS) error = EOPNOTSUPP;
  // The shortage is ours, not the caller's.
  if (error == EMFILE) error = ENFILE;
  if (error == ENFILE) report_no_descriptors();
  fuse_reply_err(req, error);
}

void reply_entry(fuse_req_t req, const std::expected<fuse_entry_param, int>& entry) {
  if (!entry) return reply_error(req, entry.error());
  Filesystem& fs = filesystem_of(req);  // `req` is gone after the reply
  if (fuse_reply_entry(req, &*entry) != 0) fs.inodes.forget(entry->ino, 1);
}

const Inode* node_of(fuse_req_t req, fuse_ino_t ino) {
  const Inode* inode = filesystem_of(req).inodes.find(ino);
  if (!inode) fuse_reply_err(req, ESTALE);
  return inode;
}

const OpenFile* file_of(fuse_req_t req, const fuse_file_info* fi) {
  const OpenFile* file = filesystem_of(req).files.find(fi->fh);
  if (!file) fuse_reply_err(req, EBADF);
  return file;
}

OpenDirectory* directory_of(fuse_req_t req, const fuse_file_info* fi) {
  OpenDirectory* directory = filesystem_of(req).directories.find(fi->fh);
  if (!directory) fuse_reply_err(req, EBADF);
  return directory;
}

bool name_ok(fuse_req_t req, const char* name) {
  if (valid_name(name)) return true;
  fuse_reply_err(req, EINVAL);
  return false;
}

fuse_lowlevel_ops operations(const Settings& settings) {
  fuse_lowlevel_ops ops{};
  ops.init = on_init;
  add_node_operations(&ops);
  add_setattr_operations(&ops);
  add_creation_operations(&ops);
  add_removal_operations(&ops);
  add_file_operations(&ops);
  add_directory_operations(&ops);
  if (settings.locks_in_source) add_lock_operations(&ops);
  if (settings.xattr) add_xattr_operations(&ops);
  return ops;
}

}  // namespace shortfuse::passthrough
