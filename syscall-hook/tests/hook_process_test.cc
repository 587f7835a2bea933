// Whole processes under the hook, in front of a bypass of the tests' own (fake_bypass.cc): each probe must hold with
// and without it, and ordinary programs must be as they always are.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

struct Result {
  int status = -1;  // as of waitpid
  std::string output;
  bool ok() const { return WIFEXITED(status) && WEXITSTATUS(status) == 0; }
  int code() const { return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status); }
};

// What is remembered for everybody on this machine is not there for these tests: a directory that all may write to does
// not count.
class WithoutSystemPlace : public testing::Environment {
  void SetUp() override {
    const char *place = "/var/cache/shortfuse";
    if (geteuid() != 0 || !fs::exists(place)) return;
    ASSERT_EQ(unshare(CLONE_NEWNS), 0);
    ASSERT_EQ(mount("", "/", nullptr, MS_REC | MS_SLAVE, nullptr), 0);
    ASSERT_EQ(mount("tmpfs", place, "tmpfs", 0, "mode=0777"), 0);
  }
};
const auto *without_system_place = testing::AddGlobalTestEnvironment(new WithoutSystemPlace);

std::string read_file(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Hook : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/shortfuse-hook-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    fs::permissions(folder_, fs::perms::owner_all | fs::perms::group_exec | fs::perms::group_read |
                                 fs::perms::others_exec | fs::perms::others_read);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // The environment of a program: a home of its own, and the hook if asked for.
  Strings environment(bool hooked, const Strings &more = {}) const {
    Strings all = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + folder_.string(),
                   "LC_ALL=C"};
    if (hooked) all.push_back("LD_PRELOAD=" + preload_);
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  Result run(const Strings &command, const Strings &environment) const {
    std::string output = (folder_ / "output").string();
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    std::vector<char *> argv, envp;
    for (auto &one : command) argv.push_back((char *)one.c_str());
    for (auto &one : environment) envp.push_back((char *)one.c_str());
    argv.push_back(nullptr);
    envp.push_back(nullptr);
    pid_t pid = -1;
    Result result;
    int error = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), envp.data());
    posix_spawn_file_actions_destroy(&actions);
    if (error) return result;
    waitpid(pid, &result.status, 0);
    result.output = read_file(output);
    return result;
  }

  Result hooked(const Strings &command, const Strings &more = {}) const {
    return run(command, environment(true, more));
  }
  Result plain(const Strings &command, const Strings &more = {}) const {
    return run(command, environment(false, more));
  }
  Result probe(const Strings &arguments, const Strings &more = {}) const {
    Strings command = {HOOK_PROBE};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return hooked(command, more);
  }

  // calls seen, served, abandoned, forks, execs, exits, thread exits
  std::vector<uint64_t> report(const Strings &command, Strings more = {}) const {
    std::string path = (folder_ / "report").string();
    fs::remove(path);
    more.push_back("FAKE_REPORT=" + path);
    Result result = hooked(command, more);
    EXPECT_TRUE(result.ok()) << result.output;
    std::istringstream words(read_file(path));
    std::vector<uint64_t> values;
    for (uint64_t value; words >> value;) values.push_back(value);
    return values;
  }

  fs::path cache() const { return folder_ / ".cache/shortfuse"; }

  fs::path folder_;
  std::string preload_ = HOOK_LIBRARY;
};

class Probe : public Hook, public testing::WithParamInterface<const char *> {};

