// Latches: who has one is not interrupted, and nobody waits.
#include "process.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

namespace shortfuse::bypass {
namespace {

TEST(Hold, NoHandlerRunsAndNobodyElseHasIt) {
  Latch latch = {}, other = {};
  auto blocked = [] { return hold_off_signals(); };
  const uint64_t before = blocked();
  let_signals_in(before);
  {
    Hold hold(latch);
    ASSERT_TRUE(hold);
    const uint64_t now = blocked();
    for (int signo : {SIGUSR1, SIGALRM, 32}) EXPECT_TRUE(now >> (signo - 1) & 1) << signo;
    for (int signo : {SIGSEGV, SIGBUS}) EXPECT_FALSE(now >> (signo - 1) & 1) << signo;
    Hold again(latch), another(other);
    EXPECT_FALSE(again);
    EXPECT_FALSE(another);
    std::thread([&] { EXPECT_FALSE(Hold(latch)); }).join();
  }
  EXPECT_FALSE(latch.is_taken());
  {
    Hold hold(latch);
    abandon_hold();  // a fault
    EXPECT_FALSE(latch.is_taken());
    EXPECT_TRUE(latch.try_lock());
  }
  EXPECT_TRUE(latch.is_taken()) << "another thread's by then";
  EXPECT_EQ(blocked(), before);
  let_signals_in(before);
}

}  // namespace
}  // namespace shortfuse::bypass
