// Maps out of type information, and the kernel's rules about them.
#include "object/map_declaration.h"

#include <optional>
#include <set>

#include "object/type_description.h"
#include "shortfuse/vm/map.h"

namespace shortfuse::vm {
namespace {

constexpr uint32_t kKeyBytesMax = 512, kValueBytesMax = 1u << 20;
constexpr uint32_t kPercpuValueBytesMax = 32u << 10;
constexpr uint32_t kPrefixBytes = 4;  // of an LPM_TRIE's key: the length of the prefix
constexpr uint32_t kRingPageBytes = 4096;
constexpr uint32_t kBloomHashesMax = 15;
constexpr uint32_t kNoPrealloc = 1, kNoCommonLru = 2;  // BPF_F_NO_PREALLOC, BPF_F_NO_COMMON_LRU
constexpr uint32_t kPinByName = 1;

std::unexpected<Refusal> bad_map(const std::string &map, const std::string &why) {
  return std::unexpected(Refusal{"map-malformed", "map \"" + map + "\": " + why, ""});
}

// `int (*name)[N]` says N; `T *name` says sizeof(T).
bool number_of_member(const btf *b, const btf_type *pointer, uint32_t *out) {
  const btf_type *array = resolve_type(b, pointer->type);
  if (!array || !btf_is_array(array)) return false;
  *out = btf_array(array)->nelems;
  return true;
}

bool size_of_member(const btf *b, const btf_type *pointer, uint32_t *out) {
  int64_t size = btf__resolve_size(b, pointer->type);
  if (size <= 0 || size > kValueBytesMax) return false;
  *out = static_cast<uint32_t>(size);
  return true;
}

// ---- what each kind may be

enum class Sizes : uint8_t { Free, Index, Handles, Prefix, None, NoKey };

struct KindRule {
  uint32_t type;
  Sizes sizes;
  uint32_t flags;             // that may be given
  const char *text;           // what its sizes must be
};

constexpr KindRule kKinds[] = {
  {SF_MAP_HASH, Sizes::Free, kNoPrealloc, ""},
  {SF_MAP_ARRAY, Sizes::Index, 0, "keys of an ARRAY have 4 bytes"},
  {SF_MAP_PROG_ARRAY, Sizes::Handles, 0, "keys and values of a PROG_ARRAY have 4 bytes"},
  {SF_MAP_PERCPU_HASH, Sizes::Free, kNoPrealloc, ""},
  {SF_MAP_PERCPU_ARRAY, Sizes::Index, 0, "keys of a PERCPU_ARRAY have 4 bytes"},
  {SF_MAP_LRU_HASH, Sizes::Free, kNoCommonLru, ""},
  {SF_MAP_LPM_TRIE, Sizes::Prefix, kNoPrealloc,
   "keys of an LPM_TRIE are the length of a prefix in 4 bytes and 1 to 256 bytes behind it"},
  {SF_MAP_ARRAY_OF_MAPS, Sizes::Handles, 0, "keys and values of an ARRAY_OF_MAPS have 4 bytes"},
  {SF_MAP_QUEUE, Sizes::NoKey, 0, "a QUEUE has no keys"},
  {SF_MAP_STACK, Sizes::NoKey, 0, "a STACK has no keys"},
  {SF_MAP_RINGBUF, Sizes::None, 0, "a RINGBUF has no keys"},
  {SF_MAP_BLOOM_FILTER, Sizes::NoKey, 0, "a BLOOM_FILTER has no keys"},
};

bool sizes_fit(Sizes rule, const MapDeclaration &map) {
  switch (rule) {
    case Sizes::Free: return true;
    case Sizes::Index: return map.key_size == 4;
    case Sizes::Handles: return map.key_size == 4 && map.value_size == 4;
    case Sizes::Prefix: return map.key_size > kPrefixBytes && map.key_size <= kPrefixBytes + 256;
    case Sizes::None: return map.key_size == 0;
    case Sizes::NoKey: return map.key_size == 0;
  }
  return false;
}

std::optional<Refusal> check_sizes(const MapDeclaration &map, const KindRule &rule) {
  auto bad = [&](const std::string &why) { return bad_map(map.name, why).error(); };
  const bool keyed = rule.sizes != Sizes::None && rule.sizes != Sizes::NoKey, valued = rule.sizes != Sizes::None;
  if (!sizes_fit(rule.sizes, map)) return bad(rule.text);
  if (keyed && (map.key_size == 0 || map.key_size > kKeyBytesMax)) return bad("its keys have no bytes or over 512");
  if (valued && (map.value_size == 0 || map.value_size > kValueBytesMax))
    return bad("its values have no bytes or over 1 MiB");
  if ((map.type == SF_MAP_PERCPU_HASH || map.type == SF_MAP_PERCPU_ARRAY) && map.value_size > kPercpuValueBytesMax)
    return bad("its values, which are per CPU, have over 32 KiB");
  if (map.max_entries == 0) return bad("max_entries is 0 or missing");
  const uint32_t n = map.max_entries;
  if (map.type == SF_MAP_RINGBUF && (n % kRingPageBytes != 0 || (n & (n - 1)) != 0))
    return bad("max_entries of a RINGBUF is its size in bytes: a power of two of at least 4096");
  return std::nullopt;
}

std::optional<Refusal> check_map(const MapDeclaration &map) {
  auto bad = [&](const std::string &why) { return bad_map(map.name, why).error(); };
  const KindRule *rule = nullptr;
  std::string known;
  for (const KindRule &r : kKinds) {
    if (r.type == map.type) rule = &r;
    known += std::string(known.empty() ? "" : ", ") + map_kind_name(r.type);
  }
  if (!rule) {
    return Refusal{"map-type-unsupported", "map \"" + map.name + "\" is of kind " + map_kind_name(map.type) + " (" +
                   std::to_string(map.type) + "), which is not supported here", "supported are: " + known};
  }
  if (auto wrong = check_sizes(map, *rule)) return wrong;
  if (map.flags & ~rule->flags) return bad("these map_flags are not supported here for a " +
                                           std::string(map_kind_name(map.type)));
  if (map.type == SF_MAP_LPM_TRIE && !(map.flags & kNoPrealloc))
    return bad("an LPM_TRIE is declared with map_flags BPF_F_NO_PREALLOC");
  if (map.extra > (map.type == SF_MAP_BLOOM_FILTER ? kBloomHashesMax : 0))
    return bad("map_extra is the number of a BLOOM_FILTER's hash functions, at most 15");
  if (map.pinning > kPinByName) return bad("pinning is LIBBPF_PIN_NONE (0) or LIBBPF_PIN_BY_NAME (1)");
  const bool of_maps = map.type == SF_MAP_ARRAY_OF_MAPS;
  if (map.has_values && !of_maps && map.type != SF_MAP_PROG_ARRAY)
    return bad("only a PROG_ARRAY or an ARRAY_OF_MAPS declares `values`");
  if (of_maps != !map.inner.empty())
    return bad(of_maps ? "an ARRAY_OF_MAPS declares what its maps look like: __array(values, struct ...)"
                       : "its `values` are maps, which only an ARRAY_OF_MAPS holds");
  const sf_map_shape shape{map.type, map.key_size, map.value_size, map.max_entries, map.extra};
  if (sf_map_bytes(&shape) == 0)
    return Refusal{"map-size", "map \"" + map.name + "\": this many entries of this size are not supported", ""};
  if (of_maps) {
    const MapDeclaration &inner = map.inner[0];
    if (inner.type == SF_MAP_ARRAY_OF_MAPS || inner.type == SF_MAP_PROG_ARRAY)
      return bad("maps in an ARRAY_OF_MAPS hold neither maps nor programs");
    if (inner.pinning) return bad("what its maps look like cannot be pinned");
    return check_map(inner);
  }
  return std::nullopt;
}

// ---- reading

std::expected<MapDeclaration, Refusal> read_map(const btf *b, const std::string &name, const btf_type *type,
                                                bool is_inner);

// `T *values[]`, where T is a function or the declaration of a map.
std::optional<Refusal> read_values(const btf *b, const btf_type *array, uint32_t at, bool is_inner,
                                   MapDeclaration *map) {
  const btf_type *pointer = btf_is_array(array) ? resolve_type(b, btf_array(array)->type) : nullptr;
  const btf_type *element = pointer && btf_is_ptr(pointer) ? resolve_type(b, pointer->type) : nullptr;
  const bool of_maps = element && btf_is_struct(element);
  if (is_inner || !element || !(of_maps || btf_is_func_proto(element)))
    return bad_map(map->name, "field \"values\" is not made by __array of a function or a map").error();
  map->has_values = true;
  map->values_at = at;
  if (map->value_size == 0) map->value_size = 4;
  if (!of_maps) return std::nullopt;
  auto inner = read_map(b, map->name + ".inner", element, true);
  if (!inner) return inner.error();
  map->inner.push_back(std::move(*inner));
  return std::nullopt;
}

std::expected<MapDeclaration, Refusal> read_map(const btf *b, const std::string &name, const btf_type *type,
                                                bool is_inner) {
  MapDeclaration map;
  map.name = name;
  if (!type || !btf_is_struct(type)) return bad_map(name, "it is not declared as a structure (see libbpf's __uint)");
  struct Number { const char *field; uint32_t MapDeclaration::*value; };
  static constexpr Number numbers[] = {
      {"type", &MapDeclaration::type}, {"max_entries", &MapDeclaration::max_entries},
      {"key_size", &MapDeclaration::key_size}, {"value_size", &MapDeclaration::value_size},
      {"map_flags", &MapDeclaration::flags}, {"pinning", &MapDeclaration::pinning},
      {"map_extra", &MapDeclaration::extra}};
  std::set<std::string> seen;
  for (uint32_t i = 0; i < btf_vlen(type); i++) {
    const btf_member *member = btf_members(type) + i;
    const std::string field = btf_string(b, member->name_off);
    if (!seen.insert(field).second) return bad_map(name, "field \"" + field + "\" is declared twice");
    const btf_type *declared = resolve_type(b, member->type);
    if (declared && field == "values") {
      if (auto bad = read_values(b, declared, btf_member_bit_offset(type, i) / 8, is_inner, &map))
        return std::unexpected(*bad);
      continue;
    }
    if (!declared || !btf_is_ptr(declared))
      return bad_map(name, "field \"" + field + "\" is not made by __uint or __type");
    bool known = true, ok = true;
    if (field == "key") ok = size_of_member(b, declared, &map.key_size);
    else if (field == "value") ok = size_of_member(b, declared, &map.value_size);
    else known = false;
    for (const Number &n : numbers) {
      if (field == n.field) known = true, ok = number_of_member(b, declared, &(map.*n.value));
    }
    if (!known) return bad_map(name, "field \"" + field + "\" is not supported here");
    if (!ok) return bad_map(name, "field \"" + field + "\" cannot be read");
    if (field == "key") map.key_type = describe_type(b, declared->type);
    if (field == "value") map.value_type = describe_type(b, declared->type);
  }
  // Its type is what people are shown of a record.
  if (map.type == SF_MAP_RINGBUF) map.value_size = 0;
  return map;
}

}  // namespace

const char *map_kind_name(uint32_t type) {
  static const char *const names[] = {"unspecified", "HASH", "ARRAY", "PROG_ARRAY", "PERF_EVENT_ARRAY", "PERCPU_HASH",
      "PERCPU_ARRAY", "STACK_TRACE", "CGROUP_ARRAY", "LRU_HASH", "LRU_PERCPU_HASH", "LPM_TRIE", "ARRAY_OF_MAPS",
      "HASH_OF_MAPS", "DEVMAP", "SOCKMAP", "CPUMAP", "XSKMAP", "SOCKHASH", "CGROUP_STORAGE", "REUSEPORT_SOCKARRAY",
      "PERCPU_CGROUP_STORAGE", "QUEUE", "STACK", "SK_STORAGE", "DEVMAP_HASH", "STRUCT_OPS", "RINGBUF",
      "INODE_STORAGE", "TASK_STORAGE", "BLOOM_FILTER", "USER_RINGBUF"};
  return type < std::size(names) ? names[type] : "unknown";
}

bool looks_as_declared(const sf_image_map &given, const sf_image_map &declared) {
  return given.type == declared.type && given.key_size == declared.key_size &&
         given.value_size == declared.value_size && given.max_entries == declared.max_entries &&
         given.flags == declared.flags && given.extra == declared.extra;
}

sf_image_map MapDeclaration::def() const {
  sf_image_map out{};
  out.type = type;
  out.key_size = key_size;
  out.value_size = value_size;
  out.max_entries = max_entries;
  out.flags = flags;
  out.pinning = pinning;
  out.extra = extra;
  return out;
}

std::expected<std::vector<MapDeclaration>, Refusal> read_map_declarations(const btf *b) {
  auto malformed = [](const char *what) {
    return std::unexpected(
        Refusal{"btf-malformed", std::string("the object's type information is not well-formed: ") + what, ""});
  };
  std::vector<MapDeclaration> out;
  for (uint32_t id = 1; id < btf__type_cnt(b); id++) {
    const btf_type *section = btf__type_by_id(b, id);
    if (!section || !btf_is_datasec(section) || btf_string(b, section->name_off) != ".maps") continue;
    const btf_var_secinfo *entry = btf_var_secinfos(section);
    for (int i = 0; i < btf_vlen(section); i++, entry++) {
      const btf_type *var = btf__type_by_id(b, entry->type);
      if (!var || !btf_is_var(var)) return malformed("an entry of .maps is not a variable");
      auto map = read_map(b, btf_string(b, var->name_off), resolve_type(b, var->type), false);
      if (!map) return std::unexpected(map.error());
      if (auto refused = check_map(*map)) return std::unexpected(*refused);
      if (out.size() >= SF_IMAGE_MAPS_MAX) return malformed("it declares too many maps");
      out.push_back(std::move(*map));
    }
  }
  return out;
}

}  // namespace shortfuse::vm
