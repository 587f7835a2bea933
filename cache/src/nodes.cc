#include "nodes.h"

#include <cstdlib>
#include <cstring>

#include "index.h"

namespace shortfuse::cache {

namespace {

constexpr unsigned kSlotBits = 28;
constexpr uint32_t kSlotMask = (1u << kSlotBits) - 1;
constexpr uint64_t kSerialLast = ~0ull >> kSlotBits;
constexpr uint32_t kRootSlot = SF_NID_ROOT;  // serial 0, slot 1
constexpr size_t kPathMax = 4096;
constexpr unsigned kDepthMax = 2048;

}  // namespace

// ---- chains

uint32_t *NodeChains::at(uint64_t bucket) {
  while (bucket / kSegment >= segments_.size()) segments_.push_back(std::make_unique<uint32_t[]>(kSegment));
  return &segments_[bucket / kSegment][bucket % kSegment];
}

uint32_t *NodeChains::head(uint64_t hash) {
  uint64_t bucket = hash & (base_ - 1);
  if (bucket < split_) bucket = hash & (2 * base_ - 1);
  return at(bucket);
}

void NodeChains::grow(uint32_t **from, uint32_t **to) {
  *to = at(base_ + split_);
  *from = at(split_);
}

void NodeChains::grown() {
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
    for (uint32_t i = 0; i < kBlock; ++i) std::free(block[i].name);
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

NodeState *NodeTable::by_name(Nid dir, std::string_view name) const {
  for (uint32_t slot = names_.head(hash_of_name(dir, name)); slot != 0; slot = at(slot)->next_by_name) {
    if (at(slot)->parent == dir && at(slot)->name_view() == name) return at(slot);
  }
  return nullptr;
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
  clear_name(node);
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
  if (node->nid == SF_NID_ROOT || (node->parent == dir && node->name_view() == name)) return;
  if (NodeState *before = by_name(dir, name); before != nullptr) clear_name(before);
  clear_name(node);
  if (name.empty() || name.size() > SF_NAME_MAX) return;
  node->name = static_cast<char *>(std::malloc(name.size()));
  if (node->name == nullptr) return;
  std::memcpy(node->name, name.data(), name.size());
  node->name_len = static_cast<uint8_t>(name.size());
  node->parent = dir;
  uint32_t *head = names_.head(hash_of_name(dir, name));
  node->next_by_name = *head;
  *head = static_cast<uint32_t>(node->nid & kSlotMask);
  if (++named_ > names_.buckets()) grow_names();
}

void NodeTable::clear_name(NodeState *node) {
  if (node->parent == 0) return;
  const auto slot = static_cast<uint32_t>(node->nid & kSlotMask);
  uint32_t *link = names_.head(hash_of_name(node->parent, node->name_view()));
  while (*link != slot) link = &at(*link)->next_by_name;
  *link = node->next_by_name;
  std::free(node->name);
  node->name = nullptr;
  node->name_len = 0;
  node->parent = 0;
  --named_;
}

void NodeTable::grow_names() {
  uint32_t *from, *to;
  names_.grow(&from, &to);
  uint32_t slot = *from;
  *from = *to = 0;
  while (slot != 0) {
    NodeState *node = at(slot);
    const uint32_t next = node->next_by_name;
    uint32_t *head = names_.belongs_in_new(hash_of_name(node->parent, node->name_view())) ? to : from;
    node->next_by_name = *head;
    *head = slot;
    slot = next;
  }
  names_.grown();
}

std::optional<std::string> NodeTable::path_of(const NodeState *node) const {
  // From the end to the front, as the chain of parents goes.
  char path[kPathMax];
  size_t at_byte = kPathMax;
  for (unsigned depth = 0; node != nullptr && depth < kDepthMax; ++depth) {
    if (node->nid == SF_NID_ROOT) return std::string(path + at_byte, kPathMax - at_byte);
    const size_t need = node->name_len + (at_byte == kPathMax ? 0u : 1u);
    if (node->parent == 0 || need > at_byte) return std::nullopt;
    if (at_byte != kPathMax) path[--at_byte] = '/';
    at_byte -= node->name_len;
    std::memcpy(path + at_byte, node->name, node->name_len);
    node = by_nid(node->parent);
  }
  return std::nullopt;
}

}  // namespace shortfuse::cache
