// Arithmetic on sets of numbers.
#include "verify/scalar.h"

#include <algorithm>
#include <bit>

namespace shortfuse::vm {
namespace {

constexpr int64_t kS64Min = std::numeric_limits<int64_t>::min(), kS64Max = std::numeric_limits<int64_t>::max();
constexpr int32_t kS32Min = std::numeric_limits<int32_t>::min(), kS32Max = std::numeric_limits<int32_t>::max();

// ---- known bits

Tnum tnum_add(Tnum a, Tnum b) {
  uint64_t value = a.value + b.value;
  uint64_t most = value + a.mask + b.mask;  // all unknown bits set: where it differs from `value`, a carry may reach
  uint64_t unknown = (most ^ value) | a.mask | b.mask;
  return {value & ~unknown, unknown};
}

Tnum tnum_sub(Tnum a, Tnum b) {
  uint64_t value = a.value - b.value;
  uint64_t most = value + a.mask, least = value - b.mask;
  uint64_t unknown = (most ^ least) | a.mask | b.mask;
  return {value & ~unknown, unknown};
}

Tnum tnum_and(Tnum a, Tnum b) {
  uint64_t maybe_a = a.value | a.mask, maybe_b = b.value | b.mask, surely = a.value & b.value;
  return {surely, maybe_a & maybe_b & ~surely};
}

Tnum tnum_or(Tnum a, Tnum b) {
  uint64_t surely = a.value | b.value;
  return {surely, (a.mask | b.mask) & ~surely};
}

Tnum tnum_xor(Tnum a, Tnum b) {
  uint64_t unknown = a.mask | b.mask;
  return {(a.value ^ b.value) & ~unknown, unknown};
}

// A sum over the bits of a: b shifted where the bit is set, b's possible bits shifted where it is unknown.
Tnum tnum_mul(Tnum a, Tnum b) {
  Tnum sum = Tnum::constant(0);
  for (; a.value | a.mask; a.value >>= 1, a.mask >>= 1, b.value <<= 1, b.mask <<= 1) {
    if (a.value & 1) sum = tnum_add(sum, b);
    else if (a.mask & 1) sum = tnum_add(sum, {0, b.value | b.mask});
  }
  return sum;
}

// What both hold; false when nothing does.
bool tnum_meet(Tnum a, Tnum b, Tnum *out) {
  if ((a.value ^ b.value) & ~a.mask & ~b.mask) return false;
  uint64_t unknown = a.mask & b.mask;
  *out = {(a.value | b.value) & ~unknown, unknown};
  return true;
}

// ---- ranges

template <typename T> void narrow(T *low, T *high, T new_low, T new_high) {
  *low = std::max(*low, new_low);
  *high = std::min(*high, new_high);
}

// An unsigned range that does not cross the sign bit is a signed range, and the other way round.
template <typename U, typename S> void exchange_signs(U *umin, U *umax, S *smin, S *smax) {
  if (static_cast<S>(*umin) <= static_cast<S>(*umax)) narrow(smin, smax, static_cast<S>(*umin), static_cast<S>(*umax));
  if (static_cast<U>(*smin) <= static_cast<U>(*smax)) narrow(umin, umax, static_cast<U>(*smin), static_cast<U>(*smax));
}

void sharpen_from_bits(Scalar *s) {
  uint64_t least = s->bits.value, most = s->bits.value | s->bits.mask;
  narrow(&s->umin, &s->umax, least, most);
  narrow(&s->umin32, &s->umax32, static_cast<uint32_t>(least), static_cast<uint32_t>(most));
  uint64_t sign = 1ull << 63;
  narrow(&s->smin, &s->smax, static_cast<int64_t>(least | (s->bits.mask & sign)),
         static_cast<int64_t>(most & ~(s->bits.mask & sign)));
  uint32_t sign32 = 1u << 31, mask32 = static_cast<uint32_t>(s->bits.mask);
  narrow(&s->smin32, &s->smax32, static_cast<int32_t>(static_cast<uint32_t>(least) | (mask32 & sign32)),
         static_cast<int32_t>(static_cast<uint32_t>(most) & ~(mask32 & sign32)));
}

// Where the high half is one value, the low half orders the whole.
void exchange_widths(Scalar *s) {
  if (s->umin >> 32 == s->umax >> 32) {
    narrow(&s->umin32, &s->umax32, static_cast<uint32_t>(s->umin), static_cast<uint32_t>(s->umax));
    uint64_t high = s->umin >> 32 << 32;
    narrow(&s->umin, &s->umax, high | s->umin32, high | s->umax32);
  }
  if (s->smin >= kS32Min && s->smax <= kS32Max) {
    narrow(&s->smin32, &s->smax32, static_cast<int32_t>(s->smin), static_cast<int32_t>(s->smax));
    narrow(&s->smin, &s->smax, int64_t{s->smin32}, int64_t{s->smax32});
  }
}

bool sharpen_bits(Scalar *s) {
  Tnum range64 = Tnum::range(s->umin, s->umax), range32 = Tnum::range(s->umin32, s->umax32);
  range32.mask |= ~0ull << 32;
  return tnum_meet(s->bits, range64, &s->bits) && tnum_meet(s->bits, range32, &s->bits);
}

// Where the lowest bits are known (multiples of eight, say), the bounds are such numbers too.
template <typename T> void align(T *low, T *high, uint64_t known, unsigned bits) {
  const T step = static_cast<T>(T{1} << bits), mask = static_cast<T>(step - 1);
  const T least = static_cast<T>((*low & ~mask) | (static_cast<T>(known) & mask));
  const T most = static_cast<T>((*high & ~mask) | (static_cast<T>(known) & mask));
  T moved;
  if (least >= *low) *low = least;
  else if (!__builtin_add_overflow(least, step, &moved)) *low = moved;
  if (most <= *high) *high = most;
  else if (!__builtin_sub_overflow(most, step, &moved)) *high = moved;
}

void align_ranges(Scalar *s) {
  const unsigned bits = static_cast<unsigned>(std::countr_zero(s->bits.mask));
  if (bits == 0) return;
  if (bits < 62) {
    align(&s->umin, &s->umax, s->bits.value, bits);
    align(&s->smin, &s->smax, s->bits.value, bits);
  }
  if (bits < 30) {
    align(&s->umin32, &s->umax32, s->bits.value, bits);
    align(&s->smin32, &s->smax32, s->bits.value, bits);
  }
}

bool contradictory(const Scalar &s) {
  return s.umin > s.umax || s.smin > s.smax || s.umin32 > s.umax32 || s.smin32 > s.smax32;
}

Scalar from_bits(Tnum t) {
  Scalar s;
  s.bits = t;
  s.sync();
  return s;
}

// ---- operations

Scalar add(const Scalar &a, const Scalar &b) {
  Scalar r;
  r.bits = tnum_add(a.bits, b.bits);
  if (!__builtin_add_overflow(a.umax, b.umax, &r.umax)) r.umin = a.umin + b.umin; else r.umin = 0, r.umax = ~0ull;
  if (__builtin_add_overflow(a.smin, b.smin, &r.smin) || __builtin_add_overflow(a.smax, b.smax, &r.smax)) {
    r.smin = kS64Min, r.smax = kS64Max;
  }
  if (!__builtin_add_overflow(a.umax32, b.umax32, &r.umax32)) r.umin32 = a.umin32 + b.umin32;
  else r.umin32 = 0, r.umax32 = ~0u;
  if (__builtin_add_overflow(a.smin32, b.smin32, &r.smin32) || __builtin_add_overflow(a.smax32, b.smax32, &r.smax32)) {
    r.smin32 = kS32Min, r.smax32 = kS32Max;
  }
  r.sync();
  return r;
}

Scalar sub(const Scalar &a, const Scalar &b) {
  Scalar r;
  r.bits = tnum_sub(a.bits, b.bits);
  if (a.umin >= b.umax) r.umin = a.umin - b.umax, r.umax = a.umax - b.umin;
  if (__builtin_sub_overflow(a.smin, b.smax, &r.smin) || __builtin_sub_overflow(a.smax, b.smin, &r.smax)) {
    r.smin = kS64Min, r.smax = kS64Max;
  }
  if (a.umin32 >= b.umax32) r.umin32 = a.umin32 - b.umax32, r.umax32 = a.umax32 - b.umin32;
  if (__builtin_sub_overflow(a.smin32, b.smax32, &r.smin32) || __builtin_sub_overflow(a.smax32, b.smin32, &r.smax32)) {
    r.smin32 = kS32Min, r.smax32 = kS32Max;
  }
  r.sync();
  return r;
}

Scalar mul(const Scalar &a, const Scalar &b) {
  Scalar r = from_bits(tnum_mul(a.bits, b.bits));
  uint64_t high = 0;
  if (!__builtin_mul_overflow(a.umax, b.umax, &high)) narrow(&r.umin, &r.umax, a.umin * b.umin, high);
  r.sync();
  return r;
}

Scalar bit_and(const Scalar &a, const Scalar &b) {
  Scalar r = from_bits(tnum_and(a.bits, b.bits));
  narrow(&r.umin, &r.umax, uint64_t{0}, std::min(a.umax, b.umax));
  narrow(&r.umin32, &r.umax32, uint32_t{0}, std::min(a.umax32, b.umax32));
  r.sync();
  return r;
}

Scalar bit_or(const Scalar &a, const Scalar &b) {
  Scalar r = from_bits(tnum_or(a.bits, b.bits));
  narrow(&r.umin, &r.umax, std::max(a.umin, b.umin), ~uint64_t{0});
  narrow(&r.umin32, &r.umax32, std::max(a.umin32, b.umin32), ~uint32_t{0});
  r.sync();
  return r;
}

// Shift counts are below 64 here. A range of counts is tried at its ends: shifts are monotonic in both operands.
Scalar shift_left(const Scalar &a, uint64_t from, uint64_t to) {
  Scalar r;
  if (from == to) r = from_bits({a.bits.value << from, a.bits.mask << from});
  if (to == 0 || a.umax >> (64 - to) == 0) narrow(&r.umin, &r.umax, a.umin << from, a.umax << to);
  r.sync();
  return r;
}

Scalar shift_right(const Scalar &a, uint64_t from, uint64_t to) {
  Scalar r;
  if (from == to) r = from_bits({a.bits.value >> from, a.bits.mask >> from});
  narrow(&r.umin, &r.umax, a.umin >> to, a.umax >> from);
  r.sync();
  return r;
}

Scalar shift_right_signed(const Scalar &a, uint64_t from, uint64_t to) {
  Scalar r;
  if (from == to) {
    r = from_bits({static_cast<uint64_t>(static_cast<int64_t>(a.bits.value) >> from) &
                       ~static_cast<uint64_t>(static_cast<int64_t>(a.bits.mask) >> from),
                   static_cast<uint64_t>(static_cast<int64_t>(a.bits.mask) >> from)});
  }
  narrow(&r.smin, &r.smax, std::min(a.smin >> from, a.smin >> to), std::max(a.smax >> from, a.smax >> to));
  r.sync();
  return r;
}

Scalar divide(const Scalar &a, const Scalar &b) {
  uint64_t least = b.umin == 0 ? 0 : a.umin / b.umax;  // a zero divisor gives 0
  return Scalar::unsigned_range(least, a.umax / std::max<uint64_t>(b.umin, 1));
}

Scalar modulo(const Scalar &a, const Scalar &b) {
  if (a.umax < b.umin) return a;
  uint64_t most = a.umax;  // a zero divisor gives a
  if (b.umin > 0) most = std::min(most, b.umax - 1);
  return Scalar::unsigned_range(0, most);
}

Scalar alu64(AluOp op, const Scalar &a, const Scalar &b, uint64_t shift_mask) {
  if (a.is_constant() && b.is_constant()) {
    uint64_t operand = op == AluOp::Lsh || op == AluOp::Rsh || op == AluOp::Arsh ? b.umin & shift_mask : b.umin;
    return Scalar::constant(alu_value<uint64_t>(op, a.umin, operand));
  }
  uint64_t from = 0, to = shift_mask;
  if (b.umax <= shift_mask) from = b.umin, to = b.umax;
  else if (b.is_constant()) from = to = b.umin & shift_mask;
  switch (op) {
    case AluOp::Add: return add(a, b);
    case AluOp::Sub: return sub(a, b);
    case AluOp::Mul: return mul(a, b);
    case AluOp::Div: return divide(a, b);
    case AluOp::Mod: return modulo(a, b);
    case AluOp::And: return bit_and(a, b);
    case AluOp::Or: return bit_or(a, b);
    case AluOp::Xor: return from_bits(tnum_xor(a.bits, b.bits));
    case AluOp::Lsh: return shift_left(a, from, to);
    case AluOp::Rsh: return shift_right(a, from, to);
    case AluOp::Arsh: return shift_right_signed(a, from, to);
    case AluOp::Neg: return sub(Scalar::constant(0), a);
    case AluOp::Mov: return b;
    case AluOp::Sdiv: case AluOp::Smod: return Scalar::unknown();
  }
  return Scalar::unknown();
}

// ---- comparisons, on one width

template <typename U> struct Ranges {
  using S = typename SignedOf<U>::type;
  U *umin, *umax;
  S *smin, *smax;
};

Ranges<uint64_t> ranges64(Scalar *s) { return {&s->umin, &s->umax, &s->smin, &s->smax}; }
Ranges<uint32_t> ranges32(Scalar *s) { return {&s->umin32, &s->umax32, &s->smin32, &s->smax32}; }

constexpr JumpOp negated(JumpOp op) {
  switch (op) {
    case JumpOp::Eq: return JumpOp::Ne;
    case JumpOp::Ne: return JumpOp::Eq;
    case JumpOp::Gt: return JumpOp::Le;
    case JumpOp::Le: return JumpOp::Gt;
    case JumpOp::Ge: return JumpOp::Lt;
    case JumpOp::Lt: return JumpOp::Ge;
    case JumpOp::Sgt: return JumpOp::Sle;
    case JumpOp::Sle: return JumpOp::Sgt;
    case JumpOp::Sge: return JumpOp::Slt;
    case JumpOp::Slt: return JumpOp::Sge;
    case JumpOp::Set: return JumpOp::Set;
  }
  return op;
}

// a < b (strict) or a <= b, on one pair of ranges. False: never.
template <typename T> bool assume_less(T *amin, T *amax, T *bmin, T *bmax, bool strict) {
  if (strict && (*bmax == std::numeric_limits<T>::min() || *amin == std::numeric_limits<T>::max())) return false;
  *amax = std::min(*amax, static_cast<T>(*bmax - (strict ? 1 : 0)));
  *bmin = std::max(*bmin, static_cast<T>(*amin + (strict ? 1 : 0)));
  return *amin <= *amax && *bmin <= *bmax;
}

template <typename T> void assume_not(T *low, T *high, T value) {
  if (*low == value && *low < *high) (*low)++;
  else if (*high == value && *low < *high) (*high)--;
}

template <typename U> bool assume_order(JumpOp op, Ranges<U> a, Ranges<U> b) {
  switch (op) {
    case JumpOp::Lt: return assume_less(a.umin, a.umax, b.umin, b.umax, true);
    case JumpOp::Le: return assume_less(a.umin, a.umax, b.umin, b.umax, false);
    case JumpOp::Gt: return assume_less(b.umin, b.umax, a.umin, a.umax, true);
    case JumpOp::Ge: return assume_less(b.umin, b.umax, a.umin, a.umax, false);
    case JumpOp::Slt: return assume_less(a.smin, a.smax, b.smin, b.smax, true);
    case JumpOp::Sle: return assume_less(a.smin, a.smax, b.smin, b.smax, false);
    case JumpOp::Sgt: return assume_less(b.smin, b.smax, a.smin, a.smax, true);
    case JumpOp::Sge: return assume_less(b.smin, b.smax, a.smin, a.smax, false);
    case JumpOp::Eq:
      narrow(a.umin, a.umax, *b.umin, *b.umax);
      narrow(a.smin, a.smax, *b.smin, *b.smax);
      *b.umin = *a.umin, *b.umax = *a.umax, *b.smin = *a.smin, *b.smax = *a.smax;
      return *a.umin <= *a.umax && *a.smin <= *a.smax;
    case JumpOp::Ne:
      if (*b.umin == *b.umax) assume_not(a.umin, a.umax, *b.umin), assume_not(a.smin, a.smax, *b.smin);
      if (*a.umin == *a.umax) assume_not(b.umin, b.umax, *a.umin), assume_not(b.smin, b.smax, *a.smin);
      return !(*a.umin == *a.umax && *b.umin == *b.umax && *a.umin == *b.umin);
    case JumpOp::Set: return true;
  }
  return true;
}

// `a & b` is zero (or not), where b is known.
bool assume_bits(bool taken, bool wide, Scalar *a, const Scalar &b) {
  if (!(wide ? b.is_constant() : b.umin32 == b.umax32)) return true;
  uint64_t mask = wide ? b.umin : b.umin32;
  if (!taken) return tnum_meet(a->bits, {0, ~mask}, &a->bits);
  if (std::has_single_bit(mask)) return tnum_meet(a->bits, {mask, ~mask}, &a->bits);
  return mask != 0;
}

}  // namespace

Tnum Tnum::range(uint64_t low, uint64_t high) {
  if (low > high) return {};
  unsigned bits = static_cast<unsigned>(std::bit_width(low ^ high));
  uint64_t mask = bits >= 64 ? ~0ull : (1ull << bits) - 1;
  return {low & ~mask, mask};
}

Scalar Scalar::constant(uint64_t v) {
  Scalar s;
  s.bits = Tnum::constant(v);
  s.umin = s.umax = v;
  s.smin = s.smax = static_cast<int64_t>(v);
  s.umin32 = s.umax32 = static_cast<uint32_t>(v);
  s.smin32 = s.smax32 = static_cast<int32_t>(v);
  return s;
}

Scalar Scalar::unsigned_range(uint64_t low, uint64_t high) {
  Scalar s;
  s.umin = low;
  s.umax = high;
  s.sync();
  return s;
}

Scalar Scalar::signed_range(int64_t low, int64_t high) {
  Scalar s;
  s.smin = low;
  s.smax = high;
  s.sync();
  return s;
}

bool Scalar::contains(uint64_t v) const {
  auto v32 = static_cast<uint32_t>(v);
  return (v & ~bits.mask) == bits.value && v >= umin && v <= umax && static_cast<int64_t>(v) >= smin &&
         static_cast<int64_t>(v) <= smax && v32 >= umin32 && v32 <= umax32 && static_cast<int32_t>(v32) >= smin32 &&
         static_cast<int32_t>(v32) <= smax32;
}

bool Scalar::includes(const Scalar &o) const {
  return umin <= o.umin && o.umax <= umax && smin <= o.smin && o.smax <= smax && umin32 <= o.umin32 &&
         o.umax32 <= umax32 && smin32 <= o.smin32 && o.smax32 <= smax32 && bits.contains(o.bits);
}

bool Scalar::meet(const Scalar &o) {
  Scalar both = *this;
  if (!tnum_meet(bits, o.bits, &both.bits)) return false;
  narrow(&both.umin, &both.umax, o.umin, o.umax);
  narrow(&both.smin, &both.smax, o.smin, o.smax);
  narrow(&both.umin32, &both.umax32, o.umin32, o.umax32);
  narrow(&both.smin32, &both.smax32, o.smin32, o.smax32);
  if (!both.sync()) return false;
  *this = both;
  return true;
}

bool Scalar::sync() {
  for (int round = 0; round < 2; round++) {  // facts found last may sharpen what was looked at first
    sharpen_from_bits(this);
    exchange_signs(&umin, &umax, &smin, &smax);
    exchange_signs(&umin32, &umax32, &smin32, &smax32);
    exchange_widths(this);
    exchange_signs(&umin, &umax, &smin, &smax);
    align_ranges(this);
    if (contradictory(*this) || !sharpen_bits(this)) return false;
  }
  return true;
}

std::string Scalar::str() const {
  auto signed_text = [](int64_t v) { return std::to_string(v); };
  if (is_constant()) return signed_text(static_cast<int64_t>(umin));
  if (umin == 0 && umax == ~0ull && smin == kS64Min && smax == kS64Max) return "any number";
  if (smin >= 0) return "in [" + std::to_string(umin) + ", " + std::to_string(umax) + "]";
  if (smin != kS64Min || smax != kS64Max) return "in [" + signed_text(smin) + ", " + signed_text(smax) + "]";
  return "in [" + std::to_string(umin) + ", " + std::to_string(umax) + "] unsigned";
}

Scalar truncate32(const Scalar &a) {
  Scalar r;
  r.bits = {static_cast<uint32_t>(a.bits.value), static_cast<uint32_t>(a.bits.mask)};
  r.umin32 = a.umin32, r.umax32 = a.umax32, r.smin32 = a.smin32, r.smax32 = a.smax32;
  r.umin = a.umin32;
  r.umax = a.umax32;
  r.sync();
  return r;
}

Scalar sign_extend32(const Scalar &a) { return Scalar::signed_range(a.smin32, a.smax32); }

Scalar scalar_alu(AluOp op, bool wide, const Scalar &a, const Scalar &b) {
  if (wide) return alu64(op, a, b, 63);
  switch (op) {
    case AluOp::Arsh: return truncate32(alu64(op, sign_extend32(a), truncate32(b), 31));
    case AluOp::Sdiv: case AluOp::Smod: return truncate32(alu64(op, sign_extend32(a), sign_extend32(b), 31));
    default: return truncate32(alu64(op, truncate32(a), truncate32(b), 31));
  }
}

Scalar scalar_extend(const Scalar &a, unsigned bits, bool wide) {
  Scalar r;
  if (a.is_constant()) {
    r = Scalar::constant(sign_extend(a.umin, bits));
  } else {
    int64_t low = -(1ll << (bits - 1)), high = (1ll << (bits - 1)) - 1;
    r = a.smin >= low && a.smax <= high ? a : Scalar::signed_range(low, high);
  }
  return wide ? r : truncate32(r);
}

Scalar scalar_endian(const Scalar &a, bool swap, int32_t bits) {
  if (a.is_constant()) return Scalar::constant(endian_value(swap, a.umin, bits));
  if (bits == 64) return swap ? Scalar::unknown() : a;
  uint64_t mask = (1ull << bits) - 1;
  return swap ? Scalar::unsigned_range(0, mask) : bit_and(a, Scalar::constant(mask));
}

int scalar_decide(JumpOp op, bool wide, const Scalar &a, const Scalar &b) {
  Scalar x = a, y = b;
  if (!scalar_assume(op, wide, true, &x, &y)) return 0;
  x = a, y = b;
  if (!scalar_assume(op, wide, false, &x, &y)) return 1;
  return -1;
}

bool scalar_assume(JumpOp op, bool wide, bool taken, Scalar *a, Scalar *b) {
  if (op == JumpOp::Set) {
    if (!assume_bits(taken, wide, a, *b)) return false;
  } else {
    JumpOp holds = taken ? op : negated(op);
    bool possible =
        wide ? assume_order(holds, ranges64(a), ranges64(b)) : assume_order(holds, ranges32(a), ranges32(b));
    if (!possible) return false;
    if (holds == JumpOp::Eq && wide) {
      if (!tnum_meet(a->bits, b->bits, &a->bits)) return false;
      b->bits = a->bits;
    }
  }
  return a->sync() && b->sync();
}

}  // namespace shortfuse::vm
