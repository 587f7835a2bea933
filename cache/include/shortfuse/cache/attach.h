/* How an application and a daemon meet: registry, socket, messages, session segment.
 *
 * Registry: /run/shortfuse (daemons of root) and /run/user/UID/shortfuse, or /tmp/shortfuse-UID where there is
 * none (daemons of UID). A directory is used only when its owner is root or oneself and nobody else may write
 * to it. It holds one socket per accelerated mount, "PID-N.sock", SOCK_SEQPACKET; beside it, once it is
 * mounted, a symbolic link "PID-N.mount" to "DEV POINT" (st_dev in hex, a space, the mount point), so that a process
 * need not connect to know whether it has to; and one file "generation" of 8 bytes that is raised whenever a mount
 * comes or goes; processes map it, so noticing a new mount costs a load.
 *
 * Messages are one packet each: struct sf_msg, then `body_bytes` bytes; descriptors ride along (SCM_RIGHTS).
 * The daemon decides by SO_PEERCRED who may have what, and treats every byte of a packet and of a session
 * segment as hostile. A client trusts the daemon (it runs its code), and so checks first who it is. */
#ifndef SHORTFUSE_CACHE_ATTACH_H
#define SHORTFUSE_CACHE_ATTACH_H

#include <stdint.h>

#include "shortfuse/cache/layout.h"
#include "shortfuse/metrics/lane.h"

#define SF_PROTOCOL 2
#define SF_MSG_MAGIC 0x53464d31u /* "1MFS" */
#define SF_MSG_FDS_MAX 200
#define SF_REGISTRY_ROOT "/run/shortfuse"

enum sf_msg_type {
  /* application -> daemon */
  SF_MSG_ATTACH = 1,  /* -> SF_MSG_ATTACHED with fds: head, session, then chunks; body struct sf_attached */
  SF_MSG_REFRESH = 2, /* body struct sf_have -> SF_MSG_FRESH with what is new; body struct sf_fresh */
  SF_MSG_OPEN = 4,    /* body struct sf_open -> SF_MSG_OPENED, with one fd where error is 0, and the connection ends; no
                         ATTACH before. It ends without an answer: not now */
  /* shortfuse command -> daemon; bodies are JSON */
  SF_MSG_STATUS = 16, /* -> SF_MSG_JSON */
  SF_MSG_SWAP = 17,   /* body {"policy": "A.o:B.o" (absolute paths)} -> SF_MSG_JSON {"ok":true,...} or SF_MSG_ERROR */
  SF_MSG_MAPS = 18,   /* body {"op": ...}, see fuse-bridge/map_control.cc -> SF_MSG_JSON or SF_MSG_ERROR */
  /* daemon -> */
  SF_MSG_ATTACHED = 64,
  SF_MSG_FRESH = 65,
  SF_MSG_JSON = 66,   /* body: JSON; too long for a packet: body empty, one fd (memfd) holds it */
  SF_MSG_ERROR = 67,  /* body: one line of text */
  SF_MSG_OPENED = 68, /* body struct sf_opened */
};

struct sf_msg {
  uint32_t magic;
  uint16_t protocol;
  uint16_t type;
  uint32_t body_bytes;
  uint32_t fds;
};

/* Chunk descriptors follow in the order of `chunk`; the policy image and maps likewise where flags say so. Maps of
 * kinds that each process has for itself (sf_map_per_process) are the session's own, and the client may write them. */
struct sf_attached {
  uint64_t head_bytes;
  uint64_t session_bytes;
  uint32_t chunks;        /* descriptors that follow head and session */
  uint32_t policy_epoch;
  uint32_t policy_maps;   /* map memfds that follow the image; the image itself precedes them if policy_epoch != 0 */
  uint32_t pad;
  struct { uint32_t index, generation; } chunk[SF_MSG_FDS_MAX];
};

struct sf_have {
  uint32_t policy_epoch;  /* what the client runs now */
  uint32_t chunks;
  struct { uint32_t index, generation; } chunk[SF_CHUNKS_MAX];
};

