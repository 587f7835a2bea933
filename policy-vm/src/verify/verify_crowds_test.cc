// Programs that are too big to walk every path of: accepted within bounds of work, and nothing untrue is believed where
// paths were joined. What is accepted here runs with every access checked.
#include <gtest/gtest.h>

#include "testing/testing.h"
#include "testing/big_programs.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

constexpr int kNode = offsetof(sf_fuse_ctx, node);

std::string run_checked(const Policy &policy, uint64_t node) {
  sf_fuse_ctx ctx{};
  ctx.node = node;
  Host host;
  uint64_t r0 = 0;
  return host.checked_run(policy.programs[0].insns, policy.programs[0].info.slot, &ctx, &r0);
}

std::string verdict(const LinkedProgram &program) {
  auto policy = verified_policy({program}, test_maps(), 3 * uint64_t{kStepsMax});
  if (!policy) return policy.error().str();
  for (uint64_t node : {0ull, 1ull, 63ull, 0x5555555555555555ull, ~0ull}) {
    if (std::string wrong = run_checked(*policy, node); !wrong.empty()) return "accepted, but: " + wrong;
  }
  return "accepted";
}

TEST(Crowds, BigProgramsAreAccepted) {
  for (const BigProgram &big : big_programs()) {
    SCOPED_TRACE(big.name);
    EXPECT_GE(big.program.code.size(), 9'500u);
    auto policy = verified_policy({big.program});
    ASSERT_TRUE(policy) << policy.error().str();
    EXPECT_LE(policy->programs[0].info.states_explored, big.steps_max);
    for (uint64_t node : {0ull, 0x123456789abcdefull, ~0ull}) EXPECT_EQ(run_checked(*policy, node), "");
  }
}

// Twice the program, twice the work.
TEST(Crowds, WorkGrowsWithTheProgram) {
  uint32_t steps[2];
  for (int i = 0; i < 2; i++) {
    auto policy = verified_policy({branches_into_one_number(i == 0 ? 2500 : 5000)});
    ASSERT_TRUE(policy) << policy.error().str();
    steps[i] = policy->programs[0].info.states_explored;
  }
  EXPECT_LT(steps[1], 3 * steps[0]);
}

// A thousand loops, each in the one before: nobody waits there, since where he is would be a thousand numbers long, and
// finding the place costs steps. Without that this takes half a minute and half a gigabyte.
TEST(Crowds, LoopsDeepInLoopsAreGivenUpSoon) {
  constexpr int kDepth = 1000;
  Code code{mov(7, 1)};
  for (int i = 0; i < kDepth; i++) code.push_back(alu_imm(kAdd, 8, 0));
  code[1] = mov(8, 0);
  code = code + Code{alu_imm(kMul, 7, 5), alu_imm(kAdd, 7, 1)};
  for (int i = 0; i < kDepth; i++) code.push_back(jump_imm(kNe, 7, 12345 + i, -3 - 2 * i));
  auto policy = verified_policy({make_program(code + Code{mov_reg(0, 7), leave()}, "fuse/read")});
  ASSERT_FALSE(policy);
  EXPECT_EQ(policy.error().code, "verify-endless-loop");
}

// What an attempt showed is taken back without copying what all of the program has shown.
TEST(Crowds, ManyLoopsInARow) {
  Code code;
  for (int i = 0; i < 3300; i++) code = code + Code{mov(7, 0), alu_imm(kAdd, 7, 1), jump_imm(kLt, 7, 100, -2)};
  auto policy = verified_policy({make_program(code + Code{mov(0, 0), leave()}, "fuse/read")});
  ASSERT_TRUE(policy) << policy.error().str();
  EXPECT_LE(policy->programs[0].info.states_explored, 300'000u);
}

// `many` branches that add up r7, then `rest`; r6 is the context's node, r8 and r9 belong to `first`.
LinkedProgram behind_branches(const Code &first, int many, const Code &rest) {
  Code code = Code{load(8, 6, 1, kNode)} + first + Code{mov(7, 0)};
  for (int i = 0; i < many; i++)
    code = code + Code{mov_reg(2, 6), alu_imm(kRsh, 2, i % 64), jump_imm(kSet, 2, 1, 1), alu_imm(kAdd, 7, 1 + i)};
  return make_program(code + rest, "fuse/read");
}
Code read_bss(int index) { return load_value(1, kBss) + Code{alu_reg(kAdd, 1, index), load(1, 0, 1, 0)}; }
Code pass() { return {mov(0, 0), leave()}; }
Code lookup() {
  return Code{store(8, 10, -8, 6), mov_reg(2, 10), alu_imm(kAdd, 2, -8)} + load_map(1, kHashMap) +
         Code{call(SF_HOST_MAP_LOOKUP)};
}

// What paths have in common is known behind the place where they meet, and what is learned there holds for all.
TEST(Crowds, KnowWhatIsCommon) {
  EXPECT_EQ(verdict(behind_branches({}, 300, Code{jump_imm(kGt, 7, 63, 4)} + read_bss(7) + pass())), "accepted");
  EXPECT_EQ(verdict(behind_branches({}, 300, Code{alu_imm(kAnd, 7, 63)} + read_bss(7) + pass())), "accepted");
  EXPECT_EQ(verdict(behind_branches(Code{mov(8, 5)}, 300, read_bss(8) + pass())), "accepted");
  // An address, a saved address, saved numbers.
  EXPECT_EQ(verdict(behind_branches(load_value(8, kBss), 300, Code{load(8, 0, 8, 56)} + pass())), "accepted");
  EXPECT_EQ(verdict(behind_branches(load_value(8, kBss) + Code{store(8, 10, -16, 8), store_imm(4, 10, -24, 9)}, 300,
                                    Code{load(8, 8, 10, -16), load(4, 9, 10, -24), alu_reg(kAdd, 8, 9),
                                         load(1, 0, 8, 54)} + pass())),
            "accepted");
  // A copy is the same number on all paths: one check is enough.
  EXPECT_EQ(verdict(behind_branches(Code{load(8, 8, 1, 24), mov_reg(9, 8)}, 300,
                                    Code{jump_imm(kGt, 9, 63, 4)} + read_bss(8) + pass())),
            "accepted");
  // So is one lookup's result.
  EXPECT_EQ(verdict(behind_branches(lookup() + Code{mov_reg(8, 0), mov_reg(9, 0)}, 300,
                                    Code{jump_imm(kEq, 9, 0, 1), load(8, 0, 8, 8)} + pass())),
            "accepted");
}

// 300 branches make 300 * 301 / 2 the most.
TEST(Crowds, DoNotKnowMore) {
  struct Wrong { const char *name; LinkedProgram program; const char *code; };
  auto branch_on = [](int bit, const Code &taken, const Code &other) {
    const int over = static_cast<int>(taken.size()), around = static_cast<int>(other.size());
    return Code{mov_reg(2, 6), alu_imm(kRsh, 2, bit), alu_imm(kAnd, 2, 1), jump_imm(kEq, 2, 0, over + 1)} + taken +
           Code{testing::go(around)} + other;
  };
  const Code reserve = load_map(1, kRing) + Code{mov(2, 16), mov(3, 0), call(SF_HOST_RINGBUF_RESERVE)};
  const Wrong cases[] = {
      {"an index that is not checked", behind_branches({}, 300, read_bss(7) + pass()), "verify-map-bounds"},
      {"one too many", behind_branches({}, 300, Code{jump_imm(kGt, 7, 64, 4)} + read_bss(7) + pass()),
       "verify-map-bounds"},
      {"an address of this map or of that",
       behind_branches(branch_on(3, load_value(8, kBss), load_value(8, kRodata)), 300,
                       Code{load(8, 0, 8, 40)} + pass()),
       "verify-map-bounds"},
      {"an address, or a number", behind_branches(branch_on(3, load_value(8, kBss), {mov(8, 5), mov(8, 6)}), 300,
                                                  Code{load(8, 0, 8, 0)} + pass()),
       "verify-not-an-address"},
      {"written on one path only",
       behind_branches(branch_on(3, {store_imm(8, 10, -16, 1)}, {mov(2, 0)}), 300, Code{load(8, 0, 10, -16)} + pass()),
       "verify-stack-uninitialised"},
      {"an address saved on one path only, read as a number",
       behind_branches(load_value(8, kBss) + branch_on(3, {store(8, 10, -16, 8)}, {store_imm(8, 10, -16, 1)}), 300,
                       Code{load(4, 0, 10, -16), mov_reg(0, 0), leave()}),
       "verify-pointer-leak"},
      {"copies on one path only",
       behind_branches(Code{load(8, 8, 1, 24), load(8, 9, 1, 32)} + branch_on(3, {mov_reg(9, 8)}, {mov(2, 0)}), 300,
                       Code{jump_imm(kGt, 9, 63, 4)} + read_bss(8) + pass()),
       ""},
      {"two lookups of which one is checked",
       behind_branches(lookup() + Code{mov_reg(8, 0)} + lookup() + Code{mov_reg(9, 0)} +
                           branch_on(3, {mov_reg(9, 8)}, {mov(2, 0)}),
                       300, Code{jump_imm(kEq, 9, 0, 1), load(8, 0, 8, 8)} + pass()),
       "verify-null-check"},
      {"reserved on one path only",
       behind_branches(branch_on(3, reserve + Code{mov_reg(8, 0)}, {mov(8, 0)}), 300,
                       Code{jump_imm(kEq, 8, 0, 3), mov_reg(1, 8), mov(2, 0), call(SF_HOST_RINGBUF_SUBMIT)} + pass()),
       nullptr},
      {"given back twice",
       behind_branches(reserve + Code{mov_reg(8, 0), mov_reg(9, 0), jump_imm(kNe, 0, 0, 2)} + pass(), 300,
                       Code{mov_reg(1, 8), mov(2, 0), call(SF_HOST_RINGBUF_SUBMIT), mov_reg(1, 9), mov(2, 0),
                            call(SF_HOST_RINGBUF_SUBMIT)} + pass()),
       "verify-uninitialised"},
      {"used after it was given back",
       behind_branches(reserve + Code{mov_reg(8, 0), mov_reg(9, 0), jump_imm(kNe, 0, 0, 2)} + pass(), 300,
                       Code{mov_reg(1, 8), mov(2, 0), call(SF_HOST_RINGBUF_SUBMIT), load(8, 0, 9, 0)} + pass()),
       "verify-uninitialised"},
      {"not given back", behind_branches(reserve + Code{mov_reg(8, 0)}, 300, pass()), "verify-reference-leak"},
  };
  for (const Wrong &c : cases) {
    SCOPED_TRACE(c.name);
    const std::string said = verdict(c.program);
    if (!c.code) {  // known on each path, so that walking them apart shows it
      EXPECT_EQ(said, "accepted");
      continue;
    }
    EXPECT_NE(said.substr(0, 8), "accepted") << said;
  }
}

// Each branch reserves in its own place; behind them it is one reservation all the same.
TEST(Crowds, ReservationsOfManyPathsAreOne) {
  Code code{load(8, 6, 1, kNode)};
  std::vector<size_t> out;
  for (int i = 0; i < 40; i++) {
    code = code + Code{jump_imm(kNe, 6, i, 11)} + load_map(1, kRing) +
           Code{mov(2, 16), mov(3, 0), call(SF_HOST_RINGBUF_RESERVE), mov_reg(8, 0), jump_imm(kNe, 8, 0, 2), mov(0, 0),
                leave(), mov(7, i)};
    out.push_back(code.size());
    code.push_back(testing::go(0));
    code[code.size() - 12].off = 11;
  }
  code = code + pass();
  for (size_t at : out) code[at].off = static_cast<int16_t>(code.size() - at - 1);
  code = code + Code{store(8, 8, 8, 7), mov_reg(1, 8), mov(2, 0), call(SF_HOST_RINGBUF_SUBMIT)} + pass();
  EXPECT_EQ(verdict(make_program(code, "fuse/read")), "accepted");
}

// A jump that goes both ways only on paths that were joined is not made one that always goes one way.
TEST(Crowds, JumpsBehindThemGoBothWays) {
  Code rest = Code{jump_imm(kEq, 7, 45150, 2)} + pass() + Code{mov(0, 1), leave()};
  auto policy = verified_policy({behind_branches({}, 300, rest)});
  ASSERT_TRUE(policy) << policy.error().str();
  Host host;
  for (uint64_t node : {0ull, 1ull, ~0ull}) {
    sf_fuse_ctx ctx{};
    ctx.node = node;
    uint64_t r0 = 7;
    EXPECT_EQ(host.checked_run(policy->programs[0].insns, policy->programs[0].info.slot, &ctx, &r0), "");
    EXPECT_EQ(r0, node == 0 ? 1u : 0u);
  }
}

// What is refused behind a crowd says so, with the way there.
TEST(Crowds, RefusalsAreExplained) {
  // The first paths have the greatest sums; what lies between only shows where paths are joined.
  const Code rest = Code{jump_imm(kGt, 7, 40000, 5), jump_imm(kLt, 7, 60, 4)} + read_bss(7) + pass();
  auto policy = verified_policy({behind_branches({}, 300, rest)}, test_maps(), 3 * uint64_t{kStepsMax});
  ASSERT_FALSE(policy);
  const Refusal &r = policy.error();
  EXPECT_EQ(r.code, "verify-map-bounds") << r.str();
  EXPECT_EQ(r.category, RefusalCategory::NotProved);
  EXPECT_NE(r.known.find("offset is in [60, 40000], 1 byte"), std::string::npos) << r.known;
  EXPECT_NE(r.known.find("many paths that meet"), std::string::npos) << r.known;
  EXPECT_FALSE(r.path.empty());
}

// Where joining forgets too much, paths are walked one by one: r7 and r8 are always the same, but not by relation.
TEST(Crowds, AreWalkedApartWhereThatShowsMore) {
  Code code{load(8, 6, 1, kNode), mov(7, 0), mov(8, 0)};
  for (int i = 0; i < 7; i++)
    code = code + Code{mov_reg(2, 6), alu_imm(kRsh, 2, i), jump_imm(kSet, 2, 1, 2), alu_imm(kAdd, 7, 1 << i),
                       alu_imm(kAdd, 8, 1 << i)};
  code = code + Code{jump_imm(kGt, 7, 63, 4)} + read_bss(8) + pass();
  EXPECT_EQ(verdict(make_program(code, "fuse/read")), "accepted");
}

TEST(Crowds, EndlessLoopsAmongThem) {
  Code rest{load(8, 8, 10, -8), jump_imm(kEq, 8, 5, -2)};
  const std::string said = verdict(behind_branches(Code{store(8, 10, -8, 6)}, 300, rest + pass()));
  EXPECT_NE(said.find("this loop cannot be shown to end"), std::string::npos) << said;
}

}  // namespace
}  // namespace shortfuse::vm
