// What an object's type information says of its code: the prototypes of what it calls, the source line of each
// instruction, and which accesses are to be fitted to our types. (Its maps: map_declaration.h.)
#pragma once
#include <cstdint>
#include <expected>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "object/btf_types.h"
#include "object/core_relocation.h"
#include "object/elf_file.h"
#include "shortfuse/vm/vm.h"

namespace shortfuse::vm {

struct SourceLine {
  std::string file;
  std::string text;
  uint32_t line = 0, column = 0;
};

/// How a parameter is passed, as far as it matters: an address, or a number of so many bytes.
struct ParameterShape { bool pointer = false; uint32_t bytes = 0; };
struct Prototype { std::vector<ParameterShape> parameters; ParameterShape result; };

class BtfInfo {
 public:
  static std::expected<BtfInfo, Refusal> read(const ElfFile &file);

  std::optional<Prototype> function(const std::string &name) const;
  /// The structure that a function's first parameter points to; "" where it is none or unknown.
  std::string context_of(const std::string &name) const;
  /// Of the instruction at this byte of this section; NULL where nothing is known.
  const SourceLine *line(const std::string &section, uint32_t byte) const;
  /// The CO-RE relocation of the instruction at this byte of this section; NULL where there is none.
  const CoreRelocation *core_relocation(const std::string &section, uint32_t byte) const;
  const btf *types() const { return btf_.get(); }

 private:
  const char *read_ext(const std::vector<unsigned char> &ext);
  bool read_lines(std::span<const unsigned char> table);
  bool read_core(std::span<const unsigned char> table);
  std::string string_at(uint32_t offset) const;
  const void *prototype_of(const std::string &name) const;  // btf_type; NULL: unknown

  BtfPtr btf_;
  template <typename T> using ByPlace = std::map<std::string, std::map<uint32_t, T>>;  // section, byte
  ByPlace<SourceLine> lines_;
  ByPlace<CoreRelocation> core_;
};

}  // namespace shortfuse::vm
