// For the tests.
#include "testing/opcodes.h"

#include "isa/disasm.h"
#include "isa/host_functions.h"

namespace shortfuse::vm::testing {

std::string opcode_name(const Insn &in) {
  Insn plain = in;
  plain.dst = 1;
  if (in.kind != Kind::LoadImm64 && in.kind != Kind::Call) plain.src = 2;
  plain.off = 0;
  plain.imm_high = 0;
  if (in.kind != Kind::Endian) plain.imm = 0;
  if (in.kind == Kind::Call && in.src == kCallHost) plain.imm = SF_HOST_KTIME;
  return (in.kind == Kind::JumpAlways && !in.wide ? "long " : "") + disassemble(plain, 0);
}

const std::map<std::string, std::vector<RawInsn>> &all_opcodes() {
  static const auto all = [] {
    std::map<std::string, std::vector<RawInsn>> found;
    std::vector<int32_t> imms{0, 16, 32, 64};
#define X(name, code, text) imms.push_back(code), imms.push_back(code | kAtomicFetch);
    SF_ATOMIC_OPS(X)
#undef X
    auto try_one = [&](int code, int dst, int src, int off, int32_t imm) {
      const RawInsn raw[2] = {{static_cast<uint8_t>(code), static_cast<uint8_t>(dst | src << 4),
                               static_cast<int16_t>(off), imm}, {}};
      Insn in;
      if (decode_insn(raw, 2, &in)) return;
      const bool special = in.kind == Kind::LoadImm64 || in.kind == Kind::Call;
      if (special ? (in.kind == Kind::Call && src > kCallLocal) || src == 3 : src != 0 && src != 2) return;
      if (in.kind != Kind::Endian && in.kind != Kind::Atomic && imm != 0) return;
      found.emplace(opcode_name(in), std::vector<RawInsn>(raw, raw + in.slots()));
    };
    for (int code = 0; code < 256; code++) {
      for (int dst : {1, 0}) {
        for (int src : {2, 0, 1, 3, 4}) {
          for (int off : {0, 1, 8, 16, 32}) {
            for (int32_t imm : imms) try_one(code, dst, src, off, imm);
          }
        }
      }
    }
    return found;
  }();
  return all;
}

void OpcodesMet::add(const RawInsn *code, size_t count) {
  Insn in;
  for (size_t pc = 0; pc < count; pc += in.slots()) {
    if (decode_insn(code + pc, static_cast<uint32_t>(count - pc), &in)) return;
    met_.insert(opcode_name(in));
  }
}

std::string OpcodesMet::missing() const {
  std::string out;
  for (auto &[name, raw] : all_opcodes()) {
    if (!met_.contains(name)) out += name + "\n";
  }
  return out;
}

OpcodesOfTests &opcodes_of_tests() {
  static OpcodesOfTests opcodes;
  return opcodes;
}

}  // namespace shortfuse::vm::testing
