// Running a policy's programs without a mount, to see what they do: real maps, honest stand-ins for what only a mount
// has. `shortfuse policy run`.
#pragma once
#include <cstdint>
#include <expected>
#include <string>
#include <vector>

#include "shortfuse/vm/vm.h"

namespace shortfuse::vm {

struct TrialOptions {
  std::string section;                   ///< whose chain runs; of a section "?...": its first program
  std::vector<unsigned char> context;    ///< at least as large as the section's context
  Lowering lowering = Lowering::Auto;
  uint64_t runs = 1;
  bool hit = true;                       ///< sf_serve_*() answer SF_SERVED; false: SF_PASS, as if nothing were cached
  std::string path;                      ///< what sf_path() says; "?": not known (-ENOENT)
  std::vector<unsigned char> arguments;  ///< what sf_arg() reads
  std::vector<unsigned char> reply;      ///< what sf_reply() reads
};

struct HostCall {
  std::string function;
  std::vector<std::string> arguments;
  std::string result;
  std::string note;  ///< what a mount would have done
};

struct MapChange {
  std::string map, key, before, after;  ///< "": not there
};

struct Trial {
  int64_t verdict = 0;                 ///< of the first run
  std::vector<HostCall> calls;         ///< of the first run, at most kTrialCallsMax
  uint64_t calls_made = 0;
  std::vector<MapChange> changes;      ///< over all runs
  double ns_per_run = 0;               ///< 0: it ran once only
  std::string engine;                  ///< "machine code", or "interpreter" and why
};

inline constexpr size_t kTrialCallsMax = 1000;

std::expected<Trial, Refusal> try_section(const Policy &policy, const TrialOptions &options);

}  // namespace shortfuse::vm
