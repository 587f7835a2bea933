/* SIGSEGV and SIGBUS: ours first, and exactly the program's whenever the fault is not ours. */
#ifndef SHORTFUSE_HOOK_FAULTS_H
#define SHORTFUSE_HOOK_FAULTS_H

#include "frame.h"

/* Installs the handler; from now on the program's own disposition is a virtual one. `mask`: of the signals that are
 * blocked when the program goes on, from which the two are taken. Returns 0 or -errno.
 * REQUIRES: all signals are blocked. */
int sf_faults_start(uint64_t *mask);

/* rt_sigaction and rt_sigprocmask by the program. Return SF_MAKE_CALL or SF_HANDLED. */
int sf_faults_sigaction(struct sf_frame *frame);
int sf_faults_sigprocmask(struct sf_frame *frame);

/* Before a vfork, and after it in the parent: the child's mask is the kernel's own affair, so the kernel gets what the
 * program believes. */
void sf_faults_before_vfork(void);
void sf_faults_after_vfork(void);

/* Before execve: what the program ignores or blocks is handed on, although our handler stands there. Returns
 * what sf_faults_after_exec() needs when the execve failed. */
uint64_t sf_faults_before_exec(void);
void sf_faults_after_exec(uint64_t changed);

#endif
