// Loops: which are proved without walking every round, which are not, and that nothing untrue is believed of them.
// What is accepted runs with every access checked.
#include "verify/verifier.h"

#include <gtest/gtest.h>

#include "testing/testing.h"
#include "verify/flow.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

constexpr int kNode = offsetof(sf_fuse_ctx, node);
constexpr uint32_t kFew = 10000;  // steps; a tenth of the rounds of the loops below

struct LoopCase {
  const char *name;
  Code code;
  const char *refusal = nullptr;  // its code without "verify-"; NULL: accepted
  std::vector<uint32_t> functions = {};
  bool runs = true;               // short enough to be run
};

Code pass() { return {mov(0, 0), leave()}; }
// r3 = .bss + r`index`: 64 bytes.
Code bss_at(int index) { return load_value(3, 3) + Code{alu_reg(kAdd, 3, index)}; }

const LoopCase kProved[] = {
    {"tested below", Code{mov(6, 0), alu_imm(kAdd, 6, 1), jump_imm(kLt, 6, 100000, -2)} + pass()},
    {"tested below for being different", Code{mov(6, 0), alu_imm(kAdd, 6, 1), jump_imm(kNe, 6, 100000, -2)} + pass()},
    {"ten million rounds", Code{mov(6, 0), alu_imm(kAdd, 6, 1), jump_imm(kNe, 6, 10000000, -2)} + pass()},
    {"tested above", Code{mov(6, 0), jump_imm(kGe, 6, 100000, 2), alu_imm(kAdd, 6, 1), go(-3)} + pass()},
    {"downwards", Code{mov(6, 100000), alu_imm(kAdd, 6, -1), jump_imm(kNe, 6, 0, -2)} + pass()},
    {"downwards, signed", Code{mov(6, 100000), alu_imm(kSub, 6, 1), jump_imm(kSgt, 6, -7, -2)} + pass()},
    {"downwards, tested above", Code{mov(6, 100000), jump_imm(kEq, 6, 0, 2), alu_imm(kAdd, 6, -1), go(-3)} + pass()},
    {"in steps of 8", Code{mov(6, 0), alu_imm(kAdd, 6, 8), jump_imm(kNe, 6, 800000, -2)} + pass()},
    {"in steps of 7", Code{mov(6, 0), alu_imm(kAdd, 6, 7), jump_imm(kLt, 6, 700001, -2)} + pass()},
    {"32 bits", Code{mov(6, 0), alu32_imm(kAdd, 6, 1), jump32_imm(kNe, 6, 100000, -2)} + pass()},
    {"32 bits, compared in 64", Code{mov(6, 0), alu32_imm(kAdd, 6, 1), jump_imm(kLt, 6, 100000, -2)} + pass()},
    {"32 bits, signed, downwards",
     Code{mov(6, 100000), alu32_imm(kAdd, 6, -1), jump32_imm(kSgt, 6, 0, -2)} + pass()},
    {"64 bits, compared in 32", Code{mov(6, 0), alu_imm(kAdd, 6, 1), jump32_imm(kLt, 6, 100000, -2)} + pass()},
    {"from -100000", Code{mov(6, -100000), alu_imm(kAdd, 6, 1), jump_imm(kSlt, 6, 0, -2)} + pass()},
    {"bounded by a number of 16 bits",
     Code{load(2, 7, 1, kNode), mov(6, 0), jump_reg(kGe, 6, 7, 2), alu_imm(kAdd, 6, 1), go(-3)} + pass()},
    {"bounded by a checked number",
     Code{load(8, 7, 1, kNode), jump_imm(kGt, 7, 100000, 4), mov(6, 0), jump_reg(kGe, 6, 7, 2), alu_imm(kAdd, 6, 1),
          go(-3)} + pass()},
    {"condition on a copy",
     Code{mov(6, 0), mov_reg(7, 6), alu_imm(kAdd, 6, 1), jump_imm(kLt, 7, 100000, -3)} + pass()},
    {"condition on a copy made before the step",
     Code{mov(6, 0), alu_imm(kAdd, 6, 1), mov_reg(7, 6), alu_imm(kAdd, 7, 5), jump_imm(kLt, 7, 100000, -4)} + pass()},
    {"counter on the stack",
     Code{store_imm(8, 10, -8, 0), load(8, 6, 10, -8), alu_imm(kAdd, 6, 1), store(8, 10, -8, 6),
          jump_imm(kLt, 6, 100000, -4)} + pass()},
    {"counter in half a slot",
     Code{store_imm(4, 10, -4, 0), load(4, 6, 10, -4), alu32_imm(kAdd, 6, 1), store(4, 10, -4, 6),
          jump32_imm(kLt, 6, 100000, -4)} + pass()},
    {"counter moved by a callee through an address",
     Code{store_imm(8, 10, -8, 0), mov_reg(1, 10), alu_imm(kAdd, 1, -8), call_local(4), load(8, 6, 10, -8),
          jump_imm(kLt, 6, 100000, -5)} + pass() +
         Code{load(8, 2, 1, 0), alu_imm(kAdd, 2, 1), store(8, 1, 0, 2), mov(0, 0), leave()},
     nullptr, {8}},
    {"counter moved by a callee that returns it",
     Code{mov(6, 0), mov_reg(1, 6), call_local(4), mov_reg(6, 0), jump_imm(kLt, 6, 100000, -4)} + pass() +
         Code{mov_reg(0, 1), alu_imm(kAdd, 0, 3), leave()},
     nullptr, {7}},
    {"two steps of one sign",
     Code{mov(6, 0), call(SF_HOST_KTIME), jump_imm(kEq, 0, 5, 1), alu_imm(kAdd, 6, 4), alu_imm(kAdd, 6, 3),
          jump_imm(kLt, 6, 500000, -5)} + pass()},
    {"a step that is read",
     Code{mov(6, 0), mov_reg(9, 1), load(1, 7, 9, kNode), alu_imm(kAdd, 7, 1), alu_reg(kAdd, 6, 7),
          jump_imm(kLt, 6, 500000, -4)} + pass()},
    {"two counters of which one moves",
     Code{mov(6, 0), mov(7, 30000), call(SF_HOST_KTIME), jump_imm(kEq, 0, 5, 2), alu_imm(kAdd, 6, 1), go(1),
          alu_imm(kAdd, 7, -1), jump_imm(kGe, 6, 30000, 1), jump_imm(kSgt, 7, 0, -7)} + pass()},
    {"a way out in the middle",
     Code{mov(6, 0), call(SF_HOST_KTIME), jump_imm(kEq, 0, 1, 2), alu_imm(kAdd, 6, 1), jump_imm(kLt, 6, 100000, -4)} +
         pass()},
    {"an address that runs along",
     load_value(8, 3) + Code{mov(6, 0), load(1, 7, 8, 0), alu_imm(kAdd, 8, 0), alu_imm(kAdd, 6, 1),
                             jump_imm(kNe, 6, 100000, -4)} + pass()},
    {"nested",
     Code{mov(6, 0), mov(7, 0), alu_imm(kAdd, 7, 1), jump_imm(kNe, 7, 1000, -2), alu_imm(kAdd, 6, 1),
          jump_imm(kNe, 6, 1000, -5)} + pass()},
    {"nested, ten thousand by ten thousand",
     Code{mov(6, 0), mov(7, 0), alu_imm(kAdd, 7, 1), jump_imm(kNe, 7, 10000, -2), alu_imm(kAdd, 6, 1),
          jump_imm(kNe, 6, 10000, -5)} + pass(),
     nullptr, {}, false},
    {"nested, the inner bounded by the outer",
     Code{mov(6, 0), mov(7, 0), jump_reg(kGe, 7, 6, 2), alu_imm(kAdd, 7, 1), go(-3), alu_imm(kAdd, 6, 1),
          jump_imm(kNe, 6, 1000, -6)} + pass()},
    {"the inner moves the outer's counter",
     Code{mov(6, 0), mov(7, 0), alu_imm(kAdd, 7, 1), alu_imm(kAdd, 6, 1), jump_imm(kLt, 7, 100, -3),
          jump_imm(kLt, 6, 100000, -5)} + pass()},
    {"a loop in a callee in a loop",
     Code{mov(6, 0), mov_reg(1, 6), call_local(4), alu_imm(kAdd, 6, 1), jump_imm(kNe, 6, 300, -4)} + pass() +
         Code{mov(0, 0), alu_imm(kAdd, 0, 1), jump_imm(kLt, 0, 3000, -2), leave()},
     nullptr, {7}},
    {"a body that never comes back", Code{load(8, 6, 1, kNode), mov(7, 0), alu_imm(kAdd, 7, 1),
                                           jump_imm(kLt, 7, 100000, -2), jump_imm(kGt, 7, 99999, 1), go(-4)} + pass()},
};

