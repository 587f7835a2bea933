// What the system calls in a module's own text could do unseen.
//
// Every 0f 05 in the text is looked at: if disassembly from the start of its function arrives at it, it is a system
// call, whose number is the constant last written to eax in the order of the text, perhaps through another register;
// if disassembly passes over it, it is none. Where there is no function to begin with, or its bytes are not all known,
// the bytes before decide whether it looks like one: tables of constants in the text contain these two bytes by
// chance, once in 64 KiB.
#include "judge.h"

#include <asm/unistd.h>

#include "decode.h"
#include "sites.h"

namespace {

constexpr int kNone = -2;          // no system call
constexpr unsigned kLookBack = 32; // bytes in which a number is loaded, where nothing better is known

// Numbers that matter to who answers calls by descriptor, or keeps an offset: all that open, close, move or pass on.
constexpr int kDescriptors[] = {
    __NR_read,     __NR_readv,    __NR_preadv2,         __NR_lseek,    __NR_getdents,        __NR_getdents64,
    __NR_close,    __NR_close_range, __NR_dup,          __NR_dup2,     __NR_dup3,            __NR_fcntl,
    __NR_sendfile, __NR_splice,   __NR_copy_file_range, __NR_sendmsg,  __NR_sendmmsg,        __NR_pidfd_getfd,
    __NR_fork,     __NR_vfork,    __NR_clone,           __NR_clone3,   __NR_execve,          __NR_execveat,
    __NR_io_setup, __NR_io_uring_setup, __NR_io_uring_enter, __NR_io_uring_register};
// Numbers that change who or where the process is.
constexpr int kProcess[] = {
    __NR_chdir,     __NR_fchdir,    __NR_chroot,    __NR_pivot_root, __NR_unshare,  __NR_setns,    __NR_mount,
    __NR_umount2,   __NR_move_mount, __NR_setuid,   __NR_setgid,     __NR_setreuid, __NR_setregid, __NR_setresuid,
    __NR_setresgid, __NR_setfsuid,  __NR_setfsgid,  __NR_setgroups,  __NR_capset,   __NR_seccomp};

sf_verdict verdict_of(int nr) {
  if (nr == kNone) return SF_RAW_HARMLESS;
  if (nr == SF_NR_UNKNOWN) return SF_RAW_PROCESS;
  for (int one : kProcess)
    if (nr == one) return SF_RAW_PROCESS;
  for (int one : kDescriptors)
    if (nr == one) return SF_RAW_DESCRIPTORS;
  return SF_RAW_HARMLESS;
}

// The number by what stands before: mov $nr,%eax; mov $nr,%rax; xor %eax,%eax; or mov %rdi,%rax of a general function.
int number_by_context(const uint8_t *text, size_t at) {
  const size_t first = at > kLookBack ? at - kLookBack : 0;
  for (size_t i = at; i-- > first;) {
    const uint8_t *p = text + i;
    const size_t left = at - i;
    const bool wide = left >= 7 && p[0] == 0x48 && p[1] == 0xc7 && p[2] == 0xc0;
    if (wide || (left >= 5 && p[0] == 0xb8)) {
      uint32_t number;
      __builtin_memcpy(&number, p + (wide ? 3 : 1), sizeof number);
      if (number < 1024) return (int)number;
    }
    if (left >= 2 && (p[0] == 0x31 || p[0] == 0x33) && p[1] == 0xc0) return 0;
    if (left >= 3 && p[0] == 0x48 && p[1] == 0x89 && p[2] == 0xf8) return SF_NR_UNKNOWN;
  }
  return kNone;
}

// One walk through a function; candidates come in ascending order, so it goes on where it stopped.
struct Walk {
  uint32_t start, end, at;
  bool lost;         // bytes that are no instruction known here
  int constant[16];  // of each register, or SF_NR_UNKNOWN
};

constexpr int kRax = 0, kRcx = 1, kR11 = 11;

void begin(Walk *walk, uint32_t start, uint32_t end) {
  walk->start = walk->at = start;
  walk->end = end;
  walk->lost = false;
  for (int &one : walk->constant) one = SF_NR_UNKNOWN;
}

// What the registers hold after the instruction.
void step(Walk *walk, const sf_insn &insn) {
  int *constant = walk->constant;
  walk->at += insn.length;
  if (insn.flags & SF_INSN_SYSCALL) constant[kRax] = constant[kRcx] = constant[kR11] = SF_NR_UNKNOWN;
  // What else a callee does not keep is not used behind the call, except on ways that go around it.
  if (insn.flags & SF_INSN_CALL) constant[kRax] = SF_NR_UNKNOWN;
  if (!(insn.flags & SF_INSN_MOVABLE) || insn.dest < 0) return;
  int value = SF_NR_UNKNOWN;
  if (insn.flags & SF_INSN_CONST && insn.imm >= 0) value = insn.imm;
  if (insn.flags & SF_INSN_MOV_REG && insn.source >= 0) value = constant[insn.source];
  constant[insn.dest] = value;
}

int number_of(const sf_module *module, Walk *walk, uint32_t candidate) {
  auto text = (const uint8_t *)module->text;
  const size_t in_text = candidate - (size_t)(module->text - module->base);
  uint32_t start, end;
  if (!sf_function_of(module, candidate, &start, &end)) return number_by_context(text, in_text);
  if (start != walk->start || end != walk->end) begin(walk, start, end);
  while (!walk->lost && walk->at <= candidate) {
    sf_insn insn;
    if (sf_decode((const uint8_t *)(module->base + walk->at), walk->end - walk->at, walk->at, &insn)) {
      walk->lost = true;
      break;
    }
    const bool found = insn.flags & SF_INSN_SYSCALL && walk->at == candidate;
    const int number = walk->constant[kRax];
    step(walk, insn);
    if (found) return number;
  }
  return walk->lost ? number_by_context(text, in_text) : kNone;
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

}  // namespace

sf_verdict sf_judge(const sf_module *module) {
  auto text = (const uint8_t *)module->text;
  const size_t bytes = module->text_end - module->text;
  const auto first = (uint32_t)(module->text - module->base);
  sf_verdict worst = SF_RAW_HARMLESS;
  Walk walk = {};
  auto consider = [&](size_t at) {
    if (at + 1 >= bytes || text[at] != 0x0f || text[at + 1] != 0x05) return;
    const sf_verdict verdict = verdict_of(number_of(module, &walk, first + (uint32_t)at));
    if (verdict > worst) worst = verdict;
  };
  size_t at = 0;
  for (; at + 9 <= bytes && worst != SF_RAW_PROCESS; at += 8) {
    uint64_t found = has_byte(load64(text + at), 0x0f) & has_byte(load64(text + at + 1), 0x05);
    for (; found; found &= found - 1) consider(at + (unsigned)__builtin_ctzll(found) / 8);
  }
  for (; at < bytes && worst != SF_RAW_PROCESS; at++) consider(at);
  return worst;
}
