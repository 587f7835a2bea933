/* The `syscall` instructions of a module, and for each the window in which a 5-byte jump can stand.
 *
 * A site is believed only when disassembly from the start of its function arrives at it. A window consists of whole
 * instructions that may run elsewhere, and nothing jumps into the part of it that the jump overwrites. Two forms:
 *   BEFORE  the window ends where the `syscall` begins: the instruction itself stays where it is, and a call that
 *           is not ours is made there, at its own address.
 *   AROUND  the window contains the `syscall`; its copy runs in the slot. */
#ifndef SHORTFUSE_HOOK_SITES_H
#define SHORTFUSE_HOOK_SITES_H

#include <stddef.h>
#include <stdint.h>

#include "modules.h"

#define SF_SITES_MAX 1024      /* per module; glibc 2.36 has 526 */
#define SF_WINDOW_MAX 24       /* bytes of a window */
#define SF_JUMP_BYTES 5
#define SF_NR_UNKNOWN (-1)

enum sf_site_form { SF_SITE_NONE = 0, SF_SITE_BEFORE = 1, SF_SITE_AROUND = 2 };

struct sf_site {
  uint32_t syscall_at;   /* relative to the module's base; the window starts `pre_bytes` before it */
  uint32_t hash;         /* of the window's bytes as found */
  int16_t nr;            /* the call's number, or SF_NR_UNKNOWN */
  uint8_t form;          /* enum sf_site_form; NONE: no window, the site stays as it is */
  uint8_t window_bytes;  /* whole instructions, at least SF_JUMP_BYTES */
  uint8_t pre_bytes;     /* of them, those before the `syscall` */
  uint8_t pad[3];
};

static inline uint64_t sf_window_of(const struct sf_module *module, const struct sf_site *site) {
  return module->base + site->syscall_at - site->pre_bytes;
}

/* Memory for one search; the caller maps it and gives it back. */
#define SF_SITES_SCRATCH (1u << 20)

/* Finds all sites of the module. Returns how many, or -1 where the module has no usable function table.
 * REQUIRES: `scratch` is zeroed and SF_SITES_SCRATCH bytes. */
int sf_sites_find(const struct sf_module *module, void *scratch, struct sf_site *sites);

/* The function in whose unwind information an address (relative to the base) lies, up to the next one's start. */
int sf_function_of(const struct sf_module *module, uint32_t at, uint32_t *start, uint32_t *end);

/* What sf_site::hash is. REQUIRES: SF_JUMP_BYTES of them or more. */
uint32_t sf_window_hash(const uint8_t *code, unsigned bytes);

/* Whether the bytes in memory still are what `site` says: the window, its instructions, the `syscall`. */
int sf_site_matches(const struct sf_module *module, const struct sf_site *site);

#endif
