// The shape of a program.
#include "verify/flow.h"

#include <algorithm>
#include <span>

namespace shortfuse::vm {
namespace {

using Unexpected = std::unexpected<FlowError>;

constexpr size_t kFieldsMax = 64;

bool ends_path(const Insn &in) { return in.kind == Kind::Exit || in.kind == Kind::JumpAlways; }
bool jumps(const Insn &in) { return in.kind == Kind::Jump || in.kind == Kind::JumpAlways; }

uint32_t target_of(const Insn &in, uint32_t pc) { return static_cast<uint32_t>(pc + in.distance()); }

// Per instruction, the jumps that lead to it.
class JumpsTo {
 public:
  explicit JumpsTo(const std::vector<Insn> &insns) : begin_(insns.size() + 1) {
    const uint32_t count = static_cast<uint32_t>(insns.size());
    for (uint32_t pc = 0; pc < count; pc++) {
      if (jumps(insns[pc])) begin_[target_of(insns[pc], pc)]++;
    }
    for (uint32_t pc = 1; pc <= count; pc++) begin_[pc] += begin_[pc - 1];
    from_.resize(begin_[count]);
    for (uint32_t pc = 0; pc < count; pc++) {
      if (jumps(insns[pc])) from_[--begin_[target_of(insns[pc], pc)]] = pc;
    }
  }
  std::span<const uint32_t> at(uint32_t pc) const {
    return std::span(from_).subspan(begin_[pc], begin_[pc + 1] - begin_[pc]);
  }

 private:
  std::vector<uint32_t> begin_, from_;
};

struct Builder {
  const LinkedProgram &program;
  Flow flow;

  std::expected<void, FlowError> decode() {
    const uint32_t count = static_cast<uint32_t>(program.code.size());
    flow.insns.resize(count);
    flow.function.resize(count);
    flow.meeting.resize(count);
    flow.live.resize(count);
    flow.live_fields.resize(count);
    for (uint32_t f = 0; f < program.functions.size(); f++) {
      const LinkedFunction &function = program.functions[f];
      for (uint32_t pc = function.start; pc < function.end; pc++) {
        flow.function[pc] = f;
        if (const char *wrong = decode_insn(&program.code[pc], function.end - pc, &flow.insns[pc])) {
          return Unexpected({"insn-malformed", pc, wrong});
        }
        if (flow.insns[pc].kind == Kind::LoadImm64) flow.function[++pc] = f;
      }
    }
    return {};
  }

  bool starts_insn(uint32_t pc) const { return flow.insns[pc].kind != Kind::Invalid; }

  bool starts_function(int64_t pc) const {
    for (const LinkedFunction &f : program.functions) {
      if (f.start == pc) return true;
    }
    return false;
  }

  std::expected<void, FlowError> check_targets() {
    for (const LinkedFunction &function : program.functions) {
      for (uint32_t pc = function.start; pc < function.end; pc += flow.insns[pc].slots()) {
        const Insn &in = flow.insns[pc];
        if (jumps(in)) {
          int64_t target = pc + in.distance();
          if (target < function.start || target >= function.end || !starts_insn(static_cast<uint32_t>(target))) {
            return Unexpected(
                {"jump-out-of-range", pc, "the jump leaves its function or lands inside an instruction"});
          }
          flow.meeting[static_cast<size_t>(target)] = true;
        }
        if ((in.calls_local() || in.takes_function_address()) && !starts_function(pc + in.distance())) {
          return Unexpected({"call-out-of-range", pc, "what is called or taken the address of is not a function"});
        }
        if (pc + in.slots() >= function.end && !ends_path(in)) {
          return Unexpected({"falls-off", pc, "the function can run past its last instruction"});
        }
      }
    }
    return {};
  }

  std::expected<void, FlowError> check_reachable() {
    std::vector<bool> seen(flow.insns.size());
    std::vector<uint32_t> work;
    auto reach = [&](uint32_t pc) {
      if (!seen[pc]) seen[pc] = true, work.push_back(pc);
    };
    reach(0);
    while (!work.empty()) {
      uint32_t pc = work.back();
      work.pop_back();
      const Insn &in = flow.insns[pc];
      if (jumps(in)) reach(target_of(in, pc));
      if (in.calls_local() || in.takes_function_address()) reach(target_of(in, pc));
      if (!ends_path(in)) reach(pc + in.slots());
    }
    for (uint32_t pc = 0; pc < flow.insns.size(); pc += flow.insns[pc].slots()) {
      if (!seen[pc]) return Unexpected({"unreachable", pc, "nothing reaches this instruction"});
    }
    return {};
  }

