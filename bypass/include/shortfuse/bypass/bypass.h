/* The decision, in the application: is this system call ours, can we answer it, and what remains to be done.
 *
 * Called by the hook on every intercepted system call. Freestanding and async-signal-safe: no libc, no allocation
 * on the hit path, no blocking. Any access to the caller's memory may fault here; the hook then abandons the call in
 * the middle (sf_bypass_abandoned) and makes the original one, so nothing here may hold a lock or leave a half-made
 * change while it touches the caller's memory.
 *
 * It may be re-entered at any point, from a signal handler of the same thread too, and must be: a close() in a handler
 * that interrupts a read() has to be seen, or the table of descriptors would be wrong. Sites whose call number is not
 * a constant (syscall(), libc's set*id in all threads) have to come here as well. */
#ifndef SHORTFUSE_BYPASS_BYPASS_H
#define SHORTFUSE_BYPASS_BYPASS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Arguments as in the registers; nr in rax. */
struct sf_call {
  long nr;
  long arg[6];
};

/* Once, from the library's constructor: no other thread exists. Finds the registry, notes which mounts are announced
 * (quietly nothing when there are none; it attaches at the first use), looks at the descriptors and the working
 * directory inherited. envp for SHORTFUSE_*. auxv_vdso: AT_SYSINFO_EHDR, for the clock. Returns 0 when the process
 * must never use the hook (secure execution, SHORTFUSE_DISABLE, a FUSE daemon). */
int sf_bypass_start(char **envp, unsigned long auxv_vdso);

/* 1: handled, *result is the call's result (-errno for errors); the original call has been made inside, if at all.
 * 0: not ours: make the original call. */
int sf_bypass_call(const struct sf_call *call, long *result);

/* A fault on the caller's memory ended sf_bypass_call(); the original call follows. */
void sf_bypass_abandoned(const struct sf_call *call);

/* Not 0 while a policy runs for this call of this thread: its code has no unwind information. Nothing has been done by
 * then that may not be done again. */
int sf_bypass_in_policy(const struct sf_call *call);

/* Whether sf_bypass_call() may want calls of this number (so the hook patches their sites): not at all; always; or once
 * a file on a mount is open, when `call` is called (any thread, several at once, async-signal-safe). The last two: only
 * because opens may be served, for which it has to see them all; from the start, or once a file is open. After
 * sf_bypass_start(). */
enum { SF_UNWANTED = 0, SF_WANTED, SF_WANTED_LATER, SF_WANTED_FOR_OPENS, SF_WANTED_FOR_OPENS_LATER };
int sf_bypass_wants(long nr);
void sf_bypass_at_first_file(void (*call)(void));

/* Before the process forks, or calls clone/vfork/exec (whatever shares or hands on descriptors): offsets held in this
 * library go back to the kernel. flags: clone flags; exec: 0 and is_exec. Before a thread is made nothing goes back. */
void sf_bypass_before_fork(unsigned long clone_flags, int is_exec);
/* Before an exec in a child that runs on its parent's memory: its own descriptors are not those that are known here. */
void sf_bypass_before_unseen_exec(void);

/* Not 0 when this process has, or had, a mount attached. */
int sf_bypass_in_use(void);

/* Code that makes calls of its own may come: what it uses by descriptor is where the kernel says. */
void sf_bypass_give_back(void);

/* Descriptors may change unseen from now on: nothing is answered by them any more. */
void sf_bypass_descriptors_unseen(const char *why);

/* Opens may be served: every call of this process that takes a descriptor comes here, as far as the patched modules
 * are concerned. code_is_known() tells of the others: 1 when none of them makes system calls of its own, 0 when one
 * does, -1 when it cannot be told at this moment. Asked before the first open, and again after a file was mapped
 * executable. Async-signal-safe. Without this call no open is served. */
void sf_bypass_allow_opens(int (*code_is_known)(void));

/* No call will come here any more: every offset goes back to the kernel. */
void sf_bypass_switch_off(void);

/* Before a filter of system calls is set, under which calls that only we make may be deadly: serves no more, and
 * writes SHORTFUSE_REPORT now. */
void sf_bypass_filtered(void);

/* Before exit_group or the like: writes SHORTFUSE_REPORT. Idempotent per process. */
void sf_bypass_exit(void);
/* A thread is about to end (SYS_exit): gives its lane back. */
void sf_bypass_thread_exit(void);

#ifdef __cplusplus
}
#endif
#endif
