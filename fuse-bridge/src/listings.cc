#include "listings.h"

#include <algorithm>

namespace shortfuse::bridge {

std::optional<FinishedListing> Listings::add(uint64_t nodeid, uint64_t file_handle, uint64_t offset,
                                             cache::Moment moment, Bytes dirents) {
  std::lock_guard guard(lock_);
  const Key key{nodeid, file_handle};
  auto found = streams_.find(key);
  if (offset == 0) {
    if (found != streams_.end()) {
      bytes_ -= found->second.dirents.size();
      streams_.erase(found);
    }
    found = streams_.emplace(key, Stream{moment, 0, {}}).first;
  }
  if (found == streams_.end()) return std::nullopt;
  Stream &stream = found->second;
  if (stream.next_offset != offset) {
    bytes_ -= stream.dirents.size();
    streams_.erase(found);
    return std::nullopt;
  }
  if (dirents.empty()) {
    FinishedListing finished{stream.moment, std::move(stream.dirents)};
    bytes_ -= finished.dirents.size();
    streams_.erase(found);
    return finished;
  }
  auto cookie = last_cookie(dirents);
  if (!cookie) {
    bytes_ -= stream.dirents.size();
    streams_.erase(found);
    return std::nullopt;
  }
  stream.next_offset = *cookie;
  stream.dirents.insert(stream.dirents.end(), dirents.begin(), dirents.end());
  bytes_ += dirents.size();
  if (bytes_ > kListingsBytesMax) drop_largest_locked();
  return std::nullopt;
}

void Listings::closed(uint64_t nodeid, uint64_t file_handle) {
  std::lock_guard guard(lock_);
  auto found = streams_.find({nodeid, file_handle});
  if (found == streams_.end()) return;
  bytes_ -= found->second.dirents.size();
  streams_.erase(found);
}

void Listings::drop_largest_locked() {
  auto largest = std::max_element(streams_.begin(), streams_.end(), [](const auto &a, const auto &b) {
    return a.second.dirents.size() < b.second.dirents.size();
  });
  if (largest == streams_.end()) return;
  bytes_ -= largest->second.dirents.size();
  streams_.erase(largest);
}

}  // namespace shortfuse::bridge
