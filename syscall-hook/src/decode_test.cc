// Every instruction of libc and ld.so, and many made-up ones, against Zydis.
#include "decode.h"

#include <Zydis/Zydis.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <random>
#include <string>
#include <vector>

#include "modules.h"

namespace {

class Decode : public testing::Test {
 protected:
  void SetUp() override {
    ZydisDecoderInit(&zydis_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  }

  struct Truth {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
  };
  bool truth(const uint8_t *code, size_t bytes, Truth *t) {
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&zydis_, code, bytes, &t->insn, t->operand));
  }

  // What sf_decode says of an instruction that Zydis knows must be true of it.
  void compare(const uint8_t *code, const Truth &t, const sf_insn &insn) {
    std::string bytes;
    for (int i = 0; i < t.insn.length; i++) {
      bytes += "0123456789abcdef"[code[i] >> 4];
      bytes += "0123456789abcdef"[code[i] & 15];
    }
    ASSERT_EQ(insn.length, t.insn.length) << bytes;
    bool relative = false, rip = false, writes_rsp = false;
    int written = -1;
    for (int i = 0; i < t.insn.operand_count; i++) {
      const auto &o = t.operand[i];
      if (o.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o.imm.is_relative) {
        relative = true;
        ZyanU64 target;
        ASSERT_TRUE(ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&t.insn, &o, 0x100000, &target)));
        EXPECT_EQ(insn.target, target) << bytes;
      }
      if (o.type == ZYDIS_OPERAND_TYPE_MEMORY && (o.mem.base == ZYDIS_REGISTER_RIP || o.mem.base == ZYDIS_REGISTER_EIP))
        rip = true;
      if (o.type == ZYDIS_OPERAND_TYPE_REGISTER && o.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
        auto wide = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o.reg.value);
        if (wide == ZYDIS_REGISTER_RSP) writes_rsp = true;
        if (ZydisRegisterGetClass(wide) == ZYDIS_REGCLASS_GPR64) {
          written = wide - ZYDIS_REGISTER_RAX;
          EXPECT_TRUE(insn.writes >> written & 1) << bytes << " " << ZydisMnemonicGetString(t.insn.mnemonic);
        }
      }
    }
    EXPECT_EQ(!!(insn.flags & SF_INSN_BRANCH), relative) << bytes;
    EXPECT_EQ(!!(insn.flags & SF_INSN_RIP_RELATIVE), rip) << bytes;
    EXPECT_EQ(!!(insn.flags & SF_INSN_SYSCALL), t.insn.mnemonic == ZYDIS_MNEMONIC_SYSCALL) << bytes;
    if (insn.flags & SF_INSN_MOVABLE) {
      EXPECT_FALSE(relative || writes_rsp) << bytes;
      EXPECT_EQ(t.insn.meta.branch_type, ZYDIS_BRANCH_TYPE_NONE) << bytes;
      EXPECT_EQ(insn.dest, written) << bytes << " " << ZydisMnemonicGetString(t.insn.mnemonic);
    }
    if (t.insn.mnemonic == ZYDIS_MNEMONIC_JMP && !relative) { EXPECT_TRUE(insn.flags & SF_INSN_INDIRECT) << bytes; }
    if (t.insn.mnemonic == ZYDIS_MNEMONIC_RET) { EXPECT_TRUE(insn.flags & SF_INSN_ENDS) << bytes; }
  }

  ZydisDecoder zydis_;
};

TEST_F(Decode, AllOfTheCLibrary) {
  sf_auxv auxv;
  ASSERT_EQ(sf_auxv_read(environ, &auxv), 0);
  sf_module modules[SF_MODULES_MAX];
  int count = sf_modules_find(&auxv, modules);
  ASSERT_GE(count, 2);
  EXPECT_EQ(std::string(modules[0].name), "libc.so.6");
  for (int m = 0; m < count; m++) {
    auto text = (const uint8_t *)modules[m].text;
    size_t bytes = modules[m].text_end - modules[m].text;
    long known = 0;
    for (size_t at = 0; at < bytes;) {
      Truth t;
      if (!truth(text + at, bytes - at, &t)) {
        at++;
        continue;
      }
      sf_insn insn;
      ASSERT_EQ(sf_decode(text + at, bytes - at, 0x100000, &insn), 0) << modules[m].name << " " << std::hex << at;
      compare(text + at, t, insn);
      if (HasFatalFailure()) return;
      known++;
      at += t.insn.length;
    }
    EXPECT_GT(known, 10000);
  }
}

