#include "pin_store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace shortfuse::bridge {
namespace {

class Pins : public ::testing::Test {
 protected:
  Pins() {
    char name[] = "/tmp/sf-pins.XXXXXX";
    directory_ = mkdtemp(name);
  }
  ~Pins() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<MapStorage> make(uint32_t type, uint32_t key, uint32_t value, uint32_t entries) {
    auto storage = std::make_unique<MapStorage>();
    storage->shape.type = type;
    storage->shape.key_size = key;
    storage->shape.value_size = value;
    storage->shape.max_entries = entries;
    storage->shape.pinning = 1;
    std::strcpy(storage->shape.name, "kept");
    storage->memory = std::move(*make_memory(storage->shape, Writers::DaemonOnly));
    return storage;
  }
  PinStore store(const std::string &mount = "/mnt") { return {directory_, mount}; }
  /// Through a file into a map that is new.
  std::unique_ptr<MapStorage> kept(MapStorage &map, const std::map<std::string, std::string> &sums = {}) {
    map.restored = true;
    EXPECT_EQ("", store().save(map, sums));
    auto fresh = make(map.shape.type, map.shape.key_size, map.shape.value_size, map.shape.max_entries);
    EXPECT_EQ("", store().restore(*fresh));
    return fresh;
  }
  std::string directory_;
};

TEST_F(Pins, EveryKindThatHoldsContents) {
  for (uint32_t type : {uint32_t{SF_MAP_HASH}, uint32_t{SF_MAP_LRU_HASH}, uint32_t{SF_MAP_ARRAY}}) {
    auto map = make(type, 4, 8, 10);
    for (uint32_t key = 0; key < 7; key++) {
      const uint64_t value = key * 100;
      ASSERT_EQ(0, sf_map_update(map->handle(), &key, &value, 0, 0));
    }
    auto fresh = kept(*map);
    for (uint32_t key = 0; key < 7; key++) {
      const auto *value = static_cast<const uint64_t *>(sf_map_lookup(fresh->handle(), &key, 0));
      ASSERT_NE(nullptr, value) << type;
      EXPECT_EQ(key * 100, *value);
    }
  }
  for (uint32_t type : {uint32_t{SF_MAP_QUEUE}, uint32_t{SF_MAP_STACK}}) {
    auto map = make(type, 0, 8, 4);
    for (uint64_t value : {1, 2, 3}) ASSERT_EQ(0, sf_map_push(map->handle(), &value, 0));
    auto fresh = kept(*map);
    for (int i = 0; i < 4; i++) {
      uint64_t before = 0, after = 0;
      const int result = sf_map_pop(map->handle(), &before);
      ASSERT_EQ(result, sf_map_pop(fresh->handle(), &after));
      ASSERT_EQ(before, after);
    }
  }
  auto filter = make(SF_MAP_BLOOM_FILTER, 0, 8, 100);
  for (uint64_t value = 0; value < 50; value++) sf_map_push(filter->handle(), &value, 0);
  auto fresh = kept(*filter);
  for (uint64_t value = 0; value < 50; value++) EXPECT_EQ(0, sf_map_peek(fresh->handle(), &value));
}

TEST_F(Pins, SumsOfPerCpuMaps) {
  auto map = make(SF_MAP_PERCPU_HASH, 4, 8, 10);
  auto fresh = kept(*map, {{std::string("\1\0\0\0", 4), std::string("\7\0\0\0\0\0\0\0", 8)}});
  EXPECT_EQ(1u, fresh->account.sums().size());
}

TEST_F(Pins, WhatDoesNotFitIsDroppedAndSaid) {
  auto map = make(SF_MAP_HASH, 4, 8, 10);
  const uint32_t key = 1;
  const uint64_t value = 2;
  sf_map_update(map->handle(), &key, &value, 0, 0);
  map->restored = true;
  auto pins = store();
  ASSERT_EQ("", pins.save(*map, {}));
  const std::string path = pins.path_of(*map);

  auto larger = make(SF_MAP_HASH, 4, 8, 20);
  EXPECT_NE(std::string::npos, pins.restore(*larger).find("another shape"));
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_EQ(0u, sf_map_count(larger->handle()));

  ASSERT_EQ("", store().save(*map, {}));
  const auto size = std::filesystem::file_size(path);
  for (uintmax_t at = 0; at < size; at++) {
    ASSERT_EQ("", store().save(*map, {}));
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char was = static_cast<char>(file.get());
    file.seekp(static_cast<std::streamoff>(at));
    file.put(static_cast<char>(was ^ 0x10));
    file.close();
    auto fresh = make(SF_MAP_HASH, 4, 8, 10);
    ASSERT_NE("", store().restore(*fresh)) << "byte " << at;
    ASSERT_EQ(0u, sf_map_count(fresh->handle()));
    ASSERT_FALSE(std::filesystem::exists(path));
  }
  for (uintmax_t shorter = 0; shorter < size; shorter++) {
    ASSERT_EQ("", store().save(*map, {}));
    std::filesystem::resize_file(path, shorter);
    auto fresh = make(SF_MAP_HASH, 4, 8, 10);
    ASSERT_NE("", store().restore(*fresh)) << shorter << " bytes";
  }
}

TEST_F(Pins, OfThisMountAndThisUserOnly) {
  auto map = make(SF_MAP_HASH, 4, 8, 10);
  map->restored = true;
  auto pins = store();
  ASSERT_EQ("", pins.save(*map, {}));
  auto other = make(SF_MAP_HASH, 4, 8, 10);
  EXPECT_NE(pins.path_of(*map), store("/elsewhere").path_of(*other));
  ASSERT_EQ(0, chmod(pins.path_of(*map).c_str(), 0666));
  EXPECT_NE("", pins.restore(*other)) << "anybody may write it";
  ASSERT_EQ(0, chmod(directory_.c_str(), 0777));
  auto third = make(SF_MAP_HASH, 4, 8, 10);
  EXPECT_NE("", store().restore(*third));
}

}  // namespace
}  // namespace shortfuse::bridge
