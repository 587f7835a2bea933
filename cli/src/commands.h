// The subcommands of `shortfuse`. Each takes what the command line said and returns the exit status; each prints its
// own errors, "shortfuse COMMAND: sentence", on standard error.
#pragma once
#include <string>
#include <vector>

#include "shortfuse/vm/vm.h"

namespace shortfuse::cli {

/// What every command needs to know of its surroundings.
struct Context {
  std::string executable_directory;           ///< where libraries and policies are looked for
  std::vector<std::string> registry;          ///< directories of control sockets
};

struct RunArguments {
  std::vector<std::string> command;
  bool quiet = false;    ///< no note when the hook cannot be loaded into the program
  std::string report;    ///< SHORTFUSE_REPORT
};
/// Replaces this process by the command; returns only when that fails (126, 127, or 1).
int run_command(const Context &context, const RunArguments &arguments);

struct TraceArguments {
  std::vector<std::string> policies;   ///< chains, in order
  std::vector<std::string> settings;   ///< NAME=VALUE
  std::string output;                  ///< a file; "": standard error
  double duration_seconds = 0;         ///< > 0: no program runs after so long
  bool json = false, list_calls = false;
  std::vector<std::string> command;
};
/// Runs the command with programs around its system calls. The command's exit status, or its death by the same signal.
int trace_command(const Context &context, const TraceArguments &arguments);
/// What programs can be attached to.
int trace_calls_command();

struct MountArguments {
  std::vector<std::string> options;   ///< of every -o, as given
  std::vector<std::string> command;   ///< the daemon and its arguments
};
/// Runs the daemon with the bridge. The daemon's exit status; 1 when it has mounted without being accelerated.
int mount_command(const Context &context, const MountArguments &arguments);

int swap_command(const Context &context, const std::string &point, const std::string &chain);

struct StatusArguments {
  std::string point;        ///< "" lists all mounts
  bool json = false;
  double watch_seconds = 0; ///< > 0: again and again
};
int status_command(const Context &context, const StatusArguments &arguments);

struct MapArguments {
  std::string action;       ///< list, dump, lookup, update or delete
  std::string point, name, key, value;
  bool json = false, follow = false, if_absent = false, if_present = false;
};
/// The maps of a mount's policy.
int map_command(const Context &context, const MapArguments &arguments);

/// Each element is a file, or a chain "A:B".
int policy_check_command(const Context &context, const std::vector<std::string> &chains, bool json);

/// The instructions of a chain's programs, or only of those in `section` ("" for all).
int policy_disasm_command(const Context &context, const std::string &chain, const std::string &section);

struct PolicyRunArguments {
  std::string chain, section;        ///< section: "" where there is only one
  std::vector<std::string> fields;   ///< of the context, "node=7"
  uint64_t runs = 1;
  bool interp = false, jit = false, json = false, miss = false;
  std::string path = "?";            ///< what sf_path() says; "?": not known
  std::string argument_hex, reply_hex;
};
/// One operation through a policy's programs, without a mount.
int policy_run_command(const Context &context, const PolicyRunArguments &arguments);

/// A policy's programs as the compiler sees them.
int policy_dump_ir_command(const Context &context, const std::string &chain, const std::string &section,
                           vm::CompilerStage stage);

/// Writes a chain and its machine code to the file `output`.
int policy_aot_command(const Context &context, const std::string &chain, const std::string &output);

/// Writes a policy project into a new directory NAME.
int policy_init_command(const Context &context, const std::string &name, const std::string &kind);

int doctor_command(const Context &context, bool json);

/// What `-o` options of `shortfuse mount` come to.
struct SplitOptions {
  std::string chain;                  ///< of bpftime=, "" when absent
  std::vector<std::string> bridge;    ///< the other bpftime options, "bpftime_mem=64M"
  std::vector<std::string> daemon;    ///< everything else
};
SplitOptions split_options(const std::vector<std::string> &options);

/// "shortfuse COMMAND: text" on standard error.
void complain(const char *command, const std::string &text);

}  // namespace shortfuse::cli
