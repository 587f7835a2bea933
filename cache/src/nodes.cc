#include "nodes.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "index.h"

namespace shortfuse::cache {

namespace {

constexpr unsigned kSlotBits = 28;
constexpr uint32_t kSlotMask = (1u << kSlotBits) - 1;
constexpr uint64_t kSerialLast = ~0ull >> kSlotBits;
constexpr uint32_t kRootSlot = SF_NID_ROOT;  // serial 0, slot 1

}  // namespace

// ---- chains

template <class Link>
Link *NodeChains<Link>::at(uint64_t bucket) {
  while (bucket / kSegment >= segments_.size()) segments_.push_back(std::make_unique<Link[]>(kSegment));
  return &segments_[bucket / kSegment][bucket % kSegment];
}

template <class Link>
Link *NodeChains<Link>::head(uint64_t hash) {
  uint64_t bucket = hash & (base_ - 1);
  if (bucket < split_) bucket = hash & (2 * base_ - 1);
  return at(bucket);
}

template <class Link>
void NodeChains<Link>::grow(Link **from, Link **to) {
  *to = at(base_ + split_);
  *from = at(split_);
}

template <class Link>
void NodeChains<Link>::grown() {
  if (++split_ == base_) {
    base_ *= 2;
    split_ = 0;
  }
}

// ---- lives

NodeTable::NodeTable(uint64_t seed) : seed_(seed) {
  blocks_.push_back(std::make_unique<NodeState[]>(kBlock));
  for (uint32_t slot = kBlock - 1; slot > kRootSlot; --slot) {
    at(slot)->next_by_nodeid = free_;
    free_ = slot;
  }
  NodeState *root = at(kRootSlot);
  root->nid = SF_NID_ROOT;
  root->nodeid = FUSE_ROOT_ID;
  root->flags = kNodeDirectory;
  uint32_t *head = nodeids_.head(hash_of_nodeid(FUSE_ROOT_ID));
  *head = kRootSlot;
  size_ = 1;
}

NodeTable::~NodeTable() {
  for (auto &block : blocks_) {
    for (uint32_t i = 0; i < kBlock; ++i)
      while (block[i].newest != nullptr) std::free(std::exchange(block[i].newest, block[i].newest->older));
  }
}

uint64_t NodeTable::hash_of_nodeid(uint64_t nodeid) const { return fold(nodeid ^ seed_, kOddC); }

uint64_t NodeTable::hash_of_name(Nid dir, std::string_view name) const {
  return fold(hash_bytes(seed_, name.data(), name.size()) ^ dir, kOddC);
}

NodeState *NodeTable::by_nid(Nid nid) const {
  const auto slot = static_cast<uint32_t>(nid & kSlotMask);
  if (slot / kBlock >= blocks_.size()) return nullptr;
  NodeState *node = at(slot);
  return node->nid == nid && node->nodeid != 0 ? node : nullptr;
}

NodeState *NodeTable::by_nodeid(uint64_t nodeid) const {
  if (nodeid == 0) return nullptr;
  for (uint32_t slot = nodeids_.head(hash_of_nodeid(nodeid)); slot != 0; slot = at(slot)->next_by_nodeid) {
    if (at(slot)->nodeid == nodeid) return at(slot);
  }
  return nullptr;
}

NodeName *NodeTable::find_name(Nid dir, std::string_view name) const {
  NodeName *found = names_.head(hash_of_name(dir, name));
  while (found != nullptr && !(found->dir == dir && found->view() == name)) found = found->next_in_chain;
  return found;
}

NodeState *NodeTable::by_name(Nid dir, std::string_view name) const {
  const NodeName *found = find_name(dir, name);
  return found != nullptr ? found->node : nullptr;
}

NodeState *NodeTable::begin_life(uint64_t nodeid) {
  if (free_ == 0) {
    const uint64_t first = blocks_.size() * kBlock;
    if (first + kBlock > kSlotMask) return nullptr;
    blocks_.push_back(std::make_unique<NodeState[]>(kBlock));
    for (uint32_t i = kBlock; i-- > 0;) {
      blocks_.back()[i].next_by_nodeid = free_;
      free_ = static_cast<uint32_t>(first) + i;
    }
  }
  const uint32_t slot = free_;
  NodeState *node = at(slot);
  free_ = node->next_by_nodeid;
  const uint64_t serial = (node->nid >> kSlotBits) + 1;  // of the life before; 0 in a new slot
  *node = NodeState{};
  node->nid = serial << kSlotBits | slot;
  node->nodeid = nodeid;
  ++size_;
  uint32_t *head = nodeids_.head(hash_of_nodeid(nodeid));
  node->next_by_nodeid = *head;
  *head = slot;
  if (size_ > nodeids_.buckets()) grow_nodeids();
  return node;
}

void NodeTable::end_life(NodeState *node) {
  const auto slot = static_cast<uint32_t>(node->nid & kSlotMask);
  while (node->newest != nullptr) drop_name(node->newest);
  uint32_t *link = nodeids_.head(hash_of_nodeid(node->nodeid));
  while (*link != slot) link = &at(*link)->next_by_nodeid;
  *link = node->next_by_nodeid;
  node->nodeid = 0;
  --size_;
  // nid stays, for the next serial. A slot whose serials have run out is not used again.
  if (node->nid >> kSlotBits == kSerialLast) return;
  node->next_by_nodeid = free_;
  free_ = slot;
}

void NodeTable::grow_nodeids() {
  uint32_t *from, *to;
  nodeids_.grow(&from, &to);
  uint32_t slot = *from;
  *from = *to = 0;
  while (slot != 0) {
    NodeState *node = at(slot);
    const uint32_t next = node->next_by_nodeid;
    uint32_t *head = nodeids_.belongs_in_new(hash_of_nodeid(node->nodeid)) ? to : from;
    node->next_by_nodeid = *head;
    *head = slot;
    slot = next;
  }
  nodeids_.grown();
}

// ---- names

void NodeTable::set_name(NodeState *node, Nid dir, std::string_view name) {
  if (node->nid == SF_NID_ROOT) return;
  if (node->newest != nullptr && node->newest->dir == dir && node->newest->view() == name) return;
  clear_name(dir, name);
  if (node->is(kNodeDirectory))
    while (node->newest != nullptr) drop_name(node->newest);
  if (dir == 0 || name.empty() || name.size() > SF_NAME_MAX) return;
  void *memory = std::malloc(sizeof(NodeName) + name.size());
  if (memory == nullptr) return;
  NodeName **head = names_.head(hash_of_name(dir, name));
  auto *added = new (memory) NodeName{dir, node, *head, node->newest, nullptr, static_cast<uint8_t>(name.size())};
  std::memcpy(added->text(), name.data(), name.size());
  if (added->older != nullptr) added->older->newer = added;
  *head = node->newest = added;
  if (++named_ > names_.buckets()) grow_names();
}

void NodeTable::clear_name(Nid dir, std::string_view name) {
  if (NodeName *found = find_name(dir, name); found != nullptr) drop_name(found);
}

void NodeTable::drop_name(NodeName *name) {
  NodeName **link = names_.head(hash_of_name(name->dir, name->view()));
  while (*link != name) link = &(*link)->next_in_chain;
  *link = name->next_in_chain;
  (name->newer != nullptr ? name->newer->older : name->node->newest) = name->older;
  if (name->older != nullptr) name->older->newer = name->newer;
  std::free(name);
  --named_;
}

void NodeTable::grow_names() {
  NodeName **from, **to;
  names_.grow(&from, &to);
  NodeName *name = *from;
  *from = *to = nullptr;
  while (name != nullptr) {
    NodeName *next = name->next_in_chain;
    NodeName **head = names_.belongs_in_new(hash_of_name(name->dir, name->view())) ? to : from;
    name->next_in_chain = *head;
    *head = name;
    name = next;
  }
  names_.grown();
}

std::optional<std::string> NodeTable::path_by(const NodeName *name) const {
  std::vector<const NodeName *> way;  // from the end to the front, as the chain of parents goes
  size_t bytes = 0;
  while (true) {
    way.push_back(name);
    bytes += name->len + 1u;
    const NodeState *dir = by_nid(name->dir);
    if (dir == nullptr || bytes > kPathBytesMax) return std::nullopt;
    if (dir->nid == SF_NID_ROOT) break;
    name = dir->newest;
    if (name == nullptr) return std::nullopt;
  }
  std::string path;
  path.reserve(bytes);
  for (auto part = way.rbegin(); part != way.rend(); ++part) {
    if (!path.empty()) path += '/';
    path += (*part)->view();
  }
  return path;
}

std::vector<std::string> NodeTable::paths_of(const NodeState *node, size_t most) const {
  std::vector<std::string> paths;
  if (node->nid == SF_NID_ROOT) paths.emplace_back();
  for (const NodeName *name = node->newest; name != nullptr && paths.size() < most; name = name->older)
    if (auto path = path_by(name)) paths.push_back(std::move(*path));
  return paths;
}

}  // namespace shortfuse::cache
