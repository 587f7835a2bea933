// Random programs. What the verifier accepts makes no access that it may not, ends, and does the same in the
// interpreter and in machine code.
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "testing/testing.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

// Programs biased towards what the verifier accepts, with one chance in many of everything else. r6 the context, r7
// .bss, r8 the HASH's value once found, r0..r5 and r9 numbers, 64 bytes of stack.
class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  LinkedProgram next() {
    static const char *const sections[] = {"fuse/read", "fuse/lookup", "fuse_exit/read", "syscall/read"};
    const std::string section = sections[below(std::size(sections))];
    code_ = {mov_reg(6, 1)};
    code_ = code_ + load_value(7, 3);
    for (int r : {0, 1, 2, 3, 4, 5, 9}) code_.push_back(below(2) ? load(8, r, 6, number_field()) : load(4, r, 6, 4));
    for (int off = -64; off < 0; off += 8) code_.push_back(store(8, 10, off, scratch()));
    starts_.clear();
    for (uint64_t n = 8 + below(40); n > 0; n--) {
      starts_.push_back(code_.size());
      piece();
    }
    starts_.push_back(code_.size());
    code_.push_back(below(2) ? mov_reg(0, number()) : mov(0, static_cast<int>(below(3)) - 1));
    code_.push_back(leave());
    aim_jumps();
    return make_program(code_, section);
  }

 private:
  uint64_t below(uint64_t n) { return random_() % n; }
  bool rarely() { return below(60) == 0; }
  int number() {
    static constexpr int r[] = {0, 1, 2, 3, 4, 5, 9};
    return rarely() ? static_cast<int>(below(11)) : r[below(std::size(r))];
  }
  int scratch() { return number(); }
  int number_field() { return static_cast<int>(8 * (1 + below(4))); }
  int32_t constant() {
    switch (below(4)) {
      case 0: return static_cast<int32_t>(below(16));
      case 1: return static_cast<int32_t>((1u << below(32)) - static_cast<uint32_t>(below(2)));
      case 2: return -static_cast<int32_t>(below(200));
      default: return static_cast<int32_t>(random_());
    }
  }
  void emit(RawInsn in) { code_.push_back(in); }

  void piece() {
    switch (below(12)) {
      case 0: case 1: case 2: return arithmetic();
      case 3: return branch();
      case 4: return stack_access();
      case 5: return map_access();
      case 6: return indexed_access();
      case 7: return map_lookup();
      case 8: return host_call();
      case 9: return loop();
      case 10: return emit(load(1 << below(4), number(), 6, static_cast<int>(8 * below(8))));
      default: return atomic_access();
    }
  }
  void arithmetic() {
    static constexpr int ops[] = {kAdd, kSub, kMul, kDiv, kOr, kAnd, kLsh, kRsh, kNeg, kMod, kXor, kMov, kArsh};
    int op = ops[below(std::size(ops))], dst = number();
    int off = (op == kDiv || op == kMod) && below(2) ? 1 : 0;
    bool wide = below(2);
    if (op == kNeg) return emit(raw((wide ? kClassAlu64 : kClassAlu) | kNeg, dst, 0, 0, 0));
    if (below(12) == 0) return emit(raw((wide ? kClassAlu64 : kClassAlu) | kEnd, dst, 0, 0, 16 << below(3)));
    if (below(2)) return emit(raw((wide ? kClassAlu64 : kClassAlu) | op, dst, 0, off, constant()));
    if (op == kMov && below(3) == 0) off = below(2) ? 8 : 16;
    emit(raw((wide ? kClassAlu64 : kClassAlu) | op | kSourceReg, dst, number(), off, 0));
  }
  RawInsn condition(int off) {
    static constexpr int ops[] = {kEq, kGt, kGe, kSet, kNe, kSgt, kSge, kLt, kLe, kSlt, kSle};
    int base = ops[below(std::size(ops))] | (below(2) ? kClassJmp : kClassJmp32);
    if (below(2)) return raw(base, number(), 0, off, constant());
    return raw(base | kSourceReg, number(), number(), off, 0);
  }
  void branch() {
    jumps_.push_back(code_.size());
    emit(condition(0));
  }
  // Jumps go forward to the beginning of a piece.
  void aim_jumps() {
    for (size_t at : jumps_) {
      std::vector<size_t> later;
      for (size_t s : starts_) {
        if (s > at) later.push_back(s);
      }
      size_t target = later[below(std::min<size_t>(later.size(), 6))];
      code_[at].off = static_cast<int16_t>(target - at - 1);
      if (rarely()) code_[at].off = static_cast<int16_t>(-static_cast<int>(below(8)));
    }
    jumps_.clear();
  }
  void stack_access() {
    int bytes = 1 << below(4), off = -static_cast<int>(bytes * (1 + below(64 / static_cast<unsigned>(bytes))));
    if (rarely()) off += static_cast<int>(below(9)) - 4;
    switch (below(3)) {
      case 0: return emit(store(bytes, 10, off, number()));
      case 1: return emit(store_imm(bytes, 10, off, constant()));
      default: return emit(bytes < 8 && below(2) ? load_sx(bytes, number(), 10, off) : load(bytes, number(), 10, off));
    }
  }
  void map_access() {
    int bytes = 1 << below(4), off = static_cast<int>(below(64 - static_cast<unsigned>(bytes) + 1));
    if (rarely()) off += 8;
    if (below(3) == 0) return emit(store(bytes, 7, off, number()));
    emit(load(bytes, number(), 7, off));
  }
  // A number bounded in one of many ways, then added to an address.
  void indexed_access() {
    int index = number(), pointer = number(), bytes = 1 << below(3);
    if (index == pointer) return;
    switch (below(4)) {
      case 0: emit(alu_imm(kAnd, index, static_cast<int>((1u << below(7)) - 1))); break;
      case 1: emit(alu_imm(kMod, index, static_cast<int>(1 + below(66)))); break;
      case 2: emit(raw(kClassAlu | kRsh, index, 0, 0, 26 + static_cast<int>(below(4)))); break;
      default:
        jumps_.push_back(code_.size());
        emit(raw((below(2) ? kClassJmp : kClassJmp32) | (below(2) ? kGt : kSgt), index, 0, 0,
                 static_cast<int>(below(70))));
    }
    if (below(3) == 0) {
      emit(mov_reg(pointer, 10));
      emit(alu_imm(kAdd, pointer, -64));
    } else {
      emit(mov_reg(pointer, 7));
    }
    emit(alu_reg(kAdd, pointer, index));
    emit(below(4) == 0 ? store(bytes, pointer, 0, index) : load(bytes, pointer, pointer, 0));
    emit(mov(pointer, constant()));
  }
  void map_lookup() {
    emit(store(8, 10, -8, number()));
    emit(mov_reg(2, 10));
    emit(alu_imm(kAdd, 2, -8));
    code_ = code_ + load_map(1, below(2) ? 0 : 1);
    emit(call(SF_HOST_MAP_LOOKUP));
    emit(mov_reg(8, 0));
    if (!rarely()) emit(jump_imm(kEq, 8, 0, 1));
    emit(load(8, 9, 8, static_cast<int>(below(9) + (rarely() ? 1 : 0))));
    after_call();
  }
  void after_call() {
    for (int r : {0, 1, 2, 3, 4, 5}) emit(mov(r, constant()));
  }
  void host_call() {
    if (below(2)) {
      emit(call(SF_HOST_KTIME));
      emit(mov_reg(9, 0));
    } else {
      emit(mov_reg(1, 6));
      emit(mov_reg(2, 10));
      emit(alu_imm(kAdd, 2, -32));
      emit(mov(3, static_cast<int>(1 + below(rarely() ? 40 : 32))));
      emit(call(SF_HOST_PATH));
    }
    after_call();
  }
  void loop() {
    int counter = number(), body = number();
    emit(mov(counter, 0));
    emit(alu_reg(kAdd, body, counter));
    emit(alu_imm(kAdd, counter, 1));
    emit(jump_imm(kLt, counter, static_cast<int>(1 + below(20)), -3));
  }
  void atomic_access() {
    static constexpr int ops[] = {0x00, 0x40, 0x50, 0xa0, 0x01, 0x41, 0x51, 0xa1, 0xe1, 0xf1};
    int bytes = below(2) ? 8 : 4;
    bool on_stack = below(2);
    int off = on_stack ? -bytes * static_cast<int>(1 + below(4)) : bytes * static_cast<int>(below(8));
    emit(atomic(bytes, on_stack ? 10 : 7, off, number(), ops[below(std::size(ops))]));
  }

  std::mt19937_64 random_;
  Code code_;
  std::vector<size_t> starts_, jumps_;
};

