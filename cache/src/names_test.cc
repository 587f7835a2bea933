/* What nodes are called: the paths by which they can be opened follow every change of a name. */
#include <set>

#include "testing.h"

namespace shortfuse::cache {
namespace {

using namespace testing;

struct NamesTest : ::testing::Test {
  std::unique_ptr<Cache> cache = make_cache();

  Nid known(uint64_t nodeid, std::string_view name, Nid dir = SF_NID_ROOT, bool is_directory = false) {
    return cache->learn(nodeid, dir, name, is_directory, Holder::Kernel, cache->moment());
  }
};

TEST_F(NamesTest, PathsFollowRenames) {
  const Nid a = known(10, "a", SF_NID_ROOT, true), b = known(11, "b", a, true), c = known(12, "c", b);
  EXPECT_EQ("", cache->path_of(SF_NID_ROOT));
  EXPECT_EQ("a/b/c", cache->path_of(c));
  EXPECT_EQ("a/b/new", cache->path_of(b, "new"));
  EXPECT_EQ("new", cache->path_of(SF_NID_ROOT, "new"));
  cache->renamed(a, "b", SF_NID_ROOT, "B", false);
  EXPECT_EQ("B/c", cache->path_of(c));
  const Nid d = known(13, "d");
  cache->renamed(SF_NID_ROOT, "d", b, "c", true);
  EXPECT_EQ("B/c", cache->path_of(d));
  EXPECT_EQ("d", cache->path_of(c));
  cache->renamed(SF_NID_ROOT, "d", b, "c", false);
  EXPECT_EQ("B/c", cache->path_of(c));
  EXPECT_EQ(std::nullopt, cache->path_of(d)) << "replaced: it has no name any more";
  EXPECT_EQ(std::nullopt, cache->path_of(999));
  cache->renamed(SF_NID_ROOT, "nobody knows", b, "c", false);
  EXPECT_EQ(std::nullopt, cache->path_of(c));
}

TEST_F(NamesTest, AFileIsKnownByEachOfItsNamesUntilThatIsTaken) {
  const Nid dir = known(10, "dir", SF_NID_ROOT, true), file = known(11, "first");
  known(11, "second", dir);
  const Moment before = cache->moment();
  EXPECT_EQ((std::vector<std::string>{"dir/second", "first"}), cache->paths_of(file, 9));
  cache->removed(dir, "second");
  EXPECT_EQ("first", cache->path_of(file));
  cache->renamed(SF_NID_ROOT, "first", dir, "third", false);
  EXPECT_EQ("dir/third", cache->path_of(file));
  std::vector<TouchedName> names = {{dir, "other"}};
  cache->end(cache->begin({}, names));
  cache->removed(dir, "third", before);
  EXPECT_EQ("dir/third", cache->path_of(file)) << "a reply that is older proves nothing";
  cache->removed(dir, "third");
  EXPECT_EQ(std::nullopt, cache->path_of(file));
}

TEST_F(NamesTest, KnownNamesAreThoseThatStillHold) {
  const Nid dir = known(10, "dir", SF_NID_ROOT, true);
  known(11, "file", dir);
  known(12, "file", dir);  // takes the name over
  std::set<std::pair<uint64_t, std::string>> names;
  for (const auto &name : cache->known_names()) names.emplace(name.dir_nodeid, name.name);
  EXPECT_EQ((std::set<std::pair<uint64_t, std::string>>{{FUSE_ROOT_ID, "dir"}, {10, "file"}}), names);
}

TEST_F(NamesTest, LateReplyDoesNotBringAnOldNameBack) {
  const Nid file = known(10, "old");
  const Moment before = cache->moment();
  std::vector<TouchedName> names = {{SF_NID_ROOT, "old"}, {SF_NID_ROOT, "new", false, false}};
  const auto flux = cache->begin({}, names);
  cache->renamed(SF_NID_ROOT, "old", SF_NID_ROOT, "new", false);
  cache->end(flux);
  cache->learn(10, SF_NID_ROOT, "old", false, Holder::Kernel, before);
  EXPECT_EQ("new", cache->path_of(file));
}

}  // namespace
}  // namespace shortfuse::cache