const LoopCase kNotProved[] = {
    {"no end", Code{mov(6, 0), alu_imm(kAdd, 6, 1), go(-2)} + pass(), "unreachable"},
    {"a state that comes back", Code{load(8, 6, 1, kNode), jump_imm(kEq, 6, 5, -1)} + pass(), "endless-loop"},
    {"to and fro", Code{mov(6, 0), alu_imm(kXor, 6, 1), jump_imm(kLt, 6, 2, -2)} + pass(), "endless-loop"},
    {"without a way out", Code{mov(6, 0), alu_imm(kAdd, 6, 1), jump_imm(kGe, 6, 0, -2)} + pass(), "endless-loop"},
    {"wraps in 32 bits", Code{mov(6, 0), alu32_imm(kAdd, 6, 1), jump_imm(kLe, 6, -1, -2)} + pass(), "endless-loop"},
    {"wraps past its bound", Code{load(8, 6, 1, kNode), alu_imm(kAdd, 6, 2), jump_imm(kNe, 6, 100000, -2)} + pass(),
     "endless-loop"},
    {"steps over its bound", Code{mov(6, 0), alu_imm(kAdd, 6, 7), jump_imm(kNe, 6, 100000, -2)} + pass(),
     "endless-loop"},
    {"two ways", Code{mov(6, 50), call(SF_HOST_KTIME), jump_imm(kEq, 0, 5, 2), alu_imm(kAdd, 6, 1), go(1),
                      alu_imm(kAdd, 6, -1), jump_imm(kLt, 6, 100000, -6)} + pass(),
     "endless-loop"},
    {"a step that may be none",
     Code{mov(6, 0), mov_reg(9, 1), load(1, 7, 9, kNode), alu_reg(kAdd, 6, 7), jump_imm(kLt, 6, 500000, -3)} + pass(),
     "endless-loop"},
    {"a step that may go back",
     Code{mov(6, 0), mov_reg(9, 1), load_sx(1, 7, 10, -8), alu_reg(kAdd, 6, 7), jump_imm(kSlt, 6, 500000, -3)} + pass(),
     "stack-uninitialised"},
    {"a step that no number can hold",
     Code{mov_reg(9, 1), mov(6, 0), mov(5, 0)} + load64(8, 0x7ffffffffffffff0) +
         Code{load(1, 7, 9, kNode), alu_imm(kAdd, 5, 1), alu_reg(kAdd, 6, 8), alu_reg(kAdd, 6, 7),
              jump_imm(kLt, 6, -1, -5)} + pass(),
     "endless-loop"},
    {"its bound moves along",
     Code{mov(6, 0), mov(7, 10), alu_imm(kAdd, 6, 1), alu_imm(kAdd, 7, 1), jump_reg(kLt, 6, 7, -3)} + pass(),
     "too-complex"},
    {"a callee undoes the step",
     Code{store_imm(8, 10, -8, 0), load(8, 6, 10, -8), alu_imm(kAdd, 6, 1), store(8, 10, -8, 6), mov_reg(1, 10),
          alu_imm(kAdd, 1, -8), call_local(4), load(8, 6, 10, -8), jump_imm(kLt, 6, 100000, -8)} + pass() +
         Code{store_imm(8, 1, 0, 3), mov(0, 0), leave()},
     "endless-loop", {11}},
    {"the stack's counter is overwritten through an address",
     Code{store_imm(8, 10, -8, 0), mov_reg(8, 10), alu_imm(kAdd, 8, -16), mov_reg(9, 1), load(8, 6, 10, -8),
          alu_imm(kAdd, 6, 1), store(8, 10, -8, 6), load(1, 7, 9, kNode), alu_imm(kAnd, 7, 8), alu_reg(kAdd, 7, 8),
          store_imm(8, 7, 0, 0), load(8, 6, 10, -8), jump_imm(kLt, 6, 100000, -9)} + pass(),
     "endless-loop"},
    {"one byte of the counter is overwritten",
     Code{store_imm(8, 10, -8, 0), load(8, 6, 10, -8), alu_imm(kAdd, 6, 1), store(8, 10, -8, 6),
          store_imm(1, 10, -8, 0), jump_imm(kLt, 6, 100000, -5)} + pass(),
     "endless-loop"},
    {"doubled from nothing", Code{mov(6, 0), alu_imm(kMul, 6, 2), jump_imm(kLt, 6, 100000, -2)} + pass(),
     "endless-loop"},
    {"halved for ever", Code{mov(6, 100000), alu_imm(kRsh, 6, 1), jump_imm(kLt, 6, 100000, -2)} + pass(),
     "endless-loop"},
    {"the inner starts the outer again",
     Code{mov(6, 0), mov(7, 0), alu_imm(kAdd, 7, 1), mov(6, 0), jump_imm(kLt, 7, 1000, -3), alu_imm(kAdd, 6, 1),
          jump_imm(kLt, 6, 1000, -6)} + pass(),
     "endless-loop"},
    {"outside of the inner nothing moves",
     Code{mov(6, 0), mov(7, 0), alu_imm(kAdd, 7, 1), jump_imm(kLt, 7, 1000, -2), jump_imm(kLt, 6, 1, -4)} + pass(),
     "endless-loop"},
    {"more rounds than may be",
     Code{mov(6, 0), mov(7, 0), alu_imm(kAdd, 7, 1), jump_imm(kNe, 7, 100000, -2), alu_imm(kAdd, 6, 1),
          jump_imm(kNe, 6, 100000, -5)} + pass(),
     "too-complex"},
    {"2^32 rounds",
     Code{load(4, 7, 1, kNode), mov(6, 0), jump_reg(kGe, 6, 7, 2), alu_imm(kAdd, 6, 1), go(-3)} + pass(),
     "too-complex"},

    // The loop ends, but what is true behind it or inside is not enough.
    {"the index reaches one too far",
     Code{mov(6, 0)} + bss_at(6) + Code{load(1, 4, 3, 0), alu_imm(kAdd, 6, 1), jump_imm(kNe, 6, 100000, -6)} + pass(),
     "map-bounds"},
    {"the index behind the loop",
     Code{mov(6, 0), alu_imm(kAdd, 6, 1), jump_imm(kLt, 6, 100000, -2)} + bss_at(6) + Code{load(1, 4, 3, 0)} + pass(),
     "map-bounds"},
    {"an address that runs too far",
     load_value(8, 3) + Code{mov(6, 0), load(1, 7, 8, 0), alu_imm(kAdd, 8, 1), alu_imm(kAdd, 6, 1),
                             jump_imm(kNe, 6, 1000, -4)} + pass(),
     "map-bounds"},
    {"a count of something is no index",
     Code{mov(6, 0), mov(7, 0), call(SF_HOST_KTIME), jump_imm(kEq, 0, 5, 1), alu_imm(kAdd, 7, 1), alu_imm(kAdd, 6, 1),
          jump_imm(kLt, 6, 1000, -5)} + bss_at(7) + Code{load(1, 4, 3, 0)} + pass(),
     "map-bounds"},
    {"a count beside a step that no number can hold",
     Code{mov_reg(9, 1), mov(6, 0), mov(5, 0)} + load64(8, 0x7ffffffffffffff0) +
         Code{mov_reg(2, 5), alu_imm(kRsh, 2, 7)} + bss_at(2) +
         Code{load(1, 4, 3, 0), load(1, 7, 9, kNode), alu_imm(kAdd, 5, 1), alu_reg(kAdd, 6, 8), alu_reg(kAdd, 6, 7),
              jump_imm(kLt, 6, -1, -11)} + pass(),
     "map-bounds"},
    {"an address is lost on one way",
     Code{mov_reg(7, 1), mov(6, 0), load(8, 8, 7, kNode), call(SF_HOST_KTIME), jump_imm(kNe, 0, 5, 1), mov(7, 1),
          alu_imm(kAdd, 6, 1), jump_imm(kLt, 6, 100000, -6)} + pass(),
     "not-an-address"},
    {"a number behind many rounds is used as an address",
     Code{mov_reg(7, 10), mov(6, 0), alu_imm(kAdd, 6, 1), jump_imm(kNe, 6, 90000, 1), mov(7, 0),
          jump_imm(kLt, 6, 100000, -4), store_imm(8, 7, -8, 0)} + pass(),
     "uninitialised"},
};

