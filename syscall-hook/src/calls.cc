// Where every intercepted call arrives, and the calls that concern the hook itself.
//
// A child made by vfork (or clone with CLONE_VM | CLONE_VFORK) runs on its parent's memory with descriptors of its
// own, so the thread's `inert` word is raised for as long as the parent waits: the child gets the kernel's answers.
// The word is lowered in the parent when the call returns there (sf_hook_after_vfork in the stub). A signal may be
// delivered to the parent before that, and its handler's calls are the parent's: who is asking tells the process id.
#include "calls.h"

#include <asm/unistd.h>
#include <errno.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/sched.h>

#include "faults.h"
#include "frame.h"
#include "log.h"
#include "raw_calls.h"
#include "shortfuse/bypass/syscalls.h"
#include "shortfuse/bypass/trace.h"
#include "shortfuse/hook/hook.h"

extern "C" {
__thread sf_thread sf_hook_thread;
uint8_t sf_hook_class[SF_CALLS];
}

namespace {

constexpr int kSeccompSetStrict = 0, kSeccompSetFilter = 1;

bool enters_a_filter(const sf_call *call) {
  return call->nr == __NR_prctl ? call->arg[0] == PR_SET_SECCOMP
                                : call->nr == __NR_seccomp &&
                                      (call->arg[0] == kSeccompSetStrict || call->arg[0] == kSeccompSetFilter);
}

// Our clock is the processor's time stamp counter, which this thread may not read any more.
bool gives_up_the_clock(const sf_call *call) {
  return call->nr == __NR_prctl && call->arg[0] == PR_SET_TSC && call->arg[1] == PR_TSC_SIGSEGV;
}

// Calls after which descriptors or names mean something else in ways that are not followed here: the process keeps
// to the kernel from then on.
bool leaves_our_view(const sf_call *call) {
  switch (call->nr) {
    case __NR_unshare: return call->arg[0] & (CLONE_FILES | CLONE_FS | CLONE_NEWNS);
    case __NR_prctl:
    case __NR_seccomp: return enters_a_filter(call) || gives_up_the_clock(call);  // what we do may become deadly
    case __NR_close_range: return call->arg[2] & 2;  // CLOSE_RANGE_UNSHARE
    case __NR_setns:
    case __NR_chroot:
    case __NR_pivot_root:
    case __NR_io_uring_setup: return true;
  }
  return false;
}

// Around a call whose child shares this thread's words.
void raise_inert(bool same_pid_namespace) {
  const auto pid = (uint32_t)SF_SYS0(__NR_getpid);
  // The first process of a namespace may have a child that is the first of another.
  if (sf_hook_thread.inert++ == 0) sf_hook_thread.inert_pid = same_pid_namespace && pid != 1 ? pid : 0;
}

int clone_with(uint64_t flags) {
  if (!(flags & CLONE_VM)) {
    // A fork. Where it shares descriptors or the working directory, each side misses what the other one does.
    if (flags & (CLONE_FILES | CLONE_FS)) sf_hook_switch_off("clone shares descriptors between processes");
    sf_bypass_before_fork(flags, 0);
    return SF_MAKE_CALL;
  }
  bool own_words = flags & CLONE_SETTLS;
  bool shares = (flags & CLONE_FILES) && (flags & CLONE_FS);
  if (own_words && shares) {  // a thread
    sf_bypass_before_fork(flags, 0);
    return SF_MAKE_CALL;
  }
  if (flags & CLONE_VFORK && !own_words && !(flags & (CLONE_FILES | CLONE_FS))) {
    sf_bypass_before_fork(flags, 0);
    sf_faults_before_vfork();
    raise_inert(!(flags & CLONE_NEWPID));
    return SF_MAKE_VFORK;
  }
  sf_hook_switch_off("clone makes a kind of process that is not followed");
  sf_trace_leave();  // both would run programs on this thread's words
  return SF_MAKE_CALL;
}

int clone3(const sf_call *call) {
  if (call->arg[1] < 8) return SF_MAKE_CALL;
  return clone_with(*(const uint64_t *)call->arg[0]);
}

int exec(sf_frame *frame) {
  const sf_call *call = &frame->call;
  const bool inert = sf_hook_is_inert();
  const int traced = sf_trace_before_exec(call, inert);
  inert ? sf_bypass_before_unseen_exec() : sf_bypass_before_fork(0, 1);
  uint64_t changed = sf_faults_before_exec();
  // Where a vfork child succeeds, its parent finds the word as it was before.
  sf_hook_thread.frame = frame->previous;
  frame->result = sf_syscall6(call->nr, call->arg[0], call->arg[1], call->arg[2], call->arg[3], call->arg[4],
                              call->arg[5]);
  sf_hook_thread.frame = frame;
  sf_faults_after_exec(changed);
  sf_trace_exec_failed(traced);
  return SF_HANDLED;
}

// SF_MAKE_CALL here means: nothing more to do for the hook, sf_bypass_call() may still want it.
int own_call(sf_frame *frame) {
  const sf_call *call = &frame->call;
  const bool inert = sf_hook_is_inert();
  switch (call->nr) {
    case __NR_rt_sigaction: return sf_faults_sigaction(frame);
    case __NR_rt_sigprocmask: return sf_faults_sigprocmask(frame);
    case __NR_execve:
    case __NR_execveat: return exec(frame);
    case __NR_fork:
      if (!inert) sf_bypass_before_fork(0, 0);
      return SF_MAKE_CALL;
    case __NR_vfork:
      if (!inert) return clone_with(CLONE_VM | CLONE_VFORK);
      raise_inert(true);
      return SF_MAKE_VFORK;
    case __NR_clone:
    case __NR_clone3: {
      if (!inert) return call->nr == __NR_clone ? clone_with((uint64_t)call->arg[0]) : clone3(call);
      uint64_t flags = call->nr == __NR_clone ? (uint64_t)call->arg[0]
                       : call->arg[1] < 8     ? 0
                                              : *(const uint64_t *)call->arg[0];
      if (!(flags & CLONE_VM) || flags & CLONE_SETTLS) return SF_MAKE_CALL;
      raise_inert(true);
      return SF_MAKE_VFORK;
    }
    case __NR_exit_group:
      if (!inert) {
        sf_bypass_exit();
        sf_trace_thread_exit();
      }
      return SF_MAKE_CALL;
    case __NR_exit:
      if (!inert) {
        sf_bypass_thread_exit();
        sf_trace_thread_exit();
      }
      return SF_MAKE_CALL;
  }
  if (call->nr == __NR_mmap && call->arg[2] & PROT_EXEC && !(call->arg[3] & MAP_ANONYMOUS)) sf_raw_calls_expect();
  if (!inert && enters_a_filter(call)) sf_bypass_filtered();
  if (!inert && leaves_our_view(call)) sf_hook_switch_off("the process leaves what can be followed");
  if (!inert && sf_trace_on() && (enters_a_filter(call) || gives_up_the_clock(call))) {
    // Programs often only ask whether they could.
    frame->result = sf_syscall6(call->nr, call->arg[0], call->arg[1], call->arg[2], call->arg[3], call->arg[4],
                                call->arg[5]);
    if (frame->result >= 0) sf_trace_leave();
    return SF_HANDLED;
  }
  return SF_MAKE_CALL;
}

constexpr int kOwn[] = {__NR_rt_sigaction, __NR_rt_sigprocmask, __NR_execve, __NR_execveat,    __NR_fork,  __NR_vfork,
                        __NR_clone,        __NR_clone3, __NR_exit_group,  __NR_exit,  __NR_unshare,
                        __NR_setns,        __NR_prctl,  __NR_seccomp,     __NR_chroot, __NR_pivot_root,
                        __NR_io_uring_setup, __NR_close_range, __NR_mmap};

bool switched_off;

}  // namespace

