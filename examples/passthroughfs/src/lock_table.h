/* Locks that exclude the users of the source as well as those of the mount.
 *
 * fcntl() locks belong to a process; FUSE names it by a lock owner. Each owner has one open file description of each
 * file it locks, and the lock is an open-file-description lock on it, which the kernel sees as one owner too. flock()
 * locks belong to the open file and are set on the source's open file itself.
 *
 * A lock that has to be waited for is waited for by a thread of its own, so that workers stay free. Nothing can make
 * such a thread leave fcntl() but a signal, and a signal that comes just before the call is lost; so an interrupted
 * wait is signalled again and again until the thread has noticed.
 * Deadlocks among owners are not found by the kernel (EDEADLK), as it does not for any lock of this kind. */
#pragma once
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "unique_fd.h"

namespace shortfuse::passthrough {

/// One process's locks on one file.
class LockOwner {
 public:
  struct Range {
    off_t start, end;  ///< both included
    short type;
    bool overlaps(const Range& other) const { return start <= other.end && other.start <= end; }
  };

  LockOwner(UniqueFd fd, pid_t pid) : fd_(std::move(fd)), pid_(pid) {}
  int fd() const { return fd_.get(); }
  pid_t pid() const { return pid_; }
  /// Remembers what was granted (F_UNLCK: given up), only to name the holder to F_GETLK.
  void note(const struct flock& lock);
  bool holds(const struct flock& lock) const;
  int waiting = 0;  ///< guarded by the table

 private:
  const UniqueFd fd_;
  const pid_t pid_;
  mutable std::mutex mutex_;
  std::vector<Range> held_;
};

/// Thread-safe. Every function that takes a request answers it.
class LockTable {
 public:
  static constexpr size_t kMaxWaiting = 4096;
  using OwnerPtr = std::shared_ptr<LockOwner>;

  ~LockTable() { stop(); }
  /// The owner's locks on node `ino`, or nullptr.
  OwnerPtr find(uint64_t ino, uint64_t owner);
  /// The same, made of `fd` where the owner is new.
  OwnerPtr find_or_add(uint64_t ino, uint64_t owner, UniqueFd fd, pid_t pid);
  void test(fuse_req_t req, uint64_t ino, const OwnerPtr& owner, struct flock lock);
  void set(fuse_req_t req, const OwnerPtr& owner, const struct flock& lock, bool sleep);
  /// flock() on the source's open file `fd`, which stays open until the request has been answered.
  void set_whole(fuse_req_t req, int fd, int operation);
  /// The owner closed the file: all its locks on the node end. Cheap when nobody holds any.
  void drop_owner(uint64_t ino, uint64_t owner);
  /// Interrupts every wait and returns when all have been answered; REQUIRES: no more requests arrive.
  void stop();

 private:
  struct Wait {
    LockTable* table;
    fuse_req_t req;
    OwnerPtr owner;      // null: flock()
    struct flock lock;
    int fd, operation;   // flock()
    std::atomic<pid_t> tid{0};
    std::atomic<bool> interrupted{false};
    std::list<Wait*>::iterator self;
  };
  void wait_for(std::unique_ptr<Wait> wait);
  void finish(Wait* wait);
  void interrupt(Wait* wait);
  void nudge_interrupted(std::unique_lock<std::mutex>* lock);
  static void* run_wait(void* arg);
  static int attempt(Wait* wait);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::pair<uint64_t, uint64_t>, OwnerPtr> owners_;
  std::atomic<size_t> owner_count_{0};
  std::list<Wait*> waits_;
  std::atomic<bool> stopping_{false};
  bool nudging_ = false;  // a thread repeats signals to interrupted waits
};

}  // namespace shortfuse::passthrough