class CheckedRuns {
 public:
  void run(const Policy &policy) {
    for (uint64_t node : {0ull, 1ull, 5ull, 255ull, 0xffffull, 100000ull, ~0ull}) {
      sf_fuse_exit_ctx ctx{};
      ctx.req.node = node;
      Host host;
      uint64_t r0 = 0;
      EXPECT_EQ(host.checked_run(policy.programs[0].insns, policy.programs[0].info.slot, &ctx, &r0), "") << node;
    }
  }
};

TEST(Loops, AreProvedInFewSteps) {
  CheckedRuns runs;
  for (const LoopCase &c : kProved) {
    SCOPED_TRACE(c.name);
    auto policy = verified_policy({make_program(c.code, "fuse/read", c.functions)});
    ASSERT_TRUE(policy) << policy.error().str();
    EXPECT_LT(policy->programs[0].info.states_explored, kFew);
    if (c.runs) runs.run(*policy);
  }
}

TEST(Loops, AreNotBelievedToEnd) {
  for (const LoopCase &c : kNotProved) {
    SCOPED_TRACE(c.name);
    auto policy = verified_policy({make_program(c.code, "fuse/read", c.functions)});
    if (policy) CheckedRuns().run(*policy);
    ASSERT_FALSE(policy) << "accepted";
    EXPECT_EQ(policy.error().code, std::string("verify-") + c.refusal) << policy.error().str();
  }
}

