/* Between the virtual machine and libshortfuse-jit.so, which alone links LLVM. Plain C, so that nothing of either
 * side's C++ library crosses. */
#ifndef SHORTFUSE_VM_JIT_H
#define SHORTFUSE_VM_JIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SF_JIT_VERSION 1
#define SF_JIT_COMPILE_SYMBOL "sf_jit_compile"

struct sf_jit_program {
  const uint64_t *insns;  /* verified */
  uint32_t count;
  uint32_t stack_bytes;
  uint32_t entry;         /* out: offset of its entry in the code */
};

struct sf_jit_result {
  unsigned char *code;    /* to be given to free() */
  size_t bytes;
  char error[256];
};

/* Compiles the programs into one block of position-independent code without relocations. 0, or -1 and `error`.
 * Thread-safe: LLVM's state is made for the call and taken down. Never ends the process: LLVM's fatal errors come
 * back as -1. `version` is SF_JIT_VERSION of the caller. */
typedef int (*sf_jit_compile_fn)(uint32_t version, struct sf_jit_program *programs, size_t count,
                                 struct sf_jit_result *result);
int sf_jit_compile(uint32_t version, struct sf_jit_program *programs, size_t count, struct sf_jit_result *result);

#ifdef __cplusplus
}
#endif
#endif
