// The two flows over a socket in the device's place: the test is the kernel on one end and the file system on the
// other.
#include "bridge.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace shortfuse::bridge {
namespace {

std::string policy(const char *name) { return std::string(SHORTFUSE_POLICIES) + "/" + name + ".bpf.o"; }

Bytes text(const char *s) { return std::as_bytes(std::span(s, std::strlen(s) + 1)); }

class BridgeTest : public ::testing::Test {
 protected:
  /// A request that never comes would hang the test for ever.
  void SetUp() override { alarm(120); }
  void TearDown() override { alarm(0); }
  void start(const char *name) {
    Options options;
    options.policies = {policy(name)};
    options.budget_bytes = 8 << 20;
    auto made = Bridge::create(options);
    ASSERT_TRUE(made) << made.error();
    bridge_ = std::move(*made);
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    kernel_.reset(pair[0]);
    device_.reset(pair[1]);
    bridge_->mounted(nullptr, device_.get(), "");
  }

  /// The kernel sends; returns its unique number.
  uint64_t send(uint32_t opcode, uint64_t node, std::initializer_list<Bytes> parts) {
    std::vector<std::byte> out(sizeof(fuse_in_header));
    for (Bytes part : parts) out.insert(out.end(), part.begin(), part.end());
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(out.size());
    header.opcode = opcode;
    header.unique = unique_ += 2;
    header.nodeid = node;
    std::memcpy(out.data(), &header, sizeof(header));
    EXPECT_EQ(::write(kernel_.get(), out.data(), out.size()), static_cast<ssize_t>(out.size()));
    return header.unique;
  }
  /// What the file system gets to see next.
  Request receive() {
    const ssize_t got = bridge_->read(device_.get(), buffer_, sizeof(buffer_));
    EXPECT_GT(got, 0);
    auto request = parse_request({buffer_, static_cast<size_t>(got)});
    EXPECT_TRUE(request);
    return *request;
  }
  /// The file system replies.
  void reply(uint64_t unique, int error, Bytes body = {}) {
    fuse_out_header out{static_cast<uint32_t>(sizeof(out) + body.size()), error, unique};
    iovec iov[2] = {{&out, sizeof(out)}, {const_cast<std::byte *>(body.data()), body.size()}};
    EXPECT_EQ(bridge_->write(device_.get(), iov, body.empty() ? 1 : 2), static_cast<ssize_t>(out.len));
  }
  /// What the kernel gets: the header, the body behind it in `answer_`. Nothing waiting: error 1.
  fuse_out_header arrived() {
    char bytes[65536];
    const ssize_t got = recv(kernel_.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
    fuse_out_header out{0, 1, 0};
    if (got < static_cast<ssize_t>(sizeof(out))) return out;
    std::memcpy(&out, bytes, sizeof(out));
    answer_.assign(bytes + sizeof(out), static_cast<size_t>(got) - sizeof(out));
    return out;
  }
  /// One whole exchange that the file system answers.
  fuse_out_header exchange(uint32_t opcode, uint64_t node, std::initializer_list<Bytes> parts, int error,
                           Bytes body = {}) {
    const uint64_t unique = send(opcode, node, parts);
    EXPECT_EQ(receive().header.unique, unique);
    reply(unique, error, body);
    return arrived();
  }
  fuse_attr_out attributes(uint64_t size) {
    fuse_attr_out out{};
    out.attr.ino = 77;
    out.attr.size = size;
    out.attr.mode = S_IFREG | 0644;
    out.attr.mtime = out.attr.ctime = 1000 + size;
    return out;
  }
  void lookup(uint64_t parent, const char *name, uint64_t nodeid, uint64_t size, uint32_t type = S_IFREG) {
    fuse_entry_out entry{};
    entry.nodeid = nodeid;
    entry.attr = attributes(size).attr;
    entry.attr.mode = type | 0755;
    EXPECT_EQ(exchange(FUSE_LOOKUP, parent, {text(name)}, 0, bytes_of(entry)).error, 0);
  }
  std::optional<uint64_t> cached_size(uint64_t nodeid) {
    sf_moment now{};
    sf_attr_view attr;
    const cache::Nid nid = bridge_->cache().nid_of(nodeid);
    if (!nid || sf_find_attr(&bridge_->cache().view(), nid, &now, &attr) != SF_FIND_OK) return std::nullopt;
    return attr.attr.size;
  }
  /// The node a name leads to: its nid, 0 for "there is none", nothing when not cached.
  std::optional<uint64_t> cached_name(uint64_t dir, std::string_view name) {
    sf_moment now{};
    uint64_t child = 0;
    const sf_view &view = bridge_->cache().view();
    const uint64_t hash = sf_name_hash(&view, name.data(), name.size());
    if (sf_find_dentry(&view, bridge_->cache().nid_of(dir), name.data(), name.size(), hash, &now, &child) != SF_FIND_OK)
      return std::nullopt;
    return child;
  }
  bool cached_page(uint64_t nodeid, uint64_t page) {
    sf_moment now{};
    sf_attr_view attr;
    if (sf_find_attr(&bridge_->cache().view(), bridge_->cache().nid_of(nodeid), &now, &attr) != SF_FIND_OK)
      return false;
    return attr.cid && sf_find_ref(&bridge_->cache().view(), SF_REC_DATA, attr.cid, page) != 0;
  }

  std::unique_ptr<Bridge> bridge_;
  Descriptor kernel_, device_;
  uint64_t unique_ = 0;
  std::string answer_;
  alignas(8) std::byte buffer_[1 << 16];
};

TEST_F(BridgeTest, WhatAPolicyDropsIsNotKept) {
  start("keepnothing");
  lookup(FUSE_ROOT_ID, "there", 5, 100);
  EXPECT_EQ(cached_size(5), std::nullopt);
  EXPECT_EQ(cached_name(FUSE_ROOT_ID, "there"), std::nullopt);
  EXPECT_EQ(exchange(FUSE_GETATTR, 5, {bytes_of(fuse_getattr_in{})}, 0, bytes_of(attributes(100))).error, 0);
  EXPECT_EQ(cached_size(5), std::nullopt);
  EXPECT_EQ(exchange(FUSE_LOOKUP, FUSE_ROOT_ID, {text("missing")}, -ENOENT).error, -ENOENT);
  EXPECT_EQ(cached_name(FUSE_ROOT_ID, "missing"), 0u);
}

TEST_F(BridgeTest, KeepsWhatAReplyTells) {
  start("metacache");
  lookup(1, "f", 5, 10);
  EXPECT_EQ(cached_size(5), 10u);
  EXPECT_EQ(cached_name(1, "f"), bridge_->cache().nid_of(5));
  exchange(FUSE_LOOKUP, 1, {text("none")}, -ENOENT);
  EXPECT_EQ(cached_name(1, "none"), 0u);
}

TEST_F(BridgeTest, AMutationIsGoneBeforeTheFileSystemSeesIt) {
  start("metacache");
  lookup(1, "f", 5, 10);
  fuse_setattr_in in{};
  in.valid = FATTR_SIZE;
  in.size = 20;
  const uint64_t unique = send(FUSE_SETATTR, 5, {bytes_of(in)});
  receive();
  EXPECT_FALSE(cached_size(5));
  // A reply that was on its way with the older state is not kept.
  reply(unique, 0, bytes_of(attributes(20)));
  arrived();
  EXPECT_EQ(cached_size(5).value_or(20), 20u);
}

TEST_F(BridgeTest, AFillThatReadBeforeAMutationIsRefused) {
  start("metacache");
  lookup(1, "f", 5, 10);
  bridge_->cache().drop_node(bridge_->cache().nid_of(5));  // or the policy would answer
  const uint64_t getattr = send(FUSE_GETATTR, 5, {bytes_of(fuse_getattr_in{})});
  receive();
  fuse_setattr_in in{};
  in.valid = FATTR_SIZE;
  const uint64_t setattr = send(FUSE_SETATTR, 5, {bytes_of(in)});
  receive();
  reply(setattr, 0, bytes_of(attributes(20)));
  reply(getattr, 0, bytes_of(attributes(10)));
  EXPECT_NE(cached_size(5).value_or(20), 10u);
}

TEST_F(BridgeTest, UnlinkTakesTheName) {
  start("metacache");
  lookup(1, "f", 5, 10);
  const uint64_t unique = send(FUSE_UNLINK, 1, {text("f")});
  receive();
  EXPECT_FALSE(cached_name(1, "f"));
  EXPECT_FALSE(cached_size(5));
  reply(unique, 0);
  EXPECT_FALSE(cached_name(1, "f").value_or(0));
}

TEST_F(BridgeTest, ForgottenNodesBeginNewLives) {
  start("metacache");
  lookup(1, "f", 5, 10);
  const cache::Nid before = bridge_->cache().nid_of(5);
  fuse_forget_in in{1};
  send(FUSE_FORGET, 5, {bytes_of(in)});
  receive();
  EXPECT_EQ(bridge_->cache().nid_of(5), 0u);
  lookup(1, "g", 5, 99);
  EXPECT_NE(bridge_->cache().nid_of(5), before);
  EXPECT_EQ(cached_size(5), 99u);
}

TEST_F(BridgeTest, DataIsHiddenWhileAWriterHasItOpen) {
  start("datacache");
  lookup(1, "f", 5, 4096);
  const std::string page(4096, 'x');
  fuse_read_in read{};
  read.size = 8192;
  exchange(FUSE_READ, 5, {bytes_of(read)}, 0, bytes_of(std::string_view(page)));
  exchange(FUSE_GETATTR, 5, {bytes_of(fuse_getattr_in{})}, 0, bytes_of(attributes(4096)));
  EXPECT_TRUE(cached_page(5, 0));
  fuse_open_in open{};
  open.flags = O_WRONLY;
  const uint64_t opening = send(FUSE_OPEN, 5, {bytes_of(open)});
  receive();
  EXPECT_FALSE(cached_page(5, 0));
  reply(opening, 0, bytes_of(fuse_open_out{}));
  EXPECT_TRUE(bridge_->cache().has_writer(bridge_->cache().nid_of(5)));
  fuse_release_in release{};
  release.flags = O_WRONLY;
  exchange(FUSE_RELEASE, 5, {bytes_of(release)}, 0);
  EXPECT_FALSE(bridge_->cache().has_writer(bridge_->cache().nid_of(5)));
  EXPECT_FALSE(cached_page(5, 0));
}

TEST_F(BridgeTest, AFailedOpenLeavesNoWriter) {
  start("datacache");
  lookup(1, "f", 5, 4096);
  fuse_open_in open{};
  open.flags = O_RDWR;
  exchange(FUSE_OPEN, 5, {bytes_of(open)}, -EACCES);
  EXPECT_FALSE(bridge_->cache().has_writer(bridge_->cache().nid_of(5)));
}

TEST_F(BridgeTest, DirectIoIsNobodyElses) {
  start("datacache");
  lookup(1, "f", 5, 4096);
  fuse_open_out opened{};
  opened.fh = 9;
  opened.open_flags = FOPEN_DIRECT_IO;
  exchange(FUSE_OPEN, 5, {bytes_of(fuse_open_in{})}, 0, bytes_of(opened));
  fuse_read_in read{};
  read.fh = 9;
  read.size = 4096;
  exchange(FUSE_READ, 5, {bytes_of(read)}, 0, bytes_of(std::string_view(std::string(4096, 'x'))));
  exchange(FUSE_GETATTR, 5, {bytes_of(fuse_getattr_in{})}, 0, bytes_of(attributes(4096)));
  EXPECT_FALSE(cached_page(5, 0));
}

TEST_F(BridgeTest, HintsAreFetchedByMessagesOfOurOwn) {
  start("metacache");
  lookup(1, "f", 5, 10);
  bridge_->cache().drop_node(bridge_->cache().nid_of(5));
  ASSERT_FALSE(cached_size(5));
  bridge_->fetcher().want({SF_HINT_ATTR, bridge_->cache().nid_of(5), 0, 0, {}});
  Request own = receive();
  EXPECT_EQ(own.header.opcode, static_cast<uint32_t>(FUSE_GETATTR));
  EXPECT_EQ(own.header.nodeid, 5u);
  reply(own.header.unique, 0, bytes_of(attributes(30)));
  EXPECT_EQ(arrived().error, 1) << "the kernel must not see the reply";
  EXPECT_EQ(cached_size(5), 30u);
}

TEST_F(BridgeTest, DataIsFetchedWithAHandleOfOurOwn) {
  start("datacache");
  lookup(1, "f", 5, 5000);
  bridge_->fetcher().want({SF_HINT_DATA, bridge_->cache().nid_of(5), 0, 8192, {}});
  Request open = receive();
  ASSERT_EQ(open.header.opcode, static_cast<uint32_t>(FUSE_OPEN));
  fuse_open_out opened{};
  opened.fh = 42;
  reply(open.header.unique, 0, bytes_of(opened));
  Request read = receive();
  ASSERT_EQ(read.header.opcode, static_cast<uint32_t>(FUSE_READ));
  EXPECT_EQ(read.file_handle, 42u);
  reply(read.header.unique, 0, bytes_of(std::string_view(std::string(5000, 'y'))));
  Request release = receive();
  ASSERT_EQ(release.header.opcode, static_cast<uint32_t>(FUSE_RELEASE));
  EXPECT_EQ(release.file_handle, 42u);
  reply(release.header.unique, 0);
  EXPECT_TRUE(cached_page(5, 0));
  EXPECT_TRUE(cached_page(5, 1));
}

TEST_F(BridgeTest, QuestionsAboutAFileAreAnsweredOnce) {
  start("datacache");
  lookup(1, "f", 5, 1000);
  sf_moment now{};
  sf_attr_view attr;
  const sf_view &view = bridge_->cache().view();
  const auto known = [&](sf_question question) -> std::optional<uint64_t> {
    uint64_t from, to;
    if (sf_find_attr(&view, bridge_->cache().nid_of(5), &now, &attr) != SF_FIND_OK) return std::nullopt;
    if (sf_find_answer(&view, attr.cid, question, &from, &to) != SF_FIND_OK) return std::nullopt;
    return from << 32 | to;
  };
  const auto seek = [&](uint64_t from, uint32_t whence, uint64_t to) {
    const fuse_lseek_in in{.fh = 1, .offset = from, .whence = whence, .padding = 0};
    EXPECT_EQ(exchange(FUSE_LSEEK, 5, {bytes_of(in)}, 0, bytes_of(fuse_lseek_out{to})).error, 0);
  };
  const auto ask = [&](uint32_t command, int error) {
    fuse_ioctl_in in{};
    in.cmd = command;
    EXPECT_EQ(exchange(FUSE_IOCTL, 5, {bytes_of(in)}, error).error, error);
  };
  seek(10, SEEK_DATA, 20);
  seek(30, SEEK_HOLE, 30);
  EXPECT_FALSE(known(SF_ASKED_HOLE));
  seek(30, SEEK_HOLE, 1000);
  EXPECT_EQ(known(SF_ASKED_HOLE), 30ull << 32 | 1000);
  ask(TIOCGWINSZ, -ENOTTY);
  ask(TCGETS, -EPERM);
  EXPECT_FALSE(known(SF_ASKED_TERMINAL));
  ask(TCGETS, -ENOTTY);
  EXPECT_TRUE(known(SF_ASKED_TERMINAL));
  EXPECT_EQ(bridge_->cache().header()->mount_flags & (SF_MNT_NO_IOCTL | SF_MNT_NO_LSEEK), 0u);
  // It was opened to be read directly: what is in it is the file system's to say.
  fuse_open_out opened{};
  opened.open_flags = FOPEN_DIRECT_IO;
  exchange(FUSE_OPEN, 5, {bytes_of(fuse_open_in{})}, 0, bytes_of(opened));
  exchange(FUSE_GETATTR, 5, {bytes_of(fuse_getattr_in{})}, 0, bytes_of(attributes(1000)));
  seek(0, SEEK_HOLE, 1000);
  ask(TCGETS, -ENOTTY);
  EXPECT_FALSE(known(SF_ASKED_HOLE) || known(SF_ASKED_TERMINAL));
}

TEST_F(BridgeTest, CallsThatTheFileSystemDoesNotHaveAreSaidToBeMissing) {
  start("datacache");
  lookup(1, "f", 5, 1000);
  exchange(FUSE_LSEEK, 5, {bytes_of(fuse_lseek_in{})}, -ENOSYS);
  EXPECT_EQ(bridge_->cache().header()->mount_flags & (SF_MNT_NO_IOCTL | SF_MNT_NO_LSEEK), uint32_t{SF_MNT_NO_LSEEK});
  exchange(FUSE_IOCTL, 5, {bytes_of(fuse_ioctl_in{})}, -ENOSYS);
  EXPECT_EQ(bridge_->cache().header()->mount_flags & (SF_MNT_NO_IOCTL | SF_MNT_NO_LSEEK),
            uint32_t{SF_MNT_NO_IOCTL | SF_MNT_NO_LSEEK});
}

// Nothing but an open tells whether there is more to an empty file than the kernel would show.
TEST_F(BridgeTest, AnEmptyFileIsOpenedOnceToo) {
  start("datacache");
  lookup(1, "f", 5, 0);
  const cache::Nid nid = bridge_->cache().nid_of(5);
  for (bool direct : {true, false}) {
    SCOPED_TRACE(direct);
    const uint64_t node = direct ? 5 : 6;
    if (!direct) lookup(1, "g", 6, 0);
    bridge_->fetcher().want({SF_HINT_DATA, direct ? nid : bridge_->cache().nid_of(6), 0, SF_PAGE_BYTES, {}});
    const Request open = receive();
    EXPECT_EQ(open.header.opcode, uint32_t{FUSE_OPEN});
    fuse_open_out opened{};
    if (direct) opened.open_flags = FOPEN_DIRECT_IO;
    reply(open.header.unique, 0, bytes_of(opened));
    Request next = receive();
    if (!direct) {
      EXPECT_EQ(next.header.opcode, uint32_t{FUSE_READ});
      reply(next.header.unique, 0);
      next = receive();
    }
    EXPECT_EQ(next.header.opcode, uint32_t{FUSE_RELEASE});
    reply(next.header.unique, 0);
    if (direct) exchange(FUSE_GETATTR, 5, {bytes_of(fuse_getattr_in{})}, 0, bytes_of(attributes(0)));
    EXPECT_EQ(cached_page(node, 0), !direct);
    // Not again.
    bridge_->fetcher().want({SF_HINT_DATA, bridge_->cache().nid_of(node), 0, SF_PAGE_BYTES, {}});
    exchange(FUSE_GETXATTR, node, {bytes_of(fuse_getxattr_in{}), text("user.x")}, -ENODATA);
  }
}

TEST_F(BridgeTest, ANodeLivesAsLongAsAJobNeedsIt) {
  start("datacache");
  lookup(1, "f", 5, 4096);
  const cache::Nid nid = bridge_->cache().nid_of(5);
  bridge_->fetcher().want({SF_HINT_DATA, nid, 0, 4096, {}});
  Request open = receive();
  ASSERT_EQ(open.header.opcode, static_cast<uint32_t>(FUSE_OPEN));
  // The kernel forgets this node and another: the file system hears of the other only.
  lookup(1, "g", 6, 10);
  fuse_batch_forget_in batch{};
  batch.count = 2;
  fuse_forget_one both[2] = {{5, 1}, {6, 1}};
  send(FUSE_BATCH_FORGET, 0, {bytes_of(batch), bytes_of(both)});
  Request heard = receive();
  ASSERT_EQ(heard.header.opcode, static_cast<uint32_t>(FUSE_BATCH_FORGET));
  EXPECT_EQ(read_struct<fuse_batch_forget_in>(heard.arguments)->count, 1u);
  EXPECT_EQ(read_struct<fuse_forget_one>(heard.arguments, sizeof(batch))->nodeid, 6u);
  EXPECT_EQ(bridge_->cache().nid_of(5), nid);
  EXPECT_EQ(bridge_->cache().nid_of(6), 0u);

  reply(open.header.unique, 0, bytes_of(fuse_open_out{}));
  Request read = receive();
  ASSERT_EQ(read.header.opcode, static_cast<uint32_t>(FUSE_READ));
  reply(read.header.unique, 0, bytes_of(std::string_view(std::string(4096, 'y'))));
  Request release = receive();
  ASSERT_EQ(release.header.opcode, static_cast<uint32_t>(FUSE_RELEASE));
  reply(release.header.unique, 0);
  Request forget = receive();
  if (forget.header.opcode == FUSE_GETATTR) {  // reading moved the access time
    reply(forget.header.unique, 0, bytes_of(attributes(4096)));
    forget = receive();
  }
  ASSERT_EQ(forget.header.opcode, static_cast<uint32_t>(FUSE_FORGET));
  EXPECT_EQ(forget.header.nodeid, 5u);
  EXPECT_EQ(read_struct<fuse_forget_in>(forget.arguments)->nlookup, 1u);
  EXPECT_EQ(bridge_->cache().nid_of(5), 0u);
}

TEST_F(BridgeTest, ANameIsRemovedOnlyWhenNoJobHasItOpen) {
  start("datacache");
  lookup(1, "f", 5, 1 << 20);
  bridge_->fetcher().want({SF_HINT_DATA, bridge_->cache().nid_of(5), 0, 1 << 20, {}});
  Request open = receive();
  ASSERT_EQ(open.header.opcode, static_cast<uint32_t>(FUSE_OPEN));
  fuse_open_out opened{};
  opened.fh = 42;
  reply(open.header.unique, 0, bytes_of(opened));
  const uint64_t unlink = send(FUSE_UNLINK, 1, {text("f")});
  Request first = receive();
  if (first.header.opcode == FUSE_READ) {  // it was asked for before
    reply(first.header.unique, 0, bytes_of(std::string_view(std::string(128 << 10, 'y'))));
    first = receive();
  }
  ASSERT_EQ(first.header.opcode, static_cast<uint32_t>(FUSE_RELEASE));
  reply(first.header.unique, 0);
  EXPECT_EQ(receive().header.unique, unlink);
  reply(unlink, 0);
}

TEST_F(BridgeTest, WhatAnOldHandleShowsIsNotKept) {
  start("datacache");
  lookup(1, "f", 5, 4096);
  fuse_open_out opened{};
  opened.fh = 7;
  exchange(FUSE_OPEN, 5, {bytes_of(fuse_open_in{})}, 0, bytes_of(opened));
  // Somebody else changes the file; what the old handle reads may be what was there when it was opened.
  fuse_setattr_in set{};
  set.valid = FATTR_SIZE;
  exchange(FUSE_SETATTR, 5, {bytes_of(set)}, 0, bytes_of(attributes(4096)));
  fuse_read_in read{};
  read.fh = 7;
  read.size = 4096;
  const std::string_view old = "old";
  exchange(FUSE_READ, 5, {bytes_of(read)}, 0, bytes_of(old));
  EXPECT_FALSE(cached_page(5, 0));
  // A handle opened since shows what is there now. Two opens may get one number.
  opened.fh = 8;
  exchange(FUSE_OPEN, 5, {bytes_of(fuse_open_in{})}, 0, bytes_of(opened));
  read.fh = 8;
  exchange(FUSE_READ, 5, {bytes_of(read)}, 0, bytes_of(std::string_view(std::string(4096, 'n'))));
  EXPECT_TRUE(cached_page(5, 0));
}

TEST_F(BridgeTest, ADirectHandleThatSharesItsNumberStaysDirect) {
  start("datacache");
  lookup(1, "f", 5, 4096);
  fuse_open_out opened{};
  opened.open_flags = FOPEN_DIRECT_IO;
  for (int i = 0; i < 2; i++) exchange(FUSE_OPEN, 5, {bytes_of(fuse_open_in{})}, 0, bytes_of(opened));
  exchange(FUSE_RELEASE, 5, {bytes_of(fuse_release_in{})}, 0);
  exchange(FUSE_GETATTR, 5, {bytes_of(fuse_getattr_in{})}, 0, bytes_of(attributes(4096)));
  fuse_read_in read{};
  read.size = 4096;
  exchange(FUSE_READ, 5, {bytes_of(read)}, 0, bytes_of(std::string_view(std::string(4096, 'x'))));
  EXPECT_FALSE(cached_page(5, 0));
}

TEST_F(BridgeTest, NothingIsKeptOfFilesWhoseNamesAreNodes) {
  start("metacache");
  lookup(1, "a", 5, 10);
  ASSERT_TRUE(cached_size(5));
  fuse_entry_out entry{};
  entry.nodeid = 6;
  entry.attr = attributes(10).attr;
  entry.attr.nlink = 2;
  exchange(FUSE_LINK, 1, {bytes_of(fuse_link_in{5}), text("b")}, 0, bytes_of(entry));
  fuse_attr_out linked = attributes(10);
  linked.attr.nlink = 2;
  exchange(FUSE_GETATTR, 5, {bytes_of(fuse_getattr_in{})}, 0, bytes_of(linked));
  EXPECT_FALSE(cached_size(5));
  EXPECT_FALSE(cached_size(6));
  lookup(1, "c", 7, 30);
  EXPECT_EQ(cached_size(7), 30u);
}

// sshfs: both names say that they are the only one.
TEST_F(BridgeTest, AChangeReachesNamesThatNobodyCounts) {
  start("datacache");
  fuse_entry_out entry{};
  entry.nodeid = 6;
  entry.attr = attributes(4096).attr;
  entry.attr.nlink = 1;
  auto keep_both = [&] {
    lookup(1, "a", 5, 4096);
    lookup(1, "b", 6, 4096);
    fuse_read_in read{};
    read.size = 4096;
    exchange(FUSE_READ, 6, {bytes_of(read)}, 0, bytes_of(std::string_view(std::string(4096, 'x'))));
    exchange(FUSE_GETATTR, 6, {bytes_of(fuse_getattr_in{})}, 0, bytes_of(attributes(4096)));
    return cached_page(6, 0) && cached_size(5);
  };
  lookup(1, "a", 5, 4096);
  const uint64_t early = send(FUSE_SETXATTR, 5, {bytes_of(fuse_setxattr_in{}), text("user.x")});
  receive();
  exchange(FUSE_LINK, 1, {bytes_of(fuse_link_in{5}), text("b")}, 0, bytes_of(entry));
  lookup(1, "b", 6, 4096);
  EXPECT_TRUE(cached_size(6));
  reply(early, 0);  // began before the link was known, changed what it is by now
  arrived();
  EXPECT_FALSE(cached_size(6));
  for (uint32_t opcode : {FUSE_WRITE, FUSE_SETATTR, FUSE_UNLINK, FUSE_RENAME, FUSE_CREATE}) {
    ASSERT_TRUE(keep_both()) << opcode;
    const cache::Nid kept = bridge_->cache().nid_of(6);
    std::vector<std::byte> in(opcode == FUSE_WRITE ? sizeof(fuse_write_in) : 0);
    uint64_t unique = 0;
    if (opcode == FUSE_WRITE) unique = send(opcode, 5, {Bytes(in)});
    if (opcode == FUSE_SETATTR) unique = send(opcode, 5, {bytes_of(fuse_setattr_in{})});
    if (opcode == FUSE_UNLINK) unique = send(opcode, 1, {text("a")});
    if (opcode == FUSE_RENAME) unique = send(opcode, 1, {bytes_of(fuse_rename_in{1}), text("a"), text("c")});
    if (opcode == FUSE_CREATE) unique = send(opcode, 1, {bytes_of(fuse_create_in{}), text("a")});
    receive();
    EXPECT_FALSE(cached_size(6)) << opcode;
    // What is looked at meanwhile may be the older state.
    bridge_->cache().fill_attr(bridge_->cache().moment(), kept, attributes(4096).attr, 0);
    EXPECT_FALSE(cached_size(6)) << opcode;
    reply(unique, opcode == FUSE_CREATE ? -EACCES : 0);
    arrived();
    // The same attributes do not bring the old contents back.
    exchange(FUSE_GETATTR, 6, {bytes_of(fuse_getattr_in{})}, 0, bytes_of(attributes(4096)));
    EXPECT_TRUE(cached_size(6)) << opcode;
    EXPECT_FALSE(cached_page(6, 0)) << opcode;
  }
}

TEST_F(BridgeTest, AfterTheEndNothingOfOursIsAsked) {
  start("datacache");
  lookup(1, "f", 5, 4096);
  bridge_->fetcher().want({SF_HINT_DATA, bridge_->cache().nid_of(5), 0, 4096, {}});
  Request open = receive();
  bridge_->stop();
  reply(open.header.unique, 0, bytes_of(fuse_open_out{}));
  Fetcher::Message message;
  EXPECT_FALSE(bridge_->fetcher().next(message, true));
  bridge_->fetcher().want({SF_HINT_ATTR, bridge_->cache().nid_of(5), 0, 0, {}});
  EXPECT_FALSE(bridge_->fetcher().next(message, false));
}

TEST_F(BridgeTest, AFifoIsNeverOpened) {
  start("datacache");
  lookup(1, "pipe", 6, 0, S_IFIFO);
  bridge_->fetcher().want({SF_HINT_DATA, bridge_->cache().nid_of(6), 0, 4096, {}});
  bridge_->fetcher().want({SF_HINT_LISTING, bridge_->cache().nid_of(6), 0, 0, {}});
  Fetcher::Message message;
  EXPECT_FALSE(bridge_->fetcher().next(message, false));
}

TEST_F(BridgeTest, InitLosesWhatWouldHideChanges) {
  start("metacache");
  fuse_init_out init{};
  init.major = 7;
  init.minor = 38;
  init.flags = FUSE_WRITEBACK_CACHE | FUSE_BIG_WRITES;
  init.flags2 = kInitFlags2Passthrough;
  fuse_init_in in{};
  exchange(FUSE_INIT, 0, {bytes_of(in)}, 0, bytes_of(init));
  auto agreed = read_struct<fuse_init_out>(bytes_of(std::string_view(answer_)));
  ASSERT_TRUE(agreed);
  EXPECT_EQ(agreed->flags, static_cast<uint32_t>(FUSE_BIG_WRITES));
  EXPECT_EQ(agreed->flags2, 0u);
}

TEST_F(BridgeTest, DeniedNamesNeverReachTheFileSystem) {
  start("deny");
  const uint64_t secret = send(FUSE_LOOKUP, 1, {text("secret")});
  const uint64_t open = send(FUSE_LOOKUP, 1, {text("open")});
  EXPECT_EQ(receive().header.unique, open);
  const fuse_out_header denied = arrived();
  EXPECT_EQ(denied.unique, secret);
  EXPECT_EQ(denied.error, -EACCES);
  reply(open, -ENOENT);
}

TEST_F(BridgeTest, SwapTakesNamesBack) {
  start("metacache");
  lookup(1, "secret", 5, 10);
  ASSERT_TRUE(cached_name(1, "secret"));
  ASSERT_TRUE(bridge_->swap({policy("deny")}));
  EXPECT_FALSE(cached_name(1, "secret"));
  const fuse_out_header notified = arrived();
  EXPECT_EQ(notified.unique, 0u);
  EXPECT_EQ(notified.error, static_cast<int>(FUSE_NOTIFY_INVAL_ENTRY));
  EXPECT_FALSE(bridge_->swap({"/does/not/exist.bpf.o"}));
}

TEST_F(BridgeTest, RefusedPoliciesSayWhy) {
  Options options;
  options.policies = {"/etc/passwd"};
  auto made = Bridge::create(options);
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error(), ::testing::HasSubstr("passwd"));
}

TEST_F(BridgeTest, NotificationsOfTheFileSystemDrop) {
  start("metacache");
  lookup(1, "f", 5, 10);
  ASSERT_TRUE(cached_size(5));
  fuse_notify_inval_inode_out inval{5, 0, 0};
  reply(0, FUSE_NOTIFY_INVAL_INODE, bytes_of(inval));
  EXPECT_FALSE(cached_size(5));
}

}  // namespace
}  // namespace shortfuse::bridge