// Bounds found for a loop hold inside and behind it, exactly where that matters.
TEST(Loops, BoundsAreTight) {
  auto accepted = [](const Code &code) {
    auto policy = verified_policy({make_program(code + pass(), "fuse/read")});
    if (policy) CheckedRuns().run(*policy);
    return policy.has_value();
  };
  // An index into 64 bytes, over many rounds of a loop around it.
  auto index = [&](int from, int to, int bytes) {
    return accepted(Code{mov(7, 0), mov(6, from)} + bss_at(6) +
                    Code{load(bytes, 4, 3, 0), alu_imm(kAdd, 6, bytes), jump_imm(kNe, 6, to, -6), alu_imm(kAdd, 7, 1),
                         jump_imm(kLt, 7, 5000, -9)});
  };
  EXPECT_TRUE(index(0, 64, 1));
  EXPECT_FALSE(index(0, 65, 1));
  EXPECT_TRUE(index(0, 64, 8));
  EXPECT_FALSE(index(0, 72, 8));
  EXPECT_TRUE(index(56, 64, 4));
  // How much is found is bounded by how often is looked: an index that nothing is compared with.
  auto found = [&](int rounds) {
    return accepted(Code{mov(9, 0), mov(6, 0), mov(7, 0), call(SF_HOST_KTIME), jump_imm(kEq, 0, 5, 1),
                         alu_imm(kAdd, 7, 1), alu_imm(kAdd, 6, 1), jump_imm(kLt, 6, rounds, -5)} +
                    bss_at(7) + Code{load(1, 4, 3, 0), alu_imm(kAdd, 9, 1), jump_imm(kLt, 9, 3000, -12)});
  };
  EXPECT_TRUE(found(63));
  EXPECT_FALSE(found(64));
  // An address that runs along with a counter that is compared.
  auto runs_along = [&](int rounds) {
    return accepted(Code{mov(9, 0)} + load_value(8, 3) +
                    Code{mov(6, 0), load(1, 7, 8, 0), alu_imm(kAdd, 8, 1), alu_imm(kAdd, 6, 1),
                         jump_imm(kNe, 6, rounds, -4), alu_imm(kAdd, 9, 1), jump_imm(kLt, 9, 3000, -9)});
  };
  EXPECT_TRUE(runs_along(64));
  EXPECT_FALSE(runs_along(65));
}

