// ctest-timeout: 1800
// Whatever a program can do with descriptors, and however a process can live: on the mount with the hook, on the mount
// without it, and on an ordinary file system. With the hook all is as without; where FUSE itself is not like ext4,
// the case says so and why. See conformance/case.h.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "conformance/case.h"

namespace shortfuse::tests::conformance {
namespace {

/// case directory outside out
SF_WORKER(conformance) {
  Place place{args.at(1), args.at(2), args.at(3)};
  for (const auto &one : all_cases()) {
    if (args.at(0) != one.name) continue;
    if (chdir(place.dir.c_str()) != 0) throw Broken("no " + place.dir);
    one.function(place);
    say("end", "of the case");
    return 0;
  }
  throw Broken("no case " + args.at(0));
}

/// directory
SF_WORKER(conformance_warm) {
  // What the first look missed, the second leaves hints for or finds.
  for (int look = 0; look < 2; ++look) warm(args.at(0));
  return 0;
}

using Lines = std::vector<std::pair<std::string, std::string>>;

Lines lines_of(const std::string &text) {
  Lines lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.emplace_back(line.substr(0, line.find(':')), line);
  return lines;
}

bool is_explained(const Case &one, const std::string &key) {
  for (const auto &known : one.from_ext4) {
    std::string_view line = known.line;
    bool several = line.ends_with('*');
    if (several ? key.starts_with(line.substr(0, line.size() - 1)) : key == line) return true;
  }
  return false;
}

std::string without_explained(const Case &one, const std::string &text) {
  std::string rest;
  for (const auto &[key, line] : lines_of(text)) {
    if (!is_explained(one, key)) rest += line + "\n";
  }
  return rest;
}

/// The output, with the lines that cannot be the same where opens are served as they then are.
std::string with_opens_served(const Case &one, const std::string &text) {
  std::string rest;
  for (const auto &[key, line] : lines_of(text)) {
    auto other = std::ranges::find_if(one.with_opens, [&](const Instead &instead) { return key == instead.line; });
    rest += other == one.with_opens.end() ? line + "\n" : key + ": " + other->says + "\n";
  }
  return rest;
}

struct Observed {
  int status;
  std::string out, err;
};

/// How a program is run: the hook, and what it is told of opens.
struct Way {
  const char *name;
  bool hooked;
  const char *opens;
};

Observed observe(const Case &one, const TempDir &temp, const std::string &dir, const std::string &name,
                 const Way &way) {
  const bool hooked = way.hooked;
  std::string place = temp.dir("outside/" + name), out = temp / (name + ".out");
  // By another process, so that what the report tells was served in the case itself.
  Spec warming = worker("conformance_warm", {dir}, hooked);
  warming.env["SHORTFUSE_OPEN"] = way.opens;
  run(warming);
  if (chmod(place.c_str(), 0777) != 0) throw Broken("chmod " + place);
  Spec spec = worker("conformance", {one.name, dir, place, out}, hooked);
  spec.out = out;
  spec.err = temp / (name + ".err");
  spec.env["SHORTFUSE_OPEN"] = way.opens;
  spec.report = temp / (name + ".report");
  // Also of processes that have become somebody else.
  write_file(spec.report, "");
  if (chmod(spec.report.c_str(), 0666) != 0) throw Broken("chmod " + spec.report);
  Process process(spec);
  int status = process.wait(std::chrono::seconds(120));
  return {status, read_file(spec.out), read_file(spec.err)};
}

struct Setting {
  const char *name;
  double kernel_timeout_s;
  const char *opens;   ///< SHORTFUSE_OPEN; "": as when nothing is said
};
void PrintTo(const Setting &setting, std::ostream *out) { *out << setting.name; }

class Conformance : public testing::TestWithParam<std::tuple<Setting, Case>> {
 public:
  static void TearDownTestSuite() {
    // Where opens are served at all they are in many cases, and else in none.
    for (const auto &[setting, place] : shared()) {
      const bool served = setting.starts_with("Opens");
      if (served ? place->cases > 50 && place->opens_served < 100 : place->opens_served > 0)
        ADD_FAILURE() << setting << ": opens served: " << place->opens_served << ", cases: " << place->cases;
    }
    shared().clear();
  }

