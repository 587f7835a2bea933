// Programs of about 10,000 instructions, in the shapes in which programs get big: for tests and the benchmark.
#pragma once
#include <string>
#include <vector>

#include "testing/testing.h"

namespace shortfuse::vm::testing {

struct BigProgram {
  const char *name;
  LinkedProgram program;
  uint32_t steps_max;  // the verifier may take
};

inline RawInsn context_field(int dst) { return load(8, dst, 1, offsetof(sf_fuse_ctx, node)); }
inline Code branch_on_bit(int bit, const Code &adds) {
  const int over = static_cast<int>(adds.size());
  return Code{mov_reg(2, 6), alu_imm(kRsh, 2, bit % 64), jump_imm(kSet, 2, 1, over)} + adds;
}
inline LinkedProgram finished(Code code) { return make_program(code + Code{mov(0, 0), leave()}, "fuse/read"); }

inline LinkedProgram straight_line() {
  Code code{context_field(6), mov(7, 0)};
  for (int i = 0; i < 10'000; i++) code.push_back(alu_imm(i % 3 ? kAdd : kXor, 7, i));
  return finished(code);
}
inline LinkedProgram branches_into_one_number(int many) {
  Code code{context_field(6), mov(7, 0)};
  for (int i = 0; i < many; i++) {
    for (const RawInsn &in : branch_on_bit(i, {alu_imm(kAdd, 7, i % 7 + 1)})) code.push_back(in);
  }
  return finished(code);
}
inline LinkedProgram unknown_branches() {
  Code code{mov(7, 0)};
  for (int i = 0; i < 2500; i++) {
    for (const RawInsn &in : {call(SF_HOST_KTIME), jump_imm(kEq, 0, i, 1), alu_imm(kAdd, 7, i), mov(0, 0)})
      code.push_back(in);
  }
  return finished(code);
}
inline LinkedProgram nested_loops() {
  Code code{mov(9, 0)};
  for (int i = 0; i < 1420; i++) {
    for (const RawInsn &in : {mov(7, 0), mov(8, 0), alu_reg(kAdd, 9, 8), alu_imm(kAdd, 8, 1), jump_imm(kLt, 8, 20, -3),
                              alu_imm(kAdd, 7, 1), jump_imm(kLt, 7, 30, -6)})
      code.push_back(in);
  }
  return finished(code);
}
inline LinkedProgram loop_around_branches() {
  Code code{mov(7, 0), mov(8, 0)};
  for (int i = 0; i < 2500; i++) {
    for (const RawInsn &in : {call(SF_HOST_KTIME), jump_imm(kEq, 0, i, 1), alu_imm(kAdd, 7, i), mov(0, 0)})
      code.push_back(in);
  }
  const int back = 2 - static_cast<int>(code.size()) - 2;
  return finished(code + Code{alu_imm(kAdd, 8, 1), jump_imm(kLt, 8, 100, back)});
}
// Each called from two places, each with branches of its own.
inline LinkedProgram many_sub_programs() {
  constexpr int kFunctions = 150, kCalls = 2 * kFunctions;
  Code body;
  std::vector<uint32_t> starts;
  const size_t before = 1 + 3 * kCalls + 2;
  for (int f = 0; f < kFunctions; f++) {
    starts.push_back(static_cast<uint32_t>(before + body.size()));
    body.push_back(mov(0, 0));
    for (int i = 0; i < 15; i++) {
      for (const RawInsn &in : {mov_reg(2, 1), alu_imm(kRsh, 2, i), jump_imm(kSet, 2, 1, 1), alu_imm(kAdd, 0, i + f)})
        body.push_back(in);
    }
    body.push_back(leave());
  }
  Code code{context_field(6)};
  for (int i = 0; i < kCalls; i++) {
    code.push_back(mov_reg(1, 6));
    const int here = static_cast<int>(code.size());
    code.push_back(call_local(static_cast<int>(starts[static_cast<size_t>(i / 2)]) - here - 1));
    code.push_back(alu_reg(kAdd, 6, 0));
  }
  return make_program(code + Code{mov(0, 0), leave()} + body, "fuse/read", starts);
}
inline LinkedProgram big_switch() {
  Code code{context_field(6), mov(7, 0)};
  std::vector<size_t> ends;
  for (int i = 0; i < 1600; i++) {
    for (const RawInsn &in : {jump_imm(kNe, 6, i, 4), mov(7, i), alu_imm(kXor, 7, 3), alu_imm(kAdd, 7, i & 3), go(0)})
      code.push_back(in);
    ends.push_back(code.size() - 1);
  }
  for (size_t at : ends) code[at].off = static_cast<int16_t>(code.size() - at - 1);
  for (int i = 0; i < 500; i++) {
    for (const RawInsn &in : branch_on_bit(i, {alu_imm(kAdd, 7, 1)})) code.push_back(in);
  }
  return finished(code);
}
// All 64 words of the stack hold numbers that branches change.
inline LinkedProgram full_stack() {
  Code code{context_field(6)};
  for (int slot = 1; slot <= 64; slot++) code.push_back(store(8, 10, -8 * slot, 6));
  for (int i = 0; i < 2000; i++) {
    for (const RawInsn &in : {load(8, 2, 10, -8 * (i % 64 + 1)), jump_imm(kSgt, 2, i * 3, 2), alu_imm(kAdd, 2, i),
                              store(8, 10, -8 * (i * 7 % 64 + 1), 2), mov(3, 0)})
      code.push_back(in);
  }
  return finished(code);
}
inline LinkedProgram lookups() {
  Code code{context_field(6)};
  for (int i = 0; i < 950; i++) {
    for (const RawInsn &in :
         Code{store(8, 10, -8, 6), mov_reg(2, 10), alu_imm(kAdd, 2, -8)} + load_map(1, kHashMap) +
             Code{call(SF_HOST_MAP_LOOKUP), jump_imm(kEq, 0, 0, 3), load(8, 7, 0, 0), alu_reg(kXor, 6, 7),
                  alu_imm(kAdd, 6, 1), mov(0, 0)})
      code.push_back(in);
  }
  return finished(code);
}

inline std::vector<BigProgram> big_programs() {
  return {{"straight line", straight_line(), 12'000},
          {"branches into one number", branches_into_one_number(2500), 150'000},
          {"unknown branches", unknown_branches(), 150'000},
          {"nested loops in a row", nested_loops(), 400'000},
          {"a loop around branches", loop_around_branches(), 900'000},
          {"150 sub-programs", many_sub_programs(), 400'000},
          {"a switch of 1600 cases", big_switch(), 60'000},
          {"a full stack", full_stack(), 200'000},
          {"950 lookups", lookups(), 20'000}};
}

}  // namespace shortfuse::vm::testing
