# inline.cc as bitcode, for the compiler to link into policies.
    .section .rodata
    .globl sf_inline_bitcode
    .hidden sf_inline_bitcode
    .balign 16
sf_inline_bitcode:
    .incbin SF_INLINE_BITCODE
    .globl sf_inline_bitcode_end
    .hidden sf_inline_bitcode_end
sf_inline_bitcode_end:
    .byte 0
    .section .note.GNU-stack,"",@progbits
