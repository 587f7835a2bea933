#include "variant.h"

#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

namespace shortfuse::bench {

namespace fs = std::filesystem;

namespace {

constexpr int kMountWaitMs = 10'000;

bool is_mount_point(const std::string &path) {
  struct stat here{}, above{};
  return stat(path.c_str(), &here) == 0 && stat(fs::path(path).parent_path().c_str(), &above) == 0 &&
         here.st_dev != above.st_dev;
}

std::string last_words(const std::string &log) {
  std::ifstream file(log);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  while (text.ends_with('\n')) text.pop_back();
  return text.empty() ? "it said nothing" : text;
}

}  // namespace

Installation Installation::find() {
  const fs::path bin = fs::read_symlink("/proc/self/exe").parent_path();
  const fs::path root = bin.parent_path();
  const auto first = [](std::initializer_list<fs::path> candidates) {
    for (const auto &candidate : candidates) {
      if (fs::exists(candidate)) return candidate.string();
    }
    return candidates.begin()->string();
  };
  const std::string policy = "datacache.bpf.o";
  return {.passthroughfs = bin / "passthroughfs",
          .shortfuse = bin / "shortfuse",
          .hook = first({root / "lib/libshortfuse.so", root / SF_LIBDIR / "libshortfuse.so"}),
          .policy = first({root / "policies" / policy, root / "share/shortfuse/policies" / policy}),
          .worker = bin / "shortfuse-bench-worker",
          .fio_jobs = first({fs::path(SF_FIO_DIR), root / "share/shortfuse/fio"})};
}

std::map<std::string, std::string> Variant::environment(const Installation &installation) const {
  std::map<std::string, std::string> environment{{"LC_ALL", "C"}};
  if (hooked) environment["LD_PRELOAD"] = installation.hook;
  return environment;
}

Mount::Mount(const Installation &installation, const std::string &source, const std::string &point,
             const std::string &options, const std::string &log)
    : point_(point) {
  fs::create_directories(point);
  daemon_.emplace(Command{.argv = {installation.passthroughfs, "-f", source, point, "-o", options}}, log);
  try {
    for (int waited = 0; !is_mount_point(point_); waited += 10) {
      check_interrupted();
      if (!daemon_->running()) throw Failure("passthroughfs -o " + options + ": " + last_words(log));
      if (waited > kMountWaitMs) throw Failure("passthroughfs -o " + options + ": no mount after ten seconds");
      usleep(10'000);
    }
  } catch (...) {
    umount2(point_.c_str(), MNT_DETACH);
    throw;
  }
}

Mount::~Mount() {
  if (umount2(point_.c_str(), MNT_DETACH) == 0) return;
  try {
    // Not root: the set-user-ID helper does it.
    Background unmount({.argv = {"fusermount3", "-u", "-z", point_}}, "/dev/null");
    for (int i = 0; i < 200 && unmount.running(); i++) usleep(10'000);
  } catch (const Failure &) {
    fmt::print(stderr, "shortfuse-bench: {} stays mounted: fusermount3 could not be started\n", point_);
  }
}

Served Served::ask(const Installation &installation, const std::string &point) {
  Served sum;
  const Finished f = run({.argv = {installation.shortfuse, "status", "--json", point}, .keep_output = true});
  const auto json = nlohmann::json::parse(f.output, nullptr, false);
  if (f.status != 0 || !json.is_object() || !json.contains("ops")) return sum;
  for (const auto &[name, op] : json["ops"].items()) {
    sum.served += op.value("served", uint64_t{0}) + op.value("denied", uint64_t{0});
    sum.missed += op.value("missed", uint64_t{0});
    sum.passed += op.value("passed", uint64_t{0});
  }
  return sum;
}

}  // namespace shortfuse::bench
