// A descriptor that closes itself, and descriptors that go along with a message.
#pragma once
#include <sys/socket.h>

#include <cstddef>
#include <span>

namespace shortfuse::bridge {

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor &&other) noexcept : fd_(other.release()) {}
  Descriptor &operator=(Descriptor &&other) noexcept {
    reset(other.release());
    return *this;
  }
  ~Descriptor() { reset(-1); }
  int get() const { return fd_; }
  int release() {
    int fd = fd_;
    fd_ = -1;
    return fd;
  }
  void reset(int fd);
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// Has sendmsg() take descriptors along (SCM_RIGHTS); they stay open here. Where there are none the message stays as it
/// is. REQUIRES: `room`, aligned as a cmsghdr, of CMSG_SPACE(fds.size_bytes()), lives until the message is sent.
void attach(msghdr &message, std::span<std::byte> room, std::span<const int> fds);

}  // namespace shortfuse::bridge
