#include "pressure.h"

#include <linux/fuse.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <string>

namespace shortfuse::passthrough {
namespace {

// Descriptors kept free for open files: where pruning begins and where it ends. A small limit is shared out in percent.
struct Reserve {
  uint64_t most, percent;
  uint64_t below(uint64_t limit) const { return limit - std::min(most, limit * percent / 100); }
};
constexpr Reserve kHigh{2048, 30};  // begin
constexpr Reserve kLow{3072, 40};   // enough
constexpr size_t kBatch = 256;
constexpr auto kForgetTime = std::chrono::milliseconds(1);  // for FORGETs to come in
constexpr auto kFruitlessPause = std::chrono::milliseconds(5);
constexpr auto kRoomPause = std::chrono::milliseconds(5);
constexpr int kRoomPauses = 40;

// FUSE 7.45; the installed header may be older.
constexpr int kNotifyPrune = 9;
struct PruneOut {
  uint32_t count, padding;
  uint64_t spare;
};

uint64_t descriptor_limit() {
  rlimit limit{};
  return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : 0;
}

}  // namespace

void Pressure::start(fuse_session* session, bool single_threaded) {
  if (thread_.joinable() || (limit_ = descriptor_limit()) == 0) return;
  session_ = session;
  single_threaded_ = single_threaded;
  high_.store(kHigh.below(limit_), std::memory_order_relaxed);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the main thread
  thread_ = std::thread([this] { watch(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Pressure::stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard guard(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Pressure::wake() {
  std::lock_guard guard(mutex_);
  if (wanted_) return;
  wanted_ = true;
  changed_.notify_all();
}

bool Pressure::wait_for_room() {
  uint64_t before = inodes_.size();
  wake();
  // The only worker would wait for FORGETs that it has to take in itself; and an old kernel drops no name in a
  // directory while somebody waits for us there.
  if (single_threaded_ || !can_prune_.load(std::memory_order_relaxed)) return false;
  for (int i = 0; i < kRoomPauses; ++i) {
    std::this_thread::sleep_for(kRoomPause);
    if (inodes_.size() < before) return true;
  }
  return false;
}

void Pressure::watch() {
  std::unique_lock guard(mutex_);
  for (;;) {
    changed_.wait(guard, [&] { return wanted_ || stopping_; });
    if (stopping_) return;
    wanted_ = false;  // whoever adds one more while there are too many wakes us again
    guard.unlock();
    uint64_t before = inodes_.size();
    relieve();
    std::this_thread::sleep_for(kForgetTime);
    bool fruitless = inodes_.size() >= before;
    guard.lock();
    if (fruitless) changed_.wait_for(guard, kFruitlessPause, [&] { return stopping_; });
  }
}

/// One round over the nodes, oldest slots first, until enough were offered to the kernel.
void Pressure::relieve() {
  uint64_t low = kLow.below(limit_);
  uint64_t used = inodes_.size();
  if (used <= low) return;
  uint64_t surplus = used - low;
  std::vector<uint64_t> batch;
  auto offer = [&] {
    if (!batch.empty() && can_prune_ && !prune(batch)) can_prune_ = false;
    batch.clear();
  };
  uint64_t extent = inodes_.extent();
  for (uint64_t steps = 0; steps < extent && surplus > 0; ++steps) {
    hand_ = hand_ + 1 < extent ? hand_ + 1 : 2;  // not the root
    uint64_t node = hand_ < extent ? inodes_.id_at(hand_) : 0;
    if (node == 0) continue;
    if (!can_prune_) {
      surplus -= drop_name(node);
      continue;
    }
    --surplus;
    batch.push_back(node);
    if (batch.size() == kBatch) offer();
  }
  offer();
}

/// Asks the kernel to forget nodes that nobody uses. False: it does not know how.
bool Pressure::prune(const std::vector<uint64_t>& nodes) {
  PruneOut out{static_cast<uint32_t>(nodes.size()), 0, 0};
  size_t length = nodes.size() * sizeof nodes[0];
  fuse_out_header header{static_cast<uint32_t>(sizeof(fuse_out_header) + sizeof out + length), kNotifyPrune, 0};
  iovec parts[] = {{&header, sizeof header}, {&out, sizeof out}, {const_cast<uint64_t*>(nodes.data()), length}};
  return writev(fuse_session_fd(session_), parts, 3) >= 0 || errno != EINVAL;
}

/// Makes the kernel drop a file's name; /proc knows which that is now. False: not this one.
bool Pressure::drop_name(uint64_t node) {
  const Inode* inode = inodes_.find(node);
  if (!inode || inode->version.type == S_IFDIR || inode->opens.load(std::memory_order_relaxed) > 0) return false;
  char path[PATH_MAX];
  ssize_t length = readlink(ProcName(inode->fd).absolute(), path, sizeof path - 1);
  if (length <= 0) return false;
  std::string where(path, static_cast<size_t>(length));
  size_t slash = where.rfind('/');
  if (slash == std::string::npos) return false;
  uint64_t parent = inodes_.find_key(source_.key_of(where.substr(0, slash + 1).c_str()));
  if (parent == 0) return false;
  const char* name = where.c_str() + slash + 1;
  return fuse_lowlevel_notify_inval_entry(session_, parent, name, where.size() - slash - 1) == 0;
}

}  // namespace shortfuse::passthrough
