// How often a run may go round its loops and callbacks: what Verified::rounds says.
//
// A *nest* is a loop, a callback or a call where it stands: in which nests, from the program's beginning. How often a
// run begins a round of it is bounded by what was found there on any path, not by what one path did: a path that joins
// another has the rest of that one's rounds before it, whoever walked it, and may have come in the middle.
//
// Of a loop whose rounds are walked, a run does not come to the same arrival at the header twice, or it would go on for
// ever; so there are at most as many rounds as there were arrivals, on all paths: for each round of the callback, or of
// the loop judged as a whole, in which they were walked (the *owner*). A loop that was judged may have that many more
// rounds each time it is met. Where paths of a round joined one from outside of it, a run may go from one judgement's
// rounds to another's, and they are added up.
#include <algorithm>

#include "verify/verify_path.h"

namespace shortfuse::vm {
namespace {

constexpr uint32_t kCallLabel = 1u << 30;  // beside a loop's number: the instruction that calls
constexpr uint64_t kBytesPerNest = 1024;   // finding one takes as long as handling so many bytes of states

uint64_t add_saturated(uint64_t a, uint64_t b) { return a > ~0ull - b ? ~0ull : a + b; }

}  // namespace

uint32_t PathWalker::nest_in(uint32_t outer, uint32_t label) {
  const auto [at, is_new] = nests_.try_emplace({outer, label}, static_cast<uint32_t>(nests_.size()) + 1);
  return at->second;
}

// Where the path is: the nest of the function on top, and of the loops around pc_ in it up to `loop`; kNoLoop: all.
// `owner` is the innermost around that whose rounds are not walked one by one.
PathWalker::NestPlace PathWalker::nest_here(uint32_t loop) {
  NestPlace place{0, 0};
  std::vector<uint32_t> around;
  uint64_t nests = 0;
  for (size_t f = 0; f < state_.frames.size(); f++) {
    const bool last = f + 1 == state_.frames.size();
    const uint32_t pc = last ? pc_ : state_.frames[f + 1].return_pc - 1;
    around.clear();
    for (int32_t l = flow_.nest.innermost[pc]; l >= 0; l = flow_.nest.loops[static_cast<size_t>(l)].parent)
      around.push_back(static_cast<uint32_t>(l));
    nests += around.size() + 1;
    for (size_t i = around.size(); i-- > 0;) {
      place.nest = nest_in(place.nest, around[i]);
      if (last && around[i] == loop) {
        charge(nests * kBytesPerNest);
        return place;
      }
      for (const Attempt *a : attempts_) {
        if (a->loop == around[i] && a->frames == f + 1) place.owner = place.nest;
      }
    }
    if (last) break;
    place.nest = nest_in(place.nest, kCallLabel | pc);
    if (state_.frames[f + 1].role != Role::Called) place.owner = place.nest;
  }
  charge(nests * kBytesPerNest);
  return place;
}

void PathWalker::note_walked_round(uint32_t loop) {
  const NestPlace place = nest_here(loop);
  auto &walked = rounds_to_change(place.nest).walked;
  auto w = std::find_if(walked.begin(), walked.end(), [&](auto &known) { return known.owner == place.owner; });
  if (w == walked.end()) w = walked.insert(w, {place.owner});
  if (w->region != region_) w->in_region = 0;
  w->region = region_;
  w->most = std::max(w->most, ++w->in_region);
  w->sum++;
}

void PathWalker::note_judged_rounds(uint32_t nest, uint64_t rounds, bool joined_others) {
  NestRounds &n = rounds_to_change(nest);
  n.judged = std::max(n.judged, rounds);
  n.judged_sum = add_saturated(n.judged_sum, rounds);
  n.joined_others |= joined_others;
}

void PathWalker::note_callback_rounds(const Frame &body) {
  NestRounds &n = rounds_to_change(nest_in(nest_here(kNoLoop).nest, kCallLabel | pc_));
  n.judged = std::max(n.judged, rounds_of_body(body));
  n.callback = true;
}

// Of the nest with the most; 0 where all rounds of all loops were walked.
uint64_t PathWalker::most_rounds() {
  const size_t count = nests_.size() + 1;
  // Per nest: how often a run is in a round of it, and in one that is not walked for itself.
  std::vector<uint64_t> times(count, 1), proved(count, 1);
  std::vector<std::pair<uint32_t, uint32_t>> keys(count);
  for (auto &[key, nest] : nests_) keys[nest] = key;
  findings_.rounds.resize(count);
  uint64_t most = 0;
  bool judged = false;
  for (size_t nest = 1; nest < count; nest++) {  // outer ones have smaller numbers
    const auto [outer, label] = keys[nest];
    const NestRounds &n = findings_.rounds[nest];
    const bool called = (label & kCallLabel) && !n.callback;
    proved[nest] = called ? 0 : multiply_saturated(n.joined_others ? n.judged_sum : n.judged, times[outer]);
    times[nest] = called ? times[outer] : proved[nest];
    for (const NestRounds::Walked &w : n.walked) {
      const NestRounds &owner = findings_.rounds[w.owner];
      const uint64_t rounds = owner.joined_others || owner.callback ? w.sum : w.most;
      times[nest] = add_saturated(times[nest], multiply_saturated(rounds, proved[w.owner]));
    }
    judged |= n.judged > 0;
    if (!called) most = std::max(most, times[nest]);
  }
  return judged ? most : 0;
}

}  // namespace shortfuse::vm
