// A host that writes down what a program asks of it.
//
// The first run is recorded; further ones, for the time, call the same functions without writing anything down.
#include "shortfuse/vm/trial.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <utility>

#include "isa/host_functions.h"
#include "shortfuse/vm/runtime.h"

namespace shortfuse::vm {
namespace {

constexpr size_t kShownBytesMax = 32;  // of a key or value

uint64_t as_result(int64_t value) { return static_cast<uint64_t>(value); }

uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

// Bytes of a usual size as the number that they are, others in hexadecimal.
std::string shown(const unsigned char *bytes, size_t size) {
  uint64_t number = 0;
  if (size == 1 || size == 2 || size == 4 || size == 8) {
    memcpy(&number, bytes, size);
    return std::to_string(number);
  }
  std::string out;
  char pair[4];
  for (size_t i = 0; i < std::min(size, kShownBytesMax); i++) {
    snprintf(pair, sizeof pair, "%02x", bytes[i]);
    out += pair;
  }
  return size > kShownBytesMax ? out + "... (" + std::to_string(size) + " bytes)" : out;
}

std::string quoted(const char *text) {
  std::string out = "\"";
  for (; *text && out.size() < 200; text++) out += *text >= ' ' && *text < 0x7f ? *text : '?';
  return out + "\"";
}

std::string text_or_bytes(const unsigned char *bytes, size_t size) {
  const std::string text(reinterpret_cast<const char *>(bytes), strnlen(reinterpret_cast<const char *>(bytes), size));
  const bool printable = std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c < 0x7f; });
  return printable && !text.empty() ? quoted(text.c_str()) : shown(bytes, size);
}

std::string duration(uint64_t ns) {
  if (ns == SF_DROP) return "not at all";
  if (ns == 0) return "until it changes";
  char text[32];
  snprintf(text, sizeof text, "%.6g s", static_cast<double>(ns) / 1e9);
  return text;
}

class Host {
 public:
  Host(const Policy &policy, const TrialOptions &options, Runtime *runtime)
      : policy_(policy), options_(options), runtime_(*runtime) {
    runtime_.add_process_functions();
    install(std::make_index_sequence<SF_HOST_COUNT>());
    runtime_.set_state(this);
  }
  void record(Trial *into) { into_ = into; }

 private:
  using Arguments = std::array<uint64_t, 5>;

  template <size_t... id> void install(std::index_sequence<id...>) {
    ((machine_[id] = runtime_.function(id), runtime_.set_function(id, &entry<id>)), ...);
  }
  template <size_t id>
  static uint64_t entry(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, void *last) {
    void *self = sf_is_vm_function(id) ? static_cast<sf_vm_env *>(last)->host_state : last;
    return static_cast<Host *>(self)->called(id, {a, b, c, d, e}, last);
  }

  uint64_t called(uint32_t id, const Arguments &r, void *last) {
    if (!into_) return answer(id, r, last, nullptr);
    HostCall call;
    call.function = kHostFunctions[id].name;
    for (unsigned i = 0; i < 5 && kHostFunctions[id].args[i] != Arg::None; i++)
      call.arguments.push_back(describe(id, i, r));
    const uint64_t result = answer(id, r, last, &call.note);
    call.result = describe_result(kHostFunctions[id], result);
    if (into_->calls_made++ < kTrialCallsMax) into_->calls.push_back(std::move(call));
    return result;
  }

  const Policy::Map *map_of(uint64_t handle) const {
    for (uint32_t i = 0; i < runtime_.maps(); i++) {
      if (reinterpret_cast<uint64_t>(runtime_.map(i)) == handle) return &policy_.maps[i];
    }
    return nullptr;
  }

