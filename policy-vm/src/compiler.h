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
  std::vector<uint32_t> entry;       // per program: offset of its entry
};

/// Machine code for all programs, or why there is none.
std::expected<MachineCode, std::string> compile(const Policy &policy);

}  // namespace shortfuse::vm
