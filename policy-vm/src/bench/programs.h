/* What the programs of vm_bench and vm_bench share. */
#ifndef SHORTFUSE_VM_BENCH_PROGRAMS_H
#define SHORTFUSE_VM_BENCH_PROGRAMS_H
#define TABLE_ENTRIES 1024
#define LOOKUPS 64

struct input {
  unsigned long long seed;
  unsigned long long words[128];
  unsigned int keys[LOOKUPS];
  unsigned char text[1088], other[1088];
};

/* name, operations in it */
#define SF_BENCH_PROGRAMS(X) \
  X(arithmetic, 1000) X(hash_bytes, 1024) X(compare, 512) X(lookup_hit_4, LOOKUPS) X(lookup_miss_4, LOOKUPS) \
  X(lookup_hit_64, LOOKUPS) X(count_in_array, LOOKUPS) X(loop_callback, 1000) X(sub_programs, 200) X(path_match, 16) \
  X(branches, 256) X(copy_on_stack, 256) X(checksum, 512)
#endif
