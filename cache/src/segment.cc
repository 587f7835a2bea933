#include "segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

namespace shortfuse::cache {

namespace {

constexpr uint64_t kBudgetMin = 4ull << 20;
constexpr uint64_t kChunkMin = 2ull << 20;
constexpr uint64_t kChunkMax = 256ull << 20;
constexpr uint64_t kChunksOfBudget = 64;
constexpr uint64_t kBucketPerBudgetBytes = 1024;  // eight entries: one for 128 bytes
constexpr int kSeals = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

std::string failure(const char *what) { return std::string(what) + ": " + std::strerror(errno); }

}  // namespace

Fd &Fd::operator=(Fd &&other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = other.release();
  }
  return *this;
}

Fd::~Fd() {
  if (fd_ >= 0) close(fd_);
}

int Fd::release() { return std::exchange(fd_, -1); }

std::expected<SealedMemory, std::string> make_sealed_memory(const char *name, size_t bytes, void *at) {
  Fd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (fd.get() < 0) return std::unexpected(failure("memfd_create"));
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return std::unexpected(failure("ftruncate of a memfd"));
  void *base =
      mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (at != nullptr ? MAP_FIXED : 0), fd.get(), 0);
  if (base == MAP_FAILED) return std::unexpected(failure("mmap of a memfd"));
  if (fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) {
    std::string why = failure("sealing a memfd");
    // A fixed place belongs to a reservation: put that back instead of leaving a hole.
    if (at != nullptr) {
      mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    } else {
      munmap(base, bytes);
    }
    return std::unexpected(std::move(why));
  }
  return SealedMemory{std::move(fd), static_cast<unsigned char *>(base)};
}

std::expected<Segment, std::string> Segment::create(uint64_t budget_bytes) {
  const uint64_t budget = std::max(budget_bytes, kBudgetMin);
  const uint64_t chunk_bytes = std::clamp(std::bit_floor(budget / kChunksOfBudget), kChunkMin, kChunkMax);
  const uint64_t chunks = std::min<uint64_t>(budget / chunk_bytes, SF_CHUNKS_MAX - 1);
  const uint64_t buckets = std::bit_ceil(chunks * chunk_bytes / kBucketPerBudgetBytes);

  Segment segment;
  segment.head_bytes_ = SF_HEADER_BYTES + buckets * SF_INDEX_BUCKET_ENTRIES * sizeof(uint64_t);
  auto head = make_sealed_memory("shortfuse-head", segment.head_bytes_, nullptr);
  if (!head) return std::unexpected(head.error());
  segment.head_ = std::move(*head);

  segment.space_bytes_ = (chunks + 1) * chunk_bytes;
  void *space = mmap(nullptr, segment.space_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) return std::unexpected(failure("reserving address space"));
  segment.chunks_ = static_cast<unsigned char *>(space);

  sf_segment_header *header = segment.header();
  header->magic = SF_SEGMENT_MAGIC;
  header->format = SF_SEGMENT_FORMAT;
  header->header_bytes = SF_HEADER_BYTES;
  if (getrandom(&header->hash_seed, sizeof header->hash_seed, 0) != sizeof header->hash_seed) {
    return std::unexpected(failure("getrandom"));
  }
  header->index_buckets = buckets;
  header->chunk_bytes = chunk_bytes;
  header->budget_bytes = chunks * chunk_bytes;
  header->chunks_max = static_cast<uint32_t>(chunks + 1);
  header->daemon_pid = static_cast<uint32_t>(getpid());
  header->state = SF_SEG_STARTING;
  header->attr_epoch = 1;
  return segment;
}

Segment::Segment(Segment &&other) noexcept
    : head_(std::move(other.head_)),
      head_bytes_(other.head_bytes_),
      chunks_(std::exchange(other.chunks_, nullptr)),
      space_bytes_(other.space_bytes_) {
  other.head_.base = nullptr;
}

Segment::~Segment() {
  if (chunks_ != nullptr) munmap(chunks_, space_bytes_);
  if (head_.base != nullptr) munmap(head_.base, head_bytes_);
}

bool Segment::add_chunk(uint32_t index, Fd &fd) {
  const uint64_t chunk_bytes = header()->chunk_bytes;
  auto memory = make_sealed_memory("shortfuse-chunk", chunk_bytes, chunks_ + index * chunk_bytes);
  if (!memory) return false;
  fd = std::move(memory->fd);
  return true;
}

void Segment::drop_chunk(uint32_t index, Fd &fd) {
  const uint64_t chunk_bytes = header()->chunk_bytes;
  // One call, so there is no moment without a mapping. Untouched private pages cost no memory.
  mmap(chunks_ + index * chunk_bytes, chunk_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
       -1, 0);
  fd = Fd();
}

}  // namespace shortfuse::cache
