/* Policy maps in shared memory: one memfd each, written by the daemon only, read without locks anywhere.
 *
 * ARRAY and HASH, with the kernel's meaning, flags and errnos (-E2BIG full, -ENOENT, -EEXIST, -EINVAL). A lookup
 * returns a pointer into the storage, as in the kernel: the value may change under the reader, and an element
 * deleted and reused by the writer may show another value; never memory outside the map. Lookups check every index
 * they read, survive a writer killed at any point, and end. Updates and deletes: one at a time (the caller locks). */
#ifndef SHORTFUSE_CACHE_MAP_H
#define SHORTFUSE_CACHE_MAP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sf_map_shape { uint32_t type, key_size, value_size, max_entries; };

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
/* Where the values of an ARRAY begin (for direct addresses of globals); NULL for other types. */
void *sf_map_array_values(const void *storage);

#ifdef __cplusplus
}
#endif
#endif
