// Modules with system calls of their own: made-up text, and modules that everybody has.
#include "judge.h"

#include <dlfcn.h>
#include <elf.h>
#include <gtest/gtest.h>
#include <link.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace {

sf_verdict judge(const sf_module &module) {
  std::vector<uint64_t> scratch(SF_JUDGE_SCRATCH / 8, ~0ull);
  return sf_judge(&module, scratch.data());
}

/// Text without unwind information.
sf_verdict judged(std::vector<uint8_t> text) {
  text.insert(text.begin(), 40, 0x90);
  text.insert(text.end(), 40, 0x90);
  sf_module module = {};
  module.base = module.text = reinterpret_cast<uint64_t>(text.data());
  module.text_end = module.text + text.size();
  return judge(module);
}

TEST(Judge, ByWhatStandsBefore) {
  EXPECT_EQ(judged({}), SF_RAW_HARMLESS);
  EXPECT_EQ(judged({0xb8, 39, 0, 0, 0, 0x0f, 0x05}), SF_RAW_HARMLESS) << "getpid";
  EXPECT_EQ(judged({0xb8, 5, 0, 0, 0, 0x0f, 0x05}), SF_RAW_USES) << "fstat";
  EXPECT_EQ(judged({0xb8, 9, 0, 0, 0, 0x0f, 0x05}), SF_RAW_USES) << "mmap";
  EXPECT_EQ(judged({0xb8, 16, 0, 0, 0, 0x0f, 0x05}), SF_RAW_USES) << "ioctl";
  EXPECT_EQ(judged({0xb8, 17, 0, 0, 0, 0x0f, 0x05}), SF_RAW_USES) << "pread64";
  EXPECT_EQ(judged({0xb8, 0xff, 1, 0, 0, 0x0f, 0x05}), SF_RAW_USES) << "one that does not exist yet";
  EXPECT_EQ(judged({0xb8, 3, 0, 0, 0, 0x0f, 0x05}), SF_RAW_DESCRIPTORS) << "close";
  EXPECT_EQ(judged({0x31, 0xc0, 0x0f, 0x05}), SF_RAW_DESCRIPTORS) << "read";
  EXPECT_EQ(judged({0x48, 0xc7, 0xc0, 0xa9, 1, 0, 0, 0x90, 0x0f, 0x05}), SF_RAW_DESCRIPTORS) << "io_uring_setup";
  EXPECT_EQ(judged({0xb8, 80, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05}), SF_RAW_PROCESS) << "chdir";
  EXPECT_EQ(judged({0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x0f, 0x05}), SF_RAW_PROCESS) << "any";
  EXPECT_EQ(judged({0xb8, 3, 0, 0, 0, 0x0f, 0x05, 0xb8, 39, 0, 0, 0, 0x0f, 0x05}), SF_RAW_DESCRIPTORS) << "both";
}

TEST(Judge, TheLastBytesOfTheText) {
  std::vector<uint8_t> text = {0xb8, 3, 0, 0, 0, 0x0f, 0x05};
  sf_module module = {};
  module.base = module.text = reinterpret_cast<uint64_t>(text.data());
  module.text_end = module.text + text.size();
  EXPECT_EQ(judge(module), SF_RAW_DESCRIPTORS);
  module.text_end--;
  EXPECT_EQ(judge(module), SF_RAW_HARMLESS);
}

std::vector<uint8_t> with_nops(std::vector<uint8_t> text, size_t at, size_t nops) {
  text.insert(text.begin() + static_cast<long>(at), nops, 0x90);
  return text;
}

