// What the coherence test changes and looks at: each subject is a piece of file system state that carries a sequence
// number, written by one process and read by another.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace shortfuse::tests {

/// What a reader saw: of which sequence numbers it can be the state.
struct Observation {
  enum Kind {
    Exactly,      ///< the state of `value`
    Modulo,       ///< the state of any number that leaves the rest `value` by `modulus`
    InBetween,    ///< neither old nor new: right only while a change is under way
  } kind = InBetween;
  uint64_t value = 0, modulus = 1;

  static Observation exactly(uint64_t value) { return {Exactly, value, 1}; }
  static Observation modulo(uint64_t rest, uint64_t modulus) { return {Modulo, rest, modulus}; }
  static Observation in_between() { return {}; }
  /// Whether it can have been seen when `published` was the last change that had returned before the look began, and
  /// `started` the last that had begun when it ended.
  bool fits(uint64_t published, uint64_t started) const;
  std::string text() const;
};

/// One process's hands on a subject: `dir` is its directory on the mount. write() makes the state of `seq` (they come
/// in order, from 1) and throws Broken when a call fails; read() looks.
class Subject {
 public:
  virtual ~Subject() = default;
  virtual void prepare() = 0;  ///< the state of number 0; once, in one process
  virtual void write(uint64_t seq) = 0;
  virtual Observation read() = 0;
  /// Whether it may be read while it is written. Not so contents that are written in place: the kernel's FUSE unlocks a
  /// page that it has filled before it sends the WRITE; if the page is invalidated then (by an open, or because a
  /// GETATTR brought another mtime) a read brings the old bytes back from the daemon, and they stay. That can be seen
  /// on any FUSE mount, without us.
  virtual bool also_freely() const { return true; }
  std::string dir;

 protected:
  std::string at(const char *name) const { return dir + "/" + name; }
};

const std::vector<std::string> &subject_names();
/// Owned by the caller.
Subject *make_subject(const std::string &name, const std::string &dir);

}  // namespace shortfuse::tests
