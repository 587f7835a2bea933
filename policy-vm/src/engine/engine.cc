// The library's C interface: an embedded Target, a Policy for it and a Runtime that runs it.
#include "shortfuse/vm/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <deque>
#include <memory>
#include <mutex>

#include "object/elf_file.h"
#include "object/target.h"
#include "shortfuse/vm/runtime.h"

using namespace shortfuse::vm;

struct sf_engine {
  uint32_t context_bytes = 0;
  Lowering lowering = Lowering::Auto;
  BtfPtr types;
  Target target;
  std::deque<std::string> names;         // of the target's functions, which point here
  std::vector<sf_engine_fn> functions;
  void *state = nullptr;
  Policy policy;
  std::unique_ptr<Runtime> runtime;      // NULL: nothing is loaded
  Refusal refusal;
  std::string error, report;
};

namespace {

constexpr const char *kNoMemory = "no memory";  // so short that saying it takes none

// Neither memory that cannot be had nor anything else is thrown at a caller in C.
template <typename Work> int guarded(Work work) {
  try {
    return work();
  } catch (...) {
    return -ENOMEM;
  }
}

// The same, and sf_engine_error() says what came of it.
template <typename Work> int explained(sf_engine *e, Work work) {
  e->error.clear();
  const int status = guarded(work);
  if (status == -ENOMEM) e->error = kNoMemory;
  return status;
}

// Of what is no load: the report stays as it is.
int failed(sf_engine *e, std::string why, int status) {
  e->error = std::move(why);
  return status;
}

int refused(sf_engine *e, Refusal why, int status) {
  e->error = why.str();
  e->refusal = std::move(why);
  return status;
}

template <typename Work> int loaded(sf_engine *e, Work work) {
  const int status = explained(e, work);
  if (status == -ENOMEM) e->refusal = {"no-memory", "", ""};
  return status;
}

// ---- prototypes

struct Kind { const char *name; Arg arg; };
constexpr Kind kKinds[] = {{"ctx", Arg::Context}, {"scalar", Arg::Scalar}, {"in", Arg::ReadMemory},
                           {"inout", Arg::InOutMemory}, {"size", Arg::Size}, {"string", Arg::ConstString}};

std::string without_blanks(const std::string &text) {
  const size_t from = text.find_first_not_of(" \t"), to = text.find_last_not_of(" \t");
  return from == std::string::npos ? "" : text.substr(from, to - from + 1);
}

bool is_identifier(const std::string &s) {
  return !s.empty() && s.size() < 64 && !(s[0] >= '0' && s[0] <= '9') &&
         s.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == std::string::npos;
}

// "name(kind, kind)"; false: it is none.
bool parse_prototype(const std::string &text, std::string *name, HostFunction *f) {
  const size_t open = text.find('('), close = text.find(')');
  if (open == std::string::npos || close == std::string::npos || close < open) return false;
  if (!without_blanks(text.substr(close + 1)).empty()) return false;
  *name = without_blanks(text.substr(0, open));
  if (!is_identifier(*name)) return false;
  std::string rest = text.substr(open + 1, close - open - 1);
  size_t count = 0;
  while (!without_blanks(rest).empty()) {
    const size_t comma = rest.find(',');
    const std::string word = without_blanks(rest.substr(0, comma));
    rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
    const Kind *kind = nullptr;
    for (const Kind &k : kKinds) {
      if (word == k.name) kind = &k;
    }
    if (!kind || count == std::size(f->args)) return false;
    if (comma != std::string::npos && without_blanks(rest).empty()) return false;
    f->args[count++] = kind->arg;
  }
  // Memory and its size come as a pair.
  bool after_memory = false;
  for (const Arg arg : f->args) {
    if (after_memory != (arg == Arg::Size)) return false;
    after_memory = arg == Arg::ReadMemory || arg == Arg::InOutMemory;
  }
  return !after_memory;
}

// ---- reports

std::string json_string(const std::string &text) {
  std::string out = "\"";
  for (const char c : text) {
    char code[8];
    if (c == '"' || c == '\\') out += '\\', out += c;
    else if (c == '\n') out += "\\n";
    else if (static_cast<unsigned char>(c) < 0x20) snprintf(code, sizeof code, "\\u%04x", c), out += code;
    else out += c;
  }
  return out + "\"";
}

std::string json_pair(const char *name, const std::string &value, bool more = true) {
  return json_string(name) + ": " + json_string(value) + (more ? ", " : "");
}
std::string json_pair(const char *name, uint64_t value) {
  return json_string(name) + ": " + std::to_string(value) + ", ";
}

// The fields of `policy check --json`.
std::string json_refusal(const Refusal &r) {
  std::string path;
  for (const RefusalStep &step : r.path) {
    path += std::string(path.empty() ? "" : ", ") + "{" + json_pair("file", step.file) + json_pair("line", step.line) +
            json_pair("source", step.source) + json_pair("insn", step.insn) + json_pair("what", step.what, false) + "}";
  }
  std::string where;
  if (!r.file.empty()) where = json_pair("file", r.file) + json_pair("line", r.line) + json_pair("source", r.source);
  if (r.insn >= 0) where += json_pair("insn", static_cast<uint64_t>(r.insn)) + json_pair("insn_text", r.insn_text);
  return "{\"accepted\": false, " + json_pair("code", r.code) + json_pair("category", category_name(r.category)) +
         json_pair("text", r.text) + json_pair("detail", r.detail) + json_pair("reason", r.reason) +
         json_pair("needed", r.needed) + json_pair("known", r.known) + "\"path\": [" + path + "], " + where +
         json_pair("suggestion", r.suggestion, false) + "}";
}

std::string report_of(const sf_engine &e) {
  if (!e.refusal.code.empty()) return json_refusal(e.refusal);
  if (!e.runtime) return json_refusal({"nothing-loaded", "", ""});
  std::string programs, maps;
  for (const Policy::Program &p : e.policy.programs) {
    programs += std::string(programs.empty() ? "" : ", ") + "{\"section\": " + json_string(p.info.section) +
                ", \"name\": " + json_string(p.info.name) + ", \"insns\": " + std::to_string(p.info.insns) +
                ", \"states\": " + std::to_string(p.info.states_explored) + ", \"stack_bytes\": " +
                std::to_string(p.stack_bytes) + "}";
  }
  for (const Policy::Map &m : e.policy.maps) {
    maps += std::string(maps.empty() ? "" : ", ") + "{\"name\": " + json_string(m.def.name) + ", \"type\": " +
            json_string(map_kind_name(m.def.type)) + ", \"key_bytes\": " + std::to_string(m.def.key_size) +
            ", \"value_bytes\": " + std::to_string(m.def.value_size) + ", \"max_entries\": " +
            std::to_string(m.def.max_entries) + ", \"read_only\": " + (m.frozen ? "true" : "false") + "}";
  }
  return std::string("{\"accepted\": true, \"machine_code\": ") + (e.runtime->compiled() ? "true" : "false") +
         ", \"programs\": [" + programs + "], \"maps\": [" + maps + "]}";
}

// ---- loading

bool read_types(sf_engine *e, const void *types, size_t bytes) {
  const auto *p = static_cast<const unsigned char *>(types);
  std::vector<unsigned char> section(p, p + bytes);
  if (auto file = ElfFile::read(types, bytes)) {
    const ElfSection *found = file->section(".BTF");
    if (!found) return false;
    section = found->data;
  }
  auto read = read_btf(section);
  if (!read) return false;
  e->types = std::move(*read);
  e->target.types = e->types.get();
  return true;
}

int take(sf_engine *e, std::expected<Policy, Refusal> policy) {
  if (!policy) return refused(e, policy.error(), policy.error().code == "file-unreadable" ? -ENOENT : -EINVAL);
  auto runtime = Runtime::create(*policy, e->lowering);
  if (!runtime) return refused(e, runtime.error(), -EINVAL);
  (*runtime)->add_process_functions();
  for (uint32_t i = 0; i < e->functions.size(); i++) (*runtime)->set_function(SF_HOST_COUNT + i, e->functions[i]);
  (*runtime)->set_state(e->state);
  e->policy = std::move(*policy);
  e->runtime = std::move(*runtime);
  e->refusal = {};
  return 0;
}

const Policy::Program *program_of(const sf_engine *e, int i) {
  const bool there = e->runtime && i >= 0 && static_cast<size_t>(i) < e->policy.programs.size();
  return there ? &e->policy.programs[static_cast<size_t>(i)] : nullptr;
}

const Policy::Map *map_of(const sf_engine *e, int i) {
  const bool there = e->runtime && i >= 0 && static_cast<size_t>(i) < e->policy.maps.size();
  return there ? &e->policy.maps[static_cast<size_t>(i)] : nullptr;
}

sf_map *handle_of(const sf_engine *e, int i) { return e->runtime->map(static_cast<uint32_t>(i)); }

// Programs trust what they find in maps of maps and programs.
bool reference_fits(const sf_engine *e, const Policy::Map &map, const void *value) {
  uint32_t number = 0;
  memcpy(&number, value, sizeof number);
  if (map.def.type == SF_MAP_PROG_ARRAY) return number <= e->policy.programs.size();
  if (number == 0) return true;
  const Policy::Map *given = map_of(e, static_cast<int>(number - 1));
  if (!given || map.inner.empty() || given->frozen) return false;
  const sf_image_map &a = given->def, &b = map.inner[0];
  return a.type == b.type && a.key_size == b.key_size && a.value_size == b.value_size &&
         a.max_entries == b.max_entries && a.flags == b.flags;
}

// Runs `write` under the lock that programs take too.
template <typename Write> int write_map(sf_engine *e, int map, Write write) {
  const Policy::Map *m = map_of(e, map);
  if (!m) return -EINVAL;
  if (m->frozen) return -EPERM;
  sf_map *handle = handle_of(e, map);
  if (int error = sf_map_lock(handle, static_cast<uint32_t>(gettid())); error != 0) return error;
  const int result = write(handle);
  sf_map_unlock(handle);
  return result;
}

}  // namespace

