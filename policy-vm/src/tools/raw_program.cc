#include "tools/raw_program.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <map>

#include "object/object.h"
#include "run/interpret.h"
#include "shortfuse/vm/image.h"
#include "shortfuse/vm/vm.h"
#include "verify/verifier.h"
#include "verify/verify_path.h"

namespace shortfuse::vm {
namespace {

constexpr uint64_t kFuel = 1ull << 32;
constexpr uint32_t kEndMark = SF_HOST_KTIME;  // called by what stands behind the last instruction
constexpr uint32_t kNoSuchHelper = SF_HOST_PRANDOM;
constexpr RawInsn kCallEndMark{kOpCall, 0, 0, static_cast<int32_t>(kEndMark)};

std::string at(uint32_t pc, const std::string &what) { return "instruction " + std::to_string(pc) + ": " + what; }

/// How a run ends that does not reach EXIT. Host functions leave the program by longjmp: neither the interpreter nor
/// machine code has anything to clean up.
enum Ending { kRunning = 0, kUnwound, kPastTheEnd, kBadCall };

struct Run {
  jmp_buf back;
};

uint64_t unwind(uint64_t value, uint64_t, uint64_t, uint64_t, uint64_t, void *run) {
  if (value == 0) longjmp(static_cast<Run *>(run)->back, kUnwound);
  return value;
}

uint64_t past_the_end(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *run) {
  longjmp(static_cast<Run *>(run)->back, kPastTheEnd);
}

uint64_t no_such_helper(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *run) {
  longjmp(static_cast<Run *>(run)->back, kBadCall);
}

/// A table of host functions in which only ours exist.
struct Host {
  sf_host_fn table[SF_HOST_COUNT] = {};
  Run run;
  sf_vm_env env{};
  Host() {
    table[kUnwindHelper] = unwind;
    table[kEndMark] = past_the_end;
    table[kNoSuchHelper] = no_such_helper;
    env.host = table;
    env.host_state = &run;
    env.fuel = kFuel;
  }
};

/// Runs `start` and says how it ended.
template <typename Start>
std::expected<uint64_t, std::string> run_to_the_end(Host &host, Start &&start) {
  uint64_t r0 = 0;
  switch (setjmp(host.run.back)) {
    case kRunning: r0 = start(); break;
    case kUnwound: return 0;
    case kBadCall: return std::unexpected("the program calls a function that does not exist");
    default: return std::unexpected("the program runs past its end");
  }
  if (host.env.fuel == 0) return std::unexpected("the program does not end");
  return r0;
}

/// What an unverified program may touch.
struct Bounds {
  uint64_t memory, memory_bytes, stack = 0;
  std::string wrong;
  void begin(const unsigned char *s) { stack = reinterpret_cast<uint64_t>(s); }
  static bool within(uint64_t at, uint64_t bytes, uint64_t from, uint64_t size) {
    return at >= from && bytes <= size && at - from <= size - bytes;
  }
  bool access(uint64_t at, uint32_t bytes, bool writes) {
    if (within(at, bytes, stack, kStackBytes) || within(at, bytes, memory, memory_bytes)) return true;
    wrong = std::string(writes ? "a write" : "a read") + " of " + std::to_string(bytes) +
            " bytes outside the memory and the stack";
    return false;
  }
  bool call(uint32_t, const uint64_t *) { return true; }
  void returned(uint32_t, const uint64_t *) {}
  void visit(uint64_t, const sf_map_cursor &) {}
};

bool writes_frame_pointer(const Insn &in) {
  switch (in.kind) {
    case Kind::Alu: case Kind::Endian: case Kind::LoadImm64: case Kind::Load: return in.dst == kFramePointer;
    case Kind::Atomic: return in.fetch && in.src == kFramePointer;
    default: return false;
  }
}

std::expected<void, std::string> check_target(uint32_t pc, const Insn &in, const std::vector<bool> &starts) {
  const int64_t target = pc + in.distance();
  if (target < 0 || target >= static_cast<int64_t>(starts.size()) || !starts[static_cast<size_t>(target)])
    return std::unexpected(at(pc, "it leads to " + std::to_string(target) + ", where no instruction begins"));
  return {};
}

}  // namespace

std::expected<std::vector<unsigned char>, std::string> parse_hex_bytes(const std::string &text) {
  std::vector<unsigned char> bytes;
  auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; };
  for (size_t i = 0; i < text.size();) {
    if (std::isspace(static_cast<unsigned char>(text[i]))) {
      i++;
      continue;
    }
    const int high = digit(text[i]), low = i + 1 < text.size() ? digit(text[i + 1]) : -1;
    if (high < 0 || low < 0)
      return std::unexpected("not two hexadecimal digits at position " + std::to_string(i) + ": \"" +
                             text.substr(i, 2) + "\"");
    bytes.push_back(static_cast<unsigned char>(high << 4 | low));
    i += 2;
  }
  return bytes;
}

