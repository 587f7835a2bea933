// The few calls to the kernel that a writer makes who finds another in its way. Freestanding; errno is not touched.
#pragma once
#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>

namespace shortfuse::vm::maps {

inline long call_kernel(long number, long a = 0, long b = 0, long c = 0) {
  long result;
  asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return result;
}

inline uint32_t gettid() { return static_cast<uint32_t>(call_kernel(SYS_gettid)); }
inline void yield() { call_kernel(SYS_sched_yield); }
inline void sleep_ns(long ns) {
  const long time[2] = {0, ns};
  call_kernel(SYS_nanosleep, reinterpret_cast<long>(time), 0);
}
// Whether this process has such a thread; with `anywhere`, whether any has.
inline bool thread_is_alive(uint32_t thread, bool anywhere) {
  if (anywhere) return call_kernel(SYS_tkill, thread, 0) != -ESRCH;
  return call_kernel(SYS_tgkill, call_kernel(SYS_getpid), thread, 0) != -ESRCH;
}

}  // namespace shortfuse::vm::maps
