// Open handles of the file system, and since when each is open.
//
// A file system may show through a handle what was there when it was opened (a lower layer that has been copied up
// since, a listing made by OPENDIR). What is read through it is kept only if nothing has changed since then, not since
// the read. Thread-safe; bounded by what the kernel and the bridge have open.
#pragma once
#include <cstdint>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "shortfuse/cache/cache.h"

namespace shortfuse::bridge {

class Handles {
 public:
  /// A reply gave this handle out. Some file systems give one number to all: then the oldest counts.
  void opened(uint64_t nodeid, uint64_t file_handle, cache::Moment at);
  /// Its RELEASE arrived, or the reply that gave it was lost. Before the file system sees the RELEASE, because it may
  /// give the number out again at once.
  void closed(uint64_t nodeid, uint64_t file_handle);
  /// When it was opened; nothing for a handle that nobody opened.
  std::optional<cache::Moment> opened_at(uint64_t nodeid, uint64_t file_handle) const;

 private:
  struct Key {
    uint64_t nodeid, file_handle;
    bool operator==(const Key &) const = default;
  };
  struct Hash {
    size_t operator()(const Key &key) const {
      return static_cast<size_t>((key.nodeid * 0x9e3779b97f4a7c15ull) ^ (key.file_handle * 0xff51afd7ed558ccdull));
    }
  };
  struct Open {
    uint64_t count;
    cache::Moment at;
  };
  mutable std::mutex lock_;
  std::unordered_map<Key, Open, Hash> open_;
};

}  // namespace shortfuse::bridge
