// That every instruction can be had, and what is known of the fields of the context.
#include <gtest/gtest.h>

#include "object/target.h"
#include "testing/opcodes.h"
#include "testing/testing.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

constexpr int kNode = offsetof(sf_fuse_ctx, node);

Code pass() { return {mov(0, 0), leave()}; }

// Nobody changes the context while a program runs: what is learned of a field is known when it is read again. An
// application's context may be memory that its other threads write.
TEST(VerifyValues, FieldsOfTheContextHoldStill) {
  auto verdict = [](const Code &code, bool embedded = false) {
    Target target;
    target.embedded = true;
    target.embedded_context_bytes = sizeof(sf_fuse_ctx);
    LinkedProgram program = make_program(code, "fuse/read");
    if (embedded) program.target = &target;
    auto policy = verified_policy({program});
    return policy ? "accepted" : policy.error().code;
  };
  auto index = [](const RawInsn &field) {
    return Code{field} + load_value(3, kBss) + Code{alu_reg(kAdd, 3, 2), load(1, 0, 3, 0), leave()};
  };
  const Code bounded{mov(0, 0), load(8, 2, 1, kNode), jump_imm(kLe, 2, 63, 1), leave()};
  EXPECT_EQ(verdict(bounded + index(load(8, 2, 1, kNode))), "accepted");
  EXPECT_EQ(verdict(bounded + index(load(8, 2, 1, kNode + 8))), "verify-pointer-arithmetic");
  EXPECT_EQ(verdict(bounded + index(load(2, 2, 1, kNode))), "verify-map-bounds");
  EXPECT_EQ(verdict(bounded + index(load(8, 2, 1, kNode)), true), "verify-pointer-arithmetic");
  Target traced;
  traced.traced = true;
  EXPECT_FALSE(traced.context_holds_still());
  // In a register of another name, behind a call and behind branches that do not concern it.
  EXPECT_EQ(verdict(Code{mov_reg(6, 1)} + bounded + Code{call(SF_HOST_KTIME), jump_imm(kGt, 0, 5, 1), mov(0, 0)} +
                    index(load(8, 2, 6, kNode))), "accepted");
  // One too many; and on one path only.
  EXPECT_EQ(verdict(Code{mov(0, 0), load(8, 2, 1, kNode), jump_imm(kLe, 2, 64, 1), leave()} +
                    index(load(8, 2, 1, kNode))), "verify-map-bounds");
  EXPECT_EQ(verdict(Code{mov(0, 0), load(8, 4, 1, 8), load(8, 2, 1, kNode), jump_imm(kEq, 4, 0, 2),
                         jump_imm(kLe, 2, 63, 1), leave()} + index(load(8, 2, 1, kNode))), "verify-pointer-arithmetic");
  // In each round of a loop.
  EXPECT_EQ(verdict(bounded + Code{mov(7, 0), mov_reg(6, 1), load(8, 2, 6, kNode)} + load_value(3, kBss) +
                    Code{alu_reg(kAdd, 3, 2), load(1, 0, 3, 0), alu_imm(kAdd, 7, 1), jump_imm(kLt, 7, 100000, -7),
                         mov(0, 0), leave()}), "accepted");
}

// What is known of a field is true of that field, on that path, as long as nobody can have changed it. Whatever is
// accepted here runs with every access checked, for contexts on both sides of each bound.
class FieldAttack : public ::testing::Test {
 protected:
  static std::string verdict(const LinkedProgram &program) {
    auto policy = verified_policy({program});
    if (!policy) return policy.error().code;
    for (uint64_t node : {0ull, 1ull, 58ull, 59ull, 63ull, 64ull, 127ull, 0x7fffffffull, 0x80000000ull, 0xffffffc0ull,
                          0x100000000ull, 0x100000020ull, ~0ull}) {
      alignas(8) unsigned char context[sizeof(sf_fuse_exit_ctx)] = {};
      memcpy(context + kNode, &node, sizeof node);
      Host host;
      uint64_t r0 = 0;
      EXPECT_EQ(host.checked_run(policy->programs[0].insns, policy->programs[0].info.slot, context, &r0), "") << node;
    }
    return "accepted";
  }
  static std::string verdict(const Code &code, const char *section = "fuse/read") {
    return verdict(make_program(code, section));
  }
  // .bss[r2], and the end.
  static Code use() { return load_value(3, kBss) + Code{alu_reg(kAdd, 3, 2), load(1, 0, 3, 0), leave()}; }
  static constexpr RawInsn kField = load(8, 2, 6, kNode);
};

