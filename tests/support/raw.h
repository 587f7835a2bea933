// System calls made from this program's own text. The hook patches libc and ld.so only, so what is called here is
// always the kernel's answer: the other half of every comparison.
#pragma once
#include <asm/unistd.h>

namespace shortfuse::tests {

/// The result as the kernel gives it: -errno for errors.
inline long raw_syscall(long nr, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

template <typename... Args>
long raw(long nr, Args... args) {
  return raw_syscall(nr, (long)args...);
}

}  // namespace shortfuse::tests
