// `shortfuse map`: the maps of a mount's policy, by its control socket.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "commands.h"
#include "control.h"
#include "map_text.h"

namespace shortfuse::cli {
namespace {

using nlohmann::json;
using Answer = std::expected<json, std::string>;

constexpr std::chrono::seconds kAskLimit{20};
constexpr std::chrono::milliseconds kFollowPause{100};

struct MapInfo {
  json all;
  std::string name, kind;
  MapField key, value;
  uint64_t max_entries = 0;
  bool per_process = false;
  bool is(const char *what) const { return kind == what; }
};

MapInfo info_of(const json &map) {
  MapInfo info{.all = map, .name = map.value("name", ""), .kind = map.value("kind", "")};
  info.key = {map.value("key_size", size_t{0}), map.value("key_type", json()), info.is("LPM_TRIE")};
  info.value = {map.value("value_size", size_t{0}), map.value("value_type", json()), false};
  info.max_entries = map.value("max_entries", uint64_t{0});
  info.per_process = map.value("per_process", false);
  return info;
}

/// A ring's records have the size that their type says, if they have one.
MapField record_field(const MapInfo &map, const std::string &bytes) { return {bytes.size(), map.value.type, false}; }

class Asker {
 public:
  explicit Asker(std::string socket) : socket_(std::move(socket)) {}
  Answer ask(const json &request) const {
    auto text = cli::ask(socket_, SF_MSG_MAPS, request.dump(-1, ' ', false, json::error_handler_t::replace), kAskLimit);
    if (!text) return std::unexpected(text.error().empty() ? "the daemon has gone" : text.error());
    json answer = json::parse(*text, nullptr, false);
    if (!answer.is_object()) return std::unexpected("the daemon's answer is malformed");
    return answer;
  }
  std::expected<std::vector<MapInfo>, std::string> maps() const {
    auto answer = ask({{"op", "list"}});
    if (!answer) return std::unexpected(answer.error());
    std::vector<MapInfo> out;
    for (const json &map : answer->value("maps", json::array())) out.push_back(info_of(map));
    return out;
  }

