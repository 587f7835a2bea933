// A tree that nobody changes, and processes that read it without end and know every right answer.
#pragma once
#include <atomic>
#include <string>
#include <vector>

#include "support/harness.h"

namespace shortfuse::tests {

/// Shared by the readers of one test and the test.
struct Verified {
  std::atomic<uint32_t> stop{0};
  std::atomic<uint64_t> looks{0};
  std::atomic<uint32_t> readers_ready{0};
};

/// The worker `verifier`: board source mount seed [tolerate-gone]. Learns the right answers from the source, then looks
/// at random objects on the mount until stopped: 0; 1 at the first wrong answer or failed call, said on stderr.
/// With `tolerate-gone` the end of the mount (ENOTCONN, ENOENT on its very top) ends it with 0, too.
Spec verifier(const std::string &board, const std::string &source, const std::string &mount, uint64_t seed,
              bool tolerate_gone = false);

/// Looks at every name below: from then on the kernel knows all files, and their daemon holds what it keeps for each.
void look_at_all(const std::string &mount);

}  // namespace shortfuse::tests
