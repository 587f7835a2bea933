/* The memory of a segment: sealed memfds, and the linear space that the chunks are mapped into.
 *
 * Each memfd is mapped writable here first and then sealed (F_SEAL_FUTURE_WRITE and the size seals): this
 * mapping stays writable, no other can ever be made, by whomever the descriptor is given to. */
#pragma once
#include <cstdint>
#include <expected>
#include <string>

#include "shortfuse/cache/layout.h"

namespace shortfuse::cache {

/// A descriptor that closes itself.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd &&other) noexcept : fd_(other.release()) {}
  Fd &operator=(Fd &&other) noexcept;
  ~Fd();
  int get() const { return fd_; }
  int release();

 private:
  int fd_ = -1;
};

/// A memfd of `bytes` zero bytes, mapped writable at `at` (MAP_FIXED) or, when that is null, where the kernel likes,
/// and sealed. The mapping belongs to the caller.
struct SealedMemory {
  Fd fd;
  unsigned char *base = nullptr;
};
std::expected<SealedMemory, std::string> make_sealed_memory(const char *name, size_t bytes, void *at);

/// The head and the address space of the chunks. Chunk 0 is never made, so that ref 0 means nothing.
class Segment {
 public:
  /// Sizes follow from the budget: chunks of about a sixty-fourth of it, and one index entry for 128 bytes.
  static std::expected<Segment, std::string> create(uint64_t budget_bytes);
  Segment(Segment &&other) noexcept;
  Segment &operator=(Segment &&) = delete;
  ~Segment();

  sf_segment_header *header() const { return reinterpret_cast<sf_segment_header *>(head_.base); }
  uint64_t *index() const { return reinterpret_cast<uint64_t *>(head_.base + SF_HEADER_BYTES); }
  unsigned char *chunks() const { return chunks_; }
  int head_fd() const { return head_.fd.get(); }
  uint64_t head_bytes() const { return head_bytes_; }

  /// Maps a new, zeroed chunk. False when the system refuses (descriptors, memory).
  bool add_chunk(uint32_t index, Fd &fd);
  /// Gives its memory back. In-process readers that are still in it find zeroes, never a hole.
  void drop_chunk(uint32_t index, Fd &fd);

 private:
  Segment() = default;

  SealedMemory head_;
  uint64_t head_bytes_ = 0;
  unsigned char *chunks_ = nullptr;
  uint64_t space_bytes_ = 0;
};

}  // namespace shortfuse::cache
