// From a CO-RE relocation to a changed instruction: find the counterparts here, compute what each side says, patch.
#include "object/core_relocation.h"

#include <limits.h>
#include <linux/bpf.h>

#include <vector>

#include "object/core_match.h"

namespace shortfuse::vm {
namespace {

using Failure = std::unexpected<std::string>;

bool is_about_type(uint32_t kind) {
  return kind == BPF_CORE_TYPE_ID_LOCAL || kind == BPF_CORE_TYPE_ID_TARGET || kind == BPF_CORE_TYPE_EXISTS ||
         kind == BPF_CORE_TYPE_SIZE || kind == BPF_CORE_TYPE_MATCHES;
}
bool is_about_enumerator(uint32_t kind) { return kind == BPF_CORE_ENUMVAL_EXISTS || kind == BPF_CORE_ENUMVAL_VALUE; }
// What is not there answers 0.
bool may_be_missing(uint32_t kind) {
  return is_about_type(kind) || kind == BPF_CORE_FIELD_EXISTS || kind == BPF_CORE_ENUMVAL_EXISTS;
}

// What one side says.
struct Value {
  uint64_t number = 0;
  bool certain = true;       // the compiler must have computed the same of its side
  uint32_t access_bytes = 0; // of a field that an instruction may load or store; 0: none
  uint32_t access_type = 0;
};

// ---- fields

struct FieldExtent {
  uint64_t byte_offset, bytes, bit_offset, bits;
  bool bitfield;
  uint32_t type;
};

// Of a bit field: the aligned unit of its type, widened until it holds it all.
bool bitfield_unit(FieldExtent *f, uint64_t unit_bytes) {
  if (unit_bytes == 0 || unit_bytes > 8) return false;
  f->bytes = unit_bytes;
  f->byte_offset = f->bit_offset / 8 / f->bytes * f->bytes;
  while (f->bit_offset + f->bits > (f->byte_offset + f->bytes) * 8) {
    if (f->bytes >= 8) return false;
    f->bytes *= 2;
    f->byte_offset = f->bit_offset / 8 / f->bytes * f->bytes;
  }
  return true;
}

std::expected<FieldExtent, const char *> extent_of(const FieldPath &path) {
  const FieldPath::Step &last = path.steps.back();
  FieldExtent f{path.bit_offset / 8, 0, path.bit_offset, 0, false, last.type};
  if (!last.name.empty()) {
    const btf_type *holder = btf__type_by_id(path.types, last.type);
    f.type = btf_members(holder)[last.index].type;
    f.bits = btf_member_bitfield_size(holder, last.index);
    f.bitfield = f.bits > 0;
  }
  if (f.bitfield) {
    const btf_type *t = resolve_type(path.types, f.type);
    if (!t || !bitfield_unit(&f, t->size)) return std::unexpected("a bit field that fits no load");
    return f;
  }
  const int64_t bytes = btf__resolve_size(path.types, f.type);
  if (bytes < 0 || f.bit_offset % 8 != 0) return std::unexpected("a field without a size");
  f.bytes = static_cast<uint64_t>(bytes);
  f.bits = f.bytes * 8;
  return f;
}

std::expected<Value, const char *> field_value(const FieldPath &path, uint32_t kind) {
  if (kind == BPF_CORE_FIELD_EXISTS) return Value{1};
  auto f = extent_of(path);
  if (!f) return std::unexpected(f.error());
  switch (kind) {
    case BPF_CORE_FIELD_BYTE_OFFSET:
      if (f->bitfield) return Value{f->byte_offset, false};
      return Value{f->byte_offset, true, static_cast<uint32_t>(f->bytes), f->type};
    case BPF_CORE_FIELD_BYTE_SIZE: return Value{f->bytes, !f->bitfield};
    case BPF_CORE_FIELD_SIGNED: {
      const btf_type *t = resolve_type(path.types, f->type);
      if (!t) return std::unexpected("a field without a type");
      const bool is_signed = btf_is_any_enum(t) ? btf_kflag(t)
                                                : btf_is_int(t) && (btf_int_encoding(t) & BTF_INT_SIGNED) != 0;
      return Value{is_signed};
    }
    case BPF_CORE_FIELD_LSHIFT_U64:
      if (f->bits > 64) break;
      return Value{64 - (f->bit_offset + f->bits - f->byte_offset * 8), false};
    case BPF_CORE_FIELD_RSHIFT_U64:
      if (f->bits > 64) break;
      return Value{64 - f->bits};
  }
  return std::unexpected("its kind");
}

// ---- types and enumerators

std::expected<Value, const char *> type_value(const btf *b, uint32_t type, uint32_t kind) {
  switch (kind) {
    case BPF_CORE_TYPE_ID_TARGET: return Value{type, false};
    case BPF_CORE_TYPE_EXISTS: case BPF_CORE_TYPE_MATCHES: return Value{1};
    default: break;
  }
  const int64_t bytes = btf__resolve_size(b, type);
  if (bytes < 0) return std::unexpected("a type without a size");
  return Value{static_cast<uint64_t>(bytes)};
}

// What the two sides say; without `there` the object's has no counterpart.
struct Answer {
  Value here, there;
  bool found = false;
  std::string missing;
};

class Relocator {
 public:
  Relocator(const btf *local, const btf *target, const CoreRelocation &relocation)
      : local_(local), target_(target), relocation_(relocation) {}

