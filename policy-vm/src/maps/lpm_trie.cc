// LPM_TRIE: keys are prefixes (a u32 of bits, then the bytes), a lookup finds the longest that fits.
//
// A node has a prefix and two children, by the bit that follows; nodes without a value of their own hold two others
// together ("inner"). What changes is one link, from a node that is whole to another that is: readers see the tree as
// it was or as it is. Nodes come from a pool (pool.h).
//
// Prefixes grow from node to node, and each begins with the one above it: so of each only those bits are compared that
// come behind it, and a way down costs the key's bytes and a node per bit at most, for which a run pays
// (isa/call_cost.h). A reader may rely on that: a node that it comes to was in the tree when it looked for the first
// time or came in later, and is the same as long as not too many have come into use since (pool.h). Only then what was
// found counts, so that a node of something else on the way, which it may take for a part of its own, does no harm.
#include <errno.h>

#include "maps/kinds.h"
#include "maps/pool.h"

namespace shortfuse::vm::maps {
namespace {

constexpr uint32_t kDataMax = 256, kPrefixBytes = sizeof(uint32_t);

struct Node {
  uint32_t child[2];  // number + 1; 0: none
  uint32_t bits;      // of the prefix
  uint32_t inner;
  // data, padded to 8; value, padded to 8
};

class Trie {
 public:
  explicit Trie(const struct sf_map &map) : map_(map) {}
  explicit Trie(const struct sf_map_shape &shape) : map_{nullptr, shape, 0, 0} {}

  uint32_t data_bytes() const { return map_.shape.key_size - kPrefixBytes; }
  uint32_t bits_max() const { return data_bytes() * 8; }
  uint32_t nodes() const { return 2 * map_.shape.max_entries + kSpareElements; }
  uint64_t node_bytes() const { return sizeof(Node) + round8(data_bytes()) + round8(map_.shape.value_size); }
  uint64_t nodes_offset() const { return round64(kHeaderBytes + uint64_t{nodes()} * sizeof(uint32_t)); }
  uint64_t bytes() const { return nodes_offset() + uint64_t{nodes()} * node_bytes(); }

  Header &header() const { return *header_of(map_.storage); }
  uint32_t *root() const { return reinterpret_cast<uint32_t *>(&header().words[0]); }
  Node *node(uint32_t number) const {
    return reinterpret_cast<Node *>(at(map_.storage, nodes_offset() + number * node_bytes()));
  }
  unsigned char *data(Node *node) const { return reinterpret_cast<unsigned char *>(node + 1); }
  void *value(Node *node) const { return data(node) + round8(data_bytes()); }
  // What a link leads to; null at the end.
  Node *follow(const uint32_t *link) const {
    const uint32_t number = load_acquire(link) - 1;
    return number < nodes() ? node(number) : nullptr;
  }
  uint32_t number_of(const Node *node) const {
    const auto offset = static_cast<uint64_t>(reinterpret_cast<const unsigned char *>(node) -
                                              static_cast<unsigned char *>(map_.storage));
    return static_cast<uint32_t>((offset - nodes_offset()) / node_bytes());
  }
  Pool pool() const { return {&header(), reinterpret_cast<uint32_t *>(at(map_.storage, kHeaderBytes)), nodes()}; }

  static bool bit(const unsigned char *data, uint32_t n) { return load_relaxed(data + n / 8) >> (7 - n % 8) & 1; }

  // How many of the first `limit` bits are the same. The first `known` are.
  static uint32_t same_bits(const unsigned char *a, const unsigned char *b, uint32_t limit, uint32_t known) {
    for (uint32_t i = known / 8; i * 8 < limit; ++i) {
      const uint32_t differ = static_cast<uint32_t>(load_relaxed(a + i) ^ load_relaxed(b + i));
      if (differ == 0) continue;
      const uint32_t same = i * 8 + static_cast<uint32_t>(__builtin_clz(differ)) - 24;
      return same < limit ? same : limit;
    }
    return limit;
  }

  Node *find_longest(const unsigned char *wanted, uint32_t wanted_bits) const {
    Node *found = nullptr, *here = follow(root());
    uint32_t above = 0;
    for (uint32_t least = 0; here != nullptr; least = above + 1) {  // prefixes grow, or this is none any more
      const uint32_t bits = load_relaxed(&here->bits);
      if (bits < least || bits > wanted_bits || same_bits(data(here), wanted, bits, above) < bits) break;
      if (!load_relaxed(&here->inner)) found = here;
      if (bits == wanted_bits) break;
      above = bits;
      here = follow(&here->child[bit(wanted, bits)]);
    }
    return found;
  }

