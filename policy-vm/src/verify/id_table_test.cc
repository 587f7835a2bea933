// Ids are found whatever their number, and few are compared to find one.
#include "verify/id_table.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <tuple>

#include "verify/join.h"
#include "verify/state.h"

namespace shortfuse::vm {
namespace {

uint64_t compared;

struct CountingKey : IdKey {
  bool operator==(const CountingKey &other) const {
    compared++;
    return static_cast<const IdKey &>(*this) == other;
  }
};

TEST(IdTable, FindsWhatWasPutUnderAKey) {
  std::mt19937 random(1);
  for (uint32_t ids : {3u, 8u, 9u, 40u, 3000u}) {
    IdTable<uint32_t> table;
    std::map<std::tuple<uint32_t, uint32_t, uint64_t>, uint32_t> model;
    for (uint32_t i = 1; i < 20'000; i++) {
      const IdKey key{static_cast<uint32_t>(1 + random() % ids), static_cast<uint32_t>(random() % 2), random() % 2};
      uint32_t &here = table[key], &there = model[{key.a, key.b, key.shift}];
      ASSERT_EQ(here, there);
      if (here == 0) here = there = i;
    }
  }
}

// Ids count up, with gaps: those of a program that fills its stacks.
TEST(IdTable, ComparesFewKeysToFindOne) {
  for (uint32_t step : {1u, 2u, 3u, 64u, 1000u, 4096u}) {
    constexpr uint32_t kIds = 2000;
    IdTable<uint32_t, CountingKey> table;
    compared = 0;
    for (int round = 0; round < 2; round++) {
      for (uint32_t i = 1; i <= kIds; i++) table[CountingKey{{i * step}}] = i;
    }
    EXPECT_LE(compared, 2 * kIds * 8) << step;
  }
}

// A state whose slots all hold pairs of related numbers.
State full_state(uint32_t first_id) {
  State state;
  for (uint32_t f = 0; f < 8; f++) {
    Frame &frame = state.frames.emplace_back();
    frame.stack.resize(kStackSlots);
    for (Slot &slot : frame.stack) {
      slot.written = 0xff, slot.saved = Slot::Low | Slot::High;
      slot.reg[0] = slot.reg[1] = Reg::number(unknown_of(4));
      slot.reg[0].id = slot.reg[1].id = first_id++;
    }
  }
  return state;
}

bool includes(const State &seen, const State &now, uint32_t *looked_at) {
  *looked_at = 0;
  return state_includes(seen, now, std::vector<uint16_t>(8), PinnedIds{}, looked_at);
}
bool includes(const State &seen, const State &now) {
  uint32_t looked_at;
  return includes(seen, now, &looked_at);
}

TEST(IdTable, RelationsOfFullStacksAreComparedOneByOne) {
  const State seen = full_state(1), now = full_state(700);
  uint32_t looked_at;
  EXPECT_TRUE(includes(seen, now, &looked_at));
  EXPECT_GE(looked_at, 8 * kStackSlots * 4) << "two numbers a slot, and their ids, are work";
  for (uint32_t frame : {0u, 3u, 7u}) {
    for (uint32_t slot : {0u, 5u, 9u, 63u}) {
      State other = now;
      other.frames[frame].stack[slot].reg[1].id = 5000;
      EXPECT_FALSE(includes(seen, other)) << "what was related is not any more";
      EXPECT_TRUE(includes(other, other));
      other = now;
      other.frames[frame].stack[slot].reg[1].delta = 1;
      EXPECT_FALSE(includes(seen, other)) << "it is related otherwise";
    }
  }
}

TEST(IdTable, RelationsOfFullStacksAreJoinedOneByOne) {
  State into = full_state(1), other = full_state(700);
  other.frames[2].stack[7].reg[1].id = 5000;
  uint32_t next_id = 10'000;
  ASSERT_TRUE(join_states(&into, other, &next_id));
  for (uint32_t f = 0; f < 8; f++) {
    for (uint32_t i = 0; i < kStackSlots; i++) {
      const Slot &slot = into.frames[f].stack[i];
      EXPECT_EQ(slot.reg[0].id == slot.reg[1].id, f != 2 || i != 7);
    }
  }
  EXPECT_TRUE(includes(into, full_state(1)));
  EXPECT_TRUE(includes(into, other));
}

}  // namespace
}  // namespace shortfuse::vm
