// shortfuse-opener SOCKET MOUNT-POINT: the process that opens files through a mount for the mount's daemon (opener.h).
//
// Started by the daemon only. Each open is made by a thread of its own, as any may wait for the file system for as long
// as it likes. What is kept is closed by one more thread: that, too, is a request. Nothing here ends but by the end of
// the process, which is not waited for by anybody: all signals are blocked, and when the daemon has gone, so are we.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "opener_packets.h"
#include "place.h"
#include "shortfuse/cache/attach.h"

namespace shortfuse::bridge {
namespace {

constexpr int kOpensUnderWay = 64;    // for applications; as many again to be kept
constexpr rlim_t kForOpens = 512;     // descriptors that are not for what is kept

void send_opened(int socket, uint64_t nodeid, int error, int fd) {
  struct {
    sf_msg message;
    sf_opened opened;
  } packet{};
  packet.message = {SF_MSG_MAGIC, SF_PROTOCOL, SF_MSG_OPENED, sizeof(sf_opened), fd >= 0 ? 1u : 0u};
  packet.opened.nodeid = nodeid;
  packet.opened.error = error;
  iovec iov{&packet, sizeof(packet)};
  alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  if (fd >= 0) attach(header, control, {&fd, 1});
  // Somebody who does not read has gone.
  [[maybe_unused]] ssize_t ignored = sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/// A directory is opened in itself, so that the flags are those of the application and no others; a file by its
/// descriptor.
Descriptor open_place(const Place &place, int flags, int *error) {
  Descriptor found = find_place(place, error);
  struct stat st;
  if (!found || fstat(found.get(), &st) != 0) return {};
  Descriptor fd = S_ISDIR(st.st_mode) ? Descriptor(openat(found.get(), ".", flags | O_CLOEXEC))
                                      : open_again(found.get(), flags);
  *error = fd ? 0 : -errno;
  return fd;
}

class Openings {
 public:
  Openings(int socket, std::string mount_point) : socket_(socket), mount_point_(std::move(mount_point)) {}
  [[noreturn]] void run();

 private:
  struct Job {
    OpenerPacket packet;
    Place place;
    Descriptor client;
  };
  bool next(Job &job);
  void open_for_application(const Job &job);
  void keep(const Job &job);
  Descriptor open_kept(uint64_t nid, int flags);
  void drop(uint64_t nid);
  void say(OpenerWord word, uint64_t nid = 0, uint32_t flags = 0);
  void close_some();
  static bool start(std::atomic<int> &under_way, auto &&job);

  const int socket_;
  const std::string mount_point_;
  std::atomic<int> opening_{0}, keeping_{0};
  std::mutex lock_;
  std::condition_variable changed_;
  std::vector<char> path_ = std::vector<char>(kOpenerPathMax + 1);  ///< of the packet that is being read
  std::map<uint64_t, std::shared_ptr<Descriptor>> kept_;
  std::vector<std::shared_ptr<Descriptor>> closing_;
};

/// The daemon reads as long as it lives; should so much wait to be read, the opener has time.
void Openings::say(OpenerWord word, uint64_t nid, uint32_t flags) {
  OpenerPacket packet;
  packet.word = word;
  packet.flags = flags;
  packet.nid = nid;
  ssize_t sent;
  while ((sent = send(socket_, &packet, sizeof(packet), MSG_NOSIGNAL)) < 0 && errno == EINTR) {}
  if (sent < 0) _exit(0);
}

/// False: nobody asks any more.
bool Openings::next(Job &job) {
  iovec iov[2] = {{&job.packet, sizeof(job.packet)}, {path_.data(), path_.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = iov;
  header.msg_iovlen = 2;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  ssize_t got;
  while ((got = recvmsg(socket_, &header, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {}
  if (got != static_cast<ssize_t>(sizeof(job.packet) + job.packet.path_bytes)) return false;
  if (const cmsghdr *cmsg = CMSG_FIRSTHDR(&header); cmsg && cmsg->cmsg_type == SCM_RIGHTS) {
    int fd;
    std::memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
    job.client.reset(fd);
  }
  job.place = {job.packet.has_name ? mount_point_ : std::string(), std::string(path_.data(), job.packet.path_bytes),
               job.packet.nodeid};
  return true;
}

bool Openings::start(std::atomic<int> &under_way, auto &&job) {
  if (under_way.fetch_add(1) < kOpensUnderWay) {
    try {
      std::thread([&under_way, job = std::move(job)] {
        job();
        under_way.fetch_sub(1);
      }).detach();
      return true;
    } catch (const std::system_error &) {
    }
  }
  under_way.fetch_sub(1);
  return false;
}

void Openings::run() {
  std::thread([this] { close_some(); }).detach();
  say(OpenerWord::Ready);
  while (true) {
    auto job = std::make_shared<Job>();
    if (!next(*job)) _exit(0);  // threads may be waiting, for each other too, and are not waited for
    switch (job->packet.word) {
      case OpenerWord::Open:
        if (!start(opening_, [this, job] { open_for_application(*job); }))
          send_opened(job->client.get(), job->place.nodeid, -EBUSY, -1);
        break;
      case OpenerWord::Keep:
        if (!start(keeping_, [this, job] { keep(*job); })) say(OpenerWord::NotKept, job->packet.nid);
        break;
      case OpenerWord::Drop:
        drop(job->packet.nid);
        break;
      default:
        _exit(1);
    }
  }
}

void Openings::open_for_application(const Job &job) {
  const int flags = static_cast<int>(job.packet.flags);
  int error = 0;
  Descriptor fd = open_kept(job.packet.nid, flags);
  if (!fd) fd = open_place(job.place, flags, &error);
  send_opened(job.client.get(), job.place.nodeid, error, fd.get());
}

/// Of what is kept: a new open where the file system allows that, else the only one there is, given once: two
/// applications must not share an offset.
Descriptor Openings::open_kept(uint64_t nid, int flags) {
  std::shared_ptr<Descriptor> kept;
  {
    std::lock_guard guard(lock_);
    if (auto found = kept_.find(nid); found != kept_.end()) kept = found->second;
  }
  if (!kept) return {};
  Descriptor fd = open_again(kept->get(), flags);
  if (fd) return fd;
  // A file system that does not open what has no name.
  std::unique_lock guard(lock_);
  auto found = kept_.find(nid);
  if (found == kept_.end() || found->second != kept) return {};
  fd.reset(fcntl(kept->get(), F_DUPFD_CLOEXEC, 0));
  if (!fd) return {};
  closing_.push_back(std::move(found->second));
  kept_.erase(found);
  changed_.notify_one();
  guard.unlock();
  say(OpenerWord::NotKept, nid);
  return fd;
}

void Openings::keep(const Job &job) {
  say(OpenerWord::Began, job.packet.nid, static_cast<uint32_t>(gettid()));
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  int error = -EMFILE;
  Descriptor fd;
  bool room;
  {
    std::lock_guard guard(lock_);
    room = kept_.size() + std::min(kForOpens, limit.rlim_cur / 2) < limit.rlim_cur;
  }
  if (room) {
    Descriptor found = find_place(job.place, &error);
    if (found) fd = open_again(found.get(), O_RDONLY | O_NONBLOCK);
  }
  const bool kept = static_cast<bool>(fd);
  if (kept) {
    std::lock_guard guard(lock_);
    auto &entry = kept_[job.packet.nid];
    if (entry) closing_.push_back(std::move(entry));
    entry = std::make_shared<Descriptor>(std::move(fd));
    changed_.notify_one();
  }
  say(kept ? OpenerWord::Kept : OpenerWord::NotKept, job.packet.nid);
}

void Openings::drop(uint64_t nid) {
  std::lock_guard guard(lock_);
  auto found = kept_.find(nid);
  if (found == kept_.end()) return;
  closing_.push_back(std::move(found->second));
  kept_.erase(found);
  changed_.notify_one();
}

void Openings::close_some() {
  std::unique_lock guard(lock_);
  while (true) {
    changed_.wait(guard, [&] { return !closing_.empty(); });
    auto closing = std::exchange(closing_, {});
    guard.unlock();
    closing.clear();
    guard.lock();
  }
}

/// A session of its own, nothing of the daemon's that somebody might wait for the end of, no directory held.
bool settle() {
  sigset_t all;
  sigfillset(&all);
  if (pthread_sigmask(SIG_SETMASK, &all, nullptr) != 0) return false;
  prctl(PR_SET_NAME, "shortfuse-open");
  setsid();
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  Descriptor null(open("/dev/null", O_RDWR | O_CLOEXEC));
  for (int fd : {0, 1})
    if (null && null.get() != fd) dup2(null.get(), fd);
  return chdir("/") == 0;
}

}  // namespace
}  // namespace shortfuse::bridge

int main(int argc, char **argv) {
  using namespace shortfuse::bridge;
  int number = -1;
  const bool given = argc == 3 && std::from_chars(argv[1], argv[1] + std::strlen(argv[1]), number).ec == std::errc();
  const int socket = given ? fcntl(number, F_DUPFD_CLOEXEC, 3) : -1;
  struct stat st;
  if (socket < 0 || fstat(socket, &st) != 0 || !S_ISSOCK(st.st_mode)) {
    static const char text[] = "shortfuse-opener is started by the daemon of an accelerated mount\n";
    [[maybe_unused]] ssize_t ignored = write(2, text, sizeof(text) - 1);
    return 2;
  }
  close(number);
  if (settle()) Openings(socket, argv[2]).run();
  return 1;
}
