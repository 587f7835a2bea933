// Places where too many paths meet.
//
// Paths that differ where they meet are walked on one by one, for what one of them knows need not be true on another.
// But n branches in a row make 2^n paths. Of those that meet at one place the first few go on by themselves. From then
// on who arrives waits, and is joined with who waits there already (join.h), until everything has been walked that may
// still lead there: those that wait are woken in the order in which a program runs. So a program without loops is
// walked a few times, however many branches it has.
//
// Only paths in the same rounds of the same loops and callbacks, in functions called from the same places, are joined:
// their counters agree. Paths that hold different kinds of things (an address here, NULL there) are different crowds,
// as long as there are not too many kinds. While a loop is judged as a whole (verify_loops.cc) its rounds are a
// *region* of their own, and nobody waits there when the judgement is made.
//
// Joining only forgets, so that what is accepted is right. What is refused may be right all the same: the program is
// then walked once more without joining (PathWalker::run).
#include <algorithm>

#include "verify/verify_path.h"

namespace shortfuse::vm {
namespace {

// Paths that are walked one by one from one position, so that they take about so many instructions in all; a loop's
// rounds are walked again for every guess.
constexpr size_t kApartMin = 4, kApartMax = 12, kStepsApart = 40'000;
constexpr size_t kApartMinInLoop = 1, kStepsApartInLoop = 10'000;
constexpr uint32_t kTogether = 4;                  // times that the others are, before their numbers are given up
constexpr size_t kKindsMax = 8;                    // that wait apart at one position
constexpr size_t kCrowdsMax = 100'000;             // positions remembered,
constexpr size_t kPositionMax = 128;               // each of so many numbers: who is in deeper goes on by himself

}  // namespace

// Compares as programs run: by the region, then for each active function by the loops around the place, the outermost
// first (where they begin, and in which round), and the place itself. Equal: the paths may be joined. Nothing where
// that are too many loops.
PathWalker::Position PathWalker::position() const {
  Position p{region_};
  std::vector<uint32_t> around;
  for (size_t f = 0; f < state_.frames.size(); f++) {
    const bool last = f + 1 == state_.frames.size();
    const uint32_t pc = last ? pc_ : state_.frames[f + 1].return_pc - 1;
    around.clear();
    for (int32_t l = flow_.nest.innermost[pc]; l >= 0; l = flow_.nest.loops[static_cast<size_t>(l)].parent) {
      around.push_back(static_cast<uint32_t>(l));
      if (p.size() + 2 * around.size() > kPositionMax) return {};
    }
    for (size_t i = around.size(); i-- > 0;) {
      const auto round = std::find_if(state_.loops.begin(), state_.loops.end(), [&](const LoopRound &r) {
        return r.loop == around[i] && r.frame == f;
      });
      p.push_back(flow_.nest.order[flow_.nest.loops[around[i]].header]);
      p.push_back(round == state_.loops.end() ? 0 : round->rounds);
    }
    p.push_back(flow_.nest.order[pc]);
    if (!last) p.push_back(static_cast<uint32_t>(state_.frames[f + 1].head + 1));
  }
  return p;
}

// What registers and saved registers are, whatever their values.
uint32_t PathWalker::kind_of_state() const {
  uint32_t kind = static_cast<uint32_t>(state_.reservations.size());
  auto add = [&](const Reg &r) {
    const uint32_t what = !r.is_pointer() ? 0 : 1u + static_cast<uint32_t>(r.type) + (r.map << 8) + (r.frame << 24);
    kind = (kind ^ what) * 0x9e3779b1u;
    kind ^= kind >> 15;
  };
  for (const Frame &frame : state_.frames) {
    for (const Reg &r : frame.reg) add(r);
    for (const Slot &slot : frame.stack) add(slot.saved == Slot::Whole ? slot.reg[0] : Reg{});
  }
  return kind;
}

void PathWalker::tell_apart(Position *here, Crowd *crowd) const {
  const uint32_t kind = kind_of_state();
  const bool known = std::find(crowd->kinds.begin(), crowd->kinds.end(), kind) != crowd->kinds.end();
  if (!known && crowd->kinds.size() == kKindsMax) return;
  if (!known) crowd->kinds.push_back(kind);
  here->push_back(kind);
}

PathWalker::Next PathWalker::wait_in_crowd() {
  const size_t steps = region_ == 0 ? kStepsApart : kStepsApartInLoop;
  const size_t most_apart =
      std::clamp(steps / flow_.insns.size(), region_ == 0 ? kApartMin : kApartMinInLoop, kApartMax);
  if (!joins_crowds_ || places_[pc_].visits < most_apart / 2) return Next::Continue;
  Position here = position();
  if (here.empty()) return Next::Continue;
  charge(here.size() * sizeof(uint32_t));
  auto at = crowds_.find(here);
  if (at == crowds_.end()) {
    if (crowds_.size() >= kCrowdsMax) return Next::Continue;
    at = crowds_.emplace(here, Crowd{}).first;
  }
  if (at->second.walked_apart++ < most_apart) return Next::Continue;
  tell_apart(&here, &at->second);
  if (!let_wait(here, &crowds_[here])) return Next::Continue;
  if (pending_bytes_ <= kPendingBytesMax) return Next::Waits;
  refuse_limit(kOpenBranches, "");
  return Next::Refused;
}

// False: what is known on this path and on the others has nothing in common.
bool PathWalker::let_wait(const Position &here, Crowd *crowd) {
  charge(2 * state_.bytes());
  auto waiting = waiting_.find(here);
  if (waiting != waiting_.end()) {
    State together = waiting->second.state;
    if (!join_states(&together, state_, &next_id_, &pinned_)) return false;
    pending_bytes_ += together.bytes() - waiting->second.state.bytes();
    waiting->second.state = std::move(together);
    waiting->second.parents.push_back(parent_);
    return joined_ = true;
  }
  if (crowd->together >= 0) {  // who was walked on from here once is walked on with
    const State &known = seen_[static_cast<size_t>(crowd->together)].state;
    State together = known;
    if (!join_states(&together, state_, &next_id_, &pinned_)) return false;
    if (crowd->walked_together >= kTogether) together = widened(known, together, pinned_);
    state_ = std::move(together);
  }
  pending_bytes_ += state_.bytes();
  waiting_.emplace(here, Waiting{std::move(state_), pc_, {parent_}, before_, piece_start_});
  return joined_ = true;
}

// Those that wait first in this region go on as one.
bool PathWalker::walk_crowd() {
  auto first = waiting_.lower_bound({region_});
  Crowd &crowd = crowds_.at(first->first);
  Waiting waiting = std::move(first->second);
  waiting_.erase(first);
  pending_bytes_ -= waiting.state.bytes();
  state_ = std::move(waiting.state);
  pc_ = waiting.pc;
  before_ = waiting.before;
  piece_start_ = waiting.piece_start;
  state_.crowded = true;
  drop_irrelevant(&state_, live_registers(), pinned_);
  charge(state_.bytes());
  parent_ = static_cast<int32_t>(seen_.size());
  Seen together{{}, -1, 1, kNoPlace, innermost_guess(), false, std::move(waiting.parents)};
  if (seen_bytes_ + state_.bytes() <= kStateBytesMax) {
    together.state = state_;
    together.pc = pc_;
    crowd.together = parent_;
    crowd.walked_together++;
    places_[pc_].seen.push_back(static_cast<uint32_t>(seen_.size()));
  }
  seen_bytes_ += together.state.bytes();
  seen_.push_back(std::move(together));
  Next next = Next::Continue;
  if (const int32_t loop = flow_.nest.headed_by[pc_]; loop >= 0) next = at_loop(static_cast<uint32_t>(loop));
  if (next == Next::PathEnds) path_ended();
  return next == Next::Continue ? walk_path(true) : next != Next::Refused;
}

}  // namespace shortfuse::vm
