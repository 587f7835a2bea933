/* Reading the caller's memory, which may not be there: a fault in here goes on at sf_trace_copy_failed. No stack is
 * used, so there is nothing to put in order.
 *
 *   long sf_trace_copy(void *to, const void *from, size_t bytes)        0
 *   long sf_trace_copy_text(char *to, const char *from, size_t room)    bytes with the NUL; room >= 1 */
    .text
    .globl sf_trace_copy, sf_trace_copy_text, sf_trace_copy_failed
    .hidden sf_trace_copy, sf_trace_copy_text, sf_trace_copy_failed
    .type sf_trace_copy, @function
    .type sf_trace_copy_text, @function
    .type sf_trace_copy_failed, @function
sf_trace_copy:
    .cfi_startproc
    movq %rdx, %rcx
    rep movsb
    xorl %eax, %eax
    ret
    .cfi_endproc
    .size sf_trace_copy, . - sf_trace_copy
sf_trace_copy_text:
    .cfi_startproc
    xorl %eax, %eax
    decq %rdx
1:  cmpq %rdx, %rax
    jae 2f
    movb (%rsi,%rax), %cl
    movb %cl, (%rdi,%rax)
    incq %rax
    testb %cl, %cl
    jne 1b
    ret
2:  movb $0, (%rdi,%rax)
    incq %rax
    ret
    .cfi_endproc
    .size sf_trace_copy_text, . - sf_trace_copy_text
sf_trace_copy_failed:
    .cfi_startproc
    movq $-14, %rax              /* -EFAULT */
    ret
    .cfi_endproc
    .size sf_trace_copy_failed, . - sf_trace_copy_failed
    .section .note.GNU-stack, "", @progbits
