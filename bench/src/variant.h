// The four ways to the same directory that are compared.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "process.h"

namespace shortfuse::bench {

/// Where the programs under test are.
struct Installation {
  std::string passthroughfs, shortfuse, hook, policy, worker, fio_jobs;
  /// Beside this executable, in a build tree or installed.
  static Installation find();
};

struct Variant {
  std::string name;         ///< a stable word, for JSON
  std::string title;        ///< for people
  std::string directory;    ///< where to work
  bool hooked = false;
  std::string options;      ///< of passthroughfs; "" when nothing is mounted
  /// What a process needs that works on this variant.
  std::map<std::string, std::string> environment(const Installation &installation) const;
};

/// One passthroughfs over `source`, unmounted and ended when the object goes.
class Mount {
 public:
  /// Throws Failure with the daemon's own words when it does not come up.
  Mount(const Installation &installation, const std::string &source, const std::string &point,
        const std::string &options, const std::string &log);
  ~Mount();
  Mount(const Mount &) = delete;

 private:
  std::string point_;
  std::optional<Background> daemon_;
};

/// Calls of hooked processes on a mount so far; zeroes when the mount cannot be asked.
struct Served {
  uint64_t served = 0, missed = 0, passed = 0;
  static Served ask(const Installation &installation, const std::string &point);
};

}  // namespace shortfuse::bench
