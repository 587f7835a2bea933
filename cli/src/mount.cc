// `shortfuse mount`: an unmodified daemon, with the bridge preloaded and its options in the environment.
//
// Everything that can be known before is checked before, so that a mistake mounts nothing. Then the mount and the
// daemon's control socket are waited for, whether the daemon stays in the foreground or goes to the background.
#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <optional>
#include <thread>

#include "commands.h"
#include "control.h"
#include "files.h"
#include "mounts.h"
#include "shortfuse/vm/vm.h"

namespace shortfuse::cli {

namespace {

constexpr std::chrono::seconds kAppearLimit{10};  ///< from "it is mounted" to "its control socket answers"
constexpr std::chrono::milliseconds kStep{20};

pid_t running_daemon = 0;  ///< for the signal handler

/// A terminal's Ctrl-C has reached the daemon already: only what another process sent is passed on.
void forward_signal(int number, siginfo_t *info, void *) {
  if (running_daemon > 0 && info->si_code != SI_KERNEL) kill(running_daemon, number);
}

/// Why the bridge could not get into this program, or nothing.
std::optional<std::string> out_of_reach(const Program &program) {
  if (program.is_static) return program.path + " is statically linked: nothing can be preloaded into it";
  if (program.is_privileged) {
    return program.path + " is set-user-ID or has capabilities: nothing can be preloaded into it; "
           "start a copy of it without them";
  }
  const auto needs = [&](std::string_view name) {
    return std::any_of(program.needed.begin(), program.needed.end(),
                       [&](const std::string &n) { return n.starts_with(name); });
  };
  if (needs("libfuse.so.2")) return program.path + " uses libfuse 2; shortfuse needs a daemon that uses libfuse 3";
  return std::nullopt;
}

std::string join(const std::vector<std::string> &words, char separator) {
  std::string out;
  for (const auto &word : words) {
    if (!out.empty()) out.push_back(separator);
    out += word;
  }
  return out;
}

/// The environment of the daemon, set in this process, which only execs afterwards.
std::expected<void, std::string> set_environment(const Context &context, const std::vector<std::string> &chain,
                                                 const std::vector<std::string> &more) {
  auto library = find_library(context.executable_directory, "libshortfuse-bridge.so");
  if (!library) return std::unexpected(library.error());
  auto preload = preload_value(*library, getenv("LD_PRELOAD"));
  if (!preload) return std::unexpected(preload.error());
  std::string options = "bpftime=" + join(chain, ':');
  for (const auto &option : more) options += "," + option;
  set_preload(*preload);
  setenv("SHORTFUSE_BRIDGE", options.c_str(), 1);
  setenv("SHORTFUSE_DAEMON", "1", 1);
  return {};
}

/// The daemon's arguments that are directories now: one of them will be the mount point.
std::vector<std::string> possible_mount_points(const std::vector<std::string> &command) {
  std::vector<std::string> points;
  for (size_t i = 1; i < command.size(); i++) {
    std::error_code failed;
    if (command[i].starts_with('-') || !std::filesystem::is_directory(command[i], failed)) continue;
    points.push_back(canonical(command[i]));
  }
  return points;
}

/// A daemon from its start to its end, and what becomes of its mount meanwhile.
class Launch {
 public:
  Launch(const Context &context, const std::vector<std::string> &command)
      : context_(context), command_(command), points_(possible_mount_points(command)), before_(mount_table()) {}

  /// The exit status of the whole command.
  int run() {
    if (!start()) return 1;
    while (!ended(/*wait=*/settled_)) {
      look();
      if (!settled_) std::this_thread::sleep_for(kStep);
    }
    if (status_ != 0) return status_;
    // In the background now, or unmounted and done, or it never was a daemon.
    look();
    if (!mounted_) return nothing_mounted();
    while (!settled_ && still_mounted()) {
      look();
      std::this_thread::sleep_for(kStep);
    }
    return refused_ ? 1 : 0;
  }

 private:
  bool start() {
    std::vector<char *> argv;
    for (const auto &word : command_) argv.push_back(const_cast<char *>(word.c_str()));
    argv.push_back(nullptr);
    running_daemon = fork();
    if (running_daemon < 0) {
      complain("mount", fmt::format("fork: {}", strerror(errno)));
      return false;
    }
    if (running_daemon == 0) {
      execvp(argv[0], argv.data());
      const int status = errno == ENOENT ? 127 : 126;
      complain("mount", fmt::format("{}: {}", command_[0], strerror(errno)));
      _exit(status);
    }
    struct sigaction action{};
    action.sa_sigaction = forward_signal;
    action.sa_flags = SA_RESTART | SA_SIGINFO;
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaction(number, &action, nullptr);
    return true;
  }

