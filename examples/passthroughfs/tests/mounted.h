/* A passthroughfs of one's own for a test: a source, a mount, and a plain directory beside them to compare with. */
#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

namespace shortfuse::passthrough::testing {

class Mounted {
 public:
  /// Mounts with `options` ("-o" text, may be empty) and waits until the mount answers.
  explicit Mounted(const std::string& options = "allow_other", std::vector<std::string> arguments = {});
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

std::string program();                      ///< the passthroughfs under test
bool is_mounted(const std::string& path);
std::string make_directory();               ///< a new empty directory; the caller removes it
void remove_tree(const std::string& path);  ///< REQUIRES: nothing is mounted below

/// main() of a test program: 77 where there is no /dev/fuse, else what GoogleTest says.
int run_tests(int argc, char** argv);

}  // namespace shortfuse::passthrough::testing
