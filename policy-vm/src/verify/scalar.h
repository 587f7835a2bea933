// What is known of a number: the verifier's abstract value.
//
// A Scalar stands for a set of 64-bit values, described in three ways at once: which bits are known (Tnum), and the
// unsigned and signed ranges of the whole and of its low 32 bits. Every operation returns a superset of what the
// machine can compute from any members of its operands; scalar_test.cc checks that by trying members. sync() lets
// each description sharpen the others.
#pragma once
#include <cstdint>
#include <limits>
#include <string>

#include "isa/insn.h"

namespace shortfuse::vm {

// A tristate number: bits set in `mask` are unknown, the others are those of `value` (value & mask == 0).
struct Tnum {
  uint64_t value = 0, mask = ~0ull;
  static constexpr Tnum constant(uint64_t v) { return {v, 0}; }
  // The smallest tnum that holds [low, high].
  static Tnum range(uint64_t low, uint64_t high);
  bool contains(const Tnum &o) const { return (o.mask & ~mask) == 0 && (o.value & ~mask) == value; }
  bool operator==(const Tnum &) const = default;
};

struct Scalar {
  Tnum bits;
  uint64_t umin = 0, umax = ~0ull;
  int64_t smin = std::numeric_limits<int64_t>::min(), smax = std::numeric_limits<int64_t>::max();
  uint32_t umin32 = 0, umax32 = ~0u;
  int32_t smin32 = std::numeric_limits<int32_t>::min(), smax32 = std::numeric_limits<int32_t>::max();

  static Scalar unknown() { return {}; }
  static Scalar constant(uint64_t v);
  static Scalar unsigned_range(uint64_t low, uint64_t high);
  static Scalar signed_range(int64_t low, int64_t high);

  bool is_constant() const { return umin == umax; }
  bool contains(uint64_t v) const;
  /// Every value of `o` is one of ours.
  bool includes(const Scalar &o) const;
  /// What is also known to be one of `o`'s values. False, and nothing changed, when none is.
  bool meet(const Scalar &o);
  /// False when the descriptions contradict each other: there is no such value.
  bool sync();
  /// "5", "[0, 255]", "[-4, 12]", "any number".
  std::string str() const;
  bool operator==(const Scalar &) const = default;
};

Scalar truncate32(const Scalar &a);     // low 32 bits, zero-extended
Scalar sign_extend32(const Scalar &a);  // low 32 bits, sign-extended
Scalar scalar_alu(AluOp op, bool wide, const Scalar &a, const Scalar &b);
Scalar scalar_extend(const Scalar &a, unsigned bits, bool wide);
Scalar scalar_endian(const Scalar &a, bool swap, int32_t bits);

/// Whether `a op b` holds: 1 always, 0 never, -1 depends.
int scalar_decide(JumpOp op, bool wide, const Scalar &a, const Scalar &b);
/// Narrows both to what they are where `a op b` is `taken`. False when that cannot be.
bool scalar_assume(JumpOp op, bool wide, bool taken, Scalar *a, Scalar *b);

}  // namespace shortfuse::vm
