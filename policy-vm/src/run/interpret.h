// The interpreter: what runs where no machine code can be had, and the oracle of the tests.
//
// It relies on the verifier for memory accesses, as machine code does. What it can check for nothing it checks
// itself (program counter, call depth, stack, host functions, fuel): a broken image ends a run with SF_PASS, not
// the application. The stack is one block of kStackBytes: a call lowers the frame pointer by the bytes that the
// caller's frame uses, which the verifier wrote into the call's offset field.
//
// Callbacks (bpf_loop(), bpf_for_each_map_elem()) are frames that are entered again instead of left, so nothing here
// recurses. The address of a function is the place of its first instruction.
//
// A template over who watches memory: nobody in the product (interpret.cc), a checker of every access in the tests.
// Freestanding.
#pragma once
#include <errno.h>

#include "isa/host_functions.h"
#include "isa/insn.h"
#include "shortfuse/vm/abi.h"
#include "shortfuse/vm/map.h"

namespace shortfuse::vm {

// Why a function was called: once, or for every round, or for every element of a map.
enum class CalledFor : uint8_t { Once, Rounds, Elements };

struct SavedFrame {
  uint64_t kept[4];  // r6..r9
  uint64_t frame_pointer;
  uint32_t return_pc;
  uint32_t entry;
  CalledFor why;
  // Of a callback:
  uint64_t done, rounds;  // calls made, and how many there will be (Rounds)
  uint64_t context;
  uint64_t map;
  sf_map_cursor cursor;
};

// Fuel counts instructions where it can be done rarely: a jump backwards pays for what it will run again, the end of a
// function for the way through it. So a run executes at most as many instructions as it had fuel, and the length of the
// program; machine code pays the same, and cuts the same runs short (lower/strips.h).
inline bool pay(sf_vm_env *env, uint64_t instructions) {
  if (env->fuel <= instructions) return env->fuel = 0, false;
  env->fuel -= instructions;
  return true;
}
inline bool jump(sf_vm_env *env, uint32_t *pc, int64_t by) {
  if (by < 0 && !pay(env, static_cast<uint64_t>(-by))) return false;
  *pc += static_cast<uint32_t>(by);
  return true;
}

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

inline uint64_t load_imm64(const RawInsn *in, uint32_t pc, const sf_vm_env *env) {
  const uint64_t low = static_cast<uint32_t>(in[0].imm), high = static_cast<uint32_t>(in[1].imm);
  if (in->src() == kImmMap) return reinterpret_cast<uint64_t>(env->map[low]);
  if (in->src() == kImmMapValue) return reinterpret_cast<uint64_t>(env->map_value[low]) + high;
  if (in->src() == kImmFunction) return pc + 1 + static_cast<uint64_t>(int64_t{in->imm});
  return low | high << 32;
}

inline bool call_host(uint32_t id, uint64_t *r, sf_vm_env *env) {
  if (id >= SF_HOST_COUNT + env->own_functions || !env->host[id]) return env->fuel = 0, false;
  const HostCost cost = host_cost_of(id);
  if (cost.size && !pay(env, r[cost.size] / kBytesPaidAsOne)) return false;
  if (cost.always && !pay(env, cost.always)) return false;
  if (cost.of_map()) {
    const uint64_t of_map = map_cost(reinterpret_cast<const sf_map *>(r[1])->shape, cost.key, cost.value);
    if (of_map && !pay(env, of_map)) return false;
  }
  if (OutputBuffer out = output_buffer_of(id); out.pointer) {
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

  // Nothing when the frames, or the block of stack, are used up.
  SavedFrame *enter(uint32_t return_pc, int16_t frame_bytes, uint64_t entry) {
    const uint64_t low = reinterpret_cast<uint64_t>(stack);
    const uint64_t bytes = static_cast<uint16_t>(frame_bytes);
    if (depth + 1 >= kFramesMax || r[kFramePointer] - low < bytes) return nullptr;
    SavedFrame &f = frames[depth++];
    for (int i = 0; i < 4; i++) f.kept[i] = r[6 + i];
    f.frame_pointer = r[kFramePointer];
    f.return_pc = return_pc;
    f.entry = static_cast<uint32_t>(entry);
    f.why = CalledFor::Once;
    r[kFramePointer] -= bytes;
    return &f;
  }
  uint32_t leave() {
    const SavedFrame &f = frames[--depth];
    for (int i = 0; i < 4; i++) r[6 + i] = f.kept[i];
    r[kFramePointer] = f.frame_pointer;
    return f.return_pc;
  }
};

// What the next instruction is after a callback's call or return; kEndRun: none.
inline constexpr uint64_t kEndRun = ~0ull;

// Whether there is another round, whose arguments are then in the registers.
template <typename Memory> bool next_round(SavedFrame &f, uint64_t *r, sf_vm_env *env, Memory &memory) {
  if (f.why == CalledFor::Rounds) {
    if (f.done >= f.rounds) return false;
    r[1] = f.done;
    r[2] = f.context;
  } else {
    const uint64_t cursor = reinterpret_cast<uint64_t>(&f.cursor);
    if (env->host[SF_HOST_MAP_STEP](f.map, cursor, 0, 0, 0, env) == 0) return false;
    memory.visit(f.map, f.cursor);
    r[1] = f.map;
    r[2] = reinterpret_cast<uint64_t>(f.cursor.key);
    r[3] = reinterpret_cast<uint64_t>(f.cursor.value);
    r[4] = f.context;
  }
  f.done++;
  return true;
}

// The frame on top is a callback's: its next round, or what follows the call.
template <typename Memory> uint64_t go_on(Machine &m, sf_vm_env *env, Memory &memory, bool stop) {
  SavedFrame &f = m.frames[m.depth - 1];
  if (!stop && next_round(f, m.r, env, memory)) return pay(env, 1) ? f.entry : kEndRun;
  m.r[0] = f.done;
  return uint64_t{m.leave()} + 1;
}

// bpf_loop() or bpf_for_each_map_elem(), called by the instruction at pc.
template <typename Memory>
uint64_t begin_callback(Machine &m, const RawInsn &call, uint32_t pc, uint32_t count, sf_vm_env *env, Memory &memory) {
  const bool rounds = call.imm == SF_HOST_LOOP;
  const uint64_t first = m.r[1], body = m.r[2], context = m.r[3];
  if (m.r[4] != 0 || (rounds && first > SF_LOOP_ROUNDS_MAX)) {
    m.r[0] = static_cast<uint64_t>(m.r[4] != 0 ? -EINVAL : -E2BIG);
    return uint64_t{pc} + 1;
  }
  if (body >= count) return kEndRun;
  if (!rounds && !env->host[SF_HOST_MAP_STEP]) return env->fuel = 0, kEndRun;
  if (!rounds && !pay(env, reinterpret_cast<const sf_map *>(first)->shape.max_entries / kPlacesPaidAsOne))
    return kEndRun;
  SavedFrame *f = m.enter(pc, call.off, body);
  if (!f) return kEndRun;
  f->why = rounds ? CalledFor::Rounds : CalledFor::Elements;
  f->done = 0;
  f->rounds = f->map = first;
  f->context = context;
  f->cursor = {};
  return go_on(m, env, memory, false);
}

// The instruction at pc calls something: what comes next, or kEndRun.
template <typename Memory>
uint64_t call(Machine &m, const RawInsn &in, uint32_t pc, uint32_t count, sf_vm_env *env, Memory &memory) {
  if (in.code == kOpCallReg || in.src() == kCallLocal) {
    const uint64_t target = in.code == kOpCallReg ? m.r[in.dst()] : pc + 1 + static_cast<uint64_t>(int64_t{in.imm});
    return target < count && m.enter(pc, in.off, target) ? target : kEndRun;
  }
  const auto id = static_cast<uint32_t>(in.imm);
  if (!memory.call(id, m.r)) return kEndRun;
  if (id == SF_HOST_LOOP || id == SF_HOST_FOR_EACH) return begin_callback(m, in, pc, count, env, memory);
  if (!call_host(id, m.r, env)) return kEndRun;
  if (id == SF_HOST_TAIL_CALL && m.r[0] == 0) return kEndRun;  // another program goes on
  memory.returned(id, m.r);
  return uint64_t{pc} + 1;
}

// Returns of functions other than the program itself.
template <typename Memory> uint64_t return_from(Machine &m, uint32_t pc, sf_vm_env *env, Memory &memory) {
  const SavedFrame &f = m.frames[m.depth - 1];
  if (!pay(env, pc >= f.entry ? pc - f.entry + 1 : 1)) return kEndRun;
  if (f.why == CalledFor::Once) return uint64_t{m.leave()} + 1;
  return go_on(m, env, memory, m.r[0] != 0);
}

// REQUIRES: `code` are `count` linked instructions; verified ones, where Memory allows everything.
// Memory: begin(stack) is called once; access(address, bytes, writes) before each access, false ends the run;
// call(id, r) likewise before each host function, returned(id, r) after it; visit(map, cursor) for each element that a
// body is called with.
template <typename Memory>
uint64_t interpret(const RawInsn *code, uint32_t count, void *ctx, sf_vm_env *env, Memory &memory) {
  Machine m;
  memory.begin(m.stack);
  m.r[1] = reinterpret_cast<uint64_t>(ctx);
  m.r[kFramePointer] = reinterpret_cast<uint64_t>(m.stack) + kStackBytes;

  for (uint32_t pc = 0; pc < count; pc++) {
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
#define SF_GO(by)                                                                                                    \
  if (!jump(env, &pc, by)) return SF_PASS;                                                                           \
  break;
#define X(name, op, text, value)                                                                                     \
  case kClassJmp | op: SF_GO(jump_taken<uint64_t>(JumpOp::name, d, imm) ? in.off : 0)                                \
  case kClassJmp | op | kSourceReg: SF_GO(jump_taken<uint64_t>(JumpOp::name, d, s) ? in.off : 0)                     \
  case kClassJmp32 | op:                                                                                             \
    SF_GO(jump_taken(JumpOp::name, static_cast<uint32_t>(d), static_cast<uint32_t>(imm)) ? in.off : 0)               \
  case kClassJmp32 | op | kSourceReg:                                                                                \
    SF_GO(jump_taken(JumpOp::name, static_cast<uint32_t>(d), static_cast<uint32_t>(s)) ? in.off : 0)
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
      case kClassJmp | kJumpAlways: SF_GO(in.off)
      case kClassJmp32 | kJumpAlways: SF_GO(in.imm)
#undef SF_GO
      case kOpLoadImm64:
        d = load_imm64(&in, pc, env);
        pc++;
        break;
      case kOpCall: case kOpCallReg: {
        const uint64_t next = call(m, in, pc, count, env, memory);
        if (next == kEndRun) return SF_PASS;
        pc = static_cast<uint32_t>(next) - 1;
        break;
      }
      case kOpExit: {
        if (m.depth == 0) return m.r[0];
        const uint64_t next = return_from(m, pc, env, memory);
        if (next == kEndRun) return SF_PASS;
        pc = static_cast<uint32_t>(next) - 1;
        break;
      }
      default: return SF_PASS;
    }
  }
  return SF_PASS;
}

}  // namespace shortfuse::vm
