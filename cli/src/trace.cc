// `shortfuse trace`: load and verify, make the session, start the program in it, print, end as the program ended.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "commands.h"
#include "files.h"
#include "trace_print.h"
#include "trace_session.h"

namespace shortfuse::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr long kTickNs = 20'000'000, kIdleTickNs = 500'000'000;
// What is handed on to the program where somebody sent it to this process.
constexpr int kHandedOn[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT, SIGWINCH};

std::optional<int> number_of_call(const std::string &name) {
  for (const vm::TracedCall &call : vm::traced_calls()) {
    if (name == call.name || name == std::to_string(call.number)) return call.number;
  }
  return std::nullopt;
}

std::expected<std::vector<vm::Setting>, std::string> settings_of(const std::vector<std::string> &words) {
  std::vector<vm::Setting> out;
  for (const std::string &word : words) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos || equals == 0) return std::unexpected("\"" + word + "\" is not NAME=VALUE");
    out.push_back({word.substr(0, equals), word.substr(equals + 1)});
    // Calls are given by name; a number is one that has a name.
    if (out.back().name != "call") continue;
    const auto number = number_of_call(out.back().value);
    if (!number) return std::unexpected(word + ": no such system call, or it cannot be traced; see --calls");
    out.back().value = std::to_string(*number);
  }
  return out;
}

std::expected<vm::Policy, std::string> load(const Context &context, const TraceArguments &arguments) {
  std::vector<std::string> paths;
  for (const std::string &chain : arguments.policies) {
    auto found = find_chain(context.executable_directory, chain);
    if (!found) return std::unexpected(found.error());
    paths.insert(paths.end(), found->begin(), found->end());
  }
  auto settings = settings_of(arguments.settings);
  if (!settings) return std::unexpected(settings.error());
  auto policy = vm::load_trace(paths, *settings);
  if (!policy) return std::unexpected(policy.error().str());
  return std::move(*policy);
}

/// As this process has found signals, for the program.
struct Signals {
  sigset_t mask;
  sighandler_t children, pipes;
};

struct Child {
  pid_t pid = -1;
  int error = 0;      ///< of its exec
};

void become(TraceSession &session, const TraceArguments &arguments, const Program &program, const Signals &signals,
            const std::string &preload, int report) {
  set_preload(preload);
  session.expect_exec(program.path);
  std::vector<char *> argv;
  for (const auto &word : arguments.command) argv.push_back(const_cast<char *>(word.c_str()));
  argv.push_back(nullptr);
  signal(SIGCHLD, signals.children);
  signal(SIGPIPE, signals.pipes);
  sigprocmask(SIG_SETMASK, &signals.mask, nullptr);
  execvp(argv[0], argv.data());
  const int error = errno;
  [[maybe_unused]] const ssize_t n = write(report, &error, sizeof error);
  _exit(127);
}

Child start(TraceSession &session, const TraceArguments &arguments, const Program &program, const Signals &signals,
            const std::string &preload) {
  Child child;
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) return child.error = errno, child;
  // The variable names this process.
  const std::string variable = session.variable();
  child.pid = fork();
  if (child.pid == 0) {
    close(report[0]);
    setenv(SF_TRACE_ENV, variable.c_str(), 1);
    become(session, arguments, program, signals, preload, report[1]);
  }
  if (child.pid < 0) child.error = errno;
  close(report[1]);
  if (read(report[0], &child.error, sizeof child.error) > 0) waitpid(child.pid, nullptr, 0);
  close(report[0]);
  return child;
}

