// Probes of SIGSEGV and SIGBUS as the program sees them, and of signals in the middle of hooked calls.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/ucontext.h>
#include <sys/wait.h>
#include <unistd.h>
#include <unwind.h>

#include <initializer_list>

#include "probe.h"

extern char **environ;

namespace {

volatile char *const kNowhere = (volatile char *)0x1234;
volatile sig_atomic_t hits;
volatile uint64_t seen_address, seen_rsp, seen_blocked;
sigjmp_buf back;

__attribute__((noinline)) void touch() { *kNowhere = 1; }

// Runs `body` in a child; returns its wait status.
template <typename F>
int in_child(F body) {
  fflush(nullptr);
  pid_t pid = fork();
  if (pid == 0) {
    rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    body();
    _exit(0);
  }
  int status = -1;
  CHECK(waitpid(pid, &status, 0) == pid);
  return status;
}

bool died_of(int status, int signo) { return WIFSIGNALED(status) && WTERMSIG(status) == signo; }
bool exited_with(int status, int code) { return WIFEXITED(status) && WEXITSTATUS(status) == code; }

void install(int signo, void (*handler)(int, siginfo_t *, void *), int flags, bool block_usr1 = false) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | flags;
  if (block_usr1) sigaddset(&action.sa_mask, SIGUSR1);
  CHECK(sigaction(signo, &action, nullptr) == 0);
}

void note_and_jump(int, siginfo_t *info, void *) {
  hits = hits + 1;
  seen_address = (uint64_t)info->si_addr;
  siglongjmp(back, 1);
}

void skip_instruction(int, siginfo_t *info, void *context) {
  auto uc = (ucontext_t *)context;
  hits = hits + 1;
  seen_address = (uint64_t)info->si_addr;
  seen_rsp = (uint64_t)__builtin_frame_address(0);
  sigset_t now;
  sigprocmask(SIG_BLOCK, nullptr, &now);
  seen_blocked = (sigismember(&now, SIGSEGV) ? 1 : 0) | (sigismember(&now, SIGUSR1) ? 2 : 0);
  auto code = (const uint8_t *)uc->uc_mcontext.gregs[REG_RIP];
  CHECK(code[0] == 0xc6);  // movb $1, ...
  uc->uc_mcontext.gregs[REG_RIP] += code[1] == 0x04 ? 8 : code[1] == 0x00 ? 3 : 7;
}

void simple_handler(int) { hits = hits + 1; }
void exit_7(int) { _exit(7); }

int segv_default(char **) {
  CHECK(died_of(in_child([] { touch(); }), SIGSEGV));
  CHECK(died_of(in_child([] { raise(SIGSEGV); }), SIGSEGV));
  CHECK(died_of(in_child([] { kill(getpid(), SIGBUS); }), SIGBUS));
  CHECK(died_of(in_child([] {
    signal(SIGSEGV, simple_handler);
    signal(SIGSEGV, SIG_DFL);
    touch();
  }), SIGSEGV));
  CHECK(died_of(in_child([] {
    // Blocked: the kernel does not ask a handler then.
    signal(SIGSEGV, exit_7);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, nullptr);
    touch();
  }), SIGSEGV));
  return 0;
}

int segv_ignored(char **) {
  CHECK(exited_with(in_child([] {
    signal(SIGSEGV, SIG_IGN);
    raise(SIGSEGV);
    struct stat status;
    CHECK(stat((char *)1, &status) == -1 && errno == EFAULT);
    CHECK(signal(SIGSEGV, SIG_IGN) == SIG_IGN);
  }), 0));
  CHECK(died_of(in_child([] {
    signal(SIGSEGV, SIG_IGN);
    touch();
  }), SIGSEGV));
  return 0;
}

