#include "shortfuse/metrics/snapshot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace shortfuse::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const char *opcode_name(unsigned opcode) {
  return opcode == 1 ? "lookup" : opcode == 3 ? "getattr" : nullptr;
}

Snapshot example() {
  Snapshot s;
  s.version = "0.1.0";
  s.mount = {.point = "/mnt/x",
             .source = "/usr/include",
             .fstype = "fuse.passthroughfs",
             .daemon_pid = 42,
             .opener_pid = 43,
             .uptime_ns = 61'000'000'000,
             .owner_uid = 1000,
             .flags = {"default_permissions", "allow_other"}};
  s.policy = {.paths = {"/p/a.bpf.o", "/p/b.bpf.o"},
              .epoch = 3,
              .swaps = 2,
              .native = true,
              .programs = {{.section = "syscall/stat", .name = "stat_hit", .insns = 2}}};
  ClientTotals totals;
  totals.op[SF_OP_STAT].outcome = {1000, 1, 7, 2};
  totals.op[SF_OP_STAT].miss[SF_MISS_DENTRY] = 2;
  totals.op[SF_OP_STAT].miss[SF_MISS_EXPIRED] = 5;
  totals.op[SF_OP_STAT].served.bucket[22] = 15;
  totals.op[SF_OP_STAT].other.bucket[50] = 9;
  totals.bytes_served = 123456;
  s.set_ops(totals);
  std::array<FuseTotals, BridgeCounters::kOpcodes> fuse;
  fuse[1] = {.seen = 11, .served = 4, .denied = 1, .passed = 6, .errors = 2};
  s.set_fuse(fuse, opcode_name);
  s.cache = {.budget_bytes = 256 << 20,
             .used_bytes = 5 << 20,
             .chunks = 2,
             .index_buckets = 4096,
             .nodes = 77,
             .refused_fills = 1,
             .evictions = 8,
             .mutations = 9,
             .epoch_bumps = 3,
             .kinds = {{.name = "attr", .records = 70, .bytes = 8960, .fills = 99}}};
  s.add_client(4711, "find", 4, totals);
  s.clients_gone = 6;
  return s;
}

TEST(Snapshot, SurvivesTheWayOverTheSocket) {
  const Snapshot s = example();
  const auto back = from_json(to_json(s));
  ASSERT_TRUE(back.has_value()) << back.error();
  EXPECT_EQ(*back, s);
}

TEST(Snapshot, KeysAreStable) {
  const auto json = nlohmann::json::parse(to_json(example()));
  EXPECT_EQ(json["format"], 1);
  EXPECT_EQ(json["mount"]["point"], "/mnt/x");
  EXPECT_EQ(json["mount"]["daemon_pid"], 42);
  EXPECT_EQ(json["mount"]["opener_pid"], 43);
  EXPECT_EQ(json["policy"]["image"], "native");
  EXPECT_EQ(json["policy"]["programs"][0]["section"], "syscall/stat");
  EXPECT_EQ(json["ops"]["stat"]["served"], 1000);
  EXPECT_EQ(json["ops"]["stat"]["miss"]["expired"], 5);
  EXPECT_EQ(json["ops"]["stat"]["latency_served"]["count"], 15);
  EXPECT_EQ(json["fuse"]["lookup"]["seen"], 11);
  EXPECT_EQ(json["cache"]["kinds"]["attr"]["fills"], 99);
  EXPECT_EQ(json["clients"][0]["comm"], "find");
  EXPECT_EQ(json["clients_gone"], 6);
  // What has never happened is there too, as 0.
  EXPECT_EQ(json["fuse"]["getattr"]["seen"], 0);
  for (unsigned op = 0; op < SF_OP_COUNT; op++) {
    const auto &entry = json["ops"][sf_op_name(op)];
    for (unsigned i = 0; i < SF_OUT_COUNT; i++) EXPECT_TRUE(entry.contains(sf_outcome_name(i)));
    for (unsigned i = 1; i < SF_MISS_COUNT; i++) EXPECT_TRUE(entry["miss"].contains(sf_miss_name(i)));
  }
  EXPECT_EQ(nlohmann::json::parse(to_json(Snapshot{}))["policy"]["image"], "interpreted");
}

