// Random programs that mean the same here and in the kernel: their input and their output are a map's value, since
// contexts differ.
#pragma once
#include <random>

#include "testing/testing.h"

namespace shortfuse::vm::testing {

// Map 0: an ARRAY with one value, the memory. 1: an ARRAY of 4. 2: a HASH of 8, u64 -> 16 bytes.
inline constexpr uint32_t kMemoryBytes = 136, kResultAt = 128;
inline constexpr uint32_t kElementBytes = 16, kArrayElements = 4, kHashElements = 8, kHashKeys = 12;
inline std::vector<Policy::Map> kernel_maps() {
  auto map = [](const char *name, uint32_t type, uint32_t key, uint32_t value, uint32_t entries) {
    Policy::Map m;
    m.def = {type, key, value, entries, 0, 0, 0, 0, {}};
    strncpy(m.def.name, name, sizeof m.def.name - 1);
    return m;
  };
  return {map("memory", SF_MAP_ARRAY, 4, kMemoryBytes, 1), map("array", SF_MAP_ARRAY, 4, kElementBytes, kArrayElements),
          map("hash", SF_MAP_HASH, 8, kElementBytes, kHashElements)};
}

// r7 is the memory, r8 an address found in a map, all others numbers; 64 bytes of stack.
class KernelProgramGenerator {
 public:
  explicit KernelProgramGenerator(uint64_t seed) : random_(seed) {}

  LinkedProgram next() {
    code_ = load_value(7, 0);
    for (int r : kNumbers) emit(load(8, r, 7, static_cast<int>(8 * below(16))));
    for (int off = -64; off < 0; off += 8) emit(store(8, 10, off, number()));
    bodies_.clear();
    fixups_.clear();
    pieces(6 + below(30));
    // The result goes into the memory: the kernel's is of 32 bits.
    code_ = code_ + load_value(1, 0) + Code{store(8, 1, kResultAt, 0), mov(0, 0), leave()};
    std::vector<uint32_t> functions;
    for (size_t b = 0; b < bodies_.size(); b++) {  // in order; functions add none
      functions.push_back(static_cast<uint32_t>(code_.size()));
      for (auto &[at, body] : fixups_) {
        if (body == b) code_[at].imm = static_cast<int32_t>(code_.size() - at - 1);
      }
      code_ = code_ + bodies_[b];
    }
    return make_program(code_, "fuse/read", functions);
  }

 private:
  static constexpr int kNumbers[] = {0, 1, 2, 3, 4, 5, 6, 9};

  uint64_t below(uint64_t n) { return random_() % n; }
  bool rarely() { return below(80) == 0; }
  int number() { return rarely() ? static_cast<int>(below(11)) : kNumbers[below(std::size(kNumbers))]; }
  int32_t constant() {
    switch (below(5)) {
      case 0: return static_cast<int32_t>(below(16));
      case 1: return static_cast<int32_t>((1u << below(32)) - static_cast<uint32_t>(below(2)));
      case 2: return -static_cast<int32_t>(below(200));
      case 3: return std::numeric_limits<int32_t>::min();
      default: return static_cast<int32_t>(random_());
    }
  }
  void emit(RawInsn in) { code_.push_back(in); }

