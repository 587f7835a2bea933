/* The calls that the hook itself has to do something about: processes, threads, signals. */
#ifndef SHORTFUSE_HOOK_CALLS_H
#define SHORTFUSE_HOOK_CALLS_H

#include <stdint.h>

/* Fills the stub's table: which call numbers come here at all. After sf_bypass_start(). */
void sf_calls_start(void);

/* When all sites have their slots: calls that are wanted later only go their way, past two instructions. */
void sf_calls_rest(void);

/* Whether calls of this number have to be seen once any call is served, because they change what a descriptor or a
 * name means. Others may be missed: they are then simply answered by the kernel. */
int sf_call_is_critical(int32_t nr);

/* The original call of an abandoned one: made by the stub (SF_MAKE_CALL), or here, where programs of a trace want to
 * see what it returns. */
struct sf_frame;
int sf_call_make_traced(struct sf_frame *frame);

/* Whether something has to be done after a call of this number was made. */
int sf_call_needs_own_syscall(int32_t nr);

#endif
