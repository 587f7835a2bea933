#include "lower/strips.h"

#include <algorithm>

namespace shortfuse::vm {
namespace {

// A multiplication takes as long as everything else in a short loop, the question included.
bool takes_long(const Insn &in) {
  return in.kind == Kind::Atomic ||
         (in.kind == Kind::Alu && (in.alu == AluOp::Mul || in.alu == AluOp::Div || in.alu == AluOp::Mod ||
                                   in.alu == AluOp::Sdiv || in.alu == AluOp::Smod));
}

bool is_simple(const RawInsn *code, uint32_t count, uint32_t first, uint32_t last) {
  for (uint32_t pc = first; pc <= last;) {
    Insn in;
    if (decode_insn(code + pc, count - pc, &in)) return false;
    if (in.kind == Kind::Call || in.kind == Kind::CallReg || in.kind == Kind::Exit || takes_long(in)) return false;
    pc += in.slots();
  }
  return true;
}

}  // namespace

std::map<uint32_t, uint32_t> find_strips(const RawInsn *code, uint32_t count, const std::vector<BackEdge> &edges) {
  std::map<uint32_t, uint32_t> loops;
  for (const BackEdge &e : edges) loops[e.to] = std::max(loops[e.to], e.from);
  std::map<uint32_t, uint32_t> strips;
  for (auto [first, last] : loops) {
    const bool alone = std::none_of(edges.begin(), edges.end(), [&, first = first, last = last](const BackEdge &e) {
      return e.from >= first && e.from <= last && e.to != first;
    });
    if (alone && last - first < kStripInsnsMax && is_simple(code, count, first, last)) strips[first] = last;
  }
  return strips;
}

}  // namespace shortfuse::vm