  void pieces(uint64_t n) {
    std::vector<size_t> starts, jumps;
    for (; n > 0; n--) {
      starts.push_back(code_.size());
      if (below(4) == 0) {
        jumps.push_back(code_.size());
        emit(condition());
      } else {
        piece();
      }
    }
    starts.push_back(code_.size());
    for (size_t at : jumps) {  // forwards to where a piece begins
      std::vector<size_t> later;
      for (size_t s : starts) {
        if (s > at) later.push_back(s);
      }
      code_[at].off = static_cast<int16_t>(later[below(std::min<size_t>(later.size(), 5))] - at - 1);
    }
  }
  void piece() {
    switch (below(13)) {
      case 0: case 1: case 2: case 3: return arithmetic();
      case 4: return stack_access();
      case 5: return memory_access();
      case 6: return indexed_access();
      case 7: return lookup();
      case 8: return change_map();
      case 9: return loop();
      case 10: return atomic_access();
      case 11: return call_function();
      default: return below(2) ? call_loop() : call_for_each();
    }
  }
  RawInsn condition() {
    static constexpr int ops[] = {kEq, kGt, kGe, kSet, kNe, kSgt, kSge, kLt, kLe, kSlt, kSle};
    const int base = ops[below(std::size(ops))] | (below(2) ? kClassJmp : kClassJmp32);
    return below(2) ? raw(base, number(), 0, 0, constant()) : raw(base | kSourceReg, number(), number(), 0, 0);
  }
  void arithmetic() {
    static constexpr int ops[] = {kAdd, kSub, kMul, kDiv, kOr, kAnd, kLsh, kRsh, kNeg, kMod, kXor, kMov, kArsh};
    const int op = ops[below(std::size(ops))], dst = number(), width = below(2) ? kClassAlu64 : kClassAlu;
    int off = (op == kDiv || op == kMod) && below(2) ? 1 : 0;
    if (below(10) == 0) {
      const int order = width == kClassAlu && below(2) ? kSourceReg : 0;
      return emit(raw(width | kEnd | order, dst, 0, 0, 16 << below(3)));
    }
    if (op == kNeg) return emit(raw(width | kNeg, dst, 0, 0, 0));
    // A shift by more than the width is refused by the kernel where it is a constant, division by a constant zero too.
    if (below(2)) {
      int32_t imm = constant();
      if (op == kLsh || op == kRsh || op == kArsh) imm &= width == kClassAlu ? 31 : 63;
      if ((op == kDiv || op == kMod) && imm == 0) imm = 3;
      return emit(raw(width | op, dst, 0, off, imm));
    }
    if (op == kMov && below(2)) off = 8 << below(width == kClassAlu64 ? 3 : 2);
    emit(raw(width | op | kSourceReg, dst, number(), off, 0));
  }
  void stack_access() {
    const int bytes = 1 << below(4);
    const int off = -bytes * static_cast<int>(1 + below(64 / static_cast<unsigned>(bytes))) - (rarely() ? 1 : 0);
    switch (below(3)) {
      case 0: return emit(store(bytes, 10, off, number()));
      case 1: return emit(store_imm(bytes, 10, off, constant()));
      default: return emit(bytes < 8 && below(2) ? load_sx(bytes, number(), 10, off) : load(bytes, number(), 10, off));
    }
  }
  void memory_access() {
    const int bytes = 1 << below(4), off = static_cast<int>(below(128 - static_cast<unsigned>(bytes) + 1));
    if (below(3) == 0) return emit(store(bytes, 7, off, number()));
    emit(bytes < 8 && below(2) ? load_sx(bytes, number(), 7, off) : load(bytes, number(), 7, off));
  }
  // A number bounded in one of many ways, then added to an address.
  void indexed_access() {
    const int index = number(), pointer = number(), bytes = 1 << below(3);
    if (index == pointer) return;
    switch (below(3)) {
      case 0: emit(alu_imm(kAnd, index, static_cast<int>((1u << below(7)) - 1))); break;
      case 1: emit(alu_imm(kMod, index, static_cast<int>(1 + below(66)))); break;
      default: emit(raw(kClassAlu | kRsh, index, 0, 0, 26 + static_cast<int>(below(4))));
    }
    emit(mov_reg(pointer, 7));
    emit(alu_reg(kAdd, pointer, index));
    emit(below(4) == 0 ? store(bytes, pointer, 0, index) : load(bytes, pointer, pointer, 0));
    emit(mov(pointer, constant()));
  }
  void atomic_access() {
    static constexpr int ops[] = {0x00, 0x40, 0x50, 0xa0, 0x01, 0x41, 0x51, 0xa1, 0xe1, 0xf1};
    const int bytes = below(2) ? 8 : 4;
    // Not on the stack where the old value is fetched: there Linux 6.18 takes branches for decided that are not.
    const int op = ops[below(std::size(ops))];
    const bool on_stack = below(2) && !(op & kAtomicFetch);
    const int off = on_stack ? -bytes * static_cast<int>(1 + below(4)) : bytes * static_cast<int>(below(8));
    emit(atomic(bytes, on_stack ? 10 : 7, off, number(), op));
  }
  void loop() {
    const int counter = number(), sum = number();
    emit(mov(counter, 0));
    emit(alu_reg(kAdd, sum, counter));
    emit(alu_imm(kAdd, counter, 1));
    emit(jump_imm(kLt, counter, static_cast<int>(1 + below(20)), -3));
  }
  void after_call() {
    for (int r : {1, 2, 3, 4, 5}) emit(mov(r, constant()));
  }
  // A key on the stack, small enough to be found often; r1 and r2 for a function on maps.
  void key(bool hash) {
    const int from = number();
    emit(alu_imm(kMod, from, static_cast<int>(hash ? kHashKeys : kArrayElements + 1)));
    emit(store(8, 10, -8, from));
    emit(mov_reg(2, 10));
    emit(alu_imm(kAdd, 2, -8));
    code_ = code_ + load_map(1, hash ? 2 : 1);
  }
  void lookup() {
    key(below(2));
    emit(call(SF_HOST_MAP_LOOKUP));
    emit(mov_reg(8, 0));
    emit(mov(0, constant()));
    after_call();
    if (rarely()) return;
    Code use{load(8, 9, 8, static_cast<int>(below(9)))};
    if (below(2)) use = use + Code{store(8, 8, static_cast<int>(8 * below(2)), number())};
    if (below(3) == 0) use = use + Code{atomic(8, 8, 0, number(), 0x01)};
    emit(jump_imm(kEq, 8, 0, static_cast<int>(use.size())));
    code_ = code_ + use;
  }
  void change_map() {
    const bool hash = below(3) != 0;
    key(hash);
    if (below(3) == 0) {
      emit(call(SF_HOST_MAP_DELETE));
    } else {
      emit(mov_reg(3, 10));
      emit(alu_imm(kAdd, 3, -32));
      emit(mov(4, static_cast<int>(below(4))));
      emit(call(SF_HOST_MAP_UPDATE));
    }
    after_call();
  }
  // ---- functions: arithmetic on their arguments, a little stack
  Code arithmetic_only(std::initializer_list<int> registers, uint64_t n) {
    Code outer = std::exchange(code_, {});
    for (; n > 0; n--) {
      const size_t at = code_.size();
      arithmetic();
      RawInsn &in = code_[at];
      auto one_of = [&] { return *(registers.begin() + below(registers.size())); };
      const bool from_reg = (in.code & kSourceReg) && (in.code & 0xf0) != kEnd;
      in.regs = static_cast<uint8_t>(one_of() | (from_reg ? one_of() : 0) << 4);
    }
    return std::exchange(code_, std::move(outer));
  }
  void call_function() {
    Code body = Code{mov_reg(0, 2), mov_reg(6, 1), store(8, 10, -16, 3), store(8, 10, -8, 1)} +
                arithmetic_only({0, 1, 2, 3, 6}, 2 + below(6)) +
                Code{load(8, 1, 10, -16), alu_reg(kXor, 0, 1), alu_reg(kAdd, 0, 6), leave()};
    fixups_.push_back({code_.size(), bodies_.size()});
    bodies_.push_back(std::move(body));
    emit(call_local(0));
    after_call();
  }
  void address_of_function(int dst, Code body) {
    fixups_.push_back({code_.size(), bodies_.size()});
    bodies_.push_back(std::move(body));
    code_ = code_ + load_function_at(dst, 0);
  }
  // Rounds that change a word of the stack and stop where a bit of it says so.
  void call_loop() {
    Code body = Code{load(8, 3, 2, 0), alu_reg(kAdd, 3, 1), mov(0, 0)} + arithmetic_only({3, 1}, 1 + below(4)) +
                Code{store(8, 2, 0, 3), alu_imm(kAnd, 3, static_cast<int>(below(2) ? 0 : 0x40)),
                     jump_imm(kEq, 3, 0, 1), mov(0, 1), leave()};
    emit(alu_imm(kAnd, 1, 0x3f));
    address_of_function(2, std::move(body));
    emit(mov_reg(3, 10));
    emit(alu_imm(kAdd, 3, -8 * static_cast<int>(1 + below(4))));
    emit(mov(4, rarely() ? 1 : 0));
    emit(call(SF_HOST_LOOP));
    after_call();
  }
  void call_for_each() {
    const bool hash = below(2);
    // What is summed up does not depend on the order of elements.
    Code body = Code{load(hash ? 8 : 4, 5, 2, 0), load(8, 1, 3, 8), alu_reg(kAdd, 5, 1), load(8, 1, 4, 0),
                     alu_reg(kXor, 1, 5), store(8, 4, 0, 1), store(8, 3, 0, 5), mov(0, 0), leave()};
    code_ = code_ + load_map(1, hash ? 2 : 1);
    address_of_function(2, std::move(body));
    emit(mov_reg(3, 10));
    emit(alu_imm(kAdd, 3, -16));
    emit(mov(4, 0));
    emit(call(SF_HOST_FOR_EACH));
    after_call();
  }

  std::mt19937_64 random_;
  Code code_;
  std::vector<Code> bodies_;
  struct Fixup { size_t at, body; };
  std::vector<Fixup> fixups_;
};

}  // namespace shortfuse::vm::testing
