/* A map of every kind, for maps_test.cc: applications count and leave events, the daemon fills the others. */
#include <shortfuse/policy.h>

#define MAP(kind, entries) __uint(type, BPF_MAP_TYPE_##kind); __uint(max_entries, entries)

struct event { __u64 node; __u32 op; __u32 pid; };
struct seen { __u64 calls, bytes; };
struct net { __u32 prefixlen; __u8 data[4]; };

struct { MAP(PERCPU_ARRAY, 16); __type(key, __u32); __type(value, __u64); } calls SEC(".maps");
struct { MAP(PERCPU_HASH, 1024); __type(key, __u64); __type(value, struct seen); } by_node SEC(".maps");
struct { MAP(RINGBUF, 65536); __type(value, struct event); } events SEC(".maps");
struct { MAP(HASH, 64); __type(key, __u32); __type(value, __u32); __uint(pinning, 1); } quiet SEC(".maps");
struct { MAP(ARRAY, 4); __type(key, __u32); __type(value, __u64); } totals SEC(".maps");
struct { MAP(LRU_HASH, 8); __type(key, __u64); __type(value, __u64); } recent SEC(".maps");
struct { MAP(QUEUE, 4); __type(value, __u32); } opcodes SEC(".maps");
struct { MAP(STACK, 4); __type(value, __u32); } latest SEC(".maps");
struct { MAP(BLOOM_FILTER, 100); __type(value, __u64); } nodes SEC(".maps");
struct {
  MAP(LPM_TRIE, 16);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, struct net);
  __type(value, __u32);
} nets SEC(".maps");

SEC("syscall/stat")
int stat_counted(struct sf_syscall_ctx *ctx) {
  __u32 op = ctx->op, uid = ctx->uid;
  __u64 *count = bpf_map_lookup_elem(&calls, &op);
  if (count) *count += 1;
  __u64 node = ctx->node;
  struct seen *seen = bpf_map_lookup_elem(&by_node, &node);
  if (seen) {
    seen->calls += 1;
  } else {
    struct seen first = {1, 0};
    bpf_map_update_elem(&by_node, &node, &first, BPF_ANY);
  }
  if (bpf_map_lookup_elem(&quiet, &uid)) return SF_PASS;
  struct event *event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
  if (!event) return SF_PASS;
  event->node = node;
  event->op = op;
  event->pid = ctx->pid;
  bpf_ringbuf_submit(event, 0);
  return SF_PASS;
}

SEC("fuse/getattr")
int getattr_noted(struct sf_fuse_ctx *ctx) {
  __u32 first = 0, opcode = ctx->opcode;
  __u64 node = ctx->node, one = 1;
  __u64 *total = bpf_map_lookup_elem(&totals, &first);
  if (total) __sync_fetch_and_add(total, 1);
  bpf_map_update_elem(&recent, &node, &one, BPF_ANY);
  bpf_map_push_elem(&opcodes, &opcode, BPF_EXIST);
  bpf_map_push_elem(&latest, &opcode, BPF_EXIST);
  bpf_map_push_elem(&nodes, &node, BPF_ANY);
  struct net net = {32, {10, 0, 0, 1}};
  __u32 *denied = bpf_map_lookup_elem(&nets, &net);
  return denied && *denied == ctx->uid + 1 ? -13 : SF_PASS;
}

char LICENSE[] SEC("license") = "GPL";
