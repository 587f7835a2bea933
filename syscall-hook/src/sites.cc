// Finding `syscall` sites and their windows. See sites.h.
//
// 1. Scan the text for the bytes 0f 05 (scan.S).
// 2. Decode each function that has a candidate, from its start in the unwind table; collect its branch targets.
// 3. Choose a window per site, and find the call's number: the stretch of code is noted on which that relies.
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
constexpr unsigned kFilterBytes = 256 * 1024;  // one bit per granule: 64 MiB of text
constexpr unsigned kReach = 320;        // bytes before and behind a site that its number may rely on
constexpr unsigned kJumpsMax = 2048;    // of one function
constexpr unsigned kRoundsMax = 16;

constexpr unsigned kHintBits = 65536;   // one per target, by a hash
constexpr unsigned kDecoded = 32;       // instructions around a site; a power of two

struct Jump {
  uint32_t from, to;
};

struct Scratch {
  uint32_t candidate[kCandidatesMax];
  Jump far_jump[kFarTargetsMax];
  Jump jump[kJumpsMax + 1];          // inside the function
  struct {
    uint32_t low, high;          // of each site: no jump from elsewhere may come behind `low`, up to `high`; low 0: any
  } relied[SF_SITES_MAX];
  uint32_t target[kTargetsMax];
  uint32_t insn[kInsnsMax + 1];  // where the function's instructions begin, and the last one ends
  uint8_t hint[kHintBits / 8];   // targets that were noted; perhaps others
  struct {
    uint32_t tag;                // where it begins, and one; 0: nothing
    sf_insn insn;
  } decoded[kDecoded];           // by index: what was asked for lately
  uint8_t filter[kFilterBytes];
};
static_assert(sizeof(Scratch) <= SF_SITES_SCRATCH);

struct Function {
  uint32_t start, end;
  unsigned insns, targets, jumps;
  bool indirect, known;  // where it jumps to: not in all cases; all of it, to its end
};

struct Search {
  const sf_module *module;
  Scratch *scratch;
  unsigned candidates, far_targets;
  bool filtered;  // scratch->filter tells what lies near a candidate
  Function function;
  bool lost;  // a table overflowed: what is known of jumps is incomplete
};

uint32_t hash_of(const uint8_t *code, unsigned bytes) {
  uint32_t hash = 2166136261u;  // FNV-1a
  for (unsigned i = 0; i < bytes; i++) hash = (hash ^ code[i]) * 16777619u;
  return hash;
}

