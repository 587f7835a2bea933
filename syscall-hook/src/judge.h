/* What the system calls in a module's own text could do unseen.
 *
 * Harmless is what was shown to be: the text was read from where it is entered, and the number of each call found is
 * known on all ways to it. What cannot be read counts as the worst. Not promised for text that hides what it does:
 * calls that begin in the middle of another instruction, addresses that are computed, text that nothing names. */
#ifndef SHORTFUSE_HOOK_JUDGE_H
#define SHORTFUSE_HOOK_JUDGE_H

#include "modules.h"

/* Memory for one judgement; the caller maps it and gives it back. */
#define SF_JUDGE_SCRATCH (256u << 10)

enum sf_verdict {
  SF_RAW_HARMLESS = 0,
  SF_RAW_USES = 1,        /* may use descriptors as they are (fstat, mmap): the kernel has to have them open */
  SF_RAW_DESCRIPTORS = 2, /* open, close or move descriptors, or hand them on */
  SF_RAW_PROCESS = 3,     /* change the process, or anything: the number is not a constant */
};

/* As long as a pass or two over the text. REQUIRES: `scratch` is SF_JUDGE_SCRATCH bytes, aligned to 8; what is in it
 * does not matter. */
enum sf_verdict sf_judge(const struct sf_module *module, void *scratch);

#endif
