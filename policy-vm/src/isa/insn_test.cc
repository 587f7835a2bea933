// Every instruction, through the interpreter and through machine code, against results written down here or computed
// here by other means (128-bit arithmetic, bytes one by one).
#include "isa/insn.h"

#include <errno.h>
#include <gtest/gtest.h>

#include <functional>

#include "isa/disasm.h"
#include "testing/opcodes.h"
#include "testing/testing.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

// When all tests of this file have run, every instruction has, in both ways.
class EveryOpcode : public ::testing::Environment {
  void TearDown() override {
    const auto *tests = ::testing::UnitTest::GetInstance();
    if (tests->test_to_run_count() != tests->total_test_count()) return;
    EXPECT_EQ(opcodes_of_tests().interpreted.missing(), "");
    EXPECT_EQ(opcodes_of_tests().compiled.missing(), "");
    EXPECT_GT(all_opcodes().size(), 150u);
  }
};
[[maybe_unused]] ::testing::Environment *const kEveryOpcode =
    ::testing::AddGlobalTestEnvironment(new EveryOpcode);

// Programs in one image (compiled once), each with two operands: ctx->node in r6 and ctx->nodeid in r7.
class Bench {
 public:
  uint32_t add(const Code &body) {
    Code code =
        Code{load(8, 6, 1, offsetof(sf_fuse_ctx, node)), load(8, 7, 1, offsetof(sf_fuse_ctx, nodeid)), mov(0, 0)} +
        body;
    programs_.push_back(make_program(code, "fuse/read"));
    return static_cast<uint32_t>(programs_.size()) - 1;
  }
  void finish() {
    auto policy = verified_policy(programs_);
    ASSERT_TRUE(policy) << policy.error().str();
    auto image = Image::publish(*policy, Lowering::Required);
    ASSERT_TRUE(image) << image.error().str();
    image_.emplace(std::move(*image));
    ASSERT_EQ(sf_image_check(image_->get(), image_->bytes()), 0);
  }
  // Both results must be equal; that one is returned.
  uint64_t run(uint32_t program, uint64_t a, uint64_t b) {
    sf_fuse_ctx ctx{};
    ctx.node = a;
    ctx.nodeid = b;
    Host one, two;
    uint64_t interpreted = image_->interpret(program, &ctx, one.env());
    uint64_t compiled = image_->run_code(program, &ctx, two.env());
    EXPECT_EQ(interpreted, compiled) << "program " << program << " of " << std::hex << a << ", " << b;
    EXPECT_TRUE(one.effects() == two.effects());
    return interpreted;
  }

 private:
  std::vector<LinkedProgram> programs_;
  std::optional<Image> image_;
};

constexpr uint64_t kEdges[] = {0,
                               1,
                               2,
                               3,
                               5,
                               7,
                               8,
                               31,
                               32,
                               33,
                               63,
                               64,
                               65,
                               127,
                               128,
                               255,
                               256,
                               0x7fff,
                               0x8000,
                               0xffff,
                               0x10000,
                               0x7fffffff,
                               0x80000000,
                               0x80000001,
                               0xfffffffe,
                               0xffffffff,
                               0x100000000,
                               0x1234567890abcdef,
                               0x7fffffffffffffff,
                               0x8000000000000000,
                               0x8000000000000001,
                               0xfffffffffffffff0,
                               0xffffffff80000000,
                               0xffffffff7fffffff,
                               0xfffffffffffffffe,
                               0xffffffffffffffff};

struct AluCase {
  const char *name;
  int op, off;
  std::function<uint64_t(uint64_t, uint64_t)> wide;    // written out again, independently
  std::function<uint32_t(uint32_t, uint32_t)> narrow;
};

using i128 = __int128;

const AluCase kAlu[] = {
    {"add", kAdd, 0, [](auto a, auto b) { return uint64_t(i128(a) + b); },
     [](auto a, auto b) { return uint32_t(uint64_t(a) + b); }},
    {"sub", kSub, 0, [](auto a, auto b) { return uint64_t(i128(a) - b); },
     [](auto a, auto b) { return uint32_t(int64_t(a) - int64_t(b)); }},
    {"mul", kMul, 0, [](auto a, auto b) { return uint64_t((unsigned __int128)a * b); },
     [](auto a, auto b) { return uint32_t(uint64_t(a) * b); }},
    {"div", kDiv, 0, [](auto a, auto b) { return b ? a / b : 0; }, [](auto a, auto b) { return b ? a / b : 0; }},
    {"mod", kMod, 0, [](auto a, auto b) { return b ? a % b : a; }, [](auto a, auto b) { return b ? a % b : a; }},
    {"sdiv", kDiv, 1, [](auto a, auto b) { return b ? uint64_t(i128(int64_t(a)) / int64_t(b)) : 0; },
     [](auto a, auto b) { return b ? uint32_t(int64_t(int32_t(a)) / int32_t(b)) : 0; }},
    {"smod", kMod, 1, [](auto a, auto b) { return b ? uint64_t(i128(int64_t(a)) % int64_t(b)) : a; },
     [](auto a, auto b) { return b ? uint32_t(int64_t(int32_t(a)) % int32_t(b)) : a; }},
    {"or", kOr, 0, [](auto a, auto b) { return a | b; }, [](auto a, auto b) { return a | b; }},
    {"and", kAnd, 0, [](auto a, auto b) { return a & b; }, [](auto a, auto b) { return a & b; }},
    {"xor", kXor, 0, [](auto a, auto b) { return (a | b) & ~(a & b); },
     [](auto a, auto b) { return (a | b) & ~(a & b); }},
    {"mov", kMov, 0, [](auto, auto b) { return b; }, [](auto, auto b) { return b; }},
    {"lsh", kLsh, 0, [](auto a, auto b) { return a << b % 64; }, [](auto a, auto b) { return a << b % 32; }},
    {"rsh", kRsh, 0, [](auto a, auto b) { return a >> b % 64; }, [](auto a, auto b) { return a >> b % 32; }},
    {"arsh", kArsh, 0, [](auto a, auto b) { return uint64_t(i128(int64_t(a)) >> b % 64); },
     [](auto a, auto b) { return uint32_t(int64_t(int32_t(a)) >> b % 32); }},
};

