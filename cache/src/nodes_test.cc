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
  EXPECT_EQ(std::vector<std::string>{""}, table.paths_of(root, 1));
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
  using Name = std::pair<Nid, std::string>;
  struct Known { NodeState *node; std::vector<Name> names; };  // the newest first
  NodeTable table(7);
  std::mt19937_64 random(11);
  std::map<uint64_t, Known> model;  // by node id
  std::map<Name, uint64_t> names;   // -> node id
  auto unname = [&](const Name &name) {
    const auto named = names.find(name);
    if (named == names.end()) return;
    std::erase(model[named->second].names, name);
    names.erase(named);
  };
  NodeState *dirs[3] = {table.by_nid(SF_NID_ROOT), table.begin_life(2), table.begin_life(3)};
  dirs[1]->flags = dirs[2]->flags = kNodeDirectory;
  table.set_name(dirs[1], SF_NID_ROOT, "one");
  table.set_name(dirs[2], dirs[1]->nid, "two");
  const char *paths[3] = {"", "one/", "one/two/"};
  for (int step = 0; step < 300000; ++step) {
    const uint64_t nodeid = 4 + random() % 20000 * 0x1000;
    const bool directory = nodeid % 0x3000 == 4;
    auto at = model.find(nodeid);
    NodeState *node = table.by_nodeid(nodeid);
    ASSERT_EQ(at != model.end() ? at->second.node : nullptr, node);
    if (node == nullptr) {
      node = table.begin_life(nodeid);
      if (directory) node->flags |= kNodeDirectory;
      at = model.emplace(nodeid, Known{node, {}}).first;
    } else if (random() % 8 == 0) {
      table.end_life(node);
      for (const Name &name : std::vector(at->second.names)) unname(name);
      model.erase(at);
      continue;
    }
    ASSERT_EQ(node, table.by_nid(node->nid));
    const unsigned dir = static_cast<unsigned>(random() % 3);
    const Name name = {dirs[dir]->nid, "n" + std::to_string(random() % 9000)};
    const NodeState *holder = table.by_name(name.first, name.second);
    const auto named = names.find(name);
    ASSERT_EQ(named != names.end() ? model[named->second].node : nullptr, holder);
    std::vector<Name> &own = at->second.names;
    if (own.empty() || own.front() != name) unname(name);
    if (random() % 4 == 0) {
      unname(name);
      table.clear_name(name.first, name.second);
    } else {
      table.set_name(node, name.first, name.second);
      if (directory)
        for (const Name &old : std::vector(own)) unname(old);
      if (own.empty() || own.front() != name) own.insert(own.begin(), name);
      names[name] = nodeid;
    }
    std::vector<std::string> expected;
    for (const Name &each : own)
      for (int i = 0; i < 3; ++i)
        if (each.first == dirs[i]->nid) expected.push_back(paths[i] + each.second);
    ASSERT_EQ(expected, table.paths_of(node, SIZE_MAX));
  }
  EXPECT_EQ(model.size() + 3, table.size());
  size_t visited = 0;
  table.for_each_name([&](const NodeName &) { ++visited; });
  EXPECT_EQ(names.size() + 2, visited);
}

std::optional<std::string> path_of(const NodeTable &table, const NodeState *node) {
  const auto paths = table.paths_of(node, 1);
  return paths.empty() ? std::nullopt : std::optional(paths.front());
}

TEST(NodeTable, PathsEndAtTheRootOrAreUnknown) {
  NodeTable table(3);
  NodeState *a = table.begin_life(10), *b = table.begin_life(11), *loose = table.begin_life(12);
  table.set_name(a, SF_NID_ROOT, "a");
  table.set_name(b, a->nid, "b");
  EXPECT_EQ("a/b", path_of(table, b));
  EXPECT_EQ(std::nullopt, path_of(table, loose));
  a->flags = loose->flags = kNodeDirectory;
  table.set_name(loose, loose->nid, "ring");
  EXPECT_EQ(std::nullopt, path_of(table, loose)) << "a ring of parents ends";
  table.end_life(a);
  EXPECT_EQ(std::nullopt, path_of(table, b));
  NodeState *node = b;
  table.set_name(b, SF_NID_ROOT, std::string(255, 'x'));
  for (uint64_t i = 1; i < kPathBytesMax / 256; ++i) {
    NodeState *below = table.begin_life(100 + i);
    below->flags = kNodeDirectory;
    table.set_name(below, node->nid, std::string(255, 'x'));
    node = below;
  }
  const auto longest = path_of(table, node);
  ASSERT_TRUE(longest);
  EXPECT_EQ(kPathBytesMax - 1, longest->size());
  NodeState *below = table.begin_life(99);
  table.set_name(below, node->nid, "x");
  EXPECT_EQ(std::nullopt, path_of(table, below)) << "longer than a path may be";
}

TEST(NodeTable, NamesOfDirectoriesThatHaveGoneLeadNowhere) {
  NodeTable table(3);
  NodeState *dir = table.begin_life(10), *file = table.begin_life(11);
  dir->flags = kNodeDirectory;
  table.set_name(dir, SF_NID_ROOT, "dir");
  table.set_name(file, SF_NID_ROOT, "first");
  table.set_name(file, dir->nid, "second");
  EXPECT_EQ((std::vector<std::string>{"dir/second", "first"}), table.paths_of(file, 2));
  EXPECT_EQ((std::vector<std::string>{"dir/second"}), table.paths_of(file, 1));
  table.end_life(dir);
  EXPECT_EQ((std::vector<std::string>{"first"}), table.paths_of(file, 1));
}

}  // namespace
}  // namespace shortfuse::cache
