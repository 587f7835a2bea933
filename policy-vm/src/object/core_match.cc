// Matching types by what they are called.
#include "object/core_match.h"

#include <cstdlib>

namespace shortfuse::vm {
namespace {

// An array at the end of a structure may be longer than it says.
bool is_flexible(const FieldPath &path, const struct btf_array *array) {
  if (path.steps.empty() || array->nelems > 1) return false;
  const FieldPath::Step &holder = path.steps.back();
  if (holder.name.empty()) return false;
  const btf_type *t = btf__type_by_id(path.types, holder.type);
  return t && btf_is_composite(t) && holder.index + 1u == btf_vlen(t);
}

// Moves the path to element `index` of things of this type.
bool add_element(FieldPath *path, uint32_t type, uint32_t index) {
  const int64_t bytes = btf__resolve_size(path->types, type);
  if (bytes < 0 || static_cast<uint64_t>(bytes) > kFieldOffsetMax) return false;
  path->bit_offset += static_cast<uint64_t>(bytes) * index * 8;
  path->steps.push_back({type, index, ""});
  return path->bit_offset <= kFieldOffsetMax * 8;
}

std::optional<std::vector<uint32_t>> read_numbers(const std::string &text) {
  std::vector<uint32_t> out;
  const char *p = text.c_str();
  while (out.size() < kFieldPathMax) {
    if (*p < '0' || *p > '9') return std::nullopt;
    char *end = nullptr;
    const unsigned long n = strtoul(p, &end, 10);
    if (n > kFieldOffsetMax) return std::nullopt;
    out.push_back(static_cast<uint32_t>(n));
    if (*end == 0) return out;
    if (*end != ':') return std::nullopt;
    p = end + 1;
  }
  return std::nullopt;
}

bool same_kind(const btf_type *a, const btf_type *b) {
  return btf_kind(a) == btf_kind(b) || (btf_is_any_enum(a) && btf_is_any_enum(b));
}

bool same_name(const btf *a, uint32_t a_name, const btf *b, uint32_t b_name) {
  return essential_name(btf_string(a, a_name)) == essential_name(btf_string(b, b_name));
}

bool is_plain_int(const btf_type *t) { return btf_int_offset(t) == 0; }

// May a field of one type be read as a field of the other? Sizes may differ: the access is fitted to them.
bool fields_compatible(const btf *local, uint32_t local_id, const btf *target, uint32_t target_id) {
  for (int depth = 0; depth < kTypeDepthMax; depth++) {
    const btf_type *l = resolve_type(local, local_id), *t = resolve_type(target, target_id);
    if (!l || !t) return false;
    if (btf_is_composite(l) && btf_is_composite(t)) return true;
    if (!same_kind(l, t)) return false;
    switch (btf_kind(l)) {
      case BTF_KIND_PTR: case BTF_KIND_FLOAT: return true;
      case BTF_KIND_FWD: case BTF_KIND_ENUM: case BTF_KIND_ENUM64:
        return btf_string(local, l->name_off).empty() || btf_string(target, t->name_off).empty() ||
               same_name(local, l->name_off, target, t->name_off);
      case BTF_KIND_INT: return is_plain_int(l) && is_plain_int(t);
      case BTF_KIND_ARRAY: local_id = btf_array(l)->type; target_id = btf_array(t)->type; break;
      default: return false;
    }
  }
  return false;
}

enum class Found { No, Yes, OtherType };

// The member of the same name, also in members without a name.
Found find_member(const btf *local, const FieldPath::Step &wanted, FieldPath *path, uint32_t type, int depth,
                  uint32_t *next) {
  uint32_t id = 0;
  const btf_type *t = resolve_type(path->types, type, &id);
  const btf_type *holder = btf__type_by_id(local, wanted.type);
  if (!t || !btf_is_composite(t) || depth > kTypeDepthMax) return Found::No;
  const btf_member *m = btf_members(t);
  for (uint32_t i = 0; i < btf_vlen(t); i++, m++) {
    const uint64_t before = path->bit_offset;
    const std::string name = btf_string(path->types, m->name_off);
    path->bit_offset += btf_member_bit_offset(t, i);
    if (name.empty()) {
      const Found inside = find_member(local, wanted, path, m->type, depth + 1, next);
      if (inside != Found::No) return inside;
    } else if (essential_name(name) == essential_name(wanted.name)) {
      path->steps.push_back({id, i, name});
      *next = m->type;
      const bool fits = fields_compatible(local, btf_members(holder)[wanted.index].type, path->types, m->type);
      return fits ? Found::Yes : Found::OtherType;
    }
    path->bit_offset = before;
  }
  return Found::No;
}

}  // namespace

std::string FieldPath::str() const {
  std::string out;
  for (size_t i = 1; i < steps.size(); i++) {
    if (steps[i].name.empty()) out += "[" + std::to_string(steps[i].index) + "]";
    else out += (out.empty() ? "" : ".") + steps[i].name;
  }
  return out;
}

std::expected<FieldPath, const char *> read_field_path(const btf *b, uint32_t type, const std::string &path) {
  auto numbers = read_numbers(path);
  if (!numbers) return std::unexpected("its path of indexes");
  FieldPath out{b, 0, {}, 0};
  uint32_t id = type;
  const btf_type *t = resolve_type(b, type, &id);
  if (!t) return std::unexpected("its type");
  out.root = id;
  if (!add_element(&out, id, numbers->front())) return std::unexpected("the size of its type");
  for (size_t i = 1; i < numbers->size(); i++) {
    const uint32_t index = (*numbers)[i];
    t = resolve_type(b, id, &id);
    if (t && btf_is_composite(t)) {
      if (index >= btf_vlen(t)) return std::unexpected("a member that is not there");
      const btf_member *m = btf_members(t) + index;
      out.bit_offset += btf_member_bit_offset(t, index);
      if (m->name_off != 0) out.steps.push_back({id, index, btf_string(b, m->name_off)});
      id = m->type;
    } else if (t && btf_is_array(t)) {
      const struct btf_array *array = btf_array(t);
      if (index >= array->nelems && !is_flexible(out, array)) return std::unexpected("an element that is not there");
      if (!resolve_type(b, array->type, &id) || !add_element(&out, id, index))
        return std::unexpected("the size of an element");
    } else {
      return std::unexpected("a path into something that has no parts");
    }
  }
  return out;
}

std::optional<FieldPath> find_field(const FieldPath &local, const btf *target, uint32_t type) {
  FieldPath out{target, type, {}, 0};
  uint32_t id = type;
  for (size_t i = 0; i < local.steps.size(); i++) {
    const FieldPath::Step &step = local.steps[i];
    if (!step.name.empty()) {
      if (find_member(local.types, step, &out, id, 0, &id) != Found::Yes) return std::nullopt;
      continue;
    }
    if (i > 0) {
      const btf_type *t = resolve_type(target, id);
      if (!t || !btf_is_array(t)) return std::nullopt;
      if (step.index >= btf_array(t)->nelems && !is_flexible(out, btf_array(t))) return std::nullopt;
      id = btf_array(t)->type;
    }
    if (!resolve_type(target, id, &id) || !add_element(&out, id, step.index)) return std::nullopt;
  }
  return out;
}

bool is_candidate(const btf *local, uint32_t local_type, const btf *target, uint32_t target_type) {
  const btf_type *l = btf__type_by_id(local, local_type), *t = btf__type_by_id(target, target_type);
  return l && t && same_kind(l, t) && same_name(local, l->name_off, target, t->name_off);
}

bool types_compatible(const btf *local, uint32_t local_type, const btf *target, uint32_t target_type) {
  for (int depth = 0; depth < kTypeDepthMax; depth++) {
    const btf_type *l = resolve_type(local, local_type), *t = resolve_type(target, target_type);
    if (!l || !t || !same_kind(l, t)) return false;
    switch (btf_kind(l)) {
      case BTF_KIND_INT: return is_plain_int(l) && is_plain_int(t);
      case BTF_KIND_PTR: local_type = l->type, target_type = t->type; break;
      case BTF_KIND_ARRAY: local_type = btf_array(l)->type, target_type = btf_array(t)->type; break;
      default: return btf_kind(l) != BTF_KIND_FUNC_PROTO || btf_vlen(l) == btf_vlen(t);
    }
    if (local_type == 0 && target_type == 0) return true;  // void
  }
  return false;
}

// ---- in all that the object says

namespace {

bool enumerations_match(const btf *local, const btf_type *l, const btf *target, const btf_type *t) {
  if (l->size != t->size || btf_vlen(l) > btf_vlen(t)) return false;
  for (uint32_t i = 0; i < btf_vlen(l); i++) {
    bool found = false;
    for (uint32_t j = 0; j < btf_vlen(t) && !found; j++)
      found = essential_name(enumerator_name(local, l, i)) == essential_name(enumerator_name(target, t, j));
    if (!found) return false;
  }
  return true;
}

constexpr int kMatchesMax = 4096;  // pairs of types compared for one answer

bool match_at(const btf *local, uint32_t local_id, const btf *target, uint32_t target_id, bool behind_pointer,
              int depth, int *left);

bool structures_match(const btf *local, const btf_type *l, const btf *target, const btf_type *t, int depth,
                      int *left) {
  if (btf_vlen(l) > btf_vlen(t)) return false;
  for (uint32_t i = 0; i < btf_vlen(l); i++) {
    const btf_member *lm = btf_members(l) + i;
    bool found = false;
    for (uint32_t j = 0; j < btf_vlen(t) && !found; j++) {
      const btf_member *tm = btf_members(t) + j;
      found = same_name(local, lm->name_off, target, tm->name_off) &&
              match_at(local, lm->type, target, tm->type, false, depth + 1, left);
    }
    if (!found) return false;
  }
  return true;
}

bool match_at(const btf *local, uint32_t local_id, const btf *target, uint32_t target_id, bool behind_pointer,
              int depth, int *left) {
  for (; depth < kTypeDepthMax && --*left >= 0; depth++) {
    const btf_type *l = resolve_type(local, local_id), *t = resolve_type(target, target_id);
    if (!l || !t || !same_name(local, l->name_off, target, t->name_off)) return false;
    const bool forward = btf_is_fwd(l) || btf_is_fwd(t);
    if (behind_pointer && forward)
      return (btf_is_fwd(l) || btf_is_composite(l)) && (btf_is_fwd(t) || btf_is_composite(t));
    if (!same_kind(l, t)) return false;
    switch (btf_kind(l)) {
      case BTF_KIND_INT:
        return is_plain_int(l) && is_plain_int(t) && l->size == t->size &&
               (btf_int_encoding(l) & BTF_INT_SIGNED) == (btf_int_encoding(t) & BTF_INT_SIGNED);
      case BTF_KIND_FLOAT: return l->size == t->size;
      case BTF_KIND_ENUM: case BTF_KIND_ENUM64: return enumerations_match(local, l, target, t);
      case BTF_KIND_STRUCT: case BTF_KIND_UNION:
        return behind_pointer || structures_match(local, l, target, t, depth, left);
      case BTF_KIND_PTR:
        local_id = l->type, target_id = t->type, behind_pointer = true;
        if (local_id == 0 && target_id == 0) return true;  // void *
        break;
      case BTF_KIND_ARRAY:
        if (btf_array(l)->nelems != btf_array(t)->nelems) return false;
        local_id = btf_array(l)->type, target_id = btf_array(t)->type;
        break;
      case BTF_KIND_FUNC_PROTO: return btf_vlen(l) == btf_vlen(t);
      default: return btf_is_fwd(l) && btf_kflag(l) == btf_kflag(t);
    }
  }
  return false;
}

}  // namespace

bool types_match(const btf *local, uint32_t local_type, const btf *target, uint32_t target_type) {
  int left = kMatchesMax;
  return match_at(local, local_type, target, target_type, false, 0, &left);
}

std::string type_name(const btf *b, uint32_t type) {
  const btf_type *t = btf__type_by_id(b, type);
  if (!t) return "a type that is not there";
  const char *kind = btf_is_struct(t) ? "struct " : btf_is_union(t) ? "union " : btf_is_any_enum(t) ? "enum " : "";
  const std::string name = btf_string(b, t->name_off);
  return kind + (name.empty() ? "(without a name)" : essential_name(name));
}

std::string enumerator_name(const btf *b, const btf_type *t, uint32_t index) {
  return btf_string(b, btf_is_enum(t) ? btf_enum(t)[index].name_off : btf_enum64(t)[index].name_off);
}

uint64_t enumerator_value(const btf_type *t, uint32_t index) {
  if (!btf_is_enum(t)) return btf_enum64_value(&btf_enum64(t)[index]);
  const auto value = btf_enum(t)[index].val;
  return btf_kflag(t) ? static_cast<uint64_t>(int64_t{value}) : static_cast<uint32_t>(value);
}

}  // namespace shortfuse::vm
