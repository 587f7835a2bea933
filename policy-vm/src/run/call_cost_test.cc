// What calls cost: the same in both engines, in proportion to what the functions go through, and nothing where that is
// little.
#include "isa/call_cost.h"

#include <gtest/gtest.h>

#include "isa/host_functions.h"
#include "testing/testing.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

Policy::Map make_map(uint32_t type, uint32_t key, uint32_t value, uint32_t entries, uint32_t extra = 0) {
  Policy::Map m;
  m.def = {type, key, value, entries, 0, 0, 0, extra, {}};
  return m;
}

// The key at the bottom of a stack of zeroes, the value above it.
Code call_on_map(const Code &map, const HostFunction &f) {
  Code code{mov_reg(6, 1)};
  for (int slot = 1; slot <= 64; slot++) code.push_back(store_imm(8, 10, -8 * slot, 0));
  code = code + map;
  for (int r = 2; r <= 4; r++) {
    const Arg arg = f.args[r - 1];
    const bool key = arg == Arg::MapKey, value = arg == Arg::MapValue || arg == Arg::MapValueOut;
    if (key || value) code = code + Code{mov_reg(r, 10), alu_imm(kAdd, r, key ? -512 : -232)};
    else code.push_back(mov(r, 0));
  }
  return code + Code{call(f.id), mov(0, 0), leave()};
}
Code known_map() { return load_map(1, 0); }
// Which of two equal maps it is nobody knows when code is made.
Code unknown_map() {
  return Code{load(8, 7, 6, offsetof(sf_fuse_ctx, node)), jump_imm(kEq, 7, 0, 3)} + load_map(1, 0) + Code{go(2)} +
         load_map(1, 1);
}

// Straight-line programs pay for their calls alone.
uint64_t paid(const Image &image, sf_vm_env *env, bool compiled) {
  sf_fuse_ctx ctx{};
  if (compiled) image.run_code(0, &ctx, env);
  else image.interpret(0, &ctx, env);
  return (1u << 20) - env->fuel;
}

uint64_t paid_on_map(const Policy::Map &map, sf_host_id id) {
  std::vector<uint64_t> all;
  for (bool known : {true, false}) {
    const Code code = call_on_map(known ? known_map() : unknown_map(), kHostFunctions[id]);
    auto policy = verified_policy({make_program(code, "fuse/read")}, {map, map});
    EXPECT_TRUE(policy) << policy.error().str();
    if (!policy) return ~0ull;
    for (bool inlined : {true, false}) {
      auto image = Image::publish(*policy, Lowering::Required, inlined);
      EXPECT_TRUE(image) << image.error().str();
      for (bool compiled : {false, true}) {
        RealMaps maps(policy->maps);
        all.push_back(paid(*image, &maps.env, compiled));
        EXPECT_EQ(all.front(), all.back()) << kHostFunctions[id].name << " " << known << inlined << compiled;
      }
    }
  }
  return all.front();
}

TEST(CallCost, OfMapsIsInProportionToWhatIsGoneThrough) {
  struct Case { Policy::Map map; sf_host_id id; uint64_t least, most; };
  const Case cases[] = {
      // Small keys cost nothing.
      {make_map(SF_MAP_HASH, 4, 8, 10), SF_HOST_MAP_LOOKUP, 0, 0},
      {make_map(SF_MAP_HASH, 8, 8, 10), SF_HOST_MAP_LOOKUP, 0, 0},
      {make_map(SF_MAP_ARRAY, 4, 128, 10), SF_HOST_MAP_LOOKUP, 0, 0},
      {make_map(SF_MAP_HASH, 64, 128, 10), SF_HOST_MAP_LOOKUP, 7, 8},
      {make_map(SF_MAP_LRU_HASH, 256, 8, 10), SF_HOST_MAP_LOOKUP, 31, 32},
      {make_map(SF_MAP_HASH, 256, 8, 10), SF_HOST_MAP_DELETE, 31, 32},
      {make_map(SF_MAP_HASH, 64, 128, 10), SF_HOST_MAP_UPDATE, 7 + 16 + 32, 8 + 16 + 32},
      {make_map(SF_MAP_PERCPU_HASH, 8, 128, 10), SF_HOST_MAP_UPDATE, 16 * SF_MAP_CPUS + 32,
       16 * SF_MAP_CPUS + 32},
      {make_map(SF_MAP_PERCPU_ARRAY, 4, 128, 10), SF_HOST_MAP_UPDATE, 16, 16},
      {make_map(SF_MAP_PERCPU_HASH, 256, 8, 10), SF_HOST_MAP_LOOKUP_PERCPU, 31, 32},
      // A node per bit.
      {make_map(SF_MAP_LPM_TRIE, 8, 8, 10), SF_HOST_MAP_LOOKUP, 32, 64},
      {make_map(SF_MAP_LPM_TRIE, 260, 8, 10), SF_HOST_MAP_LOOKUP, 2048, 2200},
      {make_map(SF_MAP_LPM_TRIE, 260, 8, 10), SF_HOST_MAP_UPDATE, 2048, 2200},
      {make_map(SF_MAP_LRU_HASH, 4, 8, 10), SF_HOST_MAP_UPDATE, 33, 33},
      {make_map(SF_MAP_ARRAY, 4, 8, 10), SF_HOST_MAP_UPDATE, 1, 1},
      {make_map(SF_MAP_LPM_TRIE, 260, 8, 10), SF_HOST_MAP_DELETE, 2048, 2200},
      {make_map(SF_MAP_QUEUE, 0, 128, 10), SF_HOST_MAP_PUSH, 16, 16},
      {make_map(SF_MAP_BLOOM_FILTER, 0, 128, 10, 15), SF_HOST_MAP_PEEK, 16 + 15 * 16, 16 + 15 * 16},
      {make_map(SF_MAP_BLOOM_FILTER, 0, 8, 10), SF_HOST_MAP_PUSH, 1 + 5 * 16, 1 + 5 * 16},
  };
  for (const Case &c : cases) {
    const uint64_t fuel = paid_on_map(c.map, c.id);
    EXPECT_GE(fuel, c.least) << c.map.def.type << " " << kHostFunctions[c.id].name;
    EXPECT_LE(fuel, c.most) << c.map.def.type << " " << kHostFunctions[c.id].name;
  }
}

