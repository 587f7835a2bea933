// A trace session in this process: joining it, and running its programs.
//
// Image and session are files of the command that made them, open there and found by /proc; what is mapped stays when
// the command is gone. Forked children go on with the mappings they inherit; what an exec starts joins anew. The memory
// of the session is written by every traced process: programs are found by checked indices, maps check by themselves.
//
// A run needs a "CPU", a number that no other run has at the same time in any process: a lane, taken by a thread with
// its first traced call and given back when it ends (or taken from it, when it is found gone). Threads that find none
// take turns on the last "CPU". A program is never interrupted by itself on one "CPU": a signal handler's calls pass
// unseen while its thread is inside one, and are counted.
#include "trace_memory.h"

#include "kernel.h"
#include "process.h"
#include "shortfuse/bypass/trace.h"
#include "shortfuse/vm/trace_session.h"
#include "text.h"
#include "trace_join.h"

namespace shortfuse::bypass {

Trace trace;

namespace {

constexpr uint32_t kCrowd = SF_TRACE_LANES;          // the "CPU" that is taken in turns
constexpr uint64_t kTurnWaitNs = 1'000'000'000;      // for a turn, before a call goes by unseen
constexpr int kTurnYields = 8;                       // at first; then the thread sleeps between looks
constexpr uintptr_t kStackReach = 64u << 10;         // upwards from a run: what a handler never returned to
constexpr uint64_t kRunMark = 0x6e757265636172ull;   // and the address it stands at
constexpr int kOnAlternateStack = 1;

// One thread's part. A forked child's copy is not its own: another generation.
struct Seat {
  uint32_t generation;
  uint32_t pid, tid;
  uint32_t cpu;
  const uint64_t *running; // a mark on the stack of the run under way; null: none
  uint32_t side;           // of that run
  uint64_t random;
};
__thread Seat seat __attribute__((tls_model("initial-exec")));

// Who makes the call: the thread, or a vfork child on its words.
struct Caller {
  uint32_t pid, tid;
  bool borrowed;
};

bool thread_is_gone(uint32_t tid) { return SF_SYS2(__NR_tkill, tid, 0) == -ESRCH; }

bool take(uint32_t *word, uint32_t from, uint32_t to) {
  return __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

uint32_t take_lane(uint32_t tid) {
  sf_trace_session *s = trace.session;
  for (uint32_t i = 0; i < SF_TRACE_LANES; ++i) {
    if (__atomic_load_n(&s->lane[i], __ATOMIC_RELAXED) == tid || take(&s->lane[i], 0, tid)) return i;
  }
  for (uint32_t i = 0; i < SF_TRACE_LANES; ++i) {
    const uint32_t owner = __atomic_load_n(&s->lane[i], __ATOMIC_RELAXED);
    if ((owner == 0 || thread_is_gone(owner)) && take(&s->lane[i], owner, tid)) return i;
  }
  return kCrowd;
}

bool take_turn(uint32_t tid) {
  uint32_t *word = &trace.session->crowd;
  uint64_t end_ns = 0;
  for (int tries = 0;; ++tries) {
    if (take(word, 0, tid)) return true;
    const uint32_t holder = __atomic_load_n(word, __ATOMIC_RELAXED);
    if (holder == tid) return true;  // lost by a longjmp out of a handler
    if (tries % kTurnYields == kTurnYields - 1) {
      if (holder != 0 && thread_is_gone(holder) && take(word, holder, tid)) return true;
      const uint64_t now_ns = clock_ns();
      if (end_ns == 0) end_ns = now_ns + kTurnWaitNs;
      if (now_ns >= end_ns) return false;
    }
    const uint64_t nap[2] = {0, 20'000};  // of seconds and nanoseconds
    if (tries < kTurnYields) SF_SYS0(__NR_sched_yield);
    else SF_SYS2(__NR_nanosleep, nap, nullptr);
  }
}

uint64_t mark_of(const uint64_t *at) { return kRunMark ^ reinterpret_cast<uintptr_t>(at); }

bool is_marked(const uint64_t *at) {
  uint64_t word = 0;
  const auto to = reinterpret_cast<uintptr_t>(&word), from = reinterpret_cast<uintptr_t>(at);
  return read_memory(to, from, sizeof word, false) == 0 && word == mark_of(at);
}

// A handler that interrupted a run of this thread, or what a handler that never returned has left? It has left a run
// whose stack is above this call's by now, or was written over, or is the alternate one while this call's is not.
bool is_inside_a_run(const void *here) {
  const uint64_t *running = seat.running;
  if (running == nullptr) return false;
  struct {
    uintptr_t low;
    int flags;
    size_t bytes;
  } other = {};
  SF_SYS2(__NR_sigaltstack, nullptr, &other);
  const bool on_other = (other.flags & kOnAlternateStack) != 0;
  const bool run_on_other = reinterpret_cast<uintptr_t>(running) - other.low < other.bytes;
  const uintptr_t above = reinterpret_cast<uintptr_t>(here) - reinterpret_cast<uintptr_t>(running);
  const bool gone = !is_marked(running) || (run_on_other && !on_other) ||
                    (on_other == run_on_other && above < kStackReach);
  if (gone) seat.running = nullptr;
  return !gone;
}

// False: this call is not to be seen.
bool sit_down(const Caller &who, sf_trace_side side, uint64_t *mark, uint32_t *cpu) {
  if (is_inside_a_run(mark)) return false;
  *cpu = who.borrowed && seat.generation != g.generation ? kCrowd : seat.cpu;
  if (*cpu == kCrowd && !take_turn(who.tid)) return false;
  *mark = mark_of(mark);
  seat.side = side;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  seat.running = mark;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  return true;
}

void stand_up(uint32_t cpu) {
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  seat.running = nullptr;
  if (cpu == kCrowd) __atomic_store_n(&trace.session->crowd, 0u, __ATOMIC_RELEASE);
}

// False: this process takes no part any more.
bool know_thread(bool borrowed, Caller *who) {
  *who = {seat.pid, seat.tid, borrowed};
  if (!borrowed) {
    const uint32_t now = __atomic_load_n(&g.process->generation, __ATOMIC_RELAXED);
    // 0 of both: a new thread of a forked child that has made no call yet.
    if (now != 0 && seat.generation == now) [[likely]] return true;
    const Process *process = process_now();
    // Thread ids mean something else in another namespace, and locks are known by them.
    if (process == nullptr || trace_namespace() != trace.session->pid_namespace) return sf_trace_leave(), false;
    seat = {process->generation, process->pid, static_cast<uint32_t>(SF_SYS0(__NR_gettid)), 0, nullptr, 0, 0};
    seat.cpu = take_lane(seat.tid);
    seat.random = clock_ns() ^ uint64_t{seat.tid} << 32;
    *who = {seat.pid, seat.tid, false};
    return true;
  }
  who->pid = static_cast<uint32_t>(SF_SYS0(__NR_getpid));
  who->tid = static_cast<uint32_t>(SF_SYS0(__NR_gettid));
  return true;
}

// ---- what programs can call

Caller &caller_of(void *state) { return *static_cast<Caller *>(state); }
uint64_t host_none(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) { return 0; }
uint64_t host_ktime(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) { return clock_ns(); }
uint64_t host_random(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) {
  seat.random = seat.random * 6364136223846793005u + 1442695040888963407u;
  return seat.random >> 32;
}
uint64_t host_pid_tgid(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *state) {
  return uint64_t{caller_of(state).pid} << 32 | caller_of(state).tid;
}
uint64_t host_uid_gid(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) {
  return static_cast<uint64_t>(SF_SYS0(__NR_getgid)) << 32 | static_cast<uint32_t>(SF_SYS0(__NR_getuid));
}
uint64_t host_comm(uint64_t to, uint64_t size, uint64_t, uint64_t, uint64_t, void *) {
  char name[16] = {};
  SF_SYS2(__NR_prctl, PR_GET_NAME, name);
  char *out = reinterpret_cast<char *>(to);
  for (uint64_t i = 0; i < size; ++i) out[i] = i + 1 < size && i < sizeof name ? name[i] : '\0';
  return 0;
}
uint64_t host_read(uint64_t to, uint64_t size, uint64_t from, uint64_t, uint64_t, void *state) {
  return static_cast<uint64_t>(read_memory(to, from, static_cast<uint32_t>(size), caller_of(state).borrowed));
}
uint64_t host_read_text(uint64_t to, uint64_t size, uint64_t from, uint64_t, uint64_t, void *state) {
  return static_cast<uint64_t>(read_text(to, from, static_cast<uint32_t>(size), caller_of(state).borrowed));
}

struct Table {
  sf_host_fn fn[SF_HOST_COUNT];
  constexpr Table() : fn() {
    for (auto &f : fn) f = host_none;
#define X(number, name) fn[number] = name;
    SF_VM_FUNCTIONS(X)
#undef X
    fn[SF_HOST_KTIME] = host_ktime;
    fn[SF_HOST_PRANDOM] = host_random;
    fn[SF_HOST_PID_TGID] = host_pid_tgid;
    fn[SF_HOST_UID_GID] = host_uid_gid;
    fn[SF_HOST_COMM] = host_comm;
    fn[SF_HOST_PROBE_READ] = host_read;
    fn[SF_HOST_PROBE_TEXT] = host_read_text;
  }
};
constexpr Table kTable;

// The call's programs on one side, in order. A negative errno: the call is refused.
int run_programs(sf_trace_side side, sf_call_ctx *ctx, Caller *who) {
  const sf_trace_session *s = trace.session;
  if (__atomic_load_n(&s->stopped, __ATOMIC_RELAXED) != 0) return 0;
  uint64_t mark;
  uint32_t cpu;
  if (!sit_down(*who, side, &mark, &cpu)) {
    __atomic_add_fetch(&trace.session->missed, 1, __ATOMIC_RELAXED);
    return 0;
  }
  ctx->pid = who->pid;
  ctx->tid = who->tid;
  sf_vm_env env = {};
  env.host = kTable.fn;
  env.host_state = who;
  env.map_value = trace.value;
  env.map = trace.handle;
  env.cpu = cpu;
  env.thread = who->tid;
  int verdict = 0;
  for (uint32_t at = __atomic_load_n(&s->chain_of[side][ctx->nr], __ATOMIC_RELAXED); at < SF_TRACE_CHAIN_MAX; ++at) {
    const uint32_t program = __atomic_load_n(&s->chain[at], __ATOMIC_RELAXED);
    if (program == 0 || program > trace.image->programs) break;
    verdict = static_cast<int>(sf_program_run(trace.image, program - 1, ctx, &env));
    if (side == SF_TRACE_ENTER && verdict < 0 && verdict >= -4095) break;
    verdict = 0;
  }
  stand_up(cpu);
  return verdict;
}

void fill(sf_call_ctx *ctx, const sf_call &call) {
  ctx->size = sizeof *ctx;
  ctx->nr = static_cast<uint32_t>(call.nr);
  for (int i = 0; i < 6; ++i) ctx->arg[i] = static_cast<uint64_t>(call.arg[i]);
}

}  // namespace
}  // namespace shortfuse::bypass

using namespace shortfuse::bypass;

extern "C" {

int sf_trace_wants(long nr) { return nr >= 0 && nr < SF_CALL_NUMBERS ? trace.plan[nr] : 0; }

int sf_trace_enter(const struct sf_call *call, int borrowed, uint64_t *started, long *result) {
  *started = 0;
  const uint8_t plan = trace.plan[call->nr];
  Caller who;
  if (plan == 0 || !know_thread(borrowed, &who)) return 0;
  int verdict = 0;
  if (plan & kHasEnter) {
    sf_call_ctx ctx;
    fill(&ctx, *call);
    ctx.result = 0;
    ctx.duration_ns = 0;
    verdict = run_programs(SF_TRACE_ENTER, &ctx, &who);
    const bool must_happen = call->nr == __NR_exit || call->nr == __NR_exit_group;
    if (must_happen) verdict = 0;
  }
  if (plan & SF_TRACE_RETURN) *started = clock_ns();
  *result = verdict;
  return verdict != 0;
}

void sf_trace_return(const struct sf_call *call, int borrowed, uint64_t started, long result) {
  // Nothing more, not even a look at the clock, where the call itself has ended the trace.
  if (!(trace.plan[call->nr] & SF_TRACE_RETURN)) return;
  const uint64_t now = clock_ns();
  Caller who;
  if (!know_thread(borrowed, &who)) return;
  sf_call_ctx ctx;
  fill(&ctx, *call);
  ctx.result = result;
  ctx.duration_ns = started != 0 && now > started ? now - started : 0;
  run_programs(SF_TRACE_EXIT, &ctx, &who);
}

int sf_trace_before_exec(const struct sf_call *call, int borrowed) {
  sf_trace_session *s = trace.session;
  if (!trace.on) return -1;
  const auto pid = static_cast<uint32_t>(SF_SYS0(__NR_getpid));
  for (int i = 0; i < SF_TRACE_EXECS; ++i) {
    sf_trace_exec *entry = &s->exec[i];
    if (!take(&entry->pid, 0, pid)) continue;
    const bool at = call->nr == __NR_execveat;
    const long length = read_text(reinterpret_cast<uint64_t>(entry->path), static_cast<uint64_t>(call->arg[at ? 1 : 0]),
                                  sizeof entry->path, borrowed != 0);
    const bool relative = at && static_cast<int>(call->arg[0]) != AT_FDCWD && entry->path[0] != '/';
    entry->by_another_name = length <= 1 || relative ? 1 : 0;
    return i;
  }
  __atomic_add_fetch(&s->more_execs, 1, __ATOMIC_RELAXED);
  return -1;
}

void sf_trace_exec_failed(int number) {
  if (number >= 0) __atomic_store_n(&trace.session->exec[number].pid, 0u, __ATOMIC_RELEASE);
}

void sf_trace_thread_exit(void) {
  if (!trace.on || seat.generation == 0 || seat.generation != __atomic_load_n(&g.process->generation, __ATOMIC_RELAXED))
    return;
  if (seat.cpu < SF_TRACE_LANES) take(&trace.session->lane[seat.cpu], seat.tid, 0);
  seat.generation = 0;
}

int sf_trace_on(void) { return trace.on; }

int sf_trace_interrupted(uint64_t stack_low, uint64_t stack_high) {
  const auto running = reinterpret_cast<uintptr_t>(seat.running);
  if (!trace.on || running < stack_low || running >= stack_high) return 0;
  seat.running = nullptr;
  // Maps that it has locked are relieved as those of a thread that is gone, or that comes again.
  take(&trace.session->crowd, seat.tid, 0);
  __atomic_add_fetch(&trace.session->missed, 1, __ATOMIC_RELAXED);
  return seat.side == SF_TRACE_ENTER ? SF_TRACE_BEFORE : SF_TRACE_AFTER;
}

void sf_trace_leave(void) {
  if (!trace.on) return;
  for (uint8_t &plan : trace.plan) __atomic_store_n(&plan, uint8_t{0}, __ATOMIC_RELAXED);
  trace.on = false;
  __atomic_add_fetch(&trace.session->left, 1, __ATOMIC_RELAXED);
}

}  // extern "C"
