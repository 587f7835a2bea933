// One function of bytecode becomes one function of LLVM's.
//
// r0..r9 are stack variables that LLVM's first pass turns into values, twice: as numbers, and as addresses where
// known.h says that they are. r10 is a parameter of sub-programs and the end of one block of stack in the program
// itself, so frames lie as in the interpreter. Fuel is paid where the interpreter pays: the verifier has shown that
// loops end, this is the second defence (strips.h: where it is asked for). bpf_loop() and bpf_for_each_map_elem() are
// loops here, so a body that is known can be inlined into them; lookups in maps that are known are calls of functions
// that are inlined.
#include "lower/lower.h"

#include <errno.h>
#include <llvm-c/DebugInfo.h>

#include <array>
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "isa/host_functions.h"
#include "isa/insn.h"
#include "lower/call_pays.h"
#include "lower/known.h"
#include "lower/lookup_name.h"
#include "lower/strips.h"
#include "shortfuse/vm/map.h"

namespace shortfuse::vm {
namespace {

class FunctionLowering {
 public:
  FunctionLowering(LLVMModuleRef module, const sf_jit_program &program, const sf_jit_policy &policy,
                   const std::map<uint32_t, LLVMValueRef> &functions)
      : policy_(policy), module_(module),
        context_(LLVMGetModuleContext(module)),
        builder_(LLVMCreateBuilderInContext(context_)),
        code_(reinterpret_cast<const RawInsn *>(program.insns)), count_(program.count),
        functions_(functions),
        i64_(LLVMInt64TypeInContext(context_)), i32_(LLVMInt32TypeInContext(context_)),
        i8_(LLVMInt8TypeInContext(context_)), ptr_(LLVMPointerTypeInContext(context_, 0)) {
    nothing_ = LLVMMetadataAsValue(context_, LLVMMDNodeInContext2(context_, nullptr, 0));
  }
  ~FunctionLowering() { LLVMDisposeBuilder(builder_); }
  FunctionLowering(const FunctionLowering &) = delete;
  FunctionLowering &operator=(const FunctionLowering &) = delete;

  // The body from instruction `start` on. `stack` bytes > 0: the program itself, whose block of stack this is.
  bool lower(LLVMValueRef function, uint32_t start, bool is_program, uint32_t stack, Lowered *lowered,
             const char **what) {
    function_ = function;
    start_ = start;
    is_program_ = is_program;
    pays_ = !is_program;
    if (!find_blocks(start)) return *what = "a jump leaves the program", false;
    for (auto [first, last] : find_strips(code_, count_, back_edges_))
      if (lowered->strips++ < kOptimisedLoopsMax) strips_[first].last = last;
    std::vector<uint32_t> leaders;
    for (auto &block : blocks_) leaders.push_back(block.first);
    known_in_ = know_blocks(code_, count_, start, is_program, leaders);
    prologue(start, stack);
    for (auto it = blocks_.begin(); it != blocks_.end(); ++it) {
      auto next = std::next(it);
      if (!lower_block(it->first, next == blocks_.end() ? count_ : next->first)) return *what = what_, false;
    }
    if (back_edges_.size() <= kOptimisedLoopsMax) return true;
    for (LLVMUseRef use = LLVMGetFirstUse(fuel_); use; use = LLVMGetNextUse(use)) LLVMSetVolatile(LLVMGetUser(use), 1);
    return true;
  }

 private:
  struct Strip {
    uint32_t last = 0;
    LLVMValueRef rounds = nullptr;      // since it was entered
    LLVMBasicBlockRef end = nullptr;
  };

  // ---- shape

  bool find_blocks(uint32_t start) {
    std::vector<uint32_t> work{start};
    std::set<uint32_t> leaders{start};
    std::vector<bool> seen(count_);
    while (!work.empty()) {
      uint32_t pc = work.back();
      work.pop_back();
      for (; pc < count_ && !seen[pc];) {
        seen[pc] = true;
        Insn in;
        if (decode_insn(code_ + pc, count_ - pc, &in)) return false;
        if (in.kind == Kind::Jump || in.kind == Kind::JumpAlways) {
          auto target = static_cast<uint32_t>(pc + in.distance());
          if (target >= count_) return false;
          leaders.insert(target);
          work.push_back(target);
          if (in.kind == Kind::Jump) leaders.insert(pc + 1);
          if (target <= pc) back_edges_.push_back({pc, target});
          pays_ |= target <= pc;
        }
        if (in.kind == Kind::Call || in.kind == Kind::CallReg) pays_ |= call_pays(in, policy_);
        if (in.kind == Kind::Exit || in.kind == Kind::JumpAlways) break;
        pc += in.slots();
      }
      if (pc >= count_) return false;
    }
    for (uint32_t leader : leaders) blocks_[leader] = LLVMAppendBasicBlockInContext(context_, function_, "");
    return true;
  }