int segv_handled(char **) {
  install(SIGSEGV, skip_instruction, 0);
  for (int i = 0; i < 1000; i++) touch();
  CHECK(hits == 1000 && seen_address == (uint64_t)kNowhere && seen_blocked == 1);
  install(SIGSEGV, skip_instruction, SA_NODEFER, true);
  touch();
  CHECK(hits == 1001 && seen_blocked == 2);
  install(SIGSEGV, note_and_jump, 0);
  for (int i = 0; i < 1000; i++)
    if (!sigsetjmp(back, 1)) touch();
  CHECK(hits == 2001);
  // Hooked calls with bad pointers in between do not reach the handler.
  struct stat status;
  for (int i = 0; i < 100; i++) CHECK(stat((char *)1, &status) == -1 && errno == EFAULT);
  CHECK(hits == 2001);
  return 0;
}

int segv_on_stack(char **) {
  static char stack[64 * 1024];
  stack_t alternative = {};
  alternative.ss_sp = stack;
  alternative.ss_size = sizeof stack;
  CHECK(sigaltstack(&alternative, nullptr) == 0);
  install(SIGSEGV, skip_instruction, SA_ONSTACK);
  touch();
  CHECK(seen_rsp - (uint64_t)stack < sizeof stack);
  install(SIGSEGV, skip_instruction, 0);
  touch();
  CHECK(seen_rsp - (uint64_t)stack >= sizeof stack);
  struct stat status;
  CHECK(stat((char *)1, &status) == -1 && errno == EFAULT);
  return 0;
}

int segv_reset_hand(char **) {
  CHECK(died_of(in_child([] {
    install(SIGSEGV, skip_instruction, (int)SA_RESETHAND);
    touch();
    struct sigaction now;
    CHECK(sigaction(SIGSEGV, nullptr, &now) == 0 && now.sa_handler == SIG_DFL);
    CHECK(now.sa_flags & (int)SA_RESETHAND);
    touch();
  }), SIGSEGV));
  return 0;
}

int segv_query(char **) {
  struct sigaction now, set = {};
  CHECK(sigaction(SIGSEGV, nullptr, &now) == 0 && now.sa_handler == SIG_DFL && now.sa_flags == 0);
  for (int signo : {SIGSEGV, SIGBUS, SIGUSR1}) {
    set.sa_handler = simple_handler;
    set.sa_flags = SA_RESTART | SA_ONSTACK;
    sigemptyset(&set.sa_mask);
    sigaddset(&set.sa_mask, SIGTERM);
    CHECK(sigaction(signo, &set, &now) == 0 && now.sa_handler == SIG_DFL);
    CHECK(sigaction(signo, nullptr, &now) == 0 && now.sa_handler == simple_handler);
    CHECK((now.sa_flags & ~0x04000000 /* SA_RESTORER */) == (SA_RESTART | SA_ONSTACK));
    CHECK(sigismember(&now.sa_mask, SIGTERM) == 1 && sigismember(&now.sa_mask, SIGUSR1) == 0);
    hits = 0;
    raise(signo);
    CHECK(hits == 1);
    CHECK(signal(signo, SIG_IGN) == simple_handler && signal(signo, SIG_DFL) == SIG_IGN);
  }
  // The raw call: bad pointers, bad sizes, bad signals.
  CHECK(syscall(SYS_rt_sigaction, SIGSEGV, 8, nullptr, 8) == -1 && errno == EFAULT);
  CHECK(syscall(SYS_rt_sigaction, SIGSEGV, nullptr, 8, 8) == -1 && errno == EFAULT);
  CHECK(syscall(SYS_rt_sigaction, SIGSEGV, nullptr, nullptr, 4) == -1 && errno == EINVAL);
  CHECK(sigaction(SIGKILL, &set, nullptr) == -1 && errno == EINVAL);
  return 0;
}

// An ignored signal stays ignored over exec, a handled one becomes the default. argv[0]: this program.
int segv_exec(char **arguments) {
  struct { void (*handler)(int); const char *expected; } kCases[] = {
      {SIG_IGN, "ignored"}, {simple_handler, "default"}, {SIG_DFL, "default"}};
  for (auto &one : kCases)
    for (int way = 0; way < 2; way++)
      CHECK(exited_with(in_child([&] {
        signal(SIGSEGV, one.handler);
        signal(SIGBUS, one.handler);
        // A failing exec leaves everything as it was.
        execl("/nonexistent", "x", nullptr);
        CHECK(signal(SIGSEGV, one.handler) == one.handler);
        if (way == 0) execl(arguments[0], arguments[0], "disposition", one.expected, nullptr);
        pid_t pid = vfork();
        if (pid == 0) {
          execl(arguments[0], arguments[0], "disposition", one.expected, nullptr);
          _exit(98);
        }
        int status;
        CHECK(waitpid(pid, &status, 0) == pid);
        _exit(WEXITSTATUS(status));
      }), 0));
  return 0;
}