// SF_SOAK multiplies the number of programs.
int rounds(int n) {
  const char *soak = getenv("SF_SOAK");
  return n * (soak ? std::max(1, atoi(soak)) : 1);
}

TEST(Differential, RandomPrograms) {
  Generator generator(20240607);
  std::mt19937_64 random(3);
  int accepted = 0, tried = 0;
  for (int batch = 0; batch < rounds(20); batch++) {
    std::vector<LinkedProgram> programs;
    while (programs.size() < 100) {
      LinkedProgram p = generator.next();
      tried++;
      if (verified_policy({p})) programs.push_back(std::move(p));
    }
    accepted += 100;
    auto policy = verified_policy(programs);
    ASSERT_TRUE(policy);
    auto image = Image::publish(*policy, Lowering::Required);
    ASSERT_TRUE(image) << image.error().str();
    for (uint32_t i = 0; i < policy->programs.size(); i++) {
      const Policy::Program &p = policy->programs[i];
      for (int run = 0; run < 4; run++) {
        alignas(8) uint64_t context[sizeof(sf_fuse_exit_ctx) / 8];
        for (uint64_t &word : context) word = run == 0 ? 0 : random() >> random() % 64;
        Host checked, interpreted, compiled;
        uint64_t r0 = 0;
        ASSERT_EQ(checked.checked_run(p.insns, p.info.slot, context, &r0), "")
            << "program " << accepted - 100 + int(i);
        ASSERT_EQ(image->interpret(i, context, interpreted.env()), r0);
        ASSERT_EQ(image->run_code(i, context, compiled.env()), r0) << "program " << accepted - 100 + int(i);
        ASSERT_TRUE(interpreted.effects() == checked.effects() && compiled.effects() == checked.effects());
      }
    }
  }
  EXPECT_LT(tried, accepted * 20) << "the generator has lost touch with the verifier";
  RecordProperty("tried", tried);
}

}  // namespace
}  // namespace shortfuse::vm
