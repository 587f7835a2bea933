// The compiler, which is libshortfuse-jit.so opened on demand: a daemon that only interprets never loads LLVM.
#pragma once
#include <cstdint>
#include <expected>
#include <string>
#include <vector>

#include "shortfuse/vm/vm.h"

namespace shortfuse::vm {

struct MachineCode {
  std::vector<unsigned char> bytes;  // position-independent, without relocations
  std::vector<uint32_t> entry;       // per program: offset of its entry; ~0: there is none
  std::string compiler;              // "19.1.7": who made it; "" where it came with the programs
};

/// Machine code for all programs: what came with them, the rest compiled. Or why there is none.
std::expected<MachineCode, std::string> machine_code(const Policy &policy);
/// Only what came with them; entry ~0: none.
MachineCode precompiled_code(const Policy &policy);

}  // namespace shortfuse::vm
