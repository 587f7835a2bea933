// For unit tests: a real directory tree, the same tree in a cache, and a policy that serves everything.
//
// The kernel's answer about the directory is what the bypass has to give about the cache: the tree plays the file
// system of a mount whose mount point it is. Numbers of nodes are inode numbers, 1 for the root.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "shortfuse/bypass/bypass.h"
#include "shortfuse/cache/cache.h"
#include "shortfuse/metrics/ops.h"

namespace shortfuse::bypass {

struct Counts {
  uint64_t served = 0, denied = 0, missed = 0, passed = 0;
};

class Tree {
 public:
  /// An empty directory under /tmp. flags: enum sf_mount_flag of the pretended mount.
  explicit Tree(uint32_t mount_flags);
  ~Tree();
  Tree(const Tree &) = delete;

  const std::string &root() const { return root_; }
  std::string path(const std::string &relative) const { return root_ + "/" + relative; }
  void dir(const std::string &relative, unsigned mode = 0755);
  void file(const std::string &relative, const std::string &bytes, unsigned mode = 0644);
  void link(const std::string &relative, const std::string &target);
  void give(const std::string &relative, uid_t uid, gid_t gid);

  /// Copies the whole tree into a new cache and attaches to it. negative: names that do not exist in any directory.
  void attach(const std::vector<std::string> &negative = {});
  void detach();
  cache::Cache &cache() { return *cache_; }
  cache::Nid nid(const std::string &relative) const;

  /// Counters of this process for one operation, or of all.
  static Counts counts(sf_op op);
  static Counts all_counts();
  static uint64_t missed_for(sf_op op, sf_miss why);
  /// The next policy: programs only for these operations, which call what serves them. verdict not 0: return that.
  void policy(const std::vector<sf_op> &ops, int verdict = 0);

 private:
  void fill(const std::string &path, cache::Nid nid, cache::Nid parent, const std::string &name);
  std::string root_;
  uint32_t flags_;
  std::unique_ptr<cache::Cache> cache_;
  std::jthread liveness_;
  std::vector<std::string> negative_;
  std::set<uint64_t> inodes_;
  void *mount_ = nullptr;
  void *policy_ = nullptr;
};

/// A policy image as the daemon publishes it, interpreted: one program per operation.
std::vector<char> make_image(const std::vector<sf_op> &ops, int verdict);

/// A call through the bypass; when it is not handled, as the hook would make it.
long through(long nr, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0);
/// The same call made by the kernel.
long by_kernel(long nr, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0);
template <typename T>
long arg(T *p) { return reinterpret_cast<long>(p); }

}  // namespace shortfuse::bypass
