// What people ask about a policy's maps (`shortfuse map`): SF_MSG_MAPS, answered on the service thread.
//
//   {"op": "list"}                                        -> {"maps": [{name, kind, ...}]}
//   {"op": "dump", "map": M, "after": KEY, "most": N}     -> {"entries": [ENTRY], "more": whether there are others}
//   {"op": "lookup" | "delete", "map": M, "key": KEY}     -> {"entry": ENTRY} | {}
//   {"op": "update", "map": M, "key": KEY, "value": VALUE, "flags": 0 | 1 | 2}
//   {"op": "events", "map": M, "after": NUMBER, "most": N} -> {"records": [...], "next": NUMBER, "lost": N}
//
// Keys and values are bytes in hexadecimal. An ENTRY has "key" and "value"; of a per-CPU map "value" is the sum over
// all processes, and "values" has those of each process (pid 0: of those that have gone). Errors are one line.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "control.h"

namespace shortfuse::bridge {
namespace {

using nlohmann::json;
using Answer = std::expected<json, std::string>;

constexpr uint32_t kEntriesMax = 4096;      ///< in one answer
constexpr size_t kEntryBytesMax = 8u << 20; ///< of all entries of one answer

std::string hex(std::string_view bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (unsigned char byte : bytes) out += {digits[byte >> 4], digits[byte & 15]};
  return out;
}
std::string hex(const void *bytes, size_t size) { return hex({static_cast<const char *>(bytes), size}); }

std::optional<std::string> unhex(const std::string &text) {
  std::string out;
  auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
  if (text.size() % 2 != 0) return std::nullopt;
  for (size_t i = 0; i < text.size(); i += 2) {
    const int high = digit(text[i]), low = digit(text[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    out += static_cast<char>(high << 4 | low);
  }
  return out;
}

/// Bytes of a field of the request, of exactly this size.
std::expected<std::string, std::string> bytes_of_field(const json &request, const char *field, size_t size) {
  const auto at = request.find(field);
  const auto bytes = at != request.end() && at->is_string() ? unhex(at->get<std::string>()) : std::nullopt;
  if (!bytes) return std::unexpected(std::string("the ") + field + " is missing, or not in hexadecimal");
  if (bytes->size() != size) {
    return std::unexpected(std::string("the ") + field + " has " + std::to_string(bytes->size()) + " bytes, not " +
                           std::to_string(size));
  }
  return *bytes;
}
uint64_t number_of(const json &request, const char *field, uint64_t otherwise) {
  const auto at = request.find(field);
  return at != request.end() && at->is_number_unsigned() ? at->get<uint64_t>() : otherwise;
}

std::string meaning(int error, const std::string &name) {
  switch (-error) {
    case ENOENT: return "map " + name + " has no such key";
    case E2BIG: return "map " + name + " is full, has too many keys in this one's place, or ends before the index";
    case ENOSPC: return "map " + name + " is full";
    case EEXIST: return "map " + name + " has that key already";
    case EBUSY: return "map " + name + " is being written all the time; try again";
    case EOPNOTSUPP: return "map " + name + " is of a kind that does not have this operation";
    case EINVAL: return "map " + name + " does not take this key, or has no such operation";
    default: return "map " + name + ": " + std::strerror(-error);
  }
}

bool is_queue(const sf_map_shape &shape) { return shape.type == SF_MAP_QUEUE || shape.type == SF_MAP_STACK; }
bool per_cpu(const sf_map_shape &shape) { return sf_map_cpu_stride(&shape) != 0; }

/// Why people may not change it; "".
std::string unchangeable(const MapStorage &map) {
  const std::string name = map_name(map.shape);
  if (sf_map_per_process(map.shape.type))
    return "map " + name + " is not changed from outside: each process has its own, and writes it";
  if (map.frozen) return "map " + name + " is frozen: the policy was verified with what is in it";
  if (map.shape.type == SF_MAP_PROG_ARRAY || map.shape.type == SF_MAP_ARRAY_OF_MAPS)
    return "map " + name + " holds programs or maps of the policy, which the policy decides";
  return "";
}

json type_of(const std::string &description) {
  json type = json::parse(description, nullptr, false);
  return type.is_discarded() ? json() : type;
}

json describe(const MapStorage &map) {
  const sf_image_map &def = map.shape;
  json out{{"name", map_name(def)},      {"kind", vm::map_kind_name(def.type)}, {"type", def.type},
           {"object", def.object},       {"key_size", def.key_size},            {"value_size", def.value_size},
           {"max_entries", def.max_entries}, {"bytes", map.memory->size},       {"frozen", map.frozen},
           {"pinned", def.pinning != 0}, {"per_process", sf_map_per_process(def.type) != 0},
           {"key_type", type_of(map.key_type)}, {"value_type", type_of(map.value_type)}};
  if (def.type != SF_MAP_BLOOM_FILTER && !sf_map_per_process(def.type)) out["entries"] = sf_map_count(map.handle());
  if (def.type == SF_MAP_RINGBUF) out["lost"] = map.backlog.lost();
  if (const uint32_t refused = sf_map_refused(map.handle()); refused != 0) out["refused"] = refused;
  return out;
}

/// A map as a reader sees it who leaves no trace.
sf_map looking_at(const MapStorage &map) {
  sf_map handle = *map.handle();
  handle.writable = 0;
  return handle;
}

json entry(const sf_map_shape &shape, const void *key, const void *value) {
  return {{"key", hex(key, shape.key_size)}, {"value", hex(value, shape.value_size)}};
}

int change(MapStorage &map, const std::string &key, const std::string *value, uint64_t flags) {
  sf_map *handle = map.handle();
  if (const int busy = sf_map_lock(handle, thread_number()); busy != 0) return busy;
  int result;
  if (!value) result = sf_map_delete(handle, key.data());
  else if (map.shape.key_size == 0) result = sf_map_push(handle, value->data(), flags);
  else result = sf_map_update(handle, key.data(), value->data(), flags, 0);
  sf_map_unlock(handle);
  return result;
}

Answer update(MapStorage &map, const json &request) {
  if (auto refusal = unchangeable(map); !refusal.empty()) return std::unexpected(refusal);
  const auto key = map.shape.key_size != 0 ? bytes_of_field(request, "key", map.shape.key_size) : "";
  const auto value = bytes_of_field(request, "value", map.shape.value_size);
  if (!key) return std::unexpected(key.error());
  if (!value) return std::unexpected(value.error());
  const int result = change(map, *key, &*value, number_of(request, "flags", 0));
  if (result != 0) return std::unexpected(meaning(result, map_name(map.shape)));
  return json::object();
}

Answer erase(MapStorage &map, const json &request) {
  if (auto refusal = unchangeable(map); !refusal.empty()) return std::unexpected(refusal);
  const auto key = bytes_of_field(request, "key", map.shape.key_size);
  if (!key) return std::unexpected(key.error());
  const int result = change(map, *key, nullptr, 0);
  if (result != 0) return std::unexpected(meaning(result, map_name(map.shape)));
  return json::object();
}

/// One key of a per-CPU map over all processes.
class Gathering {
 public:
  Gathering(const MapStorage &map, std::vector<std::pair<int32_t, const sf_map *>> processes)
      : map_(map), processes_(std::move(processes)) {
    processes_.emplace_back(getpid(), map.handle());
  }

  /// Null: no process has the key.
  json entry(const std::string &key) const {
    json values = json::array();
    std::string sum(shape().value_size, '\0');
    bool there = false;
    for (const auto &[pid, own] : processes_) {
      const void *first = sf_map_lookup(own, key.data(), 0);
      if (!first) continue;
      there = true;
      std::string of_process(shape().value_size, '\0');
      uint32_t cpu = 0;
      for (const void *value : cpu_values(shape(), first)) {
        const std::string bytes(static_cast<const char *>(value), shape().value_size);  // copied once
        if (has_sums(shape())) add_value(shape(), sum, bytes.data());
        if (!is_zero(bytes)) values.push_back({{"pid", pid}, {"cpu", cpu}, {"value", hex(bytes)}});
        cpu++;
      }
    }
    if (auto gone = map_.account.sums().find(key); gone != map_.account.sums().end()) {
      there = true;
      add_value(shape(), sum, gone->second.data());
      values.push_back({{"pid", 0}, {"value", hex(gone->second)}});
    }
    if (!there) return nullptr;
    json out{{"key", hex(key)}, {"values", std::move(values)}};
    if (has_sums(shape())) out["value"] = hex(sum);
    return out;
  }

  /// The keys that any process has and that come after one, in the order of their bytes; of an array in its own.
  std::vector<std::string> keys(const std::string *after, size_t most) const {
    std::map<std::string, bool> found;
    auto want = [&](const std::string &key) {
      if (after && key <= *after) return;
      found[key] = true;
      if (found.size() > most) found.erase(std::prev(found.end()));
    };
    if (shape().type == SF_MAP_PERCPU_ARRAY) return indexes(after, most);
    for (const auto &[pid, own] : processes_) {
      sf_map_cursor cursor{};
      while (sf_map_step(own, &cursor, 0) != 0) want({static_cast<const char *>(cursor.key), shape().key_size});
    }
    for (const auto &[key, sum] : map_.account.sums()) want(key);
    std::vector<std::string> out;
    for (const auto &[key, there] : found) out.push_back(key);
    return out;
  }

 private:
  const sf_map_shape &shape() const { return map_.handle()->shape; }
  std::vector<std::string> indexes(const std::string *after, size_t most) const {
    uint32_t index = 0;
    if (after) std::memcpy(&index, after->data(), sizeof index), index++;
    std::vector<std::string> out;
    for (; index < shape().max_entries && out.size() < most; index++)
      out.emplace_back(reinterpret_cast<const char *>(&index), sizeof index);
    return out;
  }
  const MapStorage &map_;
  std::vector<std::pair<int32_t, const sf_map *>> processes_;
};

json dump_gathered(const Gathering &all, const std::string *after, size_t most) {
  json entries = json::array();
  const auto keys = all.keys(after, most);
  for (const std::string &key : keys) {
    if (json one = all.entry(key); !one.is_null()) entries.push_back(std::move(one));
  }
  return {{"entries", std::move(entries)}, {"more", keys.size() == most}};
}

json dump_shared(const sf_map &map, const std::string *after, size_t most) {
  json entries = json::array();
  std::string key(map.shape.key_size, '\0');
  const uint64_t steps_max = sf_map_places(&map.shape);
  uint64_t steps = 0;
  int result = sf_map_next_key(&map, after ? after->data() : nullptr, key.data());
  // Keys that come and go may send the way back to the start.
  for (; result == 0 && entries.size() < most && ++steps <= steps_max;
       result = sf_map_next_key(&map, key.data(), key.data())) {
    if (const void *value = sf_map_lookup(&map, key.data(), 0)) entries.push_back(entry(map.shape, key.data(), value));
  }
  return {{"entries", std::move(entries)}, {"more", result == 0 && steps <= steps_max}};
}

json dump_queue(const sf_map &map) {
  json entries = json::array();
  sf_map_cursor cursor{};
  while (entries.size() < kEntriesMax && sf_map_step(&map, &cursor, 0) != 0)
    entries.push_back({{"key", ""}, {"value", hex(cursor.value, map.shape.value_size)}});
  return {{"entries", std::move(entries)}, {"more", false}};
}

Answer lookup(MapStorage &map, const Gathering &all, const json &request) {
  const sf_map handle = looking_at(map);
  const std::string name = map_name(map.shape);
  if (map.shape.type == SF_MAP_BLOOM_FILTER) {
    auto value = bytes_of_field(request, "key", map.shape.value_size);
    if (!value) return std::unexpected(value.error());
    if (sf_map_peek(&handle, value->data()) != 0) return std::unexpected("map " + name + " does not hold that value");
    return json{{"entry", {{"key", hex(*value)}, {"value", ""}}}};
  }
  if (is_queue(handle.shape)) {
    std::string value(map.shape.value_size, '\0');
    if (sf_map_peek(&handle, value.data()) != 0) return std::unexpected("map " + name + " is empty");
    return json{{"entry", {{"key", ""}, {"value", hex(value)}}}};
  }
  if (map.shape.type == SF_MAP_RINGBUF)
    return std::unexpected(meaning(-EOPNOTSUPP, name) + ": dump shows its records");
  const auto key = bytes_of_field(request, "key", map.shape.key_size);
  if (!key) return std::unexpected(key.error());
  if (per_cpu(handle.shape)) {
    json found = all.entry(*key);
    if (found.is_null()) return std::unexpected(meaning(-ENOENT, name));
    return json{{"entry", std::move(found)}};
  }
  const void *value = sf_map_lookup(&handle, key->data(), 0);
  if (!value) return std::unexpected(meaning(-ENOENT, name));
  return json{{"entry", entry(handle.shape, key->data(), value)}};
}

Answer dump(MapStorage &map, const Gathering &all, const json &request) {
  const sf_map handle = looking_at(map);
  if (map.shape.type == SF_MAP_BLOOM_FILTER)
    return std::unexpected("map " + map_name(map.shape) + " is a BLOOM_FILTER: it tells of a value whether it may be "
                           "in it (lookup), and cannot list any");
  if (is_queue(handle.shape)) return dump_queue(handle);
  std::optional<std::string> after;
  if (request.contains("after") && !request["after"].is_null()) {
    auto key = bytes_of_field(request, "after", map.shape.key_size);
    if (!key) return std::unexpected(key.error());
    after = *key;
  }
  const size_t fits = std::max<size_t>(1, kEntryBytesMax / (handle.shape.value_size + handle.shape.key_size));
  const size_t most =
      std::clamp<size_t>(number_of(request, "most", kEntriesMax), 1, std::min<size_t>(kEntriesMax, fits));
  return per_cpu(handle.shape) ? dump_gathered(all, after ? &*after : nullptr, most)
                               : dump_shared(handle, after ? &*after : nullptr, most);
}

Answer events(const MapStorage &map, const json &request) {
  if (map.shape.type != SF_MAP_RINGBUF) return std::unexpected("map " + map_name(map.shape) + " is no RINGBUF");
  const auto &records = map.backlog.records();
  uint64_t next = number_of(request, "after", 0);
  const uint64_t most = std::min<uint64_t>(number_of(request, "most", kEntriesMax), kEntriesMax);
  json out = json::array();
  size_t bytes = 0;
  const uint64_t skipped = !records.empty() && records.front().number > next ? records.front().number - next : 0;
  for (const auto &record : records) {
    if (record.number < next) continue;
    if (out.size() >= most || bytes > kEntryBytesMax) break;
    out.push_back({{"number", record.number}, {"pid", record.pid}, {"value", hex(record.bytes)}});
    bytes += record.bytes.size();
    next = record.number + 1;
  }
  return json{{"records", std::move(out)}, {"next", next}, {"lost", map.backlog.lost()}, {"skipped", skipped}};
}

}  // namespace

/// Takes the records out of the rings of all processes, and of our own.
void Control::drain_rings() {
  drained_ns_ = now_ns();
  for (auto &[fd, client] : clients_) client->maps.drain(client->pid, drained_ns_);
  for (const auto &map : bridge_.policy()->maps()) {
    if (map->shape.type == SF_MAP_RINGBUF)
      map->backlog.drain(*map->handle(), map->own_reader, getpid(), false, drained_ns_);
  }
}

void Control::restore_pinned() {
  for (const auto &map : bridge_.policy()->maps()) {
    if (auto said = pins_->restore(*map); !said.empty()) std::fprintf(stderr, "shortfuse: %s\n", said.c_str());
  }
}

void Control::save_pinned() {
  saved_ns_ = now_ns();
  for (const auto &map : bridge_.policy()->maps()) {
    if (map->shape.pinning == 0) continue;
    MapAccount account = map->account;
    if (sf_map_per_process(map->shape.type)) {
      account.fold(*map->handle());
      for (const auto &[fd, client] : clients_) {
        if (const sf_map *own = client->maps.of(map.get())) account.fold(*own);
      }
    }
    if (auto said = pins_->save(*map, account.sums()); !said.empty())
      std::fprintf(stderr, "shortfuse: %s\n", said.c_str());
  }
}

bool Control::maps(Client &client, std::string_view body) {
  const auto request = json::parse(body, nullptr, false);
  const auto policy = bridge_.policy();
  auto text = [&](const char *field) {
    const bool there = request.is_object() && request.contains(field) && request[field].is_string();
    return there ? request[field].get<std::string>() : std::string();
  };
  const std::string op = text("op"), name = text("map");
  if (op == "list") {
    json out = json::array();
    for (const auto &map : policy->maps()) out.push_back(describe(*map));
    return reply_text(client, SF_MSG_JSON, json{{"maps", std::move(out)}}.dump());
  }
  const auto &maps = policy->maps();
  const auto map = std::find_if(maps.begin(), maps.end(), [&](const auto &m) { return map_name(m->shape) == name; });
  if (map == maps.end()) return reply_text(client, SF_MSG_ERROR, "the policy has no map \"" + name + "\"");
  std::vector<std::pair<int32_t, const sf_map *>> processes;
  for (const auto &[fd, other] : clients_) {
    if (const sf_map *own = other->maps.of(map->get())) processes.emplace_back(other->pid, own);
  }
  const Gathering all(**map, std::move(processes));
  Answer answer = std::unexpected("maps are asked with \"op\": list, dump, lookup, update, delete or events");
  if (op == "events") drain_rings();
  if (op == "dump") answer = dump(**map, all, request);
  if (op == "lookup") answer = lookup(**map, all, request);
  if (op == "update") answer = update(**map, request);
  if (op == "delete") answer = erase(**map, request);
  if (op == "events") answer = events(**map, request);
  return answer ? reply_text(client, SF_MSG_JSON, answer->dump()) : reply_text(client, SF_MSG_ERROR, answer.error());
}

}  // namespace shortfuse::bridge
