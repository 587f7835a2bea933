#include "handles.h"

#include <algorithm>

namespace shortfuse::bridge {

void Handles::opened(uint64_t nodeid, uint64_t file_handle, cache::Moment at) {
  std::lock_guard guard(lock_);
  auto [found, fresh] = open_.try_emplace(Key{nodeid, file_handle}, Open{1, at});
  if (fresh) return;
  found->second.count++;
  found->second.at = std::min(found->second.at, at);
}

void Handles::closed(uint64_t nodeid, uint64_t file_handle) {
  std::lock_guard guard(lock_);
  auto found = open_.find(Key{nodeid, file_handle});
  if (found != open_.end() && --found->second.count == 0) open_.erase(found);
}

std::optional<cache::Moment> Handles::opened_at(uint64_t nodeid, uint64_t file_handle) const {
  std::lock_guard guard(lock_);
  auto found = open_.find(Key{nodeid, file_handle});
  if (found == open_.end()) return std::nullopt;
  return found->second.at;
}

}  // namespace shortfuse::bridge
