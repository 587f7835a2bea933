// Objects as clang makes them: what is read out of them, and every refusal that linking has.
#include "object/object.h"

#include <elf.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "testing/testing.h"
#include "shortfuse/vm/map.h"
#include "shortfuse/vm/runtime.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

std::string path_of(const std::string &name) { return std::string(SF_TESTDATA) + "/" + name + ".bpf.o"; }

std::vector<char> bytes_of(const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Object, ReadsMapsAndPrograms) {
  auto policy = load_policy({path_of("whole")});
  ASSERT_TRUE(policy) << policy.error().str();
  ASSERT_EQ(policy->maps.size(), 8u);
  const sf_image_map &seen = policy->maps[0].def;
  EXPECT_STREQ(seen.name, "seen");
  EXPECT_EQ(seen.type, 1u);
  EXPECT_EQ(seen.key_size, 8u);
  EXPECT_EQ(seen.value_size, 16u);
  EXPECT_EQ(seen.max_entries, 128u);
  EXPECT_STREQ(policy->maps[1].def.name, "table");
  EXPECT_EQ(policy->maps[1].def.value_size, 16u);
  std::map<std::string, const Policy::Map *> data;
  for (size_t i = 2; i < policy->maps.size(); i++) data[policy->maps[i].def.name] = &policy->maps[i];
  ASSERT_TRUE(data.contains("whole.rodata") && data.contains("whole.rodata.more") && data.contains("whole.data") &&
              data.contains("whole.bss") && data.contains("whole.data.own")) << data.size();
  EXPECT_TRUE(data["whole.rodata"]->frozen && data["whole.rodata.more"]->frozen);
  EXPECT_FALSE(data["whole.data"]->frozen || data["whole.bss"]->frozen);
  EXPECT_EQ(data["whole.data"]->initial[0], 5);
  EXPECT_EQ(data["whole.bss"]->initial, std::vector<unsigned char>(32));
  ASSERT_EQ(policy->programs.size(), 4u);
  EXPECT_EQ(policy->programs[0].info.name, "one");
  EXPECT_EQ(policy->programs[1].info.section, "fuse/lookup");
  EXPECT_EQ(policy->programs[2].info.slot, unsigned(SF_SLOT_SYSCALL));
  EXPECT_EQ(policy->programs[3].info.slot, SF_SLOT_FUSE_EXIT + 44u);
}

// A section may begin nowhere near the file and end in it, by the sum of both wrapping.
TEST(Object, SectionsThatWrapLieOutside) {
  const std::vector<char> original = bytes_of(path_of("whole"));
  Elf64_Ehdr header;
  memcpy(&header, original.data(), sizeof header);
  int tried = 0;
  for (size_t i = 1; i < header.e_shnum; i++) {
    const size_t at = header.e_shoff + i * sizeof(Elf64_Shdr);
    Elf64_Shdr section;
    memcpy(&section, original.data() + at, sizeof section);
    if (section.sh_type == SHT_NOBITS || section.sh_size < 16) continue;
    for (const uint64_t offset : {UINT64_MAX, UINT64_MAX - section.sh_size + 1, UINT64_MAX - 7, uint64_t{1} << 63}) {
      auto bytes = original;
      section.sh_offset = offset;
      memcpy(bytes.data() + at, &section, sizeof section);
      auto file = ElfFile::read(bytes.data(), bytes.size());
      ASSERT_FALSE(file) << i << " " << offset;
      EXPECT_EQ(file.error().code, "elf-malformed");
      tried++;
    }
  }
  EXPECT_GT(tried, 20);
}

