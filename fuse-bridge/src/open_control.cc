// A descriptor for an application that was served an open, and needs the kernel to know of it (SF_MSG_OPEN).
//
// The daemon opens the node through its own mount, by the name it has now. That is a request to the file system like
// any other, and so must not be made by a thread that the file system, or anybody's answer, waits for: each is made by
// a thread of its own, which holds nothing of ours but its copies and ends with the open.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <system_error>
#include <thread>

#include "control.h"

namespace shortfuse::bridge {
namespace {

constexpr int kOpensUnderWay = 64;
std::atomic<int> under_way{0};

struct Job {
  Descriptor socket;
  Place place;
  cache::Nid nid;
  int flags;
};

void answer(int socket, uint64_t nodeid, int error, int fd) {
  struct {
    sf_msg message;
    sf_opened opened;
  } packet{};
  packet.message = {SF_MSG_MAGIC, SF_PROTOCOL, SF_MSG_OPENED, sizeof(sf_opened), fd >= 0 ? 1u : 0u};
  packet.opened.nodeid = nodeid;
  packet.opened.error = error;
  iovec iov{&packet, sizeof(packet)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    cmsghdr *cmsg = CMSG_FIRSTHDR(&header);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
  }
  // Somebody who does not read has gone.
  [[maybe_unused]] ssize_t ignored = sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/// A directory is opened in itself, so that the flags are those of the application and no others; a file by its
/// descriptor.
Descriptor open_named(const Job &job, int *error) {
  Descriptor place = find_place(job.place, error);
  struct stat st;
  if (!place || fstat(place.get(), &st) != 0) return {};
  const std::string self = "/proc/self/fd/" + std::to_string(place.get());
  Descriptor fd(S_ISDIR(st.st_mode) ? openat(place.get(), ".", job.flags | O_CLOEXEC)
                                    : open(self.c_str(), (job.flags & ~O_NOFOLLOW) | O_CLOEXEC));
  *error = fd ? 0 : -errno;
  return fd;
}

}  // namespace

bool Control::open_node(Client &client, std::string_view bytes) {
  sf_open wanted;
  if (bytes.size() != sizeof(wanted)) return false;
  std::memcpy(&wanted, bytes.data(), sizeof(wanted));
  const auto path = bridge_.cache().path_of(wanted.nid);
  constexpr int kFlags = O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_LARGEFILE;
  Job job{Descriptor(fcntl(client.socket.get(), F_DUPFD_CLOEXEC, 0)),
          {path ? bridge_.mount_point() : std::string(), path.value_or(""), bridge_.cache().nodeid_of(wanted.nid)},
          wanted.nid, static_cast<int>(wanted.flags) & kFlags};
  if (!job.socket) return false;
  if (under_way.fetch_add(1) >= kOpensUnderWay) {
    under_way.fetch_sub(1);
    return answer(client.socket.get(), job.place.nodeid, -EBUSY, -1), true;
  }
  try {
    std::thread([job = std::move(job), keeper = bridge_.keeper()] {
      Descriptor fd = keeper->open_kept(job.nid, job.flags);
      int error = 0;
      if (!fd) fd = open_named(job, &error);
      answer(job.socket.get(), job.place.nodeid, error, fd ? fd.get() : -1);
      under_way.fetch_sub(1);
    }).detach();
  } catch (const std::system_error &) {
    under_way.fetch_sub(1);
    answer(client.socket.get(), 0, -EBUSY, -1);
  }
  return true;
}

}  // namespace shortfuse::bridge
