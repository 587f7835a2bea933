// Functions by address, callbacks, reservations, tail calls and kinds of maps: what is accepted, and its refused
// neighbour.
#include <gtest/gtest.h>

#include "testing/testing.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

constexpr int kNode = offsetof(sf_fuse_ctx, node);

struct Case {
  const char *name;
  Code code;
  std::vector<Code> functions = {};
  const char *refusal = nullptr;  // its code without "verify-"; NULL: accepted
  const char *text = "";          // part of the line
  const char *section = "fuse/read";
};

Code pass() { return {mov(0, 0), leave()}; }
constexpr RawInsn callx(int r) { return raw(kOpCallReg, r, 0, 0, 0); }

// bpf_loop(rounds, function 0, address of the eight bytes at -8, 0).
Code loop(int rounds) {
  return Code{store_imm(8, 10, -8, 0), mov(1, rounds)} + load_function(2, 0) +
         Code{mov_reg(3, 10), alu_imm(kAdd, 3, -8), mov(4, 0), call(SF_HOST_LOOP)};
}
// The body that adds the index to what it is given.
Code add_index() {
  return {load(8, 3, 2, 0), alu_reg(kAdd, 3, 1), store(8, 2, 0, 3), mov(0, 0), leave()};
}
Code reserve(int bytes = 16) {
  return load_map(1, kRing) + Code{mov(2, bytes), mov(3, 0), call(SF_HOST_RINGBUF_RESERVE)};
}
// r6 = a record of 16 bytes; without one the program ends.
Code reserved() { return reserve() + Code{mov_reg(6, 0), jump_imm(kNe, 6, 0, 2)} + pass(); }
Code submit() { return {mov_reg(1, 6), mov(2, 0), call(SF_HOST_RINGBUF_SUBMIT)}; }
// bpf_for_each_map_elem(map, function 0, 0, 0).
Code for_each(int map) {
  return load_map(1, map) + load_function(2, 0) + Code{mov(3, 0), mov(4, 0), call(SF_HOST_FOR_EACH)};
}
// for_each() whose rounds are given the address of the eight bytes at -8.
Code store_key_outside() {
  return Code{store_imm(8, 10, -8, 0)} + load_map(1, kArrayOfSixteen) + load_function(2, 0) +
         Code{mov_reg(3, 10), alu_imm(kAdd, 3, -8), mov(4, 0), call(SF_HOST_FOR_EACH), mov(0, 0), leave()};
}
Code key_and(int map) {
  return Code{store_imm(8, 10, -8, 1), mov_reg(2, 10), alu_imm(kAdd, 2, -8)} + load_map(1, map);
}

