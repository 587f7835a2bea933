/* Reading the cache segment, in an application or in the daemon. Freestanding; never writes shared memory, never
 * blocks, allocates nothing, safe in a signal handler and against a writer that is killed at any point.
 *
 * Every function copies out and then validates (layout.h); a record that changes under the copy is tried again a few
 * times, then reported SF_FIND_BUSY. What a function returns was the state at some moment during the call. */
#ifndef SHORTFUSE_CACHE_READER_H
#define SHORTFUSE_CACHE_READER_H

#include <stddef.h>

#include "shortfuse/cache/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A process's mapping of one segment. Owned and filled by whoever mapped it. */
struct sf_view {
  const struct sf_segment_header *header;
  const uint64_t *index;             /* header->index_buckets * SF_INDEX_BUCKET_ENTRIES */
  const unsigned char *chunks;       /* chunk i, if mapped, at chunks + i * header->chunk_bytes */
  uint64_t chunk_bytes;              /* copies of header fields: a mapped header is trusted only once */
  uint64_t index_mask;               /* index_buckets - 1 */
  uint64_t hash_seed;
  uint32_t chunk_shift;
  uint32_t chunks_max;
  uint64_t (*now_ns)(void);          /* CLOCK_MONOTONIC, coarse is enough */
  uint32_t mapped_generation[SF_CHUNKS_MAX]; /* what is mapped at chunk i; 0: nothing */
};

/* The time of one operation: read at most once, and only when a record can expire. Zero-initialise. */
struct sf_moment { uint64_t now_ns; };

enum sf_find {
  SF_FIND_OK = 0,
  SF_FIND_ABSENT,
  SF_FIND_EXPIRED,
  SF_FIND_UNMAPPED, /* it lies in a chunk this process has not mapped: refresh (attach.h) and try again */
  SF_FIND_BUSY,
};

struct sf_attr_view {
  struct fuse_attr attr;
  uint64_t cid;    /* 0: contents are not served */
  uint32_t flags;  /* enum sf_record_flag */
  uint64_t version;  /* of the record: another one tells that it was dropped in between, even if it says the same */
};

/* Fills the copied fields from a mapped header. 0, or -EINVAL when it is not a segment of this format. */
int sf_view_open(struct sf_view *view, const void *head, size_t head_bytes, const void *chunks);

/* Not 0 while the daemon lives and serves: two loads. */
int sf_view_serving(const struct sf_view *view);

/* The hash of a name as the index wants it. */
uint64_t sf_name_hash(const struct sf_view *view, const char *name, size_t len);

enum sf_find sf_find_node(const struct sf_view *view, uint64_t nodeid, uint64_t *nid);
enum sf_find sf_find_attr(const struct sf_view *view, uint64_t nid, struct sf_moment *m, struct sf_attr_view *out);
/* *child is 0 when the cache knows that there is no such name. name_hash from sf_name_hash(). */
enum sf_find sf_find_dentry(const struct sf_view *view, uint64_t dir, const char *name, size_t len,
                            uint64_t name_hash, struct sf_moment *m, uint64_t *child);
enum sf_find sf_find_parent(const struct sf_view *view, uint64_t dir, struct sf_moment *m, uint64_t *parent);
/* Copies bytes [from, from + size) of data page `page`, as many as the page holds; *copied says how many (less than
 * size only where the page is short: the end of the file). dst is written even when the result is not SF_FIND_OK. */
enum sf_find sf_find_data(const struct sf_view *view, uint64_t cid, uint64_t page, uint32_t from, uint32_t size,
                          void *dst, uint32_t *copied);
/* Listing part `part`: its struct sf_dirent bytes (without the 8 bytes before them) into dst[cap]; *len is how many
 * there are (may exceed cap: then nothing is copied and the caller comes back with more room). *parts: how many. */
enum sf_find sf_find_listing(const struct sf_view *view, uint64_t cid, uint32_t part, void *dst, size_t cap,
                             uint32_t *len, uint32_t *parts);
/* A link's target or the listxattr bytes (kind SF_REC_LINK, SF_REC_XLIST); *len as above. */
enum sf_find sf_find_blob(const struct sf_view *view, enum sf_record_kind kind, uint64_t cid, void *dst, size_t cap,
                          uint32_t *len);
/* *error is 0 or -ENODATA (the cache knows that there is none). */
enum sf_find sf_find_xattr(const struct sf_view *view, uint64_t cid, const char *name, size_t name_len, void *dst,
                           size_t cap, uint32_t *len, int *error);
/* What was answered to a question about the file. */
enum sf_find sf_find_answer(const struct sf_view *view, uint64_t cid, enum sf_question question, uint64_t *from,
                            uint64_t *to);
enum sf_find sf_find_statfs(const struct sf_view *view, struct sf_moment *m, struct fuse_kstatfs *out);
/* The ref of the record that the last successful sf_find_data or sf_find_attr on this key would use, for recency
 * samples; 0 if absent. */
uint64_t sf_find_ref(const struct sf_view *view, enum sf_record_kind kind, uint64_t key, uint64_t sub);

/* Plain byte copy without vector registers (rep movsb above a small size). */
void sf_copy(void *dst, const void *src, size_t n);

#ifdef __cplusplus
}
#endif
#endif
