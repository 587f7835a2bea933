#include "support/calls.h"

#include <dirent.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "support/raw.h"

namespace shortfuse::tests {

namespace {
long result_of(long libc_result) { return libc_result < 0 ? -errno : libc_result; }
}  // namespace

long call_fstatat(Via via, int dirfd, const char *path, struct stat *out, int flags) {
  if (via == Via::Raw) return raw(__NR_newfstatat, dirfd, path, out, flags);
  return result_of(fstatat(dirfd, path, out, flags));
}

long call_stat(Via via, const char *path, struct stat *out) {
  if (via == Via::Raw) return raw(__NR_stat, path, out);
  return result_of(stat(path, out));
}

long call_lstat(Via via, const char *path, struct stat *out) {
  if (via == Via::Raw) return raw(__NR_lstat, path, out);
  return result_of(lstat(path, out));
}

long call_fstat(Via via, int fd, struct stat *out) {
  if (via == Via::Raw) return raw(__NR_fstat, fd, out);
  return result_of(fstat(fd, out));
}

long call_statx(Via via, int dirfd, const char *path, int flags, unsigned mask, struct statx *out) {
  if (via == Via::Raw) return raw(__NR_statx, dirfd, path, flags, mask, out);
  return result_of(statx(dirfd, path, flags, mask, out));
}

long call_access(Via via, const char *path, int mode) {
  if (via == Via::Raw) return raw(__NR_access, path, mode);
  return result_of(access(path, mode));
}

long call_faccessat(Via via, int dirfd, const char *path, int mode, int flags) {
  if (via == Via::Libc) return result_of(faccessat(dirfd, path, mode, flags));
  return flags == 0 ? raw(__NR_faccessat, dirfd, path, mode) : raw(__NR_faccessat2, dirfd, path, mode, flags);
}

long call_readlinkat(Via via, int dirfd, const char *path, char *buffer, size_t size) {
  if (via == Via::Raw) return raw(__NR_readlinkat, dirfd, path, buffer, size);
  return result_of(readlinkat(dirfd, path, buffer, size));
}

long call_readlink(Via via, const char *path, char *buffer, size_t size) {
  if (via == Via::Raw) return raw(__NR_readlink, path, buffer, size);
  return result_of(readlink(path, buffer, size));
}

long call_pread(Via via, int fd, void *buffer, size_t size, off_t offset) {
  if (via == Via::Raw) return raw(__NR_pread64, fd, buffer, size, offset);
  return result_of(pread(fd, buffer, size, offset));
}

long call_preadv(Via via, int fd, const iovec *vectors, int count, off_t offset) {
  if (via == Via::Raw) return raw(__NR_preadv, fd, vectors, count, offset, 0);
  return result_of(preadv(fd, vectors, count, offset));
}

long call_getdents(Via via, int fd, void *buffer, size_t size) {
  if (via == Via::Raw) return raw(__NR_getdents64, fd, buffer, size);
  return result_of(getdents64(fd, buffer, size));
}

long call_lseek(Via via, int fd, off_t offset, int whence) {
  if (via == Via::Raw) return raw(__NR_lseek, fd, offset, whence);
  return result_of(lseek(fd, offset, whence));
}

long call_statfs(Via via, const char *path, struct statfs *out) {
  if (via == Via::Raw) return raw(__NR_statfs, path, out);
  return result_of(statfs(path, out));
}

long call_fstatfs(Via via, int fd, struct statfs *out) {
  if (via == Via::Raw) return raw(__NR_fstatfs, fd, out);
  return result_of(fstatfs(fd, out));
}

long call_getxattr(Via via, Follow follow, int fd, const char *path, const char *name, void *value, size_t size) {
  bool libc = via == Via::Libc;
  switch (follow) {
    case Follow::Yes:
      return libc ? result_of(getxattr(path, name, value, size)) : raw(__NR_getxattr, path, name, value, size);
    case Follow::No:
      return libc ? result_of(lgetxattr(path, name, value, size)) : raw(__NR_lgetxattr, path, name, value, size);
    case Follow::Descriptor:
      return libc ? result_of(fgetxattr(fd, name, value, size)) : raw(__NR_fgetxattr, fd, name, value, size);
  }
  return -EINVAL;
}

long call_listxattr(Via via, Follow follow, int fd, const char *path, char *list, size_t size) {
  bool libc = via == Via::Libc;
  switch (follow) {
    case Follow::Yes:
      return libc ? result_of(listxattr(path, list, size)) : raw(__NR_listxattr, path, list, size);
    case Follow::No:
      return libc ? result_of(llistxattr(path, list, size)) : raw(__NR_llistxattr, path, list, size);
    case Follow::Descriptor:
      return libc ? result_of(flistxattr(fd, list, size)) : raw(__NR_flistxattr, fd, list, size);
  }
  return -EINVAL;
}

long call_getcwd(Via via, char *buffer, size_t size) {
  if (via == Via::Raw) return raw(__NR_getcwd, buffer, size);
  return getcwd(buffer, size) == nullptr ? -errno : static_cast<long>(strlen(buffer) + 1);
}

}  // namespace shortfuse::tests