TEST(Instructions, ArithmeticWithRegisters) {
  Bench bench;
  std::vector<uint32_t> wide, narrow;
  for (const AluCase &c : kAlu) {
    wide.push_back(bench.add({alu_reg(c.op, 6, 7, c.off), mov_reg(0, 6), leave()}));
    narrow.push_back(bench.add({alu32_reg(c.op, 6, 7, c.off), mov_reg(0, 6), leave()}));
  }
  ASSERT_NO_FATAL_FAILURE(bench.finish());
  for (size_t i = 0; i < std::size(kAlu); i++) {
    for (uint64_t a : kEdges) {
      for (uint64_t b : kEdges) {
        ASSERT_EQ(bench.run(wide[i], a, b), kAlu[i].wide(a, b)) << kAlu[i].name << " " << std::hex << a << " " << b;
        ASSERT_EQ(bench.run(narrow[i], a, b), kAlu[i].narrow(uint32_t(a), uint32_t(b)))
            << kAlu[i].name << "32 " << std::hex << a << " " << b;
      }
    }
  }
}

TEST(Instructions, ArithmeticWithConstants) {
  for (int32_t imm : {0, 1, 2, 7, 31, 33, 63, 255, 0x7fffffff, -1, -2, -64, std::numeric_limits<int32_t>::min()}) {
    Bench bench;
    std::vector<uint32_t> wide, narrow;
    for (const AluCase &c : kAlu) {
      wide.push_back(bench.add({alu_imm(c.op, 6, imm, c.off), mov_reg(0, 6), leave()}));
      narrow.push_back(bench.add({alu32_imm(c.op, 6, imm, c.off), mov_reg(0, 6), leave()}));
    }
    ASSERT_NO_FATAL_FAILURE(bench.finish());
    for (size_t i = 0; i < std::size(kAlu); i++) {
      for (uint64_t a : kEdges) {
        ASSERT_EQ(bench.run(wide[i], a, 0), kAlu[i].wide(a, uint64_t(int64_t(imm)))) << kAlu[i].name << " " << imm;
        ASSERT_EQ(bench.run(narrow[i], a, 0), kAlu[i].narrow(uint32_t(a), uint32_t(imm)))
            << kAlu[i].name << "32 " << imm;
      }
    }
  }
}

struct JumpCase {
  const char *name;
  int op;
  std::function<bool(i128 a, i128 b)> holds;  // of operands widened without loss
  bool is_signed;
};

const JumpCase kJumpCases[] = {
    {"==", kEq, [](i128 a, i128 b) { return a == b; }, false},
    {"!=", kNe, [](i128 a, i128 b) { return a != b; }, false},
    {">", kGt, [](i128 a, i128 b) { return a > b; }, false},
    {">=", kGe, [](i128 a, i128 b) { return a >= b; }, false},
    {"<", kLt, [](i128 a, i128 b) { return a < b; }, false},
    {"<=", kLe, [](i128 a, i128 b) { return a <= b; }, false},
    {"s>", kSgt, [](i128 a, i128 b) { return a > b; }, true},
    {"s>=", kSge, [](i128 a, i128 b) { return a >= b; }, true},
    {"s<", kSlt, [](i128 a, i128 b) { return a < b; }, true},
    {"s<=", kSle, [](i128 a, i128 b) { return a <= b; }, true},
    {"&", kSet, [](i128 a, i128 b) { return (a & b) != 0; }, false},
};

