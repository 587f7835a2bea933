// The loaded modules, read from the dynamic linker's own list (r_debug), without calling into it.
#include "modules.h"

#include <elf.h>
#include <link.h>

#include "text.h"

namespace {

const r_debug *find_debug(const sf_auxv *auxv) {
  auto phdr = (const ElfW(Phdr) *)auxv->phdr;
  uint64_t base = 0;
  const ElfW(Phdr) *dynamic = nullptr;
  for (uint64_t i = 0; i < auxv->phnum; i++) {
    if (phdr[i].p_type == PT_PHDR) base = auxv->phdr - phdr[i].p_vaddr;
    if (phdr[i].p_type == PT_DYNAMIC) dynamic = &phdr[i];
  }
  if (!dynamic) return nullptr;
  for (auto d = (const ElfW(Dyn) *)(base + dynamic->p_vaddr); d->d_tag != DT_NULL; d++)
    if (d->d_tag == DT_DEBUG) return (const r_debug *)d->d_un.d_ptr;
  return nullptr;
}

// 0: libc itself, 1: others to patch, -1: none of ours.
int rank_of(const char *name) {
  if (sf_starts_with(name, "libc.so.") || sf_starts_with(name, "libc-2.")) return 0;
  static const char *const kOthers[] = {"ld-linux-x86-64.so.", "ld-2.",  "libpthread.so.", "libpthread-2.",
                                        "librt.so.",           "librt-2.", "libdl.so.",    "libdl-2."};
  for (const char *other : kOthers)
    if (sf_starts_with(name, other)) return 1;
  return -1;
}

void read_build_id(const uint8_t *note, size_t bytes, sf_module *module) {
  for (size_t at = 0; at + sizeof(ElfW(Nhdr)) <= bytes;) {
    auto header = (const ElfW(Nhdr) *)(note + at);
    size_t name_at = at + sizeof *header, desc_at = name_at + ((header->n_namesz + 3u) & ~3u);
    size_t end = desc_at + ((header->n_descsz + 3u) & ~3u);
    if (end > bytes || end <= at) return;
    if (header->n_type == NT_GNU_BUILD_ID && header->n_namesz == 4 && note[name_at] == 'G' &&
        header->n_descsz <= SF_BUILD_ID_MAX) {
      for (uint32_t i = 0; i < header->n_descsz; i++) module->build_id[i] = note[desc_at + i];
      module->build_id_bytes = header->n_descsz;
      return;
    }
    at = end;
  }
}

void add_text(sf_module *module, uint64_t start, uint64_t end) {
  if (!module->text) {
    module->text = start, module->text_end = end;
    return;
  }
  if (module->more_texts < SF_MORE_TEXTS)
    module->more_text[module->more_texts].start = start, module->more_text[module->more_texts].end = end;
  module->more_texts++;
}

void add_data(sf_module *module, uint64_t start, uint64_t end) {
  if (module->datas < SF_DATAS) module->data[module->datas].start = start, module->data[module->datas].end = end;
  module->datas++;
}

// Returns whether the module has text at all.
bool read_headers(sf_module *module, const ElfW(Phdr) *phdr, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) {
    uint64_t start = module->base + phdr[i].p_vaddr;
    if (phdr[i].p_type == PT_LOAD && phdr[i].p_flags & PF_X) {
      add_text(module, start, start + phdr[i].p_memsz);
    } else if (phdr[i].p_type == PT_LOAD && phdr[i].p_flags & PF_R) {
      add_data(module, start, start + phdr[i].p_filesz);
    } else if (phdr[i].p_type == PT_GNU_EH_FRAME) {
      module->eh_frame_hdr = (const uint8_t *)start;
      module->eh_frame_hdr_bytes = phdr[i].p_memsz;
    } else if (phdr[i].p_type == PT_NOTE && !module->build_id_bytes) {
      read_build_id((const uint8_t *)start, phdr[i].p_memsz, module);
    }
    if (phdr[i].p_type == PT_LOAD && start + phdr[i].p_memsz > module->image_end)
      module->image_end = start + phdr[i].p_memsz;
  }
  return module->text != 0;
}

bool read_segments(sf_module *module) {
  auto header = (const ElfW(Ehdr) *)module->base;  // the first segment starts with the ELF header
  if (header->e_ident[0] != 0x7f || header->e_ident[1] != 'E' || header->e_machine != EM_X86_64) return false;
  return read_headers(module, (const ElfW(Phdr) *)(module->base + header->e_phoff), header->e_phnum);
}

sf_module module_of(const link_map *map) {
  sf_module module = {};
  module.base = map->l_addr;
  module.name = map->l_name ? sf_last_part(map->l_name) : "";
  module.dynamic = (const uint64_t *)map->l_ld;
  return module;
}

}  // namespace

