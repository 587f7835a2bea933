// How a refused path came to where it is.
//
// Each path remembers the straight pieces of code that it took (Piece), so that its instructions can be read
// backwards. From what the refused instruction uses, the instructions that made it are followed: what set a register
// or a place on the stack, and which comparisons were made of it. That is what a person needs; the rest is left out.
#include <algorithm>
#include <set>

#include "isa/disasm.h"
#include "verify/verify_path.h"

namespace shortfuse::vm {
namespace {

constexpr size_t kPathLinesMax = 6;
constexpr size_t kInsnsFollowed = 20'000;
constexpr size_t kStepsFound = 48;

// A register of the function that is `calls` deep, or the place on its stack at `slot` below 0.
struct Thing {
  int calls;
  int at;
  auto operator<=>(const Thing &) const = default;
};

}  // namespace

// The path so far, up to and with `last`.
int32_t PathWalker::add_piece(uint32_t last) {
  constexpr size_t kPiecesMax = 2'000'000;
  if (pieces_.size() == kPiecesMax || last < piece_start_) return before_;
  pieces_.push_back({piece_start_, last, before_});
  return static_cast<int32_t>(pieces_.size()) - 1;
}

// The path goes on somewhere else.
void PathWalker::end_piece(uint32_t last) {
  before_ = add_piece(last);
  piece_start_ = pc_;
}

// The instructions of this path, the refused one first.
std::vector<uint32_t> PathWalker::path_backwards() const {
  std::vector<uint32_t> out;
  auto add = [&](uint32_t first, uint32_t last) {
    std::vector<uint32_t> piece;
    for (uint32_t pc = first; pc <= last; pc += flow_.insns[pc].slots()) piece.push_back(pc);
    out.insert(out.end(), piece.rbegin(), piece.rend());
  };
  if (piece_start_ <= pc_) add(piece_start_, pc_);
  for (int32_t p = before_; p >= 0 && out.size() < kInsnsFollowed; p = pieces_[static_cast<size_t>(p)].before)
    add(pieces_[static_cast<size_t>(p)].first, pieces_[static_cast<size_t>(p)].last);
  return out;
}

namespace {

// Follows what matters backwards through a path.
class Follower {
 public:
  explicit Follower(std::set<Thing> things) : things_(std::move(things)) {}

  bool done() const { return things_.empty(); }

  // "": this does not matter. `came_to`: what was executed next.
  std::string pass(const Insn &in, uint32_t pc, uint32_t came_to) {
    switch (in.kind) {
      case Kind::Alu: return arithmetic(in);
      case Kind::Endian: return has(in.dst) ? sets(in) : "";
      case Kind::LoadImm64: return take(in.dst) ? sets(in) : "";
      case Kind::Load:
        if (!take(in.dst)) return "";
        if (in.src == kFramePointer) add_slot(in.off);
        return sets(in);
      case Kind::Store: case Kind::StoreImm:
        if (in.dst != kFramePointer || !things_.erase({calls_, in.off})) return "";
        if (in.kind == Kind::Store) add(in.src);
        return "sets the stack at " + std::to_string(in.off);
      case Kind::Jump: {
        if (!has(in.dst) && !(in.from_reg && has(in.src))) return "";
        return condition(in, pc) + (came_to == pc + 1 ? " is false" : " is true");
      }
      case Kind::Call: case Kind::CallReg: return call(in, came_to == pc + 1);
      case Kind::Exit: return leave();
      default: return "";
    }
  }

 private:
  bool has(int r) const { return things_.contains({calls_, r}); }
  bool take(int r) { return things_.erase({calls_, r}) > 0; }
  void add(int r) { if (r != kFramePointer) things_.insert({calls_, r}); }
  void add_slot(int at) { things_.insert({calls_, at}); }
  static std::string sets(const Insn &in) { return "sets r" + std::to_string(in.dst); }