int disposition(char **arguments) {
  auto expected = !strcmp(arguments[0], "ignored") ? SIG_IGN : SIG_DFL;
  for (int signo : {SIGSEGV, SIGBUS}) {
    struct sigaction now;
    CHECK(sigaction(signo, nullptr, &now) == 0 && now.sa_handler == expected);
  }
  return 0;
}

// A bad pointer is EFAULT also where every signal is blocked, or inside a handler that blocks everything.
int blocked_bad_pointer(char **) {
  sigset_t all, before, now;
  sigfillset(&all);
  struct stat status;
  CHECK(sigprocmask(SIG_SETMASK, &all, &before) == 0);
  CHECK(stat((char *)1, &status) == -1 && errno == EFAULT);
  CHECK(sigprocmask(SIG_SETMASK, &before, &now) == 0);
  CHECK(sigismember(&now, SIGSEGV) == 1 && sigismember(&now, SIGBUS) == 1 && sigismember(&now, SIGUSR1) == 1);
  CHECK(sigprocmask(SIG_SETMASK, nullptr, &now) == 0 && sigismember(&now, SIGSEGV) == 0);
  struct sigaction action = {};
  action.sa_handler = [](int) {
    struct stat inner;
    CHECK(stat((char *)1, &inner) == -1 && errno == EFAULT);
    hits = hits + 1;
  };
  sigfillset(&action.sa_mask);
  CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
  raise(SIGUSR1);
  CHECK(hits == 1);
  struct sigaction got;
  CHECK(sigaction(SIGUSR1, nullptr, &got) == 0 && sigismember(&got.sa_mask, SIGSEGV) == 1);
  return 0;
}

// Bad pointers inside the program's own handler of SIGSEGV: programs probe memory that way.
int segv_in_handler(char **) {
  struct sigaction action = {};
  action.sa_flags = SA_SIGINFO;
  sigfillset(&action.sa_mask);
  action.sa_sigaction = [](int signo, siginfo_t *info, void *context) {
    struct stat status;
    for (int i = 0; i < 10; i++) CHECK(stat((char *)8, &status) == -1 && errno == EFAULT);
    CHECK(syscall(SYS_rt_sigprocmask, ~0, 8, nullptr, 8) == -1 && errno == EFAULT);
    CHECK(syscall(SYS_rt_sigprocmask, ~0, &status, nullptr, 8) == -1 && errno == EINVAL);
    skip_instruction(signo, info, context);
  };
  CHECK(sigaction(SIGSEGV, &action, nullptr) == 0);
  for (int i = 0; i < 100; i++) {
    touch();
    sigset_t now;
    CHECK(sigprocmask(SIG_BLOCK, nullptr, &now) == 0 && !sigismember(&now, SIGSEGV) && !sigismember(&now, SIGUSR1));
  }
  CHECK(hits == 100 && seen_blocked == 3);
  // A fault in the handler itself terminates.
  CHECK(died_of(in_child([] {
    install(SIGSEGV, [](int, siginfo_t *, void *) { touch(); }, 0);
    touch();
  }), SIGSEGV));
  return 0;
}

