// Calls inside the program: sub-programs, functions by address, and the bodies that bpf_loop() and
// bpf_for_each_map_elem() enter again and again.
//
// A body is walked from a *head*: the state before a round, with what every round is given. From each head two ways
// lead on: no further round, and one round. A round that ends in a state which its head includes has shown that the
// head stands for every later round too. Otherwise head and state are widened into a new head; since widening only
// forgets, this ends. That the rounds end is the caller's affair: their number is bounded by SF_LOOP_ROUNDS_MAX or by
// the map.
#include <algorithm>

#include "verify/verify_path.h"

namespace shortfuse::vm {
namespace {

constexpr uint64_t kHeadBytesMax = 16ull << 20;

}  // namespace

bool PathWalker::push_frame(Frame callee, uint32_t target) {
  if (state_.frames.size() >= kFramesMax) {
    return refuse("call-depth", "functions call each other more than 8 levels deep, or call themselves",
                  "at most 8 levels, no recursion");
  }
  callee.return_pc = pc_ + 1;
  note_call(flow_.function[target]);
  state_.frames.push_back(std::move(callee));
  pc_ = target;
  return true;
}

PathWalker::Next PathWalker::call_function(uint32_t target) {
  Frame callee;
  for (unsigned r = 1; r <= 5; r++) callee.reg[r] = state_.top().reg[r];
  for (unsigned r = 0; r <= 5; r++) state_.top().reg[r] = Reg{};
  return push_frame(std::move(callee), target) ? Next::Continue : Next::Refused;
}

PathWalker::Next PathWalker::call_address(const Insn &in) {
  if (!need_readable(in.dst)) return Next::Refused;
  if (reg(in.dst).type != Type::Function) {
    refuse_reg("call-address", in.dst, "what is called is not a function", "the address of a function of this program");
    return Next::Refused;
  }
  return call_function(static_cast<uint32_t>(reg(in.dst).value.umin));
}

PathWalker::Next PathWalker::leave_function() {
  const Reg result = state_.top().reg[0];
  const size_t depth = state_.frames.size() - 1;
  if (depth == 0) {
    if (result.type != Type::Number) {
      refuse_reg("return-value", 0, result.type == Type::None ? "the program may end without a verdict in r0"
                                                               : "the program may return an address as its verdict",
                 "a number in r0");
      return Next::Refused;
    }
    return nothing_reserved("the program may end") ? Next::PathEnds : Next::Refused;
  }
  if (state_.top().role != Role::Called) return end_round();
  if (result.lives_in_frame() && result.frame == depth) {
    refuse_reg("return-value", 0, "the function may return an address on its own stack",
               "a number, or an address that lives on");
    return Next::Refused;
  }
  uint32_t return_pc = state_.top().return_pc;
  state_.frames.pop_back();
  state_.top().reg[0] = result;
  pc_ = return_pc;
  return Next::Continue;
}

bool PathWalker::nothing_reserved(const char *what) {
  if (state_.reservations.empty()) return true;
  return refuse("reference-leak", std::string(what) + " while a record that it reserved is not given back",
                "bpf_ringbuf_submit() or bpf_ringbuf_discard() on every path");
}

// ---- bodies

// r0..r5 are the arguments of the function that calls the body, already checked.
PathWalker::Next PathWalker::start_rounds(Role role, uint32_t target) {
  Frame body;
  body.role = role;
  body.bound = reg(1);
  body.given = reg(3);
  for (unsigned r = 0; r <= 5; r++) set(r, Reg{});
  if (role == Role::LoopBody && body.bound.value.umax == 0) {
    set(0, Reg::number(Scalar::unknown()));  // 0, or -EINVAL because of flags
    pc_++;
    return Next::Continue;
  }
  if (body.given.type == Type::Number || body.given.can_move()) body.given.forget_relation();
  note_callback(body);
  return next_head(std::move(body), target) ? Next::Continue : Next::Refused;
}

uint64_t PathWalker::rounds_of_body(const Frame &body) const {
  if (body.role == Role::Called) return 1;
  if (body.role == Role::MapBody) return std::max<uint64_t>(maps_[body.bound.map].def.max_entries, 1);
  return std::min<uint64_t>(body.bound.value.umax, SF_LOOP_ROUNDS_MAX);
}

// How many rounds there may be of the callbacks of all functions from `frame` on.
uint64_t PathWalker::callback_rounds(size_t frame) const {
  uint64_t rounds = 1;
  for (size_t f = frame; f < state_.frames.size(); f++)
    rounds = multiply_saturated(rounds, rounds_of_body(state_.frames[f]));
  return rounds;
}

// A callback's rounds count as those of a loop.
void PathWalker::note_callback(const Frame &body) {
  note_callback_rounds(body);
  if (attempts_.empty()) return;
  const uint64_t rounds = rounds_of_body(body);
  Attempt &a = *attempts_.back();
  a.inner_rounds = std::max(a.inner_rounds, multiply_saturated(callback_rounds(a.frames), rounds));
}

// state_ is that before a round, at the call: leaves the way on for later and enters the body.
bool PathWalker::next_head(Frame body, uint32_t target) {
  drop_fields();
  head_bytes_ += state_.bytes();
  if (head_bytes_ > kHeadBytesMax)
    return refuse("too-complex", "the program has too many callbacks for the verifier to follow");
  charge(state_.bytes());
  body.head = static_cast<int32_t>(seen_.size());
  seen_bytes_ += state_.bytes();
  seen_.push_back({state_, parent_, 1, kNoPlace, innermost_guess(), true});
  parent_ = body.head;
  State after = state_;
  after.top().reg[0] = Reg::number(Scalar::unknown());
  if (!push_path(std::move(after), pc_ + 1)) return false;
  for (Reg &r : body.reg) r = Reg{};
  body.stack.clear();
  if (body.role == Role::LoopBody) {
    const uint64_t rounds = std::min<uint64_t>(body.bound.value.umax, SF_LOOP_ROUNDS_MAX);
    body.reg[1] = Reg::number(Scalar::unsigned_range(0, rounds - 1));
    body.reg[2] = body.given;
  } else {
    const uint16_t map = body.bound.map;
    body.reg[1] = body.bound;
    const auto frame = static_cast<uint8_t>(state_.frames.size());  // the key lives as long as the round
    body.reg[2] = {Type::MapKey, frame, map, 0, Scalar::constant(0), 0, false};
    body.reg[3] = {Type::MapValue, 0, map, 0, Scalar::constant(0), 0, false};
    body.reg[4] = body.given;
  }
  return push_frame(std::move(body), target);
}

PathWalker::Next PathWalker::end_round() {
  const Reg result = state_.top().reg[0];
  if (result.type != Type::Number || result.value.umax > 1) {
    refuse_reg("return-value", 0, "the callback may return something else than 0 or 1", "0 to go on, 1 to stop");
    return Next::Refused;
  }
  Frame body = std::move(state_.top());
  const uint32_t target = program_.functions[flow_.function[pc_]].start;
  state_.frames.pop_back();
  const State &head = seen_[static_cast<size_t>(body.head)].state;
  if (state_.reservations != head.reservations) {
    refuse("reference-leak", "a round of the callback gives back what it did not reserve, or keeps what it reserved",
           "bpf_ringbuf_submit() or bpf_ringbuf_discard() in the round that reserved");
    return Next::Refused;
  }
  pc_ = body.return_pc - 1;
  std::vector<uint16_t> live = live_registers();
  live.back() = flow_.live[body.return_pc] & 0x3c0;
  uint32_t looked_at = 0;
  const bool covered = state_includes(head, state_, live, pinned_, &looked_at);
  charge(looked_at * sizeof(Reg));
  if (covered) return Next::PathEnds;
  state_ = widened(head, state_, pinned_);
  return next_head(std::move(body), target) ? Next::Continue : Next::Refused;
}

// ---- the stack of all of them

// The stacks of a chain of calls share kStackBytes.
bool PathWalker::check_stack() {
  const size_t n = program_.functions.size();
  for (uint32_t &bytes : findings_.frame_bytes) bytes = (bytes + 7) & ~7u;
  std::vector<uint32_t> above(n, 0);  // used by the callers of a function
  for (uint32_t round = 0; round < kFramesMax; round++) {
    for (auto &[pc, callee] : findings_.called_from) {
      const uint32_t caller = flow_.function[pc];
      above[callee] = std::max(above[callee], above[caller] + findings_.frame_bytes[caller]);
      if (above[callee] + findings_.frame_bytes[callee] <= kStackBytes) continue;
      pc_ = pc;
      return refuse("stack-total", "the function called here and its callers together use too much stack",
                    "at most 512 bytes", std::to_string(above[callee] + findings_.frame_bytes[callee]) + " bytes");
    }
  }
  for (size_t f = 0; f < n; f++) stack_bytes_ = std::max(stack_bytes_, above[f] + findings_.frame_bytes[f]);
  return true;
}

void PathWalker::complete_code() {
  for (uint32_t pc = 0; pc < flow_.insns.size(); pc += flow_.insns[pc].slots()) {
    const Insn &in = flow_.insns[pc];
    if (!findings_.visited[pc]) {
      for (uint32_t i = 0; i < in.slots(); i++) program_.code[pc + i] = {kOpExit, 0, 0, 0};
    } else if (in.kind == Kind::Jump && findings_.ways[pc] != (kWayOn | kWayTaken)) {
      // Only one way was walked: there is no other, whatever the comparison says.
      program_.code[pc] = {kClassJmp | kJumpAlways, 0, findings_.ways[pc] == kWayTaken ? in.off : int16_t{0}, 0};
    } else if (in.kind == Kind::Call || in.kind == Kind::CallReg) {
      const auto &calls = findings_.called_from;
      const auto at = std::lower_bound(calls.begin(), calls.end(), std::pair{pc, 0u});
      const bool enters = at != calls.end() && at->first == pc;
      program_.code[pc].off = enters ? static_cast<int16_t>(findings_.frame_bytes[flow_.function[pc]]) : int16_t{0};
    }
  }
}

}  // namespace shortfuse::vm
