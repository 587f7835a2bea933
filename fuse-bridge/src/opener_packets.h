// What the daemon and its opener (opener.h) say to each other: packets of a SOCK_SEQPACKET pair. Both are of one build.
#pragma once
#include <cstdint>

#include "shortfuse/cache/cache.h"

namespace shortfuse::bridge {

enum class OpenerWord : uint32_t {
  // To the opener
  Open,     ///< open the node for the application whose connection comes along, and answer it
  Keep,     ///< open the node and keep it; answered by Kept or NotKept
  Drop,     ///< it need not be kept any more
  // From the opener
  Ready,    ///< first of all
  Began,    ///< a thread has turned to what is to be kept; `flags`: which
  Kept,
  NotKept,  ///< it could not be opened, or has been given away since
};

/// A packet: this, and behind it the path inside the mount.
struct OpenerPacket {
  OpenerWord word = OpenerWord::Open;
  uint32_t flags = 0;        ///< Open: of open(2). Began: the thread's number
  uint64_t nid = 0;
  uint64_t nodeid = 0;
  uint32_t has_name = 0;     ///< 0: the node has no name that is known
  uint32_t path_bytes = 0;
};
static_assert(sizeof(OpenerPacket) == 32);

constexpr uint32_t kOpenerPathMax = cache::kPathBytesMax;
constexpr const char *kOpenerProgram = "shortfuse/shortfuse-opener";  ///< below libexec

}  // namespace shortfuse::bridge
