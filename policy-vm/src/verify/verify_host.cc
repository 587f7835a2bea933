// Calls of host functions: may this place call it, and are the arguments what it takes.
#include <string.h>

#include "verify/verify_path.h"

namespace shortfuse::vm {

// Functions that serve a call write into the buffers that the application gave with it, which may lie anywhere: also on
// its stack below what it uses, where the context is while programs run.
bool PathWalker::writes_callers_memory(const HostFunction &f) const {
  return side_of_slot(program_.slot) == Side::Syscall && f.args[0] == Arg::Context;
}

PathWalker::Next PathWalker::call_host(const Insn &in) {
  if (auto missing = program_.missing.find(pc_); in.imm == kPoisonedCall && missing != program_.missing.end()) {
    refuse("core-missing", missing->second, "",
           "what may be missing is asked for with bpf_core_field_exists() or bpf_core_type_exists() first");
    return Next::Refused;
  }
  auto id = static_cast<uint32_t>(in.imm);
  const HostFunction *function = program_.target->function(id);
  if (in.src != kCallHost || !function) {
    refuse("insn-malformed", "the call names no function that exists");
    return Next::Refused;
  }
  const HostFunction &f = *function;
  if (!program_.target->callable(f, program_.slot)) {
    refuse("call-not-allowed",
           std::string(f.name) + "() may not be called in " + program_.target->section_of(program_.slot),
           std::string("it may be called in ") + f.where);
    return Next::Refused;
  }
  uint32_t map = 0;
  for (unsigned i = 0; i < std::size(f.args) && f.args[i] != Arg::None; i++) {
    if (!check_argument(f, i, &map)) return Next::Refused;
  }
  if (id == SF_HOST_LOOP) return start_rounds(Role::LoopBody, static_cast<uint32_t>(reg(2).value.umin));
  if (id == SF_HOST_FOR_EACH) return start_rounds(Role::MapBody, static_cast<uint32_t>(reg(2).value.umin));
  if (id == SF_HOST_TAIL_CALL && !check_tail_call()) return Next::Refused;
  if (writes_callers_memory(f)) state_.fields.clear();
  for (unsigned r = 0; r <= 5; r++) set(r, Reg{});
  set_result(f, map);
  pc_++;
  return Next::Continue;
}

// A map of the shape that all maps of this ARRAY_OF_MAPS have: which one it is does not matter for what is allowed.
std::optional<uint32_t> PathWalker::map_like_inner(const Policy::Map &outer) const {
  for (uint32_t i = 0; i < maps_.size() && !outer.inner.empty(); i++) {
    const sf_image_map &a = maps_[i].def, &b = outer.inner[0];
    const bool same = a.type == b.type && a.key_size == b.key_size && a.value_size == b.value_size &&
                      a.max_entries == b.max_entries;
    if (same && !maps_[i].frozen) return i;
  }
  return std::nullopt;
}

void PathWalker::set_result(const HostFunction &f, uint32_t map) {
  Reg out = Reg::number(Scalar::unknown());
  switch (f.result) {
    case Result::Scalar: break;
    case Result::Scalar32: out = Reg::number(Scalar::unsigned_range(0, 0xffffffff)); break;
    case Result::RingRecordOrNull:
      out = {Type::RingRecordOrNull, 0, static_cast<uint16_t>(map), next_id_++, Scalar::constant(0), 0, false,
             reserved_bytes_};
      state_.reservations.push_back(out.id);
      break;
    case Result::MapValueOrNull: {
      const bool of_maps = maps_[map].def.type == SF_MAP_ARRAY_OF_MAPS;
      const std::optional<uint32_t> like = of_maps ? map_like_inner(maps_[map]) : map;
      if (!like) {
        out = Reg::number(Scalar::constant(0));  // there is no map that it could hold
        break;
      }
      out = {of_maps ? Type::MapOrNull : Type::MapValueOrNull, 0, static_cast<uint16_t>(*like), next_id_++,
             Scalar::constant(0), 0, false};
      break;
    }
  }
  set(0, out);
}

bool PathWalker::check_argument(const HostFunction &f, unsigned index, uint32_t *map) {
  const unsigned r = index + 1;
  const std::string which = "argument " + std::to_string(r) + " of " + f.name + "()";
  if (!need_readable(r)) return false;
  const Reg given = reg(r);
  switch (f.args[index]) {
    case Arg::None: case Arg::Anything: return true;
    case Arg::Scalar: case Arg::Size:
      if (given.type == Type::Number) return true;  // a size is judged with its memory
      return refuse_reg("argument", r, which + " is an address", "a number");
    case Arg::ConstSize:
      reserved_bytes_ = static_cast<uint32_t>(given.value.umin);
      if (given.type == Type::Number && given.value.is_constant() && given.value.umin > 0 &&
          given.value.umin <= kBufferBytesMax)
        return true;
      return refuse_reg("argument", r, which + " is not a known size", "a constant, at least 1 and at most 1048576");
    case Arg::Context:
      if (given.type == Type::Context && given.value.is_constant() && given.value.umin == 0) return true;
      return refuse_reg("argument", r, which + " is not the context", "the context as the program received it");
    case Arg::Map:
      if (given.type != Type::Map)
        return refuse_reg("argument", r, which + " is not a map", "the address of a map (&name)");
      *map = given.map;
      return check_map(f, r);
    case Arg::MapKey: return check_bytes(r, maps_[*map].def.key_size);
    case Arg::MapValue: return check_bytes(r, maps_[*map].def.value_size);
    case Arg::MapValueOut:
      return check_buffer(r, Scalar::constant(maps_[*map].def.value_size),
                          maps_[*map].def.type == SF_MAP_BLOOM_FILTER ? Use::Read : Use::Write);
    case Arg::ConstString: return check_const_string(r);
    case Arg::RingRecord: return check_ring_record(r, which);
    case Arg::LoopBody: case Arg::MapBody:
      if (given.type == Type::Function) return true;
      return refuse_reg("argument", r, which + " is not a function", "the address of a static function");
    case Arg::ReadMemory: case Arg::WriteMemory: case Arg::InOutMemory: {
      if (!need_readable(r + 1)) return false;
      const Reg size = reg(r + 1);
      if (size.type != Type::Number) return refuse_reg("argument", r + 1, "a size is an address", "a number");
      if (f.args[index] != Arg::WriteMemory && !check_buffer(r, size.value, Use::Read)) return false;
      return f.args[index] == Arg::ReadMemory || check_buffer(r, size.value, Use::Write);
    }
  }
  return false;
}

// Whether the function can be used on this kind of map, and on this map at this place.
bool PathWalker::check_map(const HostFunction &f, unsigned r) {
  const Policy::Map &map = maps_[reg(r).map];
  const std::string name = "\"" + map_name(reg(r).map) + "\"";
  if (f.writes_map && map.frozen) {
    return refuse_reg("write-read-only", r, "map " + name + " holds constants and is read-only everywhere",
                      "a variable that is not const");
  }
  if (f.writes_map && !writes_shared_maps_ && !sf_map_per_process(map.def.type)) {
    return refuse_reg("write-in-application", r,
                      "programs under syscall/ run in the application, which sees map " + name + " read-only",
                      "writes in programs under fuse/ or fuse_exit/, or a map of a per-CPU kind");
  }
  if (map.def.type < 64 && f.maps >> map.def.type & 1) return true;
  return refuse_reg("map-kind", r, std::string(f.name) + "() cannot be used on a map of this kind", "another kind");
}

// A reservation, as it was given, is given back: nobody may use it afterwards.
bool PathWalker::check_ring_record(unsigned r, const std::string &which) {
  const Reg given = reg(r);
  if (given.type == Type::RingRecordOrNull)
    return refuse_reg("null-check", r, which + " may be NULL", "a comparison with NULL before");
  if (given.type != Type::RingRecord || !given.value.is_constant() || given.value.umin != 0)
    return refuse_reg("argument", r, which + " is not a reserved record", "what bpf_ringbuf_reserve() gave, unmoved");
  release(given.id);
  return true;
}

void PathWalker::release(uint32_t id) {
  std::erase(state_.reservations, id);
  auto released = [&](const Reg &r) { return r.type == Type::RingRecord && r.id == id; };
  for (Frame &frame : state_.frames) {
    for (Reg &r : frame.reg) {
      if (released(r)) r = Reg{};
    }
    for (Slot &slot : frame.stack) {
      if (slot.saved == Slot::Whole && released(slot.reg[0])) slot = Slot{};
    }
  }
}

bool PathWalker::check_tail_call() {
  if (state_.frames.size() > 1) {
    return refuse("tail-call-depth", "a tail call is made in a sub-program", "tail calls in the program itself");
  }
  return nothing_reserved("the program may go on as another");
}

bool PathWalker::check_bytes(unsigned r, uint32_t bytes) {
  return check_buffer(r, Scalar::constant(bytes), Use::Read);
}

// [register, register + size) for every possible size.
bool PathWalker::check_buffer(unsigned r, const Scalar &size, Use use) {
  if (size.umin == 0) {
    return refuse("argument", "the size of a buffer may be 0", "at least 1", "the size is " + size.str());
  }
  if (size.umax > kBufferBytesMax) {
    return refuse("argument", "the size of a buffer has no useful bound", "at most 1048576",
                  "the size is " + size.str());
  }
  const Reg base = reg(r);
  const auto most = static_cast<uint32_t>(size.umax);
  if (base.type != Type::Stack) {
    if (base.type == Type::Context)
      return refuse_reg("argument", r, "the context is passed as memory", "memory of the stack or of a map value");
    return access(r, base, 0, most, use);
  }
  if (!access_stack(r, base, base.value, most)) return false;
  Frame &frame = state_.frames[base.frame];
  const int64_t low = base.value.smin, high = base.value.smax + most;
  if (use == Use::Read) return read_stack_bytes(r, &frame, low, high);
  if (!base.value.is_constant()) return blur_stack(r, &frame, low, high);
  const int64_t sure = low + static_cast<int64_t>(size.umin);
  for (int64_t byte = low; byte < sure; byte++) {
    if (frame.slot(static_cast<uint32_t>((-byte - 1) / kSlotBytes)).holds_pointer()) {
      return refuse_reg("pointer-leak", r, "the buffer overlaps a saved address", "a buffer of its own");
    }
  }
  mark_written(&frame, low, sure);
  return blur_stack(r, &frame, sure, high);
}

// Somewhere behind every possible beginning there is a NUL, and it cannot go away.
bool PathWalker::check_const_string(unsigned r) {
  const Reg base = reg(r);
  const Policy::Map *map = base.type == Type::MapValue ? &maps_[base.map] : nullptr;
  if (!map || !map->frozen)
    return refuse_reg("argument", r, "a constant string is expected", "an address in read-only data (.rodata)");
  if (!access(r, base, 0, 1, Use::Read)) return false;
  const void *last = memrchr(map->initial.data(), 0, map->initial.size());
  const auto *behind = map->initial.data() + map->initial.size();
  charge(static_cast<uint64_t>(behind - (last ? static_cast<const unsigned char *>(last) : map->initial.data())));
  if (last && base.value.smax <= static_cast<const unsigned char *>(last) - map->initial.data()) return true;
  return refuse_reg("argument", r, "the constant string is not terminated", "a NUL behind it in the same data");
}

}  // namespace shortfuse::vm
