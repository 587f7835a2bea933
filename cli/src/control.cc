#include "control.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <thread>

#include "mounts.h"

namespace shortfuse::cli {

namespace {

constexpr size_t kPacketMax = 1 << 20;
constexpr uint64_t kAnswerMax = 64ull << 20;  ///< of an answer in a memfd
constexpr std::chrono::milliseconds kStatusLimit{5000};
constexpr std::chrono::milliseconds kStartLimit{500};  // from a mount to its daemon that can be asked

std::unexpected<std::string> failed(const std::string &what) {
  return std::unexpected(what + ": " + strerror(errno));
}

bool trusted(uid_t owner) {
  return owner == 0 || owner == geteuid();
}

/// A connected socket whose other end is root's or ours.
std::expected<Fd, std::string> connect_to(const std::string &path, std::chrono::milliseconds limit) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return std::unexpected(path + ": the socket's path is too long");
  memcpy(address.sun_path, path.data(), path.size());

  Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return failed("socket");
  const timeval wait{.tv_sec = limit.count() / 1000, .tv_usec = limit.count() % 1000 * 1000};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
  if (connect(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0) {
    if (errno == ECONNREFUSED || errno == ENOENT) return std::unexpected(std::string());  // its daemon is gone
    if (errno == EAGAIN) return std::unexpected(path + ": the daemon does not answer");
    return failed(path);
  }
  ucred peer{};
  socklen_t length = sizeof peer;
  if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return failed(path);
  if (!trusted(peer.uid)) {
    return std::unexpected(path + ": its daemon belongs to user " + std::to_string(peer.uid) + ", not trusted");
  }
  return fd;
}

std::expected<void, std::string> send_packet(int fd, sf_msg_type type, std::string_view body) {
  sf_msg head{.magic = SF_MSG_MAGIC,
              .protocol = SF_PROTOCOL,
              .type = static_cast<uint16_t>(type),
              .body_bytes = static_cast<uint32_t>(body.size()),
              .fds = 0};
  iovec parts[2] = {{&head, sizeof head}, {const_cast<char *>(body.data()), body.size()}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  if (sendmsg(fd, &message, MSG_NOSIGNAL) < 0) return failed("the daemon did not take the request");
  return {};
}

/// Everything a memfd holds.
std::expected<std::string, std::string> contents(int fd) {
  struct stat st{};
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return std::unexpected("the daemon's answer is not a file");
  if (static_cast<uint64_t>(st.st_size) > kAnswerMax) return std::unexpected("the daemon's answer is too long");
  std::string text(static_cast<size_t>(st.st_size), '\0');
  size_t have = 0;
  while (have < text.size()) {
    const ssize_t got = pread(fd, text.data() + have, text.size() - have, static_cast<off_t>(have));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return std::unexpected("the daemon's answer could not be read");
    have += static_cast<size_t>(got);
  }
  return text;
}

struct Answer {
  uint16_t type;
  std::string body;
};

/// Closes every descriptor that came along and returns the first, which is kept.
Fd first_descriptor(msghdr &message) {
  Fd first;
  for (cmsghdr *c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      Fd received(fd);
      if (!first) first = std::move(received);
    }
  }
  return first;
}

std::expected<Answer, std::string> receive_packet(int fd) {
  const auto buffer = std::make_unique_for_overwrite<char[]>(kPacketMax);
  alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))];
  iovec part{buffer.get(), kPacketMax};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  do got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  if (got < 0 && errno == EAGAIN) return std::unexpected("the daemon does not answer");
  if (got < 0) return failed("no answer from the daemon");
  const Fd attached = first_descriptor(message);
  if (got == 0) return std::unexpected("the daemon closed the connection without an answer (another version?)");

  sf_msg head;
  if (static_cast<size_t>(got) < sizeof head || (message.msg_flags & MSG_TRUNC) != 0) {
    return std::unexpected("the daemon's answer is malformed");
  }
  memcpy(&head, buffer.get(), sizeof head);
  if (head.magic != SF_MSG_MAGIC) return std::unexpected("the daemon's answer is malformed");
  if (head.protocol != SF_PROTOCOL) {
    return std::unexpected("the daemon speaks protocol " + std::to_string(head.protocol) + ", this command speaks " +
                           std::to_string(SF_PROTOCOL));
  }
  if (head.body_bytes != static_cast<size_t>(got) - sizeof head) {
    return std::unexpected("the daemon's answer is malformed");
  }
  if (head.body_bytes != 0 || !attached) return Answer{head.type, {buffer.get() + sizeof head, head.body_bytes}};
  auto text = contents(attached.get());
  if (!text) return std::unexpected(text.error());
  return Answer{head.type, std::move(*text)};
}

