// Sites and windows: of the C library that runs this test, and of functions made up for each rule.
#include "sites.h"
#include "scan.h"

#include <asm/unistd.h>
#include <gtest/gtest.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace {

std::vector<sf_site> find(const sf_module &module) {
  auto scratch = std::make_unique<uint8_t[]>(SF_SITES_SCRATCH);
  memset(scratch.get(), 0, SF_SITES_SCRATCH);
  std::vector<sf_site> sites(SF_SITES_MAX);
  int count = sf_sites_find(&module, scratch.get(), sites.data());
  sites.resize(count < 0 ? 0 : (size_t)count);
  return sites;
}

TEST(Sites, OfTheCLibrary) {
  sf_auxv auxv;
  ASSERT_EQ(sf_auxv_read(environ, &auxv), 0);
  sf_module modules[SF_MODULES_MAX];
  ASSERT_GE(sf_modules_find(&auxv, modules), 2);
  auto sites = find(modules[0]);
  ASSERT_GT(sites.size(), 300u);
  std::set<int> numbers;
  size_t windows = 0;
  for (const sf_site &site : sites) {
    EXPECT_EQ(sf_site_matches(&modules[0], &site), 1) << std::hex << site.syscall_at;
    if (site.form != SF_SITE_NONE) windows++;
    if (site.form != SF_SITE_NONE) numbers.insert(site.nr);
    EXPECT_FALSE(site.nr == __NR_rt_sigreturn && site.form != SF_SITE_NONE && site.nr < 0);
  }
  EXPECT_GT(windows + 8, sites.size());
  for (int nr : {__NR_read, __NR_pread64, __NR_openat, __NR_close, __NR_newfstatat, __NR_getdents64, __NR_lseek,
                 __NR_dup2, __NR_fcntl, __NR_clone, __NR_vfork, __NR_execve, __NR_rt_sigaction,
                 __NR_rt_sigprocmask, SF_NR_UNKNOWN})
    EXPECT_TRUE(numbers.count(nr)) << nr;
}

// Every position in turn, among bytes of which many are part of what is looked for.
TEST(Scan, FindsWhatAByteAtATimeFinds) {
  std::mt19937_64 random(4711);
  constexpr uint8_t kOften[] = {0x0f, 0x05, 0xe9, 0x80, 0x8f, 0x90, 0x7f, 0x0e};
  unsigned syscalls = 0, jumps = 0;
  for (int round = 0; round < 20000; round++) {
    uint8_t text[65];
    for (uint8_t &byte : text) {
      const uint64_t number = random();
      byte = number % 3 ? kOften[number / 3 % sizeof kOften] : (uint8_t)(number >> 32);
    }
    uint64_t syscall_bits = 0, jump_bits = 0;
    for (unsigned i = 0; i < 64; i++) {
      if (text[i] == 0x0f && text[i + 1] == 0x05) syscall_bits |= 1ull << i, syscalls++;
      if (text[i] == 0xe9 || (text[i] == 0x0f && (text[i + 1] & 0xf0) == 0x80)) jump_bits |= 1ull << i, jumps++;
    }
    ASSERT_EQ(sf_scan_syscalls(text), syscall_bits);
    ASSERT_EQ(sf_scan_past_others(text, 1), syscall_bits ? 0u : 1u);
    ASSERT_EQ(sf_scan_jumps(text), jump_bits);
  }
  EXPECT_GT(syscalls, 1000u);
  EXPECT_GT(jumps, 1000u);
}

TEST(Scan, PassesBlocksWithoutOne) {
  constexpr size_t kBlocks = 5;
  std::vector<uint8_t> text(kBlocks * 64 + 1, 0x90);
  EXPECT_EQ(sf_scan_past_others(text.data(), kBlocks), kBlocks);
  EXPECT_EQ(sf_scan_past_others(text.data(), 0), 0u);
  for (size_t at = 0; at < kBlocks * 64; at++) {
    text[at] = 0x0f, text[at + 1] = 0x05;
    EXPECT_EQ(sf_scan_past_others(text.data(), kBlocks), at / 64);
    text[at] = 0x05, text[at + 1] = 0x0f;
    EXPECT_EQ(sf_scan_past_others(text.data(), kBlocks), kBlocks);
    text[at] = text[at + 1] = 0x90;
  }
}

