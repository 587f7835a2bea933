// Lookups in maps of known shape: in machine code without a call, and with the same results as by the table.
#include <gtest/gtest.h>

#include <random>
#include <sstream>

#include "maps/lookup.h"
#include "shortfuse/vm/map.h"
#include "testing/testing.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

struct Shape { uint32_t type, key_size, value_size, max_entries; };

// Key sizes with a function of their own and without, and one that is not in line.
const Shape kShapes[] = {
    {SF_MAP_ARRAY, 4, 8, 16},         {SF_MAP_ARRAY, 4, 20, 1},        {SF_MAP_PERCPU_ARRAY, 4, 16, 5},
    {SF_MAP_HASH, 1, 8, 16},          {SF_MAP_HASH, 4, 8, 100},        {SF_MAP_HASH, 8, 24, 1},
    {SF_MAP_HASH, 12, 4, 7},          {SF_MAP_HASH, 16, 8, 1000},      {SF_MAP_HASH, 20, 8, 33},
    {SF_MAP_HASH, 24, 8, 64},         {SF_MAP_HASH, 32, 8, 64},        {SF_MAP_HASH, 64, 40, 64},
    {SF_MAP_HASH, 4, 12, 100},        {SF_MAP_HASH, 8, 8, 100},        {SF_MAP_HASH, 3, 3, 20},
    {SF_MAP_PERCPU_HASH, 8, 8, 64},   {SF_MAP_PERCPU_HASH, 6, 16, 10}, {SF_MAP_PERCPU_HASH, 64, 8, 10},
    {SF_MAP_LRU_HASH, 4, 8, 100},     {SF_MAP_LRU_HASH, 7, 8, 33},     {SF_MAP_LRU_HASH, 64, 40, 64},
};

// Looks up what .bss holds; -1: nothing found, else the first byte of the value.
Code lookup_code() {
  Code code = load_value(6, 1);
  for (uint32_t at = 0; at < 64; at += 8) {
    code = code + Code{load(8, 1, 6, int(at)), store(8, 10, int(at) - 64, 1)};
  }
  return code + load_map(1, 0) + Code{mov_reg(2, 10), alu_imm(kAdd, 2, -64), call(SF_HOST_MAP_LOOKUP), mov_reg(1, 0),
         mov(0, -1), jump_imm(kEq, 1, 0, 1), load(1, 0, 1, 0), leave()};
}

Policy policy_of(const Shape &shape) {
  std::vector<Policy::Map> maps(2);
  maps[0].def = {shape.type, shape.key_size, shape.value_size, shape.max_entries, 0, 0, 0, 0, "looked"};
  maps[1].def = {SF_MAP_ARRAY, 4, 64, 1, 0, 0, 0, 0, "bss"};
  auto policy = verified_policy({make_program(lookup_code(), "fuse/read")}, maps);
  EXPECT_TRUE(policy) << policy.error().str();
  return std::move(*policy);
}

bool calls_something(const std::string &text) {
  for (size_t at = 0; (at = text.find("call ", at)) != std::string::npos; at++) {
    const std::string line = text.substr(at, text.find('\n', at) - at);
    if (line.find("@llvm.") == std::string::npos) return true;
  }
  return false;
}

TEST(Inlining, NoCallIsLeft) {
  for (const Shape &shape : kShapes) {
    Policy policy = policy_of(shape);
    auto text = compiler_text(policy, CompilerStage::Optimised);
    ASSERT_TRUE(text) << text.error().str();
    EXPECT_FALSE(calls_something(*text)) << shape.type << " " << shape.key_size << "\n" << *text;
    auto assembly = compiler_text(policy, CompilerStage::Assembly);
    ASSERT_TRUE(assembly);
    EXPECT_EQ(assembly->find("callq"), std::string::npos);
    policy.calls_inlined = false;
    EXPECT_TRUE(calls_something(*compiler_text(policy, CompilerStage::Optimised)));
  }
}

TEST(Inlining, FindsWhatTheTableFinds) {
  std::mt19937_64 random(11);
  for (const Shape &shape : kShapes) {
    Policy policy = policy_of(shape);
    auto image = Image::publish(policy, Lowering::Required, true);
    ASSERT_TRUE(image) << image.error().str();
    RealMaps maps(policy.maps);
    maps.env.cpu = 3;
    const bool array = shape.type == SF_MAP_ARRAY || shape.type == SF_MAP_PERCPU_ARRAY;
    auto random_key = [&] {
      std::vector<unsigned char> key(64);
      const uint64_t number = random() % (2 * shape.max_entries);
      for (size_t i = 0; i < 64; i += array ? 64 : 8) memcpy(&key[i], &number, sizeof number);
      return key;
    };
    std::vector<unsigned char> value(shape.value_size);
    for (uint32_t i = 0; i < shape.max_entries; i++) {
      value[0] = static_cast<unsigned char>(random());
      sf_map_update(&maps.handles[0], random_key().data(), value.data(), 0, 3);
    }
    int found = 0;
    for (int i = 0; i < 300; i++) {
      memcpy(maps.values[1], random_key().data(), 64);
      sf_fuse_ctx context{};
      const uint64_t expected = image->interpret(0, &context, &maps.env);
      ASSERT_EQ(image->run_code(0, &context, &maps.env), expected) << shape.type << " " << shape.key_size;
      found += expected != ~0ull;
    }
    EXPECT_GT(found, 20);
    EXPECT_LT(found, 280);
  }
}

