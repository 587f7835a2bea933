// Talking to the daemons of accelerated mounts: finding their sockets, asking, being answered.
//
// A registry directory and the process behind a socket are trusted only when root or we ourselves own them (attach.h).
// Every wait is bounded. Errors are one sentence.
#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shortfuse/cache/attach.h"
#include "shortfuse/metrics/snapshot.h"

namespace shortfuse::cli {

/// A descriptor that closes itself.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd &operator=(Fd &&other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// The registry directories that may hold sockets for user `uid`, in the order in which they are searched.
std::vector<std::string> registry_directories(uid_t uid);

/// The sockets in those of `directories` that may be trusted. A directory that is not there is no error; one that may
/// not be trusted is left out, with the reason in `complaints` where given.
std::vector<std::string> registry_sockets(const std::vector<std::string> &directories,
                                          std::vector<std::string> *complaints = nullptr);

/// Sends one message and waits for its answer. An SF_MSG_ERROR from the daemon becomes the error.
std::expected<std::string, std::string> ask(const std::string &socket_path, sf_msg_type type, std::string_view body,
                                            std::chrono::milliseconds limit);

/// A mount whose daemon answered.
struct LiveMount {
  std::string socket;
  std::string json;  ///< as the daemon sent it
  metrics::Snapshot status;
};

/// Asks every daemon in the directories. Those that do not answer in time are left out, with the reason in
/// `complaints`; sockets that nobody listens on any more are left out silently.
std::vector<LiveMount> live_mounts(const std::vector<std::string> &directories,
                                   std::vector<std::string> *complaints = nullptr);

/// The accelerated mount at `point` (any spelling of the path), or a sentence that says what is there instead.
std::expected<LiveMount, std::string> find_mount(const std::vector<std::string> &directories, const std::string &point);

}  // namespace shortfuse::cli
