// Requests that the file system is working on, by their unique number.
//
// Bounded by what the kernel keeps in flight. Thread-safe: sharded, a request and its reply may be seen by different
// threads.
#pragma once
#include <array>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "policy_set.h"
#include "wire.h"

namespace shortfuse::bridge {

struct FetchJob;

/// What has to be remembered of a request until its reply. Owns a copy of the arguments that `request` points into.
struct Pending {
  Request request;
  std::vector<std::byte> arguments;
  cache::Nid nid = 0;
  cache::Moment moment = 0;
  cache::Cache::Flux flux;
  bool mutating = false;
  bool may_change_a_file = false;              ///< what is there already: its contents, attributes, number of names
  bool reaches_any_node = false;               ///< which may be other nodes' file too: all are hidden until the reply
  bool touches_everything = false;             ///< an opcode we do not know: the cache is emptied before and after
  bool writer_counted = false;                 ///< an open for writing was announced to the cache
  uint64_t started_ns = 0;
  std::shared_ptr<const PolicySet> policy;     ///< the one it began under
  std::shared_ptr<FetchJob> job;               ///< set when the bridge asked

  /// Takes over the request with a copy of its arguments (of the first 8 KiB: no name lies further back).
  void keep(const Request &original);
};

class PendingTable {
 public:
  void put(uint64_t unique, Pending pending);
  std::optional<Pending> take(uint64_t unique);

 private:
  static constexpr size_t kShards = 16;
  struct Shard {
    std::mutex lock;
    std::unordered_map<uint64_t, Pending> requests;
  };
  Shard &shard(uint64_t unique) { return shards_[(unique >> 1) % kShards]; }
  std::array<Shard, kShards> shards_;
};

}  // namespace shortfuse::bridge
