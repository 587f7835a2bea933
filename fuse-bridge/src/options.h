// The bpftime options: what a mounter may say to the bridge.
//
//     bpftime=A.bpf.o[:B.bpf.o]   the policy chain
//     bpftime_mem=SIZE            budget of the cache, K M G allowed, default 256M, at least 4M
//     bpftime_share=own|all       who may map the cache: the daemon's own user (default) or everybody
//
// They are taken out of the mount options before libfuse sees them, which would refuse what it does not know.
#pragma once
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <vector>

namespace shortfuse::bridge {

struct Options {
  std::vector<std::string> policies;   ///< absolute paths, in chain order; empty: the bridge stays out of the way
  uint64_t budget_bytes = 256ull << 20;
  bool share_all = false;
  bool any = false;                    ///< some bpftime option was seen
  bool given() const { return !policies.empty(); }
};

constexpr uint64_t kBudgetMinBytes = 4ull << 20;
constexpr uint64_t kBudgetMaxBytes = 1ull << 40;

/// Takes the bpftime options out of a comma-separated list. `rest` gets the others, unchanged. Errors are one line.
std::expected<void, std::string> take_options(std::string_view list, Options &into, std::string &rest);

/// The same over a whole argument vector (`-o a,b`, `-oa,b`, `--options=...` as libfuse's own parser accepts them).
std::expected<void, std::string> take_options(std::vector<std::string> &arguments, Options &into);

/// After all lists were taken: a chain must be there when any other bpftime option is.
std::expected<void, std::string> check_options(const Options &options);

/// "64M" -> bytes.
std::expected<uint64_t, std::string> parse_size(std::string_view text);

/// "A.o:B.o" -> absolute paths; relative ones are taken from the working directory.
std::expected<std::vector<std::string>, std::string> parse_chain(std::string_view text);

}  // namespace shortfuse::bridge