// Functions that serve write into the application's buffers, and the application may have given the place of the
// context, which lies on its own stack. A copy in a register is nobody else's.
TEST_F(FieldAttack, AServedCallMayWriteTheContext) {
  static_assert(offsetof(sf_syscall_ctx, node) == 8);
  const RawInsn offset = load(8, 2, 6, offsetof(sf_syscall_ctx, offset)), again = load(8, 2, 6, 24);
  static_assert(offsetof(sf_syscall_ctx, offset) == 24);
  const Code bounded{mov_reg(6, 1), mov(0, 0), offset, jump_imm(kLe, 2, 63, 1), leave()};
  const Code serves{mov_reg(1, 6), call(SF_HOST_SERVE_DATA)};
  EXPECT_EQ(verdict(bounded + Code{again} + use(), "syscall/read"), "accepted");
  EXPECT_EQ(verdict(bounded + Code{mov_reg(1, 6), call(SF_HOST_KTIME), again} + use(), "syscall/read"), "accepted");
  EXPECT_EQ(verdict(bounded + serves + Code{again} + use(), "syscall/read"), "verify-pointer-arithmetic");
  EXPECT_EQ(verdict(bounded + Code{mov_reg(7, 2)} + serves + Code{mov_reg(2, 7)} + use(), "syscall/read"), "accepted");
  // Learned of the copy afterwards: of what the field was, not of what it is.
  EXPECT_EQ(verdict(Code{mov_reg(6, 1), offset, mov_reg(7, 2)} + serves +
                        Code{mov(0, 0), jump_imm(kLe, 7, 63, 1), leave(), again} + use(), "syscall/read"),
            "verify-pointer-arithmetic");
  // The daemon's functions write into replies.
  const Code in_daemon{mov_reg(6, 1), mov(0, 0), kField, jump_imm(kLe, 2, 63, 1), leave()};
  EXPECT_EQ(verdict(in_daemon + serves + Code{kField} + use()), "accepted");
}

// Parts of a field, and what is read with a sign, are numbers of their own.
TEST_F(FieldAttack, AnotherWidthIsAnotherNumber) {
  auto after = [](const RawInsn &first, const RawInsn &jump, const RawInsn &second) {
    return verdict(Code{mov_reg(6, 1), mov(0, 0), first, jump, leave(), second} + use());
  };
  const RawInsn half = load(4, 2, 6, kNode), high = load(4, 2, 6, kNode + 4), with_sign = load_sx(4, 2, 6, kNode);
  const RawInsn small = jump_imm(kLe, 2, 63, 1), small_signed = jump_imm(kSle, 2, 63, 1);
  EXPECT_EQ(after(half, small, half), "accepted");
  EXPECT_EQ(after(half, small, with_sign), "accepted");
  EXPECT_NE(after(half, small, kField), "accepted");
  EXPECT_NE(after(kField, small, half), "accepted");
  EXPECT_NE(after(half, small, high), "accepted");
  EXPECT_NE(after(with_sign, small, half), "accepted");
  EXPECT_NE(after(with_sign, small_signed, with_sign), "accepted");
  EXPECT_NE(after(kField, small_signed, kField), "accepted");
  EXPECT_NE(after(kField, jump32_imm(kLe, 2, 63, 1), kField), "accepted");
  EXPECT_EQ(after(kField, jump_imm(kLe, 2, 63, 1), kField), "accepted");
  EXPECT_EQ(after(kField, jump_imm(kLe, 2, 64, 1), kField), "verify-map-bounds");
}

