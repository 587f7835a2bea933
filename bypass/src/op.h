// One operation on an accelerated mount, from the normalised call to its answer.
//
//   prepare (calls_*.cc) -> Op -> run_policy() -> a host function serves from the cache (serve_*.cc) -> count, answer;
//   or make the real call, count the miss, leave a hint (fall_back).
#pragma once
#include "attach.h"
#include "files.h"
#include "kernel.h"
#include "shortfuse/bypass/bypass.h"
#include "walk.h"

namespace shortfuse::bypass {

/// What a served data call reads into: the caller's buffers.
struct Buffers {
  const iovec *iov;     // the caller's memory
  iovec single;         // for read and pread
  int count;
  uint64_t bytes;       // in all, at most kMaxRwCount
};

struct Op {
  Op(const sf_call *c, sf_op k, MountRef ref, const Stay &stay)
      : call(c), kind(k), mount(ref.mount), lane(stay.lane()), shared_lane(stay.shared_lane()) {}

  const sf_call *call;
  sf_op kind;
  Mount *mount;
  sf_lane *lane;
  bool shared_lane;
  const Policy *policy = nullptr;
  const Creds *creds = nullptr;
  uint32_t flags_of_mount = 0;
  File file;                 // of calls by descriptor
  Cwd cwd = {};              // of calls by a path relative to it
  sf_moment moment = {};

  // What the policy sees, and what is served.
  uint64_t nid = 0;
  uint64_t offset = 0, length = 0;
  uint32_t flags = 0;
  int error = 0;             // found by the walk: the answer, if the policy serves
  bool have_attr = false;
  sf_attr_view attr;

  // By kind.
  int access_mode = 0;
  bool wants_atime = true;
  bool may_open = false;     // open: of a form that is served
  void *out = nullptr;       // the caller's buffer
  Buffers *buffers = nullptr;
  int64_t position = 0;      // readdir: of the descriptor after the call
  const char *name = nullptr;  // xattr
  uint32_t name_len = 0;
  fuse_kstatfs *statfs = nullptr;

  // Outcome.
  bool served = false;       // and not denied
  long value = 0;
  sf_miss miss = SF_MISS_NONE;
  bool unmapped = false;
  Wish *wish = nullptr;
  uint64_t started_ns = 0;

  bool give_up(sf_miss why) { return miss = why, false; }
  /// A find failed: the reason, and what would help.
  bool missing(sf_find find, sf_miss absent, uint8_t kind_of_wish, uint64_t wish_nid, uint64_t wish_offset = 0,
               uint64_t wish_size = 0);
  bool answer(long result) { return served = true, value = result, true; }
  /// The attributes of nid, once.
  bool need_attr();
  /// That the attributes name contents; they do not while the file is open for writing.
  bool need_contents(sf_miss absent, uint8_t kind_of_wish);
  /// Of a file that says it is empty: that this is all there is to it. REQUIRES: need_contents().
  bool need_emptiness();
};

/// Everything an operation needs before its path is walked: policy, credentials, admission. False: a miss is set.
bool prepare(Op *op);

/// Runs the mount's program for the operation. True: answered (served, not yet counted, or denied), *result is the
/// call's.
bool run_policy(Op *op, long *result);

/// The call is the kernel's after all: made here, counted as missed, a hint left. Returns its result.
long fall_back(Op *op);
/// The same with another real call in its place (a read at our offset).
long fall_back(Op *op, const sf_call &instead);

/// The original call, unchanged.
inline long make_call(const sf_call &c) {
  return SF_SYS6(c.nr, c.arg[0], c.arg[1], c.arg[2], c.arg[3], c.arg[4], c.arg[5]);
}

// Host functions' work, one per kind (serve_*.cc). False: op->miss says why.
bool serve_attr(Op *op);
bool serve_link(Op *op);
bool serve_data(Op *op);
bool serve_listing(Op *op);
bool serve_xattr(Op *op);
bool serve_xlist(Op *op);
bool serve_statfs(Op *op);
bool serve_open(Op *op);

}  // namespace shortfuse::bypass
