// The registry: where processes find the sockets of accelerated mounts (cache/attach.h tells its format).
#pragma once
#include <sys/types.h>

#include <atomic>
#include <expected>
#include <memory>
#include <string>

#include "policy_set.h"

namespace shortfuse::bridge {

class Registry {
 public:
  /// The directory for daemons of this user, made if it is missing. Refused when somebody else owns it or may write to
  /// it.
  static std::expected<std::string, std::string> prepare_directory();

  /// A listening SOCK_SEQPACKET socket under a name of this process, and the registry's generation raised. Sockets of
  /// daemons that are no more are removed on the way.
  static std::expected<Registry, std::string> enter(bool for_everybody);
  Registry(Registry &&) = default;
  Registry &operator=(Registry &&) = default;

  /// Says what is mounted where, so that processes need not connect to know: a symbolic link "PID-N.mount" to
  /// "<st_dev in hex> <mount point>". Where it cannot be made, processes connect at once.
  void announce(dev_t dev, const std::string &mount_point);
  int socket_fd() const { return socket_.get(); }
  /// Takes the name away and raises the generation. Only unlink and a store: safe in an exit handler.
  void leave();

 private:
  Registry() = default;
  static void remove_stale(const std::string &directory);
  void raise_generation();

  std::string path_, announcement_;
  std::string announced_;                ///< the link's target; of the thread that announces
  std::unique_ptr<std::atomic<bool>> left_ = std::make_unique<std::atomic<bool>>(false);
  Descriptor socket_;
  Descriptor generation_;
};

}  // namespace shortfuse::bridge