  void prologue(uint32_t start, uint32_t stack_bytes) {
    LLVMBasicBlockRef entry = entry_ = LLVMInsertBasicBlockInContext(context_, blocks_.begin()->second, "entry");
    LLVMPositionBuilderAtEnd(builder_, entry);
    for (unsigned r = 0; r < kFramePointer; r++) {
      number_[r] = LLVMBuildAlloca(builder_, i64_, "");
      address_[r] = LLVMBuildAlloca(builder_, ptr_, "");
      LLVMBuildStore(builder_, number(0), number_[r]);
    }
    fuel_ = LLVMBuildAlloca(builder_, i64_, "");
    for (auto &[first, strip] : strips_) {
      strip.rounds = LLVMBuildAlloca(builder_, i32_, "");
      LLVMBuildStore(builder_, LLVMConstInt(i32_, 0, false), strip.rounds);
    }
    if (is_program_) {
      env_ = LLVMGetParam(function_, 1);
      set_address(1, LLVMGetParam(function_, 0));
      // Also where nothing is stored there: r10 is never NULL.
      if (stack_bytes == 0) stack_bytes = 16;
      LLVMValueRef stack = LLVMBuildAlloca(builder_, LLVMArrayType2(i8_, stack_bytes), "stack");
      LLVMSetAlignment(stack, 16);
      frame_ = field(stack, stack_bytes);
    } else {
      for (unsigned r = 1; r <= 5; r++) set(r, LLVMGetParam(function_, r - 1));
      frame_ = LLVMGetParam(function_, 5);
      env_ = LLVMGetParam(function_, 6);
    }
    fetch_fuel();
    LLVMBuildBr(builder_, blocks_[start]);
  }

  bool lower_block(uint32_t pc, uint32_t end) {
    LLVMPositionBuilderAtEnd(builder_, blocks_[pc]);
    known_ = known_in_[pc];
    uint32_t last = pc;
    while (pc < end) {
      Insn in;
      if (const char *wrong = decode_insn(code_ + pc, count_ - pc, &in)) return what_ = wrong, false;
      if (!lower_insn(in, pc)) return false;
      step(in, &known_);
      if (in.kind == Kind::Exit || in.kind == Kind::JumpAlways || in.kind == Kind::Jump) return true;
      last = pc;
      pc += in.slots();
    }
    return branch(last, end);
  }

  bool lower_insn(const Insn &in, uint32_t pc) {
    switch (in.kind) {
      case Kind::Alu: return alu_address(in) || alu(in);
      case Kind::Endian: return endian(in);
      case Kind::LoadImm64: return load_imm64(in, pc);
      case Kind::Load: return load(in);
      case Kind::Store: case Kind::StoreImm: return store(in);
      case Kind::Atomic: return atomic(in);
      case Kind::Jump: return jump(in, pc);
      case Kind::JumpAlways: return branch(pc, static_cast<uint32_t>(pc + in.distance()));
      case Kind::Call:
        if (in.src == kCallLocal) return call_function(in, pc);
        if (in.imm == SF_HOST_LOOP) return loop(in);
        if (in.imm == SF_HOST_FOR_EACH) return for_each(in);
        return call_host(in);
      case Kind::CallReg: return call_address(in);
      case Kind::Exit:
        if (!is_program_) pay(pc - start_ + 1);
        leave(get(0));
        return true;
      case Kind::Invalid: break;
    }
    return what_ = "an instruction that does not exist", false;
  }

  // ---- values

  LLVMValueRef number(uint64_t v) { return LLVMConstInt(i64_, v, false); }
  LLVMValueRef get(unsigned r) {
    if (r == kFramePointer) return LLVMBuildPtrToInt(builder_, frame_, i64_, "");
    return LLVMBuildLoad2(builder_, i64_, number_[r], "");
  }
  LLVMValueRef get_address(unsigned r) {
    if (r == kFramePointer) return frame_;
    if (known_[r].is_address()) return LLVMBuildLoad2(builder_, ptr_, address_[r], "");
    return LLVMBuildIntToPtr(builder_, get(r), ptr_, "");
  }
  void set(unsigned r, LLVMValueRef v) { LLVMBuildStore(builder_, v, number_[r]); }
  void set_address(unsigned r, LLVMValueRef v) {
    LLVMBuildStore(builder_, v, address_[r]);
    set(r, LLVMBuildPtrToInt(builder_, v, i64_, ""));
  }
  LLVMTypeRef type_of(bool wide) { return wide ? i64_ : i32_; }
  LLVMTypeRef int_type(unsigned bytes) { return LLVMIntTypeInContext(context_, bytes * 8); }
  LLVMValueRef as(LLVMValueRef v, LLVMTypeRef t) { return LLVMBuildIntCast2(builder_, v, t, false, ""); }
  LLVMValueRef operand(const Insn &in) {
    LLVMValueRef v = in.from_reg ? get(in.src) : number(static_cast<uint64_t>(static_cast<int64_t>(in.imm)));
    return as(v, type_of(in.wide));
  }
  LLVMValueRef address(unsigned r, int64_t off) {
    return off == 0 ? get_address(r) : field(get_address(r), static_cast<size_t>(off));
  }
  LLVMValueRef memory(LLVMValueRef access, unsigned alignment) { return LLVMSetAlignment(access, alignment), access; }
  LLVMValueRef annotate(LLVMValueRef access, const char *kind, LLVMValueRef with) {
    LLVMSetMetadata(access, LLVMGetMDKindIDInContext(context_, kind, static_cast<unsigned>(__builtin_strlen(kind))),
                    with);
    return access;
  }
  // What does not change during a run.
  LLVMValueRef constant_load(LLVMTypeRef type, LLVMValueRef at) {
    return annotate(LLVMBuildLoad2(builder_, type, at, ""), "invariant.load", nothing_);
  }
  LLVMValueRef constant_pointer(LLVMValueRef at) { return annotate(constant_load(ptr_, at), "nonnull", nothing_); }
  LLVMValueRef field(LLVMValueRef base, size_t offset) {
    LLVMValueRef by = number(offset);
    return LLVMBuildGEP2(builder_, i8_, base, &by, 1, "");
  }
  LLVMValueRef env_field(size_t offset) { return field(env_, offset); }
  LLVMValueRef call_intrinsic(const char *name, LLVMTypeRef type, LLVMValueRef v) {
    unsigned id = LLVMLookupIntrinsicID(name, __builtin_strlen(name));
    LLVMValueRef f = LLVMGetIntrinsicDeclaration(module_, id, &type, 1);
    return LLVMBuildCall2(builder_, LLVMIntrinsicGetType(context_, id, &type, 1), f, &v, 1, "");
  }

