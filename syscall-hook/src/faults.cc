// SIGSEGV and SIGBUS.
//
// sf_bypass_call() reads and writes the caller's memory without asking the kernel first. Where that faults, the call
// is abandoned and the original one is made, which then returns EFAULT as it always did. For that the kernel's
// disposition of both signals is our handler, all the time, and what the program set with sigaction is remembered
// here: it sees its own values when it asks, and its handler is called with what the kernel gave, under its own mask
// and flags.
//
// A blocked signal would kill the process instead of reaching our handler. So neither of the two is ever blocked in the
// kernel by the program: rt_sigprocmask and sa_mask are taken without them, and what the program believes blocked is
// remembered per thread. A fault where they are "blocked" terminates, as in the kernel. One that is sent is blocked
// for real and sent again: from then on it is pending like any other.
//
// When a handler returns, the kernel takes the mask from the saved context, which the handler may have changed, and
// undoes what sigprocmask did meanwhile. So the program's handlers are called by an entry of ours (sf_hook_handler_0,
// _1), which shows them what they believe blocked in the context, and takes it from there afterwards.
//
// A third signal is libc's own, by which it cancels threads: its handler unwinds the stack. A policy image has no
// unwind information, so a call that is found in one is put back to where it came from first (leave_policy).
//
// How a signal is recognised as ours: the kernel raised it for an instruction (si_code > 0), that instruction is
// in this library or in a guarded range, outside of the stub, and the thread's innermost frame lies just above the
// stack pointer. The frame word may be stale after a longjmp out of a handler; then no instruction of ours is running.
#include "faults.h"

#include <asm/unistd.h>
#include <errno.h>
#include <stddef.h>

#include "calls.h"
#include "shortfuse/bypass/syscalls.h"
#include "shortfuse/bypass/trace.h"
#include "shortfuse/hook/hook.h"