// A module of one or two functions, with the index that an unwind table has.
class Made : public testing::Test {
 protected:
  static constexpr size_t kText = 4096, kHeader = 3 * 4096;
  Made() : memory_(16384, 0xcc) {}

  void function(size_t at, std::initializer_list<int> code) {
    starts_.push_back((uint32_t)at);
    size_t i = kText + at;
    for (int byte : code) memory_[i++] = (uint8_t)byte;
  }

  std::vector<sf_site> sites() {
    uint8_t *header = &memory_[kHeader];
    const uint8_t encoding[] = {1, 0x1b, 0x03, 0x3b};
    memcpy(header, encoding, 4);
    auto count = (uint32_t)starts_.size();
    memcpy(header + 8, &count, 4);
    for (uint32_t i = 0; i < count; i++) {
      auto start = (int32_t)(kText + starts_[i] - kHeader);
      memcpy(header + 12 + i * 8, &start, 4);
    }
    module_ = {};
    module_.base = (uint64_t)memory_.data();
    module_.text = module_.base + kText;
    module_.text_end = module_.text + text_bytes_;
    module_.eh_frame_hdr = header;
    module_.eh_frame_hdr_bytes = 12 + count * 8;
    return find(module_);
  }

  sf_site only() {
    auto all = sites();
    EXPECT_EQ(all.size(), 1u);
    return all.empty() ? sf_site{} : all[0];
  }

  size_t text_bytes_ = 4096;
  std::vector<uint8_t> memory_;
  std::vector<uint32_t> starts_;
  sf_module module_;
};

// What is remembered of a site may be anything: a window that ends in the middle of an instruction is none.
TEST_F(Made, WindowOfWholeInstructionsMatches) {
  function(0, {0xb8, 4, 0, 0, 0, 0x0f, 0x05, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0xc3});
  sf_site site = only();
  site.form = SF_SITE_AROUND;
  site.pre_bytes = 0;
  for (unsigned bytes = SF_JUMP_BYTES; bytes <= 9; bytes++) {
    site.window_bytes = (uint8_t)bytes;
    site.hash = sf_window_hash(&memory_[kText + 5], bytes);
    EXPECT_EQ(sf_site_matches(&module_, &site), bytes == 8) << bytes;
  }
}

TEST_F(Made, NumberBefore) {
  function(0, {0xb8, 4, 0, 0, 0, 0x0f, 0x05, 0xc3});
  sf_site site = only();
  EXPECT_EQ(site.form, SF_SITE_BEFORE);
  EXPECT_EQ(site.nr, 4);
  EXPECT_EQ(sf_window_of(&module_, &site) - module_.base, kText);
  EXPECT_EQ(site.window_bytes, 5);
}

TEST_F(Made, ZeroAndComparison) {
  function(0, {0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x77, 1, 0xc3, 0xc3});
  sf_site site = only();
  EXPECT_EQ(site.form, SF_SITE_AROUND);
  EXPECT_EQ(site.nr, 0);
  EXPECT_EQ(sf_window_of(&module_, &site) - module_.base, kText + 2);
  EXPECT_EQ(site.window_bytes, 8);
  EXPECT_EQ(site.pre_bytes, 0);
}

TEST_F(Made, NoRoom) {
  function(0, {0x0f, 0x05, 0xc3});
  EXPECT_EQ(only().form, SF_SITE_NONE);
}

TEST_F(Made, NoRoomBehindABranch) {
  function(0, {0x75, 0x02, 0x89, 0xc8, 0x0f, 0x05, 0xc3});
  EXPECT_EQ(only().form, SF_SITE_NONE);
}