  // Copies of addresses, and addresses moved: false where the instruction is neither.
  bool alu_address(const Insn &in) {
    KnownRegisters after = known_;
    step(in, &after);
    if (!after[in.dst].is_address()) return false;
    if (in.alu == AluOp::Mov) return set_address(in.dst, get_address(in.src)), true;
    LLVMValueRef by = nullptr, base = nullptr;
    if (known_[in.dst].is_address()) {
      base = get_address(in.dst);
      by = in.from_reg ? get(in.src) : number(static_cast<uint64_t>(int64_t{in.imm}));
      if (in.alu == AluOp::Sub) by = LLVMBuildNeg(builder_, by, "");
    } else {
      base = get_address(in.src);
      by = get(in.dst);
    }
    set_address(in.dst, LLVMBuildGEP2(builder_, i8_, base, &by, 1, ""));
    return true;
  }

  bool alu(const Insn &in) {
    LLVMTypeRef t = type_of(in.wide);
    LLVMValueRef a = as(get(in.dst), t), b = operand(in), zero = LLVMConstInt(t, 0, false), ones = LLVMConstAllOnes(t);
    LLVMValueRef count = LLVMBuildAnd(builder_, b, LLVMConstInt(t, in.wide ? 63 : 31, false), "");
    LLVMValueRef by_zero = LLVMBuildICmp(builder_, LLVMIntEQ, b, zero, "");
    // Division by zero and by -1 must not trap: divide by 1 there and choose the result afterwards.
    auto divisor = [&](bool with_sign) {
      LLVMValueRef bad = by_zero;
      if (with_sign) bad = LLVMBuildOr(builder_, bad, LLVMBuildICmp(builder_, LLVMIntEQ, b, ones, ""), "");
      return LLVMBuildSelect(builder_, bad, LLVMConstInt(t, 1, false), b, "");
    };
    auto where = [&](LLVMValueRef condition, LLVMValueRef yes, LLVMValueRef no) {
      return LLVMBuildSelect(builder_, condition, yes, no, "");
    };
    auto by_minus_one = [&] { return LLVMBuildICmp(builder_, LLVMIntEQ, b, ones, ""); };
    LLVMValueRef v = nullptr;
    switch (in.alu) {
      case AluOp::Add: v = LLVMBuildAdd(builder_, a, b, ""); break;
      case AluOp::Sub: v = LLVMBuildSub(builder_, a, b, ""); break;
      case AluOp::Mul: v = LLVMBuildMul(builder_, a, b, ""); break;
      case AluOp::Or: v = LLVMBuildOr(builder_, a, b, ""); break;
      case AluOp::And: v = LLVMBuildAnd(builder_, a, b, ""); break;
      case AluOp::Xor: v = LLVMBuildXor(builder_, a, b, ""); break;
      case AluOp::Lsh: v = LLVMBuildShl(builder_, a, count, ""); break;
      case AluOp::Rsh: v = LLVMBuildLShr(builder_, a, count, ""); break;
      case AluOp::Arsh: v = LLVMBuildAShr(builder_, a, count, ""); break;
      case AluOp::Neg: v = LLVMBuildNeg(builder_, a, ""); break;
      case AluOp::Div: v = where(by_zero, zero, LLVMBuildUDiv(builder_, a, divisor(false), "")); break;
      case AluOp::Mod: v = where(by_zero, a, LLVMBuildURem(builder_, a, divisor(false), "")); break;
      case AluOp::Sdiv:
        v = where(by_zero, zero,
                  where(by_minus_one(), LLVMBuildNeg(builder_, a, ""), LLVMBuildSDiv(builder_, a, divisor(true), "")));
        break;
      case AluOp::Smod:
        v = where(by_zero, a, where(by_minus_one(), zero, LLVMBuildSRem(builder_, a, divisor(true), "")));
        break;
      case AluOp::Mov:
        v = b;
        if (in.extend_bits) v = LLVMBuildSExt(builder_, as(b, int_type(in.extend_bits / 8u)), t, "");
        break;
    }
    set(in.dst, as(v, i64_));
    return true;
  }

  bool endian(const Insn &in) {
    LLVMTypeRef t = int_type(static_cast<unsigned>(in.imm) / 8);
    LLVMValueRef v = as(get(in.dst), t);
    set(in.dst, as(in.swap ? call_intrinsic("llvm.bswap", t, v) : v, i64_));
    return true;
  }

  bool load_imm64(const Insn &in, uint32_t pc) {
    if (in.src == kImmValue) return set(in.dst, number(in.imm64())), true;
    if (in.src == kImmFunction) {
      auto found = functions_.find(static_cast<uint32_t>(pc + in.distance()));
      if (found == functions_.end()) return what_ = "the address of no function", false;
      return set(in.dst, LLVMBuildPtrToInt(builder_, found->second, i64_, "")), true;
    }
    const auto index = static_cast<uint32_t>(in.imm);
    if (in.src == kImmMap) return set_address(in.dst, map_handle(index)), true;
    LLVMValueRef values = of_table(offsetof(sf_vm_env, map_value), index);
    return set_address(in.dst, field(values, static_cast<uint32_t>(in.imm_high))), true;
  }

  // Entry `index` of a table of pointers that env has at `offset`.
  LLVMValueRef of_table(size_t offset, uint32_t index) {
    return constant_pointer(field(constant_pointer(env_field(offset)), size_t{index} * sizeof(void *)));
  }
  LLVMValueRef map_handle(uint32_t index) { return of_table(offsetof(sf_vm_env, map), index); }

