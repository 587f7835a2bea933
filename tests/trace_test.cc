// `shortfuse trace` on real programs: what it counts is what strace counts, what it injects is what programs see, and
// otherwise they are as they always are. ctest-timeout: 300
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "support/harness.h"

namespace shortfuse::tests {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using Words = std::vector<std::string>;

constexpr const char *kPython = "/usr/bin/python3";

struct Traced {
  int status;
  std::string out, err;
  json result;               ///< the last line
  std::vector<json> events;
  uint64_t of(const char *map, const std::string &key, const char *field = nullptr) const {
    for (const json &entry : result["maps"][map]) {
      if (entry["key"] != json(key) && entry["key"].dump() != key) continue;
      return field ? entry["value"].value(field, uint64_t{0}) : entry["value"].get<uint64_t>();
    }
    return 0;
  }
};

class Trace : public testing::Test {
 protected:
  Words command(const Words &options, const Words &traced) const {
    Words all{program("shortfuse"), "trace", "--json", "-o", temp_ / "result"};
    all.insert(all.end(), options.begin(), options.end());
    all.push_back("--");
    all.insert(all.end(), traced.begin(), traced.end());
    return all;
  }
  Spec spec(const Words &options, const Words &traced) const {
    Spec out{.argv = command(options, traced)};
    out.env = {{"PYTHONDONTWRITEBYTECODE", "1"}, {"PYTHONHASHSEED", "0"}, {"HOME", temp_.path()}, {"LC_ALL", "C"}};
    return out;
  }
  Traced read(int status) const {
    Traced out{.status = status, .out = {}, .err = {}, .result = {}, .events = {}};
    std::istringstream lines(read_file(temp_ / "result"));
    for (std::string line; std::getline(lines, line);) {
      const json one = json::parse(line, nullptr, false);
      EXPECT_TRUE(one.is_object()) << line;
      if (one.contains("event")) out.events.push_back(one["record"]);
      else out.result = one;
    }
    return out;
  }
  Traced trace(const Words &options, const Words &traced) const {
    const Finished done = run(spec(options, traced));
    Traced out = read(done.status);
    out.out = done.out;
    out.err = done.err;
    return out;
  }
  Traced trace_worker(const Words &options, const std::string &name, const Words &args = {}) const {
    return trace(options, worker(name, args, false).argv);
  }
  /// A program of the test's own; returns where its object is.
  std::string compiled(const std::string &name, const std::string &code) const {
    const std::string source = temp_ / (name + ".bpf.c"), object = temp_ / (name + ".bpf.o");
    write_file(source, "#include <shortfuse/trace.h>\n" + code + "\nchar LICENSE[] SEC(\"license\") = \"GPL\";\n");
    const Finished made = run({.argv = {"clang-19", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-I",
                                        SF_BUILD_DIR "/include", "-I/usr/include/x86_64-linux-gnu", "-c", source, "-o",
                                        object}});
    if (made.status != 0) throw Broken(made.err);
    return object;
  }

  TempDir temp_;
};

// ---- the same by strace: calls behind a mark, which is made where the hook begins

constexpr const char *kMark = "long id; static void mark(void) { __asm__ volatile(\"syscall\" : \"=a\"(id) : "
                              "\"a\"(124), \"D\"(-4711) : \"rcx\", \"r11\", \"memory\"); }\n"
                              "__attribute__((section(\".init_array\"), used)) static void (*entry)(void) = mark;\n";

class Truth {
 public:
  explicit Truth(const TempDir &temp) : library_(temp / "mark.so"), log_(temp / "strace") {
    write_file(temp / "mark.c", kMark);
    const Finished made = run({.argv = {"gcc", "-shared", "-fPIC", "-nostdlib", "-Wl,-z,initfirst", temp / "mark.c",
                                        "-o", library_}});
    if (made.status != 0) throw Broken("gcc: " + made.err);
    std::istringstream lines(run({.argv = {program("shortfuse"), "trace", "--calls"}}).out);
    for (std::string line; std::getline(lines, line);) traced_[line.substr(0, line.find(' '))] = true;
  }

  std::map<std::string, uint64_t> count(Spec spec) {
    Words argv{"strace", "-f", "-qq", "-s", "0", "-o", log_, "-E", "LD_PRELOAD=" + library_};
    argv.insert(argv.end(), spec.argv.begin(), spec.argv.end());
    spec.argv = argv;
    const Finished done = run(spec);
    std::map<std::string, uint64_t> counts;
    std::map<std::string, bool> marked;
    std::ifstream file(log_);
    std::map<std::string, bool> known;
    for (std::string line; std::getline(file, line);) {
      const std::string pid = line.substr(0, line.find(' '));
      std::string rest = line.substr(line.find_first_not_of(' ', line.find(' ')));
      const std::string name = rest.substr(0, rest.find('('));
      if (rest.starts_with("<...") || rest.starts_with("+++") || rest.starts_with("---")) continue;
      // Children begin where their parents are: marked, as nobody forks before.
      if (!known[pid]) marked[pid] = known.size() > 1;
      known[pid] = true;
      const bool mark = name == "getsid" && rest.find("-4711") != std::string::npos;
      if (marked[pid] && traced_.contains(name)) counts[name]++;
      if (mark) marked[pid] = true;
      if (name == "execve" && rest.find(" = 0") != std::string::npos) marked[pid] = false;
      if (name == "execve" && rest.find("unfinished") != std::string::npos) marked[pid] = false;
    }
    return counts;
  }

