// Comparing what is known on different paths.
#include "verify/state.h"

#include <algorithm>

#include "verify/id_table.h"

namespace shortfuse::vm {
namespace {

// Of an id met while two states are compared: what `seen` calls X + delta, `now` calls Y + delta + shift.
struct Counterpart { uint32_t now; uint64_t shift; };

struct Comparison {
  const PinnedIds &pinned;
  uint32_t *looked_at;  // what was compared
  IdTable<Counterpart> pairs = {};

  // `seen` relied on a relation of places only if they had the same id; then they must be related so in `now`.
  bool related_alike(const Reg &seen, const Reg &now) {
    if (seen.id == 0) return true;
    if (now.id == 0 || seen.modulo32 != now.modulo32) return false;
    const uint64_t shift = now.delta - seen.delta;
    if (pinned.has(seen.id)) return moved_alike(seen, now);
    if (now.spread != 0) return false;  // only about so far apart
    return same_ids(seen.id, now.id, shift);
  }

  bool same_ids(uint32_t seen, uint32_t now, uint64_t shift = 0) {
    if (seen == 0) return true;
    if (now == 0) return false;
    ++*looked_at;
    Counterpart &known = pairs[{seen}];
    if (known.now == 0) known = {now, shift};
    return known.now == now && known.shift == shift;
  }

