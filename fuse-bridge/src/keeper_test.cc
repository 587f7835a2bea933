// Requests that are put aside go on, whatever becomes of the process that was to open their files.
#include "keeper.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <future>
#include <memory>
#include <string>

namespace shortfuse::bridge {
namespace {

using namespace std::chrono_literals;
constexpr auto kLong = 30s;
constexpr cache::Nid kNode = 17;

struct Keeping : testing::Test {
  std::unique_ptr<sf_session> session = std::make_unique<sf_session>();
  OpenTables tables;
  Keeper keeper{tables};
  std::mutex lock;
  std::condition_variable changed;
  std::set<cache::Nid> went_on;
  std::set<cache::Nid> held_up;   ///< these stay in the file system

  void SetUp() override {
    tables.add(session.get());
    keeper.go_on = [this](Parked parked) {
      std::unique_lock guard(lock);
      went_on.insert(parked.nid);
      changed.notify_all();
      changed.wait(guard, [&] { return !held_up.contains(parked.nid); });
    };
  }
  void TearDown() override {
    release();
    EXPECT_TRUE(keeper.stop(kLong));
  }
  void release() {
    std::lock_guard guard(lock);
    held_up.clear();
    changed.notify_all();
  }
  bool goes_on(cache::Nid nid) {
    std::unique_lock guard(lock);
    return changed.wait_for(guard, kLong, [&] { return went_on.contains(nid); });
  }
  bool offered() { return __atomic_load_n(&session->opens_kept, __ATOMIC_ACQUIRE) == SF_OPENS_KEPT; }
  bool comes_to_be_offered(bool wanted = true) {
    for (int i = 0; i < 3000 && offered() != wanted; i++) std::this_thread::sleep_for(10ms);
    return offered() == wanted;
  }
  void begin() {
    keeper.find_opener();
    keeper.begin("/tmp");
    ASSERT_TRUE(comes_to_be_offered());
  }
  void keep(cache::Nid nid) {
    ASSERT_TRUE(keeper.would_keep(nid));
    Parked parked;
    parked.nid = nid;
    parked.place = {"/tmp", "", 1};
    keeper.keep(std::move(parked));
  }
};

TEST_F(Keeping, NothingIsOfferedBeforeTheOpenerIsThere) {
  EXPECT_FALSE(offered());
  EXPECT_FALSE(keeper.would_keep(kNode));
  EXPECT_EQ(keeper.opener_pid(), 0);
  begin();
  EXPECT_TRUE(keeper.would_keep(kNode));
  EXPECT_GT(keeper.opener_pid(), 0);
  auto later = std::make_unique<sf_session>();
  tables.add(later.get());
  EXPECT_EQ(later->opens_kept, static_cast<uint32_t>(SF_OPENS_KEPT));
  tables.remove(later.get());
  EXPECT_EQ(later->opens_kept, static_cast<uint32_t>(SF_OPENS_ENDED));
}

TEST_F(Keeping, NothingIsOfferedWithoutAnOpener) {
  testing::internal::CaptureStderr();
  keeper.begin("/tmp");  // nobody has looked for it
  keep(kNode);
  EXPECT_TRUE(goes_on(kNode));
  keeper.begin("/tmp");
  EXPECT_FALSE(offered());
  ASSERT_TRUE(keeper.stop(kLong));
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::ranges::count(said, '\n'), 1) << said;
  EXPECT_NE(said.find("served no opens"), std::string::npos) << said;
}

TEST_F(Keeping, ARequestGoesOnWhereItsFileCannotBeOpened) {
  begin();
  keep(kNode);
  EXPECT_TRUE(goes_on(kNode));
  EXPECT_TRUE(keeper.would_keep(kNode));
}

/// A mount whose file system is this test: what it is asked is answered when the test says so.
struct SlowMount {
  std::string point = "/tmp/sf-test.XXXXXX";
  Descriptor device{open("/dev/fuse", O_RDWR | O_CLOEXEC)};
  alignas(8) char message[1 << 16];

