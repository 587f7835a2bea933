// The interpreter: what runs where no machine code can be had, and the oracle of the tests.
//
// It relies on the verifier for memory accesses, as machine code does. What it can check for nothing it checks
// itself (program counter, call depth, stack, host functions, fuel): a broken image ends a run with SF_PASS, not
// the application. The stack is one block of kStackBytes: a call lowers the frame pointer by the bytes that the
// caller's frame uses, which the verifier wrote into the call's offset field.
//
// A template over who watches memory: nobody in the product (interpret.cc), a checker of every access in the tests.
// Freestanding.
#pragma once
#include "host_functions.h"
#include "insn.h"
#include "shortfuse/vm/abi.h"

namespace shortfuse::vm {

struct SavedFrame {
  uint64_t kept[4];  // r6..r9
  uint64_t frame_pointer;
  uint32_t return_pc;
};

template <typename T> uint64_t load(uint64_t address) {
  T v;
  __builtin_memcpy(&v, reinterpret_cast<const void *>(address), sizeof v);
  return static_cast<uint64_t>(v);
}

template <typename T> void store(uint64_t address, uint64_t value) {
  T v = static_cast<T>(value);
  __builtin_memcpy(reinterpret_cast<void *>(address), &v, sizeof v);
}

// Three operations mean something else when their offset is not 0.
template <AluOp op, typename U> inline U alu(U a, U b, int16_t off) {
  if constexpr (op == AluOp::Div) return off ? alu_value<U>(AluOp::Sdiv, a, b) : alu_value<U>(op, a, b);
  if constexpr (op == AluOp::Mod) return off ? alu_value<U>(AluOp::Smod, a, b) : alu_value<U>(op, a, b);
  if constexpr (op == AluOp::Mov) return off ? static_cast<U>(sign_extend(b, static_cast<unsigned>(off))) : b;
  return alu_value<U>(op, a, b);
}

template <typename T> void atomic(const RawInsn &in, uint64_t *r, uint64_t address) {
  T *p = reinterpret_cast<T *>(address);
  const T operand = static_cast<T>(r[in.src()]);
  T old = 0;
  switch (in.imm & ~kAtomicFetch) {
    case 0x00: old = __atomic_fetch_add(p, operand, __ATOMIC_SEQ_CST); break;
    case 0x40: old = __atomic_fetch_or(p, operand, __ATOMIC_SEQ_CST); break;
    case 0x50: old = __atomic_fetch_and(p, operand, __ATOMIC_SEQ_CST); break;
    case 0xa0: old = __atomic_fetch_xor(p, operand, __ATOMIC_SEQ_CST); break;
    case 0xe0: old = __atomic_exchange_n(p, operand, __ATOMIC_SEQ_CST); break;
    default:
      old = static_cast<T>(r[0]);
      __atomic_compare_exchange_n(p, &old, operand, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
      r[0] = old;
      return;
  }
  if (in.imm & kAtomicFetch) r[in.src()] = old;
}

inline uint64_t load_imm64(const RawInsn *in, const sf_vm_env *env) {
  const uint64_t low = static_cast<uint32_t>(in[0].imm), high = static_cast<uint32_t>(in[1].imm);
  if (in->src() == kImmMap) return reinterpret_cast<uint64_t>(env->map[low]);
  if (in->src() == kImmMapValue) return reinterpret_cast<uint64_t>(env->map_value[low]) + high;
  return low | high << 32;
}

inline bool call_host(uint32_t id, uint64_t *r, sf_vm_env *env) {
  if (id >= SF_HOST_COUNT || !env->host[id]) return false;
  if (OutputBuffer out = kOutputBuffers.of[id]; out.pointer) {
    auto *p = reinterpret_cast<volatile unsigned char *>(r[out.pointer]);
    for (uint64_t i = 0; i < r[out.size]; i++) p[i] = 0;
  }
  void *const state = sf_is_vm_function(id) ? env : env->host_state;
  r[0] = env->host[id](r[1], r[2], r[3], r[4], r[5], state);
  return true;
}

// One run. Everything that a program can touch besides its context and its maps.
struct Machine {
  alignas(16) unsigned char stack[kStackBytes];
  SavedFrame frames[kFramesMax];
  uint32_t depth = 0;
  uint64_t r[16] = {};  // 11 exist; a four-bit field cannot leave the array

  bool enter(uint32_t return_pc, int16_t frame_bytes) {
    const uint64_t low = reinterpret_cast<uint64_t>(stack);
    const uint64_t bytes = static_cast<uint16_t>(frame_bytes);
    if (depth + 1 >= kFramesMax || r[kFramePointer] - low < bytes) return false;
    frames[depth++] = {{r[6], r[7], r[8], r[9]}, r[kFramePointer], return_pc};
    r[kFramePointer] -= bytes;
    return true;
  }
  uint32_t leave() {
    const SavedFrame &f = frames[--depth];
    for (int i = 0; i < 4; i++) r[6 + i] = f.kept[i];
    r[kFramePointer] = f.frame_pointer;
    return f.return_pc;
  }
};

// REQUIRES: `code` are `count` linked instructions; verified ones, where Memory allows everything.
// Memory: begin(stack) is called once; access(address, bytes, writes) before each access, false ends the run;
// call(id, r) likewise before each host function.
template <typename Memory>
uint64_t interpret(const RawInsn *code, uint32_t count, void *ctx, sf_vm_env *env, Memory &memory) {
  Machine m;
  memory.begin(m.stack);
  m.r[1] = reinterpret_cast<uint64_t>(ctx);
  m.r[kFramePointer] = reinterpret_cast<uint64_t>(m.stack) + kStackBytes;

  for (uint32_t pc = 0; pc < count; pc++) {
    if (env->fuel == 0) return SF_PASS;
    env->fuel--;
    const RawInsn &in = code[pc];
    uint64_t &d = m.r[in.dst()];
    const uint64_t s = m.r[in.src()];
    const uint64_t imm = static_cast<uint64_t>(static_cast<int64_t>(in.imm));
    const uint64_t to = d + static_cast<uint64_t>(static_cast<int64_t>(in.off));    // address of a store
    const uint64_t from = s + static_cast<uint64_t>(static_cast<int64_t>(in.off));  // address of a load
    switch (in.code) {
#define X(name, op, text, value)                                                                                     \
  case kClassAlu64 | op: d = alu<AluOp::name, uint64_t>(d, imm, in.off); break;                                      \
  case kClassAlu | op:                                                                                               \
    d = alu<AluOp::name, uint32_t>(static_cast<uint32_t>(d), static_cast<uint32_t>(imm), in.off); break;             \
  case kClassAlu64 | op | kSourceReg: d = alu<AluOp::name, uint64_t>(d, s, in.off); break;                           \
  case kClassAlu | op | kSourceReg:                                                                                  \
    d = alu<AluOp::name, uint32_t>(static_cast<uint32_t>(d), static_cast<uint32_t>(s), in.off); break;
      SF_ALU_OPS(X)
#undef X
#define X(name, op, text, value)                                                                                     \
  case kClassJmp | op: pc += jump_taken<uint64_t>(JumpOp::name, d, imm) ? in.off : 0; break;                         \
  case kClassJmp | op | kSourceReg: pc += jump_taken<uint64_t>(JumpOp::name, d, s) ? in.off : 0; break;              \
  case kClassJmp32 | op:                                                                                             \
    pc += jump_taken(JumpOp::name, static_cast<uint32_t>(d), static_cast<uint32_t>(imm)) ? in.off : 0; break;        \
  case kClassJmp32 | op | kSourceReg:                                                                                \
    pc += jump_taken(JumpOp::name, static_cast<uint32_t>(d), static_cast<uint32_t>(s)) ? in.off : 0; break;
      SF_JUMP_OPS(X)
#undef X
#define SF_MEMORY(bits, U, S)                                                                                        \
  case kClassLdx | kModeMem | bits:                                                                                  \
    if (!memory.access(from, sizeof(U), false)) return SF_PASS;                                                      \
    d = load<U>(from); break;                                                                                        \
  case kClassLdx | kModeMemSx | bits:                                                                                \
    if (!memory.access(from, sizeof(U), false)) return SF_PASS;                                                      \
    d = load<S>(from); break;                                                                                        \
  case kClassSt | kModeMem | bits:                                                                                   \
    if (!memory.access(to, sizeof(U), true)) return SF_PASS;                                                         \
    store<U>(to, imm); break;                                                                                        \
  case kClassStx | kModeMem | bits:                                                                                  \
    if (!memory.access(to, sizeof(U), true)) return SF_PASS;                                                         \
    store<U>(to, s); break;
      SF_MEMORY(0x00, uint32_t, int32_t) SF_MEMORY(0x08, uint16_t, int16_t)
      SF_MEMORY(0x10, uint8_t, int8_t) SF_MEMORY(0x18, uint64_t, int64_t)
#undef SF_MEMORY
      case kClassStx | kModeAtomic | 0x00:
        if (!memory.access(to, 4, true)) return SF_PASS;
        atomic<uint32_t>(in, m.r, to);
        break;
      case kClassStx | kModeAtomic | 0x18:
        if (!memory.access(to, 8, true)) return SF_PASS;
        atomic<uint64_t>(in, m.r, to);
        break;
      case kClassAlu | kEnd: d = endian_value(false, d, in.imm); break;
      case kClassAlu | kEnd | kSourceReg:
      case kClassAlu64 | kEnd: d = endian_value(true, d, in.imm); break;
      case kClassJmp | kJumpAlways: pc += in.off; break;
      case kClassJmp32 | kJumpAlways: pc += in.imm; break;
      case kOpLoadImm64:
        d = load_imm64(&in, env);
        pc++;
        break;
      case kOpCall:
        if (in.src() == kCallLocal) {
          if (!m.enter(pc, in.off)) return SF_PASS;
          pc += in.imm;
        } else if (!memory.call(static_cast<uint32_t>(in.imm), m.r) ||
                   !call_host(static_cast<uint32_t>(in.imm), m.r, env)) {
          return SF_PASS;
        } else if (in.imm == SF_HOST_TAIL_CALL && m.r[0] == 0) {
          return SF_PASS;  // another program goes on
        }
        break;
      case kOpExit:
        if (m.depth == 0) return m.r[0];
        pc = m.leave();
        break;
      default: return SF_PASS;
    }
  }
  return SF_PASS;
}

}  // namespace shortfuse::vm