TEST(Instructions, Jumps) {
  Bench bench;
  std::vector<uint32_t> wide, narrow, wide_imm, narrow_imm;
  const Code tail{mov(0, 1), leave(), mov(0, 2), leave()};
  for (const JumpCase &c : kJumpCases) {
    wide.push_back(bench.add(Code{jump_reg(c.op, 6, 7, 2)} + tail));
    narrow.push_back(bench.add(Code{jump32_reg(c.op, 6, 7, 2)} + tail));
    wide_imm.push_back(bench.add(Code{jump_imm(c.op, 6, -2, 2)} + tail));
    narrow_imm.push_back(bench.add(Code{jump32_imm(c.op, 6, -2, 2)} + tail));
  }
  ASSERT_NO_FATAL_FAILURE(bench.finish());
  for (size_t i = 0; i < std::size(kJumpCases); i++) {
    const JumpCase &c = kJumpCases[i];
    auto expected = [&](uint64_t a, uint64_t b, bool is_wide) -> uint64_t {
      if (is_wide)
        return c.holds(c.is_signed ? i128(int64_t(a)) : i128(a), c.is_signed ? i128(int64_t(b)) : i128(b)) ? 2 : 1;
      return c.holds(c.is_signed ? i128(int32_t(a)) : i128(uint32_t(a)),
                     c.is_signed ? i128(int32_t(b)) : i128(uint32_t(b)))
                 ? 2
                 : 1;
    };
    for (uint64_t a : kEdges) {
      ASSERT_EQ(bench.run(wide_imm[i], a, 0), expected(a, uint64_t(-2), true)) << c.name;
      ASSERT_EQ(bench.run(narrow_imm[i], a, 0), expected(a, uint64_t(-2), false)) << c.name << " 32";
      for (uint64_t b : kEdges) {
        ASSERT_EQ(bench.run(wide[i], a, b), expected(a, b, true)) << c.name;
        ASSERT_EQ(bench.run(narrow[i], a, b), expected(a, b, false)) << c.name << " 32";
      }
    }
  }
}

// One instruction each, with its result: what has no operand matrix of its own.
struct Single {
  const char *text;  // as the disassembler says it
  Code body;         // on r6 = a, r7 = b
  uint64_t a, b, result;
};

const Single kSingles[] = {
  {"r6 = -r6", {raw(kClassAlu64 | kNeg, 6, 0, 0, 0)}, 5, 0, uint64_t(-5)},
  {"r6 = -r6", {raw(kClassAlu64 | kNeg, 6, 0, 0, 0)}, 1ull << 63, 0, 1ull << 63},
  {"w6 = -w6", {raw(kClassAlu | kNeg, 6, 0, 0, 0)}, 0xffffffff00000005, 0, 0xfffffffb},
  {"r6 = le16 r6", {raw(kClassAlu | kEnd, 6, 0, 0, 16)}, 0x1122334455667788, 0, 0x7788},
  {"r6 = le32 r6", {raw(kClassAlu | kEnd, 6, 0, 0, 32)}, 0x1122334455667788, 0, 0x55667788},
  {"r6 = le64 r6", {raw(kClassAlu | kEnd, 6, 0, 0, 64)}, 0x1122334455667788, 0, 0x1122334455667788},
  {"r6 = be16 r6", {raw(kClassAlu | kEnd | kSourceReg, 6, 0, 0, 16)}, 0x1122334455667788, 0, 0x8877},
  {"r6 = be32 r6", {raw(kClassAlu | kEnd | kSourceReg, 6, 0, 0, 32)}, 0x1122334455667788, 0, 0x88776655},
  {"r6 = be64 r6", {raw(kClassAlu | kEnd | kSourceReg, 6, 0, 0, 64)}, 0x1122334455667788, 0, 0x8877665544332211},
  {"r6 = bswap16 r6", {raw(kClassAlu64 | kEnd, 6, 0, 0, 16)}, 0x1122334455667788, 0, 0x8877},
  {"r6 = bswap32 r6", {raw(kClassAlu64 | kEnd, 6, 0, 0, 32)}, 0x1122334455667788, 0, 0x88776655},
  {"r6 = bswap64 r6", {raw(kClassAlu64 | kEnd, 6, 0, 0, 64)}, 0x1122334455667788, 0, 0x8877665544332211},
  {"r6 = (s8)r7", {alu_reg(kMov, 6, 7, 8)}, 0, 0x180, uint64_t(-128)},
  {"r6 = (s16)r7", {alu_reg(kMov, 6, 7, 16)}, 0, 0x17fff, 0x7fff},
  {"r6 = (s32)r7", {alu_reg(kMov, 6, 7, 32)}, 0, 0x80000000, 0xffffffff80000000},
  {"w6 = (s8)w7", {alu32_reg(kMov, 6, 7, 8)}, 0, 0x80, 0xffffff80},
  {"w6 = (s16)w7", {alu32_reg(kMov, 6, 7, 16)}, 0, 0x8000, 0xffff8000},
  {"r6 = -1311768467294237377 ll", load64(6, 0xedcba9876f5e4d3f), 0, 0, 0xedcba9876f5e4d3f},
  {"r6 = 3", {mov(6, 3)}, 0, 0, 3},
  {"w6 = -1", {alu32_imm(kMov, 6, -1)}, 0, 0, 0xffffffff},
  {"goto 2", {raw(kClassJmp | kJumpAlways, 0, 0, 1, 0), mov(6, 1), mov(7, 2)}, 9, 0, 9},
  {"goto 2", {raw(kClassJmp32 | kJumpAlways, 0, 0, 0, 1), mov(6, 1), mov(7, 2)}, 9, 0, 9},
};

