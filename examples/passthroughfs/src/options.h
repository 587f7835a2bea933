/* What the command line says. */
#pragma once
#include <fuse_lowlevel.h>

#include <expected>
#include <memory>
#include <string>

namespace shortfuse::passthrough {

enum class CacheMode { kNone, kAuto, kAlways };

/// What the file system itself needs to know.
struct Settings {
  double attr_timeout_s = 1.0;
  double entry_timeout_s = 1.0;
  double negative_timeout_s = 1.0;
  CacheMode cache = CacheMode::kAuto;
  bool writeback = false;
  bool xattr = true;
  bool acl = true;
  bool default_permissions = true;
  bool follow_mounts = true;   ///< false: -o xdev
  bool locks_in_source = true; ///< false: the kernel keeps the locks of this mount by itself
};

/// Everything, taken from argv. `args` is left with what libfuse's fuse_session_new() understands or refuses.
struct Invocation {
  Settings settings;
  std::string source;      ///< an absolute path
  std::string mountpoint;
  fuse_cmdline_opts cmdline{};
  std::unique_ptr<fuse_conn_info_opts, decltype(&free)> conn{nullptr, &free};
  fuse_args args{};

  Invocation() = default;
  Invocation(const Invocation&) = delete;
  ~Invocation();
};

/// Reads the command line. The error is one line for the user, without the program's name.
/// With --help or --version nothing else is looked at: see cmdline.show_help, cmdline.show_version.
std::expected<std::unique_ptr<Invocation>, std::string> parse_command_line(int argc, char** argv);

/// A number of seconds: decimal, not negative, not beyond ten years.
std::expected<double, std::string> parse_seconds(const std::string& option, const std::string& text);

/// The whole of --help, on standard output.
void print_help(const char* program);

}  // namespace shortfuse::passthrough
