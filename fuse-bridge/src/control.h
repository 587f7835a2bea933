// The daemon's service thread: attaches applications, answers the `shortfuse` command, takes hints, watches the mount
// table, and holds the liveness word as long as it lives.
//
// One thread, one epoll; started at the daemon's first read, signals blocked. Everything that comes over the socket or
// stands in a session segment is hostile: copied once, checked, bounded.
#pragma once
#include <sys/types.h>

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bridge.h"
#include "pin_store.h"
#include "registry.h"
#include "shortfuse/cache/attach.h"
#include "shortfuse/metrics/snapshot.h"

namespace shortfuse::bridge {

constexpr size_t kConnectionsMax = 4096;
constexpr size_t kPacketMax = 64 * 1024;

class Control {
 public:
  explicit Control(Bridge &bridge) : bridge_(bridge) {}
  ~Control();
  /// Makes the socket and starts the thread.
  std::expected<void, std::string> start();
  /// Ends the thread. The name in the registry goes first (leave()).
  void stop();
  /// Takes the socket out of the registry; callable from any thread, also from an exit handler.
  void leave() { registry_->leave(); }

 private:
  struct Client {
    Descriptor socket;
    pid_t pid = 0;
    uid_t uid = 0;
    sf_session *session = nullptr;   ///< mapped shared; hostile
    SessionMaps maps;                ///< its own
    uint32_t hint_head = 0;          ///< ours; the one in the segment is only for the client to see
    ~Client();
  };

  void run();
  void accept_clients();
  void listen_again_later();
  void serve_client(int fd);
  void drop_client(int fd);
  bool on_message(Client &client, const sf_msg &message, std::string_view body);
  bool attach(Client &client);
  bool refresh(Client &client, std::string_view body);
  bool swap(Client &client, std::string_view body);
  bool status(Client &client);
  bool maps(Client &client, std::string_view body);   // map_control.cc
  bool open_node(Client &client, std::string_view body);   // open_control.cc
  bool reply(Client &client, sf_msg_type type, Bytes body, const std::vector<int> &fds);
  bool reply_text(Client &client, sf_msg_type type, const std::string &text);
  bool may_map(const Client &client) const;
  bool may_control(const Client &client) const;

  void drain_hints(Client &client);
  void take_recency(Client &client);
  void drain_rings();
  void tidy();
  void restore_pinned();
  void save_pinned();
  void watch_mounts(bool changed);
  metrics::Snapshot snapshot();

  Bridge &bridge_;
  std::optional<Registry> registry_;
  Descriptor epoll_, wake_, mountinfo_;
  std::map<int, std::unique_ptr<Client>> clients_;
  metrics::ClientTotals gone_totals_;
  uint64_t clients_gone_ = 0;
  uint64_t started_ns_ = 0;
  bool listening_ = true;            ///< the listening socket is in the epoll set
  uint64_t listen_again_ns_ = 0;
  std::optional<PinStore> pins_;
  uint64_t tidied_ns_ = 0;           ///< 0: at once
  uint64_t saved_ns_ = 0;            ///< when the pinned maps were
  uint64_t drained_ns_ = 0;          ///< when the rings of all sessions were
  std::string mount_source_, mount_fstype_;
  std::vector<std::string> mount_options_;
  uint32_t mount_uid_ = 0;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace shortfuse::bridge