TEST(Instructions, CallsAreNamed) {
  auto text = [](int32_t id) {
    const RawInsn call{kOpCall, 0, 0, id};
    Insn in;
    return decode_insn(&call, 1, &in) ? "" : disassemble(in, 0);
  };
  EXPECT_EQ(text(SF_HOST_COUNT + 2), "call function 2 of the host");
  EXPECT_EQ(text(SF_HOST_LIMIT), "call unknown " + std::to_string(SF_HOST_LIMIT));
}

TEST(Instructions, Singles) {
  Bench bench;
  for (const Single &s : kSingles) {
    Insn in;
    ASSERT_EQ(decode_insn(s.body.data(), uint32_t(s.body.size()), &in), nullptr) << s.text;
    EXPECT_EQ(disassemble(in, 0), s.text);
    Code body = s.body;
    if (in.kind == Kind::JumpAlways)
      body = {jump_reg(kNe, 6, 6, 1), s.body[0], s.body[1], s.body[2]};  // all of it reachable
    bench.add(body + Code{mov_reg(0, 6), leave()});
  }
  ASSERT_NO_FATAL_FAILURE(bench.finish());
  for (uint32_t i = 0; i < std::size(kSingles); i++) {
    EXPECT_EQ(bench.run(i, kSingles[i].a, kSingles[i].b), kSingles[i].result) << kSingles[i].text;
  }
}

// Of a map's value, and of a map: even keys are found.
TEST(Instructions, AddressesOfMaps) {
  Bench bench;
  const uint32_t value = bench.add(load_value(1, kRodata) + Code{load(8, 0, 1, 0), leave()});
  const uint32_t behind = bench.add(load_value(1, kRodata, 5) + Code{load(1, 0, 1, 0), leave()});
  const uint32_t map = bench.add(Code{store(8, 10, -8, 6), mov_reg(2, 10), alu_imm(kAdd, 2, -8)} +
                                 load_map(1, kHashMap) +
                                 Code{call(SF_HOST_MAP_LOOKUP), jump_imm(kEq, 0, 0, 1), load(1, 0, 0, 1), leave()});
  ASSERT_NO_FATAL_FAILURE(bench.finish());
  EXPECT_EQ(bench.run(value, 0, 0), 0x746e6174736e6f63u);  // "constant"
  EXPECT_EQ(bench.run(behind, 0, 0), uint64_t{'a'});
  EXPECT_EQ(bench.run(map, 1, 0), 0u);
  EXPECT_EQ(bench.run(map, 2, 0), 37u);
}

TEST(Instructions, MemoryOfEverySize) {
  Bench bench;
  std::vector<uint32_t> loads, sign_loads, immediates;
  for (int bytes : {1, 2, 4, 8}) {
    // A pattern, part of it overwritten, all of it read back.
    Code prepare{mov(1, -1), store(8, 10, -16, 1), store(8, 10, -8, 1)};
    loads.push_back(
        bench.add(prepare + Code{store(bytes, 10, -16 + bytes, 6), load(bytes, 0, 10, -16 + bytes), leave()}));
    if (bytes < 8)
      sign_loads.push_back(bench.add(prepare + Code{store(bytes, 10, -9, 6), load_sx(bytes, 0, 10, -9), leave()}));
    immediates.push_back(bench.add(prepare + Code{store_imm(bytes, 10, -16, -5), load(8, 0, 10, -16), leave()}));
  }
  ASSERT_NO_FATAL_FAILURE(bench.finish());
  for (unsigned i = 0; i < 4; i++) {
    unsigned bits = 8u << i;
    uint64_t mask = bits == 64 ? ~0ull : (1ull << bits) - 1;
    for (uint64_t a : kEdges) {
      EXPECT_EQ(bench.run(loads[i], a, 0), a & mask);
    }
    EXPECT_EQ(bench.run(immediates[i], 0, 0), (uint64_t(-5) & mask) | ~mask);
  }
  for (uint64_t a : kEdges) {
    EXPECT_EQ(bench.run(sign_loads[0], a, 0), uint64_t(int64_t(int8_t(a))));
    EXPECT_EQ(bench.run(sign_loads[1], a, 0), uint64_t(int64_t(int16_t(a))));
    EXPECT_EQ(bench.run(sign_loads[2], a, 0), uint64_t(int64_t(int32_t(a))));
  }
}

struct AtomicCase {
  const char *name;
  int op;
  bool fetch;
  std::function<uint64_t(uint64_t memory, uint64_t operand)> value;
};

