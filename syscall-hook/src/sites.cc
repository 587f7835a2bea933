// Finding `syscall` sites and their windows. See sites.h.
//
// 1. Scan the text for the bytes 0f 05 (scan.S).
// 2. Decode each function that has a candidate, from its start in the unwind table; collect its branch targets.
// 3. Choose a window per site, and find the call's number, backwards on all ways that lead there: the stretch of code
//    is noted on which that relies.
// 4. Scan the text for near jumps into what was relied upon: a function's cold part lies elsewhere. Where there is one,
//    choose again, knowing of it.
#include "sites.h"

#include "decode.h"
#include "scan.h"

namespace {

constexpr unsigned kCandidatesMax = 2 * SF_SITES_MAX;
constexpr unsigned kFarTargetsMax = 4096;
constexpr unsigned kInsnsMax = 16384;   // of one function
constexpr unsigned kTargetsMax = 8192;  // of one function
constexpr unsigned kNear = 32;          // bytes around a site in which a branch target matters
constexpr unsigned kGranule = 32;
constexpr uint32_t kPage = 4096;
constexpr unsigned kFilterBytes = 256 * 1024;  // one bit per granule: 64 MiB of text
constexpr unsigned kReach = 320;        // bytes before and behind a site that its number may rely on
constexpr unsigned kJumpsMax = 2048;    // of one function
constexpr unsigned kLandings = 1024;    // a power of two
constexpr unsigned kWalkMax = 512;      // instructions on the ways to a call
constexpr unsigned kFarReachingMax = 64;

constexpr unsigned kHintBits = 65536;   // one per target, by a hash
constexpr unsigned kDecoded = 32;       // instructions around a site; a power of two

struct Jump {
  uint32_t from, to;
};

// What a site's number relies on: no jump leads behind `low`, up to `high`, but those that stand between the other two,
// which were looked at. low 0: it relies on nothing.
struct Relied {
  uint32_t low, high, from_low, from_high;
};

struct Scratch {
  uint32_t candidate[kCandidatesMax];
  Jump far_jump[kFarTargetsMax];
  Jump jump[kJumpsMax + 1];          // inside the function
  Relied relied[SF_SITES_MAX];       // of each site
  uint32_t target[kTargetsMax];
  uint32_t insn[kInsnsMax + 1];  // where the function's instructions begin, and the last one ends
  uint8_t hint[kHintBits / 8];   // targets that were noted; perhaps others
  struct {
    uint32_t tag;                // where it begins, and one; 0: nothing
    sf_insn insn;
  } decoded[kDecoded];           // by index: what was asked for lately
  uint8_t landing[kLandings / 8];    // targets of `jump`, by their last bits; of the function that was walked last
  uint32_t way[kWalkMax];            // indices of instructions from which the call is reached
  uint8_t on_way[kInsnsMax / 8];     // the same; zero between two walks
  uint32_t far_reaching[kFarReachingMax];  // indices of sites that rely on more than kReach around them
  uint8_t filter[kFilterBytes];
};
static_assert(sizeof(Scratch) <= SF_SITES_SCRATCH);

struct Function {
  uint32_t start, end;
  unsigned insns, targets, jumps;
  bool indirect, known;  // where it jumps to: not in all cases; all of it, to its end
  bool landings;         // are in scratch->landing
};

struct Search {
  const sf_module *module;
  Scratch *scratch;
  unsigned candidates, far_targets, far_reaching;
  bool filtered;  // scratch->filter tells what lies near a candidate
  Function function;
  bool lost;  // a table overflowed: what is known of jumps is incomplete
};

inline int32_t load32(const uint8_t *p) {
  int32_t value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}

// Four bytes at a time, the last four perhaps once more: every start of a process does it for every window.
// REQUIRES: at least four bytes.
inline uint32_t hash_of(const uint8_t *code, unsigned bytes) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15ull;
  uint64_t hash = bytes;
  for (unsigned i = 0; i + 4 < bytes; i += 4) hash = (hash ^ (uint32_t)load32(code + i)) * kOdd, hash ^= hash >> 32;
  hash = (hash ^ (uint32_t)load32(code + bytes - 4)) * kOdd;
  return (uint32_t)(hash >> 32);
}

