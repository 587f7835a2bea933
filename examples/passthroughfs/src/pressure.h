/* Descriptors are the one thing that a large tree uses up: each node that the kernel remembers holds one, and the
 * kernel remembers as long as it has memory. So that a small limit slows a walk down instead of ending it, the kernel
 * is asked, well before the limit, to forget nodes that nobody uses; its FORGETs close the descriptors.
 *
 * A new kernel (FUSE 7.45) prunes by node and never touches what is in use. An older one can only drop a name, which
 * is asked for only for files that are not open: dropping the name of a directory would confuse those who work in it.
 * What is bound over such a file would be unmounted by that. */
#pragma once
#include <fuse_lowlevel.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "inode_table.h"
#include "source.h"

namespace shortfuse::passthrough {

class Pressure {
 public:
  Pressure(InodeTable& inodes, const Source& source) : inodes_(inodes), source_(source) {}
  ~Pressure() { stop(); }

  /// Begins to watch; REQUIRES: the process will not fork any more.
  void start(fuse_session* session, bool single_threaded);
  void stop();
  /// Called with the number of descriptors in use whenever one was added. Cheap below the limit.
  void note(uint64_t used) {
    // The limit is read relaxed: a hint; the thread counts for itself.
    if (high(used)) wake();
  }
  /// Whether so many are in use that nodes should be made only where they are asked for.
  bool high(uint64_t used) const { return used > high_.load(std::memory_order_relaxed); }
  /// None was left: waits a moment for other workers to take in FORGETs. False: it is no use to try again.
  bool wait_for_room();

 private:
  void wake();
  void watch();
  void relieve();
  bool prune(const std::vector<uint64_t>& nodes);
  bool drop_name(uint64_t node);

  InodeTable& inodes_;
  const Source& source_;
  fuse_session* session_ = nullptr;
  uint64_t limit_ = 0;
  std::atomic<uint64_t> high_{UINT64_MAX};
  uint64_t hand_ = 1;         // the slot where the last round ended
  std::atomic<bool> can_prune_{true};
  bool single_threaded_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool wanted_ = false, stopping_ = false;
  std::thread thread_;
};

}  // namespace shortfuse::passthrough
