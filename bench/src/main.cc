// shortfuse-bench: what a file system call costs on ext4, on FUSE without and with the kernel's caches, and on FUSE
// with shortfuse. All on the same directory, in one run, interleaved, so that the ratios mean something on a noisy
// machine; absolute figures are only this machine's.
//
//     make the tree -> mount the variants -> warm up -> rounds of (every variant in turn) -> medians -> table, plots
//
// Nothing is left behind: mounts and directories belong to objects, and signals unwind.
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "layout.h"
#include "plot.h"
#include "process.h"
#include "results.h"
#include "tree.h"
#include "variant.h"

namespace shortfuse::bench {
namespace {

namespace fs = std::filesystem;

struct Settings {
  std::string out = "build/bench";
  std::string work;  ///< where the tree is made; "" is `out`
  std::string memory = "1G";
  bool quick = false;
  bool without_fio = false;
  std::vector<std::string> only;  ///< programs; empty: everything
  unsigned rounds = 0;  ///< 0: as quick says

  unsigned round_count() const { return rounds != 0 ? rounds : quick ? 3 : 9; }
  unsigned micro_ms() const { return quick ? 40 : 150; }
  unsigned fio_seconds() const { return quick ? 1 : 3; }
  uint64_t fio_bytes() const { return (quick ? 16ull : 64ull) << 20; }
};

/// A directory of the run's own, removed when it goes.
class WorkDirectory {
 public:
  explicit WorkDirectory(const std::string &under) {
    fs::create_directories(under);
    std::string name = fs::absolute(under).string() + "/work.XXXXXX";
    if (mkdtemp(name.data()) == nullptr) throw Failure(under + ": cannot make a directory there");
    path_ = name;
  }
  ~WorkDirectory() {
    std::error_code failed;
    fs::remove_all(path_, failed);
  }
  WorkDirectory(const WorkDirectory &) = delete;
  std::string operator/(const std::string &name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

void say(const std::string &text) {
  fmt::print(stderr, "bench: {}\n", text);
}

// ---- what is measured

constexpr double kCall = 0.35, kRead = 0.70, kList = 0.40, kOpen = 0.65, kOpenRead = 0.50;

std::vector<Operation> all_operations() {
  const Bar call{"ext4", kCall};
  const Bar stat_against_fuse{"fuse", 0.01}, find_against_fuse{"fuse", 0.05}, as_ext4{"ext4", 1.0};
  return {
      {.name = "stat", .title = "stat of one file", .unit = "ns", .bars = {call, stat_against_fuse}},
      {.name = "stat_1000", .title = "stat of 1,000 files", .unit = "ns", .bars = {call}},
      {.name = "stat_missing", .title = "stat of a missing name", .unit = "ns", .bars = {call}},
      {.name = "fstat", .title = "fstat", .unit = "ns", .bars = {call}},
      {.name = "access", .title = "access", .unit = "ns", .bars = {call}},
      {.name = "pread_4k", .title = "pread of 4 KiB", .unit = "ns", .bars = {{"ext4", kRead}}},
      {.name = "readdir_1000", .title = "readdir of 1,000 entries", .unit = "ns", .bars = {{"ext4", kList}}},
      {.name = "open_close", .title = "open and close", .unit = "ns", .bars = {{"ext4", kOpen}}},
      {.name = "open_read_1000",
       .title = "open, fstat, read, close: 1,000",
       .unit = "ns",
       .bars = {{"ext4", kOpenRead}}},
      {.name = "find", .title = "find", .unit = "ms", .bars = {find_against_fuse, as_ext4}},
      {.name = "find_first", .title = "find, first in a round", .unit = "ms"},
      {.name = "find_size", .title = "find -size (stats all)", .unit = "ms"},
      {.name = "tar", .title = "tar c to /dev/null", .unit = "ms", .bars = {as_ext4}},
      {.name = "tar_pipe", .title = "tar c | cat (reads all)", .unit = "ms"},
      {.name = "du", .title = "du -s", .unit = "ms", .bars = {as_ext4}},
      {.name = "grep", .title = "grep -r", .unit = "ms", .bars = {as_ext4}},
      {.name = "git_status", .title = "git status", .unit = "ms", .bars = {as_ext4}},
      {.name = "compileall", .title = "python3 -m compileall -q", .unit = "ms", .bars = {as_ext4}},
      {.name = "startup", .title = "start of a process", .unit = "us"},
      {.name = "fio_1", .title = "fio randread, 1 job", .unit = "IOPS", .higher_is_better = true},
      {.name = "fio_2", .title = "fio randread, 2 jobs", .unit = "IOPS", .higher_is_better = true},
  };
}

struct Program {
  std::string name;
  std::vector<std::string> argv;
  int status_max;  ///< grep finds nothing and says 1
};

/// The interpreter itself: where several versions are installed, `python3` may be a script that looks for one, with
/// dozens of shells. What starts cost is a row of its own.
std::string python() {
  const Finished f = run({.argv = {"sh", "-c", "python3 -c 'import sys; print(sys.executable, end=\"\")'"},
                          .keep_output = true});
  return f.status == 0 && !f.output.empty() ? f.output : "python3";
}

std::vector<Program> programs(const std::string &directory) {
  static const std::string interpreter = python();
  const std::string tree = directory + "/" + kTreeDirectory;
  return {{"find", {"find", tree, "-name", "*.h"}, 0},
          {"find_size", {"find", tree, "-size", "+100k"}, 0},
          {"tar", {"tar", "-c", "-f", "/dev/null", "-C", directory, kTreeDirectory}, 0},
          {"tar_pipe", {"sh", "-c", "tar -c -f - -C \"$0\" \"$1\" | cat", directory, kTreeDirectory}, 0},
          {"du", {"du", "-s", tree}, 0},
          {"grep", {"grep", "-r", "no-such-word-in-any-source", tree}, 1},
          {"git_status",
           {"git", "--no-optional-locks", "--git-dir", directory + "/" + kGitDirectory, "--work-tree", tree, "status",
            "--short"},
           0},
          {"compileall", {interpreter, "-m", "compileall", "-q", tree}, 1}};
}

/// The first runs of these write: the repository's objects, what is compiled. What is not installed is not measured.
void prepare_programs(const std::string &directory, std::set<std::string> &left_out) {
  const auto prepare = [&](const char *name, const std::string &script) {
    const Finished f = run({.argv = {"sh", "-c", script}, .directory = directory});
    if (f.status == 0) return;
    say(fmt::format("{} is left out: what it needs could not be made", name));
    left_out.insert(name);
  };
  // Of real sources some do not compile.
  prepare("compileall", fmt::format("python3 -m compileall -q {} >/dev/null 2>&1; [ $? -le 1 ]", kTreeDirectory));
  prepare("git_status", fmt::format("exec 2>/dev/null; export GIT_DIR=$PWD/{} GIT_WORK_TREE=$PWD/{} &&"
                                    "git init -q && git config core.looseCompression 0 && git add -A . &&"
                                    "git -c user.name=bench -c user.email=bench@localhost commit -qm tree",
                                    kGitDirectory, kTreeDirectory));
}

// ---- one variant, one round

class Bench {
 public:
  Bench(const Settings &settings, const Installation &installation, const WorkDirectory &work)
      : settings_(settings), installation_(installation), work_(work) {
    results_.operations = all_operations();
  }

  Results run_all() {
    prepare_tree();
    mount_variants();
    warm_up();
    for (unsigned round = 0; round < settings_.round_count(); round++) {
      say(fmt::format("round {} of {}", round + 1, settings_.round_count()));
      for (const auto &variant : variants_) one_round(variant);
    }
    record_hits();
    describe_machine();
    return std::move(results_);
  }

 private:
  void prepare_tree() {
    say("making the tree");
    const TreeFigures figures = make_tree(source(), settings_.fio_bytes());
    results_.tree = {{"files", figures.files},     {"directories", figures.directories},
                     {"bytes", figures.bytes},     {"file_system", figures.filesystem},
                     {"micro_files", kMicroFiles}, {"fio_bytes", settings_.fio_bytes()}};
    say(fmt::format("{} files, {} MiB in {} directories on {}", figures.files, figures.bytes >> 20, figures.directories,
                    figures.filesystem));
    prepare_programs(source(), left_out_);
    if (figures.filesystem != "ext4") {
      results_.notes.push_back("the tree is on " + figures.filesystem + "; the bars are made for ext4");
    }
  }

  std::string source() const { return work_ / "source"; }

  void mount_variants() {
    variants_.push_back({"ext4", "the source directory itself", source(), false, ""});
    // What the hook leaves to the kernel, above all opens, finds there what fuse-cached has: they differ by us alone.
    const std::string caches = "timeout=86400,cache=auto";
    const std::string policy = caches + ",bpftime=" + installation_.policy + ",bpftime_mem=" + settings_.memory;
    const Variant mounted[] = {
        {"fuse", "passthroughfs, time-outs 0", work_ / "fuse", false, "timeout=0"},
        {"fuse-cached", "passthroughfs, time-outs of a day", work_ / "cached", false, caches},
        {kHookedVariant, "the same with datacache, under the hook", work_ / "hook", true, policy}};
    for (const auto &variant : mounted) {
      try {
        require(installation_.passthroughfs);
        if (variant.hooked) require(installation_.hook);
        mounts_.push_back(std::make_unique<Mount>(installation_, source(), variant.directory, variant.options,
                                                  work_ / (variant.name + ".log")));
        variants_.push_back(variant);
      } catch (const Failure &failure) {
        say("left out: " + variant.name + ": " + failure.what());
        results_.notes.push_back(variant.name + " could not be measured: " + failure.what());
      }
    }
    if (access(installation_.hook.c_str(), R_OK) == 0) {
      variants_.push_back({"ext4-hook", "the source directory, in a process with the hook (not ours to serve)",
                           source(), true, ""});
    }
    for (const auto &variant : variants_) results_.variants.push_back({variant.name, variant.title});
  }

  static void require(const std::string &file) {
    if (access(file.c_str(), R_OK) != 0) throw Failure(file + " is missing");
  }

  bool has_programs(const Variant &variant) const { return variant.name != "ext4-hook"; }
  bool is_wanted(const std::string &program) const {
    return settings_.only.empty() || std::ranges::find(settings_.only, program) != settings_.only.end();
  }

  /// Twice each: the first run fills the caches, and what it asked the bridge to fetch is there for the second.
  void warm_up() {
    for (const auto &variant : variants_) {
      say("warming up " + variant.name);
      for (int pass = 0; pass < 2; pass++) {
        run_worker(variant, 1, false);
        if (has_programs(variant)) run_programs(variant, false);
        if (has_programs(variant)) run_fio(variant, 1, 1, false);
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
      }
    }
  }

  void one_round(const Variant &variant) {
    run_worker(variant, settings_.micro_ms(), true);
    if (variant.name == "ext4" || variant.name == "ext4-hook") run_startup(variant);
    if (!has_programs(variant)) return;
    run_programs(variant, true);
    for (unsigned jobs : {1u, 2u}) run_fio(variant, jobs, settings_.fio_seconds(), true);
  }

  void record(const std::string &operation, const Variant &variant, double value, bool wanted) {
    if (wanted) results_.operation(operation).samples[variant.name].push_back(value);
  }

  void run_worker(const Variant &variant, unsigned milliseconds, bool wanted) {
    if (!settings_.only.empty()) return;
    const Finished f = run({.argv = {installation_.worker, variant.directory + "/" + kMicroDirectory,
                                     std::to_string(milliseconds)},
                            .environment = variant.environment(installation_),
                            .keep_output = true});
    if (f.status != 0) throw Failure("the worker failed on " + variant.name);
    std::istringstream lines(f.output);
    std::string name;
    for (double ns; lines >> name >> ns;) record(name, variant, ns, wanted);
  }

  double time_program(const Variant &variant, const Program &program) {
    const Finished f = run({.argv = program.argv, .environment = variant.environment(installation_)});
    if (f.status > program.status_max) {
      throw Failure(fmt::format("{} on {} ended with status {}", program.name, variant.name, f.status));
    }
    return f.seconds * 1e3;
  }

  /// Warm is what has just been run: a round over all variants takes longer than the 10 s that the policy trusts what
  /// it keeps, and the first run after that has it fetched again ("first in a round").
  void run_programs(const Variant &variant, bool wanted) {
    for (const auto &program : programs(variant.directory)) {
      if (left_out_.contains(program.name) || !is_wanted(program.name)) continue;
      const double first = time_program(variant, program);
      if (!wanted) continue;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      const double again = time_program(variant, program);
      record(program.name, variant, again, true);
      if (program.name == "find") record("find_first", variant, first, true);
    }
  }

  void run_startup(const Variant &variant) {
    if (!is_wanted("startup")) return;
    std::vector<double> times;
    for (int i = 0; i < 20; i++) {
      const Finished f = run({.argv = {"/bin/true"}, .environment = variant.environment(installation_)});
      if (f.status != 0) throw Failure("/bin/true failed on " + variant.name);
      times.push_back(f.seconds * 1e6);
    }
    record("startup", variant, median(times), true);
  }

  void run_fio(const Variant &variant, unsigned jobs, unsigned seconds, bool wanted) {
    if (settings_.without_fio || !settings_.only.empty()) return;
    auto environment = variant.environment(installation_);
    environment["SF_FIO_FILE"] = variant.directory + "/" + kFioFile;
    environment["SF_FIO_SIZE"] = std::to_string(settings_.fio_bytes());
    environment["SF_FIO_SECONDS"] = std::to_string(seconds);
    const std::string job = fmt::format("{}/randread-{}job{}.fio", installation_.fio_jobs, jobs, jobs == 1 ? "" : "s");
    const Finished f = run({.argv = {"fio", "--output-format=json", job},
                            .environment = std::move(environment),
                            .keep_output = true,
                            .directory = work_ / ""});
    // What fio warns of stands before the JSON.
    const size_t begin = std::min(f.output.find('{'), f.output.size());
    const auto json = nlohmann::json::parse(f.output.substr(begin), nullptr, false);
    if (f.status != 0 || !json.is_object()) throw Failure("fio failed on " + variant.name);
    record("fio_" + std::to_string(jobs), variant, json.at("jobs").at(0).at("read").at("iops").get<double>(), wanted);
  }

  /// How much of it was really served, so that nobody takes the kernel's figures for ours.
  void record_hits() {
    for (const auto &variant : variants_) {
      if (variant.name != kHookedVariant) continue;
      const Served sum = Served::ask(installation_, variant.directory);
      const double all = static_cast<double>(sum.served + sum.missed + sum.passed);
      results_.hits = {{"served", sum.served}, {"missed", sum.missed}, {"passed", sum.passed},
                       {"served_share", all > 0 ? static_cast<double>(sum.served) / all : 0}};
      if (sum.served == 0) results_.notes.push_back("the hook served nothing: its column is the kernel's path");
    }
  }

  void describe_machine() {
    utsname name{};
    uname(&name);
    std::ifstream cpuinfo("/proc/cpuinfo");
    std::string cpu = "unknown";
    for (std::string line; std::getline(cpuinfo, line);) {
      if (line.starts_with("model name")) {
        cpu = line.substr(line.find(':') + 2);
        break;
      }
    }
    double load[3] = {};
    getloadavg(load, 3);
    results_.machine = {{"cpu", cpu},
                        {"cpus", std::thread::hardware_concurrency()},
                        {"kernel", std::string(name.release)},
                        {"load_1min", load[0]},
                        {"rounds", settings_.round_count()},
                        {"quick", settings_.quick}};
  }

  const Settings &settings_;
  const Installation &installation_;
  const WorkDirectory &work_;
  std::vector<Variant> variants_;
  std::vector<std::unique_ptr<Mount>> mounts_;
  Results results_;
  std::set<std::string> left_out_;
};

void write_results(const Results &results, const std::string &out) {
  fs::create_directories(out);
  std::ofstream(out + "/results.json") << results.json().dump(2) << "\n";
  std::ofstream(out + "/table.txt") << results.table();
  std::ofstream(out + "/calls.svg") << bar_chart(results, "Calls, warm: ns per call (logarithmic)", "ns");
  std::ofstream(out + "/programs.svg") << bar_chart(results, "Programs over the tree: ms (logarithmic)", "ms");
  std::ofstream(out + "/fio.svg") << bar_chart(results, "fio, 4 KiB random reads: IOPS (logarithmic)", "IOPS");
  std::ofstream(out + "/index.html") << report_page(results);
}

int bench_main(int argc, char **argv) {
  Settings settings;
  CLI::App app("Compares ext4, FUSE without and with kernel caches, and FUSE under the shortfuse hook",
               "shortfuse-bench");
  app.add_option("--out", settings.out, "Where results.json, table.txt, index.html and the plots go")->type_name("DIR");
  app.add_option("--work", settings.work, "Where the tree is made and mounted (default: --out)")->type_name("DIR");
  app.add_option("--mem", settings.memory, "bpftime_mem= of the accelerated mount")->type_name("SIZE");
  app.add_option("--rounds", settings.rounds, "How often each variant is measured")->check(CLI::Range(1, 1000));
  app.add_flag("--quick", settings.quick, "Fewer and shorter rounds: a look, not a result");
  app.add_option("--only", settings.only, "Only these programs (find, grep, compileall, startup...)")->delimiter(',');
  app.add_flag("--without-fio", settings.without_fio, "Leave fio out");
  app.footer("Example:\n  shortfuse-bench --quick --out /tmp/bench");
  CLI11_PARSE(app, argc, argv);

  catch_signals();
  try {
    const Installation installation = Installation::find();
    const WorkDirectory work(settings.work.empty() ? settings.out : settings.work);
    const Results results = Bench(settings, installation, work).run_all();
    write_results(results, settings.out);
    fmt::print("{}\n{}\n", results.machine.dump(), results.tree.dump());
    fmt::print("{}", results.table());
    if (!results.hits.is_null()) fmt::print("  hooked calls on the mount: {}\n", results.hits.dump());
    fmt::print("  written to {}: results.json, table.txt, index.html and the plots\n", settings.out);
    return results.variants.size() == 5 ? 0 : 1;
  } catch (const Interrupted &) {
    say("interrupted; mounts and directories are gone");
    return 130;
  } catch (const std::exception &failure) {
    say(failure.what());
    return 1;
  }
}

}  // namespace
}  // namespace shortfuse::bench

int main(int argc, char **argv) {
  return shortfuse::bench::bench_main(argc, argv);
}
