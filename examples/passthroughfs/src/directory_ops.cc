/* Directories: the source's own stream, with the source's own offsets.
 *
 * An entry's offset is the source's cookie, so telldir() and seekdir() mean what they mean there, also while entries
 * come and go. Entries are fetched in blocks; those that did not fit into a reply wait for the next, which continues
 * without a seek if it asks for the place where the last one ended. */
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <vector>

#include "filesystem.h"

namespace shortfuse::passthrough {
namespace {

constexpr size_t kBlock = 32768;
constexpr size_t kMaxReply = 1 << 20;

/// Makes `directory` stand at `offset`. Returns 0 or an errno.
int seek_to(OpenDirectory* directory, off_t offset) {
  // From the start everything is read again, as rewinddir() promises.
  bool continues = directory->fresh ? offset == 0 : offset != 0 && offset == directory->offset;
  if (continues) return 0;
  if (lseek(directory->fd, offset, SEEK_SET) < 0) return errno;
  directory->position = directory->length = 0;
  directory->offset = offset;
  return 0;
}

/// The entry the stream stands at; nullptr with *error 0 at the end.
const dirent64* next_entry(OpenDirectory* directory, int* error) {
  *error = 0;
  if (directory->position == directory->length) {
    if (!directory->entries) directory->entries.reset(new char[kBlock]);
    ssize_t length = getdents64(directory->fd, directory->entries.get(), kBlock);
    if (length < 0) *error = errno;
    if (length <= 0) return nullptr;
    directory->position = 0;
    directory->length = static_cast<size_t>(length);
  }
  directory->fresh = false;
  return reinterpret_cast<const dirent64*>(directory->entries.get() + directory->position);
}

bool is_dot(const char* name) { return !strcmp(name, ".") || !strcmp(name, ".."); }

/// One reply being put together.
class Listing {
 public:
  Listing(fuse_req_t req, const Inode& inode, bool root, size_t size, bool plus)
      : fs_(filesystem_of(req)), req_(req), inode_(inode), root_(root), plus_(plus),
        buffer_(new char[size]), size_(size) {}

  /// False: no room left. The entry is then not taken.
  bool add(const dirent64& from) {
    size_t needed = plus_ ? fuse_add_direntry_plus(req_, nullptr, 0, from.d_name, nullptr, 0)
                          : fuse_add_direntry(req_, nullptr, 0, from.d_name, nullptr, 0);
    if (needed > size_ - used_) return false;
    fuse_entry_param entry{};  // without a node: the kernel looks the name up when it needs it
    entry.attr.st_ino = fs_.source.shown_ino(inode_.key.dev, from.d_ino, inode_.fd);
    entry.attr.st_mode = static_cast<mode_t>(from.d_type) << 12;
    if (root_ && !strcmp(from.d_name, "..")) entry.attr.st_ino = inode_.key.ino;  // what lies above is not shown
    if (plus_ && !is_dot(from.d_name) && !fs_.pressure.high(fs_.descriptors())) look_up(from.d_name, &entry);
    char* to = buffer_.get() + used_;
    if (plus_) fuse_add_direntry_plus(req_, to, needed, from.d_name, &entry, from.d_off);
    else fuse_add_direntry(req_, to, needed, from.d_name, &entry.attr, from.d_off);
    used_ += needed;
    return true;
  }

  bool empty() const { return used_ == 0; }

  void send() {
    if (fuse_reply_buf(req_, buffer_.get(), used_) == 0) return;
    for (uint64_t node : nodes_) fs_.inodes.forget(node, 1);
  }

 private:
  void look_up(const char* name, fuse_entry_param* entry) {
    auto found = enter(fs_, inode_, name);
    if (!found) return;
    nodes_.push_back(found->ino);
    *entry = *found;
  }

