// What the kernel says of our mount: device, owner, options, and whether something lies on top of it.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace shortfuse::bridge {

struct MountEntry {
  uint64_t dev = 0;              ///< as st_dev
  std::string source, fstype;
  uint32_t owner_uid = 0, owner_gid = 0;
  bool default_permissions = false, allow_other = false, read_only = false, noexec = false;
  bool submounts = false;        ///< another mount lies below the mount point
  bool on_top = false;           ///< the last mount at that path is a FUSE file system
};

/// Reads a mountinfo file (proc_pid_mountinfo(5)) for the last FUSE mount at `mount_point`; nothing when there is none.
/// known_dev not 0: that very file system only.
std::optional<MountEntry> find_mount(const std::string &mountinfo_path, const std::string &mount_point,
                                     uint64_t known_dev);

}  // namespace shortfuse::bridge