namespace {

// The kernel's own layouts; the headers of libc and of the kernel do not go together here.
struct KernelAction {
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};
struct SignalInfo {
  int32_t signo, error, code;
};
struct UserContext {
  uint64_t flags;
  UserContext *link;
  uint64_t stack_sp;
  int32_t stack_flags, pad;
  uint64_t stack_size;
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip;
  uint64_t other_registers[15];
  uint64_t mask;
};
static_assert(offsetof(UserContext, rip) == 168 && offsetof(UserContext, rsp) == 160 &&
              offsetof(UserContext, mask) == 296);
// What sf_hook_fault() returns in rax and rdx.
struct Verdict {
  uint64_t handler;    // the program's, to be called; 0: return from the signal
  uint64_t in_kernel;  // for sf_hook_handler_done(): those of the two that the kernel has in the saved mask
};

constexpr int kSegv = 11, kBus = 7, kCancel = 32, kSetIds = 33;  // the last two are libc's own
constexpr int kSignals[] = {kSegv, kBus};
constexpr uint64_t kDefault = 0, kIgnore = 1;
constexpr uint64_t kSigInfo = 4, kRestorer = 0x04000000, kOnStack = 0x08000000, kResetHand = 0x80000000;
constexpr uint64_t kMaskBytes = 8;
constexpr uint64_t kNoDefer = 0x40000000;
constexpr int kBlock = 0, kUnblock = 1, kSetMask = 2;
constexpr int kThreadKill = -6;  // si_code of tkill and tgkill
constexpr int kSignalMax = 64;
constexpr uint64_t bit_of(int signo) { return 1ull << (signo - 1); }
constexpr uint64_t kFaultBits = bit_of(kSegv) | bit_of(kBus);
constexpr uint64_t kFrameReach = 512 * 1024;  // no call in here uses more stack

struct Virtual {
  uint32_t version;  // odd: being written
  uint32_t lock;
  KernelAction action;
};
Virtual virtual_actions[2];

// Which of the two signals the program put into sa_mask of each signal (they are not there in the kernel).
uint8_t masked_while_handling[kSignalMax + 1];

// The program's handlers of other signals. Each has two places, each with an entry of its own, taken in turns: so a
// handler is never called with the flags and the mask of another, which the kernel had before.
constexpr uint64_t kPlaces = 2;
uint64_t handlers[kSignalMax + 1][kPlaces];
uint8_t turns[kSignalMax + 1];
uint64_t handler_entry(unsigned place) { return (uint64_t)(place ? &sf_hook_handler_1 : &sf_hook_handler_0); }

constexpr uint64_t kNotFollowed = ~0ull;  // Verdict.in_kernel where this thread's words are another process's

// Two bits: as they stand in a mask of signals, and in a byte.
uint8_t pack(uint64_t mask) { return (uint8_t)((mask & bit_of(kSegv) ? 1 : 0) | (mask & bit_of(kBus) ? 2 : 0)); }
uint64_t unpack(uint8_t bits) { return (bits & 1 ? bit_of(kSegv) : 0) | (bits & 2 ? bit_of(kBus) : 0); }

long kernel_mask(int how, const uint64_t *set, uint64_t *old) {
  return SF_SYS4(__NR_rt_sigprocmask, how, set, old, kMaskBytes);
}

struct Range {
  uint64_t start, end;
};
Range ranges[SF_GUARD_RANGES];

Virtual *virtual_of(int signo) {
  return signo == kSegv ? &virtual_actions[0] : signo == kBus ? &virtual_actions[1] : nullptr;
}

long kernel_action(int signo, const KernelAction *action, KernelAction *old) {
  return SF_SYS4(__NR_rt_sigaction, signo, action, old, kMaskBytes);
}

bool is_ours(const KernelAction &action) { return action.handler == (uint64_t)&sf_hook_fault_entry; }

// What the kernel gets for an action of the program's. Everything is blocked while our handler decides.
KernelAction installed_for(const KernelAction &wanted) {
  KernelAction action = wanted;
  action.handler = (uint64_t)&sf_hook_fault_entry;
  if (wanted.handler == kDefault || wanted.handler == kIgnore) action.flags = (wanted.flags & kRestorer) | kOnStack;
  action.flags = (action.flags | kSigInfo) & ~(kResetHand | kNoDefer);
  action.mask = ~kFaultBits;
  if (!(action.flags & kRestorer)) {
    action.flags |= kRestorer;
    action.restorer = (uint64_t)&sf_hook_restorer;
  }
  return action;
}

// The lock of one virtual action: the holder's thread id. Signals are blocked while it is held, so no handler can wait
// for its own thread, and a holder needs a few system calls only. One that is no thread of this process was lost in
// a fork.
uint64_t lock_action(Virtual *v) {
  uint64_t all = ~0ull, before = 0;
  kernel_mask(kSetMask, &all, &before);
  long pid = SF_SYS0(__NR_getpid);
  auto self = (uint32_t)SF_SYS0(__NR_gettid);
  for (unsigned tries = 1;; tries++) {
    uint32_t holder = 0;
    if (__atomic_compare_exchange_n(&v->lock, &holder, self, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) break;
    bool lost = tries % 256 == 0 && SF_SYS3(__NR_tgkill, pid, holder, 0) == -ESRCH;
    if (lost && __atomic_compare_exchange_n(&v->lock, &holder, self, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) break;
    SF_SYS0(__NR_sched_yield);
  }
  return before;
}

void unlock_action(Virtual *v, uint64_t before) {
  __atomic_store_n(&v->lock, 0, __ATOMIC_RELEASE);
  kernel_mask(kSetMask, &before, nullptr);
}

// A sequence lock: the handler of another thread may read while this thread writes (REQUIRES: locked).
void publish(Virtual *v, const KernelAction &action) {
  uint32_t version = v->version | 1;
  __atomic_store_n(&v->version, version, __ATOMIC_RELAXED);
  __atomic_thread_fence(__ATOMIC_RELEASE);
  __atomic_store_n(&v->action.handler, action.handler, __ATOMIC_RELAXED);
  __atomic_store_n(&v->action.flags, action.flags, __ATOMIC_RELAXED);
  __atomic_store_n(&v->action.restorer, action.restorer, __ATOMIC_RELAXED);
  __atomic_store_n(&v->action.mask, action.mask, __ATOMIC_RELAXED);
  __atomic_store_n(&v->version, version + 1, __ATOMIC_RELEASE);
}

KernelAction read_action(const Virtual *v) {
  KernelAction action;
  for (int tries = 0; tries < 100000; tries++) {
    uint32_t version = __atomic_load_n(&v->version, __ATOMIC_ACQUIRE);
    action.handler = __atomic_load_n(&v->action.handler, __ATOMIC_RELAXED);
    action.flags = __atomic_load_n(&v->action.flags, __ATOMIC_RELAXED);
    action.restorer = __atomic_load_n(&v->action.restorer, __ATOMIC_RELAXED);
    action.mask = __atomic_load_n(&v->action.mask, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (!(version & 1) && __atomic_load_n(&v->version, __ATOMIC_RELAXED) == version) break;
  }
  return action;
}

extern "C" __attribute__((visibility("hidden"))) const uint8_t __ehdr_start[];
extern "C" __attribute__((visibility("hidden"))) const uint8_t etext[];
extern "C" __attribute__((visibility("hidden"))) const uint8_t sf_hook_stub_end[];

bool may_touch_callers_memory(uint64_t rip) {
  if (rip >= (uint64_t)__ehdr_start && rip < (uint64_t)etext) {
    bool stub = rip >= (uint64_t)&sf_hook_enter && rip < (uint64_t)sf_hook_stub_end;
    bool slot = rip - (uint64_t)sf_hook_slots < SF_SLOTS_BYTES;
    return !stub && !slot;
  }
  for (const Range &range : ranges) {
    uint64_t end = __atomic_load_n(&range.end, __ATOMIC_ACQUIRE);
    if (end && rip < end && rip >= __atomic_load_n(&range.start, __ATOMIC_RELAXED)) return true;
  }
  return false;
}

// The innermost call in progress, when `context` is in the middle of it.
sf_frame *frame_of(const UserContext *context) {
  sf_frame *frame = sf_hook_thread.frame;
  uint64_t at = (uint64_t)frame;
  return frame && context->rsp <= at && at - context->rsp <= kFrameReach ? frame : nullptr;
}

// Continues in the stub, as if sf_hook_call() had returned. Returns whether the fault was ours.
bool abandon_call(UserContext *context) {
  sf_frame *frame = frame_of(context);
  if (!frame) return false;
  uint64_t at = (uint64_t)frame;
  if (frame->faulted == SF_FAULT_RECALLING || frame->faulted == SF_FAULT_RETURNING) return false;
  frame->faulted++;
  context->rip = (uint64_t)&sf_hook_bail;
  context->rbp = at;
  context->rsp = at & ~15ull;
  return true;
}

// Back to the site, as if its call had not been looked at yet: the original one is what remains to be made there. Where
// the call has been made already, behind it.
void leave_policy(UserContext *context) {
  sf_frame *frame = frame_of(context);
  if (!frame || frame->faulted != SF_FAULT_RECALL) return;
  const int traced = sf_trace_interrupted(context->rsp, (uint64_t)frame);
  if (!traced && !sf_bypass_in_policy(&frame->call)) return;
  if (!traced) sf_bypass_abandoned(&frame->call);
  const bool made = traced == SF_TRACE_AFTER;
  sf_hook_thread.frame = frame->previous;
  context->rip = made ? frame->ret : frame->ret - 2;
  context->rsp = (uint64_t)frame + SF_FRAME_BYTES + SF_RED_ZONE;
  context->rax = (uint64_t)(made ? frame->result : frame->call.nr);
  context->rdi = (uint64_t)frame->call.arg[0], context->rsi = (uint64_t)frame->call.arg[1];
  context->rdx = (uint64_t)frame->call.arg[2], context->r10 = (uint64_t)frame->call.arg[3];
  context->r8 = (uint64_t)frame->call.arg[4], context->r9 = (uint64_t)frame->call.arg[5];
  context->rbp = frame->rbp, context->rbx = frame->rbx;
  context->r12 = frame->r12, context->r13 = frame->r13, context->r14 = frame->r14, context->r15 = frame->r15;
}

uint64_t cancel_handler;  // libc's, once it has one

// To be delivered once more, when this handler has returned.
void send_again(int signo, const SignalInfo *info) {
  long pid = SF_SYS0(__NR_getpid), tid = SF_SYS0(__NR_gettid);
  if (info->code == kThreadKill) SF_SYS4(__NR_rt_tgsigqueueinfo, pid, tid, signo, info);
  else SF_SYS3(__NR_rt_sigqueueinfo, pid, signo, info);
}

// The signal's default: terminate, with a core of the program as it stood. A fault happens again when this
// handler returns; what somebody sent does not.
void take_default(int signo, const SignalInfo *info) {
  KernelAction action = {};
  kernel_action(signo, &action, nullptr);
  if (info->code <= 0) send_again(signo, info);
}

// A handler of the program's is about to run, with `more` blocked. The context says what will be when it returns.
Verdict follow_handler(uint64_t handler, UserContext *context, uint8_t more) {
  if (sf_hook_is_inert()) return {handler, kNotFollowed};
  const uint64_t in_kernel = context->mask & kFaultBits;
  context->mask |= unpack(sf_hook_thread.blocked);
  sf_hook_thread.blocked |= more;
  return {handler, in_kernel};
}

}  // namespace

// Called by sf_hook_fault_entry.
extern "C" Verdict sf_hook_fault(int signo, SignalInfo *info, UserContext *context) {
  constexpr Verdict kReturn = {0, kNotFollowed};
  const bool fault = info->code > 0;  // otherwise somebody sent the signal
  if (fault && sf_trace_copy_faulted(&context->rip)) return kReturn;
  if (fault && may_touch_callers_memory(context->rip) && abandon_call(context)) return kReturn;
  Virtual *v = virtual_of(signo);
  if (!v) return kReturn;
  const uint8_t blocked = sf_hook_thread.blocked;
  const bool is_blocked = blocked & pack(bit_of(signo));
  KernelAction action = read_action(v);
  if (is_blocked && !fault) {
    context->mask |= bit_of(signo);
    send_again(signo, info);
    return kReturn;
  }
  if (action.handler == kIgnore && !fault) return kReturn;
  if (action.handler == kDefault || action.handler == kIgnore || is_blocked) {
    take_default(signo, info);
    return kReturn;
  }
  if (action.flags & kResetHand && !sf_hook_is_inert()) {
    uint64_t expected = action.handler;
    __atomic_compare_exchange_n(&v->action.handler, &expected, kDefault, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  }
  uint64_t mask = action.mask | (action.flags & kNoDefer ? 0 : bit_of(signo));
  const uint64_t for_handler = (mask & ~kFaultBits) | context->mask;
  const Verdict verdict = follow_handler(action.handler, context, pack(mask));
  kernel_mask(kSetMask, &for_handler, nullptr);
  return verdict;
}

// Called by sf_hook_handler_0 and _1.
extern "C" Verdict sf_hook_handler(int signo, SignalInfo *, UserContext *context, unsigned place) {
  const uint64_t handler = __atomic_load_n(&handlers[signo][place], __ATOMIC_ACQUIRE);
  return follow_handler(handler, context, __atomic_load_n(&masked_while_handling[signo], __ATOMIC_RELAXED));
}

// Called by sf_hook_cancel_entry.
extern "C" uint64_t sf_hook_cancelled(int, SignalInfo *, UserContext *context) {
  leave_policy(context);
  return __atomic_load_n(&cancel_handler, __ATOMIC_ACQUIRE);
}

// The program's handler returned normally, and the kernel is about to restore the mask in the context.
extern "C" void sf_hook_handler_done(uint64_t in_kernel, UserContext *context) {
  if (in_kernel == kNotFollowed) return;
  sf_hook_thread.blocked = pack(context->mask);
  context->mask &= ~kFaultBits | in_kernel;
}

extern "C" int sf_hook_abandon(sf_frame *frame) {
  if (frame->faulted == SF_FAULT_RETURNING) {
    frame->result = -EFAULT;
    return SF_HANDLED;
  }
  sf_bypass_abandoned(&frame->call);
  return sf_call_make_traced(frame);
}

int sf_faults_start(uint64_t *mask) {
  for (int signo : kSignals) {
    Virtual *v = virtual_of(signo);
    long error = kernel_action(signo, nullptr, &v->action);
    if (error) return (int)error;
    KernelAction action = installed_for(v->action);
    error = kernel_action(signo, &action, nullptr);
    if (error) return (int)error;
  }
  // What the program's parent left blocked.
  sf_hook_thread.blocked = pack(*mask);
  *mask &= ~kFaultBits;
  return 0;
}

namespace {

// What the kernel gets for a handler of another signal.
uint64_t enter_handler(int signo, uint64_t handler) {
  const unsigned place = __atomic_xor_fetch(&turns[signo], 1, __ATOMIC_ACQ_REL) & 1;
  __atomic_store_n(&handlers[signo][place], handler, __ATOMIC_RELEASE);
  return handler_entry(place);
}

// The program's own, for what the kernel says.
uint64_t handler_behind(int signo, uint64_t handler) {
  for (unsigned place = 0; place < kPlaces; place++)
    if (handler == handler_entry(place)) return __atomic_load_n(&handlers[signo][place], __ATOMIC_ACQUIRE);
  return handler;
}

// Signals other than ours: the kernel has the program's action, less two bits of the mask, and an entry of ours.
int other_sigaction(sf_frame *frame, int signo, const KernelAction *wanted_at, KernelAction *old_at) {
  if (signo < 1 || signo > kSignalMax) return SF_MAKE_CALL;
  uint8_t *masked = &masked_while_handling[signo];
  KernelAction wanted = {}, old = {};
  if (wanted_at) wanted = *wanted_at;  // a fault here: the kernel is asked, and says EFAULT
  frame->faulted = SF_FAULT_RESULT;
  const uint8_t new_bits = pack(wanted.mask), old_bits = __atomic_load_n(masked, __ATOMIC_RELAXED);
  if (!sf_hook_is_inert()) wanted.mask &= ~kFaultBits;
  const uint64_t former = __atomic_load_n(&cancel_handler, __ATOMIC_RELAXED);
  if (signo == kCancel && wanted.handler > kIgnore) {
    __atomic_store_n(&cancel_handler, wanted.handler, __ATOMIC_RELEASE);
    wanted.handler = (uint64_t)&sf_hook_cancel_entry;
  } else if (signo != kSetIds && wanted.handler > kIgnore && !sf_hook_is_inert()) {
    wanted.handler = enter_handler(signo, wanted.handler);
  }
  frame->result = kernel_action(signo, wanted_at ? &wanted : nullptr, &old);
  if (frame->result) return SF_HANDLED;
  old.handler = old.handler == (uint64_t)&sf_hook_cancel_entry ? former : handler_behind(signo, old.handler);
  old.mask |= unpack(old_bits);
  if (wanted_at && !sf_hook_is_inert()) __atomic_store_n(masked, new_bits, __ATOMIC_RELAXED);
  if (old_at) *old_at = old;  // a fault here: done already, and the result is -EFAULT
  return SF_HANDLED;
}

// REQUIRES: locked. Installs our handler for the program's action and remembers the latter.
long exchange_action(Virtual *v, int signo, KernelAction wanted, KernelAction *old) {
  KernelAction action = installed_for(wanted), now = {};
  long result = kernel_action(signo, &action, old);
  if (result) return result;
  // The kernel drops the flags and mask bits that it does not know or allow.
  constexpr uint64_t kReplaced = kSigInfo | kRestorer | kResetHand | kNoDefer | kOnStack;
  kernel_action(signo, nullptr, &now);
  if (wanted.handler != kDefault && wanted.handler != kIgnore)
    wanted.flags = (now.flags & ~kReplaced) | (wanted.flags & kReplaced);
  wanted.mask &= now.mask | kFaultBits;
  publish(v, wanted);
  return 0;
}

}  // namespace

int sf_faults_sigaction(sf_frame *frame) {
  int signo = (int)frame->call.arg[0];
  auto wanted_at = (const KernelAction *)frame->call.arg[1];
  auto old_at = (KernelAction *)frame->call.arg[2];
  if (frame->call.arg[3] != (long)kMaskBytes) return SF_MAKE_CALL;
  Virtual *v = virtual_of(signo);
  if (!v) return other_sigaction(frame, signo, wanted_at, old_at);
  KernelAction wanted = {}, old = {};
  if (wanted_at) wanted = *wanted_at;  // a fault here: the kernel is asked, and says EFAULT
  frame->faulted = SF_FAULT_RESULT;
  if (sf_hook_is_inert()) {  // a vfork child changes its own disposition in the kernel, not its parent's here
    frame->result = kernel_action(signo, wanted_at ? &wanted : nullptr, &old);
    if (is_ours(old)) old = read_action(v);
  } else {
    uint64_t before = lock_action(v);
    KernelAction current = v->action;
    frame->result = wanted_at ? exchange_action(v, signo, wanted, &old) : kernel_action(signo, nullptr, &old);
    if (is_ours(old)) old = current;
    unlock_action(v, before);
  }
  if (frame->result == 0 && old_at) *old_at = old;  // a fault here: done already, and the result is -EFAULT
  return SF_HANDLED;
}

int sf_faults_sigprocmask(sf_frame *frame) {
  int how = (int)frame->call.arg[0];
  auto set_at = (const uint64_t *)frame->call.arg[1];
  auto old_at = (uint64_t *)frame->call.arg[2];
  // A vfork child's mask is its own. With an unknown `how` only the kernel's order of checks matters (some programs
  // ask that way whether memory is readable).
  if (sf_hook_is_inert() || frame->call.arg[3] != (long)kMaskBytes || how < kBlock || how > kSetMask)
    return SF_MAKE_CALL;
  uint64_t set = set_at ? *set_at : 0, old = 0;
  frame->faulted = SF_FAULT_RESULT;
  const uint8_t before = sf_hook_thread.blocked, bits = pack(set);
  if (set_at) {
    // First, so that what becomes unblocked by the call below finds it so.
    sf_hook_thread.blocked = how == kBlock ? before | bits : how == kUnblock ? before & ~bits : bits;
    if (how != kUnblock) set &= ~kFaultBits;
  }
  frame->result = kernel_mask(how, set_at ? &set : nullptr, &old);
  if (frame->result == 0 && old_at) *old_at = old | unpack(before);
  return SF_HANDLED;
}

void sf_faults_before_vfork(void) {
  uint64_t blocked = unpack(sf_hook_thread.blocked), before = 0;
  if (blocked && kernel_mask(kBlock, &blocked, &before) == 0)
    sf_hook_thread.blocked_for_child |= pack(blocked & ~before);
}

void sf_faults_after_vfork(void) {
  uint64_t unblock = unpack(sf_hook_thread.blocked_for_child);
  sf_hook_thread.blocked_for_child = 0;
  if (unblock) kernel_mask(kUnblock, &unblock, nullptr);
}

uint64_t sf_faults_before_exec(void) {
  uint64_t changed = 0, blocked = sf_hook_is_inert() ? 0 : unpack(sf_hook_thread.blocked), before = 0;
  for (int signo : kSignals) {
    if (read_action(virtual_of(signo)).handler != kIgnore) continue;
    KernelAction now = {}, ignore = {};
    ignore.handler = kIgnore;
    if (kernel_action(signo, nullptr, &now) || !is_ours(now)) continue;
    if (kernel_action(signo, &ignore, nullptr) == 0) changed |= bit_of(signo);
  }
  if (blocked && kernel_mask(kBlock, &blocked, &before) == 0) changed |= (blocked & ~before) << 1;
  return changed;
}

void sf_faults_after_exec(uint64_t changed) {
  uint64_t unblock = changed >> 1 & kFaultBits;
  if (unblock) kernel_mask(kUnblock, &unblock, nullptr);
  for (int signo : kSignals) {
    if (!(changed & bit_of(signo))) continue;
    KernelAction action = installed_for(read_action(virtual_of(signo)));
    kernel_action(signo, &action, nullptr);
  }
}

extern "C" int sf_hook_guard_range(const void *start, size_t bytes) {
  for (Range &range : ranges) {
    uint64_t free_mark = 0;
    // 1 claims the entry: no instruction address is below it, so readers see an empty range meanwhile.
    if (!__atomic_compare_exchange_n(&range.end, &free_mark, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) continue;
    __atomic_store_n(&range.start, (uint64_t)start, __ATOMIC_RELAXED);
    __atomic_store_n(&range.end, (uint64_t)start + bytes, __ATOMIC_RELEASE);
    return 0;
  }
  return -1;
}

extern "C" void sf_hook_unguard_range(const void *start) {
  for (Range &range : ranges)
    if (__atomic_load_n(&range.end, __ATOMIC_ACQUIRE) > 1 && range.start == (uint64_t)start)
      __atomic_store_n(&range.end, 0, __ATOMIC_RELEASE);
}