void find_candidates(Search *search) {
  const sf_module *module = search->module;
  auto text = (const uint8_t *)module->text;
  size_t bytes = module->text_end - module->text;
  auto consider = [&](size_t at) {
    if (at + 1 >= bytes || text[at] != 0x0f || text[at + 1] != 0x05) return;
    if (search->candidates < kCandidatesMax)
      search->scratch->candidate[search->candidates++] = (uint32_t)(module->text - module->base + at);
    else
      search->lost = true;
  };
  const size_t whole = bytes ? (bytes - 1) / 64 : 0;  // blocks with a byte behind
  size_t block = 0;
  while ((block += sf_scan_past_others(text + block * 64, whole - block)) < whole) {
    for (uint64_t found = sf_scan_syscalls(text + block * 64); found; found &= found - 1)
      consider(block * 64 + (unsigned)__builtin_ctzll(found));
    block++;
  }
  for (size_t at = whole * 64; at < bytes; at++) consider(at);
}

// REQUIRES: filtered, and the target lies in the text.
inline bool is_near_a_candidate(const Search *search, uint32_t target) {
  const uint32_t granule = (target - (uint32_t)(search->module->text - search->module->base)) / kGranule;
  return search->scratch->filter[granule / 8] & 1u << granule % 8;
}

void mark(Search *search, uint32_t low, uint32_t high) {
  const auto first = (uint32_t)(search->module->text - search->module->base);
  low = low > first ? (low - first) / kGranule : 0, high = (high - first) / kGranule;
  for (uint32_t g = low; g <= high && g / 8 < kFilterBytes; g++) search->scratch->filter[g / 8] |= 1u << g % 8;
}

inline uint32_t hint_of(uint32_t target) { return target * 2654435769u >> 16; }

void note_hint(Search *search, uint32_t target) {
  search->scratch->hint[hint_of(target) / 8] |= 1u << hint_of(target) % 8;
}

void note_far_jump(Search *search, uint32_t from, uint32_t to) {
  note_hint(search, to);
  if (search->far_targets < kFarTargetsMax)
    search->scratch->far_jump[search->far_targets++] = {from, to};
  else
    search->lost = true;
}

void mark_candidates(Search *search) {
  const sf_module *module = search->module;
  if ((module->text_end - module->text) / kGranule / 8 + 1 > kFilterBytes) {
    search->lost = true;
    return;
  }
  for (unsigned i = 0; i < search->candidates; i++) {
    const uint32_t at = search->scratch->candidate[i];
    mark(search, at > kNear ? at - kNear : 0, at + kNear);
  }
  search->filtered = true;
}

// Bytes that look like a near jump to the neighbourhood of a site. Data and the middle of instructions can look
// like that too, which at worst costs a window.
void find_far_jumps(Search *search) {
  const sf_module *module = search->module;
  auto text = (const uint8_t *)module->text;
  size_t bytes = module->text_end - module->text;
  uint32_t first = (uint32_t)(module->text - module->base);
  if (!search->filtered) return;
  // REQUIRES: a jump's opcode. Without a branch on which one: what comes is not to be foreseen.
  auto consider = [&](size_t at) {
    const size_t rel = at + 1 + (text[at] == 0x0f);
    if (rel + 4 > bytes) return;
    const uint64_t target = rel + 4 + (uint64_t)(int64_t)load32(text + rel);
    if (target < bytes && is_near_a_candidate(search, first + (uint32_t)target))
      note_far_jump(search, first + (uint32_t)at, first + (uint32_t)target);
  };
  size_t at = 0;
  for (; at + 65 <= bytes; at += 64)
    for (uint64_t found = sf_scan_jumps(text + at); found; found &= found - 1)
      consider(at + (unsigned)__builtin_ctzll(found));
  for (; at < bytes; at++)
    if (text[at] == 0xe9 || (text[at] == 0x0f && at + 1 < bytes && (text[at + 1] & 0xf0) == 0x80)) consider(at);
}

// Of a branch inside the function that is being decoded. Only those near a candidate are ever asked for.
void note_target(Search *search, uint32_t target) {
  const sf_module *module = search->module;
  const bool in_text = module->base + target >= module->text && module->base + target < module->text_end;
  if (search->filtered && (!in_text || !is_near_a_candidate(search, target))) return;
  Function *function = &search->function;
  note_hint(search, target);
  if (function->targets < kTargetsMax) search->scratch->target[function->targets++] = target;
  else search->lost = true;
}

