// What people read when a policy is refused: the texts beside testing/testdata/refused.bpf.c, and refusals.md.
#include "refusals.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>

#include "testing/testing.h"

namespace shortfuse::vm {
namespace {

const char *const kCases[] = {SF_REFUSED_CASES};

std::string file_text(const std::string &path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Equal to the file; or made so, where that is asked for.
void expect_file(const std::string &path, const std::string &text) {
  if (getenv("SHORTFUSE_RENEW")) std::ofstream(path) << text;
  EXPECT_EQ(file_text(path), text) << path << "; if the change is meant: SHORTFUSE_RENEW=1";
}

Refusal refusal_of(const std::string &name) {
  auto policy = load_policy({std::string(SF_TESTDATA) + "/refused-" + name + ".bpf.o"});
  EXPECT_FALSE(policy) << name << " was accepted";
  return policy ? Refusal{} : policy.error();
}

TEST(Refusals, ReadAsTheyShould) {
  for (const char *name : kCases) {
    const Refusal r = refusal_of(name);
    const std::string file = std::string(SF_SOURCE) + "/testing/testdata/refused/" + name + ".txt";
    expect_file(file, "[" + r.code + "]\n" + r.str() + "\n");
  }
}

TEST(Refusals, HaveAllFields) {
  for (const char *name : kCases) {
    SCOPED_TRACE(name);
    const Refusal r = refusal_of(name);
    EXPECT_NE(find_refusal_code(r.code), nullptr) << r.code;
    EXPECT_NE(r.category, RefusalCategory::None);
    EXPECT_FALSE(r.reason.empty() || r.suggestion.empty());
    EXPECT_LE(r.path.size(), 6u);
    for (const RefusalStep &step : r.path) EXPECT_FALSE(step.what.empty() || step.source.empty() || step.line == 0);
    if (r.code.rfind("verify-", 0) != 0) continue;
    EXPECT_EQ(r.file, "refused.bpf.c");
    EXPECT_FALSE(r.line == 0 || r.source.empty() || r.insn < 0 || r.insn_text.empty());
  }
  const Refusal r = refusal_of("index");
  EXPECT_EQ(r.category, RefusalCategory::NotProved);
  EXPECT_EQ(r.needed, "0 <= offset and offset + 1 <= 64");
  EXPECT_NE(r.known.find("offset is in [0, 255], 1 byte since line "), std::string::npos) << r.known;
  EXPECT_GE(r.path.size(), 1u);
  EXPECT_EQ(refusal_of("constant").category, RefusalCategory::Unsafe);
  EXPECT_EQ(refusal_of("place").category, RefusalCategory::NotSupported);
}

TEST(Refusals, AreListed) { expect_file(std::string(SF_SOURCE) + "/../refusals.md", refusal_table()); }

// Every code that is given is listed, and every listed one is given somewhere; those of the verifier are in a test.
TEST(Refusals, AreAllKnownAndTested) {
  std::string sources, tests;
  for (const auto &file : std::filesystem::recursive_directory_iterator(SF_SOURCE)) {
    const std::string path = file.path();
    const bool code = path.ends_with(".cc") || path.ends_with(".h") || path.ends_with(".txt");
    if (!code || path.ends_with("/refusals.cc")) continue;
    const bool test = path.ends_with("_test.cc") || path.ends_with(".txt");
    (test ? tests : sources) += file_text(path);
  }
  auto mentions = [](const std::string &text, const std::string &code) {
    return text.find("\"" + code + "\"") != std::string::npos;
  };
  const std::regex given(R"re((refuse(_reg|_limit)?\(|Refusal\{|Unexpected\(\{)\s*"([a-z0-9-]+)")re");
  for (std::sregex_iterator m(sources.begin(), sources.end(), given), end; m != end; ++m) {
    const std::string code = (*m)[3];
    EXPECT_TRUE(code == "test" || find_refusal_code(code) || find_refusal_code("verify-" + code)) << code;
  }
  for (const RefusalCode &c : refusal_codes()) {
    const std::string code = c.code, bare = code.rfind("verify-", 0) == 0 ? code.substr(7) : code;
    EXPECT_TRUE(mentions(sources, bare)) << code << " is never given";
    if (bare == code) continue;  // of objects: not all can be made with a compiler
    EXPECT_TRUE(mentions(tests, bare) || mentions(tests, code) || tests.find("[" + code + "]") != std::string::npos)
        << code << " is in no test";
  }
}

}  // namespace
}  // namespace shortfuse::vm