// What is done about a call besides tracing it.
static int untraced_call(sf_frame *frame, uint8_t kind) {
  if (__builtin_expect(kind & SF_CLASS_OWN, 0)) {
    int verdict = own_call(frame);
    if (verdict != SF_MAKE_CALL) return verdict;
    kind = sf_hook_class[frame->call.nr];
  }
  if (!(kind & SF_CLASS_BYPASS) || sf_hook_is_inert()) return SF_MAKE_CALL;
  if (__builtin_expect(sf_raw_calls_unseen(), 0) && sf_bypass_in_use()) sf_raw_calls_look();
  return sf_bypass_call(&frame->call, &frame->result);
}

int sf_call_make_traced(sf_frame *frame) {
  const sf_call *call = &frame->call;
  if (!(sf_trace_wants(call->nr) & SF_TRACE_RETURN)) return SF_MAKE_CALL;
  frame->result = sf_syscall6(call->nr, call->arg[0], call->arg[1], call->arg[2], call->arg[3], call->arg[4],
                              call->arg[5]);
  sf_trace_return(call, sf_hook_is_inert(), 0, frame->result);
  return SF_HANDLED;
}

__attribute__((noinline)) static int traced_call(sf_frame *frame, uint8_t kind) {
  const sf_call *call = &frame->call;
  const bool borrowed = sf_hook_is_inert();
  uint64_t started;
  if (sf_trace_enter(call, borrowed, &started, &frame->result)) {
    if (started) sf_trace_return(call, borrowed, started, frame->result);
    return SF_HANDLED;
  }
  int verdict = untraced_call(frame, kind);
  if (!started) return verdict;
  if (verdict == SF_MAKE_CALL) {
    frame->result = sf_syscall6(call->nr, call->arg[0], call->arg[1], call->arg[2], call->arg[3], call->arg[4],
                                call->arg[5]);
    verdict = SF_HANDLED;
  }
  sf_trace_return(call, borrowed, started, frame->result);
  return verdict;
}

