// Loops that look at the fuel once every kStripRounds rounds: strips.
//
// Every round of every loop pays, but where each of them also asks whether that was the last, LLVM cannot make several
// rounds one. A strip has a count of rounds of its own, asks in every kStripRounds-th and where it is left, and is
// unrolled by as many, so that nothing remains of the count. Whether a run is cut short is decided as in the
// interpreter: fuel only falls, and no way leads past the next question. A run that is cut short may have gone
// through at most kStripRounds - 1 rounds more, which may have written into values of maps.
//
// A strip is short and has no call, no loop and nothing that takes long in it; so between two questions a run executes
// at most kStripRounds times as many instructions as the program has, whatever the verifier thought of its loops.
#pragma once
#include <cstdint>
#include <map>
#include <vector>

#include "isa/insn.h"

namespace shortfuse::vm {

inline constexpr uint32_t kStripRounds = 8;
inline constexpr uint32_t kStripInsnsMax = 32;  // what is longer gains nothing by being unrolled

/// LLVM looks at a loop through those in front of it, as the fuel goes through all of them: 50 loops in a row took it
/// 10 s, 16 take it 0.1 s. Where there are more they stay as they are; and where there are many, they are interpreted.
inline constexpr unsigned kOptimisedLoopsMax = 16, kCompiledLoopsMax = 64;

struct BackEdge { uint32_t from, to; };

/// The strips among the loops with these jumps backwards: the last instruction of each, by its first.
/// REQUIRES: code that decodes.
std::map<uint32_t, uint32_t> find_strips(const RawInsn *code, uint32_t count, const std::vector<BackEdge> &edges);

}  // namespace shortfuse::vm
