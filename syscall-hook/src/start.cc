// The start of the library in a process: the whole flow in one function, prepare(). Runs before main(), before any
// other library's constructors (-z initfirst) and before there are threads.
//
// Whatever is not as expected ends in an inert library: nothing is patched, the process runs as if it had not been
// preloaded. SHORTFUSE_LOG=debug says why.
#include <asm/unistd.h>
#include <linux/mman.h>
#include <stddef.h>

#include "calls.h"
#include "environment.h"
#include "faults.h"
#include "frame.h"
#include "log.h"
#include "modules.h"
#include "patch.h"
#include "raw_calls.h"
#include "shortfuse/bypass/bypass.h"
#include "shortfuse/bypass/seldom.h"
#include "shortfuse/bypass/syscalls.h"
#include "shortfuse/bypass/trace.h"
#include "shortfuse/hook/hook.h"
#include "site_cache.h"
#include "sites.h"
#include "text.h"

namespace {

// The sites of a module.
struct Found {
  sf_site *sites;   // in `room`
  int count;        // -1: not known yet
  bool remembered;  // else searched for
};

// One module's behind the other's: remembered, and found by a search after all. Not mapped for the time of a start:
// that cost 7 us.
SF_SELDOM sf_site room[2 * SF_MODULES_MAX * SF_SITES_MAX];
sf_site *room_left = room;

SF_SELDOM sf_cache_place place;

struct sf_hook_state state;
unsigned traced_unpatchable;

void *map(size_t bytes) {
  long at = SF_SYS6(__NR_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return at < 0 && at > -4096 ? nullptr : (void *)at;
}

void unmap(void *at, size_t bytes) { SF_SYS2(__NR_munmap, at, bytes); }

bool is_wanted(const sf_site *site) {
  return site->nr < 0 || (site->nr < SF_CALLS && sf_hook_class[site->nr]);
}

// Whether the bytes in memory are what the file says of every site that is going to be changed, and no two windows
// share a byte: of two jumps over each other neither would be one.
bool still_true(const sf_module *module, const sf_site *sites, int count) {
  uint64_t free_from = 0;
  for (int i = 0; i < count; i++) {
    const sf_site *site = &sites[i];
    if (!is_wanted(site)) continue;
    if (!sf_site_matches(module, site)) return false;
    if (site->form == SF_SITE_NONE) continue;
    const uint64_t window = sf_window_of(module, site);
    if (window < free_from) return false;
    free_from = window + site->window_bytes;
  }
  return true;
}

void search(const sf_module *module, Found *found) {
  *found = {room_left, -1, false};
  void *scratch = map(SF_SITES_SCRATCH);
  if (!scratch) return;
  found->count = sf_sites_find(module, scratch, found->sites);
  unmap(scratch, SF_SITES_SCRATCH);
  if (found->count > 0) room_left += found->count;
}

Found remembered(sf_cache_reader *reader, const sf_module *module) {
  const Found found = {room_left, sf_cache_load(reader, module, room_left), true};
  if (found.count > 0) room_left += found.count;
  return found;
}

// Gives every wanted site of the module a slot. Returns why that must not go on, or NULL. REQUIRES: text and slots are
// open.
const char *fill_slots(const sf_module *module, Found *found) {
  for (int i = 0; i < found->count; i++)
    if (is_wanted(&found->sites[i])) sf_text_touch(module, &found->sites[i]);
  if (found->count < 0 || !still_true(module, found->sites, found->count)) search(module, found);
  if (found->count < 0) return "the system calls of a module could not be found";
  state.from_cache += found->remembered;
  for (int i = 0; i < found->count; i++) {
    const sf_site *site = &found->sites[i];
    state.sites++;
    if (!is_wanted(site)) continue;
    if (site->form != SF_SITE_NONE && sf_slot_add(module, site, sf_call_needs_own_syscall(site->nr)) == 0) continue;
    if (sf_call_is_critical(site->nr)) return "a system call that has to be seen cannot be patched";
    state.sites_unpatchable++;
    if (sf_trace_wants(site->nr)) traced_unpatchable++;
  }
  return nullptr;
}

const char *fill_all_slots(const sf_module *modules, int count, Found *found) {
  const char *reason = sf_slots_open() ? "the slots cannot be written" : nullptr;
  for (int i = 0; i < count && !reason; i++) reason = fill_slots(&modules[i], &found[i]);
  // Executable again in any case: other code of this library may lie next to them.
  if (sf_slots_close() && !reason) reason = "the slots cannot be made executable";
  return reason;
}

// Finds the sites, prepares a slot each, takes over the two signals, and lets the sites jump. Returns why not, or NULL.
//
// The text is opened before anything of it is read, and its pages are copied at the first touch: read first, each one
// would be mapped for that, mapped anew by mprotect, and copied after a second fault (30 us of a start).
const char *change_text(const sf_module *modules, int count, Found *found) {
  uint64_t all = ~0ull, mask = 0;
  SF_SYS4(__NR_rt_sigprocmask, 2, &all, &mask, 8);
  const char *reason = nullptr;
  int open = 0;
  for (; open < count && !reason; open++)
    if (sf_text_open(&modules[open])) reason = "the text of a module cannot be written";
  if (!reason) reason = fill_all_slots(modules, count, found);
  if (!reason && sf_faults_start(&mask)) reason = "the fault handler cannot be installed";
  sf_calls_rest();
  for (int i = 0; i < count && !reason; i++) state.windows += (uint32_t)sf_patch_write(&modules[i]);
  for (int i = 0; i < open; i++)
    if (sf_text_close(&modules[i]) && !reason) reason = "the text of a module cannot be made executable";
  SF_SYS4(__NR_rt_sigprocmask, 2, &mask, 0, 8);
  return reason;
}

// What is remembered is read before all signals are blocked, and what was found is remembered after that: a directory
// may answer late.
const char *patch(const sf_module *modules, int count) {
  for (int i = 0; i < count; i++)
    if (modules[i].more_texts) return "the text of a module is in several places";
  if (sf_slots_try()) return "code cannot be changed and made executable again";
  Found found[SF_MODULES_MAX];
  sf_cache_reader reader;
  sf_cache_open(&reader, &place);
  for (int i = 0; i < count; i++) found[i] = remembered(&reader, &modules[i]);
  sf_cache_close(&reader);
  const char *reason = change_text(modules, count, found);
  for (int i = 0; i < count; i++)
    if (!found[i].remembered) sf_cache_store(&place, &modules[i], found[i].sites, found[i].count);
  return reason;
}

// Returns why the library stays inert, or NULL.
const char *prepare(char **envp) {
  // 1. May it be used here at all?
  sf_auxv auxv;
  if (sf_auxv_read(envp, &auxv)) return "no auxiliary vector";
  if (auxv.secure) return "the program has more rights than its user";
  sf_environment_check(envp);
  const char *disable = sf_env(envp, "SHORTFUSE_DISABLE=");
  if (disable && *disable && !sf_same_text(disable, "0")) return "SHORTFUSE_DISABLE is set";
  if (sf_program_has_raw_calls(&auxv)) return "the program makes system calls of its own (Go)";

  // 2. What would be patched?
  sf_module modules[SF_MODULES_MAX];
  int count = sf_modules_find(&auxv, modules);
  if (count < 1 || !sf_starts_with(modules[0].name, "libc")) return "no known C library";
  if (sf_module_byte(&modules[0], "__libc_single_threaded") == 0) return "threads are running already";

  // 3. Is there anything to answer, and is this not a daemon that would wait for itself?
  if (!sf_bypass_start(envp, auxv.vdso)) return "not in this process";
  sf_trace_start(envp);

  // 4. Find the sites, prepare a slot each, take over the two signals, and let the sites jump.
  sf_cache_place_find(envp, &place);
  sf_calls_start();
  sf_raw_calls_start(&place, &auxv, modules, count);
  const char *reason = patch(modules, count);
  if (reason) {
    sf_hook_switch_off("given up");
    sf_trace_leave();
  } else {
    sf_trace_begin(traced_unpatchable, auxv.executed);
  }
  // 5. Every call of these modules is seen; of the others' it is found out when it matters.
  if (!reason && !state.sites_unpatchable) sf_bypass_allow_opens(sf_raw_calls_none);
  return reason;
}

void start(int, char **, char **envp) {
  sf_log_start(envp);
  const char *reason = prepare(envp);
  state.format = 1;
  state.active = !reason;
  state.reason = reason;
  state.window = (const sf_hook_window *)sf_windows;
  state.slots = (uint64_t)sf_hook_slots;
  state.slots_bytes = SF_SLOTS_BYTES;
  if (reason) sf_log_debug(reason);
  else sf_log_debug_number("active, system calls patched: ", state.windows);
}

void end() {
  if (state.active) sf_bypass_exit();
}

static_assert(sizeof(sf_window) == sizeof(sf_hook_window));

__attribute__((section(".init_array"), used)) void (*const start_entry)(int, char **, char **) = start;
__attribute__((section(".fini_array"), used)) void (*const end_entry)() = end;

}  // namespace

extern "C" const struct sf_hook_state *shortfuse_hook_state(void) { return &state; }
