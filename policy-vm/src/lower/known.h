// What registers hold, as far as the instructions themselves say it: addresses are expressed as addresses then, maps
// are known by their number, and read-only data at a known place is a constant.
//
// A register that is nothing in particular is a number. That is always right; an address must be one: what is found by
// adding to it belongs to the same object, or it is not there at all. So what a call returned is one only as it is, and
// nothing may be added to it before it is known not to be NULL: to the verifier NULL is a number like any other, to
// which the address of anything may be added.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "isa/insn.h"

namespace shortfuse::vm {

struct Known {
  enum class Kind : uint8_t { Number, Pointer, Map, MapValue, Found };  // Found: by bpf_map_lookup_elem() in `map`
  enum class Null : uint8_t { Never, Latest, Possible };  // Latest: as the last call returned it that returns addresses
  Kind kind = Kind::Number;
  Null null = Null::Never;
  uint32_t map = 0;    // Map, MapValue, Found
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
