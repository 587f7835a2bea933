// `shortfuse status` and `shortfuse swap`: questions to a daemon over its control socket.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "commands.h"
#include "control.h"
#include "files.h"

namespace shortfuse::cli {

namespace {

/// Verifying and compiling a large chain takes a while, more so on a loaded machine.
constexpr std::chrono::seconds kSwapLimit{120};

uint64_t total(const metrics::Snapshot &s, sf_outcome outcome) {
  uint64_t sum = 0;
  for (const auto &op : s.op) sum = metrics::saturating_add(sum, op.outcome[outcome]);
  return sum;
}

std::string chain_text(const std::vector<std::string> &paths) {
  std::string out;
  for (const auto &path : paths) out += (out.empty() ? "" : ":") + path;
  return out;
}

void print_list(const std::vector<LiveMount> &mounts) {
  if (mounts.empty()) {
    fmt::print("no accelerated mounts\n");
    return;
  }
  size_t width = 5;
  for (const auto &mount : mounts) width = std::max(width, mount.status.mount.point.size());
  fmt::print("{:<{}}  {:>8}  {:>9}  {:>12}  {:>10}  {}\n", "mount", width, "daemon", "processes", "served", "missed",
             "policy");
  for (const auto &mount : mounts) {
    const auto &s = mount.status;
    fmt::print("{:<{}}  {:>8}  {:>9}  {:>12}  {:>10}  {}\n", s.mount.point, width, s.mount.daemon_pid,
               s.clients.size(), total(s, SF_OUT_SERVED), total(s, SF_OUT_MISSED), chain_text(s.policy.paths));
  }
}

int show_once(const Context &context, const StatusArguments &arguments) {
  if (!arguments.point.empty()) {
    const auto mount = find_mount(context.registry, arguments.point);
    if (!mount) {
      complain("status", mount.error());
      return 1;
    }
    fmt::print("{}{}", arguments.json ? mount->json : metrics::to_table(mount->status), arguments.json ? "\n" : "");
    return 0;
  }
  std::vector<std::string> complaints;
  const auto mounts = live_mounts(context.registry, &complaints);
  for (const auto &text : complaints) complain("status", text);
  if (!arguments.json) {
    print_list(mounts);
    return 0;
  }
  std::string list;
  for (const auto &mount : mounts) list += (list.empty() ? "" : ",") + mount.json;
  fmt::print("[{}]\n", list);
  return 0;
}

std::set<std::string> program_lines(const metrics::Snapshot &s) {
  std::set<std::string> lines;
  for (const auto &program : s.policy.programs) {
    lines.insert(fmt::format("{:<24} {:<24} {:>5} instructions", program.section, program.name, program.insns));
  }
  return lines;
}

/// Only the programs that came or went: most policies share most of theirs.
void print_change(const metrics::Snapshot &before, const metrics::Snapshot &after) {
  fmt::print("{}: {} -> {}\n", after.mount.point, chain_text(before.policy.paths), chain_text(after.policy.paths));
  fmt::print("  epoch {} -> {}, {} programs, {}\n", before.policy.epoch, after.policy.epoch,
             after.policy.programs.size(),
             after.policy.native ? "machine code" : "interpreted: " + after.policy.why_interpreted);
  const auto lines = program_lines(after), old_lines = program_lines(before);
  for (const auto &line : lines) {
    if (!old_lines.contains(line)) fmt::print("  + {}\n", line);
  }
  for (const auto &line : old_lines) {
    if (!lines.contains(line)) fmt::print("  - {}\n", line);
  }
}

}  // namespace

int status_command(const Context &context, const StatusArguments &arguments) {
  if (arguments.watch_seconds <= 0) return show_once(context, arguments);
  while (true) {
    if (!arguments.json && isatty(STDOUT_FILENO)) fmt::print("\033[H\033[2J");
    const int status = show_once(context, arguments);
    if (fflush(stdout) != 0 || status != 0) return status;
    std::this_thread::sleep_for(std::chrono::duration<double>(arguments.watch_seconds));
  }
}

int swap_command(const Context &context, const std::string &point, const std::string &chain) {
  const auto paths = find_chain(context.executable_directory, chain);
  if (!paths) {
    complain("swap", paths.error());
    return 1;
  }
  const auto before = find_mount(context.registry, point);
  if (!before) {
    complain("swap", before.error());
    return 1;
  }
  const nlohmann::json request = {{"policy", chain_text(*paths)}};
  // Paths are bytes, JSON is text: what is not UTF-8 cannot be asked for.
  const std::string body = request.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (const auto answer = ask(before->socket, SF_MSG_SWAP, body, kSwapLimit); !answer) {
    complain("swap", (answer.error().empty() ? "the daemon has gone" : answer.error()) +
                         "\n  the policy stays: " + chain_text(before->status.policy.paths));
    return 1;
  }
  const auto after = find_mount(context.registry, point);
  if (!after) {
    complain("swap", "swapped, but: " + after.error());
    return 1;
  }
  print_change(before->status, after->status);
  return 0;
}

}  // namespace shortfuse::cli