  std::expected<Answer, std::string> run() {
    const uint32_t kind = relocation_.kind;
    if (kind > BPF_CORE_TYPE_MATCHES) return fail("its kind is not known");
    if (!btf__type_by_id(local_, relocation_.type) || relocation_.type == 0) return fail("its type");
    if (kind == BPF_CORE_TYPE_ID_LOCAL) {
      const Value id{relocation_.type, false};
      return Answer{id, id, true, ""};
    }
    if (auto ok = read_local(); !ok) return std::unexpected(ok.error());
    bool known_type = false;
    for (uint32_t id = 1; id < btf__type_cnt(target_); id++) {
      if (!is_candidate(local_, root_, target_, id)) continue;
      known_type = true;
      if (auto ok = try_candidate(id); !ok) return std::unexpected(ok.error());
    }
    if (!answer_.found) describe_missing(known_type);
    return answer_;
  }

 private:
  Failure fail(const std::string &what) const {
    return Failure("a CO-RE relocation of " + type_name(local_, relocation_.type) + " is not well-formed: " + what);
  }

  std::expected<void, std::string> read_local() {
    root_ = relocation_.type;
    if (is_about_type(relocation_.kind)) {
      if (relocation_.path != "0") return fail("its path of indexes");
      if (relocation_.kind == BPF_CORE_TYPE_EXISTS || relocation_.kind == BPF_CORE_TYPE_MATCHES) return said(Value{1});
      return said(type_value(local_, root_, relocation_.kind));
    }
    if (is_about_enumerator(relocation_.kind)) {
      const btf_type *t = resolve_type(local_, relocation_.type, &root_);
      const std::string &path = relocation_.path;
      if (!t || !btf_is_any_enum(t) || path.empty() || path.size() > 5 ||
          path.find_first_not_of("0123456789") != std::string::npos) return fail("its enumerator");
      const auto index = static_cast<uint32_t>(std::stoul(path));
      if (index >= btf_vlen(t)) return fail("its enumerator");
      name_ = enumerator_name(local_, t, index);
      return said(Value{relocation_.kind == BPF_CORE_ENUMVAL_EXISTS ? 1 : enumerator_value(t, index)});
    }
    auto path = read_field_path(local_, relocation_.type, relocation_.path);
    if (!path) return fail(path.error());
    field_ = std::move(*path);
    root_ = field_.root;
    return said(field_value(field_, relocation_.kind));
  }

  std::expected<void, std::string> said(std::expected<Value, const char *> value) {
    if (!value) return fail(value.error());
    if (btf_string(local_, btf__type_by_id(local_, root_)->name_off).empty()) return fail("its type has no name");
    answer_.here = *value;
    return {};
  }

  // More than one type of a name may fit, as long as they say the same.
  std::expected<void, std::string> try_candidate(uint32_t id) {
    std::optional<Value> value;
    const uint32_t kind = relocation_.kind;
    if (is_about_type(kind)) {
      const bool fits = kind == BPF_CORE_TYPE_MATCHES ? types_match(local_, root_, target_, id)
                                                      : types_compatible(local_, root_, target_, id);
      if (!fits) return {};
      auto there = type_value(target_, id, kind);
      if (there) value = *there;
    } else if (is_about_enumerator(kind)) {
      const btf_type *t = btf__type_by_id(target_, id);
      for (uint32_t i = 0; i < btf_vlen(t) && !value; i++) {
        if (essential_name(enumerator_name(target_, t, i)) != essential_name(name_)) continue;
        value = Value{kind == BPF_CORE_ENUMVAL_EXISTS ? 1 : enumerator_value(t, i)};
      }
    } else if (auto path = find_field(field_, target_, id)) {
      auto there = field_value(*path, kind);
      if (there) value = *there;
    }
    if (!value) return {};
    if (answer_.found && answer_.there.number != value->number)
      return Failure("a CO-RE relocation of " + type_name(local_, root_) + " is ambiguous");
    answer_.found = true;
    answer_.there = *value;
    return {};
  }