const AtomicCase kAtomics[] = {
    {"add", 0x00, false, [](uint64_t m, uint64_t o) { return m + o; }},
    {"or", 0x40, false, [](uint64_t m, uint64_t o) { return m | o; }},
    {"and", 0x50, false, [](uint64_t m, uint64_t o) { return m & o; }},
    {"xor", 0xa0, false, [](uint64_t m, uint64_t o) { return m ^ o; }},
    {"fetch add", 0x01, true, [](uint64_t m, uint64_t o) { return m + o; }},
    {"fetch or", 0x41, true, [](uint64_t m, uint64_t o) { return m | o; }},
    {"fetch and", 0x51, true, [](uint64_t m, uint64_t o) { return m & o; }},
    {"fetch xor", 0xa1, true, [](uint64_t m, uint64_t o) { return m ^ o; }},
    {"xchg", 0xe1, true, [](uint64_t, uint64_t o) { return o; }},
};

// Memory holds a, the operand is b; seen are what is in memory afterwards and what the operand's register holds.
TEST(Instructions, Atomics) {
  Bench bench;
  std::vector<std::vector<uint32_t>> memory(2), fetched(2);
  for (int wide : {0, 1}) {
    int bytes = wide ? 8 : 4;
    for (const AtomicCase &c : kAtomics) {
      Code body{store(8, 10, -8, 6), atomic(bytes, 10, -8, 7, c.op)};
      memory[wide].push_back(bench.add(body + Code{load(8, 0, 10, -8), leave()}));
      fetched[wide].push_back(bench.add(body + Code{mov_reg(0, 7), leave()}));
    }
  }
  ASSERT_NO_FATAL_FAILURE(bench.finish());
  for (size_t i = 0; i < std::size(kAtomics); i++) {
    const AtomicCase &c = kAtomics[i];
    for (uint64_t a : kEdges) {
      for (uint64_t b : kEdges) {
        ASSERT_EQ(bench.run(memory[1][i], a, b), c.value(a, b)) << c.name;
        ASSERT_EQ(bench.run(memory[0][i], a, b), uint32_t(c.value(uint32_t(a), uint32_t(b))) | (a >> 32 << 32))
            << c.name << " 32";
        ASSERT_EQ(bench.run(fetched[1][i], a, b), c.fetch ? a : b) << c.name;
        ASSERT_EQ(bench.run(fetched[0][i], a, b), c.fetch ? uint32_t(a) : b) << c.name << " 32";
      }
    }
  }
}

TEST(Instructions, CompareAndExchange) {
  Bench bench;
  std::vector<uint32_t> memory, result;
  for (int bytes : {4, 8}) {  // memory holds a; expected is b; new is 77
    Code body{store(8, 10, -8, 6), mov_reg(0, 7), mov(8, 77), atomic(bytes, 10, -8, 8, 0xf1)};
    memory.push_back(bench.add(body + Code{load(8, 0, 10, -8), leave()}));
    result.push_back(bench.add(body + Code{leave()}));
  }
  ASSERT_NO_FATAL_FAILURE(bench.finish());
  for (uint64_t a : kEdges) {
    for (uint64_t b : kEdges) {
      ASSERT_EQ(bench.run(memory[1], a, b), a == b ? 77 : a);
      ASSERT_EQ(bench.run(result[1], a, b), a);
      ASSERT_EQ(bench.run(memory[0], a, b), uint32_t(a) == uint32_t(b) ? (a >> 32 << 32) | 77 : a);
      ASSERT_EQ(bench.run(result[0], a, b), uint32_t(a));
    }
  }
}

// Sub-programs: arguments, results, preserved registers, frames that do not overlap, eight levels of them.
TEST(Instructions, SubPrograms) {
  Bench bench;
  std::vector<LinkedProgram> programs;
  // main: saves a below, calls f(a) = f2(a + 1) * 2, checks that its stack and r6 are as before.
  Code code{load(8, 6, 1, 16),
            store(8, 10, -8, 6),
            mov_reg(1, 6),
            call_local(4),
            load(8, 1, 10, -8),
            alu_reg(kSub, 1, 6),
            alu_reg(kAdd, 0, 1),
            leave(),
            store_imm(8, 10, -8, 5),
            alu_imm(kAdd, 1, 1),
            mov(6, 99),
            call_local(3),
            alu_imm(kMul, 0, 2),
            alu_reg(kAdd, 0, 6),
            leave(),
            store(8, 10, -16, 1),
            mov(6, 3),
            mov(7, 4),
            load(8, 0, 10, -16),
            leave()};
  auto policy = verified_policy({make_program(code, "fuse/read", {8, 15})});
  ASSERT_TRUE(policy) << policy.error().str();
  EXPECT_EQ(policy->programs[0].stack_bytes, 32u);
  auto image = Image::publish(*policy, Lowering::Required);
  ASSERT_TRUE(image) << image.error().str();
  for (uint64_t a : kEdges) {
    sf_fuse_ctx ctx{};
    ctx.node = a;
    Host host;
    EXPECT_EQ(image->interpret(0, &ctx, host.env()), (a + 1) * 2 + 99);
    EXPECT_EQ(image->run_code(0, &ctx, host.env()), (a + 1) * 2 + 99);
  }
}

