/* Programs of `shortfuse trace`, run around system calls of this process, whether they concern a mount or not.
 *
 * As bypass.h: freestanding, async-signal-safe, re-entered by signal handlers (a call made in one that interrupted a
 * program is not seen by programs, and counted). The caller's memory is read only by copies that a fault ends. */
#ifndef SHORTFUSE_BYPASS_TRACE_H
#define SHORTFUSE_BYPASS_TRACE_H

#include "shortfuse/bypass/bypass.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Once, behind sf_bypass_start(): takes part in the session that SHORTFUSE_TRACE names. Not 0: there is one. */
int sf_trace_start(char **envp);
/* The process is hooked: from now on it counts as traced. `unpatched`: sites of wanted calls that stay as they are.
 * `executed`: the path that the process was executed by (AT_EXECFN), or NULL. */
void sf_trace_begin(unsigned unpatched, const char *executed);
/* Not 0: programs run in this process. */
int sf_trace_on(void);

/* Not 0 when programs are attached to calls of this number: SF_TRACE_SEES, also SF_TRACE_RETURN when to their end. */
#define SF_TRACE_SEES 1
#define SF_TRACE_RETURN 2
int sf_trace_wants(long nr);

/* Before the call. 1: refused, *result is the call's. `borrowed`: a vfork child runs on its parent's thread.
 * *started: for sf_trace_return(), 0 where that is not wanted. */
int sf_trace_enter(const struct sf_call *call, int borrowed, uint64_t *started, long *result);
/* Behind the call. REQUIRES: sf_trace_wants() says SF_TRACE_RETURN. */
void sf_trace_return(const struct sf_call *call, int borrowed, uint64_t started, long result);

/* An execve is about to be made; the number is for sf_trace_exec_failed(). */
int sf_trace_before_exec(const struct sf_call *call, int borrowed);
void sf_trace_exec_failed(int number);
/* The calling thread makes no call any more. */
void sf_trace_thread_exit(void);
/* Another process shares this thread's words without waiting for it, or the calls that tracing makes itself may be
 * forbidden now: nothing is traced here from now on. Counted. */
void sf_trace_leave(void);

/* For libc's signal that cancels threads, whose handler unwinds the stack: a program is running between these two
 * addresses of the thread's stack (machine code of programs has no unwind information). It is forgotten, and the call
 * counted as unseen. Returns 0 where none is, SF_TRACE_BEFORE or SF_TRACE_AFTER the call itself otherwise. */
#define SF_TRACE_BEFORE 1
#define SF_TRACE_AFTER 2
int sf_trace_interrupted(uint64_t stack_low, uint64_t stack_high);

/* For the fault handler: whether the instruction at *rip is such a copy. It goes on at the new *rip. */
int sf_trace_copy_faulted(uint64_t *rip);

#ifdef __cplusplus
}
#endif
#endif
