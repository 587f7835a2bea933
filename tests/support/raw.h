// System calls that no hook sees: the other half of every comparison. The instruction is made at run time, because a
// program with system calls in its own text is treated with caution (syscall-hook/src/raw_calls.h) and would be
// compared less.
#pragma once
#include <asm/unistd.h>

namespace shortfuse::tests {

/// A function that is nothing but `syscall; ret`, with the registers as the kernel wants them.
extern void *const raw_instruction;

/// The result as the kernel gives it: -errno for errors.
inline long raw_syscall(long nr, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  // The red zone of the caller is stepped over: the compiler does not know of the call.
  __asm__ volatile("lea -128(%%rsp), %%rsp; call *%[there]; lea 128(%%rsp), %%rsp"
                   : "=a"(result)
                   : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9), [there] "b"(raw_instruction)
                   : "rcx", "r11", "memory");
  return result;
}

template <typename... Args>
long raw(long nr, Args... args) {
  return raw_syscall(nr, (long)args...);
}

}  // namespace shortfuse::tests