extern "C" int sf_hook_call(sf_frame *frame) {
  const uint8_t kind = sf_hook_class[frame->call.nr];
  if (__builtin_expect(kind & SF_CLASS_TRACE, 0)) return traced_call(frame, kind);
  return untraced_call(frame, kind);
}

// In the parent, after a call that own_call() said SF_MAKE_VFORK to, whether it made a child or not.
extern "C" void sf_hook_vforked(void) {
  if (--sf_hook_thread.inert == 0) sf_faults_after_vfork();
}

extern "C" void sf_hook_switch_off(const char *reason) {
  // While the calls of other threads are still seen: a number that is closed unseen may be another file's by the time
  // that its placeholder is made real, or its offset given back. All of it every time: a child that another thread
  // forks in between must not find half of it done for good.
  sf_bypass_switch_off();
  for (uint8_t &kind : sf_hook_class)
    __atomic_store_n(&kind, (uint8_t)(kind & ~SF_CLASS_BYPASS), __ATOMIC_RELAXED);
  if (__atomic_exchange_n(&switched_off, true, __ATOMIC_ACQ_REL)) return;
  sf_log_debug(reason);
}

static bool is_wanted_later(int wanted) { return wanted == SF_WANTED_LATER || wanted == SF_WANTED_FOR_OPENS_LATER; }

void sf_calls_start(void) {
  const bool traced = sf_trace_on();
  for (int nr = 0; nr < SF_CALLS; nr++) {
    const int wanted = sf_bypass_wants(nr);
    const int family = wanted == SF_UNWANTED ? 0 : is_wanted_later(wanted) ? SF_CLASS_LATER : SF_CLASS_BYPASS;
    sf_hook_class[nr] = (uint8_t)(family | (traced && sf_trace_wants(nr) ? SF_CLASS_TRACE : 0));
  }
  for (int nr : kOwn) sf_hook_class[nr] |= SF_CLASS_OWN;
}

// A file on a mount is open: its number is watched from now on.
static void watch_numbers(void) {
  for (int nr = 0; nr < SF_CALLS; nr++) {
    if (!is_wanted_later(sf_bypass_wants(nr)) || __atomic_load_n(&switched_off, __ATOMIC_ACQUIRE)) continue;
    __atomic_fetch_or(&sf_hook_class[nr], SF_CLASS_BYPASS, __ATOMIC_RELAXED);
  }
}

void sf_calls_rest(void) {
  for (uint8_t &kind : sf_hook_class) kind &= (uint8_t)~SF_CLASS_LATER;
  sf_bypass_at_first_file(watch_numbers);
}

int sf_call_is_critical(int32_t nr) {
  if (nr >= 0 && nr < SF_CALLS && !(sf_hook_class[nr] & (SF_CLASS_BYPASS | SF_CLASS_OWN))) return 0;
  static const int kQueries[] = {__NR_stat,       __NR_lstat,     __NR_fstat,     __NR_newfstatat, __NR_statx,
                                 __NR_access,     __NR_faccessat, __NR_faccessat2, __NR_readlink,  __NR_readlinkat,
                                 __NR_getxattr,   __NR_lgetxattr, __NR_fgetxattr, __NR_listxattr,  __NR_llistxattr,
                                 __NR_flistxattr, __NR_statfs,    __NR_fstatfs,   __NR_pread64,    __NR_preadv,
                                 __NR_getcwd,     __NR_exit,      __NR_exit_group};
  for (int query : kQueries)
    if (nr == query) return 0;
  // Where one that matters to placeholders only cannot be patched, there are no placeholders.
  return nr < 0 || sf_hook_class[nr] & SF_CLASS_OWN || sf_bypass_wants(nr) != SF_WANTED_FOR_OPENS;
}

int sf_call_needs_own_syscall(int32_t nr) {
  return nr < 0 || nr == __NR_clone || nr == __NR_clone3 || nr == __NR_vfork;
}