// The same object runs, in both ways, and its variables change as the C says.
TEST(Object, RunsWhatClangMade) {
  auto policy = load_policy({path_of("whole")});
  ASSERT_TRUE(policy) << policy.error().str();
  auto image = Image::publish(*policy, Lowering::Required);
  ASSERT_TRUE(image) << image.error().str();
  for (bool compiled : {false, true}) {
    Host host(policy->maps);
    sf_fuse_exit_ctx ctx{};
    ctx.req.node = 3;  // odd: the test's hash has no such key
    auto run = [&](uint32_t i) {
      return compiled ? image->run_code(i, &ctx, host.env()) : image->interpret(i, &ctx, host.env());
    };
    auto variable = [&](const char *name, size_t index) {
      for (size_t i = 0; i < policy->maps.size(); i++) {
        if (std::string(policy->maps[i].def.name) != name) continue;
        uint64_t v;
        memcpy(&v, host.value(static_cast<uint32_t>(i)) + index * 8, 8);
        return v;
      }
      return ~uint64_t{0};
    };
    EXPECT_EQ(int32_t(run(0)), (1 + 2 + 3 + 41) * 2 + 6 + 12);
    EXPECT_EQ(variable("whole.bss", 3), (1u + 2 + 3 + 41) * 2);
    EXPECT_EQ(variable("whole.data", 0), 6u);
    EXPECT_EQ(variable("whole.data.own", 0), 12u);
    EXPECT_EQ(int32_t(run(1)), -6);
    EXPECT_EQ(int32_t(run(3)), 0);
    EXPECT_EQ(variable("whole.data", 0), 7u);
    ctx.req.node = 4;
    EXPECT_NE(int32_t(run(0)), 0);  // found: the sum of the pair
    EXPECT_EQ(variable("whole.data", 0), 7u);
  }
}

// A chain: maps of the second object are numbered behind those of the first, programs of a slot run in order.
TEST(Object, Chains) {
  auto policy = load_policy({path_of("whole"), path_of("whole")});
  ASSERT_TRUE(policy) << policy.error().str();
  EXPECT_EQ(policy->maps.size(), 16u);
  EXPECT_EQ(policy->maps[8].def.object, 1u);
  auto image = Image::publish(*policy, Lowering::Auto);
  ASSERT_TRUE(image);
  const sf_image *i = image->get();
  uint32_t first = i->first[SF_SLOT_FUSE + 1];
  ASSERT_EQ(first, 1u);
  EXPECT_EQ(i->program[0].next, 2u);
  EXPECT_EQ(i->program[1].next, 5u);
  EXPECT_EQ(i->program[4].object, 1u);
  EXPECT_EQ(i->program[5].next, 0u);
}

// Every kind of map, with what its declaration says.
TEST(Object, MapKinds) {
  auto policy = load_policy({path_of("mapkinds")});
  ASSERT_TRUE(policy) << policy.error().str();
  const sf_image_map wanted[] = {
      {SF_MAP_HASH, 8, 4, 9, 1, 0, 0, 0, "hash"},
      {SF_MAP_ARRAY, 4, 24, 9, 0, 0, 1, 0, "array"},
      {SF_MAP_PERCPU_HASH, 12, 8, 9, 0, 0, 0, 0, "percpu_hash"},
      {SF_MAP_PERCPU_ARRAY, 4, 8, 1, 0, 0, 0, 0, "percpu_array"},
      {SF_MAP_LRU_HASH, 8, 8, 100, 0, 0, 0, 0, "lru"},
      {SF_MAP_LPM_TRIE, 8, 1, 100, 1, 0, 0, 0, "trie"},
      {SF_MAP_QUEUE, 0, 8, 16, 0, 0, 0, 0, "queue"},
      {SF_MAP_STACK, 0, 8, 16, 0, 0, 0, 0, "stack"},
      {SF_MAP_RINGBUF, 0, 0, 8192, 0, 0, 0, 0, "ring"},
      {SF_MAP_BLOOM_FILTER, 0, 8, 1000, 0, 0, 0, 3, "bloom"},
  };
  ASSERT_EQ(policy->maps.size(), std::size(wanted));
  for (size_t i = 0; i < std::size(wanted); i++) {
    EXPECT_EQ(memcmp(&policy->maps[i].def, &wanted[i], sizeof wanted[i]), 0) << wanted[i].name;
    EXPECT_TRUE(policy->maps[i].initial.empty());
  }
}