  // Read-only data at a known place.
  LLVMValueRef frozen(const Insn &in) {
    const Known &base = known_[in.src];
    if (base.kind != Known::Kind::MapValue || base.map >= policy_.map_count) return nullptr;
    const sf_jit_map &map = policy_.maps[base.map];
    const int64_t at = base.offset + in.off;
    if (!map.frozen || at < 0 || at > int64_t{map.shape.value_size} - in.size) return nullptr;
    uint64_t v = 0;
    __builtin_memcpy(&v, map.frozen + at, in.size);
    return LLVMConstInt(int_type(in.size), v, false);
  }

  bool load(const Insn &in) {
    LLVMValueRef v = frozen(in);
    if (!v) v = memory(LLVMBuildLoad2(builder_, int_type(in.size), address(in.src, in.off), ""), 1);
    // Values of maps may change while they are looked at. Frozen, what was read is one number for all who use it, so
    // that what was compared is what is used.
    if (!LLVMIsConstant(v) && in.src != kFramePointer) v = LLVMBuildFreeze(builder_, v, "");
    set(in.dst, LLVMBuildIntCast2(builder_, v, i64_, in.sign_extend, ""));
    return true;
  }

  bool store(const Insn &in) {
    LLVMValueRef v = in.from_reg ? get(in.src) : number(static_cast<uint64_t>(static_cast<int64_t>(in.imm)));
    memory(LLVMBuildStore(builder_, as(v, int_type(in.size)), address(in.dst, in.off)), 1);
    return true;
  }

  bool atomic(const Insn &in) {
    LLVMTypeRef t = int_type(in.size);
    LLVMValueRef at = address(in.dst, in.off), v = as(get(in.src), t), old = nullptr;
    constexpr auto order = LLVMAtomicOrderingSequentiallyConsistent;
    if (in.atomic == AtomicOp::Cmpxchg) {
      LLVMValueRef pair = LLVMBuildAtomicCmpXchg(builder_, at, as(get(0), t), v, order, order, false);
      set(0, as(LLVMBuildExtractValue(builder_, pair, 0, ""), i64_));
      return true;
    }
    LLVMAtomicRMWBinOp op = LLVMAtomicRMWBinOpXchg;
    if (in.atomic == AtomicOp::Add) op = LLVMAtomicRMWBinOpAdd;
    if (in.atomic == AtomicOp::Or) op = LLVMAtomicRMWBinOpOr;
    if (in.atomic == AtomicOp::And) op = LLVMAtomicRMWBinOpAnd;
    if (in.atomic == AtomicOp::Xor) op = LLVMAtomicRMWBinOpXor;
    old = LLVMBuildAtomicRMW(builder_, op, at, v, order, false);
    if (in.fetch) set(in.src, as(old, i64_));
    return true;
  }

  // ---- control

  static LLVMIntPredicate predicate(JumpOp op) {
    switch (op) {
      case JumpOp::Eq: return LLVMIntEQ;
      case JumpOp::Ne: case JumpOp::Set: return LLVMIntNE;
      case JumpOp::Gt: return LLVMIntUGT;
      case JumpOp::Ge: return LLVMIntUGE;
      case JumpOp::Lt: return LLVMIntULT;
      case JumpOp::Le: return LLVMIntULE;
      case JumpOp::Sgt: return LLVMIntSGT;
      case JumpOp::Sge: return LLVMIntSGE;
      case JumpOp::Slt: return LLVMIntSLT;
      case JumpOp::Sle: return LLVMIntSLE;
    }
    return LLVMIntEQ;
  }

  bool jump(const Insn &in, uint32_t pc) {
    LLVMTypeRef t = type_of(in.wide);
    LLVMValueRef a = as(get(in.dst), t), b = operand(in);
    if (in.jump == JumpOp::Set) {
      a = LLVMBuildAnd(builder_, a, b, "");
      b = LLVMConstInt(t, 0, false);
    }
    LLVMValueRef condition = LLVMBuildICmp(builder_, predicate(in.jump), a, b, "");
    auto target = static_cast<uint32_t>(pc + in.distance());
    LLVMBasicBlockRef there = edge(pc, target);
    LLVMBuildCondBr(builder_, condition, there, edge(pc, pc + 1));
    return true;
  }

  bool branch(uint32_t pc, uint32_t target) {
    LLVMBuildBr(builder_, edge(pc, target));
    return true;
  }

  // The block to go to: the target itself, or one that pays, asks or counts first.
  LLVMBasicBlockRef edge(uint32_t pc, uint32_t target) {
    Strip *around = strip_around(pc);
    const auto entered = strips_.find(target);
    const bool back = target <= pc, leaves = around && target > around->last, enters = entered != strips_.end();
    if (!back && !leaves && !enters) return blocks_[target];
    LLVMBasicBlockRef here = LLVMGetInsertBlock(builder_), way = new_block(back ? "back" : "way");
    LLVMPositionBuilderAtEnd(builder_, way);
    if (back && around) {
      pay_without_asking(number(pc - target + 1));
      LLVMBuildBr(builder_, end_of_round(around, target));
    } else {
      if (back) pay(pc - target + 1);
      if (leaves) ask_for_fuel();
      if (enters) LLVMBuildStore(builder_, LLVMConstInt(i32_, 0, false), entered->second.rounds);
      LLVMBuildBr(builder_, blocks_[target]);
    }
    LLVMPositionBuilderAtEnd(builder_, here);
    return way;
  }

  Strip *strip_around(uint32_t pc) {
    auto it = strips_.upper_bound(pc);
    return it != strips_.begin() && pc <= std::prev(it)->second.last ? &std::prev(it)->second : nullptr;
  }