// What follows from the number of rounds holds for who begins the loop there, not for who comes in further on.
TEST(Loops, CountsHoldOnlyFromTheBeginning) {
  auto refusal = [](const Code &code) -> std::string {
    auto policy = verified_policy({make_program(code + pass(), "fuse/read")});
    if (policy) CheckedRuns().run(*policy);
    return policy ? "accepted" : policy.error().code;
  };
  // 64 rounds read 64 bytes; each leaves a path open, so that not all of them are walked. Then it begins anew, the
  // address where it was left, or one byte later.
  const Code body{call(SF_HOST_KTIME), jump_imm(kEq, 0, 5, 0), load(1, 7, 8, 0), alu_imm(kAdd, 8, 1),
                  alu_imm(kAdd, 6, 1), jump_imm(kNe, 6, 64, -6)};
  const Code once = load_value(8, 3) + Code{mov(6, 0)} + body;
  EXPECT_EQ(refusal(once), "accepted");
  EXPECT_EQ(refusal(once + once), "accepted");
  EXPECT_EQ(refusal(once + Code{mov(6, 0)} + body), "verify-map-bounds");
  EXPECT_EQ(refusal(load_value(8, 3) + Code{mov(9, 0), mov(6, 0)} + body +
                    Code{alu_imm(kAdd, 9, 1), jump_imm(kNe, 9, 2, -9)}),
            "verify-map-bounds");
  for (int op : {kEq, kNe}) {
    EXPECT_EQ(refusal(load_value(8, 3) + Code{load(8, 2, 1, kNode), mov(6, 0), jump_imm(op, 2, 7, 1),
                                              alu_imm(kAdd, 8, 1)} + body),
              "verify-map-bounds");
    EXPECT_EQ(refusal(load_value(8, 3) + Code{load(8, 2, 1, kNode), mov(6, 0), jump_imm(op, 2, 7, 1), mov(6, 1)} +
                      body),
              "accepted");
  }
}

