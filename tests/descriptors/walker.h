// One thread's random walk over descriptors that only it uses, with a model of each: which contents it was opened on,
// and the offset of the open that it shares with its duplicates. What other threads and processes do meanwhile must
// not show.
#pragma once
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "descriptors/contents.h"

namespace shortfuse::tests::descriptors {

/// An open file as the kernel would have it.
struct Open {
  uint64_t tag = 0;
  uint64_t inode = 0;
  uint64_t offset = 0;
};

class Walker {
 public:
  Walker(std::string root, uint64_t seed) : root_(std::move(root)), random_(seed) {}
  ~Walker();
  /// What was wrong, or nothing.
  std::string step();
  /// Everything that is open is as the model says.
  std::string check_all();
  /// Descriptors are this thread's only: those of the process are others.
  void unshared() { unshared_ = true; }
  std::string last() const { return last_; }

 private:
  struct Number {
    int fd;
    std::shared_ptr<Open> open;
  };

  unsigned below(uint64_t limit) { return static_cast<unsigned>(random_() % limit); }
  Number *any() { return numbers_.empty() ? nullptr : &numbers_[below(numbers_.size())]; }
  std::string keep(int fd, std::shared_ptr<Open> open);
  void forget(int fd);

  std::string opens();
  std::string looks();
  std::string opens_from_directory();
  std::string reads(Number &n);
  std::string reads_at(Number &n);
  std::string seeks(Number &n);
  std::string duplicates(Number &n);
  std::string duplicates_onto(Number &n);
  std::string closes(Number &n);
  std::string stats(Number &n);
  std::string maps(Number &n);
  std::string makes_real(Number &n);
  std::string transfers(Number &n);
  std::string sends(Number &n);
  std::string forks(Number &n);
  std::string spawns(Number &n);
  std::string lists();

  std::string root_, last_;
  std::mt19937_64 random_;
  std::vector<Number> numbers_;
  bool unshared_ = false;
};

}  // namespace shortfuse::tests::descriptors
