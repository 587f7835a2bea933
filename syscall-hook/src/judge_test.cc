// Modules with system calls of their own: made-up text, and modules that everybody has.
#include "judge.h"

#include <dlfcn.h>
#include <elf.h>
#include <gtest/gtest.h>
#include <link.h>

#include <cstring>
#include <string>
#include <vector>

namespace {

/// Text without unwind information.
sf_verdict judged(std::vector<uint8_t> text) {
  text.insert(text.begin(), 40, 0x90);
  text.insert(text.end(), 40, 0x90);
  sf_module module = {};
  module.base = module.text = reinterpret_cast<uint64_t>(text.data());
  module.text_end = module.text + text.size();
  return sf_judge(&module);
}

TEST(Judge, ByWhatStandsBefore) {
  EXPECT_EQ(judged({}), SF_RAW_HARMLESS);
  EXPECT_EQ(judged({0x0f, 0x05}), SF_RAW_HARMLESS) << "a constant that looks like it";
  EXPECT_EQ(judged({0xb8, 39, 0, 0, 0, 0x0f, 0x05}), SF_RAW_HARMLESS) << "getpid";
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
  EXPECT_EQ(sf_judge(&module), SF_RAW_DESCRIPTORS);
  module.text_end--;
  EXPECT_EQ(sf_judge(&module), SF_RAW_HARMLESS);
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
  return sf_judge(&wanted.module);
}

TEST(Judge, ByDisassembly) {
  auto one = reinterpret_cast<const char *>(&getpid_of_our_own);
  auto two = reinterpret_cast<const char *>(&lseek_of_our_own);
  EXPECT_EQ(judged_module("", one, one + 16), SF_RAW_HARMLESS);
  EXPECT_EQ(judged_module("", two, two + 40), SF_RAW_DESCRIPTORS);
}

TEST(Judge, ModulesThatEverybodyHas) {
  EXPECT_EQ(judged_module("libstdc++"), SF_RAW_HARMLESS);
  EXPECT_EQ(judged_module("libm.so"), SF_RAW_HARMLESS);
  EXPECT_EQ(judged_module("libc.so"), SF_RAW_PROCESS) << "syscall()";
}

}  // namespace
