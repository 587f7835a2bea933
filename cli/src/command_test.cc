// The command as a process: argument errors, exit statuses, help; status and swap against a daemon that the test plays
// in this user's own registry directory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>

#include "control.h"
#include "fake_daemon.h"

namespace shortfuse::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

struct Finished {
  int status;
  std::string output;  ///< both streams
};

/// Through the shell: `arguments` as one would type them.
Finished shortfuse(const std::string &arguments, const std::string &environment = "") {
  const std::string line = environment + " " SF_COMMAND " " + arguments + " 2>&1";
  FILE *pipe = popen(line.c_str(), "r");
  Finished f{-1, ""};
  std::array<char, 4096> buffer;
  for (size_t got; (got = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) f.output.append(buffer.data(), got);
  const int status = pclose(pipe);
  f.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return f;
}

TEST(Command, HelpIsEverywhereAndHasExamples) {
  for (const char *command : {"", "mount", "run", "swap", "status", "policy", "policy check", "policy disasm",
                              "policy run", "policy dump-ir", "policy aot", "policy init", "doctor"}) {
    const auto help = shortfuse(std::string(command) + " --help");
    EXPECT_EQ(help.status, 0) << command;
    EXPECT_THAT(help.output, HasSubstr("Example")) << command;
    EXPECT_THAT(help.output, HasSubstr("shortfuse ")) << command;
  }
  EXPECT_THAT(shortfuse("--version").output, HasSubstr("shortfuse 0."));
}

TEST(Command, WrongArgumentsAreUsageErrors) {
  for (const char *wrong : {"", "frobnicate", "status --frobnicate", "swap /mnt", "policy", "policy check", "run",
                            "run --", "mount", "mount -o bpftime=a.o", "mount -- true", "status a b",
                            "status -- /mnt", "status --watch 0", "run --frobnicate -- true", "policy run",
                            "policy run x --repeat 0", "policy run x --interp --jit", "policy dump-ir",
                            "policy init", "policy aot", "policy aot x"}) {
    const auto result = shortfuse(wrong);
    EXPECT_EQ(result.status, 2) << wrong << "\n" << result.output;
    EXPECT_THAT(result.output, Not(IsEmpty())) << wrong;
  }
}

TEST(Mount, EverythingIsCheckedBeforeTheDaemonRuns) {
  const TestDirectory directory;
  const std::string ran = directory.path + "/ran";
  const std::string daemon = directory.path + "/daemon";
  std::ofstream(daemon) << "#!/bin/sh\ntouch " << ran << "\n";
  chmod(daemon.c_str(), 0755);
  const auto expect = [&](const std::string &arguments, int status, const std::string &text) {
    const auto result = shortfuse("mount " + arguments);
    EXPECT_EQ(result.status, status) << arguments;
    EXPECT_THAT(result.output, HasSubstr(text)) << arguments;
    EXPECT_FALSE(std::filesystem::exists(ran)) << arguments;
  };
  const std::string junk = directory.path + "/junk.bpf.o";
  std::ofstream(junk) << "this is no object file";
  expect("-o allow_other -- " + daemon, 2, "bpftime=POLICY.bpf.o is missing");
  expect("-o bpftime=/no/such.bpf.o -- " + daemon, 1, "/no/such.bpf.o: no such policy file");
  expect("-o bpftime= -- " + daemon, 2, "missing");
  expect("-o bpftime=" + junk + " -- " + daemon, 1, "junk.bpf.o");
}

/// A socket in the directory that the command itself will search.
class Registry {
 public:
  Registry() {
    for (const auto &path : registry_directories(geteuid())) {
      if (path == SF_REGISTRY_ROOT && geteuid() != 0) continue;
      made_ = mkdir(path.c_str(), 0755) == 0;
      struct stat st{};
      if (stat(path.c_str(), &st) == 0 && st.st_uid == geteuid() && (st.st_mode & 022) == 0) {
        path_ = path;
        return;
      }
    }
  }
  ~Registry() {
    if (made_) rmdir(path_.c_str());
  }
  bool usable() const { return !path_.empty(); }
  std::string socket() const { return path_ + "/" + std::to_string(getpid()) + "-test.sock"; }

 private:
  std::string path_;
  bool made_ = false;
};

TEST(Status, ShowsTheTableOrTheJson) {
  const Registry registry;
  ASSERT_TRUE(registry.usable());
  const TestDirectory mount;
  FakeDaemon daemon(registry.socket(), [&](const Request &) { return json_answer(status_json(mount.path)); });
  const auto table = shortfuse("status " + mount.path + "/");
  EXPECT_EQ(table.status, 0) << table.output;
  EXPECT_THAT(table.output, HasSubstr(mount.path));
  EXPECT_THAT(table.output, HasSubstr("machine code"));
  const auto json = shortfuse("status --json " + mount.path);
  EXPECT_EQ(json.status, 0);
  EXPECT_EQ(nlohmann::json::parse(json.output)["ops"]["stat"]["served"], 12);
  EXPECT_THAT(shortfuse("status").output, HasSubstr(mount.path));
  bool listed = false;
  // What other daemons of this machine say, or do not say, is none of this test's business.
  const std::string all = shortfuse("status --json").output;
  for (const auto &entry : nlohmann::json::parse(all.substr(std::min(all.find('['), all.size())))) {
    listed = listed || entry["mount"]["point"] == mount.path;
  }
  EXPECT_TRUE(listed);
  const auto absent = shortfuse("status /tmp");
  EXPECT_EQ(absent.status, 1);
  EXPECT_THAT(absent.output, HasSubstr("/tmp: "));
}

TEST(Swap, PrintsWhatChangedOrWhyNot) {
  const Registry registry;
  ASSERT_TRUE(registry.usable());
  const TestDirectory mount;
  const std::string policy = mount.path + "/new.bpf.o";
  std::ofstream(policy) << "x";
  // The daemon's side of it runs in a thread of its own; the command between the two is another process.
  struct {
    std::mutex mutex;
    std::string current = "/p/old.bpf.o", asked;
    uint64_t epoch = 4;
    bool refuse = true;
  } state;
  FakeDaemon daemon(registry.socket(), [&](const Request &r) {
    const std::lock_guard lock(state.mutex);
    if (r.type != SF_MSG_SWAP) return json_answer(status_json(mount.path, state.epoch, state.current));
    state.asked = nlohmann::json::parse(r.body)["policy"];
    if (state.refuse) return Answer{.type = SF_MSG_ERROR, .body = "new.bpf.o: line 3: r1 may be null"};
    state.current = state.asked;
    state.epoch++;
    return json_answer("{\"ok\":true}");
  });
  const auto refused = shortfuse("swap " + mount.path + " " + policy);
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.output, HasSubstr("line 3: r1 may be null"));
  EXPECT_THAT(refused.output, HasSubstr("the policy stays: /p/old.bpf.o"));
  {
    const std::lock_guard lock(state.mutex);
    state.refuse = false;
  }
  const auto incomplete = shortfuse("swap new.bpf.o", "cd " + mount.path + " &&");
  EXPECT_EQ(incomplete.status, 2) << "a mount point is needed";
  const auto swapped = shortfuse("swap . new.bpf.o", "cd " + mount.path + " &&");
  EXPECT_EQ(swapped.status, 0) << swapped.output;
  EXPECT_THAT(swapped.output, HasSubstr("/p/old.bpf.o -> " + policy));
  EXPECT_THAT(swapped.output, HasSubstr("epoch 4 -> 5"));
  EXPECT_EQ(shortfuse("swap /tmp " + policy).status, 1);
  const std::lock_guard lock(state.mutex);
  EXPECT_EQ(state.asked, policy);
}

