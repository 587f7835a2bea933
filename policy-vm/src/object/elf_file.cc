// Object files through libelf.
#include "object/elf_file.h"

#include <gelf.h>
#include <libelf.h>
#include <string.h>

#include <algorithm>
#include <memory>

namespace shortfuse::vm {
namespace {

#ifndef EM_BPF
#define EM_BPF 247
#endif

struct ElfEnd { void operator()(Elf *e) const { elf_end(e); } };

std::unexpected<Refusal> malformed(const std::string &what) {
  return std::unexpected(Refusal{"elf-malformed", "not a well-formed eBPF object: " + what, ""});
}

// What libelf need not be asked about.
const char *check_ident(const unsigned char *bytes, size_t size) {
  if (size < sizeof(Elf64_Ehdr)) return "the file is too short";
  if (memcmp(bytes, ELFMAG, SELFMAG) != 0) return "it is not an ELF file";
  if (bytes[EI_CLASS] != ELFCLASS64) return "it is not a 64-bit ELF file";
  if (bytes[EI_DATA] != ELFDATA2LSB) return "it is not a little-endian ELF file";
  Elf64_Ehdr header;
  memcpy(&header, bytes, sizeof header);
  if (header.e_type != ET_REL) return "it is not a relocatable object (compile with -c)";
  if (header.e_machine != EM_BPF) return "it is not made for eBPF (compile with -target bpf)";
  if (header.e_shentsize != sizeof(Elf64_Shdr)) return "its section headers have the wrong size";
  if (header.e_shnum == 0 || header.e_shnum > kElfSectionsMax) return "it has too few or too many sections";
  return nullptr;
}

// A NUL-terminated string out of a string table, copied, cut where it is longer than any name; "" when out of range.
std::string string_at(const std::vector<unsigned char> &table, uint64_t offset) {
  if (offset >= table.size()) return "";
  const char *s = reinterpret_cast<const char *>(table.data()) + offset;
  return std::string(s, strnlen(s, std::min<size_t>(table.size() - offset, kNameBytesMax)));
}

const char *read_sections(Elf *elf, size_t file_bytes, std::vector<ElfSection> *out, std::vector<GElf_Shdr> *headers) {
  size_t count = 0, names_section = 0;
  if (elf_getshdrnum(elf, &count) != 0 || count > kElfSectionsMax) return "its section table";
  if (elf_getshdrstrndx(elf, &names_section) != 0 || names_section >= count) return "its section names";
  out->resize(count);
  headers->resize(count);
  uint64_t zeros = 0, contents = 0;
  for (size_t i = 1; i < count; i++) {
    Elf_Scn *scn = elf_getscn(elf, i);
    GElf_Shdr &header = (*headers)[i];
    if (!scn || !gelf_getshdr(scn, &header)) return "a section header";
    ElfSection &section = (*out)[i];
    section.type = header.sh_type;
    section.flags = header.sh_flags;
    section.bytes = header.sh_size;
    if (header.sh_type == SHT_NOBITS) {
      if (header.sh_size > kElfZerosMax || (zeros += header.sh_size) > kElfZerosMax)
        return "its zeroed data is too large";
      continue;
    }
    if (header.sh_type == SHT_NULL) section.bytes = 0;
    if (section.bytes == 0) continue;
    if (header.sh_offset > file_bytes || header.sh_size > file_bytes - header.sh_offset)
      return "a section lies outside";
    // Sections do not overlap; those that did could make much of little.
    if ((contents += header.sh_size) > file_bytes) return "its sections overlap";
    Elf_Data *data = elf_rawdata(scn, nullptr);
    if (!data || !data->d_buf || data->d_size != header.sh_size) return "the contents of a section";
    const auto *p = static_cast<const unsigned char *>(data->d_buf);
    section.data.assign(p, p + data->d_size);
  }
  for (size_t i = 1; i < count; i++) (*out)[i].name = string_at((*out)[names_section].data, (*headers)[i].sh_name);
  return nullptr;
}

const char *read_symbols(ElfFile *file, const std::vector<GElf_Shdr> &headers, uint32_t *symbol_table) {
  for (uint32_t i = 1; i < headers.size(); i++) {
    if (headers[i].sh_type != SHT_SYMTAB) continue;
    if (*symbol_table != 0) return "it has two symbol tables";
    *symbol_table = i;
  }
  if (*symbol_table == 0) return "it has no symbol table (stripped?)";
  const ElfSection &table = file->sections[*symbol_table];
  uint32_t names = headers[*symbol_table].sh_link;
  if (names >= headers.size() || headers[names].sh_type != SHT_STRTAB) return "its symbol names";
  size_t count = table.data.size() / sizeof(Elf64_Sym);
  if (count > kElfSymbolsMax) return "it has too many symbols";
  for (size_t i = 0; i < count; i++) {
    Elf64_Sym sym;
    memcpy(&sym, table.data.data() + i * sizeof sym, sizeof sym);
    ElfSymbol symbol;
    symbol.name = string_at(file->sections[names].data, sym.st_name);
    symbol.value = sym.st_value;
    symbol.size = sym.st_size;
    symbol.type = ELF64_ST_TYPE(sym.st_info);
    symbol.bind = ELF64_ST_BIND(sym.st_info);
    symbol.special = sym.st_shndx >= SHN_LORESERVE;
    symbol.section = symbol.special ? 0 : sym.st_shndx;
    if (symbol.section >= file->sections.size()) return "a symbol of a section that is not there";
    file->symbols.push_back(std::move(symbol));
  }
  return nullptr;
}

const char *read_relocations(ElfFile *file, const std::vector<GElf_Shdr> &headers, uint32_t symbol_table) {
  for (uint32_t i = 1; i < headers.size(); i++) {
    if (headers[i].sh_type != SHT_REL) continue;
    uint32_t target = headers[i].sh_info;
    if (target == 0 || target >= headers.size()) return "relocations of a section that is not there";
    if (!file->sections[target].allocated()) continue;  // of debug information
    if (headers[i].sh_link != symbol_table) return "relocations without their symbols";
    const std::vector<unsigned char> &data = file->sections[i].data;
    for (size_t at = 0; at + sizeof(Elf64_Rel) <= data.size(); at += sizeof(Elf64_Rel)) {
      Elf64_Rel rel;
      memcpy(&rel, data.data() + at, sizeof rel);
      uint64_t symbol = ELF64_R_SYM(rel.r_info);
      if (symbol >= file->symbols.size()) return "a relocation with a symbol that is not there";
      file->sections[target].relocations.push_back(
          {rel.r_offset, static_cast<uint32_t>(ELF64_R_TYPE(rel.r_info)), static_cast<uint32_t>(symbol)});
    }
  }
  return nullptr;
}

}  // namespace

bool ElfSection::executable() const { return type == SHT_PROGBITS && (flags & SHF_EXECINSTR); }
bool ElfSection::allocated() const { return flags & SHF_ALLOC; }

const ElfSection *ElfFile::section(const std::string &name) const {
  for (const ElfSection &s : sections) {
    if (s.name == name) return &s;
  }
  return nullptr;
}

std::expected<ElfFile, Refusal> ElfFile::read(const void *bytes, size_t size) {
  if (size > kElfBytesMax) return std::unexpected(Refusal{"elf-too-large", "the object is larger than 16 MiB", ""});
  if (const char *wrong = check_ident(static_cast<const unsigned char *>(bytes), size)) return malformed(wrong);
  elf_version(EV_CURRENT);
  std::vector<char> copy(static_cast<const char *>(bytes), static_cast<const char *>(bytes) + size);
  std::unique_ptr<Elf, ElfEnd> elf(elf_memory(copy.data(), copy.size()));
  if (!elf || elf_kind(elf.get()) != ELF_K_ELF) return malformed("libelf cannot read it");
  ElfFile file;
  std::vector<GElf_Shdr> headers;
  uint32_t symbol_table = 0;
  if (const char *wrong = read_sections(elf.get(), size, &file.sections, &headers)) return malformed(wrong);
  if (const char *wrong = read_symbols(&file, headers, &symbol_table)) return malformed(wrong);
  if (const char *wrong = read_relocations(&file, headers, symbol_table)) return malformed(wrong);
  return file;
}

}  // namespace shortfuse::vm
