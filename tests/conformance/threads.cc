// Threads: many at once, ending while another forks, cancelled in the middle of calls, on stacks of 16 KiB.
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <thread>

#include "conformance/case.h"

namespace shortfuse::tests::conformance {
namespace {

/// Open, read to the end, stat and list; how many of these were not as they must be.
unsigned a_round() {
  unsigned wrong = 0;
  struct stat st;
  char buffer[4096];
  int fd = open("text", O_RDONLY | O_CLOEXEC);
  ssize_t all = 0, got;
  while ((got = read(fd, buffer, sizeof buffer)) > 0) all += got;
  wrong += all != 10'000;
  wrong += pread(fd, buffer, 10, 10) != 10 || buffer[8] != '1';
  wrong += fstat(fd, &st) != 0 || st.st_size != 10'000;
  close(fd);
  wrong += stat("sub/inner/leaf", &st) != 0 || st.st_size != 7;
  wrong += stat("dir/absent", &st) != -1 || errno != ENOENT;
  wrong += readlink("link", buffer, sizeof buffer) != 4;
  int names = 0;
  DIR *listing = opendir("dir");
  if (listing == nullptr) return wrong + 1;
  while (readdir(listing) != nullptr) ++names;
  closedir(listing);
  return wrong + (names != 122);
}

void many_threads(const Place &) {
  std::atomic<unsigned> wrong{0};
  for (int round = 0; round < 5; ++round) {
    std::vector<std::thread> threads;
    for (int i = 0; i < 16; ++i) {
      threads.emplace_back([&] {
        for (int j = 0; j < 10; ++j) wrong += a_round();
      });
    }
    for (auto &thread : threads) thread.join();
  }
  say("wrong", "%u", wrong.load());
}

void one_offset(const Place &) {
  // Threads read through one descriptor: each byte goes to one of them.
  int fd = open("big", O_RDONLY);
  std::atomic<long> bytes{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      char buffer[100];
      for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;) bytes += got;
    });
  }
  for (auto &thread : threads) thread.join();
  say("all", "%ld at %ld", bytes.load(), position(fd));
}

void forks_among_threads(const Place &) {
  std::atomic<bool> stop{false};
  std::atomic<unsigned> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        std::thread([&] { wrong += a_round(); }).join();
      }
    });
  }
  int fd = open("text", O_RDONLY);
  reads(fd, 10);
  for (unsigned i = 0; i < 60; ++i) {
    std::string how = in_child([&] {
      if (i % 3 == 0) _exit(read(fd, nullptr, 0) == 0 ? 0 : 3);
      unsigned own = a_round();
      std::thread([&] { own += a_round(); }).join();
      _exit(own == 0 ? 0 : 4);
    });
    if (how != "exit 0") say("a child", "%s", how.c_str());
  }
  stop = true;
  for (auto &thread : threads) thread.join();
  say("wrong", "%u", wrong.load());
  say("read on", "%s", reads(fd, 10).c_str());
}

void *on_a_small_stack(void *argument) {
  // No printf here: that alone needs more than there is.
  auto wrong = static_cast<std::atomic<unsigned> *>(argument);
  struct stat st;
  char byte[16];
  for (int i = 0; i < 20; ++i) {
    int fd = open("link", O_RDONLY);
    *wrong += read(fd, byte, sizeof byte) != sizeof byte;
    *wrong += lseek(fd, 0, SEEK_END) != 10'000;
    *wrong += fstat(fd, &st) != 0;
    int copy = dup(fd);
    *wrong += close(fd) != 0 || close(copy) != 0;
    *wrong += stat("sub/../sub/inner/./leaf", &st) != 0;
    *wrong += access("script", X_OK) != 0;
    *wrong += readlink("link", byte, sizeof byte) != 4;
    *wrong += stat("loop", &st) != -1;
    int dir = open("dir", O_RDONLY | O_DIRECTORY);
    *wrong += fstatat(dir, "file001", &st, 0) != 0;
    close(dir);
  }
  return nullptr;
}

