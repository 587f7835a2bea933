#include "support/control.h"

#include <dirent.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

namespace shortfuse::tests {

std::vector<std::string> registry_directories(uid_t uid) {
  std::string own = std::to_string(uid);
  return {SF_REGISTRY_ROOT, "/run/user/" + own + "/shortfuse", "/tmp/shortfuse-" + own};
}

std::vector<std::string> sockets_of(pid_t daemon) {
  std::vector<std::string> found;
  struct stat st;
  uid_t owner = stat(("/proc/" + std::to_string(daemon)).c_str(), &st) == 0 ? st.st_uid : geteuid();
  for (const auto &directory : registry_directories(owner)) {
    DIR *dir = opendir(directory.c_str());
    if (dir == nullptr) continue;
    while (dirent *entry = readdir(dir)) {
      std::string name = entry->d_name;
      if (name.starts_with(std::to_string(daemon) + "-") && name.ends_with(".sock"))
        found.push_back(directory + "/" + name);
    }
    closedir(dir);
  }
  return found;
}

Control::Control(const std::string &socket_path) {
  fd_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_path.c_str(), sizeof address.sun_path - 1);
  if (connect(fd_, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) {
    int error = errno;
    close(fd_);
    throw Broken("cannot connect to " + socket_path + ": " + std::strerror(error));
  }
}

Control::Control(Control &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
Control::~Control() {
  if (fd_ >= 0) close(fd_);
}

void Control::send(uint16_t type, std::string_view body) {
  sf_msg head{SF_MSG_MAGIC, SF_PROTOCOL, type, static_cast<uint32_t>(body.size()), 0};
  std::string packet(reinterpret_cast<const char *>(&head), sizeof head);
  packet += body;
  if (!send_bytes(packet)) throw Broken("the daemon has closed the control connection");
}

bool Control::send_bytes(std::string_view bytes) {
  return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
}

Control::Reply Control::receive() {
  pollfd wait{fd_, POLLIN, 0};
  if (poll(&wait, 1, 20'000) <= 0) throw Broken("no answer on the control socket");
  std::vector<char> packet(1 << 20);
  alignas(cmsghdr) char ancillary[CMSG_SPACE(sizeof(int) * 256)];
  iovec vector{packet.data(), packet.size()};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = ancillary;
  message.msg_controllen = sizeof ancillary;
  ssize_t got = recvmsg(fd_, &message, MSG_CMSG_CLOEXEC);
  Reply reply;
  if (got < static_cast<ssize_t>(sizeof(sf_msg))) return reply;
  sf_msg head;
  std::memcpy(&head, packet.data(), sizeof head);
  reply.type = head.type;
  reply.body.assign(packet.data() + sizeof head, static_cast<size_t>(got) - sizeof head);
  for (cmsghdr *part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      if (reply.type == SF_MSG_JSON && reply.body.empty()) {
        reply.body = read_file("/proc/self/fd/" + std::to_string(fd));
      }
      close(fd);
      ++reply.descriptors;
    }
  }
  return reply;
}

Control::Reply Control::ask(uint16_t type, std::string_view body) {
  send(type, body);
  return receive();
}

Control control_of(pid_t daemon) {
  std::vector<std::string> sockets;
  if (!eventually([&] { return !(sockets = sockets_of(daemon)).empty(); })) {
    throw Broken("daemon " + std::to_string(daemon) + " has no control socket");
  }
  return Control(sockets.at(0));
}

void swap_by_socket(Control &control, std::string_view policies) {
  auto reply = control.ask(SF_MSG_SWAP, nlohmann::json{{"policy", policy_chain(policies)}}.dump());
  if (reply.type != SF_MSG_JSON) throw Broken("swap refused: " + reply.body);
}

nlohmann::json status_of(pid_t daemon) {
  Control control = control_of(daemon);
  auto reply = control.ask(SF_MSG_STATUS, "");
  if (reply.type != SF_MSG_JSON) throw Broken("no status: " + reply.body);
  return nlohmann::json::parse(reply.body);
}

namespace {
nlohmann::json client_of(pid_t daemon, pid_t pid) {
  const auto status = status_of(daemon);
  for (const auto &client : status["clients"]) {
    if (client["pid"] == pid) return client;
  }
  return nullptr;
}
}  // namespace

bool is_attached(pid_t client, pid_t daemon) { return !client_of(daemon, client).is_null(); }

uint64_t served_to(pid_t client, pid_t daemon) {
  const auto found = client_of(daemon, client);
  return found.is_null() ? 0 : found["served"].get<uint64_t>();
}

bool come_to_be_served(const std::vector<Process> &clients, pid_t daemon) {
  for (const auto &client : clients) {
    if (!eventually([&] { return served_to(client.pid(), daemon) > 0; })) return false;
  }
  return true;
}

}  // namespace shortfuse::tests
