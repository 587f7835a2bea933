// The state of the process, across fork.
#include "process.h"

#include "attach.h"
#include "files.h"
#include "kernel.h"
#include "opens.h"
#include "text.h"

namespace shortfuse::bypass {

Global g;
__thread Thread t __attribute__((tls_model("initial-exec")));

bool process_start() {
  void *pages = map_anonymous(sizeof(Process));
  if (pages == nullptr) return false;
  if (is_error(SF_SYS3(__NR_madvise, pages, (sizeof(Process) + 4095) & ~4095ul, MADV_WIPEONFORK))) {
    unmap(pages, sizeof(Process));
    return false;
  }
  g.process = static_cast<Process *>(pages);
  // Written before it is read: a read would map the page of zeroes first.
  __atomic_store_n(&g.process->generation, 0u, __ATOMIC_RELAXED);
  g.creds_epoch = 1;
  return process_now() != nullptr;
}

// First call after a fork, or after start. Two threads of a child may get here together: both write the same.
static Process *begin_process(Process *process) {
  bool forked = g.generation != 0;
  if (forked && g.child_inert) {
    g.inert = true;
    return nullptr;
  }
  for (Link &link : process->link) link.fd = -1;
  process->pid = static_cast<uint32_t>(SF_SYS0(__NR_getpid));
  uint32_t generation = g.generation + 1;
  g.generation = generation;
  if (forked) {
    files_after_fork();
    attach_after_fork();
  }
  __atomic_store_n(&process->generation, generation, __ATOMIC_RELEASE);
  // What another thread of the parent opened while it forked.
  if (forked) make_all_real();
  return process;
}

Process *process_now() {
  Process *process = g.process;
  if (__atomic_load_n(&process->generation, __ATOMIC_ACQUIRE) == 0) [[unlikely]] {
    process = begin_process(process);
    if (process == nullptr) return nullptr;
  }
  if (t.generation != process->generation) [[unlikely]] {
    for (auto &lane : t.lane) lane.lane = nullptr;
    t.creds.epoch = 0;
    t.tid = static_cast<uint32_t>(SF_SYS0(__NR_gettid));
    t.random = (static_cast<uint64_t>(t.tid) << 32) ^ reinterpret_cast<uintptr_t>(&t) ^ 0x9e3779b97f4a7c15ull;
    t.generation = process->generation;
  }
  return process;
}

// ---- latches

uint64_t hold_off_signals() {
  constexpr int kBus = 7, kSegv = 11;
  const uint64_t others = ~(1ull << (kBus - 1) | 1ull << (kSegv - 1));
  uint64_t before = 0;
  SF_SYS4(__NR_rt_sigprocmask, kSigBlock, &others, &before, sizeof before);
  return before;
}

void let_signals_in(uint64_t before) {
  SF_SYS4(__NR_rt_sigprocmask, kSigSetmask, &before, nullptr, sizeof before);
}

Hold::Hold(Latch &latch) {
  if (t.held != nullptr || latch.is_taken()) return;
  const uint64_t before = hold_off_signals();
  taken_ = latch.try_lock();
  if (taken_) {
    t.held_mask = before;
    t.held = &latch;
  } else {
    let_signals_in(before);
  }
}

Hold::~Hold() {
  if (taken_) abandon_hold();
}

void abandon_hold() {
  if (t.held == nullptr) return;
  t.held->unlock();
  t.held = nullptr;
  let_signals_in(t.held_mask);
}

void go_inert(const char *why) {
  if (g.inert) return;
  log_line(false, "this process uses the kernel path from now on", why);
  files_hold_nothing(why);
  g.inert = true;
}

// ---- options and log

static bool env_value(const char *entry, const char *name, const char **value) {
  size_t n = text_len(name);
  if (!text_starts(entry, name) || entry[n] != '=') return false;
  *value = entry + n + 1;
  return true;
}

static void keep_path(char *to, const char *from) {
  size_t n = text_len(from);
  if (n >= kReportPathMax) return;
  for (size_t i = 0; i <= n; ++i) to[i] = from[i];
}

void options_start(char **envp) {
  g.options.serve_opens = true;
  if (envp == nullptr) return;
  for (char **e = envp; *e != nullptr; ++e) {
    if (!text_starts(*e, "SHORTFUSE_")) continue;
    const char *value;
    if (env_value(*e, "SHORTFUSE_REPORT", &value)) keep_path(g.options.report_path, value);
    if (env_value(*e, "SHORTFUSE_OPEN", &value)) g.options.serve_opens = !text_is(value, "kernel");
    if (env_value(*e, "SHORTFUSE_LOG", &value)) {
      g.options.log = value[0] != 0 && !text_is(value, "off");
      g.options.log_debug = text_is(value, "debug");
      if (value[0] == '/') {
        keep_path(g.options.log_path, value);
        g.options.log_debug = true;
      }
    }
  }
}

void log_line(bool debug, const char *what, const char *detail, long number) {
  if (!g.options.log || (debug && !g.options.log_debug)) return;
  char buffer[512];
  Text line(buffer, sizeof buffer - 1);
  line.add("shortfuse[").num(static_cast<uint64_t>(SF_SYS0(__NR_getpid))).add("]: ").add(what);
  if (detail != nullptr) line.add(": ").add(detail);
  if (number != 0) {
    line.add(" (");
    if (number < 0) line.put('-');
    line.num(static_cast<uint64_t>(number < 0 ? -number : number)).put(')');
  }
  size_t n = line.len();
  buffer[n++] = '\n';
  if (g.options.log_path[0] == 0) {
    SF_SYS3(__NR_write, 2, buffer, n);
    return;
  }
  long fd = SF_SYS4(__NR_openat, AT_FDCWD, g.options.log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (is_error(fd)) return;
  SF_SYS3(__NR_write, fd, buffer, n);
  close_fd(static_cast<int>(fd));
}

}  // namespace shortfuse::bypass
