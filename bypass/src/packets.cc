// Talking to a daemon: bounded in time, nothing believed about lengths.
#include "packets.h"

#include "attach.h"
#include "kernel.h"

#include <linux/memfd.h>

namespace shortfuse::bypass {

// <linux/fcntl.h> has them under the same names.
constexpr int kSealsShape = F_SEAL_SHRINK | F_SEAL_GROW;
constexpr int kSealsWriters = F_SEAL_FUTURE_WRITE | F_SEAL_WRITE;

#ifdef SF_BYPASS_TESTING
int answer_timeout_ms_for_test = 20'000;
static int answer_timeout_ms() { return answer_timeout_ms_for_test; }
#else
static constexpr int answer_timeout_ms() { return kAnswerTimeoutMs; }
#endif

int connect_daemon(const char *path, uint32_t euid, KernelUcred *peer) {
  KernelSockaddrUn address = {kAfUnix, {}};
  size_t n = 0;
  for (; path[n] != 0; ++n) {
    if (n + 1 >= sizeof address.path) return -ENAMETOOLONG;
    address.path[n] = path[n];
  }
  long fd = SF_SYS3(__NR_socket, kAfUnix, kSockSeqpacket | kSockCloexec, 0);
  if (is_error(fd)) return static_cast<int>(fd);
  __kernel_old_timeval timeout = {answer_timeout_ms() / 1000, answer_timeout_ms() % 1000 * 1000};
  SF_SYS5(__NR_setsockopt, fd, kSolSocket, kSoSndtimeo, &timeout, sizeof timeout);
  SF_SYS5(__NR_setsockopt, fd, kSolSocket, kSoRcvtimeo, &timeout, sizeof timeout);
  long result = SF_SYS3(__NR_connect, fd, &address, offsetof(KernelSockaddrUn, path) + n + 1);
  int length = sizeof *peer;
  if (!is_error(result)) result = SF_SYS5(__NR_getsockopt, fd, kSolSocket, kSoPeercred, peer, &length);
  if (!is_error(result) && peer->uid != 0 && peer->uid != euid) result = -EPERM;
  if (!is_error(result)) return static_cast<int>(fd);
  close_fd(static_cast<int>(fd));
  return static_cast<int>(result);
}

// Descriptors of the first SCM_RIGHTS message; later ones cannot be (one is all the kernel makes of a packet).
static void take_descriptors(Packets &p, const KernelMsghdr &message) {
  p.fds = 0;
  if (message.control_len < sizeof(KernelCmsg)) return;
  KernelCmsg cmsg;
  __builtin_memcpy(&cmsg, p.control, sizeof cmsg);
  if (cmsg.level != kSolSocket || cmsg.type != kScmRights || cmsg.len < sizeof cmsg) return;
  size_t count = (cmsg.len - sizeof cmsg) / sizeof(int);
  if (count > SF_MSG_FDS_MAX) count = SF_MSG_FDS_MAX;
  __builtin_memcpy(p.fd, p.control + sizeof cmsg, count * sizeof(int));
  p.fds = static_cast<uint32_t>(count);
}

static int receive(PacketRoom &room, int socket, uint16_t type) {
  Packets &p = *room;
  iovec iov[2] = {{&p.in, sizeof p.in}, {&p.body, sizeof p.body}};
  KernelMsghdr message = {};
  message.iov = iov;
  message.iov_len = 2;
  message.control = p.control;
  message.control_len = sizeof p.control;
  long n = SF_SYS3(__NR_recvmsg, socket, &message, kMsgCmsgCloexec);
  if (is_error(n)) return static_cast<int>(n);
  take_descriptors(p, message);
  bool whole = n >= static_cast<long>(sizeof p.in) && p.in.magic == SF_MSG_MAGIC && p.in.protocol == SF_PROTOCOL &&
               p.in.body_bytes == static_cast<size_t>(n) - sizeof p.in && p.in.fds == p.fds &&
               (message.flags & kMsgCtrunc) == 0;
  if (!whole) return -EPROTO;
  p.body_bytes = p.in.body_bytes;
  return p.in.type == type ? 0 : -EPROTO;
}

int ask(PacketRoom &room, int socket, uint16_t type, bool with_have, uint16_t answer_type) {
  Packets &p = *room;
  room.close_left();
  p.out = {SF_MSG_MAGIC, SF_PROTOCOL, type, with_have ? static_cast<uint32_t>(sizeof p.have) : 0, 0};
  iovec iov[2] = {{&p.out, sizeof p.out}, {&p.have, p.out.body_bytes}};
  KernelMsghdr message = {};
  message.iov = iov;
  message.iov_len = with_have ? 2 : 1;
  long n = SF_SYS3(__NR_sendmsg, socket, &message, kMsgNosignal);
  if (is_error(n)) return static_cast<int>(n);
  return receive(room, socket, answer_type);
}

void tell(int socket, uint16_t type) {
  sf_msg message = {SF_MSG_MAGIC, SF_PROTOCOL, type, 0, 0};
  SF_SYS6(__NR_sendto, socket, &message, sizeof message, kMsgDontwait | kMsgNosignal, 0, 0);
}

uint64_t file_bytes(int fd, uint64_t *ino) {
  struct stat st;
  if (is_error(SF_SYS2(__NR_fstat, fd, &st)) || st.st_size < 0) return 0;
  if (ino != nullptr) *ino = st.st_ino;
  return static_cast<uint64_t>(st.st_size);
}

bool sealed_file(int fd, uint64_t bytes, bool need_no_writers) {
  long seals = SF_SYS2(__NR_fcntl, fd, F_GET_SEALS);
  if (is_error(seals) || (seals & kSealsShape) != kSealsShape) return false;
  if (need_no_writers && (seals & kSealsWriters) == 0) return false;
  return bytes != 0 && file_bytes(fd) >= bytes;
}

}  // namespace shortfuse::bypass