  bool ended(bool wait) {
    int status = 0;
    pid_t got;
    do got = waitpid(running_daemon, &status, wait ? 0 : WNOHANG);
    while (got < 0 && errno == EINTR);
    if (got == 0) return false;
    running_daemon = 0;
    status_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    return true;
  }

  /// Has the mount appeared, and has the bridge in its daemon? Settled once there is nothing more to wait for.
  void look() {
    if (settled_) return;
    if (!mounted_) {
      mounted_ = new_mount();
      if (mounted_) limit_ = std::chrono::steady_clock::now() + kAppearLimit;
    }
    if (!mounted_) return;
    for (const auto &mount : live_mounts(context_.registry)) {
      if (mount.status.mount.point == mounted_->point) settled_ = true;
    }
    if (!settled_ && std::chrono::steady_clock::now() > limit_) {
      settled_ = refused_ = true;
      complain("mount", fmt::format("{} is mounted, but not accelerated: its daemon ({}) does not use libfuse3 as a "
                                    "shared library, or did not load libshortfuse-bridge.so. To undo the mount: "
                                    "fusermount3 -u {}", mounted_->point, command_[0], mounted_->point));
    }
  }

  static long count(const std::vector<MountEntry> &table, const std::string &point) {
    return std::count_if(table.begin(), table.end(), [&](const MountEntry &e) { return e.point == point; });
  }

  std::optional<MountEntry> new_mount() const {
    const auto table = mount_table();
    for (const auto &point : points_) {
      const auto entry = mounted_at(table, point);
      if (entry && entry->is_fuse() && count(table, point) > count(before_, point)) return entry;
    }
    return std::nullopt;
  }

  bool still_mounted() const { return mounted_at(mount_table(), mounted_->point).has_value(); }

  /// --help and the like name no directory, and are no failure.
  int nothing_mounted() const {
    if (points_.empty()) return 0;
    complain("mount", command_[0] + " ended without an error, but has mounted nothing");
    return 1;
  }

  const Context &context_;
  const std::vector<std::string> &command_;
  const std::vector<std::string> points_;
  const std::vector<MountEntry> before_;
  int status_ = 0;
  std::optional<MountEntry> mounted_;
  std::chrono::steady_clock::time_point limit_;
  bool settled_ = false;
  bool refused_ = false;
};

}  // namespace

SplitOptions split_options(const std::vector<std::string> &options) {
  SplitOptions split;
  const auto sort_in = [&](const std::string &word) {
    if (word.starts_with("bpftime=")) {
      if (!split.chain.empty()) split.chain += ":";
      split.chain += word.substr(strlen("bpftime="));
    } else if (word.starts_with("bpftime")) {
      split.bridge.push_back(word);
    } else if (!word.empty()) {
      split.daemon.push_back(word);
    }
  };
  for (const auto &list : options) {
    std::string word;
    for (size_t i = 0; i < list.size(); i++) {
      // A backslash protects the character behind it and stays, for the daemon's own parser.
      if (list[i] == '\\' && i + 1 < list.size()) {
        word += list[i++];
        word += list[i];
      } else if (list[i] == ',') {
        sort_in(word);
        word.clear();
      } else {
        word += list[i];
      }
    }
    sort_in(word);
  }
  return split;
}

int mount_command(const Context &context, const MountArguments &arguments) {
  const auto refuse = [](const std::string &text, int status = 1) {
    complain("mount", text);
    return status;
  };
  // 1. The policy: there, and acceptable.
  const SplitOptions options = split_options(arguments.options);
  if (options.chain.empty()) return refuse("-o bpftime=POLICY.bpf.o is missing", 2);
  const auto chain = find_chain(context.executable_directory, options.chain);
  if (!chain) return refuse(chain.error());
  if (const auto policy = vm::load_policy(*chain); !policy) return refuse(policy.error().text);

  // 2. The daemon: there, and open to the bridge.
  const auto program = inspect_program(arguments.command[0]);
  if (!program) return refuse(program.error().text, program.error().status);
  if (const auto why = out_of_reach(*program)) return refuse(*why);

  // 3. Run it.
  std::vector<std::string> command = arguments.command;
  if (!options.daemon.empty()) {
    command.push_back("-o");
    command.push_back(join(options.daemon, ','));
  }
  if (auto set = set_environment(context, *chain, options.bridge); !set) return refuse(set.error());
  return Launch(context, command).run();
}

}  // namespace shortfuse::cli