// What follows was not seen by the verifier: it may lag behind what can be run.
struct Both {
  std::optional<Image> image;
  uint64_t fuel = 1 << 20;

  explicit Both(const Code &code, std::vector<uint32_t> functions = {}) {
    auto published = Image::publish(trusted_policy({make_program(code, "fuse/read", std::move(functions))}),
                                    Lowering::Required);
    if (published) image.emplace(std::move(*published));
    EXPECT_TRUE(published) << published.error().str();
  }
  // Also the fuel that is left must be the same.
  uint64_t run(uint64_t a = 0, uint64_t b = 0) {
    sf_fuse_ctx ctx{};
    ctx.node = a;
    ctx.nodeid = b;
    Host one, two;
    one.env()->fuel = two.env()->fuel = fuel;
    const char *base = reinterpret_cast<const char *>(image->get());
    const sf_image_program &p = image->get()->program[0];
    opcodes_of_tests().interpreted.add(image->insns(0), p.insns);
    opcodes_of_tests().compiled.add(image->insns(0), p.insns);
    uint64_t interpreted = sf_interpret(image->insns(0), p.insns, &ctx, one.env());
    uint64_t compiled =
        reinterpret_cast<sf_image_entry>(reinterpret_cast<uintptr_t>(base + p.code_offset))(&ctx, two.env());
    EXPECT_EQ(interpreted, compiled);
    EXPECT_EQ(one.env()->fuel, two.env()->fuel);
    EXPECT_TRUE(one.effects() == two.effects());
    left = one.env()->fuel;
    return interpreted;
  }
  uint64_t left = 0;
};

TEST(Instructions, FunctionsAreCalledByAddress) {
  // Two functions; the context chooses. The caller's frame and registers stay.
  Both both(Code{load(8, 7, 1, 16), mov(6, 1000), store_imm(8, 10, -8, 5)} + load_function_at(8, 10) +
                Code{jump_imm(kEq, 7, 0, 2)} + load_function_at(8, 12) +
                Code{mov(1, 30), mov(2, 4), call_reg(8), alu_reg(kAdd, 0, 6), load(8, 1, 10, -8), alu_reg(kAdd, 0, 1),
                     leave()} +
                Code{mov(6, 0), store_imm(8, 10, -8, 0), mov_reg(0, 1), alu_reg(kAdd, 0, 2), leave()} +
                Code{mov_reg(0, 1), alu_reg(kMul, 0, 2), leave()},
            {15, 20});
  EXPECT_EQ(both.run(0), 30u + 4 + 1000 + 5);
  EXPECT_EQ(both.run(1), 30u * 4 + 1000 + 5);
}

// r6 = a: rounds; the context of the body is a word on the stack. Ends where the index is b.
const Code kSumLoop = Code{load(8, 6, 1, 16), load(8, 7, 1, 24), store_imm(8, 10, -8, 0), store(8, 10, -16, 7),
                           mov_reg(1, 6)} +
                      load_function_at(2, 10) +
                      Code{mov_reg(3, 10), alu_imm(kAdd, 3, -16), mov(4, 0), raw(kOpCall, 0, 0, 0, SF_HOST_LOOP),
                           load(8, 1, 10, -8), alu_imm(kLsh, 1, 32), alu_reg(kAdd, 0, 1), jump_imm(kNe, 6, -1, 1),
                           mov(0, 0), leave()} +
                      Code{load(8, 3, 2, 8), alu_reg(kAdd, 3, 1), store(8, 2, 8, 3), load(8, 3, 2, 0), mov(0, 0),
                           jump_reg(kNe, 3, 1, 1), mov(0, 1), leave()};

TEST(Instructions, LoopsCallTheirBody) {
  Both both(kSumLoop, {17});
  auto result = [](uint64_t sum, uint64_t rounds) { return (sum << 32) + rounds; };
  EXPECT_EQ(both.run(0, 5), result(0, 0));
  EXPECT_EQ(both.run(1, 5), result(0, 1));
  EXPECT_EQ(both.run(10, 100), result(45, 10));
  EXPECT_EQ(both.run(10, 4), result(10, 5));
  EXPECT_EQ(both.run(1000, ~0ull), result(499500, 1000));
  EXPECT_EQ(both.run(SF_LOOP_ROUNDS_MAX, 2), result(3, 3));
  EXPECT_EQ(both.run(SF_LOOP_ROUNDS_MAX + 1, 2), uint64_t(-E2BIG));
  EXPECT_EQ(both.run(1ull << 40, 2), uint64_t(-E2BIG));
  both.fuel = 50;
  EXPECT_EQ(both.run(100, ~0ull), uint64_t(SF_PASS));
  EXPECT_EQ(both.left, 0u);
}

