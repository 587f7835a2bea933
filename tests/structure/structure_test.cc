// The rules that the source tree sets itself, checked on the source tree: who may include whom, headers that compile
// alone, the sizes of files and lines, a README per folder, and what the preloaded library may need.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr size_t kFileLinesMax = 800;
constexpr size_t kColumnsMax = 120;
constexpr size_t kReadmeLinesMax = 30;

const fs::path kSource = SF_SOURCE_DIR;

/// Folder -> the folders whose public headers it may include, besides its own. tests/ and fuzz/ may look at everything.
const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"metrics", {}},
    {"cache", {"metrics"}},
    {"policy-vm", {}},
    {"bypass", {"cache", "policy-vm", "metrics"}},
    {"syscall-hook", {"bypass"}},
    {"fuse-bridge", {"cache", "policy-vm", "metrics"}},
    {"cli", {"cache", "policy-vm", "metrics"}},
    {"examples/passthroughfs", {"fuse-bridge"}},
    {"examples/policies", {"policy-vm"}},
    {"bench", {}},
};

/// The same within policy-vm/src, of which these parts stand on each other; the rest may look at everything.
const std::map<std::string, std::set<std::string>> kPolicyVmMayInclude = {
    {"isa", {}},
    {"object", {"isa"}},
    {"verify", {"isa", "object", "refusals.h"}},
    {"maps", {"isa"}},
    {"lower", {"isa", "maps"}},
    {"publish", {"isa", "object", "lower"}},
    {"run", {"isa", "maps"}},
};

/// In the application only the part of the virtual machine that runs an image is there.
const std::set<std::string> kRunHeaders = {"shortfuse/vm/image.h", "shortfuse/vm/abi.h", "shortfuse/vm/map.h",
                                           "shortfuse/policy.h", "shortfuse/bpf.h", "shortfuse/trace.h",
                                           "shortfuse/vm/trace_session.h"};

/// "shortfuse/vm/..." -> the folder that owns it.
std::optional<std::string> owner(const std::string &include) {
  static const std::pair<const char *, const char *> owners[] = {
      {"shortfuse/metrics/", "metrics"},  {"shortfuse/cache/", "cache"},       {"shortfuse/vm/", "policy-vm"},
      {"shortfuse/policy.h", "policy-vm"}, {"shortfuse/bypass/", "bypass"},    {"shortfuse/hook/", "syscall-hook"},
      {"shortfuse/bpf.h", "policy-vm"},       {"shortfuse/trace.h", "policy-vm"}, {"shortfuse/bridge/", "fuse-bridge"}};
  for (const auto &[prefix, folder] : owners) {
    if (include.starts_with(prefix)) return folder;
  }
  return std::nullopt;
}

bool is_code(const fs::path &path) {
  static const std::set<std::string> extensions = {".cc", ".h", ".c", ".S", ".cpp", ".hpp", ".sh", ".py", ".cmake"};
  return extensions.contains(path.extension().string()) || path.filename() == "CMakeLists.txt";
}