const Case kCases[] = {
    // ---- functions by address
    {"call by address", load_function(6, 0) + Code{mov(1, 3), callx(6), leave()}, {{mov_reg(0, 1), leave()}}},
    {"one of two functions",
     Code{load(8, 6, 1, kNode), mov(1, 3)} + load_function(7, 0) + Code{jump_imm(kEq, 6, 0, 2)} + load_function(7, 1) +
         Code{callx(7), leave()},
     {{mov_reg(0, 1), leave()}, {mov(0, 1), leave()}}},
    {"an address on the stack",
     load_function(6, 0) + Code{store(8, 10, -8, 6), load(8, 7, 10, -8), mov(1, 1), callx(7), leave()},
     {{mov_reg(0, 1), leave()}}},
    {"a number is called", Code{mov(6, 1), callx(6), leave()}, {}, "call-address", "what is called is not a function"},
    {"an address that was moved", load_function(6, 0) + Code{alu_imm(kAdd, 6, 1), callx(6), leave()},
     {pass()}, "pointer-arithmetic", "a function itself is calculated with"},
    {"an address as the verdict", load_function(0, 0) + Code{leave()}, {pass()}, "return-value", "return an address"},
    {"an address in a map", load_value(6, kBss) + load_function(7, 0) + Code{store(8, 6, 0, 7)} + pass(), {pass()},
     "pointer-leak", "an address is stored in a map"},
    {"a function is read", load_function(6, 0) + Code{load(8, 0, 6, 0), leave()}, {pass()}, "not-an-address",
     "a function is used as an address"},
    {"calls itself by address", load_function(6, 0) + Code{callx(6), leave()},
     {load_function(6, 0) + Code{callx(6), leave()}}, "call-depth",
     "call themselves"},

    // ---- bpf_loop
    {"a sum", loop(100) + Code{load(8, 0, 10, -8), leave()}, {add_index()}},
    {"eight million rounds", loop(1 << 23) + Code{load(8, 0, 10, -8), leave()}, {add_index()}},
    {"no rounds", loop(0) + pass(), {add_index()}},
    {"no rounds, but flags: an error is returned",
     Code{mov(1, 0)} + load_function(2, 0) + Code{mov(3, 0), mov(4, 1), call(SF_HOST_LOOP)} + load_value(6, kBss) +
         Code{alu_reg(kAdd, 6, 0), load(1, 0, 6, 0), leave()},
     {pass()}, "pointer-arithmetic", "a number without bound"},
    {"the index is bounded", loop(64) + pass(),
     {load_value(6, kBss) + Code{alu_reg(kAdd, 6, 1), load(1, 0, 6, 0), mov(0, 0), leave()}}},
    {"the index reaches too far", loop(65) + pass(),
     {load_value(6, kBss) + Code{alu_reg(kAdd, 6, 1), load(1, 0, 6, 0), mov(0, 0), leave()}}, "map-bounds",
     "may lie outside"},
    {"what rounds add up is not bounded",
     loop(4) + Code{load(8, 3, 10, -8)} + load_value(6, kBss) + Code{alu_reg(kAdd, 6, 3), load(1, 0, 6, 0), leave()},
     {add_index()}, "pointer-arithmetic", "a number without bound"},
    {"what a round leaves, the next one finds",
     loop(4) + pass(),
     {{load(8, 3, 2, 0), load(8, 4, 10, -8), mov(0, 0), leave()}},
     "stack-uninitialised", "were not written"},
    {"a body that stops", loop(9) + pass(), {{mov_reg(0, 1), alu_imm(kAnd, 0, 1), leave()}}},
    {"a body that returns 2", loop(9) + pass(), {{mov(0, 2), leave()}}, "return-value", "something else than 0 or 1"},
    {"a body that returns an address", loop(9) + pass(), {{mov_reg(0, 2), leave()}}, "return-value", "0 or 1"},
    {"a body puts an address where a number was",
     loop(9) + Code{load(8, 0, 10, -8), leave()}, {{store(8, 2, 0, 2), mov(0, 0), leave()}},
     "stack-uninitialised", "were not written"},
    {"a round finds what another made of a saved address",
     Code{store(8, 10, -16, 10)} + loop(9) + pass(),
     {{load(8, 3, 2, -8), load(8, 4, 3, -8), store_imm(8, 2, -8, 5), mov(0, 0), leave()}},
     "stack-uninitialised", "were not written"},
    {"callbacks within callbacks", loop(10) + Code{load(8, 0, 10, -8), leave()},
     {Code{mov_reg(6, 2), mov(1, 5)} + load_function(2, 1) + Code{mov_reg(3, 6), mov(4, 0), call(SF_HOST_LOOP),
      mov(0, 0), leave()}, add_index()}},
    {"a body that is no function", Code{mov(1, 5), mov(2, 0), mov(3, 0), mov(4, 0), call(SF_HOST_LOOP), leave()}, {},
     "argument", "argument 2 of bpf_loop() is not a function"},
    {"registers of the caller live on", Code{mov(6, 7)} + loop(3) + Code{mov_reg(0, 6), leave()}, {add_index()}},
    {"arguments do not", loop(3) + Code{mov_reg(0, 3), leave()}, {add_index()}, "uninitialised", "register r3"},
    {"a body in the body's own loop", loop(3) + pass(),
     {loop(3) + pass()}, "call-depth", "call themselves"},

    // ---- bpf_for_each_map_elem
    {"elements are read and written", for_each(kHashMap) + pass(),
     {{load(8, 5, 2, 0), load(8, 0, 3, 8), store(8, 3, 0, 5), mov(0, 0), leave()}}},
    {"behind an element", for_each(kHashMap) + pass(), {{load(8, 0, 3, 9), mov(0, 0), leave()}}, "map-bounds",
     "outside of the value of map \"hash\""},
    {"behind a key", for_each(kArrayOfSixteen) + pass(), {{load(8, 0, 2, 0), mov(0, 0), leave()}}, "map-bounds",
     "outside of the map's key"},
    {"a key is written", for_each(kHashMap) + pass(), {{store_imm(8, 2, 0, 0), mov(0, 0), leave()}},
     "write-read-only", "the key of a map's element"},
    {"a key outlives its round", store_key_outside(),
     {{store(8, 4, 0, 2), mov(0, 0), leave()}}, "pointer-leak", "would outlive it"},
    {"a key in the body's own frame", for_each(kArrayOfSixteen) + pass(),
     {{store(8, 10, -8, 2), load(8, 3, 10, -8), load(4, 0, 3, 0), mov(0, 0), leave()}}},
    {"a key outlives its iteration", for_each(kArrayOfSixteen) + pass(),
     {Code{store(8, 10, -8, 2), mov_reg(3, 10), alu_imm(kAdd, 3, -8)} + load_map(1, kArrayOfSixteen) +
          load_function(2, 1) + Code{mov(4, 0), call(SF_HOST_FOR_EACH), load(8, 2, 10, -8), load(4, 0, 2, 0)} + pass(),
      {store(8, 4, 0, 2), mov(0, 0), leave()}},
     "pointer-leak", "would outlive it"},
    {"elements written in the application", for_each(kHashMap) + pass(),
     {{store_imm(8, 3, 0, 0), mov(0, 0), leave()}}, "write-in-application", "read-only", "syscall/read"},
    {"a queue has no elements to walk", for_each(kQueue) + pass(), {pass()}, "map-kind", "cannot be used"},

    // ---- reservations
    {"a record", reserved() + Code{store_imm(8, 6, 0, 1), store_imm(8, 6, 8, 2)} + submit() + pass()},
    {"a record in the application", reserved() + Code{store_imm(8, 6, 0, 1)} + submit() + pass(), {}, nullptr, "",
     "syscall/read"},
    {"thrown away", reserved() + Code{mov_reg(1, 6), mov(2, 0), call(SF_HOST_RINGBUF_DISCARD)} + pass()},
    {"behind a record", reserved() + Code{store_imm(8, 6, 9, 1)} + submit() + pass(), {}, "map-bounds",
     "outside of the reserved record"},
    {"no look whether there is one", reserve() + Code{store_imm(8, 0, 0, 1)} + pass(), {}, "null-check", "may be NULL"},
    {"kept", reserved() + pass(), {}, "reference-leak", "not given back"},
    {"kept on one way", reserved() + Code{load(8, 3, 6, 0), jump_imm(kEq, 3, 0, 3)} + submit() + pass(), {},
     "reference-leak", "not given back"},
    {"given back twice", reserved() + submit() + submit() + pass(), {}, "uninitialised", "register r6"},
    {"used afterwards", reserved() + submit() + Code{load(8, 0, 6, 0), leave()}, {}, "uninitialised", "register r6"},
    {"a copy used afterwards",
     reserved() + Code{mov_reg(7, 6)} + submit() + Code{load(8, 0, 7, 0), leave()}, {}, "uninitialised", "register r7"},
    {"a copy on the stack used afterwards",
     reserved() + Code{store(8, 10, -8, 6)} + submit() + Code{load(4, 0, 10, -8), leave()}, {}, "stack-uninitialised",
     "not written"},
    {"a part is given back", reserved() + Code{alu_imm(kAdd, 6, 8)} + submit() + pass(), {}, "argument",
     "not a reserved record"},
    {"a size that is not known",
     Code{load(8, 2, 1, kNode)} + load_map(1, kRing) + Code{mov(3, 0), call(SF_HOST_RINGBUF_RESERVE)} + pass(), {},
     "argument", "not a known size"},
    {"a round keeps a record", loop(2) + pass(), {reserved() + pass()}, "reference-leak", "keeps what it reserved"},
    {"a round for a record", loop(2) + pass(), {reserved() + submit() + pass()}},
    {"a record given back by a sub-program", reserved() + Code{mov_reg(1, 6), call_local(2)} + pass(),
     {{mov(2, 0), call(SF_HOST_RINGBUF_SUBMIT), mov(0, 0), leave()}}},

    // ---- tail calls
    {"a tail call", load_map(2, kPrograms) + Code{mov(3, 0), call(SF_HOST_TAIL_CALL)} + pass()},
    {"without the context",
     Code{mov(1, 0)} + load_map(2, kPrograms) + Code{mov(3, 0), call(SF_HOST_TAIL_CALL)} + pass(),
     {}, "argument", "is not the context"},
    {"through another map", load_map(2, kArrayOfSixteen) + Code{mov(3, 0), call(SF_HOST_TAIL_CALL)} + pass(), {},
     "map-kind", "bpf_tail_call() cannot be used on a map of this kind"},
    {"in a sub-program", Code{call_local(1), leave()},
     {load_map(2, kPrograms) + Code{mov(3, 0), call(SF_HOST_TAIL_CALL)} + pass()}, "tail-call-depth", "sub-program"},
    {"with a record in hand",
     Code{mov_reg(7, 1)} + reserved() + Code{mov_reg(1, 7)} + load_map(2, kPrograms) +
         Code{mov(3, 0), call(SF_HOST_TAIL_CALL)} + submit() + pass(),
     {}, "reference-leak", "go on as another"},
    {"programs are no values", key_and(kPrograms) + Code{call(SF_HOST_MAP_LOOKUP)} + pass(), {}, "map-kind",
     "of this kind"},

    // ---- kinds of maps
    {"a per-CPU value is written in the application",
     key_and(kPerCpu) + Code{call(SF_HOST_MAP_LOOKUP), jump_imm(kEq, 0, 0, 1), store_imm(8, 0, 8, 1)} + pass(), {},
     nullptr, "", "syscall/read"},
    {"a shared one is not",
     key_and(kArrayOfSixteen) + Code{call(SF_HOST_MAP_LOOKUP), jump_imm(kEq, 0, 0, 1), store_imm(8, 0, 8, 1)} + pass(),
     {}, "write-in-application", "read-only", "syscall/read"},
    {"a queue is pushed and popped",
     Code{store_imm(8, 10, -16, 1), store_imm(8, 10, -8, 1), mov_reg(2, 10), alu_imm(kAdd, 2, -16)} +
         load_map(1, kQueue) + Code{mov(3, 0), call(SF_HOST_MAP_PUSH), mov_reg(2, 10), alu_imm(kAdd, 2, -32)} +
         load_map(1, kQueue) + Code{call(SF_HOST_MAP_POP), load(8, 0, 10, -32), leave()}},
    {"popped into too little", Code{mov_reg(2, 10), alu_imm(kAdd, 2, -8)} + load_map(1, kQueue) +
     Code{call(SF_HOST_MAP_POP)} + pass(), {}, "stack-bounds", "outside of the stack"},
    {"a queue has no keys", key_and(kQueue) + Code{call(SF_HOST_MAP_LOOKUP)} + pass(), {}, "map-kind",
     "of this kind"},
    {"a bloom filter is asked", Code{store_imm(8, 10, -8, 1), mov_reg(2, 10), alu_imm(kAdd, 2, -8)} +
     load_map(1, kBloom) + Code{call(SF_HOST_MAP_PEEK), leave()}},
    {"and what it is asked must be there", Code{mov_reg(2, 10), alu_imm(kAdd, 2, -8)} +
     load_map(1, kBloom) + Code{call(SF_HOST_MAP_PEEK), leave()}, {}, "stack-uninitialised", "not written"},
    {"a map out of a map",
     key_and(kMapOfMaps) + Code{call(SF_HOST_MAP_LOOKUP), jump_imm(kEq, 0, 0, 5), mov_reg(1, 0), mov_reg(2, 10),
                                alu_imm(kAdd, 2, -8), call(SF_HOST_MAP_LOOKUP), jump_imm(kNe, 0, 0, 2)} +
         pass() + Code{load(8, 0, 0, 8), leave()}},
    {"that may not be there",
     key_and(kMapOfMaps) + Code{call(SF_HOST_MAP_LOOKUP), mov_reg(1, 0), mov_reg(2, 10), alu_imm(kAdd, 2, -8),
                                call(SF_HOST_MAP_LOOKUP)} + pass(),
     {}, "argument", "is not a map"},
    {"constants are not updated",
     Code{store_imm(8, 10, -8, 0), store_imm(8, 10, -16, 0), store_imm(8, 10, -24, 0), mov_reg(2, 10),
          alu_imm(kAdd, 2, -8), mov_reg(3, 10), alu_imm(kAdd, 3, -24)} + load_map(1, kRodata) +
         Code{mov(4, 0), call(SF_HOST_MAP_UPDATE)} + pass(),
     {}, "write-read-only", "holds constants"},
    {"functions of the machine's own", Code{call(SF_HOST_MAP_STEP)} + pass(), {}, "insn-malformed", "no function"},
};

