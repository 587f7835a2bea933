// shortfuse-bench-worker: loops one operation after the other on one directory and prints nanoseconds per call.
//
// It is run once per variant and round, with the hook preloaded or not, and knows nothing of it. Each operation is
// measured in batches that are long enough for the clock (calibrated to a few milliseconds); the median of the batches
// is printed, so that an interruption spoils one batch and not the figure. What a call returns is checked once before
// and counted during the loop: a call that fails fast is no result.
//
//     shortfuse-bench-worker DIRECTORY MILLISECONDS      DIRECTORY as shortfuse-bench has made it
//     -> one line per operation: name, ns per call
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "layout.h"

namespace {

using shortfuse::bench::kMicroFiles;
using shortfuse::bench::micro_file_name;

constexpr double kBatchNs = 2e6;
constexpr unsigned kBatchesMin = 5;

[[noreturn]] void die(const std::string &what) {
  perror(what.c_str());
  exit(1);
}

void expect(bool condition, const std::string &what) {
  if (!condition) die(what);
}

double now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

/// Runs `call` for about `budget_ns`; it does `calls` calls per run and returns how many went as expected.
void measure(const char *name, unsigned calls, double budget_ns, const std::function<unsigned()> &call) {
  for (int i = 0; i < 3; i++) expect(call() == calls, std::string(name) + ": a call failed");
  unsigned repeat = 1;
  const auto batch = [&] {
    unsigned good = 0;
    const double start = now_ns();
    for (unsigned i = 0; i < repeat; i++) good += call();
    const double took = now_ns() - start;
    expect(good == repeat * calls, std::string(name) + ": a call failed in the loop");
    return took;
  };
  while (batch() < kBatchNs / 2 && repeat < (1u << 24)) repeat *= 2;
  std::vector<double> per_call;
  const double end = now_ns() + budget_ns;
  do per_call.push_back(batch() / repeat / calls);
  while (now_ns() < end || per_call.size() < kBatchesMin);
  std::nth_element(per_call.begin(), per_call.begin() + static_cast<long>(per_call.size() / 2), per_call.end());
  printf("%s %.3f\n", name, per_call[per_call.size() / 2]);
  fflush(stdout);
}

void measure_stats(const std::string &directory, double budget_ns) {
  const std::string one = directory + "/" + micro_file_name(500), missing = directory + "/no-such-file";
  std::vector<std::string> names;
  for (unsigned i = 0; i < kMicroFiles; i++) names.push_back(directory + "/" + micro_file_name(i));
  struct stat st;
  measure("stat", 1, budget_ns, [&] { return stat(one.c_str(), &st) == 0 ? 1u : 0u; });
  measure("stat_1000", kMicroFiles, budget_ns, [&] {
    unsigned good = 0;
    for (const auto &name : names) good += stat(name.c_str(), &st) == 0;
    return good;
  });
  measure("stat_missing", 1, budget_ns, [&] { return stat(missing.c_str(), &st) != 0 && errno == ENOENT ? 1u : 0u; });
  const int fd = open(one.c_str(), O_RDONLY | O_CLOEXEC);
  expect(fd >= 0, one);
  measure("fstat", 1, budget_ns, [&] { return fstat(fd, &st) == 0 ? 1u : 0u; });
  close(fd);
  measure("access", 1, budget_ns, [&] { return access(one.c_str(), R_OK) == 0 ? 1u : 0u; });
}

void measure_contents(const std::string &directory, double budget_ns) {
  const std::string one = directory + "/" + micro_file_name(501);
  char block[4096];
  const int fd = open(one.c_str(), O_RDONLY | O_CLOEXEC);
  expect(fd >= 0, one);
  measure("pread_4k", 1, budget_ns, [&] { return pread(fd, block, sizeof block, 0) == sizeof block ? 1u : 0u; });
  close(fd);
  measure("open_close", 1, budget_ns, [&] {
    const int opened = open(one.c_str(), O_RDONLY | O_CLOEXEC);
    return opened >= 0 && close(opened) == 0 ? 1u : 0u;
  });
  std::vector<std::string> names;
  for (unsigned i = 0; i < kMicroFiles; i++) names.push_back(directory + "/" + micro_file_name(i));
  struct stat st;
  // The four calls together are one.
  measure("open_read_1000", kMicroFiles, budget_ns, [&] {
    unsigned good = 0;
    for (const auto &name : names) {
      const int opened = open(name.c_str(), O_RDONLY | O_CLOEXEC);
      good += opened >= 0 && fstat(opened, &st) == 0 && read(opened, block, sizeof block) == sizeof block;
      if (opened >= 0) close(opened);
    }
    return good;
  });
  DIR *stream = opendir(directory.c_str());
  expect(stream != nullptr, directory);
  // The whole directory is one call: "." and ".." come on top.
  measure("readdir_1000", 1, budget_ns, [&] {
    unsigned entries = 0;
    rewinddir(stream);
    while (readdir(stream) != nullptr) entries++;
    return entries == kMicroFiles + 2 ? 1u : 0u;
  });
  closedir(stream);
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: shortfuse-bench-worker DIRECTORY MILLISECONDS (shortfuse-bench starts it)\n");
    return 2;
  }
  const double budget_ns = atof(argv[2]) * 1e6;
  measure_stats(argv[1], budget_ns);
  measure_contents(argv[1], budget_ns);
  return 0;
}
