#include "options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

namespace shortfuse::bridge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ParseSize, UnitsAndErrors) {
  EXPECT_EQ(parse_size("4096").value(), 4096u);
  EXPECT_EQ(parse_size("64M").value(), 64ull << 20);
  EXPECT_EQ(parse_size("2g").value(), 2ull << 30);
  for (const char *bad : {"", "M", "12X", "1MM", "-1", "1.5G", "99999999999999999999", "18446744073709551615K", " 4"})
    EXPECT_FALSE(parse_size(bad)) << bad;
}

TEST(TakeOptions, LeavesTheOthersAlone) {
  Options options;
  std::string rest;
  ASSERT_TRUE(take_options("rw,bpftime=/a.o:/b.o,allow_other,bpftime_mem=8M,bpftime_share=all", options, rest));
  EXPECT_EQ(rest, "rw,allow_other");
  EXPECT_THAT(options.policies, ElementsAre("/a.o", "/b.o"));
  EXPECT_EQ(options.budget_bytes, 8ull << 20);
  EXPECT_TRUE(options.share_all);
}

TEST(TakeOptions, RelativePathsBecomeAbsolute) {
  Options options;
  std::string rest;
  ASSERT_TRUE(take_options("bpftime=x.o", options, rest));
  EXPECT_EQ(options.policies.at(0), (std::filesystem::current_path() / "x.o").string());
}

TEST(TakeOptions, EscapedCommasStayTogether) {
  Options options;
  std::string rest;
  ASSERT_TRUE(take_options("fsname=a\\,bpftime=b,ro", options, rest));
  EXPECT_EQ(rest, "fsname=a\\,bpftime=b,ro");
  EXPECT_FALSE(options.any);
}

struct Wrong {
  const char *list, *says;
};
class WrongOptions : public ::testing::TestWithParam<Wrong> {};
TEST_P(WrongOptions, SaysWhat) {
  Options options;
  std::string rest;
  auto taken = take_options(GetParam().list, options, rest);
  if (taken) taken = check_options(options);
  ASSERT_FALSE(taken);
  EXPECT_THAT(taken.error(), HasSubstr(GetParam().says));
  EXPECT_EQ(taken.error().find('\n'), std::string::npos);
}
INSTANTIATE_TEST_SUITE_P(All, WrongOptions,
                         ::testing::Values(Wrong{"bpftime", "needs the path"}, Wrong{"bpftime=", "needs the path"},
                                           Wrong{"bpftime=a::b", "empty path"}, Wrong{"bpftime_mem=1M", "between"},
                                           Wrong{"bpftime_mem=lots", "not a size"},
                                           Wrong{"bpftime_share=some", "own or all"},
                                           Wrong{"bpftime_cache=1", "unknown option bpftime_cache"},
                                           Wrong{"bpftime_mem=64M", "need bpftime="}));

TEST(TakeArguments, AllSpellings) {
  std::vector<std::string> arguments{"daemon", "/src", "/mnt", "-o", "rw,bpftime=/p.o", "-obpftime_mem=8M",
                                     "-odefault_permissions", "-f", "--", "-obpftime=/not/an/option"};
  Options options;
  ASSERT_TRUE(take_options(arguments, options));
  EXPECT_THAT(arguments, ElementsAre("daemon", "/src", "/mnt", "-o", "rw", "-o", "default_permissions", "-f", "--",
                                     "-obpftime=/not/an/option"));
  EXPECT_THAT(options.policies, ElementsAre("/p.o"));
  EXPECT_EQ(options.budget_bytes, 8ull << 20);
}

TEST(TakeArguments, NothingOfOursIsNothingSeen) {
  std::vector<std::string> arguments{"daemon", "-oallow_other", "/mnt", "-o"};
  Options options;
  ASSERT_TRUE(take_options(arguments, options));
  EXPECT_FALSE(options.any);
}

}  // namespace
}  // namespace shortfuse::bridge
