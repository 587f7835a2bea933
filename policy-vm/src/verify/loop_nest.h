// The loops of a program: which instructions begin one, and which belong to it.
//
// Nothing depends on this being right but how much is accepted: a loop here is only the region that verify_loops.cc
// walks as one, and every path that leaves the region is walked as well.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "isa/insn.h"

namespace shortfuse::vm {

struct Loop {
  uint32_t header;
  int32_t parent = -1;      // the loop around it
  bool one_entry = true;    // no way into it but through its header
};

struct LoopNest {
  std::vector<Loop> loops;
  std::vector<int32_t> innermost;  // per slot; -1: in no loop
  std::vector<int32_t> headed_by;  // per slot: the loop that begins there; -1: none
  // Per slot, ascending along every path that goes round no loop; within a loop its header comes first.
  std::vector<uint32_t> order;

  bool contains(uint32_t loop, uint32_t pc) const {
    int32_t l = innermost[pc];
    while (l >= 0 && l != static_cast<int32_t>(loop)) l = loops[static_cast<size_t>(l)].parent;
    return l >= 0;
  }
};

/// Of decoded functions, one after the other; `function_starts` ascends. Jumps stay inside their function.
LoopNest find_loops(const std::vector<Insn> &insns, const std::vector<uint32_t> &function_starts);

}  // namespace shortfuse::vm
