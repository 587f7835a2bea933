// Policies compiled ahead of time: they run without a compiler, and are refused or compiled again where they must be.
#include "publish/precompiled.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "lower/jit.h"
#include "testing/testing.h"
#include "shortfuse/vm/runtime.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

std::string object(const char *name) { return std::string(SF_TESTDATA) + "/" + name + ".bpf.o"; }

bool llvm_is_loaded() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("libLLVM") != std::string::npos || line.find("libshortfuse-jit") != std::string::npos) return true;
  }
  return false;
}

class PrecompiledTest : public ::testing::Test {
 protected:
  PrecompiledTest() {
    char name[] = "/tmp/precompiled-XXXXXX";
    directory_ = mkdtemp(name);
  }
  ~PrecompiledTest() override {
    for (const std::string &file : files_) unlink(file.c_str());
    rmdir(directory_.c_str());
  }
  std::string write(const std::string &name, const std::vector<unsigned char> &bytes, mode_t mode = 0644) {
    const std::string path = directory_ + "/" + name;
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char *>(bytes.data()),
                                                static_cast<std::streamsize>(bytes.size()));
    chmod(path.c_str(), mode);
    files_.push_back(path);
    return path;
  }
  // By another process, so that this one never sees a compiler.
  std::string compiled_elsewhere(const std::string &name, const std::vector<std::string> &chain) {
    const std::string path = directory_ + "/" + name;
    files_.push_back(path);
    const pid_t child = fork();
    if (child == 0) {
      auto policy = load_policy(chain);
      auto bytes = policy ? precompile(*policy) : std::unexpected(policy.error());
      if (!bytes) _exit(1);
      std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char *>(bytes->data()),
                                                  static_cast<std::streamsize>(bytes->size()));
      chmod(path.c_str(), 0644);
      _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    return path;
  }

  std::string directory_;
  std::vector<std::string> files_;
};

