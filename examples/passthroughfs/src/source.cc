#include "source.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <mutex>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif

namespace shortfuse::passthrough {
namespace {

constexpr unsigned kWanted = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID;
constexpr uint64_t kInoBits = 48;  // of a number on a device other than the source's own
constexpr uint64_t kDeviceIndices = 1 << 15;

/// File systems whose numbers come from a server or a daemon, which may reuse one while we hold the old file.
bool reuses_numbers(const struct statfs& fs) {
  switch (static_cast<uint32_t>(fs.f_type)) {
    case 0x6969:      // NFS
    case 0x65735546:  // FUSE
    case 0xFF534D42:  // CIFS
    case 0xFE534D42:  // SMB2
    case 0x517B:      // SMB
    case 0x01021997:  // 9P
    case 0x00C36400:  // Ceph
    case 0x5346414F:  // AFS
    case 0x73757245:  // Coda
      return true;
    default:
      return false;
  }
}

uint64_t mix(uint64_t hash, uint64_t value) {
  hash ^= value;
  hash *= 0x9E3779B97F4A7C15ull;
  return hash ^ hash >> 29;
}

uint64_t hash_of_handle(int fd) {
  alignas(file_handle) unsigned char space[sizeof(file_handle) + MAX_HANDLE_SZ] = {};
  auto* handle = reinterpret_cast<file_handle*>(space);
  handle->handle_bytes = MAX_HANDLE_SZ;
  int mount_id;
  if (name_to_handle_at(fd, "", handle, &mount_id, AT_EMPTY_PATH) != 0) return 0;
  uint64_t hash = mix(1, static_cast<uint64_t>(handle->handle_type));
  for (unsigned i = 0; i < handle->handle_bytes; ++i) hash = mix(hash, space[sizeof(file_handle) + i]);
  return hash | 1;
}

timespec time_of(const statx_timestamp& stamp) { return {stamp.tv_sec, stamp.tv_nsec}; }

struct stat to_stat(const struct statx& from) {
  struct stat to {};
  to.st_dev = makedev(from.stx_dev_major, from.stx_dev_minor);
  to.st_ino = from.stx_ino;
  to.st_mode = from.stx_mode;
  to.st_nlink = from.stx_nlink;
  to.st_uid = from.stx_uid;
  to.st_gid = from.stx_gid;
  to.st_rdev = makedev(from.stx_rdev_major, from.stx_rdev_minor);
  to.st_size = static_cast<off_t>(from.stx_size);
  to.st_blksize = from.stx_blksize;
  to.st_blocks = static_cast<blkcnt_t>(from.stx_blocks);
  to.st_atim = time_of(from.stx_atime);
  to.st_mtim = time_of(from.stx_mtime);
  to.st_ctim = time_of(from.stx_ctime);
  return to;
}

int open_inside_mount(int dir, const char* name) {
  open_how how{};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_NO_XDEV;
  return static_cast<int>(syscall(SYS_openat2, dir, name, &how, sizeof how));
}

}  // namespace

bool valid_name(const char* name) {
  if (name[0] == '\0' || strchr(name, '/')) return false;
  return strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

ProcName::ProcName(int fd) { snprintf(text, sizeof text, "/proc/self/fd/%d", fd); }

uint64_t device_of_mount(const char* path) {
  UniqueFd fd(::open(path, O_PATH | O_CLOEXEC));
  struct statx stx;
  // Only the mount id is asked for, which the kernel answers by itself.
  if (!fd || statx(fd.get(), "", AT_EMPTY_PATH, STATX_MNT_ID, &stx) != 0) return 0;
  return makedev(stx.stx_dev_major, stx.stx_dev_minor);
}

int Source::open_proc() {
  proc_.reset(::open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
  return proc_ ? 0 : errno;
}

std::expected<Found, int> Source::open(const std::string& path, bool follow_mounts) {
  follow_mounts_ = follow_mounts;
  UniqueFd fd;
  if (!follow_mounts) {
    // A private copy of the one mount, as `mount --bind` makes it; it takes privileges, else look_up() refuses.
    fd.reset(static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | O_CLOEXEC)));
  }
  if (!fd) fd.reset(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!fd) return std::unexpected(errno);
  struct stat attr;
  struct statfs fs;
  if (fstatat(fd.get(), "", &attr, AT_EMPTY_PATH) != 0 || fstatfs(fd.get(), &fs) != 0) return std::unexpected(errno);
  if (!S_ISDIR(attr.st_mode)) return std::unexpected(ENOTDIR);
  root_dev_ = attr.st_dev;
  root_device_ = {0, reuses_numbers(fs)};
  return describe(std::move(fd));
}

Source::Device Source::device(uint64_t dev, int fd) const {
  if (dev == root_dev_) return root_device_;
  {
    std::shared_lock guard(devices_mutex_);
    if (auto known = devices_.find(dev); known != devices_.end()) return known->second;
  }
  struct statfs fs {};
  bool reused = fstatfs(fd, &fs) != 0 || reuses_numbers(fs);
  std::unique_lock guard(devices_mutex_);
  unsigned index = 1 + static_cast<unsigned>(devices_.size() % (kDeviceIndices - 1));
  return devices_.try_emplace(dev, Device{index, reused}).first->second;
}

uint64_t Source::shown_ino(uint64_t dev, uint64_t ino, int fd) const {
  if (dev == root_dev_) return ino;
  uint64_t low = ino >> kInoBits ? mix(ino, ino) & ((1ull << kInoBits) - 1) : ino;
  return static_cast<uint64_t>(device(dev, fd).index) << kInoBits | low;
}

std::expected<Found, int> Source::describe(UniqueFd fd) const {
  struct statx stx;
  if (statx(fd.get(), "", AT_EMPTY_PATH, kWanted, &stx) != 0) return std::unexpected(errno);
  Found found;
  found.attr = to_stat(stx);
  uint64_t dev = found.attr.st_dev;
  found.key = {stx.stx_mask & STATX_MNT_ID ? stx.stx_mnt_id : 0, dev, stx.stx_ino};
  found.version.type = stx.stx_mode & S_IFMT;
  if (device(dev, fd.get()).numbers_reused) {
    if (stx.stx_mask & STATX_BTIME) {
      found.version.birth_ns = static_cast<uint64_t>(stx.stx_btime.tv_sec) * 1'000'000'000 + stx.stx_btime.tv_nsec;
    }
    found.version.handle_hash = hash_of_handle(fd.get());
  }
  found.attr.st_ino = shown_ino(dev, stx.stx_ino, fd.get());
  found.fd = std::move(fd);
  return found;
}

/// `name` is, or may be, the root of another mount.
std::expected<UniqueFd, int> Source::cross(int dir, uint64_t dir_mount_id, const char* name) const {
  UniqueFd fd(openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return std::unexpected(errno);
  struct statx stx;
  if (statx(fd.get(), "", AT_EMPTY_PATH, STATX_MNT_ID, &stx) != 0) return std::unexpected(errno);
  if (own_dev_ != 0 && makedev(stx.stx_dev_major, stx.stx_dev_minor) == own_dev_) return std::unexpected(ELOOP);
  if (!follow_mounts_ && stx.stx_mnt_id != dir_mount_id) return std::unexpected(EXDEV);
  return fd;
}

std::expected<Found, int> Source::look_up(int dir, uint64_t dir_mount_id, const char* name) const {
  UniqueFd fd(open_inside_mount(dir, name));
  if (!fd) {
    // EXDEV: a mount point. ENOSYS, EPERM: no openat2() here, or a sandbox that does not know it.
    if (errno != EXDEV && errno != ENOSYS && errno != EPERM) return std::unexpected(errno);
    auto crossed = cross(dir, dir_mount_id, name);
    if (!crossed) return std::unexpected(crossed.error());
    fd = std::move(*crossed);
  }
  return describe(std::move(fd));
}

std::expected<Found, int> Source::hold(int fd) const {
  UniqueFd path_fd(openat(proc_.get(), ProcName(fd).relative(), O_PATH | O_CLOEXEC));
  if (!path_fd) return std::unexpected(errno);
  return describe(std::move(path_fd));
}

NodeKey Source::key_of(const char* path) const {
  UniqueFd fd(::open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return {};
  auto found = describe(std::move(fd));
  return found ? found->key : NodeKey{};
}

int Source::reopen(int path_fd, int flags) const {
  return openat(proc_.get(), ProcName(path_fd).relative(), flags | O_CLOEXEC);
}

int Source::attributes(int fd, struct stat* attr) const {
  if (fstatat(fd, "", attr, AT_EMPTY_PATH) != 0) return errno;
  attr->st_ino = shown_ino(attr->st_dev, attr->st_ino, fd);
  return 0;
}

}  // namespace shortfuse::passthrough
