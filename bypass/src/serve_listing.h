// Directory streams, for the calls that go on in one.
#pragma once
#include "op.h"

namespace shortfuse::bypass {

/// Whole entries from byte `from` on: how many bytes, 0 at the end, -EINVAL when the next does not fit.
long stream_copy(const Stream &stream, uint32_t from, void *to, uint64_t room);

}  // namespace shortfuse::bypass
