/* Objects for engine_test.cc: plug-ins of an application with a context and functions of its own. */
#include <shortfuse/bpf.h>

#ifdef CASE_plugin_moved /* believes something else of the context */
struct packet { u64 kind, address; } SF_BY_NAME;
SEC("packet/in") u64 first(struct packet *p) { return p->address * 1000 + p->kind; }
#else
struct packet { u32 length, kind; u64 address; char name[16]; };
#endif

#ifdef CASE_plugin
extern int note(const char *text, u64 number) __ksym;
extern u64 reverse(void *ctx, void *memory, u64 size) __ksym;
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 16);
  __type(key, u32);
  __type(value, u64);
} counts SEC(".maps");
u64 runs;
const volatile u64 more = 0;

SEC("packet/in") u64 first(struct packet *p) { return p->length + p->kind + more; }
SEC("packet/out") int noting(struct packet *p) { return note("seen", p->address); }
SEC("packet/out") u64 reversing(struct packet *p) {
  char name[16];
  for (u32 i = 0; i < sizeof name; i++) name[i] = p->name[i];
  return reverse(p, name, sizeof name) << 8 | name[1];
}
SEC("count") u64 counting(struct packet *p) {
  u32 key = p->kind;
  u64 zero = 0, *count;
  runs++;
  bpf_map_update_elem(&counts, &key, &zero, BPF_NOEXIST);
  count = bpf_map_lookup_elem(&counts, &key);
  return count ? __sync_add_and_fetch(count, 1) : 0;
}
#endif

#ifdef CASE_plugin_outside
SEC("packet/in") u64 first(struct packet *p) { return *(u64 *)(p + 1); }
#endif

char LICENSE[] SEC("license") = "GPL";
