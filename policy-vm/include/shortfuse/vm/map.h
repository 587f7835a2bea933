/* Policy maps in shared memory: one memfd each, read without locks anywhere.
 *
 * With the kernel's meaning, flags and errnos (-E2BIG full, -ENOENT, -EEXIST, -EINVAL). A lookup returns a pointer into
 * the storage, as in the kernel: the value may change under the reader, and an element deleted and reused by the
 * writer may show another value; never memory outside the map. Lookups check every index they read, survive a writer
 * killed at any point, and end. Updates and deletes of one map: one at a time (`lock` of its handle). */
#ifndef SHORTFUSE_VM_MAP_H
#define SHORTFUSE_VM_MAP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The kernel's numbers (enum bpf_map_type). */
enum sf_map_kind {
  SF_MAP_HASH = 1,
  SF_MAP_ARRAY = 2,
  SF_MAP_PROG_ARRAY = 3,
  SF_MAP_PERCPU_HASH = 5,
  SF_MAP_PERCPU_ARRAY = 6,
  SF_MAP_LRU_HASH = 9,
  SF_MAP_LPM_TRIE = 11,
  SF_MAP_ARRAY_OF_MAPS = 12,
  SF_MAP_QUEUE = 22,
  SF_MAP_STACK = 23,
  SF_MAP_RINGBUF = 27,
  SF_MAP_BLOOM_FILTER = 30,
};

/* Kinds that each process has for itself, and may write: per-CPU values and ring buffers live in its own segment. All
 * others are shared, and only the daemon writes them. */
static inline int sf_map_per_process(uint32_t type) {
  return type == SF_MAP_PERCPU_HASH || type == SF_MAP_PERCPU_ARRAY || type == SF_MAP_RINGBUF;
}

struct sf_map_shape { uint32_t type, key_size, value_size, max_entries; };

/* A process's hold on a map. Made by whoever maps the storage, after sf_map_check(); lives as long as programs that
 * refer to it may run. */
struct sf_map {
  void *storage;
  struct sf_map_shape shape;  /* the policy's, so that nothing in shared memory decides a size */
  uint32_t writable;          /* not 0: this process may write the storage */
  uint32_t lock;              /* of this process's writers: taken by sf_vm_map_update() and its like */
};

/* Where an iteration stands. Zero it to begin. */
struct sf_map_cursor {
  uint64_t position;
  const void *key;            /* of the element found: in the storage, or `index` below */
  void *value;
  uint32_t index;
  uint32_t reserved;
};

/* Bytes of storage for a shape; 0 when it is not supported or too large (256 MiB). */
size_t sf_map_bytes(const struct sf_map_shape *shape);
void sf_map_init(void *storage, const struct sf_map_shape *shape);
/* 0, or -EINVAL when the storage is not a map of this shape and size. */
int sf_map_check(const void *storage, size_t bytes, const struct sf_map_shape *shape);

void *sf_map_lookup(const void *storage, const void *key);
int sf_map_update(void *storage, const void *key, const void *value, uint64_t flags);
int sf_map_delete(void *storage, const void *key);
/* Iteration: the first key when `key` is NULL or absent, else the next; -ENOENT at the end. */
int sf_map_next_key(const void *storage, const void *key, void *next);
/* The next element into `cursor`: 1, or 0 at the end. Elements that come and go meanwhile may or may not be seen; it
 * ends after at most as many steps as the map has places. */
int sf_map_step(const struct sf_map *map, struct sf_map_cursor *cursor);
/* Where the values of an ARRAY begin (for direct addresses of globals); NULL for other types. */
void *sf_map_array_values(const void *storage);

#ifdef __cplusplus
}
#endif
#endif
