/* Between the virtual machine and libshortfuse-jit.so, which alone links LLVM. Plain C, so that nothing of either
 * side's C++ library crosses. */
#ifndef SHORTFUSE_VM_JIT_H
#define SHORTFUSE_VM_JIT_H

#include <stddef.h>
#include <stdint.h>

#include "shortfuse/vm/map.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef SF_CODE_ABI
#define SF_CODE_ABI 0 /* builds for fuzzing */
#endif
/* Names the sources on which machine code depends: compiler and caller must be of one build. */
#define SF_JIT_BUILD SF_CODE_ABI

#define SF_JIT_COMPILE_SYMBOL "sf_jit_compile"
#define SF_JIT_TEXT_SYMBOL "sf_jit_text"

struct sf_jit_program {
  const uint64_t *insns;  /* verified */
  uint32_t count;
  uint32_t stack_bytes;
  uint32_t entry;         /* out: offset of its entry in the code */
};

struct sf_jit_map {
  struct sf_map_shape shape;
  const unsigned char *frozen;  /* contents of read-only data, shape.value_size bytes; NULL: the map may change */
  struct sf_map_shape inner;    /* of an ARRAY_OF_MAPS: that of every map that it holds */
};

struct sf_jit_policy {
  struct sf_jit_program *programs;
  size_t count;
  const struct sf_jit_map *maps;
  size_t map_count;
  int inline_calls;       /* 0: every call goes through the host's table */
};

struct sf_jit_result {
  unsigned char *code;    /* to be given to free() */
  size_t bytes;
  char error[256];
  char compiler[16];      /* LLVM's version */
};

/* All functions here: 0, or -1 and `error`. Thread-safe: LLVM's state is made for the call and taken down. Never end
 * the process: LLVM's fatal errors come back as -1. `build` is SF_JIT_BUILD of the caller.
 *
 * Compiles the programs into one block of position-independent code without relocations. */
typedef int (*sf_jit_compile_fn)(uint64_t build, const struct sf_jit_policy *policy, struct sf_jit_result *result);
int sf_jit_compile(uint64_t build, const struct sf_jit_policy *policy, struct sf_jit_result *result);

/* What the compiler makes of the programs on the way, as text in result->code (`bytes` without the NUL behind it). */
enum sf_jit_stage {
  SF_JIT_LOWERED = 0,   /* LLVM's intermediate language, as it comes from the bytecode */
  SF_JIT_OPTIMISED = 1, /* as the code is made from */
  SF_JIT_ASSEMBLY = 2,
};
typedef int (*sf_jit_text_fn)(uint64_t build, const struct sf_jit_policy *policy, enum sf_jit_stage stage,
                              struct sf_jit_result *result);
int sf_jit_text(uint64_t build, const struct sf_jit_policy *policy, enum sf_jit_stage stage,
                struct sf_jit_result *result);

#ifdef __cplusplus
}
#endif
#endif