// Random bytes: where both know an instruction they agree, and nothing is read behind the end.
TEST_F(Decode, RandomBytes) {
  std::mt19937_64 random(20240607);
  long agreed = 0, unknown_here = 0;
  for (int round = 0; round < 2000000; round++) {
    uint64_t words[2] = {random(), random()};
    auto code = (uint8_t *)words;
    if (round % 4 == 0) code[0] = 0x0f;
    if (round % 4 == 1) code[0] = 0x48 | (code[0] & 7);
    Truth t;
    bool known = truth(code, 15, &t);
    sf_insn insn;
    if (sf_decode(code, 15, 0x100000, &insn)) {
      unknown_here += known;
      continue;
    }
    EXPECT_LE(insn.length, 15);
    if (!known) continue;  // lengths of what no processor runs do not matter
    // Near branches with an operand size prefix differ between makers of processors.
    if (t.insn.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE && insn.flags & SF_INSN_BRANCH) continue;
    compare(code, t, insn);
    if (HasFailure()) return;
    agreed++;
  }
  EXPECT_GT(agreed, 500000);
  EXPECT_LT(unknown_here, agreed / 20);  // privileged ones, and prefixes behind prefixes
}

// The short way says what the long one says, of whatever bytes. It is taken where 16 may be read.
void compare_ways(const uint8_t *code, size_t bytes) {
  constexpr uint32_t kFlow = SF_INSN_BRANCH | SF_INSN_INDIRECT | SF_INSN_TABLE | SF_INSN_RIP_RELATIVE |
                             SF_INSN_SYSCALL | SF_INSN_ENDS | SF_INSN_CALL;
  sf_insn slow, all, move, flow;
  const int known = sf_decode(code, bytes < 15 ? bytes : 15, 0x100000, &slow);
  ASSERT_EQ(sf_decode(code, bytes, 0x100000, &all), known);
  ASSERT_EQ(sf_decode_move(code, bytes, 0x100000, &move), known);
  ASSERT_EQ(sf_decode_flow(code, bytes, 0x100000, &flow), known);
  if (known != 0) return;
  for (const sf_insn *one : {&all, &move, &flow}) {
    ASSERT_EQ(one->length, slow.length);
    ASSERT_EQ(one->disp_at, slow.disp_at);
    ASSERT_EQ(one->target, slow.target);
    ASSERT_EQ(one->flags, one == &flow ? slow.flags & kFlow : slow.flags);
    if (one == &flow) break;
    ASSERT_EQ(one->dest, slow.dest);
    ASSERT_EQ(one->source, slow.source);
    ASSERT_EQ(one->imm, slow.imm);
  }
  ASSERT_EQ(all.writes, slow.writes);
}

TEST_F(Decode, TheSameTheShortWay) {
  sf_auxv auxv;
  ASSERT_EQ(sf_auxv_read(environ, &auxv), 0);
  sf_module modules[SF_MODULES_MAX];
  const int count = sf_modules_find(&auxv, modules);
  ASSERT_GE(count, 2);
  // Also from the middle of instructions, which is as good as random.
  for (int m = 0; m < count; m++) {
    for (uint64_t at = modules[m].text; at < modules[m].text_end && !HasFatalFailure(); at++)
      compare_ways((const uint8_t *)at, modules[m].text_end - at);
  }
  constexpr uint8_t kPrefixes[] = {0x66, 0xf2, 0xf3, 0xf0, 0x64, 0x2e, 0x67};
  std::mt19937_64 random(4711);
  for (int round = 0; round < 2'000'000 && !HasFatalFailure(); round++) {
    uint64_t words[3] = {random(), random(), random()};
    auto code = (uint8_t *)words;
    if (round % 4 == 0) code[0] = 0x0f;
    if (round % 4 == 1) code[0] = 0x40 | (code[0] & 15);
    if (round % 8 == 2) code[0] = kPrefixes[code[0] % sizeof kPrefixes];
    compare_ways(code, 8 + (size_t)(round / 4 % 9));
  }
}

