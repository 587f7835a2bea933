/* Every object that the kernel knows, and how often it was told of it.
 *
 * A node lives from the first reply that names it until the kernel has forgotten every mention. Lookups and forgets
 * of one object meet in one shard, under its lock: either the lookup finds the node and raises its count before the
 * forget sees zero, or the node is gone and the lookup makes a new one, with a new number. */
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "slot_table.h"
#include "source.h"

namespace shortfuse::passthrough {

struct Inode {
  int fd = -1;  ///< O_PATH; constant while the node lives, as are key and version
  NodeKey key{};
  NodeVersion version{};
  uint64_t lookups = 0;  ///< guarded by the shard
  mutable std::atomic<uint32_t> opens{0};  ///< open files; a hint
};

/// Thread-safe.
class InodeTable {
 public:
  static constexpr uint64_t kRoot = 1;

  ~InodeTable();
  /// REQUIRES: called once, first. The root is never forgotten.
  void set_root(Found root);
  /// The number of the object's node, with one more lookup counted; takes the descriptor or drops it. 0: table full.
  uint64_t adopt(Found* found);
  /// Takes back `count` lookups; at zero the node ends and its descriptor is closed. Unknown numbers are ignored.
  void forget(uint64_t id, uint64_t count);
  /// Valid until the request that named the number has been answered; nullptr for a number that is not alive.
  const Inode* find(uint64_t id) const { return nodes_.find(id); }
  /// The node with this key, or 0.
  uint64_t find_key(const NodeKey& key);
  uint64_t size() const { return nodes_.size(); }
  /// For walks over all nodes: the numbers at 1 to extent() - 1, or 0 where none is alive.
  uint64_t extent() { return nodes_.extent(); }
  uint64_t id_at(uint64_t index) const { return nodes_.id_at(index); }

 private:
  struct KeyHash {
    size_t operator()(const NodeKey& key) const {
      return ((key.ino * 31 + key.dev) * 31 + key.mount_id) * 0x9E3779B97F4A7C15ull;
    }
  };
  struct Shard {
    std::mutex mutex;
    std::unordered_map<NodeKey, uint64_t, KeyHash> by_key;
  };
  Shard& shard_of(const NodeKey& key) { return shards_[KeyHash{}(key) >> 58]; }

  SlotTable<Inode> nodes_;
  std::array<Shard, 64> shards_;
};

}  // namespace shortfuse::passthrough