  // How far something has moved is of interest only where that is being asked for.
  bool moved_alike(const Reg &seen, const Reg &now) const {
    if (!pinned.has(seen.id)) return true;
    const uint64_t behind = now.delta - seen.delta;
    return seen.id == now.id && behind <= seen.spread && now.spread <= seen.spread - behind;
  }
};

bool reg_includes(const Reg &seen, const Reg &now, Comparison *c) {
  if (seen.type == Type::None) return true;  // cannot have been read
  if (seen.type != now.type) return false;
  switch (seen.type) {
    case Type::None: return true;
    case Type::Number: return seen.value.includes(now.value) && c->related_alike(seen, now);
    case Type::Context: case Type::Map: case Type::Function: return seen.map == now.map && seen.value == now.value;
    case Type::Stack: case Type::MapValue: case Type::MapKey:
      return seen.frame == now.frame && seen.map == now.map && seen.value.includes(now.value) &&
             c->moved_alike(seen, now);
    case Type::RingRecord:
      return seen.bytes == now.bytes && seen.value.includes(now.value) && c->same_ids(seen.id, now.id);
    case Type::MapValueOrNull: case Type::MapOrNull: case Type::RingRecordOrNull:
      return seen.map == now.map && seen.bytes == now.bytes && seen.value == now.value && c->same_ids(seen.id, now.id);
  }
  return false;
}

bool slot_includes(const Slot &seen, const Slot &now, Comparison *c) {
  if (seen.written & ~now.written) return false;
  if ((seen.saved & now.saved) != seen.saved) return false;
  if (now.holds_pointer() && seen.written != 0 && !(seen.saved & Slot::Whole)) return false;
  if (seen.saved & (Slot::Whole | Slot::Low) && !reg_includes(seen.reg[0], now.reg[0], c)) return false;
  if (!(seen.saved & Slot::High)) return true;
  ++*c->looked_at;
  return reg_includes(seen.reg[1], now.reg[1], c);
}

Reg widened_reg(const Reg &a, const Reg &b, Comparison *c) {
  if (reg_includes(a, b, c)) return a;
  return a.type == Type::Number && b.type == Type::Number ? Reg::number(Scalar::unknown()) : Reg{};
}

// Bytes that may be part of an address on one side are unreadable on the other.
Slot widened_slot(const Slot &a, const Slot &b, Comparison *c) {
  if (slot_includes(a, b, c)) return a;
  Slot out;
  if (a.holds_pointer() || b.holds_pointer()) return out;
  out.written = a.written & b.written;
  out.saved = a.saved & b.saved;
  if (out.saved & (Slot::Whole | Slot::Low)) out.reg[0] = widened_reg(a.reg[0], b.reg[0], c);
  if (out.saved & Slot::High) out.reg[1] = widened_reg(a.reg[1], b.reg[1], c);
  return out;
}

}  // namespace

State widened(const State &a, const State &b, const PinnedIds &pinned) {
  State out = a;
  uint32_t looked_at = 0;
  Comparison comparison{pinned, &looked_at};
  for (size_t i = 0; i < a.reservations.size(); i++) comparison.same_ids(a.reservations[i], b.reservations[i]);
  for (size_t f = 0; f < out.frames.size(); f++) {
    Frame &frame = out.frames[f];
    const Frame &other = b.frames[f];
    for (unsigned r = 0; r < 10; r++) frame.reg[r] = widened_reg(a.frames[f].reg[r], other.reg[r], &comparison);
    for (uint32_t i = 0; i < frame.stack.size(); i++)
      frame.stack[i] = widened_slot(a.frames[f].stack[i], other.slot(i), &comparison);
  }
  std::erase_if(out.fields, [&](const KnownField &field) {
    const Reg *known = b.field(field.off, field.bytes);
    return !known || !reg_includes(field.value, *known, &comparison);
  });
  return out;
}

const char *type_name(Type t) {
  switch (t) {
    case Type::None: return "nothing yet";
    case Type::Number: return "a number";
    case Type::Context: return "the context";
    case Type::Stack: return "an address on the stack";
    case Type::Map: return "a map";
    case Type::MapValue: return "an address in a map value";
    case Type::MapKey: return "an address in a map's key";
    case Type::RingRecord: return "an address in a reserved record";
    case Type::Function: return "a function";
    case Type::MapValueOrNull: return "an address in a map value, or NULL";
    case Type::MapOrNull: return "a map, or NULL";
    case Type::RingRecordOrNull: return "an address in a reserved record, or NULL";
  }
  return "?";
}

std::string Reg::str(const std::string &map_name) const {
  std::string s = type_name(type);
  switch (type) {
    case Type::None: return s;
    case Type::Number: return s + (value.is_constant() ? ": " : " ") + value.str();
    case Type::Function: return s;
    case Type::Map: case Type::MapOrNull: return s + " \"" + map_name + "\"";
    case Type::MapValue: case Type::MapKey: case Type::MapValueOrNull: s += " of \"" + map_name + "\""; break;
    case Type::RingRecord: case Type::RingRecordOrNull: s += " of " + std::to_string(bytes) + " bytes"; break;
    default: break;
  }
  return s + ", offset " + value.str();
}

void Reg::move(int64_t low, int64_t high) {
  constexpr int64_t kFar = 1ll << 40;
  if (low < -kFar || high > kFar || spread > static_cast<uint64_t>(kFar)) return forget_relation();
  delta += static_cast<uint64_t>(low);
  spread += static_cast<uint64_t>(high - low);
}

const Slot &Frame::slot(uint32_t i) const {
  static const Slot unwritten;
  return i < stack.size() ? stack[i] : unwritten;
}

size_t State::bytes() const {
  size_t n = sizeof(State) + reservations.capacity() * sizeof(uint32_t);
  for (const Frame &f : frames) n += sizeof(Frame) + f.stack.capacity() * sizeof(Slot);
  n += loops.capacity() * sizeof(LoopRound) + fields.capacity() * sizeof(KnownField);
  return n;
}

Scalar unknown_of(uint32_t bytes) {
  return bytes == 8 ? Scalar::unknown() : Scalar::unsigned_range(0, (1ull << (bytes * 8)) - 1);
}

void drop_irrelevant(State *state, const std::vector<uint16_t> &live, const PinnedIds &pinned) {
  for (size_t f = 0; f < state->frames.size(); f++) {
    for (unsigned r = 0; r < 10; r++) {
      if (!(live[f] >> r & 1)) state->frames[f].reg[r] = Reg{};
    }
  }
  std::vector<Reg *> related;
  state->for_each_reg([&](Reg *r) {
    if (r->type == Type::Number && r->id != 0) related.push_back(r);
  });
  std::sort(related.begin(), related.end(), [](const Reg *a, const Reg *b) { return a->id < b->id; });
  for (size_t i = 0, next; i < related.size(); i = next) {
    for (next = i + 1; next < related.size() && related[next]->id == related[i]->id;) next++;
    if (next == i + 1 && !pinned.has(related[i]->id)) related[i]->forget_relation();
  }
  std::erase_if(state->fields, [](const KnownField &f) {
    return f.value.id == 0 && f.value.value == unknown_of(f.bytes);
  });
}

bool state_includes(const State &seen, const State &now, const std::vector<uint16_t> &live, const PinnedIds &pinned,
                    uint32_t *looked_at) {
  if (seen.frames.size() != now.frames.size()) return false;
  for (size_t f = 0; f < seen.frames.size(); f++) {
    const Frame &a = seen.frames[f], &b = now.frames[f];
    if (a.return_pc != b.return_pc || a.role != b.role) return false;
  }
  Comparison comparison{pinned, looked_at};
  if (seen.reservations.size() != now.reservations.size()) return false;
  for (size_t i = 0; i < seen.reservations.size(); i++) {
    if (!comparison.same_ids(seen.reservations[i], now.reservations[i])) return false;
  }
  for (const KnownField &field : seen.fields) {
    ++*looked_at;
    const Reg *known = now.field(field.off, field.bytes);
    if (!known || !reg_includes(field.value, *known, &comparison)) return false;
  }
  for (size_t f = seen.frames.size(); f-- > 0;) {  // the innermost differs first
    const Frame &a = seen.frames[f], &b = now.frames[f];
    if (!reg_includes(a.bound, b.bound, &comparison) || !reg_includes(a.given, b.given, &comparison)) return false;
    for (unsigned r = 0; r < 10; r++) {
      ++*looked_at;
      if ((live[f] >> r & 1) && !reg_includes(a.reg[r], b.reg[r], &comparison)) return false;
    }
    for (uint32_t i = 0; i < a.stack.size(); i++) {
      ++*looked_at;
      if (!slot_includes(a.stack[i], b.slot(i), &comparison)) return false;
    }
  }
  return true;
}

}  // namespace shortfuse::vm
