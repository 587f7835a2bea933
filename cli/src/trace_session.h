// A trace session as its owner has it: the image, and the memory that traced processes share (vm/trace_session.h).
#pragma once
#include <atomic>
#include <expected>
#include <memory>
#include <string>
#include <vector>

#include "shortfuse/vm/trace_session.h"
#include "shortfuse/vm/vm.h"

namespace shortfuse::cli {

class TraceSession {
 public:
  static std::expected<std::unique_ptr<TraceSession>, std::string> create(const vm::Policy &policy);
  ~TraceSession();
  TraceSession(const TraceSession &) = delete;
  TraceSession &operator=(const TraceSession &) = delete;

  /// The value of SHORTFUSE_TRACE for processes that shall take part, while this process lives.
  std::string variable() const;
  const std::string &why_interpreted() const { return why_interpreted_; }

  /// No program runs any more.
  void stop();
  /// In a child, before its exec: it has not said yet that it is traced.
  void expect_exec(const std::string &path);

  const sf_map &map(size_t index) const { return maps_[index]; }

  // What the traced processes have written, so far.
  uint64_t attached() const;
  uint64_t missed() const;
  uint64_t left() const;
  uint64_t unpatched() const;
  /// Programs that were started and did not join; `*more`: that could not be remembered.
  std::vector<std::string> untraced(uint64_t *more) const;

 private:
  TraceSession() = default;
  std::expected<void, std::string> make(const vm::Policy &policy);
  std::expected<void, std::string> make_maps(const vm::Policy &policy);
  std::expected<void, std::string> make_chains(const vm::Policy &policy);

  int image_fd_ = -1, session_fd_ = -1;
  std::string why_interpreted_;
  sf_trace_session *session_ = nullptr;
  size_t bytes_ = 0;
  std::vector<sf_map> maps_;
};

}  // namespace shortfuse::cli
