// The daemon's control socket (cache/attach.h), spoken to directly: for many swaps, for `status`, and for abuse.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "shortfuse/cache/attach.h"
#include "support/harness.h"

namespace shortfuse::tests {

/// The directories in which daemons of this user and of root announce themselves.
std::vector<std::string> registry_directories(uid_t uid);
/// Paths of all sockets of daemons with this pid.
std::vector<std::string> sockets_of(pid_t daemon);

class Control {
 public:
  /// Throws Broken when nothing answers there.
  explicit Control(const std::string &socket_path);
  ~Control();
  Control(Control &&other) noexcept;
  Control(const Control &) = delete;
  int fd() const { return fd_; }

  struct Reply {
    int type = -1;  ///< enum sf_msg_type; -1: the daemon closed the connection
    std::string body;
    size_t descriptors = 0;
  };
  void send(uint16_t type, std::string_view body);
  /// Any bytes; false when the daemon has closed.
  bool send_bytes(std::string_view bytes);
  /// Waits at most 20 s, then throws Broken. Descriptors that come along are closed (a JSON body in one is read first).
  Reply receive();
  Reply ask(uint16_t type, std::string_view body);

 private:
  int fd_ = -1;
};

/// A control connection to the daemon that serves this mount.
Control control_of(pid_t daemon);
void swap_by_socket(Control &control, std::string_view policies);
nlohmann::json status_of(pid_t daemon);
bool is_attached(pid_t client, pid_t daemon);
/// How many calls of this process the daemon has counted as served; 0 also while the process is not attached.
uint64_t served_to(pid_t client, pid_t daemon);
/// Waits until each of these processes, which go on looking by themselves, has been served.
bool come_to_be_served(const std::vector<Process> &clients, pid_t daemon);

}  // namespace shortfuse::tests
