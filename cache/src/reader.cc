/* Reading records without locks.
 *
 * A reader trusts nothing that it has not looked at twice. It
 *   1. loads an index entry whose tag fits (acquire: the record that it points to was written before it);
 *   2. finds the record, if that chunk is mapped here and is still the same chunk;
 *   3. loads the record's version (acquire: what was written under that version is visible), gives up if it is odd;
 *   4. compares the key, copies what is wanted out (racing with a writer, perhaps);
 *   5. behind an acquire fence loads version and entry again: both unchanged means that the copy is one state.
 * Both looks are needed. The version changes when the slot is written again. The entry changes when the slot is given
 * up, after which its bytes may become the middle of a larger record, and look like anything, even like a
 * stable record; the entry was cleared before those bytes were written, so step 5 sees it. Versions never
 * repeat and begin at a random number, so no payload can guess one.
 *
 * A writer that is killed leaves at worst an odd version: that record is busy for ever, which is a miss. Every
 * length and ref is checked before it is used, so no state of the segment makes a reader leave its mappings. */
#include "shortfuse/cache/reader.h"

#include <errno.h>
#include <linux/futex.h>

#include "index.h"
#include "shared.h"

using namespace shortfuse::cache;

namespace {

constexpr int kAttempts = 6;
constexpr uint32_t kChunkBytesMin = 65536;

enum class Look { Found, Other, Disturbed, Unmapped, Void, Expired };

struct Wanted {
  uint64_t key;
  uint64_t sub;
  sf_record_kind kind;
};

/* What remains to be judged of a record when its bytes have been copied. */
struct Snapshot {
  uint64_t version;
  uint64_t sub;
  uint64_t expires_ns;
  uint32_t len;
  uint16_t epoch;
  uint8_t flags;
};

inline const sf_record *record_of(const sf_view *view, uint64_t entry, uint64_t *room) {
  const uint64_t offset = (entry & kRefMask) * SF_REF_UNIT;
  const uint64_t chunk = offset >> view->chunk_shift;
  if (chunk == 0 || chunk >= view->chunks_max) return nullptr;
  /* Acquire: whoever mapped the chunk here stored its generation afterwards. 0 says that nothing is mapped. */
  const uint32_t mapped = load_acquire(&view->mapped_generation[chunk]);
  /* The entry was loaded with acquire, so if it belongs to a newer chunk, its newer generation is visible. */
  if (mapped == 0 || mapped != load_relaxed(&view->header->chunk_generation[chunk])) return nullptr;
  *room = view->chunk_bytes - (offset & (view->chunk_bytes - 1)) - sizeof(sf_record);
  return reinterpret_cast<const sf_record *>(view->chunks + offset);
}

/* Not 0 when the moment is past. */
inline bool expired(const sf_view *view, sf_moment *m, uint64_t expires_ns) {
  if (expires_ns == 0 || m == nullptr) return false;
  if (m->now_ns == 0) m->now_ns = view->now_ns();
  return m->now_ns >= expires_ns;
}

/* take(record, snapshot) copies out; false: not the record that is looked for after all (another name). */
template <class Take>
inline Look look(const sf_view *view, const Wanted &wanted, const uint64_t *slot, uint64_t entry, sf_moment *m,
                 Take &take) {
  uint64_t room;
  const sf_record *record = record_of(view, entry, &room);
  if (record == nullptr) return load_relaxed(slot) == entry ? Look::Unmapped : Look::Disturbed;
  const uint64_t version = load_acquire(&record->version);
  if (version & 1) return Look::Disturbed;

  bool same = load_relaxed(&record->key) == wanted.key && load_relaxed(&record->kind) == wanted.kind;
  Snapshot snapshot;
  snapshot.version = version;
  snapshot.sub = load_relaxed(&record->sub);
  same = same && (wanted.kind == SF_REC_ATTR || snapshot.sub == wanted.sub);
  if (same) {
    snapshot.expires_ns = load_relaxed(&record->expires_ns);
    snapshot.len = load_relaxed(&record->len);
    snapshot.epoch = load_relaxed(&record->epoch);
    snapshot.flags = load_relaxed(&record->flags);
    same = snapshot.len <= SF_PAYLOAD_MAX && snapshot.len <= room && take(record, snapshot);
  }
  fence_acquire();
  if (load_relaxed(&record->version) != version || load_relaxed(slot) != entry) return Look::Disturbed;
  if (!same) return Look::Other;
  if (snapshot.epoch != 0 && snapshot.epoch != load_relaxed(&view->header->attr_epoch)) return Look::Void;
  return expired(view, m, snapshot.expires_ns) ? Look::Expired : Look::Found;
}

/* One pass over the eight entries of a bucket. */
template <class Take>
inline Look look_in_bucket(const sf_view *view, const Wanted &wanted, uint64_t bucket, uint64_t tag, sf_moment *m,
                           Take &take, uint64_t *ref) {
  const uint64_t *entries = view->index + bucket * SF_INDEX_BUCKET_ENTRIES;
  Look result = Look::Other;
  for (unsigned i = 0; i < SF_INDEX_BUCKET_ENTRIES; ++i) {
    /* Acquire pairs with the release that published the record. */
    const uint64_t entry = load_acquire(entries + i);
    if (index_tag(entry) != tag || entry == 0) continue;
    const Look seen = look(view, wanted, entries + i, entry, m, take);
    if (seen == Look::Other) continue;
    if (seen != Look::Unmapped) {
      *ref = entry & kRefMask;
      return seen;
    }
    result = Look::Unmapped; /* perhaps only a tag in common: look further */
  }
  return result;
}

/* Acquire: entries were moved before the number that says so was stored. Who reads an older one may miss a record. */
inline uint64_t mask_in_use(const sf_view *view) {
  return (load_acquire(&view->header->index_used) - 1) & view->index_mask;
}

template <class Take>
inline enum sf_find find_record(const sf_view *view, const Wanted &wanted, sf_moment *m, Take take, uint64_t *ref) {
  const uint64_t hash = index_hash(view->hash_seed, wanted.kind, wanted.key, wanted.sub);
  const uint64_t tag = index_tag(hash);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const uint64_t mask = mask_in_use(view);
    Look seen = look_in_bucket(view, wanted, first_bucket(hash, mask), tag, m, take, ref);
    if (seen == Look::Other || seen == Look::Unmapped) {
      const Look second = look_in_bucket(view, wanted, second_bucket(hash, mask), tag, m, take, ref);
      if (second != Look::Other) seen = second;
    }
    switch (seen) {
      case Look::Found: return SF_FIND_OK;
      case Look::Other:
      case Look::Void: return SF_FIND_ABSENT;
      case Look::Expired: return SF_FIND_EXPIRED;
      case Look::Unmapped: return SF_FIND_UNMAPPED;
      case Look::Disturbed: __builtin_ia32_pause();
    }
  }
  return SF_FIND_BUSY;
}