// Decodes until the end or the first byte that is no instruction (padding and tables follow some functions).
void decode_function(Search *search, uint32_t start, uint32_t end) {
  Function *function = &search->function;
  Scratch *scratch = search->scratch;
  *function = {start, end, 0, 0, 0, false, false, false};
  for (uint32_t at = start; at < end;) {
    if (function->insns == kInsnsMax) {
      search->lost = true;
      return;
    }
    sf_insn insn;
    if (sf_decode_flow((const uint8_t *)(search->module->base + at), end - at, at, &insn)) return;
    if (insn.flags & SF_INSN_INDIRECT) function->indirect = true;
    // A call of what stands in the function itself comes in there, too.
    if (insn.flags & SF_INSN_BRANCH && (!(insn.flags & SF_INSN_CALL) || (insn.target > start && insn.target < end))) {
      note_target(search, (uint32_t)insn.target);
      // One more says that they are too many.
      if (function->jumps <= kJumpsMax) scratch->jump[function->jumps++] = {at, (uint32_t)insn.target};
    }
    scratch->insn[function->insns++] = at;
    at += insn.length;
    scratch->insn[function->insns] = at;
  }
  function->known = !function->indirect && function->jumps <= kJumpsMax;
}

// All about an instruction of the function; decode_function() keeps where it begins only.
const sf_insn *decoded(const Search *search, unsigned index) {
  const uint32_t at = search->scratch->insn[index];
  const size_t bytes = search->module->text_end - search->module->base - at;  // more than its own: decoded faster
  auto entry = &search->scratch->decoded[index % kDecoded];
  if (entry->tag != at + 1) {
    sf_decode((const uint8_t *)(search->module->base + at), bytes, at, &entry->insn);
    entry->tag = at + 1;
  }
  return &entry->insn;
}

// REQUIRES: within kNear of a candidate.
bool is_target(const Search *search, uint32_t at) {
  const Scratch *scratch = search->scratch;
  if (!(scratch->hint[hint_of(at) / 8] & 1u << hint_of(at) % 8)) return false;
  for (unsigned i = 0; i < search->function.targets; i++)
    if (scratch->target[i] == at) return true;
  for (unsigned i = 0; i < search->far_targets; i++)
    if (scratch->far_jump[i].to == at) return true;
  return false;
}

// Whether the instructions [first, last) may become a window around or before the `syscall` at index `call`.
bool window_is_safe(const Search *search, unsigned first, unsigned last, unsigned call) {
  const uint32_t *insn = search->scratch->insn;
  bool inner = false;
  for (unsigned i = first; i < last; i++) {
    if (i != call && !(decoded(search, i)->flags & SF_INSN_MOVABLE)) return false;
    if (i > first && (insn[i] - insn[first] < SF_JUMP_BYTES || i <= call)) {
      inner = true;
      if (is_target(search, insn[i])) return false;
    }
  }
  // A jump straight to the `syscall` would go past the hook.
  if (last == call && is_target(search, insn[call])) return false;
  return !inner || (!search->lost && !search->function.indirect);
}

void take_window(const Search *search, unsigned first, unsigned last, unsigned call, sf_site *site) {
  const uint32_t *insn = search->scratch->insn;
  const uint32_t end = insn[last];
  site->form = last == call ? SF_SITE_BEFORE : SF_SITE_AROUND;
  site->window_bytes = (uint8_t)(end - insn[first]);
  site->pre_bytes = (uint8_t)(insn[call] - insn[first]);
  site->hash = hash_of((const uint8_t *)(search->module->base + insn[first]), site->window_bytes);
}

unsigned bytes_between(const Search *search, unsigned first, unsigned last) {
  const uint32_t *insn = search->scratch->insn;
  return insn[last] - insn[first];
}

struct Wish {
  unsigned call;   // index of the `syscall`
  bool two_pages;  // the jump may stand on two
};

bool try_window(const Search *search, unsigned first, unsigned last, const Wish &wish, sf_site *site) {
  const unsigned bytes = bytes_between(search, first, last), call = wish.call;
  if (bytes < SF_JUMP_BYTES || bytes > SF_WINDOW_MAX) return false;
  if (!wish.two_pages && search->scratch->insn[first] % kPage > kPage - SF_JUMP_BYTES) return false;
  if (!window_is_safe(search, first, last, call)) return false;
  take_window(search, first, last, call, site);
  return true;
}

