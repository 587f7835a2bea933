// File system calls, each in two ways: through libc (where the hook sits, if the process has one) and as a system call
// of this program's own text (which no hook sees). All return the kernel's convention: -errno for errors.
#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

namespace shortfuse::tests {

enum class Via { Libc, Raw };

long call_fstatat(Via via, int dirfd, const char *path, struct stat *out, int flags);
long call_stat(Via via, const char *path, struct stat *out);
long call_lstat(Via via, const char *path, struct stat *out);
long call_fstat(Via via, int fd, struct stat *out);
long call_statx(Via via, int dirfd, const char *path, int flags, unsigned mask, struct statx *out);
long call_access(Via via, const char *path, int mode);
/// Flags 0 is faccessat(2), others are faccessat2(2), as libc does it.
long call_faccessat(Via via, int dirfd, const char *path, int mode, int flags);
long call_readlinkat(Via via, int dirfd, const char *path, char *buffer, size_t size);
long call_readlink(Via via, const char *path, char *buffer, size_t size);
long call_pread(Via via, int fd, void *buffer, size_t size, off_t offset);
long call_preadv(Via via, int fd, const iovec *vectors, int count, off_t offset);
long call_getdents(Via via, int fd, void *buffer, size_t size);
long call_lseek(Via via, int fd, off_t offset, int whence);
long call_statfs(Via via, const char *path, struct statfs *out);
long call_fstatfs(Via via, int fd, struct statfs *out);
enum class Follow { Yes, No, Descriptor };
long call_getxattr(Via via, Follow follow, int fd, const char *path, const char *name, void *value, size_t size);
long call_listxattr(Via via, Follow follow, int fd, const char *path, char *list, size_t size);
long call_getcwd(Via via, char *buffer, size_t size);

}  // namespace shortfuse::tests
