// Directory streams being read, put together until they are complete.
//
// A listing is kept only when one stream read it from its beginning to its end without a gap; the moment of its first
// request decides whether a change in between voids it. Thread-safe; bounded.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "wire.h"

namespace shortfuse::bridge {

constexpr size_t kListingsBytesMax = 64ull << 20;  ///< of all streams together; the largest is dropped beyond it

struct FinishedListing {
  cache::Moment moment;
  std::vector<std::byte> dirents;  ///< fuse_dirent records
};

class Listings {
 public:
  /// One reply: `dirents` (fuse_dirent records, maybe none: the end) read at `offset`. The listing when that was the
  /// end.
  std::optional<FinishedListing> add(uint64_t nodeid, uint64_t file_handle, uint64_t offset, cache::Moment moment,
                                     Bytes dirents);
  void closed(uint64_t nodeid, uint64_t file_handle);

 private:
  using Key = std::pair<uint64_t, uint64_t>;
  struct Stream {
    cache::Moment moment;
    uint64_t next_offset = 0;
    std::vector<std::byte> dirents;
  };
  void drop_largest_locked();

  std::mutex lock_;
  std::map<Key, Stream> streams_;
  size_t bytes_ = 0;
};

}  // namespace shortfuse::bridge
