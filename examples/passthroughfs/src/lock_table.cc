#include "lock_table.h"

#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <limits>

namespace shortfuse::passthrough {
namespace {

constexpr auto kNudgeInterval = std::chrono::milliseconds(5);
constexpr size_t kWaitStack = 256 * 1024;

int nudge_signal() { return SIGRTMIN + 3; }

void ensure_nudge_handler() {
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_handler = [](int) {};  // no SA_RESTART: the call it interrupts fails with EINTR
    sigaction(nudge_signal(), &action, nullptr);
    return true;
  }();
  static_cast<void>(installed);
}

LockOwner::Range range_of(const struct flock& lock) {
  off_t end = lock.l_len == 0 ? std::numeric_limits<off_t>::max() : lock.l_start + lock.l_len - 1;
  return {lock.l_start, end, lock.l_type};
}

/// A detached thread that no signal of the daemon reaches. Returns 0 or an errno.
int start_thread(void* (*body)(void*), void* arg) {
  ensure_nudge_handler();
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kWaitStack);
  sigset_t all, before;
  sigfillset(&all);
  sigdelset(&all, nudge_signal());
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  int error = pthread_create(&thread, &attributes, body, arg);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return error;
}

}  // namespace

void LockOwner::note(const struct flock& lock) {
  Range now = range_of(lock);
  std::lock_guard guard(mutex_);
  std::vector<Range> kept;
  for (const Range& held : held_) {
    if (!held.overlaps(now)) {
      kept.push_back(held);
      continue;
    }
    if (held.start < now.start) kept.push_back({held.start, now.start - 1, held.type});
    if (held.end > now.end) kept.push_back({now.end + 1, held.end, held.type});
  }
  if (lock.l_type != F_UNLCK) kept.push_back(now);
  held_ = std::move(kept);
}

bool LockOwner::holds(const struct flock& lock) const {
  Range wanted = range_of(lock);
  std::lock_guard guard(mutex_);
  for (const Range& held : held_) {
    if (held.overlaps(wanted) && held.type == lock.l_type) return true;
  }
  return false;
}

LockTable::OwnerPtr LockTable::find(uint64_t ino, uint64_t owner) {
  std::lock_guard guard(mutex_);
  auto known = owners_.find({ino, owner});
  return known == owners_.end() ? nullptr : known->second;
}

LockTable::OwnerPtr LockTable::find_or_add(uint64_t ino, uint64_t owner, UniqueFd fd, pid_t pid) {
  std::lock_guard guard(mutex_);
  OwnerPtr& entry = owners_[{ino, owner}];
  if (!entry) {
    entry = std::make_shared<LockOwner>(std::move(fd), pid);
    owner_count_.fetch_add(1, std::memory_order_release);
  }
  return entry;
}

void LockTable::test(fuse_req_t req, uint64_t ino, const OwnerPtr& owner, struct flock lock) {
  lock.l_pid = 0;  // as open-file-description locks demand
  if (fcntl(owner->fd(), F_OFD_GETLK, &lock) != 0) {
    fuse_reply_err(req, errno);
    return;
  }
  if (lock.l_type != F_UNLCK && lock.l_pid == -1) {
    // Another owner of ours, most likely; -1 tells the kernel's users of a lock without a process.
    std::lock_guard guard(mutex_);
    for (auto it = owners_.lower_bound({ino, 0}); it != owners_.end() && it->first.first == ino; ++it) {
      if (it->second != owner && it->second->holds(lock)) lock.l_pid = it->second->pid();
    }
  }
  fuse_reply_lock(req, &lock);
}

void LockTable::set(fuse_req_t req, const OwnerPtr& owner, const struct flock& given, bool sleep) {
  struct flock lock = given;
  lock.l_pid = 0;
  if (fcntl(owner->fd(), F_OFD_SETLK, &lock) == 0) {
    owner->note(lock);
    fuse_reply_err(req, 0);
    return;
  }
  // EBADF: the file cannot be opened by us in the mode that this lock needs.
  int error = errno == EBADF ? ENOLCK : errno;
  if (!sleep || (error != EAGAIN && error != EACCES)) {
    fuse_reply_err(req, error);
    return;
  }
  auto wait = std::make_unique<Wait>();
  wait->req = req;
  wait->owner = owner;
  wait->lock = lock;
  wait_for(std::move(wait));
}

void LockTable::set_whole(fuse_req_t req, int fd, int operation) {
  if (flock(fd, operation | LOCK_NB) == 0) {
    fuse_reply_err(req, 0);
    return;
  }
  if ((operation & LOCK_NB) || errno != EWOULDBLOCK) {
    fuse_reply_err(req, errno);
    return;
  }
  auto wait = std::make_unique<Wait>();
  wait->req = req;
  wait->fd = fd;
  wait->operation = operation;
  wait_for(std::move(wait));
}