/* Descriptors: chunks, then (when policy_epoch differs from what the client has) image, maps. */
struct sf_fresh {
  uint32_t chunks;
  uint32_t policy_epoch;
  uint32_t policy_maps;
  uint32_t more;          /* not 0: ask again, there were more than fit */
  struct { uint32_t index, generation; } chunk[SF_MSG_FDS_MAX];
};

/* A descriptor on a node that an open was served for, where the client cannot reach it by the name it knew. */
struct sf_open {
  uint64_t nid;
  uint32_t flags;         /* O_*: of a directory, read-only */
  uint32_t attempt;       /* how often it had moved: a file with several names is tried by one after the other */
};
struct sf_opened {
  uint64_t nodeid;        /* FUSE's number of the node: the record that says so may have been evicted */
  int32_t error;          /* 0 or -errno */
  uint32_t pad;
};

/* What a client that missed would like to have: a ring that only it writes and only the bridge reads.
 * `tail` is the client's, `head` the bridge's; both only grow. Everything in it is checked by the bridge.
 * After pushing, the client writes to the session's socket only when `sleeping` is not 0 (one byte packet
 * would cost a system call per hint otherwise): the bridge sets it before it waits. */
#define SF_HINTS 256
enum sf_hint_kind {
  SF_HINT_ATTR = 1, /* nid */
  SF_HINT_DENTRY,   /* nid, name */
  SF_HINT_DATA,     /* nid, offset, size */
  SF_HINT_LISTING,  /* nid */
  SF_HINT_LINK,     /* nid */
  SF_HINT_XATTR,    /* nid, name */
  SF_HINT_XLIST,    /* nid */
  SF_HINT_STATFS,
  SF_HINT_KINDS
};
struct sf_hint {
  uint32_t kind;
  uint32_t name_len;
  uint64_t nid;
  uint64_t offset;
  uint64_t size;
  char name[SF_NAME_MAX + 1];
};

/* The open table: nodes that opens were served for, which the bridge keeps alive for as long as they stand here. A
 * node's entry is one of the SF_OPEN_PROBE that begin at sf_open_place(). Protocol, as with hazard pointers: the client
 * stores the nid (compare-and-swap, a full fence) and then looks once more whether the node's ATTR record is the one it
 * was served by; the bridge drops that record, fences, and then looks at the tables. One of the two sees the other. */
#define SF_OPENS 1024
#define SF_OPEN_PROBE 8
static inline uint32_t sf_open_place(uint64_t nid) {
  return (uint32_t)(nid * 0x9e3779b97f4a7c15ull >> 54);
}

/* Whether the bridge looks after the open table: opens may be served. The bridge goes from one of the first two to the
 * other; either side ends it. */
enum sf_opens_kept { SF_OPENS_NOT_NOW = 0, SF_OPENS_KEPT = 1, SF_OPENS_ENDED = 2 };

#define SF_SESSION_MAGIC 0x31736573667573ull
#define SF_RECENCY 512
struct sf_session {
  uint64_t magic;
  uint32_t format;
  uint32_t pid;                     /* as the daemon saw it (SO_PEERCRED) */
  char comm[16];                    /* written by the client, for `status` */
  uint32_t hint_tail __attribute__((aligned(64)));
  uint32_t hint_head __attribute__((aligned(64)));
  uint32_t sleeping;
  uint32_t recency_next __attribute__((aligned(64)));
  uint32_t reserved;
  uint64_t recency[SF_RECENCY];     /* refs of records hit lately, one hit in a few: input of eviction */
  struct sf_hint hint[SF_HINTS];
  uint32_t opens_kept;              /* enum sf_opens_kept */
  uint32_t reserved2;
  uint64_t open[SF_OPENS + SF_OPEN_PROBE];  /* nid, 0: free */
  struct sf_lane lane[SF_LANES];
};

/* SF_MSG_* packets from a client that only wake the bridge: a struct sf_msg of this type, no body, no answer. */
#define SF_MSG_WAKE 3

#ifdef __cplusplus
static_assert(SF_OPENS == 1u << 10, "sf_open_place() takes ten bits");
#endif

#endif
