// Loops proved at once.
//
// The first rounds of a loop are walked one by one, as any path is. A loop that goes on is then judged as a whole: we
// guess what holds at its header in every round (a candidate: the state of this arrival, with numbers widened), walk
// one round from there, and see whether all ways back to the header are included in the guess. If not, the guess is
// widened: numbers that are compared go up or down to what they are compared with, others to the limits of types.
// A round in which something is refused ends the attempt, and the loop goes on being walked round by round: nothing
// is refused because of a bad guess. Within one round other loops are proved or walked in the same way.
//
// That the loop ends is shown apart. While a round is walked, each number at the header has an id of its own (it is
// pinned, state.h), so that at the end of the round the relation `X + delta` says by how much it changed. A counter
// that on every way round moves in one direction by at least 1, whose range at the header is finite and which does
// not wrap, bounds the number of rounds; so do several of which one moves on every way. With at most R rounds, what
// moves by a known number each time (an address, a count of something found) stays within R times that, which is why
// an address that runs along with a counter need not be compared with anything: by induction, if the first m rounds
// were as guessed, the m-th arrival has moved m times, and m <= R.
//
// Why ending rounds at the header is sound: a state inside of the loop counts as finished only for paths of the same
// attempt (Seen::depends) until all ways out of the loop have been walked to their end. Then everything that can
// happen from the guess has been seen, but for rounds without end, and of those there are none.
//
// Fuel: an accepted program may take kRoundsMax rounds of nested loops, more than the instructions that a run
// may take (SF_RUN_FUEL); see kRoundsMax in verifier.h.
#include <algorithm>
#include <bit>

#include "verify/verify_path.h"

namespace shortfuse::vm {
namespace {

constexpr uint32_t kRoundsWalked = 64;       // before a loop is judged as a whole,
constexpr uint64_t kStepsWalked = 4096;      // or as soon as its rounds have cost so much, less where loops are many,
constexpr uint64_t kStepsWalkedMin = 64, kStepsWalkedOfAll = kStepsMax / 8;
constexpr uint32_t kSplitsWalked = 16;       // or left so many paths open
constexpr uint32_t kCandidatesMax = 40;      // of one attempt
constexpr uint32_t kHeldCandidates = 3;      // in which what depends on the number of rounds waits for that
constexpr uint32_t kNearClimbs = 4;          // of one bound, before the next goes further
constexpr uint32_t kFailuresMax = 6;         // of one loop
constexpr uint32_t kNestMax = 8;             // loops that are being judged at a time
constexpr uint32_t kWatchedMax = 256;
constexpr uint32_t kWaysMax = 256;           // arrivals of one round
constexpr size_t kComparedMax = 16;           // comparisons with one number
constexpr uint64_t kAttemptsInPass = 4;      // that take as long as may be: those of one pass as long as the walk
constexpr uint64_t kMax32 = 0xffffffff;

constexpr uint64_t kEndless = ~0ull;

uint64_t add_saturated(uint64_t a, uint64_t b) {
  uint64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? kEndless : sum;
}

// [low, high] at the header in every round, and where the first one may have begun, as numbers without limits.
using Wide = __int128;
struct Span {
  Wide low, high, from_low, from_high;
  bool arrives_inside;