  std::string arithmetic(const Insn &in) {
    if (!has(in.dst)) return "";
    if (in.alu == AluOp::Mov) take(in.dst);
    if (in.from_reg) add(in.src);
    return sets(in);
  }
  static std::string condition(const Insn &in, uint32_t pc) {
    std::string text = disassemble(in, pc);
    if (text.rfind("if ", 0) == 0) text = text.substr(3);
    return text.substr(0, text.find(" goto"));
  }
  // A function of the host gave r0; into one of our own, arguments went.
  std::string call(const Insn &in, bool over) {
    if (over) return take(0) && in.kind == Kind::Call ? "the function's result, r0" : "";
    std::set<Thing> before;
    for (Thing t : things_) {
      if (t.calls != calls_) before.insert(t);
      else if (t.at >= 1 && t.at <= 5) before.insert({calls_ - 1, t.at});
    }
    things_ = std::move(before);
    calls_--;
    return "";
  }
  // Backwards, that is into the function: its r0 is the caller's.
  std::string leave() {
    const bool result = take(0);
    calls_++;
    if (result) add(0);
    return "";
  }

  std::set<Thing> things_;
  int calls_ = 0;
};

// What gives a number its bounds, rather than passing them on.
bool bounds(const Insn &in) {
  if (in.kind == Kind::Jump || in.kind == Kind::Load || in.kind == Kind::Call) return true;
  if (in.kind == Kind::LoadImm64) return in.src == kImmValue;
  if (in.kind != Kind::Alu) return false;
  switch (in.alu) {
    case AluOp::And: case AluOp::Mod: case AluOp::Rsh: case AluOp::Div: return true;
    case AluOp::Mov: return !in.from_reg;
    default: return false;
  }
}

// What the refused instruction uses: an address, and for calls the argument in question.
std::set<Thing> used_by(const Insn &in, int about) {
  std::set<Thing> things;
  auto add = [&](int r) { if (r != kFramePointer) things.insert({0, r}); };
  if (about >= 0) return add(about), things;
  switch (in.kind) {
    case Kind::Load: add(in.src); break;
    case Kind::Store: case Kind::StoreImm: case Kind::Atomic: add(in.dst); break;
    case Kind::Exit: add(0); break;
    case Kind::Alu: case Kind::Jump: add(in.dst); if (in.from_reg) add(in.src); break;
    case Kind::Call: for (int r = 1; r <= 5; r++) add(r); break;
    default: break;
  }
  return things;
}

}  // namespace

// Fills in the path, and since when the fact in `known` holds. `about`: the register in question; below 0: what the
// instruction uses.
void PathWalker::explain(Refusal *r, int about) const {
  const std::vector<uint32_t> way = path_backwards();
  if (way.empty()) return;
  Follower follower(used_by(flow_.insns[way[0]], about));
  const std::string about_values[] = {"offset is", "the number", "the size", "r"};
  bool since = std::none_of(std::begin(about_values), std::end(about_values),
                            [&](const std::string &start) { return r->known.rfind(start, 0) == 0; });
  std::vector<RefusalStep> steps;
  std::set<std::pair<std::string, uint32_t>> lines;
  for (size_t i = 1; i < way.size() && !follower.done() && steps.size() < kStepsFound; i++) {
    const Insn &in = flow_.insns[way[i]];
    const std::string what = follower.pass(in, way[i], way[i - 1]);
    if (what.empty()) continue;
    RefusalStep step;
    step.insn = way[i];
    step.what = what;
    if (const SourceLine *line = program_.lines[way[i]]; line && !line->file.empty()) {
      step.file = line->file.substr(line->file.find_last_of('/') + 1);
      step.line = line->line;
      step.source = line->text;
    }
    const bool same_line = !step.file.empty() && step.file == r->file && step.line == r->line;
    if (!since && bounds(in)) {
      if (!same_line) r->known += " since " + (step.file.empty() ? "instruction " + std::to_string(step.insn)
                                                 : "line " + std::to_string(step.line));
      since = true;
    }
    const bool new_line = step.file.empty() || lines.insert({step.file, step.line}).second;
    if (new_line && !same_line) steps.push_back(std::move(step));
  }
  if (steps.size() > kPathLinesMax) steps.resize(kPathLinesMax);
  std::reverse(steps.begin(), steps.end());
  r->path = std::move(steps);
}

}  // namespace shortfuse::vm