// bpf_loop(rounds, function 0, address of the eight bytes at -8, 0).
Code call_rounds(int rounds) {
  return Code{mov(1, rounds)} + load_function(2, 0) +
         Code{mov_reg(3, 10), alu_imm(kAdd, 3, -8), mov(4, 0), call(SF_HOST_LOOP)};
}

// Two registers that are the same number when the loop is met, and of which each round moves one by something that is
// not known, are not the same number in later rounds. The first call lets the loop be judged as soon as it is met
// again.
TEST(Loops, MovingByARangeEndsARelation) {
  const Code callee = Code{mov_reg(6, 1), mov_reg(7, 2), mov_reg(8, 4), store(8, 10, -8, 3)} + load_value(9, kBss) +
                      Code{jump_imm(kGt, 8, 99999, 10), load(8, 3, 10, -8), jump_imm(kEq, 3, 0, 4),
                           jump_imm(kGt, 7, 63, 7), mov_reg(2, 9), alu_reg(kAdd, 2, 6), load(1, 0, 2, 0),
                           load(1, 0, 9, 0), alu_reg(kAdd, 6, 0), alu_imm(kAdd, 8, 1), jump_imm(kLt, 8, 100000, -10)} +
                      pass();
  const Code program = Code{load(8, 6, 1, 8), load(8, 9, 1, kNode), mov(4, 0), mov(1, 0), mov(2, 0), mov(3, 0),
                            call_local(7), mov_reg(1, 6), mov_reg(2, 6), mov(3, 1), mov_reg(4, 9), call_local(2)} +
                       pass();
  auto policy = verified_policy({make_program(program + callee, "fuse/read", {14})});
  ASSERT_FALSE(policy) << "accepted";
  EXPECT_EQ(policy.error().code, "verify-map-bounds") << policy.error().str();
}