/// "" is nobody there.
std::expected<LiveMount, std::string> status_of(const std::string &socket) {
  auto json = ask(socket, SF_MSG_STATUS, "", kStatusLimit);
  if (!json) return std::unexpected(json.error());
  auto status = metrics::from_json(*json);
  if (!status) return std::unexpected(socket + ": " + status.error());
  return LiveMount{socket, std::move(*json), std::move(*status)};
}

void complain(std::vector<std::string> *complaints, std::string text) {
  if (complaints != nullptr && !text.empty()) complaints->push_back(std::move(text));
}

}  // namespace

Fd::~Fd() {
  if (fd_ >= 0) close(fd_);
}

std::vector<std::string> registry_directories(uid_t uid) {
  std::vector<std::string> directories{SF_REGISTRY_ROOT};
  const std::string number = std::to_string(uid);
  directories.push_back("/run/user/" + number + "/shortfuse");
  directories.push_back("/tmp/shortfuse-" + number);
  return directories;
}

std::vector<std::string> registry_sockets(const std::vector<std::string> &directories,
                                          std::vector<std::string> *complaints) {
  std::vector<std::string> sockets;
  for (const auto &path : directories) {
    // Opened first and judged by the descriptor, so that it is the directory judged that is listed.
    const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
      if (errno != ENOENT) complain(complaints, path + ": " + strerror(errno));
      continue;
    }
    struct stat st{};
    if (fstat(fd, &st) != 0 || !trusted(st.st_uid) || (st.st_mode & 022) != 0) {
      complain(complaints, path + ": not used, others own it or may write to it");
      close(fd);
      continue;
    }
    DIR *directory = fdopendir(fd);
    if (directory == nullptr) {
      close(fd);
      continue;
    }
    while (const dirent *entry = readdir(directory)) {
      const std::string_view name = entry->d_name;
      if (name.ends_with(".sock")) sockets.push_back(path + "/" + std::string(name));
    }
    closedir(directory);
  }
  std::sort(sockets.begin(), sockets.end());
  return sockets;
}

std::expected<std::string, std::string> ask(const std::string &socket_path, sf_msg_type type, std::string_view body,
                                            std::chrono::milliseconds limit) {
  auto fd = connect_to(socket_path, limit);
  if (!fd) return std::unexpected(fd.error());
  if (auto sent = send_packet(fd->get(), type, body); !sent) return std::unexpected(sent.error());
  auto answer = receive_packet(fd->get());
  if (!answer) return std::unexpected(answer.error());
  if (answer->type == SF_MSG_ERROR) {
    return std::unexpected(answer->body.empty() ? "the daemon refused, without a reason" : answer->body);
  }
  if (answer->type != SF_MSG_JSON) return std::unexpected("the daemon's answer is of an unexpected kind");
  return std::move(answer->body);
}

std::vector<LiveMount> live_mounts(const std::vector<std::string> &directories, std::vector<std::string> *complaints) {
  std::vector<LiveMount> mounts;
  for (const auto &socket : registry_sockets(directories, complaints)) {
    auto mount = status_of(socket);
    if (mount) {
      mounts.push_back(std::move(*mount));
    } else {
      complain(complaints, mount.error());
    }
  }
  std::sort(mounts.begin(), mounts.end(),
            [](const LiveMount &a, const LiveMount &b) { return a.status.mount.point < b.status.mount.point; });
  return mounts;
}

std::expected<LiveMount, std::string> find_mount(const std::vector<std::string> &directories,
                                                 const std::string &point) {
  std::vector<std::string> complaints;
  const std::string wanted = canonical(point);
  // A daemon can be asked from its first look at a request on, a moment after its mount is seen.
  const auto until = std::chrono::steady_clock::now() + kStartLimit;
  while (true) {
    complaints.clear();
    for (const auto &socket : registry_sockets(directories, &complaints)) {
      auto mount = status_of(socket);
      if (!mount) {
        complain(&complaints, mount.error());
      } else if (mount->status.mount.point == wanted) {
        return mount;
      }
    }
    const auto entry = mounted_at(mount_table(), wanted);
    if (!entry || !entry->is_fuse() || std::chrono::steady_clock::now() >= until) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  std::string text = describe_absence(wanted);
  for (const auto &complaint : complaints) text += "\n  " + complaint;
  return std::unexpected(text);
}

}  // namespace shortfuse::cli
