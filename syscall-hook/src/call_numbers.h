/* What a system call's number says about what the call may do, unseen (judge.h), and what is known of a register that
 * may hold one. Pure functions. */
#ifndef SHORTFUSE_HOOK_CALL_NUMBERS_H
#define SHORTFUSE_HOOK_CALL_NUMBERS_H

#include <stdint.h>

#include "judge.h"

// What a register may hold: a number that is not negative, or one of
constexpr int16_t kUnset = -1;        // nothing yet: no way arrives here
constexpr int16_t kMixHarmless = -2;  // several numbers, none of which matters
constexpr int16_t kMixUses = -3;
constexpr int16_t kMixDescriptors = -4;
constexpr int16_t kUnknown = -5;

/* `nr`: a number, or one of the above. */
sf_verdict sf_verdict_of(int nr);
/* What a register holds where two ways meet: the worst of both. */
int16_t sf_numbers_joined(int16_t a, int16_t b);

#endif