/// Until the program has ended; its status as of waitpid().
int watch(const Child &child, TraceSession &session, TracePrinter &printer, double duration_seconds,
          const sigset_t &awaited) {
  const bool limited = duration_seconds > 0;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(limited ? duration_seconds : 0));
  bool stopped = false;
  for (int status = 0;;) {
    const timespec tick{0, printer.has_rings() || (limited && !stopped) ? kTickNs : kIdleTickNs};
    siginfo_t info{};
    const int signo = sigtimedwait(&awaited, &info, &tick);
    // What the terminal sends goes to the whole group by itself.
    if (signo > 0 && signo != SIGCHLD && info.si_code <= 0 && info.si_pid != child.pid) kill(child.pid, signo);
    if (!stopped) printer.events();
    const pid_t waited = waitpid(child.pid, &status, WNOHANG);
    const bool ended = waited == child.pid || (waited < 0 && errno != EINTR);
    if (!stopped && (ended || (limited && Clock::now() >= end))) {
      session.stop();  // also for what the program leaves running behind it
      printer.results();
      stopped = true;
    }
    if (ended) return status;
  }
}

int end_as(int status, const sigset_t &mask) {
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  const int signo = WTERMSIG(status);
  const rlimit no_core{0, 0};  // the program has left its own
  setrlimit(RLIMIT_CORE, &no_core);
  signal(signo, SIG_DFL);
  kill(getpid(), signo);
  sigset_t set = mask;
  sigdelset(&set, signo);
  sigprocmask(SIG_SETMASK, &set, nullptr);
  return 128 + signo;
}

int run_traced(const Context &context, const TraceArguments &arguments, const vm::Policy &policy, FILE *out) {
  const auto library = find_library(context.executable_directory, "libshortfuse.so");
  if (!library) return complain("trace", library.error()), 1;
  const auto preload = preload_value(*library, getenv("LD_PRELOAD"));
  if (!preload) return complain("trace", preload.error()), 1;
  const auto program = inspect_program(arguments.command[0]);
  if (!program) return complain("trace", program.error().text), program.error().status;
  auto session = TraceSession::create(policy);
  if (!session) return complain("trace", session.error()), 1;
  if (!(*session)->why_interpreted().empty())
    complain("trace", "programs are interpreted: " + (*session)->why_interpreted());

  sigset_t awaited, mask;
  sigemptyset(&awaited);
  for (int signo : kHandedOn) sigaddset(&awaited, signo);
  sigaddset(&awaited, SIGCHLD);
  const auto children = signal(SIGCHLD, SIG_DFL);  // where it was ignored, no status would be left to wait for
  const auto pipes = signal(SIGPIPE, SIG_IGN);  // a reader that goes away does not end what is traced
  sigprocmask(SIG_BLOCK, &awaited, &mask);
  TracePrinter printer(policy, **session, out, arguments.json);
  const Child child = start(**session, arguments, *program, {mask, children, pipes}, *preload);
  if (child.error != 0) {
    complain("trace", fmt::format("{}: {}", arguments.command[0], strerror(child.error)));
    return child.error == ENOENT ? 127 : 126;
  }
  const int status = watch(child, **session, printer, arguments.duration_seconds, awaited);
  if (printer.error() != 0) {
    const std::string &path = arguments.output;
    complain("trace", fmt::format("{}: not all that was traced is there: {}", path.empty() ? "standard error" : path,
                                  strerror(printer.error())));
  }
  return end_as(status, mask);
}

}  // namespace

int trace_command(const Context &context, const TraceArguments &arguments) {
  if (arguments.policies.empty()) return complain("trace", "which programs? shortfuse trace -p POLICY -- PROGRAM"), 2;
  const auto policy = load(context, arguments);
  if (!policy) return complain("trace", policy.error()), 1;
  FILE *out = arguments.output.empty() ? stderr : fopen(arguments.output.c_str(), "we");
  if (out == nullptr) return complain("trace", arguments.output + ": " + strerror(errno)), 1;
  const int status = run_traced(context, arguments, *policy, out);
  if (out != stderr && fclose(out) != 0) complain("trace", arguments.output + ": " + strerror(errno));
  return status;
}

int trace_calls_command() {
  for (const vm::TracedCall &call : vm::traced_calls())
    fmt::print("{:<20} {}\n", call.name, call.has_exit ? "syscall/ syscall_exit/" : "syscall/");
  return 0;
}

}  // namespace shortfuse::cli
