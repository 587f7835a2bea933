// What the verifier knows at one point of one path: registers and stack of every active function.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "verify/scalar.h"

namespace shortfuse::vm {

enum class Type : uint8_t {
  None, Number, Context, Stack, Map, MapValue, MapKey, RingRecord, Function, MapValueOrNull, MapOrNull, RingRecordOrNull
};

const char *type_name(Type t);
constexpr bool may_be_null(Type t) { return t >= Type::MapValueOrNull; }
constexpr Type without_null(Type t) {
  return t == Type::MapValueOrNull ? Type::MapValue : t == Type::MapOrNull ? Type::Map : Type::RingRecord;
}

struct Reg {
  Type type = Type::None;
  uint8_t frame = 0;   // Stack, MapKey: whose
  uint16_t map = 0;    // of everything that belongs to a map
  // Not 0: related to all others with the same id. Addresses that may be NULL: they are one, so a null check of one
  // decides all. RingRecord: the reservation. Numbers: each is X + delta for one unknown X (modulo 2^32 where
  // `modulo32`), so a bound of one bounds all. Other addresses whose offset may vary have one only where a loop is
  // being proved: the same for their offsets.
  uint32_t id = 0;
  Scalar value;        // Number: the value. Addresses: how far behind the beginning (of a stack: behind its top, < 0).
                       // Function: the instruction that it begins with
  uint64_t delta = 0;
  bool modulo32 = false;
  uint32_t bytes = 0;   // RingRecord: what was reserved
  uint64_t spread = 0;  // of pinned ids only: anything in [X + delta, X + delta + spread]

  static Reg number(const Scalar &s) { return {Type::Number, 0, 0, 0, s, 0, false}; }
  void forget_relation() { id = 0, delta = spread = 0, modulo32 = false; }
  /// Where `id` is pinned: moves by something in [low, high].
  void move(int64_t low, int64_t high);
  /// An address of which it can be asked how far it moves.
  bool can_move() const { return type == Type::Stack || type == Type::MapValue || type == Type::MapKey; }
  bool lives_in_frame() const { return type == Type::Stack || type == Type::MapKey; }
  bool is_pointer() const { return type > Type::Number; }
  /// "a number in [0, 255]", "an address in map "m", offset 8"; map names come from the caller.
  std::string str(const std::string &map_name) const;
};

// Eight bytes of stack: which of them have a value and, where a register was saved, which value that is.
struct Slot {
  enum Saved : uint8_t { Nothing = 0, Whole = 1, Low = 2, High = 4 };  // Low and High: numbers of four bytes each
  uint8_t written = 0;  // bit b: byte b, counted from the lowest address, has a value
  uint8_t saved = Nothing;
  Reg reg[2];           // [0] of Whole and Low, [1] of High
  bool holds_pointer() const { return saved == Whole && reg[0].is_pointer(); }
  /// Byte `b` is something else now.
  void overwrite(unsigned b) {
    saved &= b < 4 ? High : Low;
    written |= static_cast<uint8_t>(1u << b);
  }
};

inline constexpr uint32_t kSlotBytes = 8;
inline constexpr uint32_t kStackSlots = 512 / kSlotBytes;

// How a function was entered: called, or by bpf_loop() or bpf_for_each_map_elem(), which enter it again.
enum class Role : uint8_t { Called, LoopBody, MapBody };

struct Frame {
  Reg reg[10];              // r10 is always this frame's top
  std::vector<Slot> stack;  // [i] is the eight bytes from -8 * (i + 1); absent ones are unwritten
  uint32_t return_pc = 0;   // in the caller
  Role role = Role::Called;
  int32_t head = -1;        // of a body: the state before this round, in PathWalker::seen_
  // Of a body: the number of rounds or the map, and what every round is given. The same in all rounds, whatever one
  // of them learns, and so no part of for_each_reg().
  Reg bound, given;
  const Slot &slot(uint32_t i) const;
};

// What is known of a field of the context: it stays what it was when it was first read.
struct KnownField { int32_t off; uint32_t bytes; Reg value; };

// A loop that a path is in.
struct LoopRound {
  uint32_t loop;          // in LoopNest::loops
  uint16_t frame;
  uint32_t rounds = 0;    // walked one by one
  uint32_t next_try = 0;  // at this many, look for what holds in all of them
  uint32_t splits = 0;    // paths left open on the way
  uint64_t steps = 0;     // of the whole walk, when the loop was entered
};

// Ids that stand for what a place held at the beginning of a loop's round, where that is being proved: such an id
// means something even where only one place has it, and cannot stand for another.
struct PinnedIds {
  struct Range { uint32_t first, end; };
  std::vector<Range> ranges;
  bool has(uint32_t id) const {
    for (const Range &r : ranges) {
      if (id >= r.first && id < r.end) return true;
    }
    return false;
  }
};

struct State {
  std::vector<Frame> frames;
  std::vector<uint32_t> reservations;  // ids of the RingRecords that must be given back
  std::vector<LoopRound> loops;
  std::vector<KnownField> fields;
  int32_t widened = -1;  // the last loop on the path of which not every round was walked
  bool crowded = false;  // several paths were joined on the way (verify_crowds.cc)
  const Reg *field(int32_t off, uint32_t bytes) const {
    for (const KnownField &f : fields) {
      if (f.off == off && f.bytes == bytes) return &f.value;
    }
    return nullptr;
  }
  Frame &top() { return frames.back(); }
  const Frame &top() const { return frames.back(); }
  size_t bytes() const;
  /// Calls f(Reg *) for every register, saved register and field.
  template <typename F> void for_each_reg(F f) {
    for (Frame &frame : frames) {
      for (Reg &r : frame.reg) f(&r);
      for (Slot &s : frame.stack) {
        if (s.saved & (Slot::Whole | Slot::Low)) f(&s.reg[0]);
        if (s.saved & Slot::High) f(&s.reg[1]);
      }
    }
    for (KnownField &field : fields) f(&field.value);
  }
};

/// What is known of a number of so many bytes that was read somewhere.
Scalar unknown_of(uint32_t bytes);

/// Forgets what cannot matter: registers that are not read any more, ids that only one place has, and fields of which
/// nothing is known.
void drop_irrelevant(State *state, const std::vector<uint16_t> &live, const PinnedIds &pinned);

/// A state that includes both and that repeated joining soon does not change any more: numbers that differ become
/// unknown, other things that differ become unreadable. Both have the same frames and as many reservations.
State widened(const State &a, const State &b, const PinnedIds &pinned);

/// Everything that can happen from `now` can happen from `seen`: what was found safe there is safe here. `live[i]` are
/// the registers that frame i may still read. `looked_at` counts the registers, slots and relations compared.
bool state_includes(const State &seen, const State &now, const std::vector<uint16_t> &live, const PinnedIds &pinned,
                    uint32_t *looked_at);

}  // namespace shortfuse::vm
