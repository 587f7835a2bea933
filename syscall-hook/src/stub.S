/* The way of one call from a patched site into C++ and back.
 *
 * A slot arrives here with every register as the site had it, except rcx, which (like r11) a system call destroys
 * anyway: rcx is 2 behind the `syscall` instruction to execute when the call is not ours. That instruction is
 * executed on the caller's stack with the caller's registers, so signals, cancellation and vfork see what they
 * always see; when the call is answered here, execution goes on behind it.
 *
 * Every instruction has unwind information: a slot and the stub look like functions called by the site. */
#include "frame.h"

    .text

#define FRAME_TOTAL (SF_FRAME_BYTES + SF_RED_ZONE)

/* --- a call ------------------------------------------------------------------------------------------------- */
    .balign 64
    .globl sf_hook_enter
    .hidden sf_hook_enter
    .type sf_hook_enter, @function
sf_hook_enter:
    .cfi_startproc
    .cfi_def_cfa rsp, 0
    .cfi_register rip, rcx
    cmpq $SF_CALLS, %rax
    jae 1f
    leaq sf_hook_class(%rip), %r11
    cmpb $0, (%r11,%rax)
    je 1f
    leaq -FRAME_TOTAL(%rsp), %rsp
    .cfi_def_cfa_offset FRAME_TOTAL
    movq %rax, SF_FRAME_NR(%rsp)
    movq %rdi, SF_FRAME_ARG(%rsp)
    movq %rsi, SF_FRAME_ARG+8(%rsp)
    movq %rdx, SF_FRAME_ARG+16(%rsp)
    movq %r10, SF_FRAME_ARG+24(%rsp)
    movq %r8, SF_FRAME_ARG+32(%rsp)
    movq %r9, SF_FRAME_ARG+40(%rsp)
    movq %rcx, SF_FRAME_RET(%rsp)
    .cfi_offset rip, SF_FRAME_RET - FRAME_TOTAL
    movq %rbp, SF_FRAME_RBP(%rsp)
    .cfi_offset rbp, SF_FRAME_RBP - FRAME_TOTAL
    movq %rbx, SF_FRAME_RBX(%rsp)
    movq %r12, SF_FRAME_R12(%rsp)
    movq %r13, SF_FRAME_R13(%rsp)
    movq %r14, SF_FRAME_R14(%rsp)
    movq %r15, SF_FRAME_R15(%rsp)
    movq $0, SF_FRAME_FAULTED(%rsp)
    movq %rsp, %rbp
    .cfi_def_cfa_register rbp
    movq sf_hook_thread@gottpoff(%rip), %r11
    movq %fs:SF_THREAD_FRAME(%r11), %rcx
    movq %rcx, SF_FRAME_PREVIOUS(%rbp)
    movq %rbp, %fs:SF_THREAD_FRAME(%r11)
    andq $-16, %rsp
    movq %rbp, %rdi
    call sf_hook_call
    .balign 1
finish:
    /* eax: SF_MAKE_CALL, SF_HANDLED or SF_MAKE_VFORK */
    movq sf_hook_thread@gottpoff(%rip), %r11
    movq SF_FRAME_PREVIOUS(%rbp), %rcx
    movq %rcx, %fs:SF_THREAD_FRAME(%r11)
    movq SF_FRAME_RET(%rbp), %rcx
    movq SF_FRAME_ARG(%rbp), %rdi
    movq SF_FRAME_ARG+8(%rbp), %rsi
    movq SF_FRAME_ARG+16(%rbp), %rdx
    movq SF_FRAME_ARG+24(%rbp), %r10
    movq SF_FRAME_ARG+32(%rbp), %r8
    movq SF_FRAME_ARG+40(%rbp), %r9
    movq %rbp, %rsp
    .cfi_def_cfa_register rsp
    movq SF_FRAME_RBP(%rsp), %rbp
    .cfi_same_value rbp
    cmpl $SF_HANDLED, %eax
    jne 2f
    movq SF_FRAME_RESULT(%rsp), %rax
    leaq FRAME_TOTAL(%rsp), %rsp
    .cfi_def_cfa_offset 0
    .cfi_register rip, rcx
    jmp *%rcx
