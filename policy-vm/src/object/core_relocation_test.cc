// Objects made with other headers than ours: they run right on this build, or are refused by name.
#include "object/core_relocation.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <random>

#include "testing/testing.h"
#include "object/core_match.h"
#include "object/type_description.h"

namespace shortfuse::vm {
namespace {

using namespace testing;
using Bytes = std::vector<unsigned char>;

std::string path_of(const std::string &name) { return std::string(SF_TESTDATA) + "/" + name + ".bpf.o"; }

Bytes bytes_of(const std::string &name) {
  std::ifstream in(path_of(name), std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

sf_fuse_exit_ctx a_lookup() {
  sf_fuse_exit_ctx ctx{};
  ctx.req.size = sizeof(sf_fuse_ctx);
  ctx.req.opcode = 1;
  ctx.req.node = 7;
  ctx.req.uid = 12, ctx.req.gid = 13, ctx.req.pid = 14;
  ctx.req.offset = 1000;
  ctx.req.length = ctx.req.nodeid = ctx.req.unique = 0xabababababababab;
  ctx.error = -2;
  return ctx;
}

// Fields that were moved, resized, renamed apart or added are found where they are here; what is new there is asked
// for and not used.
TEST(Core, ObjectsOfOtherVersionsRun) {
  for (const char *name : {"core_old", "core_new", "core_flavour", "core_exit", "core_questions"}) {
    SCOPED_TRACE(name);
    auto policy = load_policy({path_of(name)});
    ASSERT_TRUE(policy) << policy.error().str();
    auto image = Image::publish(*policy, Lowering::Auto);
    ASSERT_TRUE(image);
    Host host(policy->maps);
    sf_fuse_exit_ctx ctx = a_lookup();
    EXPECT_EQ(static_cast<int32_t>(image->interpret(0, &ctx, host.env())), 1);
    if (image->compiled()) {
      EXPECT_EQ(static_cast<int32_t>(image->run_code(0, &ctx, host.env())), 1);
    }
    uint64_t r0 = 0;
    EXPECT_EQ(host.checked_run(policy->programs[0].insns, policy->programs[0].info.slot, &ctx, &r0), "");
  }
}

TEST(Core, WhatIsMissingIsNamed) {
  struct Case { const char *object, *text; };
  const Case cases[] = {
      {"core_unguarded", "struct sf_fuse_ctx has no field \"colour\" of that kind here"},
      {"core_type", "there is no struct sf_palette here"},
      {"core_signed", "field \"node\" of struct sf_fuse_ctx has another size here"},
      {"core_kind", "struct sf_fuse_ctx has no field \"node[0]\" of that kind here"},
      {"core_enumerator", "enum sf_verdict has no value \"SF_POSTPONED\" here"},
  };
  for (const Case &c : cases) {
    auto policy = load_policy({path_of(c.object)});
    ASSERT_FALSE(policy) << c.object;
    EXPECT_EQ(policy.error().code, "verify-core-missing") << policy.error().str();
    EXPECT_NE(policy.error().text.find(c.text), std::string::npos) << policy.error().text;
    EXPECT_NE(policy.error().text.find("fuse/lookup (f), core.bpf.c:"), std::string::npos) << policy.error().text;
    EXPECT_NE(policy.error().detail.find("bpf_core_field_exists()"), std::string::npos) << policy.error().detail;
  }
}

// ---- bit fields and arrays, which our contexts do not have

struct part { uint8_t level; uint16_t weight; };
struct parts {
  uint32_t head;
  uint32_t low : 3, middle : 7, high : 12;
  int sign : 5;
  uint64_t before;
  part element[4];
  char name[16];
};

std::expected<LinkedObject, Refusal> link_to_parts(const std::string &name) {
  const Bytes theirs = bytes_of(name), ours = bytes_of("core_parts");
  auto target = BtfInfo::read(ElfFile::read(ours.data(), ours.size()).value());
  auto file = ElfFile::read(theirs.data(), theirs.size());
  if (!target || !file) return std::unexpected(Refusal{"test", "the objects cannot be read", ""});
  Target types_of_parts;
  types_of_parts.types = target->types();
  return link_object(*file, name, {0, 0, 0, &types_of_parts});
}

uint64_t run(const LinkedProgram &p, void *memory) {
  sf_vm_env env{};
  env.fuel = 1000;
  return sf_interpret(p.code.data(), static_cast<uint32_t>(p.code.size()), memory, &env);
}

TEST(Core, BitFieldsAndArrays) {
  parts p{};
  p.low = 5, p.middle = 99, p.high = 1234, p.sign = -3;
  p.element[2].weight = 321, p.element[3].level = 200;
  p.name[5] = 'x';
  auto linked = link_to_parts("core_theirs");
  ASSERT_TRUE(linked) << linked.error().str();
  ASSERT_EQ(linked->programs.size(), 3u);
  EXPECT_EQ(static_cast<int64_t>(run(linked->programs[0], &p)), 5 + 990 + 12340000 - 300000000);
  EXPECT_EQ(run(linked->programs[1], &p), 321u + 200 * 1000 + 'x' * 1000000u);
  EXPECT_EQ(run(linked->programs[2], &p), 0u) << "an element behind the end of ours";
}

// ---- hostile bytes

TEST(Core, RelocationsThatMakeNoSense) {
  const btf *own = own_btf();
  const auto context = static_cast<uint32_t>(btf__find_by_name_kind(own, "sf_fuse_ctx", BTF_KIND_STRUCT));
  const auto verdict = static_cast<uint32_t>(btf__find_by_name_kind(own, "sf_verdict", BTF_KIND_ENUM));
  ASSERT_GT(context, 0u);
  auto apply = [&](uint32_t type, const std::string &path, uint32_t kind) {
    RawInsn insn[2] = {mov(0, 8), leave()};
    return apply_core_relocation(own, own, {type, path, kind}, insn, 2).has_value();
  };
  EXPECT_TRUE(apply(context, "0:2", 0));
  for (const char *path : {"", ":", "0:", "x", "0:999", "0:2:0", "-1", "99999999999999999999", "0:2 ", "4294967295",
                           "0:0:0:0", "0:4294967296"}) {
    EXPECT_FALSE(apply(context, path, 0)) << path;
  }
  std::string deep = "0";
  for (int i = 0; i < 100; i++) deep += ":0";
  EXPECT_FALSE(apply(context, deep, 0));
  EXPECT_FALSE(apply(context, "0:1", 0)) << "the instruction does not hold that offset";
  EXPECT_FALSE(apply(0, "0", 0));
  EXPECT_FALSE(apply(4000000000u, "0", 8));
  EXPECT_FALSE(apply(context, "0:2", 13));
  EXPECT_FALSE(apply(context, "0", 11)) << "not an enumeration";
  EXPECT_FALSE(apply(verdict, "2", 11));
  EXPECT_FALSE(apply(verdict, "", 11));
  EXPECT_FALSE(apply(verdict, "99999999999", 11));
  RawInsn leaves[1] = {leave()};
  EXPECT_FALSE(apply_core_relocation(own, own, {context, "0:2", 0}, leaves, 1).has_value());
  RawInsn half[1] = {raw(kOpLoadImm64, 0, 0, 0, 8)};
  EXPECT_FALSE(apply_core_relocation(own, own, {context, "0:2", 0}, half, 1).has_value());
}

// A structure that contains itself, many times over: what walks through types ends all the same.
TEST(Core, TypesThatContainThemselves) {
  const BtfPtr b(btf__new_empty());
  const int id = btf__add_struct(b.get(), "sf_fuse_ctx", 64);
  std::string path = "0";
  for (int i = 0; i < 32; i++)
    ASSERT_EQ(btf__add_field(b.get(), ("m" + std::to_string(i)).c_str(), id, static_cast<uint32_t>(i) * 8, 0), 0);
  for (int i = 0; i < 40; i++) path += ":31";
  const auto type = static_cast<uint32_t>(id);
  EXPECT_FALSE(describe_type(b.get(), type).empty());
  EXPECT_FALSE(types_match(b.get(), type, own_btf(), type));
  for (uint32_t kind = 0; kind < 13; kind++) {
    for (const btf *target : {static_cast<const btf *>(b.get()), own_btf()}) {
      RawInsn insn[2] = {mov(0, 0), leave()};
      (void)apply_core_relocation(b.get(), target, {type, path, kind}, insn, 2);
      (void)apply_core_relocation(b.get(), target, {type, "0", kind}, insn, 2);
    }
  }
}

// What is said of an access that is missing here is kept per copy of its instruction: a long name costs little.
TEST(Core, LongNamesAreCutInMessages) {
  const Bytes original = bytes_of("core_unguarded");
  auto file = ElfFile::read(original.data(), original.size());
  ASSERT_TRUE(file);
  auto before = link_object(*file, "x", {});
  ASSERT_TRUE(before);
  ASSERT_FALSE(before->programs[0].missing.empty());
  const std::string said = before->programs[0].missing.begin()->second;
  // The name of the field, made half a megabyte long: a string of its own at the end of the section.
  const size_t quote = said.find('"'), end = said.find('"', quote + 1);
  ASSERT_NE(end, std::string::npos) << said;
  const std::string field = said.substr(quote + 1, end - quote - 1);
  for (ElfSection &section : file->sections) {
    if (section.name != ".BTF") continue;
    btf_header header;
    memcpy(&header, section.data.data(), sizeof header);
    auto *text = reinterpret_cast<char *>(section.data.data()) + header.hdr_len + header.str_off;
    const std::string strings(text, header.str_len);
    const auto old = static_cast<uint32_t>(strings.find(std::string(1, 0) + field + std::string(1, 0)) + 1);
    ASSERT_NE(old, 0u) << field;
    const uint32_t longer = header.str_len;
    section.data.insert(section.data.end(), 1u << 19, 'x');
    section.data.push_back(0);
    const size_t types = header.hdr_len + header.type_off;
    for (size_t at = types; at + sizeof(btf_member) <= types + header.type_len; at += 4) {
      btf_member member;
      memcpy(&member, section.data.data() + at, sizeof member);
      if (member.name_off == old && member.offset == 64) memcpy(section.data.data() + at, &longer, sizeof longer);
    }
    header.str_len += (1u << 19) + 1;
    memcpy(section.data.data(), &header, sizeof header);
  }
  auto after = link_object(*file, "x", {});
  ASSERT_TRUE(after) << after.error().str();
  ASSERT_FALSE(after->programs[0].missing.empty());
  for (const auto &[pc, what] : after->programs[0].missing) {
    EXPECT_LE(what.size(), 240u);
    EXPECT_NE(what.find("xxx"), std::string::npos);
  }
}

// Damage to the types and relocations: refused, or linked to something that the verifier judges.
TEST(Core, DamagedTypes) {
  std::mt19937_64 random(7);
  int accepted = 0, refused = 0;
  for (const char *name : {"core_new", "core_questions", "core_theirs"}) {
    const Bytes original = bytes_of(name);
    auto whole = ElfFile::read(original.data(), original.size());
    ASSERT_TRUE(whole);
    for (int round = 0; round < 3000; round++) {
      ElfFile file = *whole;
      for (ElfSection &section : file.sections) {
        if (section.name != (round % 2 ? ".BTF" : ".BTF.ext") || section.data.size() < 32) continue;
        for (uint64_t n = 1 + random() % 4; n > 0; n--) {
          const size_t at = 24 + random() % (section.data.size() - 28);
          const uint32_t value = random() % 3 ? static_cast<uint32_t>(random() % 64) : static_cast<uint32_t>(random());
          if (random() % 2) section.data[at] = static_cast<unsigned char>(value);
          else memcpy(&section.data[at & ~size_t{3}], &value, 4);
        }
      }
      auto object = link_object(file, name, {});
      object ? accepted++ : refused++;
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace shortfuse::vm