TEST(Snapshot, OpcodesWithoutANameAppearOnlyWhenSeen) {
  std::array<FuseTotals, BridgeCounters::kOpcodes> fuse;
  fuse[0].seen = 1;
  fuse[60].seen = 2;
  Snapshot s;
  s.set_fuse(fuse, opcode_name);
  std::vector<std::string> names;
  for (const auto &op : s.fuse) names.push_back(op.name);
  EXPECT_THAT(names, ::testing::ElementsAre("other", "lookup", "getattr", "opcode_60"));
}

TEST(Snapshot, NamesThatAreNotTextDoNoHarm) {
  Snapshot s = example();
  s.mount.point = "/mnt/\xff\xfe\n\033[2J";
  s.clients[0].comm = std::string("a\0b", 3);
  const std::string json = to_json(s);
  ASSERT_TRUE(from_json(json).has_value());
  const std::string table = to_table(s);
  EXPECT_THAT(table, Not(HasSubstr("\033")));
  EXPECT_EQ(table.find('\0'), std::string::npos);
}

TEST(FromJson, RefusesWhatIsNotAStatus) {
  EXPECT_THAT(from_json("").error(), HasSubstr("not JSON"));
  EXPECT_THAT(from_json("{\"format\":1").error(), HasSubstr("not JSON"));
  EXPECT_THAT(from_json("[1]").error(), HasSubstr("not a JSON object"));
  EXPECT_THAT(from_json("{}").error(), HasSubstr("format 0"));
  EXPECT_THAT(from_json("{\"format\":2}").error(), HasSubstr("format 2"));
}

TEST(FromJson, AnOlderOrOddDaemonLeavesDefaults) {
  const auto s = from_json(
      R"({"format":1,"mount":7,"policy":{"paths":[1,"/a"],"epoch":"x","programs":[3,{"name":"n"}]},
          "ops":{"stat":{"served":-1,"miss":[]},"new_op":{}},"clients":[1,{"pid":2}],"fuse":{"x":1},"cache":[],
          "z":null})");
  ASSERT_TRUE(s.has_value()) << s.error();
  EXPECT_EQ(s->policy.paths, std::vector<std::string>{"/a"});
  EXPECT_EQ(s->policy.epoch, 0u);
  ASSERT_EQ(s->policy.programs.size(), 1u);
  EXPECT_EQ(s->policy.programs[0].name, "n");
  ASSERT_EQ(s->clients.size(), 1u);
  EXPECT_EQ(s->clients[0].pid, 2);
  EXPECT_TRUE(s->fuse.empty());
}

TEST(FromJson, NeverCrashesOnTruncatedOrChangedText) {
  const std::string json = to_json(example());
  for (size_t cut = 0; cut < json.size(); cut += 7) (void)from_json(json.substr(0, cut));
  uint32_t state = 12345;
  for (int i = 0; i < 5000; i++) {
    std::string changed = json;
    for (int k = 0; k < 3; k++) {
      state = state * 1664525 + 1013904223;
      changed[(state >> 8) % changed.size()] = static_cast<char>(state >> 3);
    }
    (void)from_json(changed);
  }
}

TEST(Table, ShowsWhatHappenedAndWhy) {
  const std::string table = to_table(example());
  EXPECT_THAT(table, HasSubstr("/mnt/x\n"));
  EXPECT_THAT(table, HasSubstr("/p/a.bpf.o : /p/b.bpf.o (epoch 3, 2 swaps)"));
  EXPECT_THAT(table, HasSubstr("machine code"));
  EXPECT_THAT(table, HasSubstr("expired 5, dentry 2"));
  EXPECT_THAT(table, HasSubstr("find"));
  EXPECT_THAT(table, HasSubstr("5.0 MiB of 256.0 MiB"));
  EXPECT_THAT(table, Not(HasSubstr("readlink")));
  EXPECT_THAT(table, Not(HasSubstr("getattr")));
  EXPECT_EQ(table.back(), '\n');
  EXPECT_THAT(to_table(Snapshot{}), HasSubstr("no calls of applications"));
}

}  // namespace
}  // namespace shortfuse::metrics
