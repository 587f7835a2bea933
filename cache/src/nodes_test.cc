#include "nodes.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace shortfuse::cache {
namespace {

TEST(NodeTable, KnowsTheRoot) {
  NodeTable table(1);
  NodeState *root = table.by_nodeid(FUSE_ROOT_ID);
  ASSERT_NE(nullptr, root);
  EXPECT_EQ(SF_NID_ROOT, root->nid);
  EXPECT_EQ(root, table.by_nid(SF_NID_ROOT));
  EXPECT_EQ("", table.path_of(root));
  EXPECT_EQ(1u, table.size());
  EXPECT_EQ(nullptr, table.by_nid(0));
  EXPECT_EQ(nullptr, table.by_nodeid(0));
  EXPECT_EQ(nullptr, table.by_nid(~0ull));
}

TEST(NodeTable, NidsAreNeverGivenAgain) {
  NodeTable table(1);
  std::set<Nid> seen;
  for (int i = 0; i < 10000; ++i) {
    NodeState *node = table.begin_life(100 + static_cast<uint64_t>(i % 3));
    ASSERT_TRUE(seen.insert(node->nid).second);
    table.end_life(node);
    ASSERT_EQ(nullptr, table.by_nid(*seen.rbegin()));
  }
  EXPECT_EQ(1u, table.size());
}

TEST(NodeTable, RandomOperationsMatchAModel) {
  struct Known { Nid nid; Nid dir = 0; std::string name; };
  NodeTable table(7);
  std::mt19937_64 random(11);
  std::map<uint64_t, Known> model;                        // by node id
  std::map<std::pair<Nid, std::string>, uint64_t> names;  // -> node id
  auto unname = [&](Known &known) {
    if (known.dir != 0) names.erase({known.dir, known.name});
    known.dir = 0;
  };
  for (int step = 0; step < 300000; ++step) {
    const uint64_t nodeid = 2 + random() % 20000 * 0x1000;
    auto at = model.find(nodeid);
    NodeState *node = table.by_nodeid(nodeid);
    ASSERT_EQ(at != model.end(), node != nullptr);
    if (node == nullptr) {
      node = table.begin_life(nodeid);
      at = model.emplace(nodeid, Known{node->nid}).first;
    } else if (random() % 4 == 0) {
      table.end_life(node);
      unname(at->second);
      model.erase(at);
      continue;
    }
    ASSERT_EQ(at->second.nid, node->nid);
    ASSERT_EQ(node, table.by_nid(node->nid));
    const Nid dir = 1 + random() % 3;
    const std::string name = "n" + std::to_string(random() % 9000);
    NodeState *holder = table.by_name(dir, name);
    auto named = names.find({dir, name});
    ASSERT_EQ(named != names.end(), holder != nullptr);
    if (holder != nullptr) {
      ASSERT_EQ(named->second, holder->nodeid);
      if (holder->nodeid != nodeid) unname(model[holder->nodeid]);
    }
    table.set_name(node, dir, name);
    unname(at->second);
    at->second.dir = dir;
    at->second.name = name;
    names[{dir, name}] = nodeid;
    if (random() % 8 == 0) {
      table.clear_name(node);
      unname(at->second);
    }
  }
  EXPECT_EQ(model.size() + 1, table.size());
}

TEST(NodeTable, PathsEndAtTheRootOrAreUnknown) {
  NodeTable table(3);
  NodeState *a = table.begin_life(10), *b = table.begin_life(11), *loose = table.begin_life(12);
  table.set_name(a, SF_NID_ROOT, "a");
  table.set_name(b, a->nid, "b");
  EXPECT_EQ("a/b", table.path_of(b));
  EXPECT_EQ(std::nullopt, table.path_of(loose));
  table.set_name(loose, loose->nid, "ring");
  EXPECT_EQ(std::nullopt, table.path_of(loose)) << "a ring of parents ends";
  table.end_life(a);
  EXPECT_EQ(std::nullopt, table.path_of(b));
  NodeState *node = b;
  table.set_name(b, SF_NID_ROOT, std::string(255, 'x'));
  for (uint64_t i = 0; i < 20; ++i) {
    NodeState *below = table.begin_life(100 + i);
    table.set_name(below, node->nid, std::string(255, 'x'));
    node = below;
  }
  EXPECT_EQ(std::nullopt, table.path_of(node)) << "longer than a path may be";
}

}  // namespace
}  // namespace shortfuse::cache
