// A bypass for the tests of the hook: answers calls on names that begin with /fake/, counts what arrives, and touches
// the caller's memory as the real one does.
//
//   stat, lstat, newfstatat, statx of /fake/N: a regular file of N bytes, mode 0644, inode N.
//   open of /fake/...: never ours. access of /fake/...: 0. readlink of /fake/...: "target".
//   read from descriptor 1000: as many 'x' as asked for; pread64 likewise.
//   FAKE_START=0: the process is not to be hooked. FAKE_REPORT=FILE: written at exit by the process that has it from
//   its start: calls seen, served, abandoned, forks, execs, exits, thread exits.
#include <asm/stat.h>
#include <asm/unistd.h>
#include <errno.h>
#include <linux/fcntl.h>
#include <linux/stat.h>

#include "shortfuse/bypass/bypass.h"
#include "shortfuse/bypass/syscalls.h"
#include "shortfuse/bypass/trace.h"
#include "../src/text.h"

namespace {

struct Counts {
  uint64_t seen, served, abandoned, forks, execs, exits, thread_exits;
};
Counts counts;
const char *report;
bool all_calls, reported;
long first_process;

void add(uint64_t *count) { __atomic_fetch_add(count, 1, __ATOMIC_RELAXED); }

uint64_t number_after(const char *text) {
  uint64_t value = 0;
  for (; *text >= '0' && *text <= '9'; text++) value = value * 10 + (uint64_t)(*text - '0');
  return value;
}

bool is_fake(const char *path) { return sf_starts_with(path, "/fake/"); }

long serve_stat(const char *path, struct stat *out) {
  struct stat value = {};
  value.st_mode = 0100644;
  value.st_size = (long)number_after(path + 6);
  value.st_ino = (unsigned long)value.st_size;
  value.st_nlink = 1;
  *out = value;
  return 0;
}

long serve_statx(const char *path, struct statx *out) {
  struct statx value = {};
  value.stx_mask = STATX_BASIC_STATS;
  value.stx_mode = 0100644;
  value.stx_size = number_after(path + 6);
  value.stx_ino = value.stx_size;
  value.stx_nlink = 1;
  *out = value;
  return 0;
}

long serve_read(char *to, uint64_t bytes) {
  for (uint64_t i = 0; i < bytes; i++) {
    to[i] = 'x';
    __asm__ volatile("" ::: "memory");
  }
  return (long)bytes;
}

constexpr long kFakeDescriptor = 1000;

}  // namespace