TEST_F(Made, StackPointerStays) {
  // sub $8,%rsp ; syscall ; pop ; ret: nothing here may run elsewhere
  function(0, {0x48, 0x83, 0xec, 0x08, 0x0f, 0x05, 0x58, 0xc3});
  EXPECT_EQ(only().form, SF_SITE_NONE);
}

// A jump on two pages would have both of them copied; where nothing else can be had, it is taken.
TEST_F(Made, JumpOnOnePageWhereThereIsOne) {
  text_bytes_ = 2 * 4096;
  for (const bool more : {false, true}) {
    for (size_t at = 4080; at <= 4096; at++) {
      std::fill(memory_.begin(), memory_.end(), 0xcc);
      starts_.clear();
      function(at, {0xb8, 4, 0, 0, 0, 0x0f, 0x05, 0xc3});
      const uint8_t comparison[] = {0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0xc3};
      if (more) memcpy(&memory_[kText + at + 7], comparison, sizeof comparison);
      const sf_site site = only();
      EXPECT_EQ(site.nr, 4);
      const bool on_two = at > 4096 - 5 && at < 4096, around = more && on_two;
      EXPECT_EQ(site.form, around ? SF_SITE_AROUND : SF_SITE_BEFORE) << at;
      EXPECT_EQ(sf_site_matches(&module_, &site), 1);
    }
  }
}

TEST_F(Made, JumpToTheSyscallItself) {
  // mov $4,%eax ; syscall ; cmp $1,%eax (5 bytes) ; je syscall ; ret
  function(0, {0xb8, 4, 0, 0, 0, 0x0f, 0x05, 0x3d, 1, 0, 0, 0, 0x74, 0xf7, 0xc3});
  sf_site site = only();
  EXPECT_EQ(site.form, SF_SITE_AROUND);
  EXPECT_EQ(sf_window_of(&module_, &site) - module_.base, kText + 5);
  EXPECT_EQ(site.nr, SF_NR_UNKNOWN);  // it may be reached with another number
}

TEST_F(Made, JumpIntoTheWindow) {
  // xor %eax,%eax ; syscall ; mov %rax,%rdx ; nop-like mov ; jmp to the first mov
  function(0, {0x31, 0xc0, 0x0f, 0x05, 0x48, 0x89, 0xc2, 0xeb, 0xfb, 0xc3});
  sf_site site = only();
  // `syscall; mov` is exactly five bytes, but the mov is jumped to; `xor; syscall` is too short.
  EXPECT_EQ(site.form, SF_SITE_NONE);
}

TEST_F(Made, JumpFromAColdPart) {
  function(0, {0x31, 0xc0, 0x0f, 0x05, 0x48, 0x89, 0xc2, 0xc3});
  EXPECT_EQ(only().form, SF_SITE_AROUND);
  // A second function, far away, jumps to the mov.
  function(2048, {0xe9, 0, 0, 0, 0});
  int32_t distance = 4 - (2048 + 5);
  memcpy(&memory_[kText + 2049], &distance, 4);
  EXPECT_EQ(sites()[0].form, SF_SITE_NONE);
}

TEST_F(Made, JumpFromAnywhereIsSeen) {
  // Also from the bytes behind the last whole step of the scan.
  for (const bool conditional : {false, true}) {
    for (size_t at = 16; at + 5 + conditional <= 4096; at++) {
      std::fill(memory_.begin(), memory_.end(), 0xcc);
      starts_.clear();
      function(0, {0x31, 0xc0, 0x0f, 0x05, 0x48, 0x89, 0xc2, 0xc3});
      const uint8_t opcode[] = {0x0f, 0x85};
      uint8_t *jump = &memory_[kText + at];
      if (conditional) memcpy(jump, opcode, 2);
      else *jump = 0xe9;
      const int32_t distance = 4 - (int32_t)(at + 5 + conditional);
      memcpy(jump + 1 + conditional, &distance, 4);
      ASSERT_EQ(sites()[0].form, SF_SITE_NONE) << at;
    }
  }
}

