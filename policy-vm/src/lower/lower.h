// Verified bytecode to LLVM's intermediate language.
#pragma once
#include <llvm-c/Core.h>

#include <cstdint>

#include "lower/jit.h"

namespace shortfuse::vm {

/// Functions of lower/inline.cc have this prefix.
inline constexpr const char *kInlinePrefix = "sf_inline_";

/// What there is to optimise.
struct Lowered {
  unsigned loops = 0;   // of the program that has most
  unsigned strips = 0;
  bool functions = false;
};

/// Adds the function `name`(ctx, env) for a program, and one internal function per sub-program. The code has no
/// tables, no calls but host->fn, those of lower/inline.cc and its own sub-programs, and no memory of its own but the
/// stack.
/// REQUIRES: verified instructions. Adds to `lowered`. False: something in them cannot be expressed; `what` says what.
bool lower_program(LLVMModuleRef module, const char *name, const sf_jit_program &program, const sf_jit_policy &policy,
                   Lowered *lowered, const char **what);

/// What the code may be made of: the application's vector registers are live across a system call, and so across us.
void set_attributes(LLVMValueRef function);

}  // namespace shortfuse::vm
