#include "mount_table.h"

#include <sys/sysmacros.h>

#include <charconv>
#include <fstream>
#include <sstream>
#include <string_view>
#include <vector>

namespace shortfuse::bridge {
namespace {

/// Undoes the octal escapes of blanks and backslashes.
std::string unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); i++) {
    auto digit = [&](size_t k) { return k < text.size() && text[k] >= '0' && text[k] <= '7'; };
    if (text[i] == '\\' && digit(i + 1) && digit(i + 2) && digit(i + 3)) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::vector<std::string> split(const std::string &text, char at) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, at);) parts.push_back(part);
  return parts;
}

uint32_t number(std::string_view text) {
  uint32_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

/// "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"
struct Line {
  uint64_t dev = 0;
  std::string point, options, fstype, source, super_options;
};

std::optional<Line> parse(const std::string &text) {
  std::vector<std::string> f = split(text, ' ');
  size_t dash = 6;
  while (dash < f.size() && f[dash] != "-") dash++;
  if (f.size() < dash + 4 || dash < 6) return std::nullopt;
  Line line;
  const std::vector<std::string> dev = split(f[2], ':');
  if (dev.size() != 2) return std::nullopt;
  line.dev = makedev(number(dev[0]), number(dev[1]));
  line.point = unescape(f[4]);
  line.options = f[5];
  line.fstype = f[dash + 1];
  line.source = unescape(f[dash + 2]);
  line.super_options = f[dash + 3];
  return line;
}

MountEntry entry_of(const Line &line) {
  MountEntry entry;
  entry.dev = line.dev;
  entry.source = line.source;
  entry.fstype = line.fstype;
  for (const std::string &option : split(line.options, ',')) {
    if (option == "ro") entry.read_only = true;
    if (option == "noexec") entry.noexec = true;
  }
  for (const std::string &option : split(line.super_options, ',')) {
    if (option == "ro") entry.read_only = true;
    if (option == "default_permissions") entry.default_permissions = true;
    if (option == "allow_other") entry.allow_other = true;
    if (option.starts_with("user_id=")) entry.owner_uid = number(std::string_view(option).substr(8));
    if (option.starts_with("group_id=")) entry.owner_gid = number(std::string_view(option).substr(9));
  }
  return entry;
}

}  // namespace

std::optional<MountEntry> find_mount(const std::string &mountinfo_path, const std::string &mount_point,
                                     uint64_t known_dev) {
  std::ifstream file(mountinfo_path);
  std::optional<MountEntry> found;
  bool covered = false;
  for (std::string text; std::getline(file, text);) {
    auto line = parse(text);
    if (!line) continue;
    if (line->point == mount_point) {
      const bool fuse = line->fstype == "fuse" || line->fstype.starts_with("fuse.") || line->fstype == "fuseblk";
      if (fuse && (known_dev == 0 || line->dev == known_dev)) {
        found = entry_of(*line);
        covered = false;
      } else {
        covered = true;
      }
    } else if (found && line->point.starts_with(mount_point + "/")) {
      found->submounts = true;
    } else if (found && mount_point.starts_with(line->point + "/")) {
      // Mounted later on a directory above: the path no longer leads to us.
      covered = true;
    }
  }
  if (found) found->on_top = !covered;
  return found;
}

}  // namespace shortfuse::bridge
