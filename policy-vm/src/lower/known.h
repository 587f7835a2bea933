// What registers hold, as far as the instructions themselves say it: addresses are expressed as addresses then, maps
// are known by their number, and read-only data at a known place is a constant.
//
// Only the quality of the code depends on it. A register that is nothing in particular is a number.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "../insn.h"

namespace shortfuse::vm {

struct Known {
  enum class Kind : uint8_t { Number, Pointer, Map, MapValue };
  Kind kind = Kind::Number;
  uint32_t map = 0;    // Map, MapValue
  int64_t offset = 0;  // MapValue: from the beginning of the map's values
  bool operator==(const Known &) const = default;
  bool is_address() const { return kind != Kind::Number; }
};

using KnownRegisters = std::array<Known, kRegisters>;

/// Whether what is returned by the host function `id` is an address.
bool returns_address(uint32_t id);

/// Makes `known` what it is behind the instruction.
void step(const Insn &in, KnownRegisters *known);

/// What is known where each block begins, for the function at `start`. `blocks`: where blocks begin.
/// REQUIRES: code that decodes, jumps that lead to blocks.
std::map<uint32_t, KnownRegisters> know_blocks(const RawInsn *code, uint32_t count, uint32_t start, bool is_program,
                                               const std::vector<uint32_t> &blocks);

}  // namespace shortfuse::vm
