// A program taken apart before it is verified: decoded instructions, the function each belongs to, where paths meet,
// which registers are still read from there, and the loops.
#pragma once
#include <cstdint>
#include <expected>
#include <string>
#include <vector>

#include "object/object.h"
#include "verify/loop_nest.h"

namespace shortfuse::vm {

struct FlowError {
  const char *code;
  uint32_t at;
  std::string text;
};

struct Flow {
  std::vector<Insn> insns;         // per slot; the second half of LOAD_IMM64 is Kind::Invalid
  std::vector<uint32_t> function;  // per slot: index into LinkedProgram::functions
  std::vector<bool> meeting;       // paths may meet here: states are compared
  std::vector<uint16_t> live;      // bit r: register r may be read before it is written
  // Offsets and sizes of loads, which may be of the context, and per slot which of them may still come.
  struct Field { int16_t off; uint8_t bytes; bool operator==(const Field &) const = default; };
  std::vector<Field> fields;
  std::vector<uint64_t> live_fields;
  LoopNest nest;
  uint64_t looks = 0;              // at instructions, to find what is live: how much work that was

  /// Checks what can be seen without running: encodings, jump targets inside their function, no way out but exit, no
  /// instruction that nothing reaches.
  static std::expected<Flow, FlowError> read(const LinkedProgram &program);
};

}  // namespace shortfuse::vm
