/* Who is who: the lives of nodes, by nid, by FUSE node id and by name.
 *
 * A nid is a serial above a slot number: the slot finds the state without a table, the serial tells the lives that
 * the slot has had apart. Node ids and names are found by linear hashing, which grows by one bucket per insertion
 * and so never stops to rehash: there may be tens of millions of nodes. A state costs 104 bytes, each of its names 41
 * and its text, each a bucket word more.
 *
 * A directory has the one name learned last, a file all that were learned and not taken away: whoever wants it by a
 * path must find it though the name learned last is removed. The paths of paths_of() are built from these.
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

struct NodeState;

struct NodeName {
  Nid dir;
  NodeState *node;
  NodeName *next_in_chain;
  NodeName *older, *newer;    ///< of the node's
  uint8_t len;

  char *text() { return reinterpret_cast<char *>(this + 1); }
  std::string_view view() const { return {reinterpret_cast<const char *>(this + 1), len}; }
};

struct NodeState {
  Nid nid = 0;
  uint64_t nodeid = 0;        ///< 0: this slot is not in use
  NodeName *newest = nullptr; ///< owned, with those older; null: no name known
  uint64_t kernel_references = 0;
  Moment last_mutation = 0;   ///< fills of attributes and contents must be as young
  Moment last_name = 0;       ///< fills of names in this directory must be as young
  Moment last_atime = 0;      ///< attributes that are older have a stale atime
  uint64_t cid = 0;
  uint64_t stamp = 0;         ///< hash of size and mtime
  uint32_t bridge_references = 0;
  uint32_t writers = 0;
  uint32_t flux = 0;          ///< mutations begun and not ended
  uint32_t name_flux = 0;     ///< those of names in this directory
  uint32_t next_by_nodeid = 0;
  uint32_t stamp_ctime = 0;   ///< hash of the ctime
  uint8_t flags = 0;

  bool is(NodeFlag flag) const { return (flags & flag) != 0; }
};
static_assert(sizeof(NodeState) <= 104);

/// Hash chains that grow bucket by bucket. Link: what a head is, all zeroes when the chain is empty.
template <class Link>
class NodeChains {
 public:
  Link *head(uint64_t hash);
  Link head(uint64_t hash) const { return *const_cast<NodeChains *>(this)->head(hash); }
  /// Adds a bucket; `from` and `to` are the heads between which its members are to be divided by belongs_in_new().
  void grow(Link **from, Link **to);
  bool belongs_in_new(uint64_t hash) const { return (hash & (2 * base_ - 1)) >= base_; }
  void grown();
  uint64_t buckets() const { return base_ + split_; }

 private:
  static constexpr uint64_t kSegment = 1024;
  Link *at(uint64_t bucket);

  std::vector<std::unique_ptr<Link[]>> segments_;
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
  /// The newest of the node's names, if it is not the root; a directory's only one. Who had it before loses it.
  void set_name(NodeState *node, Nid dir, std::string_view name);
  /// Nobody has this name.
  void clear_name(Nid dir, std::string_view name);
  /// By its names, those learned last first, as far as they lead to the root: at most `most`.
  std::vector<std::string> paths_of(const NodeState *node, size_t most) const;
  uint64_t size() const { return size_; }
  /// visit(name) for every name of every node.
  template <class Visit>
  void for_each_name(Visit &&visit) const {
    for (const auto &block : blocks_)
      for (uint32_t i = 0; i < kBlock; ++i)
        for (const NodeName *name = block[i].newest; name != nullptr; name = name->older) visit(*name);
  }

 private:
  NodeState *at(uint32_t slot) const { return &blocks_[slot / kBlock][slot % kBlock]; }
  uint64_t hash_of_nodeid(uint64_t nodeid) const;
  uint64_t hash_of_name(Nid dir, std::string_view name) const;
  NodeName *find_name(Nid dir, std::string_view name) const;
  void drop_name(NodeName *name);
  void grow_nodeids();
  void grow_names();
  std::optional<std::string> path_by(const NodeName *name) const;

  static constexpr uint32_t kBlock = 1024;
  std::vector<std::unique_ptr<NodeState[]>> blocks_;
  NodeChains<uint32_t> nodeids_;   ///< of slots
  NodeChains<NodeName *> names_;
  uint64_t named_ = 0;
  uint32_t free_ = 0;  ///< first free slot, linked by next_by_nodeid
  uint64_t seed_;
  uint64_t size_ = 0;
};

}  // namespace shortfuse::cache
