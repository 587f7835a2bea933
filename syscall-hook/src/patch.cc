// Slots and jumps, x86-64. The layout of a slot stands in stub.S.
//
// A page of text is either writable or executable, never both. Slots lie in this library's own text (on pages of
// their own), so they have unwind information like any function; the modules to patch are loaded next to it.
#include "patch.h"

#include <asm/unistd.h>
#include <errno.h>
#include <linux/mman.h>

#include "decode.h"
#include "frame.h"
#include "shortfuse/bypass/seldom.h"
#include "shortfuse/bypass/syscalls.h"

SF_SELDOM struct sf_window sf_windows[SF_SLOTS_MAX];
unsigned sf_window_count;

namespace {

constexpr uint64_t kPage = 4096;

struct Writer {
  uint8_t *at;
  bool fits;
};

void put(Writer *w, uint8_t byte) { *w->at++ = byte; }

void put_bytes(Writer *w, const uint8_t *bytes, unsigned count) {
  for (unsigned i = 0; i < count; i++) w->at[i] = bytes[i];
  w->at += count;
}

// A 32-bit distance from the end of the field, as every relative operand has it.
void put_distance(Writer *w, uint64_t target, unsigned bytes_after = 0) {
  int64_t distance = (int64_t)(target - ((uint64_t)w->at + 4 + bytes_after));
  if (distance != (int32_t)distance) w->fits = false;
  const auto value = (int32_t)distance;
  __builtin_memcpy(w->at, &value, sizeof value);
  w->at += sizeof value;
}

void put_jump(Writer *w, uint64_t target) {
  put(w, 0xe9);
  put_distance(w, target);
}

void put_lea_rcx(Writer *w, uint64_t target) {
  put(w, 0x48);
  put(w, 0x8d);
  put(w, 0x0d);
  put_distance(w, target);
}

void put_syscall(Writer *w) {
  put(w, 0x0f);
  put(w, 0x05);
}

// Copies whole instructions, with displacements relative to RIP corrected.
void put_displaced(Writer *w, const uint8_t *code, unsigned bytes) {
  for (unsigned at = 0; at < bytes;) {
    sf_insn insn;
    if (sf_decode_move(code + at, bytes - at, (uint64_t)(code + at), &insn)) {
      w->fits = false;
      return;
    }
    if (insn.flags & SF_INSN_RIP_RELATIVE) {
      int32_t displacement;
      __builtin_memcpy(&displacement, code + at + insn.disp_at, 4);
      uint64_t target = (uint64_t)(code + at) + insn.length + (int64_t)displacement;
      put_bytes(w, code + at, insn.disp_at);
      unsigned after = insn.length - insn.disp_at - 4u;
      put_distance(w, target, after);
      put_bytes(w, code + at + insn.disp_at + 4, after);
    } else {
      put_bytes(w, code + at, insn.length);
    }
    at += insn.length;
  }
}

void put_own_call(Writer *w, const sf_module *module, const sf_site *site) {
  uint64_t window = sf_window_of(module, site);
  uint8_t *real = w->at;
  put_syscall(w);
  if (site->form == SF_SITE_AROUND) {
    unsigned post_at = site->pre_bytes + 2u;
    put_displaced(w, (const uint8_t *)window + post_at, site->window_bytes - post_at);
    put_jump(w, window + site->window_bytes);
  } else {
    put_jump(w, module->base + site->syscall_at + 2);
  }
  w->at = real + SF_SLOT_VFORK;
  put_syscall(w);
  put_lea_rcx(w, (uint64_t)real + 2);
  put_jump(w, (uint64_t)&sf_hook_after_vfork);
}

int protect(uint64_t start, uint64_t end, int rights) {
  start &= -kPage;
  end = (end + kPage - 1) & -kPage;
  return (int)SF_SYS3(__NR_mprotect, start, end - start, rights);
}

int protect_slots(int rights) {
  return protect((uint64_t)sf_hook_slots, (uint64_t)sf_hook_slots + SF_SLOTS_BYTES, rights);
}

// A write that changes nothing, and does not read first: that would map the page for reading only.
void touch(uint64_t at) { __asm__ volatile("lock orb $0, (%0)" : : "r"(at) : "memory"); }

unsigned short_slots, long_slots;  // in use

// The next free slot, as a number of short ones from the first; kNoSlot: none is left.
constexpr uint32_t kNoSlot = ~0u;
uint32_t take_slot(bool is_long) {
  if (sf_window_count == SF_SLOTS_MAX) return kNoSlot;
  constexpr uint32_t kPerLong = SF_LONG_SLOT_BYTES / SF_SLOT_BYTES;
  return is_long ? SF_SLOTS_MAX + long_slots++ * kPerLong : short_slots++;
}

}  // namespace

int sf_slots_open(void) { return protect_slots(PROT_READ | PROT_WRITE); }
int sf_slots_close(void) { return protect_slots(PROT_READ | PROT_EXEC); }

int sf_slots_try(void) {
  const int error = sf_slots_open();
  if (error) return error;
  touch((uint64_t)sf_hook_slots);
  return sf_slots_close();
}

int sf_text_open(const sf_module *module) { return protect(module->text, module->text_end, PROT_READ | PROT_WRITE); }
int sf_text_close(const sf_module *module) { return protect(module->text, module->text_end, PROT_READ | PROT_EXEC); }

void sf_text_touch(const sf_module *module, const sf_site *site) {
  const uint64_t first = sf_window_of(module, site), last = first + SF_JUMP_BYTES - 1;
  if (first < module->text || last >= module->text_end) return;
  // Sites ascend: mostly it is the page of the one before.
  static uint64_t touched;
  if (first / kPage != touched / kPage) touch(first);
  if (first / kPage != last / kPage) touch(last);
  touched = last;
}

int sf_slot_add(const sf_module *module, const sf_site *site, int own_call) {
  own_call |= site->form == SF_SITE_AROUND;
  constexpr unsigned kAtEnd = 12;  // bytes of the two instructions behind those that were displaced
  const uint32_t number = take_slot(own_call || SF_SLOT_CODE + site->pre_bytes + kAtEnd > SF_SLOT_BYTES);
  if (number == kNoSlot) return -1;
  uint8_t *slot = sf_hook_slots + number * SF_SLOT_BYTES;
  uint64_t window = sf_window_of(module, site), behind = module->base + site->syscall_at + 2;
  __builtin_memcpy(slot, &behind, sizeof behind);
  Writer w = {slot + SF_SLOT_CODE, true};
  put_displaced(&w, (const uint8_t *)window, site->pre_bytes);
  uint8_t *real = w.at + kAtEnd;
  put_lea_rcx(&w, own_call ? (uint64_t)real + 2 : behind);
  put_jump(&w, (uint64_t)&sf_hook_enter);
  if (own_call) put_own_call(&w, module, site);
  int64_t distance = (int64_t)((uint64_t)slot + SF_SLOT_CODE - (window + SF_JUMP_BYTES));
  if (!w.fits || distance != (int32_t)distance) return -1;
  sf_windows[sf_window_count++] = {window, number, site->nr};
  return 0;
}

int sf_patch_write(const sf_module *module) {
  int count = 0;
  for (unsigned i = 0; i < sf_window_count; i++) {
    const sf_window *window = &sf_windows[i];
    if (window->address < module->text || window->address >= module->text_end) continue;
    Writer w = {(uint8_t *)window->address, true};
    put_jump(&w, (uint64_t)sf_hook_slots + window->slot * SF_SLOT_BYTES + SF_SLOT_CODE);
    count++;
  }
  return count;
}
