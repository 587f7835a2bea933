// Any bytes as type information, .BTF and .BTF.ext one behind the other: reading it ends with types or a refusal, and
// whatever its relocations say changes instructions and nothing else.
#include <cstring>

#include "object/btf_info.h"
#include "object/map_declaration.h"
#include "testing/testing.h"

using namespace shortfuse::vm;

namespace {

ElfFile file_of(const uint8_t *data, size_t size) {
  struct { uint16_t magic; uint8_t version, flags; uint32_t header, types, types_bytes, strings, strings_bytes; } h{};
  if (size >= sizeof h) memcpy(&h, data, sizeof h);
  const size_t end = size_t{h.header} + h.strings + h.strings_bytes;
  const size_t split = end <= size ? end : size;
  ElfFile file;
  file.sections.resize(3);
  file.sections[1].name = ".BTF";
  file.sections[1].data.assign(data, data + split);
  file.sections[2].name = ".BTF.ext";
  file.sections[2].data.assign(data + split, data + size);
  return file;
}

void relocate(const BtfInfo &info, const CoreRelocation &relocation) {
  using namespace testing;
  const Code templates[] = {{mov(0, 0), leave()}, {load(8, 0, 1, 16), leave()}, {load(4, 0, 1, 0), leave()},
                            {store(2, 1, 8, 0), leave()}, load64(0, 1), {leave()}};
  for (const btf *target : {own_btf(), info.types()}) {
    for (Code code : templates)
      (void)apply_core_relocation(info.types(), target, relocation, code.data(), static_cast<uint32_t>(code.size()));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  auto info = BtfInfo::read(file_of(data, size));
  if (!info) return 0;
  (void)read_map_declarations(info->types());
  for (const char *name : {"f", "one", "sf_forget", "each", ""}) {
    (void)info->function(name);
    (void)info->context_of(name);
  }
  for (const char *section : {"fuse/lookup", "fuse_exit/lookup", ".text", ""}) {
    for (uint32_t byte = 0; byte < 1024; byte += 8) {
      (void)info->line(section, byte);
      if (const CoreRelocation *relocation = info->core_relocation(section, byte)) relocate(*info, *relocation);
    }
  }
  return 0;
}