  // Where all rounds of a strip end: every kStripRounds-th asks for fuel.
  LLVMBasicBlockRef end_of_round(Strip *strip, uint32_t first) {
    if (strip->end) return strip->end;
    LLVMBasicBlockRef here = LLVMGetInsertBlock(builder_), ask = new_block("ask"), next = new_block("next");
    strip->end = new_block("round");
    LLVMPositionBuilderAtEnd(builder_, strip->end);
    LLVMValueRef one = LLVMConstInt(i32_, 1, false), rest = LLVMConstInt(i32_, kStripRounds - 1, false);
    LLVMValueRef rounds = LLVMBuildAdd(builder_, LLVMBuildLoad2(builder_, i32_, strip->rounds, ""), one, "");
    LLVMBuildStore(builder_, rounds, strip->rounds);
    LLVMValueRef in_strip = LLVMBuildAnd(builder_, rounds, rest, "");
    LLVMValueRef none = LLVMConstInt(i32_, 0, false);
    LLVMBuildCondBr(builder_, LLVMBuildICmp(builder_, LLVMIntNE, in_strip, none, ""), next, ask);
    LLVMPositionBuilderAtEnd(builder_, ask);
    ask_for_fuel();
    LLVMBuildBr(builder_, next);
    LLVMPositionBuilderAtEnd(builder_, next);
    annotate(LLVMBuildBr(builder_, blocks_[first]), "llvm.loop", LLVMMetadataAsValue(context_, unrolled()));
    LLVMPositionBuilderAtEnd(builder_, here);
    return strip->end;
  }
  // A loop's name, which is a node that begins with itself, and how far it is to be unrolled.
  LLVMMetadataRef unrolled() {
    static constexpr char kCount[] = "llvm.loop.unroll.count";
    LLVMMetadataRef wish[] = {LLVMMDStringInContext2(context_, kCount, sizeof kCount - 1),
                              LLVMValueAsMetadata(LLVMConstInt(i32_, kStripRounds, false))};
    LLVMMetadataRef itself = LLVMTemporaryMDNode(context_, nullptr, 0);
    LLVMMetadataRef parts[] = {itself, LLVMMDNodeInContext2(context_, wish, 2)};
    LLVMMetadataRef name = LLVMMDNodeInContext2(context_, parts, 2);
    LLVMMetadataReplaceAllUsesWith(itself, name);
    return name;
  }

  LLVMBasicBlockRef new_block(const char *name) { return LLVMAppendBasicBlockInContext(context_, function_, name); }

  // Goes on here where the condition holds, at `elsewhere` where not.
  void go_on_if(LLVMValueRef condition, LLVMBasicBlockRef elsewhere) {
    LLVMBasicBlockRef go = new_block("go");
    LLVMBuildCondBr(builder_, condition, go, elsewhere);
    LLVMPositionBuilderAtEnd(builder_, go);
  }
  // The same for what hardly ever fails: nothing is computed in advance for that case.
  void go_on_nearly_always_if(LLVMValueRef condition, LLVMBasicBlockRef elsewhere) {
    LLVMBasicBlockRef go = new_block("go");
    LLVMValueRef branch = LLVMBuildCondBr(builder_, condition, go, elsewhere);
    LLVMMetadataRef weights[] = {LLVMMDStringInContext2(context_, "branch_weights", 14),
                                 LLVMValueAsMetadata(LLVMConstInt(i32_, 1u << 20, false)),
                                 LLVMValueAsMetadata(LLVMConstInt(i32_, 1, false))};
    annotate(branch, "prof", LLVMMetadataAsValue(context_, LLVMMDNodeInContext2(context_, weights, 3)));
    LLVMPositionBuilderAtEnd(builder_, go);
  }

  // Fuel lives in a register; env->fuel is right where other functions look at it. It is signed here: what a strip
  // (strips.h) pays without asking may bring it below 0.
  LLVMValueRef fuel() { return LLVMBuildLoad2(builder_, i64_, fuel_, ""); }
  void require_more_fuel_than(LLVMValueRef instructions, LLVMValueRef left) {
    go_on_nearly_always_if(LLVMBuildICmp(builder_, LLVMIntSGT, left, instructions, ""), stop_block());
  }
  void pay_without_asking(LLVMValueRef instructions) {
    LLVMBuildStore(builder_, LLVMBuildSub(builder_, fuel(), instructions, ""), fuel_);
  }
  void ask_for_fuel() { require_more_fuel_than(number(0), fuel()); }
  void pay(uint64_t instructions) { pay(number(instructions)); }
  // REQUIRES: fewer than 2^62, so that nothing wraps.
  void pay(LLVMValueRef instructions) {
    LLVMValueRef before = fuel();
    pay_without_asking(instructions);
    require_more_fuel_than(instructions, before);
  }
  void pay_for_call(uint32_t id) {
    const HostCost cost = host_cost_of(id);
    if (cost.size) pay(LLVMBuildUDiv(builder_, get(cost.size), number(kBytesPaidAsOne), ""));
    if (cost.always) pay(cost.always);
    if (!cost.value && !(cost.key && keys_cost(policy_))) return;
    if (const KnownMap map = map_in_r1(); map.handle) {
      if (const uint64_t known = map_cost(map.shape, cost.key, cost.value)) pay(known);
      return;
    }
    LLVMTypeRef types[] = {ptr_, i32_, i32_};
    LLVMValueRef args[] = {get_address(1), LLVMConstInt(i32_, cost.key, false), LLVMConstInt(i32_, cost.value, false)};
    pay(call_named("map_cost", LLVMFunctionType(i64_, types, 3, false), args, 3));
  }
  // Of a program that pays nowhere, nothing.
  void fetch_fuel() {
    if (!pays_) return;
    LLVMBuildStore(builder_, LLVMBuildLoad2(builder_, i64_, env_field(offsetof(sf_vm_env, fuel)), ""), fuel_);
  }
  void put_fuel_back() {
    if (!pays_) return;
    LLVMBuildStore(builder_, LLVMBuildLoad2(builder_, i64_, fuel_, ""), env_field(offsetof(sf_vm_env, fuel)));
  }
  void leave(LLVMValueRef result) {
    put_fuel_back();
    LLVMBuildRet(builder_, result);
  }

