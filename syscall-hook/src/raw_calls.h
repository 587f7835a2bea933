/* System calls that other modules make from text of their own, where no hook sees them.
 *
 * What such a call does to descriptors, offsets, the working directory, the user or the root is not noticed, so a
 * process that has one keeps to the kernel in that respect, and one with calls that only use descriptors opens by the
 * kernel, since they would use what is not open there. The modules of a program are looked at when it begins to
 * use a mount, those that come later (dlopen) before anything more is answered. Verdicts are remembered by build-id,
 * beside the sites of libc (site_cache.h).
 *
 * Not found: code made at run time, and calls that hide (judge.h). */
#ifndef SHORTFUSE_HOOK_RAW_CALLS_H
#define SHORTFUSE_HOOK_RAW_CALLS_H

#include <stdint.h>

#include "modules.h"
#include "site_cache.h"

/* In its low bits how often modules are still looked for that nobody has seen, 0: none; above them, a number of the
 * mapping that may have brought one. Atomic. */
extern uint32_t sf_raw_unseen;
#define SF_RAW_LOOKS 0xffu
/* Read before a call is answered. */
static inline int sf_raw_calls_unseen(void) {
  return (__atomic_load_n(&sf_raw_unseen, __ATOMIC_RELAXED) & SF_RAW_LOOKS) != 0;
}

/* Once, at start. `patched`: the modules whose calls are seen; others of the same name (another namespace has a libc of
 * its own) are judged like any. `place`: where verdicts are remembered; it stays the caller's, for good. */
void sf_raw_calls_start(const struct sf_cache_place *place, const struct sf_auxv *auxv, const struct sf_module *patched,
                        int count);
/* Looks at what is new, and draws the consequences. While the dynamic linker is at work all remains unseen. */
void sf_raw_calls_look(void);
/* A file is about to be mapped executable. Until it has been looked at, offsets are the kernel's. */
void sf_raw_calls_expect(void);
/* 1: no other module makes a system call that could use a descriptor. 0: one does, or may. -1: not known at this
 * moment. Looks at what is new. */
int sf_raw_calls_none(void);

#endif
