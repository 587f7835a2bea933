// The opener: a process that makes the opens which the daemon needs through its own mount.
//
// Such an open is a request to the daemon itself. A thread that waits for one cannot be killed once the request has
// been read: with a thread of the daemon the daemon's descriptors, the device among them, would stay open, so the
// connection would not end, so the request would never be answered: a daemon that not even SIGKILL ends. Therefore
// they are made by a process that does not have the device: a program of its own (opener_main.cc), with an empty
// environment and no descriptors but one end of a socket pair and the standard ones. It ends when the other end is
// closed, that is with the daemon, however that ends.
//
// The daemon must not notice that it has a child: no SIGCHLD, nothing for its wait(). An exec makes every process one
// that tells its parent, so there is one in between that ends at once.
#pragma once
#include <sys/types.h>

#include <expected>
#include <string>
#include <string_view>

#include "descriptor.h"
#include "opener_packets.h"
#include "place.h"

namespace shortfuse::bridge {

/// Not thread-safe.
class Opener {
 public:
  /// Finds the program, which is kept open: by the time it is needed something else may lie over its name, if only our
  /// own mount. Called before anything is mounted.
  void find();
  /// Does not wait until it is ready. Errors are for people. REQUIRES: it is not running.
  std::expected<void, std::string> start(const std::string &mount_point);
  bool running() const { return static_cast<bool>(socket_); }
  pid_t pid() const { return running() ? pid_ : 0; }
  /// To be watched for packets; negative when it is not running.
  int socket() const { return socket_.get(); }

  /// False: it is not running, or is too busy. `client`: a connection that goes along, or negative.
  bool send(OpenerPacket packet, const Place &place, int client);
  enum class Got { Packet, Nothing, Ended };
  /// The next that it says. Ended: it has gone, and `socket()` is closed.
  Got receive(OpenerPacket &packet);
  /// It has said so; the last one has, when it is not running any more.
  bool was_ready() const { return ready_; }
  /// It has been started by whom this process is now.
  bool is_ours() const;
  void stop();

 private:
  Descriptor program_, socket_;
  std::string program_path_;
  pid_t pid_ = 0;
  bool ready_ = false;
  uid_t uid_ = 0;
  gid_t gid_ = 0;
};

}  // namespace shortfuse::bridge
