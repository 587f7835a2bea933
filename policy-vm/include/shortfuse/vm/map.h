/* Policy maps in shared memory: one file each, read without locks anywhere.
 *
 * With the kernel's meaning, flags and errnos (-E2BIG full, -ENOENT, -EEXIST, -EINVAL). A lookup returns a pointer into
 * the storage, as in the kernel: the value may change under the reader, and an element deleted and reused by the
 * writer may show another value; never memory outside the map. A value's place stays the same until its key is deleted
 * or updated; updates of a HASH whose keys and values have up to 8 bytes store the value in place, as one word, other
 * updates put a whole new element in the old one's place. Values are aligned to 8 bytes. Lookups check every
 * number they read, survive a writer killed at any point, and end, after a few hundred keys compared at most, whatever
 * the storage holds. Sizes come from the handle's shape, never from the storage. Writers of one map: one at a time
 * (sf_map_lock()), but for arrays and bloom filters.
 *
 * A HASH or PERCPU_HASH is also full (-E2BIG) for a new key for which its bucket, a place that the key's hash and the
 * map's seed decide, already has about 70 keys, until one of those is deleted. An LRU_HASH gives one of them up. That
 * happens to keys that were chosen for it, by who can read the seed, and to no others (a probability of 10^-57). */
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

/* Values that a per-CPU map has for each key, in every process. A "CPU" is a number that one thread holds while it runs
 * a program (sf_vm_env.cpu). */
#define SF_MAP_CPUS 32

struct sf_map_shape {
  uint32_t type, key_size, value_size, max_entries;
  uint32_t extra;  /* map_extra: of a BLOOM_FILTER the number of hash functions, 1 to 15; 0: 5. Else 0 */
};

/* A process's hold on a map. Made by whoever maps the storage, after sf_map_check(); lives as long as programs that
 * refer to it may run. */
struct sf_map {
  void *storage;
  struct sf_map_shape shape;  /* the policy's, so that nothing in shared memory decides a size */
  uint32_t writable;          /* not 0: this process may write the storage */
  uint32_t patient;           /* not 0: sf_map_lock() waits for as long as the kernel's users would (the daemon) */
  uint32_t many_processes;    /* not 0: threads of other processes write the storage too */
};

/* Kinds whose writers need no lock: sf_map_lock() does nothing. */
static inline int sf_map_is_free_for_all(uint32_t type) {
  return type == SF_MAP_ARRAY || type == SF_MAP_PERCPU_ARRAY || type == SF_MAP_PROG_ARRAY ||
         type == SF_MAP_ARRAY_OF_MAPS || type == SF_MAP_BLOOM_FILTER;
}

/* Where an iteration stands. Zero it to begin. */
struct sf_map_cursor {
  uint64_t position;
  const void *key;            /* of the element found: in the storage, or `index` below */
  void *value;
  uint32_t index, reserved;   /* the map's own */
};

/* Bytes of storage for a shape; 0 when it is not supported or too large (256 MiB). */
size_t sf_map_bytes(const struct sf_map_shape *shape);
/* REQUIRES: `storage` is zeroed, as a new file is; what no element uses is left untouched. */
void sf_map_init(void *storage, const struct sf_map_shape *shape);
/* 0, or -EINVAL when the storage is not a map of this shape and size. */
int sf_map_check(const void *storage, size_t bytes, const struct sf_map_shape *shape);

/* The writers' lock, which functions of programs take by themselves. It lies in the storage, which the threads of one
 * process write (or of many: many_processes). `thread`: the caller's thread id. 0 or -EBUSY. Bounded: a holder that
 * goes on holding is waited for about 2 ms, by a patient map 1 s, and then the write is refused and counted
 * (sf_map_refused()). A holder that is not there any more (its thread ended, or left the middle by longjmp and comes
 * again) is relieved, and the map put in order. So no thread may come here while it holds the lock: a signal handler
 * must not run a program whose thread it has interrupted in one. */
int sf_map_lock(struct sf_map *map, uint32_t thread);
void sf_map_unlock(struct sf_map *map);
uint32_t sf_map_refused(const struct sf_map *map);

/* `cpu` matters to per-CPU maps only: whose value. Functions that a kind does not have answer NULL or -EOPNOTSUPP.
 * REQUIRES for all that write: map->writable, and the lock. */
void *sf_map_lookup(const struct sf_map *map, const void *key, uint32_t cpu);
int sf_map_update(struct sf_map *map, const void *key, const void *value, uint64_t flags, uint32_t cpu);
int sf_map_delete(struct sf_map *map, const void *key);
int sf_map_push(struct sf_map *map, const void *value, uint64_t flags);
int sf_map_pop(struct sf_map *map, void *value);
int sf_map_peek(const struct sf_map *map, void *value);
/* Of a per-CPU map: bytes from one CPU's value of a key to the next one's. 0: the kind has one value per key. */
size_t sf_map_cpu_stride(const struct sf_map_shape *shape);
/* Elements in it, as far as the kind counts them (max_entries for arrays). */
uint32_t sf_map_count(const struct sf_map *map);

/* No more than so many steps lead through all keys (sf_map_next_key()), unless keys come and go meanwhile. */
static inline uint64_t sf_map_places(const struct sf_map_shape *shape) { return 2ull * shape->max_entries + 64; }
/* Iteration: the first key when `key` is NULL or absent, else the next; -ENOENT at the end. As in the kernel, who goes
 * on from a key that was deleted meanwhile begins again. */
int sf_map_next_key(const struct sf_map *map, const void *key, void *next);
/* The next element into `cursor`: 1, or 0 at the end. Elements that come and go meanwhile may or may not be seen; those
 * that stay are seen once, as long as no more than 60 keys come or are replaced between two steps. Beyond that the next
 * element of a bucket that had no slot for it (1 in 17 at most, of keys that were not chosen) may have become another
 * key's: the rest of these may not be seen then, and others twice. The kernel's iterations promise no more where a map
 * is written meanwhile. Ends after at most as many steps as the map has places. */
int sf_map_step(const struct sf_map *map, struct sf_map_cursor *cursor, uint32_t cpu);

/* Ring buffers. A record is reserved (the lock), filled, and committed (without) by the same thread: bytes that are
 * aligned to 8, or NULL when there is no room, which is counted. One that the reader has left out is not committed. */
void *sf_ring_reserve(struct sf_map *map, uint64_t bytes, uint32_t thread);
void sf_ring_commit(void *record, int discard, uint32_t thread);
/* Discards what the thread has reserved and not committed (the lock). */
void sf_ring_discard_open(struct sf_map *map, uint32_t thread);
/* bpf_ringbuf_query(): 0 bytes waiting, 1 size, 2 and 3 the consumer's and the producer's position. */
uint64_t sf_ring_query(const struct sf_map *map, uint64_t what);
uint64_t sf_ring_lost(const struct sf_map *map);
/* The reader's side, one reader: the next record into `out`, and its length. `position` is the reader's own, 0 at the
 * beginning; whatever the ring holds, it is bounded. -EAGAIN: nothing there. -EBUSY: a record that is still written
 * (-ENODATA with skip_busy: it was left out). -ENOBUFS: longer than `room`. -EPROTO: the ring is not in order; what was
 * in it is lost. */
int64_t sf_ring_take(const struct sf_map *map, uint64_t *position, void *out, size_t room, int skip_busy);

/* Where the values of an ARRAY begin (for direct addresses of globals); NULL for other types. */
void *sf_map_array_values(const struct sf_map *map);

#ifdef __cplusplus
}
#endif
#endif
