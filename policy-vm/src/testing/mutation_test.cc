// Damaged objects: refused or accepted, never a crash; and what is accepted does nothing that it may not, whatever
// its bytes say.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <random>

#include "testing/testing.h"

namespace shortfuse::vm {
namespace {

using namespace testing;
using Bytes = std::vector<unsigned char>;

Bytes bytes_of(const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The parts of an object that are read; debug information is most of the file and of no interest.
struct Range { size_t from, bytes; };

std::vector<Range> interesting(const Bytes &object) {
  auto u64 = [&](size_t at) { uint64_t v; memcpy(&v, &object[at], 8); return v; };
  auto u32 = [&](size_t at) { uint32_t v; memcpy(&v, &object[at], 4); return v; };
  auto u16 = [&](size_t at) { uint16_t v; memcpy(&v, &object[at], 2); return v; };
  const size_t table = u64(40), count = u16(60), names = u64(table + u16(62) * 64 + 24);
  std::vector<Range> out{{0, 64}, {table, count * 64}};
  for (size_t i = 1; i < count; i++) {
    const std::string name = reinterpret_cast<const char *>(&object[names + u32(table + i * 64)]);
    if (name.find("debug") != std::string::npos || u32(table + i * 64 + 4) == 8) continue;
    out.push_back({u64(table + i * 64 + 24), u64(table + i * 64 + 32)});
  }
  return out;
}

class Mutator {
 public:
  Mutator(const Bytes &original, uint64_t seed) : original_(original), ranges_(interesting(original)), random_(seed) {}

  Bytes next() {
    Bytes b = original_;
    if (below(20) == 0) b.resize(below(b.size()));
    for (uint64_t n = 1 + below(4); n > 0 && !b.empty(); n--) {
      const Range &r = ranges_[below(ranges_.size())];
      if (r.bytes == 0) continue;
      size_t at = r.from + below(r.bytes);
      if (below(3) == 0) at &= ~size_t{7};
      if (at + 8 > b.size()) continue;
      static constexpr uint64_t kValues[] = {0,    1,    7,      8,          10,         0x18,       0x7f,
                                             0x80, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, ~0ull};
      uint64_t v = kValues[below(std::size(kValues))];
      switch (below(5)) {
        case 0: b[at] ^= static_cast<unsigned char>(1u << below(8)); break;
        case 1: b[at] = static_cast<unsigned char>(random_()); break;
        case 2: memcpy(&b[at], &v, 4); break;
        case 3: memcpy(&b[at], &v, 8); break;
        case 4: {
          const Range &other = ranges_[below(ranges_.size())];
          size_t from = other.from + (other.bytes ? below(other.bytes) : 0);
          if (from + 8 <= b.size()) memmove(&b[at], &b[from], 8);
        }
      }
    }
    return b;
  }
  // Only bytes of programs: these get past the loader.
  Bytes next_program() {
    Bytes b = original_;
    std::vector<Range> code;
    for (size_t i = 2; i < ranges_.size(); i++) {
      const Range &r = ranges_[i];
      if (r.bytes >= 16 && r.bytes % 8 == 0 && r.from + r.bytes <= b.size() && b[r.from + r.bytes - 8] == kOpExit)
        code.push_back(r);
    }
    for (uint64_t n = 1 + below(3); n > 0 && !code.empty(); n--) {
      const Range &r = code[below(code.size())];
      size_t at = r.from + below(r.bytes / 8) * 8;
      switch (below(5)) {
        case 0: b[at] ^= static_cast<unsigned char>(1u << below(8)); break;                    // operation
        case 1: b[at + 1] = static_cast<unsigned char>(below(11) | below(11) << 4); break;     // registers
        case 2: b[at + 2] = static_cast<unsigned char>(below(256)), b[at + 3] = below(2) ? 0 : 0xff; break;
        case 3: b[at + 4 + below(4)] = static_cast<unsigned char>(random_()); break;           // immediate
        case 4: memmove(&b[at], &b[r.from + below(r.bytes / 8) * 8], 8); break;
      }
    }
    return b;
  }
  uint64_t below(uint64_t n) { return random_() % n; }

 private:
  const Bytes original_;
  const std::vector<Range> ranges_;
  std::mt19937_64 random_;
};

// Runs all programs, every access checked.
void run_accepted(const Policy &policy, uint64_t seed) {
  std::mt19937_64 random(seed);
  Host host(policy.maps);
  host.path = seed % 3 ? "private/key.pem" : "?";
  host.arguments.assign(100, 'x');
  for (const Policy::Program &p : policy.programs) {
    alignas(8) unsigned char context[sizeof(sf_fuse_exit_ctx)];
    for (unsigned char &byte : context) byte = static_cast<unsigned char>(random() % 4 ? 0 : random());
    uint64_t r0 = 0;
    ASSERT_EQ(host.checked_run(p.insns, p.info.slot, context, &r0), "") << p.info.section;
  }
}

struct Tally { int accepted = 0, refused = 0; };

template <typename Next> Tally load_mutations(const std::string &path, int rounds, Next next) {
  Tally tally;
  const Bytes original = bytes_of(path);
  EXPECT_GT(original.size(), 100u) << path;
  Mutator mutator(original, original.size());
  for (int i = 0; i < rounds; i++) {
    Bytes b = next(mutator);
    auto policy = load_policy_bytes(b.data(), b.size(), "mutated.bpf.o");
    if (!policy) {
      tally.refused++;
      EXPECT_FALSE(policy.error().code.empty() || policy.error().text.empty());
      continue;
    }
    tally.accepted++;
    run_accepted(*policy, static_cast<uint64_t>(i));
    if (::testing::Test::HasFatalFailure()) return tally;
    EXPECT_TRUE(tally.accepted % 16 != 0 || Image::publish(*policy, Lowering::InterpretOnly));
  }
  return tally;
}

const std::string kObjects[] = {SF_TESTDATA "/whole.bpf.o", SF_TESTDATA "/unsafe.bpf.o", SF_TESTDATA "/loops.bpf.o"};

TEST(Mutations, OfWholeObjects) {
  Tally all;
  for (const std::string &path : kObjects) {
    Tally t = load_mutations(path, 5000, [](Mutator &m) { return m.next(); });
    all.accepted += t.accepted, all.refused += t.refused;
  }
  EXPECT_GT(all.accepted, 100);
  EXPECT_GT(all.refused, 5000);
}

TEST(Mutations, OfPrograms) {
  Tally all;
  for (const std::string &path : kObjects) {
    Tally t = load_mutations(path, 4000, [](Mutator &m) { return m.next_program(); });
    all.accepted += t.accepted, all.refused += t.refused;
  }
  EXPECT_GT(all.accepted, 200);
  EXPECT_GT(all.refused, 2000);
}

// The policies that people mount.
TEST(Mutations, OfTheExamples) {
  Tally all;
  for (const char *name : {"metacache", "datacache", "deny", "passall"}) {
    const std::string path = std::string(SF_POLICIES "/") + name + ".bpf.o";
    if (bytes_of(path).empty()) GTEST_SKIP() << "built without examples/policies";
    Tally t = load_mutations(path, 2500, [](Mutator &m) { return m.below(5) ? m.next_program() : m.next(); });
    all.accepted += t.accepted, all.refused += t.refused;
  }
  EXPECT_GT(all.accepted, 500);
  EXPECT_GT(all.refused, 1000);
}

TEST(Mutations, EveryTruncation) {
  const Bytes original = bytes_of(kObjects[1]);
  for (size_t n = 0; n < original.size(); n += n < 256 ? 1 : 13) {
    Bytes b(original.begin(), original.begin() + static_cast<ptrdiff_t>(n));
    EXPECT_FALSE(load_policy_bytes(b.data(), b.size(), "short.bpf.o")) << n;
  }
}

}  // namespace
}  // namespace shortfuse::vm