TEST(Judge, NumbersThatAreNoConstantBefore) {
  EXPECT_EQ(judged({0x48, 0x8b, 0x45, 0xe8, 0x48, 0x8b, 0x7d, 0xe0, 0x0f, 0x05, 0x48, 0x89, 0x45, 0xf8, 0xc9, 0xc3}),
            SF_RAW_PROCESS) << "from the stack, as compilers do that do not optimise";
  EXPECT_EQ(judged({0x89, 0xf8, 0x48, 0x89, 0xf7, 0x0f, 0x05, 0xc3}), SF_RAW_PROCESS) << "the first argument";
  EXPECT_EQ(judged({0x8b, 0x05, 0, 1, 0, 0, 0x0f, 0x05, 0xc3}), SF_RAW_PROCESS) << "from memory";
  EXPECT_EQ(judged({0x89, 0xd8, 0x0f, 0x05, 0xc3}), SF_RAW_PROCESS) << "another register";
  EXPECT_EQ(judged({0x8d, 0x42, 0x03, 0x0f, 0x05, 0xc3}), SF_RAW_PROCESS) << "lea";
  EXPECT_EQ(judged({0x31, 0xc0, 0xb0, 80, 0x0f, 0x05, 0xc3}), SF_RAW_PROCESS) << "the low byte: chdir";
  EXPECT_EQ(judged({0x0f, 0x05, 0xc3}), SF_RAW_PROCESS) << "the caller's";
  EXPECT_EQ(judged({0x48, 0x0f, 0x05, 0xc3}), SF_RAW_PROCESS) << "with a prefix";
  EXPECT_EQ(judged({0x74, 0x05, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3}), SF_RAW_PROCESS) << "a jump over it";
  EXPECT_EQ(judged({0x8b, 0x05, 0, 1, 0, 0, 0x45, 0x31, 0xc0, 0x0f, 0x05, 0xc3}), SF_RAW_PROCESS)
      << "from memory, and a xor that looks like eax";
}

TEST(Judge, ConstantsFarBefore) {
  const std::vector<uint8_t> close = {0xb8, 3, 0, 0, 0, 0x0f, 0x05, 0xc3};
  const std::vector<uint8_t> getpid = {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3};
  EXPECT_EQ(judged(with_nops(close, 5, 40)), SF_RAW_DESCRIPTORS);
  EXPECT_EQ(judged(with_nops(getpid, 5, 40)), SF_RAW_HARMLESS);
  EXPECT_EQ(judged(with_nops(close, 5, 100)), SF_RAW_PROCESS);
}

TEST(Judge, TablesInTheText) {
  EXPECT_EQ(judged({0xc3, 0x0f, 0x05, 0xc3}), SF_RAW_HARMLESS) << "nothing leads there";
  EXPECT_EQ(judged({0xe8, 1, 0, 0, 0, 0xc3, 0x0f, 0x05, 0xc3}), SF_RAW_PROCESS) << "a call leads there";
  EXPECT_EQ(judged({0x48, 0x8d, 0x05, 1, 0, 0, 0, 0xc3, 0x0f, 0x05, 0xc3}), SF_RAW_PROCESS) << "its address is taken";
  EXPECT_EQ(judged({0x48, 0x8d, 0x05, 1, 0, 0, 0, 0xc3, 0x0f, 0x05, 0, 0, 0x10, 0x05, 0, 0}), SF_RAW_HARMLESS)
      << "a table of numbers: its address is taken, and nobody executes what follows";
  EXPECT_EQ(judged({0x48, 0x8d, 0x05, 1, 0, 0, 0, 0xc3, 0x9c, 0x17, 0xb9, 0x1e, 0x6f, 0x33, 0x69, 0xce, 0x0f, 0x05,
                    0x59, 0xc3}), SF_RAW_HARMLESS) << "nor what stands before";
  EXPECT_EQ(judged({0xc3, 0xcd, 0x80, 0xc3, 0x0f, 0x34, 0xc3}), SF_RAW_HARMLESS);
}

TEST(Judge, TheOtherWaysIntoTheKernel) {
  EXPECT_EQ(judged({0xb8, 19, 0, 0, 0, 0xcd, 0x80, 0xc3}), SF_RAW_PROCESS) << "lseek of 32 bits";
  EXPECT_EQ(judged({0xb8, 39, 0, 0, 0, 0x0f, 0x34, 0xc3}), SF_RAW_PROCESS) << "sysenter";
  EXPECT_EQ(judged({0x81, 0xc1, 0xcd, 0x80, 0x0f, 0x34, 0xc3}), SF_RAW_HARMLESS) << "a constant that looks like both";
}

/// A module whose only function is getpid, with something else in its dynamic section.
sf_verdict judged_with(std::vector<Elf64_Dyn> dynamic, std::vector<uint8_t> &text) {
  sf_module module = {};
  module.base = module.text = reinterpret_cast<uint64_t>(text.data());
  module.text_end = module.text + text.size();
  dynamic.push_back({DT_NULL, {0}});
  module.dynamic = reinterpret_cast<const uint64_t *>(dynamic.data());
  return judge(module);
}
Elf64_Dyn place(Elf64_Sxword tag, const void *at, const std::vector<uint8_t> &text) {
  return {tag, {reinterpret_cast<uint64_t>(at) - reinterpret_cast<uint64_t>(text.data())}};
}

