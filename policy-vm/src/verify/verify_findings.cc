// What the paths have shown: which instructions they reached and which ways they took from there (complete_code()
// makes the rest unreachable for the machine as well), how much stack functions use, how many rounds there were.
//
// An attempt to judge a loop that fails leaves nothing behind. What its paths changed is put back one by one: attempts
// are many, and a copy of all findings for each would take longer than walking.
#include <algorithm>

#include "verify/verify_path.h"

namespace shortfuse::vm {

void PathWalker::keep(Undo::What what, uint32_t of, uint32_t was) {
  if (!attempts_.empty()) undo_.push_back({what, of, was});
}

void PathWalker::note_visited() {
  if (findings_.visited[pc_]) return;
  findings_.visited[pc_] = true;
  keep(Undo::What::Visited, pc_, 0);
}

void PathWalker::note_ways(uint8_t ways) {
  uint8_t &known = findings_.ways[pc_];
  if ((known | ways) == known) return;
  keep(Undo::What::Ways, pc_, known);
  known |= ways;
}

// The instruction at pc_ enters it.
void PathWalker::note_call(uint32_t function) {
  const std::pair entered{pc_, function};
  auto &calls = findings_.called_from;
  const auto at = std::lower_bound(calls.begin(), calls.end(), entered);
  if (at != calls.end() && *at == entered) return;
  calls.insert(at, entered);
  keep(Undo::What::Call, pc_, function);
}

void PathWalker::note_frame_bytes(uint32_t function, uint32_t bytes) {
  uint32_t &known = findings_.frame_bytes[function];
  if (bytes <= known) return;
  keep(Undo::What::FrameBytes, function, known);
  known = bytes;
}

PathWalker::NestRounds &PathWalker::rounds_to_change(uint32_t nest) {
  if (findings_.rounds.size() <= nest) findings_.rounds.resize(nest + 1);
  keep(Undo::What::Rounds, nest, 0);
  if (!attempts_.empty()) rounds_before_.push_back(findings_.rounds[nest]);
  return findings_.rounds[nest];
}

// Everything that was changed since undo_ had so many entries.
void PathWalker::take_back(size_t until) {
  while (undo_.size() > until) {
    const Undo undo = undo_.back();
    undo_.pop_back();
    switch (undo.what) {
      case Undo::What::Visited: findings_.visited[undo.of] = false; break;
      case Undo::What::Ways: findings_.ways[undo.of] = static_cast<uint8_t>(undo.was); break;
      case Undo::What::FrameBytes: findings_.frame_bytes[undo.of] = undo.was; break;
      case Undo::What::Call: {
        auto &calls = findings_.called_from;
        calls.erase(std::lower_bound(calls.begin(), calls.end(), std::pair{undo.of, undo.was}));
        break;
      }
      case Undo::What::Rounds:
        findings_.rounds[undo.of] = std::move(rounds_before_.back());
        rounds_before_.pop_back();
        break;
    }
  }
}

}  // namespace shortfuse::vm
