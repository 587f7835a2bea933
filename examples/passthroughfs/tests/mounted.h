/* A passthroughfs of one's own for a test: a source, a mount, and a plain directory beside them to compare with. */
#pragma once
#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

namespace shortfuse::passthrough::testing {

class Mounted {
 public:
  /// Mounts with `options` ("-o" text, may be empty) and waits until the mount answers. `prefix` is a program that runs
  /// the daemon, such as setpriv. PASSTHROUGHFS_TEST_OPTIONS in the environment adds options to every mount, such as
  /// a policy.
  explicit Mounted(const std::string& options = "allow_other", const std::vector<std::string>& prefix = {});
  ~Mounted();
  Mounted(const Mounted&) = delete;

  bool ok() const { return daemon_ > 0; }
  const std::string& path() const { return mount_; }
  const std::string& source() const { return source_; }
  const std::string& plain() const { return plain_; }
  pid_t daemon() const { return daemon_; }
  /// How many descriptors the daemon has open.
  size_t descriptors() const;
  /// Makes the kernel forget what it knows of the mount, as far as nobody uses it.
  void drop_caches() const;
  /// Unmounts by `umount`, or by a signal to the daemon; returns the daemon's exit status.
  int stop(int signal = 0);

 private:
  std::string base_, source_, mount_, plain_;
  pid_t daemon_ = -1;
};

/// The result of a program: exit status (or 256 + signal) and what it wrote to either output.
struct RunResult {
  int status;
  std::string output;
};
RunResult run(const std::vector<std::string>& command);

/// A child that runs `body` as somebody else; its exit status, which `body` returns. `body` must not use assertions.
int as_user(uid_t uid, gid_t gid, const std::function<int()>& body);
/// Runs `body` in a child; the caller waits for it with exit_status().
pid_t in_child(const std::function<int()>& body);
int exit_status(pid_t child);
/// Whether it comes true within ten seconds.
bool eventually(const std::function<bool()>& condition);

std::string contents(const std::string& path);
void write_file(const std::string& path, const std::string& text);

std::string program();                      ///< the passthroughfs under test
bool is_mounted(const std::string& path);
std::string make_directory();               ///< a new empty directory; the caller removes it
void remove_tree(const std::string& path);  ///< REQUIRES: nothing is mounted below

/// main() of a test program: 77 where there is no /dev/fuse, else what GoogleTest says.
int run_tests(int argc, char** argv);

}  // namespace shortfuse::passthrough::testing