// The mask is handed on by exec and by posix_spawn, whole.
int blocked_exec(char **arguments) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGSEGV);
  sigaddset(&set, SIGUSR2);
  CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  for (int way = 0; way < 3; way++) {
    pid_t pid = -1;
    const char *command[] = {arguments[0], "mask", nullptr};
    if (way == 0) {
      CHECK(posix_spawn(&pid, arguments[0], nullptr, nullptr, (char **)command, environ) == 0);
    } else {
      pid = way == 1 ? fork() : vfork();
      if (pid == 0) {
        execv("/nonexistent", (char **)command);
        execv(arguments[0], (char **)command);
        _exit(98);
      }
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && exited_with(status, 0));
    struct stat file;
    CHECK(stat((char *)1, &file) == -1 && errno == EFAULT);
  }
  return 0;
}

int mask_is_inherited(char **) {
  sigset_t now;
  CHECK(sigprocmask(SIG_BLOCK, nullptr, &now) == 0);
  CHECK(sigismember(&now, SIGSEGV) == 1 && sigismember(&now, SIGUSR2) == 1 && sigismember(&now, SIGBUS) == 0);
  struct stat file;
  CHECK(stat((char *)1, &file) == -1 && errno == EFAULT);
  return 0;
}

// A blocked SIGSEGV that somebody sends stays pending until it is unblocked.
int blocked_and_sent(char **) {
  signal(SIGSEGV, simple_handler);
  sigset_t set, pending;
  sigemptyset(&set);
  sigaddset(&set, SIGSEGV);
  CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  raise(SIGSEGV);
  CHECK(hits == 0);
  CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGSEGV) == 1);
  struct stat status;
  CHECK(stat("/", &status) == 0);
  CHECK(sigprocmask(SIG_UNBLOCK, &set, nullptr) == 0);
  CHECK(hits == 1);
  CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  raise(SIGSEGV);
  timespec short_time = {1, 0};
  siginfo_t info;
  CHECK(sigtimedwait(&set, &info, &short_time) == SIGSEGV && info.si_pid == getpid());
  CHECK(hits == 1);
  return 0;
}

bool is_blocked(int signo) {
  sigset_t now;
  CHECK(sigprocmask(SIG_BLOCK, nullptr, &now) == 0);
  return sigismember(&now, signo) == 1;
}

void block_faults(int how) {
  sigset_t both;
  sigemptyset(&both);
  sigaddset(&both, SIGSEGV);
  sigaddset(&both, SIGBUS);
  CHECK(sigprocmask(how, &both, nullptr) == 0);
}

void block_in_context(int, siginfo_t *, void *context) {
  hits = hits + 1;
  sigaddset(&((ucontext_t *)context)->uc_sigmask, SIGSEGV);
}

void unblock_in_context(int, siginfo_t *, void *context) {
  auto mask = &((ucontext_t *)context)->uc_sigmask;
  hits = sigismember(mask, SIGSEGV) == 1 && is_blocked(SIGSEGV) ? 1 : 0;
  sigdelset(mask, SIGSEGV);
}

// What a handler leaves in the saved mask holds when it has returned; what it did to its own mask does not.
int mask_after_handler(char **) {
  struct stat status;
  CHECK(exited_with(in_child([&] {
    install(SIGUSR1, block_in_context, 0);
    raise(SIGUSR1);
    CHECK(hits == 1 && is_blocked(SIGSEGV) && !is_blocked(SIGBUS));
    CHECK(stat((char *)1, &status) == -1 && errno == EFAULT);
    signal(SIGSEGV, exit_7);
    raise(SIGSEGV);  // stays pending
    block_faults(SIG_UNBLOCK);
  }), 7));
  CHECK(died_of(in_child([] {
    install(SIGUSR1, block_in_context, 0);
    signal(SIGSEGV, exit_7);
    raise(SIGUSR1);
    touch();
  }), SIGSEGV));
  CHECK(exited_with(in_child([&] {
    install(SIGUSR1, [](int, siginfo_t *, void *) { block_faults(SIG_BLOCK); }, 0);
    signal(SIGSEGV, exit_7);
    raise(SIGUSR1);
    CHECK(!is_blocked(SIGSEGV) && !is_blocked(SIGBUS) && stat((char *)1, &status) == -1 && errno == EFAULT);
    touch();
  }), 7));
  CHECK(exited_with(in_child([] {
    install(SIGUSR1, unblock_in_context, 0);
    signal(SIGSEGV, exit_7);
    block_faults(SIG_BLOCK);
    raise(SIGUSR1);
    CHECK(hits == 1 && !is_blocked(SIGSEGV) && is_blocked(SIGBUS));
    touch();
  }), 7));
  CHECK(exited_with(in_child([] {
    // In the handler of a fault, too.
    install(SIGSEGV, [](int signo, siginfo_t *info, void *context) {
      sigaddset(&((ucontext_t *)context)->uc_sigmask, SIGBUS);
      skip_instruction(signo, info, context);
    }, 0);
    touch();
    CHECK(!is_blocked(SIGSEGV) && is_blocked(SIGBUS));
  }), 0));
  return 0;
}

