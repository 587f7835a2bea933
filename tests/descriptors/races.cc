// Two threads on one descriptor: one asks, the other closes it, replaces it, duplicates it or makes the kernel have it
// open. What is told must be of the file that the number was, or is, at the offset where that stood; or EBADF.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <functional>
#include <random>
#include <thread>

#include "descriptors/contents.h"
#include "support/harness.h"

namespace shortfuse::tests::descriptors {
namespace {

/// Runs what it is given, at the same time as the caller, as often as asked.
class Other {
 public:
  Other() : thread_([this] { run(); }) {}
  ~Other() {
    work_ = nullptr;
    begun_.store(~0u), begun_.notify_one();
    thread_.join();
  }
  void begin(std::function<void()> work) {
    work_ = std::move(work);
    ++begun_, begun_.notify_one();
  }
  void finish() {
    while (done_.load() != begun_.load()) sched_yield();
  }

 private:
  void run() {
    for (unsigned turn = 0;; ++turn) {
      begun_.wait(turn);
      if (!work_) return;
      work_();
      ++done_;
    }
  }
  std::function<void()> work_;
  std::atomic<unsigned> begun_{0}, done_{0};
  std::thread thread_;
};

struct Subject {
  int fd = -1;
  uint64_t tag = 0;
  uint64_t inode = 0;
  uint64_t offset = 0;
};

class Race {
 public:
  Race(std::string root, uint64_t seed) : root_(std::move(root)), random_(seed) {}
  std::string step();

 private:
  unsigned below(uint64_t limit) { return static_cast<unsigned>(random_() % limit); }
  Subject open_one(unsigned file);
  bool asks(Subject &subject, const Subject *replacement, std::string *wrong);
  std::function<void()> disturbance(unsigned kind, const Subject &subject, const Subject &replacement);
  std::string ends(Subject &subject, int copy);

