#include "process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>

namespace shortfuse::bench {

namespace {

volatile sig_atomic_t interrupted = 0;

void note_signal(int) {
  interrupted = 1;
}

/// In the child: becomes the command, or ends with 127.
[[noreturn]] void become(const Command &command, int out, int err) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (!command.directory.empty() && chdir(command.directory.c_str()) != 0) _exit(127);
  for (const auto &[name, value] : command.environment) setenv(name.c_str(), value.c_str(), 1);
  if (out >= 0) dup2(out, STDOUT_FILENO);
  if (err >= 0) dup2(err, STDERR_FILENO);
  std::vector<char *> argv;
  for (const auto &word : command.argv) argv.push_back(const_cast<char *>(word.c_str()));
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  _exit(127);
}

int wait_for(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    if (interrupted) kill(pid, SIGTERM);
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

std::string read_all(int fd, pid_t pid) {
  std::string text;
  char buffer[4096];
  while (true) {
    const ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) {
      if (interrupted) kill(pid, SIGTERM);
      continue;
    }
    if (got <= 0) return text;
    text.append(buffer, static_cast<size_t>(got));
  }
}

}  // namespace

void catch_signals() {
  struct sigaction action{};
  action.sa_handler = note_signal;  // no SA_RESTART: waits end
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaction(number, &action, nullptr);
}

void check_interrupted() {
  if (interrupted) throw Interrupted();
}

Finished run(const Command &command) {
  check_interrupted();
  int pipe_fds[2] = {-1, -1};
  if (command.keep_output && pipe2(pipe_fds, O_CLOEXEC) != 0) throw Failure(fmt::format("pipe: {}", strerror(errno)));
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  const auto start = std::chrono::steady_clock::now();
  const pid_t pid = fork();
  if (pid < 0) throw Failure(fmt::format("fork: {}", strerror(errno)));
  if (pid == 0) become(command, command.keep_output ? pipe_fds[1] : null, -1);
  close(null);
  Finished finished{};
  if (command.keep_output) {
    close(pipe_fds[1]);
    finished.output = read_all(pipe_fds[0], pid);
    close(pipe_fds[0]);
  }
  finished.status = wait_for(pid);
  finished.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  check_interrupted();
  if (finished.status == 127) throw Failure(command.argv[0] + " could not be started");
  return finished;
}

Background::Background(const Command &command, const std::string &log) {
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  pid_ = fork();
  if (pid_ < 0) throw Failure(fmt::format("fork: {}", strerror(errno)));
  if (pid_ == 0) {
    setpgid(0, 0);  // the terminal's Ctrl-C is ours: the daemon goes when its mount is undone
    become(command, out, out);
  }
  close(out);
}

Background::~Background() {
  for (int i = 0; i < 500 && running(); i++) {
    if (i == 100) kill(pid_, SIGTERM);  // the first second is for going by itself, after the unmount
    if (i == 400) kill(pid_, SIGKILL);
    usleep(10'000);
  }
}

bool Background::running() {
  if (pid_ <= 0) return false;
  if (waitpid(pid_, nullptr, WNOHANG) == 0) return true;
  pid_ = -1;
  return false;
}

}  // namespace shortfuse::bench