  // Ends the run with SF_PASS and without fuel; callers see that and do the same.
  LLVMBasicBlockRef stop_block() {
    if (stop_) return stop_;
    LLVMBasicBlockRef here = LLVMGetInsertBlock(builder_);
    stop_ = new_block("stop");
    LLVMPositionBuilderAtEnd(builder_, stop_);
    LLVMBuildStore(builder_, number(0), env_field(offsetof(sf_vm_env, fuel)));
    LLVMBuildRet(builder_, number(SF_PASS));
    LLVMPositionBuilderAtEnd(builder_, here);
    return stop_;
  }

  bool call_function(const Insn &in, uint32_t pc) {
    auto found = functions_.find(static_cast<uint32_t>(pc + in.distance()));
    if (found == functions_.end()) return what_ = "a call without its function", false;
    set(0, call(found->second, in, {get(1), get(2), get(3), get(4), get(5)}));
    return true;
  }

  bool call_address(const Insn &in) {
    LLVMValueRef function = LLVMBuildIntToPtr(builder_, get(in.dst), ptr_, "");
    set(0, call(function, in, {get(1), get(2), get(3), get(4), get(5)}));
    return true;
  }

  // Calls a sub-program; the run goes on only where there is fuel left.
  LLVMValueRef call(LLVMValueRef function, const Insn &in, std::array<LLVMValueRef, 5> r) {
    LLVMValueRef frame = field(frame_, size_t{0} - static_cast<uint16_t>(in.off));
    LLVMValueRef args[] = {r[0], r[1], r[2], r[3], r[4], frame, env_};
    LLVMTypeRef types[] = {i64_, i64_, i64_, i64_, i64_, ptr_, ptr_};
    put_fuel_back();
    LLVMValueRef result = LLVMBuildCall2(builder_, LLVMFunctionType(i64_, types, 7, false), function, args, 7, "");
    fetch_fuel();
    LLVMValueRef left = LLVMBuildLoad2(builder_, i64_, fuel_, "");
    go_on_nearly_always_if(LLVMBuildICmp(builder_, LLVMIntNE, left, number(0), ""), stop_block());
    return result;
  }

  // What bpf_loop() and bpf_for_each_map_elem() have in common: `next` gives the body's arguments after it has left
  // by its second argument when there are no more, and is given the number of calls made. r0: that number.
  template <typename Next> void call_repeatedly(const Insn &in, LLVMBasicBlockRef done, Next &&next) {
    LLVMValueRef body = LLVMBuildIntToPtr(builder_, get(2), ptr_, "");
    LLVMBasicBlockRef before = LLVMGetInsertBlock(builder_), round = new_block("round");
    LLVMBuildBr(builder_, round);
    LLVMPositionBuilderAtEnd(builder_, round);
    LLVMValueRef made = LLVMBuildPhi(builder_, i64_, "made");
    set(0, made);
    const std::array<LLVMValueRef, 5> arguments = next(made);
    pay(1);
    LLVMValueRef answer = call(body, in, arguments);
    LLVMValueRef one_more = LLVMBuildAdd(builder_, made, number(1), "");
    set(0, one_more);
    LLVMValueRef values[] = {number(0), one_more};
    LLVMBasicBlockRef sources[] = {before, LLVMGetInsertBlock(builder_)};
    LLVMAddIncoming(made, values, sources, 2);
    LLVMBuildCondBr(builder_, LLVMBuildICmp(builder_, LLVMIntEQ, answer, number(0), ""), round, done);
    LLVMPositionBuilderAtEnd(builder_, done);
  }

  // Sets r0 to an errno and goes to `done` unless the condition holds.
  void require(LLVMValueRef condition, int error, LLVMBasicBlockRef done) {
    set(0, number(static_cast<uint64_t>(static_cast<int64_t>(-error))));
    go_on_if(condition, done);
  }

  bool loop(const Insn &in) {
    LLVMBasicBlockRef done = new_block("done");
    LLVMValueRef rounds = get(1), context = get(3);
    require(LLVMBuildICmp(builder_, LLVMIntEQ, get(4), number(0), ""), EINVAL, done);
    require(LLVMBuildICmp(builder_, LLVMIntULE, rounds, number(SF_LOOP_ROUNDS_MAX), ""), E2BIG, done);
    call_repeatedly(in, done, [&](LLVMValueRef made) -> std::array<LLVMValueRef, 5> {
      go_on_if(LLVMBuildICmp(builder_, LLVMIntULT, made, rounds, ""), done);
      return {made, context, number(0), number(0), number(0)};
    });
    return true;
  }

