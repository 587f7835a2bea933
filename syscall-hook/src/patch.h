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
/* Whether this process may change code and execute it then: tried with a slot. Returns 0 or -errno. */
int sf_slots_try(void);

/* The same for all text of a module. Return 0 or -errno.
 * REQUIRES for what is between the two: this is the only thread, and no signal can be delivered. */
int sf_text_open(const struct sf_module *module);
int sf_text_close(const struct sf_module *module);
/* Gives this process its own copies of the pages that the jump of `site` will be on, one fault each instead of one to
 * read and another one to write. Changes nothing; a site that is not in the text is passed over. REQUIRES: open. */
void sf_text_touch(const struct sf_module *module, const struct sf_site *site);

/* Lets every site of `module` that got a slot jump to it. Returns the number of sites. REQUIRES: open. */
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