// The instruction itself stays where it is if it can; otherwise as few instructions as possible move.
bool find_window(const Search *search, const Wish &wish, sf_site *site) {
  const unsigned insns = search->function.insns, call = wish.call;
  if (call > 0 && try_window(search, call - 1, call, wish, site)) return true;
  for (unsigned post = 1; post <= 3 && call + post < insns; post++)
    if (try_window(search, call, call + post + 1, wish, site)) return true;
  for (unsigned pre = 2; pre <= 4 && pre <= call; pre++)
    if (try_window(search, call - pre, call, wish, site)) return true;
  for (unsigned pre = 1; pre <= 3 && pre <= call; pre++)
    for (unsigned post = 0; post <= 2 && call + post < insns; post++)
      if (try_window(search, call - pre, call + post + 1, wish, site)) return true;
  return false;
}

// A page that need not be copied at every start of a process is worth a longer slot.
void choose_window(const Search *search, unsigned call, sf_site *site) {
  if (!find_window(search, {call, false}, site)) find_window(search, {call, true}, site);
}

// What the instruction leaves in a general register cannot be relied on.
bool may_change(const sf_insn *insn, int reg) {
  constexpr uint16_t kNotKept = 0x0fc7;  // by a callee: rax, rcx, rdx, rsi, rdi, r8 to r11
  return (insn->writes | (insn->flags & SF_INSN_CALL ? kNotKept : 0)) >> reg & 1;
}

// All ways on which the call is reached with a register, backwards from there until a constant is put into it.
struct Walk {
  const Search *search;
  int reg;
  unsigned count;      // instructions in scratch->way
  int32_t number;      // the constant; -1: none met yet
  uint32_t low, high;  // what lies between the outermost instructions on the way: behind the one, up to the other
};

// The instruction at `index` is on the way; false: it cannot be told what it leaves in the register.
bool walk_over(Walk *walk, unsigned index) {
  const Search *search = walk->search;
  Scratch *scratch = search->scratch;
  const uint32_t at = scratch->insn[index];
  if (scratch->on_way[index / 8] & 1u << index % 8) return true;
  const sf_insn *one = decoded(search, index);
  const bool changes = may_change(one, walk->reg);
  if (changes) {
    constexpr uint32_t kPuts = SF_INSN_MOVABLE | SF_INSN_CONST;
    if ((one->flags & kPuts) != kPuts || one->dest != walk->reg || one->imm < 0 || one->imm >= INT16_MAX) return false;
    if (walk->number >= 0 && walk->number != one->imm) return false;
    walk->number = one->imm;
  }
  // To the constant itself anybody may jump.
  const uint32_t low = changes ? at : at - 1;
  if (low < walk->low) walk->low = low;
  if (at > walk->high) walk->high = at;
  if (changes) return true;
  if (walk->count == kWalkMax) return false;
  scratch->on_way[index / 8] |= (uint8_t)(1u << index % 8);
  scratch->way[walk->count++] = index;
  return true;
}

unsigned index_of(const Search *search, uint32_t at) {
  const uint32_t *insn = search->scratch->insn;
  unsigned low = 0, high = search->function.insns;
  while (low < high) {
    const unsigned middle = low + (high - low) / 2;
    if (insn[middle] < at) low = middle + 1;
    else high = middle;
  }
  return low;
}

void note_landings(Search *search) {
  if (search->function.landings) return;
  search->function.landings = true;
  __builtin_memset(search->scratch->landing, 0, sizeof search->scratch->landing);
  for (unsigned i = 0; i < search->function.jumps; i++) {
    const uint32_t to = search->scratch->jump[i].to % kLandings;
    search->scratch->landing[to / 8] |= (uint8_t)(1u << to % 8);
  }
}

// Of jumps in the function: false for certain.
inline bool may_be_landed_on(const Search *search, uint32_t at) {
  return search->scratch->landing[at % kLandings / 8] & 1u << at % 8;
}

bool is_landed_on(const Search *search, uint32_t at) {
  if (!may_be_landed_on(search, at)) return false;
  for (unsigned i = 0; i < search->function.jumps; i++)
    if (search->scratch->jump[i].to == at) return true;
  return false;
}

bool is_nop(const Search *search, unsigned index) {
  auto code = (const uint8_t *)(search->module->base + search->scratch->insn[index]);
  while (*code == 0x66 || *code == 0x2e) code++;
  return *code == 0x90 || (code[0] == 0x0f && code[1] == 0x1f);
}

