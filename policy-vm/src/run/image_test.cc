// Images: what is published, what is refused, how chains run.
#include "shortfuse/vm/image.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <random>

#include "testing/testing.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

Code verdict(int v) { return {alu32_imm(kMov, 0, v), leave()}; }

Policy chain_of(std::vector<std::pair<const char *, int>> programs) {
  std::vector<LinkedProgram> linked;
  for (auto &[section, v] : programs) linked.push_back(make_program(verdict(v), section));
  return verified_policy(std::move(linked)).value();
}

int run(const Policy &policy, unsigned slot, Lowering lowering) {
  auto image = Image::publish(policy, lowering);
  EXPECT_TRUE(image) << image.error().str();
  EXPECT_EQ(sf_image_check(image->get(), image->bytes()), 0);
  Host host;
  sf_fuse_exit_ctx ctx{};
  return sf_policy_run(image->get(), slot, &ctx, host.env());
}

TEST(Image, ChainStopsAtTheFirstVerdict) {
  for (Lowering how : {Lowering::InterpretOnly, Lowering::Required}) {
    const unsigned lookup = SF_SLOT_FUSE + 1;
    EXPECT_EQ(run(chain_of({{"fuse/lookup", 0}}), lookup, how), SF_PASS);
    EXPECT_EQ(run(chain_of({{"fuse/lookup", 0}, {"fuse/read", -5}, {"fuse/lookup", 1}}), lookup, how), SF_SERVED);
    EXPECT_EQ(run(chain_of({{"fuse/lookup", -13}, {"fuse/lookup", 1}}), lookup, how), -13);
    EXPECT_EQ(run(chain_of({{"fuse/lookup", -13}}), SF_SLOT_FUSE + 2, how), SF_PASS);
    EXPECT_EQ(run(chain_of({{"fuse/lookup", -13}}), SF_SLOTS, how), SF_PASS);
    EXPECT_EQ(run(chain_of({{"fuse_exit/lookup", -13}, {"fuse_exit/lookup", 1}}), SF_SLOT_FUSE_EXIT + 1, how),
              SF_PASS);
  }
}

TEST(Image, VerdictsAreClamped) {
  for (auto [given, expected] : std::initializer_list<std::pair<int, int>>{
           {1, 1}, {2, 0}, {-1, -1}, {-4095, -4095}, {-4096, 0}, {1 << 30, 0}, {-(1 << 30), 0}}) {
    EXPECT_EQ(run(chain_of({{"syscall/stat", given}}), SF_SLOT_SYSCALL, Lowering::Auto), expected) << given;
  }
}

// A record that was reserved when a run is cut short is discarded, so that nobody waits for it; what was submitted
// before stays, and so does what others have reserved.
TEST(Image, RunThatIsCutShortLeavesNoRecordOpen) {
  const Code reserve = load_map(1, kRing) + Code{mov(2, 16), mov(3, 0), call(SF_HOST_RINGBUF_RESERVE)};
  // The size alone costs more fuel than there is.
  const Code cut = load_value(1, kRodata) + load64(2, 0x7fffffff) + load_value(3, kRodata) +
                   Code{call(SF_HOST_STRNCMP), mov(0, SF_SERVED), leave()};
  const Code submit = reserve + Code{store_imm(8, 0, 0, 7), mov_reg(1, 0), mov(2, 0), call(SF_HOST_RINGBUF_SUBMIT)};
  const Policy policy = trusted_policy({make_program(submit + reserve + reserve + cut, "fuse/read")});
  for (Lowering how : {Lowering::InterpretOnly, Lowering::Required}) {
    auto image = Image::publish(policy, how, true);
    ASSERT_TRUE(image) << image.error().str();
    RealMaps maps(policy.maps);
    sf_map *ring = &maps.handles[kRing];
    void *of_another = sf_ring_reserve(ring, 8, 12345);
    ASSERT_NE(nullptr, of_another);
    sf_fuse_ctx ctx{};
    EXPECT_EQ(sf_policy_run(image->get(), SF_SLOT_FUSE + 15, &ctx, &maps.env), SF_PASS);
    EXPECT_EQ(maps.env.fuel, 0u);
    uint64_t position = 0;
    char out[64];
    EXPECT_EQ(sf_ring_take(ring, &position, out, sizeof out, 0), -EBUSY) << "another's";
    sf_ring_commit(of_another, 0, 12345);
    EXPECT_EQ(sf_ring_take(ring, &position, out, sizeof out, 0), 8);
    EXPECT_EQ(sf_ring_take(ring, &position, out, sizeof out, 0), 16);
    EXPECT_EQ(out[0], 7);
    EXPECT_EQ(sf_ring_take(ring, &position, out, sizeof out, 0), -EAGAIN);
    EXPECT_EQ(sf_ring_query(ring, 0), 0u);
  }
}