  // Where a prefix is, or would be.
  struct Way {
    uint32_t *link, *link_to_parent;
    Node *node, *parent;
    uint32_t same;  // bits that the node and the prefix have in common
    bool exact(uint32_t bits) const { return node != nullptr && node->bits == bits && same == bits; }
  };
  Way way_to(const unsigned char *wanted, uint32_t wanted_bits) const {
    Way way{root(), root(), nullptr, nullptr, 0};
    uint32_t above = 0;
    for (uint32_t least = 0; (way.node = follow(way.link)) != nullptr; least = above + 1) {
      Node *here = way.node;
      const uint32_t bits = load_relaxed(&here->bits);
      if (bits < least) return way.node = nullptr, way;  // it is something else by now
      way.same = same_bits(data(here), wanted, bits < wanted_bits ? bits : wanted_bits, above);
      if (bits != way.same || bits == wanted_bits) break;
      above = bits;
      way.parent = here;
      way.link_to_parent = way.link;
      way.link = &here->child[bit(wanted, bits)];
    }
    return way;
  }

  uint32_t make(const unsigned char *from, uint32_t bits, bool inner) const {
    const uint32_t number = pool().take();
    if (number == kNone) return kNone;
    Node *made = node(number);
    store_relaxed(&made->child[0], 0u);
    store_relaxed(&made->child[1], 0u);
    store_relaxed(&made->bits, bits);
    store_relaxed(&made->inner, static_cast<uint32_t>(inner));
    copy_shared(data(made), from, data_bytes());
    return number;
  }

  // The first in the order of iteration: children before their parents. Where nodes change meanwhile it ends as well.
  Node *deepest(Node *from) const {
    Node *below = from;
    for (uint32_t steps = 0; below != nullptr && steps <= bits_max(); ++steps) {
      from = below;
      below = follow(&from->child[0]);
      if (below == nullptr) below = follow(&from->child[1]);
    }
    return from;
  }
  Node *after(Node *from) const {
    for (uint32_t bits = load_relaxed(&from->bits), below = bits_max() + 1; bits < below;) {
      const Way way = way_to(data(from), bits);
      if (way.parent == nullptr) return nullptr;
      Node *sibling = follow(&way.parent->child[1]);
      if (sibling != nullptr && sibling != from) return deepest(sibling);
      from = way.parent;
      if (!load_relaxed(&from->inner)) return from;
      below = bits;
      bits = load_relaxed(&from->bits);
    }
    return nullptr;
  }

