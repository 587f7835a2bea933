// The abstract arithmetic never loses a value: members of the operands are tried, and the result must hold theirs.
#include "verify/scalar.h"

#include <gtest/gtest.h>

#include <random>

namespace shortfuse::vm {
namespace {

constexpr AluOp kOps[] = {AluOp::Add, AluOp::Sub, AluOp::Mul,  AluOp::Div,  AluOp::Or,
                          AluOp::And, AluOp::Lsh, AluOp::Rsh,  AluOp::Neg,  AluOp::Mod,
                          AluOp::Xor, AluOp::Mov, AluOp::Arsh, AluOp::Sdiv, AluOp::Smod};
constexpr JumpOp kJumps[] = {JumpOp::Eq,  JumpOp::Ne,  JumpOp::Gt,  JumpOp::Ge,  JumpOp::Lt, JumpOp::Le,
                             JumpOp::Sgt, JumpOp::Sge, JumpOp::Slt, JumpOp::Sle, JumpOp::Set};

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t below(uint64_t n) { return engine_() % n; }
  // Numbers at which things change: near 0, powers of two and the limits of each width.
  uint64_t number() {
    uint64_t v = engine_();
    switch (below(6)) {
      case 0: return v % 16;
      case 1: return 0 - v % 16;
      case 2: return (1ull << (v % 64)) + below(5) - 2;
      case 3: return (1ull << 31) + below(9) - 4;
      case 4: return v >> below(64);
      default: return v;
    }
  }
  // A set that contains `member`, made as the verifier makes them.
  Scalar around(uint64_t member) {
    Scalar s = Scalar::unknown();
    for (uint64_t i = 1 + below(3); i > 0; i--) {
      Scalar other = Scalar::constant(number()), widened = s;
      JumpOp op = kJumps[below(std::size(kJumps))];
      bool wide = below(2);
      bool taken = wide ? jump_taken<uint64_t>(op, member, other.umin)
                        : jump_taken<uint32_t>(op, static_cast<uint32_t>(member), static_cast<uint32_t>(other.umin));
      EXPECT_TRUE(scalar_assume(op, wide, taken, &widened, &other));
      s = widened;
    }
    if (below(5) == 0) s = Scalar::constant(member);
    return s;
  }

 private:
  std::mt19937_64 engine_;
};

uint64_t concrete(AluOp op, bool wide, uint64_t a, uint64_t b) {
  return wide ? alu_value<uint64_t>(op, a, b)
              : alu_value<uint32_t>(op, static_cast<uint32_t>(a), static_cast<uint32_t>(b));
}

TEST(Scalar, ArithmeticHoldsEveryResult) {
  Random random(1);
  for (int round = 0; round < 400000; round++) {
    uint64_t a = random.number(), b = random.number();
    Scalar x = random.around(a), y = random.around(b);
    ASSERT_TRUE(x.contains(a)) << x.str() << " lost " << a;
    AluOp op = kOps[random.below(std::size(kOps))];
    bool wide = random.below(2);
    Scalar r = scalar_alu(op, wide, x, y);
    ASSERT_TRUE(r.contains(concrete(op, wide, a, b)))
        << "op " << int(op) << " wide " << wide << ": " << a << " in {" << x.str() << "}, " << b << " in {" << y.str()
        << "} gave " << concrete(op, wide, a, b) << " outside of {" << r.str() << "}";
  }
}

TEST(Scalar, BranchesLoseNoValue) {
  Random random(2);
  for (int round = 0; round < 400000; round++) {
    uint64_t a = random.number(), b = random.below(3) ? random.number() : a;
    Scalar x = random.around(a), y = random.around(b);
    JumpOp op = kJumps[random.below(std::size(kJumps))];
    bool wide = random.below(2);
    bool taken = wide ? jump_taken<uint64_t>(op, a, b)
                      : jump_taken<uint32_t>(op, static_cast<uint32_t>(a), static_cast<uint32_t>(b));
    int decided = scalar_decide(op, wide, x, y);
    ASSERT_TRUE(decided == -1 || decided == taken);
    ASSERT_TRUE(scalar_assume(op, wide, taken, &x, &y));
    ASSERT_TRUE(x.contains(a) && y.contains(b));
  }
}

TEST(Scalar, ConversionsHoldEveryResult) {
  Random random(3);
  for (int round = 0; round < 200000; round++) {
    uint64_t a = random.number();
    Scalar x = random.around(a);
    ASSERT_TRUE(truncate32(x).contains(static_cast<uint32_t>(a)));
    ASSERT_TRUE(sign_extend32(x).contains(sign_extend(a, 32)));
    for (unsigned bits : {8u, 16u, 32u}) {
      ASSERT_TRUE(scalar_extend(x, bits, true).contains(sign_extend(a, bits)));
      ASSERT_TRUE(scalar_extend(x, bits, false).contains(static_cast<uint32_t>(sign_extend(a, bits))));
    }
    for (int bits : {16, 32, 64}) {
      for (bool swap : {false, true}) ASSERT_TRUE(scalar_endian(x, swap, bits).contains(endian_value(swap, a, bits)));
    }
    Scalar y = random.around(a);
    ASSERT_TRUE(y.meet(x) && y.contains(a));
  }
}

TEST(Scalar, InclusionMeansInclusion) {
  Random random(4);
  for (int round = 0; round < 200000; round++) {
    uint64_t a = random.number();
    Scalar x = random.around(a), y = random.around(random.below(2) ? a : random.number());
    ASSERT_TRUE(!y.includes(x) || y.contains(a));
  }
}

// Precision that policies need: without these the verifier would be sound and useless.
TEST(Scalar, KeepsWhatPoliciesRelyOn) {
  Scalar byte = Scalar::unsigned_range(0, 255);
  EXPECT_EQ(scalar_alu(AluOp::And, true, Scalar::unknown(), Scalar::constant(63)).str(), "in [0, 63]");
  EXPECT_EQ(scalar_alu(AluOp::Lsh, true, byte, Scalar::constant(3)).str(), "in [0, 2040]");
  EXPECT_EQ(scalar_alu(AluOp::Lsh, true, byte, Scalar::constant(3)).bits.mask, 0x7f8u);
  EXPECT_EQ(scalar_alu(AluOp::Mod, true, Scalar::unknown(), Scalar::constant(10)).str(), "in [0, 9]");
  EXPECT_EQ(scalar_alu(AluOp::Div, true, byte, Scalar::constant(16)).str(), "in [0, 15]");
  EXPECT_EQ(scalar_alu(AluOp::Rsh, true, Scalar::unknown(), Scalar::constant(56)).str(), "in [0, 255]");
  EXPECT_EQ(scalar_alu(AluOp::Add, false, byte, Scalar::constant(1)).str(), "in [1, 256]");
  EXPECT_EQ(scalar_alu(AluOp::Sub, true, byte, byte).str(), "in [-255, 255]");
  EXPECT_EQ(truncate32(Scalar::unknown()).str(), "in [0, 4294967295]");
  Scalar x = Scalar::unknown(), bound = Scalar::constant(10);
  ASSERT_TRUE(scalar_assume(JumpOp::Slt, true, true, &x, &bound));
  ASSERT_TRUE(scalar_assume(JumpOp::Slt, true, false, &x, &(bound = Scalar::constant(0))));
  EXPECT_EQ(x.str(), "in [0, 9]");
}

}  // namespace
}  // namespace shortfuse::vm