std::expected<RawProgram, std::string> RawProgram::read(std::span<const unsigned char> bytes) {
  if (bytes.empty()) return std::unexpected("the program is empty");
  if (bytes.size() % sizeof(RawInsn) != 0)
    return std::unexpected("the program is no whole number of instructions: " + std::to_string(bytes.size()) +
                           " bytes");
  RawProgram program;
  program.code_.resize(bytes.size() / sizeof(RawInsn));
  std::memcpy(program.code_.data(), bytes.data(), bytes.size());
  for (RawInsn &in : program.code_) {  // older compilers name callx's register in imm
    if (in.code == kOpCallReg && in.regs == 0 && in.imm > 0 && in.imm < kRegisters)
      in = {kOpCallReg, static_cast<uint8_t>(in.imm), in.off, 0};
  }
  const auto count = static_cast<uint32_t>(program.code_.size());

  std::vector<Insn> insns(count);
  std::vector<bool> starts(count, false);
  for (uint32_t pc = 0; pc < count; pc += insns[pc].slots()) {
    if (const char *wrong = decode_insn(&program.code_[pc], count - pc, &insns[pc]))
      return std::unexpected(at(pc, wrong));
    starts[pc] = true;
  }
  for (uint32_t pc = 0; pc < count; pc++) {
    const Insn &in = insns[pc];
    if (!starts[pc]) continue;
    if (writes_frame_pointer(in)) return std::unexpected(at(pc, "it writes r10, which is read-only"));
    const bool call = in.kind == Kind::Call;
    const bool jump = in.kind == Kind::Jump || in.kind == Kind::JumpAlways;
    if (jump || in.calls_local() || in.takes_function_address()) {
      if (auto good = check_target(pc, in, starts); !good) return std::unexpected(good.error());
    } else if (call && (in.src != kCallHost || in.imm != static_cast<int32_t>(kUnwindHelper))) {
      return std::unexpected(at(pc, "there is no function " + std::to_string(in.imm) + " to call"));
    } else if (in.kind == Kind::LoadImm64 && in.src != kImmValue) {
      return std::unexpected(at(pc, "a bare program has no maps"));
    }
  }
  if (auto laid_out = program.lay_out_frames(); !laid_out) return std::unexpected(laid_out.error());
  return program;
}

/// Writes into each call how many bytes of stack its caller uses, which the verifier does for real programs: down to
/// the lowest place that an instruction names.
std::expected<void, std::string> RawProgram::lay_out_frames() {
  std::set<uint32_t> &entries = entries_;
  entries = {0};
  std::vector<std::pair<uint32_t, uint32_t>> calls;  // from, to
  std::vector<uint32_t> calls_by_address;
  const auto count = static_cast<uint32_t>(code_.size());
  for (uint32_t pc = 0; pc < count; pc++) {
    Insn in;
    if (decode_insn(&code_[pc], count - pc, &in)) continue;
    if (in.calls_local() || in.takes_function_address()) entries.insert(static_cast<uint32_t>(pc + in.distance()));
    takes_addresses_ |= in.takes_function_address();
    if (in.calls_local()) calls.emplace_back(pc, static_cast<uint32_t>(pc + in.distance()));
    if (in.kind == Kind::CallReg) calls_by_address.push_back(pc);
    if (in.kind == Kind::LoadImm64) pc++;
  }
  auto function_of = [&](uint32_t pc) { return *std::prev(entries.upper_bound(pc)); };
  std::map<uint32_t, uint32_t> used;  // by function
  int64_t moved_from_frame = -1;      // the register that the instruction before made the frame pointer
  for (uint32_t pc = 0; pc < count; pc++) {
    Insn in;
    if (decode_insn(&code_[pc], count - pc, &in)) continue;
    int64_t lowest = 0;
    if (in.kind == Kind::Load && in.src == kFramePointer) lowest = in.off;
    const bool stores = in.kind == Kind::Store || in.kind == Kind::StoreImm || in.kind == Kind::Atomic;
    if (stores && in.dst == kFramePointer) lowest = in.off;
    if (in.kind == Kind::Alu && in.alu == AluOp::Add && !in.from_reg && in.dst == moved_from_frame) lowest = in.imm;
    moved_from_frame = in.kind == Kind::Alu && in.alu == AluOp::Mov && in.from_reg && in.src == kFramePointer ? in.dst
                                                                                                            : -1;
    uint32_t &bytes = used[function_of(pc)];
    if (lowest < 0 && lowest >= -static_cast<int64_t>(kStackBytes))
      bytes = std::max(bytes, static_cast<uint32_t>((-lowest + 15) & ~15ll));
    if (in.kind == Kind::LoadImm64) pc++;
  }
  for (auto &[from, to] : calls) code_[from].off = static_cast<int16_t>(used[function_of(from)]);
  for (uint32_t from : calls_by_address) code_[from].off = static_cast<int16_t>(used[function_of(from)]);

  // The depth of calls from the beginning; more than there are functions is a circle.
  std::map<uint32_t, uint32_t> depth{{0, 1}};
  for (bool again = true; again;) {
    again = false;
    for (auto &[from, to] : calls) {
      const uint32_t caller = depth[function_of(from)];
      if (caller == 0 || depth[to] > caller) continue;
      if (caller + 1 > kFramesMax)
        return std::unexpected(at(from, "calls are more than " + std::to_string(kFramesMax) + " deep"));
      depth[to] = caller + 1;
      again = true;
    }
  }
  return {};
}