void LockTable::drop_owner(uint64_t ino, uint64_t owner) {
  // Acquire: an owner that was added before the kernel was told of its lock is seen by the close that follows.
  if (owner_count_.load(std::memory_order_acquire) == 0) return;
  OwnerPtr gone;
  {
    std::lock_guard guard(mutex_);
    auto known = owners_.find({ino, owner});
    if (known == owners_.end()) return;
    gone = known->second;
    if (gone->waiting == 0) {
      owners_.erase(known);
      owner_count_.fetch_sub(1, std::memory_order_release);
    }
  }
  // Not left to the closing of the descriptor: somebody may still wait on it for another lock.
  struct flock all {};
  all.l_type = F_UNLCK;
  fcntl(gone->fd(), F_OFD_SETLK, &all);
  gone->note(all);
}

void LockTable::wait_for(std::unique_ptr<Wait> given) {
  fuse_req_t req = given->req;
  Wait* wait = given.get();
  wait->table = this;
  {
    std::lock_guard guard(mutex_);
    if (waits_.size() >= kMaxWaiting) {
      wait = nullptr;
    } else {
      wait->self = waits_.insert(waits_.end(), wait);
      if (wait->owner) ++wait->owner->waiting;
    }
  }
  if (!wait) {
    fuse_reply_err(req, ENOLCK);
    return;
  }
  given.release();  // finish() ends its life
  // Called at once if the interrupt has come already.
  fuse_req_interrupt_func(req, [](fuse_req_t, void* data) {
    auto* interrupted = static_cast<Wait*>(data);
    interrupted->table->interrupt(interrupted);
  }, wait);
  if (start_thread(run_wait, wait) != 0) {
    fuse_req_interrupt_func(req, nullptr, nullptr);
    finish(wait);
    fuse_reply_err(req, ENOLCK);
  }
}

/// One wait. Returns 0 or an errno; EINTR may be a stray signal.
int LockTable::attempt(Wait* wait) {
  int result = wait->owner ? fcntl(wait->owner->fd(), F_OFD_SETLKW, &wait->lock) : flock(wait->fd, wait->operation);
  return result == 0 ? 0 : errno;
}

void* LockTable::run_wait(void* arg) {
  auto* wait = static_cast<Wait*>(arg);
  wait->tid.store(static_cast<pid_t>(syscall(SYS_gettid)), std::memory_order_release);
  int error = EINTR;
  while (error == EINTR && !wait->interrupted.load(std::memory_order_acquire)) error = attempt(wait);
  if (error == 0 && wait->owner) wait->owner->note(wait->lock);
  // Where no signal has come, the kernel would hand its own code for a restart to the program in place of EINTR. This
  // is what it says itself to those whose daemon goes.
  if (error == EINTR && wait->table->stopping_.load(std::memory_order_relaxed)) error = ECONNABORTED;
  fuse_req_t req = wait->req;
  fuse_req_interrupt_func(req, nullptr, nullptr);  // from here on nobody interrupts us
  LockTable* table = wait->table;
  // The answer goes out before stop() can return and the session end.
  fuse_reply_err(req, error);
  table->finish(wait);
  return nullptr;
}

void LockTable::finish(Wait* given) {
  std::unique_ptr<Wait> wait(given);
  std::lock_guard guard(mutex_);
  waits_.erase(wait->self);
  if (wait->owner) --wait->owner->waiting;
  changed_.notify_all();
}

void LockTable::interrupt(Wait* wait) {
  std::lock_guard guard(mutex_);
  wait->interrupted.store(true, std::memory_order_release);
  if (nudging_) return;
  auto body = [](void* arg) -> void* {
    auto* table = static_cast<LockTable*>(arg);
    std::unique_lock lock(table->mutex_);
    table->nudge_interrupted(&lock);
    table->nudging_ = false;
    table->changed_.notify_all();
    return nullptr;
  };
  nudging_ = start_thread(body, this) == 0;
}

/// Signals every interrupted wait until none is left. A thread is in `waits_` as long as it may be signalled.
void LockTable::nudge_interrupted(std::unique_lock<std::mutex>* lock) {
  for (;;) {
    bool any = false;
    for (Wait* wait : waits_) {
      if (!wait->interrupted.load(std::memory_order_acquire)) continue;
      any = true;
      pid_t tid = wait->tid.load(std::memory_order_acquire);
      if (tid != 0) syscall(SYS_tgkill, getpid(), tid, nudge_signal());
    }
    if (!any) return;
    changed_.wait_for(*lock, kNudgeInterval);
  }
}

void LockTable::stop() {
  std::unique_lock lock(mutex_);
  stopping_.store(true, std::memory_order_relaxed);  // each wait's flag, which is raised next, publishes it
  for (Wait* wait : waits_) wait->interrupted.store(true, std::memory_order_release);
  nudge_interrupted(&lock);
  changed_.wait(lock, [&] { return !nudging_; });
}

}  // namespace shortfuse::passthrough
