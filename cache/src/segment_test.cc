/* A sealed descriptor cannot be turned into a writable mapping, whoever has it. */
#include "segment.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

namespace shortfuse::cache {
namespace {

void expect_read_only(int fd, size_t bytes) {
  EXPECT_EQ(MAP_FAILED, mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  void *shared = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  ASSERT_NE(MAP_FAILED, shared);
  EXPECT_NE(0, mprotect(shared, bytes, PROT_READ | PROT_WRITE));
  munmap(shared, bytes);
  EXPECT_LT(pwrite(fd, "x", 1, 0), 0);
  EXPECT_NE(0, ftruncate(fd, 0));
  EXPECT_NE(0, ftruncate(fd, static_cast<off_t>(2 * bytes)));
  EXPECT_NE(0, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
  EXPECT_NE(0, fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE)) << "the seals are sealed";

  const int again = open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDWR);
  if (again >= 0) {
    EXPECT_EQ(MAP_FAILED, mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0));
    EXPECT_LT(pwrite(again, "x", 1, 0), 0);
    close(again);
  }
}

TEST(Segment, HeadAndChunksAreReadOnlyForOthersAndWritableHere) {
  auto segment = Segment::create(8 << 20);
  ASSERT_TRUE(segment.has_value()) << segment.error();
  Fd chunk;
  ASSERT_TRUE(segment->add_chunk(1, chunk));
  expect_read_only(segment->head_fd(), segment->head_bytes());
  expect_read_only(chunk.get(), segment->header()->chunk_bytes);

  segment->index()[0] = 42;
  segment->chunks()[segment->header()->chunk_bytes] = 43;
  char byte = 0;
  EXPECT_EQ(1, pread(segment->head_fd(), &byte, 1, SF_HEADER_BYTES));
  EXPECT_EQ(42, byte);
  EXPECT_EQ(1, pread(chunk.get(), &byte, 1, 0));
  EXPECT_EQ(43, byte);
  EXPECT_NE(0, fcntl(chunk.get(), F_GETFD) & FD_CLOEXEC);
}

TEST(Segment, DroppedChunkReadsAsZeroes) {
  auto segment = Segment::create(8 << 20);
  ASSERT_TRUE(segment.has_value());
  Fd chunk;
  ASSERT_TRUE(segment->add_chunk(1, chunk));
  unsigned char *at = segment->chunks() + segment->header()->chunk_bytes;
  *at = 1;
  segment->drop_chunk(1, chunk);
  EXPECT_EQ(-1, chunk.get());
  EXPECT_EQ(0, *static_cast<volatile unsigned char *>(at));
}

TEST(Segment, SizesFollowFromTheBudget) {
  for (uint64_t budget : {0ull, 4ull << 20, 100ull << 20, 256ull << 20, 5ull << 30, 64ull << 30, 1ull << 40}) {
    auto segment = Segment::create(budget);
    ASSERT_TRUE(segment.has_value()) << segment.error();
    const sf_segment_header *header = segment->header();
    EXPECT_EQ(0u, header->chunk_bytes & (header->chunk_bytes - 1));
    EXPECT_EQ(0u, header->index_buckets & (header->index_buckets - 1));
    EXPECT_GE(header->chunk_bytes, 2u << 20);
    EXPECT_LE(header->chunk_bytes, 256u << 20);
    EXPECT_LE(header->chunks_max, uint32_t{SF_CHUNKS_MAX});
    EXPECT_LE(header->budget_bytes, std::max<uint64_t>(budget, 4 << 20));
    EXPECT_GE(header->index_buckets * 1024, header->budget_bytes);
  }
}

}  // namespace
}  // namespace shortfuse::cache
