// Several states made one that includes them all, and numbers widened until they hold still: what verify_loops.cc
// needs to find what is true in every round of a loop.
#pragma once
#include <cstdint>
#include <vector>

#include "verify/state.h"

namespace shortfuse::vm {

/// The least description that has every value of both.
Scalar scalar_join(const Scalar &a, const Scalar &b);

/// A superset of `grown`, which includes `before`: each bound that moved goes on to the next of `rungs` (ascending as
/// unsigned numbers) or else to a power of two less one, and known bits that changed are given up together
/// with all above them. Repeated, this ends.
Scalar scalar_widen(const Scalar &before, const Scalar &grown, const std::vector<uint64_t> &rungs);

/// Makes `into` include `other` as well. What the two have no common description for becomes unreadable. Relations
/// stay where both have them, under fresh ids; how far a place is from what was pinned becomes a range, where `pinned`
/// is given. False: the two are in different places, or have reserved different things, and cannot be joined.
bool join_states(State *into, const State &other, uint32_t *next_id, const PinnedIds *pinned = nullptr);

// A register or part of a saved slot, by name: the same in all states of one loop.
using PlaceKey = uint32_t;

struct NamedReg { PlaceKey key; Reg *reg; };

/// All that hold a number or an address, in a fixed order.
std::vector<NamedReg> places_of(State *state);
/// NULL where that place holds nothing of this width.
Reg *find_place(State *state, PlaceKey key);

}  // namespace shortfuse::vm
