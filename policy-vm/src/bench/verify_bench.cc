// How long the verifier takes: programs of 10,000 instructions, and the policies given as arguments. CPU time, the
// median of seven; and the most memory that was used.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <functional>

#include "testing/big_programs.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

double median_ms(const std::function<void()> &work) {
  std::vector<double> ms;
  for (int i = 0; i < 7; i++) {
    const clock_t from = clock();
    work();
    ms.push_back(static_cast<double>(clock() - from) * 1000 / CLOCKS_PER_SEC);
  }
  std::sort(ms.begin(), ms.end());
  return ms[ms.size() / 2];
}

void print(const char *name, size_t insns, uint64_t steps, double ms) {
  printf("%-32s %8zu instructions %9lu steps %9.2f ms\n", name, insns, static_cast<unsigned long>(steps), ms);
}

}  // namespace
}  // namespace shortfuse::vm

int main(int argc, char **argv) {
  using namespace shortfuse::vm;
  for (const BigProgram &big : big_programs()) {
    uint64_t steps = 0;
    const double ms = median_ms([&] {
      auto policy = verified_policy({big.program});
      steps = policy ? policy->programs[0].info.states_explored : 0;
    });
    print(big.name, big.program.code.size(), steps, ms);
  }
  for (int i = 1; i < argc; i++) {
    uint64_t steps = 0;
    size_t insns = 0;
    const double ms = median_ms([&] {
      auto policy = load_policy({argv[i]});
      steps = insns = 0;
      for (const Policy::Program &p : policy ? policy->programs : std::vector<Policy::Program>{})
        steps += p.info.states_explored, insns += p.insns.size();
    });
    print(argv[i], insns, steps, ms);
  }
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  printf("at most %ld MiB of memory\n", used.ru_maxrss / 1024);
  return 0;
}
