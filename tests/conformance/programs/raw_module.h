// A module that makes its system calls itself, as liburing, libaio and sanitisers' runtimes do.
#pragma once

/// Returns -1 and sets errno, like syscall().
using RawCall = long(long nr, long a, long b, long c, long d, long e, long f);
/// open, read, lseek and close of it with numbers that are constants in its text.
using RawOpen = int(const char *path, int flags);
using RawRead = long(int fd, char *buffer, long bytes);
using RawSeek = long(int fd, long offset, int whence);
using RawClose = int(int fd);
/// close(fd) if `really` is not 0, else getpid(): in conformance_raw_ways.so, which has nothing else.
using RawCloseIf = long(int fd, int really);
