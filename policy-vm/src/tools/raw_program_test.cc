// Bare programs: what is read, what is refused, and that interpreter and machine code agree.
#include "tools/raw_program.h"

#include <gtest/gtest.h>

#include "testing/testing.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

std::expected<RawProgram, std::string> program_of(const Code &code) {
  return RawProgram::read({reinterpret_cast<const unsigned char *>(code.data()), code.size() * sizeof(RawInsn)});
}

/// r0 by both ways, which must be one.
uint64_t both(const Code &code, std::vector<unsigned char> memory = {}) {
  auto program = program_of(code);
  EXPECT_TRUE(program) << program.error();
  if (!program) return ~0ull;
  auto again = memory;
  auto interpreted = program->interpret(memory);
  EXPECT_TRUE(interpreted) << interpreted.error();
  auto compiled = program->run_compiled(again);
  EXPECT_TRUE(compiled) << compiled.error();
  if (!interpreted || !compiled) return ~0ull;
  EXPECT_EQ(*interpreted, *compiled);
  EXPECT_EQ(memory, again);
  return *interpreted;
}

TEST(HexBytes, AreReadOrRefused) {
  EXPECT_EQ(*parse_hex_bytes(" 00 fF\n7a\t"), (std::vector<unsigned char>{0, 0xff, 0x7a}));
  EXPECT_TRUE(parse_hex_bytes("")->empty());
  EXPECT_EQ(*parse_hex_bytes("0102"), (std::vector<unsigned char>{1, 2}));
  for (const char *bad : {"0", "0g", "1 2", "00 x"}) EXPECT_FALSE(parse_hex_bytes(bad)) << bad;
}

TEST(RawProgram, GetsItsMemory) {
  EXPECT_EQ(both({mov_reg(0, 2), leave()}, {1, 2, 3}), 3u);
  EXPECT_EQ(both({mov_reg(0, 2), leave()}), 0u);
  EXPECT_EQ(both({testing::load(2, 0, 1, 1), leave()}, {1, 2, 3}), 0x0302u);
  EXPECT_EQ(both({store_imm(1, 1, 0, 9), testing::load(1, 0, 1, 0), leave()}, {1, 2, 3}), 9u);
}

TEST(RawProgram, LeavesTheFramePointerAlone) {
  for (const Code &code : {Code{mov(10, 1), leave()}, Code{testing::load(8, 10, 1, 0), leave()}})
    EXPECT_FALSE(program_of(code));
}

TEST(RawProgram, CallsItsOwnFunctionsWithFramesOfTheirOwn) {
  // Both use the top of their frames.
  Code code{store_imm(8, 10, -8, 7), call_local(2), testing::load(8, 0, 10, -8), leave(),
            store_imm(8, 10, -8, 9), mov(0, 0), leave()};
  EXPECT_EQ(both(code), 7u);
  EXPECT_FALSE(program_of({call_local(-1), leave()}));
}

TEST(RawProgram, CallsFunctionsByAddress) {
  Code code = load_function_at(6, 6) +
              Code{store_imm(8, 10, -8, 7), mov(1, 2), call_reg(6), testing::load(8, 1, 10, -8), alu_reg(kAdd, 0, 1),
                   leave(), store_imm(8, 10, -8, 9), mov_reg(0, 1), leave()};
  EXPECT_EQ(both(code), 9u);
  code[0].imm = 100;
  EXPECT_FALSE(program_of(code));
}

TEST(RawProgram, Unwinds) {
  auto ending = [](int64_t value) {
    return Code{mov(1, value), raw(kOpCall, 0, 0, 0, kUnwindHelper), mov(0, 3), leave()};
  };
  EXPECT_EQ(both(ending(0)), 0u);
  EXPECT_EQ(both(ending(1)), 3u);
}

TEST(RawProgram, HelpersByNumberInARegister) {
  auto ending = [](int reg, int64_t helper, int64_t value) {
    return Code{mov(reg, helper), mov(1, value), raw(kOpCallReg, reg, 0, 0, 0), mov(0, 3), leave()};
  };
  for (int reg : {0, 2, 9}) {
    EXPECT_EQ(both(ending(reg, kUnwindHelper, 0)), 0u);
    EXPECT_EQ(both(ending(reg, kUnwindHelper, -1)), 3u);
  }
  EXPECT_EQ(both({mov(2, kUnwindHelper), mov(1, 1), raw(kOpCallReg, 0, 0, 0, 2), mov(0, 3), leave()}), 3u);
  std::vector<unsigned char> memory;
  auto program = program_of(ending(2, 4, 1));
  ASSERT_TRUE(program);
  EXPECT_EQ(program->interpret(memory).error(), "the program calls a function that does not exist");
  EXPECT_EQ(program->run_compiled(memory).error(), "the program calls a function that does not exist");
}

TEST(RawProgram, BadOnesAreRefused) {
  EXPECT_FALSE(program_of({}));
  EXPECT_FALSE(RawProgram::read(std::vector<unsigned char>(7)));
  EXPECT_FALSE(program_of({raw(0xff, 0, 0, 0, 0), leave()}));
  EXPECT_FALSE(program_of({go(5), leave()}));
  EXPECT_FALSE(program_of({raw(kOpCall, 0, 0, 0, 4), leave()}));
  EXPECT_FALSE(program_of(load_map(1, 0) + Code{leave()}));
  EXPECT_FALSE(program_of(Code{go(1)} + load64(0, 1) + Code{leave()}));
}

TEST(RawProgram, CanBeVerified) {
  auto safe = [](const Code &code, size_t bytes) { return program_of(code)->verify(bytes).has_value(); };
  EXPECT_TRUE(safe({store_imm(1, 1, 3, 0), testing::load(4, 0, 1, 0), leave()}, 4));
  EXPECT_FALSE(safe({store_imm(1, 1, 4, 0), mov(0, 0), leave()}, 4));
  EXPECT_FALSE(safe({mov(0, 0), go(-2), leave()}, 4));
  EXPECT_TRUE(safe({mov(0, 0), jump_imm(kLe, 2, 4, 1), testing::load(1, 0, 1, 9), leave()}, 4)) << "r2 is the length";
  EXPECT_TRUE(safe({call_local(1), leave(), mov(0, 1), leave()}, 0));
}

TEST(RawProgram, BadRunsSayWhy) {
  std::vector<unsigned char> memory(4);
  auto why = [&](const Code &code) {
    auto program = program_of(code);
    EXPECT_TRUE(program) << program.error();
    auto r0 = program->interpret(memory);
    return r0 ? std::string() : r0.error();
  };
  EXPECT_NE(why({testing::load(8, 0, 1, 0), leave()}).find("a read of 8 bytes"), std::string::npos);
  EXPECT_NE(why({store_imm(1, 1, 4, 0), leave()}).find("a write of 1 bytes"), std::string::npos);
  EXPECT_NE(why({mov(0, 1)}).find("past its end"), std::string::npos);
  EXPECT_EQ(program_of({mov(0, 1)})->run_compiled(memory).error(), "the program runs past its end");
}

}  // namespace
}  // namespace shortfuse::vm
