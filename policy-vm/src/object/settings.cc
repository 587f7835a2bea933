#include "object/settings.h"

#include <elf.h>
#include <string.h>

#include <charconv>

namespace shortfuse::vm {
namespace {

using Bytes = std::expected<std::vector<unsigned char>, std::string>;
constexpr int kErrnoMax = 133;

bool is_data(const ElfSection &section) {
  const bool named = section.name.starts_with(".rodata") || section.name.starts_with(".data") ||
                     section.name.starts_with(".bss");
  return named && section.allocated() && !section.executable();
}

// "EIO": 5. "-7", "0x10": as they are.
std::expected<uint64_t, std::string> number_of(const std::string &text) {
  for (int i = 1; i <= kErrnoMax; i++) {
    const char *name = strerrorname_np(i);
    if (name && text == name) return static_cast<uint64_t>(i);
  }
  const bool negative = text.starts_with('-');
  const size_t sign = negative ? 1 : 0;
  const bool hex = text.substr(sign).starts_with("0x");
  const char *begin = text.data() + sign + (hex ? 2 : 0), *end = text.data() + text.size();
  uint64_t number = 0;
  const auto [at, error] = std::from_chars(begin, end, number, hex ? 16 : 10);
  if (error != std::errc() || at != end || begin == end) return std::unexpected("\"" + text + "\" is not a number");
  return negative ? -number : number;
}

bool fits(uint64_t number, size_t bytes, bool negative) {
  if (bytes >= 8) return true;
  const uint64_t limit = 1ull << (8 * bytes);
  return negative ? number >= ~uint64_t{0} - limit / 2 + 1 : number < limit;
}

// The type of a variable, from the object's type information; NULL where there is none.
const btf_type *type_of(const btf *types, const std::string &name) {
  const int32_t id = btf__find_by_name_kind(types, name.c_str(), BTF_KIND_VAR);
  return id > 0 ? resolve_type(types, btf__type_by_id(types, static_cast<uint32_t>(id))->type) : nullptr;
}

Bytes value_of(const Setting &setting, const btf_type *type, size_t bytes) {
  std::vector<unsigned char> out(bytes);
  if (type && btf_is_array(type)) {
    if (setting.value.size() >= bytes) {
      return std::unexpected(setting.name + ": \"" + setting.value + "\" is longer than " + std::to_string(bytes - 1) +
                             " characters");
    }
    memcpy(out.data(), setting.value.data(), setting.value.size());
    return out;
  }
  if (bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8)
    return std::unexpected(setting.name + " is neither a number nor text");
  auto number = number_of(setting.value);
  if (!number) return std::unexpected(setting.name + ": " + number.error());
  if (!fits(*number, bytes, setting.value.starts_with('-')))
    return std::unexpected(setting.name + ": " + setting.value + " does not fit into " + std::to_string(bytes) +
                           " bytes");
  memcpy(out.data(), &*number, bytes);
  return out;
}

}  // namespace

std::expected<void, std::string> Settings::apply(ElfFile *file) {
  const ElfSection *info = file->section(".BTF");
  auto types = read_btf(info ? std::span<const unsigned char>(info->data) : std::span<const unsigned char>());
  for (const ElfSymbol &symbol : file->symbols) {
    if (symbol.type != STT_OBJECT || symbol.section == 0 || symbol.special || symbol.name.empty()) continue;
    ElfSection &section = file->sections[symbol.section];
    if (!is_data(section) || symbol.value > section.bytes || symbol.size > section.bytes - symbol.value) continue;
    known_.insert(symbol.name);
    for (const Setting &setting : wanted_) {
      if (setting.name != symbol.name) continue;
      auto value = value_of(setting, types ? type_of(types->get(), symbol.name) : nullptr, symbol.size);
      if (!value) return std::unexpected(value.error());
      section.data.resize(section.bytes);
      memcpy(section.data.data() + symbol.value, value->data(), value->size());
      used_.insert(setting.name);
    }
  }
  return {};
}

std::expected<void, std::string> Settings::all_used() const {
  for (const Setting &setting : wanted_) {
    if (used_.contains(setting.name)) continue;
    std::string list;
    for (const std::string &name : known_) list += (list.empty() ? "" : ", ") + name;
    return std::unexpected("no object has a variable \"" + setting.name + "\"; " +
                           (list.empty() ? "there are none" : "there are: " + list));
  }
  return {};
}

}  // namespace shortfuse::vm
