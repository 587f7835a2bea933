// Which value of a per-CPU map a run of a program in the daemon writes: a number that no other run has meanwhile.
#pragma once
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstdint>

#include "shortfuse/vm/map.h"

namespace shortfuse::bridge {

class CpuNumbers {
 public:
  /// There are more numbers than a daemon has threads; who finds none waits for the end of a run, which is near.
  uint32_t take() {
    static_assert(SF_MAP_CPUS == 32);
    thread_local uint32_t last = 0;
    for (;;) {
      const uint32_t used = used_.load(std::memory_order_relaxed);
      if (used == ~0u) {
        sched_yield();
        continue;
      }
      const uint32_t number = (used >> last & 1) == 0 ? last : static_cast<uint32_t>(std::countr_one(used));
      // Acquire: what the run before wrote there.
      if ((used_.fetch_or(1u << number, std::memory_order_acquire) >> number & 1) == 0) return last = number;
    }
  }
  void give_back(uint32_t number) { used_.fetch_and(~(1u << number), std::memory_order_release); }

 private:
  std::atomic<uint32_t> used_{0};
};

class CpuNumber {
 public:
  explicit CpuNumber(CpuNumbers &numbers) : numbers_(numbers), number_(numbers.take()) {}
  ~CpuNumber() { numbers_.give_back(number_); }
  CpuNumber(const CpuNumber &) = delete;
  operator uint32_t() const { return number_; }

 private:
  CpuNumbers &numbers_;
  uint32_t number_;
};

inline uint32_t thread_number() {
  thread_local const auto number = static_cast<uint32_t>(gettid());
  return number;
}

}  // namespace shortfuse::bridge
