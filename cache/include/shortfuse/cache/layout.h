/* The shared cache segment: its bytes.
 *
 * The daemon writes it, applications map it read-only (the descriptors are sealed against future
 * writers). It consists of
 *   - the *head* memfd: one sf_segment_header page, then the index: buckets of eight 64-bit entries;
 *   - *chunks*: memfds of chunk_bytes each, cut into size-class slots that hold records.
 * A record's place is a *ref*: its byte offset / 64 in the linear space in which chunk i begins at
 * i * chunk_bytes. Every process reserves that space and maps the chunks it has into it.
 *
 * Identity. FUSE node ids are reused by file systems. The bridge therefore gives each life of a node its
 * own *nid*, a 64-bit number that is never given again; everything is keyed by nid, so a record that
 * outlives its node can never be reached. Root is SF_NID_ROOT. Contents (data pages, listing parts, link
 * target, xattrs) are keyed by a *cid*, renewed whenever the contents may have changed and named by the
 * node's ATTR record: dropping the ATTR record makes all contents unreachable in one step.
 *
 * Reading a record (cache/reader.h): find the index entry by tag, read the record's version (odd = being
 * written), compare the keys, copy, then check that neither version nor index entry has changed. Versions
 * are drawn from one counter and never repeat, so reused memory cannot be mistaken. Readers never write. */
#ifndef SHORTFUSE_CACHE_LAYOUT_H
#define SHORTFUSE_CACHE_LAYOUT_H

#include <linux/fuse.h>
#include <stdint.h>

#define SF_SEGMENT_MAGIC 0x31676573667573ull /* "sufseg1" */
#define SF_SEGMENT_FORMAT 4                  /* raised by every change of it or its meaning; others are refused */

#define SF_HEADER_BYTES 8192
#define SF_INDEX_BUCKET_ENTRIES 8
#define SF_REF_UNIT 64
#define SF_CHUNKS_MAX 1024
#define SF_PAGE_BYTES 4096       /* a cached data page */
#define SF_PAYLOAD_MAX 32768     /* of one record; longer listings are cut into parts */
#define SF_NAME_MAX 255          /* longer names are never cached */
#define SF_NID_ROOT 1ull
#define SF_MOUNT_POINT_MAX 4096

enum sf_record_kind {
  SF_REC_FREE = 0,
  SF_REC_NODE,    /* key: FUSE node id.           payload: u64 nid */
  SF_REC_ATTR,    /* key: nid.  sub: cid (value). payload: struct fuse_attr */
  SF_REC_DENTRY,  /* key: nid of the directory, name. sub: hash of it.  payload: u64 child nid (0: negative), name */
  SF_REC_PARENT,  /* key: nid of a directory.     payload: u64 nid of its parent ("..") */
  SF_REC_DATA,    /* key: cid.  sub: page number. payload: up to SF_PAGE_BYTES bytes; short only at end of file.
                     Page 0 of nothing: an empty file whose contents the file system does not keep to itself */
  SF_REC_LISTING, /* key: cid.  sub: part number. payload: u32 parts, u32 pad, then struct sf_dirent ... */
  SF_REC_LINK,    /* key: cid.                    payload: the target, no NUL */
  SF_REC_XATTR,   /* key: cid, name. sub: hash.   payload: u32 name_len, i32 error (0, or -ENODATA), name, value */
  SF_REC_XLIST,   /* key: cid.                    payload: the listxattr(2) bytes */
  SF_REC_STATFS,  /* key: SF_NID_ROOT.            payload: struct fuse_kstatfs */
  SF_REC_ANSWER,  /* key: cid.  sub: enum sf_question. payload: two u64, as the question says */
  SF_REC_KINDS
};

/* What the file system was asked about a file, and said. */
enum sf_question {
  SF_ASKED_TERMINAL = 1, /* ioctl(TCGETS): ENOTTY. 0, 0 */
  SF_ASKED_HOLE,         /* lseek(from, SEEK_HOLE): to, so all in between is data. from, to */
};

/* One entry of a listing part, as getdents64(2) wants it; entries never cross parts. */
struct sf_dirent {
  uint64_t ino;
  uint64_t off;      /* the cookie after this entry */
  uint16_t reclen;   /* of this struct with name and padding, a multiple of 8 */
  uint8_t type;      /* DT_* */
  char name[];       /* NUL-terminated, zero padding to reclen */
};

