// The library as an application uses it: through vm/engine.h only.
#include "shortfuse/vm/engine.h"

#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

using ::testing::HasSubstr;

struct Destroy { void operator()(sf_engine *e) const { sf_engine_destroy(e); } };
using Engine = std::unique_ptr<sf_engine, Destroy>;

struct Packet { uint32_t length, kind; uint64_t address; char name[16]; };

Engine make_engine(sf_engine_code code = SF_ENGINE_AUTO, const std::string &types = "") {
  sf_engine_options options{};
  options.size = sizeof options;
  options.context_bytes = sizeof(Packet);
  options.code = code;
  options.types = types.empty() ? nullptr : types.data();
  options.types_bytes = types.size();
  return Engine(sf_engine_create(&options));
}

std::string path_of(const std::string &name) { return std::string(SF_TESTDATA) + "/" + name + ".bpf.o"; }
std::string bytes_of(const std::string &name) {
  std::ifstream in(path_of(name), std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct Log { std::string text; uint64_t number = 0; };

uint64_t note(uint64_t text, uint64_t number, uint64_t, uint64_t, uint64_t, void *state) {
  auto *log = static_cast<Log *>(state);
  log->text = reinterpret_cast<const char *>(text);
  log->number = number;
  return number + 1;
}

uint64_t reverse(uint64_t context, uint64_t memory, uint64_t size, uint64_t, uint64_t, void *) {
  auto *p = reinterpret_cast<char *>(memory);
  std::reverse(p, p + size);
  return reinterpret_cast<const Packet *>(context)->kind;
}

void add_functions(sf_engine *e) {
  ASSERT_EQ(sf_engine_add_function(e, "note(string, scalar)", note), 0);
  ASSERT_EQ(sf_engine_add_function(e, " reverse ( ctx, inout ,size ) ", reverse), 0);
}

uint64_t run(const sf_engine *e, const char *program, const Packet &packet) {
  uint64_t result = ~0ull;
  EXPECT_EQ(sf_engine_run(e, sf_engine_find_program(e, program), &packet, &result), 0) << program;
  return result;
}

TEST(Engine, RunsProgramsOnAnApplicationsBytes) {
  for (sf_engine_code code : {SF_ENGINE_INTERPRET, SF_ENGINE_COMPILE}) {
    Engine e = make_engine(code);
    Log log;
    add_functions(e.get());
    sf_engine_set_state(e.get(), &log);
    ASSERT_EQ(sf_engine_load_file(e.get(), path_of("plugin").c_str()), 0) << sf_engine_error(e.get());
    EXPECT_EQ(sf_engine_compiled(e.get()), code == SF_ENGINE_COMPILE);
    const Packet packet{100, 3, 5, "abcdefghijklmno"};
    EXPECT_EQ(run(e.get(), "packet/in", packet), 103u);
    EXPECT_EQ(run(e.get(), "noting", packet), 6u) << "by the function's name";
    EXPECT_EQ(log.text, "seen");
    EXPECT_EQ(log.number, 5u);
    EXPECT_EQ(run(e.get(), "reversing", packet), 3u << 8 | 'o');
  }
}

TEST(Engine, MapsAndVariables) {
  Engine e = make_engine();
  add_functions(e.get());
  ASSERT_EQ(sf_engine_load_file(e.get(), path_of("plugin").c_str()), 0) << sf_engine_error(e.get());
  const int counts = sf_engine_find_map(e.get(), "counts");
  sf_engine_map info;
  ASSERT_EQ(sf_engine_map_info(e.get(), counts, &info), 0);
  EXPECT_STREQ(info.name, "counts");
  EXPECT_EQ(info.key_size, 4u);
  EXPECT_EQ(info.value_size, 8u);
  uint32_t key = 3, next = 0;
  uint64_t value = 40;
  EXPECT_EQ(sf_engine_map_lookup(e.get(), counts, &key, &value), -ENOENT);
  value = 40;
  EXPECT_EQ(sf_engine_map_update(e.get(), counts, &key, &value, 2), -ENOENT);
  EXPECT_EQ(sf_engine_map_update(e.get(), counts, &key, &value, 1), 0);
  EXPECT_EQ(sf_engine_map_update(e.get(), counts, &key, &value, 1), -EEXIST);
  EXPECT_EQ(run(e.get(), "counting", {1, 3, 0, ""}), 41u);
  EXPECT_EQ(sf_engine_map_lookup(e.get(), counts, &key, &value), 0);
  EXPECT_EQ(value, 41u);
  EXPECT_EQ(sf_engine_map_next(e.get(), counts, nullptr, &next), 0);
  EXPECT_EQ(next, 3u);
  EXPECT_EQ(sf_engine_map_next(e.get(), counts, &next, &next), -ENOENT);
  EXPECT_EQ(sf_engine_map_delete(e.get(), counts, &key), 0);
  EXPECT_EQ(sf_engine_map_delete(e.get(), counts, &key), -ENOENT);

  const int variables = sf_engine_find_map(e.get(), "plugin.bss");
  const int constants = sf_engine_find_map(e.get(), "plugin.rodata");
  const uint32_t only = 0;
  ASSERT_EQ(sf_engine_map_lookup(e.get(), variables, &only, &value), 0);
  EXPECT_EQ(value, 1u) << "runs counted by the program";
  std::vector<char> rodata(4096);
  EXPECT_EQ(sf_engine_map_update(e.get(), constants, &only, rodata.data(), 0), -EPERM);
  EXPECT_EQ(sf_engine_map_info(e.get(), 99, &info), -EINVAL);
  EXPECT_EQ(sf_engine_find_map(e.get(), "none"), -ENOENT);
}

// A map of maps or programs takes only what the verifier counted on.
TEST(Engine, ReferencesAreChecked) {
  Engine e = make_engine();
  ASSERT_EQ(sf_engine_load_file(e.get(), path_of("mapvalues").c_str()), 0) << sf_engine_error(e.get());
  const int maps = sf_engine_find_map(e.get(), "maps"), programs = sf_engine_find_map(e.get(), "programs");
  const uint32_t key = 0;
  auto put = [&](int map, int number) {
    const auto value = static_cast<uint32_t>(number + 1);
    return sf_engine_map_update(e.get(), map, &key, &value, 0);
  };
  EXPECT_EQ(put(maps, sf_engine_find_map(e.get(), "first")), 0);
  EXPECT_EQ(put(maps, programs), -EINVAL);
  EXPECT_EQ(put(maps, 1000000), -EINVAL);
  EXPECT_EQ(put(programs, sf_engine_find_program(e.get(), "f")), 0);
  EXPECT_EQ(put(programs, sf_engine_programs(e.get())), -EINVAL);
}

TEST(Engine, RefusalsAreTextAndJson) {
  Engine e = make_engine();
  EXPECT_STREQ(sf_engine_error(e.get()), "");
  EXPECT_EQ(sf_engine_load_file(e.get(), path_of("plugin").c_str()), -EINVAL);
  EXPECT_THAT(sf_engine_error(e.get()), HasSubstr("there is no function \"note\" here"));
  EXPECT_THAT(sf_engine_report(e.get()), HasSubstr("\"accepted\": false, \"code\": \"extern-unknown\""));
  add_functions(e.get());
  ASSERT_EQ(sf_engine_load_file(e.get(), path_of("plugin").c_str()), 0);
  EXPECT_THAT(sf_engine_report(e.get()), HasSubstr("{\"section\": \"packet/in\", \"name\": \"first\""));
  EXPECT_EQ(sf_engine_load_file(e.get(), path_of("plugin_outside").c_str()), -EINVAL);
  EXPECT_THAT(sf_engine_error(e.get()), HasSubstr("plugin.bpf.c:"));
  EXPECT_THAT(sf_engine_error(e.get()), HasSubstr("offset + 8 <= 32"));
  // As fields, for who shows them in a way of its own.
  for (const char *part : {"\"accepted\": false, \"code\": \"verify-context-bounds\"",
                           "\"category\": \"unsafe\", \"text\": \"",
                           "\"needed\": \"offset + 8 <= 32", "\"known\": \"offset is ", "\"path\": [",
                           "\"file\": \"plugin.bpf.c\", \"line\": ", "\"source\": \"SEC(", "\"insn_text\": \"",
                           "\"suggestion\": \""})
    EXPECT_THAT(sf_engine_report(e.get()), HasSubstr(part));
  EXPECT_EQ(run(e.get(), "packet/in", {100, 3, 5, ""}), 103u) << "what was loaded stays";
  EXPECT_EQ(sf_engine_load_file(e.get(), "/nonexistent"), -ENOENT);
  EXPECT_EQ(sf_engine_load(e.get(), "junk", 4, "junk"), -EINVAL);
  // Functions of shortfuse are not here.
  EXPECT_EQ(sf_engine_load_file(e.get(), path_of("whole").c_str()), -EINVAL);
  EXPECT_THAT(sf_engine_error(e.get()), HasSubstr("there is no function \"sf_"));
}

// The report is of the last load, whatever failed since; the error of the last call that adds or loads.
TEST(Engine, ReportsAreOfTheLastLoad) {
  Engine e = make_engine();
  const auto report = [&] { return std::string(sf_engine_report(e.get())); };
  const std::string nothing = report();
  EXPECT_THAT(nothing, HasSubstr("\"code\": \"nothing-loaded\""));
  EXPECT_EQ(sf_engine_add_function(e.get(), "no prototype", note), -EINVAL);
  EXPECT_STREQ(sf_engine_error(e.get()), "not a prototype: \"no prototype\"");
  EXPECT_EQ(report(), nothing);
  EXPECT_EQ(sf_engine_add_function(e.get(), nullptr, note), -EINVAL);
  EXPECT_EQ(sf_engine_add_function(e.get(), "f()", nullptr), -EINVAL);
  EXPECT_STRNE(sf_engine_error(e.get()), "");
  add_functions(e.get());
  EXPECT_STREQ(sf_engine_error(e.get()), "");
  EXPECT_EQ(sf_engine_add_function(e.get(), "note()", note), -EEXIST);
  EXPECT_STREQ(sf_engine_error(e.get()), "there is a function note()");

  ASSERT_EQ(sf_engine_load_file(e.get(), path_of("plugin").c_str()), 0);
  EXPECT_STREQ(sf_engine_error(e.get()), "");
  const std::string accepted = report();
  EXPECT_THAT(accepted, HasSubstr("\"accepted\": true"));
  EXPECT_EQ(sf_engine_add_function(e.get(), "late()", note), -EBUSY);
  EXPECT_STREQ(sf_engine_error(e.get()), "functions are added before programs are loaded");
  EXPECT_EQ(sf_engine_run(e.get(), 99, nullptr, nullptr), -EINVAL);
  EXPECT_EQ(report(), accepted);

  EXPECT_EQ(sf_engine_load(e.get(), "junk", 4, "junk"), -EINVAL);
  const std::string refused = report(), why = sf_engine_error(e.get());
  EXPECT_THAT(refused, HasSubstr("\"accepted\": false"));
  EXPECT_EQ(run(e.get(), "packet/in", {100, 3, 5, ""}), 103u);
  EXPECT_EQ(sf_engine_find_map(e.get(), "none"), -ENOENT);
  EXPECT_EQ(sf_engine_error(e.get()), why);
  EXPECT_EQ(sf_engine_add_function(e.get(), "late()", note), -EBUSY);
  EXPECT_EQ(report(), refused);
  ASSERT_EQ(sf_engine_load_file(e.get(), path_of("plugin").c_str()), 0);
  EXPECT_EQ(report(), accepted);
}

TEST(Engine, PrototypesThatAreNone) {
  Engine e = make_engine();
  for (const char *text : {"", "f", "f(", "f)", "(scalar)", "f(scalar", "f(what)", "f(scalar,)", "f(,scalar)", "f(in)",
                           "f(size)", "f(in, scalar)", "f(in, size, size)", "1f()", "f() x", "f g()",
                           "f(scalar,scalar,scalar,scalar,scalar,scalar)", "f(scalar,scalar,scalar,scalar,in)"}) {
    EXPECT_EQ(sf_engine_add_function(e.get(), text, note), -EINVAL) << text;
  }
  EXPECT_EQ(sf_engine_add_function(e.get(), "f()", note), 0);
  EXPECT_EQ(sf_engine_add_function(e.get(), "f(scalar)", note), -EEXIST);
  for (int i = 1; i < 64; i++)
    EXPECT_EQ(sf_engine_add_function(e.get(), ("f" + std::to_string(i) + "(in, size)").c_str(), note), 0);
  EXPECT_EQ(sf_engine_add_function(e.get(), "more()", note), -ENOSPC);
}

// Accesses by name are fitted to the types that the application gives.
TEST(Engine, ContextsOfOtherVersions) {
  Engine without = make_engine();
  EXPECT_EQ(sf_engine_load_file(without.get(), path_of("plugin_moved").c_str()), -EINVAL);
  EXPECT_THAT(sf_engine_error(without.get()), HasSubstr("there is no struct packet here"));
  Engine e = make_engine(SF_ENGINE_AUTO, bytes_of("plugin"));
  ASSERT_EQ(sf_engine_load_file(e.get(), path_of("plugin_moved").c_str()), 0) << sf_engine_error(e.get());
  EXPECT_EQ(run(e.get(), "packet/in", {100, 3, 5, ""}), 5u * 1000 + 3);
  EXPECT_EQ(make_engine(SF_ENGINE_AUTO, "no types"), nullptr);
}

TEST(Engine, WrongUse) {
  EXPECT_EQ(sf_engine_create(nullptr), nullptr);
  sf_engine_destroy(nullptr);
  Engine e = make_engine();
  alignas(8) char bytes[64] = {};
  EXPECT_EQ(sf_engine_run(e.get(), 0, bytes, nullptr), -EINVAL) << "nothing is loaded";
  EXPECT_EQ(sf_engine_publish(e.get()), -ENOENT);
  add_functions(e.get());
  ASSERT_EQ(sf_engine_load_file(e.get(), path_of("plugin").c_str()), 0);
  EXPECT_EQ(sf_engine_add_function(e.get(), "late()", note), -EBUSY);
  EXPECT_EQ(sf_engine_run(e.get(), -1, bytes, nullptr), -EINVAL);
  EXPECT_EQ(sf_engine_run(e.get(), 99, bytes, nullptr), -EINVAL);
  EXPECT_EQ(sf_engine_run(e.get(), 0, bytes + 1, nullptr), -EINVAL);
  EXPECT_EQ(sf_engine_run(e.get(), 0, nullptr, nullptr), -EINVAL);
  EXPECT_EQ(sf_engine_run(e.get(), 0, bytes, nullptr), 0);
  EXPECT_EQ(sf_engine_find_program(e.get(), "none"), -ENOENT);
  EXPECT_EQ(sf_engine_program_name(e.get(), -1), nullptr);
  const int fd = sf_engine_publish(e.get());
  EXPECT_GE(fd, 0);
  close(fd);
}

TEST(Engine, ThreadsRunSideBySide) {
  Engine e = make_engine();
  add_functions(e.get());
  Log log;
  ASSERT_EQ(sf_engine_load_file(e.get(), path_of("plugin").c_str()), 0);
  const int counts = sf_engine_find_map(e.get(), "counts"), program = sf_engine_find_program(e.get(), "counting");
  const uint32_t key = 9;
  uint64_t value = 0;
  ASSERT_EQ(sf_engine_map_update(e.get(), counts, &key, &value, 1), 0);
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; t++) {
      threads.emplace_back([&] {
        const Packet packet{1, 9, 0, ""};
        for (int i = 0; i < 1000; i++) sf_engine_run(e.get(), program, &packet, nullptr);
      });
    }
  }
  ASSERT_EQ(sf_engine_map_lookup(e.get(), counts, &key, &value), 0);
  EXPECT_EQ(value, 4000u);
}

}  // namespace
