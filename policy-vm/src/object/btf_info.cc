// What is read out of .BTF and .BTF.ext. The latter is read here, because libbpf offers no reader for it.
#include "object/btf_info.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <string.h>

namespace shortfuse::vm {
namespace {

std::unexpected<Refusal> malformed(const std::string &what) {
  return std::unexpected(Refusal{"btf-malformed", "the object's type information is not well-formed: " + what, ""});
}

template <typename T> bool read_at(const unsigned char *data, size_t size, size_t at, T *out) {
  if (at > size || size - at < sizeof(T)) return false;
  memcpy(out, data + at, sizeof(T));
  return true;
}

// A table of .BTF.ext: u32 size of a record, then per section: u32 name, u32 count, the records.
template <typename Record, typename Take> bool read_records(std::span<const unsigned char> table, Take take) {
  uint32_t record_bytes = 0;
  const unsigned char *data = table.data();
  if (!read_at(data, table.size(), 0, &record_bytes)) return false;
  if (record_bytes < sizeof(Record) || record_bytes > 256) return false;
  size_t at = 4;
  while (at < table.size()) {
    uint32_t name = 0, count = 0;
    if (!read_at(data, table.size(), at, &name) || !read_at(data, table.size(), at + 4, &count)) return false;
    at += 8;
    if (uint64_t{count} * record_bytes > table.size() - at) return false;
    for (uint32_t i = 0; i < count; i++, at += record_bytes) {
      Record r;
      memcpy(&r, data + at, sizeof r);
      take(name, r);
    }
  }
  return true;
}

ParameterShape shape_of(const btf *b, uint32_t type_id) {
  uint32_t id = 0;
  const btf_type *t = resolve_type(b, type_id, &id);
  if (!t || id == 0) return {};
  if (btf_is_ptr(t)) return {true, 8};
  if (btf_is_int(t) || btf_is_any_enum(t)) return {false, t->size};
  return {};
}

}  // namespace

std::expected<BtfInfo, Refusal> BtfInfo::read(const ElfFile &file) {
  const ElfSection *section = file.section(".BTF");
  if (!section || section->data.empty()) {
    return std::unexpected(Refusal{"btf-missing", "the object has no type information: compile with -g", ""});
  }
  const ElfSection *ext = file.section(".BTF.ext");
  if (ext && ext->data.size() > kBtfBytesMax) return malformed("it is larger than 1 MiB");
  auto types = read_btf(section->data);
  if (!types) return malformed(types.error());
  BtfInfo info;
  info.btf_ = std::move(*types);
  if (ext && !ext->data.empty()) {
    if (const char *wrong = info.read_ext(ext->data)) return malformed(wrong);
  }
  return info;
}

std::string BtfInfo::string_at(uint32_t offset) const { return btf_string(btf_.get(), offset); }

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
  if (h.line_len && !read_lines({base + h.line_off, h.line_len})) return "its line table";
  if (h.core_len && !read_core({base + h.core_off, h.core_len})) return "its CO-RE relocations";
  return nullptr;
}

bool BtfInfo::read_lines(std::span<const unsigned char> table) {
  struct Record { uint32_t byte, file, text, place; };  // place: line << 10 | column
  return read_records<Record>(table, [&](uint32_t section, const Record &r) {
    std::string text = string_at(r.text);
    text.erase(0, text.find_first_not_of(" \t"));
    lines_[string_at(section)][r.byte] = {string_at(r.file), text, r.place >> 10, r.place & 0x3ff};
  });
}

bool BtfInfo::read_core(std::span<const unsigned char> table) {
  struct Record { uint32_t byte, type, path, kind; };
  return read_records<Record>(table, [&](uint32_t section, const Record &r) {
    core_[string_at(section)][r.byte] = {r.type, string_at(r.path), r.kind};
  });
}

const CoreRelocation *BtfInfo::core_relocation(const std::string &section, uint32_t byte) const {
  auto relocations = core_.find(section);
  if (relocations == core_.end()) return nullptr;
  auto found = relocations->second.find(byte);
  return found == relocations->second.end() ? nullptr : &found->second;
}

const SourceLine *BtfInfo::line(const std::string &section, uint32_t byte) const {
  auto lines = lines_.find(section);
  if (lines == lines_.end()) return nullptr;
  auto next = lines->second.upper_bound(byte);
  return next == lines->second.begin() ? nullptr : &std::prev(next)->second;
}

const void *BtfInfo::prototype_of(const std::string &name) const {
  int32_t id = btf__find_by_name_kind(btf_.get(), name.c_str(), BTF_KIND_FUNC);
  const btf_type *function = id > 0 ? btf__type_by_id(btf_.get(), static_cast<uint32_t>(id)) : nullptr;
  const btf_type *proto = function ? resolve_type(btf_.get(), function->type) : nullptr;
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
  const btf_type *pointer = resolve_type(btf_.get(), btf_params(proto)[0].type);
  const btf_type *target = pointer && btf_is_ptr(pointer) ? resolve_type(btf_.get(), pointer->type) : nullptr;
  return target && btf_is_struct(target) ? string_at(target->name_off) : "";
}

}  // namespace shortfuse::vm