TEST(PolicyCheck, RefusedAndMissingFilesAreFailures) {
  const TestDirectory directory;
  const std::string junk = directory.path + "/junk.bpf.o";
  std::ofstream(junk) << "this is no object file";
  const auto refused = shortfuse("policy check " + junk);
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.output, HasSubstr("refused"));
  const auto missing = shortfuse("policy check " + directory.path + "/none.bpf.o");
  EXPECT_EQ(missing.status, 1);
  EXPECT_THAT(missing.output, HasSubstr("no such policy file"));
  for (const auto &file : {junk, directory.path + "/none.bpf.o"})
    EXPECT_EQ(shortfuse("policy disasm " + file).status, 1);
  const auto json = nlohmann::json::parse(shortfuse("policy check --json " + junk).output);
  EXPECT_EQ(json[0]["accepted"], false);
}

TEST(PolicyRun, ShowsVerdictCallsAndMaps) {
  const std::string policies = SF_POLICIES;
  const auto denied = shortfuse("policy run " + policies + "/deny.bpf.o --section fuse/lookup --path secret/x");
  EXPECT_EQ(denied.status, 0) << denied.output;
  EXPECT_THAT(denied.output, HasSubstr("fuse/lookup: -13 (denied: EACCES)\n"));
  EXPECT_THAT(denied.output, HasSubstr("bpf_strncmp(\"secret\", 6, \"secret\") = 0"));

  const std::string read = "policy run " + policies + "/datacache.bpf.o --section fuse_exit/read --ctx node=9 "
                           "--ctx req.offset=0x1000 --ctx reply_bytes=4096";
  const auto kept = shortfuse(read);
  EXPECT_THAT(kept.output, HasSubstr("would keep the reply: 10 s; what does not exist: not at all"));
  EXPECT_THAT(kept.output, HasSubstr("map   last_end[9] = 8192   (new)"));
  for (const char *engine : {" --interp", " --jit"}) {
    const auto json = nlohmann::json::parse(shortfuse(read + " --json --repeat 50" + engine).output);
    EXPECT_EQ(json["verdict"], 0);
    EXPECT_EQ(json["runs"], 50);
    EXPECT_GT(json["ns_per_run"], 0.0);
    ASSERT_EQ(json["maps"].size(), 1u) << json;
    EXPECT_EQ(json["maps"][0]["after"], "8192");
    EXPECT_TRUE(json["maps"][0]["before"].is_null());
    EXPECT_EQ(json["engine"], std::string(engine) == " --jit" ? "machine code" : "interpreter");
  }
  const auto miss = shortfuse("policy run " + policies + "/metacache.bpf.o --section syscall/stat --miss");
  EXPECT_THAT(miss.output, HasSubstr("syscall/stat: 0 (SF_PASS"));
}

