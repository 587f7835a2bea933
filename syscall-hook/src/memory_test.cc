// The library's own memcpy and friends (compiled here under other names) against the obvious loops.
#include <gtest/gtest.h>
#include <stddef.h>
#include <stdint.h>

#include <random>
#include <vector>

extern "C" {
void *sf_test_memcpy(void *, const void *, size_t);
void *sf_test_memmove(void *, const void *, size_t);
void *sf_test_memset(void *, int, size_t);
int sf_test_memcmp(const void *, const void *, size_t);
}

namespace {

std::vector<uint8_t> random_bytes(size_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> all(bytes);
  for (auto &byte : all) byte = (uint8_t)random();
  return all;
}

TEST(Memory, CopyAndMove) {
  const auto source = random_bytes(6000, 1);
  for (size_t bytes = 0; bytes < 1200; bytes++) {
    for (size_t shift : {0, 1, 7}) {
      auto to = random_bytes(6000, 2), expected = to;
      for (size_t i = 0; i < bytes; i++) expected[100 + i] = source[shift + i];
      EXPECT_EQ(sf_test_memcpy(&to[100], &source[shift], bytes), &to[100]);
      ASSERT_EQ(to, expected) << bytes;
    }
    for (int distance : {-300, -33, -9, -8, -7, -1, 0, 1, 3, 8, 9, 31, 300}) {
      auto moved = source, expected = source;
      const auto to = (size_t)(1000 + distance);
      for (size_t i = 0; i < bytes; i++) expected[to + i] = source[1000 + i];
      EXPECT_EQ(sf_test_memmove(&moved[to], &moved[1000], bytes), &moved[to]);
      ASSERT_EQ(moved, expected) << bytes << " " << distance;
    }
  }
}

TEST(Memory, SetAndCompare) {
  for (size_t bytes = 0; bytes < 1200; bytes++) {
    auto to = random_bytes(1400, 3), expected = to;
    for (size_t i = 0; i < bytes; i++) expected[50 + i] = 0xa5;
    sf_test_memset(&to[50], 0x1a5, bytes);
    ASSERT_EQ(to, expected) << bytes;
    auto other = to;
    EXPECT_EQ(sf_test_memcmp(to.data(), other.data(), bytes), 0);
    if (!bytes) continue;
    for (size_t at : {size_t{0}, bytes / 2, bytes - 1}) {
      other = to;
      other[at]++;
      int expect = other[at] > to[at] ? -1 : 1;
      EXPECT_EQ(sf_test_memcmp(to.data(), other.data(), bytes), expect);
      EXPECT_EQ(sf_test_memcmp(other.data(), to.data(), bytes), -expect);
    }
  }
}

}  // namespace
