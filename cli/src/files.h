// Where things lie: our own libraries and policies (in the build tree or installed), and what kind of program a user
// wants to have run.
#pragma once
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace shortfuse::cli {

/// The directory of this executable; "" when /proc is not there.
std::string own_directory();

/// A library of ours by file name: in ../lib beside `executable_directory` (build tree, or installed), else where it
/// was to be installed.
std::expected<std::string, std::string> find_library(const std::string &executable_directory, const std::string &name);

/// Where <shortfuse/policy.h> is found, likewise.
std::expected<std::string, std::string> find_include_directory(const std::string &executable_directory);

/// One policy as a user names it: a path, or the bare name of one that came with shortfuse ("metacache.bpf.o" or
/// "metacache"). Absolute; the file is there.
std::expected<std::string, std::string> find_policy(const std::string &executable_directory, const std::string &name);
/// "A.o:B.o" likewise.
std::expected<std::vector<std::string>, std::string> find_chain(const std::string &executable_directory,
                                                                std::string_view chain);

/// `libraries` followed by what LD_PRELOAD held, ours never twice. An error when ld.so could not take the path apart.
std::expected<std::string, std::string> preload_value(const std::string &library, const char *before);
/// The environment of a program that is to be executed: LD_PRELOAD, and that AddressSanitizer's runtime accepts it,
/// which wants to be the first library otherwise, unless ASAN_OPTIONS says already whether.
void set_preload(const std::string &value);

struct Program {
  std::string path;      ///< absolute, or as found in PATH
  std::string elf;       ///< what ld.so will see: the program, or the interpreter of a script; "" if not ELF
  bool is_static = false;
  bool is_privileged = false;  ///< set-user-ID, set-group-ID or file capabilities: ld.so ignores LD_PRELOAD
  std::vector<std::string> needed;  ///< DT_NEEDED of `elf`
};

/// Looks `name` up as execvp(3) does. The error carries the shell's exit status: 127 not found, 126 not executable.
struct NoProgram {
  int status;
  std::string text;
};
std::expected<Program, NoProgram> inspect_program(const std::string &name);

}  // namespace shortfuse::cli
