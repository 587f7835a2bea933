// What every whole-process test is made of: a private directory, processes that cannot outlive the test, mounts that
// are undone however it ends, and the worker functions that run in processes of their own.
//
// A test program is started by ctest without the hook. Whatever is to run with it is started as a process: another
// program, or a *worker*, a function of the test program itself that main() runs when asked to (SF_WORKER).
// Everything throws Broken where the surroundings fail; GoogleTest reports that as a failure of the test.
#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace shortfuse::tests {

struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ---- what was built, and how much to do
std::string program(std::string_view name);       ///< build/bin/NAME
std::string hook_library();                       ///< build/lib/libshortfuse.so
std::string policy(std::string_view name);        ///< build/policies/NAME.bpf.o
std::string own_program();                        ///< the running test program
bool soak();                                      ///< SHORTFUSE_SOAK=1
uint64_t scaled(uint64_t check, uint64_t in_soak);
uint64_t seed(uint64_t otherwise);                ///< SHORTFUSE_TEST_SEED or the given one
bool is_root();

// ---- a directory of one's own
/// /tmp/sf-test.PID.N. The destructor detaches every mount below it and removes it. Directories of test programs that
/// were killed are swept away when the next one starts.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir &) = delete;
  const std::string &path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }
  /// Makes the directory `name` (with its parents) below and returns its path.
  std::string dir(std::string_view name) const;

 private:
  std::string path_;
};
void write_file(const std::string &path, std::string_view contents);
std::string read_file(const std::string &path);  ///< "" when it cannot be read
/// A tree of `files` small files in directories of 100, with a symbolic link and an xattr in each; deterministic.
void make_tree(const std::string &root, unsigned files);

// ---- processes
struct Spec {
  std::vector<std::string> argv;
  bool hooked = false;
  std::string report;                        ///< SHORTFUSE_REPORT, when hooked
  std::map<std::string, std::string> env;    ///< on top of the test's own; the hook's variables are never inherited
  std::string out, err;                      ///< files for stdout and stderr; "" inherits
  std::string cwd;
  std::optional<uid_t> uid;                  ///< run as this user, with this gid and no other groups
  bool new_session = false;                  ///< its children may outlive it (daemons in the background)
};

/// One child. It gets SIGKILL when the test dies, and when the object goes.
class Process {
 public:
  Process() = default;
  explicit Process(const Spec &spec);
  ~Process();
  Process(Process &&other) noexcept { *this = std::move(other); }
  Process &operator=(Process &&other) noexcept;
  pid_t pid() const { return pid_; }
  bool running();
  void signal(int number);
  /// The exit status, or 128 + signal. After `limit` the child is killed and Broken is thrown: a hang is a failure.
  int wait(std::chrono::seconds limit = std::chrono::seconds(60));
  void kill_and_reap();

 private:
  pid_t pid_ = -1;
  std::optional<int> status_;
  std::string name_;
};

struct Finished {
  int status;
  std::string out, err;
};
/// Runs to the end and collects what was printed.
Finished run(Spec spec, std::chrono::seconds limit = std::chrono::seconds(60));

/// `program --worker NAME ARGS...` of this very test program.
Spec worker(std::string_view name, std::vector<std::string> args, bool hooked);
using WorkerFunction = int (*)(const std::vector<std::string> &args);
struct RegisterWorker {
  RegisterWorker(const char *name, WorkerFunction function);
};
#define SF_WORKER(name)                                                                   \
  static int worker_##name(const std::vector<std::string> &args);                         \
  static const ::shortfuse::tests::RegisterWorker register_##name(#name, worker_##name);  \
  static int worker_##name([[maybe_unused]] const std::vector<std::string> &args)

// ---- mounts
bool is_mounted(const std::string &point);
/// umount(2) of everything that is mounted at or below `path`, innermost first, lazily.
void detach_below(const std::string &path);
/// Waits until the condition holds; false after the limit.
void nap_ms(unsigned ms);
template <typename Condition>
bool eventually(Condition condition, std::chrono::milliseconds limit = std::chrono::seconds(10)) {
  auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    nap_ms(2);
  }
  return true;
}

/// passthroughfs over a directory, in the foreground, as a child of the test.
class Mount {
 public:
  struct Options {
    std::string policy = "datacache";     ///< names joined by ':'; "" mounts without bpftime
    double kernel_timeout_s = 0;          ///< of the kernel's own attr and entry caches
    std::string more;                     ///< further -o options, comma-separated
    std::optional<uid_t> uid;
  };
  Mount(std::string source, std::string point, const Options &options);
  ~Mount();
  Mount(const Mount &) = delete;
  const std::string &point() const { return point_; }
  Process &daemon() { return daemon_; }
  /// umount, and the daemon ends by itself with status 0; throws otherwise.
  void unmount();
  std::string log() const;              ///< what the daemon printed

 private:
  std::string point_, log_;
  Process daemon_;
};

/// `shortfuse ARGS...`
Finished shortfuse(std::vector<std::string> args);
/// `shortfuse swap POINT POLICIES`, names as in Mount::Options.
void swap(const std::string &point, std::string_view policies);
std::string policy_chain(std::string_view names);  ///< absolute paths joined by ':'

// ---- what the hook says it did
class Report {
 public:
  /// Throws Broken when there is none or it does not parse.
  static Report read(const std::string &path);
  uint64_t served(std::string_view op) const;
  uint64_t missed(std::string_view op) const;
  uint64_t denied(std::string_view op) const;
  uint64_t served_total() const;
  std::string text() const { return text_; }

 private:
  uint64_t count(std::string_view op, std::string_view outcome) const;
  std::string text_;
};

// ---- of a process
size_t open_descriptors(pid_t pid);
size_t resident_kib(pid_t pid);
size_t threads_of(pid_t pid);

}  // namespace shortfuse::tests