  // Units that a counter which only goes up (or down) can move; below 0: it may leave the span or wrap.
  Wide room(Wide least, Wide most, Wide type_low, Wide type_high) const {
    if (!arrives_inside || low + std::min<Wide>(least, 0) < type_low || high + std::max<Wide>(most, 0) > type_high) {
      return -1;
    }
    return least >= 0 ? high - from_low : from_high - low;
  }
};

Span unsigned_span(const Scalar &header, const Scalar &entry, const Scalar &back) {
  return {header.umin, header.umax, entry.umin, entry.umax, header.umin <= back.umin && back.umax <= header.umax};
}
Span signed_span(const Scalar &header, const Scalar &entry, const Scalar &back) {
  return {header.smin, header.smax, entry.smin, entry.smax, header.smin <= back.smin && back.smax <= header.smax};
}
Span unsigned_span32(const Scalar &header, const Scalar &entry, const Scalar &back) {
  return {header.umin32, header.umax32, entry.umin32, entry.umax32,
          header.umin32 <= back.umin32 && back.umax32 <= header.umax32};
}
Span signed_span32(const Scalar &header, const Scalar &entry, const Scalar &back) {
  return {header.smin32, header.smax32, entry.smin32, entry.smax32,
          header.smin32 <= back.smin32 && back.smax32 <= header.smax32};
}

// How far this can move in its direction, in the interpretation in which that is least; kEndless: no bound.
uint64_t room_of(const Watched &w, const Scalar &entry, const Scalar &back) {
  if (!w.stepped || (w.least < 0 && w.most > 0)) return kEndless;
  constexpr Wide one = 1;
  Wide best = -1;
  auto consider = [&](Wide room) {
    if (room >= 0 && (best < 0 || room < best)) best = room;
  };
  if (w.modulo32) {
    consider(unsigned_span32(w.value, entry, back).room(w.least, w.most, 0, (one << 32) - 1));
    consider(signed_span32(w.value, entry, back).room(w.least, w.most, -(one << 31), (one << 31) - 1));
  } else {
    consider(unsigned_span(w.value, entry, back).room(w.least, w.most, 0, (one << 64) - 1));
    consider(signed_span(w.value, entry, back).room(w.least, w.most, -(one << 63), (one << 63) - 1));
  }
  return best < 0 || best > static_cast<Wide>(kEndless) ? kEndless : static_cast<uint64_t>(best);
}

// Everything that `entry` can be after 0 to `rounds` moves by `w.least` to `w.most`; nothing where that may wrap.
std::optional<Scalar> moved_range(const Watched &w, const Scalar &entry, const Scalar &back, uint64_t rounds) {
  const Wide down = std::min<Wide>(w.least, 0) * static_cast<Wide>(rounds);
  const Wide up = std::max<Wide>(w.most, 0) * static_cast<Wide>(rounds);
  Scalar r;
  if (w.modulo32) {
    if (entry.umax > kMax32 || back.umax > kMax32 || entry.umin + down < 0 || entry.umax + up > Wide{kMax32})
      return std::nullopt;
    r = Scalar::unsigned_range(static_cast<uint64_t>(entry.umin + down), static_cast<uint64_t>(entry.umax + up));
  } else if (entry.umin + down >= 0 && entry.umax + up <= Wide{~0ull}) {
    r = Scalar::unsigned_range(static_cast<uint64_t>(entry.umin + down), static_cast<uint64_t>(entry.umax + up));
  } else {
    const Wide low = entry.smin + down, high = entry.smax + up;
    if (low < std::numeric_limits<int64_t>::min() || high > std::numeric_limits<int64_t>::max()) return std::nullopt;
    r = Scalar::signed_range(static_cast<int64_t>(low), static_cast<int64_t>(high));
  }
  // Steps that are multiples of a power of two leave the bits below it alone.
  const uint64_t steps = static_cast<uint64_t>(w.least) | static_cast<uint64_t>(w.most);
  if (w.least == w.most && steps != 0) {
    Scalar low_bits;
    low_bits.bits.mask = entry.bits.mask | ~0ull << std::countr_zero(steps);
    low_bits.bits.value = entry.bits.value & ~low_bits.bits.mask;
    r.meet(low_bits);
  }
  return r;
}

// Leaves out what is near and was not there before: where the bounds themselves move with each guess, following them
// takes as long as walking.
void leap(std::vector<uint64_t> *rungs, const std::vector<uint64_t> &before, const Scalar &from, uint64_t far) {
  std::erase_if(*rungs, [&](uint64_t r) {
    if (std::find(before.begin(), before.end(), r) != before.end()) return false;
    const Wide s = static_cast<int64_t>(r), most = static_cast<Wide>(far);
    return (r > from.umax && r - from.umax < far) || (r < from.umin && from.umin - r < far) ||
           (s > from.smax && s - from.smax < most) || (s < from.smin && from.smin - s < most);
  });
}

bool rung_ahead(const Scalar &before, const Scalar &grown, const std::vector<uint64_t> &rungs) {
  auto any = [&](auto ahead) { return std::any_of(rungs.begin(), rungs.end(), ahead); };
  auto as_signed = [](uint64_t v) { return static_cast<int64_t>(v); };
  if (grown.umax > before.umax && any([&](uint64_t r) { return r >= grown.umax; })) return true;
  if (grown.umin < before.umin && any([&](uint64_t r) { return r <= grown.umin; })) return true;
  if (grown.smax > before.smax && any([&](uint64_t r) { return as_signed(r) >= grown.smax; })) return true;
  return grown.smin < before.smin && any([&](uint64_t r) { return as_signed(r) <= grown.smin; });
}

}  // namespace

// ---- when

// A path has arrived at the header of `loop`.
void PathWalker::enter_round(uint32_t loop) {
  const auto frame = static_cast<uint16_t>(state_.frames.size() - 1);
  const bool again = !state_.loops.empty() && state_.loops.back().loop == loop && state_.loops.back().frame == frame;
  if (again) state_.loops.back().rounds++;
  else state_.loops.push_back({loop, frame, 0, loops_[loop].proved ? 0 : kRoundsWalked, 0, steps_});
  note_walked_round(loop);
}

// It goes on there, unless the loop can be judged at once.
PathWalker::Next PathWalker::at_loop(uint32_t loop) {
  const LoopRound &round = state_.loops.back();
  const uint64_t steps_walked = std::clamp(kStepsWalkedOfAll / loops_.size(), kStepsWalkedMin, kStepsWalked);
  const bool dear = round.rounds >= 2 && round.next_try <= kRoundsWalked &&
                    (steps_ - round.steps >= steps_walked || round.splits >= kSplitsWalked);
  if ((round.rounds < round.next_try && !dear) || !may_judge(loop)) return Next::Continue;
  return judge_loop(loop);
}

bool PathWalker::may_judge(uint32_t loop) const {
  const LoopRecord &record = loops_[loop];
  return !walk_all_rounds_ && !record.walk_rounds && record.failures < kFailuresMax && attempts_.size() < kNestMax &&
         attempt_steps_ < steps_max_ && flow_.nest.loops[loop].one_entry;
}

// Forgets loops that the path has left.
void PathWalker::leave_loops() {
  std::vector<LoopRound> &loops = state_.loops;
  while (!loops.empty()) {
    const size_t depth = state_.frames.size() - 1;
    if (loops.back().frame < depth || (loops.back().frame == depth && flow_.nest.contains(loops.back().loop, pc_)))
      return;
    loops.pop_back();
  }
}

// ---- attempts

PathWalker::Next PathWalker::judge_loop(uint32_t loop) {
  if (attempts_.empty()) {
    attempt_limit_ = steps_ + attempt_steps_ + steps_max_ / kAttemptsInPass;
    undo_.clear();
    rounds_before_.clear();
  }
  const Mark mark{state_,        pc_,           parent_, pending_.size(), pending_bytes_, head_bytes_,
                  seen_.size(), pieces_.size(), before_, piece_start_,    undo_.size(), region_};
  const uint64_t steps_before = steps_;
  Attempt attempt;
  attempt.loop = loop;
  attempt.entry = state_;
  attempt.entry.loops.pop_back();
  attempt.entry.widened = static_cast<int32_t>(loop);
  State candidate = without_pins(attempt.entry);
  Judgement judgement = Judgement::Widened;
  for (uint32_t n = 0; n < kCandidatesMax && judgement == Judgement::Widened; n++) {
    rewind(mark);
    attempt.start(candidate, n);
    if (!walk_round(&attempt, mark.parent)) judgement = Judgement::Failed;
    else judgement = judge(&attempt, &candidate);
  }
  attempt_steps_ += steps_ - steps_before;
  steps_ = steps_before;
  if (judgement == Judgement::Holds) return accept_loop(&attempt);
  rewind(mark);
  if (judgement == Judgement::Endless) return endless_loop();
  loops_[loop].failures++;
  LoopRound &round = state_.loops.back();
  round.next_try = std::max(2 * round.rounds, kRoundsWalked + 1);
  return Next::Continue;
}

void PathWalker::rewind(const Mark &mark) {
  pending_.erase(pending_.begin() + static_cast<ptrdiff_t>(mark.pending), pending_.end());
  waiting_.erase(waiting_.upper_bound({mark.region, ~0u}), waiting_.end());
  pending_bytes_ = mark.pending_bytes;
  head_bytes_ = mark.head_bytes;
  forget_seen(mark.seen);
  pieces_.resize(mark.pieces);
  before_ = mark.before;
  piece_start_ = mark.piece_start;
  take_back(mark.undo);
  state_ = mark.state;
  pc_ = mark.pc;
  parent_ = mark.parent;
}

void PathWalker::forget_seen(size_t from) {
  while (seen_.size() > from) {
    seen_bytes_ -= seen_.back().state.bytes();
    if (seen_.back().pc != kNoPlace) places_[seen_.back().pc].seen.pop_back();
    seen_.pop_back();
  }
}

void PathWalker::Attempt::start(State state, uint32_t number) {
  bare = std::move(state);
  candidate = number;
  watched.clear();
  compared.clear();
  ways.clear();
  exits.clear();
  arrived.reset();
  arrivals = 0;
  inner_rounds = 0;
  joined_others = false;
}

// Relations as they are where nothing is pinned.
State PathWalker::without_pins(const State &state) {
  State bare = state;
  std::vector<std::pair<uint32_t, uint32_t>> renamed;
  for (const NamedReg &place : places_of(&bare)) {
    Reg &r = *place.reg;
    if (r.is_pointer() ? !r.can_move() : !pinned_.has(r.id)) continue;
    if (r.is_pointer() || r.spread != 0) {
      r.forget_relation();
      continue;
    }
    auto known = std::find_if(renamed.begin(), renamed.end(), [&](auto &pair) { return pair.first == r.id; });
    if (known == renamed.end()) known = renamed.insert(known, {r.id, next_id_++});
    r.id = known->second;
  }
  drop_irrelevant(&bare, std::vector<uint16_t>(bare.frames.size(), 0x3ff), {});
  return bare;
}

// Gives every number and every address that may move an id of its own; what is related stays so.
void PathWalker::pin(Attempt *t, State *state) {
  t->pinned.first = next_id_;
  std::vector<std::pair<uint32_t, uint32_t>> renamed;
  for (const NamedReg &place : places_of(state)) {
    Reg &r = *place.reg;
    if (r.type != Type::Number && !r.can_move()) continue;
    auto known = std::find_if(renamed.begin(), renamed.end(), [&](auto &pair) { return pair.first == r.id; });
    if (r.id == 0 || known == renamed.end()) {
      if (r.id != 0) renamed.push_back({r.id, next_id_});
      r.id = next_id_++;
    } else {
      r.id = known->second;
    }
    if (t->watched.size() == kWatchedMax) continue;
    const Reg *outer = find_place(&t->entry, place.key);
    const bool related = outer && outer->type == r.type && pinned_.has(outer->id);
    t->watched.push_back({place.key, r.id, r.delta, r.modulo32, r.value, r.type, related ? *outer : Reg{}});
  }
  t->pinned.end = next_id_;
  t->compared.resize(t->pinned.end - t->pinned.first);
}

// Walks everything that can happen from the candidate until it is back at the header or has left the loop. False:
// something is refused there.
bool PathWalker::walk_round(Attempt *t, int32_t parent) {
  t->frames = state_.frames.size();
  t->header = pc_;
  t->invariant = static_cast<int32_t>(seen_.size());
  // Two ways are open: this one, and what becomes of the loop.
  Seen guess{t->bare, parent, 2, pc_, innermost_guess(), true};
  seen_bytes_ += guess.state.bytes();
  places_[pc_].seen.push_back(static_cast<uint32_t>(seen_.size()));
  seen_.push_back(std::move(guess));
  state_ = t->bare;
  pin(t, &state_);
  parent_ = t->invariant;
  attempts_.push_back(t);
  pinned_.ranges.push_back(t->pinned);
  const uint32_t region_around = std::exchange(region_, ++regions_);
  charge(4 * state_.bytes());
  const size_t open = pending_.size();
  bool ok = walk_path(true) && walk_pending(open);
  attempts_.pop_back();
  pinned_.ranges.pop_back();
  region_ = region_around;
  return ok;
}

bool PathWalker::outside_of_round() const {
  const Attempt &t = *attempts_.back();
  return state_.frames.size() < t.frames ||
         (state_.frames.size() == t.frames && !flow_.nest.contains(t.loop, pc_));
}

// The path has left the loop: it is walked on once the loop is understood.
bool PathWalker::leave_round() {
  pending_bytes_ += state_.bytes();
  charge(state_.bytes());
  if (pending_bytes_ > kPendingBytesMax) return refuse_limit(kOpenBranches, "");
  attempts_.back()->exits.push_back({std::move(state_), pc_, attempts_.back()->invariant, before_, piece_start_});
  path_ended();
  return true;
}

bool PathWalker::is_back_at_header() const {
  return !attempts_.empty() && attempts_.back()->header == pc_ && attempts_.back()->frames == state_.frames.size();
}

// A way back to the header: how did everything change?
PathWalker::Next PathWalker::arrive_back() {
  Attempt &t = *attempts_.back();
  std::vector<int8_t> moves(t.watched.size(), 0);
  for (size_t i = 0; i < t.watched.size(); i++) {
    Watched &w = t.watched[i];
    const Reg *now = find_place(&state_, w.key);
    int64_t step = 0, most = 0;
    if (now && now->type == w.type && now->id == w.id) {
      w.modulo32 |= now->modulo32;
      step = static_cast<int64_t>(now->delta - w.delta);
      if (w.modulo32) step = static_cast<int32_t>(step);
      // A step that no number of 64 bits can hold is none of which it could be told in which direction it goes.
      if (__builtin_add_overflow(step, now->spread, &most)) {
        w.stepped = false;
        continue;
      }
    } else if (now && now->type == w.type && w.value.is_constant() && now->value.is_constant()) {
      step = most = static_cast<int64_t>(now->value.umin - w.value.umin);
    } else {
      w.stepped = false;
      continue;
    }
    w.least = t.arrivals == 0 ? step : std::min(w.least, step);
    w.most = t.arrivals == 0 ? most : std::max(w.most, most);
    if (now->spread > kMax32) w.stepped = false;
    if (w.modulo32 && (w.least < std::numeric_limits<int32_t>::min() || w.most > std::numeric_limits<int32_t>::max()))
      w.stepped = false;
    moves[i] = static_cast<int8_t>(step > 0 ? 1 : most < 0 ? -1 : 0);
  }
  t.arrivals++;
  if (t.ways.size() < kWaysMax) t.ways.push_back(std::move(moves));
  charge(2 * state_.bytes());
  if (!t.arrived) t.arrived = std::move(state_);
  else if (!join_states(&*t.arrived, state_, &next_id_)) {
    refuse("too-complex", "a loop is entered from different places");
    return Next::Refused;
  }
  return Next::PathEnds;
}

// Numbers that are compared with something are worth trying there.
void PathWalker::note_comparison(const Insn &in, const Reg &a, const Reg &b) {
  if (in.jump == JumpOp::Set || a.type != Type::Number || b.type != Type::Number) return;
  note_bound(attempts_.size(), a, b.value, in.wide);
  note_bound(attempts_.size(), b, a.value, in.wide);
}

// For the innermost `attempts` loops that are being judged.
void PathWalker::note_bound(size_t attempts, const Reg &of, const Scalar &bound, bool wide) {
  if (of.id == 0 || attempts == 0) return;
  Attempt &t = *attempts_[attempts - 1];
  if (of.id < t.pinned.first || of.id >= t.pinned.end) return;
  std::vector<Compared> &all = t.compared[of.id - t.pinned.first];
  auto known = std::find_if(all.begin(), all.end(), [&](auto &c) { return c.pc == pc_ && c.delta == of.delta; });
  if (known != all.end()) known->with = scalar_join(known->with, bound);
  else if (all.size() < kComparedMax) all.push_back({pc_, of.delta, wide, bound});
  for (const Watched &w : t.watched) {
    if (w.id != of.id || w.outer.id == 0) continue;
    Reg outer = w.outer;
    outer.delta += of.delta - w.delta;
    return note_bound(attempts - 1, outer, bound, wide);
  }
}

// ---- judging a round

// Bounds that are worth trying for this place, at the header.
std::vector<uint64_t> PathWalker::rungs_of(const Attempt &t, const Watched &w) const {
  std::vector<uint64_t> rungs;
  if (w.id < t.pinned.first || w.id >= t.pinned.end) return rungs;
  for (const Compared &c : t.compared[w.id - t.pinned.first]) {
    const Scalar &v = c.with;
    const uint64_t bounds[] = {v.umin, v.umax, static_cast<uint64_t>(v.smin), static_cast<uint64_t>(v.smax)};
    const uint64_t bounds32[] = {v.umin32, v.umax32, static_cast<uint64_t>(int64_t{v.smin32}),
                                 static_cast<uint64_t>(int64_t{v.smax32})};
    for (uint64_t bound : c.wide ? bounds : bounds32) {
      const uint64_t here = bound - c.delta + w.delta;
      for (uint64_t rung : {here - 1, here, here + 1}) {
        rungs.push_back(rung);
        if (!w.stepped) continue;
        rungs.push_back(rung + static_cast<uint64_t>(w.least));
        rungs.push_back(rung + static_cast<uint64_t>(w.most));
      }
    }
  }
  return rungs;
}

// The most rounds that there can be after the first, as far as the candidate is to be believed: for who begins as the
// loop was met, or in any of its rounds.
uint64_t PathWalker::rounds_of(Attempt *t, bool from_anywhere) const {
  uint64_t alone = kEndless, together = 0;
  std::vector<bool> moved(t->ways.size(), false);
  for (size_t i = 0; i < t->watched.size(); i++) {
    const Watched &w = t->watched[i];
    const Reg *entry = find_place(&t->entry, w.key), *back = find_place(&*t->arrived, w.key);
    if (!w.stepped || !entry || !back || (w.least == 0 && w.most == 0)) continue;
    const uint64_t room = room_of(w, from_anywhere ? w.value : entry->value, back->value);
    if (room == kEndless) continue;
    if (w.least > 0) alone = std::min(alone, room / static_cast<uint64_t>(w.least));
    else if (w.most < 0) alone = std::min(alone, room / (0 - static_cast<uint64_t>(w.most)));
    bool useful = false;
    for (size_t way = 0; way < t->ways.size(); way++) {
      if (moved[way] || t->ways[way][i] == 0) continue;
      useful = moved[way] = true;
    }
    if (useful) together = add_saturated(together, room);
  }
  const bool all_ways = t->arrivals == t->ways.size() && std::find(moved.begin(), moved.end(), false) == moved.end();
  return all_ways ? std::min(alone, together) : alone;
}

PathWalker::Judgement PathWalker::judge(Attempt *t, State *candidate) {
  t->counted_from_entry = false;
  if (!t->arrived) {
    t->rounds = 0;
    t->nest_rounds = std::max<uint64_t>(t->inner_rounds, 1);
    return Judgement::Holds;
  }
  const uint64_t rounds = rounds_of(t, false);
  State next = t->bare, back = *t->arrived;
  if (!join_states(&next, back, &next_id_)) return Judgement::Failed;
  bool idle = true;
  std::vector<std::pair<const Watched *, Reg *>> held;  // until the number of rounds is known
  for (const Watched &w : t->watched) {
    Reg *to = find_place(&next, w.key), *from = find_place(&back, w.key);
    if (!to || !from || w.value.includes(from->value)) continue;
    const Reg *entry = find_place(&t->entry, w.key);
    std::vector<uint64_t> rungs = rungs_of(*t, w);
    Climb &climb = climb_of(t, w.key);
    const std::vector<uint64_t> all = rungs;
    if (climb.count >= kNearClimbs) leap(&rungs, climb.rungs, w.value, 1ull << std::min(climb.count, 62u));
    if (climb.count++ % kNearClimbs == 0) climb.rungs = all;
    if (const Scalar *hint = hint_for(t->loop, w.key); hint && t->candidate == 0 && hint->includes(to->value)) {
      to->value = *hint;
      idle = false;
      continue;
    }
    const bool climbs = w.type == Type::Number && rung_ahead(w.value, to->value, rungs);
    if (w.stepped && entry && !climbs && rounds != kEndless) {
      const auto range = moved_range(w, entry->value, from->value, rounds);
      if (!range) return Judgement::Failed;
      if (w.value.includes(*range)) {  // by induction over the rounds
        to->value = from->value = w.value;
        t->counted_from_entry = true;
      } else {
        to->value = scalar_join(*range, entry->value);
        idle = false;
      }
    } else if (climbs || !w.stepped) {
      to->value = scalar_widen(w.value, to->value, rungs);
      idle = false;
    } else {
      held.push_back({&w, to});
    }
  }
  if (idle && t->candidate >= kHeldCandidates) {
    for (auto &[w, to] : held) to->value = scalar_widen(w->value, to->value, {});
  }
  return settle(t, std::move(next), back, rounds, candidate);
}

// `back` is every way back, `next` what to try if the candidate does not include that.
PathWalker::Judgement PathWalker::settle(Attempt *t, State next, const State &back, uint64_t rounds, State *candidate) {
  const std::vector<uint16_t> all(t->bare.frames.size(), 0x3ff);
  uint32_t looked_at = 0;
  if (!state_includes(t->bare, back, all, pinned_, &looked_at)) {
    const bool stands_still = state_includes(t->bare, next, all, pinned_, &looked_at);
    if (stands_still) return Judgement::Failed;
    drop_irrelevant(&next, all, pinned_);
    *candidate = std::move(next);
    return Judgement::Widened;
  }
  if (rounds == kEndless) loops_[t->loop].without_counter = true;
  if (rounds == kEndless) return t->exits.empty() && !t->joined_others ? Judgement::Endless : Judgement::Failed;
  t->rounds = rounds;
  t->nest_rounds = multiply_saturated(add_saturated(rounds, 1), std::max<uint64_t>(t->inner_rounds, 1));
  if (t->nest_rounds <= kRoundsMax) return Judgement::Holds;
  most_rounds_ = std::max(most_rounds_, t->nest_rounds);
  most_rounds_pc_ = t->header;
  return Judgement::Failed;
}

PathWalker::Climb &PathWalker::climb_of(Attempt *t, PlaceKey key) {
  for (Climb &climb : t->climbs) {
    if (climb.key == key) return climb;
  }
  return t->climbs.emplace_back(Climb{key, 0, {}});
}

const Scalar *PathWalker::hint_for(uint32_t loop, PlaceKey key) const {
  for (const auto &[place, value] : loops_[loop].hints) {
    if (place == key) return &value;
  }
  return nullptr;
}

// ---- what becomes of it

// How places are related to what the loop around pinned, in every round: each round moved them by what is known.
std::vector<PathWalker::Claim> PathWalker::outer_claims(Attempt *t) const {
  std::vector<Claim> claims(t->pinned.end - t->pinned.first);
  if (t->watched.size() == kWatchedMax) return claims;
  std::vector<uint32_t> members(claims.size());
  for (const Watched &w : t->watched) members[w.id - t->pinned.first]++;
  const auto rounds = static_cast<int64_t>(std::min(t->rounds, kRoundsMax));
  for (const Watched &w : t->watched) {
    Reg outer = w.outer;
    constexpr int64_t kFar = 1ll << 31;  // times kRoundsMax: no overflow
    if (outer.id == 0 || !w.stepped || w.least < -kFar || w.most > kFar) continue;
    const bool still = rounds == 0 || (w.least == 0 && w.most == 0);
    outer.modulo32 |= w.modulo32;
    outer.move(std::min<int64_t>(w.least, 0) * rounds, std::max<int64_t>(w.most, 0) * rounds);
    // Of related places one relation must do for all.
    const bool alone = members[w.id - t->pinned.first] == 1;
    if (outer.id == 0 || (!alone && (outer.spread != 0 || outer.modulo32))) continue;
    t->counted_from_entry |= !still;
    claims[w.id - t->pinned.first] = {outer, w.delta};
  }
  return claims;
}

// States of paths through this loop, as the loop around sees them. What was pinned here is an id like any other.
void PathWalker::relate_to_outer(const Attempt &t, const std::vector<Claim> &claims, State *state) const {
  for (const NamedReg &place : places_of(state)) {
    Reg &r = *place.reg;
    if (r.id < t.pinned.first || r.id >= t.pinned.end) continue;
    const Claim &claim = claims[r.id - t.pinned.first];
    if (claim.outer.id == 0) {
      if (r.is_pointer() || r.spread != 0) r.forget_relation();
      continue;
    }
    r.id = claim.outer.id;
    r.delta += claim.outer.delta - claim.delta;
    r.spread += claim.outer.spread;
    r.modulo32 |= claim.outer.modulo32;
  }
  drop_irrelevant(state, std::vector<uint16_t>(state->frames.size(), 0x3ff), pinned_);
}

PathWalker::Next PathWalker::accept_loop(Attempt *t) {
  LoopRecord &record = loops_[t->loop];
  state_ = t->entry;
  pc_ = t->header;
  const uint32_t nest = nest_here(t->loop).nest;
  record.proved = true;
  record.hints.clear();
  for (const Watched &w : t->watched) {
    const Reg *entry = find_place(&t->entry, w.key);
    if (entry && !(entry->value == w.value)) record.hints.push_back({w.key, w.value});
  }
  if (!attempts_.empty()) {
    Attempt &around = *attempts_.back();
    around.inner_rounds = std::max(around.inner_rounds,
                                   multiply_saturated(t->nest_rounds, callback_rounds(around.frames)));
  }
  judged_ = true;
  const std::vector<Claim> claims = outer_claims(t);
  const bool joined_anywhere = !t->counted_from_entry && t->arrived;  // by paths to come
  const uint64_t rounds_after = joined_anywhere ? std::max(t->rounds, rounds_of(t, true)) : t->rounds;
  note_judged_rounds(nest, add_saturated(rounds_after, 1), t->joined_others);
  for (Pending &exit : t->exits) relate_to_outer(*t, claims, &exit.state);
  if (t->counted_from_entry) {
    // What was concluded from the number of rounds holds for who begins as this path did, not for who is in the
    // middle: nobody else may join here.
    forget_seen(static_cast<size_t>(t->invariant) + 1);
    seen_bytes_ += t->entry.bytes() - seen_.back().state.bytes();
    seen_.back().state = t->entry;
  } else {
    State pinned = t->bare;
    for (const Watched &w : t->watched) {
      if (Reg *r = find_place(&pinned, w.key); claims[w.id - t->pinned.first].outer.id != 0) r->id = w.id;
    }
    seen_[static_cast<size_t>(t->invariant)].state = std::move(pinned);
    for (size_t i = static_cast<size_t>(t->invariant); i < seen_.size(); i++)
      relate_to_outer(*t, claims, &seen_[i].state);
  }
  Seen &invariant = seen_[static_cast<size_t>(t->invariant)];
  invariant.branches += static_cast<uint32_t>(t->exits.size());
  for (Pending &exit : t->exits) pending_.push_back(std::move(exit));
  parent_ = t->invariant;
  return Next::PathEnds;
}

}  // namespace shortfuse::vm