std::vector<uint32_t> elements(const Policy::Map &map) {
  std::vector<uint32_t> out(map.initial.size() / 4);
  memcpy(out.data(), map.initial.data(), map.initial.size());
  return out;
}

// Static contents of arrays of maps and programs: indexes into the image of the whole chain.
TEST(Object, StaticValuesOfMaps) {
  auto policy = load_policy({path_of("whole"), path_of("mapvalues")});
  ASSERT_TRUE(policy) << policy.error().str();
  std::map<std::string, uint32_t> map, program;
  for (uint32_t i = 0; i < policy->maps.size(); i++) map[policy->maps[i].def.name] = i;
  for (uint32_t i = 0; i < policy->programs.size(); i++) program[policy->programs[i].info.name] = i;
  const Policy::Map &maps = policy->maps[map["maps"]], &programs = policy->maps[map["programs"]];
  EXPECT_EQ(elements(maps), (std::vector<uint32_t>{0, map["second"] + 1, 0, map["first"] + 1, 0}));
  ASSERT_EQ(maps.inner.size(), 1u);
  EXPECT_EQ(maps.inner[0].type, unsigned(SF_MAP_ARRAY));
  EXPECT_EQ(maps.inner[0].value_size, 8u);
  EXPECT_EQ(maps.def.value_size, 4u);
  EXPECT_EQ(elements(programs), (std::vector<uint32_t>{program["another"] + 1, 0, program["other"] + 1}));
  auto image = Image::publish(*policy, Lowering::InterpretOnly);
  ASSERT_TRUE(image) << image.error().str();
  EXPECT_EQ(sf_image_check(image->get(), image->bytes()), 0);
  const sf_image *i = image->get();
  EXPECT_EQ(i->first[SF_SLOT_FUSE + 15], program["f"] + 1) << "those in \"?fuse/read\" are not attached";
  EXPECT_EQ(i->program[program["f"]].next, 0u);
  EXPECT_EQ(i->program[program["other"]].slot, SF_SLOT_FUSE + 15u);
  EXPECT_EQ(policy->programs[program["other"]].info.section, "?fuse/read");
  EXPECT_FALSE(policy->programs[program["other"]].info.attached);
}

// Functions that are only referred to by address are placed behind the program, once each.
TEST(Object, AddressesOfFunctions) {
  const std::vector<char> bytes = bytes_of(path_of("callbacks"));
  auto file = ElfFile::read(bytes.data(), bytes.size());
  ASSERT_TRUE(file);
  auto linked = link_object(*file, "callbacks", {});
  ASSERT_TRUE(linked) << linked.error().str();
  const LinkedProgram &p = linked->programs.at(0);
  std::map<uint32_t, std::string> starts;
  for (const LinkedFunction &f : p.functions) starts[f.start] = f.name;
  ASSERT_EQ(p.functions.size(), 4u);
  std::vector<std::string> taken, called;
  for (uint32_t pc = 0; pc < p.code.size(); pc++) {
    const RawInsn &in = p.code[pc];
    const uint32_t target = pc + 1 + static_cast<uint32_t>(in.imm);
    if (in.code == kOpCall && in.src() == kCallLocal) called.push_back(starts[target]);
    if (in.code != kOpLoadImm64) continue;
    EXPECT_EQ(in.src(), kImmFunction);
    taken.push_back(starts[target]);
    EXPECT_EQ(p.code[++pc].imm, 0);
  }
  EXPECT_EQ(taken, (std::vector<std::string>{"each", "again", "each"}));
  EXPECT_EQ(called, std::vector<std::string>{"deeper"});
}

struct Refused { const char *object, *code, *text, *detail; };

