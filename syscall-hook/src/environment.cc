// See environment.h. The values are written over in place, on the stack of the new process, before anybody else has
// looked at them.
#include "environment.h"

#include <asm/unistd.h>

#include "shortfuse/bypass/syscalls.h"
#include "text.h"

namespace {

constexpr size_t kPathMax = 1023;   // of a file that is written at exit
constexpr size_t kShownMax = 100;   // of a value, in the message

bool is_switch(const char *value) { return !*value || ((*value == '0' || *value == '1') && !value[1]); }

bool is_level(const char *value) {
  static const char *const kLevels[] = {"", "off", "info", "debug"};
  for (const char *level : kLevels)
    if (sf_same_text(value, level)) return true;
  return *value == '/' && sf_text_length(value) <= kPathMax;
}

bool is_opener(const char *value) {
  return !*value || sf_same_text(value, "kernel") || sf_same_text(value, "cache");
}

bool is_path(const char *value) { return sf_text_length(value) <= kPathMax; }

// PID.FD.FD.NONCE, as `shortfuse trace` sets it.
bool is_session(const char *value) {
  unsigned dots = 0, digits = 0;
  if (!*value) return true;
  for (; *value; value++) {
    const bool hex = dots == 3 && *value >= 'a' && *value <= 'f';
    if (*value == '.') {
      if (!digits) return false;
      dots++;
      digits = 0;
    } else if ((*value >= '0' && *value <= '9') || hex) {
      digits++;
    } else {
      return false;
    }
  }
  return dots == 3 && digits;
}

struct Variable {
  const char *name_and_equals;
  bool (*is_good)(const char *value);
  const char *known;
  char instead;  // 0: an empty value
};
constexpr Variable kVariables[] = {
    {"SHORTFUSE_DISABLE=", is_switch, "0 or 1 is understood; the hook stays off", '1'},
    {"SHORTFUSE_FILTERED=", is_switch, "0 or 1 is understood; a filter of system calls is taken for deadly", '0'},
    {"SHORTFUSE_LOG=", is_level, "off, info, debug or an absolute path is understood; nothing is logged", 0},
    {"SHORTFUSE_OPEN=", is_opener, "cache or kernel is understood; opens are served from the cache", 0},
    {"SHORTFUSE_REPORT=", is_path, "the path is too long; no report is written", 0},
    {"SHORTFUSE_TRACE=", is_session, "only shortfuse trace sets it; nothing is traced", 0},
};

void complain(const char *entry, const char *known) {
  char line[320];
  size_t length = sf_append(line, sizeof line, 0, "shortfuse: ");
  const size_t shown_from = length;
  length = sf_append(line, length + kShownMax, length, entry);
  for (size_t i = shown_from; i < length; i++)
    if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) line[i] = '?';
  length = sf_append(line, sizeof line, length, ": ");
  length = sf_append(line, sizeof line - 1, length, known);
  length = sf_append(line, sizeof line, length, "\n");
  SF_SYS3(__NR_write, 2, line, length);
}

}  // namespace

void sf_environment_check(char **envp) {
  for (char **entry = envp; entry && *entry; entry++) {
    if (!sf_starts_with(*entry, "SHORTFUSE_")) continue;
    for (const Variable &variable : kVariables) {
      if (!sf_starts_with(*entry, variable.name_and_equals)) continue;
      char *value = *entry + sf_text_length(variable.name_and_equals);
      if (variable.is_good(value)) continue;
      complain(*entry, variable.known);
      value[0] = variable.instead;
      if (variable.instead) value[1] = 0;
    }
  }
}
