// The clock, through the vDSO that the kernel maps into every process.
//
// The vDSO is an ordinary ELF object: its dynamic section leads to the symbol table, where we look for
// __vdso_clock_gettime. The kernel builds it without vector registers, so calling it from under a system call, where
// those belong to the caller, is safe. Without a vDSO the system call serves.
#include "kernel.h"
#include "process.h"
#include "text.h"

namespace shortfuse::bypass {

using ClockGettime = long (*)(int, __kernel_timespec *);
static ClockGettime vdso_clock;

struct VdsoTables {
  const Elf64_Sym *symbols;
  const char *strings;
  uint64_t count;
};

static bool vdso_tables(unsigned long base, VdsoTables *out) {
  const auto *header = reinterpret_cast<const Elf64_Ehdr *>(base);
  const auto *segment = reinterpret_cast<const Elf64_Phdr *>(base + header->e_phoff);
  const Elf64_Dyn *dynamic = nullptr;
  unsigned long shift = base;
  for (int i = 0; i < header->e_phnum; ++i) {
    if (segment[i].p_type == PT_LOAD) shift = base + segment[i].p_offset - segment[i].p_vaddr;
    if (segment[i].p_type == PT_DYNAMIC) dynamic = reinterpret_cast<const Elf64_Dyn *>(base + segment[i].p_offset);
  }
  if (dynamic == nullptr) return false;
  constexpr int64_t kDtGnuHash = 0x6ffffef5;
  const uint32_t *hash = nullptr, *gnu_hash = nullptr;
  *out = {};
  for (; dynamic->d_tag != DT_NULL; ++dynamic) {
    unsigned long at = shift + dynamic->d_un.d_ptr;
    if (dynamic->d_tag == DT_STRTAB) out->strings = reinterpret_cast<const char *>(at);
    if (dynamic->d_tag == DT_SYMTAB) out->symbols = reinterpret_cast<const Elf64_Sym *>(at);
    if (dynamic->d_tag == DT_HASH) hash = reinterpret_cast<const uint32_t *>(at);
    if (dynamic->d_tag == kDtGnuHash) gnu_hash = reinterpret_cast<const uint32_t *>(at);
  }
  if (out->strings == nullptr || out->symbols == nullptr) return false;
  if (hash != nullptr) {
    out->count = hash[1];
  } else if (gnu_hash != nullptr) {
    // The GNU table does not say how many symbols there are: the last chain of the highest bucket ends them.
    uint32_t buckets = gnu_hash[0], first = gnu_hash[1], bloom = gnu_hash[2];
    const uint32_t *bucket = gnu_hash + 4 + bloom * 2;
    const uint32_t *chain = bucket + buckets;
    uint32_t last = 0;
    for (uint32_t i = 0; i < buckets; ++i) last = bucket[i] > last ? bucket[i] : last;
    if (last < first) return false;
    while ((chain[last - first] & 1) == 0) ++last;
    out->count = last + 1;
  }
  return out->count != 0;
}

void clock_start(unsigned long auxv_vdso) {
  VdsoTables tables;
  if (auxv_vdso == 0 || !vdso_tables(auxv_vdso, &tables)) return;
  for (uint64_t i = 0; i < tables.count; ++i) {
    const Elf64_Sym &symbol = tables.symbols[i];
    if (symbol.st_shndx == SHN_UNDEF || !text_is(tables.strings + symbol.st_name, "__vdso_clock_gettime")) continue;
    vdso_clock = reinterpret_cast<ClockGettime>(auxv_vdso + symbol.st_value);
    return;
  }
}

static uint64_t read_clock(int which) {
  __kernel_timespec now{};
  if (vdso_clock == nullptr || vdso_clock(which, &now) != 0) SF_SYS2(__NR_clock_gettime, which, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000ull + static_cast<uint64_t>(now.tv_nsec);
}

uint64_t clock_ns() { return read_clock(kClockMonotonic); }
uint64_t clock_coarse_ns() { return read_clock(kClockMonotonicCoarse); }

}  // namespace shortfuse::bypass
