// main() of every test program: GoogleTest, or one worker of it (`--worker NAME ARGS...`).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>

#include "support/workers.h"

int main(int argc, char **argv) {
  using namespace shortfuse::tests;
  if (argc >= 3 && std::string(argv[1]) == "--worker") {
    return run_worker(argv[2], std::vector<std::string>(argv + 3, argv + argc));
  }
  testing::InitGoogleTest(&argc, argv);
  if (access("/dev/fuse", F_OK) != 0 && !testing::GTEST_FLAG(list_tests)) {
    std::fprintf(stderr, "no /dev/fuse on this machine: nothing can be mounted\n");
    return 77;
  }
  sweep_remains_of_killed_tests();
  return RUN_ALL_TESTS();
}