 private:
  std::string socket_;
};

std::string bytes_field(const json &entry, const char *name) {
  const auto at = entry.find(name);
  if (at == entry.end() || !at->is_string()) return "";
  return from_hex(at->get<std::string>()).value_or("");
}

nlohmann::ordered_json entry_json(const MapInfo &map, const json &entry) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  if (map.key.bytes != 0) out["key"] = as_json(map.key, bytes_field(entry, "key"));
  if (map.is("BLOOM_FILTER")) return {{"value", as_json(map.value, bytes_field(entry, "key"))}, {"may_be_there", true}};
  if (entry.contains("value")) out["value"] = as_json(map.value, bytes_field(entry, "value"));
  if (!entry.contains("values")) return out;
  out["values"] = nlohmann::ordered_json::array();
  for (const json &one : entry["values"]) {
    out["values"].push_back({{"pid", one.value("pid", 0)}, {"cpu", one.value("cpu", 0)},
                             {"value", as_json(map.value, bytes_field(one, "value"))}});
  }
  return out;
}

std::string entry_text(const MapInfo &map, const json &entry) {
  if (map.is("BLOOM_FILTER")) return shown(map.value, bytes_field(entry, "key")) + "  may be there";
  std::string line = map.key.bytes != 0 ? shown(map.key, bytes_field(entry, "key")) + "  " : "";
  if (entry.contains("value")) line += shown(map.value, bytes_field(entry, "value"));
  if (!entry.contains("values")) return line;
  // The sum is what is asked for; whose it is, process by process, stands behind it.
  std::string parts;
  for (const json &one : entry["values"]) {
    const int pid = one.value("pid", 0);
    parts += (parts.empty() ? "" : ", ") + (pid == 0 ? "gone" : fmt::format("{}/{}", pid, one.value("cpu", 0))) + ": " +
             shown(map.value, bytes_field(one, "value"));
  }
  return line + (parts.empty() ? "" : "  (" + parts + ")");
}

void print_entry(const MapInfo &map, const json &entry, bool as_json) {
  fmt::print("{}\n", as_json ? entry_json(map, entry).dump() : entry_text(map, entry));
}

int list(const Asker &daemon, const MapArguments &a) {
  const auto maps = daemon.maps();
  if (!maps) return complain("map list", maps.error()), 1;
  if (a.json) {
    json out = json::array();
    for (const MapInfo &map : *maps) out.push_back(map.all);
    fmt::print("{}\n", out.dump());
    return 0;
  }
  size_t width = 4;
  for (const MapInfo &map : *maps) width = std::max(width, map.name.size());
  fmt::print("{:<{}}  {:<12}  {:>5}  {:>6}  {:>10}  {:>10}  {:>9}\n", "name", width, "kind", "key", "value", "entries",
             "at most", "bytes");
  for (const MapInfo &map : *maps) {
    const bool counted = map.all.contains("entries");
    const std::string entries = counted ? fmt::format("{}", map.all["entries"].get<uint64_t>()) : "-";
    std::string notes;
    if (map.per_process) notes += "  per process";
    if (map.all.value("frozen", false)) notes += "  frozen";
    if (map.all.value("pinned", false)) notes += "  pinned";
    fmt::print("{:<{}}  {:<12}  {:>5}  {:>6}  {:>10}  {:>10}  {:>9}{}\n", map.name, width, map.kind, map.key.bytes,
               map.value.bytes, entries, map.max_entries, map.all.value("bytes", uint64_t{0}), notes);
  }
  return 0;
}

/// Records as they come; without `follow` those that are there.
int events(const Asker &daemon, const MapInfo &map, const MapArguments &a) {
  uint64_t next = 0, lost = 0;
  for (bool first = true;; first = false) {
    const auto answer = daemon.ask({{"op", "events"}, {"map", map.name}, {"after", next}});
    if (!answer) return complain("map dump", answer.error()), 1;
    for (const json &record : (*answer)["records"]) {
      const std::string bytes = bytes_field(record, "value");
      const MapField field = record_field(map, bytes);
      if (a.json) {
        nlohmann::ordered_json line{{"pid", record.value("pid", 0)}, {"number", record.value("number", uint64_t{0})},
                  {"record", as_json(field, bytes)}};
        fmt::print("{}\n", line.dump());
      } else {
        fmt::print("{:>8}  {}\n", record.value("pid", 0), shown(field, bytes));
      }
    }
    const uint64_t now_lost = answer->value("lost", uint64_t{0}), skipped = answer->value("skipped", uint64_t{0});
    if (now_lost > lost) complain("map dump", fmt::format("{} records were lost", now_lost - lost));
    if (!first && skipped != 0) complain("map dump", fmt::format("{} records were overtaken", skipped));
    lost = now_lost;
    next = answer->value("next", next);
    if (fflush(stdout) != 0) return 1;
    if (!(*answer)["records"].empty()) continue;
    if (!a.follow) return 0;
    std::this_thread::sleep_for(kFollowPause);
  }
}

int dump(const Asker &daemon, const MapInfo &map, const MapArguments &a) {
  if (map.is("RINGBUF")) return events(daemon, map, a);
  if (a.follow) return complain("map dump", "--follow is for a RINGBUF; " + map.name + " is of kind " + map.kind), 1;
  json request{{"op", "dump"}, {"map", map.name}};
  // A map that changes meanwhile may begin again; it ends all the same.
  for (uint64_t entries = 0; entries <= 2 * map.max_entries;) {
    const auto answer = daemon.ask(request);
    if (!answer) return complain("map dump", answer.error()), 1;
    const json page = answer->value("entries", json::array());
    for (const json &entry : page) print_entry(map, entry, a.json);
    if (page.empty() || !answer->value("more", false)) return 0;
    entries += page.size();
    request["after"] = page.back().value("key", "");
  }
  return 0;
}

/// The request with KEY and VALUE in it, or why not. A queue's only operand is a value.
std::expected<json, std::string> with_operands(const MapInfo &map, const MapArguments &a) {
  json request{{"op", a.action}, {"map", map.name}, {"flags", a.if_absent ? 1 : a.if_present ? 2 : 0}};
  const bool bloom_lookup = map.is("BLOOM_FILTER") && a.action == "lookup";
  std::string key = a.key, value = a.value;
  if (map.key.bytes == 0 && a.action == "update") std::swap(key, value);
  const MapField &key_field = bloom_lookup ? map.value : map.key;
  if (key_field.bytes != 0) {
    if (key.empty()) return std::unexpected("which key of " + map.name + "? shortfuse map --help has examples");
    auto bytes = parsed(key_field, key);
    if (!bytes) return std::unexpected("the key: " + bytes.error());
    request["key"] = to_hex(*bytes);
  } else if (!key.empty()) {
    return std::unexpected("map " + map.name + " is a " + map.kind + ", which has no keys");
  }
  if (a.action != "update") return request;
  if (value.empty()) return std::unexpected("which value for " + map.name + "?");
  auto bytes = parsed(map.value, value);
  if (!bytes) return std::unexpected("the value: " + bytes.error());
  request["value"] = to_hex(*bytes);
  return request;
}

int one_element(const Asker &daemon, const MapInfo &map, const MapArguments &a) {
  const std::string command = "map " + a.action;
  const auto request = with_operands(map, a);
  if (!request) return complain(command.c_str(), request.error()), 1;
  const auto answer = daemon.ask(*request);
  if (!answer) return complain(command.c_str(), answer.error()), 1;
  if (a.action == "lookup") print_entry(map, (*answer)["entry"], a.json);
  return 0;
}

}  // namespace

int map_command(const Context &context, const MapArguments &a) {
  const std::string command = "map " + a.action;
  const auto mount = find_mount(context.registry, a.point);
  if (!mount) return complain(command.c_str(), mount.error()), 1;
  const Asker daemon(mount->socket);
  if (a.action == "list") return list(daemon, a);
  const auto maps = daemon.maps();
  if (!maps) return complain(command.c_str(), maps.error()), 1;
  std::string known;
  for (const MapInfo &map : *maps) {
    if (map.name == a.name) return a.action == "dump" ? dump(daemon, map, a) : one_element(daemon, map, a);
    known += (known.empty() ? "" : ", ") + map.name;
  }
  complain(command.c_str(), "the policy has no map \"" + a.name + "\"; " +
                                (known.empty() ? std::string("it has none at all") : "it has: " + known));
  return 1;
}

}  // namespace shortfuse::cli
