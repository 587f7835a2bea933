// What the system calls in a module's own text could do unseen.
//
// Every 0f 05 in the text is looked at: if disassembly from the start of its function arrives at it, it is a system
// call. Its number is what eax holds there on all ways through the function: constants are followed from where they are
// loaded, through copies and over jumps; where several meet, the worst of them counts; whatever else a register may
// hold is unknown, and an unknown number is the worst of all. So are all registers where a jump from outside the
// function arrives, and the numbers in a function that jumps through a table. Where there is no function to begin
// with, or its bytes are not all known, the bytes before decide whether it looks like a system call: tables of
// constants in the text contain these two bytes by chance, once in 64 KiB.
#include "judge.h"

#include <asm/unistd.h>

#include "decode.h"
#include "sites.h"

namespace {

constexpr unsigned kLookBack = 32; // bytes in which a number is loaded, where nothing better is known

// Numbers that matter to who answers calls by descriptor, or keeps an offset: all that open, close, move or pass on.
constexpr int kDescriptors[] = {
    __NR_read,     __NR_readv,    __NR_preadv2,         __NR_lseek,    __NR_getdents,        __NR_getdents64,
    __NR_close,    __NR_close_range, __NR_dup,          __NR_dup2,     __NR_dup3,            __NR_fcntl,
    __NR_sendfile, __NR_splice,   __NR_copy_file_range, __NR_sendmsg,  __NR_sendmmsg,        __NR_pidfd_getfd,
    __NR_fork,     __NR_vfork,    __NR_clone,           __NR_clone3,   __NR_execve,          __NR_execveat,
    __NR_io_setup, __NR_io_uring_setup, __NR_io_uring_enter, __NR_io_uring_register};
// Numbers that change who or where the process is, or what becomes of calls and faults of our own. Not rt_sigprocmask:
// with SIGSEGV blocked there, a bad pointer given to libc meanwhile would end the process instead of giving EFAULT, but
// every runtime with calls of its own has it, around work of its own.
constexpr int kProcess[] = {
    __NR_chdir,     __NR_fchdir,    __NR_chroot,    __NR_pivot_root, __NR_unshare,  __NR_setns,    __NR_mount,
    __NR_umount2,   __NR_move_mount, __NR_setuid,   __NR_setgid,     __NR_setreuid, __NR_setregid, __NR_setresuid,
    __NR_setresgid, __NR_setfsuid,  __NR_setfsgid,  __NR_setgroups,  __NR_capset,   __NR_seccomp,  __NR_prctl,
    __NR_rt_sigaction};

// What a register may hold: a number that is not negative, or one of
constexpr int16_t kUnset = -1;        // nothing yet: no way arrives here
constexpr int16_t kMixHarmless = -2;  // several numbers, none of which matters
constexpr int16_t kMixDescriptors = -3;
constexpr int16_t kUnknown = -4;

sf_verdict verdict_of(int nr) {
  if (nr == kMixHarmless) return SF_RAW_HARMLESS;
  if (nr == kMixDescriptors) return SF_RAW_DESCRIPTORS;
  if (nr < 0) return SF_RAW_PROCESS;
  for (int one : kProcess)
    if (nr == one) return SF_RAW_PROCESS;
  for (int one : kDescriptors)
    if (nr == one) return SF_RAW_DESCRIPTORS;
  return SF_RAW_HARMLESS;
}

int16_t joined(int16_t a, int16_t b) {
  if (a == b || b == kUnset) return a;
  if (a == kUnset) return b;
  const sf_verdict va = verdict_of(a), vb = verdict_of(b), worst = va > vb ? va : vb;
  return worst == SF_RAW_HARMLESS ? kMixHarmless : worst == SF_RAW_DESCRIPTORS ? kMixDescriptors : kUnknown;
}

// The worst number that stands before: mov $nr,%eax; mov $nr,%rax; xor %eax,%eax; push $nr, pop %rax; or mov %rdi,%rax
// of a general function.
sf_verdict verdict_by_context(const uint8_t *text, size_t at) {
  const size_t first = at > kLookBack ? at - kLookBack : 0;
  sf_verdict worst = SF_RAW_HARMLESS;
  auto consider = [&](int number) {
    if (const sf_verdict one = verdict_of(number); one > worst) worst = one;
  };
  for (size_t i = at; i-- > first;) {
    const uint8_t *p = text + i;
    const size_t left = at - i;
    const bool wide = left >= 7 && p[0] == 0x48 && p[1] == 0xc7 && p[2] == 0xc0;
    if (wide || (left >= 5 && p[0] == 0xb8)) {
      uint32_t number;
      __builtin_memcpy(&number, p + (wide ? 3 : 1), sizeof number);
      if (number < 1024) consider((int)number);
    }
    if (left >= 2 && (p[0] == 0x31 || p[0] == 0x33) && p[1] == 0xc0) consider(0);
    if (left >= 3 && p[0] == 0x6a && p[2] == 0x58) consider(p[1]);
    if (left >= 3 && p[0] == 0x48 && p[1] == 0x89 && p[2] == 0xf8) consider(kUnknown);
  }
  return worst;
}

constexpr unsigned kFunctionsMax = 1024;  // with system calls; a module with more may do anything
constexpr unsigned kFarMax = 4096;        // jumps into them from elsewhere
constexpr unsigned kSlots = 4096;         // a table of one function's labels, at most three quarters full
constexpr unsigned kRoundsMax = 64;       // until nothing changes; a register can change four times
constexpr int kRegisters = 16, kRax = 0, kRdi = 7;
constexpr uint16_t kNotKept = 0x0fc7;     // by a callee: rax, rcx, rdx, rsi, rdi, r8 to r11

struct State {
  int16_t value[kRegisters];
};

// A place that is jumped to, and what the registers may hold there.
struct Label {
  uint32_t at;  // relative to the base; 0: a free slot
  State state;
};

struct Function {
  uint32_t start, end;
};

struct Scratch {
  Function function[kFunctionsMax];
  uint32_t far[kFarMax];
  Label label[kSlots];
};
static_assert(sizeof(Scratch) <= SF_JUDGE_SCRATCH);

struct Judge {
  sf_module module;  // its text is the segment that is looked at
  Scratch *scratch;
  unsigned functions, fars, labels;
  sf_verdict worst;
  bool changed;  // in this round
};

const uint8_t *bytes_at(const Judge *j, uint32_t at) { return (const uint8_t *)(j->module.base + at); }

void worsen(Judge *j, sf_verdict verdict) {
  if (verdict > j->worst) j->worst = verdict;
}

void set_all(State *state, int16_t value) {
  for (int16_t &one : state->value) one = value;
}

// The label at `at`, or the free slot where it would be.
Label *slot_of(Judge *j, uint32_t at) {
  unsigned i = at * 2654435761u >> 20;
  static_assert(kSlots == 1u << 12);
  while (j->scratch->label[i].at && j->scratch->label[i].at != at) i = (i + 1) % kSlots;
  return &j->scratch->label[i];
}

void add_label(Judge *j, uint32_t at, int16_t value) {
  Label *label = slot_of(j, at);
  if (!label->at) {
    if (j->labels == kSlots / 4 * 3) return worsen(j, SF_RAW_PROCESS);
    j->labels++;
    label->at = at;
    set_all(&label->state, kUnset);
  }
  if (value != kUnset) set_all(&label->state, value);
}

void flow_into(Judge *j, Label *label, const State &state) {
  for (int i = 0; i < kRegisters; i++) {
    const int16_t now = joined(label->state.value[i], state.value[i]);
    if (now != label->state.value[i]) j->changed = true;
    label->state.value[i] = now;
  }
}

// push $nr; pop %reg, which is shorter than a mov. Returns the number, or kUnknown.
int16_t popped(const uint8_t *push, const uint8_t *pop, int *reg) {
  const bool high = pop[0] == 0x41;
  if ((push[0] != 0x6a && push[0] != 0x68) || (pop[high] & 0xf8) != 0x58) return kUnknown;
  *reg = (pop[high] & 7) | (high ? 8 : 0);
  int32_t number = (int8_t)push[1];
  if (push[0] == 0x68) __builtin_memcpy(&number, push + 1, sizeof number);
  return number >= 0 && number < 4096 ? (int16_t)number : kUnknown;
}

// What the registers hold after the instruction. `before`: the one that always precedes it, or NULL.
void step(State *state, const sf_insn &insn, const uint8_t *code, const uint8_t *before) {
  int16_t *value = state->value, result = kUnknown;
  int dest = insn.flags & SF_INSN_MOVABLE ? insn.dest : -1;
  if (insn.flags & SF_INSN_CONST && insn.imm >= 0 && insn.imm < 4096) result = (int16_t)insn.imm;
  if (insn.flags & SF_INSN_MOV_REG && insn.source >= 0) result = value[insn.source];
  if (insn.flags & SF_INSN_CMOV_REG && dest >= 0) result = joined(value[insn.source], value[dest]);
  if (before && dest < 0) result = popped(before, code, &dest);
  const uint16_t writes = insn.flags & SF_INSN_CALL ? insn.writes | kNotKept : insn.writes;
  for (int i = 0; i < kRegisters; i++)
    if (writes >> i & 1) value[i] = kUnknown;
  if (dest >= 0) value[dest] = result;
}

sf_verdict verdict_at(const State &state) {
  const int16_t nr = state.value[kRax], first = state.value[kRdi];
  // Of these two only one use of many matters: PR_SET_SECCOMP; SIGSEGV, SIGBUS and the signal that cancels threads.
  if (nr == __NR_prctl && first >= 0 && first != 22) return SF_RAW_HARMLESS;
  if (nr == __NR_rt_sigaction && first >= 0 && first != 7 && first != 11 && first != 32) return SF_RAW_HARMLESS;
  return verdict_of(nr);
}

bool inside(const Function &function, uint64_t at) { return at >= function.start && at < function.end; }

// Calls visit(at, insn) for each instruction, with NULL for a byte that begins none.
template <class Visit>
void for_each_insn(Judge *j, const Function &function, Visit visit) {
  for (uint32_t at = function.start; at < function.end;) {
    sf_insn insn;
    const bool known = !sf_decode(bytes_at(j, at), function.end - at, at, &insn);
    visit(at, known ? &insn : nullptr);
    at += known ? insn.length : 1;
  }
}

// Returns whether the function jumps through a table.
bool find_labels(Judge *j, const Function &function) {
  for (Label &label : j->scratch->label) label.at = 0;
  j->labels = 0;
  bool table = false;
  for_each_insn(j, function, [&](uint32_t, const sf_insn *insn) {
    if (!insn) return;
    if (insn->flags & SF_INSN_TABLE) table = true;
    if (!(insn->flags & SF_INSN_BRANCH) || !inside(function, insn->target)) return;
    add_label(j, (uint32_t)insn->target, insn->flags & SF_INSN_CALL ? kUnknown : kUnset);
  });
  for (unsigned i = 0; i < j->fars; i++)
    if (inside(function, j->scratch->far[i])) add_label(j, j->scratch->far[i], kUnknown);
  return table;
}

// What stands between the end of one part of a function and the next one's aligned beginning: nop of any length, int3.
bool is_padding(const uint8_t *code, unsigned length) {
  if (length == 1 && code[0] == 0xcc) return true;
  unsigned i = 0;
  while (i + 1 < length && (code[i] == 0x66 || code[i] == 0x2e)) i++;
  return code[i] == 0x90 || (i + 1 < length && code[i] == 0x0f && code[i + 1] == 0x1f);
}

// One pass through the function in the order of its text; `judging`: all labels are as they stay.
void flow(Judge *j, const Function &function, bool judging) {
  State state;
  set_all(&state, kUnknown);
  bool follows = true;  // the instruction before goes on here
  const uint8_t *before = nullptr;
  j->changed = false;
  for_each_insn(j, function, [&](uint32_t at, const sf_insn *insn) {
    if (Label *label = slot_of(j, at); label->at) {
      if (follows) flow_into(j, label, state);
      state = label->state;
      before = nullptr;
    } else if (!follows) {
      if (insn && is_padding(bytes_at(j, at), insn->length)) return;
      set_all(&state, kUnknown);  // by a table, or an exception
    }
    follows = !insn || !(insn->flags & SF_INSN_ENDS);
    if (!insn) return set_all(&state, kUnknown);
    if (judging && insn->flags & SF_INSN_SYSCALL) worsen(j, verdict_at(state));
    step(&state, *insn, bytes_at(j, at), before);
    before = follows ? bytes_at(j, at) : nullptr;
    if (insn->flags & SF_INSN_BRANCH && !(insn->flags & SF_INSN_CALL) && inside(function, insn->target))
      flow_into(j, slot_of(j, (uint32_t)insn->target), state);
  });
}

// A label that no way arrives at is come to in a way that is not seen here.
bool give_up_unset(Judge *j) {
  bool any = false;
  for (Label &label : j->scratch->label) {
    if (!label.at || label.state.value[kRax] != kUnset) continue;
    set_all(&label.state, kUnknown);
    any = true;
  }
  return any;
}

void judge_function(Judge *j, const Function &function) {
  if (find_labels(j, function)) worsen(j, SF_RAW_PROCESS);
  unsigned rounds = 0;
  do {
    do {
      if (j->worst == SF_RAW_PROCESS) return;
      flow(j, function, false);
      if (++rounds == kRoundsMax) return worsen(j, SF_RAW_PROCESS);
    } while (j->changed);
  } while (give_up_unset(j));
  flow(j, function, true);
}

void add_far(Judge *j, uint64_t target) {
  if (j->fars == kFarMax) return worsen(j, SF_RAW_PROCESS);
  j->scratch->far[j->fars++] = (uint32_t)target;
}

// Short jumps reach the functions next to it, in text written by hand.
void find_near_jumps(Judge *j, const Function &function) {
  const uint32_t neighbours[] = {function.start - 1, function.end};
  for (const uint32_t neighbour : neighbours) {
    Function other;
    if (!sf_function_of(&j->module, neighbour, &other.start, &other.end) || other.start == function.start) continue;
    for_each_insn(j, other, [&](uint32_t, const sf_insn *insn) {
      if (insn && insn->flags & SF_INSN_BRANCH && insn->target != function.start && inside(function, insn->target))
        add_far(j, insn->target);
    });
  }
}

// The walk through the function that the last candidate lay in; candidates ascend, so it goes on where it stopped.
struct Walk {
  Function function;
  uint32_t at;
  bool lost;  // bytes that are no instruction known here
};

// Notes the function if the two bytes are a system call in it.
void consider(Judge *j, Walk *walk, const uint8_t *text, size_t in_text, uint32_t candidate) {
  Function function;
  if (!sf_function_of(&j->module, candidate, &function.start, &function.end))
    return worsen(j, verdict_by_context(text, in_text));
  if (function.start != walk->function.start || function.end != walk->function.end)
    *walk = {function, function.start, false};
  bool found = false;
  while (!walk->lost && walk->at <= candidate) {
    sf_insn insn;
    walk->lost = sf_decode(bytes_at(j, walk->at), function.end - walk->at, walk->at, &insn) != 0;
    if (walk->lost) break;
    found = walk->at == candidate && insn.flags & SF_INSN_SYSCALL;
    walk->at += insn.length;
  }
  if (walk->lost) return worsen(j, verdict_by_context(text, in_text));
  if (!found) return;
  Function *known = j->scratch->function;
  if (j->functions && known[j->functions - 1].start == function.start) return;
  if (j->functions == kFunctionsMax) return worsen(j, SF_RAW_PROCESS);
  known[j->functions++] = function;
  find_near_jumps(j, function);
}

// The high bit of each byte of `word` that equals `byte`, and perhaps of some above it.
uint64_t has_byte(uint64_t word, uint8_t byte) {
  uint64_t x = word ^ (0x0101010101010101ull * byte);
  return (x - 0x0101010101010101ull) & ~x & 0x8080808080808080ull;
}

uint64_t load64(const uint8_t *p) {
  uint64_t value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}

void find_functions(Judge *j) {
  auto text = (const uint8_t *)j->module.text;
  const size_t bytes = j->module.text_end - j->module.text;
  const auto first = (uint32_t)(j->module.text - j->module.base);
  Walk walk = {};
  auto look = [&](size_t at) {
    if (at + 1 < bytes && text[at] == 0x0f && text[at + 1] == 0x05)
      consider(j, &walk, text, at, first + (uint32_t)at);
  };
  size_t at = 0;
  for (; at + 9 <= bytes && j->worst != SF_RAW_PROCESS; at += 8) {
    uint64_t found = has_byte(load64(text + at), 0x0f) & has_byte(load64(text + at + 1), 0x05);
    for (; found; found &= found - 1) look(at + (unsigned)__builtin_ctzll(found) / 8);
  }
  for (; at < bytes && j->worst != SF_RAW_PROCESS; at++) look(at);
}

// The noted function in which `at` lies, or NULL. They ascend.
const Function *function_around(const Judge *j, uint64_t at) {
  const Function *function = j->scratch->function;
  unsigned low = 0, high = j->functions;
  while (high - low > 1) {
    const unsigned middle = low + (high - low) / 2;
    if (function[middle].start <= at) low = middle;
    else high = middle;
  }
  return inside(function[low], at) ? &function[low] : nullptr;
}

// Bytes that look like a near jump into a noted function from outside it. Data and the middle of instructions can look
// like that too, which matters only where they seem to jump between a number and its system call.
void find_far_jumps(Judge *j) {
  auto text = (const uint8_t *)j->module.text;
  const size_t bytes = j->module.text_end - j->module.text;
  const auto first = (int64_t)(j->module.text - j->module.base);
  const int64_t low = j->scratch->function[0].start, high = j->scratch->function[j->functions - 1].end;
  for (size_t at = 0; at + 5 <= bytes; at++) {
    size_t offset = at + 1;
    if (text[at] == 0x0f && (text[at + 1] & 0xf0) == 0x80) offset++;
    else if (text[at] != 0xe9) continue;
    if (offset + 4 > bytes) return;
    int32_t distance;
    __builtin_memcpy(&distance, text + offset, sizeof distance);
    const int64_t target = first + (int64_t)offset + 4 + distance;
    if (target < low || target >= high) continue;
    const Function *into = function_around(j, (uint64_t)target);
    if (!into || (uint64_t)target == into->start || inside(*into, (uint64_t)first + at)) continue;
    add_far(j, (uint64_t)target);
  }
}

}  // namespace

sf_verdict sf_judge(const sf_module *module, void *scratch) {
  if (module->more_texts > SF_MORE_TEXTS) return SF_RAW_PROCESS;
  Judge j = {};
  j.module = *module;
  j.scratch = (Scratch *)scratch;
  auto for_each_text = [&](void (*look)(Judge *)) {
    j.module.text = module->text, j.module.text_end = module->text_end;
    look(&j);
    for (uint32_t i = 0; i < module->more_texts; i++) {
      j.module.text = module->more_text[i].start, j.module.text_end = module->more_text[i].end;
      look(&j);
    }
  };
  for_each_text(find_functions);
  if (!j.functions || j.worst == SF_RAW_PROCESS) return j.worst;
  for_each_text(find_far_jumps);
  for (unsigned i = 0; i < j.functions && j.worst != SF_RAW_PROCESS; i++) judge_function(&j, j.scratch->function[i]);
  return j.worst;
}