TEST_F(Made, JumpTableInTheFunction) {
  // jmp *%rdx before: what it may reach is unknown, so only windows of one instruction are taken.
  function(0, {0xff, 0xe2, 0x31, 0xc0, 0x0f, 0x05, 0x48, 0x89, 0xc2, 0xc3});
  EXPECT_EQ(only().form, SF_SITE_NONE);
  memory_.assign(memory_.size(), 0xcc);
  starts_.clear();
  function(0, {0xff, 0xe2, 0xb8, 4, 0, 0, 0, 0x0f, 0x05, 0xc3});
  EXPECT_EQ(only().form, SF_SITE_BEFORE);
}

TEST_F(Made, InsideAnotherInstruction) {
  function(0, {0xb8, 0x0f, 0x05, 0, 0, 0xc3});
  EXPECT_TRUE(sites().empty());
}

TEST_F(Made, BehindBytesThatAreNoInstruction) {
  function(0, {0x06, 0xb8, 4, 0, 0, 0, 0x0f, 0x05, 0xc3});
  sf_site site = only();
  EXPECT_EQ(site.form, SF_SITE_NONE);
  EXPECT_EQ(site.nr, SF_NR_UNKNOWN);
}

TEST_F(Made, NumberFromElsewhere) {
  // mov %r9d,%eax ; syscall ; cmp
  function(0, {0x44, 0x89, 0xc8, 0x0f, 0x05, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0xc3});
  EXPECT_EQ(only().nr, SF_NR_UNKNOWN);
}

// mov $202,%r8d ; L: mov %r8d,%eax ; syscall ; test %eax,%eax ; jne L ; ret
constexpr std::initializer_list<int> kKept = {0x41, 0xb8, 202, 0, 0, 0, 0x44, 0x89, 0xc0, 0x0f,
                                              0x05, 0x85, 0xc0, 0x75, 0xf7, 0xc3};

TEST_F(Made, NumberKeptInARegister) {
  function(0, kKept);
  EXPECT_EQ(only().nr, 202);
}

TEST_F(Made, NumberKeptInARegisterThatChangesBehind) {
  // ... syscall ; mov %edx,%r8d ; jne L
  function(0, {0x41, 0xb8, 202, 0, 0, 0, 0x44, 0x89, 0xc0, 0x0f, 0x05, 0x41, 0x89, 0xd0, 0x75, 0xf6, 0xc3});
  EXPECT_EQ(only().nr, SF_NR_UNKNOWN);
}

TEST_F(Made, NumberKeptInARegisterPastWhichOneComes) {
  // je L, before all of it
  function(0, {0x74, 0x06, 0x41, 0xb8, 202, 0, 0, 0, 0x44, 0x89, 0xc0, 0x0f, 0x05, 0xc3});
  EXPECT_EQ(only().nr, SF_NR_UNKNOWN);
}

TEST_F(Made, NumberKeptOverACall) {
  // mov $202,%r8d or %r12d ; call ; mov %r8d or %r12d,%eax ; syscall
  function(0, {0x41, 0xb8, 202, 0, 0, 0, 0xe8, 0, 4, 0, 0, 0x44, 0x89, 0xc0, 0x0f, 0x05, 0xc3});
  function(64, {0x41, 0xbc, 202, 0, 0, 0, 0xe8, 0, 4, 0, 0, 0x44, 0x89, 0xe0, 0x0f, 0x05, 0xc3});
  const auto both = sites();
  ASSERT_EQ(both.size(), 2u);
  EXPECT_EQ(both[0].nr, SF_NR_UNKNOWN);
  EXPECT_EQ(both[1].nr, 202);
}

