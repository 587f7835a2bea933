// A map in memory of this process, for tests.
#pragma once
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "maps/lookup.h"
#include "shortfuse/vm/map.h"

namespace maps = shortfuse::vm::maps;

namespace shortfuse::vm::testing {

struct TestMap {
  TestMap(uint32_t type, uint32_t key, uint32_t value, uint32_t entries, uint32_t extra = 0)
      : shape{type, key, value, entries, extra} {
    storage.resize(sf_map_bytes(&shape) / 8 + 8);
    EXPECT_NE(0u, sf_map_bytes(&shape));
    auto *begin = reinterpret_cast<unsigned char *>(storage.data());
    begin += -reinterpret_cast<uintptr_t>(begin) & 63;
    sf_map_init(begin, &shape);
    handle = {begin, shape, 1, 0};
  }
  TestMap(const TestMap &) = delete;
  void *data() { return handle.storage; }
  size_t bytes() const { return sf_map_bytes(&shape); }
  uint64_t &word(size_t i) { return static_cast<uint64_t *>(handle.storage)[i]; }

  int update(const void *key, const void *value, uint64_t flags) {
    return sf_map_update(&handle, key, value, flags, 0);
  }
  int erase(const void *key) { return sf_map_delete(&handle, key); }
  void *find(const void *key) { return sf_map_lookup(&handle, key, 0); }

  sf_map_shape shape;
  std::vector<uint64_t> storage;
  sf_map handle{};
};

}  // namespace shortfuse::vm::testing
