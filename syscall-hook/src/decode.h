/* Where one x86-64 instruction ends and what it may do: as much of a disassembler as a patcher needs.
 *
 * The length of every instruction of the 64-bit mode (legacy, VEX, EVEX), the target of relative branches, whether an
 * operand is relative to RIP, and whether the instruction may be executed somewhere else ("movable": it neither
 * branches nor touches the stack pointer). Anything unknown is an error, and the function it stands in is left
 * alone. The tests compare every length in libc.so.6 and ld.so with those of Zydis. */
#ifndef SHORTFUSE_HOOK_DECODE_H
#define SHORTFUSE_HOOK_DECODE_H

#include <stddef.h>
#include <stdint.h>

#define SF_INSN_BRANCH 1u       /* relative branch or call; `target` is valid */
#define SF_INSN_INDIRECT 2u     /* jmp through a register or memory: targets unknown */
#define SF_INSN_RIP_RELATIVE 4u /* memory operand relative to RIP; its displacement stands at `disp_at` */
#define SF_INSN_MOVABLE 8u      /* may be executed elsewhere (with the displacement corrected if RIP-relative) */
#define SF_INSN_SYSCALL 16u
#define SF_INSN_ENDS 32u        /* the next instruction is not reached from this one (jmp, ret, hlt, ud2) */
#define SF_INSN_CALL 64u
#define SF_INSN_CONST 128u      /* writes the constant `imm` to the 32- or 64-bit register `dest` and nothing else */
#define SF_INSN_MOV_REG 256u    /* copies register `source` to `dest` */

struct sf_insn {
  uint8_t length;
  uint8_t disp_at;  /* offset of the 32-bit displacement within the instruction */
  int8_t dest;      /* general register that a movable instruction writes; -1: none */
  int8_t source;
  uint32_t flags;
  int32_t imm;
  uint64_t target;  /* absolute, given the address passed in */
};

/* Decodes the instruction at `code`, of which `bytes` may be read; `address` is where it runs. Returns 0, or -1 when
 * the bytes are no instruction known here. Pure. */
int sf_decode(const uint8_t *code, size_t bytes, uint64_t address, struct sf_insn *insn);

/* The same without what only moving it needs: SF_INSN_MOVABLE, _CONST and _MOV_REG, `dest`, `source` and `imm`. */
int sf_decode_flow(const uint8_t *code, size_t bytes, uint64_t address, struct sf_insn *insn);

#endif
