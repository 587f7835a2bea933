// Where verdicts are kept, and where root leaves somebody else's directories alone.
#include "site_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>

namespace {

namespace fs = std::filesystem;
constexpr unsigned kOther = 54321;  // nobody's user id

class SiteCache : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "sf-cache-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    module_.text = 0x1000, module_.text_end = 0x2000;
    module_.build_id_bytes = 20;
    for (uint8_t &byte : module_.build_id) byte = static_cast<uint8_t>(getpid() >> (&byte - module_.build_id) % 3 * 8);
  }
  void TearDown() override {
    for (const auto &entry : fs::directory_iterator("/var/cache/shortfuse", ignored_))
      if (entry.path().filename().string().starts_with("raw-" + id().substr(0, 40))) fs::remove(entry.path(), ignored_);
    fs::remove_all(folder_);
  }

  std::string id() const {
    std::string text;
    for (unsigned i = 0; i < module_.build_id_bytes; i++)
      for (int shift : {4, 0}) text += "0123456789abcdef"[module_.build_id[i] >> shift & 15];
    return text;
  }

  /// Stores a verdict with that in the environment and says what is found then.
  int stored_with(const std::string &variable) {
    std::string copy = variable;
    char *environment[] = {copy.data(), nullptr};
    sf_cache_place place;
    sf_cache_place_find(environment, &place);
    sf_cache_store_verdict(&place, &module_, 1);
    return sf_cache_load_verdict(&place, &module_);
  }
  void give_away(const fs::path &path) { ASSERT_EQ(lchown(path.c_str(), kOther, kOther), 0); }

  fs::path folder_;
  sf_module module_ = {};
  std::error_code ignored_;
};

bool has_system_place() { return fs::exists("/var/cache/shortfuse"); }

TEST_F(SiteCache, Places) {
  auto place_of = [](std::string variable) {
    char *environment[] = {variable.data(), nullptr};
    sf_cache_place place;
    sf_cache_place_find(environment, &place);
    if (!place.user[0]) return std::string("none");
    return std::string(place.user) + "|" + (place.user + place.above) + "|" + (place.user + place.parent);
  };
  EXPECT_EQ(place_of("HOME=/users/one"), "/users/one/.cache/shortfuse|/users/one|.cache");
  EXPECT_EQ(place_of("HOME=/users/one//"), "/users/one/.cache/shortfuse|/users/one|.cache");
  EXPECT_EQ(place_of("HOME=/"), "/.cache/shortfuse|/|.cache");
  EXPECT_EQ(place_of("XDG_CACHE_HOME=/cache"), "/cache/shortfuse|/|cache");
  EXPECT_EQ(place_of("XDG_CACHE_HOME=/run/user/1/cache"), "/run/user/1/cache/shortfuse|/run/user/1|cache");
  EXPECT_EQ(place_of("XDG_CACHE_HOME=/"), "none");
  EXPECT_EQ(place_of("HOME=relative"), "none");
  EXPECT_EQ(place_of("HOME=/" + std::string(5000, 'x')), "none");
}

TEST_F(SiteCache, MakesItsOwn) {
  EXPECT_EQ(stored_with("HOME=" + folder_.string()), 1);
  if (geteuid() == 0 && has_system_place()) return;
  EXPECT_TRUE(fs::is_symlink(folder_ / ".cache/shortfuse" / ("raw-" + id())));
  EXPECT_EQ(stored_with("XDG_CACHE_HOME=" + (folder_ / "other").string()), 1);
  EXPECT_TRUE(fs::is_symlink(folder_ / "other/shortfuse" / ("raw-" + id())));
}

TEST_F(SiteCache, ALinkOfOnesOwnIsFollowedToTheParentOnly) {
  fs::create_directory(folder_ / "elsewhere");
  fs::create_directory_symlink(folder_ / "elsewhere", folder_ / ".cache");
  EXPECT_EQ(stored_with("HOME=" + folder_.string()), 1);
  if (geteuid() == 0 && has_system_place()) return;
  EXPECT_TRUE(fs::is_directory(folder_ / "elsewhere/shortfuse"));
  fs::remove_all(folder_ / "elsewhere/shortfuse");
  fs::create_directory(folder_ / "target");
  fs::create_directory_symlink(folder_ / "target", folder_ / "elsewhere/shortfuse");
  stored_with("HOME=" + folder_.string());
  EXPECT_TRUE(fs::is_empty(folder_ / "target"));
}

TEST_F(SiteCache, RootLeavesOthersAlone) {
  if (geteuid() != 0) return;  // nobody else can be in that place
  const fs::path home = folder_ / "home", roots = folder_ / "roots";
  fs::create_directory(home);
  fs::create_directory(roots);
  give_away(home);
  stored_with("HOME=" + home.string());
  EXPECT_TRUE(fs::is_empty(home)) << "nothing is made there";
  // Links of that user's into a directory of root's.
  fs::create_directory_symlink(roots, home / ".cache");
  give_away(home / ".cache");
  stored_with("HOME=" + home.string());
  EXPECT_TRUE(fs::is_empty(roots));
  fs::remove(home / ".cache");
  fs::create_directory(home / ".cache");
  fs::create_directory_symlink(roots, home / ".cache/shortfuse");
  give_away(home / ".cache");
  give_away(home / ".cache/shortfuse");
  stored_with("HOME=" + home.string());
  EXPECT_TRUE(fs::is_empty(roots));
}

}  // namespace