TEST(Instructions, LoopsRefuseFlags) {
  for (int flags : {1, -1}) {
    Both both(Code{mov(1, 3)} + load_function_at(2, 5) +
                  Code{mov(3, 0), mov(4, flags), raw(kOpCall, 0, 0, 0, SF_HOST_LOOP), mov(5, 0), leave()} +
                  Code{mov(0, 0), leave()},
              {8});
    EXPECT_EQ(both.run(), uint64_t(-EINVAL));
    Both each(load_map(1, 0) + load_function_at(2, 5) +
                  Code{mov(3, 0), mov(4, flags), raw(kOpCall, 0, 0, 0, SF_HOST_FOR_EACH), mov(5, 0), leave()} +
                  Code{mov(0, 0), leave()},
              {9});
    EXPECT_EQ(each.run(), uint64_t(-EINVAL));
  }
}

// Seven levels of bodies below the program, two rounds each: 2 to the 7 innermost rounds, counted in .bss.
TEST(Instructions, LoopsNestToTheDepthOfCalls) {
  Code code{mov(0, 0)};
  std::vector<uint32_t> functions;
  for (int level = 0; level < 7; level++) {
    if (level > 0) functions.push_back(uint32_t(code.size()));
    code = code + Code{mov(6, level), mov(1, 2)} + load_function_at(2, 6) +
           Code{mov(3, 0), mov(4, 0), raw(kOpCall, 0, 0, 0, SF_HOST_LOOP), mov_reg(1, 6),
                jump_imm(kEq, 1, level, 1), leave(), mov(0, 0), leave()};
    code[code.size() - 8 - 1].imm = 8;  // behind this function
    code[code.size() - 10].imm = 9;
    code[code.size() - 9] = raw(0, 0, 0, 0, 0);
  }
  functions.push_back(uint32_t(code.size()));
  code = code + load_value(1, 3) + Code{load(8, 2, 1, 0), alu_imm(kAdd, 2, 1), store(8, 1, 0, 2), mov(0, 0), leave()};
  Both both(code, functions);
  EXPECT_EQ(both.run(), 0u);
  Host host;
  sf_fuse_ctx ctx{};
  memset(host.value(3), 0, 8);
  both.image->run_code(0, &ctx, host.env());
  EXPECT_EQ(host.value(3)[0], 128);
}

TEST(Instructions, ElementsAreVisited) {
  // Sums the keys' first bytes and counts in the value; stops where the context says.
  Both both(Code{load(8, 6, 1, 16), store(8, 10, -8, 6), store_imm(8, 10, -16, 0)} + load_map(1, 1) +
                load_function_at(2, 9) +
                Code{mov_reg(3, 10), alu_imm(kAdd, 3, -16), mov(4, 0), raw(kOpCall, 0, 0, 0, SF_HOST_FOR_EACH),
                     load(8, 1, 10, -16), alu_imm(kLsh, 1, 32), alu_reg(kAdd, 0, 1), mov(1, 0), leave()} +
                Code{load(1, 5, 2, 0), load(8, 1, 4, 0), alu_reg(kAdd, 1, 5), store(8, 4, 0, 1), load(8, 1, 3, 0),
                     alu_imm(kAdd, 1, 1), store(8, 3, 0, 1), mov(0, 0), load(8, 1, 4, 8), jump_reg(kNe, 1, 5, 1),
                     mov(0, 5), leave()},
            {16});
  EXPECT_EQ(both.run(0), (6ull << 32) + 3);
  EXPECT_EQ(both.run(2), (3ull << 32) + 2);
}

TEST(Instructions, TailCallsEndTheProgram) {
  Both both(Code{load(8, 3, 1, 16)} + load_map(2, 1) + Code{call(SF_HOST_TAIL_CALL), mov(0, 7), leave()});
  EXPECT_EQ(both.run(0), 7u);              // refused by the host: this program goes on
  EXPECT_EQ(both.run(1), uint64_t(SF_PASS));
}

// Fuel ends what the verifier would never have let through, in the same place both ways.
TEST(Instructions, FuelEndsARun) {
  Both endless(Code{mov(0, 5), go(-1), leave()});
  EXPECT_EQ(endless.run(), uint64_t(SF_PASS));
  EXPECT_EQ(endless.left, 0u);
  // 1000 rounds of two instructions, and a function of two.
  Both loop(Code{mov(6, 1000), mov(0, 7), alu_imm(kSub, 6, 1), jump_imm(kNe, 6, 0, -2), call_local(2),
                 alu_imm(kAdd, 0, 1), leave(), mov(0, 1), leave()},
            {7});
  loop.fuel = 999 * 2 + 2 + 1;
  EXPECT_EQ(loop.run(), 2u);
  EXPECT_EQ(loop.left, 1u);
  for (uint64_t fuel : {999 * 2 + 2, 999 * 2 + 1, 999 * 2, 999 * 2 - 1, 10, 1}) {
    loop.fuel = fuel;
    EXPECT_EQ(loop.run(), uint64_t(SF_PASS)) << fuel;
    EXPECT_EQ(loop.left, 0u);
  }
}

uint64_t answers_seven(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) { return 7; }

