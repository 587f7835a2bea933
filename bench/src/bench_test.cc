// The arithmetic, the tree and the pictures; nothing here is timed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "layout.h"
#include "plot.h"
#include "results.h"
#include "tree.h"

namespace shortfuse::bench {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

Results example() {
  Results r;
  r.variants = {{"ext4", "the <source>"}, {"fuse", "plain"}, {kHookedVariant, "ours"}};
  r.operations = {{.name = "stat", .title = "stat & co", .unit = "ns", .bars = {{"ext4", 0.35}, {"fuse", 0.01}}},
                  {.name = "fio_1", .title = "fio", .unit = "IOPS", .higher_is_better = true, .bars = {{"ext4", 1.0}}},
                  {.name = "none", .title = "never run", .unit = "ns"}};
  r.operation("stat").samples = {{"ext4", {300, 500, 400}}, {"fuse", {20000}}, {kHookedVariant, {100, 90, 80}}};
  r.operation("fio_1").samples = {{"ext4", {1000}}, {kHookedVariant, {2000, 4000}}};
  return r;
}

TEST(Median, IsTheMiddle) {
  EXPECT_EQ(median({}), 0);
  EXPECT_EQ(median({7}), 7);
  EXPECT_EQ(median({9, 1, 5}), 5);
  EXPECT_EQ(median({9, 1, 5, 6}), 5.5);
}

TEST(Results, RatiosAreOfTimes) {
  Results r = example();
  EXPECT_DOUBLE_EQ(*r.operation("stat").ratio(kHookedVariant, "ext4"), 90.0 / 400);
  EXPECT_DOUBLE_EQ(*r.operation("fio_1").ratio(kHookedVariant, "ext4"), 1000.0 / 3000) << "more throughput, less time";
  EXPECT_FALSE(r.operation("stat").ratio(kHookedVariant, "absent").has_value());
  EXPECT_THROW(r.operation("unknown"), std::logic_error);
}

TEST(Results, BarsAreJudgedAsTheyStand) {
  Results r = example();
  EXPECT_THAT(r.table(), HasSubstr("0.23 of ext4 (bar 0.35) ok"));
  EXPECT_THAT(r.table(), HasSubstr("222 x fuse (bar 100 x) ok"));
  EXPECT_THAT(r.table(), Not(HasSubstr("never run")));
  r.operation("stat").samples[kHookedVariant] = {201};
  EXPECT_THAT(r.table(), HasSubstr("0.50 of ext4 (bar 0.35) MISSED"));
  EXPECT_THAT(r.table(), HasSubstr("100 x fuse (bar 100 x) MISSED"));
  const auto json = r.json();
  EXPECT_EQ(json["operations"]["stat"]["bars"][0]["met"], false);
  EXPECT_EQ(json["operations"]["stat"]["variants"]["ext4"]["median"], 400);
  r.operation("stat").samples.erase(kHookedVariant);
  EXPECT_THAT(r.table(), HasSubstr("not measured"));
  EXPECT_EQ(r.json()["operations"]["stat"]["bars"][0]["met"], false);
}

TEST(Plot, IsWellFormedAndEscaped) {
  const Results r = example();
  const std::string svg = bar_chart(r, "a < b", "ns");
  EXPECT_THAT(svg, HasSubstr("<svg xmlns="));
  EXPECT_THAT(svg, HasSubstr("stat &amp; co"));
  EXPECT_THAT(svg, HasSubstr("a &lt; b"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  EXPECT_EQ(bar_chart(r, "t", "no such unit"), "");
  EXPECT_THAT(report_page(r), HasSubstr("the &lt;source&gt;"));
  EXPECT_THAT(report_page(r), Not(HasSubstr("http://cdn")));
}

TEST(Tree, IsLargeEnoughAndTheSameEachTime) {
  char name[] = "/tmp/sf-bench-test.XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const std::string root = name;
  const TreeFigures first = make_tree(root + "/a", 1 << 20), second = make_tree(root + "/b", 1 << 20);
  EXPECT_GE(first.files, kTreeFilesMin);
  EXPECT_EQ(first.files, second.files);
  EXPECT_EQ(first.bytes, second.bytes);
  uint64_t files = 0;
  for (const auto &entry : fs::recursive_directory_iterator(root + "/a/tree")) files += entry.is_regular_file();
  EXPECT_EQ(files, first.files);
  const auto read = [](const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  EXPECT_EQ(read(root + "/a/fio.dat").size(), 1u << 20);
  EXPECT_TRUE(read(root + "/a/fio.dat") == read(root + "/b/fio.dat"));
  EXPECT_EQ(fs::file_size(root + "/a/micro/" + micro_file_name(kMicroFiles - 1)), 4096u);
  fs::remove_all(root);
}

}  // namespace
}  // namespace shortfuse::bench