TEST(Object, Refusals) {
  const Refused cases[] = {
      {"section", "section-unknown", "section \"fuse/lokup\": there is no such operation under fuse/", "readdirplus"},
      {"side", "section-unknown", "a program goes into a section syscall/OP, fuse/OP or fuse_exit/OP", "listxattr"},
      {"noprograms", "no-programs", "the object has no program", ""},
      {"extern", "extern-unknown", "there is no function \"sf_frobnicate\" here", "sf_serve_attr"},
      {"externcount", "extern-type", "the declaration of sf_forget() has 2 parameters, it takes 1", ""},
      {"externtype", "extern-type", "the declaration of sf_forget(): parameter 1 must be a pointer", ""},
      {"externvariable", "extern-unknown", "\"sf_number\" is external, and not a function", ""},
      {"helper", "helper-unknown", "helper number 6 is not offered here", "bpf_map_lookup_elem (1)"},
      {"mapkind", "map-type-unsupported", "map \"events\" is of kind PERF_EVENT_ARRAY (4), which is not supported here",
       "RINGBUF"},
      {"mapempty", "map-malformed", "max_entries is 0 or missing", ""},
      {"mapsize", "map-size", "map \"m\": this many entries of this size", ""},
      {"mapflags", "map-malformed", "map_flags are not supported here for a HASH", ""},
      {"maparraykey", "map-malformed", "keys of a PERCPU_ARRAY have 4 bytes", ""},
      {"mapringkey", "map-malformed", "a RINGBUF has no keys", ""},
      {"mapringsize", "map-malformed", "a power of two of at least 4096", ""},
      {"maptriekey", "map-malformed", "the length of a prefix in 4 bytes", ""},
      {"maptrieflags", "map-malformed", "map_flags BPF_F_NO_PREALLOC", ""},
      {"mapqueuekey", "map-malformed", "a QUEUE has no keys", ""},
      {"mapbloom", "map-malformed", "hash functions, at most 15", ""},
      {"mappercpu", "map-malformed", "over 32 KiB", ""},
      {"mappinning", "map-malformed", "pinning is LIBBPF_PIN_NONE (0) or LIBBPF_PIN_BY_NAME (1)", ""},
      {"mapfield", "map-malformed", "field \"numa_node\" is not supported here", ""},
      {"mapofnothing", "map-malformed", "__array(values, struct ...)", ""},
      {"mapother", "map-malformed", "its value \"small\" does not look as declared", ""},
      {"mapnoprogram", "map-malformed", "one of its `values` is not a program", ""},
      {"maptoomany", "map-malformed", "more `values` than max_entries", ""},
      {"dataaddress", "data-relocation", "holds an address", ""},
      {"context", "context-type", "the program takes a struct sf_fuse_ctx, but is given a struct sf_syscall_ctx", ""},
      {"nodebug", "btf-missing", "compile with -g", ""},
  };
  for (const Refused &c : cases) {
    SCOPED_TRACE(c.object);
    auto policy = load_policy({path_of(c.object)});
    ASSERT_FALSE(policy) << "accepted";
    EXPECT_EQ(policy.error().code.find(c.code), 0u) << policy.error().code << ": " << policy.error().str();
    EXPECT_NE(policy.error().text.find(c.text), std::string::npos) << policy.error().text;
    EXPECT_NE(policy.error().detail.find(c.detail), std::string::npos) << policy.error().detail;
    EXPECT_EQ(policy.error().text.find(std::string(c.object) + ".bpf.o: "), 0u) << policy.error().text;
    EXPECT_EQ(policy.error().text.find('\n'), std::string::npos);
  }
}