TEST_P(Probe, HoldsWithAndWithout) {
  Result without = plain({HOOK_PROBE, GetParam(), HOOK_PROBE});
  EXPECT_TRUE(without.ok()) << without.code() << " " << without.output;
  // The first run searches for the sites, the second one remembers them.
  for (int round = 0; round < 2; round++) {
    Result with = hooked({HOOK_PROBE, GetParam(), HOOK_PROBE});
    EXPECT_TRUE(with.ok()) << "round " << round << ": " << with.code() << " " << with.output;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Probe,
                         testing::Values("registers", "generic-syscall", "bad-pointers", "bus-error", "text-unchanged",
                                         "slots-unwind", "no-new-code", "no-writable-code", "segv-default",
                                         "segv-ignored", "segv-handled", "segv-on-stack", "segv-reset-hand",
                                         "segv-query", "segv-exec",
                                         "segv-in-handler", "blocked-bad-pointer", "blocked-and-sent", "blocked-exec",
                                         "mask-after-handler", "mask-in-handler", "interrupted",
                                         "blocked-while-interrupted", "jump-out-of-handler",
                                         "unwind", "fork", "vfork", "spawn",
                                         "clone", "odd-clone", "unshare", "seccomp", "closed-standard",
                                         "few-descriptors", "cancel-blocked", "cancel-busy", "small-stack", "storm",
                                         "sigaction-storm"),
                         [](const auto &one) {
                           std::string name = one.param;
                           std::erase(name, '-');
                           return name;
                         });

// Every call of libc goes through the stub, as much as can be.
TEST_F(Hook, EveryCallPatched) {
  for (const char *name : {"registers", "generic-syscall", "bad-pointers", "text-unchanged", "fork", "vfork", "spawn",
                           "clone", "unwind", "interrupted", "cancel-blocked", "cancel-busy", "storm"}) {
    Result result = probe({name}, {"FAKE_ALL=1"});
    EXPECT_TRUE(result.ok()) << name << " " << result.code() << " " << result.output;
  }
}

TEST_F(Hook, OrdinaryProgramsSeeTheFakeFiles) {
  const struct { Strings command; const char *expected; } kCases[] = {
      {{"stat", "-c", "%s %i", "/fake/77"}, "77 77\n"},
      {{"ls", "/fake/9"}, "/fake/9\n"},
      {{"find", "/fake/123", "-size", "+10c"}, "/fake/123\n"},
      {{"bash", "-c", "[ -e /fake/5 ] && echo here; echo $(stat -c %s /fake/6) | cat"}, "here\n6\n"},
      {{"python3", "-c", "import os; print(os.stat('/fake/12345').st_size, os.path.getsize('/fake/6'))"}, "12345 6\n"},
      {{"perl", "-e", "print -s '/fake/555', \"\\n\""}, "555\n"},
      {{"git", "--version"}, "git version"},
      {{"gcc", "--version"}, "gcc"},
      {{"tar", "--version"}, "tar"},
      {{"node", "-e", "console.log(require('fs').statSync('/fake/42').size)"}, "42\n"},
      {{"java", "-version"}, "version"},
  };
  for (const auto &one : kCases) {
    if (!plain({"sh", "-c", "command -v " + one.command[0]}).ok()) continue;
    Result result = hooked(one.command);
    EXPECT_TRUE(result.ok()) << one.command[0] << result.code() << " " << result.output;
    EXPECT_NE(result.output.find(one.expected), std::string::npos) << one.command[0] << ": " << result.output;
  }
}

// A virtual machine that uses SIGSEGV for null pointers, for its guard pages and to stop threads.
TEST_F(Hook, JavaNullPointersAndStackOverflow) {
  if (!plain({"sh", "-c", "command -v javac"}).ok()) GTEST_SKIP() << "no javac";
  std::ofstream(folder_ / "T.java") << R"(
    public class T {
      static int[] none;
      static int deep(int i) { return deep(i + 1) + 1; }
      public static void main(String[] x) throws Exception {
        Thread[] threads = new Thread[4];
        long[] sums = new long[4];
        for (int k = 0; k < 4; k++) {
          int me = k;
          threads[k] = new Thread(() -> {
            for (int i = 0; i < 20000; i++) {
              try { sums[me] += none.length; } catch (NullPointerException e) { sums[me]++; }
              if (i % 20 == 0) sums[me] += new java.io.File("/fake/3").length();
            }
          });
          threads[k].start();
        }
        System.gc();
        long all = 0;
        for (int k = 0; k < 4; k++) { threads[k].join(); all += sums[k]; }
        try { deep(0); } catch (StackOverflowError e) { all++; }
        System.out.println(all);
      }
    })";
  ASSERT_TRUE(plain({"javac", "-d", folder_, folder_ / "T.java"}).ok());
  Result result = hooked({"java", "-cp", folder_, "T"});
  EXPECT_TRUE(result.ok()) << result.output;
  EXPECT_EQ(result.output, std::to_string(4 * (20000 + 1000 * 3) + 1) + "\n");
}

TEST_F(Hook, EveryWayToEndAProcessIsReported) {
  for (const char *way : {"exit", "_exit", "quick_exit", "syscall", "return"}) {
    auto values = report({HOOK_PROBE, "end-by", way});
    ASSERT_EQ(values.size(), 7u) << way;
    EXPECT_GE(values[5], 1u) << way;
  }
  auto values = report({HOOK_PROBE, "fork"});
  ASSERT_EQ(values.size(), 7u);
  EXPECT_EQ(values[3], 200u);
  values = report({HOOK_PROBE, "bad-pointers"});
  ASSERT_EQ(values.size(), 7u);
  EXPECT_GE(values[2], 2000u * 10);
  values = report({HOOK_PROBE, "small-stack"});
  ASSERT_EQ(values.size(), 7u);
  EXPECT_EQ(values[6], 50u);
}