TEST_F(Made, NumberKeptWhereAColdPartComesBack) {
  // The constant lies far before the call, and a second function jumps in between.
  std::vector<int> nops(200, 0x90);
  function(0, {0x41, 0xb8, 202, 0, 0, 0});
  for (size_t i = 0; i < nops.size(); i++) memory_[kText + 6 + i] = 0x90;
  const uint8_t end[] = {0x44, 0x89, 0xc0, 0x0f, 0x05, 0xc3};
  memcpy(&memory_[kText + 206], end, sizeof end);
  EXPECT_EQ(only().nr, 202);
  function(2048, {0xe9, 0, 0, 0, 0});
  for (const auto &[to, number] : {std::pair{0, 202}, {50, -1}, {206, -1}, {209, -1}}) {
    const int32_t distance = to - (2048 + 5);
    memcpy(&memory_[kText + 2049], &distance, 4);
    EXPECT_EQ(sites()[0].nr, number) << to;
  }
}

// The loop stands before the constant, and behind the function that jumps into it.
TEST_F(Made, NumberKeptWhereAColdPartComesToTheBeginning) {
  // jmp 8 ; 2: nop ; mov %r12d,%eax ; syscall ; 8: mov $202,%r12d ; jmp 2
  const auto code = {0xeb, 0x06, 0x90, 0x44, 0x89, 0xe0, 0x0f, 0x05, 0x41, 0xbc, 202, 0, 0, 0, 0xeb, 0xf2};
  function(0, {0xe9, 0xf9, 1, 0, 0});  // to 0x1fe: nowhere
  function(512, code);
  EXPECT_EQ(only().nr, 202);
  memory_[kText + 1] = 0xfd;  // to 514
  EXPECT_EQ(only().nr, SF_NR_UNKNOWN);
  // The same where the nop is padding: jmp 3 at the end.
  memory_[kText + 512 + 15] = 0xf3;
  EXPECT_EQ(only().nr, SF_NR_UNKNOWN);
  memory_[kText + 1] = 0xf9;
  EXPECT_EQ(only().nr, 202);
}

TEST_F(Made, NumberKeptOnMoreWaysThanAreFollowed) {
  // jne 13 ; mov $202,%r12d ; jmp 613 ; 13: 600 times nop ; 613: mov %r12d,%eax ; syscall ; ret
  function(0, {0x75, 11, 0x41, 0xbc, 202, 0, 0, 0, 0xe9, 0x58, 2, 0, 0});
  memset(&memory_[kText + 13], 0x90, 600);
  const uint8_t end[] = {0x44, 0x89, 0xe0, 0x0f, 0x05, 0xc3};
  memcpy(&memory_[kText + 613], end, sizeof end);
  EXPECT_EQ(only().nr, SF_NR_UNKNOWN);
}

TEST_F(Made, NumberKeptWhereNotAllJumpsAreKnown) {
  // mov $202,%r12d ; 6: mov %r12d,%eax ; syscall ; jmp *%rdx
  function(0, {0x41, 0xbc, 202, 0, 0, 0, 0x44, 0x89, 0xe0, 0x0f, 0x05, 0xff, 0xe2});
  EXPECT_EQ(only().nr, SF_NR_UNKNOWN);
  // ... ; ret ; 2,050 times jne ; jmp 6
  text_bytes_ = 2 * 4096;
  for (const bool all : {true, false}) {
    const size_t count = all ? 100 : 2050, last = 12 + 2 * count;
    std::fill(memory_.begin(), memory_.end(), 0xcc);
    starts_.clear();
    function(0, {0x41, 0xbc, 202, 0, 0, 0, 0x44, 0x89, 0xe0, 0x0f, 0x05, 0xc3});
    for (size_t i = 0; i < count; i++) memory_[kText + 12 + 2 * i] = 0x75, memory_[kText + 13 + 2 * i] = 0;
    memory_[kText + last] = 0xeb, memory_[kText + last + 1] = 0;
    const auto back = (int32_t)(6 - (last + 5));
    if (!all) memory_[kText + last] = 0xe9, memcpy(&memory_[kText + last + 1], &back, 4);
    EXPECT_EQ(only().nr, all ? 202 : SF_NR_UNKNOWN);
  }
}

