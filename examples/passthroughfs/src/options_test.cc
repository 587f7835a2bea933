#include "options.h"

#include <gtest/gtest.h>

#include <vector>

namespace shortfuse::passthrough {
namespace {

auto parse(std::vector<std::string> words) {
  words.insert(words.begin(), "passthroughfs");
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  return parse_command_line(static_cast<int>(argv.size()), argv.data());
}

std::string joined(const fuse_args& args) {
  std::string text;
  for (int i = 1; i < args.argc; ++i) text += std::string(i > 1 ? " " : "") + args.argv[i];
  return text;
}

TEST(Seconds, AreDecimalAndNotNegative) {
  EXPECT_EQ(parse_seconds("t", "1"), 1.0);
  EXPECT_EQ(parse_seconds("t", "0"), 0.0);
  EXPECT_EQ(parse_seconds("t", "0.25"), 0.25);
  EXPECT_EQ(parse_seconds("t", ".5"), 0.5);
  EXPECT_EQ(parse_seconds("t", "86400"), 86400.0);
  for (const char* bad : {"", "x", "1x", "-1", "1e3", "nan", "inf", "1.2.3", ".", " 1", "0x10", "99999999999999"}) {
    EXPECT_FALSE(parse_seconds("t", bad)) << bad;
  }
  EXPECT_EQ(parse_seconds("attr_timeout", "abc").error(),
            "attr_timeout=abc: expected a number of seconds, such as 1 or 0.5");
}

TEST(CommandLine, Defaults) {
  auto parsed = parse({"/tmp", "/mnt"});
  ASSERT_TRUE(parsed) << parsed.error();
  const Invocation& invocation = **parsed;
  EXPECT_EQ(invocation.source, "/tmp");
  EXPECT_EQ(invocation.mountpoint, "/mnt");
  EXPECT_EQ(invocation.settings.attr_timeout_s, 1.0);
  EXPECT_EQ(invocation.settings.entry_timeout_s, 1.0);
  EXPECT_EQ(invocation.settings.negative_timeout_s, 1.0);
  EXPECT_TRUE(invocation.settings.default_permissions);
  EXPECT_TRUE(invocation.settings.xattr);
  EXPECT_TRUE(invocation.settings.follow_mounts);
  EXPECT_NE(joined(invocation.args).find("default_permissions"), std::string::npos);
  EXPECT_NE(joined(invocation.args).find("fsname=/tmp"), std::string::npos);
  EXPECT_NE(joined(invocation.args).find("subtype=passthroughfs"), std::string::npos);
}

TEST(CommandLine, TimeoutsFromGeneralToParticular) {
  auto parsed = parse({"/tmp", "/mnt", "-o", "entry_timeout=0.5,timeout=7"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ((*parsed)->settings.attr_timeout_s, 7.0);
  EXPECT_EQ((*parsed)->settings.entry_timeout_s, 0.5);
  EXPECT_EQ((*parsed)->settings.negative_timeout_s, 7.0);
}

TEST(CommandLine, WithoutCachesNothingIsTrusted) {
  auto parsed = parse({"/tmp", "/mnt", "-o", "cache=none,attr_timeout=2"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ((*parsed)->settings.cache, CacheMode::kNone);
  EXPECT_EQ((*parsed)->settings.attr_timeout_s, 2.0);
  EXPECT_EQ((*parsed)->settings.entry_timeout_s, 0.0);
}

TEST(CommandLine, NamesAreAskedForWhereTheSourceChecks) {
  auto parsed = parse({"/tmp", "/mnt", "-o", "nodefault_permissions"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ((*parsed)->settings.entry_timeout_s, 0.0);
  EXPECT_EQ((*parsed)->settings.negative_timeout_s, 0.0);
  EXPECT_EQ((*parsed)->settings.attr_timeout_s, 1.0);
  EXPECT_EQ(joined((*parsed)->args).find("default_permissions"), std::string::npos);
}

TEST(CommandLine, LeavesTheRestToTheSession) {
  auto parsed = parse({"/tmp", "/mnt", "-o", "rw,allow_other,bpftime=a.o:b.o,bpftime_mem=1M,dev,suid", "-f", "-s"});
  ASSERT_TRUE(parsed);
  std::string rest = joined((*parsed)->args);
  for (const char* option : {"allow_other", "bpftime=a.o:b.o", "bpftime_mem=1M", "dev", "suid"}) {
    EXPECT_NE(rest.find(option), std::string::npos) << option << " in " << rest;
  }
  EXPECT_TRUE((*parsed)->cmdline.foreground);
  EXPECT_TRUE((*parsed)->cmdline.singlethread);
}

TEST(CommandLine, KeepsGivenNames) {
  auto parsed = parse({"/tmp", "/mnt", "-o", "fsname=mine,subtype=other"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ(joined((*parsed)->args).find("fsname=/tmp"), std::string::npos);
  EXPECT_EQ(joined((*parsed)->args).find("subtype=passthroughfs"), std::string::npos);
}

TEST(CommandLine, OneLineForEveryMistake) {
  const std::vector<std::vector<std::string>> mistakes{
      {},
      {"/tmp"},
      {"/tmp", "/mnt", "/more"},
      {"/nonexistent-directory", "/mnt"},
      {"/tmp", "/mnt", "-o", "cache=sometimes"},
      {"/tmp", "/mnt", "-o", "cache="},
      {"/tmp", "/mnt", "-o", "locks=none"},
      {"/tmp", "/mnt", "-o", "timeout=soon"},
      {"/tmp", "/mnt", "-o", "attr_timeout=-1"},
      {"/tmp", "/mnt", "-o", "entry_timeout="},
      {"/tmp", "/mnt", "-o", "negative_timeout=1s"},
  };
  for (const auto& words : mistakes) {
    auto parsed = parse(words);
    ASSERT_FALSE(parsed) << (words.empty() ? "" : words.back());
    EXPECT_FALSE(parsed.error().empty());
    EXPECT_EQ(parsed.error().find('\n'), std::string::npos);
  }
}

TEST(CommandLine, HelpNeedsNothingElse) {
  auto parsed = parse({"--help"});
  ASSERT_TRUE(parsed);
  EXPECT_TRUE((*parsed)->cmdline.show_help);
  parsed = parse({"-V"});
  ASSERT_TRUE(parsed);
  EXPECT_TRUE((*parsed)->cmdline.show_version);
}

}  // namespace
}  // namespace shortfuse::passthrough