TEST(PolicyRun, WhatIsWrongIsSaidWithWhatThereIs) {
  const std::string deny = std::string("policy run ") + SF_POLICIES + "/deny.bpf.o";
  struct Case { const char *arguments, *text; };
  const Case cases[] = {{"", "which program? --section with one of: fuse/access, "},
                        {" --section fuse/nothing", "no program in section \"fuse/nothing\"; there are: fuse/access, "},
                        {" --section fuse/open --ctx colour=1", "has no field \"colour\"; it has: size opcode "},
                        {" --section fuse/open --ctx node", "FIELD=NUMBER is expected, of 8 bytes"},
                        {" --section fuse/open --ctx uid=4294967296", "FIELD=NUMBER is expected, of 4 bytes"},
                        {" --section fuse/open --arg 0g", "--arg: bytes in hexadecimal"}};
  for (const Case &c : cases) {
    const auto refused = shortfuse(deny + c.arguments);
    EXPECT_EQ(refused.status, 1) << c.arguments;
    EXPECT_THAT(refused.output, HasSubstr(c.text)) << c.arguments;
  }
}

TEST(PolicyDumpIr, AsLoweredAndOptimised) {
  const std::string dump = std::string("policy dump-ir ") + SF_POLICIES + "/metacache.bpf.o --section syscall/stat";
  const auto lowered = shortfuse(dump), optimised = shortfuse(dump + " --optimised");
  EXPECT_EQ(lowered.status, 0);
  EXPECT_THAT(lowered.output, HasSubstr("equal ones once: syscall/stat (syscall_stat)\n"));
  EXPECT_THAT(lowered.output, HasSubstr("define i64 @p0(ptr"));
  EXPECT_THAT(shortfuse(dump + " --assembly").output, HasSubstr("p0:"));
  EXPECT_GT(lowered.output.size(), optimised.output.size());
  EXPECT_EQ(shortfuse(dump + "x").status, 1);
}

// Each kind builds, is accepted and passes its own test; nothing is ever overwritten.
// A copy of the command, away from the library that compiles: an object is interpreted there, an .sfi is not.
TEST(PolicyAot, RunsWhereNoCompilerIs) {
  const TestDirectory directory;
  const std::string sfi = directory.path + "/metacache.sfi", alone = directory.path + "/shortfuse";
  const std::string object = SF_POLICIES "/metacache.bpf.o";
  const auto made = shortfuse("policy aot " + object + " -o " + sfi);
  ASSERT_EQ(made.status, 0) << made.output;
  ASSERT_EQ(system(("cp " SF_COMMAND " " + alone).c_str()), 0);
  const auto json = [&](const std::string &policy) {
    FILE *pipe = popen((alone + " policy check --json " + policy).c_str(), "r");
    std::string text;
    for (int c; (c = fgetc(pipe)) != EOF;) text.push_back(static_cast<char>(c));
    EXPECT_EQ(pclose(pipe), 0) << text;
    return nlohmann::json::parse(text)[0];
  };
  EXPECT_EQ(json(sfi)["image"], "machine code");
  EXPECT_EQ(json(sfi)["notes"], nlohmann::json::array());
  EXPECT_THAT(json(object)["image"].get<std::string>(), HasSubstr("interpreted"));
  EXPECT_THAT(json(sfi + ":" + object)["image"].get<std::string>(), HasSubstr("interpreted: some programs"));
  // Behind an object with maps it is compiled again where that can be done; why is said in any case.
  const std::string behind = SF_POLICIES "/datacache.bpf.o:" + sfi;
  EXPECT_THAT(json(behind)["notes"][0].get<std::string>(), HasSubstr("other files with maps come before it"));
  EXPECT_THAT(shortfuse("policy check " + behind).output,
              HasSubstr("  note    metacache.sfi: its machine code is not used"));
}

