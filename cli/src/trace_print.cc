// Everything in the session's memory is what traced processes have written: read once, bounded, never used as an index.
#include "trace_print.h"

#include <fmt/format.h>
#include <string.h>

#include <algorithm>
#include <cerrno>

namespace shortfuse::cli {
namespace {

using nlohmann::json;
using Shown = nlohmann::ordered_json;
constexpr std::chrono::seconds kBusyLimit{1};  // a record that is still being written then is left out
constexpr size_t kRecordBytesMin = 8;             // with its header

bool is_printed(const vm::Policy::Map &map) {
  const std::string name(map.def.name, strnlen(map.def.name, sizeof map.def.name));
  const uint32_t type = map.def.type;
  return !map.frozen && name.find('.') == std::string::npos && type != SF_MAP_PROG_ARRAY &&
         type != SF_MAP_ARRAY_OF_MAPS && type != SF_MAP_BLOOM_FILTER && type != SF_MAP_RINGBUF;
}

// Of several "CPUs" one value: numbers are added; of a field max... the largest counts, of min... the smallest but 0.
void fold(Shown *into, const Shown &from, const std::string &name) {
  if (into->is_object() && from.is_object()) {
    for (auto &[field, value] : into->items()) fold(&value, from.value(field, Shown()), field);
  } else if (into->is_array() && from.is_array()) {
    for (size_t i = 0; i < into->size() && i < from.size(); i++) fold(&(*into)[i], from[i], name);
  } else if (into->is_number_unsigned() && from.is_number_unsigned()) {
    const uint64_t a = into->get<uint64_t>(), b = from.get<uint64_t>();
    *into = name.starts_with("max")   ? std::max(a, b)
            : name.starts_with("min") ? (a == 0 || b == 0 ? a + b : std::min(a, b))
                                      : a + b;
  } else if (into->is_number() && from.is_number()) {
    *into = into->get<int64_t>() + from.get<int64_t>();
  }
}

bool is_zero(const void *bytes, size_t size) {
  const auto *p = static_cast<const char *>(bytes);
  return std::all_of(p, p + size, [](char c) { return c == 0; });
}

double weight_of(const Shown &value) {
  if (value.is_number()) return value.get<double>();
  if ((value.is_object() || value.is_array()) && !value.empty()) return weight_of(*value.begin());
  return 0;
}

std::string cell(const Shown &value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

}  // namespace

TracePrinter::TracePrinter(const vm::Policy &policy, const TraceSession &session, FILE *out, bool json)
    : policy_(policy), session_(session), out_(out), json_(json) {
  for (size_t i = 0; i < policy.maps.size(); i++) {
    if (policy.maps[i].def.type != SF_MAP_RINGBUF) continue;
    rings_.push_back({i});
    room_bytes_ = std::max<size_t>(room_bytes_, policy.maps[i].def.max_entries);
  }
  room_ = std::make_unique_for_overwrite<char[]>(room_bytes_);
}

// A program is traced to its end also where nobody reads what is printed about it.
template <typename... Values>
void TracePrinter::write(fmt::format_string<Values...> format, Values &&...values) const {
  const std::string text = fmt::format(format, std::forward<Values>(values)...);
  if (error_ == 0 && fwrite(text.data(), 1, text.size(), out_) != text.size()) error_ = errno;
}

void TracePrinter::flush() const {
  if (error_ == 0 && fflush(out_) != 0) error_ = errno;
}

std::string TracePrinter::name(size_t map) const {
  const sf_image_map &def = policy_.maps[map].def;
  return {def.name, strnlen(def.name, sizeof def.name)};
}

MapField TracePrinter::field(size_t map, bool of_key) const {
  const vm::Policy::Map &m = policy_.maps[map];
  const std::string &type = of_key ? m.key_type : m.value_type;
  return {of_key ? m.def.key_size : m.def.value_size, type.empty() ? json() : json::parse(type, nullptr, false),
          of_key && m.def.type == SF_MAP_LPM_TRIE};
}

bool TracePrinter::take(Ring *ring) {
  const auto now = std::chrono::steady_clock::now();
  const bool give_up = ring->busy && now - ring->busy_since > kBusyLimit;
  const int64_t got = sf_ring_take(&session_.map(ring->map), &ring->position, room_.get(), room_bytes_, give_up);
  if (got == -EBUSY && !ring->busy) ring->busy_since = now;
  ring->busy = got == -EBUSY;
  if (got < 0) return got == -EPROTO || got == -ENODATA;
  const std::string bytes(room_.get(), static_cast<size_t>(got));
  const MapField record{bytes.size(), field(ring->map, false).type, false};
  if (json_) {
    const Shown line{{"event", name(ring->map)}, {"record", as_json(record, bytes)}};
    write("{}\n", line.dump(-1, ' ', false, Shown::error_handler_t::replace));
  } else {
    write("{} {}\n", name(ring->map), shown(record, bytes));
  }
  return true;
}

void TracePrinter::events() {
  // One ring's worth at most: who writes faster than this prints must not keep it here.
  for (Ring &ring : rings_) {
    for (size_t most = session_.map(ring.map).shape.max_entries / kRecordBytesMin; most > 0 && take(&ring); most--) {
    }
  }
  flush();
}

std::vector<TracePrinter::Row> TracePrinter::rows(size_t map) const {
  const sf_map &m = session_.map(map);
  const MapField key = field(map, true), value = field(map, false);
  const bool is_array = m.shape.type == SF_MAP_ARRAY || m.shape.type == SF_MAP_PERCPU_ARRAY;
  const bool per_cpu = sf_map_cpu_stride(&m.shape) != 0;
  std::vector<Row> out;
  sf_map_cursor cursor{};
  for (uint64_t steps = sf_map_places(&m.shape); steps > 0 && sf_map_step(&m, &cursor, 0) == 1; steps--) {
    const std::string key_bytes(static_cast<const char *>(cursor.key), key.bytes);
    Row row{shown(key, key_bytes), as_json(key, key_bytes), {}, 0};
    bool any = !is_array;
    for (uint32_t cpu = 0; cpu < (per_cpu ? SF_MAP_CPUS : 1); cpu++) {
      const void *at = per_cpu ? sf_map_lookup(&m, key_bytes.data(), cpu) : cursor.value;
      if (at == nullptr || (is_array && is_zero(at, value.bytes))) continue;
      any = true;
      const Shown one = as_json(value, std::string(static_cast<const char *>(at), value.bytes));
      if (row.value.is_null()) row.value = one;
      else fold(&row.value, one, "");
    }
    if (!any) continue;
    if (row.key_json.is_string()) row.key = row.key_json.get<std::string>();
    row.weight = weight_of(row.value);
    out.push_back(std::move(row));
  }
  std::ranges::stable_sort(out, std::greater(), &Row::weight);
  return out;
}

void TracePrinter::print_table(size_t map, const std::vector<Row> &rows) const {
  if (rows.empty()) return write("{}: empty\n", name(map));
  std::vector<std::vector<std::string>> cells{{name(map)}};
  const bool columns = rows[0].value.is_object();
  if (columns) {
    for (const auto &[field, value] : rows[0].value.items()) cells[0].push_back(field);
  }
  for (const Row &row : rows) {
    cells.push_back({row.key});
    if (!columns) cells.back().push_back(cell(row.value));
    else
      for (const auto &[field, value] : row.value.items()) cells.back().push_back(cell(value));
  }
  if (!columns) cells[0].push_back("");
  std::vector<size_t> width(cells[0].size());
  for (const auto &line : cells) {
    for (size_t i = 0; i < line.size() && i < width.size(); i++) width[i] = std::max(width[i], line[i].size());
  }
  for (const auto &line : cells) {
    std::string text = fmt::format("{:<{}}", line[0], width[0]);
    for (size_t i = 1; i < line.size() && i < width.size(); i++) text += fmt::format("  {:>{}}", line[i], width[i]);
    write("{}\n", text);
  }
}

void TracePrinter::print_notes() const {
  uint64_t more = 0;
  const auto untraced = session_.untraced(&more);
  for (const std::string &path : untraced) write("not traced: {}\n", path);
  if (more != 0) write("not traced, perhaps: {} more\n", more);
  if (session_.left() != 0) write("not traced to their end: {} processes\n", session_.left());
  if (session_.missed() != 0)
    write("passed unseen while a program was running: {} calls\n", session_.missed());
  if (session_.unpatched() != 0)
    write("not seen where libc makes them in {} places that cannot be patched\n", session_.unpatched());
  for (size_t i = 0; i < policy_.maps.size(); i++) {
    const sf_map &map = session_.map(i);
    const uint64_t lost = map.shape.type == SF_MAP_RINGBUF ? sf_ring_lost(&map) : 0;
    if (lost != 0) write("{}: {} records found no room\n", name(i), lost);
    if (sf_map_refused(&map) != 0) write("{}: {} writes were refused\n", name(i), sf_map_refused(&map));
  }
}

Shown TracePrinter::notes_json() const {
  uint64_t more = 0, lost = 0, refused = 0;
  const auto untraced = session_.untraced(&more);
  for (size_t i = 0; i < policy_.maps.size(); i++) {
    if (session_.map(i).shape.type == SF_MAP_RINGBUF) lost += sf_ring_lost(&session_.map(i));
    refused += sf_map_refused(&session_.map(i));
  }
  return {{"traced", session_.attached()}, {"untraced", untraced},         {"untraced_more", more},
          {"left", session_.left()},       {"unseen", session_.missed()}, {"unpatched", session_.unpatched()},
          {"lost", lost},                  {"refused", refused},
          {"machine_code", session_.why_interpreted().empty()}};
}

void TracePrinter::results() {
  events();
  Shown maps = Shown::object();
  for (size_t i = 0; i < policy_.maps.size(); i++) {
    if (!is_printed(policy_.maps[i])) continue;
    const auto all = rows(i);
    if (!json_) print_table(i, all);
    Shown entries = Shown::array();
    for (const Row &row : all) entries.push_back({{"key", row.key_json}, {"value", row.value}});
    maps[name(i)] = std::move(entries);
  }
  if (json_) {
    Shown line = notes_json();
    line["maps"] = std::move(maps);
    write("{}\n", line.dump(-1, ' ', false, Shown::error_handler_t::replace));
  } else {
    print_notes();
  }
  flush();
}

}  // namespace shortfuse::cli
