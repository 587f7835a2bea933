/* The hook: how a file system call in libc comes to sf_bypass_call(), and what its callees may ask of it.
 *
 * Everything here is inside libshortfuse.so; only shortfuse_hook_state() is visible from outside. */
#ifndef SHORTFUSE_HOOK_HOOK_H
#define SHORTFUSE_HOOK_HOOK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Code outside this library's text that runs inside sf_bypass_call() and may touch the caller's memory (a policy
 * image): a fault there abandons the call, as a fault in this library does. At most SF_GUARD_RANGES at a time.
 * Returns 0, or -1 when there is no room (then such code must not be run). Async-signal-safe, any thread. */
#define SF_GUARD_RANGES 32
int sf_hook_guard_range(const void *start, size_t bytes);
void sf_hook_unguard_range(const void *start);

/* Ends all serving in this process, for good: every later call goes to the kernel. For situations in which
 * descriptors or names change where nobody here sees it. Any thread; async-signal-safe; idempotent. */
void sf_hook_switch_off(const char *reason);

/* What the hook did at start; for tests, `shortfuse doctor` and debuggers (dlsym). */
struct sf_hook_window {
  uint64_t address;  /* of the five bytes overwritten by a jump */
  uint32_t slot;     /* its number; 32 bytes each from `slots` on */
  int32_t nr;        /* call number, -1: several */
};
struct sf_hook_state {
  uint32_t format;            /* 1 */
  uint32_t active;            /* 0: this process runs as if the library were not there */
  const char *reason;         /* why not, or NULL */
  uint32_t windows;
  uint32_t sites;             /* `syscall` instructions known in the patched modules */
  uint32_t sites_unpatchable; /* wanted, but left to the kernel: a missed hit each, never a wrong answer */
  uint32_t from_cache;        /* modules whose sites were remembered */
  const struct sf_hook_window *window;
  uint64_t slots, slots_bytes;
};
__attribute__((visibility("default"))) const struct sf_hook_state *shortfuse_hook_state(void);

#ifdef __cplusplus
}
#endif
#endif
