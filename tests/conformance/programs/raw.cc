// conformance_raw.so. See raw_module.h.
#include <asm/unistd.h>
#include <errno.h>
#include <fcntl.h>

#include "conformance/programs/raw_module.h"

#ifdef SF_RAW_WAYS
// close(fd) if `really`, else getpid(): two numbers for one instruction.
extern "C" long raw_close_if(int fd, int really);
__asm__(".text\n.globl raw_close_if\n.type raw_close_if, @function\n"
        "raw_close_if:\n.cfi_startproc\n"
        "mov $3, %eax\n test %esi, %esi\n jne 1f\n mov $39, %eax\n 1: syscall\n ret\n"
        ".cfi_endproc\n.size raw_close_if, . - raw_close_if\n");
#else
static inline __attribute__((always_inline)) long kernel(long nr, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  if (result >= 0 || result < -4095) return result;
  errno = static_cast<int>(-result);
  return -1;
}

#ifdef SF_RAW_SECOND_TEXT
// In an executable segment of its own, behind the one with the system calls.
extern "C" __attribute__((section(".text_behind"))) int raw_nothing(int value) { return value + 1; }
#endif

extern "C" {
RawCall raw_call;
RawOpen raw_open;
RawRead raw_read;
RawSeek raw_seek;
RawClose raw_close;
#ifdef SF_RAW_ANY
long raw_call(long nr, long a, long b, long c, long d, long e, long f) { return kernel(nr, a, b, c, d, e, f); }
#else
// As a library for one purpose has them, each number a constant; a function each, or they would be merged.
#define ONE(name) \
  static __attribute__((noinline)) long do_##name(long a, long b, long c, long d, long e, long f) { \
    return kernel(__NR_##name, a, b, c, d, e, f); \
  }
ONE(io_uring_setup)
ONE(io_uring_enter)
ONE(io_setup)
ONE(io_submit)
ONE(io_getevents)
ONE(io_destroy)
long raw_call(long nr, long a, long b, long c, long d, long e, long f) {
  switch (nr) {
    case __NR_io_uring_setup: return do_io_uring_setup(a, b, c, d, e, f);
    case __NR_io_uring_enter: return do_io_uring_enter(a, b, c, d, e, f);
    case __NR_io_setup: return do_io_setup(a, b, c, d, e, f);
    case __NR_io_submit: return do_io_submit(a, b, c, d, e, f);
    case __NR_io_getevents: return do_io_getevents(a, b, c, d, e, f);
    case __NR_io_destroy: return do_io_destroy(a, b, c, d, e, f);
  }
  errno = ENOSYS;
  return -1;
}
#endif
int raw_open(const char *path, int flags) {
  return static_cast<int>(kernel(__NR_openat, AT_FDCWD, reinterpret_cast<long>(path), flags, 0, 0, 0));
}
long raw_read(int fd, char *buffer, long bytes) {
  return kernel(__NR_read, fd, reinterpret_cast<long>(buffer), bytes, 0, 0, 0);
}
long raw_seek(int fd, long offset, int whence) { return kernel(__NR_lseek, fd, offset, whence, 0, 0, 0); }
int raw_close(int fd) { return static_cast<int>(kernel(__NR_close, fd, 0, 0, 0, 0, 0)); }
}
#endif
