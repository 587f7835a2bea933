/* System calls without libc: what the hook must never route through a patched site. */
#ifndef SHORTFUSE_BYPASS_SYSCALLS_H
#define SHORTFUSE_BYPASS_SYSCALLS_H

#ifndef __x86_64__
#error "x86-64 only so far"
#endif

static inline long sf_syscall6(long nr, long a, long b, long c, long d, long e, long f) {
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
#define SF_SYS0(nr) sf_syscall6(nr, 0, 0, 0, 0, 0, 0)
#define SF_SYS1(nr, a) sf_syscall6(nr, (long)(a), 0, 0, 0, 0, 0)
#define SF_SYS2(nr, a, b) sf_syscall6(nr, (long)(a), (long)(b), 0, 0, 0, 0)
#define SF_SYS3(nr, a, b, c) sf_syscall6(nr, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SF_SYS4(nr, a, b, c, d) sf_syscall6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define SF_SYS5(nr, a, b, c, d, e) sf_syscall6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define SF_SYS6(nr, a, b, c, d, e, f) \
  sf_syscall6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

#endif
