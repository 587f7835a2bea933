/* faultinject: lets system calls fail, to see what a program does then.
 *
 *     shortfuse trace -p faultinject -s call=openat -s error=ENOSPC -- make         every openat fails
 *     shortfuse trace -p faultinject -s call=write -s error=EIO -s skip=10 -s every=3 -- ./test
 *     shortfuse trace -p faultinject -s error=EACCES -s path=/etc/ssl -- curl ...   every path that begins so
 *     shortfuse trace -p faultinject -s call=read -s error=EINTR -s percent=5 -s limit=100 -- python3 test.py
 *
 * A call fails when it is the one named, its path begins with `path`, and of such calls (counted over all processes) it
 * is beyond the first `skip`, an `every`th one, and within the chance of `percent`; `limit` times at most. */
#include <asm/unistd.h>
#include <shortfuse/trace.h>

#define PATH_BYTES 128
#define ANY (~0u)
#define MAX_ERRNO 4095

const volatile u32 call = ANY;
const volatile u32 error = 5;      /* EIO */
const volatile u64 skip = 0;
const volatile u64 every = 1;
const volatile u32 percent = 100;
const volatile u64 limit = ~0ull;
const volatile char path[PATH_BYTES] = "";

struct numbers {
  u64 injected, candidates;
};
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, u32);
  __type(value, struct numbers);
} counters SEC(".maps");

struct fault {
  u32 pid, tid;
  sf_call_nr call;
  u32 error;
  char path[PATH_BYTES];
};
struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 256 * 1024);
  __type(value, struct fault);
} faults SEC(".maps");

/* The argument that is a path; -1: none is. Of two the first. */
static __always_inline int path_argument(u32 nr) {
  switch (nr) {
    case __NR_open: case __NR_stat: case __NR_lstat: case __NR_access: case __NR_truncate: case __NR_chdir:
    case __NR_rename: case __NR_mkdir: case __NR_rmdir: case __NR_creat: case __NR_link: case __NR_unlink:
    case __NR_symlink: case __NR_readlink: case __NR_chmod: case __NR_chown: case __NR_lchown: case __NR_utime:
    case __NR_mknod: case __NR_statfs: case __NR_execve: case __NR_setxattr: case __NR_lsetxattr: case __NR_getxattr:
    case __NR_lgetxattr: case __NR_listxattr: case __NR_llistxattr: case __NR_removexattr: case __NR_lremovexattr:
      return 0;
    case __NR_openat: case __NR_mkdirat: case __NR_mknodat: case __NR_fchownat: case __NR_newfstatat:
    case __NR_unlinkat: case __NR_renameat: case __NR_linkat: case __NR_readlinkat: case __NR_fchmodat:
    case __NR_faccessat: case __NR_utimensat: case __NR_renameat2: case __NR_statx: case __NR_openat2:
    case __NR_faccessat2: case __NR_execveat: case __NR_name_to_handle_at:
      return 1;
  }
  return -1;
}

static __always_inline int begins_with_path(const char *text) {
  for (u32 i = 0; i < PATH_BYTES; i++) {
    char wanted = path[i];
    if (wanted == 0) return 1;
    if (text[i] != wanted) return 0;
  }
  return 0;
}

static __always_inline void report(struct sf_call_ctx *ctx, const char *text) {
  struct fault *fault = bpf_ringbuf_reserve(&faults, sizeof *fault, 0);
  if (!fault) return;
  fault->pid = ctx->pid;
  fault->tid = ctx->tid;
  fault->call = ctx->nr;
  fault->error = error;
  for (u32 i = 0; i < PATH_BYTES / 8; i++) ((u64 *)fault->path)[i] = ((const u64 *)text)[i];
  bpf_ringbuf_submit(fault, 0);
}

SEC("syscall/*")
int inject(struct sf_call_ctx *ctx) {
  u64 words[PATH_BYTES / 8] = {};
  u32 nr = ctx->nr, first = 0;
  if (call != ANY && nr != call) return SF_PASS;
  /* What does not come back cannot fail, and only 1 to 4095 are errors: no fault, so none is counted. */
  if (nr == __NR_exit || nr == __NR_exit_group || error == 0 || error > MAX_ERRNO) return SF_PASS;
  int argument = path_argument(nr);
  if (argument == 0) bpf_probe_read_user_str(words, sizeof words, (void *)ctx->arg[0]);
  if (argument == 1) bpf_probe_read_user_str(words, sizeof words, (void *)ctx->arg[1]);
  if (path[0] && (argument < 0 || !begins_with_path((const char *)words))) return SF_PASS;

  struct numbers *numbers = bpf_map_lookup_elem(&counters, &first);
  if (!numbers) return SF_PASS;
  u64 number = __sync_fetch_and_add(&numbers->candidates, 1);
  if (number < skip || every == 0 || (number - skip + 1) % every != 0) return SF_PASS;
  if (percent < 100 && bpf_get_prandom_u32() % 100 >= percent) return SF_PASS;
  if (__sync_fetch_and_add(&numbers->injected, 1) >= limit) {
    __sync_fetch_and_add(&numbers->injected, -1);
    return SF_PASS;
  }
  report(ctx, (const char *)words);
  return -(int)error;
}

char LICENSE[] SEC("license") = "GPL";
