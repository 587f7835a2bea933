// One exchange of packets with a daemon, and the descriptors that came along.
#pragma once
#include "kernel.h"
#include "shortfuse/cache/attach.h"

namespace shortfuse::bypass {

constexpr int kAnswerTimeoutMs = 200;  // a daemon that takes longer is not waited for: the kernel path serves

/// Working memory of attaching; too large for a caller's stack, so mapped for the occasion.
struct Packets {
  sf_msg out;
  sf_have have;
  sf_msg in;
  union {
    sf_attached attached;
    sf_fresh fresh;
    char bytes[4096];
  } body;
  uint32_t body_bytes;
  uint32_t fds;
  int fd[SF_MSG_FDS_MAX];
  char control[sizeof(KernelCmsg) + SF_MSG_FDS_MAX * sizeof(int)];
};

/// Owns a mapped Packets; closes the descriptors that nobody took.
class PacketRoom {
 public:
  enum class Mapped { Now, WhenNeeded };
  explicit PacketRoom(Mapped when = Mapped::Now) {
    if (when == Mapped::Now) need();
  }
  /// Maps it if it is not. False: there is no memory.
  bool need() {
    if (packets_ == nullptr) packets_ = static_cast<Packets *>(map_anonymous(sizeof(Packets)));
    return packets_ != nullptr;
  }
  ~PacketRoom() {
    if (packets_ == nullptr) return;
    close_left();
    unmap(packets_, sizeof(Packets));
  }
  PacketRoom(const PacketRoom &) = delete;
  explicit operator bool() const { return packets_ != nullptr; }
  Packets *operator->() { return packets_; }
  Packets &operator*() { return *packets_; }
  /// The descriptor becomes the caller's; -1 when there are fewer.
  int take(uint32_t i) {
    if (i >= packets_->fds) return -1;
    int fd = packets_->fd[i];
    packets_->fd[i] = -1;
    return fd;
  }
  void close_left() {
    for (uint32_t i = 0; i < packets_->fds; ++i) close_fd(packets_->fd[i]);
    packets_->fds = 0;
  }

 private:
  Packets *packets_ = nullptr;
};

/// Connects to a daemon's socket and checks that it is root's or our own. The descriptor, or -errno.
int connect_daemon(const char *path, uint32_t euid, KernelUcred *peer);
/// Sends a message of `type` with packets->have as its body when with_have, and receives the answer. 0 or -errno.
int ask(PacketRoom &room, int socket, uint16_t type, bool with_have, uint16_t answer_type);
/// One packet without an answer; never blocks.
void tell(int socket, uint16_t type);

/// Not the seals alone: also that the file is as long as `bytes`. need_no_writers: nobody can map it writable anew.
bool sealed_file(int fd, uint64_t bytes, bool need_no_writers);
/// The size of an open file, 0 when it cannot be had.
uint64_t file_bytes(int fd, uint64_t *ino = nullptr);

}  // namespace shortfuse::bypass
