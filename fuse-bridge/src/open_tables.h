// The open tables of all sessions: nodes that applications were served an open of (cache/attach.h).
//
// Such a node must not die while it stands there: a file system's node that the kernel forgets, and nobody else holds,
// would be gone, and the application's next call on it could not be answered. Tables are written by applications, read
// here; the worst that a lie does is to keep a node alive. Thread-safe.
#pragma once
#include <mutex>
#include <vector>

#include "shortfuse/cache/attach.h"
#include "shortfuse/cache/cache.h"

namespace shortfuse::bridge {

class OpenTables {
 public:
  void add(sf_session *session);
  /// Nothing here touches the session's memory afterwards, and its process is served no more opens.
  void remove(sf_session *session);
  /// Whether opens may be served at all; at first they may not.
  void offer(bool may);
  /// Whether somebody has the node open. REQUIRES: records that an open could be served by are gone already.
  bool has(cache::Nid nid) const;

 private:
  mutable std::mutex lock_;
  std::vector<sf_session *> sessions_;
  bool offered_ = false;
};

}  // namespace shortfuse::bridge
