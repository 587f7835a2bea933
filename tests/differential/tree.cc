// Two trees, whole.
#include <dirent.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>

#include "differential/differ.h"
#include "support/harness.h"

namespace shortfuse::tests {

namespace {

struct Described {
  std::string text;
  uint64_t ino;
};

std::string xattrs_of(const std::string &path) {
  char names[65536], value[65536];
  ssize_t length = llistxattr(path.c_str(), names, sizeof names);
  std::vector<std::string> lines;
  for (ssize_t at = 0; at < length;) {
    std::string name = names + at;
    ssize_t size = lgetxattr(path.c_str(), name.c_str(), value, sizeof value);
    lines.push_back(name + "=" + std::string(value, size > 0 ? static_cast<size_t>(size) : 0) + ";");
    at += static_cast<ssize_t>(name.size() + 1);
  }
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const auto &line : lines) text += line;
  return text;
}

Described describe(const std::string &path, const std::string &named) {
  struct stat st;
  if (lstat(path.c_str(), &st) != 0) return {"vanished", 0};
  bool directory = S_ISDIR(st.st_mode);
  char head[200];
  std::snprintf(head, sizeof head, "mode %o uid %u gid %u nlink %lu size %ld mtime %ld ", st.st_mode, st.st_uid,
                st.st_gid, directory ? 0ul : static_cast<unsigned long>(st.st_nlink),
                directory ? 0l : static_cast<long>(st.st_size),
                !S_ISFIFO(st.st_mode) && st.st_mtim.tv_sec < 1'000'000'000 ? static_cast<long>(st.st_mtim.tv_sec) : 0l);
  std::string text = head + xattrs_of(path);
  if (S_ISLNK(st.st_mode)) {
    std::string target = std::filesystem::read_symlink(path).string();
    size_t at = target.find(named);
    if (at != std::string::npos) target.replace(at, named.size(), "ROOT");
    text += " -> " + target;
  }
  if (S_ISREG(st.st_mode)) text += " contents " + std::to_string(std::hash<std::string>()(read_file(path)));
  return {text, st.st_ino};
}

std::map<std::string, Described> walk(const std::string &root, const std::string &named) {
  std::map<std::string, Described> found;
  std::vector<std::string> pending = {""};
  while (!pending.empty()) {
    std::string at = pending.back();
    pending.pop_back();
    found[at] = describe(root + at, named);
    DIR *dir = at.empty() || found[at].text.starts_with("mode 4") ? opendir((root + at).c_str()) : nullptr;
    if (dir == nullptr) continue;
    while (dirent *entry = readdir(dir)) {
      std::string name = entry->d_name;
      if (name != "." && name != "..") pending.push_back(at + "/" + name);
    }
    closedir(dir);
  }
  return found;
}

}  // namespace

void compare_trees(const std::string &mount, const std::string &plain, const std::string &mount_named) {
  auto ours = walk(mount, mount_named), theirs = walk(plain, plain);
  std::map<uint64_t, uint64_t> same;
  for (const auto &[path, what] : theirs) {
    auto found = ours.find(path);
    if (found == ours.end()) throw Mismatch("only in the plain directory: " + path + " " + what.text);
    if (found->second.text != what.text) {
      throw Mismatch("trees differ at " + path + "\n  mount: " + found->second.text + "\n  plain: " + what.text);
    }
    auto [known, fresh] = same.emplace(what.ino, found->second.ino);
    if (!fresh && known->second != found->second.ino) throw Mismatch("one file, two inode numbers: " + path);
  }
  for (const auto &[path, what] : ours) {
    if (!theirs.contains(path)) throw Mismatch("only on the mount: " + path + " " + what.text);
  }
}

}  // namespace shortfuse::tests
