// LPM_TRIE: long prefixes, nested as deep as they can be, against a list that is looked through. (What users see, and
// what happens while the trie changes: map_test.cc.)
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <vector>

#include "maps/testing.h"

namespace {

using shortfuse::vm::testing::TestMap;

template <uint32_t Bytes> struct Prefix {
  uint32_t bits = 0;
  unsigned char data[Bytes] = {};
  bool begins(const Prefix &other) const {
    bool same = bits <= other.bits;
    for (uint32_t i = 0; i < Bytes && i * 8 < bits; ++i) {
      const uint32_t behind = bits - i * 8 < 8 ? 8 - (bits - i * 8) : 0;  // bits of this byte that do not count
      same &= (data[i] ^ other.data[i]) >> behind == 0;
    }
    return same;
  }
};

// Data of a few kinds, so that many prefixes begin alike.
template <uint32_t Bytes> Prefix<Bytes> some_prefix(std::mt19937 &random) {
  Prefix<Bytes> p;
  for (unsigned char &byte : p.data) byte = random() % 30 == 0 ? static_cast<unsigned char>(random()) : 0xa5;
  p.bits = static_cast<uint32_t>(random() % (Bytes * 8 + 1));
  return p;
}

template <uint32_t Bytes> void compare_with_a_list() {
  std::mt19937 random(Bytes);
  TestMap map(SF_MAP_LPM_TRIE, sizeof(Prefix<Bytes>), 8, 400);
  struct Entry { Prefix<Bytes> prefix; uint64_t value; };
  std::vector<Entry> list;
  for (uint64_t step = 1; step < 20'000; ++step) {
    const Prefix<Bytes> p = some_prefix<Bytes>(random);
    const auto at = std::find_if(list.begin(), list.end(), [&](const Entry &e) {
      return e.prefix.bits == p.bits && e.prefix.begins(p);
    });
    const Entry *longest = nullptr;
    for (const Entry &e : list) {
      if (e.prefix.begins(p) && (longest == nullptr || e.prefix.bits > longest->prefix.bits)) longest = &e;
    }
    const void *found = map.find(&p);
    ASSERT_EQ(longest == nullptr, found == nullptr) << step;
    if (found != nullptr) {
      ASSERT_EQ(0, memcmp(found, &longest->value, 8)) << step;
    }
    if (step % 3 == 0) {
      ASSERT_EQ(at == list.end() ? -ENOENT : 0, map.erase(&p)) << step;
      if (at != list.end()) list.erase(at);
    } else {
      const bool full = at == list.end() && list.size() == 400;
      ASSERT_EQ(full ? -ENOSPC : 0, map.update(&p, &step, 0)) << step;
      if (at != list.end()) at->value = step;
      else if (!full) list.push_back({p, step});
    }
    if (step % 5000 != 0) continue;
    for (const Entry &e : list) ASSERT_EQ(0, map.erase(&e.prefix));
    list.clear();
    Prefix<Bytes> none;
    ASSERT_EQ(-ENOENT, sf_map_next_key(&map.handle, nullptr, &none));
  }
}

TEST(LpmTrie, LookupsMatchAList) {
  compare_with_a_list<4>();
  compare_with_a_list<16>();
  compare_with_a_list<256>();
}

// One prefix in the other, 2048 times: the longest that fits is found, and all are walked over once.
TEST(LpmTrie, NestedAsDeepAsPrefixesCanBe) {
  using Long = Prefix<256>;
  TestMap map(SF_MAP_LPM_TRIE, sizeof(Long), 8, 2049);
  Long p;
  for (p.bits = 0; p.bits <= 2048; ++p.bits) {
    const uint64_t value = p.bits;
    ASSERT_EQ(0, map.update(&p, &value, 0));
  }
  for (uint32_t bits = 0; bits < 2048; ++bits) {
    Long wanted;
    wanted.bits = 2048;
    wanted.data[bits / 8] = static_cast<unsigned char>(0x80 >> bits % 8);  // differs from there on
    uint64_t value = 0;
    const void *found = map.find(&wanted);
    ASSERT_NE(nullptr, found);
    memcpy(&value, found, 8);
    ASSERT_EQ(bits, value);
  }
  uint32_t keys = 0;
  Long key, next;
  for (int more = sf_map_next_key(&map.handle, nullptr, &next); more == 0; ++keys) {
    key = next;
    more = sf_map_next_key(&map.handle, &key, &next);
  }
  EXPECT_EQ(2049u, keys);
}

// What a node has in common with the one above it is not compared again.
TEST(LpmTrie, EachBitIsComparedOnce) {
  using Long = Prefix<256>;
  TestMap map(SF_MAP_LPM_TRIE, sizeof(Long), 8, 2);
  Long p;
  uint64_t value = 7;
  p.bits = 1024;
  ASSERT_EQ(0, map.update(&p, &value, 0));
  p.bits = 2048;
  ASSERT_EQ(0, map.update(&p, &value, 0));
  // The second node's first byte, which only who compares all of it looks at.
  const uint64_t node_bytes = 16 + 256 + 8, nodes = 2 * 2 + maps::kSpareElements;
  unsigned char *second = maps::at(map.data(), maps::round64(maps::kHeaderBytes + nodes * 4) + node_bytes);
  uint32_t bits = 0;
  memcpy(&bits, second + 8, sizeof bits);
  ASSERT_EQ(2048u, bits);
  second[16] ^= 1;
  const unsigned char *found = static_cast<const unsigned char *>(map.find(&p));
  EXPECT_EQ(found, second + 16 + 256);
  second[16 + 200] ^= 1;
  EXPECT_NE(map.find(&p), second + 16 + 256) << "what comes behind is compared";
}

// Whatever the nodes hold, lookups and walks end and stay in the map.
TEST(LpmTrie, CorruptNodesNeitherHangNorLeaveTheMap) {
  std::mt19937_64 random(5);
  using Key = Prefix<16>;
  for (int round = 0; round < 200; ++round) {
    TestMap map(SF_MAP_LPM_TRIE, sizeof(Key), 8, 50);
    std::mt19937 keys(static_cast<uint32_t>(round));
    for (uint64_t i = 0; i < 50; ++i) {
      const Key p = some_prefix<16>(keys);
      ASSERT_EQ(0, map.update(&p, &i, 0));
    }
    const size_t words = map.bytes() / 8;
    for (int i = 0; i < 60; ++i) map.word(8 + random() % (words - 8)) = random() >> (random() % 64);
    for (int i = 0; i < 100; ++i) {
      Key p = some_prefix<16>(keys), next;
      const auto *found = static_cast<const unsigned char *>(map.find(&p));
      if (found != nullptr) {
        ASSERT_GE(found, static_cast<unsigned char *>(map.data()));
        ASSERT_LE(found + 8, static_cast<unsigned char *>(map.data()) + map.bytes());
      }
      sf_map_next_key(&map.handle, &p, &next);
    }
  }
}

}  // namespace
