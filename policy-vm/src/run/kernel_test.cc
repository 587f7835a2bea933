// The kernel as oracle: random programs that both verifiers accept run in the kernel, in the interpreter and as machine
// code, from equal memory, and must leave equal memory and equal results.
//
// What only one of the two verifiers accepts is counted by reason and printed with SHORTFUSE_SOAK=1; each must be one
// of the differences of differences.md.
#include <bpf/bpf.h>
#include <errno.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>

#include "testing/differences.h"
#include "testing/kernel_oracle.h"
#include "testing/kernel_programs.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

bool soak() { return getenv("SHORTFUSE_SOAK") != nullptr; }

// SHORTFUSE_SOAK_SEED: other programs than those of every run.
uint64_t seed() {
  const char *given = getenv("SHORTFUSE_SOAK_SEED");
  return soak() && given && *given ? strtoull(given, nullptr, 0) : 20241207;
}

// What a program can change, in a form that compares.
struct Memory {
  std::vector<unsigned char> memory, array;
  std::map<uint64_t, std::vector<unsigned char>> hash;
  bool operator==(const Memory &) const = default;
};

Memory random_memory(std::mt19937_64 &random) {
  Memory m;
  auto bytes = [&](size_t n) {
    std::vector<unsigned char> v(n);
    const uint64_t kind = random() % 3;
    for (size_t i = 0; i < n; i++) v[i] = static_cast<unsigned char>(kind == 0 ? 0 : random() % 4 ? random() : 0xff);
    return v;
  };
  m.memory = bytes(kMemoryBytes);
  m.array = bytes(kElementBytes * kArrayElements);
  for (uint64_t n = random() % (kHashElements + 1); n > 0; n--) m.hash[random() % kHashKeys] = bytes(kElementBytes);
  return m;
}

void set_kernel(const KernelMaps &maps, const Memory &m) {
  std::copy(m.memory.begin(), m.memory.end(), maps.memory(0));
  std::copy(m.array.begin(), m.array.end(), maps.memory(1));
  for (uint64_t key = 0; key < kHashKeys; key++) bpf_map_delete_elem(maps.fd(2), &key);
  for (auto &[key, value] : m.hash) ASSERT_EQ(bpf_map_update_elem(maps.fd(2), &key, value.data(), BPF_ANY), 0);
}

Memory get_kernel(const KernelMaps &maps) {
  Memory m;
  m.memory.assign(maps.memory(0), maps.memory(0) + kMemoryBytes);
  m.array.assign(maps.memory(1), maps.memory(1) + kElementBytes * kArrayElements);
  for (uint64_t key = 0; key < kHashKeys; key++) {
    std::vector<unsigned char> value(kElementBytes);
    if (bpf_map_lookup_elem(maps.fd(2), &key, value.data()) == 0) m.hash[key] = value;
  }
  return m;
}

// Our maps, and an environment around them.
class OwnMaps {
 public:
  void set(const Memory &m) {
    for (sf_map &h : maps_.handles) {
      memset(h.storage, 0, sf_map_bytes(&h.shape));
      sf_map_init(h.storage, &h.shape);
    }
    std::copy(m.memory.begin(), m.memory.end(), static_cast<unsigned char *>(maps_.values[0]));
    std::copy(m.array.begin(), m.array.end(), static_cast<unsigned char *>(maps_.values[1]));
    for (auto &[key, value] : m.hash) ASSERT_EQ(sf_map_update(&maps_.handles[2], &key, value.data(), 0, 0), 0);
  }
  Memory get() const {
    Memory m;
    auto *memory = static_cast<unsigned char *>(maps_.values[0]);
    auto *array = static_cast<unsigned char *>(maps_.values[1]);
    m.memory.assign(memory, memory + kMemoryBytes);
    m.array.assign(array, array + kElementBytes * kArrayElements);
    for (uint64_t key = 0; key < kHashKeys; key++) {
      auto *value = static_cast<unsigned char *>(sf_map_lookup(&maps_.handles[2], &key, 0));
      if (value) m.hash[key].assign(value, value + kElementBytes);
    }
    return m;
  }
  sf_vm_env *env() { return &maps_.env; }

 private:
  RealMaps maps_{kernel_maps()};
};

// The same sentence for every register and number.
std::string reason(std::string text) {
  std::string out;
  for (size_t i = 0; i < text.size(); i++) {
    if (!isdigit(static_cast<unsigned char>(text[i]))) out += text[i];
    else if (out.empty() || out.back() != '#') out += '#';
  }
  return out;
}

using Reasons = std::map<std::string, int>;

void print(const char *title, const Reasons &reasons) {
  std::vector<std::pair<int, std::string>> sorted;
  for (auto &[text, count] : reasons) sorted.emplace_back(count, text);
  std::sort(sorted.rbegin(), sorted.rend());
  fprintf(stderr, "%s\n", title);
  for (auto &[count, text] : sorted) fprintf(stderr, "%8d  %s\n", count, text.c_str());
}

class KernelOracle : public ::testing::Test {
 protected:
  struct Candidate { LinkedProgram program; KernelProgram loaded; };

  void SetUp() override {
    if (std::string why = kernel_unavailable(); !why.empty()) GTEST_SKIP() << why;
    auto made = KernelMaps::make(kernel_maps());
    ASSERT_TRUE(made) << made.error();
    maps_.emplace(std::move(*made));
  }