inline int32_t load32(const uint8_t *p) {
  int32_t value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
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
  *function = {start, end, 0, 0, 0, false, false};
  for (uint32_t at = start; at < end;) {
    if (function->insns == kInsnsMax) {
      search->lost = true;
      return;
    }
    sf_insn insn;
    if (sf_decode_flow((const uint8_t *)(search->module->base + at), end - at, at, &insn)) return;
    if (insn.flags & SF_INSN_INDIRECT) function->indirect = true;
    if (insn.flags & SF_INSN_BRANCH && !(insn.flags & SF_INSN_CALL)) {
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

bool try_window(const Search *search, unsigned first, unsigned last, unsigned call, sf_site *site) {
  unsigned bytes = bytes_between(search, first, last);
  if (bytes < SF_JUMP_BYTES || bytes > SF_WINDOW_MAX) return false;
  if (!window_is_safe(search, first, last, call)) return false;
  take_window(search, first, last, call, site);
  return true;
}

// The instruction itself stays where it is if it can; otherwise as few instructions as possible move.
void choose_window(const Search *search, unsigned call, sf_site *site) {
  unsigned insns = search->function.insns;
  if (call > 0 && try_window(search, call - 1, call, call, site)) return;
  for (unsigned post = 1; post <= 3 && call + post < insns; post++)
    if (try_window(search, call, call + post + 1, call, site)) return;
  for (unsigned pre = 2; pre <= 4 && pre <= call; pre++)
    if (try_window(search, call - pre, call, call, site)) return;
  for (unsigned pre = 1; pre <= 3 && pre <= call; pre++)
    for (unsigned post = 0; post <= 2 && call + post < insns; post++)
      if (try_window(search, call - pre, call + post + 1, call, site)) return;
}

// What the instruction leaves in a general register cannot be relied on.
bool may_change(const sf_insn *insn, int reg) {
  constexpr uint16_t kNotKept = 0x0fc7;  // by a callee: rax, rcx, rdx, rsi, rdi, r8 to r11
  return (insn->writes | (insn->flags & SF_INSN_CALL ? kNotKept : 0)) >> reg & 1;
}

// Whether `reg` still holds at `last` what the instruction `first` put there: nothing in between changes it, and who
// jumps in between comes from there too, or from behind, whereto the same applies. `*end` is then where that ends.
bool stays(const Search *search, int reg, unsigned first, unsigned last, uint32_t *end) {
  const uint32_t *insn = search->scratch->insn;
  unsigned known = last;
  *end = insn[last];
  for (unsigned rounds = 0; rounds < kRoundsMax; rounds++) {
    uint32_t further = *end;
    for (unsigned i = 0; i < search->function.jumps; i++) {
      const Jump jump = search->scratch->jump[i];
      if (jump.to <= insn[first] || jump.to > *end || (jump.from >= insn[first] && jump.from <= *end)) continue;
      if (jump.from < insn[first] || jump.from > insn[last] + kReach) return false;
      if (jump.from > further) further = jump.from;
    }
    if (further == *end) return true;
    for (; insn[known] < further; known++)
      if (may_change(decoded(search, known), reg)) return false;
    *end = further;
  }
  return false;
}

// The number in %eax, if one constant reaches the call on every way into it: loaded right before, or into a register
// that keeps it. `*low`, `*high`: no other jump may lead behind the one and up to the other.
//
// The second is how compilers call futex() and poll() in loops: 35 of 43 sites of glibc 2.36 that would have to be
// patched otherwise, because they could be anything, on twelve pages of their own.
int16_t find_number(Search *search, unsigned call, uint32_t *low, uint32_t *high) {
  const uint32_t *insn = search->scratch->insn;
  int wanted = 0;  // rax
  unsigned copied = call;
  bool straight = true;  // nothing but what may be moved, and nobody jumps in between
  for (unsigned i = call; i-- > 0 && insn[call] - insn[i] <= kReach;) {
    const sf_insn *one = decoded(search, i);
    straight = straight && one->flags & SF_INSN_MOVABLE && insn[call] - insn[i + 1] <= kNear &&
               !is_target(search, insn[i + 1]);
    if (!may_change(one, wanted)) continue;
    const bool movable = one->flags & SF_INSN_MOVABLE && one->dest == wanted;
    if (movable && one->flags & SF_INSN_MOV_REG && !wanted && one->source > 0) {
      wanted = one->source;
      copied = i;
      continue;
    }
    if (!movable || !(one->flags & SF_INSN_CONST) || one->imm < 0 || one->imm >= INT16_MAX) return SF_NR_UNKNOWN;
    const auto number = (int16_t)one->imm;
    *low = insn[i], *high = insn[call];
    if (straight) return number;
    if (!search->function.known || !stays(search, wanted, i, copied, high)) return SF_NR_UNKNOWN;
    // From the copy on it is %eax that counts, and nothing may come in between.
    for (unsigned k = 0; copied != call && k < search->function.jumps; k++)
      if (const uint32_t to = search->scratch->jump[k].to; to > insn[copied] && to <= insn[call]) return SF_NR_UNKNOWN;
    if (*high < insn[call]) *high = insn[call];
    return number;
  }
  return SF_NR_UNKNOWN;
}

// The site at index `call` of the function.
void take_site(Search *search, unsigned call, unsigned index, sf_site *site) {
  uint32_t low = 0, high = 0;
  *site = {search->scratch->insn[call], 0, SF_NR_UNKNOWN, SF_SITE_NONE, 0, 0, {}};
  site->nr = find_number(search, call, &low, &high);
  choose_window(search, call, site);
  if (site->nr == SF_NR_UNKNOWN) low = 0;
  if (low && search->filtered) mark(search, low, high);
  search->scratch->relied[index] = {low, high};
}

// Whether the jump leads to where the site relies on that none does.
bool disturbs(const Search *search, const Jump &jump, unsigned index, const sf_site &site) {
  const auto &relied = search->scratch->relied[index];
  const bool in_number = relied.low && jump.to > relied.low && jump.to <= relied.high;
  if (in_number && (jump.from < relied.low || jump.from > relied.high)) return true;
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
  for (unsigned i = 0; i < search->far_targets && relied.low; i++) {
    const Jump jump = search->scratch->far_jump[i];
    const bool inside = jump.to > relied.low && jump.to <= relied.high;
    disturbed = disturbed || (inside && (jump.from < relied.low || jump.from > relied.high));
  }
  if (disturbed) site->nr = SF_NR_UNKNOWN;
}

// Sites ascend.
void settle_disturbed(Search *search, sf_site *sites, int count) {
  const unsigned jumps = search->far_targets;
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
      if (count < SF_SITES_MAX) search.scratch->relied[count] = {0, 0};
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
