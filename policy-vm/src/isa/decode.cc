// Bytes to instructions. Refuses every encoding that RFC 9669 does not define: reserved fields must be zero, so that
// they can get a meaning later.
#include "isa/insn.h"

namespace shortfuse::vm {
namespace {

const char *decode_alu(const RawInsn &raw, Insn *in) {
  in->alu = static_cast<AluOp>(kOpTable.at[raw.code].op);
  if (in->from_reg ? raw.imm != 0 : raw.src() != 0) return "a reserved field of an arithmetic instruction is not zero";
  if (in->alu == AluOp::Neg && (raw.imm != 0 || raw.off != 0)) return "a reserved field of a negation is not zero";
  if (raw.off == 0) return nullptr;
  if (in->alu == AluOp::Div && raw.off == 1) {
    in->alu = AluOp::Sdiv;
  } else if (in->alu == AluOp::Mod && raw.off == 1) {
    in->alu = AluOp::Smod;
  } else if (in->alu == AluOp::Mov && in->from_reg && (raw.off == 8 || raw.off == 16 || (raw.off == 32 && in->wide))) {
    in->extend_bits = static_cast<uint8_t>(raw.off);
  } else {
    return "the offset of an arithmetic instruction has no such meaning";
  }
  return nullptr;
}

const char *decode_atomic(const RawInsn &raw, Insn *in) {
  switch (raw.imm & ~kAtomicFetch) {
#define X(name, code, text) case code: in->atomic = AtomicOp::name; break;
    SF_ATOMIC_OPS(X)
#undef X
    default: return "unknown atomic operation";
  }
  in->fetch = raw.imm & kAtomicFetch;
  if (in->atomic >= AtomicOp::Xchg && !in->fetch) return "unknown atomic operation";
  return nullptr;
}

const char *decode_endian(const RawInsn &raw, Insn *in) {
  if (raw.imm != 16 && raw.imm != 32 && raw.imm != 64) return "a byte swap of this width does not exist";
  if (raw.src() != 0 || raw.off != 0) return "a reserved field of a byte swap is not zero";
  in->swap = in->wide || in->from_reg;
  return nullptr;
}

const char *decode_jump(const RawInsn &raw, Insn *in) {
  if (in->kind == Kind::Exit) return raw.regs || raw.off || raw.imm ? "a reserved field of exit is not zero" : nullptr;
  if (in->kind == Kind::JumpAlways) {
    return raw.regs || (in->wide ? raw.imm != 0 : raw.off != 0) ? "a reserved field of a jump is not zero" : nullptr;
  }
  if (in->kind == Kind::CallReg) {
    return raw.src() || raw.imm ? "a reserved field of a call is not zero" : nullptr;
  }
  if (in->kind == Kind::Call) return raw.dst() ? "a reserved field of a call is not zero" : nullptr;
  in->jump = static_cast<JumpOp>(kOpTable.at[raw.code].op);
  if (in->from_reg ? raw.imm != 0 : raw.src() != 0) return "a reserved field of a conditional jump is not zero";
  return nullptr;
}

}  // namespace

const char *decode_insn(const RawInsn *code, uint32_t left, Insn *out) {
  const RawInsn &raw = code[0];
  const OpInfo &info = kOpTable.at[raw.code];
  Insn in;
  in.kind = info.kind;
  in.wide = info.wide;
  in.from_reg = info.from_reg;
  in.sign_extend = info.sign_extend;
  in.size = info.size;
  in.dst = raw.dst();
  in.src = raw.src();
  in.off = raw.off;
  in.imm = raw.imm;
  *out = in;
  if (in.kind == Kind::Invalid) return "unknown opcode";
  bool uses_src = in.from_reg || in.kind == Kind::Load;
  if (in.dst >= kRegisters || (uses_src && in.src >= kRegisters)) return "there is no such register";
  const char *wrong = nullptr;
  switch (in.kind) {
    case Kind::Alu: wrong = decode_alu(raw, out); break;
    case Kind::Endian: wrong = decode_endian(raw, out); break;
    case Kind::Atomic: wrong = decode_atomic(raw, out); break;
    case Kind::Load: case Kind::Store: if (raw.imm) wrong = "a reserved field of a memory access is not zero"; break;
    case Kind::StoreImm: if (raw.src()) wrong = "a reserved field of a store is not zero"; break;
    case Kind::LoadImm64:
      if (left < 2 || code[1].code || code[1].regs || code[1].off) return "a 64-bit constant lacks its second half";
      if (raw.off) return "a reserved field of a 64-bit constant is not zero";
      out->imm_high = code[1].imm;
      break;
    default: wrong = decode_jump(raw, out); break;
  }
  if (wrong) out->kind = Kind::Invalid;
  return wrong;
}

}  // namespace shortfuse::vm
