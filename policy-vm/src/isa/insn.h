// The instruction set, once. Decoder, disassembler, interpreter, verifier and lowering all come from these lists.
//
// eBPF v1 to v4 (RFC 9669). An instruction is eight bytes: opcode, dst:4 src:4, offset:16, imm:32; LOAD_IMM64 takes
// two of them. X-macros state each operation's code, its text and its value for operands a and b of the unsigned
// type U (S is the signed type of the same width); whatever else is needed is derived from that.
// Freestanding: the preloaded library compiles the interpreter from this file.
#pragma once
#include <stdint.h>

namespace shortfuse::vm {

//            name  code  text     value
#define SF_ALU_OPS(X)                                            \
  X(Add, 0x00, "+=", static_cast<U>(a + b))                      \
  X(Sub, 0x10, "-=", static_cast<U>(a - b))                      \
  X(Mul, 0x20, "*=", static_cast<U>(a * b))                      \
  X(Div, 0x30, "/=", b == 0 ? U{0} : static_cast<U>(a / b))      \
  X(Or, 0x40, "|=", static_cast<U>(a | b))                       \
  X(And, 0x50, "&=", static_cast<U>(a & b))                      \
  X(Lsh, 0x60, "<<=", static_cast<U>(a << (b & kShiftMask)))     \
  X(Rsh, 0x70, ">>=", static_cast<U>(a >> (b & kShiftMask)))     \
  X(Neg, 0x80, "=-", static_cast<U>(U{0} - a))                   \
  X(Mod, 0x90, "%=", b == 0 ? a : static_cast<U>(a % b))         \
  X(Xor, 0xa0, "^=", static_cast<U>(a ^ b))                      \
  X(Mov, 0xb0, "=", b)                                           \
  X(Arsh, 0xc0, "s>>=", static_cast<U>(static_cast<S>(a) >> (b & kShiftMask)))

// Signed division shares the codes of Div and Mod and is told apart by offset 1. -1 is a case of its own: the
// smallest number divided by it is itself.
#define SF_SIGNED_OPS(X)                                                  \
  X(Sdiv, 0x30, "s/=",                                                    \
    b == 0       ? U{0}                                                   \
    : b == ~U{0} ? static_cast<U>(U{0} - a)                               \
                 : static_cast<U>(static_cast<S>(a) / static_cast<S>(b))) \
  X(Smod, 0x90, "s%=", b == 0 ? a : b == ~U{0} ? U{0} : static_cast<U>(static_cast<S>(a) % static_cast<S>(b)))

#define SF_JUMP_OPS(X)                                                \
  X(Eq, 0x10, "==", a == b)                                           \
  X(Gt, 0x20, ">", a > b)                                             \
  X(Ge, 0x30, ">=", a >= b)                                           \
  X(Set, 0x40, "&", (a & b) != 0)                                     \
  X(Ne, 0x50, "!=", a != b)                                           \
  X(Sgt, 0x60, "s>", static_cast<S>(a) > static_cast<S>(b))           \
  X(Sge, 0x70, "s>=", static_cast<S>(a) >= static_cast<S>(b))         \
  X(Lt, 0xa0, "<", a < b)                                             \
  X(Le, 0xb0, "<=", a <= b)                                           \
  X(Slt, 0xc0, "s<", static_cast<S>(a) < static_cast<S>(b))           \
  X(Sle, 0xd0, "s<=", static_cast<S>(a) <= static_cast<S>(b))

// The imm of an atomic instruction; kAtomicFetch may be added to the first four.
#define SF_ATOMIC_OPS(X) X(Add, 0x00, "+=") X(Or, 0x40, "|=") X(And, 0x50, "&=") X(Xor, 0xa0, "^=") \
  X(Xchg, 0xe0, "xchg") X(Cmpxchg, 0xf0, "cmpxchg")
inline constexpr int32_t kAtomicFetch = 1;

enum class AluOp : uint8_t {
#define X(name, code, text, value) name,
  SF_ALU_OPS(X) SF_SIGNED_OPS(X)
#undef X
};
enum class JumpOp : uint8_t {
#define X(name, code, text, value) name,
  SF_JUMP_OPS(X)
#undef X
};
enum class AtomicOp : uint8_t {
#define X(name, code, text) name,
  SF_ATOMIC_OPS(X)
#undef X
};

// Opcode bits.
inline constexpr uint8_t kClassLd = 0, kClassLdx = 1, kClassSt = 2, kClassStx = 3, kClassAlu = 4, kClassJmp = 5,
                         kClassJmp32 = 6, kClassAlu64 = 7;
inline constexpr uint8_t kSourceReg = 0x08;
inline constexpr uint8_t kModeImm = 0x00, kModeMem = 0x60, kModeMemSx = 0x80, kModeAtomic = 0xc0;
inline constexpr uint8_t kEnd = 0xd0, kJumpAlways = 0x00, kCall = 0x80, kExit = 0x90;
inline constexpr uint8_t kOpLoadImm64 = 0x18;
inline constexpr uint8_t kOpCall = kClassJmp | kCall, kOpCallReg = kOpCall | kSourceReg, kOpExit = kClassJmp | kExit;

// What src says in LOAD_IMM64 and CALL.
inline constexpr uint8_t kImmValue = 0, kImmMap = 1, kImmMapValue = 2, kImmFunction = 4;
inline constexpr uint8_t kCallHost = 0, kCallLocal = 1;

inline constexpr int kFramePointer = 10, kRegisters = 11;
inline constexpr uint32_t kStackBytes = 512;
inline constexpr uint32_t kFramesMax = 8;

struct RawInsn {
  uint8_t code;
  uint8_t regs;  // dst in the low half, src in the high half
  int16_t off;
  int32_t imm;
  constexpr uint8_t dst() const { return regs & 15; }
  constexpr uint8_t src() const { return regs >> 4; }
};
static_assert(sizeof(RawInsn) == 8);

enum class Kind : uint8_t {
  Invalid, Alu, Endian, LoadImm64, Load, Store, StoreImm, Atomic, Jump, JumpAlways, Call, CallReg, Exit
};

// What an opcode byte alone says.
struct OpInfo {
  Kind kind = Kind::Invalid;
  uint8_t op = 0;         // AluOp or JumpOp
  uint8_t size = 0;       // bytes accessed
  bool wide = false;      // 64-bit operation
  bool from_reg = false;  // the second operand is src, not imm
  bool sign_extend = false;
};

struct OpTable { OpInfo at[256]; };

constexpr OpTable make_op_table() {
  OpTable t{};
  constexpr uint8_t sources[] = {0, kSourceReg};
  auto alu = [&](uint8_t code, AluOp op) {
    for (uint8_t from_reg : sources) {
      if (op == AluOp::Neg && from_reg) continue;
      t.at[kClassAlu | code | from_reg] = {Kind::Alu, static_cast<uint8_t>(op), 4, false, from_reg != 0, false};
      t.at[kClassAlu64 | code | from_reg] = {Kind::Alu, static_cast<uint8_t>(op), 8, true, from_reg != 0, false};
    }
  };
  auto jump = [&](uint8_t code, JumpOp op) {
    for (uint8_t from_reg : sources) {
      t.at[kClassJmp | code | from_reg] = {Kind::Jump, static_cast<uint8_t>(op), 8, true, from_reg != 0, false};
      t.at[kClassJmp32 | code | from_reg] = {Kind::Jump, static_cast<uint8_t>(op), 4, false, from_reg != 0, false};
    }
  };
#define X(name, code, text, value) alu(code, AluOp::name);
  SF_ALU_OPS(X)
#undef X
#define X(name, code, text, value) jump(code, JumpOp::name);
  SF_JUMP_OPS(X)
#undef X
  t.at[kClassAlu | kEnd] = {Kind::Endian, 0, 0, false, false, false};              // to little endian
  t.at[kClassAlu | kEnd | kSourceReg] = {Kind::Endian, 0, 0, false, true, false};  // to big endian
  t.at[kClassAlu64 | kEnd] = {Kind::Endian, 0, 0, true, false, false};             // swap always
  constexpr uint8_t sizes[4][2] = {{0x00, 4}, {0x08, 2}, {0x10, 1}, {0x18, 8}};
  for (auto &[bits, bytes] : sizes) {
    t.at[kClassLdx | kModeMem | bits] = {Kind::Load, 0, bytes, true, false, false};
    if (bytes < 8) t.at[kClassLdx | kModeMemSx | bits] = {Kind::Load, 0, bytes, true, false, true};
    t.at[kClassSt | kModeMem | bits] = {Kind::StoreImm, 0, bytes, true, false, false};
    t.at[kClassStx | kModeMem | bits] = {Kind::Store, 0, bytes, true, true, false};
    if (bytes >= 4) t.at[kClassStx | kModeAtomic | bits] = {Kind::Atomic, 0, bytes, bytes == 8, true, false};
  }
  t.at[kOpLoadImm64] = {Kind::LoadImm64, 0, 8, true, false, false};
  t.at[kClassJmp | kJumpAlways] = {Kind::JumpAlways, 0, 0, true, false, false};     // by off
  t.at[kClassJmp32 | kJumpAlways] = {Kind::JumpAlways, 0, 0, false, false, false};  // by imm
  t.at[kOpCall] = {Kind::Call, 0, 0, true, false, false};
  t.at[kOpCallReg] = {Kind::CallReg, 0, 0, true, false, false};  // the function whose address is in dst
  t.at[kOpExit] = {Kind::Exit, 0, 0, true, false, false};
  return t;
}
inline constexpr OpTable kOpTable = make_op_table();

template <typename U> struct SignedOf;
template <> struct SignedOf<uint32_t> { using type = int32_t; };
template <> struct SignedOf<uint64_t> { using type = int64_t; };

// The value of `a op b`; both interpreter and verifier (on known values) compute with these.
template <typename U> constexpr U alu_value(AluOp op, U a, U b) {
  using S = typename SignedOf<U>::type;
  constexpr U kShiftMask = sizeof(U) * 8 - 1;
  switch (op) {
#define X(name, code, text, value) case AluOp::name: return value;
    SF_ALU_OPS(X) SF_SIGNED_OPS(X)
#undef X
  }
  return 0;
}

template <typename U> constexpr bool jump_taken(JumpOp op, U a, U b) {
  using S = typename SignedOf<U>::type;
  switch (op) {
#define X(name, code, text, value) case JumpOp::name: return value;
    SF_JUMP_OPS(X)
#undef X
  }
  return false;
}

// The low `bits` of v, sign-extended.
constexpr uint64_t sign_extend(uint64_t v, unsigned bits) {
  return bits >= 64 ? v : static_cast<uint64_t>(static_cast<int64_t>(v << (64 - bits)) >> (64 - bits));
}

// Endian instructions on a little-endian machine: LE truncates, BE and SWAP reverse the low `bits`.
constexpr uint64_t endian_value(bool swap, uint64_t v, int32_t bits) {
  switch (bits) {
    case 16: return swap ? __builtin_bswap16(static_cast<uint16_t>(v)) : static_cast<uint16_t>(v);
    case 32: return swap ? __builtin_bswap32(static_cast<uint32_t>(v)) : static_cast<uint32_t>(v);
    default: return swap ? __builtin_bswap64(v) : v;
  }
}

// A whole instruction, taken apart. The verifier refuses what does not decode; the others rely on that.
struct Insn {
  Kind kind = Kind::Invalid;
  AluOp alu{};
  JumpOp jump{};
  AtomicOp atomic{};
  bool fetch = false;        // atomic: src receives the old value
  bool swap = false;         // endian: reverses
  bool wide = false, from_reg = false, sign_extend = false;
  uint8_t size = 0;
  uint8_t dst = 0, src = 0;  // LOAD_IMM64, CALL: src is kImm*, kCall*
  uint8_t extend_bits = 0;   // Mov: 8, 16, 32: sign-extending
  int16_t off = 0;
  int32_t imm = 0;
  int32_t imm_high = 0;      // LOAD_IMM64: of the second half
  constexpr uint64_t imm64() const {
    return static_cast<uint32_t>(imm) | static_cast<uint64_t>(static_cast<uint32_t>(imm_high)) << 32;
  }
  constexpr uint32_t slots() const { return kind == Kind::LoadImm64 ? 2 : 1; }
  // Where a jump, a call or the address of a function leads, counted from this instruction.
  constexpr int64_t distance() const {
    const bool by_imm = (kind == Kind::JumpAlways && !wide) || kind == Kind::Call || kind == Kind::LoadImm64;
    return 1 + static_cast<int64_t>(by_imm ? imm : off);
  }
  constexpr bool takes_function_address() const { return kind == Kind::LoadImm64 && src == kImmFunction; }
  constexpr bool calls_local() const { return kind == Kind::Call && src == kCallLocal; }
};

// Takes code[pc] apart; `left` is how many slots there are from pc. NULL, or what is wrong with it.
const char *decode_insn(const RawInsn *code, uint32_t left, Insn *out);

}  // namespace shortfuse::vm
