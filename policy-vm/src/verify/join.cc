// Joining and widening.
#include "verify/join.h"

#include <algorithm>
#include <bit>
#include <type_traits>

#include "verify/id_table.h"

namespace shortfuse::vm {
namespace {

constexpr uint32_t kFirstSlotPlace = 16, kPlacesPerSlot = 3;  // of a slot: whole, low half, high half
constexpr uint32_t kFrameShift = 16;
constexpr PlaceKey kFieldPlace = 1u << 31;                        // of the context: its offset and size below

PlaceKey key_of(const KnownField &f) { return kFieldPlace | static_cast<uint32_t>(f.off) << 4 | f.bytes; }

// How many bits a bound has that nothing suggests: all that occur as masks and sizes, then in bigger steps.
constexpr unsigned kWidths[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 31, 32, 40, 48, 63, 64};

unsigned next_width(unsigned bits) {
  return *std::find_if(std::begin(kWidths), std::end(kWidths), [&](unsigned w) { return w >= bits; });
}

// The next bound at or beyond `v`, as a number of type T.
template <typename T> T next_up(T v, const std::vector<uint64_t> &rungs) {
  T best = std::numeric_limits<T>::max();
  for (uint64_t rung : rungs) {
    if (static_cast<T>(rung) >= v) best = std::min(best, static_cast<T>(rung));
  }
  if (std::is_signed_v<T> && static_cast<int64_t>(v) < 0) return std::min(best, static_cast<T>(-1));
  if (best != std::numeric_limits<T>::max()) return best;
  const unsigned bits = next_width(static_cast<unsigned>(std::bit_width(static_cast<uint64_t>(v))));
  return bits >= sizeof(T) * 8 ? best : static_cast<T>((1ull << bits) - 1);
}

template <typename T> T next_down(T v, const std::vector<uint64_t> &rungs) {
  T best = std::numeric_limits<T>::min();
  for (uint64_t rung : rungs) {
    if (static_cast<T>(rung) <= v) best = std::max(best, static_cast<T>(rung));
  }
  if (best != std::numeric_limits<T>::min() || std::is_unsigned_v<T>) return best;
  if (v >= T{0}) return 0;
  const unsigned bits = next_width(static_cast<unsigned>(std::bit_width(static_cast<uint64_t>(~v))));
  return bits >= sizeof(T) * 8 - 1 ? best : static_cast<T>(-(1ll << bits));
}

// Joins what is related: the classes of the result are the pairs of classes that the two have.
class Joiner {
 public:
  Joiner(uint32_t *next_id, const PinnedIds *pinned) : next_id_(next_id), pinned_(pinned) {}

  // What was reserved on both ways is one reservation from here on, whatever its ids were.
  bool join_reservations(std::vector<uint32_t> *a, const std::vector<uint32_t> &b) {
    if (a->size() != b.size()) return false;
    for (size_t i = 0; i < b.size(); i++) {
      const uint32_t id = (*a)[i] == b[i] ? b[i] : (*next_id_)++;
      reserved_[{(*a)[i], b[i]}] = id;
      (*a)[i] = id;
    }
    return true;
  }

  // False: nothing can be said of the place.
  bool join(Reg *a, const Reg &b) {
    if (a->type != b.type) return false;
    switch (a->type) {
      case Type::None: return false;
      case Type::Number:
        a->value = scalar_join(a->value, b.value);
        relate(a, b);
        return true;
      case Type::Stack: case Type::MapValue: case Type::MapKey:
        if (a->frame != b.frame || a->map != b.map) return false;
        a->value = scalar_join(a->value, b.value);
        if (is_pinned_as(*a, b)) cover(a, b);
        else a->forget_relation();
        return true;
      case Type::MapValueOrNull: case Type::MapOrNull:
        if (a->map != b.map || !(a->value == b.value)) return false;
        a->id = class_of(*a, b);
        return true;
      case Type::RingRecordOrNull:
        return a->value == b.value && join_record(a, b);
      case Type::RingRecord:
        a->value = scalar_join(a->value, b.value);
        return join_record(a, b);
      case Type::Context: case Type::Map: case Type::Function:
        return a->map == b.map && a->value == b.value;
    }
    return false;
  }