 private:
  struct sf_map map_;
};

struct Prefix {
  Prefix(const struct sf_map &map, const void *key) : own(key, map.shape.key_size) {}
  uint32_t bits() const { return load_u32(own.bytes); }
  const unsigned char *data() const { return own.bytes + kPrefixBytes; }
  OwnKey<kPrefixBytes + kDataMax> own;
};

uint64_t bytes(const struct sf_map_shape &shape) {
  if (shape.key_size <= kPrefixBytes || shape.key_size > kPrefixBytes + kDataMax || shape.value_size == 0 ||
      shape.value_size > kMapBytesMax || shape.max_entries == 0 || shape.max_entries > kMapBytesMax) {
    return 0;
  }
  return Trie(shape).bytes();
}

void *lookup(const struct sf_map &map, const void *key, uint32_t) {
  const Trie trie(map);
  const Prefix wanted(map, key);
  if (wanted.bits() > trie.bits_max()) return nullptr;
  Node *found = nullptr;
  for (int restart = 0; restart < kRestarts; ++restart) {
    const uint32_t taken = load_acquire(&trie.header().taken);
    found = trie.find_longest(wanted.data(), wanted.bits());
    fence_acquire();
    if (load_relaxed(&trie.header().taken) - taken < kSpareElements - 1) return found ? trie.value(found) : nullptr;
  }
  return nullptr;
}

// A prefix that is not there yet, or only as an inner node.
int refusal_to_add(const Trie &trie, const struct sf_map &map, uint64_t flags) {
  if (flags == kExist) return -ENOENT;
  return trie.header().count >= map.shape.max_entries ? -ENOSPC : 0;
}

// The new node into its place: instead of the one that is there, above it, or beside it under a new inner node.
int hang_in(const Trie &trie, const Trie::Way &way, uint32_t number) {
  Node *made = trie.node(number), *old = way.node;
  if (old == nullptr) return store_release(way.link, number + 1), 0;
  if (old->bits == way.same && old->bits == made->bits) {
    store_relaxed(&made->child[0], old->child[0]);
    store_relaxed(&made->child[1], old->child[1]);
    store_release(way.link, number + 1);
    trie.pool().give_back(trie.number_of(old));
    return 0;
  }
  const uint32_t old_link = trie.number_of(old) + 1;
  if (way.same == made->bits) {
    store_relaxed(&made->child[Trie::bit(trie.data(old), way.same)], old_link);
    store_release(way.link, number + 1);
    return 0;
  }
  const uint32_t above = trie.make(trie.data(old), way.same, true);
  if (above == kNone) return trie.pool().give_back(number), -ENOSPC;
  const bool right = Trie::bit(trie.data(made), way.same);
  store_relaxed(&trie.node(above)->child[right], number + 1);
  store_relaxed(&trie.node(above)->child[!right], old_link);
  store_release(way.link, above + 1);
  return 0;
}

int update(struct sf_map &map, const void *key, const void *value, uint64_t flags, uint32_t) {
  const Trie trie(map);
  const Prefix prefix(map, key);
  if (flags > kExist || prefix.bits() > trie.bits_max()) return -EINVAL;
  const Trie::Way way = trie.way_to(prefix.data(), prefix.bits());
  const bool there = way.exact(prefix.bits()) && !way.node->inner;
  if (there && flags == kNoExist) return -EEXIST;
  if (!there) {
    if (const int refused = refusal_to_add(trie, map, flags)) return refused;
  }
  const uint32_t number = trie.make(prefix.data(), prefix.bits(), false);
  if (number == kNone) return -ENOSPC;
  copy_shared(trie.value(trie.node(number)), value, map.shape.value_size);
  const int result = hang_in(trie, way, number);
  if (result == 0 && !there) ++trie.header().count;
  return result;
}

int erase(struct sf_map &map, const void *key) {
  const Trie trie(map);
  const Prefix prefix(map, key);
  if (prefix.bits() > trie.bits_max()) return -EINVAL;
  const Trie::Way way = trie.way_to(prefix.data(), prefix.bits());
  if (!way.exact(prefix.bits()) || way.node->inner) return -ENOENT;
  Node *gone = way.node, *parent = way.parent;
  --trie.header().count;
  if (gone->child[0] != 0 && gone->child[1] != 0) {
    store_relaxed(&gone->inner, 1u);
  } else if (parent != nullptr && parent->inner && gone->child[0] == 0 && gone->child[1] == 0) {
    store_release(way.link_to_parent, parent->child[way.link == &parent->child[0]]);
    trie.pool().give_back(trie.number_of(parent));
    trie.pool().give_back(trie.number_of(gone));
  } else {
    store_release(way.link, gone->child[0] != 0 ? gone->child[0] : gone->child[1]);
    trie.pool().give_back(trie.number_of(gone));
  }
  return 0;
}

void copy_key(const Trie &trie, Node *node, void *key) {
  __builtin_memcpy(key, &node->bits, kPrefixBytes);
  copy_shared(static_cast<unsigned char *>(key) + kPrefixBytes, trie.data(node), trie.data_bytes());
}

// Behind a prefix that is there; null: it is the last. Else the first.
Node *node_after(const Trie &trie, const struct sf_map &map, const void *key) {
  if (key != nullptr) {
    const Prefix prefix(map, key);
    if (prefix.bits() <= trie.bits_max()) {
      const Trie::Way way = trie.way_to(prefix.data(), prefix.bits());
      if (way.exact(prefix.bits())) return trie.after(way.node);
    }
  }
  return trie.deepest(trie.follow(trie.root()));
}

int next_key(const struct sf_map &map, const void *key, void *next) {
  const Trie trie(map);
  Node *found = node_after(trie, map, key);
  if (found == nullptr) return -ENOENT;
  copy_key(trie, found, next);
  return 0;
}

void repair(struct sf_map &map) {
  const Trie trie(map);
  uint32_t count = 0;
  trie.pool().rebuild([&](uint32_t number) {
    Node *node = trie.node(number);
    if (node->bits > trie.bits_max() || trie.way_to(trie.data(node), node->bits).node != node) return false;
    count += !node->inner;
    return true;
  });
  trie.header().count = count;
}

}  // namespace

const Kind kLpmTrie = {.bytes = bytes, .lookup = lookup, .update = update, .erase = erase, .next_key = next_key,
                       .repair = repair};

}  // namespace shortfuse::vm::maps