// What is learned of a sum is learned of the field as it was read, not as it is used.
TEST_F(FieldAttack, SumsThatWrap) {
  auto moved = [](int by, const Code &then) {
    return verdict(Code{mov_reg(6, 1), mov(0, 0), kField, alu_imm(kAdd, 2, by), jump_imm(kLe, 2, 63, 1), leave(),
                        kField} + then + use());
  };
  EXPECT_NE(moved(5, {}), "accepted");
  EXPECT_EQ(moved(5, {alu_imm(kAdd, 2, 5)}), "accepted");
  EXPECT_NE(moved(-5, {}), "accepted");
  EXPECT_EQ(moved(-5, {alu_imm(kAdd, 2, -5)}), "accepted");
}

// In a sub-program, in a callback, and behind them.
TEST_F(FieldAttack, CallsAndCallbacks) {
  const Code narrows{load(8, 2, 1, kNode), mov(0, 0), jump_imm(kLe, 2, 63, 1), mov(0, 1), leave()};
  const Code uses = Code{mov_reg(6, 1), kField} + use();
  auto with = [](const Code &code, const Code &function) { return verdict(assemble(code, {function}, "fuse/read")); };
  auto after_call = [&](const RawInsn &jump) {
    return verdict(make_program(Code{mov_reg(6, 1), call_local(8), jump, leave(), kField} + use() + narrows,
                                "fuse/read", {10}));
  };
  EXPECT_EQ(after_call(jump_imm(kEq, 0, 0, 1)), "accepted");
  EXPECT_NE(after_call(jump_imm(kEq, 0, 1, 1)), "accepted");
  // bpf_loop(rounds, function, context, 0). The body gets the context as its second argument.
  auto rounds = [](int number) {
    return Code{mov_reg(6, 1), kField, mov(0, 0)} + Code{mov(1, number)} + load_function(2, 0) +
           Code{mov_reg(3, 6), mov(4, 0), call(SF_HOST_LOOP)};
  };
  const Code body_narrows{load(8, 2, 2, kNode), mov(0, 0), jump_imm(kLe, 2, 63, 1), mov(0, 1), leave()};
  const Code body_uses = Code{mov_reg(6, 2), kField} + load_value(3, kBss) +
                         Code{alu_reg(kAdd, 3, 2), load(1, 4, 3, 0), mov(0, 0), leave()};
  EXPECT_NE(with(rounds(5) + Code{kField} + use(), body_narrows), "accepted");
  EXPECT_NE(with(rounds(5) + Code{mov(0, 0), leave()}, body_uses), "accepted");
  const Code checked{mov(0, 0), load(8, 2, 1, kNode), jump_imm(kLe, 2, 63, 1), leave()};
  EXPECT_EQ(with(checked + rounds(5) + Code{mov(0, 0), leave()}, body_uses), "accepted");
  EXPECT_EQ(with(checked + rounds(5) + Code{kField} + use(), body_uses), "accepted");
}

// A loop that waits for a field to change waits for ever; one that counts up to a field that is bounded ends.
TEST_F(FieldAttack, Loops) {
  EXPECT_EQ(verdict(Code{mov_reg(6, 1), kField, jump_imm(kEq, 2, 7, -2), mov(0, 0), leave()}), "verify-endless-loop");
  const Code counts{mov(7, 0), kField, jump_reg(kGe, 7, 2, 2), alu_imm(kAdd, 7, 1), go(-4), mov(0, 0), leave()};
  const Code bounded{mov_reg(6, 1), mov(0, 0), kField, jump_imm(kLe, 2, 100000 & 0xffff, 1), leave()};
  EXPECT_EQ(verdict(bounded + counts), "accepted");
  EXPECT_NE(verdict(Code{mov_reg(6, 1)} + counts), "accepted");
  // Bounded on one of two ways into the loop.
  EXPECT_NE(verdict(Code{mov_reg(6, 1), mov(0, 0), load(8, 3, 6, 8), kField, jump_imm(kEq, 3, 5, 2),
                         jump_imm(kLe, 2, 1000, 1), leave()} + counts), "accepted");
  // The index of the next round is what the last one compared.
  const Code next_round = Code{mov_reg(6, 1), mov(7, 0), mov(2, 0)} + load_value(3, kBss) +
                          Code{alu_reg(kAdd, 3, 2), load(1, 0, 3, 0), kField, jump_imm(kGt, 2, 63, 2),
                               alu_imm(kAdd, 7, 1), jump_imm(kLt, 7, 100000, -8), mov(0, 0), leave()};
  EXPECT_EQ(verdict(next_round), "accepted");
}