// Whether the instruction before the one at `index` may be executed and go on there: not padding behind a jump, into
// which nobody from elsewhere may jump either.
bool is_run_into(Walk *walk, unsigned index) {
  const Search *search = walk->search;
  const uint32_t *insn = search->scratch->insn;
  while (index-- > 0) {
    if (decoded(search, index)->flags & SF_INSN_ENDS) {
      if (insn[index + 1] - 1 < walk->low) walk->low = insn[index + 1] - 1;
      return false;
    }
    if (!is_nop(search, index) || is_landed_on(search, insn[index])) return true;
  }
  return true;
}

// All that comes right before the instruction at `index`. What nothing comes before is reached in a way that is not
// known: by the function's callers, or by who unwinds the stack.
bool walk_before(Walk *walk, unsigned index) {
  const Search *search = walk->search;
  const uint32_t at = search->scratch->insn[index];
  if (index == 0) return false;
  bool reached = false;
  if (is_run_into(walk, index)) {
    if (!walk_over(walk, index - 1)) return false;
    reached = true;
  }
  for (unsigned i = 0; may_be_landed_on(search, at) && i < search->function.jumps; i++) {
    const Jump jump = search->scratch->jump[i];
    if (jump.to != at) continue;
    if (!walk_over(walk, index_of(search, jump.from))) return false;
    reached = true;
  }
  return reached;
}

// The constant that `reg` holds before the instruction at `last` on every way there; -1: that is not known.
// REQUIRES: the function's jumps are all known.
int32_t constant_on_all_ways(Search *search, int reg, unsigned last, Relied *relied) {
  Scratch *scratch = search->scratch;
  Walk walk = {search, reg, 0, -1, scratch->insn[last] - 1, scratch->insn[last]};
  note_landings(search);
  bool told = walk_before(&walk, last);
  for (unsigned i = 0; told && i < walk.count; i++) told = walk_before(&walk, scratch->way[i]);
  for (unsigned i = 0; i < walk.count; i++) scratch->on_way[scratch->way[i] / 8] = 0;
  *relied = {walk.low, walk.high, search->function.start, search->function.end - 1};
  return told ? walk.number : -1;
}

bool jumps_between(const Search *search, unsigned first, unsigned last) {
  const uint32_t *insn = search->scratch->insn;
  for (unsigned i = 0; i < search->function.jumps; i++)
    if (const uint32_t to = search->scratch->jump[i].to; to > insn[first] && to <= insn[last]) return true;
  return false;
}

// The number in %eax, if one constant reaches the call on every way into it: loaded right before, or into a register
// that keeps it.
//
// The second is how compilers call futex() and poll() in loops: 40 of 43 sites of glibc 2.36 that would have to be
// patched otherwise, because they could be anything, on fourteen pages of their own.
int16_t find_number(Search *search, unsigned call, Relied *relied) {
  const uint32_t *insn = search->scratch->insn;
  bool straight = true;  // nothing but what may be moved, and nobody jumps in between
  for (unsigned i = call; i-- > 0 && insn[call] - insn[i] <= kReach;) {
    const sf_insn *one = decoded(search, i);
    straight = straight && one->flags & SF_INSN_MOVABLE && insn[call] - insn[i + 1] <= kNear &&
               !is_target(search, insn[i + 1]);
    if (!may_change(one, 0)) continue;
    if (!(one->flags & SF_INSN_MOVABLE) || one->dest != 0) return SF_NR_UNKNOWN;
    *relied = {insn[i], insn[call], insn[i], insn[call]};
    if (straight && one->flags & SF_INSN_CONST)
      return one->imm >= 0 && one->imm < INT16_MAX ? (int16_t)one->imm : SF_NR_UNKNOWN;
    if (!search->function.known) return SF_NR_UNKNOWN;
    // From here on it is %eax that counts, and nothing may come in between.
    const bool copies = one->flags & SF_INSN_MOV_REG && one->source > 0;
    if (copies && jumps_between(search, i, call)) return SF_NR_UNKNOWN;
    const int32_t number = copies ? constant_on_all_ways(search, one->source, i, relied)
                                  : constant_on_all_ways(search, 0, call, relied);
    if (relied->high < insn[call]) relied->high = insn[call];
    return number < 0 ? SF_NR_UNKNOWN : (int16_t)number;
  }
  return SF_NR_UNKNOWN;
}