extern "C" {

void sf_bypass_allow_opens(int (*)(void)) {}

int sf_bypass_start(char **envp, unsigned long) {
  report = sf_env(envp, "FAKE_REPORT=");
  first_process = SF_SYS0(__NR_getpid);
  const char *start = sf_env(envp, "FAKE_START=");
  const char *all = sf_env(envp, "FAKE_ALL=");
  all_calls = all && *all == '1';
  return !(start && *start == '0');
}

int sf_bypass_call(const struct sf_call *call, long *result) {
  add(&counts.seen);
  auto path0 = (const char *)call->arg[0], path1 = (const char *)call->arg[1];
  switch (call->nr) {
    case __NR_stat:
    case __NR_lstat:
      if (!is_fake(path0)) return 0;
      *result = serve_stat(path0, (struct stat *)path1);
      break;
    case __NR_newfstatat:
      if (!is_fake(path1)) return 0;
      *result = serve_stat(path1, (struct stat *)call->arg[2]);
      break;
    case __NR_statx:
      if (!is_fake(path1)) return 0;
      *result = serve_statx(path1, (struct statx *)call->arg[4]);
      break;
    case __NR_access:
      if (!is_fake(path0)) return 0;
      *result = 0;
      break;
    case __NR_faccessat:
    case __NR_faccessat2:
      if (!is_fake(path1)) return 0;
      *result = 0;
      break;
    case __NR_readlink: {
      if (!is_fake(path0)) return 0;
      auto to = (char *)path1;
      for (int i = 0; i < 6; i++) to[i] = "target"[i];
      *result = 6;
      break;
    }
    case __NR_read:
    case __NR_pread64:
      if (call->arg[0] != kFakeDescriptor) return 0;
      *result = serve_read((char *)call->arg[1], (uint64_t)call->arg[2]);
      break;
    default:
      return 0;
  }
  add(&counts.served);
  return 1;
}

void sf_bypass_abandoned(const struct sf_call *) { add(&counts.abandoned); }

int sf_bypass_in_policy(const struct sf_call *) { return 0; }

int sf_bypass_in_use(void) { return 0; }

void sf_bypass_give_back(void) {}

void sf_bypass_descriptors_unseen(const char *) {}

void sf_bypass_at_first_file(void (*)(void)) {}

int sf_bypass_wants(long nr) {
  static const int kWanted[] = {__NR_stat,     __NR_lstat,     __NR_fstat,      __NR_newfstatat, __NR_statx,
                                __NR_access,   __NR_faccessat, __NR_faccessat2, __NR_readlink,   __NR_readlinkat,
                                __NR_open,     __NR_openat,    __NR_openat2,    __NR_creat,      __NR_close,
                                __NR_close_range, __NR_read,   __NR_readv,      __NR_pread64,    __NR_preadv,
                                __NR_preadv2,  __NR_lseek,     __NR_dup,        __NR_dup2,       __NR_dup3,
                                __NR_fcntl,    __NR_chdir,     __NR_fchdir,     __NR_getdents64, __NR_getcwd,
                                __NR_sendfile, __NR_sendmsg,   __NR_statfs,     __NR_fstatfs,    __NR_write,
                                __NR_mmap,     __NR_getxattr,  __NR_lgetxattr,  __NR_fgetxattr,  __NR_listxattr,
                                __NR_setuid,   __NR_setgid,    __NR_unlink,     __NR_rename,     __NR_mkdir};
  for (int wanted : kWanted)
    if (wanted == nr) return 1;
  return all_calls && nr >= 0 && nr < 450;
}

void sf_bypass_switch_off() { add(&counts.forks); }
void sf_bypass_filtered(void) {}
void sf_bypass_before_fork(unsigned long, int is_exec) { add(is_exec ? &counts.execs : &counts.forks); }
void sf_bypass_before_unseen_exec(void) {}

void sf_bypass_exit(void) {
  add(&counts.exits);
  if (!report || reported || SF_SYS0(__NR_getpid) != first_process) return;
  reported = true;
  char line[256];
  size_t n = 0;
  const uint64_t values[] = {counts.seen,  counts.served, counts.abandoned,   counts.forks,
                             counts.execs, counts.exits,  counts.thread_exits};
  for (uint64_t value : values) {
    n = sf_append_number(line, sizeof line, n, value, 10);
    n = sf_append(line, sizeof line, n, " ");
  }
  line[n - 1] = '\n';
  long fd = SF_SYS4(__NR_openat, AT_FDCWD, report, 01 | 0100 | 01000, 0644);
  if (fd < 0) return;
  SF_SYS3(__NR_write, fd, line, n);
  SF_SYS1(__NR_close, fd);
}

// Nothing is traced here.
int sf_trace_start(char **) { return 0; }
void sf_trace_begin(unsigned, const char *) {}
int sf_trace_on(void) { return 0; }
int sf_trace_interrupted(uint64_t, uint64_t) { return 0; }
int sf_trace_wants(long) { return 0; }
int sf_trace_enter(const struct sf_call *, int, uint64_t *, long *) { return 0; }
void sf_trace_return(const struct sf_call *, int, uint64_t, long) {}
int sf_trace_before_exec(const struct sf_call *, int) { return -1; }
void sf_trace_exec_failed(int) {}
void sf_trace_thread_exit(void) {}
void sf_trace_leave(void) {}
int sf_trace_copy_faulted(uint64_t *) { return 0; }

void sf_bypass_thread_exit(void) { add(&counts.thread_exits); }

}  // extern "C"
