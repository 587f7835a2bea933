// Loads, stores and the stack.
#include <string.h>

#include "verify/verify_path.h"

namespace shortfuse::vm {
namespace {

// The slot of a stack byte: bytes -8..-1 are slot 0, -16..-9 slot 1, ...
uint32_t slot_of(int64_t byte) { return static_cast<uint32_t>((-byte - 1) / kSlotBytes); }
unsigned bit_of(int64_t byte) { return static_cast<unsigned>(byte & (kSlotBytes - 1)); }

std::string access_text(const Scalar &at, uint32_t bytes) {
  return "offset is " + at.str() + ", " + std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes");
}

const char *verb(bool write) { return write ? "write" : "read"; }

Scalar moved(const Scalar &at, int64_t by) {
  return scalar_alu(AluOp::Add, true, at, Scalar::constant(static_cast<uint64_t>(by)));
}

}  // namespace

bool PathWalker::load(const Insn &in) {
  if (!need_writable(in.dst) || !need_readable(in.src)) return false;
  const Reg base = reg(in.src);
  Reg out = Reg::number(in.sign_extend
                            ? Scalar::signed_range(-(1ll << (in.size * 8 - 1)), (1ll << (in.size * 8 - 1)) - 1)
                            : unknown_of(in.size));
  const Scalar at = moved(base.value, in.off);
  if (base.type == Type::Stack) {
    if (!access_stack(in.src, base, at, in.size) || !read_stack(in.src, base, at, in.size, &out)) return false;
    if (in.sign_extend) out = Reg::number(scalar_extend(out.value, in.size * 8u, true));
  } else {
    if (!access(in.src, base, in.off, in.size, Use::Read)) return false;
    if (auto known = constant_of(base, at, in.size)) {
      out = Reg::number(Scalar::constant(in.sign_extend ? sign_extend(*known, in.size * 8u) : *known));
    }
    if (base.type == Type::Context && program_.target->context_holds_still()) {
      out = read_field(static_cast<int32_t>(at.smin), in.size);
      if (in.sign_extend) out = Reg::number(scalar_extend(out.value, in.size * 8u, true));
    }
  }
  set(in.dst, out);
  return true;
}

// The same number each time, so that what a comparison shows of one read is known of the next.
Reg PathWalker::read_field(int32_t off, uint32_t bytes) {
  constexpr size_t kFieldsMax = 32;
  for (KnownField &known : state_.fields) {
    if (known.off != off || known.bytes != bytes) continue;
    if (known.value.id == 0 && !known.value.value.is_constant()) known.value.id = next_id_++;
    return known.value;
  }
  Reg value = Reg::number(unknown_of(bytes));
  if (state_.fields.size() == kFieldsMax) return value;
  value.id = next_id_++;
  state_.fields.push_back({off, bytes, value});
  return value;
}

bool PathWalker::store(const Insn &in) {
  if (!need_readable(in.dst) || (in.from_reg && !need_readable(in.src))) return false;
  const Reg base = reg(in.dst), value = second_operand(in);
  if (base.type == Type::Stack) {
    const Scalar at = moved(base.value, in.off);
    return access_stack(in.dst, base, at, in.size) && write_stack(in.src, base, at, in.size, value, in.from_reg);
  }
  if (!access(in.dst, base, in.off, in.size, Use::Write)) return false;
  if (value.is_pointer()) return refuse_reg("pointer-leak", in.src, "an address is stored in a map", "a number");
  return true;
}

bool PathWalker::atomic(const Insn &in) {
  if (!need_readable(in.dst) || !need_readable(in.src)) return false;
  if (in.atomic == AtomicOp::Cmpxchg && !need_readable(0)) return false;
  const Reg base = reg(in.dst);
  for (unsigned r :
       {static_cast<unsigned>(in.src), in.atomic == AtomicOp::Cmpxchg ? 0u : static_cast<unsigned>(in.src)}) {
    if (reg(r).is_pointer())
      return refuse_reg("pointer-leak", r, "an address takes part in an atomic operation", "a number");
  }
  const Scalar at = moved(base.value, in.off);
  uint64_t low_bits = in.size - 1u;
  if (((at.bits.value | at.bits.mask) & low_bits) != 0) {
    return refuse("alignment", "an atomic operation must be aligned to its size",
                  "an offset that is a multiple of " + std::to_string(in.size), access_text(at, in.size));
  }
  if (base.type == Type::Stack) {
    Reg old;
    if (!access_stack(in.dst, base, at, in.size) || !read_stack(in.dst, base, at, in.size, &old)) return false;
    if (old.is_pointer())
      return refuse_reg("pointer-leak", in.dst, "an atomic operation works on a saved address", "a number there");
    if (!write_stack(in.src, base, at, in.size, Reg::number(Scalar::unknown()), false)) return false;
  } else if (!access(in.dst, base, in.off, in.size, Use::Write)) {
    return false;
  }
  if (!in.fetch) return true;
  unsigned result = in.atomic == AtomicOp::Cmpxchg ? 0 : in.src;
  if (!need_writable(result)) return false;
  set(result, Reg::number(in.wide ? Scalar::unknown() : Scalar::unsigned_range(0, 0xffffffff)));
  return true;
}

// ---- everything but the stack

bool PathWalker::access(unsigned r, const Reg &base, int64_t off, uint32_t bytes, Use use) {
  const Scalar at = moved(base.value, off);
  switch (base.type) {
    case Type::Context: return access_context(r, at, bytes, use);
    case Type::MapValue: return access_map_value(r, base, at, bytes, use);
    case Type::MapKey: return access_sized(r, at, bytes, maps_[base.map].def.key_size, use, "the map's key");
    case Type::RingRecord: return access_sized(r, at, bytes, base.bytes, use, "the reserved record");
    case Type::MapValueOrNull: case Type::RingRecordOrNull: case Type::MapOrNull:
      return refuse_reg("null-check", r, "an address that may be NULL is used", "a comparison with NULL before");
    case Type::Function:
      return refuse_reg("not-an-address", r, "a function is used as an address", "a call of it");
    case Type::Map:
      return refuse_reg("not-an-address", r, "a map itself is used as an address",
                        "the result of bpf_map_lookup_elem()");
    default:
      return refuse_reg("not-an-address", r, "a number is used as an address",
                        "an address of the context, the stack or a map value");
  }
}

bool PathWalker::access_context(unsigned r, const Scalar &at, uint32_t bytes, Use use) {
  if (use == Use::Write) return refuse_reg("context-write", r, "the context is read-only", "a read");
  if (at.smin < 0 || at.smax > static_cast<int64_t>(context_bytes_) - static_cast<int64_t>(bytes) ||
      !at.is_constant()) {
    return refuse("context-bounds", "the read lies outside of the context",
                  "offset + " + std::to_string(bytes) + " <= " + std::to_string(context_bytes_),
                  access_text(at, bytes));
  }
  if (at.umin % bytes != 0) {
    return refuse("context-bounds", "a field of the context is read across its alignment",
                  "an offset that is a multiple of " + std::to_string(bytes), access_text(at, bytes));
  }
  return true;
}

// Memory of `size` bytes that belongs to nobody else; a map's keys are not for writing.
bool PathWalker::access_sized(unsigned r, const Scalar &at, uint32_t bytes, uint32_t size, Use use, const char *what) {
  if (at.smin < 0 || at.smax > static_cast<int64_t>(size) - static_cast<int64_t>(bytes)) {
    surely_ = at.is_constant();
    return refuse("map-bounds", std::string("the ") + verb(use == Use::Write) + " may lie outside of " + what,
                  "0 <= offset and offset + " + std::to_string(bytes) + " <= " + std::to_string(size),
                  access_text(at, bytes));
  }
  if (use == Use::Write && reg(r).type == Type::MapKey)
    return refuse_reg("write-read-only", r, "the key of a map's element is written", "a copy of it");
  return true;
}

bool PathWalker::access_map_value(unsigned r, const Reg &base, const Scalar &at, uint32_t bytes, Use use) {
  const Policy::Map &map = maps_[base.map];
  const std::string name = "\"" + map_name(base.map) + "\"";
  if (at.smin < 0 || at.smax > static_cast<int64_t>(map.def.value_size) - static_cast<int64_t>(bytes)) {
    surely_ = at.is_constant();
    return refuse("map-bounds",
                  std::string("the ") + verb(use == Use::Write) + " may lie outside of the value of map " + name,
                  "0 <= offset and offset + " + std::to_string(bytes) + " <= " + std::to_string(map.def.value_size),
                  access_text(at, bytes));
  }
  if (use == Use::Write && map.frozen) {
    return refuse_reg("write-read-only", r, "map " + name + " holds constants and is read-only everywhere",
                      "a variable that is not const");
  }
  if (use == Use::Write && !writes_shared_maps_ && !sf_map_per_process(map.def.type)) {
    return refuse_reg("write-in-application", r,
                      "programs under syscall/ run in the application, which sees map " + name + " read-only",
                      "writes in programs under fuse/ or fuse_exit/");
  }
  return true;
}

// What a read of constants gives, where the offset is known.
std::optional<uint64_t> PathWalker::constant_of(const Reg &base, const Scalar &at, uint32_t bytes) const {
  if (base.type != Type::MapValue || !at.is_constant()) return std::nullopt;
  const Policy::Map &map = maps_[base.map];
  if (!map.frozen || at.umin + bytes > map.initial.size()) return std::nullopt;
  uint64_t v = 0;
  memcpy(&v, map.initial.data() + at.umin, bytes);
  return v;
}

// ---- the stack

void PathWalker::touch_stack(unsigned frame, int64_t lowest) {
  note_frame_bytes(function_of(frame), static_cast<uint32_t>(-lowest));
}

bool PathWalker::access_stack(unsigned r, const Reg &base, const Scalar &at, uint32_t bytes) {
  if (at.smin < -static_cast<int64_t>(kStackBytes) || at.smax > -static_cast<int64_t>(bytes)) {
    (void)r;
    surely_ = at.is_constant();
    return refuse("stack-bounds", "the access may lie outside of the stack",
                  "-512 <= offset and offset + " + std::to_string(bytes) + " <= 0", access_text(at, bytes));
  }
  touch_stack(base.frame, at.smin);
  return true;
}

Slot &PathWalker::slot_at(Frame *frame, int64_t byte) {
  uint32_t i = slot_of(byte);
  if (i >= frame->stack.size()) frame->stack.resize(i + 1);
  return frame->stack[i];
}

// All bytes of [low, high) must have been written and be no part of an address.
bool PathWalker::read_stack_bytes(unsigned r, Frame *frame, int64_t low, int64_t high) {
  for (int64_t byte = low; byte < high; byte++) {
    const Slot &slot = frame->slot(slot_of(byte));
    if (slot.holds_pointer()) {
      return refuse_reg("pointer-leak", r, "the bytes of a saved address are read as a number",
                        "a load of all its 8 bytes",
                        "the stack holds " + describe(slot.reg[0]) + " at offset " +
                            std::to_string(-8 * (int64_t{slot_of(byte)} + 1)));
    }
    if (!(slot.written >> bit_of(byte) & 1)) {
      return refuse("stack-uninitialised", "bytes of the stack are read that were not written on this path",
                    "all of [" + std::to_string(low) + ", " + std::to_string(high) + ") written",
                    "nothing was written at offset " + std::to_string(byte));
    }
  }
  return true;
}

bool PathWalker::read_stack(unsigned r, const Reg &base, const Scalar &at, uint32_t bytes, Reg *out) {
  Frame &frame = state_.frames[base.frame];
  if (at.is_constant()) {
    const Slot &slot = frame.slot(slot_of(at.smin));
    const unsigned bit = bit_of(at.smin);
    if (bytes == 8 && bit == 0 && slot.saved == Slot::Whole) return *out = slot.reg[0], true;
    if (bytes == 4 && bit == 0 && slot.saved & Slot::Low) return *out = slot.reg[0], true;
    if (bytes == 4 && bit == 4 && slot.saved & Slot::High) return *out = slot.reg[1], true;
  }
  return read_stack_bytes(r, &frame, at.smin, at.smax + bytes);
}

void PathWalker::mark_written(Frame *frame, int64_t low, int64_t high) {
  for (int64_t byte = low; byte < high; byte++) slot_at(frame, byte).overwrite(bit_of(byte));
}

// Some of [low, high) may be overwritten: what was written stays written, but is no longer known.
bool PathWalker::blur_stack(unsigned r, Frame *frame, int64_t low, int64_t high) {
  for (int64_t byte = low; byte < high; byte++) {
    const Slot &slot = frame->slot(slot_of(byte));
    if (slot.holds_pointer()) {
      return refuse_reg("pointer-leak", r, "a write at an offset that is not known may hit part of a saved address",
                        "a constant offset, or no saved address in reach");
    }
    if (slot.saved) slot_at(frame, byte).saved &= bit_of(byte) < 4 ? Slot::High : Slot::Low;
  }
  return true;
}

// What is kept of a stored value: related to the register it came from, so that a bound of one bounds the other.
Reg PathWalker::saved_copy(unsigned r, const Reg &value, uint32_t bytes, bool from_reg) {
  Reg copy = value;
  if (value.type != Type::Number) return copy;
  if (bytes == 4) copy.value = truncate32(value.value);
  copy.modulo32 = value.modulo32 || (bytes == 4 && value.value.umax > 0xffffffff);
  if (value.id || !from_reg || value.value.is_constant()) return copy;
  copy.id = state_.top().reg[r].id = next_id_++;
  return copy;
}

bool PathWalker::write_stack(unsigned r, const Reg &base, const Scalar &at, uint32_t bytes, const Reg &value,
                             bool from_reg) {
  Frame &frame = state_.frames[base.frame];
  const bool whole_slot = at.is_constant() && bytes == kSlotBytes && at.smin % kSlotBytes == 0;
  if (value.is_pointer()) {
    if (!whole_slot) {
      return refuse_reg("pointer-leak", r, "part of an address is stored",
                        "8 bytes at an offset that is a multiple of 8");
    }
    if (value.lives_in_frame() && value.frame > base.frame) {
      return refuse_reg("pointer-leak", r,
                        "an address on this function's stack is stored where it would outlive it",
                        "a number");
    }
  }
  if (!at.is_constant()) return blur_stack(r, &frame, at.smin, at.smax + bytes);
  if (whole_slot) {
    Slot &slot = slot_at(&frame, at.smin);
    slot.written = 0xff;
    slot.saved = Slot::Whole;
    slot.reg[0] = saved_copy(r, value, bytes, from_reg);
    return true;
  }
  // Overwriting part of a saved address leaves bytes of it behind, which nobody may read.
  for (int64_t byte : {at.smin, at.smin + bytes - 1}) {
    Slot &slot = slot_at(&frame, byte);
    if (slot.holds_pointer()) slot = Slot{};
  }
  mark_written(&frame, at.smin, at.smin + bytes);
  if (bytes == 4 && at.smin % 4 == 0) {
    Slot &slot = slot_at(&frame, at.smin);
    const bool high = bit_of(at.smin) == 4;
    slot.reg[high] = saved_copy(r, value, bytes, from_reg);
    slot.saved |= high ? Slot::High : Slot::Low;
  }
  return true;
}

}  // namespace shortfuse::vm