 private:
  std::string library_, log_;
  std::map<std::string, bool> traced_;
};

class Counts : public Trace, public testing::WithParamInterface<const char *> {};

// Whole command lines, with children, in a directory with a repository of git that does not change any more.
constexpr const char *kCommands[] = {
    "exec ls -lR .",
    "exec cat a/1 a/2 a/3 nothing",
    "exec /usr/bin/python3 -S -c 'import os; print(sorted(os.listdir(\".\")), os.stat(\"a/1\").st_size)'",
    "cat a/* >b; sort b; wc -l b; (cd a; ls); for i in 1 2 3; do test -e a/$i && /bin/true; done",
    "git log --oneline; git ls-files | cat; git cat-file -p HEAD",
    "exec /usr/bin/python3 -S -c 'import subprocess; print(subprocess.run([\"ls\", \"a\"]).returncode)'",
};

TEST_P(Counts, AreThoseOfStrace) {
  if (run({.argv = {"strace", "-f", "-qq", "-o", temp_ / "strace", "true"}}).status != 0) GTEST_SKIP() << "no strace";
  const std::string tree = temp_.dir("tree");
  const std::string make = "cd " + tree + " && mkdir a && for i in 1 2 3 4 5; do echo $i > a/$i; done && "
      "git init -q . && git add . && git -c user.name=n -c user.email=e commit -q -m m && git status >/dev/null";
  ASSERT_EQ(run({.argv = {"sh", "-c", make}}).status, 0);
  Truth truth(temp_);
  Spec plain = spec({}, {});
  plain.argv = {"sh", "-c", GetParam()};
  plain.cwd = tree;
  Spec with = spec({"-p", policy("syscount")}, plain.argv);
  with.cwd = tree;
  std::map<std::string, uint64_t> expected, counted;
  // What programs do depends a little on when their children end: that is not what is compared here.
  for (int attempt = 0; attempt < 5 && (attempt == 0 || counted != expected); attempt++) {
    expected = truth.count(plain);
    const Traced traced = read(run(with).status);
    counted.clear();
    for (const json &entry : traced.result["maps"]["calls"]) {
      const json &key = entry["key"];
      counted[key.is_string() ? key.get<std::string>() : key.dump()] = entry["value"]["calls"];
    }
    EXPECT_EQ(traced.result["unseen"], 0);
    EXPECT_EQ(traced.result["untraced"], json::array());
  }
  EXPECT_EQ(counted, expected);
  EXPECT_GE(expected.size(), 5u);
}
INSTANTIATE_TEST_SUITE_P(All, Counts, testing::ValuesIn(kCommands));

// ---- injected errors

TEST_F(Trace, WhatCannotFailIsNoFault) {
  for (const Words &settings : {Words{"call=exit_group"}, Words{"call=getsid", "error=0"},
                                Words{"call=getsid", "error=4096"}}) {
    Words options{"-p", policy("faultinject")};
    for (const std::string &word : settings) options.insert(options.end(), {"-s", word});
    const Traced t = trace_worker(options, "clockless");
    EXPECT_EQ(t.status, 3) << t.err;
    EXPECT_TRUE(t.events.empty());
    EXPECT_EQ(t.result["maps"]["counters"], json::array());
  }
  const Traced wrong = trace({"-p", policy("faultinject"), "-s", "call=600"}, {"true"});
  EXPECT_EQ(wrong.status, 1);
  EXPECT_THAT(wrong.err, HasSubstr("call=600: no such system call"));
}

TEST_F(Trace, AnInjectedErrorIsWhatTheProgramSees) {
  const char *open_all = "import os, errno\n"
                         "for i in range(9):\n"
                         "  try: os.close(os.open('/etc/passwd', 0)); print('ok', end=' ')\n"
                         "  except OSError as e: print(errno.errorcode[e.errno], end=' ')\n";
  const Words python{kPython, "-S", "-c", open_all}, base{"-p", policy("faultinject"), "-s", "path=/etc/passwd"};
  auto with = [&](Words more) {
    more.insert(more.begin(), base.begin(), base.end());
    return trace(more, python);
  };
  EXPECT_EQ(with({"-s", "error=ENOSPC"}).out, "ENOSPC ENOSPC ENOSPC ENOSPC ENOSPC ENOSPC ENOSPC ENOSPC ENOSPC ");
  EXPECT_EQ(with({"-s", "error=EMFILE", "-s", "every=3"}).out, "ok ok EMFILE ok ok EMFILE ok ok EMFILE ");
  EXPECT_EQ(with({"-s", "error=1", "-s", "skip=4", "-s", "limit=2"}).out, "ok ok ok ok EPERM EPERM ok ok ok ");
  EXPECT_EQ(with({"-s", "call=unlink"}).out, "ok ok ok ok ok ok ok ok ok ");
  const Traced none = with({"-s", "percent=0"});
  EXPECT_EQ(none.out, "ok ok ok ok ok ok ok ok ok ");
  EXPECT_EQ(none.of("counters", "0", "candidates"), 9u);
  const Traced all = with({});
  EXPECT_EQ(all.of("counters", "0", "injected"), 9u);
  ASSERT_EQ(all.events.size(), 9u);
  EXPECT_EQ(all.events[0]["path"], "/etc/passwd");
  EXPECT_EQ(all.events[0]["call"], "openat");
  EXPECT_EQ(all.events[0]["error"], EIO);
}

TEST_F(Trace, AChanceIsOneInAsManyAsAsked) {
  const Traced t = trace({"-p", policy("faultinject"), "-s", "call=getsid", "-s", "percent=30"},
                         worker("calls", {"1", "1", "4000"}, false).argv);
  EXPECT_EQ(t.of("counters", "0", "candidates"), 4000u);
  EXPECT_GT(t.of("counters", "0", "injected"), 1000u);
  EXPECT_LT(t.of("counters", "0", "injected"), 1400u);
}

TEST_F(Trace, RealProgramsReportWhatTheyAreTold) {
  Traced t = trace({"-p", policy("faultinject"), "-s", "error=EIO", "-s", "call=read"}, {"cat", "/etc/passwd"});
  EXPECT_EQ(t.status, 1);
  EXPECT_THAT(t.err, HasSubstr("Input/output error"));
  t = trace({"-p", policy("faultinject"), "-s", "error=EACCES", "-s", "path=/etc"}, {"ls", "/etc"});
  EXPECT_EQ(t.status, 2);
  EXPECT_THAT(t.err, HasSubstr("Permission denied"));
  t = trace({"-p", policy("faultinject"), "-s", "error=ENOMEM", "-s", "path=.git/"}, {"git", "-C", "/", "status"});
  EXPECT_NE(t.status, 0);
  // A refused exec is refused in the child of a spawn, too.
  t = trace({"-p", policy("faultinject"), "-s", "error=ENOEXEC", "-s", "path=/bin/true"},
            {kPython, "-S", "-c", "import os\ntry: os.posix_spawn('/bin/true', ['true'], {})\n"
                                  "except OSError as e: print(e.errno)"});
  EXPECT_EQ(t.out, std::to_string(ENOEXEC) + "\n");
}

// ---- many processes and threads

SF_WORKER(calls) {
  const int processes = std::stoi(args[0]), threads = std::stoi(args[1]), calls = std::stoi(args[2]);
  for (int p = 0; p < processes; p++) {
    if (p + 1 < processes && fork() != 0) continue;
    std::vector<std::thread> all;
    for (int t = 0; t < threads; t++) {
      all.emplace_back([=] { for (int i = 0; i < calls; i++) getsid(0); });
    }
    for (auto &thread : all) thread.join();
    if (p + 1 < processes) _exit(0);
  }
  while (wait(nullptr) > 0) {
  }
  return 0;
}

TEST_F(Trace, EveryCallOfEveryThreadAndChildIsCountedOnce) {
  // More threads than there are "CPUs": some take turns.
  const Traced t = trace_worker({"-p", policy("tracemaps")}, "calls", {"4", "20", "500"});
  EXPECT_EQ(t.status, 0);
  EXPECT_EQ(t.of("by_call", "getsid"), 4u * 20 * 500);
  uint64_t all = 0;
  for (const json &entry : t.result["maps"]["by_process"]) all += entry["value"].get<uint64_t>();
  EXPECT_LE(all, 4u * 20 * 500);  // threads that begin at the same time may insert the same key: one of them is lost
  EXPECT_GE(all, 4u * 20 * 500 - 4u * 20);
  EXPECT_EQ(t.result["maps"]["by_process"].size(), 4u);
  EXPECT_EQ(t.result["unseen"], 0);
  EXPECT_EQ(t.result["refused"], 0);
}

SF_WORKER(victims) {
  for (int round = 0; round < std::stoi(args[0]); round++) {
    pid_t pid[4];
    for (pid_t &one : pid) {
      one = fork();
      if (one == 0) {
        for (;;) getpgid(0), chdir("/");
      }
    }
    usleep(3000);
    for (pid_t one : pid) kill(one, SIGKILL);
    for (pid_t one : pid) waitpid(one, nullptr, 0);
  }
  for (int i = 0; i < 1000; i++) getsid(0);
  return chdir("/tmp");
}

TEST_F(Trace, ProcessesThatAreKilledInTheMiddleLeaveNothingLocked) {
  const Traced t = trace_worker({"-p", policy("tracemaps")}, "victims", {std::to_string(scaled(30, 300))});
  EXPECT_EQ(t.status, 0);
  EXPECT_EQ(t.of("by_call", "getsid"), 1000u);
  EXPECT_EQ(t.result["refused"], 0);
  ASSERT_FALSE(t.events.empty());
}

// ---- signals

volatile sig_atomic_t handled;
sigjmp_buf back;

// Calls from far down the stack, all of which is written over.
[[gnu::noinline]] void call_from_below() {
  volatile char stack[96 << 10];
  for (size_t i = 0; i < sizeof stack; i++) stack[i] = 1;
  for (int i = 0; i < 100; i++) getppid();
}

SF_WORKER(interrupted) {
  const bool jumps = args[0] == "jump", other_stack = args[1] == "other";
  alignas(16) char stack_near[32 << 10];
  const stack_t other{stack_near, 0, sizeof stack_near};
  if (other_stack) sigaltstack(&other, nullptr);
  struct sigaction action {};
  action.sa_handler = jumps ? +[](int) { getsid(0); handled = handled + 1; siglongjmp(back, 1); }
                            : +[](int) { getsid(0); handled = handled + 1; };
  action.sa_flags = other_stack ? SA_ONSTACK : 0;
  sigaction(SIGALRM, &action, nullptr);
  const itimerval often{{0, 200}, {0, 200}};
  volatile int calls = 0;
  if (sigsetjmp(back, 1) == 0) setitimer(ITIMER_REAL, &often, nullptr);
  while (handled < 500) {
    getpgid(0);
    calls = calls + 1;
  }
  const itimerval never{};
  setitimer(ITIMER_REAL, &never, nullptr);
  call_from_below();
  printf("%d %d\n", static_cast<int>(handled), calls);
  return 0;
}

class Interrupted : public Trace, public testing::WithParamInterface<const char *> {};
INSTANTIATE_TEST_SUITE_P(Stack, Interrupted, testing::Values("same", "other"));

TEST_P(Interrupted, CallsOfSignalHandlersAreSeenOrCounted) {
  const Traced t = trace_worker({"-p", policy("syscount")}, "interrupted", {"return", GetParam()});
  ASSERT_EQ(t.status, 0);
  int in_handler = 0, calls = 0;
  ASSERT_EQ(sscanf(t.out.c_str(), "%d %d", &in_handler, &calls), 2) << t.out;
  const uint64_t unseen = t.result["unseen"].get<uint64_t>();
  EXPECT_EQ(t.of("calls", "getpgid", "calls"), static_cast<uint64_t>(calls));
  EXPECT_LE(t.of("calls", "getsid", "calls"), static_cast<uint64_t>(in_handler));
  EXPECT_GE(t.of("calls", "getsid", "calls") + unseen, static_cast<uint64_t>(in_handler));
}

TEST_P(Interrupted, AHandlerThatNeverReturnsEndsNoTracing) {
  const Traced t = trace_worker({"-p", policy("syscount")}, "interrupted", {"jump", GetParam()});
  ASSERT_EQ(t.status, 0);
  EXPECT_EQ(t.of("calls", "getppid", "calls"), 100u);
  EXPECT_EQ(t.of("calls", "write", "calls"), 1u);
}

TEST_F(Trace, ItEndsAsTheProgramEnds) {
  EXPECT_EQ(trace({"-p", policy("syscount")}, {"sh", "-c", "exit 7"}).status, 7);
  EXPECT_EQ(trace({"-p", policy("syscount")}, {"sh", "-c", "kill -TERM $$"}).status, 128 + SIGTERM);
  const Traced killed = trace({"-p", policy("syscount")}, {"sh", "-c", "kill -KILL $$"});
  EXPECT_EQ(killed.status, 128 + SIGKILL);
  EXPECT_EQ(killed.of("calls", "kill", "calls"), 1u);
  EXPECT_EQ(run({.argv = command({"-p", policy("syscount")}, {"/etc/passwd"})}).status, 126);
  EXPECT_EQ(run({.argv = command({"-p", policy("syscount")}, {"no-such-program"})}).status, 127);
}

TEST_F(Trace, SignalsArePassedOn) {
  Spec with = spec({"-p", policy("syscount")},
                   {"sh", "-c", "trap 'exit 43' USR1; echo > " + (temp_ / "ready") + "; while :; do sleep 0.05; done"});
  Process process(with);
  ASSERT_TRUE(eventually([&] { return access((temp_ / "ready").c_str(), F_OK) == 0; }));
  process.signal(SIGUSR1);
  EXPECT_EQ(process.wait(), 43);
  EXPECT_GE(read(43).of("calls", "exit_group", "calls"), 1u);
}

// ---- memory that is not there

SF_WORKER(pointers) {
  const long page = sysconf(_SC_PAGESIZE);
  char *two = static_cast<char *>(mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  munmap(two + page, page);
  char *at_end = two + page - 5;
  memcpy(at_end, "/tmp", 5);
  struct stat st;
  const int results[] = {chdir(at_end), chdir(reinterpret_cast<char *>(8)), chdir(two + page),
                         chdir(reinterpret_cast<char *>(0x8000000000000000)),
                         stat(reinterpret_cast<char *>(8), &st), stat("/", reinterpret_cast<struct stat *>(8))};
  for (int result : results) printf("%d ", result);
  memcpy(two + page - 4, "/etc", 4);
  printf("%d\n", chdir(two + page - 4));
  return 0;
}

TEST_F(Trace, ProgramsReadOnlyMemoryThatIsThere) {
  Traced t = trace_worker({"-p", policy("tracemaps"), "-p", policy("syscount")}, "pointers");
  EXPECT_EQ(t.out, "0 -1 -1 -1 -1 -1 -1\n");
  ASSERT_EQ(t.events.size(), 5u);
  EXPECT_EQ(t.events[0]["text"], "/tmp");
  EXPECT_EQ(t.events[0]["result"], 0);
  for (int i = 1; i < 5; i++) {
    EXPECT_EQ(t.events[i]["result"], -EFAULT * 1001) << i;
    EXPECT_EQ(t.events[i]["text"], "") << i;
  }
  // The hook itself may have come upon the fault: its end is seen all the same.
  EXPECT_EQ(t.of("calls", "chdir", "errors"), 4u);
  EXPECT_GE(t.of("calls", "newfstatat", "errors"), 2u);
}

SF_WORKER(pages) {
  std::ifstream maps("/proc/self/maps");
  int sessions = 0, images = 0;
  for (std::string line; std::getline(maps, line);) {
    const std::string rights = line.substr(line.find(' ') + 1, 4);
    if (rights.find('w') != std::string::npos && rights.find('x') != std::string::npos) return 9;
    sessions += line.find("memfd:shortfuse-trace") != std::string::npos;
    images += line.find("memfd:shortfuse-image") != std::string::npos && rights.find('x') != std::string::npos;
  }
  return sessions > 0 && images > 0 ? 0 : 8;
}

TEST_F(Trace, NoPageIsWritableAndExecutable) {
  EXPECT_EQ(trace_worker({"-p", policy("syscount")}, "pages").status, 0);
}

// ---- what cannot be traced, and for how long

TEST_F(Trace, ProgramsThatCannotBeTracedAreNamed) {
  write_file(temp_ / "s.c", "int main() { return 3; }");
  ASSERT_EQ(run({.argv = {"gcc", "-static", "-o", temp_ / "static", temp_ / "s.c"}}).status, 0);
  Traced t = trace({"-p", policy("syscount")}, {temp_ / "static"});
  EXPECT_EQ(t.status, 3);
  EXPECT_EQ(t.result["untraced"], json::array({temp_ / "static"}));
  t = trace({"-p", policy("syscount")},
            {"sh", "-c", temp_ / "static" + "; env -i /bin/ls / >/dev/null; exec /bin/true"});
  EXPECT_EQ(t.result["untraced"], json::array({temp_ / "static", "/bin/ls"}));
  EXPECT_EQ(t.result["traced"], 3);  // sh, env, true
  // One that is executed by a program that is not traced takes nobody's name away.
  write_file(temp_ / "w.c", "#include <unistd.h>\nint main() { return execl(\"/bin/true\", \"true\", (char *)0); }");
  ASSERT_EQ(run({.argv = {"gcc", "-static", "-o", temp_ / "wrapper", temp_ / "w.c"}}).status, 0);
  t = trace({"-p", policy("syscount")}, {"sh", "-c", "exec " + (temp_ / "wrapper")});
  EXPECT_EQ(t.result["untraced"], json::array({temp_ / "wrapper"}));
  EXPECT_EQ(t.result["traced"], 2);
}

TEST_F(Trace, ProgramsWithMoreRightsThanTheirUserAreNamed) {
  if (!is_root()) GTEST_SKIP() << "cannot make one";
  const std::string program = temp_ / "id";
  chmod(temp_.path().c_str(), 0755);
  ASSERT_EQ(run({.argv = {"cp", "/usr/bin/id", program}}).status, 0);
  ASSERT_EQ(chown(program.c_str(), 65534, 65534), 0);
  ASSERT_EQ(chmod(program.c_str(), 04755), 0);
  if (run({.argv = {program, "-u"}}).out != "65534\n") GTEST_SKIP() << "the mount allows none";
  const Traced t = trace({"-p", policy("syscount")}, {"sh", "-c", program + " -u; true"});
  EXPECT_EQ(t.out, "65534\n");
  EXPECT_EQ(t.result["untraced"], json::array({program}));
}

SF_WORKER(until_it_succeeds) {
  if (getsid(0) >= 0) return 6;
  while (getsid(0) < 0) usleep(1000);
  return 5;
}

TEST_F(Trace, AfterItsDurationNoProgramRunsAndWhatIsTracedGoesOn) {
  Traced t;
  // A machine with much to do may need longer than this to begin at all.
  for (double seconds = 0.25; seconds < 20 && t.status != 5; seconds *= 2) {
    t = trace_worker({"-p", policy("faultinject"), "-s", "call=getsid", "--duration", std::to_string(seconds)},
                     "until_it_succeeds");
  }
  EXPECT_EQ(t.status, 5);
  EXPECT_GE(t.of("counters", "0", "injected"), 1u);
}

TEST_F(Trace, AnOrdinaryUserNeedsNoMountAndNoDaemon) {
  if (!is_root()) GTEST_SKIP() << "is one";
  chmod(temp_.path().c_str(), 0777);
  Spec with = spec({"-p", policy("syscount")}, {"sh", "-c", "id -u; /bin/true"});
  with.uid = 65534;
  if (run({.argv = {"test", "-x", program("shortfuse")}, .uid = with.uid}).status != 0) GTEST_SKIP() << "cannot run it";
  const Finished done = run(with);
  EXPECT_EQ(done.out, "65534\n") << done.err;
  const Traced t = read(done.status);
  EXPECT_GE(t.of("calls", "execve", "calls"), 1u);
  EXPECT_EQ(t.result["untraced"], json::array());
}

TEST_F(Trace, WhatCannotBeDoneIsSaid) {
  auto refused = [&](const Words &options) {
    const Finished done = run({.argv = command(options, {"true"})});
    EXPECT_NE(done.status, 0);
    return done.err;
  };
  EXPECT_THAT(refused({"-p", policy("metacache")}), HasSubstr("syscall"));
  EXPECT_THAT(refused({"-p", policy("syscount"), "-s", "nothing=1"}), HasSubstr("latencies"));
  EXPECT_THAT(refused({"-p", policy("faultinject"), "-s", "error=EGAD"}), HasSubstr("EGAD"));
  EXPECT_THAT(refused({"-p", policy("faultinject"), "-s", "percent"}), HasSubstr("NAME=VALUE"));
  EXPECT_THAT(refused({"-p", policy("faultinject"), "-s", "call=opeat"}), HasSubstr("no such system call"));
  for (const auto &[section, why] : {std::pair{"syscall/gettimeofday", "can be traced: *"},
                                     std::pair{"syscall/opeat", "there is no such system call"},
                                     std::pair{"syscall_exit/opeat", "there is no such system call"},
                                     std::pair{"syscall_exit/execve", "when it is made only"},
                                     std::pair{"fuse/read", "syscall/NAME"}}) {
    const std::string object =
        compiled("p", std::string("SEC(\"") + section + "\") int f(struct sf_call_ctx *ctx) { return 0; }");
    EXPECT_THAT(refused({"-p", object}), HasSubstr(why)) << section;
  }
}

// ---- programs that mean no good

SF_WORKER(results) {
  auto seen = [](const char *how, long wanted) {
    errno = 0;
    const long result = std::string(how) == "libc" ? getsid(static_cast<int>(wanted)) : syscall(SYS_getsid, wanted);
    printf("%s %ld: %ld %d\n", how, wanted, result, errno);
  };
  for (const char *how : {"libc", "syscall()"}) {
    for (long wanted : {-1l, -4095l, -4096l, 0x80000000l, 0x7fffffffl}) seen(how, wanted);
  }
  long raw;  // made without libc: not seen
  __asm__ volatile("syscall" : "=a"(raw) : "a"(SYS_getsid), "D"(-1l) : "rcx", "r11", "memory");
  pthread_t thread;
  printf("raw: %ld, thread: %d\n", raw, pthread_create(&thread, nullptr, [](void *at) { return at; }, nullptr));
  return 0;
}

TEST_F(Trace, OnlyAnErrnoIsARefusalAndItIsSeenAsTheKernelsOwn) {
  const std::string object = compiled("results", R"(
      SEC("syscall/getsid") int sid(struct sf_call_ctx *ctx) { return (int)ctx->arg[0]; }
      SEC("syscall/clone3") int no3(struct sf_call_ctx *ctx) { return -11; }
      SEC("syscall/clone") int no(struct sf_call_ctx *ctx) { return -11; })");
  const Traced t = trace_worker({"-p", object}, "results");
  const std::string kernel = std::to_string(-1) + " " + std::to_string(ESRCH);
  std::string expected;
  for (const std::string how : {"libc", "syscall()"}) {
    expected += how + " -1: -1 1\n" + how + " -4095: -1 4095\n" + how + " -4096: " + kernel + "\n" + how +
                " 2147483648: " + kernel + "\n" + how + " 2147483647: " + kernel + "\n";
  }
  EXPECT_EQ(t.out, expected + "raw: " + std::to_string(-ESRCH) + ", thread: " + std::to_string(EAGAIN) + "\n");
}

// Of what the hook itself needs nothing is denied, and nobody waits for ever.
TEST_F(Trace, AProgramThatRefusesEverythingHangsNothing) {
  const std::string object =
      compiled("never", R"(SEC("syscall/*") int never(struct sf_call_ctx *ctx) { return -1; })");
  EXPECT_EQ(trace({"-p", object}, {"/bin/true"}).status, 0);
  for (const Words &argv : {Words{"sh", "-c", "echo a; ls / | cat"}, Words{"cat", "/etc/passwd"},
                            Words{kPython, "-S", "-c", "print(1)"}}) {
    const Traced t = trace({"-p", object}, argv);
    EXPECT_LT(t.status, 128) << argv[0];
    EXPECT_EQ(t.out, "") << argv[0];
    EXPECT_EQ(t.result["traced"], 1);
  }
}

SF_WORKER(without_descriptors) {
  close_range(0, ~0u, 0);
  for (int i = 0; i < 100; i++) getsid(0);
  const pid_t child = fork();
  for (int i = 0; i < 10; i++) getsid(0);
  if (child == 0) _exit(0);
  waitpid(child, nullptr, 0);
  execl("/bin/true", "true", nullptr);
  return 9;
}

TEST_F(Trace, ThatAProgramClosesAllDescriptorsChangesNothing) {
  const Traced t = trace_worker({"-p", policy("syscount")}, "without_descriptors");
  EXPECT_EQ(t.status, 0);
  EXPECT_EQ(t.of("calls", "getsid", "calls"), 120u);
  EXPECT_EQ(t.result["traced"], 2);
  EXPECT_EQ(t.result["untraced"], json::array());
}

// ---- a seccomp filter

long filter(bool really) {
  std::vector<sock_filter> code{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (unsigned nr : {SYS_gettid, SYS_getpid, SYS_tkill, SYS_sched_yield, SYS_nanosleep, SYS_sigaltstack,
                      SYS_process_vm_readv, SYS_newfstatat, SYS_clock_gettime}) {
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1));
    code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  }
  code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, really ? &program : nullptr);
}

SF_WORKER(filtered) {
  if (filter(false) != -1 || errno != EFAULT) return 8;  // programs ask that way whether they could
  for (int i = 0; i < 100; i++) getsid(0);
  if (filter(true) != 0) return 7;
  std::thread([] { for (int i = 0; i < 100; i++) getsid(0); }).join();
  _exit(fork() == 0 ? getsid(0) > 0 : 5);
}

TEST_F(Trace, AProgramUnderASeccompFilterIsLeftAloneAndCounted) {
  const Traced t = trace_worker({"-p", policy("syscount"), "-p", policy("tracemaps")}, "filtered");
  EXPECT_EQ(t.status, 5);
  EXPECT_EQ(t.of("calls", "getsid", "calls"), 100u);
  EXPECT_EQ(t.result["left"], 1);
}

// With what the thread may not do from then on, read the clock or make nearly any call.
SF_WORKER(strict) {
  for (int i = 0; i < 100; i++) getsid(0);
  prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
  syscall(SYS_exit, 3);
  return 4;
}

SF_WORKER(clockless) {
  for (int i = 0; i < 100; i++) getsid(0);
  if (prctl(PR_SET_TSC, PR_TSC_SIGSEGV) != 0) return 4;
  for (int i = 0; i < 100; i++) getsid(0);
  return 3;
}

TEST_F(Trace, AProgramInStrictModeOrWithoutAClockIsLeftAlone) {
  for (const char *program : {"strict", "clockless"}) {
    const Traced t = trace_worker({"-p", policy("syscount")}, program);
    EXPECT_EQ(t.status, 3) << program;
    EXPECT_EQ(t.of("calls", "getsid", "calls"), 100u);
    EXPECT_EQ(t.result["left"], 1);
  }
}

// ---- what is printed

TEST_F(Trace, AProgramIsTracedToItsEndWhereNobodyReadsWhatIsPrinted) {
  const std::string base = program("shortfuse") + " trace -p " + policy("faultinject") + " -s call=getsid ";
  const std::string traced = std::string("-- ") + kPython + (" -S -c 'import os, time\nfor i in range(20000):\n"
      "  try: os.getsid(0)\n  except OSError: pass\nopen(\"" + (temp_ / "end") + "\", \"w\").close(); os._exit(3)' ");
  for (const std::string &line : {base + traced + "2>/dev/full", base + traced + "2>&-",
                                  "{ " + base + traced + "; exit $?; } 2>&1 | true; exit ${PIPESTATUS[0]}"}) {
    EXPECT_EQ(run({.argv = {"bash", "-c", line}}).status, 3) << line;
    EXPECT_EQ(unlink((temp_ / "end").c_str()), 0) << line;
  }
  const Finished lost = run({.argv = {"sh", "-c", base + "-o /dev/full " + traced}});
  EXPECT_EQ(lost.status, 3);
  EXPECT_THAT(lost.err, HasSubstr("not all that was traced"));
}

TEST_F(Trace, ItsProgramsCanBeLookedAtAsThoseOfMounts) {
  for (const char *look : {"check", "disasm", "dump-ir"}) {
    const Finished done = run({.argv = {program("shortfuse"), "policy", look, policy("syscount")}});
    EXPECT_EQ(done.status, 0) << done.err;
    EXPECT_THAT(done.out, HasSubstr("syscall_exit/")) << look;
  }
}

TEST_F(Trace, FoundInPathItIsMachineCodeFromAnywhere) {
  const std::string bare = "PATH=" SF_BUILD_DIR "/bin:$PATH; cd /; exec shortfuse trace --json -p syscount -- true";
  const Finished done = run({.argv = {"sh", "-c", bare}});
  EXPECT_EQ(done.status, 0);
  EXPECT_THAT(done.err, HasSubstr("\"machine_code\":true"));
}

TEST_F(Trace, APreloadedLibraryIsNoReasonForAddressSanitizer) {
  write_file(temp_ / "a.c", "#include <unistd.h>\nint main() { for (int i = 0; i < 100; i++) getsid(0); return 3; }\n");
  if (run({.argv = {"gcc", "-fsanitize=address", "-o", temp_ / "a", temp_ / "a.c"}}).status != 0)
    GTEST_SKIP() << "no AddressSanitizer";
  const Traced t = trace({"-p", policy("syscount")}, {temp_ / "a"});
  EXPECT_EQ(t.status, 3) << t.err;
  EXPECT_EQ(t.of("calls", "getsid", "calls"), 100u);
  EXPECT_EQ(run({.argv = {program("shortfuse"), "run", "--", temp_ / "a"}}).status, 3);
}

// ---- threads that are cancelled inside a program

std::atomic<int> unwound;
SF_WORKER(cancelled) {
  const int zero = open("/dev/zero", O_RDONLY);
  const int threads = std::stoi(args[0]);
  for (int i = 0; i < threads; i++) {
    std::atomic<bool> begun{false};
    std::thread thread([&] {
      struct Unwound {
        ~Unwound() { unwound++; }
      } object;
      for (char byte;;) {
        if (read(zero, &byte, 1) != 1) _exit(3);
        begun = true;
        begun.notify_one();
      }
    });
    begun.wait(false);
    pthread_cancel(thread.native_handle());
    thread.join();
  }
  for (int i = 0; i < 100; i++) getsid(0);
  return unwound == threads ? 0 : 4;
}

TEST_F(Trace, ThreadsThatAreCancelledInsideAProgramAreUnwound) {
  const std::string object = compiled("slow", R"(
      struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 64); __type(key, u32); __type(value, u64); }
          seen SEC(".maps");
      static long count(u32 i, void *nothing) {
        u64 value = i;
        u32 key = i % 64;
        bpf_map_update_elem(&seen, &key, &value, BPF_ANY);
        return 0;
      }
      SEC("syscall/read") int before(struct sf_call_ctx *ctx) { bpf_loop(300, count, 0, 0); return 0; }
      SEC("syscall_exit/read") int after(struct sf_call_ctx *ctx) { bpf_loop(300, count, 0, 0); return 0; })");
  const Words threads{std::to_string(scaled(60, 2000))};
  const Traced t = trace_worker({"-p", object, "-p", policy("syscount")}, "cancelled", threads);
  EXPECT_EQ(t.status, 0);
  EXPECT_EQ(t.of("calls", "getsid", "calls"), 100u);
}

// ---- ring buffers

TEST_F(Trace, EveryRecordIsPrintedOrCountedAsLost) {
  const std::string object = compiled("records", R"(
      struct event { u64 number, again; };
      struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); __type(value, struct event); }
          events SEC(".maps");
      SEC("syscall/getsid") int sid(struct sf_call_ctx *ctx) {
        struct event event = {1, 2};
        bpf_ringbuf_output(&events, &event, ctx->tid % 2 ? 16 : 12, 0);
        return 0;
      })");
  const Traced t = trace_worker({"-p", object}, "calls", {"1", "8", "5000"});
  EXPECT_EQ(t.status, 0);
  EXPECT_EQ(t.events.size() + t.result["lost"].get<uint64_t>(), 40'000u);
  EXPECT_GT(t.events.size(), 100u);
  for (const json &event : t.events) {
    // One that is shorter than its type is shown as it is.
    if (event.is_object()) EXPECT_EQ(event["again"], 2);
    else EXPECT_EQ(event, "hex:010000000000000002000000");
  }
}

SF_WORKER(writes_until) {
  for (;;) {
    for (int i = 0; i < 10'000; i++) getsid(0);
    if (read_file(args[0]).find("\"maps\"") != std::string::npos) return 0;
  }
}

TEST_F(Trace, NoRateOfRecordsKeepsTheReaderFromItsEnd) {
  const std::string object = compiled("many", R"(
      struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 1 << 16); __type(value, u64); }
          events SEC(".maps");
      SEC("syscall/getsid") int sid(struct sf_call_ctx *ctx) {
        u64 nothing = 0;
        bpf_ringbuf_output(&events, &nothing, sizeof nothing, 0);
        return 0;
      })");
  EXPECT_EQ(trace_worker({"-p", object, "--duration", "0.2"}, "writes_until", {temp_ / "result"}).status, 0);
}

}  // namespace
}  // namespace shortfuse::tests
