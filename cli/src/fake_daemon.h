// For tests: a daemon's control socket, answered by a function of the test.
#pragma once
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "shortfuse/cache/attach.h"
#include "shortfuse/metrics/snapshot.h"

namespace shortfuse::cli {

struct TestDirectory {
  std::string path;
  TestDirectory() {
    char name[] = "/tmp/sf-cli-test.XXXXXX";
    if (mkdtemp(name) == nullptr) throw std::runtime_error("mkdtemp");
    path = name;
  }
  ~TestDirectory() { std::filesystem::remove_all(path); }
  TestDirectory(const TestDirectory &) = delete;
};

struct Request {
  int type = 0;
  std::string body;
};

struct Answer {
  int type = SF_MSG_JSON;
  std::string body;
  int protocol = SF_PROTOCOL;
  int claim = -1;         ///< body_bytes, when it is to be wrong
  std::string raw;        ///< the whole packet instead
  std::string memfd;      ///< contents of a descriptor that rides along
  bool silent = false;    ///< no answer, the connection stays open
  bool hang_up = false;   ///< no answer, the connection is closed
};

inline Answer json_answer(std::string body) {
  return {.body = std::move(body)};
}

inline std::string status_json(const std::string &point, uint64_t epoch = 1, std::string policy = "/p/a.bpf.o") {
  metrics::Snapshot s;
  s.mount.point = point;
  s.mount.fstype = "fuse.test";
  s.policy.paths = {std::move(policy)};
  s.policy.epoch = epoch;
  s.policy.native = true;
  s.policy.programs = {{.section = "syscall/stat", .name = "stat_hit", .insns = 3}};
  s.op[SF_OP_STAT].outcome = {12, 0, 3, 0};
  return metrics::to_json(s);
}

class FakeDaemon {
 public:
  using Function = std::function<Answer(const Request &)>;

  FakeDaemon(const std::string &path, Function function, bool leave_socket = false)
      : path_(path), function_(std::move(function)), leave_socket_(leave_socket) {
    listener_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    if (bind(listener_, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 || listen(listener_, 16) != 0) {
      throw std::runtime_error("bind " + path);
    }
    thread_ = std::thread([this] { serve(); });
  }

  ~FakeDaemon() {
    shutdown(listener_, SHUT_RDWR);  // wakes accept()
    thread_.join();
    close(listener_);
    if (!leave_socket_) unlink(path_.c_str());
  }

  Request last() {
    std::lock_guard lock(mutex_);
    return last_;
  }

  /// Until no connection is open on this side.
  void settle() {
    while (open_.load() != 0) usleep(1000);
  }

 private:
  void serve() {
    while (true) {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) return;
      open_++;
      serve_one(fd);
      close(fd);
      open_--;
    }
  }

  void serve_one(int fd) {
    std::string packet(1 << 20, '\0');
    const ssize_t got = recv(fd, packet.data(), packet.size(), 0);
    if (got < static_cast<ssize_t>(sizeof(sf_msg))) return;
    sf_msg head;
    memcpy(&head, packet.data(), sizeof head);
    const Request request{head.type, packet.substr(sizeof head, static_cast<size_t>(got) - sizeof head)};
    {
      std::lock_guard lock(mutex_);
      last_ = request;
    }
    const Answer answer = function_(request);
    if (answer.silent) {
      recv(fd, packet.data(), packet.size(), 0);  // until the other side gives up
    } else if (!answer.hang_up) {
      send_answer(fd, answer);
    }
  }

  static void send_answer(int fd, const Answer &answer) {
    sf_msg head{.magic = SF_MSG_MAGIC,
                .protocol = static_cast<uint16_t>(answer.protocol),
                .type = static_cast<uint16_t>(answer.type),
                .body_bytes = static_cast<uint32_t>(answer.claim >= 0 ? answer.claim : answer.body.size()),
                .fds = answer.memfd.empty() ? 0u : 1u};
    std::string packet(reinterpret_cast<const char *>(&head), sizeof head);
    packet += answer.body;
    if (!answer.raw.empty()) packet = answer.raw;
    iovec part{packet.data(), packet.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    int memfd = -1;
    if (!answer.memfd.empty()) {
      memfd = memfd_create("answer", MFD_CLOEXEC);
      if (write(memfd, answer.memfd.data(), answer.memfd.size()) < 0) throw std::runtime_error("write");
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      cmsghdr *c = CMSG_FIRSTHDR(&message);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(sizeof memfd);
      memcpy(CMSG_DATA(c), &memfd, sizeof memfd);
    }
    sendmsg(fd, &message, MSG_NOSIGNAL);
    if (memfd >= 0) close(memfd);
  }

  std::string path_;
  Function function_;
  bool leave_socket_;
  int listener_ = -1;
  std::atomic<int> open_{0};
  std::mutex mutex_;
  Request last_;
  std::thread thread_;
};

}  // namespace shortfuse::cli
