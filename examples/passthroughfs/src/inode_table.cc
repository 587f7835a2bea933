#include "inode_table.h"

#include <unistd.h>

#include <cassert>

namespace shortfuse::passthrough {

InodeTable::~InodeTable() {
  for (uint64_t index = 1, end = nodes_.extent(); index < end; ++index) {
    if (Inode* inode = nodes_.find(nodes_.id_at(index))) close(inode->fd);
  }
}

void InodeTable::set_root(Found root) {
  [[maybe_unused]] uint64_t id = adopt(&root);
  assert(id == kRoot);
}

uint64_t InodeTable::adopt(Found* found) {
  Shard& shard = shard_of(found->key);
  std::lock_guard guard(shard.mutex);
  auto [entry, is_new] = shard.by_key.try_emplace(found->key, 0);
  if (!is_new) {
    Inode* known = nodes_.find(entry->second);
    if (known->version == found->version) {
      ++known->lookups;
      return entry->second;
    }
    // The number leads a second life: the old node stays what it was until it is forgotten, the key is the new one's.
  }
  auto [id, inode] = nodes_.reserve();
  if (id == 0) {
    if (is_new) shard.by_key.erase(entry);
    return 0;
  }
  inode->fd = found->fd.release();
  inode->key = found->key;
  inode->version = found->version;
  inode->lookups = 1;
  inode->opens.store(0, std::memory_order_relaxed);
  entry->second = id;
  nodes_.publish(id);
  return id;
}

uint64_t InodeTable::find_key(const NodeKey& key) {
  Shard& shard = shard_of(key);
  std::lock_guard guard(shard.mutex);
  auto entry = shard.by_key.find(key);
  return entry == shard.by_key.end() ? 0 : entry->second;
}

void InodeTable::forget(uint64_t id, uint64_t count) {
  Inode* inode = nodes_.find(id);
  if (!inode || id == kRoot) return;
  UniqueFd fd;  // closed after the lock is let go: the last close may have to free a whole file
  Shard& shard = shard_of(inode->key);
  std::lock_guard guard(shard.mutex);
  inode->lookups -= count < inode->lookups ? count : inode->lookups;
  if (inode->lookups > 0) return;
  auto entry = shard.by_key.find(inode->key);
  if (entry != shard.by_key.end() && entry->second == id) shard.by_key.erase(entry);
  fd.reset(inode->fd);
  nodes_.retire(id);
}

}  // namespace shortfuse::passthrough