template <class Take>
inline enum sf_find find_record(const sf_view *view, const Wanted &wanted, sf_moment *m, Take take) {
  uint64_t ref;
  return find_record(view, wanted, m, take, &ref);
}

/* A payload that is one u64 (NODE, PARENT). */
inline enum sf_find find_u64(const sf_view *view, const Wanted &wanted, sf_moment *m, uint64_t *out) {
  return find_record(view, wanted, m, [out](const sf_record *record, const Snapshot &s) {
    if (s.len != sizeof(uint64_t)) return false;
    *out = load_payload_u64(record->payload);
    return true;
  });
}

/* Compares a name in a record with a private one. The payload starts on a multiple of eight bytes. */
inline bool same_name(const unsigned char *in_record, const char *name, size_t len) {
  size_t i = 0;
  for (; i + 8 <= len; i += 8) {
    if (load_payload_u64(in_record + i) != load_u64(name + i)) return false;
  }
  for (; i < len; ++i) {
    if (load_relaxed(in_record + i) != static_cast<unsigned char>(name[i])) return false;
  }
  return true;
}

}  // namespace

extern "C" {

int sf_view_open(struct sf_view *view, const void *head, size_t head_bytes, const void *chunks) {
  if (head_bytes < SF_HEADER_BYTES) return -EINVAL;
  auto *header = static_cast<const sf_segment_header *>(head);
  if (load_acquire(&header->magic) != SF_SEGMENT_MAGIC || load_relaxed(&header->format) != SF_SEGMENT_FORMAT ||
      load_relaxed(&header->header_bytes) != SF_HEADER_BYTES) {
    return -EINVAL;
  }
  const uint64_t buckets = load_relaxed(&header->index_buckets);
  const uint64_t chunk_bytes = load_relaxed(&header->chunk_bytes);
  const uint32_t chunks_max = load_relaxed(&header->chunks_max);
  const uint64_t bucket_bytes = SF_INDEX_BUCKET_ENTRIES * sizeof(uint64_t);
  if (buckets == 0 || (buckets & (buckets - 1)) != 0 || buckets > (head_bytes - SF_HEADER_BYTES) / bucket_bytes ||
      chunk_bytes < kChunkBytesMin || (chunk_bytes & (chunk_bytes - 1)) != 0 || chunk_bytes > 1ull << 36 ||
      chunks_max == 0 || chunks_max > SF_CHUNKS_MAX) {
    return -EINVAL;
  }
  view->header = header;
  view->index = reinterpret_cast<const uint64_t *>(static_cast<const unsigned char *>(head) + SF_HEADER_BYTES);
  view->chunks = static_cast<const unsigned char *>(chunks);
  view->chunk_bytes = chunk_bytes;
  view->index_mask = buckets - 1;
  view->hash_seed = load_relaxed(&header->hash_seed);
  view->chunk_shift = static_cast<uint32_t>(__builtin_ctzll(chunk_bytes));
  view->chunks_max = chunks_max;
  return 0;
}

int sf_view_serving(const struct sf_view *view) {
  /* Acquire: what the daemon prepared before it declared itself serving is visible. */
  if (load_acquire(&view->header->state) != SF_SEG_SERVING) return 0;
  /* The holder's thread id, until the kernel marks it. A value that is about to be marked is as good as a call that
   * began a moment earlier. */
  const uint32_t holder = load_relaxed(&view->header->liveness[0]);
  return (holder & FUTEX_TID_MASK) != 0 && (holder & FUTEX_OWNER_DIED) == 0;
}

uint64_t sf_name_hash(const struct sf_view *view, const char *name, size_t len) {
  return hash_bytes(view->hash_seed, name, len);
}

enum sf_find sf_find_node(const struct sf_view *view, uint64_t nodeid, uint64_t *nid) {
  return find_u64(view, {nodeid, 0, SF_REC_NODE}, nullptr, nid);
}

enum sf_find sf_find_parent(const struct sf_view *view, uint64_t dir, struct sf_moment *m, uint64_t *parent) {
  return find_u64(view, {dir, 0, SF_REC_PARENT}, m, parent);
}

enum sf_find sf_find_attr(const struct sf_view *view, uint64_t nid, struct sf_moment *m, struct sf_attr_view *out) {
  return find_record(view, {nid, 0, SF_REC_ATTR}, m, [out](const sf_record *record, const Snapshot &s) {
    if (s.len != sizeof out->attr) return false;
    auto *to = reinterpret_cast<unsigned char *>(&out->attr);
    for (size_t i = 0; i < sizeof out->attr; i += 8) {
      const uint64_t word = load_payload_u64(record->payload + i);
      __builtin_memcpy(to + i, &word, sizeof word);
    }
    out->cid = s.sub;
    out->flags = s.flags;
    out->version = s.version;
    return true;
  });
}

enum sf_find sf_find_dentry(const struct sf_view *view, uint64_t dir, const char *name, size_t len, uint64_t name_hash,
                            struct sf_moment *m, uint64_t *child) {
  return find_record(view, {dir, name_hash, SF_REC_DENTRY}, m, [=](const sf_record *record, const Snapshot &s) {
    if (s.len != sizeof(uint64_t) + len || !same_name(record->payload + 8, name, len)) return false;
    *child = load_payload_u64(record->payload);
    return true;
  });
}

enum sf_find sf_find_data(const struct sf_view *view, uint64_t cid, uint64_t page, uint32_t from, uint32_t size,
                          void *dst, uint32_t *copied) {
  return find_record(view, {cid, page, SF_REC_DATA}, nullptr, [=](const sf_record *record, const Snapshot &s) {
    if (s.len > SF_PAGE_BYTES) return false;
    const uint32_t there = from < s.len ? s.len - from : 0;
    *copied = there < size ? there : size;
    copy_from_shared(dst, record->payload + from, *copied);
    return true;
  });
}

enum sf_find sf_find_listing(const struct sf_view *view, uint64_t cid, uint32_t part, void *dst, size_t cap,
                             uint32_t *len, uint32_t *parts) {
  return find_record(view, {cid, part, SF_REC_LISTING}, nullptr, [=](const sf_record *record, const Snapshot &s) {
    if (s.len < 8) return false;
    *parts = static_cast<uint32_t>(load_payload_u64(record->payload));
    *len = s.len - 8;
    if (*len <= cap) copy_from_shared(dst, record->payload + 8, *len);
    return true;
  });
}

enum sf_find sf_find_blob(const struct sf_view *view, enum sf_record_kind kind, uint64_t cid, void *dst, size_t cap,
                          uint32_t *len) {
  return find_record(view, {cid, 0, kind}, nullptr, [=](const sf_record *record, const Snapshot &s) {
    *len = s.len;
    if (s.len <= cap) copy_from_shared(dst, record->payload, s.len);
    return true;
  });
}

enum sf_find sf_find_xattr(const struct sf_view *view, uint64_t cid, const char *name, size_t name_len, void *dst,
                           size_t cap, uint32_t *len, int *error) {
  const uint64_t hash = sf_name_hash(view, name, name_len);
  return find_record(view, {cid, hash, SF_REC_XATTR}, nullptr, [=](const sf_record *record, const Snapshot &s) {
    if (s.len < 8 + name_len) return false;
    const uint64_t lengths = load_payload_u64(record->payload);
    if (static_cast<uint32_t>(lengths) != name_len || !same_name(record->payload + 8, name, name_len)) return false;
    *error = static_cast<int>(lengths >> 32);
    *len = s.len - 8 - static_cast<uint32_t>(name_len);
    if (*len <= cap) copy_from_shared(dst, record->payload + 8 + name_len, *len);
    return true;
  });
}

enum sf_find sf_find_answer(const struct sf_view *view, uint64_t cid, enum sf_question question, uint64_t *from,
                            uint64_t *to) {
  return find_record(view, {cid, question, SF_REC_ANSWER}, nullptr, [=](const sf_record *record, const Snapshot &s) {
    if (s.len != 2 * sizeof(uint64_t)) return false;
    *from = load_payload_u64(record->payload);
    *to = load_payload_u64(record->payload + 8);
    return true;
  });
}

enum sf_find sf_find_statfs(const struct sf_view *view, struct sf_moment *m, struct fuse_kstatfs *out) {
  return find_record(view, {SF_NID_ROOT, 0, SF_REC_STATFS}, m, [out](const sf_record *record, const Snapshot &s) {
    if (s.len != sizeof *out) return false;
    copy_from_shared(out, record->payload, sizeof *out);
    return true;
  });
}

uint64_t sf_find_ref(const struct sf_view *view, enum sf_record_kind kind, uint64_t key, uint64_t sub) {
  uint64_t ref = 0;
  const auto found =
      find_record(view, {key, sub, kind}, nullptr, [](const sf_record *, const Snapshot &) { return true; }, &ref);
  return found == SF_FIND_OK ? ref : 0;
}

void sf_copy(void *dst, const void *src, size_t n) {
  auto *to = static_cast<unsigned char *>(dst);
  auto *from = static_cast<const unsigned char *>(src);
  if (n > 256) {
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return;
  }
  if (n < 8) {
    for (size_t i = 0; i < n; ++i) {
      to[i] = from[i];
      __asm__ volatile("" ::: "memory"); /* or the compiler makes it a call to memcpy */
    }
    return;
  }
  /* The last word overlaps; the ranges do not. */
  const uint64_t last = load_u64(from + n - 8);
  for (size_t i = 0; i + 8 < n; i += 8) {
    const uint64_t word = load_u64(from + i);
    __builtin_memcpy(to + i, &word, sizeof word);
    __asm__ volatile("" ::: "memory");
  }
  __builtin_memcpy(to + n - 8, &last, sizeof last);
}

}  // extern "C"