// Programs behind one that passes run even after it used up its fuel's worth: each gets its own.
TEST(Image, EveryProgramOfAnExitChainRuns) {
  Code keep{mov(2, 1), mov(3, 2), call(SF_HOST_KEEP), mov(0, 0), leave()};
  auto policy = verified_policy({make_program(keep, "fuse_exit/read"), make_program(keep, "fuse_exit/read")});
  ASSERT_TRUE(policy);
  auto image = Image::publish(*policy, Lowering::Auto);
  ASSERT_TRUE(image);
  Host host;
  sf_fuse_exit_ctx ctx{};
  EXPECT_EQ(sf_policy_run(image->get(), SF_SLOT_FUSE_EXIT + 15, &ctx, host.env()), SF_PASS);
  EXPECT_EQ(host.calls.size(), 2u);
}

TEST(Image, IsSealed) {
  for (Lowering how : {Lowering::InterpretOnly, Lowering::Required}) {
    auto published = publish_image(chain_of({{"fuse/lookup", 1}}), how);
    ASSERT_TRUE(published) << published.error().str();
    EXPECT_EQ(published->why_interpreted.empty(), how == Lowering::Required);
    EXPECT_EQ(fcntl(published->fd, F_GET_SEALS) & (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
              F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    EXPECT_EQ(mmap(nullptr, published->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, published->fd, 0), MAP_FAILED);
    char byte = 0;
    EXPECT_EQ(pwrite(published->fd, &byte, 1, 0), -1);
    EXPECT_NE(ftruncate(published->fd, 0), 0);
    void *p = mmap(nullptr, published->bytes, PROT_READ | PROT_EXEC, MAP_PRIVATE, published->fd, 0);
    ASSERT_NE(p, MAP_FAILED);
    munmap(p, published->bytes);
    EXPECT_EQ(fcntl(published->fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    close(published->fd);
  }
}

// The key depends on the programs and on nothing else.
TEST(Image, KeyNamesThePrograms) {
  auto key = [](const Policy &policy) { return Image::publish(policy, Lowering::InterpretOnly)->get()->key; };
  EXPECT_EQ(key(chain_of({{"fuse/lookup", 1}})), key(chain_of({{"fuse/lookup", 1}})));
  EXPECT_NE(key(chain_of({{"fuse/lookup", 1}})), key(chain_of({{"fuse/lookup", -1}})));
}

TEST(Image, TheCompilerShowsItsWork) {
  const Policy policy = chain_of({{"fuse/lookup", 1}, {"fuse/read", -5}});
  auto lowered = compiler_text(policy, CompilerStage::Lowered);
  ASSERT_TRUE(lowered) << lowered.error().str();
  EXPECT_NE(lowered->find("define i64 @p0(ptr"), std::string::npos) << *lowered;
  EXPECT_NE(lowered->find("alloca"), std::string::npos);
  auto optimised = compiler_text(policy, CompilerStage::Optimised);
  ASSERT_TRUE(optimised);
  EXPECT_NE(optimised->find("ret i64 1\n"), std::string::npos) << *optimised;
  EXPECT_EQ(optimised->find("alloca"), std::string::npos);
  auto assembly = compiler_text(policy, CompilerStage::Assembly);
  ASSERT_TRUE(assembly);
  EXPECT_NE(assembly->find("retq"), std::string::npos) << *assembly;
}

std::vector<uint64_t> copy_of(const Image &image) {
  std::vector<uint64_t> words(image.bytes() / 8);
  memcpy(words.data(), image.get(), image.bytes());
  return words;
}

TEST(Image, CheckRefusesEveryBrokenField) {
  Code code =
      load_value(2, 3) + Code{load(8, 0, 2, 0), jump_imm(kEq, 0, 5, 1), call_local(1), leave(), mov(0, 0), leave()};
  auto policy = verified_policy({make_program(code, "fuse/lookup", {6}), make_program(verdict(1), "fuse/lookup"),
                                 make_program(verdict(1), "fuse/read")});
  ASSERT_TRUE(policy) << policy.error().str();
  auto image = Image::publish(*policy, Lowering::Required);
  ASSERT_TRUE(image);
  auto check = [&](auto change, size_t bytes_less = 0) {
    std::vector<uint64_t> words = copy_of(*image);
    auto *copy = reinterpret_cast<sf_image *>(words.data());
    change(copy);
    return sf_image_check(copy, image->bytes() - bytes_less);
  };
  auto insn = [](sf_image *i, uint32_t at) {
    return reinterpret_cast<RawInsn *>(reinterpret_cast<char *>(i) + i->program[0].insns_offset) + at;
  };
  EXPECT_EQ(check([](sf_image *) {}), 0);
  EXPECT_EQ(check([](sf_image *) {}, 1), -EINVAL);
  EXPECT_EQ(check([](sf_image *) {}, image->bytes() - 10), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->magic++; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->format++; }), -ENOEXEC);
  EXPECT_EQ(check([](sf_image *i) { i->abi++; }), -ENOEXEC);
  EXPECT_EQ(check([](sf_image *i) { i->image_bytes++; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->programs = SF_IMAGE_PROGRAMS_MAX + 1; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->maps = SF_IMAGE_MAPS_MAX + 1; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->maps = 3; }), -EINVAL);  // the program uses map 3
  EXPECT_EQ(check([](sf_image *i) { i->first[40] = 1; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->first[SF_SLOT_FUSE + 1] = 999; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->program[0].slot = SF_SLOTS; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->program[1].next = 1; }), -EINVAL);  // a circle
  EXPECT_EQ(check([](sf_image *i) { i->program[0].next = 1; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->program[0].next = 3; }), -EINVAL);  // of another slot
  EXPECT_EQ(check([](sf_image *i) { i->program[0].code_offset = 64; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->program[0].code_offset = i->code_offset + i->code_bytes; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->code_bytes = ~0u; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->code_offset += 8; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->program[0].insns_offset = 8; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->program[0].insns_offset += 4; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->program[0].insns = 1u << 30; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { i->program[0].insns = 0; }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { memset(i->program[0].name, 'x', 32); }), -EINVAL);
  EXPECT_EQ(check([](sf_image *i) { memset(i->map[0].name, 'x', 32); }), -EINVAL);
  EXPECT_EQ(check([&](sf_image *i) { *insn(i, 2) = {kOpCall, 0, 0, SF_HOST_LIMIT}; }), -EINVAL);
  auto calls_application = [&](sf_image *i) { *insn(i, 2) = {kOpCall, 0, 0, SF_HOST_COUNT}, i->key = sf_image_key(i); };
  EXPECT_EQ(check(calls_application), 0);
  EXPECT_EQ(check([&](sf_image *i) { insn(i, 3)->off = 100; }), -EINVAL);
  EXPECT_EQ(check([&](sf_image *i) { insn(i, 3)->off = -100; }), -EINVAL);
  EXPECT_EQ(check([&](sf_image *i) { insn(i, 4)->imm = 100; }), -EINVAL);
  EXPECT_EQ(check([&](sf_image *i) { insn(i, 2)->code = 0xff; }), -EINVAL);
  // Well-formed, and not what was made.
  EXPECT_EQ(check([](sf_image *i) { i->key++; }), -ENOEXEC);
  EXPECT_EQ(check([](sf_image *i) { i->map[3].value_size++; }), -ENOEXEC);
  EXPECT_EQ(check([](sf_image *i) { reinterpret_cast<char *>(i)[i->code_offset + 5] ^= 1; }), -ENOEXEC);
  EXPECT_EQ(check([&](sf_image *i) { insn(i, 6)->imm ^= 3; }), -ENOEXEC);
}

// Any bytes: a check that says yes or no, and a chain that ends either way. Machine code is left out, it would be run.
TEST(Image, CheckSurvivesAnyBytes) {
  Code code = load_value(2, 3) + Code{load(8, 0, 2, 0), jump_imm(kEq, 0, 5, 1), mov(0, 1), leave()};
  auto policy = verified_policy({make_program(code, "fuse/lookup"), make_program(verdict(1), "fuse/lookup")});
  ASSERT_TRUE(policy);
  auto image = Image::publish(*policy, Lowering::InterpretOnly);
  ASSERT_TRUE(image);
  std::mt19937_64 random(7);
  const std::vector<uint64_t> original = copy_of(*image);
  int refused = 0;
  for (int round = 0; round < 200000; round++) {
    std::vector<uint64_t> words = original;
    auto *bytes = reinterpret_cast<unsigned char *>(words.data());
    for (uint64_t n = 1 + random() % 3; n > 0; n--) {
      size_t at = random() % 4 ? random() % 800 : random() % image->bytes();
      if (random() % 4 == 0) at = offsetof(sf_image, program) + random() % (2 * sizeof(sf_image_program) + 64);
      bytes[at] = static_cast<unsigned char>(random() % 3 ? random() : 1u << random() % 8);
    }
    refused += sf_image_check(words.data(), random() % 10 ? image->bytes() : random() % image->bytes()) != 0;
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace shortfuse::vm