// What Verified::rounds says is at least what a run does, also where rounds are walked inside of judged ones, where a
// callback's are, and where a path joins one that came from elsewhere.
TEST(Loops, RoundsAreNotUnderstated) {
  auto rounds = [](const LinkedProgram &program) -> uint64_t {
    auto policy = verified_policy({program});
    EXPECT_TRUE(policy) << policy.error().str();
    return policy ? policy->programs[0].info.rounds_max : 0;
  };
  auto between = [](uint64_t low, uint64_t value, uint64_t high) { return low <= value && value <= high; };
  // 50 rounds, few enough to be walked one by one, in each of 100,000.
  const Code inner{mov(7, 0), alu_imm(kAdd, 7, 1), jump_imm(kLt, 7, 50, -2)};
  uint64_t n = rounds(make_program(Code{mov(6, 0)} + inner + Code{alu_imm(kAdd, 6, 1), jump_imm(kLt, 6, 100000, -5)} +
                                       pass(), "fuse/read"));
  EXPECT_TRUE(between(5'000'000, n, 11'000'000)) << n;
  // The same in a callback of 1000 rounds, and in a function that is called in a loop.
  n = rounds(assemble(Code{store_imm(8, 10, -8, 0)} + call_rounds(1000) + pass(), {inner + pass()}, "fuse/read"));
  EXPECT_TRUE(between(50'000, n, 110'000)) << n;
  n = rounds(make_program(Code{mov(6, 0), call_local(4), alu_imm(kAdd, 6, 1), jump_imm(kLt, 6, 3000, -3)} + pass() +
                              inner + pass(), "fuse/read", {6}));
  EXPECT_TRUE(between(150'000, n, 310'000)) << n;
  // Met with a counter of 90,000 first, then with 0: the second path joins the first one's rounds.
  n = rounds(make_program(Code{load(8, 2, 1, kNode), mov(6, 0), jump_imm(kEq, 2, 5, 1), mov(6, 90000),
                               alu_imm(kAdd, 6, 1), jump_imm(kLt, 6, 100000, -2)} + pass(), "fuse/read"));
  EXPECT_TRUE(between(100'000, n, 200'000)) << n;
  // No loop is proved: nothing to say.
  EXPECT_EQ(rounds(make_program(inner + pass(), "fuse/read")), 0u);
}

// Rounds of callbacks and rounds of loops, in each other.
TEST(Loops, WithCallbacks) {
  auto refusal = [](const Code &code, const std::vector<Code> &functions) -> std::string {
    auto policy = verified_policy({assemble(code, functions, "fuse/read")});
    if (policy) CheckedRuns().run(*policy);
    return policy ? "accepted" : policy.error().code;
  };
  const Code counts{mov(0, 0), alu_imm(kAdd, 0, 1), jump_imm(kLt, 0, 3000, -2), mov(0, 0), leave()};
  const Code forever{mov_reg(3, 1), alu_imm(kXor, 3, 1), jump_imm(kNe, 3, 77, -2), mov(0, 0), leave()};
  const Code adds{load(8, 3, 2, 0), alu_imm(kAdd, 3, 1), store(8, 2, 0, 3), mov(0, 0), leave()};
  const Code sets{store_imm(8, 2, 0, 1), mov(0, 0), leave()};
  const Code start{store_imm(8, 10, -8, 0)};
  EXPECT_EQ(refusal(start + call_rounds(50) + pass(), {counts}), "accepted");
  EXPECT_EQ(refusal(start + call_rounds(50) + pass(), {forever}), "verify-endless-loop");
  EXPECT_EQ(refusal(start + Code{mov(6, 0)} + call_rounds(5) + Code{alu_imm(kAdd, 6, 1), jump_imm(kLt, 6, 2000, -9)} +
                    pass(), {adds}),
            "accepted");
  EXPECT_EQ(refusal(start + call_rounds(5) + Code{load(8, 6, 10, -8), jump_imm(kNe, 6, 77, -9)} + pass(), {adds}),
            "verify-endless-loop");
  // The callback may or may not have set what ends the loop; r6 gets smaller once, and then stays.
  EXPECT_EQ(refusal(Code{load(8, 6, 1, kNode), alu_imm(kMod, 6, 101), store_imm(8, 10, -8, 0)} + call_rounds(1) +
                    Code{load(8, 7, 10, -8), jump_imm(kEq, 7, 0, 2), alu_imm(kAnd, 6, 63), go(-12)} + pass(), {sets}),
            "verify-endless-loop");
}

// What only holds where every round is walked is still accepted: bytes that a loop writes one by one.
TEST(Loops, RoundsAreWalkedWhereThatShowsMore) {
  Code code{mov(6, -256)};
  code = code + Code{mov_reg(3, 10), alu_reg(kAdd, 3, 6), store_imm(1, 3, 0, 1), alu_imm(kAdd, 6, 1),
                     jump_imm(kNe, 6, 0, -5), load(8, 0, 10, -256), leave()};
  auto policy = verified_policy({make_program(code, "fuse/read")});
  EXPECT_TRUE(policy) << policy.error().str();
  // One byte less, and that is why it is refused, not because of the loop.
  code[5] = jump_imm(kNe, 6, -1, -5);
  code[6] = load(8, 0, 10, -8);
  policy = verified_policy({make_program(code, "fuse/read")});
  ASSERT_FALSE(policy);
  EXPECT_EQ(policy.error().code, "verify-stack-uninitialised") << policy.error().str();
}

