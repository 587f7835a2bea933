// Arithmetic and branches on abstract values.
#include "verify/verify_path.h"

namespace shortfuse::vm {
namespace {

// Addresses stay this close to where they begin, so that adding to an offset never overflows.
constexpr int64_t kOffsetMax = 1 << 29;
constexpr uint64_t kMax32 = 0xffffffff;

}  // namespace

Reg PathWalker::reg(unsigned r) const {
  if (r != kFramePointer) return state_.top().reg[r];
  return {Type::Stack, static_cast<uint8_t>(state_.frames.size() - 1), 0, 0, Scalar::constant(0), 0, false};
}

bool PathWalker::need_readable(unsigned r) {
  if (reg(r).type != Type::None) return true;
  return refuse("uninitialised", "register r" + std::to_string(r) + " is read, but on this path nothing was put there",
                "a value in r" + std::to_string(r));
}

bool PathWalker::need_writable(unsigned r) {
  return r != kFramePointer || refuse("frame-pointer", "r10, the address of the stack, cannot be changed");
}

Reg PathWalker::second_operand(const Insn &in) const {
  if (in.from_reg) return reg(in.src);
  return Reg::number(Scalar::constant(static_cast<uint64_t>(static_cast<int64_t>(in.imm))));
}

bool PathWalker::alu(const Insn &in) {
  if (!need_writable(in.dst) || (in.from_reg && !need_readable(in.src))) return false;
  if (in.alu != AluOp::Mov && !need_readable(in.dst)) return false;
  const Reg b = second_operand(in);
  if (in.alu == AluOp::Mov) {
    if (b.is_pointer()) {
      if (in.wide && !in.extend_bits) return set(in.dst, b), true;
      return refuse_reg("pointer-arithmetic", in.src, "half of an address is copied", "a number, or all 64 bits");
    }
    if (in.extend_bits) return set(in.dst, Reg::number(scalar_extend(b.value, in.extend_bits, in.wide))), true;
    Reg copy = Reg::number(in.wide ? b.value : truncate32(b.value));
    if (in.from_reg && (b.id || !b.value.is_constant())) {  // what is learned of one holds for the other
      copy.id = b.id ? b.id : next_id_++;
      copy.delta = b.delta;
      copy.spread = b.spread;
      copy.modulo32 = b.modulo32 || (!in.wide && b.value.umax > kMax32);
      if (!b.id) state_.top().reg[in.src].id = copy.id;
    }
    return set(in.dst, copy), true;
  }
  const Reg a = reg(in.dst);
  if (a.is_pointer() || b.is_pointer()) return alu_pointer(in, a, b);
  Reg result = Reg::number(scalar_alu(in.alu, in.wide, a.value, b.value));
  bool adds = in.alu == AluOp::Add || in.alu == AluOp::Sub;
  if (adds && !(in.wide && a.modulo32)) relate_sum(in, a, b.value, &result);
  if (result.id == 0 && in.alu == AluOp::Add && !(in.wide && b.modulo32)) relate_sum(in, b, a.value, &result);
  return set(in.dst, result), true;
}

// `result` is `of` and `more` (or less): a constant apart, or, where that is being asked for, within known limits.
void PathWalker::relate_sum(const Insn &in, const Reg &of, const Scalar &more, Reg *result) {
  if (of.id == 0 || (!more.is_constant() && !pinned_.has(of.id))) return;
  result->id = of.id;
  result->delta = of.delta;
  result->spread = of.spread;
  result->modulo32 = !in.wide;
  if (more.is_constant()) {
    result->delta = alu_value<uint64_t>(in.alu, of.delta, more.umin);
    return;
  }
  const int64_t low = in.wide ? more.smin : more.smin32, high = in.wide ? more.smax : more.smax32;
  if (low == std::numeric_limits<int64_t>::min()) return result->forget_relation();
  if (in.alu == AluOp::Add) result->move(low, high);
  else result->move(-high, -low);
}

bool PathWalker::alu_pointer(const Insn &in, const Reg &a, const Reg &b) {
  const Reg &pointer = a.is_pointer() ? a : b;
  const Reg &number = a.is_pointer() ? b : a;
  unsigned shown = a.is_pointer() ? in.dst : in.src;
  bool adds = in.wide && in.alu == AluOp::Add && !number.is_pointer();
  bool subtracts = in.wide && in.alu == AluOp::Sub && a.is_pointer() && !b.is_pointer();
  if (!adds && !subtracts) {
    return refuse_reg("pointer-arithmetic", shown,
                      "an address is calculated with in a way that could reveal or break it",
                      "only numbers may be added to an address or subtracted from it, in 64 bits");
  }
  if (may_be_null(pointer.type)) {
    return refuse_reg("null-check", shown, "an address that may be NULL is calculated with",
                      "a comparison with NULL before");
  }
  if (pointer.type == Type::Map || pointer.type == Type::Function) {
    return refuse_reg("pointer-arithmetic", shown, std::string(type_name(pointer.type)) + " itself is calculated with",
                      "maps and functions are only passed on");
  }
  Reg r = pointer;
  r.value = scalar_alu(in.alu, true, pointer.value, number.value);
  if (pointer.can_move()) {
    r.forget_relation();
    relate_sum(in, pointer, number.value, &r);
  }
  if (number.value.smin < -kOffsetMax || number.value.smax > kOffsetMax || r.value.smin < -kOffsetMax ||
      r.value.smax > kOffsetMax) {
    return refuse("pointer-arithmetic", "a number without bound is added to an address",
                  "a number within 2^29 in either direction", "the number is " + number.value.str());
  }
  if (pointer.type == Type::Context && !r.value.is_constant()) {
    return refuse("context-bounds", "a number that is not known is added to the context's address",
                  "a constant offset", "the number is " + number.value.str());
  }
  set(in.dst, r);
  return true;
}

bool PathWalker::endian(const Insn &in) {
  if (!need_writable(in.dst) || !need_readable(in.dst)) return false;
  const Reg a = reg(in.dst);
  if (a.is_pointer())
    return refuse_reg("pointer-arithmetic", in.dst, "the bytes of an address are swapped", "a number");
  set(in.dst, Reg::number(scalar_endian(a.value, in.swap, in.imm)));
  return true;
}

bool PathWalker::load_imm64(const Insn &in) {
  if (!need_writable(in.dst)) return false;
  if (in.src == kImmValue) return set(in.dst, Reg::number(Scalar::constant(in.imm64()))), true;
  if (in.takes_function_address()) {
    const auto start = Scalar::constant(static_cast<uint64_t>(pc_ + in.distance()));
    if (start.umin == 0) {  // which is NULL where the program is interpreted
      return refuse("call-address", "the address of the program itself is taken", "the address of a static function");
    }
    return set(in.dst, {Type::Function, 0, 0, 0, start, 0, false}), true;
  }
  auto index = static_cast<uint32_t>(in.imm);
  if ((in.src != kImmMap && in.src != kImmMapValue) || index >= maps_.size()) {
    return refuse("insn-malformed", "the constant refers to something that does not exist");
  }
  const sf_image_map &map = maps_[index].def;
  auto offset = static_cast<uint32_t>(in.imm_high);
  if (in.src == kImmMap) {
    if (offset != 0) return refuse("insn-malformed", "the constant refers to something that does not exist");
    set(in.dst, {Type::Map, 0, static_cast<uint16_t>(index), 0, Scalar::constant(0), 0, false});
    return true;
  }
  if (map.type != kArrayMap || map.max_entries != 1 || offset >= map.value_size) {
    return refuse("map-bounds", "the address lies outside of its data",
                  "an offset below " + std::to_string(map.value_size), "the offset is " + std::to_string(offset));
  }
  set(in.dst, {Type::MapValue, 0, static_cast<uint16_t>(index), 0, Scalar::constant(offset), 0, false});
  return true;
}

PathWalker::Next PathWalker::jump(const Insn &in) {
  if (!need_readable(in.dst) || (in.from_reg && !need_readable(in.src))) return Next::Refused;
  jumps_since_save_++;
  jump_target_ = static_cast<uint32_t>(pc_ + in.distance());
  const Reg a = reg(in.dst), b = second_operand(in);
  if (a.is_pointer() || b.is_pointer()) return jump_on_pointer(in, a, b);
  if (!attempts_.empty()) note_comparison(in, a, b);
  auto assume = [&](bool taken, State *s) {
    Scalar x = a.value, y = b.value;
    scalar_assume(in.jump, in.wide, taken, &x, &y);
    s->top().reg[in.dst].value = x;
    learn(s, s->top().reg[in.dst]);
    if (!in.from_reg) return;
    s->top().reg[in.src].value.meet(y);
    learn(s, s->top().reg[in.src]);
  };
  if (in.from_reg && in.src == in.dst) {  // the same value on both sides
    if (in.jump != JumpOp::Set) return go_one_way(jump_taken<uint64_t>(in.jump, 0, 0));
    const int any_bit = scalar_decide(JumpOp::Ne, in.wide, a.value, Scalar::constant(0));
    return any_bit >= 0 ? go_one_way(any_bit == 1) : split(state_);
  }
  int decided = scalar_decide(in.jump, in.wide, a.value, b.value);
  if (decided >= 0) return go_one_way(decided == 1);
  State taken = state_;
  assume(true, &taken);
  assume(false, &state_);
  return split(std::move(taken));
}

PathWalker::Next PathWalker::go_one_way(bool taken) {
  note_ways(taken ? kWayTaken : kWayOn);
  pc_ = taken ? jump_target_ : pc_ + 1;
  return Next::Continue;
}

// Leaves the path on which the jump is taken for later and walks on with state_, where it is not.
PathWalker::Next PathWalker::split(State taken) {
  for (State *s : {&state_, &taken}) {
    if (!s->loops.empty()) s->loops.back().splits++;
  }
  note_ways(kWayOn | kWayTaken);
  if (!push_path(std::move(taken), jump_target_)) return Next::Refused;
  pc_++;
  return Next::Continue;
}

// The only question that may be asked of an address is whether it is NULL.
PathWalker::Next PathWalker::jump_on_pointer(const Insn &in, const Reg &a, const Reg &b) {
  bool asks_null = in.wide && (in.jump == JumpOp::Eq || in.jump == JumpOp::Ne) && a.is_pointer() &&
                   b.type == Type::Number && b.value.is_constant() && b.value.umin == 0;
  if (!asks_null) {
    refuse_reg("pointer-comparison", a.is_pointer() ? in.dst : in.src,
               "an address is compared with something other than NULL", "comparisons == NULL and != NULL in 64 bits");
    return Next::Refused;
  }
  bool taken_is_null = in.jump == JumpOp::Eq;
  if (!may_be_null(a.type)) return go_one_way(!taken_is_null);
  State taken = state_;
  decide_null(&taken, a.id, taken_is_null);
  decide_null(&state_, a.id, !taken_is_null);
  return split(std::move(taken));
}

// A bound found for one number bounds all that are related to it.
void PathWalker::learn(State *state, const Reg &of) {
  if (of.id == 0 || of.type != Type::Number || of.spread != 0) return;
  const Reg known = of;
  state->for_each_reg([&](Reg *r) {
    if (r->type != Type::Number || r->id != known.id || r->spread != 0) return;
    Scalar implied = scalar_alu(AluOp::Add, true, known.value, Scalar::constant(r->delta - known.delta));
    if (r->modulo32 || known.modulo32) {
      if (r->value.umax > kMax32) return;  // only its low half is bounded
      implied = truncate32(implied);
    }
    r->value.meet(implied);
  });
}

void PathWalker::decide_null(State *state, uint32_t id, bool null) {
  state->for_each_reg([&](Reg *r) {
    if (!may_be_null(r->type) || r->id != id) return;
    if (null) {
      *r = Reg::number(Scalar::constant(0));
      return;
    }
    r->type = without_null(r->type);
    if (r->type != Type::RingRecord) r->id = 0;
  });
  if (null) std::erase(state->reservations, id);  // nothing was reserved
}

}  // namespace shortfuse::vm
