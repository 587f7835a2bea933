// A relocatable eBPF object file, as libelf sees it: sections, symbols, relocations.
//
// Everything is copied out and checked once, so nothing behind this header can read outside the file: section
// numbers, name offsets and symbol numbers are in range or empty.
#pragma once
#include <cstdint>
#include <expected>
#include <string>
#include <vector>

#include "shortfuse/vm/vm.h"

namespace shortfuse::vm {

struct ElfRelocation {
  uint64_t offset;   // in the section it applies to
  uint32_t type;     // R_BPF_*
  uint32_t symbol;   // in range
};

struct ElfSection {
  std::string name;
  uint32_t type = 0;
  uint64_t flags = 0;
  uint64_t bytes = 0;               // also of SHT_NOBITS
  std::vector<unsigned char> data;  // empty for SHT_NOBITS
  std::vector<ElfRelocation> relocations;
  bool executable() const;
  bool allocated() const;
};

struct ElfSymbol {
  std::string name;
  uint32_t section = 0;  // in range; 0: undefined
  uint64_t value = 0, size = 0;
  uint8_t type = 0, bind = 0;
  bool special = false;  // absolute, common: in no section
};

struct ElfFile {
  std::vector<ElfSection> sections;
  std::vector<ElfSymbol> symbols;

  static std::expected<ElfFile, Refusal> read(const void *bytes, size_t size);
  const ElfSection *section(const std::string &name) const;
};

inline constexpr size_t kNameBytesMax = 255;
inline constexpr size_t kElfBytesMax = 16u << 20;
inline constexpr size_t kElfSectionsMax = 1024;
inline constexpr size_t kElfSymbolsMax = 1u << 16;
inline constexpr size_t kElfZerosMax = 16u << 20;  // of all .bss

}  // namespace shortfuse::vm
