// For the tests.
#include "testing/program_generator.h"

namespace shortfuse::vm::testing {
namespace {

constexpr int kCompares[] = {kEq, kGt, kGe, kNe, kSgt, kSge, kLt, kLe, kSlt, kSle};
constexpr int kNumbersFrom = -128, kCounterSlots = -24, kAddressSlot = -8;
constexpr int kBssBytes = 64;

}  // namespace

int ProgramGenerator::any_number() {
  const uint64_t pick = below(10);
  if (pick == 0) return 8;
  if (pick == 1) return 9;
  return scratch();
}

int32_t ProgramGenerator::constant() {
  switch (below(5)) {
    case 0: return static_cast<int32_t>(below(16));
    case 1: return static_cast<int32_t>((1u << below(32)) - static_cast<uint32_t>(below(3)) + 1);
    case 2: return -static_cast<int32_t>(below(200));
    case 3: return static_cast<int32_t>(below(130));
    default: return static_cast<int32_t>(random_());
  }
}

LinkedProgram ProgramGenerator::next() {
  static const char *const sections[] = {"fuse/read", "fuse/lookup", "fuse_exit/read"};
  code_.clear();
  local_calls_.clear();
  callback_addresses_.clear();
  callee_ = wants_callee_ = wants_callback_ = false;
  const std::string section = sections[below(std::size(sections))];
  begin_function(false);
  pieces_left_ = static_cast<int>(6 + below(30));
  statements(static_cast<int>(4 + below(10)));
  end_function(false);
  std::vector<uint32_t> functions;
  if (wants_callee_) {
    functions.push_back(static_cast<uint32_t>(here()));
    for (size_t at : local_calls_) code_[at].imm = static_cast<int32_t>(here() - at - 1);
    begin_function(true);
    pieces_left_ = static_cast<int>(2 + below(8));
    statements(static_cast<int>(1 + below(5)));
    end_function(false);
  }
  if (wants_callback_) {
    functions.push_back(static_cast<uint32_t>(here()));
    for (size_t at : callback_addresses_) code_[at].imm = static_cast<int32_t>(here() - at - 1);
    begin_function(true);
    wants_callee_ = true;  // nothing more is called from here
    pieces_left_ = static_cast<int>(2 + below(6));
    statements(static_cast<int>(1 + below(4)));
    end_function(true);
  }
  if (one_in(4)) spoil();
  return make_program(code_, section, functions);
}

void ProgramGenerator::begin_function(bool callee) {
  callee_ = callee;
  depth_ = 0;
  rounds_ = callee ? 16 : 1;
  breaks_.clear();
  counters_used_[0] = counters_used_[1] = false;
  if (callee) {
    emit(mov_reg(6, 2));
    for (int r : {0, 2, 3, 4, 5, 8, 9}) emit(below(2) ? load(8, r, 6, 0) : mov(r, constant()));
  } else {
    emit(mov_reg(6, 1));
    for (int r : {0, 1, 2, 3, 4, 5, 8, 9}) emit(load(8, r, 6, static_cast<int>(8 * (1 + below(4)))));
  }
  emit(load_value(7, kBss));
  if (callee) {
    emit(store_imm(8, 10, -8, 1));
    return;
  }
  for (int off = kNumbersFrom; off < kAddressSlot; off += 8) {
    if (below(2)) emit(store(8, 10, off, scratch()));
    else emit(store_imm(8, 10, off, constant()));
  }
  emit(store(8, 10, kAddressSlot, 7));
}

void ProgramGenerator::end_function(bool callback) {
  if (callback) emit(Code{mov(0, static_cast<int>(below(2)))});
  else emit(below(2) ? mov_reg(0, any_number()) : mov(0, constant()));
  emit(leave());
}

void ProgramGenerator::statements(int count) {
  for (int i = 0; i < count && pieces_left_ > 0; i++) statement();
}

void ProgramGenerator::statement() {
  pieces_left_--;
  switch (below(callee_ ? 12 : 24)) {
    case 0: case 1: return arithmetic();
    case 2: return related();
    case 3: return indexed();
    case 4: return bss_access();
    case 5: case 6: return branch();
    case 7: case 8: case 9: return loop();
    case 10: return atomic_access();
    case 11: return arithmetic();
    case 12: return stack_access();
    case 13: return saved_address();
    case 14: return call_function();
    case 15: return call_host();
    case 16: return callback();
    case 17: case 18: return maybe_null();
    case 19: return record();
    case 20: return queue();
    case 21: return tail_call();
    case 22: return many_branches();
    default: return look_up();
  }
}

void ProgramGenerator::arithmetic() {
  static constexpr int ops[] = {kAdd, kSub, kMul, kDiv, kOr, kAnd, kLsh, kRsh, kNeg, kMod, kXor, kMov, kArsh};
  const int op = ops[below(std::size(ops))], dst = scratch();
  const int cls = below(2) ? kClassAlu64 : kClassAlu;
  if (op == kNeg) return emit(raw(cls | kNeg, dst, 0, 0, 0));
  if (one_in(12)) return emit(raw(cls | kEnd, dst, 0, 0, 16 << below(3)));
  int off = (op == kDiv || op == kMod) && below(2) ? 1 : 0;
  if (below(2)) return emit(raw(cls | op, dst, 0, off, constant()));
  if (op == kMov && below(2)) off = below(2) ? 8 : 16;
  emit(raw(cls | op | kSourceReg, dst, any_number(), off, 0));
}

// A copy, moved; a bound of one is used for the other.
void ProgramGenerator::related() {
  const int a = scratch(), b = scratch();
  if (a == b) return;
  if (below(2)) emit(raw((below(2) ? kClassAlu64 : kClassAlu) | kMov | kSourceReg, a, any_number(), 0, 0));
  emit(raw((below(2) ? kClassAlu64 : kClassAlu) | kMov | kSourceReg, b, a, 0, 0));
  if (below(2)) emit(raw((below(2) ? kClassAlu64 : kClassAlu) | (below(2) ? kAdd : kSub), b, 0, 0, constant()));
  if (one_in(3)) emit(store(below(2) ? 8 : 4, 10, callee_ ? -8 : -32, b));
  const size_t jump = here();
  emit(raw((below(2) ? kClassJmp : kClassJmp32) | kCompares[below(std::size(kCompares))], b, 0, 0, constant()));
  statements(1);
  if (below(2)) {
    narrow(a, kBssBytes, 1);
    emit(mov_reg(b, 7));
    emit(alu_reg(kAdd, b, a));
    emit(load(1, b, b, 0));
  }
  aim(jump, here());
}

// Makes `index` one of [0, size - bytes], in one of many ways; now and then one too many.
void ProgramGenerator::narrow(int index, int size, int bytes) {
  const int most = size - bytes + (one_in(25) ? 1 : 0);
  switch (below(5)) {
    case 0: return emit(alu_imm(kAnd, index, most < 31 ? 7 : most < 63 ? 31 : 63 - (bytes - 1)));
    case 1: return emit(raw((below(2) ? kClassAlu64 : kClassAlu) | kMod, index, 0, 0, most + 1));
    case 2:
      emit(jump_imm(kLe, index, most, 1));
      return emit(mov(index, static_cast<int>(below(static_cast<uint64_t>(most) + 1))));
    case 3:
      emit(raw(kClassAlu | kMov | kSourceReg, index, index, 0, 0));
      emit(jump32_imm(kLe, index, most, 1));
      return emit(mov(index, most));
    default:
      emit(jump_imm(kSlt, index, 0, 1));
      emit(jump_imm(kSle, index, most, 1));
      return emit(mov(index, 0));
  }
}

void ProgramGenerator::indexed() {
  const int index = any_number(), pointer = scratch(), bytes = 1 << below(4);
  if (index == pointer) return;
  const bool counter = index >= 8 && limit_ <= 64 && below(2);
  const bool big = !callee_ && below(2);
  if (!counter && index >= 8 && counters_used_[index - 8]) return;  // a counter is not to be spoiled
  if (!counter) narrow(index, big ? 96 : kBssBytes, bytes);
  const bool on_stack = !callee_ && big;
  emit(mov_reg(pointer, on_stack ? 10 : 7));
  if (on_stack) emit(alu_imm(kAdd, pointer, kNumbersFrom));
  emit(alu_reg(kAdd, pointer, index));
  if (one_in(3)) emit(store(bytes, pointer, 0, index));
  else if (one_in(4)) emit(store_imm(bytes, pointer, 0, constant()));
  else emit(load(bytes, pointer, pointer, 0));
  emit(mov(pointer, constant()));
}

void ProgramGenerator::stack_access() {
  const int bytes = 1 << below(4);
  const int off = kNumbersFrom + bytes * static_cast<int>(below(104u / static_cast<unsigned>(bytes)));
  switch (below(3)) {
    case 0: return emit(store(bytes, 10, off, any_number()));
    case 1: return emit(store_imm(bytes, 10, off, constant()));
    default: return emit(bytes < 8 && below(2) ? load_sx(bytes, scratch(), 10, off) : load(bytes, scratch(), 10, off));
  }
}

// The address on the stack is used, moved, or set anew.
void ProgramGenerator::saved_address() {
  const int r = scratch();
  if (one_in(3)) return emit(store(8, 10, kAddressSlot, 7));
  emit(load(8, r, 10, kAddressSlot));
  if (below(2)) {
    emit(load(1, (r + 1) % 6, r, 0));
  } else {
    emit(store_imm(1, r, 0, constant()));
  }
  if (below(2)) {
    emit(alu_imm(below(4) ? kAdd : kSub, r, static_cast<int>(below(3))));
    emit(store(8, 10, kAddressSlot, r));
  }
  emit(mov(r, constant()));
}

void ProgramGenerator::bss_access() {
  const int bytes = 1 << below(4), off = static_cast<int>(below(kBssBytes - static_cast<unsigned>(bytes) + 1));
  if (one_in(3)) return emit(store(bytes, 7, off, any_number()));
  emit(load(bytes, scratch(), 7, off));
}

void ProgramGenerator::branch() {
  const size_t jump = here();
  const int base = kCompares[below(std::size(kCompares))] | (below(2) ? kClassJmp : kClassJmp32);
  if (below(3)) emit(raw(base, any_number(), 0, 0, constant()));
  else emit(raw(base | kSourceReg, any_number(), any_number(), 0, 0));
  if (!breaks_.empty() && one_in(3)) {
    breaks_[below(breaks_.size())].push_back(jump);
    return;
  }
  statements(static_cast<int>(1 + below(2)));
  if (one_in(3)) {
    const size_t over = here();
    emit(go(0));
    aim(jump, here());
    statements(1);
    aim(over, here());
  } else {
    aim(jump, here());
  }
}

void ProgramGenerator::loop() {
  const int which = counters_used_[0] ? 1 : 0;
  if (counters_used_[which] || depth_ >= 2 || rounds_ > 3000) return arithmetic();
  static constexpr int bounds[] = {3, 8, 16, 40, 63, 64, 65, 70, 100, 200};
  const int rounds = bounds[below(rounds_ > 100 ? 4 : std::size(bounds))];
  const bool saved = !callee_ && one_in(4);  // the counter lives on the stack, and in a register while it is stepped
  const int counter = saved ? scratch() : 8 + which, slot = kCounterSlots + 8 * which;
  const bool narrow32 = one_in(3), down = one_in(3);
  static constexpr int steps[] = {1, 1, 1, 2, 3, 8};
  const int step = steps[below(std::size(steps))] * (down ? -1 : 1), limit = down ? 0 : rounds * std::abs(step);
  emit(mov(counter, down ? rounds * -step : 0));
  if (saved) emit(store(8, 10, slot, counter));
  counters_used_[which] = true;
  depth_++;
  rounds_ *= static_cast<uint64_t>(rounds);
  const int limit_around = std::exchange(limit_, rounds * std::abs(step));
  breaks_.emplace_back();
  const size_t top = here();
  const bool above = one_in(3);
  const int cls = narrow32 ? kClassJmp32 : kClassJmp;
  if (above && !saved) {
    breaks_.back().push_back(here());
    emit(raw(cls | (down ? kSle : below(2) ? kGe : kEq), counter, 0, 0, limit));
  }
  const size_t before = one_in(3) && !saved ? here() : 0;
  if (before) emit(raw((narrow32 ? kClassAlu : kClassAlu64) | kAdd, counter, 0, 0, step));
  loop_body(counter);
  if (saved) emit(load(8, counter, 10, slot));
  if (!before) emit(raw((narrow32 ? kClassAlu : kClassAlu64) | kAdd, counter, 0, 0, step));
  if (one_in(40)) emit(raw(kClassAlu64 | kAdd, counter, 0, 0, constant()));
  if (saved) emit(store(8, 10, slot, counter));
  static constexpr int ups[] = {kNe, kLt, kSlt}, downs[] = {kNe, kSgt, kGt};
  const size_t back = here();
  if (above && !saved) emit(go(0));
  else emit(raw(cls | (down ? downs : ups)[below(3)], counter, 0, 0, limit));
  aim(back, top);
  for (size_t jump : breaks_.back()) aim(jump, here());
  breaks_.pop_back();
  rounds_ /= static_cast<uint64_t>(rounds);
  limit_ = limit_around;
  depth_--;
  counters_used_[which] = false;
}

// What loops do: count what they find, run along with an address, index with the counter.
void ProgramGenerator::loop_body(int counter) {
  const int r = counter == 0 ? 1 : 0, p = counter == 2 ? 3 : 2;
  switch (below(6)) {
    case 0:
      emit(load(1, r, 7, static_cast<int>(below(64))));
      emit(jump_imm(kCompares[below(std::size(kCompares))], r, constant(), 1));
      if (!counters_used_[1]) emit(alu_imm(kAdd, 9, static_cast<int>(1 + below(2))));
      else emit(mov(r, 1));
      break;
    case 1:
      if (callee_ || (rounds_ > 64 && !one_in(8))) break;
      if (below(2)) emit(store(8, 10, kAddressSlot, 7));
      emit(load(8, p, 10, kAddressSlot));
      emit(below(2) ? load(1, r, p, 0) : store_imm(1, p, 0, 7));
      emit(alu_imm(kAdd, p, 1));
      emit(store(8, 10, kAddressSlot, p));
      emit(mov(p, 0));
      break;
    case 2:
      emit(mov_reg(p, 7));
      emit(mov_reg(r, counter));
      if (limit_ > 64 || below(2)) emit(alu_imm(kAnd, r, one_in(25) ? 64 : 63));
      if (below(2)) emit(raw(kClassAlu | kMov | kSourceReg, r, r, 0, 0));
      emit(alu_reg(kAdd, p, r));
      emit(load(1, p, p, 0));
      break;
    case 3:
      emit(load(1, r, 7, static_cast<int>(below(64))));
      emit(alu_imm(kAdd, r, static_cast<int>(below(2))));
      emit(raw((below(2) ? kClassAlu64 : kClassAlu) | kAdd | kSourceReg, below(4) ? scratch() : counter, r, 0, 0));
      break;
    default: break;
  }
  statements(static_cast<int>(below(3)));
}

void ProgramGenerator::restore_scratch() {
  for (int r : {0, 1, 2, 3, 4, 5}) {
    if (one_in(3)) emit(load(8, r, 10, kNumbersFrom + 8 * static_cast<int>(below(12))));
    else emit(mov(r, constant()));
  }
}

void ProgramGenerator::call_function() {
  if (rounds_ > 300) return arithmetic();
  wants_callee_ = true;
  emit(mov_reg(1, any_number()));
  emit(mov_reg(2, 10));
  emit(alu_imm(kAdd, 2, below(2) ? kCounterSlots : kCounterSlots + 8));
  local_calls_.push_back(here());
  emit(call_local(0));
  const int kept = static_cast<int>(8 + below(2));
  if (!counters_used_[kept - 8]) emit(mov_reg(kept, 0));
  restore_scratch();
}

void ProgramGenerator::call_host() {
  if (below(2)) {
    emit(call(SF_HOST_KTIME));
    if (!counters_used_[1]) emit(mov_reg(9, 0));
  } else {
    emit(mov_reg(3, any_number()));
    narrow(3, 64, 1);
    emit(alu_imm(kAdd, 3, 1));
    emit(mov_reg(1, 6));
    emit(mov_reg(2, 10));
    emit(alu_imm(kAdd, 2, kNumbersFrom + 8 * static_cast<int>(below(4))));
    emit(call(SF_HOST_PATH));
  }
  restore_scratch();
}

void ProgramGenerator::callback() {
  if (rounds_ > 300) return arithmetic();
  wants_callback_ = true;
  const bool elements = one_in(3);
  if (elements) emit(load_map(1, kHashMap));
  else emit(mov(1, static_cast<int>(below(40))));
  callback_addresses_.push_back(here());
  emit(load_function_at(2, 0));
  emit(mov_reg(3, 10));
  emit(alu_imm(kAdd, 3, kCounterSlots));
  emit(mov(4, 0));
  // The body's second argument is its address, or that of a key: r2 there, as in a function that is called.
  emit(call(elements ? SF_HOST_FOR_EACH : SF_HOST_LOOP));
  restore_scratch();
}

void ProgramGenerator::look_up() {
  emit(store(8, 10, kNumbersFrom, scratch()));
  emit(mov_reg(2, 10));
  emit(alu_imm(kAdd, 2, kNumbersFrom));
  emit(load_map(1, kHashMap));
  emit(call(SF_HOST_MAP_LOOKUP));
  if (!one_in(30)) emit(jump_imm(kEq, 0, 0, 1));
  emit(load(8, 0, 0, static_cast<int>(below(9) + (one_in(30) ? 1 : 0))));
  restore_scratch();
}

void ProgramGenerator::look_up_in(int map) {
  emit(mov_reg(2, 10));
  emit(alu_imm(kAdd, 2, kNumbersFrom + 8 * static_cast<int>(below(4))));
  if (map >= 0) emit(load_map(1, map));
  emit(call(SF_HOST_MAP_LOOKUP));
}

// A value of 16 bytes, at an offset that is known, or checked.
void ProgramGenerator::use_value(int pointer) {
  const int bytes = 1 << below(4), number = pointer == 0 ? 1 : 0;
  if (below(2)) {
    emit(load(8, number, 10, kNumbersFrom + 8 * static_cast<int>(below(12))));
    narrow(number, 16, bytes);
    emit(alu_reg(kAdd, pointer, number));
  } else {
    emit(alu_imm(kAdd, pointer, static_cast<int>(below(static_cast<uint64_t>(17 - bytes)) + (one_in(25) ? 1 : 0))));
  }
  if (below(2)) emit(load(bytes, number, pointer, 0));
  else emit(store_imm(bytes, pointer, 0, constant()));
}

// What a lookup gave is copied, kept on the stack, checked in one place and used in another; now and then it is moved
// before it is checked, or another one is checked. Maps in maps are looked up twice.
void ProgramGenerator::maybe_null() {
  static constexpr int kMaps[] = {kHashMap, kArrayOfSixteen, kPerCpu};
  std::vector<size_t> null;
  if (one_in(4)) {
    look_up_in(kMapOfMaps);
    if (!one_in(20)) null.push_back(here()), emit(jump_imm(kEq, 0, 0, 0));
    emit(mov_reg(1, 0));
    look_up_in(-1);
  } else {
    look_up_in(kMaps[below(std::size(kMaps))]);
  }
  const int slot = kNumbersFrom + 8 * static_cast<int>(4 + below(8)), copy = static_cast<int>(1 + below(5));
  const bool saved = below(2);
  if (saved) emit(store(8, 10, slot, 0));
  emit(mov_reg(copy, 0));
  if (one_in(20)) emit(alu_imm(kAdd, 0, static_cast<int>(below(8))));
  if (one_in(8)) {  // another result with another fate
    look_up_in(kMaps[below(std::size(kMaps))]);
    emit(mov_reg(copy, 0));
  }
  const int checked = below(2) ? 0 : copy, used = below(2) ? 0 : copy;
  if (!one_in(20)) {
    const bool skips = below(2);
    if (!skips) emit(jump_imm(kNe, checked, 0, 1));
    null.push_back(here());
    emit(skips ? jump_imm(kEq, checked, 0, 0) : go(0));
  }
  if (saved && below(2)) emit(load(8, used, 10, slot));
  use_value(used);
  for (size_t jump : null) aim(jump, here());
  if (saved) emit(store_imm(8, 10, slot, constant()));
  restore_scratch();
}

// A record of the ring buffer; what happens before it is given back may leave the loop around.
void ProgramGenerator::record() {
  const int size = static_cast<int>(8 + below(24));
  emit(load_map(1, kRing));
  emit(mov(2, size));
  emit(mov(3, 0));
  emit(call(SF_HOST_RINGBUF_RESERVE));
  const size_t null = here();
  emit(jump_imm(kEq, 0, 0, 0));
  if (below(2)) emit(store_imm(8, 0, static_cast<int>(below(static_cast<uint64_t>(size - 7))), constant()));
  emit(store(8, 10, kAddressSlot, 0));
  restore_scratch();
  if (one_in(3)) statements(1);
  if (one_in(30)) return aim(null, here());
  emit(load(8, 1, 10, kAddressSlot));
  if (one_in(30)) emit(mov_reg(9, 1));
  emit(mov(2, 0));
  emit(call(below(2) ? SF_HOST_RINGBUF_SUBMIT : SF_HOST_RINGBUF_DISCARD));
  aim(null, here());
  restore_scratch();
  emit(store(8, 10, kAddressSlot, 7));
}

void ProgramGenerator::queue() {
  static constexpr sf_host_id calls[] = {SF_HOST_MAP_PUSH, SF_HOST_MAP_POP, SF_HOST_MAP_PEEK};
  emit(load_map(1, kQueue));
  emit(mov_reg(2, 10));
  emit(alu_imm(kAdd, 2, kNumbersFrom + 8 * static_cast<int>(below(11)) + (one_in(30) ? 24 : 0)));
  emit(mov(3, 0));
  emit(call(calls[below(3)]));
  restore_scratch();
}

void ProgramGenerator::tail_call() {
  emit(mov_reg(1, 6));
  emit(load_map(2, kPrograms));
  emit(mov(3, static_cast<int>(below(5))));
  emit(call(SF_HOST_TAIL_CALL));
  restore_scratch();
}

// So many that their paths are joined.
void ProgramGenerator::many_branches() {
  const int sum = scratch(), bits = (sum + 1) % 6, bit = (sum + 2) % 6;
  emit(mov(sum, 0));
  for (uint64_t n = 6 + below(12); n > 0; n--) {
    emit(mov_reg(bit, bits));
    emit(raw((below(2) ? kClassAlu64 : kClassAlu) | kRsh, bit, 0, 0, static_cast<int>(n)));
    emit(jump_imm(kSet, bit, 1, 1));
    emit(alu_imm(kAdd, sum, static_cast<int>(below(6))));
  }
  narrow(sum, kBssBytes, 1);
  emit(mov_reg(bit, 7));
  emit(alu_reg(kAdd, bit, sum));
  emit(load(1, bit, bit, 0));
}

void ProgramGenerator::atomic_access() {
  static constexpr int ops[] = {0x00, 0x40, 0x50, 0xa0, 0x01, 0x41, 0x51, 0xa1, 0xe1, 0xf1};
  const int bytes = below(2) ? 8 : 4, op = ops[below(std::size(ops))];
  if (!callee_ && below(2)) {
    const int off = kNumbersFrom + bytes * static_cast<int>(below(104u / static_cast<unsigned>(bytes)));
    return emit(atomic(bytes, 10, off, scratch(), op));
  }
  emit(atomic(bytes, 7, bytes * static_cast<int>(below(64u / static_cast<unsigned>(bytes))), scratch(), op));
}

// Changes an instruction or two a little.
void ProgramGenerator::spoil() {
  for (uint64_t n = 1 + below(2); n > 0; n--) {
    RawInsn &in = code_[below(code_.size())];
    if (in.code == 0 || in.code == kOpLoadImm64) continue;
    const int cls = in.code & 7;
    const bool alu = cls == kClassAlu || cls == kClassAlu64;
    const bool jump = (cls == kClassJmp || cls == kClassJmp32) && in.code != kOpCall && in.code != kOpExit;
    const bool from_reg = in.code & kSourceReg || cls == kClassLdx || cls == kClassStx;
    switch (below(6)) {
      case 0: if (!from_reg) in.imm += static_cast<int32_t>(below(5)) - 2; break;
      case 1: if (!alu) in.off = static_cast<int16_t>(in.off + static_cast<int>(below(5)) - 2); break;
      case 2: if (alu || jump) in.code ^= alu ? kClassAlu ^ kClassAlu64 : kClassJmp ^ kClassJmp32; break;
      case 3: in.regs = static_cast<uint8_t>((in.regs & 0xf0) | any_number()); break;
      case 4: if (from_reg) in.regs = static_cast<uint8_t>((in.regs & 0x0f) | any_number() << 4); break;
      default:
        if (jump) in.code = static_cast<uint8_t>((in.code & 0x0f) | kCompares[below(std::size(kCompares))]);
        else if (alu && in.off == 0) in.code = static_cast<uint8_t>((in.code & 0x0f) | below(8) << 4);
    }
  }
}

}  // namespace shortfuse::vm::testing
