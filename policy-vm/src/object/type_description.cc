#include "object/type_description.h"

namespace shortfuse::vm {
namespace {

constexpr int kDepthMax = 8;
constexpr size_t kTextMax = 16384;
constexpr int kTypesMax = 1024;  // described in all: hostile types contain themselves, many times over

std::string number(uint64_t n) { return std::to_string(n); }

// Names are C identifiers in any object that a compiler made; others are left out.
bool is_identifier(const std::string &name) {
  for (char c : name) {
    const bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    if (!good) return false;
  }
  return name.size() <= 128;
}

std::string as_bytes(const btf *b, uint32_t id) {
  const int64_t bytes = btf__resolve_size(b, id);
  return "{\"kind\":\"bytes\",\"bytes\":" + number(bytes > 0 ? static_cast<uint64_t>(bytes) : 0) + "}";
}

std::string as_int(uint64_t bytes, bool is_signed, const char *meaning) {
  return "{\"kind\":\"int\",\"bytes\":" + number(bytes) + ",\"signed\":" + (is_signed ? "true" : "false") +
         (*meaning ? ",\"" + std::string(meaning) + "\":true" : "") + "}";
}

// Numbers of system calls are known by the name that trace.h gives to their type.
bool is_call_number(const btf *b, uint32_t id) {
  for (int depth = 0; depth < kDepthMax; depth++) {
    const btf_type *type = btf__type_by_id(b, id);
    if (!type || !(btf_is_typedef(type) || btf_is_mod(type))) return false;
    if (btf_is_typedef(type) && btf_string(b, type->name_off) == "sf_call_nr") return true;
    id = type->type;
  }
  return false;
}

std::string describe(const btf *b, uint32_t id, int depth, int *left);

// "" when a field is not made of whole bytes.
std::string fields_of(const btf *b, const btf_type *type, int depth, int *left) {
  std::string out;
  for (uint32_t i = 0; i < btf_vlen(type); i++) {
    const btf_member *member = btf_members(type) + i;
    const std::string name = btf_string(b, member->name_off);
    if (btf_member_bitfield_size(type, i) != 0 || btf_member_bit_offset(type, i) % 8 != 0 || !is_identifier(name))
      return "";
    out += (out.empty() ? "" : ",") + std::string("{\"name\":\"") + name + "\",\"offset\":" +
           number(btf_member_bit_offset(type, i) / 8) + ",\"type\":" + describe(b, member->type, depth + 1, left) + "}";
    if (out.size() > kTextMax || *left < 0) return "";
  }
  return out;
}

std::string describe(const btf *b, uint32_t id, int depth, int *left) {
  uint32_t resolved = 0;
  const btf_type *type = resolve_type(b, id, &resolved);
  if (!type || depth > kDepthMax || --*left < 0) return as_bytes(b, id);
  const int64_t bytes = btf__resolve_size(b, resolved);
  if (btf_is_int(type)) {
    const std::string name = btf_string(b, type->name_off);
    const bool is_char = type->size == 1 && (name == "char" || (btf_int_encoding(type) & BTF_INT_CHAR) != 0);
    if (type->size > 8) return as_bytes(b, id);
    const char *meaning = is_char ? "char" : is_call_number(b, id) ? "call" : "";
    return as_int(type->size, (btf_int_encoding(type) & BTF_INT_SIGNED) != 0, meaning);
  }
  if (btf_is_any_enum(type)) return as_int(type->size, btf_kflag(type), "");
  if (btf_is_ptr(type)) return as_int(8, false, "");
  if (btf_is_array(type)) {
    const auto *array = btf_array(type);
    return "{\"kind\":\"array\",\"count\":" + number(array->nelems) +
           ",\"of\":" + describe(b, array->type, depth + 1, left) + "}";
  }
  if (btf_is_struct(type) && bytes > 0) {
    const std::string fields = fields_of(b, type, depth, left);
    const std::string head = "{\"kind\":\"struct\",\"bytes\":" + number(static_cast<uint64_t>(bytes));
    if (!fields.empty()) return head + ",\"fields\":[" + fields + "]}";
  }
  return as_bytes(b, id);
}

}  // namespace

std::string describe_type(const btf *b, uint32_t id) {
  if (!resolve_type(b, id)) return "";
  int left = kTypesMax;
  std::string text = describe(b, id, 0, &left);
  return text.size() <= 2 * kTextMax ? text : as_bytes(b, id);
}

}  // namespace shortfuse::vm