  // The next program that both accept.
  Candidate accepted_by_both() {
    while (true) {
      LinkedProgram program = generator_.next();
      auto ours = verified_policy({program}, kernel_maps());
      auto theirs = KernelProgram::load(program, *maps_);
      generated_++;
      if (ours && theirs) return {std::move(program), std::move(*theirs)};
      if (ours && !theirs) note(kOnlyHere, reason(theirs.error()), program, &only_here_);
      if (theirs && !ours) note(kOnlyThere, ours.error().code, program, &only_there_);
      if (ours.has_value() != theirs.has_value() && getenv("SF_SHOW")) show(program, ours, theirs);
    }
  }
  static void note(const std::vector<Difference> &known, const std::string &said, const LinkedProgram &program,
                   Reasons *met) {
    const std::string name = difference_of(known, said);
    EXPECT_NE(name, "") << "not in differences.md: " << said << "\n" << text_of(program);
    (*met)[name + ": " + said]++;
  }
  static void show(const LinkedProgram &program, const std::expected<Policy, Refusal> &ours,
                   const std::expected<KernelProgram, std::string> &theirs) {
    Policy::Program p;
    for (const RawInsn &in : program.code) p.insns.push_back(std::bit_cast<uint64_t>(in));
    for (const auto &line : disassemble(p)) fprintf(stderr, "%5u: %s\n", line.pc, line.text.c_str());
    fprintf(stderr, "%s\n", ours ? ("kernel: " + theirs.error()).c_str() : ours.error().str().c_str());
  }

  void compare(const Candidate &candidate, const Image &image, uint32_t index) {
    for (int round = 0; round < 2; round++) {
      const Memory before = random_memory(random_);
      ASSERT_NO_FATAL_FAILURE(set_kernel(*maps_, before));
      auto ran = candidate.loaded.run();
      ASSERT_TRUE(ran) << ran.error();
      const Memory expected = get_kernel(*maps_);
      for (bool machine_code : {false, true}) {
        own_.set(before);
        sf_fuse_ctx context{};
        const uint64_t r0 = machine_code ? image.run_code(index, &context, own_.env())
                                         : image.interpret(index, &context, own_.env());
        ASSERT_EQ(r0, 0u);
        ASSERT_TRUE(own_.get() == expected)
            << (machine_code ? "machine code" : "interpreter") << " and kernel differ in program " << index << ":\n"
            << text_of(candidate.program);
      }
    }
  }
  static std::string text_of(const LinkedProgram &program) {
    Policy::Program p;
    for (const RawInsn &in : program.code) p.insns.push_back(std::bit_cast<uint64_t>(in));
    std::string text;
    for (const auto &line : disassemble(p)) text += std::to_string(line.pc) + ": " + line.text + "\n";
    return text;
  }

  KernelProgramGenerator generator_{seed()};
  std::mt19937_64 random_{5};
  std::optional<KernelMaps> maps_;
  OwnMaps own_;
  Reasons only_here_, only_there_;
  int generated_ = 0;
};

// The document names what the test knows, and nothing else.
TEST(Differences, AreDocumented) {
  std::ifstream in(SF_DIFFERENCES);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  size_t names = 0;
  for (const std::vector<Difference> *list : {&kOnlyHere, &kOnlyThere}) {
    for (const Difference &d : *list) {
      EXPECT_NE(text.find("| `" + std::string(d.name) + "` |"), std::string::npos) << d.name;
      names++;
    }
  }
  size_t rows = 0;
  for (size_t at = text.find("\n| `"); at != std::string::npos; at = text.find("\n| `", at + 1)) rows++;
  EXPECT_EQ(rows, names);
}

// A number of 32 bits that was compared with a remainder and then subtracted from an address: met once in thousands.
TEST(Differences, KnowWhatTheKernelSays) {
  EXPECT_EQ(difference_of(kOnlyHere, "value -# makes map_value pointer be out of bounds"), "remainder");
  // An atomic operation behind a jump that compares a register with itself.
  EXPECT_EQ(difference_of(kOnlyHere, "misaligned value access off #+#+# size #"), "branch-known-here");
  EXPECT_EQ(difference_of(kOnlyHere, "something else"), "");
}

TEST_F(KernelOracle, RandomPrograms) {
  const int wanted = soak() ? 100'000 : 2'000, batch = 50;
  for (int done = 0; done < wanted; done += batch) {
    std::vector<Candidate> candidates;
    std::vector<LinkedProgram> programs;
    while (candidates.size() < batch) {
      candidates.push_back(accepted_by_both());
      programs.push_back(candidates.back().program);
    }
    auto policy = verified_policy(programs, kernel_maps());
    ASSERT_TRUE(policy);
    auto image = Image::publish(*policy, Lowering::Required, true);
    ASSERT_TRUE(image) << image.error().str();
    for (uint32_t i = 0; i < batch; i++) ASSERT_NO_FATAL_FAILURE(compare(candidates[i], *image, i));
    if ((done + batch) % (wanted / 10) == 0)
      fprintf(stderr, "%d of %d programs compared, %d generated\n", done + batch, wanted, generated_);
  }
  EXPECT_LT(generated_, wanted * 10) << "the generator has lost touch with the verifiers";
  if (!soak()) return;
  print("accepted by the kernel, refused here:", only_there_);
  print("accepted here, refused by the kernel:", only_here_);
}

}  // namespace
}  // namespace shortfuse::vm
