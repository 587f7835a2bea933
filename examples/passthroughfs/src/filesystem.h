/* The file system: what all operations share, and the ways an operation ends.
 *
 * An operation of FUSE arrives in one of the *_ops.cc files, by theme. It finds its node (node_of), acts as the caller
 * where something is created, changed or decided (ActingAs), and replies once, after it is itself again. */
#pragma once
#include <fuse_lowlevel.h>

#include <atomic>
#include <cerrno>
#include <expected>
#include <memory>
#include <mutex>

#include "caller.h"
#include "inode_table.h"
#include "lock_table.h"
#include "options.h"
#include "pressure.h"
#include "slot_table.h"
#include "source.h"

namespace shortfuse::passthrough {

/// An open file; fi->fh is its number.
struct OpenFile {
  int fd = -1;
  uint64_t node = 0;
  uid_t uid = 0;  ///< who opened it: writes of the kernel's own cache are done in this name
  gid_t gid = 0;
};

/// An open directory with the entries that were read from it but not yet handed on.
struct OpenDirectory {
  int fd = -1;
  std::unique_ptr<char[]> entries;
  size_t position = 0, length = 0;  ///< in `entries`
  off_t offset = 0;                 ///< of the entry at `position`
  bool fresh = true;                ///< nothing was read yet
  std::mutex mutex;
};

struct Filesystem {
  explicit Filesystem(const Settings& given) : settings(given) {}
  ~Filesystem();

  uint64_t descriptors() const { return inodes.size() + files.size(); }  ///< about

  const Settings settings;
  Source source;
  CallerPolicy callers;
  InodeTable inodes;
  SlotTable<OpenFile> files;
  SlotTable<OpenDirectory> directories;
  LockTable locks;
  Pressure pressure{inodes, source};
  fuse_session* session = nullptr;  ///< set before the first request, as is the next
  bool single_threaded = false;
  fuse_conn_info_opts* conn_options = nullptr;
  bool writeback = false;  ///< as agreed with the kernel
};

inline Filesystem& filesystem_of(fuse_req_t req) { return *static_cast<Filesystem*>(fuse_req_userdata(req)); }

/// What `name` in `dir` is, counted as one more lookup. The error is an errno; for want of descriptors at once.
std::expected<fuse_entry_param, int> enter(Filesystem& fs, const Inode& dir, const char* name);
/// The same for an object in hand.
std::expected<fuse_entry_param, int> enter(Filesystem& fs, Found found);

/// The result of a system call: -errno instead of -1.
inline ssize_t negative_errno(ssize_t result) { return result < 0 ? -errno : result; }

/// Runs `attempt`, again as long as it fails for want of descriptors and some become free. Its result is an expected
/// with an errno.
template <typename Attempt>
auto with_descriptors(Filesystem& fs, Attempt attempt) {
  constexpr int kAttempts = 10;
  auto result = attempt();
  for (int i = 1; i < kAttempts; ++i) {
    bool none_left = !result && (result.error() == EMFILE || result.error() == ENFILE);
    if (!none_left || !fs.pressure.wait_for_room()) break;
    result = attempt();
  }
  return result;
}

void reply_error(fuse_req_t req, int error);  ///< 0 for success
/// Replies, and takes the lookup back where the kernel did not get the reply.
void reply_entry(fuse_req_t req, const std::expected<fuse_entry_param, int>& entry);

/// The node, or nullptr after the request was answered with ESTALE.
const Inode* node_of(fuse_req_t req, fuse_ino_t ino);
/// The open file, or nullptr after the request was answered with EBADF.
const OpenFile* file_of(fuse_req_t req, const fuse_file_info* fi);
OpenDirectory* directory_of(fuse_req_t req, const fuse_file_info* fi);
/// Whether `name` may be used; otherwise the request was answered with EINVAL.
bool name_ok(fuse_req_t req, const char* name);

void add_node_operations(fuse_lowlevel_ops* ops);       // lookup, forget, getattr, readlink, access, statfs
void add_setattr_operations(fuse_lowlevel_ops* ops);
void add_creation_operations(fuse_lowlevel_ops* ops);   // mknod, mkdir, symlink, link, create
void add_removal_operations(fuse_lowlevel_ops* ops);    // unlink, rmdir, rename
void add_file_operations(fuse_lowlevel_ops* ops);       // open, read, write, ... ioctl
void add_directory_operations(fuse_lowlevel_ops* ops);
void add_lock_operations(fuse_lowlevel_ops* ops);
void add_xattr_operations(fuse_lowlevel_ops* ops);

/// Fills fi->fh and the caching flags for a file of `node` which `fd` has opened; takes the descriptor. Returns 0 or an
/// errno.
int register_file(Filesystem& fs, fuse_req_t req, uint64_t node, UniqueFd fd, fuse_file_info* fi);
void drop_file(Filesystem& fs, uint64_t handle);
/// The flags for the source's file, from those of the caller.
int source_flags(const Filesystem& fs, int flags);

/// All operations that `settings` ask for.
fuse_lowlevel_ops operations(const Settings& settings);

}  // namespace shortfuse::passthrough
