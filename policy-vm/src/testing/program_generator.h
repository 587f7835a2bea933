// Random programs for the tests of the verifier: loops of all shapes, nested, in sub-programs and callbacks; counters
// in registers and on the stack, in 32 and 64 bits, upwards and downwards; related registers, saved addresses and
// numbers, offsets that vary, atomics; what lookups and reservations gave, copied, moved and checked; queues, tail
// calls; many branches that feed one number. Most keep to the rules and many come close to a bound; some break one.
#pragma once
#include <random>
#include <vector>

#include "testing/testing.h"

namespace shortfuse::vm::testing {

class ProgramGenerator {
 public:
  explicit ProgramGenerator(uint64_t seed) : random_(seed) {}

  LinkedProgram next();
  uint64_t below(uint64_t n) { return random_() % n; }
  uint64_t number() { return random_(); }

 private:
  // Registers while a function runs: r6 the context (sub-programs: the address of 8 written bytes), r7 .bss, r8 and r9
  // counters of loops and what is counted, r0..r5 numbers. Stack: 8 bytes at -8 for an address, the 16 below for
  // counters, then 104 bytes of numbers; all written.
  bool one_in(uint64_t n) { return below(n) == 0; }
  int scratch() { return static_cast<int>(below(6)); }
  int any_number();
  int32_t constant();
  size_t here() const { return code_.size(); }
  void emit(RawInsn in) { code_.push_back(in); }
  void emit(const Code &code) { code_.insert(code_.end(), code.begin(), code.end()); }
  void aim(size_t jump, size_t target) { code_[jump].off = static_cast<int16_t>(target - jump - 1); }

  void begin_function(bool callee);
  void end_function(bool callback);
  void statements(int count);
  void statement();
  void arithmetic();
  void related();
  void narrow(int index, int size, int bytes);
  void indexed();
  void stack_access();
  void saved_address();
  void bss_access();
  void branch();
  void loop();
  void loop_body(int counter);
  void call_function();
  void call_host();
  void callback();
  void look_up();
  void maybe_null();
  void look_up_in(int map);
  void use_value(int pointer);
  void record();
  void queue();
  void tail_call();
  void many_branches();
  void restore_scratch();
  void atomic_access();
  void spoil();

  std::mt19937_64 random_;
  Code code_;
  std::vector<std::vector<size_t>> breaks_;  // of the loops around
  int depth_ = 0, pieces_left_ = 0;
  uint64_t rounds_ = 1;     // of the loops around
  int limit_ = 1000;        // of the innermost one's counter
  bool counters_used_[2] = {};
  bool callee_ = false;
  bool wants_callee_ = false, wants_callback_ = false;
  std::vector<size_t> local_calls_, callback_addresses_;
};

}  // namespace shortfuse::vm::testing
