// What a policy says is what happens: `deny` for processes with the hook and without, also after it was swapped in;
// `passall` serves nothing; `metacache` serves no data. Chains run in order.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/agent.h"
#include "support/control.h"
#include "support/harness.h"

namespace shortfuse::tests {
namespace {

class Policies : public testing::Test {
 protected:
  Policies() {
    // The names that examples/policies/deny.bpf.c lists, and neighbours that only look like them.
    write_file(temp.dir("source/secret") + "/inside", "hidden");
    write_file(temp / "source/secretary", "open");
    write_file(temp.dir("source/private") + "/key.pem", "key");
    write_file(temp / "source/private/key.pem2", "open");
    write_file(temp / "source/plain", "plain");
    point = temp.dir("mnt");
  }
  void mount(const std::string &policies, double kernel_timeout_s = 0) {
    Mount::Options options;
    options.policy = policies;
    options.kernel_timeout_s = kernel_timeout_s;
    mounted = std::make_unique<Mount>(temp / "source", point, options);
  }
  void expect_denied(Agent &agent) {
    for (const char *name : {"/secret/inside", "/private/key.pem", "/secret"}) {
      for (const char *verb : {"stat ", "read ", "list "}) {
        EXPECT_EQ(agent.ask_often(verb + point + name, 20), "EACCES") << verb << name;
      }
      EXPECT_EQ(agent.ask_often("access " + point + name + " 4", 20), "EACCES") << name;
    }
    EXPECT_EQ(agent.ask("write " + point + "/secret/inside text"), "EACCES");
    EXPECT_EQ(agent.ask("create " + point + "/secret/new text"), "EACCES");
    EXPECT_EQ(agent.ask("unlink " + point + "/private/key.pem"), "EACCES");
    EXPECT_EQ(read_file(temp / "source/private/key.pem"), "key");
  }
  void expect_open(Agent &agent) {
    EXPECT_EQ(agent.ask_often("read " + point + "/secretary", 20), "open");
    EXPECT_EQ(agent.ask_often("read " + point + "/private/key.pem2", 20), "open");
    EXPECT_EQ(agent.ask_often("read " + point + "/plain", 20), "plain");
    EXPECT_EQ(agent.ask_often("list " + point + "/private", 20), "key.pem key.pem2");
  }

  TempDir temp;
  std::string point;
  std::unique_ptr<Mount> mounted;
};

TEST_F(Policies, DenyIsEnforcedWithTheHookAndWithout) {
  mount("deny:datacache");
  Agent::Options without;
  without.hooked = false;
  Agent hooked(temp, {}), unhooked(temp, without);
  EXPECT_TRUE(hooked.comes_to_be_served(*mounted, "read " + point + "/plain"));
  for (Agent *agent : {&hooked, &unhooked}) {
    expect_denied(*agent);
    expect_open(*agent);
  }
  EXPECT_GT(hooked.finish().served_total(), 0u);
  mounted->unmount();
}

// What was served and opened before does not stay open.
TEST_F(Policies, DenyIsEnforcedAfterItWasSwappedIn) {
  for (double kernel_timeout_s : {0.0, 3600.0}) {
    mount("datacache", kernel_timeout_s);
    Agent hooked(temp, {});
    EXPECT_TRUE(hooked.comes_to_be_served(*mounted, "stat " + point + "/private/key.pem"));
    EXPECT_EQ(hooked.ask_often("read " + point + "/private/key.pem"), "key");
    EXPECT_EQ(hooked.ask_often("read " + point + "/secret/inside"), "hidden");
    EXPECT_EQ(hooked.ask_often("list " + point + "/secret"), "inside");
    swap(point, "deny:datacache");
    expect_denied(hooked);
    expect_open(hooked);
    swap(point, "datacache");
    EXPECT_EQ(hooked.ask_often("read " + point + "/private/key.pem"), "key");
    EXPECT_GT(hooked.finish().served_total(), 0u);
    mounted->unmount();
    mounted.reset();
  }
}

TEST_F(Policies, PassallServesNothing) {
  mount("passall");
  Agent agent(temp, {});
  EXPECT_TRUE(eventually([&] {
    agent.ask("stat " + point + "/plain");
    return is_attached(agent.process().pid(), mounted->daemon().pid());
  }));
  expect_open(agent);
  EXPECT_EQ(agent.ask_often("stat " + point + "/absent"), "ENOENT");
  auto report = agent.finish();
  EXPECT_EQ(report.served_total(), 0u) << report.text();
  EXPECT_GT(report.missed("stat"), 0u) << report.text();
  mounted->unmount();
}

TEST_F(Policies, MetacacheServesNoData) {
  mount("metacache");
  Agent agent(temp, {});
  EXPECT_TRUE(agent.comes_to_be_served(*mounted, "stat " + point + "/plain"));
  expect_open(agent);
  EXPECT_EQ(agent.ask_often("stat " + point + "/plain").substr(0, 8), "100644 5");
  auto report = agent.finish();
  EXPECT_EQ(report.served("read"), 0u) << report.text();
  EXPECT_GT(report.served("stat"), 0u) << report.text();
  EXPECT_GT(report.served("readdir"), 0u) << report.text();
  mounted->unmount();
}

TEST_F(Policies, AMountWithoutAPolicyIsPlainFuse) {
  mount("");
  Agent agent(temp, {});
  expect_open(agent);
  EXPECT_EQ(agent.finish().served_total(), 0u);
  EXPECT_TRUE(sockets_of(mounted->daemon().pid()).empty());
  mounted->unmount();
}

TEST_F(Policies, TheFirstVerdictOfAChainCounts) {
  mount("passall:metacache");
  Agent agent(temp, {});
  EXPECT_TRUE(agent.comes_to_be_served(*mounted, "stat " + point + "/plain"));
  expect_open(agent);
  EXPECT_EQ(agent.ask_often("stat " + point + "/plain").substr(0, 8), "100644 5");
  EXPECT_GT(agent.finish().served("stat"), 0u);
  mounted->unmount();
}

// A budget far below what is read: evicted, never failed, never wrong.
TEST_F(Policies, ASmallBudgetIsEnough) {
  make_tree(temp / "source/tree", 3000);
  Mount::Options options;
  options.more = "bpftime_mem=4M";
  mounted = std::make_unique<Mount>(temp / "source", point, options);
  Agent agent(temp, {});
  EXPECT_TRUE(agent.comes_to_be_served(*mounted, "read " + point + "/plain"));
  for (int pass = 0; pass < 3; ++pass) {
    for (unsigned i = 0; i < 3000; i += 7) {
      std::string file = "/tree/dir" + std::to_string(i / 100) + "/file" + std::to_string(i);
      ASSERT_EQ(agent.ask("read " + point + file), read_file(temp / ("source" + file))) << file;
    }
  }
  auto cache = status_of(mounted->daemon().pid())["cache"];
  EXPECT_LE(cache["used_bytes"].get<uint64_t>(), 4u << 20);
  EXPECT_GT(agent.finish().served_total(), 0u);
  mounted->unmount();
}

}  // namespace
}  // namespace shortfuse::tests
