// Memory that two processes of a test share, and taking turns in it.
#pragma once
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <string>

#include "support/harness.h"
#include "support/raw.h"

namespace shortfuse::tests {

/// A zero-filled T in a file that the processes map by its name. T is made of lock-free atomics and plain arrays.
template <typename T>
class Shared {
 public:
  explicit Shared(const std::string &path) {
    int fd = open(path.c_str(), O_RDWR | O_CREAT, 0666);
    if (fd < 0 || ftruncate(fd, sizeof(T)) != 0) throw Broken("cannot share " + path);
    void *at = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED) throw Broken("cannot map " + path);
    value_ = static_cast<T *>(at);
  }
  ~Shared() { munmap(value_, sizeof(T)); }
  Shared(const Shared &) = delete;
  T *operator->() { return value_; }
  T &operator*() { return *value_; }

 private:
  T *value_;
};

/// A word that one process raises and another waits for: spins a little, then sleeps in the kernel.
struct Signal {
  std::atomic<uint32_t> word{0};

  void set(uint32_t to) {
    word.store(to);
    raw(__NR_futex, &word, FUTEX_WAKE, INT_MAX);
  }
  /// Until the word is `wanted` or `stop` is set; false when stopped.
  bool await(uint32_t wanted, const std::atomic<uint32_t> &stop) {
    while (!await_briefly(wanted)) {
      if (stop.load() != 0) return false;
    }
    return true;
  }
  /// The same for 50 ms at most.
  bool await_briefly(uint32_t wanted) {
    for (unsigned spins = 0; spins < 200; ++spins) {
      if (word.load() == wanted) return true;
      __builtin_ia32_pause();
    }
    uint32_t seen = word.load();
    struct timespec limit = {0, 50'000'000};
    if (seen != wanted) raw(__NR_futex, &word, FUTEX_WAIT, seen, &limit);
    return word.load() == wanted;
  }
};

}  // namespace shortfuse::tests
