// What a conformance case is: a function that does calls in a directory and says what it observed.
//
// It runs three times per setting, in a directory of an accelerated mount with the hook, of the same mount without
// it, and of an ordinary file system; each time in a process of its own and with the same files in the directory (see
// plant()). What it says must be the same. So it says nothing that two runs on one file system would tell
// differently: no inode numbers, no times, no order in which threads came.
#pragma once
#include <cerrno>
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "support/harness.h"

namespace shortfuse::tests::conformance {

struct Place {
  std::string dir;      // the case's directory; also the current one
  std::string outside;  // an empty directory on an ordinary file system
  std::string out;      // where standard output goes
  std::string operator/(std::string_view name) const { return dir + "/" + std::string(name); }
};

/// Why a line is another one on a FUSE mount than on ext4, with the hook or without.
struct Differs {
  const char *line;  // the line's key, or the beginning of several when it ends in '*'
  const char *why;
};

/// What a line says with the hook where opens are served and it cannot be as without.
struct Instead {
  const char *line;  // the line's key
  const char *says;
  const char *why;
};

struct Case {
  const char *name;
  void (*function)(const Place &);
  /// Operations that must have been served in the hooked run (Report), or it has compared the kernel with itself.
  std::vector<const char *> served = {};
  std::vector<Differs> from_ext4 = {};
  bool root_only = false;
  std::vector<Instead> with_opens = {};
};

inline void PrintTo(const Case &one, std::ostream *out) { *out << one.name; }

std::vector<Case> descriptor_cases();
std::vector<Case> open_cases();
std::vector<Case> reading_cases();
std::vector<Case> transfer_cases();
std::vector<Case> lock_cases();
std::vector<Case> passing_cases();
std::vector<Case> directory_cases();
std::vector<Case> async_cases();
std::vector<Case> process_cases();
std::vector<Case> exec_cases();
std::vector<Case> thread_cases();
std::vector<Case> signal_cases();
std::vector<Case> module_cases();
std::vector<Case> identity_cases();
std::vector<Case> all_cases();

/// The files of a case: text (10,000 bytes of numbered lines), big (300,000), sparse (data, a hole, data), empty,
/// script, secret (0600, root's), link -> text, dangling, loop, dir with 120 files, sub/inner/leaf.
void plant(const std::string &dir);
/// Looks at all of them, so that what follows can be answered from a cache.
void warm(const std::string &dir);

// ---- saying

/// One line, "KEY: what the format gives". Safe to use in children and threads.
[[gnu::format(printf, 2, 3)]] void say(const char *key, const char *format, ...);
/// The result of a call as it was returned: a number, or the name of errno for -1.
std::string outcome(long result);
inline void said(const char *key, long result) { say(key, "%s", outcome(result).c_str()); }
/// Length and hash of bytes, and the first ones.
std::string digest(std::string_view bytes);

// ---- doing

/// read(fd) of up to `bytes`, as outcome and digest.
std::string reads(int fd, size_t bytes);
/// Of a whole file, through open, read and close; or the name of errno.
std::string contents(const std::string &path);
/// "open" or the name of errno, as fcntl(F_GETFD) tells.
std::string state_of(int fd);
long position(int fd);
/// The function in a forked child; what became of it: "exit N" or "signal N".
std::string in_child(const std::function<void()> &function);
std::string status_text(int status);
/// A child of fork or the like, waited for.
std::string ended(long pid);
/// A worker of this program, to be executed with `execv`: --worker NAME ARGS.
std::vector<std::string> worker_command(std::string_view name, std::vector<std::string> args);
std::vector<char *> pointers(std::vector<std::string> &strings);
/// A program that was built for these cases: build/tests/NAME.
std::string built(std::string_view name);

}  // namespace shortfuse::tests::conformance
