/* A plug-in: nobody gets more than a megabyte in all. Answers how much of a request is granted. */
#include <shortfuse/bpf.h>

#include "request.h"

const volatile u64 limit = 1000000;

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1024);
  __type(key, u32);
  __type(value, u64);
} used SEC(".maps");

extern int report(const char *what, u64 user) __ksym; /* the application's */

SEC("request") u64 grant(struct request *r) {
  u32 user = r->user;
  u64 zero = 0, bytes = r->bytes, *so_far;

  bpf_map_update_elem(&used, &user, &zero, BPF_NOEXIST);
  so_far = bpf_map_lookup_elem(&used, &user);
  if (!so_far) return 0; /* more users than the map holds */
  if (*so_far + bytes > limit) {
    report("over the limit", user);
    return 0;
  }
  __sync_fetch_and_add(so_far, bytes);
  return bytes;
}

char LICENSE[] SEC("license") = "GPL";
