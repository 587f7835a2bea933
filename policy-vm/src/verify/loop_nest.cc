// Havlak's loop nesting forest: a depth-first search numbers the instructions; an edge to an ancestor goes round a
// loop, and what reaches its source without passing the ancestor is the loop's body. Inner loops are found first and
// then count as one instruction (a union-find forest), so that the whole takes nearly linear time.
#include "verify/loop_nest.h"

#include <algorithm>
#include <numeric>

namespace shortfuse::vm {
namespace {

class Finder {
 public:
  explicit Finder(const std::vector<Insn> &insns) : insns_(insns), number_(insns.size(), kNone) {
    nest_.innermost.assign(insns.size(), -1);
    nest_.headed_by.assign(insns.size(), -1);
    nest_.order.resize(insns.size());
    std::iota(nest_.order.begin(), nest_.order.end(), 0u);
  }

  void add_function(uint32_t start) {
    if (number_[start] != kNone) return;
    base_ = static_cast<uint32_t>(pc_of_.size());
    search(start);
    sort_edges();
    for (uint32_t w = static_cast<uint32_t>(pc_of_.size()); w-- > base_;) collect(w);
  }

  LoopNest take() { return std::move(nest_); }

 private:
  static constexpr uint32_t kNone = ~0u;
  using Numbers = std::vector<uint32_t>;

  uint32_t successors(uint32_t pc, uint32_t out[2]) const {
    const Insn &in = insns_[pc];
    uint32_t n = 0;
    const bool jumps = in.kind == Kind::Jump || in.kind == Kind::JumpAlways;
    if (jumps) out[n++] = static_cast<uint32_t>(pc + in.distance());
    if (in.kind != Kind::JumpAlways && in.kind != Kind::Exit) out[n++] = pc + in.slots();
    return n;
  }

  // Numbers in the order of a depth-first search; last_ is the highest number below each.
  void search(uint32_t start) {
    struct Visit { uint32_t pc, next; };
    std::vector<Visit> stack;
    auto enter = [&](uint32_t pc) {
      number_[pc] = static_cast<uint32_t>(pc_of_.size());
      pc_of_.push_back(pc);
      last_.push_back(0);
      stack.push_back({pc, 0});
    };
    enter(start);
    while (!stack.empty()) {
      uint32_t to[2];
      Visit &top = stack.back();
      if (top.next < successors(top.pc, to)) {
        const uint32_t pc = to[top.next++];
        if (number_[pc] == kNone) enter(pc);
        continue;
      }
      last_[number_[top.pc]] = static_cast<uint32_t>(pc_of_.size()) - 1;
      nest_.order[top.pc] = static_cast<uint32_t>(insns_.size()) - finished_++;
      stack.pop_back();
    }
  }

  bool above(uint32_t w, uint32_t v) const { return w <= v && v <= last_[w]; }

  void sort_edges() {
    const size_t count = pc_of_.size();
    back_.resize(count);
    other_.resize(count);
    set_.resize(count);
    std::iota(set_.begin() + base_, set_.end(), base_);
    member_of_.resize(count, kNone);
    for (uint32_t v = base_; v < count; v++) {
      uint32_t to[2];
      for (uint32_t i = 0, n = successors(pc_of_[v], to); i < n; i++) {
        const uint32_t w = number_[to[i]];
        (above(w, v) ? back_ : other_)[w].push_back(v);
      }
    }
  }

  uint32_t find(uint32_t v) {
    while (set_[v] != v) v = set_[v] = set_[set_[v]];
    return v;
  }

  // The loop that begins at w, if one does.
  void collect(uint32_t w) {
    if (back_[w].empty()) return;
    Numbers body;
    auto add = [&](uint32_t v) {
      if (v == w || member_of_[v] == w) return;
      member_of_[v] = w;
      body.push_back(v);
    };
    for (uint32_t v : back_[w]) add(find(v));
    Loop loop{pc_of_[w]};
    for (size_t i = 0; i < body.size(); i++) {
      const Numbers edges = other_[body[i]];
      for (uint32_t y : edges) {
        const uint32_t from = find(y);
        if (above(w, from)) add(from);
        else loop.one_entry = false;
      }
    }
    const auto index = static_cast<int32_t>(nest_.loops.size());
    nest_.loops.push_back(loop);
    nest_.headed_by[pc_of_[w]] = nest_.innermost[pc_of_[w]] = index;
    for (uint32_t v : body) {
      set_[v] = w;
      const uint32_t pc = pc_of_[v];
      if (nest_.headed_by[pc] >= 0) nest_.loops[static_cast<size_t>(nest_.headed_by[pc])].parent = index;
      else nest_.innermost[pc] = index;
    }
  }

  const std::vector<Insn> &insns_;
  Numbers number_;              // per slot
  Numbers pc_of_, last_, set_, member_of_;
  std::vector<Numbers> back_, other_;  // edges that arrive: from below, and all others
  uint32_t base_ = 0, finished_ = 0;
  LoopNest nest_;
};

}  // namespace

LoopNest find_loops(const std::vector<Insn> &insns, const std::vector<uint32_t> &function_starts) {
  Finder finder(insns);
  bool backwards = false;
  for (const Insn &in : insns)
    backwards |= (in.kind == Kind::Jump || in.kind == Kind::JumpAlways) && in.distance() <= 0;
  if (!backwards) return finder.take();
  for (uint32_t start : function_starts) finder.add_function(start);
  return finder.take();
}

}  // namespace shortfuse::vm
