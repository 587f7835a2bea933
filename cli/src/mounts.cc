#include "mounts.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

namespace shortfuse::cli {

namespace {

/// "\040" -> " "
std::string unescape(std::string_view text) {
  std::string out;
  const auto octal = [&](size_t i) { return i < text.size() && text[i] >= '0' && text[i] <= '7'; };
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] == '\\' && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
      out.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0')));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::optional<MountEntry> parse_line(const std::string &line) {
  std::istringstream words(line);
  std::vector<std::string> field{std::istream_iterator<std::string>(words), {}};
  const auto dash = std::find(field.begin(), field.end(), "-");
  if (dash - field.begin() < 6 || field.end() - dash < 3) return std::nullopt;
  return MountEntry{.point = unescape(field[4]), .fstype = unescape(dash[1]), .source = unescape(dash[2])};
}

bool lies_in(const std::string &path, const std::string &directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) && (path.size() == directory.size() || path[directory.size()] == '/');
}

}  // namespace

std::vector<MountEntry> parse_mountinfo(std::string_view text) {
  std::vector<MountEntry> table;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    if (auto entry = parse_line(line)) table.push_back(std::move(*entry));
  }
  return table;
}

std::vector<MountEntry> mount_table() {
  std::ifstream file("/proc/self/mountinfo");
  return parse_mountinfo(std::string(std::istreambuf_iterator<char>(file), {}));
}

std::optional<MountEntry> mounted_at(const std::vector<MountEntry> &table, const std::string &point) {
  const auto found = std::find_if(table.rbegin(), table.rend(), [&](const MountEntry &e) { return e.point == point; });
  if (found == table.rend()) return std::nullopt;
  return *found;
}

std::optional<MountEntry> mount_of(const std::vector<MountEntry> &table, const std::string &path) {
  std::optional<MountEntry> best;
  for (const auto &entry : table) {
    if (lies_in(path, entry.point) && (!best || entry.point.size() >= best->point.size())) best = entry;
  }
  return best;
}

std::string canonical(const std::string &path) {
  std::error_code failed;
  std::string plain = std::filesystem::absolute(path, failed).lexically_normal().string();
  if (failed) return path;
  while (plain.size() > 1 && plain.ends_with('/')) plain.pop_back();
  if (mounted_at(mount_table(), plain)) return plain;
  const auto resolved = std::filesystem::weakly_canonical(plain, failed);
  return failed ? plain : resolved.string();
}

std::string describe_absence(const std::string &point) {
  const auto table = mount_table();
  if (const auto entry = mounted_at(table, point)) {
    if (!entry->is_fuse()) return point + ": mounted, but not a FUSE file system (" + entry->fstype + ")";
    return point + ": mounted (" + entry->fstype +
           "), but not accelerated: its daemon was started without a bpftime= option, is not reachable for this user, "
           "or has died";
  }
  const auto around = mount_of(table, point);
  if (around && around->point != "/" && around->is_fuse()) {
    return point + ": not a mount point; it lies in the mount " + around->point;
  }
  return point + ": not a mount point";
}

}  // namespace shortfuse::cli