 protected:
  struct Ground {
    TempDir temp;
    std::string source = temp.dir("source"), point = temp.dir("mnt"), plain = temp.dir("plain");
    Mount mount;
    unsigned cases = 0;
    uint64_t opens_served = 0;
    explicit Ground(const Setting &setting) : mount(source, point, options_of(setting)) {}
  };
  /// One mount per setting, for all its cases.
  static Ground &ground(const Setting &setting) {
    auto &place = shared()[setting.name];
    if (!place) place = std::make_unique<Ground>(setting);
    return *place;
  }

 private:
  static Mount::Options options_of(const Setting &setting) {
    Mount::Options options;
    options.kernel_timeout_s = setting.kernel_timeout_s;
    if (is_root()) options.more = "allow_other,default_permissions,bpftime_share=all";
    return options;
  }
  static std::map<std::string, std::unique_ptr<Ground>> &shared() {
    static std::map<std::string, std::unique_ptr<Ground>> all;
    return all;
  }
};

TEST_P(Conformance, SameWithAndWithout) {
  const auto &[setting, one] = GetParam();
  if (one.root_only && !is_root()) GTEST_SKIP() << "needs root";
  Ground &at = ground(setting);
  const std::string name = one.name;
  std::map<std::string, Observed> by;
  auto on_mount = [&](const std::string &here, const Way &way) {
    plant(at.source + "/" + here);
    return observe(one, at.temp, at.point + "/" + here, here, way);
  };
  by["unhooked"] = on_mount(name + ".unhooked", {"unhooked", false, setting.opens});
  plant(at.plain + "/" + name);
  by["ext4"] = observe(one, at.temp, at.plain + "/" + name, name + ".ext4", {"ext4", false, setting.opens});
  const bool opens_served = std::string_view(setting.opens).empty();
  const std::string expected = opens_served ? with_opens_served(one, by["unhooked"].out) : by["unhooked"].out;
  // Who meets a busy daemon lets it be for a second or more; then it is said again, and has to be the same again.
  constexpr unsigned kAttempts = 20;
  Report report;
  for (unsigned attempt = 1; attempt <= kAttempts; ++attempt) {
    const std::string here = name + ".hooked" + std::to_string(attempt);
    if (attempt > 1) nap_ms(1500);
    by["hooked"] = on_mount(here, {"hooked", true, setting.opens});
    EXPECT_EQ(by["hooked"].out, expected) << "the hook makes a difference";
    report = Report::read(at.temp / (here + ".report"));
    if (std::ranges::all_of(one.served, [&](const char *op) { return report.served(op) > 0; })) break;
  }

  for (const auto &[way, seen] : by) {
    EXPECT_EQ(seen.status, 0) << way << "\n" << seen.out << seen.err;
    EXPECT_NE(seen.out.find("end: of the case"), std::string::npos) << way << ": the case did not come to its end";
  }
  EXPECT_EQ(by["hooked"].err, by["unhooked"].err);
  EXPECT_EQ(without_explained(one, by["unhooked"].out), without_explained(one, by["ext4"].out))
      << "FUSE makes a difference that the case does not explain";
  for (const char *op : one.served) EXPECT_GT(report.served(op), 0u) << op << "\n" << report.text();
  at.cases++;
  at.opens_served += report.served("open");
  EXPECT_TRUE(at.mount.daemon().running()) << at.mount.log();
}

INSTANTIATE_TEST_SUITE_P(
    All, Conformance,
    testing::Combine(testing::Values(Setting{"NoKernelCache", 0, "kernel"}, Setting{"KernelCache", 3600, "kernel"},
                                     Setting{"OpensServed", 0, ""}),
                     testing::ValuesIn(all_cases())),
    [](const auto &given) { return std::string(std::get<1>(given.param).name) + "_" + std::get<0>(given.param).name; });

}  // namespace
}  // namespace shortfuse::tests::conformance
