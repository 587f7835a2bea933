// From the path arguments of a call to the node they mean.
#pragma once
#include "op.h"

namespace shortfuse::bypass {

/// Where a path begins, when it begins on an accelerated mount.
struct Start {
  MountRef mount = {nullptr, 0};
  const char *rest = nullptr;   // what is to be walked; empty for the start itself
  uint64_t nid = 0;             // 0: of `file`, still to be looked up
  File file;
  Cwd cwd = {};
  bool from_below = false;      // the mount point was reached from the working directory, by name
};

/// False: not ours, the usual case. Reads the caller's memory. A path that may be empty (AT_EMPTY_PATH) is the start
/// itself; otherwise an empty one is the kernel's to refuse.
bool find_start(int dirfd, const char *path, bool may_be_empty, Start *start);

/// Walks. False: op->miss is set. An error that the walk found is in op->error. REQUIRES: prepare() succeeded.
bool walk_to(Op *op, Walk *w, const Start &start, const char *path, bool follow);

}  // namespace shortfuse::bypass
