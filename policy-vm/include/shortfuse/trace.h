/* Writing a program for `shortfuse trace`: the one header its .bpf.c includes.
 *
 *     #include <shortfuse/trace.h>
 *     SEC("syscall/openat")      int refuse(struct sf_call_ctx *ctx) { return -ENOSPC; }
 *     SEC("syscall_exit/openat") int seen(struct sf_call_ctx *ctx)   { ... ctx->result, ctx->duration_ns ... }
 *     char LICENSE[] SEC("license") = "GPL";
 *
 * Programs run in the traced processes, around system calls of libc, whether these concern a mount or not. Sections:
 *   syscall/NAME       before the call; NAME is the kernel's (openat, close, clone3, ...; `shortfuse trace --calls`
 *                      lists them), or * for every call that can be traced. 0 lets the call happen, a negative
 *                      errno (to -4095) is its result instead, which libc turns into -1 and errno as it does the
 *                      kernel's; exit and exit_group cannot be refused.
 *   syscall_exit/NAME  when the call has returned, also one that was refused. Not for fork, vfork, clone, clone3,
 *                      execve, execveat, exit and exit_group, which do not return as others do. What the program
 *                      returns has no meaning.
 * Programs of a call run in the order of the objects and in them of the sections; the first refusal ends it.
 *
 * All maps are shared by all traced processes, which write them; a "CPU" is a thread's number among those that run
 * (31 at a time have one of their own, others take turns). Helpers are those of <shortfuse/bpf.h> and the ones below.
 * Constants (`const volatile`) can be set when the trace starts: `shortfuse trace --set NAME=VALUE`. */
#ifndef SHORTFUSE_TRACE_H
#define SHORTFUSE_TRACE_H

#include <shortfuse/policy.h>

#ifdef __bpf__
#define SF_S64 __s64
#else
#define SF_S64 int64_t
#endif

/* A call's number, as in <asm/unistd.h>. As the type of a map's key or of a field it is shown as a name. */
typedef SF_U32 sf_call_nr;
#define SF_CALL_NUMBERS 512

/* Read-only; new fields are appended, as in policy.h. */
struct sf_call_ctx {
  SF_U32 size;
  sf_call_nr nr;
  SF_U64 arg[6];      /* as passed; what they point to is read by bpf_probe_read_user() */
  SF_S64 result;      /* syscall_exit/: -errno for errors; syscall/: 0 */
  SF_U64 duration_ns; /* syscall_exit/: of the call; syscall/: 0 */
  SF_U32 pid, tid;
} SF_BY_NAME;

#ifdef __bpf__
/* ---- helpers with the kernel's numbers and meaning, for these programs only. */
static long (*const bpf_get_current_comm)(void *buf, u32 size) = (void *)16;
/* 0 or -EFAULT; what could not be read is zero. */
static long (*const bpf_probe_read_user)(void *dst, u32 size, const void *from) = (void *)112;
/* The length with its NUL (cut at `size`), or -EFAULT. */
static long (*const bpf_probe_read_user_str)(void *dst, u32 size, const void *from) = (void *)114;
#endif
#endif
