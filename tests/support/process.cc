// Children. See harness.h.
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "support/harness.h"

extern char **environ;

namespace shortfuse::tests {

namespace {

std::vector<std::string> environment_of(const Spec &spec) {
  std::map<std::string, std::string> variables;
  for (char **entry = environ; *entry != nullptr; ++entry) {
    std::string text = *entry;
    size_t equals = text.find('=');
    if (equals != std::string::npos) variables[text.substr(0, equals)] = text.substr(equals + 1);
  }
  for (const char *ours : {"LD_PRELOAD", "SHORTFUSE_REPORT", "SHORTFUSE_DISABLE"}) variables.erase(ours);
  if (spec.hooked) variables["LD_PRELOAD"] = hook_library();
  if (spec.hooked && !spec.report.empty()) variables["SHORTFUSE_REPORT"] = spec.report;
  for (const auto &[name, value] : spec.env) variables[name] = value;
  std::vector<std::string> result;
  for (const auto &[name, value] : variables) result.push_back(name + "=" + value);
  return result;
}

std::vector<char *> pointers(std::vector<std::string> &strings) {
  std::vector<char *> result;
  for (auto &text : strings) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

/// In the child; ends it with 126 where something cannot be had.
[[noreturn]] void become(const Spec &spec, char *const *argv, char *const *env, pid_t parent) {
  auto redirect = [](const std::string &path, int to) {
    if (path.empty()) return;
    int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd < 0 || dup2(fd, to) < 0) _exit(126);
    close(fd);
  };
  int null = open("/dev/null", O_RDONLY);
  if (null < 0 || dup2(null, 0) < 0) _exit(126);
  close(null);
  redirect(spec.out, 1);
  redirect(spec.err, 2);
  if (spec.new_session) setsid();
  if (!spec.cwd.empty() && chdir(spec.cwd.c_str()) != 0) _exit(126);
  if (spec.uid) {
    gid_t gid = static_cast<gid_t>(*spec.uid);
    if (setgroups(0, nullptr) != 0 || setresgid(gid, gid, gid) != 0 ||
        setresuid(*spec.uid, *spec.uid, *spec.uid) != 0) {
      _exit(126);
    }
  }
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) _exit(126);
  execve(argv[0], argv, env);
  dprintf(2, "cannot run %s: %s\n", argv[0], strerror(errno));
  _exit(127);
}

std::string in_path(const std::string &name) {
  if (name.find('/') != std::string::npos) return name;
  std::istringstream path(std::getenv("PATH") ? std::getenv("PATH") : "/usr/bin:/bin");
  for (std::string dir; std::getline(path, dir, ':');) {
    if (access((dir + "/" + name).c_str(), X_OK) == 0) return dir + "/" + name;
  }
  throw Broken("no program " + name);
}

}  // namespace

Process::Process(const Spec &spec) {
  auto argv_strings = spec.argv;
  argv_strings.at(0) = in_path(argv_strings[0]);
  auto env_strings = environment_of(spec);
  auto argv = pointers(argv_strings), env = pointers(env_strings);
  name_ = argv_strings[0];
  pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0) throw Broken("fork failed");
  if (pid_ == 0) become(spec, argv.data(), env.data(), parent);
}

Process::~Process() { kill_and_reap(); }

Process &Process::operator=(Process &&other) noexcept {
  if (this != &other) {
    kill_and_reap();
    pid_ = std::exchange(other.pid_, -1);
    status_ = other.status_;
    name_ = other.name_;
  }
  return *this;
}

bool Process::running() {
  if (pid_ < 0 || status_) return false;
  int raw_status;
  if (waitpid(pid_, &raw_status, WNOHANG) != pid_) return true;
  status_ = WIFSIGNALED(raw_status) ? 128 + WTERMSIG(raw_status) : WEXITSTATUS(raw_status);
  return false;
}

void Process::signal(int number) {
  if (running()) kill(pid_, number);
}

int Process::wait(std::chrono::seconds limit) {
  if (eventually([&] { return !running(); }, limit)) return status_.value_or(-1);
  kill_and_reap();
  throw Broken(name_ + " did not end within " + std::to_string(limit.count()) + " s");
}

void Process::kill_and_reap() {
  if (!running()) return;
  kill(pid_, SIGKILL);
  eventually([&] { return !running(); }, std::chrono::seconds(20));
}

Finished run(Spec spec, std::chrono::seconds limit) {
  TempDir place;
  bool own_out = spec.out.empty(), own_err = spec.err.empty();
  if (own_out) spec.out = place / "out";
  if (own_err) spec.err = place / "err";
  if (spec.uid) {
    for (const auto &file : {spec.out, spec.err}) {
      write_file(file, "");
      if (chown(file.c_str(), *spec.uid, *spec.uid) != 0) throw Broken("chown " + file);
    }
  }
  Process process(spec);
  int status = process.wait(limit);
  return {status, read_file(spec.out), read_file(spec.err)};
}

Spec worker(std::string_view name, std::vector<std::string> args, bool hooked) {
  Spec spec;
  spec.argv = {own_program(), "--worker", std::string(name)};
  spec.argv.insert(spec.argv.end(), args.begin(), args.end());
  spec.hooked = hooked;
  return spec;
}

namespace {
size_t status_field(pid_t pid, const std::string &field) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(field + ":")) return std::strtoull(line.c_str() + field.size() + 1, nullptr, 10);
  }
  return 0;
}
}  // namespace

size_t resident_kib(pid_t pid) { return status_field(pid, "VmRSS"); }
size_t threads_of(pid_t pid) { return status_field(pid, "Threads"); }

size_t open_descriptors(pid_t pid) {
  DIR *dir = opendir(("/proc/" + std::to_string(pid) + "/fd").c_str());
  if (dir == nullptr) return 0;
  size_t count = 0;
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count - 2;
}

}  // namespace shortfuse::tests
