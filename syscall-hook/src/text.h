/* The few string functions this library needs; it may not call those of libc. */
#ifndef SHORTFUSE_HOOK_TEXT_H
#define SHORTFUSE_HOOK_TEXT_H

#include <stddef.h>
#include <stdint.h>

static inline size_t sf_text_length(const char *text) {
  size_t length = 0;
  while (text[length]) length++;
  return length;
}

static inline int sf_starts_with(const char *text, const char *start) {
  for (; *start; text++, start++)
    if (*text != *start) return 0;
  return 1;
}

static inline int sf_same_text(const char *a, const char *b) {
  for (; *a && *a == *b; a++, b++) {
  }
  return *a == *b;
}

static inline const char *sf_last_part(const char *path) {
  const char *last = path;
  for (; *path; path++)
    if (*path == '/') last = path + 1;
  return last;
}

/* The value of NAME in envp, given "NAME="; NULL where it is not set. */
static inline const char *sf_env(char **envp, const char *name_and_equals) {
  for (; envp && *envp; envp++)
    if (sf_starts_with(*envp, name_and_equals)) return *envp + sf_text_length(name_and_equals);
  return NULL;
}

/* Appends at most `room` - 1 bytes; returns the new length. `to` stays terminated. */
static inline size_t sf_append(char *to, size_t room, size_t length, const char *text) {
  while (*text && length + 1 < room) to[length++] = *text++;
  if (room) to[length < room ? length : room - 1] = 0;
  return length;
}

static inline size_t sf_append_number(char *to, size_t room, size_t length, uint64_t value, unsigned base) {
  char digits[24];
  int at = 23;
  digits[at] = 0;
  do {
    digits[--at] = "0123456789abcdef"[value % base];
    value /= base;
  } while (value && at);
  return sf_append(to, room, length, digits + at);
}

#endif