TEST(Inlining, LookupInAnLruMarksWhereItMay) {
  const Shape shape{SF_MAP_LRU_HASH, 8, 8, 100};
  Policy policy = policy_of(shape);
  auto image = Image::publish(policy, Lowering::Required, true);
  ASSERT_TRUE(image) << image.error().str();
  for (uint32_t writable : {0u, 1u}) {
    RealMaps maps(policy.maps);
    const uint64_t key = 5, value = 7;
    ASSERT_EQ(sf_map_update(&maps.handles[0], &key, &value, 0, 0), 0);
    const maps::HashLayout layout{shape.key_size, shape.value_size, shape.max_entries, false};
    const uint8_t *mark = maps::at(maps.handles[0].storage, layout.marks_offset());  // of element 0
    maps.handles[0].writable = writable;
    memcpy(maps.values[1], &key, sizeof key);
    sf_fuse_ctx context{};
    EXPECT_EQ(*mark, maps::kInUse);
    EXPECT_EQ(image->run_code(0, &context, &maps.env), 7u);
    EXPECT_EQ(*mark, writable ? maps::kInUse | maps::kLookedAt : maps::kInUse);
  }
}

// Both lookups, in an ARRAY_OF_MAPS and in the map that was found, whose shape is declared.
TEST(Inlining, MapsOfMapsAreLookedInto) {
  const Code code =
      load_value(6, 2) + Code{load(4, 1, 6, 0), store(4, 10, -4, 1), load(8, 1, 6, 8), store(8, 10, -16, 1)} +
      load_map(1, 0) + Code{mov_reg(2, 10), alu_imm(kAdd, 2, -4), call(SF_HOST_MAP_LOOKUP), jump_imm(kNe, 0, 0, 2),
                            mov(0, -1), leave(), mov_reg(1, 0), mov_reg(2, 10), alu_imm(kAdd, 2, -16),
                            call(SF_HOST_MAP_LOOKUP), jump_imm(kNe, 0, 0, 2), mov(0, -2), leave(), load(8, 0, 0, 0),
                            leave()};
  for (const sf_image_map &inner : {sf_image_map{SF_MAP_HASH, 8, 8, 10}, sf_image_map{SF_MAP_HASH, 8, 24, 10},
                                    sf_image_map{SF_MAP_LRU_HASH, 8, 8, 10}, sf_image_map{SF_MAP_ARRAY, 4, 8, 10}}) {
    std::vector<Policy::Map> maps(4);
    maps[0].def = {SF_MAP_ARRAY_OF_MAPS, 4, 4, 3, 0, 0, 0, 0, "outer"};
    maps[0].inner = {inner};
    maps[0].initial = {2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0};
    maps[1].def = maps[3].def = inner;
    maps[2].def = {SF_MAP_ARRAY, 4, 64, 1, 0, 0, 0, 0, "bss"};
    auto policy = verified_policy({make_program(code, "fuse/read")}, maps);
    ASSERT_TRUE(policy) << policy.error().str();
    auto text = compiler_text(*policy, CompilerStage::Optimised);
    ASSERT_TRUE(text) << text.error().str();
    EXPECT_FALSE(calls_something(*text)) << *text;
    auto image = Image::publish(*policy, Lowering::Required, true);
    ASSERT_TRUE(image) << image.error().str();
    RealMaps memory(maps);
    for (uint64_t key = 0; key < 5; key++) {
      const uint64_t value[3] = {100 + key, 0, 0}, other[3] = {200 + key, 0, 0};
      sf_map_update(&memory.handles[1], &key, value, 0, 0);
      sf_map_update(&memory.handles[3], &key, other, 0, 0);
    }
    uint64_t found = 0;
    for (const bool with_image : {true, false}) {
      memory.env.image = with_image ? image->get() : nullptr;
      for (uint64_t outer = 0; outer < 4; outer++) {
        for (uint64_t key = 0; key < 12; key++) {
          memcpy(memory.values[2], &outer, sizeof outer);
          memcpy(static_cast<char *>(memory.values[2]) + 8, &key, sizeof key);
          sf_fuse_ctx context{};
          const uint64_t expected = image->interpret(0, &context, &memory.env);
          ASSERT_EQ(image->run_code(0, &context, &memory.env), expected) << outer << " " << key;
          found += expected == (outer == 0 ? 100 : 200) + key;
        }
      }
    }
    EXPECT_EQ(found, 10u);
  }
}