// While a handler runs, what its action names is blocked.
int mask_in_handler(char **) {
  struct sigaction action = {}, old;
  sigfillset(&action.sa_mask);
  CHECK(exited_with(in_child([&] {
    action.sa_handler = [](int) { hits = is_blocked(SIGSEGV) && is_blocked(SIGBUS) ? 1 : 2; };
    CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
    raise(SIGUSR1);
    CHECK(hits == 1 && !is_blocked(SIGSEGV));
    CHECK(sigaction(SIGUSR1, nullptr, &old) == 0 && old.sa_handler == action.sa_handler);
    // One handler in the other's place, and back.
    CHECK(signal(SIGUSR1, simple_handler) == action.sa_handler);
    CHECK(sigaction(SIGUSR1, &action, &old) == 0 && old.sa_handler == simple_handler);
    CHECK(signal(SIGUSR1, SIG_IGN) == action.sa_handler && signal(SIGUSR1, SIG_DFL) == SIG_IGN);
  }), 0));
  CHECK(died_of(in_child([&] {
    signal(SIGSEGV, exit_7);
    action.sa_handler = [](int) { touch(); };
    CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
    raise(SIGUSR1);
  }), SIGSEGV));
  CHECK(exited_with(in_child([&] {
    // Sent meanwhile, it comes afterwards.
    signal(SIGSEGV, simple_handler);
    action.sa_handler = [](int) { CHECK(raise(SIGSEGV) == 0 && hits == 0); };
    CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
    raise(SIGUSR1);
    CHECK(hits == 1);
  }), 0));
  return 0;
}

void start_timer(int microseconds) {
  itimerval timer = {{0, microseconds}, {0, microseconds}};
  setitimer(ITIMER_REAL, &timer, nullptr);
}

// Handlers that interrupt hooked calls and make hooked calls, also with bad pointers.
int interrupted(char **) {
  struct sigaction action = {};
  static const bool expect = hooked();
  action.sa_handler = [](int) {
    struct stat status;
    int saved = errno;
    CHECK(stat("/fake/5", &status) == (expect ? 0 : -1));
    CHECK(stat((char *)1, &status) == -1 && errno == EFAULT);
    CHECK(access("/", F_OK) == 0);
    errno = saved;
    hits = hits + 1;
  };
  action.sa_flags = SA_RESTART;
  CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
  start_timer(50);
  char buffer[4000];
  for (int i = 0; i < 1000000 && hits < 2000; i++) {
    struct stat status;
    CHECK(stat("/fake/77", &status) == (expect ? 0 : -1));
    if (expect) CHECK(status.st_size == 77);
    CHECK(stat((char *)16, &status) == -1 && errno == EFAULT);
    if (expect) CHECK(pread(1000, buffer, sizeof buffer, 0) == (long)sizeof buffer && buffer[3999] == 'x');
    CHECK(close(-1) == -1 && errno == EBADF);
  }
  start_timer(0);
  CHECK(hits > 100);
  return 0;
}

