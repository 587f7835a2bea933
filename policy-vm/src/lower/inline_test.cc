// Lookups in maps of known shape: in machine code without a call, and with the same results as by the table.
#include <gtest/gtest.h>

#include <random>
#include <sstream>

#include "testing/testing.h"
#include "shortfuse/vm/map.h"

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
    {SF_MAP_PERCPU_HASH, 8, 8, 64},   {SF_MAP_PERCPU_HASH, 6, 16, 10}, {SF_MAP_PERCPU_HASH, 64, 8, 10},
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

struct Maps {
  std::vector<std::vector<uint64_t>> storage;
  std::vector<sf_map> handles;
  std::vector<sf_map *> addresses;
  std::vector<void *> values;
  sf_host_fn table[SF_HOST_COUNT] = {};
  sf_vm_env env{};

  explicit Maps(const std::vector<Policy::Map> &maps) {
    for (const Policy::Map &m : maps) {
      const sf_map_shape shape{m.def.type, m.def.key_size, m.def.value_size, m.def.max_entries};
      storage.emplace_back((sf_map_bytes(&shape) + 7) / 8);
      sf_map_init(storage.back().data(), &shape);
      sf_map map{};
      map.storage = storage.back().data();
      map.shape = shape;
      map.writable = 1;
      handles.push_back(map);
    }
    for (sf_map &h : handles) {
      addresses.push_back(&h);
      values.push_back(sf_map_array_values(&h));
    }
#define X(number, name) table[number] = name;
    SF_VM_FUNCTIONS(X)
#undef X
    env.host = table;
    env.map = addresses.data();
    env.map_value = values.data();
    env.cpu = 3;
  }
};

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
    Maps maps(policy.maps);
    const bool array = shape.key_size == 4 && shape.type != SF_MAP_HASH;
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
    Maps memory(maps);
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
