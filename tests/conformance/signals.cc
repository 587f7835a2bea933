// Signals in the middle of calls that are answered here, jumps out of handlers, alternative stacks, bad pointers.
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csetjmp>
#include <csignal>
#include <cstring>

#include "conformance/case.h"

namespace shortfuse::tests::conformance {
namespace {

std::atomic<unsigned> handled, wrong_in_handler;
sigjmp_buf beyond;
std::atomic<bool> may_jump;
char *volatile nowhere = reinterpret_cast<char *>(8);  // volatile: compilers know better than to touch it

void install(int number, void (*handler)(int), int flags = SA_RESTART) {
  struct sigaction action = {};
  action.sa_handler = handler, action.sa_flags = flags;
  sigaction(number, &action, nullptr);
}

void tick_every(long microseconds) {
  itimerval timer = {{0, microseconds}, {0, microseconds}};
  setitimer(ITIMER_REAL, &timer, nullptr);
}

/// One of everything; how many were wrong.
unsigned calls(int fd) {
  struct stat st;
  char buffer[1000];
  unsigned wrong = 0;
  wrong += lseek(fd, 40, SEEK_SET) != 40 || read(fd, buffer, 10) != 10 || memcmp(buffer, "line 0004\n", 10) != 0;
  wrong += pread(fd, buffer, 1000, 0) != 1000 || memcmp(buffer, "line 0000\n", 10) != 0;
  wrong += fstat(fd, &st) != 0 || st.st_size != 10'000;
  wrong += stat("sub/inner/leaf", &st) != 0 || st.st_size != 7;
  wrong += readlink("link", buffer, sizeof buffer) != 4;
  return wrong;
}

void handlers_that_call(const Place &) {
  static int own = open("text", O_RDONLY);
  install(SIGALRM, [](int) {
    int saved = errno;
    ++handled;
    wrong_in_handler += calls(own);
    int fd = open("text", O_RDONLY);
    char buffer[10];
    wrong_in_handler += read(fd, buffer, 10) != 10;
    close(fd);
    errno = saved;
  });
  int fd = open("text", O_RDONLY);
  unsigned wrong = 0, rounds = 0;
  tick_every(300);
  while (handled < 400 && rounds < 5'000'000) wrong += calls(fd), ++rounds;
  tick_every(0);
  say("wrong", "%u, in handlers %u, enough signals: %d", wrong, wrong_in_handler.load(), handled >= 400);
  say("contents", "%s", contents("text").c_str());
}

void jumps_out_of_handlers(const Place &) {
  install(SIGALRM, [](int) {
    ++handled;
    if (may_jump.exchange(false)) siglongjmp(beyond, 1);
  }, SA_NODEFER);
  static int fd;
  static volatile unsigned wrong, rounds;
  fd = open("text", O_RDONLY);
  wrong = 0;
  rounds = 0;
  tick_every(300);
  sigsetjmp(beyond, 1);
  while (handled < 400 && rounds < 5'000'000) {
    may_jump = true;
    unsigned now = calls(fd);
    may_jump = false;
    wrong = wrong + now;
    rounds = rounds + 1;
  }
  tick_every(0);
  say("wrong", "%u, enough signals: %d", wrong, handled >= 400);
  for (int look = 0; look < 3; ++look) say("contents", "%s", contents("text").c_str());
  struct stat st;
  said("stat", stat("text", &st));
  say("child", "%s", in_child([] { _exit(calls(fd) == 0 ? 0 : 1); }).c_str());
}

void alternative_stacks(const Place &) {
  static char small[16'384];
  stack_t stack = {small, 0, sizeof small};
  said("stack", sigaltstack(&stack, nullptr));
  static int fd = open("text", O_RDONLY);
  install(SIGUSR1, [](int) { wrong_in_handler += calls(fd), ++handled; }, SA_ONSTACK);
  unsigned wrong = 0;
  for (int i = 0; i < 100; ++i) raise(SIGUSR1), wrong += calls(fd);
  say("wrong", "%u %u of %u", wrong, wrong_in_handler.load(), handled.load());
  // A stack that overflows: the handler runs on the other one, and makes calls.
  install(SIGSEGV, [](int) { wrong_in_handler += calls(fd), siglongjmp(beyond, 7); }, SA_ONSTACK | SA_NODEFER);
  if (sigsetjmp(beyond, 1) == 0) {
    *nowhere = 1;
    said("not reached", 0);
  }
  say("after the fault", "%u", wrong_in_handler.load() + calls(fd));
  stack_t now = {};
  said("still", sigaltstack(nullptr, &now));
  say("it", "%d", now.ss_sp == small && now.ss_size == sizeof small);
}

void small_stack(const Place &place) {
  // The size that programs used to take, with nothing below it; where the kernel's own frame leaves too little of that,
  // what it leaves elsewhere.
  const size_t page = 4096, bytes = std::max<size_t>(2 * page, (getauxval(AT_MINSIGSTKSZ) / page + 2) * page);
  auto memory = static_cast<char *>(mmap(nullptr, page + bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (mprotect(memory + page, bytes, PROT_READ | PROT_WRITE) != 0) throw Broken("mprotect");
  stack_t stack = {memory + page, 0, bytes};
  said("stack", sigaltstack(&stack, nullptr));
  install(SIGUSR1, [](int) {
    struct stat st;
    ++handled;
    wrong_in_handler += stat("text", &st) != 0;
  }, SA_ONSTACK);
  for (int i = 0; i < 3; ++i) raise(SIGUSR1);
  said("another mount", mount("none", place.outside.c_str(), "tmpfs", 0, nullptr));
  for (int i = 0; i < 3; ++i) raise(SIGUSR1);
  said("gone", umount(place.outside.c_str()));
  for (int i = 0; i < 3; ++i) raise(SIGUSR1);
  said("a module", dlopen(built("conformance_raw.so").c_str(), RTLD_NOW) != nullptr);
  for (int i = 0; i < 3; ++i) raise(SIGUSR1);
  say("wrong", "%u of %u", wrong_in_handler.load(), handled.load());
}

void interrupted_by_other_threads(const Place &) {
  install(SIGUSR2, [](int) { ++handled; });
  int fd = open("text", O_RDONLY);
  std::atomic<bool> stop{false};
  pthread_t self = pthread_self(), other;
  struct Both {
    std::atomic<bool> *stop;
    pthread_t target;
  } both = {&stop, self};
  pthread_create(&other, nullptr, [](void *argument) -> void * {
    auto all = static_cast<Both *>(argument);
    while (!*all->stop) pthread_kill(all->target, SIGUSR2), usleep(50);
    return nullptr;
  }, &both);
  unsigned wrong = 0;
  for (unsigned i = 0; i < 20'000 || (handled < 50 && i < 2'000'000); ++i) wrong += calls(fd);
  stop = true;
  pthread_join(other, nullptr);
  say("wrong", "%u, signals: %d", wrong, handled >= 50);
}

void masks_and_actions(const Place &) {
  struct sigaction action = {};
  said("no action", sigaction(SIGSEGV, nullptr, &action));
  said("default", action.sa_handler == SIG_DFL && action.sa_flags == 0);
  sigset_t all, now;
  sigfillset(&all);
  said("block", pthread_sigmask(SIG_SETMASK, &all, nullptr));
  say("contents", "%s %s", contents("text").c_str(), contents("text").c_str());
  said("asked", pthread_sigmask(SIG_SETMASK, nullptr, &now));
  say("blocked", "%d %d %d", sigismember(&now, SIGSEGV), sigismember(&now, SIGBUS), sigismember(&now, SIGUSR1));
  struct stat st;
  said("bad pointer while it is blocked", static_cast<long>(syscall(SYS_stat, 8, &st)));
  said("bad buffer while it is blocked", static_cast<long>(syscall(SYS_stat, "text", 8)));
  install(SIGSEGV, SIG_IGN);
  said("while it is ignored", static_cast<long>(syscall(SYS_stat, 8, &st)));
  sigpending(&now);
  say("pending", "%d", sigismember(&now, SIGSEGV));
  say("a real fault", "%s", in_child([] {
        sigset_t none;
        sigemptyset(&none);
        pthread_sigmask(SIG_SETMASK, &none, nullptr);
        install(SIGSEGV, SIG_DFL);
        *nowhere = 1;
      }).c_str());
}

void bad_pointers(const Place &) {
  char *bad = nowhere;
  auto pages = static_cast<char *>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  mprotect(pages + 4096, 4096, PROT_NONE);  // a hole might be filled by somebody's mmap
  char *edge = pages + 4096 - 6;
  int fd = open("text", O_RDONLY), dir = open("dir", O_RDONLY);
  struct stat st;
  for (int look = 0; look < 2; ++look) {
    said("open", open(bad, O_RDONLY));
    said("stat", static_cast<long>(syscall(SYS_stat, bad, &st)));
    said("into nothing", static_cast<long>(syscall(SYS_stat, "text", bad)));
    said("fstat", static_cast<long>(syscall(SYS_fstat, fd, bad)));
    said("read", read(fd, bad, 10));
    said("read over the edge", read(fd, edge, 20));
    said("position", position(fd));
    said("pread over the edge", pread(fd, edge, 5000, 3));
    said("getdents", static_cast<long>(syscall(SYS_getdents64, dir, bad, 4096)));
    said("getdents over the edge", static_cast<long>(syscall(SYS_getdents64, dir, edge, 4096)));
    said("readlink", static_cast<long>(syscall(SYS_readlink, "link", bad, 10)));
    said("readlink over the edge", static_cast<long>(syscall(SYS_readlink, "link", pages + 4094, 10)));
    said("access", static_cast<long>(syscall(SYS_access, bad, 0)));
    said("getxattr", static_cast<long>(syscall(SYS_getxattr, "text", "user.note", bad, 10)));
    said("its name", static_cast<long>(syscall(SYS_getxattr, "text", bad, &st, 10)));
    said("statfs", static_cast<long>(syscall(SYS_statfs, "text", bad)));
    memcpy(edge, "text\0x", 6);
    said("a name at the edge", stat(edge, &st));
    memcpy(edge, "no end", 6);
    said("a name over the edge", static_cast<long>(syscall(SYS_stat, edge, &st)));
    iovec parts[] = {{edge, 6}, {bad, 10}};
    said("vectors", static_cast<long>(syscall(SYS_preadv, fd, bad, 2, 0, 0)));
    said("the second", preadv(fd, parts, 2, 0));
    lseek(fd, 0, SEEK_SET), lseek(dir, 0, SEEK_SET);
  }
  auto read_only = static_cast<char *>(mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  said("into what is read-only", read(fd, read_only, 10));
  say("read on", "%s", reads(fd, 10).c_str());
}

}  // namespace

std::vector<Case> signal_cases() {
  return {
      {"signals", handlers_that_call, {"read", "stat"}},
      {"signals_longjmp", jumps_out_of_handlers, {"read", "stat"}},
      {"signals_stack", alternative_stacks, {"read", "stat"}},
      {"signals_small_stack", small_stack, {"stat"}, {}, true},
      {"signals_threads", interrupted_by_other_threads, {"read", "stat"}},
      {"signals_masks", masks_and_actions, {"read"}},
      {"bad_pointers", bad_pointers},
  };
}

}  // namespace shortfuse::tests::conformance