  bool for_each(const Insn &in) {
    LLVMBasicBlockRef done = new_block("done");
    LLVMValueRef map = get(1), context = get(3), cursor = local(sizeof(sf_map_cursor));
    require(LLVMBuildICmp(builder_, LLVMIntEQ, get(4), number(0), ""), EINVAL, done);
    LLVMValueRef shape = field(get_address(1), offsetof(sf_map, shape));
    LLVMValueRef entries = LLVMBuildLoad2(builder_, i32_, field(shape, offsetof(sf_map_shape, max_entries)), "");
    pay(LLVMBuildUDiv(builder_, as(entries, i64_), number(kPlacesPaidAsOne), ""));
    for (size_t at = 0; at < sizeof(sf_map_cursor); at += 8) LLVMBuildStore(builder_, number(0), field(cursor, at));
    call_repeatedly(in, done, [&](LLVMValueRef) -> std::array<LLVMValueRef, 5> {
      LLVMValueRef none = number(0), at = LLVMBuildPtrToInt(builder_, cursor, i64_, "");
      LLVMValueRef found = call_table(SF_HOST_MAP_STEP, {map, at, none, none, none});
      go_on_if(LLVMBuildICmp(builder_, LLVMIntNE, found, none, ""), done);
      LLVMValueRef key = LLVMBuildLoad2(builder_, i64_, field(cursor, offsetof(sf_map_cursor, key)), "");
      LLVMValueRef value = LLVMBuildLoad2(builder_, i64_, field(cursor, offsetof(sf_map_cursor, value)), "");
      return {map, key, value, context, none};
    });
    return true;
  }

  // Memory of this function that programs do not see.
  LLVMValueRef local(size_t bytes) {
    LLVMBasicBlockRef here = LLVMGetInsertBlock(builder_);
    LLVMPositionBuilderBefore(builder_, LLVMGetFirstInstruction(entry_));
    LLVMValueRef at = LLVMBuildAlloca(builder_, LLVMArrayType2(i8_, bytes), "");
    LLVMSetAlignment(at, 8);
    LLVMPositionBuilderAtEnd(builder_, here);
    return at;
  }

  bool call_host(const Insn &in) {
    auto id = static_cast<uint32_t>(in.imm);
    if (id >= SF_HOST_LIMIT) return what_ = "a call without its function", false;
    pay_for_call(id);
    if (OutputBuffer out = output_buffer_of(id); out.pointer) clear(out);
    LLVMValueRef result = call_inline(id);
    if (!result) result = call_table(id, {get(1), get(2), get(3), get(4), get(5)});
    if (returns_address(id)) {
      if (LLVMTypeOf(result) != ptr_) result = LLVMBuildIntToPtr(builder_, result, ptr_, "");
      set_address(0, result);
    } else {
      set(0, result);
    }
    if (id != SF_HOST_TAIL_CALL) return true;
    if (!is_program_) return what_ = "a tail call in a sub-program", false;
    LLVMBasicBlockRef ends = new_block("tail");
    go_on_if(LLVMBuildICmp(builder_, LLVMIntNE, result, number(0), ""), ends);
    LLVMBasicBlockRef here = LLVMGetInsertBlock(builder_);
    LLVMPositionBuilderAtEnd(builder_, ends);
    leave(number(SF_PASS));
    LLVMPositionBuilderAtEnd(builder_, here);
    return true;
  }

  // env->host[id](r1..r5, env->host_state or the environment). Without such a function of an application the run ends,
  // as in the interpreter; all others are there (vm/abi.h).
  LLVMValueRef call_table(uint32_t id, std::array<LLVMValueRef, 5> r) {
    if (id >= SF_HOST_COUNT) {
      LLVMValueRef own = constant_load(i32_, env_field(offsetof(sf_vm_env, own_functions)));
      LLVMValueRef needed = LLVMConstInt(i32_, id - SF_HOST_COUNT, false);
      go_on_nearly_always_if(LLVMBuildICmp(builder_, LLVMIntUGT, own, needed, ""), stop_block());
    }
    LLVMValueRef f = of_table(offsetof(sf_vm_env, host), id);
    LLVMValueRef state =
        sf_is_vm_function(id) ? env_ : constant_load(ptr_, env_field(offsetof(sf_vm_env, host_state)));
    LLVMTypeRef types[] = {i64_, i64_, i64_, i64_, i64_, ptr_};
    LLVMValueRef args[] = {r[0], r[1], r[2], r[3], r[4], state};
    return LLVMBuildCall2(builder_, LLVMFunctionType(i64_, types, 6, false), f, args, 6, "");
  }

  // ---- without a call of the host

  void clear(OutputBuffer out) {
    LLVMTypeRef types[] = {ptr_, i64_};
    LLVMValueRef args[] = {get_address(out.pointer), get(out.size)};
    call_named("clear", LLVMFunctionType(LLVMVoidTypeInContext(context_), types, 2, false), args, 2);
  }

  // The result, or nothing where the host's table must be asked.
  LLVMValueRef call_inline(uint32_t id) {
    if (!policy_.inline_calls) return nullptr;
    const bool lookup = id == SF_HOST_MAP_LOOKUP || id == SF_HOST_MAP_LOOKUP_PERCPU;
    if (id == SF_HOST_CPU) return as(cpu(), i64_);
    if (id == SF_HOST_STRNCMP) {
      LLVMTypeRef types[] = {ptr_, i32_, ptr_};
      LLVMValueRef args[] = {get_address(1), as(get(2), i32_), get_address(3)};
      return call_named("strncmp", LLVMFunctionType(i64_, types, 3, false), args, 3);
    }
    return lookup ? look_up(id == SF_HOST_MAP_LOOKUP_PERCPU) : nullptr;
  }

  // Which map r1 is, as far as that is known here: its handle, and its shape.
  struct KnownMap {
    LLVMValueRef handle = nullptr;
    sf_map_shape shape{};
  };
  KnownMap map_in_r1() {
    const Known &r1 = known_[1];
    if (r1.map >= policy_.map_count) return {};
    const sf_jit_map &map = policy_.maps[r1.map];
    if (r1.kind == Known::Kind::Map) return {map_handle(r1.map), map.shape};
    if (r1.kind == Known::Kind::Found && r1.null == Known::Null::Never && map.shape.type == SF_MAP_ARRAY_OF_MAPS)
      return {get_address(1), map.inner};
    return {};
  }

