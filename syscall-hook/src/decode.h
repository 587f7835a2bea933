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
#define SF_INSN_CMOV_REG 512u   /* copies register `source` to `dest`, or leaves that as it was */
#define SF_INSN_TABLE 1024u     /* INDIRECT, and perhaps through a table of places in its own function */

struct sf_insn {
  uint8_t length;
  uint8_t disp_at;  /* offset of the 32-bit displacement within the instruction */
  int8_t dest;      /* general register that a movable instruction writes; -1: none */
  int8_t source;
  uint32_t flags;
  uint16_t writes;  /* a bit per general register that may be written; all of them where that is not known. Of a
                     * call, what is written before the callee begins. */
  int32_t imm;
  uint64_t target;  /* absolute, given the address passed in */
};

/* Decodes the instruction at `code`, of which `bytes` may be read; `address` is where it runs. Returns 0, or -1 when
 * the bytes are no instruction known here. Pure. */
int sf_decode(const uint8_t *code, size_t bytes, uint64_t address, struct sf_insn *insn);

/* The same without `writes`. */
int sf_decode_move(const uint8_t *code, size_t bytes, uint64_t address, struct sf_insn *insn);

/* The same without what only moving and judging it need: SF_INSN_MOVABLE, _CONST, _MOV_REG and _CMOV_REG, `dest`,
 * `source`, `writes` and `imm`. */
int sf_decode_flow(const uint8_t *code, size_t bytes, uint64_t address, struct sf_insn *insn);

#endif
