// See log.h.
#include "log.h"

#include <asm/unistd.h>

#include "shortfuse/bypass/syscalls.h"
#include "text.h"

namespace {
bool debug;
}

void sf_log_start(char **envp) {
  const char *level = sf_env(envp, "SHORTFUSE_LOG=");
  debug = level && sf_same_text(level, "debug");
}

void sf_log_debug(const char *what) {
  if (!debug) return;
  char line[200];
  size_t length = sf_append(line, sizeof line, 0, "shortfuse: ");
  length = sf_append(line, sizeof line - 1, length, what);
  length = sf_append(line, sizeof line, length, "\n");
  SF_SYS3(__NR_write, 2, line, length);
}

void sf_log_debug_number(const char *what, int64_t number) {
  if (!debug) return;
  char line[160];
  size_t length = sf_append(line, sizeof line, 0, what);
  if (number < 0) length = sf_append(line, sizeof line, length, "-");
  sf_append_number(line, sizeof line, length, number < 0 ? -(uint64_t)number : (uint64_t)number, 10);
  sf_log_debug(line);
}
