// Loops that ask for fuel every eighth round: which they are, that several of their rounds become one, and that a run
// is cut short exactly where the interpreter cuts it short.
#include "lower/strips.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "testing/testing.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

std::map<uint32_t, uint32_t> strips_of(const Code &code) {
  std::vector<BackEdge> edges;
  for (uint32_t pc = 0; pc < code.size(); pc++) {
    Insn in;
    EXPECT_EQ(decode_insn(&code[pc], static_cast<uint32_t>(code.size()) - pc, &in), nullptr);
    const bool jumps = in.kind == Kind::Jump || in.kind == Kind::JumpAlways;
    const auto to = static_cast<uint32_t>(pc + (jumps ? in.distance() : 1));
    if (to <= pc) edges.push_back({pc, to});
    if (in.kind == Kind::LoadImm64) pc++;
  }
  return find_strips(code.data(), static_cast<uint32_t>(code.size()), edges);
}
using Strips = std::map<uint32_t, uint32_t>;

TEST(Strips, AreShortAndAlone) {
  const Code round{alu_imm(kAdd, 0, 1), jump_imm(kNe, 0, 9, -2)};
  EXPECT_EQ(strips_of(Code{mov(0, 0)} + round + Code{leave()}), (Strips{{1, 2}}));
  // Of two, one in the other, the inner one.
  EXPECT_EQ(strips_of(Code{mov(1, 0), mov(0, 0)} + round + Code{alu_imm(kAdd, 1, 1), jump_imm(kNe, 1, 9, -5), leave()}),
            (Strips{{2, 3}}));
  // Two ways back to the same place; two that overlap, of which the later one contains another's way back.
  EXPECT_EQ(strips_of({mov(0, 0), alu_imm(kAdd, 0, 1), jump_imm(kNe, 0, 5, -2), jump_imm(kNe, 0, 9, -3), leave()}),
            (Strips{{1, 3}}));
  EXPECT_EQ(strips_of({mov(0, 0), alu_imm(kAdd, 0, 1), alu_imm(kAdd, 0, 1), jump_imm(kNe, 0, 8, -3),
                       jump_imm(kNe, 0, 12, -3), leave()}),
            (Strips{{1, 3}}));
}

TEST(Strips, HaveNothingThatTakesLong) {
  auto with = [](const RawInsn &in) {
    return strips_of({mov(0, 0), in, alu_imm(kAdd, 0, 1), jump_imm(kNe, 0, 9, -3), leave()});
  };
  EXPECT_EQ(with(load(8, 1, 10, -8)).size(), 1u);
  EXPECT_EQ(with(call(SF_HOST_KTIME)), Strips{});
  EXPECT_EQ(with(call_local(3)), Strips{});
  EXPECT_EQ(with(leave()), Strips{});
  EXPECT_EQ(with(alu_imm(kMul, 1, 3)), Strips{});
  EXPECT_EQ(with(alu32_imm(kDiv, 1, 3, 1)), Strips{});
  EXPECT_EQ(with(atomic(8, 10, -8, 1, 0)), Strips{});
  Code longer{mov(0, 0)};
  for (uint32_t i = 0; i < kStripInsnsMax; i++) longer.push_back(alu_imm(kAdd, 0, 1));
  longer.push_back(jump_imm(kNe, 0, 9, -static_cast<int>(kStripInsnsMax) - 1));
  longer.push_back(leave());
  EXPECT_EQ(strips_of(longer), Strips{});
}

// Both engines, with the same fuel: the result, and what is left.
struct Both {
  std::optional<Image> image;

  explicit Both(const Code &code) {
    auto published = Image::publish(trusted_policy({make_program(code, "fuse/read")}), Lowering::Required);
    EXPECT_TRUE(published) << published.error().str();
    if (published) image.emplace(std::move(*published));
  }
  struct Result { uint64_t r0, left; bool operator==(const Result &) const = default; };
  Result run(bool compiled, uint64_t fuel, uint64_t a) {
    sf_fuse_ctx ctx{};
    ctx.node = a;
    Host host;
    host.env()->fuel = fuel;
    const char *base = reinterpret_cast<const char *>(image->get());
    const sf_image_program &p = image->get()->program[0];
    const auto entry = reinterpret_cast<sf_image_entry>(reinterpret_cast<uintptr_t>(base + p.code_offset));
    const uint64_t r0 = compiled ? entry(&ctx, host.env())
                                 : sf_interpret(base + p.insns_offset, p.insns, &ctx, host.env());
    return {r0, host.env()->fuel};
  }
};

const Code kBegin{load(8, 6, 1, 16), mov(0, 0), mov(7, 0)};

