// Looks at the modules of this program that end in the middle.
#include "raw_calls.h"

#include <csetjmp>
#include <functional>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shortfuse/bypass/bypass.h"
#include "shortfuse/hook/hook.h"

namespace {

int consequences;
std::function<void()> in_the_middle;

}  // namespace

// What a look calls, within it.
extern "C" void sf_hook_switch_off(const char *) {
  consequences++;
  if (auto once = std::move(in_the_middle)) in_the_middle = nullptr, once();
}
extern "C" void sf_bypass_descriptors_unseen(const char *) {}
extern "C" void sf_bypass_give_back(void) {}

namespace {

/// Runs `body` in a process whose modules have not been looked at. Returns what it returned.
int in_child(int (*body)()) {
  const pid_t child = fork();
  if (child == 0) {
    sf_auxv auxv;
    static sf_cache_place nowhere;
    if (sf_auxv_read(environ, &auxv)) _exit(99);
    sf_raw_calls_start(&nowhere, &auxv, nullptr, 0);  // no libc is patched here, so it makes calls of its own
    sf_raw_calls_expect();
    _exit(body());
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(RawCalls, WhatIsKnownIsNotJudgedAgain) {
  EXPECT_EQ(in_child([] {
              // Each look ends with the worst that can be found.
              for (int look = 0; look < 100; look++) sf_raw_calls_look();
              const int before = consequences;
              sf_raw_calls_expect();
              for (int look = 0; look < 100; look++) sf_raw_calls_look();
              return before > 0 && consequences == before ? 0 : 1;
            }),
            0);
}

TEST(RawCalls, ALookThatIsLeftByAJumpIsMadeAgain) {
  EXPECT_EQ(in_child([] {
              static jmp_buf before;
              in_the_middle = [] { longjmp(before, 1); };
              if (setjmp(before) == 0) sf_raw_calls_look();
              if (!sf_raw_calls_unseen()) return 98;
              sf_raw_calls_look();
              return consequences;
            }),
            2);
}

TEST(RawCalls, AChildForkedDuringALookMakesItsOwn) {
  EXPECT_EQ(in_child([] {
              in_the_middle = [] {
                const pid_t child = fork();
                if (child == 0) {
                  sf_raw_calls_look();
                  _exit(consequences == 2 ? 0 : 1);
                }
                int status = -1;
                waitpid(child, &status, 0);
                if (status == 0) consequences = 50;
              };
              sf_raw_calls_look();
              return consequences;
            }),
            50);
}

}  // namespace
