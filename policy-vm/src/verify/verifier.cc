// Walking the paths.
#include "verify/verifier.h"

#include <algorithm>

#include "isa/disasm.h"
#include "object/slots.h"
#include "refusals.h"
#include "verify/verify_path.h"

namespace shortfuse::vm {
namespace {

std::string place_in_source(const SourceLine *line) {
  if (!line || line->file.empty()) return "";
  return line->file.substr(line->file.find_last_of('/') + 1) + ":" + std::to_string(line->line);
}

Refusal make_refusal(const LinkedProgram &program, const std::string &object, const char *code, uint32_t pc,
                     const Insn *insn, const std::string &sentence) {
  const SourceLine *line = pc < program.lines.size() ? program.lines[pc] : nullptr;
  std::string place = place_in_source(line);
  Refusal r;
  r.code = std::string("verify-") + code;
  r.reason = sentence;
  r.text = object + ": " + program.section + " (" + program.name + ")" + (place.empty() ? "" : ", " + place) + ": " +
           sentence;
  if (!place.empty()) {
    r.file = line->file.substr(line->file.find_last_of('/') + 1);
    r.line = line->line;
    r.source = line->text;
  }
  r.insn = pc;
  if (insn) r.insn_text = disassemble(*insn, pc);
  return r;
}

// Where a field of the context may be another one when it is read again.
constexpr const char *kSuggestCopy =
    "bound the number before it is used: if (i >= N) return 0; a field of the context is copied first (u64 i = ctx->i),"
    " because the application may change it between two reads";

constexpr uint64_t kSaveAfterInsns = 8, kSaveAfterJumps = 2;

}  // namespace

PathWalker::PathWalker(LinkedProgram *program, const std::vector<Policy::Map> &maps, const std::string &object,
                       Flow flow)
    : program_(*program),
      maps_(maps),
      object_(object),
      flow_(std::move(flow)),
      writes_shared_maps_(program->target->writes_shared_maps(program->slot)),
      context_bytes_(program->target->context_bytes(program->slot)),
      steps_max_(std::min<uint64_t>(kStepsMax, kStepsOfAny + kStepsPerInsn * flow_.insns.size())),
      loops_(flow_.nest.loops.size()) {}

std::expected<Verified, Refusal> PathWalker::run(uint64_t *steps_left) {
  std::optional<Refusal> first, of_crowd;
  bool accepted = false;
  while (true) {
    begin();
    steps_limit_ = std::min(steps_max_, *steps_left - std::min(spent_, *steps_left));
    accepted = walk_all() && check_stack();
    spent_ += steps_ + attempt_steps_;
    if (accepted) break;
    if (joined_ && spent_ < *steps_left) {  // maybe only because of that
      of_crowd = refusal_;
      joins_crowds_ = false;
      continue;
    }
    if (!walk_more_closely()) break;
    if (!first) first = refusal_;
  }
  *steps_left -= std::min(*steps_left, spent_);
  if (!accepted) {
    if (of_crowd && refusal_.code == "verify-too-complex") return std::unexpected(*of_crowd);
    // What stood in the way of judging loops as a whole says more than that walking their rounds takes too long.
    const bool endless = first && first->code == "verify-endless-loop";
    if (first && !endless && refusal_.code == "verify-too-complex") return std::unexpected(*first);
    return std::unexpected(refusal_);
  }
  complete_code();
  return Verified{static_cast<uint32_t>(spent_), stack_bytes_, most_rounds()};
}

// Everything at its beginning.
void PathWalker::begin() {
  pending_.clear();
  waiting_.clear();
  crowds_.clear();
  region_ = regions_ = 0;
  joined_ = false;
  seen_.clear();
  places_.assign(flow_.insns.size(), {});
  seen_bytes_ = pending_bytes_ = steps_ = attempt_steps_ = charged_bytes_ = 0;
  parent_ = before_ = -1;
  pieces_.clear();
  insns_since_save_ = jumps_since_save_ = 0;
  findings_ = {std::vector<bool>(flow_.insns.size()), std::vector<uint8_t>(flow_.insns.size()),
               std::vector<uint32_t>(program_.functions.size()), {}, {}};
  undo_.clear();
  rounds_before_.clear();
  head_bytes_ = 0;
  nests_.clear();
  stack_bytes_ = 0;
  judged_ = false;
  for (LoopRecord &loop : loops_) loop = {false, loop.walk_rounds, loop.without_counter, 0, {}};
}

bool PathWalker::walk_all() {
  State entry;
  entry.frames.emplace_back();
  entry.frames[0].reg[1] = {Type::Context, 0, 0, 0, Scalar::constant(0), 0, false};
  if (program_.memory_map >= 0) {
    const auto map = static_cast<uint16_t>(program_.memory_map);
    const bool none = maps_[map].def.value_size == 0;
    entry.frames[0].reg[1] = none ? Reg::number(Scalar::constant(0))
                                  : Reg{Type::MapValue, 0, map, 0, Scalar::constant(0), 0, false};
    entry.frames[0].reg[2] = Reg::number(Scalar::constant(maps_[map].def.value_size));
  }
  pending_bytes_ += entry.bytes();
  pending_.push_back({std::move(entry), 0, -1, -1, 0});
  return walk_pending(0);
}

// After a refusal: it may be due to a loop that was judged as a whole, where walking its rounds shows more.
bool PathWalker::walk_more_closely() {
  constexpr uint32_t kPassesMax = 4;
  if (walk_all_rounds_ || !judged_) return false;
  spent_in_passes_ += steps_;
  if (refusal_.code == "verify-too-complex" || refusal_.code == "verify-stack-total" || ++passes_ >= kPassesMax ||
      spent_in_passes_ > steps_max_ / 2) {
    return walk_all_rounds_ = true;
  }
  if (state_.widened < 0) return false;
  return loops_[static_cast<size_t>(state_.widened)].walk_rounds = true;
}

// Walks the paths left for later, the last first, until `until` of them are left; then those of this region that wait.
bool PathWalker::walk_pending(size_t until) {
  while (true) {
    if (pending_.size() <= until) {
      if (waiting_.empty() || waiting_.rbegin()->first[0] != region_) return true;
      if (!walk_crowd()) return false;
      continue;
    }
    Pending next = std::move(pending_.back());
    pending_.pop_back();
    pending_bytes_ -= next.state.bytes();
    state_ = std::move(next.state);
    pc_ = next.pc;
    parent_ = next.parent;
    before_ = next.before;
    piece_start_ = next.piece_start;
    if (!walk_path()) return false;
  }
  return true;
}

// One path, until it exits or joins one known to be safe. `met`: not to be compared with others where it begins.
bool PathWalker::walk_path(bool met) {
  for (;; met = false) {
    const bool in_attempt = !attempts_.empty();
    if (++steps_ > steps_limit_ || (in_attempt && steps_ + attempt_steps_ > attempt_limit_)) {
      return refuse_limit("the program has more paths than can be walked; a loop may have too many rounds",
                          "at most " + std::to_string(steps_limit_) + " instructions walked over all paths");
    }
    if (in_attempt && outside_of_round()) return leave_round();
    Next next = flow_.meeting[pc_] && !met ? meet() : Next::Continue;
    if (next == Next::Continue) {
      note_visited();
      insns_since_save_++;
      const uint32_t at = pc_, behind = pc_ + flow_.insns[pc_].slots();
      next = step(flow_.insns[pc_]);
      if (next == Next::Continue && pc_ != behind) end_piece(at);
    }
    if (next == Next::Refused) return false;
    if (next == Next::PathEnds) path_ended();
    if (next != Next::Continue) return true;
  }
}

// Executes one instruction on the abstract state and moves pc_.
PathWalker::Next PathWalker::step(const Insn &in) {
  bool ok = true;
  switch (in.kind) {
    case Kind::Alu: ok = alu(in); break;
    case Kind::Endian: ok = endian(in); break;
    case Kind::LoadImm64: ok = load_imm64(in); break;
    case Kind::Load: ok = load(in); break;
    case Kind::Store: case Kind::StoreImm: ok = store(in); break;
    case Kind::Atomic: ok = atomic(in); break;
    case Kind::Jump: return jump(in);
    case Kind::JumpAlways:
      jumps_since_save_++;
      pc_ = static_cast<uint32_t>(pc_ + in.distance());
      return Next::Continue;
    case Kind::Call:
      if (in.src == kCallLocal) return call_function(static_cast<uint32_t>(pc_ + in.distance()));
      return call_host(in);
    case Kind::CallReg: return call_address(in);
    case Kind::Exit: return leave_function();
    case Kind::Invalid: ok = refuse("insn-malformed", "this is not an instruction"); break;
  }
  pc_ += in.slots();
  return ok ? Next::Continue : Next::Refused;
}

// ---- states seen before

std::vector<uint16_t> PathWalker::live_registers() const {
  std::vector<uint16_t> live(state_.frames.size());
  live.back() = flow_.live[pc_];
  // A caller continues behind its call with what the callee must preserve.
  for (size_t f = 0; f + 1 < live.size(); f++) live[f] = flow_.live[state_.frames[f + 1].return_pc] & 0x3c0;
  return live;
}

// Forgets fields of the context that nobody reads any more. A load may be of the context or not: that only keeps some
// for longer.
void PathWalker::drop_fields() {
  if (state_.fields.empty()) return;
  uint64_t live = flow_.live_fields[pc_];
  for (size_t f = 1; f < state_.frames.size(); f++) {  // bodies are entered again
    const Frame &frame = state_.frames[f];
    live |= flow_.live_fields[frame.role == Role::Called ? frame.return_pc : frame.return_pc - 1];
  }
  std::erase_if(state_.fields, [&](const KnownField &known) {
    for (size_t i = 0; i < flow_.fields.size(); i++) {
      if (flow_.fields[i].off == known.off && flow_.fields[i].bytes == known.bytes) return (live >> i & 1) == 0;
    }
    return true;
  });
}

// Paths may join here. A finished state that includes ours: nothing new can happen. An unfinished one is our own past:
// to be there again with nothing changed is a loop that need not end.
PathWalker::Next PathWalker::meet() {
  Place &place = places_[pc_];
  if (!state_.loops.empty()) leave_loops();
  const std::vector<uint16_t> live = live_registers();
  drop_fields();
  drop_irrelevant(&state_, live, pinned_);
  charge(state_.bytes());
  if (is_back_at_header()) return arrive_back();
  for (size_t i = place.seen.size(); i-- > 0;) {
    const Seen &seen = seen_[place.seen[i]];
    uint32_t looked_at = 0;
    const bool included = state_includes(seen.state, state_, live, pinned_, &looked_at);
    charge(looked_at * sizeof(Reg));
    if (!included) continue;
    if (counts_as_finished(seen)) {
      for (Attempt *a : attempts_) a->joined_others |= static_cast<int32_t>(place.seen[i]) < a->invariant;
      return Next::PathEnds;
    }
    if (seen.branches == 0 || seen.guess || !in_same_rounds(seen.state)) continue;
    const bool same = state_includes(state_, seen.state, live, pinned_, &looked_at);
    if (same && is_on_this_path(static_cast<int32_t>(place.seen[i]))) return endless_loop();
  }
  const int32_t loop = flow_.nest.headed_by[pc_];
  if (loop >= 0) enter_round(static_cast<uint32_t>(loop));
  if (const Next next = wait_in_crowd(); next != Next::Continue) return next;
  if (loop >= 0) {
    const Next next = at_loop(static_cast<uint32_t>(loop));
    if (next != Next::Continue) return next;
  }
  uint32_t visits = ++place.visits;
  bool due = insns_since_save_ >= kSaveAfterInsns && jumps_since_save_ >= kSaveAfterJumps;
  if (due || (visits & (visits - 1)) == 0) save_state();
  return Next::Continue;
}

// Every path from there has been walked. What was found while a loop is being judged, or in a callback, holds only
// there before all that follows has been walked too.
bool PathWalker::counts_as_finished(const Seen &seen) const {
  const Seen *s = &seen;
  while (s->branches == 0) {
    if (s->depends < 0 || is_open_guess(s->depends)) return true;
    s = &seen_[static_cast<size_t>(s->depends)];
  }
  return false;
}

// The path is in a round of the loop, or of the callback, about which this was guessed.
bool PathWalker::is_open_guess(int32_t index) const {
  for (const Attempt *a : attempts_) {
    if (a->invariant == index) return true;
  }
  for (const Frame &f : state_.frames) {
    if (f.head == index) return true;
  }
  return false;
}

int32_t PathWalker::innermost_guess() const {
  int32_t last = attempts_.empty() ? -1 : attempts_.back()->invariant;
  for (const Frame &f : state_.frames) last = std::max(last, f.head);
  return last;
}

bool PathWalker::in_same_rounds(const State &other) const {
  for (size_t f = 0; f < state_.frames.size(); f++) {
    if (state_.frames[f].head != other.frames[f].head) return false;
  }
  return true;
}

PathWalker::Next PathWalker::endless_loop() {
  refuse("endless-loop", "this loop cannot be shown to end: a round can leave everything as it was",
         "a counter that the loop changes and compares with a bound");
  return Next::Refused;
}

void PathWalker::save_state() {
  Place &place = places_[pc_];
  uint64_t bytes = state_.bytes();
  if (place.seen.size() >= kStatesPerPlaceMax || seen_bytes_ + bytes > kStateBytesMax) return;
  seen_bytes_ += bytes;
  place.seen.push_back(static_cast<uint32_t>(seen_.size()));
  seen_.push_back({state_, parent_, 1, pc_, innermost_guess()});
  parent_ = static_cast<int32_t>(seen_.size()) - 1;
  insns_since_save_ = jumps_since_save_ = 0;
}

// Unfinished states are what paths came from: ours, or where others wait.
bool PathWalker::is_on_this_path(int32_t index) {
  if (!joined_) return true;
  std::vector<int32_t> from{parent_};
  std::vector<bool> met(seen_.size());
  while (!from.empty()) {
    const int32_t at = from.back();
    from.pop_back();
    if (at == index) return true;
    if (at < index || met[static_cast<size_t>(at)]) continue;  // states come behind those that they come from
    met[static_cast<size_t>(at)] = true;
    charge(sizeof(Reg));
    const Seen &seen = seen_[static_cast<size_t>(at)];
    from.push_back(seen.parent);
    from.insert(from.end(), seen.more_parents.begin(), seen.more_parents.end());
  }
  return false;
}

// A path from `parent` has ended. A state is finished when every path from it has.
void PathWalker::finish(int32_t parent) {
  std::vector<int32_t> ended{parent};
  while (!ended.empty()) {
    int32_t p = ended.back();
    ended.pop_back();
    while (p >= 0 && --seen_[static_cast<size_t>(p)].branches == 0) {
      const Seen &seen = seen_[static_cast<size_t>(p)];
      ended.insert(ended.end(), seen.more_parents.begin(), seen.more_parents.end());
      p = seen.parent;
    }
  }
}

// Handling states costs time too: so many bytes are counted as one instruction.
void PathWalker::charge(uint64_t bytes) {
  constexpr uint64_t kBytesPerStep = 8192;
  charged_bytes_ += bytes;
  steps_ += charged_bytes_ / kBytesPerStep;
  charged_bytes_ %= kBytesPerStep;
}

bool PathWalker::push_path(State state, uint32_t pc) {
  charge(state.bytes());
  pending_bytes_ += state.bytes();
  if (pending_bytes_ > kPendingBytesMax) return refuse_limit(kOpenBranches, "");
  if (parent_ >= 0) seen_[static_cast<size_t>(parent_)].branches++;
  pending_.push_back({std::move(state), pc, parent_, add_piece(pc_), pc});
  return true;
}

// ---- refusing

uint32_t PathWalker::function_of(uint32_t frame) const {
  if (frame + 1 < state_.frames.size()) return flow_.function[state_.frames[frame + 1].return_pc - 1];
  return flow_.function[pc_];
}

std::string PathWalker::map_name(uint32_t map) const { return map < maps_.size() ? maps_[map].def.name : "?"; }

std::string PathWalker::describe(const Reg &r) const { return r.str(map_name(r.map)); }

bool PathWalker::refuse(const char *code, const std::string &sentence, const std::string &needed,
                        const std::string &known) {
  refusal_ = make_refusal(program_, object_, code, pc_, &flow_.insns[pc_], sentence);
  refusal_.needed = needed;
  refusal_.known = known;
  if (attempts_.empty()) explain(&refusal_, about_);
  const bool bounds = refusal_.code == "verify-map-bounds" || refusal_.code == "verify-pointer-arithmetic";
  if (bounds && !program_.target->context_holds_still()) refusal_.suggestion = kSuggestCopy;
  if (surely_ && !state_.crowded) refusal_.category = RefusalCategory::Unsafe;
  if (state_.crowded && !known.empty()) refusal_.known += ", as far as it is known on all of many paths that meet";
  surely_ = false;
  about_ = -1;
  return false;
}

// Too much to walk. Where that is because of a loop, the loop is the reason.
bool PathWalker::refuse_limit(const std::string &sentence, const std::string &needed) {
  for (const LoopRound &round : state_.loops) {
    if (!loops_[round.loop].without_counter || !attempts_.empty()) continue;
    pc_ = flow_.nest.loops[round.loop].header;
    return refuse("endless-loop", "this loop cannot be shown to end: nothing bounds the number of its rounds",
                  "a counter that moves in the same direction on every way round, and a comparison with a bound");
  }
  std::string known;
  if (most_rounds_ > 0) {
    known = "a loop may take " + (most_rounds_ == ~0ull ? "2^64" : std::to_string(most_rounds_)) + " rounds, where " +
            std::to_string(kRoundsMax) + " are the most";
    pc_ = most_rounds_pc_;
    const SourceLine *line = program_.lines[most_rounds_pc_];
    known += line ? " (" + place_in_source(line) + ")" : " (instruction " + std::to_string(most_rounds_pc_) + ")";
  }
  return refuse("too-complex", sentence, needed, known);
}

bool PathWalker::refuse_reg(const char *code, unsigned r, const std::string &sentence, const std::string &needed,
                            const std::string &known) {
  about_ = static_cast<int>(r);
  return refuse(code, sentence, needed, known.empty() ? "r" + std::to_string(r) + " is " + describe(reg(r)) : known);
}

std::expected<Verified, Refusal> verify_program(LinkedProgram *program, const std::vector<Policy::Map> &maps,
                                                const std::string &object, uint64_t *steps_left) {
  auto flow = Flow::read(*program);
  auto refused = [](Refusal r) { return complete(&r), std::unexpected(std::move(r)); };
  if (!flow) {
    const FlowError &e = flow.error();
    Insn in;
    decode_insn(&program->code[e.at], static_cast<uint32_t>(program->code.size()) - e.at, &in);
    return refused(make_refusal(*program, object, e.code, e.at, &in, e.text));
  }
  auto verified = PathWalker(program, maps, object, std::move(*flow)).run(steps_left);
  if (!verified) return refused(verified.error());
  return verified;
}

}  // namespace shortfuse::vm
