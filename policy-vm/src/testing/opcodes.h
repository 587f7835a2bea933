// Which instructions there are, as table and decoder say, and which of them the tests of a program have met: a new one
// without a test fails there.
#pragma once
#include <map>
#include <set>
#include <string>
#include <vector>

#include "isa/insn.h"

namespace shortfuse::vm::testing {

/// The same for all operands: "r1 += r2", "if w1 s> 0 goto 1".
std::string opcode_name(const Insn &in);

/// By name, each as it may be written down, with r1 and r2 as its registers.
const std::map<std::string, std::vector<RawInsn>> &all_opcodes();

class OpcodesMet {
 public:
  void add(const RawInsn *code, size_t count);
  /// All others, one in a line.
  std::string missing() const;

 private:
  std::set<std::string> met_;
};

/// Filled by Image::interpret(), Image::run_code() and verified_policy().
struct OpcodesOfTests { OpcodesMet interpreted, compiled, verified; };
OpcodesOfTests &opcodes_of_tests();

}  // namespace shortfuse::vm::testing