std::expected<void, std::string> RawProgram::verify(size_t memory_bytes) const {
  Policy::Map memory;
  memory.def = {kArrayMap, 4, static_cast<uint32_t>(memory_bytes), 1, 0, 0, 0, 0, "memory"};
  LinkedProgram program;
  program.section = program.name = "program";
  program.slot = SF_SLOT_FUSE;  // where map values may be written
  program.code = code_;
  program.lines.resize(code_.size());
  program.memory_map = 0;
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    const auto next = std::next(entry);
    const uint32_t end = next == entries_.end() ? static_cast<uint32_t>(code_.size()) : *next;
    program.functions.push_back({"f" + std::to_string(*entry), *entry, end});
  }
  uint64_t steps = kStepsMax;
  auto verified = verify_program(&program, {memory}, "program", &steps);
  if (!verified) return std::unexpected(verified.error().str());
  return {};
}

/// The program behind two instructions that load r2, and before one that tells a run past the end.
std::vector<RawInsn> RawProgram::for_memory(size_t bytes) const {
  std::vector<RawInsn> code;
  code.push_back({kOpLoadImm64, 2, 0, static_cast<int32_t>(bytes)});
  code.push_back({0, 0, 0, static_cast<int32_t>(static_cast<uint64_t>(bytes) >> 32)});
  code.insert(code.end(), code_.begin(), code_.end());
  code.push_back(kCallEndMark);
  code.push_back({kOpExit, 0, 0, 0});
  if (!takes_addresses_) call_helpers_by_number(&code);
  return code;
}

/// In a program that takes no function's address, callx can only mean a helper by its number. Each goes over a piece of
/// code behind the program: where the register holds 5 that helper is called, otherwise the run ends.
void RawProgram::call_helpers_by_number(std::vector<RawInsn> *code) const {
  const size_t count = code->size();
  for (size_t pc = 0; pc < count; pc++) {
    RawInsn &in = (*code)[pc];
    if (in.code == kOpLoadImm64) pc++;
    if (in.code != kOpCallReg) continue;
    const auto there = static_cast<int32_t>(code->size() - pc - 1), back = -there - 3;
    const uint8_t number = in.dst();
    in = {kClassJmp32 | kJumpAlways, 0, 0, there};
    code->push_back({kClassJmp | static_cast<uint8_t>(0x50), number, 2, kUnwindHelper});  // !=
    code->push_back({kOpCall, 0, 0, kUnwindHelper});
    code->push_back({kClassJmp32 | kJumpAlways, 0, 0, back});
    code->push_back({kOpCall, 0, 0, static_cast<int32_t>(kNoSuchHelper)});
    code->push_back({kOpExit, 0, 0, 0});
  }
}

std::expected<uint64_t, std::string> RawProgram::interpret(std::span<unsigned char> memory) const {
  const std::vector<RawInsn> code = for_memory(memory.size());
  Host host;
  Bounds bounds{reinterpret_cast<uint64_t>(memory.data()), memory.size(), 0, {}};
  auto result = run_to_the_end(host, [&] {
    return vm::interpret(code.data(), static_cast<uint32_t>(code.size()), memory.data(), &host.env, bounds);
  });
  if (!bounds.wrong.empty()) return std::unexpected(bounds.wrong);
  return result;
}

std::expected<uint64_t, std::string> RawProgram::run_compiled(std::span<unsigned char> memory) const {
  const std::vector<RawInsn> code = for_memory(memory.size());
  Policy policy;
  Policy::Program program;
  program.info.name = "raw";
  program.info.slot = SF_SLOT_SYSCALL;
  program.info.insns = static_cast<uint32_t>(code.size());
  program.object = 0;
  program.stack_bytes = kStackBytes;
  program.insns.resize(code.size());
  std::memcpy(program.insns.data(), code.data(), code.size() * sizeof(RawInsn));
  policy.programs.push_back(std::move(program));
  auto published = publish_image(policy, Lowering::Required);
  if (!published) return std::unexpected(published.error().str());
  void *mapped = mmap(nullptr, published->bytes, PROT_READ | PROT_EXEC, MAP_SHARED, published->fd, 0);
  close(published->fd);
  if (mapped == MAP_FAILED) return std::unexpected("the image cannot be mapped");
  const auto *image = static_cast<const sf_image *>(mapped);
  const auto entry = reinterpret_cast<uintptr_t>(mapped) + image->program[0].code_offset;
  Host host;
  auto result = run_to_the_end(
      host, [&] { return reinterpret_cast<sf_image_entry>(entry)(memory.data(), &host.env); });
  munmap(mapped, published->bytes);
  return result;
}

}  // namespace shortfuse::vm