  SlowMount() {
    if (mkdtemp(point.data()) == nullptr) point.clear();
  }
  ~SlowMount() {
    umount2(point.c_str(), MNT_DETACH);
    rmdir(point.c_str());
  }
  bool begin() {
    const std::string options = "fd=" + std::to_string(device.get()) + ",rootmode=40000,user_id=0,group_id=0";
    if (mount("slow", point.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) != 0) return false;
    fuse_init_out init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = FUSE_KERNEL_MINOR_VERSION;
    init.max_write = 4096;
    const uint64_t asked = next(FUSE_INIT);
    return asked != 0 && answer(asked, 0, std::string(reinterpret_cast<const char *>(&init), sizeof(init)));
  }
  /// The number of the next request of that kind; others are refused. 0: none comes.
  uint64_t next(uint32_t opcode) {
    pollfd wait{device.get(), POLLIN, 0};
    while (poll(&wait, 1, 30'000) == 1 && read(device.get(), message, sizeof(message)) > 0) {
      const auto &header = *reinterpret_cast<const fuse_in_header *>(message);
      if (header.opcode == opcode) return header.unique;
      if (header.opcode != FUSE_FORGET && header.opcode != FUSE_BATCH_FORGET) answer(header.unique, -ENOSYS, "");
    }
    return 0;
  }
  bool answer(uint64_t unique, int error, const std::string &body) {
    const fuse_out_header header{static_cast<uint32_t>(sizeof(header) + body.size()), error, unique};
    const std::string reply = std::string(reinterpret_cast<const char *>(&header), sizeof(header)) + body;
    return write(device.get(), reply.data(), reply.size()) == static_cast<ssize_t>(reply.size());
  }
};

TEST_F(Keeping, ARequestWaitsAsLongAsTheFileSystemIsAsked) {
  SlowMount slow;
  if (!slow.device || geteuid() != 0) GTEST_SKIP() << "needs root and /dev/fuse";
  ASSERT_TRUE(slow.begin()) << strerror(errno);
  keeper.find_opener();
  keeper.begin(slow.point);
  ASSERT_TRUE(comes_to_be_offered());
  Parked parked;
  parked.nid = kNode;
  parked.place = {slow.point, "name", 2};
  keeper.keep(std::move(parked));
  const uint64_t asked = slow.next(FUSE_LOOKUP);
  ASSERT_NE(asked, 0u);
  std::this_thread::sleep_for(4s);  // twice as long as it waits for an open that waits for something else
  {
    std::lock_guard guard(lock);
    EXPECT_FALSE(went_on.contains(kNode));
  }
  EXPECT_TRUE(slow.answer(asked, -ENOENT, ""));
  EXPECT_TRUE(goes_on(kNode));
}

TEST_F(Keeping, ARequestGoesOnWhereTheOpenerDoesNot) {
  begin();
  kill(keeper.opener_pid(), SIGSTOP);
  keep(kNode);
  EXPECT_TRUE(goes_on(kNode));
  kill(keeper.opener_pid(), SIGKILL);
}

TEST_F(Keeping, AnotherOpenerTakesThePlaceOfOneThatIsKilled) {
  begin();
  const pid_t first = keeper.opener_pid();
  kill(first, SIGSTOP);
  keep(kNode);
  keep(kNode + 1);
  kill(first, SIGKILL);
  EXPECT_TRUE(goes_on(kNode));
  EXPECT_TRUE(goes_on(kNode + 1));
  for (int i = 0; i < 3000 && (keeper.opener_pid() == first || keeper.opener_pid() == 0); i++)
    std::this_thread::sleep_for(10ms);
  EXPECT_NE(keeper.opener_pid(), first);
  EXPECT_TRUE(comes_to_be_offered());
}

TEST_F(Keeping, AnApplicationThatHasEndedItIsNotOfferedAgain) {
  begin();
  session->opens_kept = SF_OPENS_ENDED;
  tables.offer(false);
  tables.offer(true);
  EXPECT_EQ(session->opens_kept, static_cast<uint32_t>(SF_OPENS_ENDED));
}

// In the file system one may wait for another.
TEST_F(Keeping, RequestsDoNotWaitForEachOther) {
  begin();
  {
    std::lock_guard guard(lock);
    held_up = {1, 2, 3};
  }
  for (cache::Nid nid = 1; nid <= 4; nid++) keep(nid);
  for (cache::Nid nid = 1; nid <= 4; nid++) EXPECT_TRUE(goes_on(nid)) << nid;
  EXPECT_FALSE(keeper.stop(0s)) << "three are still in there";
  release();
}

TEST_F(Keeping, AConnectionThatNobodyServesEnds) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  Descriptor application(ends[0]);
  keeper.open_for(Descriptor(ends[1]), kNode, {"/tmp", "", 1}, 0);
  char byte;
  EXPECT_EQ(recv(application.get(), &byte, 1, 0), 0);
}

}  // namespace
}  // namespace shortfuse::bridge
