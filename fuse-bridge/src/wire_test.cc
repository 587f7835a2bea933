// The codec against requests built byte by byte, whole, cut short, and mutated.
#include "wire.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <termios.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace shortfuse::bridge {
namespace {

using cache::Cache;
using cache::Holder;

std::vector<std::byte> message(uint32_t opcode, uint64_t node, std::initializer_list<Bytes> parts) {
  std::vector<std::byte> out(sizeof(fuse_in_header));
  for (Bytes part : parts) out.insert(out.end(), part.begin(), part.end());
  fuse_in_header header{};
  header.len = static_cast<uint32_t>(out.size());
  header.opcode = opcode;
  header.unique = 2;
  header.nodeid = node;
  std::memcpy(out.data(), &header, sizeof(header));
  return out;
}

Bytes text(const char *s) { return std::as_bytes(std::span(s, std::strlen(s) + 1)); }

class WireTest : public ::testing::Test {
 protected:
  void SetUp() override {
    cache_ = std::move(*Cache::create({.budget_bytes = 8 << 20}));
    dir_ = cache_->learn(10, SF_NID_ROOT, "d", true, Holder::Kernel);
    file_ = cache_->learn(20, dir_, "f", false, Holder::Kernel);
  }
  Touches touches(const std::vector<std::byte> &bytes) {
    auto request = parse_request(bytes);
    EXPECT_TRUE(request);
    return touches_of(*request, *cache_);
  }
  std::unique_ptr<Cache> cache_;
  cache::Nid dir_ = 0, file_ = 0;
};

TEST_F(WireTest, ReadsTouchNothing) {
  const fuse_read_in read{};
  EXPECT_TRUE(touches(message(FUSE_READ, 20, {bytes_of(read)})).empty());
  EXPECT_TRUE(touches(message(FUSE_LOOKUP, 10, {text("f")})).empty());
  EXPECT_TRUE(touches(message(FUSE_GETATTR, 20, {bytes_of(fuse_getattr_in{})})).empty());
  EXPECT_TRUE(touches(message(kOpcodeStatx, 20, {})).empty());
}

TEST_F(WireTest, WriteTouchesContents) {
  fuse_write_in in{};
  in.offset = 7;
  in.size = 3;
  auto bytes = message(FUSE_WRITE, 20, {bytes_of(in), bytes_of(std::string_view("abc"))});
  auto request = parse_request(bytes);
  ASSERT_TRUE(request);
  EXPECT_EQ(request->offset, 7u);
  EXPECT_EQ(request->length, 3u);
  Touches t = touches_of(*request, *cache_);
  ASSERT_EQ(t.nodes.size(), 1u);
  EXPECT_EQ(t.nodes[0].nid, file_);
  EXPECT_EQ(t.nodes[0].what, cache::kTouchContent);
}

TEST_F(WireTest, RenameTouchesBothNames) {
  fuse_rename2_in in{};
  in.newdir = 1;
  in.flags = 1;  // RENAME_NOREPLACE
  Touches t = touches(message(FUSE_RENAME2, 10, {bytes_of(in), text("f"), text("g")}));
  ASSERT_EQ(t.names.size(), 2u);
  EXPECT_EQ(t.names[0].dir, dir_);
  EXPECT_EQ(t.names[0].name, "f");
  EXPECT_TRUE(t.names[0].child_exists);
  EXPECT_EQ(t.names[1].dir, SF_NID_ROOT);
  EXPECT_EQ(t.names[1].name, "g");
  EXPECT_FALSE(t.names[1].child_exists);
}

TEST_F(WireTest, OpenOnlyForWriting) {
  fuse_open_in in{};
  EXPECT_TRUE(touches(message(FUSE_OPEN, 20, {bytes_of(in)})).empty());
  in.flags = O_RDWR;
  EXPECT_EQ(touches(message(FUSE_OPEN, 20, {bytes_of(in)})).nodes.size(), 1u);
  in.flags = O_RDONLY | O_TRUNC;
  EXPECT_EQ(touches(message(FUSE_OPEN, 20, {bytes_of(in)})).nodes.size(), 1u);
}

TEST_F(WireTest, IoctlsThatOnlyAskTouchNothing) {
  fuse_ioctl_in in{};
  in.cmd = TCGETS;
  EXPECT_TRUE(touches(message(FUSE_IOCTL, 20, {bytes_of(in)})).empty());
  in.cmd = FS_IOC_SETFLAGS;
  EXPECT_FALSE(touches(message(FUSE_IOCTL, 20, {bytes_of(in)})).empty());
}

TEST_F(WireTest, UnknownOpcodesTouchEverything) {
  for (uint32_t opcode : {53u, 63u, 100u, 4096u}) EXPECT_TRUE(touches(message(opcode, 20, {})).everything) << opcode;
}

TEST_F(WireTest, EveryKnownMutationTouchesSomething) {
  fuse_setattr_in setattr{};
  setattr.valid = FATTR_SIZE;
  EXPECT_FALSE(touches(message(FUSE_SETATTR, 20, {bytes_of(setattr)})).empty());
  EXPECT_FALSE(touches(message(FUSE_MKDIR, 10, {bytes_of(fuse_mkdir_in{}), text("n")})).empty());
  EXPECT_FALSE(touches(message(FUSE_MKNOD, 10, {bytes_of(fuse_mknod_in{}), text("n")})).empty());
  EXPECT_FALSE(touches(message(FUSE_SYMLINK, 10, {text("n"), text("target")})).empty());
  EXPECT_FALSE(touches(message(FUSE_CREATE, 10, {bytes_of(fuse_create_in{}), text("n")})).empty());
  EXPECT_FALSE(touches(message(FUSE_UNLINK, 10, {text("f")})).empty());
  EXPECT_FALSE(touches(message(FUSE_RMDIR, 1, {text("d")})).empty());
  EXPECT_FALSE(touches(message(FUSE_REMOVEXATTR, 20, {text("user.a")})).empty());
  EXPECT_FALSE(touches(message(FUSE_SETXATTR, 20, {bytes_of(fuse_setxattr_in{})})).empty());
  EXPECT_FALSE(touches(message(FUSE_FALLOCATE, 20, {bytes_of(fuse_fallocate_in{})})).empty());
  fuse_copy_file_range_in copy{};
  copy.nodeid_out = 20;
  EXPECT_FALSE(touches(message(FUSE_COPY_FILE_RANGE, 10, {bytes_of(copy)})).empty());
  fuse_link_in link{20};
  Touches t = touches(message(FUSE_LINK, 10, {bytes_of(link), text("hard")}));
  EXPECT_EQ(t.nodes.size(), 1u);
  EXPECT_EQ(t.names.size(), 1u);
}

TEST_F(WireTest, CutMessagesAreRefused) {
  fuse_rename_in in{1};
  const auto whole = message(FUSE_RENAME, 10, {bytes_of(in), text("a"), text("b")});
  for (size_t n = 0; n < whole.size(); n++) {
    auto cut = whole;
    cut.resize(n);
    EXPECT_FALSE(parse_request(cut)) << n;
    if (n < sizeof(fuse_in_header)) continue;
    // A header that admits the cut does not help: the names are missing.
    const auto len = static_cast<uint32_t>(n);
    std::memcpy(cut.data(), &len, sizeof(len));
    EXPECT_FALSE(parse_request(cut)) << n;
  }
}

TEST_F(WireTest, RandomBytesNeverCrash) {
  std::mt19937 random(7);
  for (int round = 0; round < 200'000; round++) {
    std::vector<std::byte> bytes(sizeof(fuse_in_header) + random() % 120);
    for (auto &b : bytes) b = static_cast<std::byte>(random() % (round % 2 ? 256 : 3));
    auto header = read_struct<fuse_in_header>(bytes).value();
    header.len = static_cast<uint32_t>(bytes.size());
    header.opcode = random() % 56;
    header.nodeid = random() % 30;
    std::memcpy(bytes.data(), &header, sizeof(header));
    if (auto request = parse_request(bytes)) touches_of(*request, *cache_);
    std::vector<PlusEntry> entries;
    std::vector<std::byte> dirents;
    read_direntplus(bytes, entries, dirents);
    last_cookie(bytes);
  }
}

TEST(DirentPlus, SplitsIntoEntriesAndPlainRecords) {
  std::vector<std::byte> reply;
  for (const char *name : {"one", "a-longer-name"}) {
    const size_t at = reply.size();
    reply.resize(at + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + std::strlen(name)));
    auto *plus = reinterpret_cast<fuse_direntplus *>(reply.data() + at);
    plus->entry_out.nodeid = std::strlen(name);
    plus->dirent.off = at + 1;
    plus->dirent.namelen = static_cast<uint32_t>(std::strlen(name));
    std::memcpy(plus->dirent.name, name, std::strlen(name));
  }
  std::vector<PlusEntry> entries;
  std::vector<std::byte> dirents;
  ASSERT_TRUE(read_direntplus(reply, entries, dirents));
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].name, "one");
  EXPECT_EQ(entries[1].name, "a-longer-name");
  EXPECT_EQ(entries[1].entry.nodeid, 13u);
  EXPECT_EQ(last_cookie(dirents), entries[1].entry_offset + 1);
  reply.resize(reply.size() - 16);
  entries.clear();
  dirents.clear();
  EXPECT_FALSE(read_direntplus(reply, entries, dirents));
}

}  // namespace
}  // namespace shortfuse::bridge
