#include "files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "fake_daemon.h"

namespace shortfuse::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

void write(const std::string &path, const std::string &text) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path) << text;
}

class Files : public ::testing::Test {
 protected:
  TestDirectory directory;
  std::string bin = directory.path + "/bin";
};

TEST_F(Files, LibrariesAreFoundBesideTheExecutable) {
  EXPECT_THAT(find_library(bin, "libx-not-there.so").error(), HasSubstr("looked for " + directory.path + "/lib/"));
  write(directory.path + "/lib/libx-not-there.so", "");
  EXPECT_EQ(find_library(bin, "libx-not-there.so"), directory.path + "/lib/libx-not-there.so");
}

TEST_F(Files, PoliciesAreFoundByPathOrByName) {
  const std::string shipped = directory.path + "/policies/meta.bpf.o";
  const std::string own = directory.path + "/own.bpf.o";
  write(shipped, "");
  write(own, "");
  EXPECT_EQ(find_policy(bin, own), own);
  EXPECT_EQ(find_policy(bin, "meta.bpf.o"), shipped);
  EXPECT_EQ(find_policy(bin, "meta"), shipped);
  EXPECT_THAT(find_policy(bin, "other").error(), HasSubstr("no such policy"));
  EXPECT_THAT(find_policy(bin, "./meta").error(), HasSubstr("no such policy file"));
  EXPECT_THAT(find_policy(bin, directory.path).error(), HasSubstr("not a file"));
  EXPECT_THAT(find_policy(bin, "").error(), HasSubstr("empty path"));
  // What lies in the working directory comes first.
  const fs::path before = fs::current_path();
  write(directory.path + "/here/meta.bpf.o", "");
  fs::current_path(directory.path + "/here");
  EXPECT_EQ(find_policy(bin, "meta.bpf.o"), directory.path + "/here/meta.bpf.o");
  fs::current_path(before);
}

TEST_F(Files, ChainsKeepTheirOrder) {
  for (const char *name : {"a", "b"}) write(directory.path + "/policies/" + name + ".bpf.o", "");
  const auto chain = find_chain(bin, "b:a:b");
  ASSERT_TRUE(chain.has_value()) << chain.error();
  const std::string p = directory.path + "/policies/";
  EXPECT_THAT(*chain, ElementsAre(p + "b.bpf.o", p + "a.bpf.o", p + "b.bpf.o"));
  EXPECT_THAT(find_chain(bin, "a:").error(), HasSubstr("empty path"));
  EXPECT_THAT(find_chain(bin, "a:nope").error(), HasSubstr("nope"));
  write(directory.path + "/with,comma.bpf.o", "");
  EXPECT_THAT(find_chain(bin, directory.path + "/with,comma.bpf.o").error(), HasSubstr("must not contain"));
}

TEST(Preload, KeepsOthersAndNeverRepeatsItself) {
  EXPECT_EQ(preload_value("/l/x.so", nullptr), "/l/x.so");
  EXPECT_EQ(preload_value("/l/x.so", ""), "/l/x.so");
  EXPECT_EQ(preload_value("/l/x.so", "/a.so /b.so"), "/l/x.so:/a.so:/b.so");
  EXPECT_EQ(preload_value("/l/x.so", ":/a.so::/l/x.so:"), "/l/x.so:/a.so");
  EXPECT_THAT(preload_value("/l l/x.so", "").error(), HasSubstr("space"));
}

TEST(Preload, AddressSanitizerIsToldOnceAndItsOwnOptionsAreKept) {
  const char *before = getenv("LD_PRELOAD");
  const std::string kept = before != nullptr ? before : "";
  for (const auto &[given, expected] : std::map<std::string, std::string>{
           {"", "verify_asan_link_order=0"},
           {"detect_leaks=0", "detect_leaks=0:verify_asan_link_order=0"},
           {"verify_asan_link_order=1:detect_leaks=0", "verify_asan_link_order=1:detect_leaks=0"}}) {
    setenv("ASAN_OPTIONS", given.c_str(), 1);
    set_preload("/l/x.so");
    EXPECT_STREQ(getenv("ASAN_OPTIONS"), expected.c_str());
    EXPECT_STREQ(getenv("LD_PRELOAD"), "/l/x.so");
  }
  unsetenv("ASAN_OPTIONS");
  if (before != nullptr) setenv("LD_PRELOAD", kept.c_str(), 1);
  else unsetenv("LD_PRELOAD");
}

TEST_F(Files, ProgramsAreJudgedBeforeTheyRun) {
  const auto shell = inspect_program("sh");
  ASSERT_TRUE(shell.has_value()) << shell.error().text;
  EXPECT_FALSE(shell->is_static);
  EXPECT_FALSE(shell->is_privileged);
  EXPECT_FALSE(shell->elf.empty());
  EXPECT_THAT(shell->needed, Contains("libc.so.6"));

  EXPECT_EQ(inspect_program("no-such-program-anywhere").error().status, 127);
  EXPECT_EQ(inspect_program(directory.path + "/nothing").error().status, 127);
  EXPECT_EQ(inspect_program(directory.path).error().status, 126);
  const std::string plain = directory.path + "/plain";
  write(plain, "echo");
  chmod(plain.c_str(), 0644);
  EXPECT_EQ(inspect_program(plain).error().status, 126);

  const std::string script = directory.path + "/script";
  write(script, "#! /bin/sh -e\nexit 0\n");
  chmod(script.c_str(), 0755);
  const auto judged = inspect_program(script);
  ASSERT_TRUE(judged.has_value());
  EXPECT_EQ(judged->path, script);
  EXPECT_EQ(judged->elf, "/bin/sh");

  const std::string endless = directory.path + "/endless";
  write(endless, "#!" + endless + "\n");
  chmod(endless.c_str(), 0755);
  EXPECT_EQ(inspect_program(endless)->elf, "");
}

TEST_F(Files, StaticAndPrivilegedProgramsAreSeen) {
  // The smallest ELF file without an interpreter: the header and one PT_LOAD.
  std::string elf(64 + 56, '\0');
  const unsigned char head[] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
  elf.replace(0, sizeof head, reinterpret_cast<const char *>(head), sizeof head);
  elf[16] = 2, elf[18] = 62, elf[20] = 1, elf[32] = 64, elf[52] = 64, elf[54] = 56, elf[56] = 1, elf[64] = 1;
  const std::string path = directory.path + "/static";
  write(path, elf);
  chmod(path.c_str(), 0755);
  EXPECT_TRUE(inspect_program(path)->is_static);
  chmod(path.c_str(), 02755);
  EXPECT_TRUE(inspect_program(path)->is_privileged);
  // Headers that lie: never more is read than there is.
  for (size_t i = 0; i < elf.size(); i++) {
    std::string changed = elf;
    changed[i] = '\xff';
    write(path, changed);
    chmod(path.c_str(), 0755);
    (void)inspect_program(path);
    write(path, elf.substr(0, i));
    (void)inspect_program(path);
  }
}

}  // namespace
}  // namespace shortfuse::cli
