/* What the system calls in a module's own text could do unseen. */
#ifndef SHORTFUSE_HOOK_JUDGE_H
#define SHORTFUSE_HOOK_JUDGE_H

#include "modules.h"

enum sf_verdict {
  SF_RAW_HARMLESS = 0,
  SF_RAW_DESCRIPTORS = 1, /* open, close or move descriptors, or hand them on */
  SF_RAW_PROCESS = 2,     /* change the process, or anything: the number is not a constant */
};

/* Pure; as long as a pass over the text. */
enum sf_verdict sf_judge(const struct sf_module *module);

#endif
