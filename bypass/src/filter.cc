// Has the process been started under a filter of system calls that may kill it?
//
// What a filter does with a call cannot be asked; a call that it kills for cannot be tried. Filters of services
// (systemd's SystemCallFilter=) and of sandboxes kill as a rule; that which a container's runtime lays over all of it
// answers with an error, and lies on its first process too. So: as many filters as process 1 has are no danger.
#include "kernel.h"
#include "process.h"
#include "text.h"

namespace shortfuse::bypass {
namespace {

struct Filters {
  bool known;
  uint64_t mode;   // 0: none
  uint64_t count;  // 0 where the kernel does not tell
};

constexpr size_t kLineMax = 64;  // of what is looked for; longer lines are cut
constexpr char kFirst = 'S';     // of what is looked for

// False: nothing else matters. Without a mode there is no filter; where there is one, the count comes behind it.
bool take_line(const char *line, Filters *out) {
  uint64_t *to = nullptr;
  if (text_starts(line, "Seccomp:")) to = &out->mode;
  if (text_starts(line, "Seccomp_filters:")) to = &out->count;
  if (to == nullptr) return true;
  *to = 0;
  for (; *line != 0; ++line) {
    if (*line >= '0' && *line <= '9') *to = *to * 10 + static_cast<uint64_t>(*line - '0');
  }
  return to != &out->mode || out->mode != 0;
}

Filters filters_of(const char *status) {
  Filters out = {};
  const long fd = SF_SYS4(__NR_openat, AT_FDCWD, status, O_RDONLY | O_CLOEXEC, 0);
  if (is_error(fd)) return out;
  char text[2048], line[kLineMax + 1];
  size_t used = 0;
  bool passed = false;  // what this line begins with is not looked for
  long n;
  bool more = true;
  while (more && (n = SF_SYS3(__NR_read, fd, text, sizeof text)) > 0) {
    for (const char *p = text, *end = text + n; more && p != end;) {
      if (passed || (used == 0 && *p != kFirst)) {
        passed = true;
        while (p != end && *p != '\n') ++p;
        if (p != end) passed = false, ++p;
        continue;
      }
      if (*p != '\n') {
        if (used < kLineMax) line[used++] = *p;
        ++p;
        continue;
      }
      line[used] = 0;
      used = 0;
      more = take_line(line, &out);
      ++p;
    }
  }
  out.known = !more || n == 0;
  SF_SYS1(__NR_close, fd);
  return out;
}

}  // namespace

bool filter_may_kill(char **envp) {
  const Filters ours = filters_of("/proc/self/status");
  if (ours.known && ours.mode == 0) return false;
  for (char **e = envp; e != nullptr && *e != nullptr; ++e) {
    if (text_is(*e, "SHORTFUSE_FILTERED=1")) return false;
  }
  const Filters first = filters_of("/proc/1/status");
  return !ours.known || !first.known || first.mode != ours.mode || first.count != ours.count;
}

}  // namespace shortfuse::bypass