// The site at index `call` of the function.
void take_site(Search *search, unsigned call, unsigned index, sf_site *site) {
  Relied relied = {};
  *site = {search->scratch->insn[call], 0, SF_NR_UNKNOWN, SF_SITE_NONE, 0, 0, {}};
  site->nr = find_number(search, call, &relied);
  if (site->nr == SF_NR_UNKNOWN) relied = {};
  const bool far = relied.low && (relied.low + kReach < site->syscall_at || relied.high > site->syscall_at + kReach);
  if (far && search->far_reaching == kFarReachingMax) site->nr = SF_NR_UNKNOWN, relied = {};
  else if (far) search->scratch->far_reaching[search->far_reaching++] = index;
  choose_window(search, call, site);
  if (relied.low && search->filtered) mark(search, relied.low, relied.high);
  search->scratch->relied[index] = relied;
}

bool disturbs_number(const Relied &relied, const Jump &jump) {
  return relied.low && jump.to > relied.low && jump.to <= relied.high &&
         (jump.from < relied.from_low || jump.from > relied.from_high);
}

// Whether the jump leads to where the site relies on that none does.
bool disturbs(const Search *search, const Jump &jump, unsigned index, const sf_site &site) {
  if (disturbs_number(search->scratch->relied[index], jump)) return true;
  const uint32_t window = site.syscall_at - site.pre_bytes;
  const uint32_t last = window + site.window_bytes - (site.form == SF_SITE_AROUND);
  return site.form != SF_SITE_NONE && jump.to > window && jump.to <= last;
}

// Once more, knowing of the jumps.
void settle(Search *search, unsigned index, sf_site *site) {
  uint32_t start, end;
  if (!sf_function_of(search->module, site->syscall_at, &start, &end)) return;
  decode_function(search, start, end);
  unsigned call = 0;
  while (call < search->function.insns && search->scratch->insn[call] < site->syscall_at) call++;
  take_site(search, call, index, site);
  const auto &relied = search->scratch->relied[index];
  bool disturbed = search->lost && relied.high > relied.low + kNear;
  for (unsigned i = 0; i < search->far_targets && relied.low; i++)
    disturbed = disturbed || disturbs_number(relied, search->scratch->far_jump[i]);
  if (disturbed) site->nr = SF_NR_UNKNOWN;
}

// Sites ascend.
void settle_disturbed(Search *search, sf_site *sites, int count) {
  const unsigned jumps = search->far_targets, far_reaching = search->far_reaching;
  for (unsigned i = 0; i < jumps; i++) {
    const Jump jump = search->scratch->far_jump[i];
    int low = 0, high = count;
    while (low < high) {
      const int middle = low + (high - low) / 2;
      if (sites[middle].syscall_at + kReach < jump.to) low = middle + 1;
      else high = middle;
    }
    for (; low < count && sites[low].syscall_at <= jump.to + kReach; low++)
      if (disturbs(search, jump, (unsigned)low, sites[low])) settle(search, (unsigned)low, &sites[low]);
    for (unsigned k = 0; k < far_reaching; k++)
      if (const uint32_t site = search->scratch->far_reaching[k]; disturbs(search, jump, site, sites[site]))
        settle(search, site, &sites[site]);
  }
  // Jumps that are not known could lead anywhere.
  for (int i = 0; i < count && search->lost; i++) settle(search, (unsigned)i, &sites[i]);
}

}  // namespace

// The unwind table's sorted index: function starts. `end` is where the next one starts, because hand-written
// functions (clone) end their unwind information before their system call.
int sf_function_of(const sf_module *module, uint32_t at, uint32_t *start, uint32_t *end) {
  const uint8_t *header = module->eh_frame_hdr;
  if (!header || module->eh_frame_hdr_bytes < 12) return 0;
  if (header[0] != 1 || header[1] != 0x1b || header[2] != 0x03 || header[3] != 0x3b) return 0;
  uint32_t count = (uint32_t)load32(header + 8);
  if (!count || 12 + (uint64_t)count * 8 > module->eh_frame_hdr_bytes) return 0;
  int64_t origin = (int64_t)((uint64_t)header - module->base);
  auto start_of = [&](uint32_t i) { return origin + load32(header + 12 + (size_t)i * 8); };
  if (start_of(0) > at) return 0;
  uint32_t low = 0, high = count;
  while (high - low > 1) {
    uint32_t middle = low + (high - low) / 2;
    if (start_of(middle) <= at) low = middle;
    else high = middle;
  }
  int64_t limit = (int64_t)(module->text_end - module->base);
  int64_t next = low + 1 < count ? start_of(low + 1) : limit;
  if (next > limit) next = limit;
  int64_t first = start_of(low);
  if (first < (int64_t)(module->text - module->base) || next <= at) return 0;
  *start = (uint32_t)first;
  *end = (uint32_t)next;
  return 1;
}