// An image may come to an application that has fewer functions than the one that it was made for.
TEST(Instructions, FunctionsThatAreNotThereEndARun) {
  struct Case { uint32_t id, own_functions; bool ends; };
  for (const Case &c : {Case{SF_HOST_KTIME, 0, false}, Case{SF_HOST_COUNT + 1, 2, false},
                        Case{SF_HOST_COUNT + 1, 1, true}, Case{SF_HOST_COUNT + 1, 0, true},
                        Case{SF_HOST_COUNT, 0, true}, Case{SF_HOST_COUNT, 1, false},
                        Case{SF_HOST_LIMIT - 1, 64, false}, Case{SF_HOST_LIMIT - 1, 63, true}}) {
    const RawInsn calling = raw(kOpCall, 0, 0, 0, c.id);
    // By the program and by a function of it.
    for (const Code &code : {Code{mov(0, 1), calling, leave()},
                             Code{mov(0, 1), call_local(1), leave(), mov(0, 2), calling, leave()}}) {
      Both both(code, code.size() > 3 ? std::vector<uint32_t>{3} : std::vector<uint32_t>{});
      ASSERT_TRUE(both.image);
      for (const bool compiled : {false, true}) {
        // Behind those that there are: what must not be looked at.
        std::vector<sf_host_fn> table(SF_HOST_COUNT + c.own_functions, answers_seven);
        table.shrink_to_fit();
        Host host;
        host.env()->host = table.data();
        host.env()->own_functions = c.own_functions;
        host.env()->fuel = 1000;
        sf_fuse_ctx ctx{};
        const char *base = reinterpret_cast<const char *>(both.image->get());
        const sf_image_program &p = both.image->get()->program[0];
        const auto entry = reinterpret_cast<sf_image_entry>(reinterpret_cast<uintptr_t>(base + p.code_offset));
        const uint64_t r0 = compiled ? entry(&ctx, host.env())
                                     : sf_interpret(base + p.insns_offset, p.insns, &ctx, host.env());
        EXPECT_EQ(r0, c.ends ? uint64_t{SF_PASS} : 7u) << c.id << " " << compiled;
        EXPECT_EQ(host.env()->fuel == 0, c.ends) << c.id << " " << compiled;
      }
    }
  }
}

// The interpreter survives code that no verifier has seen, as far as it makes no memory access.
TEST(Instructions, InterpreterSurvivesNonsense) {
  Host host;
  for (int code = 0; code < 256; code++) {
    if ((code & 7) >= kClassLdx && (code & 7) <= kClassStx) continue;
    for (uint8_t regs : {0x00, 0x11, 0x21, 0xff}) {
      if (code == kOpLoadImm64 && regs >> 4 != 0) continue;
      Code program{raw(code, regs & 15, regs >> 4, -3, -2), raw(code, regs & 15, regs >> 4, 1000, 1), leave()};
      host.env()->fuel = 100;
      sf_interpret(program.data(), uint32_t(program.size()), nullptr, host.env());
    }
  }
}

TEST(Instructions, DecoderRefusesReservedFields) {
  Insn in;
  auto wrong = [&](RawInsn r) { return decode_insn(&r, 1, &in) != nullptr; };
  EXPECT_TRUE(wrong(raw(0xff, 0, 0, 0, 0)));
  EXPECT_TRUE(wrong(raw(kClassAlu64 | kMov, 11, 0, 0, 0)));
  EXPECT_TRUE(wrong(raw(kClassAlu64 | kMov | kSourceReg, 1, 11, 0, 0)));
  EXPECT_TRUE(wrong(alu_imm(kAdd, 1, 1, 1)));
  EXPECT_TRUE(wrong(raw(kClassAlu64 | kAdd, 1, 2, 0, 0)));
  EXPECT_TRUE(wrong(raw(kClassAlu64 | kAdd | kSourceReg, 1, 2, 0, 5)));
  EXPECT_TRUE(wrong(raw(kClassAlu64 | kNeg, 1, 0, 0, 5)));
  EXPECT_TRUE(wrong(alu_reg(kMov, 1, 2, 7)));
  EXPECT_TRUE(wrong(alu32_reg(kMov, 1, 2, 32)));
  EXPECT_TRUE(wrong(raw(kClassAlu | kEnd, 1, 0, 0, 8)));
  EXPECT_TRUE(wrong(raw(kOpExit, 0, 0, 0, 1)));
  EXPECT_TRUE(wrong(raw(kOpLoadImm64, 1, 0, 0, 1)));
  EXPECT_TRUE(wrong(atomic(8, 10, -8, 1, 0x33)));
  EXPECT_TRUE(wrong(atomic(8, 10, -8, 1, 0xe0)));
  EXPECT_TRUE(wrong(atomic(2, 10, -8, 1, 0)));
  EXPECT_TRUE(wrong(raw(kClassLdx | kModeMem, 1, 2, 0, 3)));
  EXPECT_FALSE(wrong(leave()));
}

}  // namespace
}  // namespace shortfuse::vm