int sf_auxv_read(char **envp, sf_auxv *auxv) {
  *auxv = {};
  if (!envp) return -1;
  while (*envp) envp++;
  for (auto entry = (const ElfW(auxv_t) *)(envp + 1); entry->a_type != AT_NULL; entry++) {
    uint64_t value = entry->a_un.a_val;
    switch (entry->a_type) {
      case AT_PHDR: auxv->phdr = value; break;
      case AT_PHNUM: auxv->phnum = value; break;
      case AT_PAGESZ: auxv->page_size = value; break;
      case AT_SECURE: auxv->secure = value; break;
      case AT_SYSINFO_EHDR: auxv->vdso = value; break;
      case AT_BASE: auxv->base = value; break;
      case AT_EXECFN: auxv->executed = (const char *)value; break;
    }
  }
  return auxv->phdr && auxv->phnum && auxv->page_size ? 0 : -1;
}

int sf_modules_find(const sf_auxv *auxv, sf_module *modules) {
  const r_debug *debug = find_debug(auxv);
  if (!debug || !debug->r_map) return -1;
  int count = 0;
  for (const link_map *map = debug->r_map; map && count < SF_MODULES_MAX; map = map->l_next) {
    if (!map->l_name || !map->l_addr) continue;
    sf_module module = module_of(map);
    int rank = rank_of(module.name);
    if (rank < 0 || !read_segments(&module)) continue;
    modules[count] = module;
    if (rank == 0 && count) {
      modules[count] = modules[0];
      modules[0] = module;
    }
    count++;
  }
  return count;
}

int sf_modules_visit(const sf_auxv *auxv, int (*visit)(const sf_module *, void *), void *argument) {
  const r_debug *debug = find_debug(auxv);
  for (; debug; debug = debug->r_version > 1 ? (const r_debug *)((const r_debug_extended *)debug)->r_next : nullptr) {
    if (debug->r_state != r_debug::RT_CONSISTENT) return -1;
    for (const link_map *map = debug->r_map; map; map = map->l_next) {
      if (map->l_addr && map->l_addr == auxv->vdso) continue;
      sf_module module = module_of(map);
      // The first of all is the program, whose headers the kernel has told: it may lie at no base at all.
      const bool program = !map->l_prev && map->l_name && !*map->l_name;
      if (!program && !map->l_addr) continue;
      const bool read = program ? read_headers(&module, (const ElfW(Phdr) *)auxv->phdr, auxv->phnum)
                                : read_segments(&module);
      if (read && visit(&module, argument)) return 0;
    }
  }
  return 0;
}

int sf_program_has_raw_calls(const sf_auxv *auxv) {
  auto phdr = (const ElfW(Phdr) *)auxv->phdr;
  uint64_t base = 0;
  for (uint64_t i = 0; i < auxv->phnum; i++)
    if (phdr[i].p_type == PT_PHDR) base = auxv->phdr - phdr[i].p_vaddr;
  for (uint64_t i = 0; i < auxv->phnum; i++) {
    if (phdr[i].p_type != PT_NOTE) continue;
    auto note = (const uint8_t *)(base + phdr[i].p_vaddr);
    for (size_t at = 0; at + sizeof(ElfW(Nhdr)) <= phdr[i].p_memsz;) {
      auto header = (const ElfW(Nhdr) *)(note + at);
      size_t name_at = at + sizeof *header;
      if (header->n_namesz == 4 && note[name_at] == 'G' && note[name_at + 1] == 'o' && !note[name_at + 2]) return 1;
      size_t next = name_at + ((header->n_namesz + 3u) & ~3u) + ((header->n_descsz + 3u) & ~3u);
      if (next <= at) break;
      at = next;
    }
  }
  return 0;
}

// Through the GNU hash table, as the dynamic linker would.
int sf_module_byte(const sf_module *module, const char *symbol) {
  const uint32_t *hash = nullptr;
  const ElfW(Sym) *symbols = nullptr;
  const char *strings = nullptr;
  for (auto d = (const ElfW(Dyn) *)module->dynamic; d && d->d_tag != DT_NULL; d++) {
    uint64_t value = d->d_un.d_ptr;  // glibc relocates these in place, except in a read-only section
    if (value < module->base) value += module->base;
    if (d->d_tag == DT_GNU_HASH) hash = (const uint32_t *)value;
    if (d->d_tag == DT_SYMTAB) symbols = (const ElfW(Sym) *)value;
    if (d->d_tag == DT_STRTAB) strings = (const char *)value;
  }
  if (!hash || !symbols || !strings || !hash[0]) return -1;
  uint32_t wanted = 5381;
  for (const char *p = symbol; *p; p++) wanted = wanted * 33 + (uint8_t)*p;
  const uint32_t buckets = hash[0], first = hash[1], bloom_words = hash[2];
  auto bucket = (const uint32_t *)((const uint64_t *)(hash + 4) + bloom_words);
  const uint32_t *chain = bucket + buckets;
  uint32_t index = bucket[wanted % buckets];
  if (index < first) return -1;
  for (;; index++) {
    uint32_t value = chain[index - first];
    if ((value | 1) == (wanted | 1) && sf_same_text(strings + symbols[index].st_name, symbol))
      return *(const uint8_t *)(module->base + symbols[index].st_value);
    if (value & 1) return -1;
  }
}