// A served call is interrupted by a handler that blocks SIGSEGV in one way or the other; the next fault is the hook's.
int blocked_while_interrupted(char **) {
  install(SIGALRM, [](int signo, siginfo_t *info, void *context) {
    if (hits % 2) block_faults(SIG_BLOCK);
    block_in_context(signo, info, context);
  }, SA_RESTART);
  start_timer(50);
  static char buffer[65536];
  const bool expect = hooked();
  for (int i = 0; i < 1000000 && hits < 1000; i++) {
    struct stat status;
    if (expect) CHECK(pread(1000, buffer, sizeof buffer, 0) == (long)sizeof buffer);
    CHECK(stat((char *)16, &status) == -1 && errno == EFAULT);
    if (i % 16 == 0) block_faults(SIG_UNBLOCK);
  }
  start_timer(0);
  CHECK(hits > 100 && !is_blocked(SIGBUS));
  return 0;
}

int jump_out_of_handler(char **) {
  struct sigaction action = {};
  action.sa_handler = [](int) {
    hits = hits + 1;
    siglongjmp(back, 1);
  };
  CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
  static volatile int rounds;
  static const bool expect = hooked();  // dlsym() allocates: not to be jumped out of
  sigsetjmp(back, 1);
  start_timer(100);
  static char buffer[65536];
  while (hits < 2000) {
    struct stat status;
    stat("/fake/77", &status);
    CHECK(stat((char *)16, &status) == -1);
    if (expect) pread(1000, buffer, sizeof buffer, 0);
    rounds = rounds + 1;
  }
  start_timer(0);
  signal(SIGALRM, SIG_IGN);
  CHECK(rounds > 100);
  struct stat status;
  CHECK(stat((char *)16, &status) == -1 && errno == EFAULT);
  return 0;
}

struct Walk {
  bool reached;
  int frames;
};
int unwind_and_check_me(char **);
_Unwind_Reason_Code one_frame(_Unwind_Context *context, void *to) {
  auto walk = (Walk *)to;
  walk->frames++;
  if (_Unwind_FindEnclosingFunction((void *)(_Unwind_GetIP(context) - 1)) == (void *)unwind_and_check_me)
    walk->reached = true;
  return walk->frames > 60 ? _URC_END_OF_STACK : _URC_NO_REASON;
}

volatile int lost;
void walk_stack(int) {
  Walk walk = {};
  _Unwind_Backtrace(one_frame, &walk);
  if (!walk.reached) lost = lost + 1;
  hits = hits + 1;
}

// Wherever a signal lands in a hooked call, the stack can be unwound to the function that made it.
__attribute__((noinline)) int unwind_and_check_me(char **) {
  Walk warm = {};
  _Unwind_Backtrace(one_frame, &warm);
  CHECK(warm.reached);
  struct sigaction action = {};
  action.sa_handler = walk_stack;
  action.sa_flags = SA_RESTART;
  CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
  const bool expect = hooked();
  start_timer(100);
  static char buffer[4096];
  for (int i = 0; i < 100000000 && hits < 4000; i++) {
    struct stat status;
    stat("/fake/77", &status);
    access("/fake/1", F_OK);
    close(-1);
    read(-1, buffer, 1);
    if (expect) pread(1000, buffer, 200, 0);
  }
  start_timer(0);
  CHECK(hits > 100);
  if (lost) fprintf(stderr, "%d of %d walks ended early\n", lost, (int)hits);
  CHECK(lost == 0);
  return 0;
}

}  // namespace

const Probe kSignalProbes[] = {
    {"segv-default", segv_default},
    {"segv-ignored", segv_ignored},
    {"segv-handled", segv_handled},
    {"segv-on-stack", segv_on_stack},
    {"segv-reset-hand", segv_reset_hand},
    {"segv-query", segv_query},
    {"segv-exec", segv_exec},
    {"disposition", disposition},
    {"blocked-bad-pointer", blocked_bad_pointer},
    {"blocked-and-sent", blocked_and_sent},
    {"segv-in-handler", segv_in_handler},
    {"blocked-exec", blocked_exec},
    {"mask", mask_is_inherited},
    {"mask-after-handler", mask_after_handler},
    {"mask-in-handler", mask_in_handler},
    {"interrupted", interrupted},
    {"blocked-while-interrupted", blocked_while_interrupted},
    {"jump-out-of-handler", jump_out_of_handler},
    {"unwind", unwind_and_check_me},
    {nullptr, nullptr},
};