TEST(VerifyCalls, Rules) {
  for (const Case &c : kCases) {
    SCOPED_TRACE(c.name);
    auto policy = verified_policy({assemble(c.code, c.functions, c.section)});
    if (!c.refusal) {
      EXPECT_TRUE(policy) << policy.error().str();
      continue;
    }
    if (policy) {
      ADD_FAILURE() << "accepted";
      continue;
    }
    EXPECT_EQ(policy.error().code, std::string("verify-") + c.refusal) << policy.error().str();
    EXPECT_NE(policy.error().text.find(c.text), std::string::npos) << policy.error().text;
  }
}

// The program itself begins at instruction 0, and so its address is NULL where it is interpreted.
TEST(VerifyCalls, TheProgramHasNoAddress) {
  const Code code = Code{mov_reg(0, 10)} + load_function_at(6, -3) + Code{jump_imm(kEq, 6, 0, 1), mov(0, 0), leave()};
  auto policy = verified_policy({make_program(code, "fuse/read")});
  ASSERT_FALSE(policy);
  EXPECT_EQ(policy.error().code, "verify-call-address") << policy.error().str();
}

// Who calls by address says how much stack it uses, like who calls by name.
TEST(VerifyCalls, FramesAreLaidOut) {
  auto policy = verified_policy({assemble(loop(9) + pass(), {add_index()}, "fuse/read")});
  ASSERT_TRUE(policy) << policy.error().str();
  for (uint64_t word : policy->programs[0].insns) {
    RawInsn in;
    memcpy(&in, &word, sizeof in);
    if (in.code != kOpCall) continue;
    EXPECT_EQ(in.off, 8);
  }
  EXPECT_EQ(policy->programs[0].stack_bytes, 8u);

  // Also where the verifier has seen no call: what the program wrote there would move the frame.
  Code without_rounds = loop(0) + pass();
  without_rounds[without_rounds.size() - 3].off = 0x7fff;
  policy = verified_policy({assemble(without_rounds, {add_index()}, "fuse/read")});
  ASSERT_TRUE(policy) << policy.error().str();
  RawInsn in;
  memcpy(&in, &policy->programs[0].insns[without_rounds.size() - 3], sizeof in);
  EXPECT_EQ(in.code, kOpCall);
  EXPECT_EQ(in.off, 0);

  policy = verified_policy({assemble(Code{store_imm(8, 10, -304, 0)} + loop(3) + pass(),
                                     {{store_imm(8, 10, -304, 0), mov(0, 0), leave()}}, "fuse/read")});
  ASSERT_FALSE(policy);
  EXPECT_EQ(policy.error().code, "verify-stack-total");
}

}  // namespace
}  // namespace shortfuse::vm
