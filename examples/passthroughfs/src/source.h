/* The source directory: reaching its objects, telling them apart, and numbering them truthfully.
 *
 * An object is held by an O_PATH descriptor. It needs no permission on the object, stays with it through renames, and
 * keeps its inode alive, so that a local file system cannot give the inode's number to another file meanwhile. What
 * O_PATH does not allow is done through /proc/self/fd/N, which leads to the object itself, even to a symbolic link.
 *
 * Two descriptors are the same node when (mount, device, inode number) agree. The mount is part of it because a
 * directory that is bound to a second place must not become one directory with two parents. */
#pragma once
#include <sys/stat.h>

#include <atomic>
#include <cstdint>
#include <expected>
#include <shared_mutex>
#include <string>
#include <unordered_map>

#include "unique_fd.h"

namespace shortfuse::passthrough {

struct NodeKey {
  uint64_t mount_id, dev, ino;
  bool operator==(const NodeKey&) const = default;
};

/// What shows that a number has begun a second life although we hold the first: possible only where a server, not this
/// kernel, hands out the numbers. Zero fields are unknown.
struct NodeVersion {
  mode_t type = 0;           ///< S_IFMT
  uint64_t birth_ns = 0;
  uint64_t handle_hash = 0;  ///< of the file handle, on file systems that need it
  bool operator==(const NodeVersion&) const = default;
};

/// An object that was just reached.
struct Found {
  UniqueFd fd;  ///< O_PATH
  NodeKey key;
  NodeVersion version;
  struct stat attr;  ///< st_ino as shown to users
};

/// Errors are positive errno values. Thread-safe after open().
class Source {
 public:
  /// Opens the directory. `follow_mounts` false hides what is mounted below it.
  std::expected<Found, int> open(const std::string& path, bool follow_mounts);
  /// Opens /proc/self/fd; after every fork, as it belongs to one process.
  int open_proc();
  /// The device number of our own mount, which must never be entered: the daemon would wait for itself.
  void set_own_device(uint64_t dev) { own_dev_ = dev; }

  /// The object `name` in the directory `dir`; a symbolic link is not followed. REQUIRES: valid_name(name).
  std::expected<Found, int> look_up(int dir, uint64_t dir_mount_id, const char* name) const;
  /// The object behind an open descriptor.
  std::expected<Found, int> hold(int fd) const;
  /// Opens the object behind an O_PATH descriptor once more; O_CLOEXEC is added.
  int reopen(int path_fd, int flags) const;
  /// The key of the object at a path of the source; all zero where there is none.
  NodeKey key_of(const char* path) const;
  /// Attributes as shown to users. Returns 0 or an errno.
  int attributes(int fd, struct stat* attr) const;
  /// `ino` of device `dev`, such that no two files of the mount have the same number.
  uint64_t shown_ino(uint64_t dev, uint64_t ino, int fd) const;

  int proc_fd() const { return proc_.get(); }

 private:
  struct Device {
    unsigned index;       // 0: the source's own
    bool numbers_reused;  // by a server, although we hold the file
  };
  Device device(uint64_t dev, int fd) const;
  std::expected<Found, int> describe(UniqueFd fd) const;
  std::expected<UniqueFd, int> cross(int dir, uint64_t dir_mount_id, const char* name) const;

  UniqueFd proc_;
  bool follow_mounts_ = true;
  uint64_t own_dev_ = 0;
  uint64_t root_dev_ = 0;
  Device root_device_{};
  mutable std::shared_mutex devices_mutex_;
  mutable std::unordered_map<uint64_t, Device> devices_;  // all but the source's own
};

/// Whether `name` can be one entry of a directory. Anything else would leave the directory.
bool valid_name(const char* name);

/// "N" for the *at calls on Source::proc_fd(), "/proc/self/fd/N" for those without a directory.
struct ProcName {
  explicit ProcName(int fd);
  const char* relative() const { return text + kPrefix; }
  const char* absolute() const { return text; }
  static constexpr int kPrefix = sizeof("/proc/self/fd/") - 1;
  char text[kPrefix + 12];
};

/// The device number of the mount at `path`, without a request to it; 0 where it cannot be had.
uint64_t device_of_mount(const char* path);

}  // namespace shortfuse::passthrough