std::vector<std::string> lines_of(const fs::path &path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

/// Every file of ours below a folder: no build directories, nothing hidden.
std::vector<fs::path> files_below(const fs::path &root) {
  std::vector<fs::path> files;
  for (auto it = fs::recursive_directory_iterator(root); it != fs::recursive_directory_iterator(); ++it) {
    const std::string name = it->path().filename().string();
    if (it->is_directory() && (name.starts_with('.') || name.starts_with("build"))) {
      it.disable_recursion_pending();
    } else if (it->is_regular_file() && !name.starts_with('.')) {
      files.push_back(it->path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string in_tree(const fs::path &path) {
  return path.lexically_relative(kSource).string();
}

/// What is between the quotes or brackets of an #include line.
std::optional<std::string> included(const std::string &line) {
  const size_t hash = line.find_first_not_of(" \t");
  if (hash == std::string::npos || line[hash] != '#') return std::nullopt;
  const size_t word = line.find_first_not_of(" \t", hash + 1);
  if (word == std::string::npos || line.compare(word, 7, "include") != 0) return std::nullopt;
  const size_t open = line.find_first_of("\"<", word + 7);
  if (open == std::string::npos) return std::nullopt;
  const size_t close = line.find_first_of("\">", open + 1);
  return line.substr(open + 1, close - open - 1);
}

/// One sentence when a file in `directory`, somewhere in `folder`, may not include this.
std::optional<std::string> forbidden(const std::string &folder, const fs::path &directory, const std::string &include) {
  if (include.find("../") != std::string::npos) {
    const std::string target = in_tree((directory / include).lexically_normal());
    if (!target.starts_with(folder + "/")) return "leaves its folder: " + include;
  }
  if (!include.starts_with("shortfuse/")) return std::nullopt;
  const auto of = owner(include);
  if (!of) return "belongs to no folder: " + include;
  if (*of == folder) return std::nullopt;
  if (!kMayInclude.at(folder).contains(*of)) return folder + " may not include " + *of + ": " + include;
  if (folder == "bypass" && *of == "policy-vm" && !kRunHeaders.contains(include)) {
    return "the application may only run images: " + include;
  }
  return std::nullopt;
}

/// The same for a file of policy-vm/src; tests may look at everything.
std::optional<std::string> forbidden_in_policy_vm(const fs::path &file, const std::string &include) {
  const std::string root = "policy-vm/src/", directory = in_tree(file.parent_path());
  if (!directory.starts_with(root) || !fs::exists(kSource / root / include)) return std::nullopt;
  if (file.stem().string().ends_with("_test") || file.stem() == "map_bench") return std::nullopt;
  const std::string part = directory.substr(root.size()), of = include.substr(0, include.find('/'));
  const auto may = kPolicyVmMayInclude.find(part);
  if (may == kPolicyVmMayInclude.end() || of == part || may->second.contains(of)) return std::nullopt;
  return "policy-vm/src/" + part + " may not include " + include;
}

/// Runs a command line; its output when it fails, "" when it succeeds.
std::string complaint_of(const std::string &command) {
  FILE *pipe = popen((command + " 2>&1").c_str(), "r");
  std::string output;
  std::array<char, 4096> buffer;
  for (size_t got; (got = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) output.append(buffer.data(), got);
  if (pclose(pipe) == 0) return "";
  return output.empty() ? "failed" : output;
}

std::string include_flags() {
  std::string flags = " -I/usr/include/fuse3 -DFUSE_USE_VERSION=314 -D_FILE_OFFSET_BITS=64";
  for (const auto &[folder, may] : kMayInclude) {
    if (fs::exists(kSource / folder / "include")) flags += " -I" + (kSource / folder / "include").string();
  }
  return flags;
}

/// A header for C says so by what it lacks: C++ headers, namespaces.
bool is_for_c(const fs::path &header) {
  for (const auto &line : lines_of(header)) {
    const auto include = included(line);
    if (line.starts_with("namespace ") || line.starts_with("#pragma once")) return false;
    if (include && !include->ends_with(".h")) return false;
  }
  return true;
}

TEST(Structure, IncludesFollowTheFolders) {
  size_t looked_at = 0;
  for (const auto &[folder, may] : kMayInclude) {
    if (!fs::exists(kSource / folder)) continue;
    for (const auto &file : files_below(kSource / folder)) {
      // A folder's whole-process tests bring the parts together; the rule is for what they are made of.
      const std::string path = in_tree(file);
      const bool is_test = path.find("/tests/") != std::string::npos || file.stem().string().ends_with("_test");
      if (!is_code(file) || is_test) continue;
      looked_at++;
      for (const auto &line : lines_of(file)) {
        const auto include = included(line);
        if (!include) continue;
        auto why = forbidden(folder, file.parent_path(), *include);
        if (!why) why = forbidden_in_policy_vm(file, *include);
        EXPECT_FALSE(why.has_value()) << path << ": " << *why;
      }
    }
  }
  EXPECT_GT(looked_at, 50u) << "the tree is not where it is looked for";
}

TEST(Structure, TheRuleItselfCanFail) {
  const auto refused = [](const std::string &folder, const std::string &include) {
    return forbidden(folder, kSource / folder / "src", include).has_value();
  };
  EXPECT_TRUE(refused("metrics", "shortfuse/cache/layout.h"));
  EXPECT_TRUE(refused("bypass", "shortfuse/vm/vm.h"));
  EXPECT_TRUE(refused("syscall-hook", "shortfuse/cache/reader.h"));
  EXPECT_TRUE(refused("cli", "../../cache/src/index.h"));
  EXPECT_TRUE(refused("cli", "shortfuse/unknown.h"));
  EXPECT_FALSE(refused("cli", "../src/control.h"));
  EXPECT_FALSE(refused("bypass", "shortfuse/vm/image.h"));
  EXPECT_FALSE(refused("metrics", "stdint.h"));
  const fs::path isa = kSource / "policy-vm/src/isa";
  EXPECT_TRUE(forbidden_in_policy_vm(isa / "decode.cc", "object/object.h").has_value());
  EXPECT_FALSE(forbidden_in_policy_vm(isa / "insn_test.cc", "testing/testing.h").has_value());
  EXPECT_EQ(included("  #  include \"a/b.h\"  // c"), "a/b.h");
  EXPECT_EQ(included("#include <x>"), "x");
  EXPECT_FALSE(included("// #include <x>").has_value());
}

TEST(Structure, PublicHeadersCompileAlone) {
  const std::string flags = include_flags();
  size_t compiled = 0;
  for (const auto &[folder, may] : kMayInclude) {
    if (!fs::exists(kSource / folder / "include")) continue;
    for (const auto &header : files_below(kSource / folder / "include")) {
      if (header.extension() != ".h") continue;
      compiled++;
      const std::string path = header.string();
      EXPECT_THAT(complaint_of(SF_CXX_COMPILER " -x c++ -std=c++23 -Wall -Wextra -Wno-missing-field-initializers "
                               "-Wno-pragma-once-outside-header -fsyntax-only" + flags + " " + path),
                  IsEmpty()) << in_tree(header) << " as C++";
      if (!is_for_c(header)) continue;
      EXPECT_THAT(complaint_of(SF_C_COMPILER " -x c -std=gnu17 -Wall -Wextra -fsyntax-only" + flags + " " + path),
                  IsEmpty()) << in_tree(header) << " as C";
    }
  }
  EXPECT_GT(compiled, 10u);
}

TEST(Structure, FilesAndLinesAreOfReadableSize) {
  for (const auto &file : files_below(kSource)) {
    if (!is_code(file)) continue;
    const auto lines = lines_of(file);
    EXPECT_LE(lines.size(), kFileLinesMax) << in_tree(file);
    for (size_t i = 0; i < lines.size(); i++) {
      // Characters, not bytes: continuation bytes of UTF-8 take no column.
      const auto columns = std::count_if(lines[i].begin(), lines[i].end(), [](char c) { return (c & 0xc0) != 0x80; });
      EXPECT_LE(static_cast<size_t>(columns), kColumnsMax) << in_tree(file) << ":" << i + 1;
    }
  }
}

TEST(Structure, EveryFolderExplainsItselfBriefly) {
  std::vector<std::string> folders{"tests", "fuzz"};
  for (const auto &[folder, may] : kMayInclude) folders.push_back(folder);
  for (const auto &folder : folders) {
    if (!fs::exists(kSource / folder / "CMakeLists.txt")) continue;
    const fs::path readme = kSource / folder / "README.md";
    ASSERT_TRUE(fs::exists(readme)) << folder;
    EXPECT_LE(lines_of(readme).size(), kReadmeLinesMax) << folder;
    EXPECT_GE(lines_of(readme).size(), 5u) << folder;
  }
}

/// Variables named in strings of what is installed: "SHORTFUSE_LOG=..." and "SHORTFUSE_LOG".
std::set<std::string> variables_read() {
  std::set<std::string> names;
  for (const char *folder : {"bypass", "syscall-hook", "fuse-bridge", "cli", "cache", "metrics", "policy-vm"}) {
    for (const auto &file : files_below(kSource / folder)) {
      const std::string stem = file.stem().string(), path = in_tree(file);
      const bool tests = stem.ends_with("_test") || path.find("/tests/") != std::string::npos ||
                         path.find("/testing/") != std::string::npos;
      if (tests || !is_code(file) || file.filename() == "CMakeLists.txt") continue;
      for (const auto &line : lines_of(file)) {
        for (size_t at = 0; (at = line.find("\"SHORTFUSE_", at)) != std::string::npos;) {
          const size_t end = line.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", ++at);
          // Shorter ones are beginnings that are compared with; others are no names of variables.
          const bool whole = end != std::string::npos && (line[end] == '=' || line[end] == '"') && end - at > 12;
          if (whole) names.insert(line.substr(at, end - at));
        }
      }
    }
  }
  return names;
}

TEST(Structure, EveryVariableIsInTheManualAndNoOther) {
  std::set<std::string> documented;
  bool of_ours = false;
  for (const auto &line : lines_of(kSource / "docs/shortfuse-environment.7")) {
    of_ours = line.starts_with(".B SHORTFUSE_");
    if (of_ours) documented.insert(line.substr(3));
  }
  EXPECT_EQ(documented, variables_read());
  EXPECT_GE(documented.size(), 7u);
}

#ifdef SF_HOOK
TEST(Structure, ThePreloadedLibraryNeedsNothing) {
  const std::string list = std::string(SF_READELF " -d ") + SF_HOOK;
  FILE *pipe = popen(list.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  size_t entries = 0;
  std::array<char, 512> line;
  while (fgets(line.data(), line.size(), pipe) != nullptr) {
    const std::string text = line.data();
    entries += text.find("(STRTAB)") != std::string::npos;
    if (text.find("(NEEDED)") == std::string::npos) continue;
    // It is loaded into every program there is: what it drags in, it drags into all of them.
    const bool allowed = text.find("[libc.so.6]") != std::string::npos || text.find("[ld-linux") != std::string::npos;
    EXPECT_TRUE(allowed) << text;
  }
  EXPECT_EQ(pclose(pipe), 0);
  EXPECT_EQ(entries, 1u) << "readelf did not read " SF_HOOK;
}
#endif

}  // namespace