// More calls far from their constant than are kept account of.
TEST_F(Made, NumberKeptForManyCalls) {
  function(0, {0x41, 0xbc, 202, 0, 0, 0});
  const uint8_t nop[] = {0x0f, 0x1f, 0x44, 0, 0}, call[] = {0x44, 0x89, 0xe0, 0x0f, 0x05};
  size_t at = 6;
  for (int i = 0; i < 80; i++, at += 5) memcpy(&memory_[kText + at], nop, 5);
  for (int i = 0; i < 80; i++, at += 5) memcpy(&memory_[kText + at], call, 5);
  memory_[kText + at] = 0xc3;
  auto known = [&] {
    const auto all = sites();
    EXPECT_EQ(all.size(), 80u);
    return std::count_if(all.begin(), all.end(), [](const sf_site &site) { return site.nr == 202; });
  };
  EXPECT_GE(known(), 64);
  function(2048, {0xe9, 0, 0, 0, 0});
  const int32_t distance = 101 - (2048 + 5);
  memcpy(&memory_[kText + 2049], &distance, 4);
  EXPECT_EQ(known(), 0);
}

// mov $202,%r12d ; jmp 1f ; 0: mov %r12d,%eax ; syscall ; ret ; 1: [no way leads here] jmp 0b
TEST_F(Made, NumberKeptWhereNoWayOfTheFunctionLeads) {
  // 12: a place that nothing leads to but who unwinds the stack
  function(0, {0x41, 0xbc, 202, 0, 0, 0, 0xeb, 0x02, 0xeb, 0x00, 0x44, 0x89, 0xe0, 0x0f, 0x05, 0xc3});
  EXPECT_EQ(only().nr, SF_NR_UNKNOWN);
  // ... 8: mov %edx,%ecx
  memory_[kText + 8] = 0x89, memory_[kText + 9] = 0xd1;
  EXPECT_EQ(only().nr, SF_NR_UNKNOWN);
  // nop for what nobody arrives at
  memory_[kText + 8] = memory_[kText + 9] = 0x90;
  memory_[kText + 7] = 0;
  EXPECT_EQ(only().nr, 202);
}

// The loop goes on far behind the call, and other code that is entered from elsewhere lies in between.
TEST_F(Made, NumberKeptOnAWayAroundOtherCode) {
  // mov $202,%r12d ; 6: mov %r12d,%eax ; syscall ; jmp 1024 ; 16: mov %edx,%r12d ; ret ; ... ; 1024: jmp 6
  const auto made = [&] {
    std::fill(memory_.begin(), memory_.end(), 0xcc);
    starts_.clear();
    function(0, {0x41, 0xbc, 202, 0, 0, 0, 0x44, 0x89, 0xe0, 0x0f, 0x05, 0xe9, 0, 0, 0, 0, 0x41, 0x89, 0xd4, 0xc3});
    const auto jump = [&](size_t at, size_t to) {
      memory_[kText + at] = 0xe9;
      const auto distance = (int32_t)(to - (at + 5));
      memcpy(&memory_[kText + at + 1], &distance, 4);
    };
    memset(&memory_[kText + 20], 0x90, 1100 - 20);
    jump(11, 1024);
    memory_[kText + 1023] = 0xc3;
    jump(1024, 6);
    return jump;
  };
  const auto find_first = [&] {
    const auto all = sites();
    return all.empty() ? -2 : all[0].nr;
  };
  made();
  EXPECT_EQ(find_first(), 202);
  // From another function, to each place on the way, and right before the constant.
  for (const auto &[to, number] : {std::pair{0, 202}, {6, -1}, {9, -1}, {11, -1}, {1024, -1}}) {
    made()(2100, (size_t)to);
    starts_.push_back(2048);
    EXPECT_EQ(find_first(), number) << to;
  }
  // From the function itself, where the register holds something else.
  for (const auto &[to, number] : {std::pair{0, 202}, {6, -1}, {9, -1}, {11, -1}, {16, 202}, {1024, -1}}) {
    made()(1040, (size_t)to);
    EXPECT_EQ(find_first(), number) << to;
  }
  // Called from the function itself.
  made()(1040, 1024);
  memory_[kText + 1040] = 0xe8;
  EXPECT_EQ(find_first(), SF_NR_UNKNOWN);
}