TEST(Judge, EntriesThatTheDynamicLinkerKnows) {
  // One piece of memory, so that all of it lies behind the text.
  struct {
    Elf64_Sym symbol[2];
    uint32_t hash[8], gnu_hash[8];
    Elf64_Rela rela;
    uint64_t packed[2], pointer;
  } tables = {};
  constexpr uint64_t kMiddle = 25;
  std::vector<uint8_t> text(20 + sizeof tables + 64, 0x90);
  const uint8_t getpid[] = {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3};
  memcpy(text.data() + 20, getpid, sizeof getpid);
  EXPECT_EQ(judged_with({}, text), SF_RAW_HARMLESS);
  uint8_t *memory = text.data() + 64;
  auto in_text = [&](const void *field) {
    return memory + (static_cast<const char *>(field) - reinterpret_cast<char *>(&tables));
  };
  auto put = [&] { memcpy(memory, &tables, sizeof tables); };
  tables.symbol[1].st_value = kMiddle, tables.symbol[1].st_shndx = 1;
  tables.hash[0] = 1, tables.hash[1] = 2;
  tables.gnu_hash[0] = 1, tables.gnu_hash[1] = 1, tables.gnu_hash[2] = 1;
  tables.gnu_hash[6] = 1, tables.gnu_hash[7] = 1;  // one bucket and one chain
  tables.rela = {0, ELF64_R_INFO(0, R_X86_64_RELATIVE), kMiddle};
  tables.packed[0] = static_cast<uint64_t>(in_text(&tables.pointer) - text.data());
  tables.pointer = kMiddle;
  put();
  const Elf64_Dyn symbols = place(DT_SYMTAB, in_text(tables.symbol), text);
  EXPECT_EQ(judged_with({symbols, place(DT_HASH, in_text(tables.hash), text)}, text), SF_RAW_PROCESS);
  EXPECT_EQ(judged_with({symbols, place(DT_GNU_HASH, in_text(tables.gnu_hash), text)}, text), SF_RAW_PROCESS);
  EXPECT_EQ(judged_with({place(DT_RELA, in_text(&tables.rela), text), {DT_RELASZ, {sizeof tables.rela}}}, text),
            SF_RAW_PROCESS);
  const Elf64_Dyn packed = place(DT_RELR, in_text(tables.packed), text);
  EXPECT_EQ(judged_with({packed, {DT_RELRSZ, {8}}}, text), SF_RAW_PROCESS);
  tables.packed[0] -= 16, tables.packed[1] = 5;  // the second word of the map: bit 2
  put();
  EXPECT_EQ(judged_with({packed, {DT_RELRSZ, {16}}}, text), SF_RAW_PROCESS);
  tables.symbol[1].st_value = 20;
  put();
  EXPECT_EQ(judged_with({symbols, place(DT_HASH, in_text(tables.hash), text)}, text), SF_RAW_HARMLESS) << "its start";
}

// Functions with unwind information, in this program's own text. Never called.
[[gnu::noinline, gnu::used]] long getpid_of_our_own() {
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(39) : "rcx", "r11", "memory");
  return result;
}
[[gnu::noinline, gnu::used]] long lseek_of_our_own(long fd, bool again) {
  long result;
  do {
    __asm__ volatile("syscall" : "=a"(result) : "a"(8), "D"(fd), "S"(0), "d"(1) : "rcx", "r11", "memory");
  } while (again && result < 0);
  return result;
}

