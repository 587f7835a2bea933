// Paths, private directories, and the registry of workers. See harness.h.
#include "support/harness.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "support/workers.h"

namespace shortfuse::tests {

namespace fs = std::filesystem;

namespace {

constexpr char kTempPrefix[] = "/tmp/sf-test.";

std::map<std::string, WorkerFunction> &workers() {
  static std::map<std::string, WorkerFunction> table;
  return table;
}

bool enabled(const char *variable) {
  const char *value = std::getenv(variable);
  return value != nullptr && *value != '\0' && std::string_view(value) != "0";
}

/// Field `number` (from 0) of each line of mountinfo, with its octal escapes undone.
std::vector<std::string> mount_points() {
  std::ifstream in("/proc/self/mountinfo");
  std::vector<std::string> points;
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::string field, point;
    for (int i = 0; i < 5 && fields >> field; ++i) point = field;
    std::string plain;
    for (size_t i = 0; i < point.size(); ++i) {
      if (point[i] == '\\' && i + 3 < point.size()) {
        plain += static_cast<char>(std::stoi(point.substr(i + 1, 3), nullptr, 8));
        i += 3;
      } else {
        plain += point[i];
      }
    }
    points.push_back(plain);
  }
  return points;
}

void remove_private_directory(const std::string &path) {
  detach_below(path);
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

}  // namespace

std::string program(std::string_view name) { return std::string(SF_BUILD_DIR "/bin/") + std::string(name); }
std::string hook_library() { return SF_BUILD_DIR "/lib/libshortfuse.so"; }
std::string policy(std::string_view name) { return SF_BUILD_DIR "/policies/" + std::string(name) + ".bpf.o"; }
std::string own_program() { return fs::read_symlink("/proc/self/exe").string(); }
bool soak() { return enabled("SHORTFUSE_SOAK"); }
uint64_t scaled(uint64_t check, uint64_t in_soak) { return soak() ? in_soak : check; }
bool is_root() { return geteuid() == 0; }

uint64_t seed(uint64_t otherwise) {
  const char *value = std::getenv("SHORTFUSE_TEST_SEED");
  return value != nullptr ? std::strtoull(value, nullptr, 0) : otherwise;
}

void nap_ms(unsigned ms) { usleep(ms * 1000); }

bool is_mounted(const std::string &point) {
  auto points = mount_points();
  return std::find(points.begin(), points.end(), point) != points.end();
}

void detach_below(const std::string &path) {
  auto points = mount_points();
  for (auto point = points.rbegin(); point != points.rend(); ++point) {
    if (*point != path && !point->starts_with(path + "/")) continue;
    if (umount2(point->c_str(), MNT_DETACH) != 0 && !is_root()) {
      Spec spec;
      spec.argv = {"/usr/bin/fusermount3", "-u", "-z", *point};
      run(spec);
    }
  }
}

TempDir::TempDir() {
  static std::atomic<unsigned> counter{0};
  path_ = kTempPrefix + std::to_string(getpid()) + "." + std::to_string(counter++);
  if (mkdir(path_.c_str(), 0755) != 0) throw Broken("mkdir " + path_ + " failed");
}

TempDir::~TempDir() { remove_private_directory(path_); }

std::string TempDir::dir(std::string_view name) const {
  std::string path = *this / name;
  fs::create_directories(path);
  return path;
}

void sweep_remains_of_killed_tests() {
  for (const auto &entry : fs::directory_iterator("/tmp", fs::directory_options::skip_permission_denied)) {
    std::string path = entry.path().string();
    if (!path.starts_with(kTempPrefix)) continue;
    pid_t pid = std::atoi(path.c_str() + sizeof kTempPrefix - 1);
    if (pid > 0 && kill(pid, 0) != 0 && errno == ESRCH) remove_private_directory(path);
  }
}

void write_file(const std::string &path, std::string_view contents) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(contents.data(), static_cast<std::streamsize>(contents.size()));
  if (!out.flush()) throw Broken("cannot write " + path);
}

std::string read_file(const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void make_tree(const std::string &root, unsigned files) {
  fs::create_directories(root);
  for (unsigned i = 0; i < files; ++i) {
    std::string dir = root + "/dir" + std::to_string(i / 100);
    if (i % 100 == 0) {
      fs::create_directories(dir);
      fs::create_symlink("file" + std::to_string(i), dir + "/link");
    }
    std::string path = dir + "/file" + std::to_string(i);
    std::string line = "line of file " + std::to_string(i) + "\n", text;
    while (text.size() < i * 37 % 9000) text += line;
    write_file(path, text);
    if (i % 100 == 0) setxattr(path.c_str(), "user.number", line.data(), line.size(), 0);
  }
}

RegisterWorker::RegisterWorker(const char *name, WorkerFunction function) { workers()[name] = function; }

int run_worker(const std::string &name, const std::vector<std::string> &args) {
  auto found = workers().find(name);
  if (found == workers().end()) {
    std::fprintf(stderr, "no worker %s\n", name.c_str());
    return 125;
  }
  try {
    return found->second(args);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "worker %s: %s\n", name.c_str(), error.what());
    return 125;
  }
}

}  // namespace shortfuse::tests