 private:
  uint32_t class_of(const Reg &a, const Reg &b) {
    uint32_t &id = classes_[{a.id, b.id, b.delta - a.delta}];
    if (id == 0) id = (*next_id_)++;
    return id;
  }

  // A record is a reservation: what is none any more on one of the ways is none.
  bool join_record(Reg *a, const Reg &b) {
    const uint32_t id = reserved_[{a->id, b.id}];
    if (id == 0) return false;
    a->id = id;
    return a->map == b.map && a->bytes == b.bytes;
  }

  bool is_pinned_as(const Reg &a, const Reg &b) const {
    return a.id != 0 && a.id == b.id && pinned_ && pinned_->has(a.id);
  }

  // Anything between where the two are.
  static void cover(Reg *a, const Reg &b) {
    constexpr int64_t kFar = 1ll << 40;
    const auto apart = static_cast<int64_t>(b.delta - a->delta);
    if (a->modulo32 != b.modulo32 || apart < -kFar || apart > kFar || a->spread > kFar || b.spread > kFar)
      return a->forget_relation();
    const int64_t low = std::min<int64_t>(0, apart);
    const int64_t high = std::max(static_cast<int64_t>(a->spread), apart + static_cast<int64_t>(b.spread));
    a->delta += static_cast<uint64_t>(low);
    a->spread = static_cast<uint64_t>(high - low);
  }

  void relate(Reg *a, const Reg &b) {
    if (is_pinned_as(*a, b)) return cover(a, b);
    if (a->id == 0 || b.id == 0 || a->modulo32 != b.modulo32 || a->spread != 0 || b.spread != 0)
      return a->forget_relation();
    a->id = class_of(*a, b);
  }

