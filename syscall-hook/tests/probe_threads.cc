// Probes of threads: cancellation in hooked calls, small stacks, storms.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "probe.h"

namespace {

int ends[2];
std::atomic<int> destroyed, cleaned;

struct Guard {
  ~Guard() { destroyed++; }
};

__attribute__((noinline)) void block_in_read() {
  Guard guard;
  char byte;
  pthread_cleanup_push([](void *) { cleaned++; }, nullptr);
  read(ends[0], &byte, 1);
  pthread_cleanup_pop(0);
}

// A thread that waits in a hooked call that is not ours: cleanup handlers and destructors run.
int cancel_blocked(char **) {
  CHECK(pipe(ends) == 0);
  for (int i = 0; i < 100; i++) {
    pthread_t thread;
    CHECK(pthread_create(&thread, nullptr, [](void *) -> void * {
      block_in_read();
      return nullptr;
    }, nullptr) == 0);
    if (i % 2) usleep(300);
    CHECK(pthread_cancel(thread) == 0);
    void *result;
    CHECK(pthread_join(thread, &result) == 0);
    CHECK(result == PTHREAD_CANCELED);
    // A cancellation before the guard exists runs neither; after it, both.
    CHECK(destroyed == cleaned);
  }
  CHECK(destroyed > 30);
  return 0;
}

// Cancellation at any moment of calls that return at once, answered here or not.
int cancel_busy(char **) {
  for (int i = 0; i < 400; i++) {
    pthread_t thread;
    static std::atomic<bool> started;
    started = false;
    CHECK(pthread_create(&thread, nullptr, [](void *) -> void * {
      pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, nullptr);
      Guard guard;
      pthread_cleanup_push([](void *) { cleaned++; }, nullptr);
      started = true;
      pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, nullptr);
      char buffer[512];
      for (;;) {
        pread(1000, buffer, sizeof buffer, 0);
        struct stat status;
        stat("/fake/3", &status);
        close(open("/dev/null", O_RDONLY));
      }
      pthread_cleanup_pop(0);
      return nullptr;
    }, nullptr) == 0);
    while (!started) sched_yield();
    for (int spin = 0; spin < i * 50; spin++) __asm__ volatile("");
    CHECK(pthread_cancel(thread) == 0);
    void *result;
    CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    CHECK(destroyed == i + 1 && cleaned == i + 1);
  }
  return 0;
}

int small_stack(char **) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  CHECK(pthread_attr_setstacksize(&attributes, 16384) == 0);
  for (int i = 0; i < 50; i++) {
    pthread_t thread;
    CHECK(pthread_create(&thread, &attributes, [](void *) -> void * {
      struct stat status;
      bool good = (stat("/fake/8", &status) == 0) == hooked();
      good = good && stat((char *)1, &status) == -1 && errno == EFAULT;
      return (void *)(uint64_t)good;
    }, nullptr) == 0);
    void *good;
    CHECK(pthread_join(thread, &good) == 0 && good);
  }
  return 0;
}

// Threads that start, end, call and fork at the same time.
int storm(char **) {
  std::atomic<bool> stop = false;
  std::atomic<long> calls = 0;
  bool expect = hooked();
  auto work = [&] {
    char buffer[100];
    while (!stop) {
      struct stat status;
      CHECK((stat("/fake/66", &status) == 0) == expect);
      CHECK(stat((char *)1, &status) == -1 && errno == EFAULT);
      if (expect) CHECK(pread(1000, buffer, 100, 0) == 100);
      int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
      CHECK(fd >= 0 && close(fd) == 0);
      calls++;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; i++) threads.emplace_back(work);
  for (int i = 0; i < 60; i++) {
    pid_t pid = i % 2 ? fork() : vfork();
    if (pid == 0) {
      if (i % 2) {
        struct stat status;
        if ((stat("/fake/66", &status) == 0) != expect) _exit(1);
        if (stat((char *)1, &status) != -1 || errno != EFAULT) _exit(2);
      }
      execl("/bin/true", "true", nullptr);
      _exit(3);
    }
    std::thread short_lived([&] {
      struct stat status;
      CHECK((stat("/fake/1", &status) == 0) == expect);
    });
    short_lived.join();
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  }
  stop = true;
  for (auto &thread : threads) thread.join();
  CHECK(calls > 100);
  return 0;
}

// sigaction for SIGSEGV in several threads while others fault.
int sigaction_storm(char **) {
  std::atomic<bool> stop = false;
  auto handler = [](int) {};
  signal(SIGSEGV, handler);
  std::thread faulting([&] {
    while (!stop) {
      struct stat status;
      CHECK(stat((char *)1, &status) == -1 && errno == EFAULT);
      raise(SIGSEGV);
    }
  });
  std::vector<std::thread> setting;
  for (int t = 0; t < 2; t++)
    setting.emplace_back([&] {
      for (int i = 0; i < 20000; i++) {
        struct sigaction action = {}, old;
        action.sa_handler = i % 2 ? SIG_IGN : +handler;
        CHECK(sigaction(SIGSEGV, &action, &old) == 0);
        CHECK(old.sa_handler == SIG_IGN || old.sa_handler == +handler);
      }
    });
  for (auto &thread : setting) thread.join();
  stop = true;
  faulting.join();
  return 0;
}

}  // namespace

const Probe kThreadProbes[] = {
    {"cancel-blocked", cancel_blocked},
    {"cancel-busy", cancel_busy},
    {"small-stack", small_stack},
    {"storm", storm},
    {"sigaction-storm", sigaction_storm},
    {nullptr, nullptr},
};
