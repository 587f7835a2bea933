#include "mounted.h"

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

namespace shortfuse::passthrough::testing {
namespace {

constexpr int kPatienceMs = 10000;

pid_t spawn(const std::vector<std::string>& command, int output) {
  pid_t child = fork();
  if (child != 0) return child;
  if (output >= 0) {
    dup2(output, 1);
    dup2(output, 2);
  }
  std::vector<char*> argv;
  for (const auto& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  _exit(127);
}

}  // namespace

bool eventually(const std::function<bool()>& condition) {
  for (int waited = 0; waited < kPatienceMs; waited += 5) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

pid_t in_child(const std::function<int()>& body) {
  pid_t child = fork();
  if (child == 0) _exit(body());
  return child;
}

int exit_status(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

int as_user(uid_t uid, gid_t gid, const std::function<int()>& body) {
  return exit_status(in_child([&] {
    if (setgroups(0, nullptr) != 0 || setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0) return 126;
    return body();
  }));
}

std::string contents(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void write_file(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

std::string program() { return PASSTHROUGHFS_PROGRAM; }

bool is_mounted(const std::string& path) {
  std::ifstream mounts("/proc/self/mounts");
  for (std::string line; std::getline(mounts, line);) {
    if (line.find(" " + path + " ") != std::string::npos) return true;
  }
  return false;
}

std::string make_directory() {
  char name[] = "/tmp/passthroughfs-test-XXXXXX";
  if (!mkdtemp(name)) abort();
  chmod(name, 0755);
  return name;
}

void remove_tree(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

RunResult run(const std::vector<std::string>& command) {
  int pipes[2];
  if (pipe2(pipes, O_CLOEXEC) != 0) abort();
  pid_t child = spawn(command, pipes[1]);
  close(pipes[1]);
  RunResult result{};
  char block[4096];
  for (ssize_t n; (n = read(pipes[0], block, sizeof block)) > 0;) result.output.append(block, static_cast<size_t>(n));
  close(pipes[0]);
  result.status = exit_status(child);
  return result;
}

Mounted::Mounted(const std::string& options, const std::vector<std::string>& prefix) : base_(make_directory()) {
  umask(022);
  source_ = base_ + "/source";
  mount_ = base_ + "/mount";
  plain_ = base_ + "/plain";
  for (const auto& dir : {source_, mount_, plain_}) mkdir(dir.c_str(), 0755);
  std::vector<std::string> command = prefix;
  command.insert(command.end(), {program(), source_, mount_, "-f"});
  if (!options.empty()) command.insert(command.end(), {"-o", options});
  if (const char* more = getenv("PASSTHROUGHFS_TEST_OPTIONS")) command.insert(command.end(), {"-o", more});
  daemon_ = spawn(command, -1);
  bool mounted = eventually([&] { return is_mounted(mount_) || waitpid(daemon_, nullptr, WNOHANG) != 0; });
  struct stat attr;
  if (!mounted || !is_mounted(mount_) || stat(mount_.c_str(), &attr) != 0) {
    ADD_FAILURE() << "cannot mount with options '" << options << "'";
    daemon_ = -1;
  }
}

Mounted::~Mounted() {
  if (daemon_ > 0) {
    EXPECT_EQ(stop(), 0) << "the exit status of the daemon";
  }
  remove_tree(base_);
}

size_t Mounted::descriptors() const {
  std::error_code error;
  size_t count = 0;
  for (auto it = std::filesystem::directory_iterator("/proc/" + std::to_string(daemon_) + "/fd", error);
       it != std::filesystem::directory_iterator(); ++it) {
    ++count;
  }
  return count;
}

void Mounted::drop_caches() const {
  // A remount shrinks this mount's dentries and inodes, and nobody else's.
  if (mount("none", mount_.c_str(), nullptr, MS_REMOUNT | MS_NOSUID | MS_NODEV, nullptr) != 0) {
    std::ofstream("/proc/sys/vm/drop_caches") << "2\n";
  }
}

int Mounted::stop(int signal) {
  if (signal) kill(daemon_, signal);
  else if (umount(mount_.c_str()) != 0 && umount2(mount_.c_str(), MNT_DETACH) != 0) kill(daemon_, SIGTERM);
  int status = -1;
  bool ended = eventually([&] {
    int raw = 0;
    pid_t got = waitpid(daemon_, &raw, WNOHANG);
    if (got == 0) return false;
    status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 256 + WTERMSIG(raw);
    return true;
  });
  if (!ended) {
    ADD_FAILURE() << "the daemon does not end";
    kill(daemon_, SIGKILL);
    status = exit_status(daemon_);
  }
  if (is_mounted(mount_)) umount2(mount_.c_str(), MNT_DETACH);
  daemon_ = -1;
  return status;
}

int run_tests(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (access("/dev/fuse", F_OK) != 0) {
    puts("skipped: there is no /dev/fuse");
    return 77;
  }
  return RUN_ALL_TESTS();
}

}  // namespace shortfuse::passthrough::testing