  // Which load of a field it is, as a bit; those that there are too many of are not remembered.
  uint64_t field_bit(const Insn &in) {
    if (in.kind != Kind::Load) return 0;
    const Flow::Field field{in.off, in.size};
    const auto at = std::find(flow.fields.begin(), flow.fields.end(), field);
    if (at != flow.fields.end()) return 1ull << (at - flow.fields.begin());
    if (flow.fields.size() == kFieldsMax) return 0;
    flow.fields.push_back(field);
    return 1ull << (flow.fields.size() - 1);
  }

  // Of all functions but the program itself.
  uint64_t fields_of_callees() {
    uint64_t all = 0;
    for (uint32_t pc = 0; pc < flow.insns.size(); pc++) {
      const uint64_t bit = field_bit(flow.insns[pc]);
      if (flow.function[pc] != 0) all |= bit;
    }
    return all;
  }

  static uint16_t bit(unsigned r) { return static_cast<uint16_t>(1u << r); }

  // Registers that are read where `after` are live behind the instruction.
  uint16_t live_before(const Insn &in, uint16_t after) const {
    constexpr uint16_t arguments = 0x3e;
    switch (in.kind) {
      case Kind::Alu:
        if (in.alu == AluOp::Mov) after &= static_cast<uint16_t>(~bit(in.dst));
        else after |= bit(in.dst);
        return in.from_reg ? after | bit(in.src) : after;
      case Kind::Endian: return after | bit(in.dst);
      case Kind::LoadImm64: return after & static_cast<uint16_t>(~bit(in.dst));
      case Kind::Load: return static_cast<uint16_t>((after & ~bit(in.dst)) | bit(in.src));
      case Kind::StoreImm: return after | bit(in.dst);
      case Kind::Store: return after | bit(in.dst) | bit(in.src);
      case Kind::Atomic: return after | bit(in.dst) | bit(in.src) | bit(0);
      case Kind::Jump: return in.from_reg ? after | bit(in.dst) | bit(in.src) : after | bit(in.dst);
      case Kind::Call: return static_cast<uint16_t>((after & ~bit(0)) | arguments);
      case Kind::CallReg: return static_cast<uint16_t>((after & ~bit(0)) | arguments | bit(in.dst));
      case Kind::Exit: return bit(0);
      case Kind::JumpAlways: case Kind::Invalid: return after;
    }
    return after;
  }

  // An instruction is looked at again only when what follows it has changed, which it does once per register and field:
  // sweeps over the whole program would be as many as there are jumps back.
  void find_live() {
    const uint32_t count = static_cast<uint32_t>(flow.insns.size());
    const JumpsTo jumps_to(flow.insns);
    const uint64_t called_fields = fields_of_callees();
    std::vector<bool> waiting(count);
    std::vector<uint32_t> work;
    auto look_at = [&](uint32_t pc) {
      if (!waiting[pc] && starts_insn(pc)) waiting[pc] = true, work.push_back(pc);
    };
    for (uint32_t pc = 0; pc < count; pc++) look_at(pc);
    while (!work.empty()) {
      const uint32_t pc = work.back();
      work.pop_back();
      waiting[pc] = false;
      flow.looks++;
      const Insn &in = flow.insns[pc];
      uint16_t after = 0;
      uint64_t fields = field_bit(in);
      if (in.kind == Kind::Call || in.kind == Kind::CallReg) fields |= called_fields;
      auto follow = [&](uint32_t to) { after |= flow.live[to], fields |= flow.live_fields[to]; };
      if (!ends_path(in)) follow(pc + in.slots());
      if (jumps(in)) follow(target_of(in, pc));
      const uint16_t before = live_before(in, after);
      if (before == flow.live[pc] && fields == flow.live_fields[pc]) continue;
      flow.live[pc] = before;
      flow.live_fields[pc] = fields;
      if (pc > 0) look_at(starts_insn(pc - 1) ? pc - 1 : pc - 2);
      for (uint32_t jump : jumps_to.at(pc)) look_at(jump);
    }
  }
};

}  // namespace

std::expected<Flow, FlowError> Flow::read(const LinkedProgram &program) {
  Builder builder{program, {}};
  if (auto ok = builder.decode(); !ok) return Unexpected(ok.error());
  if (auto ok = builder.check_targets(); !ok) return Unexpected(ok.error());
  if (auto ok = builder.check_reachable(); !ok) return Unexpected(ok.error());
  builder.find_live();
  std::vector<uint32_t> starts;
  for (const LinkedFunction &f : program.functions) starts.push_back(f.start);
  builder.flow.nest = find_loops(builder.flow.insns, starts);
  return std::move(builder.flow);
}

}  // namespace shortfuse::vm
