/* Limits of the process that a file system daemon must not run into. */
#pragma once

namespace shortfuse::passthrough {

/// As many descriptors as the system grants (every node that the kernel remembers holds one), files of any size, and
/// no signal where a write meets a limit or a reader has gone.
void raise_limits();

}  // namespace shortfuse::passthrough
