/* See scan.h. Called as any function is, at the start of the process: xmm0 to xmm6 are the caller's to lose. */
    .section .rodata.sf_scan, "a", @progbits
    .balign 16
bytes_0f: .fill 16, 1, 0x0f
bytes_05: .fill 16, 1, 0x05
words_0f05: .fill 8, 2, 0x050f
bytes_e9: .fill 16, 1, 0xe9
bytes_f0: .fill 16, 1, 0xf0
bytes_80: .fill 16, 1, 0x80

    .text
    .macro SYSCALLS_OF_16 offset, bits
    movdqu \offset(%rdi), %xmm0
    movdqu \offset + 1(%rdi), %xmm1
    pcmpeqb %xmm2, %xmm0
    pcmpeqb %xmm3, %xmm1
    pand %xmm1, %xmm0
    pmovmskb %xmm0, \bits
    .endm

    .macro JUMPS_OF_16 offset, bits
    movdqu \offset(%rdi), %xmm0
    movdqu \offset + 1(%rdi), %xmm1
    movdqa %xmm0, %xmm6
    pand %xmm4, %xmm1
    pcmpeqb %xmm2, %xmm0
    pcmpeqb %xmm5, %xmm1
    pcmpeqb %xmm3, %xmm6
    pand %xmm1, %xmm0
    por %xmm6, %xmm0
    pmovmskb %xmm0, \bits
    .endm

/* rax, rcx, rdx and rsi hold 16 bits each, the lowest first. */
    .macro RETURN_64
    shlq $16, %rcx
    shlq $32, %rdx
    shlq $48, %rsi
    orq %rcx, %rax
    orq %rsi, %rdx
    orq %rdx, %rax
    ret
    .endm

    .globl sf_scan_syscalls
    .hidden sf_scan_syscalls
    .type sf_scan_syscalls, @function
sf_scan_syscalls:
    .cfi_startproc
    movdqa bytes_0f(%rip), %xmm2
    movdqa bytes_05(%rip), %xmm3
    SYSCALLS_OF_16 0, %eax
    SYSCALLS_OF_16 16, %ecx
    SYSCALLS_OF_16 32, %edx
    SYSCALLS_OF_16 48, %esi
    RETURN_64
    .cfi_endproc
    .size sf_scan_syscalls, . - sf_scan_syscalls

/* As words at even places and at odd ones. */
    .macro FIND_WORD_IN_16 offset, found, other
    movdqu \offset(%rdi), \found
    movdqu \offset + 1(%rdi), \other
    pcmpeqw %xmm6, \found
    pcmpeqw %xmm6, \other
    por \other, \found
    .endm

    .globl sf_scan_past_others
    .hidden sf_scan_past_others
    .type sf_scan_past_others, @function
sf_scan_past_others:
    .cfi_startproc
    movdqa words_0f05(%rip), %xmm6
    movq %rsi, %rax
    testq %rsi, %rsi
    je 2f
1:
    FIND_WORD_IN_16 0, %xmm0, %xmm4
    FIND_WORD_IN_16 16, %xmm1, %xmm5
    FIND_WORD_IN_16 32, %xmm2, %xmm4
    FIND_WORD_IN_16 48, %xmm3, %xmm5
    por %xmm1, %xmm0
    por %xmm3, %xmm2
    por %xmm2, %xmm0
    pmovmskb %xmm0, %ecx
    testl %ecx, %ecx
    jne 2f
    addq $64, %rdi
    subq $1, %rsi
    jne 1b
2:
    subq %rsi, %rax
    ret
    .cfi_endproc
    .size sf_scan_past_others, . - sf_scan_past_others

    .globl sf_scan_jumps
    .hidden sf_scan_jumps
    .type sf_scan_jumps, @function
sf_scan_jumps:
    .cfi_startproc
    movdqa bytes_0f(%rip), %xmm2
    movdqa bytes_e9(%rip), %xmm3
    movdqa bytes_f0(%rip), %xmm4
    movdqa bytes_80(%rip), %xmm5
    JUMPS_OF_16 0, %eax
    JUMPS_OF_16 16, %ecx
    JUMPS_OF_16 32, %edx
    JUMPS_OF_16 48, %esi
    RETURN_64
    .cfi_endproc
    .size sf_scan_jumps, . - sf_scan_jumps

    .section .note.GNU-stack, "", @progbits