void small_stacks(const Place &) {
  std::atomic<unsigned> wrong{0};
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  say("size", "%d", pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN));
  for (int i = 0; i < 20; ++i) {
    pthread_t thread;
    if (pthread_create(&thread, &attributes, on_a_small_stack, &wrong) != 0) return said("thread", -1);
    pthread_join(thread, nullptr);
  }
  say("wrong", "%u", wrong.load());
}

struct Cancelled {
  std::atomic<int> cleaned{0}, started{0};
  int asynchronous;
};

/// Without anything to be destroyed: asynchronous cancellation must not meet a function that is told never to throw.
[[gnu::noinline]] void call_for_ever(int fd, char *buffer, struct stat *st) {
  // read is a point of cancellation, pread as well, stat is none.
  for (;;) {
    if (lseek(fd, 0, SEEK_SET) != 0 || read(fd, buffer, 100) != 100) return;
    if (pread(fd, buffer, 10, 50) != 10 || stat("text", st) != 0) return;
  }
}

void *until_cancelled(void *argument) {
  auto all = static_cast<Cancelled *>(argument);
  int fd = open("text", O_RDONLY);
  char buffer[100];
  struct stat st;
  pthread_cleanup_push([](void *what) { ++static_cast<Cancelled *>(what)->cleaned; }, all);
  if (all->asynchronous != 0) pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, nullptr);
  all->started = 1;
  call_for_ever(fd, buffer, &st);
  pthread_cleanup_pop(0);
  return nullptr;
}

void cancellation(const Place &) {
  for (int asynchronous : {0, 1}) {
    unsigned right = 0;
    for (int i = 0; i < 60; ++i) {
      Cancelled all;
      all.asynchronous = asynchronous;
      pthread_t thread;
      pthread_create(&thread, nullptr, until_cancelled, &all);
      while (all.started == 0) usleep(50);
      usleep(static_cast<useconds_t>(i % 7 * 100));
      pthread_cancel(thread);
      void *result = nullptr;
      pthread_join(thread, &result);
      right += result == PTHREAD_CANCELED && all.cleaned == 1;
    }
    say("ended as they must", "%u", right);
    say("contents", "%s", contents("text").c_str());
  }
  // Before its call is made: a thread with a cancellation pending does not read.
  int fd = open("text", O_RDONLY);
  reads(fd, 10);
  pthread_t thread;
  pthread_create(&thread, nullptr, [](void *argument) -> void * {
    pthread_cancel(pthread_self());
    char byte;
    read(*static_cast<int *>(argument), &byte, 1);
    return nullptr;
  }, &fd);
  void *result = nullptr;
  pthread_join(thread, &result);
  say("cancelled before it read", "%d at %ld", result == PTHREAD_CANCELED, position(fd));
}

void descriptors_come_and_go(const Place &) {
  // One thread's numbers are another's a moment later.
  std::atomic<unsigned> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      const char *name = i % 2 == 0 ? "text" : "dir/file001";
      const ssize_t bytes = i % 2 == 0 ? 10'000 : 9;
      char buffer[16'384];
      for (int round = 0; round < 300; ++round) {
        int fd = open(name, O_RDONLY);
        int copy = round % 3 == 0 ? dup(fd) : fcntl(fd, F_DUPFD_CLOEXEC, 3);
        wrong += read(copy, buffer, sizeof buffer) != bytes;
        wrong += read(fd, buffer, sizeof buffer) != 0;
        close(fd);
        wrong += lseek(copy, 0, SEEK_SET) != 0 || read(copy, buffer, sizeof buffer) != bytes;
        close(copy);
      }
    });
  }
  for (auto &thread : threads) thread.join();
  say("wrong", "%u", wrong.load());
  say("contents", "%s", contents("text").c_str());
}

}  // namespace

std::vector<Case> thread_cases() {
  return {
      {"threads", many_threads, {"read", "stat", "readdir", "readlink"}},
      {"threads_one_offset", one_offset, {"read"}},
      {"threads_and_forks", forks_among_threads, {"read"}},
      {"threads_small_stacks", small_stacks, {"read", "stat"}},
      {"threads_cancelled", cancellation, {"read", "stat"}},
      {"threads_descriptors", descriptors_come_and_go, {"read"}},
  };
}

}  // namespace shortfuse::tests::conformance