// The key of its code would tell of our sources, not of those that it was made with.
TEST_F(PrecompiledTest, CompilerOfAnotherBuildIsRefused) {
  const auto library = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "../lib/libshortfuse-jit.so";
  if (!std::filesystem::exists(library)) GTEST_SKIP() << "built without LLVM";
  const pid_t child = fork();
  if (child == 0) {
    void *handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    auto compile = reinterpret_cast<sf_jit_compile_fn>(handle ? dlsym(handle, SF_JIT_COMPILE_SYMBOL) : nullptr);
    if (!compile) _exit(2);
    sf_jit_policy policy{};
    sf_jit_result result{};
    if (compile(/*build=*/1, &policy, &result) == 0) _exit(3);
    _exit(std::string(result.error) == "the compiler is of another build" ? 0 : 4);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

std::vector<int> verdicts(const Policy &policy, Lowering lowering) {
  auto runtime = Runtime::create(policy, lowering);
  EXPECT_TRUE(runtime) << runtime.error().str();
  std::vector<int> out;
  for (unsigned slot = 0; slot < SF_SLOTS; slot++) {
    if (!sf_image_has((*runtime)->image(), slot)) continue;
    uint64_t context[64] = {};
    for (uint64_t i = 0; i < 64; i++) context[i] = i * 3;
    out.push_back((*runtime)->run_chain(slot, context));
  }
  return out;
}

// First, while no compiler is in the process.
TEST_F(PrecompiledTest, RunsWithoutACompiler) {
  const std::string path = compiled_elsewhere("whole.sfi", {object("whole")});
  ASSERT_FALSE(llvm_is_loaded());
  auto policy = load_policy({path});
  ASSERT_TRUE(policy) << policy.error().str();
  EXPECT_TRUE(policy->notes.empty()) << policy->notes[0];
  const auto compiled = verdicts(*policy, Lowering::Required);
  EXPECT_FALSE(llvm_is_loaded());
  EXPECT_EQ(compiled, verdicts(*load_policy({object("whole")}), Lowering::InterpretOnly));
}

// Programs were verified against what is declared; code looks into the maps by it.
TEST_F(PrecompiledTest, MapsThatAreHeldLookAsDeclared) {
  auto policy = load_policy({object("mapvalues")});
  ASSERT_TRUE(policy) << policy.error().str();
  uint32_t held = 0;
  for (const Policy::Map &map : policy->maps) {
    if (map.def.type != SF_MAP_ARRAY_OF_MAPS) continue;
    for (size_t at = 0; at + 4 <= map.initial.size() && held == 0; at += 4) memcpy(&held, map.initial.data() + at, 4);
  }
  ASSERT_NE(held, 0u);
  policy->maps[held - 1].def.max_entries++;
  auto again = load_policy({write("x.sfi", *precompile(*policy))});
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, "sfi-malformed");
  EXPECT_NE(again.error().text.find("where it is held"), std::string::npos) << again.error().str();
}

TEST_F(PrecompiledTest, KeepsWhatTheObjectSaid) {
  auto policy = load_policy({object("mapvalues")});
  ASSERT_TRUE(policy) << policy.error().str();
  auto again = load_policy({write("x.sfi", *precompile(*policy))});
  ASSERT_TRUE(again) << again.error().str();
  ASSERT_EQ(again->maps.size(), policy->maps.size());
  for (size_t i = 0; i < policy->maps.size(); i++) {
    EXPECT_EQ(memcmp(&again->maps[i].def, &policy->maps[i].def, sizeof(sf_image_map)), 0);
    EXPECT_EQ(again->maps[i].initial, policy->maps[i].initial);
    EXPECT_EQ(again->maps[i].frozen, policy->maps[i].frozen);
    EXPECT_EQ(again->maps[i].inner.size(), policy->maps[i].inner.size());
  }
  ASSERT_EQ(again->programs.size(), policy->programs.size());
  for (size_t i = 0; i < policy->programs.size(); i++) {
    EXPECT_EQ(again->programs[i].insns, policy->programs[i].insns);
    EXPECT_EQ(again->programs[i].info.section, policy->programs[i].info.section);
    EXPECT_EQ(again->programs[i].info.name, policy->programs[i].info.name);
    EXPECT_EQ(again->programs[i].info.attached, policy->programs[i].info.attached);
    EXPECT_GE(again->programs[i].code_block, 0);
  }
}

TEST_F(PrecompiledTest, MixesWithObjects) {
  const std::string whole = write("whole.sfi", *precompile(*load_policy({object("whole")})));
  const auto expected = verdicts(*load_policy({object("whole"), object("mapvalues")}), Lowering::InterpretOnly);
  auto first = load_policy({whole, object("mapvalues")});
  ASSERT_TRUE(first) << first.error().str();
  EXPECT_TRUE(first->notes.empty());
  EXPECT_EQ(verdicts(*first, Lowering::Required), expected);
  // Behind an object with maps its code does not fit; it is compiled again.
  const auto swapped = verdicts(*load_policy({object("mapvalues"), object("whole")}), Lowering::InterpretOnly);
  auto second = load_policy({object("mapvalues"), whole});
  ASSERT_TRUE(second) << second.error().str();
  EXPECT_EQ(second->notes.size(), 1u);
  EXPECT_EQ(verdicts(*second, Lowering::Required), swapped);
}

TEST_F(PrecompiledTest, IsTrustedAsAProgramIs) {
  const auto bytes = *precompile(*load_policy({object("whole")}));
  for (mode_t mode : {0664, 0646, 0666}) {
    auto policy = load_policy({write("w.sfi", bytes, mode)});
    ASSERT_FALSE(policy) << mode;
    EXPECT_EQ(policy.error().code, "file-untrusted");
  }
  EXPECT_TRUE(load_policy({write("w.sfi", bytes, 0444)}));
  if (geteuid() != 0) return;
  const std::string path = write("other.sfi", bytes);
  ASSERT_EQ(chown(path.c_str(), 65534, 65534), 0);
  auto policy = load_policy({path});
  ASSERT_FALSE(policy);
  EXPECT_EQ(policy.error().code, "file-untrusted");
}

constexpr size_t kHeaderBytes = 72;

// Changes something and mends the checksum, as somebody would who wants it to be accepted.
std::vector<unsigned char> changed(std::vector<unsigned char> bytes, size_t at, unsigned char by) {
  bytes[at] = static_cast<unsigned char>(bytes[at] ^ by);
  uint64_t sum = 0xcbf29ce484222325ull;
  for (size_t i = kHeaderBytes; i < bytes.size(); i++) sum = (sum ^ bytes[i]) * 0x100000001b3ull;
  memcpy(bytes.data() + 24, &sum, sizeof sum);
  return bytes;
}

TEST_F(PrecompiledTest, ForeignMachineCodeIsNotUsed) {
  auto bytes = *precompile(*load_policy({object("whole")}));
  auto policy = load_policy({write("k.sfi", changed(bytes, 32, 1))});  // the key
  ASSERT_TRUE(policy) << policy.error().str();
  ASSERT_EQ(policy->notes.size(), 1u);
  EXPECT_TRUE(policy->code_blocks.empty());
  EXPECT_EQ(verdicts(*policy, Lowering::Required), verdicts(*load_policy({object("whole")}), Lowering::Required));
  policy = load_policy({write("c.sfi", changed(bytes, 56, 1))});  // "09.1.7", or whichever it was
  ASSERT_TRUE(policy) << policy.error().str();
  ASSERT_EQ(policy->notes.size(), 1u);
  EXPECT_NE(policy->notes[0].find("it was made by LLVM 0"), std::string::npos) << policy->notes[0];
  EXPECT_TRUE(policy->code_blocks.empty());
}

// Any bytes: a refusal, or a policy that the verifier has accepted; machine code only for bytecode as it was.
TEST_F(PrecompiledTest, AnyBytes) {
  const auto original = *precompile(*load_policy({object("whole")}));
  const LinkPlace place;
  EXPECT_TRUE(read_precompiled(original.data(), original.size(), "x", place));
  for (size_t n = 0; n < original.size(); n += 7) EXPECT_FALSE(read_precompiled(original.data(), n, "x", place));
  auto damaged = original;
  damaged.back() ^= 1;
  EXPECT_EQ(read_precompiled(damaged.data(), damaged.size(), "x", place).error().code, "sfi-malformed");
  damaged = original;
  damaged[8]++;
  EXPECT_EQ(read_precompiled(damaged.data(), damaged.size(), "x", place).error().code, "sfi-version");
  std::mt19937_64 random(3);
  int refused = 0;
  for (int i = 0; i < 2000; i++) {
    const auto bytes = changed(original, 36 + random() % (original.size() - 36),
                               static_cast<unsigned char>(random() % 2 ? 1u << random() % 8 : 1 + random() % 255));
    refused += !read_precompiled(bytes.data(), bytes.size(), "x", place);
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace shortfuse::vm