// What a program of the calls in `code` pays, in both engines.
void expect_paid(const Code &code, uint64_t fuel) {
  auto policy = verified_policy({make_program(code + Code{mov(0, 0), leave()}, "fuse/read")});
  ASSERT_TRUE(policy) << policy.error().str();
  auto image = Image::publish(*policy, Lowering::Required);
  ASSERT_TRUE(image) << image.error().str();
  for (bool compiled : {false, true}) {
    Host host;
    EXPECT_EQ(paid(*image, host.env(), compiled), fuel);
  }
}

TEST(CallCost, OfAMountAndOfTheSystemIsMoreThanAnInstruction) {
  // Functions that ask the cache or the file system's requests; that make system calls; and a clock, which is cheap.
  expect_paid(Code{mov(2, 1), mov(3, 2), call(SF_HOST_PREFETCH)}, kPaidForHostWork);
  expect_paid(Code{call(SF_HOST_UID_GID)}, kPaidForSystemCall);
  expect_paid(Code{call(SF_HOST_KTIME)}, 0);
  // For programs of a trace only.
  EXPECT_EQ(host_cost_of(SF_HOST_COMM).always, kPaidForSystemCall);
  EXPECT_EQ(host_cost_of(SF_HOST_PROBE_READ).always, kPaidForFault);
  EXPECT_EQ(host_cost_of(SF_HOST_PROBE_TEXT).always, kPaidForFault);
}

// The verifier pays for looking for the end of a string, which may be far from the end of the data that it is in.
TEST(CallCost, OfStringsIsPaidByTheVerifier) {
  constexpr uint32_t kBytes = 1 << 20, kCalls = 20;
  Policy::Map map = make_map(SF_MAP_ARRAY, 4, kBytes, 1);
  map.frozen = true;
  map.initial.assign(kBytes, 'x');
  map.initial[3] = 0;
  Code code;
  for (uint32_t i = 0; i < kCalls; i++)
    code = code + load_value(1, 0) + Code{mov(2, 4)} + load_value(3, 0) + Code{call(SF_HOST_STRNCMP)};
  auto policy = verified_policy({make_program(code + Code{mov(0, 0), leave()}, "fuse/read")}, {map});
  ASSERT_TRUE(policy) << policy.error().str();
  EXPECT_GE(policy->programs[0].info.states_explored, kCalls * (kBytes / 8192 - 1));
}

// Fuel that does not last for what a function would go through ends the run before it is called.
TEST(CallCost, WhatCannotBePaidIsNotCalled) {
  const Policy::Map map = make_map(SF_MAP_QUEUE, 0, 128, 10);
  auto policy = verified_policy({make_program(call_on_map(known_map(), kHostFunctions[SF_HOST_MAP_PUSH]), "fuse/read")},
                                {map});
  ASSERT_TRUE(policy) << policy.error().str();
  auto image = Image::publish(*policy, Lowering::Required);
  ASSERT_TRUE(image) << image.error().str();
  const sf_image_program &p = image->get()->program[0];
  const auto code = reinterpret_cast<sf_image_entry>(reinterpret_cast<uintptr_t>(image->get()) + p.code_offset);
  for (bool compiled : {false, true}) {
    for (uint64_t fuel : {16, 17}) {
      RealMaps maps(policy->maps);
      sf_fuse_ctx ctx{};
      maps.env.fuel = fuel;
      if (compiled) code(&ctx, &maps.env);
      else sf_interpret(image->insns(0), p.insns, &ctx, &maps.env);
      EXPECT_EQ(sf_map_count(&maps.handles[0]), fuel - 16);
    }
  }
}

}  // namespace
}  // namespace shortfuse::vm
