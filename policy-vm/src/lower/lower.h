// Verified bytecode to LLVM's intermediate language.
#pragma once
#include <llvm-c/Core.h>

#include <cstdint>

namespace shortfuse::vm {

/// Adds the function `name`(ctx, env) for a program, and one internal function per sub-program. The code has no
/// tables, no calls but host->fn and its own sub-programs, and no memory of its own but the stack.
/// REQUIRES: verified instructions. False: something in them cannot be expressed; `what` says what.
bool lower_program(LLVMModuleRef module, const char *name, const uint64_t *insns, uint32_t count, uint32_t stack_bytes,
                   const char **what);

}  // namespace shortfuse::vm
