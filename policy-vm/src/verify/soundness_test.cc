// Whatever the verifier accepts runs with every access checked: nothing it may not, and it ends.
//
// SHORTFUSE_SOAK=1: a million programs instead of some thousands, or as many as SHORTFUSE_SOAK_PROGRAMS says, from
// the seed in SHORTFUSE_SOAK_SEED; progress on stderr.
#include <gtest/gtest.h>

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "isa/disasm.h"
#include "testing/program_generator.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

constexpr uint64_t kFuel = 50'000'000;      // of a run that is to end,
constexpr uint64_t kFuelOfLong = 3'000'000;  // and of one that may take longer than that
#ifdef __SANITIZE_ADDRESS__
constexpr uint64_t kPrograms = 2'000;  // ten times slower, and after the verifier's own mistakes with memory only
#else
constexpr uint64_t kPrograms = 6'000;
#endif
constexpr uint64_t kSoakSteps = 60'000;  // of each program: who needs more takes too long here

uint64_t environment(const char *name, uint64_t otherwise) {
  const char *value = getenv(name);
  return value && *value ? strtoull(value, nullptr, 0) : otherwise;
}

std::string text_of(const Policy::Program &p) {
  std::string text;
  for (const DisassembledInsn &line : disassemble(p)) text += std::to_string(line.pc) + ": " + line.text + "\n";
  return text;
}

struct Tally {
  uint64_t tried = 0, accepted = 0, judged = 0, long_ones = 0, runs = 0, cut_short = 0, most_steps = 0;
  std::map<std::string, uint64_t> refused;

  void print() const {
    auto n = [](uint64_t v) { return static_cast<unsigned long>(v); };
    fprintf(stderr, "%lu programs, %lu accepted (%lu%%), %lu with many rounds proved, %lu of them for long; ", n(tried),
            n(accepted), n(accepted * 100 / std::max<uint64_t>(tried, 1)), n(judged), n(long_ones));
    fprintf(stderr, "%lu runs, %lu ended by fuel; at most %lu steps\n", n(runs), n(cut_short), n(most_steps));
    for (auto &[code, count] : refused) fprintf(stderr, "  %8lu %s\n", static_cast<unsigned long>(count), code.c_str());
  }
};

// What it does wrong in any of a few runs, or "".
std::string wrong_in(const Policy &policy, ProgramGenerator *generator, Tally *tally) {
  const Policy::Program &p = policy.programs[0];
  const bool is_long = insns_max(p) > kFuel;
  tally->long_ones += is_long;
  for (int run = 0; run < 3; run++) {
    alignas(8) uint64_t context[sizeof(sf_fuse_exit_ctx) / 8];
    for (uint64_t &word : context) word = run == 0 ? 0 : generator->number() >> generator->below(64);
    Host host;
    for (int i = 0; i < 64; i++) host.value(kBss)[i] = static_cast<unsigned char>(run ? generator->below(256) : 0);
    uint64_t r0 = 0;
    const std::string wrong = host.checked_run(p.insns, p.info.slot, context, &r0, is_long ? kFuelOfLong : kFuel);
    tally->runs++;
    if (is_long && wrong == Host::kOutOfFuel) tally->cut_short++;
    else if (!wrong.empty()) return wrong;
  }
  return "";
}

TEST(Soundness, OfRandomPrograms) {
  const bool soak = environment("SHORTFUSE_SOAK", 0) != 0;
  const uint64_t programs = environment("SHORTFUSE_SOAK_PROGRAMS", soak ? 1'000'000 : kPrograms);
  const uint64_t seed = environment("SHORTFUSE_SOAK_SEED", 1);
  ProgramGenerator generator(seed);
  const std::vector<Policy::Map> maps = test_maps();
  Tally tally;
  for (; tally.tried < programs; tally.tried++) {
    if (soak && tally.tried % 10'000 == 0) tally.print();
    auto policy = verified_policy({generator.next()}, maps, kSoakSteps);
    if (!policy) {
      tally.refused[policy.error().code]++;
      continue;
    }
    tally.accepted++;
    if (policy->programs[0].info.rounds_max > 0) tally.judged++;
    tally.most_steps = std::max<uint64_t>(tally.most_steps, policy->programs[0].info.states_explored);
    const std::string wrong = wrong_in(*policy, &generator, &tally);
    ASSERT_EQ(wrong, "") << "seed " << seed << ", program " << tally.tried << "\n" << text_of(policy->programs[0]);
  }
  tally.print();
  EXPECT_GT(tally.accepted * 100, tally.tried * 30) << "the generator has lost touch with the verifier";
}

}  // namespace
}  // namespace shortfuse::vm
