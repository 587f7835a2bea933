/* The type information of own_types.bpf.c, as bytes. */
        .section .rodata
        .balign 8
        .globl  sf_own_btf_begin
        .hidden sf_own_btf_begin
        .globl  sf_own_btf_end
        .hidden sf_own_btf_end
sf_own_btf_begin:
        .incbin SF_OWN_BTF
sf_own_btf_end:
        .section .note.GNU-stack,"",%progbits
