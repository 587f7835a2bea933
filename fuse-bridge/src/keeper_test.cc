// Requests that are put aside go on, whatever becomes of the process that was to open their files.
#include "keeper.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <future>
#include <memory>

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