/* 40 bytes, then the payload. */
struct sf_record {
  uint64_t version;    /* even: stable, unique; odd: being written */
  uint64_t key;
  uint64_t sub;
  uint64_t expires_ns; /* CLOCK_MONOTONIC; 0: never */
  uint8_t kind;        /* enum sf_record_kind */
  uint8_t flags;       /* enum sf_record_flag */
  uint16_t epoch;      /* not 0: void unless equal to header.attr_epoch (ATTR and PARENT) */
  uint32_t len;        /* payload bytes */
  unsigned char payload[];
};

enum sf_record_flag {
  SF_RECF_ATIME_STALE = 1, /* ATTR: st_atime may have moved since; do not serve a call that asks for it */
  SF_RECF_WRITER = 2,      /* ATTR: open for writing: contents are not served (cid is 0) */
};

struct sf_segment_header {
  uint64_t magic;
  uint32_t format;
  uint32_t header_bytes;
  uint64_t hash_seed;
  uint64_t index_buckets; /* a power of two: what there is room for */
  uint64_t chunk_bytes;   /* a power of two */
  uint64_t budget_bytes;
  uint32_t chunks_max;
  uint32_t daemon_pid;
  uint64_t mount_dev;     /* st_dev of the mount; 0 until known */
  uint32_t owner_uid;     /* the kernel's user_id= and group_id= of the mount */
  uint32_t owner_gid;
  uint32_t mount_flags;   /* enum sf_mount_flag */
  uint32_t mount_ns_ino;  /* st_ino of the daemon's /proc/self/ns/mnt: elsewhere it cannot tell what is mounted below */
  uint32_t time_ns_ino;   /* likewise of ns/time: elsewhere CLOCK_MONOTONIC is another. 0: there are none */

  /* Read on every call. */
  uint32_t state __attribute__((aligned(64))); /* enum sf_segment_state */
  uint32_t policy_epoch;  /* raised by every swap */
  uint32_t mount_epoch;   /* raised when the mount table changes: check again that the mount point is ours */
  uint16_t attr_epoch;    /* never 0 */
  uint16_t reserved1;
  uint64_t index_used;    /* of the buckets, the first so many: a power of two that grows with the number of records, so
                             that a process touches no more of the index than there is in it */
  /* A robust, process-shared pthread mutex, held by a thread of the daemon as long as it serves. When that
   * thread dies, however it dies, the kernel sets FUTEX_OWNER_DIED in its first word, or the word is 0. */
  uint32_t liveness[16] __attribute__((aligned(64)));

  uint32_t chunk_generation[SF_CHUNKS_MAX]; /* 0: no such chunk. A process maps what it has the descriptor of. */
  uint32_t mount_point_len;
  char mount_point[3072]; /* absolute, canonical, no trailing slash; not NUL-terminated; longer: not served */
};

enum sf_segment_state { SF_SEG_STARTING = 0, SF_SEG_SERVING = 1, SF_SEG_GONE = 2 };

enum sf_mount_flag {
  SF_MNT_DEFAULT_PERMISSIONS = 1,
  SF_MNT_ALLOW_OTHER = 2,
  SF_MNT_READ_ONLY = 4,
  SF_MNT_POSIX_ACL = 8,   /* the kernel checks ACLs: group bits alone do not decide */
  SF_MNT_STATX = 16,      /* the daemon may know more than stat: statx beyond the basic mask is the kernel's */
  SF_MNT_NOEXEC = 32,
  SF_MNT_SUBMOUNTS = 64,  /* something is mounted below: path walks are the kernel's */
  SF_MNT_NO_IOCTL = 128,  /* the file system has none: what is not the kernel's own is ENOTTY */
  SF_MNT_NO_LSEEK = 256,  /* likewise: to the kernel a file is data to its end */
};

#ifdef __cplusplus
static_assert(sizeof(struct sf_record) == 40);
static_assert(sizeof(struct fuse_attr) == 88, "an ATTR record is two cache lines");
static_assert(sizeof(struct sf_segment_header) <= SF_HEADER_BYTES);
static_assert(__builtin_offsetof(struct sf_segment_header, state) == 128);
static_assert(__builtin_offsetof(struct sf_dirent, name) == 19);
#endif
#endif