  std::string root_;
  std::mt19937_64 random_;
  Other other_;
  std::atomic<int> extra_{-1};
};

Subject Race::open_one(unsigned file) {
  const int fd = open(path_of(root_, file).c_str(), O_RDONLY | O_CLOEXEC);
  Subject subject{fd, tag_of_descriptor(fd), 0, 0};
  struct stat st {};
  if (fstat(fd, &st) == 0) subject.inode = st.st_ino;
  if (below(2) == 0) subject.offset = static_cast<uint64_t>(lseek(fd, below(2000), SEEK_SET));
  return subject;
}

std::string told(const char *what, long got) {
  return std::string(what) + ": " + std::to_string(got) + ", errno " + std::to_string(errno);
}

// False: the number is closed, or something is wrong.
bool Race::asks(Subject &subject, const Subject *replacement, std::string *wrong) {
  char bytes[100];
  const unsigned what = below(6);
  if (what < 3) {
    const ssize_t got = read(subject.fd, bytes, sizeof bytes);
    if (got < 0 && errno == EBADF) return false;
    if (got == sizeof bytes && is_of(subject.tag, subject.offset, bytes, sizeof bytes)) {
      subject.offset += sizeof bytes;
      return true;
    }
    if (got == sizeof bytes && replacement && is_of(replacement->tag, replacement->offset, bytes, sizeof bytes))
      return false;
    *wrong = told("read", got);
    if (got > 0) {
      uint64_t word;
      __builtin_memcpy(&word, bytes + (8 - subject.offset % 8) % 8, 8);
      *wrong += " at " + std::to_string(subject.offset) + ": tag " + std::to_string(word >> 24) + " (of " +
                std::to_string(subject.tag) + ") word " + std::to_string(word & 0xffffff);
    }
    return false;
  }
  if (what == 3) {
    const ssize_t got = pread(subject.fd, bytes, sizeof bytes, 1000);
    if (got < 0 && errno == EBADF) return false;
    if (got == sizeof bytes && is_of(subject.tag, 1000, bytes, sizeof bytes)) return true;
    if (got == sizeof bytes && replacement && is_of(replacement->tag, 1000, bytes, sizeof bytes)) return false;
    return *wrong = told("pread", got), false;
  }
  if (what == 4) {
    struct stat st {};
    const int got = fstat(subject.fd, &st);
    if (got < 0 && errno == EBADF) return false;
    if (got == 0 && st.st_ino == subject.inode) return true;
    if (got == 0 && replacement && st.st_ino == replacement->inode) return false;
    return *wrong = told("fstat", got), false;
  }
  const int got = fcntl(subject.fd, F_GETFL);
  if (got < 0 && errno == EBADF) return false;
  if (got >= 0 && (got & O_PATH) == 0) return true;
  return *wrong = told("F_GETFL", got), false;
}

std::function<void()> Race::disturbance(unsigned kind, const Subject &subject, const Subject &replacement) {
  const int fd = subject.fd, by = replacement.fd;
  const unsigned spin = below(3000);
  auto later = [spin] { for (volatile unsigned i = 0; i < spin;) i = i + 1; };
  switch (kind) {
    case 0: return [=] { later(), close(fd); };
    case 1: return [=] { later(), flock(fd, LOCK_SH); };
    case 2: return [=] { later(), dup2(by, fd); };
    case 3: return [=, this] { later(), extra_ = dup(fd); };
    case 4: return [=] { later(), fcntl(fd, F_SETFD, 0), close(dup(fd)); };
    default: return [=] { later(), close_range(static_cast<unsigned>(fd), static_cast<unsigned>(fd), 0); };
  }
}

// What shares the open goes on where it stands.
std::string Race::ends(Subject &subject, int copy) {
  char bytes[64];
  if (copy < 0) return "";
  const off_t at = lseek(copy, 0, SEEK_CUR);
  if (at != static_cast<off_t>(subject.offset))
    return told("the duplicate's offset", at) + " instead of " + std::to_string(subject.offset);
  const ssize_t got = read(copy, bytes, sizeof bytes);
  if (got != sizeof bytes || !is_of(subject.tag, subject.offset, bytes, sizeof bytes)) return told("duplicate", got);
  return "";
}

std::string Race::step() {
  const unsigned file = below(kFiles);
  Subject subject = open_one(file), replacement = open_one((file + 1) % kFiles);
  const unsigned kind = below(6);
  const int copy = below(3) != 0 ? dup(subject.fd) : -1, second = below(4) == 0 ? dup(subject.fd) : -1;
  extra_ = -1;
  // Opens stay worth serving.
  for (unsigned i = 0; i < 16; ++i) close(open(path_of(root_, i % kFiles).c_str(), O_RDONLY | O_CLOEXEC));
  std::string wrong;
  other_.begin(disturbance(kind, subject, replacement));
  for (unsigned i = 0; i < 12 && asks(subject, kind == 2 ? &replacement : nullptr, &wrong); ++i) {
  }
  other_.finish();
  if (wrong.empty()) wrong = ends(subject, copy);
  if (wrong.empty() && copy >= 0 && kind == 3 && lseek(copy, 0, SEEK_CUR) != lseek(extra_, 0, SEEK_CUR))
    wrong = "duplicates stand apart";
  for (int fd : {subject.fd, replacement.fd, copy, second, extra_.load()}) {
    if (fd >= 0) close(fd);
  }
  return wrong.empty() ? "" : "disturbance " + std::to_string(kind) + (copy >= 0 ? ", duplicated" : "") + ": " + wrong;
}

}  // namespace

/// root seed steps
SF_WORKER(descriptors_race) {
  Race race(args.at(0), std::stoull(args.at(1)));
  unsigned failures = 0;
  for (uint64_t i = 0, steps = std::stoull(args.at(2)); i < steps && failures < 8; ++i) {
    const std::string wrong = race.step();
    if (!wrong.empty()) ++failures, dprintf(2, "step %lu: %s\n", i, wrong.c_str());
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace shortfuse::tests::descriptors
