// The session that this process takes part in.
#pragma once
#include "shortfuse/bypass/trace.h"
#include "shortfuse/vm/trace_session.h"

namespace shortfuse::bypass {

constexpr uint8_t kHasEnter = 4;  // of Trace.plan, beside SF_TRACE_SEES and SF_TRACE_RETURN

struct Trace {
  bool on;
  const sf_image *image;
  sf_trace_session *session;
  sf_map map[SF_IMAGE_MAPS_MAX];
  sf_map *handle[SF_IMAGE_MAPS_MAX];
  void *value[SF_IMAGE_MAPS_MAX];
  uint8_t plan[SF_CALL_NUMBERS];   // by call number: what sf_trace_wants() says, and kHasEnter
};
extern Trace trace;

/// The inode of this process's pid namespace; 0: not known.
uint64_t trace_namespace();

}  // namespace shortfuse::bypass
