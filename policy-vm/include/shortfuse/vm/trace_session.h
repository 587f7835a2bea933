/* What `shortfuse trace` and the processes that it traces share: one file of memory, made by the command, written by
 * all.
 *
 * It begins with this header; behind it lie the storages of the maps. The image is a file of its own, sealed. A process
 * finds both by SHORTFUSE_TRACE=PID.IMAGE.SESSION.NONCE: /proc/PID/fd/IMAGE and /proc/PID/fd/SESSION of the command.
 *
 * The traced processes belong to one user and write the same memory; none of them believes a number in it: sizes come
 * from the image, programs are looked up by checked indices. Freestanding. */
#ifndef SHORTFUSE_VM_TRACE_SESSION_H
#define SHORTFUSE_VM_TRACE_SESSION_H

#include "shortfuse/trace.h"
#include "shortfuse/vm/image.h"
#include "shortfuse/vm/map.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SF_TRACE_ENV "SHORTFUSE_TRACE"
#define SF_TRACE_MAGIC 0x3163617274667573ull
#define SF_TRACE_FORMAT 1
#define SF_TRACE_CHAIN_MAX 8192
#define SF_TRACE_LANES (SF_MAP_CPUS - 1) /* the last "CPU" is for those who found none of their own, in turns */
#define SF_TRACE_EXECS 64

enum sf_trace_side { SF_TRACE_ENTER = 0, SF_TRACE_EXIT = 1, SF_TRACE_SIDES = 2 };

/* A program that was started by a traced process and has not said that it is traced. */
struct sf_trace_exec {
  uint32_t pid;      /* 0: free. Written by CAS, last by who frees it */
  uint32_t by_another_name; /* not 0: what it starts may know itself by another path */
  char path[120];
};

struct sf_trace_session {
  /* Written by the command before anybody sees it. */
  uint64_t magic;
  uint32_t format;
  uint32_t maps;
  uint64_t bytes;              /* of the file */
  uint64_t nonce;
  uint64_t pid_namespace;      /* its inode: thread ids mean the same to all who take part */
  uint64_t map_offset[SF_IMAGE_MAPS_MAX];
  uint16_t chain_of[SF_TRACE_SIDES][SF_CALL_NUMBERS]; /* where in `chain` a call's programs begin; 0: none */
  uint16_t chain[SF_TRACE_CHAIN_MAX];                 /* index in the image + 1; 0 ends a chain */
  /* Written while it is in use; atomics. */
  uint32_t stopped;            /* not 0: no program runs any more (--duration) */
  uint32_t crowd;              /* the thread whose turn it is on the last "CPU"; 0: nobody's */
  uint32_t lane[SF_TRACE_LANES]; /* the thread that has this "CPU"; 0: free */
  uint32_t attached;           /* program starts that are traced */
  uint64_t missed;             /* calls that no program saw, or not to its end */
  uint64_t left;               /* processes that could not be traced to their end */
  uint64_t unpatched;          /* sites of traced calls that could not be patched, the most in one process */
  uint64_t more_execs;         /* that found no room below */
  struct sf_trace_exec exec[SF_TRACE_EXECS];
};

#ifdef __cplusplus
}
#endif
#endif
