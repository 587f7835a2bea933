/* What vm_bench runs: one source for the virtual machine, for the kernel and, with SF_NATIVE, for the processor.
 * Programs read `in`, which is global data, and leave the context alone: contexts differ. */
#ifdef SF_NATIVE
#include "native.h"
#else
#include <shortfuse/policy.h>
#define PROGRAM(name) SEC("?fuse/read") int name(void *ctx)
#define MAP(name, kind, key_type, value_type, entries) \
  struct { \
    __uint(type, kind); __uint(max_entries, entries); __type(key, key_type); __type(value, value_type); \
  } name SEC(".maps")
char LICENSE[] SEC("license") = "GPL";
#endif
#include "programs.h"

#define NOINLINE static __attribute__((noinline))

struct input in;

struct key64 { u64 word[8]; };
MAP(table4, BPF_MAP_TYPE_HASH, u32, u64, TABLE_ENTRIES);
MAP(table64, BPF_MAP_TYPE_HASH, struct key64, u64, TABLE_ENTRIES);
MAP(counters, BPF_MAP_TYPE_ARRAY, u32, u64, 64);

PROGRAM(arithmetic) {
  u64 x = in.seed;
  for (u32 i = 0; i < 1000; i++) {
    x = x * 6364136223846793005ull + i;
    x ^= x >> 29;
  }
  return (int)x;
}

PROGRAM(hash_bytes) {
  u64 h = 0xcbf29ce484222325ull;
  for (u32 i = 0; i < 1024; i++) h = (h ^ in.text[i]) * 0x100000001b3ull;
  return (int)h;
}

PROGRAM(compare) {
  u32 equal = 0;
  for (u32 round = 0; round < 8; round++) {
    u32 i = 0;
    while (i < 64 && in.text[round * 64 + i] == in.other[round * 64 + i]) i++;
    equal += i;
  }
  return (int)equal;
}

PROGRAM(lookup_hit_4) {
  u64 sum = 0;
  for (u32 i = 0; i < LOOKUPS; i++) {
    u32 key = in.keys[i];
    u64 *value = bpf_map_lookup_elem(&table4, &key);
    if (value) sum += *value;
  }
  return (int)sum;
}

PROGRAM(lookup_miss_4) {
  u64 sum = 0;
  for (u32 i = 0; i < LOOKUPS; i++) {
    u32 key = in.keys[i] + TABLE_ENTRIES;
    u64 *value = bpf_map_lookup_elem(&table4, &key);
    if (value) sum += *value;
  }
  return (int)sum;
}

PROGRAM(lookup_hit_64) {
  u64 sum = 0;
  for (u32 i = 0; i < LOOKUPS; i++) {
    u64 k = in.keys[i];
    struct key64 key = {{k, k, k, k, k, k, k, k}};
    u64 *value = bpf_map_lookup_elem(&table64, &key);
    if (value) sum += *value;
  }
  return (int)sum;
}

PROGRAM(count_in_array) {
  for (u32 i = 0; i < LOOKUPS; i++) {
    u32 key = in.keys[i] & 63;
    u64 *value = bpf_map_lookup_elem(&counters, &key);
    if (value) *value += 1;
  }
  return 0;
}

NOINLINE long add_round(u32 index, void *sum) {
  u64 *s = sum;
  *s = (*s ^ index) * 31 + in.seed;
  return 0;
}

PROGRAM(loop_callback) {
  u64 sum = 1;
  bpf_loop(1000, add_round, &sum, 0);
  return (int)sum;
}

NOINLINE u64 inner(u64 a, u64 b) { return (a ^ b) * 0x9e3779b97f4a7c15ull; }
NOINLINE u64 outer(u64 a, u64 b) { return inner(a, b) + inner(b, a + 1); }

PROGRAM(sub_programs) {
  u64 x = in.seed;
  for (u32 i = 0; i < 100; i++) x = outer(x, i);
  return (int)x;
}

static __attribute__((always_inline)) inline int begins(const unsigned char *path, const char *prefix, u32 length) {
  for (u32 i = 0; i < length; i++) {
    if (path[i] != (unsigned char)prefix[i]) return 0;
  }
  return path[length] == 0 || path[length] == '/';
}

PROGRAM(path_match) {
  u32 matches = 0;
  for (u32 i = 0; i < 16; i++) {
    const unsigned char *path = in.text + i * 64;
    matches += begins(path, "usr/include", 11) || begins(path, "usr/lib", 7) || begins(path, "home/user/secret", 16) ||
               begins(path, "etc", 3);
  }
  return (int)matches;
}

PROGRAM(branches) {
  u64 a = in.seed, b = 1;
  for (u32 i = 0; i < 256; i++) {
    switch (in.text[i] & 15) {
      case 0: a += b; break;
      case 1: a -= 3; break;
      case 2: b ^= a; break;
      case 3: a <<= 1; break;
      case 4: b += 7; break;
      case 5: a ^= a >> 7; break;
      case 6: b *= 5; break;
      case 7: a = b - a; break;
      case 8: b -= i; break;
      case 9: a |= 1; break;
      case 10: b &= ~1ull; break;
      case 11: a += i; break;
      case 12: b = a + 1; break;
      case 13: a *= 3; break;
      case 14: b ^= 0xff; break;
      default: a ^= b; break;
    }
  }
  return (int)(a + b);
}

PROGRAM(copy_on_stack) {
  u64 buffer[32], sum = 0;
  for (u32 round = 0; round < 4; round++) {
    for (u32 i = 0; i < 32; i++) buffer[i] = in.words[round * 32 + i];
    for (u32 i = 0; i < 32; i++) sum += buffer[(i * 7 + sum) & 31];
  }
  return (int)sum;
}

PROGRAM(checksum) {
  u64 sum = 0;
  for (u32 i = 0; i < 512; i++) sum += ((const u16 *)in.words)[i];
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return (int)(u16)~sum;
}
