#include "call_numbers.h"

#include <asm/unistd.h>

namespace {

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

// Numbers of calls that take no descriptor, neither in a register nor in memory.
constexpr int kHarmless[] = {
    __NR_futex,           __NR_getpid,     __NR_gettid,        __NR_getppid,         __NR_exit,       __NR_exit_group,
    __NR_rt_sigreturn,    __NR_tgkill,     __NR_kill,          __NR_rt_sigprocmask,  __NR_nanosleep,  __NR_sched_yield,
    __NR_clock_nanosleep, __NR_getrandom,  __NR_membarrier,    __NR_clock_gettime,   __NR_time,       __NR_gettimeofday,
    __NR_getcpu,          __NR_mprotect,   __NR_munmap,        __NR_madvise,         __NR_brk,        __NR_sigaltstack,
    __NR_arch_prctl,      __NR_getuid,     __NR_geteuid,       __NR_getgid,          __NR_getegid,    __NR_sysinfo,
    __NR_sched_getaffinity, __NR_uname,    __NR_rseq};

}  // namespace

sf_verdict sf_verdict_of(int nr) {
  if (nr == kMixHarmless) return SF_RAW_HARMLESS;
  if (nr == kMixUses) return SF_RAW_USES;
  if (nr == kMixDescriptors) return SF_RAW_DESCRIPTORS;
  if (nr < 0) return SF_RAW_PROCESS;
  for (int one : kProcess)
    if (nr == one) return SF_RAW_PROCESS;
  for (int one : kDescriptors)
    if (nr == one) return SF_RAW_DESCRIPTORS;
  for (int one : kHarmless)
    if (nr == one) return SF_RAW_HARMLESS;
  return SF_RAW_USES;
}

int16_t sf_numbers_joined(int16_t a, int16_t b) {
  if (a == b || b == kUnset) return a;
  if (a == kUnset) return b;
  const sf_verdict va = sf_verdict_of(a), vb = sf_verdict_of(b), worst = va > vb ? va : vb;
  constexpr int16_t kMixes[] = {kMixHarmless, kMixUses, kMixDescriptors, kUnknown};
  return kMixes[worst];
}
