// Calls of host functions: may this place call it, and are the arguments what it takes.
#include <string.h>

#include "slots.h"
#include "verify_path.h"

namespace shortfuse::vm {

bool PathWalker::call_host(const Insn &in) {
  if (auto missing = program_.missing.find(pc_); in.imm == kPoisonedCall && missing != program_.missing.end()) {
    return refuse("core-missing", missing->second, "",
                  "what may be missing is asked for with bpf_core_field_exists() or bpf_core_type_exists() first");
  }
  auto id = static_cast<uint32_t>(in.imm);
  if (in.src != kCallHost || id >= SF_HOST_COUNT)
    return refuse("insn-malformed", "the call names no function that exists");
  const HostFunction &f = kHostFunctions[id];
  if (!callable_from(f, program_.slot)) {
    return refuse("call-not-allowed",
                  std::string(f.name) + "() may not be called in " + section_of_slot(program_.slot),
                  std::string("it may be called in ") + f.where);
  }
  uint32_t map = 0;
  for (unsigned i = 0; i < std::size(f.args) && f.args[i] != Arg::None; i++) {
    if (!check_argument(f, i, &map)) return false;
  }
  for (unsigned r = 0; r <= 5; r++) set(r, Reg{});
  switch (f.result) {
    case Result::Scalar: set(0, Reg::number(Scalar::unknown())); break;
    case Result::Scalar32: set(0, Reg::number(Scalar::unsigned_range(0, 0xffffffff))); break;
    case Result::RingRecordOrNull: return refuse("call-unsupported", "reservations are not supported here");
    case Result::MapValueOrNull:
      set(0, {Type::MapValueOrNull, 0, static_cast<uint16_t>(map), next_id_++, Scalar::constant(0), 0, false});
      break;
  }
  return true;
}

bool PathWalker::check_argument(const HostFunction &f, unsigned index, uint32_t *map) {
  const unsigned r = index + 1;
  const std::string which = "argument " + std::to_string(r) + " of " + f.name + "()";
  if (!need_readable(r)) return false;
  const Reg given = reg(r);
  switch (f.args[index]) {
    case Arg::None: return true;
    case Arg::Scalar: case Arg::Size:
      if (given.type == Type::Number) return true;  // a size is judged with its memory
      return refuse_reg("argument", r, which + " is an address", "a number");
    case Arg::Context:
      if (given.type == Type::Context && given.value.is_constant() && given.value.umin == 0) return true;
      return refuse_reg("argument", r, which + " is not the context", "the context as the program received it");
    case Arg::Map:
      if (given.type != Type::Map)
        return refuse_reg("argument", r, which + " is not a map", "the address of a map (&name)");
      *map = given.map;
      if (f.writes_map && side_ == Side::Syscall && !sf_map_per_process(maps_[given.map].def.type)) {
        return refuse_reg("write-in-application", r,
                          "programs under syscall/ run in the application, which sees map \"" + map_name(given.map) +
                              "\" read-only",
                          "writes in programs under fuse/ or fuse_exit/, or a map of a per-CPU kind");
      }
      if (!(f.maps >> maps_[given.map].def.type & 1))
        return refuse_reg("map-kind", r, std::string(f.name) + "() cannot be used on a map of this kind",
                          "another kind");
      return true;
    case Arg::MapKey: return check_bytes(r, maps_[*map].def.key_size);
    case Arg::MapValue: return check_bytes(r, maps_[*map].def.value_size);
    case Arg::MapValueOut: case Arg::ConstSize: case Arg::RingRecord: case Arg::LoopBody: case Arg::MapBody:
    case Arg::Anything:
      return refuse("call-unsupported", which + " is not supported here");
    case Arg::ConstString: return check_const_string(r);
    case Arg::ReadMemory: case Arg::WriteMemory: {
      if (!need_readable(r + 1)) return false;
      const Reg size = reg(r + 1);
      if (size.type != Type::Number) return refuse_reg("argument", r + 1, "a size is an address", "a number");
      return check_buffer(r, size.value, f.args[index] == Arg::WriteMemory ? Use::Write : Use::Read);
    }
  }
  return false;
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
  if (last && base.value.smax <= static_cast<const unsigned char *>(last) - map->initial.data()) return true;
  return refuse_reg("argument", r, "the constant string is not terminated", "a NUL behind it in the same data");
}

}  // namespace shortfuse::vm
