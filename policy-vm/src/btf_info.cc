// Type information: libbpf reads .BTF, whose header is checked here first (libbpf trusts some of it); .BTF.ext is
// read here, because libbpf offers no reader for its line table.
#include "btf_info.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <string.h>

#include <mutex>

namespace shortfuse::vm {
namespace {

constexpr int kTypeDepthMax = 32;
constexpr size_t kBtfBytesMax = 1u << 20;  // of .BTF, and of .BTF.ext
constexpr uint32_t kKeyBytesMax = 512, kValueBytesMax = 1u << 20;

std::unexpected<Refusal> malformed(const std::string &what) {
  return std::unexpected(Refusal{"btf-malformed", "the object's type information is not well-formed: " + what, ""});
}

// libbpf reports to a function of the whole process. While a thread is in here, what libbpf has to say to it is
// dropped (the refusal says it better); others keep the printer that they had.
thread_local bool quiet_here = false;
libbpf_print_fn_t previous_printer = nullptr;

int print_unless_quiet(libbpf_print_level level, const char *format, va_list args) {
  return quiet_here || !previous_printer ? 0 : previous_printer(level, format, args);
}

class Quiet {
 public:
  Quiet() {
    static std::once_flag once;
    std::call_once(once, [] { previous_printer = libbpf_set_print(print_unless_quiet); });
    quiet_here = true;
  }
  ~Quiet() { quiet_here = false; }
};

template <typename T> bool read_at(const unsigned char *data, size_t size, size_t at, T *out) {
  if (at > size || size - at < sizeof(T)) return false;
  memcpy(out, data + at, sizeof(T));
  return true;
}

const char *check_header(const std::vector<unsigned char> &raw) {
  btf_header h;
  if (!read_at(raw.data(), raw.size(), 0, &h)) return "it is too short";
  if (h.magic != BTF_MAGIC || h.version != BTF_VERSION || h.flags != 0) return "its magic number or version";
  if (h.hdr_len != sizeof h) return "the length of its header";
  uint64_t rest = raw.size() - sizeof h;
  if (uint64_t{h.type_off} + h.type_len > rest || uint64_t{h.str_off} + h.str_len > rest)
    return "its parts lie outside";
  if (h.type_off % 4 != 0 || uint64_t{h.type_off} + h.type_len > h.str_off) return "its parts overlap";
  return nullptr;
}

// The type behind modifiers and typedefs; NULL where there is none.
const btf_type *resolve(const btf *b, uint32_t id, uint32_t *resolved = nullptr) {
  for (int depth = 0; depth < kTypeDepthMax; depth++) {
    const btf_type *t = btf__type_by_id(b, id);
    if (!t) return nullptr;
    if (!btf_is_mod(t) && !btf_is_typedef(t)) {
      if (resolved) *resolved = id;
      return t;
    }
    id = t->type;
  }
  return nullptr;
}

// A string of the type information, cut where it is longer than any name or line that is worth showing.
std::string name_of(const btf *b, uint32_t offset) {
  const char *s = btf__name_by_offset(b, offset);
  return s ? std::string(s, strnlen(s, kNameBytesMax)) : "";
}

// `int (*name)[N]` says N; `T *name` says sizeof(T).
bool number_of_member(const btf *b, const btf_type *pointer, uint32_t *out) {
  const btf_type *array = resolve(b, pointer->type);
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

std::unexpected<Refusal> bad_map(const std::string &map, const std::string &why) {
  return std::unexpected(Refusal{"map-malformed", "map \"" + map + "\": " + why, ""});
}

std::expected<MapDeclaration, Refusal> read_map(const btf *b, const std::string &name, const btf_type *type) {
  MapDeclaration map;
  map.name = name;
  if (!type || !btf_is_struct(type)) return bad_map(name, "it is not declared as a structure (see libbpf's __uint)");
  const btf_member *member = btf_members(type);
  for (int i = 0; i < btf_vlen(type); i++, member++) {
    const std::string field = name_of(b, member->name_off);
    const btf_type *pointer = resolve(b, member->type);
    if (!pointer || !btf_is_ptr(pointer))
      return bad_map(name, "field \"" + field + "\" is not made by __uint or __type");
    bool ok = true;
    uint32_t flags = 0;
    if (field == "type") ok = number_of_member(b, pointer, &map.type);
    else if (field == "max_entries") ok = number_of_member(b, pointer, &map.max_entries);
    else if (field == "key_size") ok = number_of_member(b, pointer, &map.key_size);
    else if (field == "value_size") ok = number_of_member(b, pointer, &map.value_size);
    else if (field == "key") ok = size_of_member(b, pointer, &map.key_size);
    else if (field == "value") ok = size_of_member(b, pointer, &map.value_size);
    else if (field == "map_flags") ok = number_of_member(b, pointer, &flags);
    else return bad_map(name, "field \"" + field + "\" is not supported here");
    if (!ok) return bad_map(name, "field \"" + field + "\" cannot be read");
    if (flags != 0) return bad_map(name, "map_flags are not supported here");
  }
  return map;
}

const char *kind_of_map(uint32_t type) {
  static const char *const names[] = {"unspecified", "HASH", "ARRAY", "PROG_ARRAY", "PERF_EVENT_ARRAY", "PERCPU_HASH",
      "PERCPU_ARRAY", "STACK_TRACE", "CGROUP_ARRAY", "LRU_HASH", "LRU_PERCPU_HASH", "LPM_TRIE", "ARRAY_OF_MAPS",
      "HASH_OF_MAPS", "DEVMAP", "SOCKMAP", "CPUMAP", "XSKMAP", "SOCKHASH", "CGROUP_STORAGE", "REUSEPORT_SOCKARRAY",
      "PERCPU_CGROUP_STORAGE", "QUEUE", "STACK", "SK_STORAGE", "DEVMAP_HASH", "STRUCT_OPS", "RINGBUF",
      "INODE_STORAGE", "TASK_STORAGE", "BLOOM_FILTER", "USER_RINGBUF"};
  return type < std::size(names) ? names[type] : "unknown";
}

std::optional<Refusal> check_map(const MapDeclaration &map) {
  if (map.type != BPF_MAP_TYPE_HASH && map.type != BPF_MAP_TYPE_ARRAY) {
    return Refusal{"map-type-unsupported", "map \"" + map.name + "\" is of kind " + kind_of_map(map.type) + " (" +
                   std::to_string(map.type) + "); supported here are HASH and ARRAY", ""};
  }
  if (map.key_size == 0 || map.key_size > kKeyBytesMax)
    return bad_map(map.name, "its keys have no bytes or over 512").error();
  if (map.value_size == 0 || map.value_size > kValueBytesMax) {
    return bad_map(map.name, "its values have no bytes or over 1 MiB").error();
  }
  if (map.max_entries == 0) return bad_map(map.name, "max_entries is 0 or missing").error();
  if (map.type == BPF_MAP_TYPE_ARRAY && map.key_size != 4)
    return bad_map(map.name, "keys of an ARRAY have 4 bytes").error();
  return std::nullopt;
}

ParameterShape shape_of(const btf *b, uint32_t type_id) {
  uint32_t id = 0;
  const btf_type *t = resolve(b, type_id, &id);
  if (!t || id == 0) return {};
  if (btf_is_ptr(t)) return {true, 8};
  if (btf_is_int(t) || btf_is_any_enum(t)) return {false, t->size};
  return {};
}

}  // namespace

void BtfInfo::FreeBtf::operator()(btf *b) const { btf__free(b); }

std::expected<BtfInfo, Refusal> BtfInfo::read(const ElfFile &file) {
  const ElfSection *section = file.section(".BTF");
  if (!section || section->data.empty()) {
    return std::unexpected(Refusal{"btf-missing", "the object has no type information: compile with -g", ""});
  }
  const ElfSection *ext = file.section(".BTF.ext");
  if (section->data.size() > kBtfBytesMax || (ext && ext->data.size() > kBtfBytesMax)) {
    return malformed("it is larger than 1 MiB");
  }
  if (const char *wrong = check_header(section->data)) return malformed(wrong);
  Quiet quiet;
  BtfInfo info;
  btf *parsed = btf__new(section->data.data(), static_cast<uint32_t>(section->data.size()));
  if (!parsed || libbpf_get_error(parsed)) return malformed("libbpf cannot read it");
  info.btf_.reset(parsed);
  if (ext && !ext->data.empty()) {
    if (const char *wrong = info.read_ext(ext->data)) return malformed(wrong);
  }
  return info;
}

std::string BtfInfo::string_at(uint32_t offset) const { return name_of(btf_.get(), offset); }

const char *BtfInfo::read_ext(const std::vector<unsigned char> &ext) {
  struct Header {
    uint16_t magic; uint8_t version, flags;
    uint32_t hdr_len, func_off, func_len, line_off, line_len, core_off, core_len;
  } h{};
  constexpr size_t without_core = 24;
  if (ext.size() < without_core) return ".BTF.ext is too short";
  memcpy(&h, ext.data(), without_core);
  if (h.magic != BTF_MAGIC || h.version != BTF_VERSION) return "the magic number of .BTF.ext";
  if (h.hdr_len < without_core || h.hdr_len > ext.size()) return "the header of .BTF.ext";
  if (h.hdr_len >= sizeof h) memcpy(&h, ext.data(), sizeof h);
  const unsigned char *base = ext.data() + h.hdr_len;
  uint64_t rest = ext.size() - h.hdr_len;
  if (uint64_t{h.line_off} + h.line_len > rest || uint64_t{h.core_off} + h.core_len > rest)
    return ".BTF.ext ends early";
  if (h.core_len > 12) {
    uint32_t name = 0;
    if (read_at(base + h.core_off, h.core_len, 4, &name)) relocated_section_ = string_at(name);
    if (relocated_section_.empty()) relocated_section_ = "?";
  }
  return h.line_len ? read_lines(base + h.line_off, h.line_len) : nullptr;
}

// u32 record size, then per section: u32 name, u32 count, count records {byte, file, text, line << 10 | column}.
const char *BtfInfo::read_lines(const unsigned char *data, size_t size) {
  struct Record { uint32_t byte, file, text, place; };
  uint32_t record_bytes = 0;
  if (!read_at(data, size, 0, &record_bytes) || record_bytes < sizeof(Record) || record_bytes > 256)
    return "its line table";
  size_t at = 4;
  while (at < size) {
    uint32_t name = 0, count = 0;
    if (!read_at(data, size, at, &name) || !read_at(data, size, at + 4, &count)) return "its line table";
    at += 8;
    if (uint64_t{count} * record_bytes > size - at) return "its line table";
    auto &lines = lines_[string_at(name)];
    for (uint32_t i = 0; i < count; i++, at += record_bytes) {
      Record r;
      memcpy(&r, data + at, sizeof r);
      std::string text = string_at(r.text);
      text.erase(0, text.find_first_not_of(" \t"));
      lines[r.byte] = {string_at(r.file), text, r.place >> 10, r.place & 0x3ff};
    }
  }
  return nullptr;
}

const SourceLine *BtfInfo::line(const std::string &section, uint32_t byte) const {
  auto lines = lines_.find(section);
  if (lines == lines_.end()) return nullptr;
  auto next = lines->second.upper_bound(byte);
  return next == lines->second.begin() ? nullptr : &std::prev(next)->second;
}

std::expected<std::vector<MapDeclaration>, Refusal> BtfInfo::maps() const {
  std::vector<MapDeclaration> out;
  const btf *b = btf_.get();
  for (uint32_t id = 1; id < btf__type_cnt(b); id++) {
    const btf_type *section = btf__type_by_id(b, id);
    if (!section || !btf_is_datasec(section) || name_of(b, section->name_off) != ".maps") continue;
    const btf_var_secinfo *entry = btf_var_secinfos(section);
    for (int i = 0; i < btf_vlen(section); i++, entry++) {
      const btf_type *var = btf__type_by_id(b, entry->type);
      if (!var || !btf_is_var(var)) return malformed("an entry of .maps is not a variable");
      auto map = read_map(b, name_of(b, var->name_off), resolve(b, var->type));
      if (!map) return std::unexpected(map.error());
      if (auto refused = check_map(*map)) return std::unexpected(*refused);
      if (out.size() >= SF_IMAGE_MAPS_MAX) return malformed("it declares too many maps");
      out.push_back(std::move(*map));
    }
  }
  return out;
}

const void *BtfInfo::prototype_of(const std::string &name) const {
  int32_t id = btf__find_by_name_kind(btf_.get(), name.c_str(), BTF_KIND_FUNC);
  const btf_type *function = id > 0 ? btf__type_by_id(btf_.get(), static_cast<uint32_t>(id)) : nullptr;
  const btf_type *proto = function ? resolve(btf_.get(), function->type) : nullptr;
  return proto && btf_is_func_proto(proto) ? proto : nullptr;
}

std::optional<Prototype> BtfInfo::function(const std::string &name) const {
  const auto *proto = static_cast<const btf_type *>(prototype_of(name));
  if (!proto) return std::nullopt;
  Prototype out;
  const btf_param *param = btf_params(proto);
  for (int i = 0; i < btf_vlen(proto); i++) out.parameters.push_back(shape_of(btf_.get(), param[i].type));
  out.result = shape_of(btf_.get(), proto->type);
  return out;
}

std::string BtfInfo::context_of(const std::string &name) const {
  const auto *proto = static_cast<const btf_type *>(prototype_of(name));
  if (!proto || btf_vlen(proto) == 0) return "";
  const btf_type *pointer = resolve(btf_.get(), btf_params(proto)[0].type);
  const btf_type *target = pointer && btf_is_ptr(pointer) ? resolve(btf_.get(), pointer->type) : nullptr;
  return target && btf_is_struct(target) ? string_at(target->name_off) : "";
}

}  // namespace shortfuse::vm