  std::string describe(uint32_t id, unsigned i, const Arguments &r) const {
    const auto *bytes = reinterpret_cast<const unsigned char *>(r[i]);
    const Policy::Map *map = nullptr;
    for (unsigned earlier = 0; earlier <= i && !map; earlier++) {
      if (kHostFunctions[id].args[earlier] == Arg::Map) map = map_of(r[earlier]);
    }
    switch (kHostFunctions[id].args[i]) {
      case Arg::Context: return "ctx";
      case Arg::Map: return map ? map->def.name : "a map";
      case Arg::MapKey: return map ? shown(bytes, map->def.key_size) : "a key";
      case Arg::MapValue: return map ? shown(bytes, map->def.value_size) : "a value";
      case Arg::ReadMemory: return text_or_bytes(bytes, r[i + 1]);
      case Arg::WriteMemory: case Arg::MapValueOut: return "buffer";
      case Arg::ConstString: return quoted(reinterpret_cast<const char *>(bytes));
      case Arg::RingRecord: return "record";
      case Arg::LoopBody: case Arg::MapBody: return "function";
      case Arg::Anything: return "...";
      default: return r[i] == SF_DROP ? "SF_DROP" : std::to_string(static_cast<int64_t>(r[i]));
    }
  }

  static std::string describe_result(const HostFunction &f, uint64_t result) {
    if (f.result == Result::MapValueOrNull || f.result == Result::RingRecordOrNull)
      return result ? "found" : "NULL";
    const auto value = static_cast<int64_t>(result);
    const bool is_error = value < 0 && value >= -4095 && f.id != SF_HOST_STRNCMP;
    if (const char *name = is_error ? strerrorname_np(static_cast<int>(-value)) : nullptr)
      return std::string("-") + name;
    return std::to_string(value);
  }

  // What a mount would answer, as far as that can be known here.
  uint64_t answer(uint32_t id, const Arguments &r, void *last, std::string *note) {
    auto say = [&](const std::string &text) { if (note) *note = text; };
    switch (id) {
      case SF_HOST_SERVE_ATTR: case SF_HOST_SERVE_ENTRY: case SF_HOST_SERVE_LINK: case SF_HOST_SERVE_DATA:
      case SF_HOST_SERVE_LISTING: case SF_HOST_SERVE_XATTR: case SF_HOST_SERVE_STATFS:
      case SF_HOST_SERVE_OPEN:
        say(options_.hit ? "asked to serve; taken as a hit" : "asked to serve; taken as a miss");
        return options_.hit ? SF_SERVED : SF_PASS;
      case SF_HOST_KEEP:
        say("would keep the reply: " + duration(r[1]) + "; what does not exist: " + duration(r[2]));
        return 0;
      case SF_HOST_FORGET: say("would forget the node"); return 0;
      case SF_HOST_PREFETCH:
        say("would read [" + std::to_string(r[1]) + ", " + std::to_string(r[1] + r[2]) + ") into the cache");
        return 0;
      case SF_HOST_PATH: return give_path(reinterpret_cast<char *>(r[1]), r[2], note);
      case SF_HOST_ARG: case SF_HOST_REPLY: {
        const auto &from = id == SF_HOST_ARG ? options_.arguments : options_.reply;
        if (r[1] > from.size() || r[3] > from.size() - r[1])
          return say("only " + std::to_string(from.size()) + " bytes were given"), as_result(-EINVAL);
        memcpy(reinterpret_cast<void *>(r[2]), from.data() + r[1], r[3]);
        return 0;
      }
      default: return machine_[id](r[0], r[1], r[2], r[3], r[4], last);
    }
  }

  uint64_t give_path(char *buffer, uint64_t size, std::string *note) const {
    if (options_.path == "?") return as_result(-ENOENT);
    if (options_.path.size() >= size) return as_result(-ENAMETOOLONG);
    memcpy(buffer, options_.path.c_str(), options_.path.size() + 1);
    if (note) *note = quoted(buffer);
    return options_.path.size();
  }

  const Policy &policy_;
  const TrialOptions &options_;
  Runtime &runtime_;
  std::array<sf_host_fn, SF_HOST_COUNT> machine_{};
  Trial *into_ = nullptr;
};

// ---- maps before and after