// r1 and r2 are numbers, or what the instruction takes: an address, a function. What it gives goes to r0.
Code around(const Insn &in, const std::vector<RawInsn> &insn) {
  const Code numbers{load(8, 2, 1, kNode), load(8, 1, 1, 8), mov(0, 3)}, result{mov_reg(0, 1), leave()};
  const Code address{load(8, 2, 1, kNode), store(8, 10, -8, 2), mov_reg(1, 10), alu_imm(kAdd, 1, -8), mov(0, 3)};
  const Code stored{load(8, 0, 10, -8), leave()};
  switch (in.kind) {
    case Kind::Alu: case Kind::Endian: return numbers + insn + result;
    case Kind::Load: return address + Code{mov_reg(2, 1)} + insn + result;
    case Kind::Store: case Kind::StoreImm: case Kind::Atomic: return address + insn + stored;
    case Kind::Jump: case Kind::JumpAlways: return numbers + insn + result;
    case Kind::LoadImm64: return (in.src == kImmValue ? Code{} : numbers) + insn + pass();
    case Kind::Call: return insn + (in.src == kCallHost ? Code{leave()} : pass());
    case Kind::CallReg: return load_function_at(1, 3) + insn + pass();
    default: return Code{mov(0, 0)} + insn;
  }
}

// There is none that no program may have, and each does in both ways what the verifier has let through.
TEST(VerifyValues, EveryInstructionIsAccepted) {
  std::vector<LinkedProgram> programs;
  for (auto &[name, raw] : all_opcodes()) {
    SCOPED_TRACE(name);
    std::vector<RawInsn> insn = raw;
    Insn in;
    ASSERT_EQ(decode_insn(insn.data(), static_cast<uint32_t>(insn.size()), &in), nullptr);
    if (in.kind == Kind::Call && in.src == kCallHost) insn[0].imm = SF_HOST_KTIME;
    if (in.kind == Kind::Jump && !in.from_reg) insn[0].imm = 5;
    if (in.kind == Kind::LoadImm64 && in.src == kImmMapValue) insn[0].imm = kBss;
    const bool calls = in.kind == Kind::CallReg || in.calls_local() || in.takes_function_address();
    Code code = around(in, insn);
    const auto behind = static_cast<uint32_t>(code.size());
    for (size_t pc = 0; pc < code.size() && (in.calls_local() || in.takes_function_address()); pc++) {
      if (code[pc].code == insn[0].code) code[pc].imm = static_cast<int32_t>(behind - pc - 1);
    }
    if (calls) code = code + pass();
    programs.push_back(make_program(code, "fuse/read", calls ? std::vector{behind} : std::vector<uint32_t>{}));
    auto policy = verified_policy({programs.back()});
    ASSERT_TRUE(policy) << policy.error().str();
  }
  EXPECT_EQ(opcodes_of_tests().verified.missing(), "");
  auto image = Image::publish(*verified_policy(programs), Lowering::Required);
  ASSERT_TRUE(image) << image.error().str();
  for (uint32_t i = 0; i < programs.size(); i++) {
    for (uint64_t node : {0ull, 5ull, 0x8000000080000000ull, 0x123456789abcdef0ull, ~0ull}) {
      sf_fuse_ctx ctx{};
      ctx.node = node;
      ctx.unique = node * 0x9e3779b97f4a7c15ull;
      Host one, two;
      EXPECT_EQ(image->interpret(i, &ctx, one.env()), image->run_code(i, &ctx, two.env())) << "program " << i;
    }
  }
}

}  // namespace
}  // namespace shortfuse::vm