TEST_F(Hook, InertWhereToldSo) {
  EXPECT_TRUE(probe({"served", "1"}).ok());
  EXPECT_TRUE(probe({"served", "0"}, {"SHORTFUSE_DISABLE=1"}).ok());
  EXPECT_TRUE(probe({"served", "1"}, {"SHORTFUSE_DISABLE=0"}).ok());
  EXPECT_TRUE(probe({"served", "0"}, {"FAKE_START=0"}).ok());
  EXPECT_TRUE(probe({"text-unchanged"}, {"FAKE_START=0"}).ok());
  EXPECT_TRUE(probe({"text-unchanged"}, {"SHORTFUSE_DISABLE=1"}).ok());
  Result result = probe({"served", "0"}, {"SHORTFUSE_DISABLE=1", "SHORTFUSE_LOG=debug"});
  EXPECT_EQ(result.output, "shortfuse: SHORTFUSE_DISABLE is set\n");
}

TEST_F(Hook, CacheRemembersAndIsPrivate) {
  Result first = probe({"is-from-cache", "0"});
  EXPECT_TRUE(first.ok()) << first.output;
  int files = 0;
  for (auto &entry : fs::directory_iterator(cache())) {
    struct stat status;
    ASSERT_EQ(stat(entry.path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
    files++;
  }
  EXPECT_EQ(files, 2);
  Result second = probe({"is-from-cache", "2"});
  EXPECT_TRUE(second.ok()) << second.output;
  EXPECT_TRUE(probe({"text-unchanged"}).ok());
}

TEST_F(Hook, CacheTamperedWithIsIgnored) {
  ASSERT_TRUE(probe({"is-from-cache", "0"}).ok());
  std::vector<fs::path> files;
  for (auto &entry : fs::directory_iterator(cache())) files.push_back(entry.path());
  std::vector<std::string> good;
  for (auto &file : files) good.push_back(read_file(file));
  auto write = [&](auto change) {
    for (size_t i = 0; i < files.size(); i++) {
      std::string bytes = good[i];
      change(bytes);
      fs::remove(files[i]);
      std::ofstream(files[i], std::ios::binary) << bytes;
      fs::permissions(files[i], fs::perms::owner_read | fs::perms::owner_write);
    }
  };
  // The checksum.
  for (size_t at : {0ul, 9ul, 70ul, 73ul, 300ul, 700ul}) {
    write([&](std::string &bytes) { bytes[at] ^= 1; });
    Result result = probe({"is-from-cache", "0"});
    EXPECT_TRUE(result.ok()) << at << result.output;
    EXPECT_TRUE(probe({"text-unchanged"}).ok());
  }
  for (size_t size : {0ul, 5ul, 72ul, 88ul, 500ul}) {
    write([&](std::string &bytes) { bytes.resize(size); });
    EXPECT_TRUE(probe({"is-from-cache", "0"}).ok()) << size;
  }
  // Who may write to it.
  write([](std::string &) {});
  EXPECT_TRUE(probe({"is-from-cache", "2"}).ok());
  for (auto &file : files) fs::permissions(file, fs::perms::all);
  EXPECT_TRUE(probe({"is-from-cache", "0"}).ok());
  EXPECT_TRUE(probe({"is-from-cache", "2"}).ok());  // replaced by a good one
  fs::permissions(cache(), fs::perms::all);
  EXPECT_TRUE(probe({"is-from-cache", "0"}).ok());
  fs::permissions(cache(), fs::perms::owner_all);
  // A symbolic link in place of the file.
  for (auto &file : files) {
    fs::rename(file, file.string() + "-elsewhere");
    fs::create_symlink(file.string() + "-elsewhere", file);
  }
  EXPECT_TRUE(probe({"is-from-cache", "0"}).ok());
  if (geteuid() == 0) {
    for (auto &file : files) {
      fs::remove(file);
      fs::rename(file.string() + "-elsewhere", file);
      ASSERT_EQ(chown(file.c_str(), 65534, 65534), 0);
    }
    EXPECT_TRUE(probe({"is-from-cache", "0"}).ok());
  }
}

// Entries that pass the checksum are still compared with the bytes in memory.
TEST_F(Hook, CacheOfOtherBytesIsIgnored) {
  ASSERT_TRUE(probe({"is-from-cache", "0"}).ok());
  for (const char *how : {"hash", "overlap"}) {
    Result result = probe({"forge-cache", cache(), how});
    ASSERT_TRUE(result.ok()) << result.output;
    EXPECT_TRUE(probe({"is-from-cache", "0"}).ok()) << how;
    EXPECT_TRUE(probe({"text-unchanged"}).ok()) << how;
    EXPECT_TRUE(probe({"is-from-cache", "2"}).ok()) << how;  // replaced by a good one
  }
}

TEST_F(Hook, NoPageIsWritableAndExecutable) {
  for (int round = 0; round < 2; round++) EXPECT_TRUE(probe({"no-writable-code"}).ok()) << round;
}

TEST_F(Hook, ValuesThatMeanNothingAreSaidOnce) {
  struct Case {
    const char *variable, *said;
  };
  for (const Case &c : {Case{"SHORTFUSE_DISABLE=yes", "SHORTFUSE_DISABLE=yes: 0 or 1"},
                        Case{"SHORTFUSE_LOG=loud", "SHORTFUSE_LOG=loud: off, info, debug"},
                        Case{"SHORTFUSE_TRACE=1.2", "SHORTFUSE_TRACE=1.2: only"}}) {
    // A shell and its children.
    Result result = hooked({"sh", "-c", "/bin/true; exec /bin/true"}, {c.variable});
    EXPECT_TRUE(result.ok());
    EXPECT_NE(result.output.find(c.said), std::string::npos) << result.output;
    EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
  }
  Result result = hooked({"true"}, {"SHORTFUSE_REPORT=/" + std::string(1100, 'r')});
  EXPECT_NE(result.output.find("too long"), std::string::npos) << result.output;
  for (const char *good : {"SHORTFUSE_DISABLE=0", "SHORTFUSE_DISABLE=", "SHORTFUSE_LOG=off", "SHORTFUSE_OTHER=x"})
    EXPECT_EQ(hooked({"true"}, {good}).output, "");
}

// A debugger that stops inside of the bypass sees who made the call.
TEST_F(Hook, DebuggersSeeTheCaller) {
  if (!plain({"sh", "-c", "command -v gdb"}).ok()) GTEST_SKIP() << "no gdb";
  Strings command = {"gdb", "-nx", "-batch", "-ex", "set startup-with-shell off",
                     "-ex", std::string("set environment LD_PRELOAD ") + HOOK_LIBRARY,
                     "-ex", "set breakpoint pending on", "-ex", "break serve_stat", "-ex", "run", "-ex", "backtrace",
                     "--args", HOOK_PROBE, "served", "1"};
  Result result = plain(command);
  const size_t inner = result.output.find("#0 "), caller = result.output.find("is_served", inner);
  ASSERT_NE(inner, std::string::npos) << result.output;
  EXPECT_NE(result.output.find("sf_bypass_call", inner), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("sf_hook_enter", inner), std::string::npos) << result.output;
  EXPECT_NE(caller, std::string::npos) << result.output;
}

// A profiler that unwinds by what the files say (perf, libdw) gets from the bypass through the stub to the function of
// libc that was patched. Not further: from there on it is as good as without us.
TEST_F(Hook, ProfilersSeeTheCaller) {
  if (!plain({"sh", "-c", "command -v perf"}).ok()) GTEST_SKIP() << "no perf";
  const std::string data = folder_ / "perf.data";
  Strings command = {"perf", "record", "-q", "-e", "cpu-clock:u", "-F", "2000", "--call-graph", "dwarf,8192"};
  for (const std::string &one : Strings{"-o", data, "--", "env", "LD_PRELOAD=" + preload_, HOOK_PROBE, "keeps-serving"})
    command.push_back(one);
  Result recorded = plain(command);
  if (!recorded.ok() || !fs::exists(data)) GTEST_SKIP() << "no events for perf: " << recorded.output;
  // One sample a paragraph, innermost frame first.
  std::istringstream lines(plain({"perf", "script", "--no-inline", "-i", data, "-F", "ip,sym"}).output);
  int inside = 0, through = 0;
  std::string line, chain;
  auto sampled = [&] {
    const size_t inner = chain.find("sf_bypass_call"), stub = chain.find("sf_hook_enter", inner);
    inside += inner != std::string::npos;
    if (inner == std::string::npos || stub == std::string::npos) return chain.clear();
    through += chain.find("stat", stub) != std::string::npos;
    chain.clear();
  };
  while (std::getline(lines, line)) line.empty() ? sampled() : (void)(chain += line + "\n");
  sampled();
  EXPECT_GT(inside, 0) << "no sample in the bypass";
  EXPECT_GE(through * 10, inside * 9) << "of " << inside << " only " << through;
}

TEST_F(Hook, WorksWithoutAnyPlaceForTheCache) {
  for (const char *home : {"HOME=/nonexistent", "HOME=/proc/self", "HOME=", "HOME=relative"}) {
    Strings environment = {home, "LD_PRELOAD=" + preload_};
    EXPECT_TRUE(run({HOOK_PROBE, "served", "1"}, environment).ok()) << home;
  }
}

TEST_F(Hook, StaticProgramsAndOtherExecs) {
  Result result = probe({"exec-program", HOOK_STATIC});
  EXPECT_TRUE(result.ok()) << result.output;
}

// More rights than the user: the dynamic linker drops the preload, or the library finds out by itself.
TEST_F(Hook, SetUserIdProgramIsLeftAlone) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to make a set-user-ID program";
  fs::path program = folder_ / "probe", library = folder_ / "hook.so";
  fs::copy_file(HOOK_PROBE, program);
  fs::copy_file(HOOK_LIBRARY, library);
  ASSERT_EQ(chmod(program.c_str(), 04755), 0);
  ASSERT_EQ(chmod(library.c_str(), 04755), 0);
  Result result = run({"setpriv", "--reuid=65534", "--clear-groups", program, "served", "0"},
                      {"PATH=/usr/bin:/bin", "LD_PRELOAD=" + library.string()});
  EXPECT_TRUE(result.ok()) << result.output;
}

TEST_F(Hook, BesideAnotherPreload) {
  for (int order = 0; order < 2; order++) {
    preload_ = order ? std::string(HOOK_LIBRARY) + ":" + HOOK_OTHER_PRELOAD
                     : std::string(HOOK_OTHER_PRELOAD) + ":" + HOOK_LIBRARY;
    for (const char *name : {"text-unchanged", "fork", "spawn", "storm", "segv-handled", "cancel-blocked"}) {
      Result result = probe({name});
      EXPECT_TRUE(result.ok()) << order << " " << name << " " << result.code() << result.output;
    }
  }
}

TEST_F(Hook, UnderAddressSanitizer) {
  Result result = hooked({HOOK_ASAN}, {"ASAN_OPTIONS=verify_asan_link_order=0:detect_leaks=0"});
  EXPECT_TRUE(result.ok()) << result.code() << result.output;
}

// The library stands on nothing, so that it can be loaded into anything.
TEST_F(Hook, NeedsNoOtherLibrary) {
  for (const std::string &library : Strings{HOOK_LIBRARY, HOOK_REAL_LIBRARY}) {
    if (!fs::exists(library)) continue;
    Result dynamic = plain({"readelf", "-dW", library});
    ASSERT_TRUE(dynamic.ok()) << dynamic.output;
    EXPECT_EQ(dynamic.output.find("NEEDED"), std::string::npos) << dynamic.output;
    EXPECT_EQ(dynamic.output.find("TEXTREL"), std::string::npos);
    EXPECT_NE(dynamic.output.find("INITFIRST"), std::string::npos);
    Result relocations = plain({"readelf", "-rW", library});
    for (const char *bad : {"DTPMOD", "DTPOFF", "TLSDESC", "JUMP_SLO", "GLOB_DAT", "IRELATIVE"})
      EXPECT_EQ(relocations.output.find(bad), std::string::npos) << bad;
    Result symbols = plain({"sh", "-c", "nm -D --undefined-only " + library});
    EXPECT_EQ(symbols.output, "");
    Result exported = plain({"sh", "-c", "nm -D --defined-only " + library + " | grep -c ' T '"});
    EXPECT_EQ(exported.output, "1\n");
    Result segments = plain({"sh", "-c", "readelf -lW " + library + " | grep -c 'RWE'"});
    EXPECT_EQ(segments.output, "0\n");
    // But for three functions that run at the start of the process only (scan.h).
    const std::string outside =
        " | awk '/^[0-9a-f]+ </ { scan = $2 ~ /^<sf_scan_(syscalls|past_others|jumps)>/ } !scan'";
    Result vectors = plain({"sh", "-c", "objdump -d --no-show-raw-insn " + library + outside +
                                            " | grep -cE '%[xyz]mm|%st\\b'"});
    EXPECT_EQ(vectors.output, "0\n");
  }
}

}  // namespace
