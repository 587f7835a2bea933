/* The same scripts on the mount and on a plain directory beside it: every result must be the same, and where a script
 * states a result, that one. One mount serves all cases. */
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "mounted.h"
#include "script.h"

namespace shortfuse::passthrough::testing {
namespace {

std::string new_case_directory(const std::string& base, int number) {
  std::string path = base + "/" + std::to_string(number);
  mkdir(path.c_str(), 0755);
  chmod(path.c_str(), 0777);
  return path;
}

void compare(const std::string& name, const ScriptCase& script, const std::vector<std::string>& plain,
             const std::vector<std::string>& mounted) {
  for (size_t i = 0; i < script.lines.size(); ++i) {
    const ScriptLine& line = script.lines[i];
    if (plain[i] == mounted[i] && (line.expected.empty() || line.expected == mounted[i])) continue;
    ADD_FAILURE() << name << ", line " << line.number << ": " << line.text << "\n  mount: " << mounted[i]
                  << "\n  plain: " << plain[i] << "\n  expected: " << line.expected;
  }
}

std::vector<std::string> scripts() {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(PASSTHROUGHFS_CASES)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

struct Variant {
  const char* name;
  const char* options;
  std::vector<std::string> skipped{};  ///< cases that the kernel itself answers differently then
};

class Conformance : public ::testing::TestWithParam<Variant> {};

TEST_P(Conformance, SameAsAPlainDirectory) {
  if (geteuid() != 0) GTEST_SKIP() << "the scripts act as several users";
  Mounted mounted(GetParam().options);
  ASSERT_TRUE(mounted.ok());
  int checks = 0, number = 0;
  for (const auto& file : scripts()) {
    for (const auto& script : read_script(file)) {
      if (std::ranges::count(GetParam().skipped, script.name)) continue;
      auto plain = run_script(script, new_case_directory(mounted.plain(), number));
      auto results = run_script(script, new_case_directory(mounted.path(), number));
      compare(std::filesystem::path(file).stem().string() + ": " + script.name, script, plain, results);
      checks += static_cast<int>(script.lines.size());
      ++number;
    }
  }
  printf("%d checks in %d cases\n", checks, number);
  EXPECT_GT(checks, 2000);
}

INSTANTIATE_TEST_SUITE_P(
    Options, Conformance,
    ::testing::Values(Variant{"Defaults", "allow_other"}, Variant{"Uncached", "allow_other,cache=none"},
                      Variant{"SourceChecks", "allow_other,nodefault_permissions"},
                      Variant{"Writeback", "allow_other,cache=always,writeback,timeout=3600",
                              {"truncate_to_same_size", "seek_holes"}}),
    [](const auto& variant) { return variant.param.name; });

}  // namespace
}  // namespace shortfuse::passthrough::testing

int main(int argc, char** argv) { return shortfuse::passthrough::testing::run_tests(argc, argv); }