  Filesystem& fs_;
  fuse_req_t req_;
  const Inode& inode_;
  const bool root_, plus_;
  std::unique_ptr<char[]> buffer_;
  size_t size_, used_ = 0;
  std::vector<uint64_t> nodes_;
};

int fill(Filesystem& fs, fuse_req_t req, OpenDirectory* directory, off_t offset, Listing* listing) {
  // Names are looked up as the caller only where the source shall check him.
  std::optional<ActingAs> caller;
  if (!fs.settings.default_permissions) caller.emplace(fs.callers, req);
  if (caller && caller->error()) return caller->error();
  std::lock_guard guard(directory->mutex);
  if (int error = seek_to(directory, offset)) return error;
  for (;;) {
    int error;
    const dirent64* entry = next_entry(directory, &error);
    if (!entry) return error;
    if (!listing->add(*entry)) return 0;
    directory->position += entry->d_reclen;
    directory->offset = entry->d_off;
  }
}

void read_directory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, const fuse_file_info* fi, bool plus) {
  Filesystem& fs = filesystem_of(req);
  const Inode* inode = node_of(req, ino);
  if (!inode) return;
  OpenDirectory* directory = directory_of(req, fi);
  if (!directory) return;
  Listing listing(req, *inode, ino == InodeTable::kRoot, size < kMaxReply ? size : kMaxReply, plus);
  int error = fill(fs, req, directory, offset, &listing);
  // An error after some entries will be met again by the next call.
  if (error && listing.empty()) return reply_error(req, error);
  listing.send();
}

void on_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, fuse_file_info* fi) {
  read_directory(req, ino, size, offset, fi, false);
}

void on_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, fuse_file_info* fi) {
  read_directory(req, ino, size, offset, fi, true);
}

void drop_directory(Filesystem& fs, uint64_t handle) {
  OpenDirectory* directory = fs.directories.find(handle);
  if (!directory) return;
  int fd = directory->fd;
  directory->entries.reset();
  fs.directories.retire(handle);
  close(fd);
}

std::expected<UniqueFd, int> open_directory(Filesystem& fs, fuse_req_t req, const Inode& inode) {
  ActingAs caller(fs.callers, req);
  if (caller.error()) return std::unexpected(caller.error());
  UniqueFd fd(fs.source.reopen(inode.fd, O_RDONLY | O_DIRECTORY));
  if (!fd) return std::unexpected(errno);
  return fd;
}

void on_opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  Filesystem& fs = filesystem_of(req);
  const Inode* inode = node_of(req, ino);
  if (!inode) return;
  auto fd = with_descriptors(fs, [&] { return open_directory(fs, req, *inode); });
  if (!fd) return reply_error(req, fd.error());
  auto [id, directory] = fs.directories.reserve();
  if (id == 0) return reply_error(req, ENFILE);
  directory->fd = fd->release();
  directory->position = directory->length = 0;
  directory->offset = 0;
  directory->fresh = true;
  fs.directories.publish(id);
  fi->fh = id;
  fi->keep_cache = fi->cache_readdir = fs.settings.cache == CacheMode::kAlways;
  if (fuse_reply_open(req, fi) != 0) drop_directory(fs, id);
}

void on_releasedir(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  drop_directory(filesystem_of(req), fi->fh);
  fuse_reply_err(req, 0);
}

void on_fsyncdir(fuse_req_t req, fuse_ino_t, int only_data, fuse_file_info* fi) {
  const OpenDirectory* directory = directory_of(req, fi);
  if (!directory) return;
  reply_error(req, (only_data ? fdatasync(directory->fd) : fsync(directory->fd)) == 0 ? 0 : errno);
}

}  // namespace

void add_directory_operations(fuse_lowlevel_ops* ops) {
  ops->opendir = on_opendir;
  ops->readdir = on_readdir;
  ops->readdirplus = on_readdirplus;
  ops->releasedir = on_releasedir;
  ops->fsyncdir = on_fsyncdir;
}

}  // namespace shortfuse::passthrough