extern "C" {

sf_engine *sf_engine_create(const sf_engine_options *options) {
  sf_engine_options o{};
  if (!options || options->size < offsetof(sf_engine_options, types) || options->size > 4096) return nullptr;
  memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
  if (o.code > SF_ENGINE_COMPILE || o.context_bytes > (1u << 20)) return nullptr;
  sf_engine *made = nullptr;
  guarded([&] {
    auto e = std::make_unique<sf_engine>();
    e->context_bytes = o.context_bytes;
    e->lowering = o.code == SF_ENGINE_INTERPRET ? Lowering::InterpretOnly
                  : o.code == SF_ENGINE_COMPILE ? Lowering::Required
                                                : Lowering::Auto;
    e->target.embedded = true;
    e->target.embedded_context_bytes = o.context_bytes;
    if (!o.types || read_types(e.get(), o.types, o.types_bytes)) made = e.release();
    return 0;
  });
  return made;
}

void sf_engine_destroy(sf_engine *e) { delete e; }

int sf_engine_add_function(sf_engine *e, const char *prototype, sf_engine_fn fn) {
  return explained(e, [&] {
    std::string name;
    HostFunction f{};
    if (!fn || !prototype) return failed(e, "a function and its prototype are needed", -EINVAL);
    if (!parse_prototype(prototype, &name, &f))
      return failed(e, std::string("not a prototype: \"") + prototype + "\"", -EINVAL);
    if (e->runtime) return failed(e, "functions are added before programs are loaded", -EBUSY);
    for (const HostFunction &other : e->target.functions) {
      if (name == other.name) return failed(e, "there is a function " + name + "()", -EEXIST);
    }
    if (e->functions.size() == SF_HOST_LIMIT - SF_HOST_COUNT) return failed(e, "there are 64 functions", -ENOSPC);
    f.id = static_cast<sf_host_id>(SF_HOST_COUNT + e->functions.size());
    f.name = e->names.emplace_back(name).c_str();
    f.where = "everywhere";
    e->target.functions.push_back(f);
    e->functions.push_back(fn);
    return 0;
  });
}

void sf_engine_set_state(sf_engine *e, void *state) {
  e->state = state;
  if (e->runtime) e->runtime->set_state(state);
}

int sf_engine_load_file(sf_engine *e, const char *path) {
  return loaded(e, [&] { return take(e, load_policy(e->target, {path})); });
}

int sf_engine_load(sf_engine *e, const void *object, size_t bytes, const char *name) {
  return loaded(e, [&] { return take(e, load_policy_bytes(e->target, object, bytes, name)); });
}

const char *sf_engine_error(const sf_engine *e) { return e->error.c_str(); }

const char *sf_engine_report(sf_engine *e) {
  guarded([&] { return e->report = report_of(*e), 0; });
  return e->report.c_str();
}

int sf_engine_programs(const sf_engine *e) { return e->runtime ? static_cast<int>(e->policy.programs.size()) : 0; }

int sf_engine_find_program(const sf_engine *e, const char *name) {
  for (const bool by_section : {true, false}) {
    for (int i = 0; const Policy::Program *p = program_of(e, i); i++) {
      if ((by_section ? p->info.section : p->info.name) == name) return i;
    }
  }
  return -ENOENT;
}

const char *sf_engine_program_name(const sf_engine *e, int program) {
  const Policy::Program *p = program_of(e, program);
  return p ? p->info.name.c_str() : nullptr;
}

const char *sf_engine_program_section(const sf_engine *e, int program) {
  const Policy::Program *p = program_of(e, program);
  return p ? p->info.section.c_str() : nullptr;
}

int sf_engine_compiled(const sf_engine *e) { return e->runtime && e->runtime->compiled(); }

int sf_engine_run(const sf_engine *e, int program, const void *context, uint64_t *result) {
  if (!program_of(e, program) || reinterpret_cast<uintptr_t>(context) % 8 != 0) return -EINVAL;
  if (!context && e->context_bytes != 0) return -EINVAL;
  static const uint64_t no_context = 0;  // programs hold that r1 is not NULL
  if (!context) context = &no_context;
  const auto [r0, out_of_fuel] = e->runtime->run_program(static_cast<uint32_t>(program), const_cast<void *>(context));
  if (result) *result = out_of_fuel ? 0 : r0;
  return out_of_fuel ? -ETIME : 0;
}

int sf_engine_maps(const sf_engine *e) { return e->runtime ? static_cast<int>(e->policy.maps.size()) : 0; }

int sf_engine_find_map(const sf_engine *e, const char *name) {
  for (int i = 0; const Policy::Map *m = map_of(e, i); i++) {
    if (strcmp(m->def.name, name) == 0) return i;
  }
  return -ENOENT;
}

int sf_engine_map_info(const sf_engine *e, int map, sf_engine_map *info) {
  const Policy::Map *m = map_of(e, map);
  if (!m) return -EINVAL;
  *info = {m->def.type, m->def.key_size, m->def.value_size, m->def.max_entries, m->def.name};
  return 0;
}

int sf_engine_map_lookup(const sf_engine *e, int map, const void *key, void *value) {
  const Policy::Map *m = map_of(e, map);
  if (!m) return -EINVAL;
  const void *found = sf_map_lookup(handle_of(e, map), key, 0);
  if (!found) return -ENOENT;
  memcpy(value, found, m->def.value_size);
  return 0;
}

int sf_engine_map_update(sf_engine *e, int map, const void *key, const void *value, uint64_t flags) {
  const Policy::Map *m = map_of(e, map);
  const bool references = m && (m->def.type == SF_MAP_PROG_ARRAY || m->def.type == SF_MAP_ARRAY_OF_MAPS);
  if (references && !reference_fits(e, *m, value)) return -EINVAL;
  return write_map(e, map, [&](sf_map *handle) { return sf_map_update(handle, key, value, flags, 0); });
}

int sf_engine_map_delete(sf_engine *e, int map, const void *key) {
  return write_map(e, map, [&](sf_map *handle) { return sf_map_delete(handle, key); });
}

int sf_engine_map_next(const sf_engine *e, int map, const void *key, void *next) {
  return map_of(e, map) ? sf_map_next_key(handle_of(e, map), key, next) : -EINVAL;
}

int sf_engine_publish(const sf_engine *e) {
  if (!e->runtime) return -ENOENT;
  return guarded([&] {
    auto published = publish_image(e->policy, e->lowering);
    return published ? published->fd : -ENOMEM;
  });
}

}  // extern "C"