TEST_F(Decode, CutOff) {
  const std::vector<std::vector<uint8_t>> kWhole = {
      {0xb8, 1, 0, 0, 0}, {0x0f, 0x05}, {0x4c, 0x8b, 0x4c, 0x24, 0x08}, {0xe9, 0, 0, 0, 0},
      {0xc5, 0xf8, 0x77}, {0x62, 0xf1, 0x7c, 0x48, 0x10, 0x07}, {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}};
  for (const auto &code : kWhole) {
    sf_insn insn;
    ASSERT_EQ(sf_decode(code.data(), code.size(), 0, &insn), 0);
    EXPECT_EQ(insn.length, code.size());
    for (size_t bytes = 0; bytes < code.size(); bytes++) {
      std::vector<uint8_t> part(code.begin(), code.begin() + (long)bytes);
      EXPECT_EQ(sf_decode(part.data(), bytes, 0, &insn), -1);
    }
  }
}

// What compilers put between a number and its system call is not "may write everything".
TEST_F(Decode, Writes) {
  const std::vector<std::pair<std::vector<uint8_t>, uint16_t>> kCases = {
      {{0x58}, 0x11},                    // pop %rax
      {{0x41, 0x5c}, 0x1010},            // pop %r12
      {{0x48, 0xf7, 0xf1}, 0x05},        // div %rcx
      {{0x48, 0x93}, 0x09},              // xchg %rax,%rbx
      {{0xf0, 0x0f, 0xb1, 0x0f}, 0x01},  // lock cmpxchg %ecx,(%rdi)
      {{0x88, 0xe1}, 0x02},              // mov %ah,%cl
      {{0xb4, 0x03}, 0x01},              // mov $3,%ah
      {{0x85, 0xc0}, 0},                 // test %eax,%eax
      {{0x0f, 0x11, 0x07}, 0},           // movups %xmm0,(%rdi)
      {{0x74, 0x00}, 0},                 // je
      {{0x0f, 0x05}, 0x0803}};           // syscall
  for (const auto &[code, writes] : kCases) {
    sf_insn insn;
    ASSERT_EQ(sf_decode(code.data(), code.size(), 0, &insn), 0);
    EXPECT_EQ(insn.writes, writes) << std::hex << (int)code[0];
  }
}

TEST_F(Decode, Constants) {
  sf_insn insn;
  const uint8_t mov[] = {0xb8, 0x2a, 0, 0, 0}, zero[] = {0x45, 0x31, 0xd2}, copy[] = {0x44, 0x89, 0xc8};
  ASSERT_EQ(sf_decode(mov, sizeof mov, 0, &insn), 0);
  EXPECT_TRUE(insn.flags & SF_INSN_CONST);
  EXPECT_EQ(insn.imm, 42);
  EXPECT_EQ(insn.dest, 0);
  ASSERT_EQ(sf_decode(zero, sizeof zero, 0, &insn), 0);
  EXPECT_TRUE(insn.flags & SF_INSN_CONST);
  EXPECT_EQ(insn.imm, 0);
  EXPECT_EQ(insn.dest, 10);
  ASSERT_EQ(sf_decode(copy, sizeof copy, 0, &insn), 0);
  EXPECT_TRUE(insn.flags & SF_INSN_MOV_REG);
  EXPECT_EQ(insn.dest, 0);
  EXPECT_EQ(insn.source, 9);
}

}  // namespace