// r6: rounds.
const Code kPrograms[] = {
    // Rounds until a number; the same, left early; with two ways back of different lengths.
    kBegin + Code{alu_imm(kAdd, 0, 3), alu_imm(kAdd, 7, 1), jump_reg(kLt, 7, 6, -3), leave()},
    kBegin + Code{alu_imm(kAdd, 0, 3), alu_imm(kAdd, 7, 1), jump_imm(kEq, 7, 21, 2), jump_reg(kLt, 7, 6, -4), leave(),
                  mov(0, 1), leave()},
    kBegin + Code{alu_imm(kAdd, 7, 1), jump_reg(kGe, 7, 6, 5), alu_imm(kAdd, 0, 3), jump_imm(kSet, 7, 4, -4),
                  alu_imm(kAdd, 0, 100), alu_imm(kXor, 0, 5), go(-7), leave()},
    // One in another, whose count goes on where it was and is set back; and one behind another.
    kBegin + Code{mov(8, 0), alu_imm(kAdd, 8, 1), alu_imm(kXor, 0, 1), jump_imm(kLt, 8, 5, -3), alu_imm(kAdd, 7, 1),
                  jump_reg(kLt, 7, 6, -6), leave()},
    kBegin + Code{alu_imm(kAdd, 7, 1), jump_reg(kLt, 7, 6, -2), mov(8, 0), alu_imm(kAdd, 8, 1),
                  jump_imm(kLt, 8, 20, -2), mov(0, 2), leave()},
    // Entered in its middle, and without an end.
    kBegin + Code{jump_imm(kSet, 6, 1, 1), alu_imm(kAdd, 0, 3), alu_imm(kAdd, 7, 1), jump_reg(kLt, 7, 6, -3), leave()},
    kBegin + Code{alu_imm(kAdd, 0, 3), go(-2), leave()},
};

TEST(Strips, EndARunWhereTheInterpreterDoes) {
  int cut = 0, whole = 0;
  for (const Code &code : kPrograms) {
    Both both(code);
    ASSERT_TRUE(both.image);
    for (uint64_t rounds : {0, 1, 2, 7, 8, 9, 16, 21, 22, 23, 50}) {
      for (uint64_t fuel = 1; fuel < 220; fuel++) {
        const auto interpreted = both.run(false, fuel, rounds), compiled = both.run(true, fuel, rounds);
        ASSERT_TRUE(interpreted == compiled) << &code - kPrograms << " " << rounds << " " << fuel << ": "
                                             << compiled.left << " left, not " << interpreted.left;
        (interpreted.left == 0 ? cut : whole)++;
      }
    }
  }
  EXPECT_GT(cut, 1000);
  EXPECT_GT(whole, 1000);
}

// What LLVM would take minutes for is interpreted, and said to be.
TEST(Strips, AreNotMadeOfEveryLoopThereIs) {
  auto rows = [](uint32_t loops) {
    Code code = kBegin;
    for (uint32_t i = 0; i < loops; i++)
      code = code + Code{mov(7, 0), alu_imm(kAdd, 0, 3), alu_imm(kAdd, 7, 1), jump_reg(kLt, 7, 6, -3)};
    return code + Code{leave()};
  };
  for (uint32_t loops : {kOptimisedLoopsMax, kOptimisedLoopsMax + 1, kCompiledLoopsMax}) {
    Both both(rows(loops));
    ASSERT_TRUE(both.image);
    for (uint64_t rounds : {0, 1, 9, 50}) {
      for (uint64_t fuel : {40, 400, 4000, 40'000})
        ASSERT_TRUE(both.run(false, fuel, rounds) == both.run(true, fuel, rounds)) << loops << " " << rounds;
    }
  }
  auto policy = trusted_policy({make_program(rows(kCompiledLoopsMax + 1), "fuse/read")});
  auto refused = Image::publish(policy, Lowering::Required);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().str().find("more than 64 loops"), std::string::npos) << refused.error().str();
  EXPECT_TRUE(Image::publish(policy, Lowering::Auto));
}

size_t count(const std::string &text, const std::string &what) {
  size_t n = 0;
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at++) n++;
  return n;
}

TEST(Strips, BecomeOneRoundOfEight) {
  const Code sum = load_value(2, 3) + Code{mov(0, 0), mov(7, 0), load(1, 3, 2, 0), alu_reg(kAdd, 0, 3),
                                           alu_imm(kAdd, 2, 1), alu_imm(kAdd, 7, 1), jump_imm(kLt, 7, 64, -5), leave()};
  auto policy = verified_policy({make_program(sum, "fuse/read")});
  ASSERT_TRUE(policy) << policy.error().str();
  auto text = compiler_text(*policy, CompilerStage::Optimised);
  ASSERT_TRUE(text) << text.error().str();
  EXPECT_EQ(count(*text, "load i8"), kStripRounds) << *text;
  // The end of the loop, the question there, and the one of every eight rounds.
  EXPECT_EQ(count(*text, "icmp"), 3u) << *text;
}

}  // namespace
}  // namespace shortfuse::vm