  LLVMValueRef look_up(bool of_cpu) {
    const KnownMap map = map_in_r1();
    if (!map.handle) return nullptr;
    const std::string name = lookup_name(map.shape, of_cpu);
    if (name.empty()) return nullptr;
    LLVMValueRef storage = constant_pointer(field(map.handle, offsetof(sf_map, storage)));
    LLVMValueRef entries = LLVMConstInt(i32_, map.shape.max_entries, false);
    if (map.shape.type == SF_MAP_ARRAY_OF_MAPS) {
      LLVMTypeRef types[] = {ptr_, ptr_, i32_, ptr_};
      LLVMValueRef args[] = {storage, get_address(2), entries, env_};
      return call_named(name.c_str(), LLVMFunctionType(ptr_, types, 4, false), args, 4);
    }
    // What a lookup depends on besides its map: whose value, or whether it leaves a mark.
    LLVMValueRef last = of_cpu ? as(get(3), i32_) : cpu();
    if (map.shape.type == SF_MAP_LRU_HASH) last = constant_load(i32_, field(map.handle, offsetof(sf_map, writable)));
    LLVMTypeRef types[] = {ptr_, ptr_, i32_, i32_, i32_, i32_};
    LLVMValueRef args[] = {storage, get_address(2), LLVMConstInt(i32_, map.shape.key_size, false),
                           LLVMConstInt(i32_, map.shape.value_size, false), entries, last};
    return call_named(name.c_str(), LLVMFunctionType(ptr_, types, 6, false), args, 6);
  }

  LLVMValueRef cpu() { return constant_load(i32_, env_field(offsetof(sf_vm_env, cpu))); }

  LLVMValueRef call_named(const char *name, LLVMTypeRef type, LLVMValueRef *args, unsigned count) {
    const std::string full = std::string(kInlinePrefix) + name;
    LLVMValueRef f = LLVMGetNamedFunction(module_, full.c_str());
    if (!f) f = LLVMAddFunction(module_, full.c_str(), type);
    return LLVMBuildCall2(builder_, type, f, args, count, "");
  }

  const sf_jit_policy &policy_;
  LLVMModuleRef module_;
  LLVMContextRef context_;
  LLVMBuilderRef builder_;
  const RawInsn *code_;
  const uint32_t count_;
  const std::map<uint32_t, LLVMValueRef> &functions_;
  LLVMTypeRef i64_, i32_, i8_, ptr_;
  LLVMValueRef function_ = nullptr, env_ = nullptr, frame_ = nullptr;
  LLVMValueRef number_[kFramePointer] = {}, address_[kFramePointer] = {}, fuel_ = nullptr, nothing_ = nullptr;
  LLVMBasicBlockRef entry_ = nullptr, stop_ = nullptr;
  std::vector<BackEdge> back_edges_;
  std::map<uint32_t, Strip> strips_;  // by their first instruction
  uint32_t start_ = 0;
  std::map<uint32_t, LLVMBasicBlockRef> blocks_;
  std::map<uint32_t, KnownRegisters> known_in_;
  KnownRegisters known_;
  bool is_program_ = false, pays_ = false;
  const char *what_ = "";
};

}  // namespace

bool lower_program(LLVMModuleRef module, const char *name, const sf_jit_program &given, const sf_jit_policy &policy,
                   Lowered *lowered, const char **what) {
  const auto *code = reinterpret_cast<const RawInsn *>(given.insns);
  const uint32_t count = given.count;
  unsigned loops = 0;
  LLVMContextRef context = LLVMGetModuleContext(module);
  LLVMTypeRef i64 = LLVMInt64TypeInContext(context), ptr = LLVMPointerTypeInContext(context, 0);
  LLVMTypeRef program_types[] = {ptr, ptr}, function_types[] = {i64, i64, i64, i64, i64, ptr, ptr};
  LLVMValueRef program = LLVMAddFunction(module, name, LLVMFunctionType(i64, program_types, 2, false));
  set_attributes(program);

  std::map<uint32_t, LLVMValueRef> functions;  // sub-programs, by where they start
  for (uint32_t pc = 0; pc < count;) {
    Insn in;
    if ((*what = decode_insn(code + pc, count - pc, &in))) return false;
    auto target = static_cast<uint32_t>(pc + in.distance());
    const bool jumps_back = (in.kind == Kind::Jump || in.kind == Kind::JumpAlways) && target <= pc;
    loops += jumps_back || (in.kind == Kind::Call && (in.imm == SF_HOST_LOOP || in.imm == SF_HOST_FOR_EACH));
    if ((in.calls_local() || in.takes_function_address()) && !functions.contains(target)) {
      if (target >= count) return *what = "a call leaves the program", false;
      std::string sub = std::string(name) + "." + std::to_string(target);
      LLVMValueRef f = LLVMAddFunction(module, sub.c_str(), LLVMFunctionType(i64, function_types, 7, false));
      LLVMSetLinkage(f, LLVMInternalLinkage);
      set_attributes(f);
      functions[target] = f;
    }
    pc += in.slots();
  }
  lowered->functions |= !functions.empty();
  lowered->loops = std::max(lowered->loops, loops);
  auto lower = [&](LLVMValueRef f, uint32_t start) {
    FunctionLowering lowering(module, given, policy, functions);
    return lowering.lower(f, start, f == program, given.stack_bytes, lowered, what);
  };
  return lower(program, 0) &&
         std::all_of(functions.begin(), functions.end(), [&](auto &f) { return lower(f.second, f.first); });
}

}  // namespace shortfuse::vm
