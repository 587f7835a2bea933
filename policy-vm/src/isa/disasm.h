// Instructions as text, in the notation of the kernel's verifier: "r1 = *(u64 *)(r2 +8)".
#pragma once
#include <string>

#include "isa/insn.h"

namespace shortfuse::vm {

std::string disassemble(const Insn &in, uint32_t pc);

}  // namespace shortfuse::vm