// What a lookup did not find is 0, to which the address of anything may be added: the compiler must not take the sum
// for an address in the map, or what is written there for something that nobody reads.
TEST(Inlining, NullIsANumber) {
  // r0 = NULL, r2 = r10 by way of the stack; 3 at -8.
  auto look_up = [](int index) {
    return Code{store_imm(4, 10, -16, index), mov_reg(2, 10), alu_imm(kAdd, 2, -16)} + load_map(1, 0) +
           Code{call(SF_HOST_MAP_LOOKUP)};
  };
  const Code before = Code{store(8, 10, -24, 10)} + look_up(100) +
                      Code{jump_imm(kEq, 0, 0, 2), mov(0, -1), leave(), store_imm(8, 10, -8, 3), load(8, 2, 10, -24)};
  const Code uses[] = {
      {alu_reg(kAdd, 0, 2), load(8, 3, 0, -8)},
      {alu_reg(kAdd, 2, 0), load(8, 3, 2, -8)},
      {mov_reg(6, 0), alu_reg(kAdd, 6, 2), load(8, 3, 6, -8)},
      {alu_imm(kAdd, 0, 8), jump_imm(kEq, 0, 0, 0), alu_reg(kAdd, 0, 2), load(8, 3, 0, -16)},
      Code{mov_reg(6, 0)} + look_up(1) +
          Code{jump_imm(kNe, 0, 0, 2), mov(0, -1), leave(), load(8, 2, 10, -24), alu_reg(kAdd, 6, 2),
               load(8, 3, 6, -8)},
  };
  std::vector<Policy::Map> maps(1);
  maps[0].def = {SF_MAP_ARRAY, 4, 8, 16, 0, 0, 0, 0, "looked"};
  for (const Code &use : uses) {
    auto policy = verified_policy({make_program(before + use + Code{mov_reg(0, 3), leave()}, "fuse/read")}, maps);
    ASSERT_TRUE(policy) << policy.error().str();
    auto image = Image::publish(*policy, Lowering::Required, true);
    ASSERT_TRUE(image) << image.error().str();
    RealMaps memory(maps);
    sf_fuse_ctx context{};
    EXPECT_EQ(image->interpret(0, &context, &memory.env), 3u);
    EXPECT_EQ(image->run_code(0, &context, &memory.env), 3u) << *compiler_text(*policy, CompilerStage::Optimised);
  }
}

// Values of maps may change while a program runs, in a process that nobody here answers for. What was compared must be
// what is used: each load of them is one number, read once, and the compiler may not read it again.
TEST(Inlining, WhatIsComparedIsWhatIsUsed) {
  std::vector<Policy::Map> maps(2);
  maps[0].def = {SF_MAP_ARRAY, 4, 8, 16, 0, 0, 0, 0, "looked"};
  maps[1].def = {SF_MAP_ARRAY, 4, 64, 1, 0, 0, 0, 0, "bss"};
  const Code index = load_value(6, 1) + Code{load(8, 2, 6, 0), jump_imm(kGt, 2, 7, 3), alu_reg(kAdd, 6, 2),
                                             load(1, 0, 6, 8), leave(), mov(0, 0), leave()};
  // The key of a lookup lies in a value.
  const Code key = load_value(2, 1) + load_map(1, 0) + Code{call(SF_HOST_MAP_LOOKUP), jump_imm(kEq, 0, 0, 1),
                                                            load(8, 0, 0, 0), leave()};
  for (const Code &code : {index, key}) {
    auto policy = verified_policy({make_program(code, "fuse/read")}, maps);
    ASSERT_TRUE(policy) << policy.error().str();
    const std::string text = *compiler_text(*policy, CompilerStage::Optimised);
    int loads = 0;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (line.find(" = load i") == std::string::npos || line.find("invariant.load") != std::string::npos) continue;
      if (line.find("load atomic") != std::string::npos) continue;
      const std::string name = line.substr(2, line.find(" = ") - 2);
      int uses = 0;
      for (size_t at = 0; (at = text.find(name, at)) != std::string::npos; at++) {
        const char next = text[at + name.size()];
        if (next != ' ' && next != ',' && next != '\n' && next != ')') continue;
        uses += text.compare(at + name.size(), 3, " = ") != 0;
      }
      EXPECT_EQ(uses, 1) << line << "\n" << text;
      const size_t type = line.find("load i") + 5;
      const std::string frozen = " = freeze " + line.substr(type, line.find(", ptr") - type) + " " + name + "\n";
      EXPECT_NE(text.find(frozen), std::string::npos) << line << "\n" << text;
      loads++;
    }
    EXPECT_EQ(loads, 2) << text;
  }
}

// Read-only data is part of the code.
TEST(Inlining, FrozenDataIsFolded) {
  auto policy = verified_policy({make_program(load_value(1, kRodata) + Code{load(4, 0, 1, 12), leave()}, "fuse/read")});
  ASSERT_TRUE(policy);
  auto text = compiler_text(*policy, CompilerStage::Optimised);
  ASSERT_TRUE(text);
  EXPECT_NE(text->find("ret i64 117901063"), std::string::npos) << *text;  // 7 7 7 7
}

}  // namespace
}  // namespace shortfuse::vm
