// A long-lived process, with or without the hook, that does one call at a time on request.
//
// Every question that reads is asked twice, through libc and as a system call of the agent's own text. Where the two
// differ the answer is "MISMATCH ...", which no test expects: so whatever is asked, in whatever state the mount is, the
// hook is compared with the kernel.
#pragma once
#include <atomic>
#include <memory>
#include <string>

#include "support/harness.h"
#include "support/shared.h"

namespace shortfuse::tests {

class Agent {
 public:
  struct Options {
    bool hooked = true;
    std::optional<uid_t> uid;
    std::map<std::string, std::string> env;
  };
  Agent(const TempDir &temp, const Options &options);

  /// The answer: what the call gave, or the name of its errno. Throws Broken when there is none within 20 s.
  ///   stat P, lstat P      "MODE SIZE UID"      (octal mode)
  ///   access P MODE        "0"
  ///   read P               the contents, through open, read, close
  ///   list P               the names, sorted, with spaces between
  ///   readlink P, getxattr P NAME, statfs P
  ///   hold P / reread / fstat / release     open and keep, pread of it, fstat of it, close
  ///   holddir P / relist   open and keep a directory; list it from its start
  ///   create P TEXT, write P TEXT, unlink P, mkdir P, chdir P
  ///   seteuid UID, groups GID
  std::string ask(const std::string &question);
  /// Asks until the answer is `wanted`; the last answer otherwise.
  std::string ask_until(const std::string &question, const std::string &wanted);
  /// Asks `times` times; the answers must all be the same: returns it, or "MISMATCH ..." if they differ.
  std::string ask_often(const std::string &question, unsigned times = 50);
  /// Asks until the mount's daemon has counted an answer as served; false if it never does. A process that meets a
  /// daemon too busy to answer lets it be for a second or more: no number of questions says that it is attached.
  bool comes_to_be_served(Mount &mount, const std::string &question);
  /// How many calls this process was served so far, over all mounts, as it counted itself (at its end).
  Report finish();
  Process &process() { return process_; }

  struct Slate {
    Signal turn;  // 0 the test's, 1 the agent's
    std::atomic<uint32_t> stop{0};
    char question[4096], answer[65536];
  };

 private:
  std::string directory_;
  std::unique_ptr<Shared<Slate>> slate_;
  Process process_;
};

}  // namespace shortfuse::tests