  void describe_missing(bool known_type) {
    const std::string type = type_name(local_, root_);
    if (!known_type) answer_.missing = "there is no " + type + " here";
    else if (is_about_type(relocation_.kind)) answer_.missing = type + " is another type here";
    else if (is_about_enumerator(relocation_.kind)) answer_.missing = type + " has no value \"" + name_ + "\" here";
    else answer_.missing = type + " has no field \"" + field_.str() + "\" of that kind here";
  }

  const btf *local_, *target_;
  const CoreRelocation &relocation_;
  uint32_t root_ = 0;
  FieldPath field_;
  std::string name_;  // of an enumerator
  Answer answer_;
};

// ---- instructions

uint8_t size_bits(uint32_t bytes) { return bytes == 1 ? 0x10 : bytes == 2 ? 0x08 : bytes == 4 ? 0x00 : 0x18; }
constexpr uint8_t kSizeMask = 0x18;

bool unsigned_int(const btf *b, uint32_t type) {
  const btf_type *t = resolve_type(b, type);
  return t && btf_is_int(t) && !(btf_int_encoding(t) & BTF_INT_SIGNED);
}
bool pointer(const btf *b, uint32_t type) {
  const btf_type *t = resolve_type(b, type);
  return t && btf_is_ptr(t);
}

// A field of another size is loaded in its own size where that gives the same number: unsigned ones.
const char *fit_access_size(const btf *local, const btf *target, const Answer &a, RawInsn *insn) {
  const Value &here = a.here, &there = a.there;
  if (here.access_bytes == there.access_bytes) return nullptr;
  const bool fits = (unsigned_int(local, here.access_type) && unsigned_int(target, there.access_type)) ||
                    (pointer(local, here.access_type) && pointer(target, there.access_type));
  const uint32_t bytes = there.access_bytes;
  if (!fits || (bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8)) return "has another size here";
  if (kOpTable.at[insn->code].size != here.access_bytes) return "has another size here, and is not accessed as a whole";
  insn->code = static_cast<uint8_t>((insn->code & ~kSizeMask) | size_bits(bytes));
  return nullptr;
}

void poison(RawInsn *insn, uint32_t left) {
  const bool wide = insn->code == kOpLoadImm64;
  for (uint32_t i = 0; i < (wide && left >= 2 ? 2u : 1u); i++) insn[i] = {kOpCall, 0, 0, kPoisonedCall};
}

bool writes_number(const RawInsn &insn) {
  const uint8_t cls = insn.code & 7;
  return (cls == kClassAlu || cls == kClassAlu64) && !(insn.code & kSourceReg);
}
bool accesses_memory(const RawInsn &insn) {
  const uint8_t cls = insn.code & 7, mode = insn.code & 0xe0;
  return (cls == kClassLdx || cls == kClassSt || cls == kClassStx) && mode != kModeAtomic;
}

}  // namespace

std::expected<std::string, std::string> apply_core_relocation(const btf *local, const btf *target,
                                                              const CoreRelocation &relocation, RawInsn *insn,
                                                              uint32_t left) {
  auto answer = Relocator(local, target, relocation).run();
  if (!answer) return Failure(answer.error());
  if (!answer->found && !may_be_missing(relocation.kind)) {
    poison(insn, left);
    return answer->missing;
  }
  const uint64_t from = answer->here.number, to = answer->found ? answer->there.number : 0;
  const bool certain = answer->here.certain;
  const Failure unexpected("a CO-RE relocation of " + type_name(local, relocation.type) +
                           " applies to an instruction that does not fit it");
  if (writes_number(*insn)) {
    if (certain && static_cast<uint32_t>(insn->imm) != static_cast<uint32_t>(from)) return unexpected;
    insn->imm = static_cast<int32_t>(static_cast<uint32_t>(to));
  } else if (accesses_memory(*insn)) {
    if (certain && static_cast<uint64_t>(int64_t{insn->off}) != from) return unexpected;
    const char *wrong = to > SHRT_MAX ? "lies too far into its structure here"
                                      : fit_access_size(local, target, *answer, insn);
    if (wrong) {
      auto path = read_field_path(local, relocation.type, relocation.path);
      poison(insn, left);
      return "field \"" + (path ? path->str() : "") + "\" of " + type_name(local, relocation.type) + " " + wrong;
    }
    insn->off = static_cast<int16_t>(to);
  } else if (insn->code == kOpLoadImm64 && left >= 2 && insn->src() == kImmValue) {
    const uint64_t now = static_cast<uint32_t>(insn[0].imm) | static_cast<uint64_t>(insn[1].imm) << 32;
    if (certain && now != from) return unexpected;
    insn[0].imm = static_cast<int32_t>(static_cast<uint32_t>(to));
    insn[1].imm = static_cast<int32_t>(to >> 32);
  } else {
    return unexpected;
  }
  return std::string();
}

}  // namespace shortfuse::vm