using Contents = std::map<std::string, std::string>;  // key, value: their bytes

Contents contents_of(const sf_map *map) {
  Contents out;
  sf_map_cursor cursor{};
  if (!(kKeyedMaps >> map->shape.type & 1)) return out;
  while (sf_map_step(map, &cursor, 0) == 1) {
    const auto *key = static_cast<const char *>(cursor.key), *value = static_cast<const char *>(cursor.value);
    out[{key, map->shape.key_size}] = {value, map->shape.value_size};
  }
  return out;
}

std::string shown(const std::string &bytes) {
  return shown(reinterpret_cast<const unsigned char *>(bytes.data()), bytes.size());
}

// Of a long value the bytes that changed, and where.
MapChange change_of(const std::string &map, const std::string &key, const std::string &before,
                    const std::string &after) {
  if (before.size() != after.size() || after.size() <= kShownBytesMax) {
    return {map, shown(key), before.empty() ? "" : shown(before), after.empty() ? "" : shown(after)};
  }
  const size_t from = static_cast<size_t>(std::mismatch(before.begin(), before.end(), after.begin()).first -
                                          before.begin()) & ~size_t{7};
  size_t to = after.size();
  while (to > from && before[to - 1] == after[to - 1]) to--;
  to = std::min(after.size(), (to + 7) & ~size_t{7});
  return {map, shown(key) + ", bytes " + std::to_string(from) + " to " + std::to_string(to),
          shown(before.substr(from, to - from)), shown(after.substr(from, to - from))};
}

void add_changes(const std::string &map, const Contents &before, const Contents &after, Trial *trial) {
  for (const auto &[key, value] : after) {
    auto old = before.find(key);
    if (old == before.end()) trial->changes.push_back(change_of(map, key, "", value));
    else if (old->second != value) trial->changes.push_back(change_of(map, key, old->second, value));
  }
  for (const auto &[key, value] : before) {
    if (!after.contains(key)) trial->changes.push_back(change_of(map, key, value, ""));
  }
}

}  // namespace

std::expected<Trial, Refusal> try_section(const Policy &policy, const TrialOptions &options) {
  uint32_t index = 0;
  while (index < policy.programs.size() && policy.programs[index].info.section != options.section) index++;
  if (index == policy.programs.size())
    return std::unexpected(
        Refusal{"section-missing", "there is no program in section \"" + options.section + "\"", ""});
  const ProgramInfo &info = policy.programs[index].info;
  Policy visible = policy;
  visible.calls_inlined = false;  // every call is told
  auto runtime = Runtime::create(visible, options.lowering);
  if (!runtime) return std::unexpected(runtime.error());
  Host host(policy, options, runtime->get());
  std::vector<Contents> before;
  for (uint32_t i = 0; i < policy.maps.size(); i++) before.push_back(contents_of((*runtime)->map(i)));
  std::vector<uint64_t> context((options.context.size() + 7) / 8);  // aligned
  memcpy(context.data(), options.context.data(), options.context.size());
  auto run = [&]() -> int64_t {
    if (info.attached) return (*runtime)->run_chain(info.slot, context.data());
    return static_cast<int32_t>((*runtime)->run_program(index, context.data()).r0);
  };

  Trial trial;
  trial.engine = (*runtime)->compiled() ? "machine code" : "interpreter (" + (*runtime)->why_interpreted() + ")";
  host.record(&trial);
  trial.verdict = run();
  host.record(nullptr);
  if (options.runs > 1) {
    const uint64_t start = now_ns();
    for (uint64_t i = 1; i < options.runs; i++) run();
    trial.ns_per_run = static_cast<double>(now_ns() - start) / static_cast<double>(options.runs - 1);
  }
  for (uint32_t i = 0; i < policy.maps.size(); i++) {
    add_changes(policy.maps[i].def.name, before[i], contents_of((*runtime)->map(i)), &trial);
  }
  return trial;
}

}  // namespace shortfuse::vm
