#include <dirent.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "testing.h"

namespace shortfuse::cache {
namespace {

std::vector<std::byte> fuse_record(uint64_t ino, uint64_t off, uint32_t type, std::string_view name) {
  std::vector<std::byte> record((FUSE_NAME_OFFSET + name.size() + 7) / 8 * 8);
  fuse_dirent head{};
  head.ino = ino;
  head.off = off;
  head.namelen = static_cast<uint32_t>(name.size());
  head.type = type;
  std::memcpy(record.data(), &head, FUSE_NAME_OFFSET);
  std::memcpy(record.data() + FUSE_NAME_OFFSET, name.data(), name.size());
  return record;
}

TEST(ConvertDirents, GivesWhatGetdentsGives) {
  auto bytes = fuse_record(5, 1, DT_DIR, ".");
  auto more = fuse_record(~0ull, 77, DT_REG, "twelve chars");
  bytes.insert(bytes.end(), more.begin(), more.end());
  std::vector<std::byte> out;
  ASSERT_TRUE(convert_dirents(bytes, out));
  ASSERT_EQ(24u + 32u, out.size());
  const auto *dot = reinterpret_cast<const sf_dirent *>(out.data());
  EXPECT_EQ(5u, dot->ino);
  EXPECT_EQ(1u, dot->off);
  EXPECT_EQ(24, dot->reclen);
  EXPECT_EQ(DT_DIR, dot->type);
  EXPECT_STREQ(".", dot->name);
  const auto *file = reinterpret_cast<const sf_dirent *>(out.data() + 24);
  EXPECT_EQ(~0ull, file->ino);
  EXPECT_EQ(77u, file->off);
  EXPECT_EQ(32, file->reclen) << "19 bytes, the name, its NUL: exactly a multiple of eight";
  EXPECT_STREQ("twelve chars", file->name);
  EXPECT_TRUE(convert_dirents({}, out));
}

TEST(ConvertDirents, RefusesWhatIsMalformed) {
  std::vector<std::byte> out;
  const auto good = fuse_record(1, 1, DT_REG, "name");
  EXPECT_FALSE(convert_dirents(fuse_record(1, 1, DT_REG, "a/b"), out));
  EXPECT_FALSE(convert_dirents(fuse_record(1, 1, DT_REG, {"a\0b", 3}), out));
  EXPECT_FALSE(convert_dirents(fuse_record(1, 1, DT_REG, ""), out));
  EXPECT_FALSE(convert_dirents(fuse_record(1, 1, DT_REG, std::string(1025, 'x')), out));
  for (size_t cut = 1; cut < FUSE_NAME_OFFSET + 4; ++cut) {
    EXPECT_FALSE(convert_dirents(std::span(good).first(cut), out)) << cut;
  }
}

TEST(ConvertDirents, SurvivesRandomBytes) {
  std::mt19937 random(5);
  for (int round = 0; round < 20000; ++round) {
    auto bytes = fuse_record(1, 1, DT_REG, "some name");
    auto more = fuse_record(2, 2, DT_REG, "another name");
    bytes.insert(bytes.end(), more.begin(), more.end());
    for (int i = 0; i < 4; ++i) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    std::vector<std::byte> out;
    if (!convert_dirents(bytes, out)) continue;
    for (size_t at = 0; at < out.size();) {
      sf_dirent entry;
      std::memcpy(&entry, out.data() + at, offsetof(sf_dirent, name));
      ASSERT_GE(entry.reclen, 24);
      at += entry.reclen;
      ASSERT_LE(at, out.size());
    }
  }
}

}  // namespace
}  // namespace shortfuse::cache
