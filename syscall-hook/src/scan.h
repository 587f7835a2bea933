/* Looking for bytes in a module's text, 64 positions at a time, for which 65 bytes are read. They use vector registers:
 * for the start of the process only, never inside a system call. */
#ifndef SHORTFUSE_HOOK_SCAN_H
#define SHORTFUSE_HOOK_SCAN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bit i: at[i] is 0f and at[i + 1] is 05, a `syscall` or part of something else. */
uint64_t sf_scan_syscalls(const uint8_t *at);
/* How many of `blocks` of 64 bytes, from the first on, have no such bit: nearly all. */
size_t sf_scan_past_others(const uint8_t *at, size_t blocks);
/* Bit i: at[i] is e9, or 0f and at[i + 1] is 80 to 8f: a near jump, or part of something else. */
uint64_t sf_scan_jumps(const uint8_t *at);

#ifdef __cplusplus
}
#endif
#endif
