// Instructions as text.
#include "isa/disasm.h"

#include <cstring>

#include "isa/host_functions.h"
#include "shortfuse/vm/vm.h"

namespace shortfuse::vm {
namespace {

const char *text_of(AluOp op) {
  switch (op) {
#define X(name, code, text, value) case AluOp::name: return text;
    SF_ALU_OPS(X) SF_SIGNED_OPS(X)
#undef X
  }
  return "?";
}

const char *text_of(JumpOp op) {
  switch (op) {
#define X(name, code, text, value) case JumpOp::name: return text;
    SF_JUMP_OPS(X)
#undef X
  }
  return "?";
}

const char *text_of(AtomicOp op) {
  switch (op) {
#define X(name, code, text) case AtomicOp::name: return text;
    SF_ATOMIC_OPS(X)
#undef X
  }
  return "?";
}

std::string reg(unsigned r, bool wide = true) { return (wide ? "r" : "w") + std::to_string(r); }
std::string with_sign(int64_t v) { return (v < 0 ? "" : "+") + std::to_string(v); }

std::string memory(const Insn &in, unsigned base) {
  return std::string("*(") + (in.sign_extend ? "s" : "u") + std::to_string(in.size * 8) + " *)(" + reg(base) + " " +
         with_sign(in.off) + ")";
}

std::string alu(const Insn &in) {
  std::string d = reg(in.dst, in.wide), s = in.from_reg ? reg(in.src, in.wide) : std::to_string(in.imm);
  if (in.alu == AluOp::Neg) return d + " = -" + d;
  if (in.extend_bits) s = "(s" + std::to_string(in.extend_bits) + ")" + s;
  return d + " " + text_of(in.alu) + " " + s;
}

std::string atomic(const Insn &in) {
  std::string at = memory(in, in.dst), s = reg(in.src, in.wide);
  if (in.atomic == AtomicOp::Xchg) return s + " = atomic_xchg(" + at + ", " + s + ")";
  if (in.atomic == AtomicOp::Cmpxchg)
    return reg(0, in.wide) + " = atomic_cmpxchg(" + at + ", " + reg(0, in.wide) + ", " + s + ")";
  if (in.fetch) return s + " = atomic_fetch(" + at + " " + text_of(in.atomic) + " " + s + ")";
  return "lock " + at + " " + text_of(in.atomic) + " " + s;
}

std::string load_imm64(const Insn &in, uint32_t pc) {
  std::string d = reg(in.dst) + " = ";
  if (in.src == kImmMap) return d + "map " + std::to_string(in.imm);
  if (in.src == kImmMapValue) return d + "value of map " + std::to_string(in.imm) + " +" + std::to_string(in.imm_high);
  if (in.src == kImmFunction) return d + "function at " + std::to_string(pc + in.distance());
  return d + std::to_string(static_cast<int64_t>(in.imm64())) + " ll";
}

std::string call(const Insn &in, uint32_t pc) {
  if (in.src == kCallLocal) return "call function at " + std::to_string(pc + in.distance());
  const uint32_t id = static_cast<uint32_t>(in.imm);
  if (id < SF_HOST_COUNT) return std::string("call ") + kHostFunctions[id].name;
  if (id < SF_HOST_LIMIT) return "call function " + std::to_string(id - SF_HOST_COUNT) + " of the host";
  return "call unknown " + std::to_string(in.imm);
}

}  // namespace

std::string disassemble(const Insn &in, uint32_t pc) {
  switch (in.kind) {
    case Kind::Invalid: return "not an instruction";
    case Kind::Alu: return alu(in);
    case Kind::Endian:
      return reg(in.dst) + " = " +
             (in.wide       ? "bswap"
              : in.from_reg ? "be"
                            : "le") +
             std::to_string(in.imm) + " " + reg(in.dst);
    case Kind::LoadImm64: return load_imm64(in, pc);
    case Kind::Load: return reg(in.dst) + " = " + memory(in, in.src);
    case Kind::Store: return memory(in, in.dst) + " = " + reg(in.src);
    case Kind::StoreImm: return memory(in, in.dst) + " = " + std::to_string(in.imm);
    case Kind::Atomic: return atomic(in);
    case Kind::Jump:
      return "if " + reg(in.dst, in.wide) + " " + text_of(in.jump) + " " +
             (in.from_reg ? reg(in.src, in.wide) : std::to_string(in.imm)) + " goto " +
             std::to_string(pc + in.distance());
    case Kind::JumpAlways: return "goto " + std::to_string(pc + in.distance());
    case Kind::Call: return call(in, pc);
    case Kind::CallReg: return "callx " + reg(in.dst);
    case Kind::Exit: return "exit";
  }
  return "?";
}

std::vector<DisassembledInsn> disassemble(const Policy::Program &program) {
  std::vector<RawInsn> code(program.insns.size());
  std::memcpy(code.data(), program.insns.data(), code.size() * sizeof(RawInsn));
  std::vector<DisassembledInsn> lines;
  const auto count = static_cast<uint32_t>(code.size());
  Insn in;
  for (uint32_t pc = 0; pc < count; pc += in.slots()) {
    in = {};
    if (const char *wrong = decode_insn(&code[pc], count - pc, &in))
      lines.push_back({pc, wrong});
    else
      lines.push_back({pc, disassemble(in, pc)});
  }
  return lines;
}

}  // namespace shortfuse::vm