TEST(PolicyAot, SaysWhatIsWrong) {
  const TestDirectory directory;
  const std::string sfi = directory.path + "/x.sfi", object = SF_POLICIES "/deny.bpf.o";
  EXPECT_EQ(shortfuse("policy aot " + object + " -o /nowhere/x.sfi").status, 1);
  EXPECT_THAT(shortfuse("policy aot " + object + " -o " + directory.path).output, HasSubstr("not a regular file"));
  ASSERT_EQ(shortfuse("policy aot " + object + " -o " + sfi).status, 0);
  EXPECT_EQ(shortfuse("policy check " + sfi).status, 0);
  ASSERT_EQ(system(("chmod g+w " + sfi).c_str()), 0);
  const auto refused = shortfuse("policy check " + sfi);
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.output, HasSubstr("only its owner"));
  ASSERT_EQ(system(("chmod 644 " + sfi + " && printf x >> " + sfi).c_str()), 0);
  EXPECT_THAT(shortfuse("policy check " + sfi).output, HasSubstr("damaged"));
}

TEST(PolicyInit, ProjectsTestThemselves) {
  const TestDirectory directory;
  for (const char *kind : {"cache", "deny", "count"}) {
    const std::string project = directory.path + "/my_" + kind;
    const auto made = shortfuse("policy init " + project + " --kind " + kind);
    ASSERT_EQ(made.status, 0) << made.output;
    const std::string make = "make -C " + project + " test > " + directory.path + "/log 2>&1";
    const int status = system(make.c_str());
    std::ostringstream log;
    log << std::ifstream(directory.path + "/log").rdbuf();
    EXPECT_EQ(status, 0) << log.str();
    // Whole lines of what `policy run` says, not what was looked for in them.
    if (std::string(kind) != "count") {
      EXPECT_THAT(log.str(), HasSubstr(": 0 (SF_PASS: the call takes its usual way)\n"));
    }
    std::ofstream(project + "/README.md") << "mine";
    const auto again = shortfuse("policy init " + project);
    EXPECT_EQ(again.status, 1);
    EXPECT_THAT(again.output, HasSubstr("is already there; nothing was written"));
    std::string kept;
    std::ifstream(project + "/README.md") >> kept;
    EXPECT_EQ(kept, "mine");
  }
  EXPECT_EQ(shortfuse("policy init " + directory.path + "/x --kind other").status, 1);
  EXPECT_EQ(shortfuse("policy init " + directory.path + "/'a b'").status, 1);
  EXPECT_EQ(shortfuse("policy init " + directory.path + "/none/x").status, 1);
  EXPECT_FALSE(std::filesystem::exists(directory.path + "/x"));
}

TEST(Doctor, SaysOneLineAboutEachThing) {
  const auto text = shortfuse("doctor");
  EXPECT_THAT(text.output, HasSubstr("/dev/fuse"));
  EXPECT_THAT(text.output, HasSubstr("libfuse3"));
  const auto json = shortfuse("doctor --json");
  const auto parsed = nlohmann::json::parse(json.output);
  EXPECT_EQ(parsed["usable"].get<bool>(), json.status == 0);
  EXPECT_EQ(json.status, text.status);
  bool vital_missing = false;
  for (const auto &check : parsed["checks"]) {
    if (check["state"] == "ok") continue;
    EXPECT_THAT(check["cost"].get<std::string>(), Not(IsEmpty())) << check;
    EXPECT_THAT(check["remedy"].get<std::string>(), Not(IsEmpty())) << check;
    vital_missing = vital_missing || check["vital"].get<bool>();
  }
  EXPECT_EQ(parsed["usable"].get<bool>(), !vital_missing);
}

}  // namespace
}  // namespace shortfuse::cli