2:
    .cfi_def_cfa_offset FRAME_TOTAL
    leaq -2(%rcx), %rcx
    .cfi_register rip, rcx
    testl %eax, %eax
    je 3f
    addq $SF_SLOT_VFORK, %rcx
3:
    movq SF_FRAME_NR(%rsp), %rax
    leaq FRAME_TOTAL(%rsp), %rsp
    .cfi_def_cfa_offset 0
    jmp *%rcx
1:
    leaq -2(%rcx), %rcx
    jmp *%rcx
    .cfi_endproc
    .size sf_hook_enter, . - sf_hook_enter

/* --- after a fault: the handler set rbp to the frame and aligned rsp ------------------------------------------ */
    .globl sf_hook_bail
    .hidden sf_hook_bail
    .type sf_hook_bail, @function
sf_hook_bail:
    .cfi_startproc
    .cfi_def_cfa rbp, FRAME_TOTAL
    .cfi_offset rip, SF_FRAME_RET - FRAME_TOTAL
    .cfi_offset rbp, SF_FRAME_RBP - FRAME_TOTAL
    movq SF_FRAME_RBX(%rbp), %rbx
    movq SF_FRAME_R12(%rbp), %r12
    movq SF_FRAME_R13(%rbp), %r13
    movq SF_FRAME_R14(%rbp), %r14
    movq SF_FRAME_R15(%rbp), %r15
    cld
    movq %rbp, %rdi
    call sf_hook_abandon
    jmp finish
    .cfi_endproc
    .size sf_hook_bail, . - sf_hook_bail

/* --- after vfork, or clone with CLONE_VM | CLONE_VFORK ----------------------------------------------------------
 * The child shares the stack and the thread's words and goes straight on. The parent returns when the child is done
 * with both, so it may use the stack. */
    .globl sf_hook_after_vfork
    .hidden sf_hook_after_vfork
    .type sf_hook_after_vfork, @function
sf_hook_after_vfork:
    .cfi_startproc
    .cfi_def_cfa rsp, 0
    .cfi_register rip, rcx
    testq %rax, %rax
    jne 1f
    jmp *%rcx
1:
    leaq -FRAME_TOTAL(%rsp), %rsp
    .cfi_def_cfa_offset FRAME_TOTAL
    movq %rax, SF_FRAME_NR(%rsp)
    movq %rdi, SF_FRAME_ARG(%rsp)
    movq %rsi, SF_FRAME_ARG+8(%rsp)
    movq %rdx, SF_FRAME_ARG+16(%rsp)
    movq %r10, SF_FRAME_ARG+24(%rsp)
    movq %r8, SF_FRAME_ARG+32(%rsp)
    movq %r9, SF_FRAME_ARG+40(%rsp)
    movq %rcx, SF_FRAME_RET(%rsp)
    .cfi_offset rip, SF_FRAME_RET - FRAME_TOTAL
    movq %rbp, SF_FRAME_RBP(%rsp)
    .cfi_offset rbp, SF_FRAME_RBP - FRAME_TOTAL
    movq %rsp, %rbp
    .cfi_def_cfa_register rbp
    andq $-16, %rsp
    call sf_hook_vforked
    movq %rbp, %rsp
    .cfi_def_cfa_register rsp
    movq SF_FRAME_RBP(%rsp), %rbp
    .cfi_same_value rbp
    movq SF_FRAME_RET(%rsp), %rcx
    .cfi_register rip, rcx
    movq SF_FRAME_ARG(%rsp), %rdi
    movq SF_FRAME_ARG+8(%rsp), %rsi
    movq SF_FRAME_ARG+16(%rsp), %rdx
    movq SF_FRAME_ARG+24(%rsp), %r10
    movq SF_FRAME_ARG+32(%rsp), %r8
    movq SF_FRAME_ARG+40(%rsp), %r9
    movq SF_FRAME_NR(%rsp), %rax
    leaq FRAME_TOTAL(%rsp), %rsp
    .cfi_def_cfa_offset 0
    jmp *%rcx
    .cfi_endproc
    .size sf_hook_after_vfork, . - sf_hook_after_vfork

