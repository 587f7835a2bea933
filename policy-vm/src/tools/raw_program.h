// A program given as bare instructions, without an object, a verifier or a host: for tests of the instruction set.
//
// It runs over one piece of memory (r1 its address, r2 its length) and its stack. Helper 5 unwinds: it returns its
// first argument, and when that is 0 the run ends there with 0; callx reaches it too, by a register that holds 5. The
// interpreter checks every access; machine code does not, since that is what the verifier is for.
#pragma once
#include <cstdint>
#include <expected>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "isa/insn.h"

namespace shortfuse::vm {

constexpr uint32_t kUnwindHelper = 5;

/// Bytes written as pairs of hexadecimal digits with blanks between; or what is wrong with the text.
std::expected<std::vector<unsigned char>, std::string> parse_hex_bytes(const std::string &text);

class RawProgram {
 public:
  /// Every instruction must exist, every jump stay inside; calls go to the program's own functions or to helper 5.
  static std::expected<RawProgram, std::string> read(std::span<const unsigned char> code);

  /// What the verifier says of it, run over so many bytes of memory. Nothing: it is safe.
  std::expected<void, std::string> verify(size_t memory_bytes) const;
  /// r0 at the end, or why there was none. `memory` may be changed.
  std::expected<uint64_t, std::string> interpret(std::span<unsigned char> memory) const;
  /// The same by machine code. A program that leaves its memory ends the process.
  std::expected<uint64_t, std::string> run_compiled(std::span<unsigned char> memory) const;

 private:
  std::expected<void, std::string> lay_out_frames();
  std::set<uint32_t> entries_;  // where its functions begin
  bool takes_addresses_ = false;
  std::vector<RawInsn> for_memory(size_t bytes) const;
  void call_helpers_by_number(std::vector<RawInsn> *code) const;
  std::vector<RawInsn> code_;
};

}  // namespace shortfuse::vm