  uint32_t *next_id_;
  const PinnedIds *pinned_;
  IdTable<uint32_t> classes_, reserved_;  // ids of the result
};

void join_slot(Slot *a, const Slot &b, Joiner *joiner) {
  const bool pointer = a->holds_pointer() || b.holds_pointer();
  if (pointer && (a->saved != b.saved || a->reg[0].type != b.reg[0].type)) {
    *a = Slot{};  // part of it may be an address: unreadable
    return;
  }
  a->written &= b.written;
  a->saved &= b.saved;
  if (a->saved & (Slot::Whole | Slot::Low) && !joiner->join(&a->reg[0], b.reg[0])) {
    if (pointer) a->written = 0;
    a->saved &= Slot::High;
  }
  if (a->saved & Slot::High && !joiner->join(&a->reg[1], b.reg[1])) a->saved &= Slot::Low;
}

}  // namespace

Scalar scalar_join(const Scalar &a, const Scalar &b) {
  Scalar r = a;
  r.bits.mask = a.bits.mask | b.bits.mask | (a.bits.value ^ b.bits.value);
  r.bits.value = a.bits.value & ~r.bits.mask;
  r.umin = std::min(a.umin, b.umin), r.umax = std::max(a.umax, b.umax);
  r.smin = std::min(a.smin, b.smin), r.smax = std::max(a.smax, b.smax);
  r.umin32 = std::min(a.umin32, b.umin32), r.umax32 = std::max(a.umax32, b.umax32);
  r.smin32 = std::min(a.smin32, b.smin32), r.smax32 = std::max(a.smax32, b.smax32);
  return r;
}

Scalar scalar_widen(const Scalar &before, const Scalar &grown, const std::vector<uint64_t> &rungs) {
  Scalar r = grown;
  if (grown.umax > before.umax) r.umax = next_up(grown.umax, rungs);
  if (grown.umin < before.umin) r.umin = next_down(grown.umin, rungs);
  if (grown.smax > before.smax) r.smax = next_up(grown.smax, rungs);
  if (grown.smin < before.smin) r.smin = next_down(grown.smin, rungs);
  if (grown.umax32 > before.umax32) r.umax32 = next_up(grown.umax32, rungs);
  if (grown.umin32 < before.umin32) r.umin32 = next_down(grown.umin32, rungs);
  if (grown.smax32 > before.smax32) r.smax32 = next_up(grown.smax32, rungs);
  if (grown.smin32 < before.smin32) r.smin32 = next_down(grown.smin32, rungs);
  const uint64_t changed = (before.bits.value ^ grown.bits.value) | (before.bits.mask ^ grown.bits.mask);
  if (changed != 0) {
    r.bits.mask = grown.bits.mask | ~0ull << std::countr_zero(changed);
    r.bits.value = grown.bits.value & ~r.bits.mask;
  }
  if (!r.sync()) r = Scalar::unknown();
  return r;
}

bool join_states(State *into, const State &other, uint32_t *next_id, const PinnedIds *pinned) {
  if (into->frames.size() != other.frames.size()) return false;
  for (size_t f = 0; f < other.frames.size(); f++) {
    const Frame &a = into->frames[f], &b = other.frames[f];
    if (a.return_pc != b.return_pc || a.role != b.role || a.head != b.head) return false;
  }
  Joiner joiner(next_id, pinned);
  if (!joiner.join_reservations(&into->reservations, other.reservations)) return false;
  for (size_t f = 0; f < other.frames.size(); f++) {
    Frame &a = into->frames[f];
    const Frame &b = other.frames[f];
    for (unsigned r = 0; r < 10; r++) {
      if (!joiner.join(&a.reg[r], b.reg[r])) a.reg[r] = Reg{};
    }
    if (a.stack.size() > b.stack.size()) a.stack.resize(b.stack.size());
    for (uint32_t i = 0; i < a.stack.size(); i++) join_slot(&a.stack[i], b.stack[i], &joiner);
  }
  std::erase_if(into->fields, [&](KnownField &field) {
    const Reg *known = other.field(field.off, field.bytes);
    return !known || !joiner.join(&field.value, *known);
  });
  into->widened = std::max(into->widened, other.widened);
  into->crowded |= other.crowded;
  return true;
}

std::vector<NamedReg> places_of(State *state) {
  std::vector<NamedReg> out;
  for (uint32_t f = 0; f < state->frames.size(); f++) {
    Frame &frame = state->frames[f];
    const PlaceKey base = f << kFrameShift;
    for (uint32_t r = 0; r < 10; r++) {
      if (frame.reg[r].type != Type::None) out.push_back({base + r, &frame.reg[r]});
    }
    for (uint32_t i = 0; i < frame.stack.size(); i++) {
      Slot &slot = frame.stack[i];
      const PlaceKey first = base + kFirstSlotPlace + i * kPlacesPerSlot;
      if (slot.saved & Slot::Whole) out.push_back({first, &slot.reg[0]});
      if (slot.saved & Slot::Low) out.push_back({first + 1, &slot.reg[0]});
      if (slot.saved & Slot::High) out.push_back({first + 2, &slot.reg[1]});
    }
  }
  for (KnownField &f : state->fields) out.push_back({key_of(f), &f.value});
  return out;
}

Reg *find_place(State *state, PlaceKey key) {
  for (KnownField &f : state->fields) {
    if (key == key_of(f)) return &f.value;
  }
  if (key & kFieldPlace) return nullptr;
  const uint32_t f = key >> kFrameShift, place = key & ((1u << kFrameShift) - 1);
  if (f >= state->frames.size()) return nullptr;
  Frame &frame = state->frames[f];
  if (place < 10) return frame.reg[place].type == Type::None ? nullptr : &frame.reg[place];
  const uint32_t i = (place - kFirstSlotPlace) / kPlacesPerSlot, part = (place - kFirstSlotPlace) % kPlacesPerSlot;
  if (place < kFirstSlotPlace || i >= frame.stack.size()) return nullptr;
  constexpr Slot::Saved parts[] = {Slot::Whole, Slot::Low, Slot::High};
  return frame.stack[i].saved & parts[part] ? &frame.stack[i].reg[part == 2] : nullptr;
}

}  // namespace shortfuse::vm