/// A module as it is loaded; `from`, `to`: only that part of its text.
sf_verdict judged_module(const char *name, const void *from = nullptr, const void *to = nullptr) {
  struct Wanted {
    const char *name;
    sf_module module;
  } wanted = {name, {}};
  dl_iterate_phdr(
      [](dl_phdr_info *info, size_t, void *argument) {
        auto all = static_cast<Wanted *>(argument);
        const bool program = !*all->name;
        if (program ? *info->dlpi_name != 0 : strstr(info->dlpi_name, all->name) == nullptr) return 0;
        all->module.base = info->dlpi_addr;
        for (int i = 0; i < info->dlpi_phnum; i++) {
          const auto &header = info->dlpi_phdr[i];
          const uint64_t start = info->dlpi_addr + header.p_vaddr;
          if (header.p_type == PT_LOAD && header.p_flags & PF_X)
            all->module.text = start, all->module.text_end = start + header.p_memsz;
          if (header.p_type == PT_GNU_EH_FRAME) {
            all->module.eh_frame_hdr = reinterpret_cast<const uint8_t *>(start);
            all->module.eh_frame_hdr_bytes = header.p_memsz;
          }
        }
        return 1;
      },
      &wanted);
  EXPECT_NE(wanted.module.text, 0u) << name;
  if (from) wanted.module.text = reinterpret_cast<uint64_t>(from);
  if (to) wanted.module.text_end = reinterpret_cast<uint64_t>(to);
  return judge(wanted.module);
}

TEST(Judge, ByDisassembly) {
  auto one = reinterpret_cast<const char *>(&getpid_of_our_own);
  auto two = reinterpret_cast<const char *>(&lseek_of_our_own);
  EXPECT_EQ(judged_module("", one, one + 16), SF_RAW_HARMLESS);
  EXPECT_EQ(judged_module("", two, two + 40), SF_RAW_DESCRIPTORS);
}

