/* The shared structures are formats: sizes, offsets, and who shares a cache line with whom. */
#include <gtest/gtest.h>

#include <cstddef>

#include "shortfuse/cache/attach.h"
#include "shortfuse/cache/layout.h"

namespace {

constexpr size_t line_of(size_t offset) { return offset / 64; }

TEST(Layout, RecordsAndHeader) {
  EXPECT_EQ(40u, sizeof(sf_record));
  EXPECT_EQ(40u, offsetof(sf_record, payload));
  EXPECT_EQ(32u, offsetof(sf_record, kind));
  EXPECT_EQ(36u, offsetof(sf_record, len));
  EXPECT_EQ(128u, sizeof(sf_record) + sizeof(fuse_attr)) << "an ATTR record is two cache lines";
  EXPECT_LE(sizeof(sf_segment_header), size_t{SF_HEADER_BYTES});
  EXPECT_EQ(0, SF_HEADER_BYTES % 4096) << "the index is page-aligned, so a bucket is one cache line";
  EXPECT_EQ(64u, SF_INDEX_BUCKET_ENTRIES * sizeof(uint64_t));
  EXPECT_EQ(0u, offsetof(sf_segment_header, liveness) % 64);
  EXPECT_NE(line_of(offsetof(sf_segment_header, liveness)), line_of(offsetof(sf_segment_header, state)));
  EXPECT_NE(line_of(offsetof(sf_segment_header, chunk_generation)), line_of(offsetof(sf_segment_header, state)));
  EXPECT_EQ(line_of(offsetof(sf_segment_header, attr_epoch)), line_of(offsetof(sf_segment_header, state)))
      << "what every call reads is one line";
  EXPECT_EQ(19u, offsetof(sf_dirent, name));
}

TEST(Layout, Messages) {
  EXPECT_EQ(16u, sizeof(sf_msg));
  EXPECT_EQ(32u, offsetof(sf_attached, chunk));
  EXPECT_EQ(32u + 8 * SF_MSG_FDS_MAX, sizeof(sf_attached));
  EXPECT_EQ(8u + 8 * SF_CHUNKS_MAX, sizeof(sf_have));
  EXPECT_EQ(16u + 8 * SF_MSG_FDS_MAX, sizeof(sf_fresh));
  EXPECT_LT(SF_MSG_FDS_MAX, 253) << "SCM_MAX_FD of the kernel";
  EXPECT_EQ(288u, sizeof(sf_hint));
}

TEST(Layout, SessionsKeepWritersApart) {
  const size_t tail = offsetof(sf_session, hint_tail), head = offsetof(sf_session, hint_head);
  const size_t recency = offsetof(sf_session, recency_next);
  EXPECT_EQ(0u, tail % 64);
  EXPECT_EQ(0u, head % 64);
  EXPECT_EQ(0u, recency % 64);
  EXPECT_NE(line_of(tail), line_of(head)) << "the client's end of the ring and the bridge's";
  EXPECT_NE(line_of(head), line_of(recency));
  EXPECT_EQ(line_of(head), line_of(offsetof(sf_session, sleeping))) << "both written by the bridge";
  EXPECT_EQ(0u, offsetof(sf_session, lane) % 4096) << "a lane is never in another thread's line";
  EXPECT_EQ(0u, sizeof(sf_lane) % 64);
  EXPECT_EQ(0, SF_HINTS & (SF_HINTS - 1));
  EXPECT_EQ(0, SF_RECENCY & (SF_RECENCY - 1));
}

}  // namespace
