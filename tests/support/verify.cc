#include "support/verify.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <stdexcept>

#include "support/shared.h"

namespace shortfuse::tests {

namespace {

struct Wrong : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct Gone {};

std::string listing_of(const std::string &path) {
  DIR *dir = opendir(path.c_str());
  if (dir == nullptr) return "";
  std::vector<std::string> names;
  errno = 0;
  while (dirent *entry = readdir(dir))
    names.push_back(std::string(entry->d_name) + " " + std::to_string(entry->d_type));
  int error = errno;
  closedir(dir);
  errno = error;
  std::sort(names.begin(), names.end());
  std::string text;
  for (const auto &name : names) text += name + "\n";
  return error == 0 ? text : "";
}

std::string stat_of(const std::string &path) {
  struct stat st;
  if (lstat(path.c_str(), &st) != 0) return "";
  char text[200];
  std::snprintf(text, sizeof text, "%o %lu %u %u %ld %ld.%ld", st.st_mode, st.st_nlink, st.st_uid, st.st_gid,
                st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
  return text;
}

std::string contents_of(const std::string &path, size_t step) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  std::string text = ".", buffer(step, '\0');
  ssize_t got;
  while ((got = read(fd, buffer.data(), step)) > 0) text.append(buffer, 0, static_cast<size_t>(got));
  int error = errno;
  close(fd);
  errno = error;
  return got < 0 ? "" : text;
}

std::string link_of(const std::string &path) {
  char target[4096];
  ssize_t got = readlink(path.c_str(), target, sizeof target);
  return got < 0 ? "" : std::string(target, static_cast<size_t>(got));
}

std::string xattr_of(const std::string &path) {
  char value[4096];
  ssize_t got = getxattr(path.c_str(), "user.number", value, sizeof value);
  if (got < 0) return errno == ENODATA ? "none" : "";
  return "=" + std::string(value, static_cast<size_t>(got));
}

/// One object below the root and all that is right about it. An answer of "" is a failed call.
struct Known {
  std::string path, stat, contents, listing, link, xattr;
};

std::vector<Known> learn(const std::string &root) {
  std::vector<Known> all;
  for (const auto &entry : std::filesystem::recursive_directory_iterator(root)) {
    Known known;
    std::string path = entry.path().string();
    known.path = path.substr(root.size());
    known.stat = stat_of(path);
    if (entry.is_symlink()) {
      known.link = link_of(path);
    } else if (entry.is_directory()) {
      known.listing = listing_of(path);
    } else {
      known.contents = contents_of(path, 65536);
      known.xattr = xattr_of(path);
    }
    all.push_back(known);
  }
  return all;
}

void check(const std::string &what, const std::string &path, const std::string &seen, const std::string &right) {
  if (seen == right) return;
  int error = errno;
  if (seen.empty() && (error == ENOTCONN || error == ENOENT || error == ECONNABORTED)) {
    // The caller decides whether the mount may be gone.
    if (error != ENOENT) throw Gone();
  }
  std::string shown =
      seen.empty() ? std::string("failed with ") + strerrorname_np(error) : "gave " + seen.substr(0, 200);
  throw Wrong(what + " of " + path + " " + shown + ", right is " + right.substr(0, 200));
}

void look_at(const Known &known, const std::string &mount, std::mt19937_64 &random) {
  std::string path = mount + known.path;
  check("stat", path, stat_of(path), known.stat);
  if (!known.listing.empty()) check("listing", path, listing_of(path), known.listing);
  if (!known.link.empty()) check("readlink", path, link_of(path), known.link);
  if (!known.contents.empty()) check("contents", path, contents_of(path, 100 + random() % 8000), known.contents);
  if (!known.xattr.empty()) check("getxattr", path, xattr_of(path), known.xattr);
  std::string absent = path + ".absent";
  struct stat st;
  if (stat(absent.c_str(), &st) == 0 || (errno != ENOENT && errno != ENOTDIR)) {
    if (errno == ENOTCONN || errno == ECONNABORTED) throw Gone();
    throw Wrong("stat of a missing name did not say so: " + absent);
  }
}

SF_WORKER(verifier) {
  Shared<Verified> board(args.at(0));
  auto all = learn(args.at(1));
  std::mt19937_64 random(std::stoull(args.at(3)));
  bool tolerate = args.size() > 4;
  board->readers_ready.fetch_add(1);
  try {
    while (board->stop.load() == 0) {
      look_at(all[random() % all.size()], args.at(2), random);
      board->looks.fetch_add(1);
    }
  } catch (const Gone &) {
    if (tolerate) return 0;
    std::fprintf(stderr, "the mount is gone: %s\n", std::strerror(errno));
    return 1;
  } catch (const Wrong &wrong) {
    if (tolerate && !is_mounted(args.at(2))) return 0;
    std::fprintf(stderr, "%s\n", wrong.what());
    return 1;
  }
  return 0;
}

}  // namespace

Spec verifier(const std::string &board, const std::string &source, const std::string &mount, uint64_t seed,
              bool tolerate_gone) {
  std::vector<std::string> args = {board, source, mount, std::to_string(seed)};
  if (tolerate_gone) args.push_back("tolerate-gone");
  return worker("verifier", args, /*hooked=*/true);
}

void look_at_all(const std::string &mount) {
  for (const auto &entry : std::filesystem::recursive_directory_iterator(mount)) {
    if (stat_of(entry.path().string()).empty()) throw Broken("cannot stat " + entry.path().string());
  }
}

}  // namespace shortfuse::tests
