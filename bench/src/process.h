// Running programs, timing them, and stopping cleanly on Ctrl-C.
#pragma once
#include <sys/types.h>

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace shortfuse::bench {

/// The surroundings failed: a sentence for the terminal.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// Ctrl-C or SIGTERM: unwinds through every destructor, so mounts and directories go.
struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("interrupted") {}
};

void catch_signals();
/// Throws Interrupted after a signal. Called between all steps.
void check_interrupted();

struct Command {
  std::vector<std::string> argv;
  std::map<std::string, std::string> environment;  ///< on top of this process's
  bool keep_output = false;                        ///< else stdout goes to /dev/null
  std::string directory;                           ///< working directory, "" this one
};

struct Finished {
  int status;          ///< exit status, or 128 + signal
  double seconds;      ///< from start to end, wall clock
  std::string output;  ///< stdout, when kept
};

/// Runs to the end. Throws Failure when the program cannot be started, Interrupted after a signal.
Finished run(const Command &command);

/// A child that is not waited for; SIGTERM, then SIGKILL, when the object goes, and when this process dies.
class Background {
 public:
  Background(const Command &command, const std::string &log);
  ~Background();
  Background(const Background &) = delete;
  bool running();
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

}  // namespace shortfuse::bench
