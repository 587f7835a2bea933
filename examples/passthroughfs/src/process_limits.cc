#include "process_limits.h"

#include <signal.h>
#include <sys/resource.h>

#include <cstdio>

namespace shortfuse::passthrough {
namespace {

/// fs.nr_open: what even root may not exceed. 0 where it cannot be read.
rlim_t highest_limit() {
  unsigned long long value = 0;
  if (FILE* file = fopen("/proc/sys/fs/nr_open", "re")) {
    if (fscanf(file, "%llu", &value) != 1) value = 0;
    fclose(file);
  }
  return value;
}

void raise_descriptors() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  rlim_t highest = highest_limit();
  if (highest > limit.rlim_max || limit.rlim_max == RLIM_INFINITY) {
    rlimit raised{highest, highest};  // root only
    if (highest != 0 && setrlimit(RLIMIT_NOFILE, &raised) == 0) return;
  }
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

void raise_limits() {
  raise_descriptors();
  rlimit any_size{RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_FSIZE, &any_size);  // the caller's own limit is enforced by the kernel, in the caller
  signal(SIGXFSZ, SIG_IGN);
}

}  // namespace shortfuse::passthrough
