// System calls that other modules make from text of their own. See raw_calls.h.
#include "raw_calls.h"

#include <asm/unistd.h>
#include <linux/mman.h>

#include "judge.h"
#include "log.h"
#include "shortfuse/bypass/bypass.h"
#include "shortfuse/bypass/seldom.h"
#include "shortfuse/bypass/syscalls.h"
#include "shortfuse/hook/hook.h"
#include "site_cache.h"

uint32_t sf_raw_unseen = 1;

namespace {

// The dynamic linker enters a module into its list a few calls after it has mapped its text. A file that somebody else
// maps executable never comes there: after so many looks it is not waited for any more.
constexpr uint32_t kLooks = 64;
constexpr unsigned kKnownMax = 512;  // modules; one beyond is judged again each time, from the cache mostly

sf_auxv auxv;
const sf_cache_place *place;
// What has been judged, and the consequences drawn. Any number of threads may look at a time, and a look may end
// anywhere: by a fork, a jump out of a signal handler, a fault on a module that is being unloaded. What one of them
// writes may overwrite what another one did: then a module is judged once more.
SF_SELDOM uint64_t known[kKnownMax];
int worst;                      // of all that were looked at; atomic
unsigned known_count;
uint64_t patched_base[SF_MODULES_MAX];
int patched_count;

extern "C" __attribute__((visibility("hidden"))) const uint8_t __ehdr_start[];

bool is_patched(const sf_module *module) {
  for (int i = 0; i < patched_count; i++)
    if (patched_base[i] == module->base) return true;
  return false;
}

// By build-id, so that another module at the same place is another one.
uint64_t key_of(const sf_module *module) {
  uint64_t key = 14695981039346656037ull;
  for (uint32_t i = 0; i < module->build_id_bytes; i++) key = (key ^ module->build_id[i]) * 1099511628211ull;
  if (!module->build_id_bytes) key ^= module->base ^ module->text_end << 20;
  return key;
}

bool is_known(uint64_t key) {
  const unsigned count = __atomic_load_n(&known_count, __ATOMIC_ACQUIRE);
  for (unsigned i = 0; i < count; i++)
    if (__atomic_load_n(&known[i], __ATOMIC_RELAXED) == key) return true;
  return false;
}

void add_known(uint64_t key) {
  const unsigned at = __atomic_load_n(&known_count, __ATOMIC_RELAXED);
  if (at >= kKnownMax) return;
  __atomic_store_n(&known[at], key, __ATOMIC_RELAXED);
  __atomic_store_n(&known_count, at + 1, __ATOMIC_RELEASE);
}

// Without memory to judge with, the worst is assumed, and not remembered.
int judge(const sf_module *module) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS;
  const long scratch = SF_SYS6(__NR_mmap, 0, SF_JUDGE_SCRATCH, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (scratch < 0 && scratch > -4096) return SF_RAW_PROCESS;
  const sf_verdict verdict = sf_judge(module, (void *)scratch);
  SF_SYS2(__NR_munmap, scratch, SF_JUDGE_SCRATCH);
  sf_cache_store_verdict(place, module, (unsigned)verdict);
  return verdict;
}

void note_worst(int verdict) {
  int before = __atomic_load_n(&worst, __ATOMIC_RELAXED);
  while (verdict > before && !__atomic_compare_exchange_n(&worst, &before, verdict, false, __ATOMIC_ACQ_REL,
                                                          __ATOMIC_RELAXED)) {
  }
}

int visit(const sf_module *module, void *argument) {
  if (is_patched(module) || module->base == (uint64_t)__ehdr_start) return 0;
  const uint64_t key = key_of(module);
  if (module->build_id_bytes && is_known(key)) return 0;
  *(bool *)argument = true;
  int verdict = sf_cache_load_verdict(place, module);
  if (verdict < 0) verdict = judge(module);
  if (verdict >= SF_RAW_DESCRIPTORS) sf_log_debug(module->name);
  note_worst(verdict);
  if (verdict == SF_RAW_DESCRIPTORS) sf_bypass_descriptors_unseen("a module makes system calls of its own");
  if (verdict >= SF_RAW_PROCESS) sf_hook_switch_off("a module makes system calls of its own");
  add_known(key);
  return verdict >= SF_RAW_PROCESS;
}

}  // namespace

void sf_raw_calls_start(const sf_cache_place *remembered, const sf_auxv *given, const sf_module *patched, int count) {
  auxv = *given;
  for (int i = 0; i < count; i++) patched_base[i] = patched[i].base;
  patched_count = count;
  place = remembered;
}

void sf_raw_calls_look(void) {
  uint32_t before = __atomic_load_n(&sf_raw_unseen, __ATOMIC_ACQUIRE);
  bool found = false;  // a module that was not known
  const bool complete = sf_modules_visit(&auxv, visit, &found) == 0;
  // What has been mapped meanwhile is for the next look: then the word is another one, or looked for long enough.
  if (!complete || !(before & SF_RAW_LOOKS)) return;
  const uint32_t after = found ? before & ~SF_RAW_LOOKS : before - 1;
  __atomic_compare_exchange_n(&sf_raw_unseen, &before, after, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

int sf_raw_calls_none(void) {
  if (sf_raw_calls_unseen()) sf_raw_calls_look();
  if (__atomic_load_n(&worst, __ATOMIC_ACQUIRE) != SF_RAW_HARMLESS) return 0;
  return sf_raw_calls_unseen() ? -1 : 1;
}

void sf_raw_calls_expect(void) {
  uint32_t before = __atomic_load_n(&sf_raw_unseen, __ATOMIC_RELAXED), after;
  do {
    after = ((before | SF_RAW_LOOKS) + 1) | kLooks;  // the next mapping, and all looks again
  } while (!__atomic_compare_exchange_n(&sf_raw_unseen, &before, after, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
  // Afterwards: what another thread is just being given, it looks at once more (bypass/src/opens.cc).
  sf_bypass_give_back();
}
