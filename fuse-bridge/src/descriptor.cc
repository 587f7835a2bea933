#include "descriptor.h"

#include <unistd.h>

#include <cstring>

namespace shortfuse::bridge {

void Descriptor::reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

void attach(msghdr &message, std::span<std::byte> room, std::span<const int> fds) {
  if (fds.empty()) return;
  message.msg_control = room.data();
  message.msg_controllen = CMSG_SPACE(fds.size_bytes());
  cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
  cmsg->cmsg_level = SOL_SOCKET;
  cmsg->cmsg_type = SCM_RIGHTS;
  cmsg->cmsg_len = CMSG_LEN(fds.size_bytes());
  std::memcpy(CMSG_DATA(cmsg), fds.data(), fds.size_bytes());
}

}  // namespace shortfuse::bridge
