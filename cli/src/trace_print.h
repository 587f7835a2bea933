// What a trace shows: records of ring buffers as they come, and the other maps at the end.
#pragma once
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "map_text.h"
#include "trace_session.h"

namespace shortfuse::cli {

class TracePrinter {
 public:
  TracePrinter(const vm::Policy &policy, const TraceSession &session, FILE *out, bool json);
  bool has_rings() const { return !rings_.empty(); }
  /// Prints the records that are there.
  void events();
  /// Maps, and what could not be traced.
  void results();
  /// The errno of the first write that failed, after which nothing more is written; 0: none has.
  int error() const { return error_; }

 private:
  struct Ring {
    size_t map;
    uint64_t position = 0;
    bool busy = false;
    std::chrono::steady_clock::time_point busy_since{};
  };
  struct Row {
    std::string key;
    nlohmann::ordered_json key_json, value;
    double weight = 0;
  };
  std::string name(size_t map) const;
  MapField field(size_t map, bool of_key) const;
  bool take(Ring *ring);
  std::vector<Row> rows(size_t map) const;
  void print_table(size_t map, const std::vector<Row> &rows) const;
  void print_notes() const;
  nlohmann::ordered_json notes_json() const;
  template <typename... Values>
  void write(fmt::format_string<Values...> format, Values &&...values) const;
  void flush() const;

  const vm::Policy &policy_;
  const TraceSession &session_;
  FILE *out_;
  bool json_;
  mutable int error_ = 0;
  std::vector<Ring> rings_;
  size_t room_bytes_ = 0;
  std::unique_ptr<char[]> room_;  ///< for one record
};

}  // namespace shortfuse::cli
