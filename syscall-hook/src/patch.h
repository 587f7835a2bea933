/* Writing the jumps: the only part that knows how a window and a slot look in machine code. */
#ifndef SHORTFUSE_HOOK_PATCH_H
#define SHORTFUSE_HOOK_PATCH_H

#include "modules.h"
#include "sites.h"

/* Fills the next free slot for `site`. `own_call`: the call is made in the slot even where the site's `syscall`
 * stays, because something has to be done after it. Returns 0, or -1 when no slot is left or the module is too far
 * away. REQUIRES: slots are writable (sf_slots_open). */
int sf_slot_add(const struct sf_module *module, const struct sf_site *site, int own_call);

/* Makes the slots writable (and not executable), and executable again (and not writable). Return 0 or -errno. */
int sf_slots_open(void);
int sf_slots_close(void);

/* Lets every site of `module` that got a slot jump to it. Returns the number of sites, or -errno with nothing changed.
 * REQUIRES: slots are closed, this is the only thread, no signal can be delivered. */
int sf_patch_write(const struct sf_module *module);

/* Windows written so far; for tests and for `doctor`. */
struct sf_window {
  uint64_t address;
  uint32_t slot;
  int32_t nr;
};
extern struct sf_window sf_windows[];
extern unsigned sf_window_count;

#endif
