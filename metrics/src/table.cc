/* The snapshot for people: what the mount is, what applications had served here, what reached the daemon, what the
 * cache holds. Rows without a single call are left out; --json has everything. */
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "shortfuse/metrics/snapshot.h"

namespace shortfuse::metrics {

namespace {

using Out = std::back_insert_iterator<std::string>;

std::string clean(const std::string &text) {
  std::string out = text;
  // Names may be any bytes; those that a terminal would act on are not passed to it.
  std::replace_if(out.begin(), out.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return out;
}

std::string join(const std::vector<std::string> &words, std::string_view separator) {
  std::string out;
  for (const auto &word : words) {
    if (!out.empty()) out += separator;
    out += clean(word);
  }
  return out;
}

std::string duration(uint64_t ns) {
  if (ns < 10'000) return fmt::format("{} ns", ns);
  if (ns < 10'000'000) return fmt::format("{:.1f} us", static_cast<double>(ns) / 1e3);
  if (ns < 10'000'000'000) return fmt::format("{:.1f} ms", static_cast<double>(ns) / 1e6);
  const uint64_t s = ns / 1'000'000'000;
  if (s < 120) return fmt::format("{} s", s);
  if (s < 2 * 3600) return fmt::format("{} min", s / 60);
  if (s < 48 * 3600) return fmt::format("{} h {} min", s / 3600, s / 60 % 60);
  return fmt::format("{} days", s / 86400);
}

std::string size(uint64_t bytes) {
  if (bytes < 10'000) return fmt::format("{} B", bytes);
  if (bytes < 1'048'576) return fmt::format("{:.1f} KiB", static_cast<double>(bytes) / 1024);
  if (bytes < 10'737'418'240) return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / 1048576);
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / 1073741824);
}

std::string latency(const Latency &l) {
  return l.count == 0 ? "-" : duration(l.p50_ns) + " / " + duration(l.p99_ns);
}

void put_mount(Out out, const Snapshot &s) {
  fmt::format_to(out, "{}\n", clean(s.mount.point));
  const std::string opener = s.mount.opener_pid != 0 ? fmt::format(" (opener {})", s.mount.opener_pid) : "";
  fmt::format_to(out, "  file system  {} on {}, daemon {}{}, up {}{}{}\n", clean(s.mount.fstype),
                 clean(s.mount.source), s.mount.daemon_pid, opener, duration(s.mount.uptime_ns),
                 s.mount.flags.empty() ? "" : ", ", join(s.mount.flags, ","));
  fmt::format_to(out, "  policy       {} (epoch {}, {} swaps)\n", join(s.policy.paths, " : "), s.policy.epoch,
                 s.policy.swaps);
  fmt::format_to(out, "  programs     {}, {}\n", s.policy.programs.size(),
                 s.policy.native ? "machine code" : "interpreted: " + clean(s.policy.why_interpreted));
}

/// "dentry 3, expired 1": why calls were missed, the most frequent first.
std::string reasons(const Snapshot::Op &op) {
  std::vector<std::pair<uint64_t, unsigned>> found;
  for (unsigned i = SF_MISS_NONE + 1; i < SF_MISS_COUNT; i++) {
    if (op.miss[i] != 0) found.emplace_back(op.miss[i], i);
  }
  std::stable_sort(found.begin(), found.end(), [](const auto &a, const auto &b) { return a.first > b.first; });
  std::string out;
  for (const auto &[count, reason] : found) {
    fmt::format_to(std::back_inserter(out), "{}{} {}", out.empty() ? "" : ", ", sf_miss_name(reason), count);
  }
  return out;
}

void put_ops(Out out, const Snapshot &s) {
  fmt::format_to(out, "\n  {:<10} {:>12} {:>9} {:>10} {:>10}  {:>17}  {:>20}  {}\n", "call", "served", "denied",
                 "missed", "passed", "served p50/p99", "kernel p50/p99", "missed because");
  bool any = false;
  for (unsigned o = 0; o < SF_OP_COUNT; o++) {
    const Snapshot::Op &op = s.op[o];
    if (std::all_of(op.outcome.begin(), op.outcome.end(), [](uint64_t n) { return n == 0; })) continue;
    any = true;
    fmt::format_to(out, "  {:<10} {:>12} {:>9} {:>10} {:>10}  {:>17}  {:>20}  {}\n", sf_op_name(o),
                   op.outcome[SF_OUT_SERVED], op.outcome[SF_OUT_DENIED], op.outcome[SF_OUT_MISSED],
                   op.outcome[SF_OUT_PASSED], latency(op.served), latency(op.other), reasons(op));
  }
  if (!any) fmt::format_to(out, "  no calls of applications with the hook yet\n");
  fmt::format_to(out, "  bytes served {}\n", size(s.bytes_served));
}

void put_fuse(Out out, const Snapshot &s) {
  fmt::format_to(out, "\n  {:<16} {:>10} {:>10} {:>9} {:>10} {:>9}  {:>20}\n", "FUSE request", "seen", "served",
                 "denied", "passed", "errors", "p50/p99");
  bool any = false;
  for (const auto &op : s.fuse) {
    if (op.seen == 0) continue;
    any = true;
    fmt::format_to(out, "  {:<16} {:>10} {:>10} {:>9} {:>10} {:>9}  {:>20}\n", clean(op.name), op.seen, op.served,
                   op.denied, op.passed, op.errors, latency(op.latency));
  }
  if (!any) fmt::format_to(out, "  none yet\n");
}

void put_cache(Out out, const Snapshot &s) {
  const Snapshot::Cache &c = s.cache;
  fmt::format_to(out, "\n  cache        {} of {} used, {} nodes, {} evictions, {} mutations, {} fills refused\n",
                 size(c.used_bytes), size(c.budget_bytes), c.nodes, c.evictions, c.mutations, c.refused_fills);
  for (const auto &kind : c.kinds) {
    if (kind.records == 0 && kind.fills == 0) continue;
    fmt::format_to(out, "    {:<10} {:>10} records {:>12} {:>12} fills\n", clean(kind.name), kind.records,
                   size(kind.bytes), kind.fills);
  }
}

void put_clients(Out out, const Snapshot &s) {
  fmt::format_to(out, "\n  processes    {} attached, {} gone\n", s.clients.size(), s.clients_gone);
  for (const auto &client : s.clients) {
    fmt::format_to(out, "    {:>8} {:<16} {:>12} served {:>10} missed {:>10} passed\n", client.pid, clean(client.comm),
                   client.served, client.missed, client.passed);
  }
}

}  // namespace

std::string to_table(const Snapshot &s) {
  std::string text;
  const Out out = std::back_inserter(text);
  put_mount(out, s);
  put_ops(out, s);
  put_fuse(out, s);
  put_cache(out, s);
  put_clients(out, s);
  return text;
}

}  // namespace shortfuse::metrics
