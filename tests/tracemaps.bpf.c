/* For the tests of `shortfuse trace`: writes to every kind of map from all processes, around getsid() and getpgid(). */
#include <shortfuse/trace.h>

struct who {
  u32 pid;
  char comm[16];
};
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 4096);
  __type(key, u32);
  __type(value, u64);
} by_process SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_HASH);
  __uint(max_entries, 64);
  __type(key, sf_call_nr);
  __type(value, u64);
} by_call SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 64);
  __type(key, u32);
  __type(value, struct who);
} last SEC(".maps");
struct event {
  sf_call_nr call;
  u32 pid;
  s64 result;
  char text[24];
};
struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 20);
  __type(value, struct event);
} events SEC(".maps");

static __always_inline int see(struct sf_call_ctx *ctx) {
  u32 pid = ctx->pid, nr = ctx->nr;
  u64 one = 1, *there = bpf_map_lookup_elem(&by_process, &pid);
  struct who who = {.pid = pid};
  if (!there) {
    bpf_map_update_elem(&by_process, &pid, &one, BPF_NOEXIST);
    there = 0;
  } else {
    __sync_fetch_and_add(there, 1);
  }
  there = bpf_map_lookup_elem(&by_call, &nr);
  if (there) ++*there;
  else bpf_map_update_elem(&by_call, &nr, &one, BPF_ANY);
  bpf_get_current_comm(who.comm, sizeof who.comm);
  bpf_map_update_elem(&last, &nr, &who, BPF_ANY);
  return SF_PASS;
}

SEC("syscall/getsid") int sid(struct sf_call_ctx *ctx) { return see(ctx); }
SEC("syscall/getpgid") int pgid(struct sf_call_ctx *ctx) { return see(ctx); }

/* The directory's name behind a pointer, whatever it is. */
SEC("syscall_exit/chdir")
int moved(struct sf_call_ctx *ctx) {
  struct event event = {.call = ctx->nr, .pid = ctx->pid, .result = ctx->result};
  long length = bpf_probe_read_user_str(event.text, sizeof event.text, (void *)ctx->arg[0]);
  if (length < 0) event.result = length * 1000 + event.result;
  bpf_ringbuf_output(&events, &event, sizeof event, 0);
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
