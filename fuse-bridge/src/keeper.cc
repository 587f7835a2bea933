#include "keeper.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <system_error>
#include <utility>

namespace shortfuse::bridge {
namespace {

// When the process is killed, the kernel closes descriptors in ascending order; a file of our own mount may be closed
// only when the device is gone, or its FLUSH would wait for an answer that nobody gives.
constexpr rlim_t kAboveDevices = 4096;
constexpr auto kPatience = std::chrono::seconds(2);

Descriptor moved_up(Descriptor fd) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return {};
  const rlim_t floor = std::min(kAboveDevices, limit.rlim_cur - limit.rlim_cur / 4);
  return Descriptor(fcntl(fd.get(), F_DUPFD_CLOEXEC, static_cast<int>(floor)));
}

std::string of_descriptor(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

/// FUSE's number of the node that a descriptor is open on, by its file handle; 0: it is not on FUSE.
uint64_t node_of_descriptor(int fd) {
  constexpr int kFuseHandle = 0x81, kHandleFid = 0x200;  // FILEID_INO64_GEN; AT_HANDLE_FID
  alignas(file_handle) char bytes[sizeof(file_handle) + 16];
  auto *handle = reinterpret_cast<file_handle *>(bytes);
  for (int kind : {0, kHandleFid}) {
    handle->handle_bytes = 16;
    int mount;
    if (name_to_handle_at(fd, "", handle, &mount, AT_EMPTY_PATH | kind) != 0) continue;
    if (handle->handle_type != kFuseHandle) return 0;
    uint32_t word[2];
    std::memcpy(word, handle->f_handle, sizeof(word));
    return static_cast<uint64_t>(word[0]) << 32 | word[1];
  }
  return 0;
}

Descriptor open_node(const Place &place) {
  int error;
  Descriptor found = find_place(place, &error);
  if (!found) return {};
  Descriptor fd(open(of_descriptor(found.get()).c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  return fd ? moved_up(std::move(fd)) : Descriptor();
}

/// The open, or nothing where that takes too long.
Descriptor open_in_time(const Place &place) {
  std::promise<Descriptor> promise;
  auto opened = promise.get_future();
  try {
    std::thread([place, promise = std::move(promise)]() mutable { promise.set_value(open_node(place)); }).detach();
  } catch (const std::system_error &) {
    return {};
  }
  return opened.wait_for(kPatience) == std::future_status::ready ? opened.get() : Descriptor();
}

}  // namespace

Descriptor find_place(const Place &place, int *error) {
  Descriptor root(open(place.mount_point.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  *error = -errno;
  if (!root) return {};
  open_how how{};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH;
  const char *path = place.path.empty() ? "." : place.path.c_str();
  Descriptor found(static_cast<int>(syscall(SYS_openat2, root.get(), path, &how, sizeof(how))));
  struct stat st;
  *error = -errno;
  if (!found) return {};
  *error = -ESTALE;
  // What can be opened for an application: anything else could block, or do something.
  if (node_of_descriptor(found.get()) != place.nodeid || fstat(found.get(), &st) != 0 ||
      !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
    return {};
  *error = 0;
  return found;
}

void Keeper::keep(Parked parked) {
  std::lock_guard guard(lock_);
  parked_.push_back(std::move(parked));
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  changed_.notify_one();
}

bool Keeper::has(cache::Nid nid) {
  std::lock_guard guard(lock_);
  return kept_.contains(nid);
}

Descriptor Keeper::open_kept(cache::Nid nid, int flags) {
  std::shared_ptr<Descriptor> kept;
  {
    std::lock_guard guard(lock_);
    if (auto found = kept_.find(nid); found != kept_.end()) kept = found->second;
  }
  if (!kept) return {};
  Descriptor fd(open(of_descriptor(kept->get()).c_str(), (flags & ~O_NOFOLLOW) | O_CLOEXEC));
  if (fd) return fd;
  // A file system that does not open what has no name.
  std::lock_guard guard(lock_);
  auto found = kept_.find(nid);
  if (found == kept_.end() || found->second != kept) return {};
  fd.reset(fcntl(kept->get(), F_DUPFD_CLOEXEC, 0));
  if (!fd) return {};
  closing_.push_back(std::move(found->second));
  kept_.erase(found);
  changed_.notify_one();
  return fd;
}

void Keeper::tidy() {
  std::lock_guard guard(lock_);
  std::erase_if(kept_, [&](auto &entry) {
    if (opens_.has(entry.first)) return false;
    closing_.push_back(std::move(entry.second));
    return true;
  });
  if (!closing_.empty()) changed_.notify_one();
}

void Keeper::keep_node(const Parked &parked) {
  if (parked.place.mount_point.empty() || has(parked.nid)) return;
  Descriptor fd = open_in_time(parked.place);
  if (!fd) return;
  std::lock_guard guard(lock_);
  if (stopped_) return static_cast<void>(fd.release());
  kept_[parked.nid] = std::make_shared<Descriptor>(std::move(fd));
}

void Keeper::run() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  std::unique_lock guard(lock_);
  while (true) {
    changed_.wait(guard, [&] { return stopped_ || !parked_.empty() || !closing_.empty(); });
    if (stopped_) break;
    auto closing = std::exchange(closing_, {});
    auto parked = std::exchange(parked_, {});
    guard.unlock();
    for (Parked &one : parked) {
      keep_node(one);
      go_on(std::move(one));
    }
    closing.clear();
    guard.lock();
  }
  ended_.set_value();
}

bool Keeper::stop(std::chrono::seconds limit) {
  {
    std::lock_guard guard(lock_);
    stopped_ = true;
    changed_.notify_one();
    // Not closed here: nobody may be left to answer. The process's end does it, when the device is gone.
    for (auto &[nid, fd] : kept_) fd->release();
    kept_.clear();
    for (auto &fd : closing_) fd->release();
    closing_.clear();
  }
  if (!thread_.joinable()) return true;
  if (ended_.get_future().wait_for(limit) == std::future_status::ready) {
    thread_.join();
    return true;
  }
  thread_.detach();
  return false;
}

}  // namespace shortfuse::bridge
