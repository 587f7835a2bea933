// The verifier: no program runs that it has not accepted.
//
// It walks every path of a program on abstract values (state.h) and accepts only what on all of them reads what was
// written, stays inside its stack, context and map values, passes proper arguments to host functions that its place
// may call, keeps addresses to itself, and ends. Paths that arrive where a path with as much freedom has been found
// safe are not walked again, and a loop whose rounds are alike is walked once for all of them (verify_loops.cc). Work
// and memory are limited; who exceeds a limit is refused.
#pragma once
#include <expected>

#include "object/object.h"

namespace shortfuse::vm {

inline constexpr uint32_t kStepsMax = 1'000'000;            // instructions walked, of one program,
inline constexpr uint32_t kStepsOfAny = 100'000;            // but not more than these
inline constexpr uint32_t kStepsPerInsn = 4'000;            // and as often each of its own: a few instructions that
                                                            // need more go round in a loop that shows no end
inline constexpr uint64_t kStateBytesMax = 64ull << 20;     // of states kept to compare with
inline constexpr uint64_t kPendingBytesMax = 64ull << 20;   // of paths still to walk
inline constexpr uint32_t kStatesPerPlaceMax = 64;

// Rounds of a loop times those of the loops around it, where they are proved rather than walked: about a quarter of a
// second of machine code. An accepted program ends, but a run may take more than the fuel that it is given (image.cc:
// 2^26 instructions). It is then cut short with SF_PASS, which the host takes
// as "nothing decided": the operation goes its ordinary way, and what the program had written to maps until then
// stays written. Verified::rounds says whether that can happen.
inline constexpr uint64_t kRoundsMax = 1ull << 28;

struct Verified {
  uint32_t steps = 0;        // instructions walked, and as many for work on states as that took
  uint32_t stack_bytes = 0;  // of the deepest chain of calls
  uint64_t rounds = 0;       // at most, of a nest of callbacks and of loops proved as a whole; 0: there are none
};

/// Verifies `program`; `maps` are all of the chain so far. On acceptance the code is completed: each local call's
/// offset says how many bytes of stack its caller uses (also that of a call by address and of functions that take a
/// callback), instructions that no path reaches become exits, and jumps of which one way was walked always go it.
/// `steps_left` is what may still be spent on the chain.
std::expected<Verified, Refusal> verify_program(LinkedProgram *program, const std::vector<Policy::Map> &maps,
                                                const std::string &object, uint64_t *steps_left);

}  // namespace shortfuse::vm