int sf_sites_find(const sf_module *module, void *scratch, sf_site *sites) {
  Search search = {};
  search.module = module;
  search.scratch = (Scratch *)scratch;
  find_candidates(&search);
  mark_candidates(&search);
  int count = 0;
  unsigned cursor = 0;  // candidates ascend, so do the instructions of one function
  for (unsigned c = 0; c < search.candidates; c++) {
    uint32_t at = search.scratch->candidate[c], start, end;
    if (!sf_function_of(module, at, &start, &end)) return -1;
    if (search.function.start != start || search.function.end != end) {
      decode_function(&search, start, end);
      cursor = 0;
    }
    while (cursor < search.function.insns && search.scratch->insn[cursor] < at) cursor++;
    if (cursor == search.function.insns) {
      // Decoding stopped before: bytes of a table, or an instruction unknown here. Reported as a site without a
      // window, so that nobody believes every site is known.
      if (count < SF_SITES_MAX) search.scratch->relied[count] = {};
      if (count < SF_SITES_MAX) sites[count++] = {at, 0, SF_NR_UNKNOWN, SF_SITE_NONE, 0, 0, {}};
      continue;
    }
    const bool starts = search.scratch->insn[cursor] == at;
    if (!starts || !(decoded(&search, cursor)->flags & SF_INSN_SYSCALL)) continue;  // inside another instruction
    if (count == SF_SITES_MAX) return -1;
    take_site(&search, cursor, (unsigned)count, &sites[count]);
    count++;
  }
  find_far_jumps(&search);
  settle_disturbed(&search, sites, count);
  return search.lost && !count ? -1 : count;
}

uint32_t sf_window_hash(const uint8_t *code, unsigned bytes) { return hash_of(code, bytes); }

int sf_site_matches(const sf_module *module, const sf_site *site) {
  const uint64_t low = module->text - module->base, high = module->text_end - module->base;
  const uint64_t at = site->syscall_at, start = at - site->pre_bytes;
  if (at < low || at + 2 > high) return 0;
  auto code = (const uint8_t *)(module->base + at);
  if (code[0] != 0x0f || code[1] != 0x05) return 0;
  if (site->form == SF_SITE_NONE) return 1;
  if (site->form != SF_SITE_BEFORE && site->form != SF_SITE_AROUND) return 0;
  if (site->window_bytes < SF_JUMP_BYTES || site->window_bytes > SF_WINDOW_MAX) return 0;
  if (start < low || start > at || start + site->window_bytes > high) return 0;
  if (site->form == SF_SITE_BEFORE && site->pre_bytes != site->window_bytes) return 0;
  if (site->form == SF_SITE_AROUND && site->pre_bytes + 2u > site->window_bytes) return 0;
  auto window = (const uint8_t *)(module->base + start);
  if (hash_of(window, site->window_bytes) != site->hash) return 0;
  int32_t number = SF_NR_UNKNOWN;
  for (unsigned i = 0; i < site->window_bytes;) {
    if (i == site->pre_bytes) {  // the `syscall`
      i += 2;
      continue;
    }
    sf_insn insn;
    // The bytes behind the window are read, but may not belong to it.
    if (sf_decode_move(window + i, high - start - i, 0, &insn) || i + insn.length > site->window_bytes) return 0;
    if (i < site->pre_bytes && i + insn.length > site->pre_bytes) return 0;
    if (!(insn.flags & SF_INSN_MOVABLE)) return 0;
    if (i < site->pre_bytes && insn.dest == 0) number = insn.flags & SF_INSN_CONST ? insn.imm : SF_NR_UNKNOWN;
    i += insn.length;
  }
  return site->nr == SF_NR_UNKNOWN || number == SF_NR_UNKNOWN || number == site->nr;
}
