// Our maps against the kernel's: the same random operations on both, with the same results. Skipped where bpf(2) is
// refused.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <map>
#include <random>
#include <set>
#include <string>

#include "maps/kernel_maps.h"
#include "maps/testing.h"

namespace {

using shortfuse::vm::testing::address;
using shortfuse::vm::testing::KernelMap;
using shortfuse::vm::testing::KernelProgram;
using shortfuse::vm::testing::TestMap;
using Bytes = std::vector<unsigned char>;

constexpr int kSteps = 20000;

#define SKIP_WITHOUT(kernel) \
  if ((kernel).fd() == -EPERM || (kernel).fd() == -EACCES || (kernel).fd() == -ENOSYS) \
    GTEST_SKIP() << "bpf(2) is refused"; \
  ASSERT_GE((kernel).fd(), 0)

Bytes random_bytes(std::mt19937 &random, size_t n) {
  Bytes bytes(n);
  for (auto &byte : bytes) byte = static_cast<unsigned char>(random());
  return bytes;
}

struct Keyed {
  uint32_t type, key, value, entries, kernel_flags;
  uint32_t keys;  ///< how many different ones are drawn
  const char *name;
};

class KernelKeyed : public ::testing::TestWithParam<Keyed> {
 protected:
  Bytes draw_key(std::mt19937 &random) const {
    const Keyed &p = GetParam();
    Bytes key(p.key);
    const auto number = static_cast<uint32_t>(random() % p.keys);
    memcpy(key.data(), &number, std::min<size_t>(4, p.key));
    if (p.type != SF_MAP_LPM_TRIE) return key;
    // Few bits, many lengths; now and then one that is too long.
    const uint32_t bits = random() % 100 == 0 ? (p.key - 4) * 8 + 1 : random() % ((p.key - 4) * 8 + 1);
    memcpy(key.data(), &bits, 4);
    for (size_t i = 4; i < p.key; ++i) key[i] = random() % 8 == 0 ? static_cast<unsigned char>(random()) : 0xa0;
    return key;
  }
};

/// All keys, in the order of iteration.
template <class Next> std::vector<Bytes> keys_of(size_t key_size, size_t most, Next next) {
  std::vector<Bytes> keys;
  Bytes key(key_size), following(key_size);
  for (int result = next(nullptr, key.data()); result == 0 && keys.size() <= most;) {
    keys.push_back(key);
    result = next(key.data(), following.data());
    key = following;
  }
  return keys;
}

TEST_P(KernelKeyed, SameResults) {
  const Keyed &p = GetParam();
  KernelMap kernel(p.type, p.key, p.value, p.entries, p.kernel_flags);
  SKIP_WITHOUT(kernel);
  TestMap ours(p.type, p.key, p.value, p.entries);
  std::mt19937 random(p.entries + p.key);
  for (int step = 0; step < kSteps; ++step) {
    const Bytes key = draw_key(random), value = random_bytes(random, p.value);
    switch (random() % 4) {
      case 0: {
        const uint64_t flags = random() % 20 == 0 ? 3 : random() % 3;
        ASSERT_EQ(kernel.update(key.data(), value.data(), flags), ours.update(key.data(), value.data(), flags))
            << "step " << step << " flags " << flags;
        break;
      }
      case 1:
        if (random() % 2 != 0) break;
        ASSERT_EQ(kernel.erase(key.data()), ours.erase(key.data())) << "step " << step;
        break;
      default: {
        Bytes there(p.value);
        const int result = kernel.lookup(key.data(), there.data());
        const void *found = ours.find(key.data());
        ASSERT_EQ(result == 0, found != nullptr) << "step " << step;
        if (found != nullptr) {
          ASSERT_EQ(0, memcmp(found, there.data(), p.value)) << "step " << step;
        }
      }
    }
    if (step % 1000 != 0) continue;
    auto theirs = keys_of(p.key, p.entries, [&](void *k, void *n) { return kernel.next_key(k, n); });
    auto mine = keys_of(p.key, p.entries, [&](void *k, void *n) { return sf_map_next_key(&ours.handle, k, n); });
    if (p.type == SF_MAP_HASH) {
      std::sort(theirs.begin(), theirs.end());
      std::sort(mine.begin(), mine.end());
    }
    ASSERT_EQ(theirs, mine);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, KernelKeyed,
    ::testing::Values(Keyed{SF_MAP_HASH, 4, 8, 100, 0, 150, "hash4"}, Keyed{SF_MAP_HASH, 1, 3, 200, 0, 256, "hash1"},
                      Keyed{SF_MAP_HASH, 64, 40, 50, BPF_F_NO_PREALLOC, 80, "hash64"},
                      Keyed{SF_MAP_HASH, 13, 1, 1, 0, 3, "hash13"}, Keyed{SF_MAP_HASH, 8, 6, 120, 0, 150, "hash8"},
                      Keyed{SF_MAP_HASH, 8, 9, 120, 0, 150, "hash8to9"},
                      Keyed{SF_MAP_ARRAY, 4, 12, 10, 0, 12, "array"},
                      Keyed{SF_MAP_LPM_TRIE, 8, 8, 60, BPF_F_NO_PREALLOC, 1, "lpm32"},
                      Keyed{SF_MAP_LPM_TRIE, 5, 4, 40, BPF_F_NO_PREALLOC, 1, "lpm8"},
                      Keyed{SF_MAP_LPM_TRIE, 20, 20, 100, BPF_F_NO_PREALLOC, 1, "lpm128"}),
    [](const auto &test) { return std::string(test.param.name); });

/// A value per possible CPU; ours has SF_MAP_CPUS, and is given as many as the kernel has.
class KernelPercpu : public ::testing::TestWithParam<Keyed> {};

TEST_P(KernelPercpu, SameResults) {
  const Keyed &p = GetParam();
  KernelMap kernel(p.type, p.key, p.value, p.entries);
  SKIP_WITHOUT(kernel);
  TestMap ours(p.type, p.key, p.value, p.entries);
  const size_t room = 512 * maps::round8(p.value);
  Bytes values(room), there(room);
  std::mt19937 random(5);
  for (int step = 0; step < kSteps; ++step) {
    Bytes key(p.key);
    const auto number = static_cast<uint32_t>(random() % p.keys);
    memcpy(key.data(), &number, 4);
    const Bytes value = random_bytes(random, p.value);
    for (size_t i = 0; i < room; i += maps::round8(p.value)) memcpy(values.data() + i, value.data(), p.value);
    const unsigned what = random() % 4;
    if (what == 0) {
      const uint64_t flags = random() % 3;
      // The first CPU's value decides what comes of it; the others' follow.
      const int result = ours.update(key.data(), value.data(), flags);
      for (uint32_t cpu = 1; result == 0 && cpu < SF_MAP_CPUS; ++cpu) {
        ASSERT_EQ(0, sf_map_update(&ours.handle, key.data(), value.data(), 0, cpu));
      }
      ASSERT_EQ(kernel.update(key.data(), values.data(), flags), result) << "step " << step;
    } else if (what == 1 && random() % 2 != 0) {
      ASSERT_EQ(kernel.erase(key.data()), ours.erase(key.data()));
    } else {
      const int result = kernel.lookup(key.data(), there.data());
      for (uint32_t cpu = 0; cpu < SF_MAP_CPUS; ++cpu) {
        const void *found = sf_map_lookup(&ours.handle, key.data(), cpu);
        ASSERT_EQ(result == 0, found != nullptr);
        if (found != nullptr) {
          ASSERT_EQ(0, memcmp(found, there.data(), p.value));
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, KernelPercpu,
                         ::testing::Values(Keyed{SF_MAP_PERCPU_HASH, 8, 16, 30, 0, 50, "hash"},
                                           Keyed{SF_MAP_PERCPU_ARRAY, 4, 4, 30, 0, 35, "array"}),
                         [](const auto &test) { return std::string(test.param.name); });

class KernelQueue : public ::testing::TestWithParam<uint32_t> {};

TEST_P(KernelQueue, SameResults) {
  for (uint32_t entries : {1u, 5u, 64u}) {
    KernelMap kernel(GetParam(), 0, 12, entries);
    SKIP_WITHOUT(kernel);
    TestMap ours(GetParam(), 0, 12, entries);
    std::mt19937 random(entries);
    for (int step = 0; step < kSteps; ++step) {
      const Bytes value = random_bytes(random, 12);
      Bytes theirs(12, 0xee), mine(12, 0xdd);
      switch (random() % 3) {
        case 0: {
          const uint64_t flags = random() % 4;
          ASSERT_EQ(kernel.update(nullptr, value.data(), flags), sf_map_push(&ours.handle, value.data(), flags));
          break;
        }
        case 1: {
          const int result = kernel.lookup(nullptr, theirs.data());
          ASSERT_EQ(result, sf_map_peek(&ours.handle, mine.data()));
          if (result == 0) {
            ASSERT_EQ(theirs, mine);
          }
          break;
        }
        default: {
          const int result = kernel.lookup_and_delete(nullptr, theirs.data());
          ASSERT_EQ(result, sf_map_pop(&ours.handle, mine.data()));
          if (result == 0) {
            ASSERT_EQ(theirs, mine);
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, KernelQueue, ::testing::Values(uint32_t{SF_MAP_QUEUE}, uint32_t{SF_MAP_STACK}));

TEST(Kernel, BloomFiltersNeverForgetAndAreWrongAsRarely) {
  constexpr uint32_t kEntries = 1000;
  for (uint32_t hashes : {0u, 1u, 2u, 5u, 15u}) {
    KernelMap kernel(SF_MAP_BLOOM_FILTER, 0, 8, kEntries, 0, -1, hashes);
    SKIP_WITHOUT(kernel);
    TestMap ours(SF_MAP_BLOOM_FILTER, 0, 8, kEntries, hashes);
    for (uint64_t flags : {1ull, 2ull, 4ull}) {
      uint64_t value = 1;
      ASSERT_EQ(kernel.update(nullptr, &value, flags), sf_map_push(&ours.handle, &value, flags));
    }
    for (uint64_t value = 0; value < kEntries; ++value) {
      ASSERT_EQ(0, kernel.update(nullptr, &value, 0));
      ASSERT_EQ(0, sf_map_push(&ours.handle, &value, 0));
    }
    int theirs = 0, mine = 0;
    for (uint64_t value = 0; value < 20 * kEntries; ++value) {
      const int result = sf_map_peek(&ours.handle, &value);
      if (value < kEntries) {
        ASSERT_EQ(0, result);
        continue;
      }
      mine += result == 0;
      theirs += kernel.lookup(nullptr, &value) == 0;
    }
    // As often, as far as chance goes: as many bits, and as many of them per value.
    EXPECT_LT(mine, 2 * theirs + 100) << hashes;
    EXPECT_GT(2 * mine + 100, theirs) << hashes;
  }
}

/// Both hold references, of which there is or is not one.
class KernelReferences : public ::testing::TestWithParam<uint32_t> {};

TEST_P(KernelReferences, SameResults) {
  constexpr uint32_t kEntries = 8;
  const KernelMap inner(SF_MAP_ARRAY, 4, 8, 1);
  SKIP_WITHOUT(inner);
  const KernelProgram program({{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0}, {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}});
  SKIP_WITHOUT(program);
  const bool of_maps = GetParam() == SF_MAP_ARRAY_OF_MAPS;
  KernelMap kernel(GetParam(), 4, 4, kEntries, 0, of_maps ? inner.fd() : -1);
  SKIP_WITHOUT(kernel);
  TestMap ours(GetParam(), 4, 4, kEntries);
  std::mt19937 random(3);
  for (int step = 0; step < 400; ++step) {
    const uint32_t key = random() % (kEntries + 2), reference = 1;
    const int fd = of_maps ? inner.fd() : program.fd();
    if (random() % 3 == 0) {
      const uint64_t flags = random() % 4 == 0 ? random() % 4 : 0;
      ASSERT_EQ(kernel.update(&key, &fd, flags), ours.update(&key, &reference, flags)) << key << " " << flags;
    } else if (random() % 2 != 0) {
      ASSERT_EQ(kernel.erase(&key), ours.erase(&key));
    } else {
      uint32_t there = 0;
      const auto *found = static_cast<const uint32_t *>(ours.find(&key));
      ASSERT_EQ(kernel.lookup(&key, &there) == 0, found != nullptr && *found != 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, KernelReferences,
                         ::testing::Values(uint32_t{SF_MAP_PROG_ARRAY}, uint32_t{SF_MAP_ARRAY_OF_MAPS}));

/// What leaves a record of a size in a ring: bpf_ringbuf_reserve(), which gives up or not, and submit or discard.
std::vector<bpf_insn> leaves_record(int map, int32_t size, bool discard) {
  constexpr uint8_t kCall = BPF_JMP | BPF_CALL;
  constexpr uint8_t kMove = BPF_ALU64 | BPF_MOV | BPF_K, kCopy = BPF_ALU64 | BPF_MOV | BPF_X;
  return {{BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, map},
          {0, 0, 0, 0, 0},
          {kMove, 2, 0, 0, size},
          {kMove, 3, 0, 0, 0},
          {kCall, 0, 0, 0, BPF_FUNC_ringbuf_reserve},
          {BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 5, 0},
          {kCopy, 1, 0, 0, 0},
          {kMove, 2, 0, 0, 0},
          {kCall, 0, 0, 0, discard ? BPF_FUNC_ringbuf_discard : BPF_FUNC_ringbuf_submit},
          {kMove, 0, 0, 0, 1},
          {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
          {kMove, 0, 0, 0, 0},
          {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
}

TEST(Kernel, RingBuffersHoldAsMuch) {
  constexpr uint32_t kRing = 4096;
  const KernelMap kernel(SF_MAP_RINGBUF, 0, 0, kRing);
  SKIP_WITHOUT(kernel);
  void *pages = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, kernel.fd(), 0);
  ASSERT_NE(MAP_FAILED, pages);
  auto *consumer = static_cast<volatile uint64_t *>(pages);
  TestMap ours(SF_MAP_RINGBUF, 0, 0, kRing);
  const std::array<int32_t, 8> sizes = {1, 8, 24, 100, 1000, 3000, 4080, 4088};
  std::map<std::pair<int32_t, bool>, std::unique_ptr<KernelProgram>> programs;
  std::mt19937 random(1);
  uint64_t position = 0;
  for (int step = 0; step < 5000; ++step) {
    if (random() % 3 == 0) {  // everything is read
      Bytes out(kRing);
      while (sf_ring_take(&ours.handle, &position, out.data(), out.size(), 0) >= 0) {}
      *consumer = position;
      continue;
    }
    const int32_t size = sizes[random() % sizes.size()];
    const bool discard = random() % 4 == 0;
    auto &program = programs[{size, discard}];
    if (!program) program = std::make_unique<KernelProgram>(leaves_record(kernel.fd(), size, discard));
    SKIP_WITHOUT(*program);
    void *record = sf_ring_reserve(&ours.handle, static_cast<uint64_t>(size), 1);
    if (record != nullptr) sf_ring_commit(record, discard, 1);
    const auto run = program->run();
    ASSERT_EQ(0, run.result);
    ASSERT_EQ(run.value == 1, record != nullptr) << "step " << step << " size " << size;
  }
  munmap(pages, 4096);
}

TEST(Kernel, SameShapesAreRefused) {
  const KernelMap probe(SF_MAP_ARRAY, 4, 8, 1);
  SKIP_WITHOUT(probe);
  struct Shape { uint32_t type, key, value, entries, kernel_flags, extra = 0; };
  for (const Shape &s : {Shape{SF_MAP_HASH, 0, 8, 1, 0}, {SF_MAP_HASH, 4, 0, 1, 0}, {SF_MAP_HASH, 4, 8, 0, 0},
                         {SF_MAP_HASH, 4, 8, 1, 0}, {SF_MAP_ARRAY, 8, 8, 1, 0}, {SF_MAP_ARRAY, 4, 8, 1, 0},
                         {SF_MAP_PERCPU_ARRAY, 4, 0, 1, 0}, {SF_MAP_LPM_TRIE, 4, 8, 1, BPF_F_NO_PREALLOC},
                         {SF_MAP_LPM_TRIE, 261, 8, 1, BPF_F_NO_PREALLOC},
                         {SF_MAP_LPM_TRIE, 260, 8, 1, BPF_F_NO_PREALLOC},
                         {SF_MAP_RINGBUF, 4, 0, 4096, 0}, {SF_MAP_RINGBUF, 0, 0, 4095, 0},
                         {SF_MAP_RINGBUF, 0, 0, 2048, 0},
                         {SF_MAP_RINGBUF, 0, 0, 12288, 0}, {SF_MAP_RINGBUF, 0, 0, 8192, 0}, {SF_MAP_QUEUE, 4, 8, 1, 0},
                         {SF_MAP_QUEUE, 0, 0, 1, 0}, {SF_MAP_STACK, 0, 8, 0, 0}, {SF_MAP_STACK, 0, 8, 3, 0},
                         {SF_MAP_BLOOM_FILTER, 4, 8, 1, 0}, {SF_MAP_BLOOM_FILTER, 0, 8, 1, 0},
                         {SF_MAP_BLOOM_FILTER, 0, 8, 1, 0, 1}, {SF_MAP_BLOOM_FILTER, 0, 8, 1, 0, 15},
                         {SF_MAP_BLOOM_FILTER, 0, 8, 1, 0, 16}, {SF_MAP_BLOOM_FILTER, 0, 8, 1, 0, 1u << 31},
                         {SF_MAP_HASH, 4, 8, 1, 0, 1}, {SF_MAP_QUEUE, 0, 8, 1, 0, 5}}) {
    const KernelMap kernel(s.type, s.key, s.value, s.entries, s.kernel_flags, -1, s.extra);
    const sf_map_shape shape{s.type, s.key, s.value, s.entries, s.extra};
    EXPECT_EQ(kernel.fd() >= 0, sf_map_bytes(&shape) != 0)
        << s.type << " " << s.key << " " << s.value << " " << s.entries << " " << s.extra << ": " << kernel.fd();
  }
}

}  // namespace
