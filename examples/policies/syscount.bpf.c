/* syscount: how often which system call is made, how often it fails, and how long it takes.
 *
 *     shortfuse trace -p syscount -- git status
 *     shortfuse trace -p syscount -s latencies=0 -- make      counts only, which costs each call less
 *
 * Counted are the calls that a program makes from its start on (what the dynamic linker does before is not seen), its
 * threads and children included. Times are those of calls that return into the program: not fork, exec, exit. */
#include <shortfuse/trace.h>

const volatile u32 latencies = 1;

struct tally {
  u64 calls;
  u64 errors;
  u64 total_ns;
  u64 max_ns;  /* of several "CPUs" the largest is shown, because of its name; the others are added */
};

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, SF_CALL_NUMBERS);
  __type(key, sf_call_nr);
  __type(value, struct tally);
} calls SEC(".maps");

SEC("syscall/*")
int count(struct sf_call_ctx *ctx) {
  u32 nr = ctx->nr;
  struct tally *tally = bpf_map_lookup_elem(&calls, &nr);
  if (tally) tally->calls++;
  return SF_PASS;
}

SEC("syscall_exit/*")
int measure(struct sf_call_ctx *ctx) {
  u32 nr = ctx->nr;
  u64 took = ctx->duration_ns;
  s64 result = ctx->result;
  struct tally *tally = bpf_map_lookup_elem(&calls, &nr);
  if (!tally) return 0;
  if (result < 0 && result >= -4095) tally->errors++;
  if (!latencies) return 0;
  tally->total_ns += took;
  if (took > tally->max_ns) tally->max_ns = took;
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
