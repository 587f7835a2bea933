/* Who is who: the lives of nodes, by nid, by FUSE node id and by name.
 *
 * A nid is a serial above a slot number: the slot finds the state without a table, the serial tells the lives that
 * the slot has had apart. Node ids and names are found by linear hashing, which grows by one bucket per insertion
 * and so never stops to rehash: there may be tens of millions of nodes. A state costs 112 bytes, two
 * bucket words and its name.
 *
 * A node is known by the one name learned last (hard links have others); path_of() is built from these.
 * Not thread-safe. */
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shortfuse/cache/cache.h"

namespace shortfuse::cache {

enum NodeFlag : uint8_t {
  kNodeDirectory = 1,
  kNodeStamped = 2,  ///< `stamp` is what the contents under `cid` belong to
  kNodeYoung = 4,    ///< the stamp was so young when it was taken that a later change may look the same
  kNodeListed = 8,   ///< a listing of several parts has been kept under `cid`
  kNodeChanged = 16, ///< we have changed attributes since the stamp: another ctime says nothing about the contents
};

struct NodeState {
  Nid nid = 0;
  uint64_t nodeid = 0;        ///< 0: this slot is not in use
  Nid parent = 0;             ///< 0: no name known
  uint64_t kernel_references = 0;
  Moment last_mutation = 0;   ///< fills of attributes and contents must be as young
  Moment last_name = 0;       ///< fills of names in this directory must be as young
  Moment last_atime = 0;      ///< attributes that are older have a stale atime
  uint64_t cid = 0;
  uint64_t stamp = 0;         ///< hash of size and mtime
  char *name = nullptr;       ///< owned; name_len bytes
  uint32_t bridge_references = 0;
  uint32_t writers = 0;
  uint32_t flux = 0;          ///< mutations begun and not ended
  uint32_t name_flux = 0;     ///< those of names in this directory
  uint32_t next_by_nodeid = 0;
  uint32_t next_by_name = 0;
  uint32_t stamp_ctime = 0;   ///< hash of the ctime
  uint8_t name_len = 0;
  uint8_t flags = 0;

  bool is(NodeFlag flag) const { return (flags & flag) != 0; }
  std::string_view name_view() const { return {name, name_len}; }
};
static_assert(sizeof(NodeState) <= 112);

/// Hash chains of node slots that grow bucket by bucket.
class NodeChains {
 public:
  uint32_t *head(uint64_t hash);
  uint32_t head(uint64_t hash) const { return *const_cast<NodeChains *>(this)->head(hash); }
  /// Adds a bucket; `from` and `to` are the heads between which its nodes are to be divided by belongs_in_new().
  void grow(uint32_t **from, uint32_t **to);
  bool belongs_in_new(uint64_t hash) const { return (hash & (2 * base_ - 1)) >= base_; }
  void grown();
  uint64_t buckets() const { return base_ + split_; }

 private:
  static constexpr uint64_t kSegment = 1024;
  uint32_t *at(uint64_t bucket);

  std::vector<std::unique_ptr<uint32_t[]>> segments_;
  uint64_t base_ = kSegment;  ///< buckets at the start of this doubling
  uint64_t split_ = 0;        ///< of them, how many have been divided
};

class NodeTable {
 public:
  explicit NodeTable(uint64_t seed);  ///< knows the root
  ~NodeTable();
  NodeTable(const NodeTable &) = delete;

  NodeState *by_nid(Nid nid) const;
  NodeState *by_nodeid(uint64_t nodeid) const;
  NodeState *by_name(Nid dir, std::string_view name) const;
  /// A new life. Null only when there are 2^28 of them.
  NodeState *begin_life(uint64_t nodeid);
  void end_life(NodeState *node);
  /// The node that had this name before loses it.
  void set_name(NodeState *node, Nid dir, std::string_view name);
  void clear_name(NodeState *node);
  std::optional<std::string> path_of(const NodeState *node) const;
  uint64_t size() const { return size_; }
  /// visit(node) for every node that has a name.
  template <class Visit>
  void for_each_named(Visit &&visit) const {
    for (const auto &block : blocks_)
      for (uint32_t i = 0; i < kBlock; ++i)
        if (block[i].nodeid != 0 && block[i].parent != 0) visit(block[i]);
  }

 private:
  NodeState *at(uint32_t slot) const { return &blocks_[slot / kBlock][slot % kBlock]; }
  uint64_t hash_of_nodeid(uint64_t nodeid) const;
  uint64_t hash_of_name(Nid dir, std::string_view name) const;
  void grow_nodeids();
  void grow_names();

  static constexpr uint32_t kBlock = 1024;
  std::vector<std::unique_ptr<NodeState[]>> blocks_;
  NodeChains nodeids_, names_;
  uint64_t named_ = 0;
  uint32_t free_ = 0;  ///< first free slot, linked by next_by_nodeid
  uint64_t seed_;
  uint64_t size_ = 0;
};

}  // namespace shortfuse::cache