/* --- signals: the kernel enters here, and the program's own handler is called from here, if any ----------------- */
    .macro signal_entry name, decide, place
    .globl \name
    .hidden \name
    .type \name, @function
\name:
    .cfi_startproc
    pushq %rdi
    .cfi_adjust_cfa_offset 8
    pushq %rsi
    .cfi_adjust_cfa_offset 8
    pushq %rdx
    .cfi_adjust_cfa_offset 8
    movl $\place, %ecx
    call \decide                 /* rax: the program's handler or 0; rdx: for sf_hook_handler_done */
    testq %rax, %rax
    je 1f
    movq %rax, %rcx
    movq 16(%rsp), %rdi
    movq 8(%rsp), %rsi
    movq %rdx, 16(%rsp)
    movq (%rsp), %rdx
    xorl %eax, %eax
    call *%rcx
    movq 16(%rsp), %rdi
    movq (%rsp), %rsi
    call sf_hook_handler_done
1:
    addq $24, %rsp
    .cfi_adjust_cfa_offset -24
    ret
    .cfi_endproc
    .size \name, . - \name
    .endm

    signal_entry sf_hook_fault_entry, sf_hook_fault, 0
    signal_entry sf_hook_handler_0, sf_hook_handler, 0
    signal_entry sf_hook_handler_1, sf_hook_handler, 1

/* --- the signal by which libc cancels threads: libc's own handler is jumped to --------------------------------- */
    .globl sf_hook_cancel_entry
    .hidden sf_hook_cancel_entry
    .type sf_hook_cancel_entry, @function
sf_hook_cancel_entry:
    .cfi_startproc
    pushq %rdi
    .cfi_adjust_cfa_offset 8
    pushq %rsi
    .cfi_adjust_cfa_offset 8
    pushq %rdx
    .cfi_adjust_cfa_offset 8
    call sf_hook_cancelled       /* rax: the handler */
    popq %rdx
    .cfi_adjust_cfa_offset -8
    popq %rsi
    .cfi_adjust_cfa_offset -8
    popq %rdi
    .cfi_adjust_cfa_offset -8
    jmp *%rax
    .cfi_endproc
    .size sf_hook_cancel_entry, . - sf_hook_cancel_entry

/* Unwinders know this place by its code bytes, as they know libc's. */
    .balign 16
    nop
    .globl sf_hook_restorer
    .hidden sf_hook_restorer
    .type sf_hook_restorer, @function
sf_hook_restorer:
    movq $15, %rax
    syscall
    .size sf_hook_restorer, . - sf_hook_restorer

/* --- the slots -------------------------------------------------------------------------------------------------
 * Filled at start, each as
 *     .quad address behind the site's `syscall`
 *     instructions displaced from in front of it
 *     lea  real+2, %rcx ; jmp sf_hook_enter                            (real: the `syscall` of the site)
 * and the long ones, behind the others, with a `real` of their own:
 *   real:  syscall ; displaced instructions behind it ; jmp back
 *   real+SF_SLOT_VFORK:  syscall ; lea back, %rcx ; jmp sf_hook_after_vfork
 * Unwind information for all of them: CFA = rsp, return address = *(pc & -bytes of a slot). */
    .globl sf_hook_stub_end
    .hidden sf_hook_stub_end
sf_hook_stub_end:

    .section .text.sf_hook_slots, "ax", @progbits
    .balign 4096
/* DW_CFA_val_expression r16, 6 bytes: DW_OP_breg16 0; DW_OP_const1s -BYTES; DW_OP_and; DW_OP_deref */
.macro slots name, bytes
    .globl \name
    .hidden \name
    .type \name, @object
\name:
    .cfi_startproc
    .cfi_def_cfa rsp, 0
    .cfi_escape 0x16, 0x10, 0x06, 0x80, 0x00, 0x09, (0x100 - \bytes), 0x1a, 0x06
    .fill SF_SLOTS_MAX * \bytes, 1, 0xcc
    .cfi_endproc
    .size \name, . - \name
.endm
    slots sf_hook_slots, SF_SLOT_BYTES
    slots sf_hook_long_slots, SF_LONG_SLOT_BYTES
    .balign 4096
    .section .note.GNU-stack, "", @progbits