// Functions as compilers make them, of which only the ways through them tell the number.
#define FUNCTION(name, code)                                                                          \
  extern "C" const char name[], name##_end[];                                                         \
  __asm__(".text\n.globl " #name ", " #name "_end\n" #name ":\n.cfi_startproc\n" code "\n.cfi_endproc\n" \
          #name "_end:\n")

FUNCTION(two_numbers, "mov $3,%eax; test %edi,%edi; jne 1f; mov $39,%eax; 1: syscall; ret");
FUNCTION(two_harmless, "mov $186,%eax; test %edi,%edi; jne 1f; mov $39,%eax; 1: syscall; ret");
FUNCTION(two_uses, "mov $9,%eax; test %edi,%edi; jne 1f; mov $5,%eax; 1: syscall; ret");
FUNCTION(one_use, "mov $9,%eax; test %edi,%edi; jne 1f; mov $39,%eax; 1: syscall; ret");
FUNCTION(use_or_close, "mov $9,%eax; test %edi,%edi; jne 1f; mov $3,%eax; 1: syscall; ret");
FUNCTION(number_and_any, "mov %esi,%eax; test %edi,%edi; jne 1f; mov $39,%eax; 1: syscall; ret");
FUNCTION(one_of_two, "mov $39,%eax; mov $3,%ecx; test %edi,%edi; cmovne %ecx,%eax; syscall; ret");
FUNCTION(call_between, "mov $3,%ebx; test %edi,%edi; je 2f; call two_numbers; 1: mov %ebx,%eax; syscall; ret;"
                       "2: mov $39,%ebx; jmp 1b");
FUNCTION(lost_in_call, "mov $39,%eax; mov $39,%ecx; call two_numbers; mov %ecx,%eax; syscall; ret");
FUNCTION(kept_in_loop, "mov $202,%r12d; 1: mov %r12d,%eax; movups %xmm0,(%rsp); syscall; test %eax,%eax; jne 1b; ret");
FUNCTION(padded, "mov $202,%r8d; mov %r8d,%eax; syscall; test %eax,%eax; je 1f; ret; nopl 0(%rax); nop; .p2align 4;"
                 "1: mov %r8d,%eax; syscall; ret");
FUNCTION(pushed_close, "mov %rdi,%rax; cqto; idiv %rsi; push $3; pop %rax; syscall; ret");
FUNCTION(pushed_getpid, "push $39; pop %rax; syscall; ret");
FUNCTION(popped_any, "mov $39,%eax; push %rdi; pop %rax; syscall; ret");
FUNCTION(divided, "mov $39,%eax; div %esi; syscall; ret");
FUNCTION(exchanged, "mov $39,%eax; xchg %rax,%rdi; syscall; ret");
FUNCTION(compared, "mov $39,%eax; lock cmpxchg %edx,(%rdi); syscall; ret");
FUNCTION(low_byte, "mov $39,%eax; mov $3,%al; syscall; ret");
FUNCTION(by_table, "mov $39,%eax; jmp *(%rdx,%rdi,8); mov $3,%eax; mov $39,%eax; syscall; ret");
FUNCTION(by_pointer, "mov $39,%eax; syscall; jmp *16(%rdx)");
FUNCTION(only_from_itself, "ret; 1: mov %ebx,%eax; syscall; jmp 1b");
FUNCTION(hot_part, "mov $39,%eax; test %edi,%edi; je 1f; hot_middle: syscall; 1: ret");
FUNCTION(between, "ret");
FUNCTION(cold_part, "mov $3,%eax; .byte 0xe9; .long hot_middle - . - 4");
FUNCTION(beside, "mov $3,%eax; jmp warm_middle");
FUNCTION(warm_part, "mov $39,%eax; test %edi,%edi; je 1f; warm_middle: syscall; 1: ret");
FUNCTION(names_itself, "mov $157,%eax; mov $15,%edi; syscall; ret");
FUNCTION(enters_a_filter, "mov $157,%eax; mov $22,%edi; syscall; ret");
FUNCTION(any_prctl, "mov $157,%eax; syscall; ret");
FUNCTION(sets_sigusr1, "mov $13,%eax; mov $10,%edi; syscall; ret");
FUNCTION(sets_sigsegv, "mov $13,%eax; mov $11,%edi; syscall; ret");
FUNCTION(calls_it, "mov $3,%eax; .byte 0xe8; .long called_middle - . - 4; ret");
FUNCTION(called_part, "mov $39,%eax; test %edi,%edi; je 1f; called_middle: syscall; 1: ret");
FUNCTION(takes_it, "lea taken_middle(%rip),%rdx; mov $3,%eax; call *%rdx; ret");
FUNCTION(taken_part, "mov $39,%eax; test %edi,%edi; je 1f; taken_middle: syscall; 1: ret");
FUNCTION(takes_its_own, "lea 1f(%rip),%rdx; mov $3,%eax; push %rdx; ret; nop; mov $39,%eax; 1: syscall; ret");
FUNCTION(jumps_short, "mov $3,%eax; .byte 0xeb, short_middle - . - 1");
FUNCTION(next_to_both, "nop; ret");
FUNCTION(short_part, "mov $39,%eax; short_middle: syscall; ret");
FUNCTION(old_call, "mov $39,%eax; int $0x80; ret");
FUNCTION(fast_call, "mov $39,%eax; sysenter; ret");
FUNCTION(no_call, "add $0x340f80cd,%eax; ret");
FUNCTION(prefixed, "mov $3,%eax; .byte 0x48; syscall; ret");
FUNCTION(ends_here, "ret");

TEST(Judge, AllWaysThroughAFunction) {
#define EXPECT_JUDGED(name, verdict) EXPECT_EQ(judged_module("", name, name##_end), verdict) << #name
  EXPECT_JUDGED(two_numbers, SF_RAW_DESCRIPTORS);
  EXPECT_JUDGED(two_harmless, SF_RAW_HARMLESS);
  EXPECT_JUDGED(two_uses, SF_RAW_USES);
  EXPECT_JUDGED(one_use, SF_RAW_USES);
  EXPECT_JUDGED(use_or_close, SF_RAW_DESCRIPTORS);
  EXPECT_JUDGED(number_and_any, SF_RAW_PROCESS);
  EXPECT_JUDGED(one_of_two, SF_RAW_DESCRIPTORS);
  EXPECT_JUDGED(call_between, SF_RAW_DESCRIPTORS);
  EXPECT_JUDGED(lost_in_call, SF_RAW_PROCESS);
  EXPECT_JUDGED(kept_in_loop, SF_RAW_HARMLESS);
  EXPECT_JUDGED(padded, SF_RAW_HARMLESS);
  EXPECT_JUDGED(by_table, SF_RAW_PROCESS);
  EXPECT_JUDGED(by_pointer, SF_RAW_HARMLESS);
  EXPECT_JUDGED(only_from_itself, SF_RAW_PROCESS);
}

TEST(Judge, InstructionsThatWriteTheNumber) {
  EXPECT_JUDGED(pushed_close, SF_RAW_DESCRIPTORS);
  EXPECT_JUDGED(pushed_getpid, SF_RAW_HARMLESS);
  EXPECT_JUDGED(popped_any, SF_RAW_PROCESS);
  EXPECT_JUDGED(divided, SF_RAW_PROCESS);
  EXPECT_JUDGED(exchanged, SF_RAW_PROCESS);
  EXPECT_JUDGED(compared, SF_RAW_PROCESS);
  EXPECT_JUDGED(low_byte, SF_RAW_PROCESS);
}

TEST(Judge, JumpsFromElsewhere) {
  EXPECT_JUDGED(hot_part, SF_RAW_HARMLESS);
  EXPECT_EQ(judged_module("", hot_part, cold_part_end), SF_RAW_PROCESS);
  EXPECT_JUDGED(warm_part, SF_RAW_HARMLESS);
  EXPECT_EQ(judged_module("", beside, warm_part_end), SF_RAW_PROCESS);
}

TEST(Judge, EntriesInTheMiddle) {
  EXPECT_JUDGED(called_part, SF_RAW_HARMLESS);
  EXPECT_EQ(judged_module("", calls_it, called_part_end), SF_RAW_PROCESS);
  EXPECT_JUDGED(taken_part, SF_RAW_HARMLESS);
  EXPECT_EQ(judged_module("", takes_it, taken_part_end), SF_RAW_PROCESS);
  EXPECT_JUDGED(takes_its_own, SF_RAW_PROCESS);
  EXPECT_JUDGED(short_part, SF_RAW_HARMLESS);
  EXPECT_EQ(judged_module("", jumps_short, short_part_end), SF_RAW_PROCESS);
}

TEST(Judge, OtherInstructionsInFunctions) {
  EXPECT_JUDGED(old_call, SF_RAW_PROCESS);
  EXPECT_JUDGED(fast_call, SF_RAW_PROCESS);
  EXPECT_JUDGED(no_call, SF_RAW_HARMLESS);
  EXPECT_JUDGED(prefixed, SF_RAW_DESCRIPTORS);
}

TEST(Judge, UsesOfOneNumber) {
  EXPECT_JUDGED(names_itself, SF_RAW_HARMLESS);
  EXPECT_JUDGED(enters_a_filter, SF_RAW_PROCESS);
  EXPECT_JUDGED(any_prctl, SF_RAW_PROCESS);
  EXPECT_JUDGED(sets_sigusr1, SF_RAW_HARMLESS);
  EXPECT_JUDGED(sets_sigsegv, SF_RAW_PROCESS);
}

TEST(Judge, TextInSeveralPlaces) {
  const uint8_t one[] = {0x90, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3}, two[] = {0x90, 0xb8, 3, 0, 0, 0, 0x0f, 0x05, 0xc3};
  sf_module module = {};
  module.text = reinterpret_cast<uint64_t>(one), module.text_end = module.text + sizeof one;
  module.base = std::min(module.text, reinterpret_cast<uint64_t>(two));
  EXPECT_EQ(judge(module), SF_RAW_HARMLESS);
  module.more_text[0].start = reinterpret_cast<uint64_t>(two);
  module.more_text[0].end = module.more_text[0].start + sizeof two;
  module.more_texts = 1;
  EXPECT_EQ(judge(module), SF_RAW_DESCRIPTORS);
  module.more_texts = SF_MORE_TEXTS + 1;
  EXPECT_EQ(judge(module), SF_RAW_PROCESS);
}

TEST(Judge, ACallFromOneTextIntoAnother) {
  std::vector<uint8_t> bytes(64, 0x90);
  const uint8_t one[] = {0xe8, 28, 0, 0, 0, 0xc3}, two[] = {0xc3, 0x0f, 0x05, 0xc3};
  memcpy(bytes.data(), one, sizeof one);
  memcpy(bytes.data() + 32, two, sizeof two);
  sf_module module = {};
  module.base = module.text = reinterpret_cast<uint64_t>(bytes.data());
  module.text_end = module.text + sizeof one;
  module.more_text[0].start = module.base + 32;
  module.more_text[0].end = module.more_text[0].start + sizeof two;
  module.more_texts = 1;
  EXPECT_EQ(judge(module), SF_RAW_PROCESS);
  bytes[1]--;
  EXPECT_EQ(judge(module), SF_RAW_HARMLESS) << "only the other's first instruction";
}

TEST(Judge, ModulesThatEverybodyHas) {
  EXPECT_EQ(judged_module("libstdc++"), SF_RAW_HARMLESS);
  EXPECT_EQ(judged_module("libm.so"), SF_RAW_HARMLESS);
  EXPECT_EQ(judged_module("libc.so"), SF_RAW_PROCESS) << "syscall()";
}

}  // namespace