TEST_F(Made, NumberKeptInAFunctionThatIsNotKnownWhole) {
  function(0, kKept);
  memory_[kText + kKept.size()] = 0x06;  // no instruction
  EXPECT_EQ(only().nr, SF_NR_UNKNOWN);
}

// A function of few kinds of instructions, and what eax may hold at its calls, by going all ways through it.
struct Ways {
  enum Kind { kConst, kCopy, kClear, kMaybe, kJump, kCall, kNop, kSyscall, kReturn };
  static constexpr int kEax = 0, kEdx = 2, kR8 = 8, kR12 = 12, kAny = -1;
  struct One {
    Kind kind;
    int to, from;
    size_t target;  // the index of an instruction
  };
  std::vector<One> code;

  static Ways random(std::mt19937 &random) {
    constexpr int kRegisters[] = {kEax, kEdx, kR8, kR12};
    constexpr Kind kKinds[] = {kConst, kConst, kCopy, kCopy, kClear, kMaybe, kJump, kCall, kNop, kNop, kSyscall};
    Ways ways;
    const size_t count = 4 + random() % 12;
    for (size_t i = 0; i < count; i++) {
      const Kind kind = i + 1 == count ? kReturn : kKinds[random() % std::size(kKinds)];
      ways.code.push_back({kind, kRegisters[random() % 4], kRegisters[random() % 4], random() % count});
      if (kind == kConst) ways.code.back().from = random() % 4 ? 202 : 14;
    }
    return ways;
  }

  static std::vector<uint8_t> bytes_of(const One &one) {
    const bool high = one.to >= 8, from_high = one.from >= 8;
    switch (one.kind) {
      case kConst:
        if (high) return {0x41, (uint8_t)(0xb8 + one.to - 8), (uint8_t)one.from, 0, 0, 0};
        return {(uint8_t)(0xb8 + one.to), (uint8_t)one.from, 0, 0, 0};
      case kCopy:
        return {(uint8_t)(0x40 | from_high << 2 | high), 0x89, (uint8_t)(0xc0 | (one.from & 7) << 3 | (one.to & 7))};
      case kClear:  // from memory
        return {(uint8_t)(0x40 | high << 2), 0x8b, (uint8_t)(0x07 | (one.to & 7) << 3)};
      case kMaybe: return {0x75, 0};
      case kJump: return {0xeb, 0};
      case kCall: return {0xe8, 0, 2, 0, 0};
      case kNop: return {0x90};
      case kSyscall: return {0x0f, 0x05};
      case kReturn: return {0xc3};
    }
    return {};
  }

  /// Of each call, by its index, what eax may hold.
  std::map<size_t, std::set<int>> held() const {
    using State = std::pair<size_t, std::array<int, 16>>;
    std::map<size_t, std::set<int>> held;
    std::set<State> seen;
    std::vector<State> open;
    std::array<int, 16> unknown;
    unknown.fill(kAny);
    open.push_back({0, unknown});
    while (!open.empty()) {
      auto [at, value] = open.back();
      open.pop_back();
      if (!seen.insert({at, value}).second) continue;
      const One &one = code[at];
      if (one.kind == kConst) value[(size_t)one.to] = one.from;
      if (one.kind == kCopy) value[(size_t)one.to] = value[(size_t)one.from];
      if (one.kind == kClear) value[(size_t)one.to] = kAny;
      if (one.kind == kCall) value[kEax] = value[kEdx] = value[kR8] = kAny;
      if (one.kind == kSyscall) held[at].insert(value[kEax]), value[kEax] = kAny;
      if (one.kind == kMaybe || one.kind == kJump) open.push_back({one.target, value});
      if (one.kind != kJump && one.kind != kReturn) open.push_back({at + 1, value});
    }
    return held;
  }
};

