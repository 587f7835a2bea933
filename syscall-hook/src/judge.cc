// What the system calls in a module's own text could do unseen.
//
// Every 0f 05 in the text is looked at: if disassembly from the start of its function arrives at it, it is a system
// call. Its number is what eax holds there on all ways through the function: constants are followed from where they are
// loaded, through copies and over jumps; where several meet, the worst of them counts; whatever else a register may
// hold is unknown, and an unknown number is the worst of all. So are all registers where the function is entered in its
// middle (a jump from outside, a symbol, a relocated pointer, an address that is taken), and the numbers in a function
// that jumps through a table. int $0x80 and sysenter take other numbers, which are not read: unknown.
//
// Where there is no function to begin with, or its bytes are not all known, it may be a table of constants, which
// contains these two bytes by chance, once in 64 KiB. It is one if what follows cannot be executed, or if nothing leads
// there: no symbol, relocated pointer, address that is taken, jump or call from which reading on arrives. Else it is a
// call, and its number is known only where every way to read the bytes before it loads that number: then the stretch
// from there on is judged like a function.
#include "judge.h"

#include <asm/unistd.h>
#include <elf.h>

#include "call_numbers.h"
#include "decode.h"
#include "sites.h"

namespace {

constexpr unsigned kLookBack = 32;      // bytes in which a constant counts, where nothing better is known
constexpr unsigned kReadBack = 64;      // bytes that are read in all ways to find what loads the number
constexpr unsigned kInsnBytesMax = 15;
constexpr unsigned kReadOn = 16;        // instructions after something that may be a call
constexpr unsigned kShortJump = 130;    // bytes that it reaches, with its own
constexpr unsigned kEntryReach = 1024;  // bytes between where something leads and a call in no function
constexpr unsigned kWaysMax = 32;       // branches that are followed from there
constexpr unsigned kStepsMax = 1024;    // instructions
constexpr unsigned kDoubtsMax = 4096;   // of a module; one with more may do anything

// The worst number that stands before: mov $nr,%eax; mov $nr,%rax; xor %eax,%eax; push $nr, pop %rax; or mov %rdi,%rax
// of a general function.
sf_verdict verdict_by_context(const uint8_t *text, size_t at) {
  const size_t first = at > kLookBack ? at - kLookBack : 0;
  sf_verdict worst = SF_RAW_HARMLESS;
  auto consider = [&](int number) {
    if (const sf_verdict one = sf_verdict_of(number); one > worst) worst = one;
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
constexpr unsigned kRoundsMax = 64;       // until nothing changes; a register can change five times
constexpr uint32_t kSettled = 1u << 31;   // a doubt that is none any more
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
  uint32_t doubt[kDoubtsMax];
};
static_assert(sizeof(Scratch) <= SF_JUDGE_SCRATCH && kEntryReach == 1 << 10);

struct Judge {
  sf_module module;  // its text is the segment that is looked at
  Scratch *scratch;
  unsigned functions, fars, labels, doubts;
  sf_verdict worst;
  bool changed;  // in this round
  uint8_t near[1024];  // a bit per KiB, by its number's low bits: perhaps something in doubt is there or in the next
  struct {
    uint64_t start, end;  // as the module has it; the others are in its list
  } first_text;
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
    const int16_t now = sf_numbers_joined(label->state.value[i], state.value[i]);
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
  if (insn.flags & SF_INSN_CMOV_REG && dest >= 0) result = sf_numbers_joined(value[insn.source], value[dest]);
  if (before && dest < 0) result = popped(before, code, &dest);
  const uint16_t writes = insn.flags & SF_INSN_CALL ? insn.writes | kNotKept : insn.writes;
  for (int i = 0; i < kRegisters; i++)
    if (writes >> i & 1) value[i] = kUnknown;
  if (dest >= 0) value[dest] = result;
}

sf_verdict verdict_at(const State &state) {
  const int16_t nr = state.value[kRax], first = state.value[kRdi];
  // Of these two only few uses matter: filters of calls, a clock that is taken away, another program's file; SIGSEGV,
  // SIGBUS and the signal that cancels threads.
  constexpr int kSetSeccomp = 22, kSetTsc = 26, kSetMm = 35;
  if (nr == __NR_prctl && first == kSetMm) return SF_RAW_USES;
  if (nr == __NR_prctl && first >= 0 && first != kSetSeccomp && first != kSetTsc) return SF_RAW_HARMLESS;
  if (nr == __NR_rt_sigaction && first >= 0 && first != 7 && first != 11 && first != 32) return SF_RAW_HARMLESS;
  return sf_verdict_of(nr);
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

Function text_of(const Judge *j) {
  return {(uint32_t)(j->module.text - j->module.base), (uint32_t)(j->module.text_end - j->module.base)};
}

void set_text(Judge *j, const Function &text) {
  j->module.text = j->module.base + text.start, j->module.text_end = j->module.base + text.end;
}

// Short jumps from what lies near, as in text written by hand: all functions there, and bytes in none of them that look
// like one. `alone`: the function is one only for us, and what lies around is not divided into any.
void find_near_jumps(Judge *j, const Function &function, bool alone) {
  const Function text = text_of(j);
  const uint32_t low = function.start - text.start > kShortJump ? function.start - kShortJump : text.start;
  const uint32_t high = text.end - function.end > kShortJump ? function.end + kShortJump : text.end;
  auto enters = [&](uint64_t target) { return target != function.start && inside(function, target); };
  for (uint32_t at = low; at < high;) {
    Function other;
    if (inside(function, at)) {
      at = function.end;
    } else if (!alone && sf_function_of(&j->module, at, &other.start, &other.end)) {
      for_each_insn(j, other, [&](uint32_t, const sf_insn *insn) {
        if (insn && insn->flags & SF_INSN_BRANCH && enters(insn->target)) add_far(j, insn->target);
      });
      at = other.end;
    } else {
      const uint8_t *code = bytes_at(j, at++);
      const bool jumps = (code[0] & 0xf0) == 0x70 || code[0] == 0xeb || (code[0] & 0xfc) == 0xe0;
      if (jumps && at < high && enters(at + 1ull + (uint64_t)(int8_t)code[1])) add_far(j, at + 1 + (int8_t)code[1]);
    }
  }
}

// They ascend, and do not overlap.
void add_function(Judge *j, const Function &function, bool alone) {
  Function *known = j->scratch->function;
  unsigned at = j->functions;
  while (at && known[at - 1].start > function.start) at--;
  if (at && known[at - 1].start == function.start) return;
  const bool overlaps = (at && known[at - 1].end > function.start) ||
                        (at < j->functions && known[at].start < function.end);
  if (j->functions == kFunctionsMax || overlaps) return worsen(j, SF_RAW_PROCESS);
  for (unsigned i = j->functions++; i > at; i--) known[i] = known[i - 1];
  known[at] = function;
  find_near_jumps(j, function, alone);
}

// The text in which `target` lies; or nothing, from 0 to 0.
Function text_around(const Judge *j, uint64_t target) {
  const uint64_t base = j->module.base, at = base + target;
  auto in = [&](const auto &text) { return at >= text.start && at < text.end; };
  auto found = [&](const auto &text) { return Function{(uint32_t)(text.start - base), (uint32_t)(text.end - base)}; };
  if (in(j->first_text)) return found(j->first_text);
  for (uint32_t i = 0; i < j->module.more_texts; i++)
    if (in(j->module.more_text[i])) return found(j->module.more_text[i]);
  return {};
}

bool is_prefix(uint8_t byte) {
  return (byte & 0xf0) == 0x40 || byte == 0x66 || byte == 0x67 || byte == 0xf0 || byte == 0xf2 || byte == 0xf3 ||
         (byte & 0xe7) == 0x26 || byte == 0x64 || byte == 0x65;
}

bool all_prefixes(const Judge *j, uint32_t at, uint32_t end) {
  while (at < end && is_prefix(*bytes_at(j, at))) at++;
  return at == end;
}

// What programs do not execute: bytes of zero, what is no instruction though it has the length of one, what only a
// kernel may do, jumps to where no text is, and a few that nobody writes in this mode (es and ss, far calls).
bool is_strange(const Judge *j, const sf_insn &insn, const uint8_t *code) {
  if (insn.flags & SF_INSN_BRANCH && !text_around(j, insn.target).end) return true;
  if (code[0] == 0 && code[1] == 0) return true;
  const uint8_t *const end = code + insn.length;
  bool based = false;  // on fs or gs
  for (; is_prefix(*code); code++) {
    if ((*code & 0xef) == 0x26) return true;
    based = based || (*code & 0xfe) == 0x64;
  }
  const uint8_t op = code[0], second = code + 1 < end ? code[1] : 0, form = second >> 3 & 7;
  if ((op & 0xfc) == 0xa0 || op == 0x8e || op == 0xf1) return true;
  if (based && ((op & 0xf0) == 0x70 || (op & 0xfc) == 0xe0 || (op & 0xfe) == 0xf8 || (op & 0xfe) == 0xfc)) return true;
  if ((op & 0xfe) == 0xc6) return form != 0 && second != 0xf8;
  if (op == 0xfe) return form > 1;
  if (op == 0xff) return form == 3 || form == 5 || form == 7;
  if (op == 0x0f) return (second >= 0x06 && second <= 0x09) || (second & 0xfc) == 0x20 || (second & 0xfd) == 0x30;
  return (op & 0xfc) == 0x6c || (op & 0xf4) == 0xe4 || op == 0xcf || op == 0xfa || op == 0xfb;
}

// Whether what follows could be executed after a call.
bool goes_on(const Judge *j, uint32_t at) {
  const uint32_t end = text_of(j).end;
  for (unsigned i = 0; i < kReadOn && at < end; i++) {
    sf_insn insn;
    if (sf_decode(bytes_at(j, at), end - at, at, &insn) || is_strange(j, insn, bytes_at(j, at))) return false;
    if (insn.flags & SF_INSN_ENDS) return true;
    at += insn.length;
  }
  return true;
}

// Reads from `at` to `call`. Returns whether that arrives there; then `*number` is what eax holds, kUnset if nothing on
// the way wrote to it, and `*from` where it was loaded.
bool read_to(const Judge *j, uint32_t at, uint32_t call, int16_t *number, uint32_t *from) {
  State state;
  set_all(&state, kUnknown);
  *number = kUnset;
  const uint8_t *before = nullptr;
  while (at < call) {
    const uint8_t *code = bytes_at(j, at);
    sf_insn insn;
    if (sf_decode(code, call - at, at, &insn) || is_strange(j, insn, code)) return false;
    step(&state, insn, code, before);
    if (insn.flags & (SF_INSN_ENDS | SF_INSN_CALL | SF_INSN_SYSCALL)) set_all(&state, kUnknown);
    if (insn.flags & SF_INSN_ENDS) *number = kUnset;
    else if (insn.writes & 1 || insn.flags & SF_INSN_CALL || insn.flags & SF_INSN_SYSCALL) {
      const bool popped_here = before && (code[0] & 0xf8) == 0x58;
      *number = state.value[kRax], *from = popped_here ? (uint32_t)((uint64_t)before - j->module.base) : at;
    }
    before = code;
    at += insn.length;
  }
  return at == call;
}

// A call in no function: judged from where its number is loaded, if that is certain.
void consider_alone(Judge *j, uint32_t call) {
  const uint32_t text = text_of(j).start;
  const bool cut = call - text < kReadBack;
  const uint32_t first = cut ? text : call - kReadBack;
  int16_t all = kUnset;
  uint32_t start = call;
  // One of the first is where an instruction begins: that one has to come by what loads the number.
  const uint32_t certain = first + (cut ? 1 : kInsnBytesMax);
  bool any = false;
  for (uint32_t at = first; at < call; at++) {
    int16_t number;
    uint32_t from;
    if (!read_to(j, at, call, &number, &from)) continue;
    if (number == kUnset && at < certain) return worsen(j, SF_RAW_PROCESS);
    if (number == kUnset) continue;
    any = any || at < certain;
    all = sf_numbers_joined(all, number);
    if (from < start) start = from;
  }
  if (!any || all == kUnknown) return worsen(j, SF_RAW_PROCESS);
  worsen(j, sf_verdict_of(all));
  add_function(j, {start, call + 2}, true);
}

// Whether everything from `at` on can be read, and `call` is in the middle of an instruction.
bool is_inside_one(const Judge *j, uint32_t at, uint32_t call) {
  const uint32_t end = text_of(j).end;
  while (at < call) {
    sf_insn insn;
    if (sf_decode(bytes_at(j, at), end - at, at, &insn) || is_strange(j, insn, bytes_at(j, at))) return false;
    if (at + insn.length > call) return !all_prefixes(j, at, call);
    at += insn.length;
  }
  return false;
}

// Whether reading on from `entry`, over branches that are taken or not, arrives at `call`. Where an indirect jump leads
// is not known: then it does.
bool arrives(const Judge *j, uint32_t entry, uint32_t call) {
  uint32_t way[kWaysMax] = {entry};
  unsigned ways = 1, steps = 0;
  const uint32_t end = text_of(j).end;
  for (unsigned i = 0; i < ways; i++) {
    for (uint32_t at = way[i]; at < end;) {
      sf_insn insn;
      if (at == call || ++steps > kStepsMax) return true;
      if (sf_decode(bytes_at(j, at), end - at, at, &insn) || is_strange(j, insn, bytes_at(j, at))) break;
      if (at < call && at + insn.length == call + 2 && all_prefixes(j, at, call)) return true;
      if (insn.flags & SF_INSN_TABLE && !is_inside_one(j, at, call)) return true;
      if (insn.flags & SF_INSN_BRANCH && !(insn.flags & SF_INSN_CALL) && insn.target + kEntryReach >= call &&
          insn.target <= call) {
        bool known = false;
        for (unsigned k = 0; k < ways; k++) known = known || way[k] == insn.target;
        if (!known && ways == kWaysMax) return true;
        if (!known) way[ways++] = (uint32_t)insn.target;
      }
      if (insn.flags & SF_INSN_ENDS) break;
      at += insn.length;
      if (at > call + kEntryReach) break;
    }
  }
  return false;
}

void settle(Judge *j, uint32_t call) {
  if (bytes_at(j, call)[1] != 0x05) return worsen(j, SF_RAW_PROCESS);
  consider_alone(j, call);
}

// Whether bytes that look like an instruction are in the middle of one, in a function that is known well.
bool is_chance(const Judge *j, uint32_t at) {
  Function function;
  if (!sf_function_of(&j->module, at, &function.start, &function.end)) return false;
  for (uint32_t i = function.start; i <= at;) {
    sf_insn insn;
    if (sf_decode(bytes_at(j, i), function.end - i, i, &insn) || is_strange(j, insn, bytes_at(j, i))) return false;
    if (i + insn.length > at) return !all_prefixes(j, i, at);
    i += insn.length;
  }
  return false;
}

// Something leads to `entry`: perhaps on to what was in doubt.
void settle_doubts(Judge *j, uint64_t entry, uint32_t source) {
  if (!(j->near[entry >> 13 & 1023] >> (entry >> 10 & 7) & 1)) return;
  uint32_t *doubt = j->scratch->doubt;
  unsigned low = 0, high = j->doubts;
  while (low < high) {
    const unsigned middle = low + (high - low) / 2;
    if ((doubt[middle] & ~kSettled) < entry) low = middle + 1;
    else high = middle;
  }
  const Function text = text_around(j, entry), current = text_of(j);
  set_text(j, text);
  for (; low < j->doubts && (doubt[low] & ~kSettled) <= entry + kEntryReach; low++) {
    const uint32_t call = doubt[low];
    if (call & kSettled || !inside(text, call)) continue;
    if (!arrives(j, (uint32_t)entry, call) || (source && is_chance(j, source))) continue;
    doubt[low] |= kSettled;
    settle(j, call);
  }
  set_text(j, current);
}

// The walk through the function that the last candidate lay in; candidates ascend, so it goes on where it stopped.
struct Walk {
  Function function;
  uint32_t at;
  bool lost;     // bytes that are no instruction known here
  bool strange;  // or that nobody executes: perhaps a table, which is read wrongly
};

// int $0x80 or sysenter, after prefixes at most. They end what decodes to them.
bool is_other_gate(const Judge *j, uint32_t at, const sf_insn &insn, uint32_t candidate) {
  const uint8_t *code = bytes_at(j, candidate);
  return candidate + 2 == at + insn.length && code[1] != 0x05 && all_prefixes(j, at, candidate);
}

void doubt(Judge *j, const Function *function, uint32_t candidate) {
  if (bytes_at(j, candidate)[1] == 0x05)
    worsen(j, verdict_by_context(bytes_at(j, text_of(j).start), candidate - text_of(j).start));
  if (!goes_on(j, candidate + 2)) return;
  if (function && candidate - function->start <= kEntryReach && arrives(j, function->start, candidate))
    return settle(j, candidate);
  if (j->doubts == kDoubtsMax || candidate & kSettled) return worsen(j, SF_RAW_PROCESS);
  j->scratch->doubt[j->doubts++] = candidate;
  const uint32_t both[] = {candidate, candidate - kEntryReach};
  for (const uint32_t at : both) j->near[at >> 13 & 1023] |= (uint8_t)(1 << (at >> 10 & 7));
}

// Notes the function if the two bytes are a system call in it.
void consider(Judge *j, Walk *walk, uint32_t candidate) {
  Function function;
  if (!sf_function_of(&j->module, candidate, &function.start, &function.end)) return doubt(j, nullptr, candidate);
  if (function.start != walk->function.start || function.end != walk->function.end)
    *walk = {function, function.start, false, false};
  bool found = false, other = false;
  while (!walk->lost && walk->at <= candidate) {
    sf_insn insn;
    const uint8_t *code = bytes_at(j, walk->at);
    walk->lost = sf_decode(code, function.end - walk->at, walk->at, &insn) != 0;
    if (walk->lost) break;
    const bool around = walk->at + insn.length > candidate;
    found = around && insn.flags & SF_INSN_SYSCALL;
    other = around && is_other_gate(j, walk->at, insn, candidate);
    walk->strange = walk->strange || is_strange(j, insn, code);
    walk->at += insn.length;
  }
  if (found) return add_function(j, function, false);
  if (walk->lost || walk->strange) return doubt(j, &function, candidate);
  if (other) worsen(j, SF_RAW_PROCESS);
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
    if (at + 1 >= bytes) return;
    const bool call = text[at] == 0x0f && (text[at + 1] == 0x05 || text[at + 1] == 0x34);
    if (call || (text[at] == 0xcd && text[at + 1] == 0x80)) consider(j, &walk, first + (uint32_t)at);
  };
  size_t at = 0;
  for (; at + 9 <= bytes && j->worst != SF_RAW_PROCESS; at += 8) {
    const uint64_t one = load64(text + at), two = load64(text + at + 1);
    uint64_t found = (has_byte(one, 0x0f) & (has_byte(two, 0x05) | has_byte(two, 0x34))) |
                     (has_byte(one, 0xcd) & has_byte(two, 0x80));
    for (; found; found &= found - 1) look(at + (unsigned)__builtin_ctzll(found) / 8);
  }
  for (; at < bytes && j->worst != SF_RAW_PROCESS; at++) look(at);
}

// The noted function in which `at` lies, or NULL. They ascend.
const Function *function_around(const Judge *j, uint64_t at) {
  const Function *function = j->scratch->function;
  if (!j->functions) return nullptr;
  unsigned low = 0, high = j->functions;
  while (high - low > 1) {
    const unsigned middle = low + (high - low) / 2;
    if (function[middle].start <= at) low = middle;
    else high = middle;
  }
  return inside(function[low], at) ? &function[low] : nullptr;
}

// Somebody may go to `at`. While there are doubts, only these are settled: they may bring functions.
// `source`: the instruction that says so, if it is one; 0: something else does.
void add_entry(Judge *j, uint64_t at, uint32_t source = 0) {
  if (j->doubts) return settle_doubts(j, at, source);
  const Function *into = function_around(j, at);
  if (into && at != into->start) add_far(j, at);
}

int64_t first_doubt(const Judge *j) { return (int64_t)(j->scratch->doubt[0] & ~kSettled) - kEntryReach; }
int64_t last_doubt(const Judge *j) { return (j->scratch->doubt[j->doubts - 1] & ~kSettled) + 1; }

// Bytes that look like a near jump or call into a noted function from outside it, or that take an address in one. Data
// and the middle of instructions can look like that too, which matters only where they seem to arrive between a number
// and its system call. At a fixed place, an address is a constant.
void find_far_jumps(Judge *j) {
  auto text = (const uint8_t *)j->module.text;
  const size_t bytes = j->module.text_end - j->module.text;
  const auto first = (int64_t)(j->module.text - j->module.base);
  const Function *function = j->scratch->function;
  const int64_t low = j->doubts ? first_doubt(j) : function[0].start;
  const int64_t high = j->doubts ? last_doubt(j) : function[j->functions - 1].end;
  for (size_t at = 0; at + 5 <= bytes && j->worst != SF_RAW_PROCESS; at++) {
    int32_t place, distance;
    __builtin_memcpy(&place, text + at, sizeof place);
    if (!j->module.base && place >= low && place < high) add_entry(j, (uint32_t)place);
    size_t offset = at + 1;
    const bool takes = text[at] == 0x8d && (text[at + 1] & 0xc7) == 0x05;  // lea relative to rip
    if (takes || (text[at] == 0x0f && (text[at + 1] & 0xf0) == 0x80)) offset++;
    else if ((text[at] & 0xfe) != 0xe8) continue;
    if (offset + 4 > bytes) return;
    __builtin_memcpy(&distance, text + offset, sizeof distance);
    const int64_t target = first + (int64_t)offset + 4 + distance;
    if (target < low || target >= high) continue;
    const Function *into = function_around(j, (uint64_t)target);
    if (takes || j->doubts || !into || !inside(*into, (uint64_t)first + at))
      add_entry(j, (uint64_t)target, (uint32_t)(first + (int64_t)at));
  }
}

// A text begins with code.
void find_starts(Judge *j) { add_entry(j, text_of(j).start); }

// In a program at a fixed place pointers are not relocated: whatever looks like one may be one.
void find_absolute_pointers(Judge *j) {
  if (!j->module.base && j->module.datas > SF_DATAS) worsen(j, SF_RAW_PROCESS);
  for (uint32_t i = 0; !j->module.base && i < j->module.datas && i < SF_DATAS; i++)
    for (uint64_t at = (j->module.data[i].start + 7) & ~7ull; at + 8 <= j->module.data[i].end; at += 8)
      add_entry(j, load64((const uint8_t *)at));
}

// What the dynamic linker knows of a module.
struct Dynamic {
  const Elf64_Sym *symbol;
  const uint32_t *hash, *gnu_hash;
  const Elf64_Rela *rela[2];
  uint64_t rela_bytes[2];
  const uint64_t *relr;
  uint64_t relr_bytes;
  uint64_t called[2];  // relative to the base
};

Dynamic read_dynamic(const sf_module &module) {
  Dynamic all = {};
  for (auto d = (const Elf64_Dyn *)module.dynamic; d && d->d_tag != DT_NULL; d++) {
    const uint64_t value = d->d_un.d_val;
    // The dynamic linker of glibc relocates these in place, except in a read-only section.
    const uint64_t place = value < module.base ? value + module.base : value;
    switch (d->d_tag) {
      case DT_INIT: all.called[0] = value; break;
      case DT_FINI: all.called[1] = value; break;
      case DT_SYMTAB: all.symbol = (const Elf64_Sym *)place; break;
      case DT_HASH: all.hash = (const uint32_t *)place; break;
      case DT_GNU_HASH: all.gnu_hash = (const uint32_t *)place; break;
      case DT_RELA: all.rela[0] = (const Elf64_Rela *)place; break;
      case DT_RELASZ: all.rela_bytes[0] = value; break;
      case DT_JMPREL: all.rela[1] = (const Elf64_Rela *)place; break;
      case DT_PLTRELSZ: all.rela_bytes[1] = value; break;
      case DT_RELR: all.relr = (const uint64_t *)place; break;
      case DT_RELRSZ: all.relr_bytes = value; break;
    }
  }
  return all;
}

// The number behind the last symbol that the module defines.
uint32_t symbols_in(const Dynamic &all) {
  if (all.hash) return all.hash[1];
  if (!all.gnu_hash) return 0;
  const uint32_t buckets = all.gnu_hash[0], first = all.gnu_hash[1], bloom_words = all.gnu_hash[2];
  auto bucket = (const uint32_t *)((const uint64_t *)(all.gnu_hash + 4) + bloom_words);
  uint32_t last = 0;
  for (uint32_t i = 0; i < buckets; i++)
    if (bucket[i] > last) last = bucket[i];
  if (last < first || !last) return 0;
  while (!(bucket[buckets + last - first] & 1)) last++;
  return last + 1;
}

// Pointers that are relocated without a word about each: places, and maps of the 63 words behind.
void find_packed_pointers(Judge *j, const Dynamic &all) {
  const uint64_t base = j->module.base;
  auto consider_word = [&](uint64_t at) {
    uint64_t value;
    __builtin_memcpy(&value, (const void *)(base + at), sizeof value);
    add_entry(j, value < base ? value : value - base);  // relocated already, or not yet
  };
  uint64_t at = 0;
  for (uint64_t i = 0; i < all.relr_bytes / sizeof *all.relr; i++) {
    const uint64_t entry = all.relr[i];
    if (!(entry & 1)) {
      consider_word(entry);
      at = entry + 8;
      continue;
    }
    for (unsigned bit = 1; bit < 64; bit++)
      if (entry >> bit & 1) consider_word(at + (bit - 1) * 8);
    at += 63 * 8;
  }
}

bool is_text(const Elf64_Sym &symbol) {
  const unsigned type = ELF64_ST_TYPE(symbol.st_info);
  return type != STT_TLS && type != STT_OBJECT && type != STT_COMMON;
}

// Symbols and relocated pointers in the middle of noted functions: who knows these can jump there.
void find_told_entries(Judge *j) {
  const Dynamic all = read_dynamic(j->module);
  auto defined = [&](uint32_t i) { return all.symbol[i].st_shndx != SHN_UNDEF && all.symbol[i].st_shndx != SHN_ABS; };
  const uint32_t symbols = all.symbol ? symbols_in(all) : 0;
  for (uint32_t i = 1; i < symbols; i++)
    if (defined(i) && is_text(all.symbol[i])) add_entry(j, all.symbol[i].st_value);
  for (int which = 0; which < 2; which++) {
    const Elf64_Rela *rela = all.rela[which];
    for (uint64_t i = 0; rela && i < all.rela_bytes[which] / sizeof *rela; i++) {
      const auto type = (uint32_t)ELF64_R_TYPE(rela[i].r_info), symbol = (uint32_t)ELF64_R_SYM(rela[i].r_info);
      if (type == R_X86_64_RELATIVE || type == R_X86_64_IRELATIVE) add_entry(j, (uint64_t)rela[i].r_addend);
      if (type == R_X86_64_64 && symbol && all.symbol && defined(symbol))
        add_entry(j, all.symbol[symbol].st_value + (uint64_t)rela[i].r_addend);
    }
  }
  for (uint64_t at : all.called)
    if (at) add_entry(j, at);
  if (all.relr) find_packed_pointers(j, all);
  find_absolute_pointers(j);
}

}  // namespace

sf_verdict sf_judge(const sf_module *module, void *scratch) {
  if (module->more_texts > SF_MORE_TEXTS) return SF_RAW_PROCESS;
  Judge j = {};
  j.module = *module;
  j.scratch = (Scratch *)scratch;
  j.first_text = {module->text, module->text_end};
  auto for_each_text = [&](void (*look)(Judge *)) {
    j.module.text = module->text, j.module.text_end = module->text_end;
    look(&j);
    for (uint32_t i = 0; i < module->more_texts; i++) {
      j.module.text = module->more_text[i].start, j.module.text_end = module->more_text[i].end;
      look(&j);
    }
  };
  for_each_text(find_functions);
  if (j.doubts && j.worst != SF_RAW_PROCESS) {
    for_each_text(find_starts);
    for_each_text(find_far_jumps);
    for_each_text(find_told_entries);
    j.doubts = 0;
  }
  if (!j.functions || j.worst == SF_RAW_PROCESS) return j.worst;
  for_each_text(find_far_jumps);
  find_told_entries(&j);
  for (unsigned i = 0; i < j.functions && j.worst != SF_RAW_PROCESS; i++) judge_function(&j, j.scratch->function[i]);
  return j.worst;
}
