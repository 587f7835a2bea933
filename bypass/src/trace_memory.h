// Reading memory whose address a program of a trace was given.
#pragma once
#include <stdint.h>

namespace shortfuse::bypass {

/// 0 or -EFAULT: then what could not be read is zero. `borrowed`: in a vfork child, where a fault might be fatal.
long read_memory(uint64_t to, uint64_t from, uint32_t size, bool borrowed);
/// The length with the NUL, cut at `size`, or -EFAULT. REQUIRES: size >= 1.
long read_text(uint64_t to, uint64_t from, uint32_t size, bool borrowed);

}  // namespace shortfuse::bypass