uint64_t steps_of(const Code &code, std::string *verdict) {
  LinkedProgram program = make_program(code, "fuse/read");
  const std::vector<Policy::Map> maps = test_maps();
  uint64_t left = kStepsMax;
  const auto verified = verify_program(&program, maps, "t.bpf.o", &left);
  *verdict = verified ? "accepted" : verified.error().code;
  return kStepsMax - left;
}

// A few instructions that show no end are refused in the time that a few instructions deserve: counters that jump over
// what they are compared with, loops that begin in several places, rounds beyond number.
TEST(Loops, SmallProgramsAreRefusedSoon) {
  const std::vector<Code> endless = {
      Code{mov(0, 7), alu32_imm(kMul, 0, 5), alu32_imm(kAdd, 0, 3), jump32_imm(kGt, 0, 1, -3), leave()},
      Code{mov(0, 0), mov(7, 10), load(8, 6, 1, kNode), jump_imm(kNe, 6, 5, 3), alu_imm(kAdd, 7, 9), mov(0, 262144),
           alu_imm(kMod, 7, 262144), alu_imm(kAdd, 0, 100000), alu_imm(kArsh, 6, 20), jump32_imm(kSge, 0, 228, -6),
           jump_imm(kLt, 0, 1337875971, -3), leave()},
      Code{load(8, 0, 1, kNode), mov(6, 61), mov(7, 903664912), alu_reg(kAdd, 7, 6), alu_reg(kMod, 0, 6),
           jump_reg(kSge, 7, 0, -3), leave()},
      Code{load(8, 0, 1, kNode), mov(7, 171), alu_imm(kXor, 7, 1), mov_reg(6, 0), alu32_imm(kAdd, 6, -1620908978),
           jump32_imm(kSet, 6, 211, -2), jump_imm(kNe, 7, 0, -5), leave()},
  };
  for (const Code &code : endless) {
    SCOPED_TRACE(&code - endless.data());
    std::string verdict;
    EXPECT_LT(steps_of(code, &verdict), 5 * (kStepsOfAny + kStepsPerInsn * code.size()));
    EXPECT_TRUE(verdict == "verify-endless-loop" || verdict == "verify-too-complex") << verdict;
  }
}

// Rounds that only walking them shows to end are walked, thousands of them.
TEST(Loops, ManyRoundsOfSmallProgramsAreWalked) {
  constexpr uint32_t kStep = 618666333, kRounds = 5'000;
  std::string verdict;
  const uint64_t steps = steps_of(Code{mov(6, 0), alu32_imm(kAdd, 6, kStep),
                                       jump32_imm(kNe, 6, static_cast<int32_t>(kStep * kRounds), -2)} + pass(),
                                  &verdict);
  EXPECT_EQ(verdict, "accepted");
  EXPECT_GT(steps, 2 * kRounds);
}

// The rounds that a refused loop may take are named.
TEST(Loops, RefusalNamesTheRounds) {
  Code code = Code{load(4, 7, 1, kNode), mov(6, 0), jump_reg(kGe, 6, 7, 2), alu_imm(kAdd, 6, 1), go(-3)} + pass();
  auto policy = verified_policy({make_program(code, "fuse/read")});
  ASSERT_FALSE(policy);
  EXPECT_NE(policy.error().str().find("a loop may take 4294967"), std::string::npos) << policy.error().str();
}

// What is live is found in as many looks as there are instructions, some times over: here it goes from the beginning to
// the end by jumps back, one instruction at a time, so that each sweep over all would find one more.
TEST(Liveness, WhatIsLiveIsFoundInLinearTime) {
  constexpr uint64_t kJumps = 30'000;
  Code code{mov(0, 0), mov(6, 0), alu_reg(kAdd, 0, 6)};
  for (uint64_t i = 0; i < kJumps; i++) code.push_back(jump_imm(kEq, 0, 7, -2));
  code.push_back(leave());
  auto flow = Flow::read(make_program(code, "fuse/read"));
  ASSERT_TRUE(flow) << flow.error().text;
  EXPECT_TRUE(flow->live[kJumps] & 1 << 6);
  EXPECT_LT(flow->looks, 13 * code.size());
}

}  // namespace
}  // namespace shortfuse::vm
