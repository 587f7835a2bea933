// The mount table, as far as the command needs it.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace shortfuse::cli {

struct MountEntry {
  std::string point, fstype, source;
  bool is_fuse() const { return fstype == "fuse" || fstype == "fuseblk" || fstype.starts_with("fuse."); }
};

/// The lines of a mountinfo file; malformed ones are left out. Octal escapes are undone.
std::vector<MountEntry> parse_mountinfo(std::string_view text);
/// Of this process; empty when /proc is not there.
std::vector<MountEntry> mount_table();

/// What is mounted at exactly this place now (the topmost).
std::optional<MountEntry> mounted_at(const std::vector<MountEntry> &table, const std::string &point);
/// The mount that a path lies in.
std::optional<MountEntry> mount_of(const std::vector<MountEntry> &table, const std::string &path);

/// Absolute and without links, ".", ".." as far as it exists; a mount point in the table is believed as it is spelt,
/// because asking a dead or slow file system for it could take for ever.
std::string canonical(const std::string &path);

/// A sentence on why no accelerated mount is found at `point`.
std::string describe_absence(const std::string &point);

}  // namespace shortfuse::cli
