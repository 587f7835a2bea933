/* What the stub and the C++ code share: the frame of one intercepted call and the words every thread has.
 * Included by the assembler too. */
#ifndef SHORTFUSE_HOOK_FRAME_H
#define SHORTFUSE_HOOK_FRAME_H

/* Offsets in struct sf_frame. */
#define SF_FRAME_NR 0
#define SF_FRAME_ARG 8
#define SF_FRAME_RESULT 56
#define SF_FRAME_RET 64
#define SF_FRAME_RBP 72
#define SF_FRAME_RBX 80
#define SF_FRAME_R12 88
#define SF_FRAME_R13 96
#define SF_FRAME_R14 104
#define SF_FRAME_R15 112
#define SF_FRAME_PREVIOUS 120
#define SF_FRAME_FAULTED 128
#define SF_FRAME_BYTES 136

#define SF_RED_ZONE 128

/* Offset in struct sf_thread. */
#define SF_THREAD_FRAME 0

/* What the stub does by call number (a byte each): bits. */
#define SF_CALLS 512
#define SF_CLASS_BYPASS 1
#define SF_CLASS_OWN 2
#define SF_CLASS_TRACE 4
#define SF_CLASS_LATER 8   /* patched at start, and let be until a file on a mount is open */

/* What sf_hook_call() says. */
#define SF_MAKE_CALL 0     /* make the original call */
#define SF_HANDLED 1       /* result is in the frame */
#define SF_MAKE_VFORK 2    /* make the original call; its child shares this thread's words */

/* A slot: the code of one patched site, in this library's own text. The first eight bytes are the address behind the
 * site's `syscall`, from which unwinders continue. Most fit into short ones, and every page of them is copied at the
 * start of a process (four of them; nine if all were long). The long ones lie behind, for calls made in the slot. */
#define SF_SLOT_BYTES 32
#define SF_LONG_SLOT_BYTES 128
#define SF_SLOTS_MAX 640       /* of each kind */
#define SF_SLOTS_BYTES (SF_SLOTS_MAX * (SF_SLOT_BYTES + SF_LONG_SLOT_BYTES))
#define SF_SLOT_CODE 8
/* From the `syscall` in a long slot (where the stub returns to, less 2) to the second one, which is for vfork. */
#define SF_SLOT_VFORK 64

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

#include <asm/unistd.h>

#include "shortfuse/bypass/bypass.h"
#include "shortfuse/bypass/syscalls.h"

/* Lies on the stack of the calling thread, below the red zone. */
struct sf_frame {
  struct sf_call call;
  long result;
  uint64_t ret;            /* two behind the `syscall` to make when the call is not ours */
  uint64_t rbp, rbx, r12, r13, r14, r15;
  struct sf_frame *previous;
  uint64_t faulted;        /* enum sf_fault_state */
};

/* What a fault on the caller's memory does to a call. */
enum sf_fault_state {
  SF_FAULT_RECALL = 0,   /* abandon it and make the original call */
  SF_FAULT_RECALLING,    /* that is happening: another fault is a fault of ours */
  SF_FAULT_RESULT,       /* the call has had its effect: it returns -EFAULT */
  SF_FAULT_RETURNING,
};
static_assert(offsetof(sf_frame, result) == SF_FRAME_RESULT && offsetof(sf_frame, ret) == SF_FRAME_RET &&
              offsetof(sf_frame, rbp) == SF_FRAME_RBP && offsetof(sf_frame, r15) == SF_FRAME_R15 &&
              offsetof(sf_frame, previous) == SF_FRAME_PREVIOUS && offsetof(sf_frame, faulted) == SF_FRAME_FAULTED &&
              sizeof(sf_frame) == SF_FRAME_BYTES);

struct sf_thread {
  struct sf_frame *frame;  /* the innermost call in progress; may be stale outside of this library's text */
  uint32_t inert;          /* not 0: a vfork child runs on this thread's words; it gets the kernel's answers */
  uint32_t inert_pid;      /* the process in which `inert` was raised from 0: it is not inert itself; 0: not known */
  uint8_t blocked;         /* which of SIGSEGV and SIGBUS the program believes blocked, see faults.cc */
  uint8_t blocked_for_child; /* of them, those that a vfork blocks in the kernel meanwhile */
  uint8_t pad[2];
};
static_assert(offsetof(sf_thread, frame) == SF_THREAD_FRAME);

extern "C" {
extern __thread struct sf_thread sf_hook_thread;
extern uint8_t sf_hook_class[SF_CALLS];

/* Whether the caller is a vfork child. */
inline bool sf_hook_is_inert(void) {
  return __builtin_expect(sf_hook_thread.inert != 0, 0) &&
         (sf_hook_thread.inert_pid == 0 || sf_hook_thread.inert_pid != (uint32_t)SF_SYS0(__NR_getpid));
}

/* stub.S */
void sf_hook_enter(void);        /* jumped to by slots; rcx: where the call may be made, plus 2 */
void sf_hook_after_vfork(void);  /* jumped to after a call made by SF_MAKE_VFORK; rcx: where to go on */
void sf_hook_bail(void);         /* the fault handler continues here, rbp = frame */
void sf_hook_fault_entry(void);  /* the kernel's entry for SIGSEGV and SIGBUS */
void sf_hook_handler_0(void);    /* the kernel's entries for signals that the program handles */
void sf_hook_handler_1(void);
void sf_hook_cancel_entry(void); /* the kernel's entry for the signal that cancels threads */
void sf_hook_restorer(void);
extern uint8_t sf_hook_slots[SF_SLOTS_BYTES];

/* Called by the stub. */
int sf_hook_call(struct sf_frame *frame);
int sf_hook_abandon(struct sf_frame *frame);
void sf_hook_vforked(void);
}
#endif
#endif
