// What main() needs of the harness.
#pragma once
#include <string>
#include <vector>

namespace shortfuse::tests {

/// Runs a registered worker; its result is the exit status. 125 for an unknown name or an exception.
int run_worker(const std::string &name, const std::vector<std::string> &args);

/// Unmounts and removes the directories of test programs that no longer run.
void sweep_remains_of_killed_tests();

}  // namespace shortfuse::tests
