#include "map_storage.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

namespace shortfuse::bridge {
namespace {

constexpr uint32_t kRing = 1 << 20;
constexpr size_t kProducer = 9, kConsumer = 24;   // words of a ring's storage (maps/lookup.h)

sf_image_map ring_shape() {
  sf_image_map def{};
  std::strcpy(def.name, "events");
  def.type = SF_MAP_RINGBUF;
  def.max_entries = kRing;
  return def;
}

TEST(RingBacklog, WriterWhoNeverStopsIsReadOnceRound) {
  auto memory = make_memory(ring_shape(), Writers::Client);
  ASSERT_TRUE(memory) << memory.error();
  auto *words = static_cast<uint64_t *>((*memory)->map.storage);
  // Any place is the header of a record of this length.
  constexpr uint64_t kLength = 64 * 1024 - 8;
  for (size_t i = 0; i < kRing / 8; i++) words[32 + i] = words[32 + kRing / 8 + i] = kLength;
  std::atomic<bool> stop{false}, runs{false};
  std::thread writer([&] {
    for (; !stop; runs = true) {
      const uint64_t consumer = __atomic_load_n(&words[kConsumer], __ATOMIC_RELAXED);
      __atomic_store_n(&words[kProducer], consumer + kRing, __ATOMIC_RELEASE);
    }
  });
  while (!runs) {}
  int compared = 0;
  for (int round = 0; round < 20'000 && compared < 10; round++) {
    RingBacklog backlog;
    RingReader reader;
    reader.position = words[kConsumer];
    const uint64_t start = reader.position;
    backlog.drain((*memory)->map, reader, 1, false, 0);
    if (backlog.lost() != 0) {  // the writer was late, and its position behind the reader's
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    ++compared;
    EXPECT_LE(reader.position - start, uint64_t{2} * kRing);
    EXPECT_LE(backlog.next_number(), kRing / (kLength + 8));
  }
  stop = true;
  writer.join();
  EXPECT_EQ(10, compared) << "the writer was late in nearly every round";
}

TEST(RingBacklog, WhatLiesThereIsTakenInOrder) {
  auto memory = make_memory(ring_shape(), Writers::Client);
  ASSERT_TRUE(memory) << memory.error();
  RingBacklog backlog;
  RingReader reader;
  uint64_t number = 0, next = 0;
  for (int round = 0; round < 3; round++) {
    for (void *record; (record = sf_ring_reserve(&(*memory)->map, sizeof number, 1)) != nullptr; number++) {
      std::memcpy(record, &number, sizeof number);
      sf_ring_commit(record, 0, 1);
    }
    for (uint64_t before = number + 1; before != next;) {  // no more at one go than there is a limit for
      before = next;
      backlog.drain((*memory)->map, reader, 7, false, 0);
      next = backlog.next_number();
    }
    EXPECT_EQ(number, next);
  }
  EXPECT_EQ(std::string(reinterpret_cast<const char *>(&--number), 8), backlog.records().back().bytes);
  EXPECT_EQ(3u, backlog.lost()) << "one per round found no room";
}

}  // namespace
}  // namespace shortfuse::bridge
