/* What the tests of this folder share: a client's view of a cache, and attributes to fill in. */
#pragma once
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "shortfuse/cache/cache.h"

namespace shortfuse::cache::testing {

inline std::unique_ptr<Cache> make_cache(uint64_t budget_bytes = 4 << 20) {
  auto cache = Cache::create({.budget_bytes = budget_bytes});
  EXPECT_TRUE(cache.has_value()) << (cache ? "" : cache.error());
  return std::move(*cache);
}

inline uint64_t monotonic_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

/// Until the coarse clock that times to live are measured with has moved on.
inline void await_tick(const sf_view &view) {
  for (const uint64_t before = view.now_ns(); view.now_ns() < before + 2;) usleep(500);
}

/// Maps head and chunks read-only, as an application does.
class ClientView {
 public:
  explicit ClientView(Cache &cache) : cache_(cache) {
    head_bytes_ = cache.head_bytes();
    head_ = mmap(nullptr, head_bytes_, PROT_READ, MAP_SHARED, cache.head_fd(), 0);
    auto *header = static_cast<const sf_segment_header *>(head_);
    space_bytes_ = header->chunks_max * header->chunk_bytes;
    space_ = mmap(nullptr, space_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT_EQ(0, sf_view_open(&view, head_, head_bytes_, space_));
    view.now_ns = monotonic_ns;
    refresh();
  }
  ~ClientView() {
    munmap(head_, head_bytes_);
    munmap(space_, space_bytes_);
  }
  void refresh() {
    for (const auto &chunk : cache_.chunks()) {
      if (view.mapped_generation[chunk.index] == chunk.generation) continue;
      void *at = static_cast<char *>(space_) + chunk.index * view.chunk_bytes;
      ASSERT_EQ(at, mmap(at, view.chunk_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, chunk.fd, 0));
      __atomic_store_n(&view.mapped_generation[chunk.index], chunk.generation, __ATOMIC_RELEASE);
    }
  }
  sf_view view{};

 private:
  Cache &cache_;
  void *head_, *space_;
  size_t head_bytes_, space_bytes_;
};

/// Attributes that changed last in 2001: nothing young about them.
inline fuse_attr attr_of(uint64_t size, uint64_t mtime = 1'000'000'000) {
  fuse_attr attr{};
  attr.ino = 7;
  attr.size = size;
  attr.mtime = mtime;
  attr.ctime = mtime;
  attr.mode = 0100644;
  return attr;
}

inline std::vector<std::byte> some_bytes(size_t size, unsigned seed) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>((seed * 2654435761u + i * 40503u) >> 7);
  return bytes;
}

inline std::span<const std::byte> bytes_in(std::string_view text) {
  return {reinterpret_cast<const std::byte *>(text.data()), text.size()};
}

inline enum sf_find find_attr(const sf_view &view, Nid nid, sf_attr_view *out) {
  sf_moment moment{};
  return sf_find_attr(&view, nid, &moment, out);
}
inline enum sf_find find_attr(const sf_view &view, Nid nid) {
  sf_attr_view out;
  return find_attr(view, nid, &out);
}
inline enum sf_find find_dentry(const sf_view &view, Nid dir, std::string_view name, Nid *child) {
  sf_moment moment{};
  return sf_find_dentry(&view, dir, name.data(), name.size(), sf_name_hash(&view, name.data(), name.size()), &moment,
                        child);
}
inline enum sf_find find_dentry(const sf_view &view, Nid dir, std::string_view name) {
  Nid child;
  return find_dentry(view, dir, name, &child);
}
inline uint64_t cid_of(const sf_view &view, Nid nid) {
  sf_attr_view out{};
  return find_attr(view, nid, &out) == SF_FIND_OK ? out.cid : 0;
}

/// A listing in the cache's form, whose cookies begin at `cookie`.
inline std::vector<std::byte> listing_of(int entries, unsigned cookie) {
  std::vector<std::byte> fuse;
  for (int i = 0; i < entries; ++i) {
    const std::string name = "entry-" + std::to_string(i);
    std::vector<std::byte> record((FUSE_NAME_OFFSET + name.size() + 7) / 8 * 8);
    fuse_dirent head{};
    head.ino = static_cast<uint64_t>(i) + 1;
    head.off = cookie + static_cast<unsigned>(i);
    head.namelen = static_cast<uint32_t>(name.size());
    head.type = 8;
    std::memcpy(record.data(), &head, FUSE_NAME_OFFSET);
    std::memcpy(record.data() + FUSE_NAME_OFFSET, name.data(), name.size());
    fuse.insert(fuse.end(), record.begin(), record.end());
  }
  std::vector<std::byte> out;
  EXPECT_TRUE(convert_dirents(fuse, out));
  return out;
}

/// All parts of a listing, or nothing.
inline std::optional<std::vector<std::byte>> read_listing(const sf_view &view, uint64_t cid) {
  std::vector<std::byte> all;
  uint32_t parts = 1;
  for (uint32_t i = 0; i < parts; ++i) {
    std::vector<std::byte> part(SF_PAYLOAD_MAX);
    uint32_t len;
    if (sf_find_listing(&view, cid, i, part.data(), part.size(), &len, &parts) != SF_FIND_OK) return std::nullopt;
    all.insert(all.end(), part.begin(), part.begin() + len);
  }
  return all;
}

}  // namespace shortfuse::cache::testing