// What no compiler makes, but what a file may say.
TEST(Object, RefusesNamesThatAreNoNames) {
  const std::string changed = ::testing::TempDir() + "/changed.bpf.o";
  auto text_of_changed = [&](const char *object, const std::string &from, const std::string &to) {
    std::vector<char> bytes = bytes_of(path_of(object));
    auto at = bytes.begin();
    while ((at = std::search(at, bytes.end(), from.begin(), from.end())) != bytes.end())
      at = std::copy(to.begin(), to.end(), at);
    std::ofstream(changed, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    auto policy = load_policy({changed});
    std::filesystem::remove(changed);
    return policy ? "accepted" : policy.error().text;
  };
  EXPECT_NE(text_of_changed("mapsame", "map_extra", "map_flags").find("\"map_flags\" is declared twice"),
            std::string::npos);
  EXPECT_NE(text_of_changed("whole", "seen", "\x1b[7m").find("a map's name has other characters"), std::string::npos);
}

// Of every kind, a RINGBUF without values among them.
TEST(Object, MapsOfEveryKindAreMadeInThisProcess) {
  auto policy = load_policy({path_of("mapkinds")});
  ASSERT_TRUE(policy) << policy.error().str();
  auto runtime = Runtime::create(*policy, Lowering::InterpretOnly);
  EXPECT_TRUE(runtime) << runtime.error().str();
}

// A refusal by the verifier points at the source.
TEST(Object, RefusalsNameTheSourceLine) {
  auto policy = load_policy({path_of("unsafe")});
  ASSERT_FALSE(policy);
  const Refusal &r = policy.error();
  EXPECT_EQ(r.code, "verify-pointer-arithmetic") << r.str();
  EXPECT_NE(r.text.find("fuse/lookup (f), cases.bpf.c:"), std::string::npos) << r.text;
  EXPECT_NE(r.detail.find("return values[ctx->node]; /* no bound */"), std::string::npos) << r.detail;
  EXPECT_NE(r.detail.find("known: the number is"), std::string::npos) << r.detail;
}

TEST(Object, UnreadableFiles) {
  auto code = [](const std::string &path) {
    auto policy = load_policy({path});
    return policy ? "accepted" : policy.error().code;
  };
  EXPECT_EQ(code("/nonexistent/x.bpf.o"), "file-unreadable");
  EXPECT_EQ(code("/"), "file-unreadable");
  EXPECT_EQ(code("/dev/zero"), "file-unreadable");
  EXPECT_EQ(code("/bin/sh"), "elf-malformed");
  EXPECT_EQ(load_policy({}).error().code, "no-programs");
  EXPECT_EQ(load_policy_bytes("", 0, "empty").error().text,
            "empty: not a well-formed eBPF object: the file is too short");
}

// No state is shared: threads load, compile and run side by side.
TEST(Object, ThreadsDoNotMeet) {
  std::vector<std::jthread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 10; i++) {
        auto refused = load_policy({path_of(t % 2 ? "extern" : "unsafe")});
        auto policy = load_policy({path_of("whole")});
        if (refused || !policy) continue;
        auto image = Image::publish(*policy, i % 5 ? Lowering::InterpretOnly : Lowering::Required);
        Host host(policy->maps);
        sf_fuse_exit_ctx ctx{};
        if (image && sf_policy_run(image->get(), SF_SLOT_FUSE + 1, &ctx, host.env()) != SF_PASS) good++;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(good, 40);
}

// Nothing of a refusal, whatever the object says, can break a line or steer a terminal.
TEST(Object, MessagesArePrintable) {
  std::vector<char> bytes = bytes_of(path_of("section"));
  const std::string name = "fuse/lokup";
  for (size_t at = 0; at + name.size() < bytes.size(); at++) {
    if (memcmp(&bytes[at], name.data(), name.size()) == 0) memcpy(&bytes[at], "fuse/\n\x1b[2J", name.size());
  }
  auto policy = load_policy_bytes(bytes.data(), bytes.size(), "x.bpf.o");
  ASSERT_FALSE(policy);
  for (char c : policy.error().text) EXPECT_GE(static_cast<unsigned char>(c), 0x20);
}

}  // namespace
}  // namespace shortfuse::vm
