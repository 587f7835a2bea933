#include "listings.h"

#include <gtest/gtest.h>

#include <cstring>

namespace shortfuse::bridge {
namespace {

std::vector<std::byte> record(uint64_t cookie, const char *name) {
  std::vector<std::byte> bytes(FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + std::strlen(name)));
  auto *dirent = reinterpret_cast<fuse_dirent *>(bytes.data());
  dirent->off = cookie;
  dirent->namelen = static_cast<uint32_t>(std::strlen(name));
  std::memcpy(dirent->name, name, std::strlen(name));
  return bytes;
}

TEST(Listings, CompleteStreamWithTheMomentOfItsStart) {
  Listings listings;
  EXPECT_FALSE(listings.add(5, 1, 0, 100, record(11, "a")));
  EXPECT_FALSE(listings.add(5, 1, 11, 200, record(12, "b")));
  auto finished = listings.add(5, 1, 12, 300, {});
  ASSERT_TRUE(finished);
  EXPECT_EQ(finished->moment, 100u);
  EXPECT_EQ(finished->dirents.size(), record(0, "a").size() * 2);
}

TEST(Listings, EmptyDirectory) {
  Listings listings;
  auto finished = listings.add(5, 1, 0, 7, {});
  ASSERT_TRUE(finished);
  EXPECT_TRUE(finished->dirents.empty());
}

TEST(Listings, GapsAreNeverCompleted) {
  Listings listings;
  listings.add(5, 1, 0, 100, record(11, "a"));
  EXPECT_FALSE(listings.add(5, 1, 99, 100, record(100, "z")));
  EXPECT_FALSE(listings.add(5, 1, 100, 100, {}));
  // Started in the middle.
  EXPECT_FALSE(listings.add(5, 2, 11, 100, record(12, "b")));
  EXPECT_FALSE(listings.add(5, 2, 12, 100, {}));
}

TEST(Listings, RewindStartsAgain) {
  Listings listings;
  listings.add(5, 1, 0, 100, record(11, "a"));
  listings.add(5, 1, 0, 150, record(21, "b"));
  auto finished = listings.add(5, 1, 21, 160, {});
  ASSERT_TRUE(finished);
  EXPECT_EQ(finished->moment, 150u);
  EXPECT_EQ(finished->dirents.size(), record(0, "b").size());
}

TEST(Listings, ClosedStreamsAreForgotten) {
  Listings listings;
  listings.add(5, 1, 0, 100, record(11, "a"));
  listings.closed(5, 1);
  EXPECT_FALSE(listings.add(5, 1, 11, 100, {}));
}

TEST(Listings, TwoStreamsDoNotMix) {
  Listings listings;
  listings.add(5, 1, 0, 100, record(11, "a"));
  listings.add(5, 2, 0, 101, record(31, "x"));
  auto first = listings.add(5, 1, 11, 102, {});
  auto second = listings.add(5, 2, 31, 103, {});
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->moment, 100u);
  EXPECT_EQ(second->moment, 101u);
}

}  // namespace
}  // namespace shortfuse::bridge