TEST_F(Made, NumbersAreThoseOfAllWays) {
  std::mt19937 random(2026);
  unsigned known = 0, constant = 0;
  for (int round = 0; round < 5000; round++) {
    const Ways ways = Ways::random(random);
    std::vector<size_t> begins;
    std::vector<uint8_t> code;
    for (const auto &one : ways.code) {
      begins.push_back(code.size());
      for (uint8_t byte : Ways::bytes_of(one)) code.push_back(byte);
    }
    for (size_t i = 0; i < ways.code.size(); i++)
      if (ways.code[i].kind == Ways::kMaybe || ways.code[i].kind == Ways::kJump)
        code[begins[i] + 1] = (uint8_t)(begins[ways.code[i].target] - begins[i] - 2);
    std::fill(memory_.begin() + kText, memory_.begin() + kText + 256, 0xcc);
    starts_.clear();
    function(0, {});
    memcpy(&memory_[kText], code.data(), code.size());
    const auto held = ways.held();
    for (const auto &[at, numbers] : held) constant += numbers.size() == 1 && *numbers.begin() >= 0;
    for (const sf_site &site : sites()) {
      if (site.nr == SF_NR_UNKNOWN) continue;
      const auto at = (size_t)(std::find(begins.begin(), begins.end(), site.syscall_at - kText) - begins.begin());
      const auto found = held.find(at);
      if (found == held.end()) continue;  // no way leads there
      known++;
      ASSERT_EQ(found->second, std::set<int>{site.nr}) << "round " << round << ", instruction " << at;
    }
  }
  // Not all: that is the judge's art, who takes longer.
  EXPECT_GT(known, constant * 9 / 10) << "of " << constant;
}

TEST_F(Made, MatchesOnlyTheseBytes) {
  function(0, {0xb8, 4, 0, 0, 0, 0x0f, 0x05, 0xc3});
  const sf_site site = only();
  ASSERT_EQ(sf_site_matches(&module_, &site), 1);
  for (size_t i = 0; i < 7; i++) {
    memory_[kText + i] ^= 1;
    EXPECT_EQ(sf_site_matches(&module_, &site), 0) << i;
    memory_[kText + i] ^= 1;
  }
  auto changed = [&](auto change) {
    sf_site other = site;
    change(&other);
    return sf_site_matches(&module_, &other);
  };
  EXPECT_EQ(changed([](sf_site *s) { s->nr = 5; }), 0);
  EXPECT_EQ(changed([](sf_site *s) { s->form = SF_SITE_AROUND; }), 0);
  EXPECT_EQ(changed([](sf_site *s) { s->form = 7; }), 0);
  EXPECT_EQ(changed([](sf_site *s) { s->hash++; }), 0);
  EXPECT_EQ(changed([](sf_site *s) { s->window_bytes = 255; }), 0);
  EXPECT_EQ(changed([](sf_site *s) { s->pre_bytes = 4; }), 0);
  EXPECT_EQ(changed([](sf_site *s) { s->syscall_at = 0xffffffff; }), 0);
  EXPECT_EQ(changed([](sf_site *s) { s->syscall_at = 2; }), 0);
}

// Random bytes for code: no crash, and whatever is found fits the bytes.
TEST_F(Made, RandomText) {
  srand(11);
  for (int round = 0; round < 300; round++) {
    starts_.clear();
    for (size_t at = 0; at < 4096; at += 64) function(at, {});
    for (size_t i = 0; i < 4096; i++) memory_[kText + i] = rand() % 6 ? (uint8_t)rand() : rand() % 2 ? 0x0f : 0x05;
    for (const sf_site &site : sites()) EXPECT_EQ(sf_site_matches(&module_, &site), 1);
  }
}

}  // namespace
