// The `shortfuse` command: what the arguments mean. The work is in the file named after each subcommand.
#include <fmt/format.h>
#include <string.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "commands.h"
#include "control.h"
#include "files.h"

namespace shortfuse::cli {

void complain(const char *command, const std::string &text) {
  // Whatever was printed so far comes first, also where both go to one file.
  fflush(stdout);
  fputs(fmt::format("shortfuse {}: {}\n", command, text).c_str(), stderr);
}

namespace {

constexpr int kUsageError = 2;

/// The usage line of commands that run another program names that program.
class Formatter : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App *app, std::string name) const override {
    const std::string usage = CLI::Formatter::make_usage(app, std::move(name));
    if (!app->get_prefix_command()) return usage;
    return usage.substr(0, usage.find_last_not_of('\n') + 1) + " -- PROGRAM [ARGUMENT...]\n";
  }
};

struct Arguments {
  RunArguments run;
  TraceArguments trace;
  MountArguments mount;
  std::string swap_point, swap_chain;
  StatusArguments status;
  MapArguments map;
  std::vector<std::string> check_chains;
  std::string disasm_chain, disasm_section;
  std::string aot_chain, aot_output;
  std::string dump_chain, dump_section;
  bool dump_optimised = false, dump_assembly = false;
  PolicyRunArguments policy_run;
  std::string init_name, init_kind = "cache";
  bool check_json = false;
  bool doctor_json = false;
};

void add_mount(CLI::App &app, MountArguments &into) {
  auto *mount = app.add_subcommand("mount", "Run an unmodified libfuse 3 daemon with a policy attached");
  mount->add_option("-o,--options", into.options,
                    "bpftime=A.bpf.o[:B.bpf.o] the policies (a path, or the name of one that came with shortfuse)\n"
                    "bpftime_mem=SIZE          budget of the cache, default 256M\n"
                    "bpftime_share=own|all     who may read the cache, default own\n"
                    "anything else             handed to the daemon with -o")
      ->type_name("LIST")->allow_extra_args(false)->required();
  mount->prefix_command();
  mount->footer("Examples:\n"
                "  shortfuse mount -o bpftime=metacache.bpf.o -- squashfuse_ll image.sqfs /mnt/y\n"
                "  shortfuse mount -o bpftime=datacache,bpftime_mem=1G -- sshfs host:/data /mnt/data\n"
                "  fusermount3 -u /mnt/y                              # unmounts, as always\n"
                "Exit status: the daemon's; 1 when it mounted without being accelerated; 126 and 127 as in a shell.");
}

void add_run(CLI::App &app, RunArguments &into) {
  auto *run = app.add_subcommand("run", "Run a program with the hook: served from shared memory where it can be");
  run->add_flag("-q,--quiet", into.quiet, "No note when the hook cannot be loaded into the program");
  run->add_option("--report", into.report, "Write to FILE what was served, missed and passed, when the program exits")
      ->type_name("FILE");
  run->prefix_command();
  run->footer("Examples:\n"
              "  shortfuse run -- find /mnt/x -name '*.h'\n"
              "  shortfuse run --report /tmp/report -- grep -r main /mnt/x\n"
              "The same by hand: LD_PRELOAD=/path/to/libshortfuse.so find /mnt/x\n"
              "Exit status: the program's; 126 and 127 as in a shell.");
}

void add_trace(CLI::App &app, TraceArguments &into) {
  auto *trace = app.add_subcommand("trace", "Run a program with eBPF programs around its system calls; needs no mount");
  trace->add_option("-p,--policy", into.policies, "A trace program (a path, or the name of one that came with\n"
                    "shortfuse); may be repeated")->type_name("FILE")->allow_extra_args(false);
  trace->add_option("-s,--set", into.settings, "Give a constant of the program another value: a number, the\n"
                    "name of an errno, text; call=NAME: of a system call")
      ->type_name("NAME=VALUE")->allow_extra_args(false);
  trace->add_option("--duration", into.duration_seconds, "Stop tracing after so many seconds; the program goes on")
      ->type_name("SECONDS")->check(CLI::Range(0.001, 1e9));
  trace->add_flag("--json", into.json, "Events and maps as lines of JSON");
  trace->add_option("-o,--output", into.output, "Events and maps into FILE rather than to standard error")
      ->type_name("FILE");
  trace->add_flag("--calls", into.list_calls, "List the calls that can be traced");
  trace->prefix_command();
  trace->footer("Examples:\n"
                "  shortfuse trace -p syscount -- git status\n"
                "  shortfuse trace -p faultinject -s error=EIO -s call=openat -s every=3 -- ls /etc\n"
                "  shortfuse trace -p my.bpf.o --json -o events -- make\n"
                "Records of ring buffers are printed as they come, the other maps when the program has ended, and\n"
                "tracing with it. Children and threads are traced too. Named or counted at the end is what was\n"
                "not seen: programs that cannot be traced (statically linked, set-user-ID, Go), calls in places\n"
                "that cannot be patched. Never seen: calls made without libc.\n"
                "Exit status: the program's; 126 and 127 as in a shell.");
}

void add_swap(CLI::App &app, Arguments &into) {
  auto *swap = app.add_subcommand("swap", "Replace the policy of a mount while it is in use");
  swap->add_option("MOUNT", into.swap_point, "The mount point")->required();
  swap->add_option("POLICY", into.swap_chain, "A.bpf.o[:B.bpf.o], a path or the name of one that came with shortfuse")
      ->required();
  swap->footer("Example:\n"
               "  shortfuse swap /mnt/x build/policies/datacache.bpf.o\n"
               "A policy that is refused changes nothing: the reason is printed, the exit status is 1.");
}

void add_status(CLI::App &app, StatusArguments &into) {
  auto *status = app.add_subcommand("status", "What a mount serves, misses and passes; without a mount: all of them");
  status->add_option("MOUNT", into.point, "The mount point");
  status->add_flag("--json", into.json, "Everything, with stable keys");
  status->add_option("--watch", into.watch_seconds, "Again every so many seconds")
      ->type_name("SECONDS")->check(CLI::Range(0.1, 86400.0));
  status->footer("Examples:\n"
                 "  shortfuse status\n"
                 "  shortfuse status /mnt/x\n"
                 "  shortfuse status /mnt/x --json | jq .ops.stat.served");
}

void add_policy_run(CLI::App &policy, PolicyRunArguments &into) {
  auto *run = policy.add_subcommand("run", "Run a program on an invented operation, and show what it does");
  run->add_option("FILE", into.chain, "A policy object; A.bpf.o:B.bpf.o is a chain")->required();
  run->add_option("--section", into.section, "Which program, e.g. fuse/lookup (none: the only one)");
  run->add_option("--ctx", into.fields, "A field of the context; may be repeated. All others are 0")
      ->type_name("FIELD=NUMBER")->allow_extra_args(false);
  run->add_option("--path", into.path, "What sf_path() answers (none: -ENOENT)")->type_name("PATH");
  run->add_option("--arg", into.argument_hex, "The request's bytes behind its header, for sf_arg()")->type_name("HEX");
  run->add_option("--reply", into.reply_hex, "The reply's bytes, for sf_reply()")->type_name("HEX");
  run->add_flag("--miss", into.miss, "Nothing is cached: sf_serve_*() answer SF_PASS");
  run->add_option("--repeat", into.runs, "So many runs, for the time that one takes")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1000000000}));
  auto *interp = run->add_flag("--interp", into.interp, "In the interpreter, which shows every call");
  run->add_flag("--jit", into.jit, "As machine code, which does some calls itself")->excludes(interp);
  run->add_flag("--json", into.json, "The same for programs");
  run->footer("Examples:\n"
              "  shortfuse policy run deny --section fuse/lookup --path private/key.pem\n"
              "  shortfuse policy run datacache --section fuse_exit/read --ctx offset=4096 --ctx reply_bytes=4096\n"
              "  shortfuse policy run my.bpf.o --section fuse/read --repeat 1000000\n"
              "Maps are real and begin empty; what only a mount has (serving, keeping) is answered and reported.\n"
              "Exit status: 0 when it ran, whatever the verdict.");
}

void add_policy_tools(CLI::App &policy, Arguments &into) {
  auto *dump = policy.add_subcommand("dump-ir", "Verified programs in LLVM's intermediate language");
  dump->add_option("FILE", into.dump_chain, "A policy object; A.bpf.o:B.bpf.o is a chain")->required();
  dump->add_option("--section", into.dump_section, "Only this program, e.g. syscall/stat");
  dump->add_flag("--optimised", into.dump_optimised, "As machine code is made of it, rather than as lowered");
  dump->add_flag("--assembly", into.dump_assembly, "As the processor's instructions");
  dump->footer("Example:\n  shortfuse policy dump-ir metacache --section syscall/stat --optimised");
  auto *aot = policy.add_subcommand("aot", "Compile ahead of time, for machines without a compiler");
  aot->add_option("FILE", into.aot_chain, "A policy object; A.bpf.o:B.bpf.o is a chain")->required();
  aot->add_option("-o,--output", into.aot_output, "The file to write, NAME.sfi")->type_name("FILE")->required();
  aot->footer("Example:\n"
              "  shortfuse policy aot metacache.bpf.o -o metacache.sfi && passthroughfs /data /mnt -o "
              "bpftime=metacache.sfi\n"
              "An .sfi file stands wherever a policy does, and holds machine code: it must belong to root or to\n"
              "whoever mounts, and nobody else may be able to write it.");
  auto *init = policy.add_subcommand("init", "Write a policy project: source, Makefile, test, README");
  init->add_option("NAME", into.init_name, "The directory, which must not exist; its name is the policy's")
      ->required();
  init->add_option("--kind", into.init_kind, "cache (the default), deny or count")->type_name("KIND");
  init->footer("Example:\n  shortfuse policy init mine --kind deny && make -C mine test");
}

void add_policy(CLI::App &app, Arguments &into) {
  auto *policy = app.add_subcommand("policy", "Look at policies without a mount");
  auto *check = policy->add_subcommand("check", "Load and verify: what is in them, or why they are refused");
  check->add_option("FILE", into.check_chains, "Policy objects; A.bpf.o:B.bpf.o is a chain")->required();
  check->add_flag("--json", into.check_json, "The same for programs");
  check->footer("Example:\n"
                "  clang -target bpf -mcpu=v3 -O2 -g -c my.bpf.c -o my.bpf.o && shortfuse policy check my.bpf.o\n"
                "Exit status: 0 when all are accepted, 1 otherwise.");
  auto *disasm = policy->add_subcommand("disasm", "The instructions of verified programs as text");
  disasm->add_option("FILE", into.disasm_chain, "A policy object; A.bpf.o:B.bpf.o is a chain")->required();
  disasm->add_option("--section", into.disasm_section, "Only this program, e.g. syscall/stat");
  disasm->footer("Example:\n  shortfuse policy disasm metacache --section fuse_exit/getattr");
  add_policy_run(*policy, into.policy_run);
  add_policy_tools(*policy, into);
  policy->require_subcommand(1);
  policy->footer("Example:\n  shortfuse policy check build/policies/*.bpf.o");
}

constexpr const char *kMapExamples =
    "Examples:\n"
    "  shortfuse map list /mnt/x\n"
    "  shortfuse map dump /mnt/x calls                     # per-CPU values: the sum, then whose it is\n"
    "  shortfuse map dump /mnt/x events --follow           # a ring buffer's records as they come\n"
    "  shortfuse map lookup /mnt/x limits uid=1000,op=3\n"
    "  shortfuse map update /mnt/x denied 4711 1\n"
    "  shortfuse map update /mnt/x nets 10.1.0.0/16 1      # an LPM_TRIE\n"
    "  shortfuse map delete /mnt/x names hex:00112233\n"
    "KEY and VALUE: numbers, FIELD=NUMBER,... of a structure, text of an array of characters, ADDRESS/BITS, or\n"
    "hex:BYTES, by the types that the policy declares. A queue or stack takes a value only.\n"
    "Maps that each process has for itself (per-CPU kinds, ring buffers) and frozen ones are not changed from outside.";

void add_map(CLI::App &app, MapArguments &into) {
  auto *map = app.add_subcommand("map", "Look into the maps of a mount's policy, and change them");
  auto action = [&](const char *name, const char *what) {
    auto *sub = map->add_subcommand(name, what);
    sub->add_option("MOUNT", into.point, "The mount point")->required();
    sub->parse_complete_callback([&into, name] { into.action = name; });
    sub->footer(kMapExamples);
    return sub;
  };
  auto with_json = [&](CLI::App *sub) { sub->add_flag("--json", into.json, "The same for programs"); };
  auto named = [&](CLI::App *sub) { sub->add_option("NAME", into.name, "The map")->required(); };
  with_json(action("list", "The maps: kinds, sizes, how full they are"));
  auto *dump = action("dump", "All elements of a map");
  named(dump);
  dump->add_flag("--follow", into.follow, "Of a ring buffer: go on as records come");
  with_json(dump);
  auto *lookup = action("lookup", "One element");
  named(lookup);
  lookup->add_option("KEY", into.key, "Its key");
  with_json(lookup);
  auto *update = action("update", "Put an element in, or another value in its place");
  named(update);
  update->add_option("KEY", into.key, "Its key");
  update->add_option("VALUE", into.value, "Its value");
  auto *absent = update->add_flag("--if-absent", into.if_absent, "Only where there is none (BPF_NOEXIST)");
  update->add_flag("--if-present", into.if_present, "Only where there is one (BPF_EXIST)")->excludes(absent);
  auto *erase = action("delete", "Take an element out");
  named(erase);
  erase->add_option("KEY", into.key, "Its key")->required();
  map->require_subcommand(1);
  map->footer(kMapExamples);
}

void add_doctor(CLI::App &app, bool &json) {
  auto *doctor = app.add_subcommand("doctor", "What this machine lacks, and what that costs");
  doctor->add_flag("--json", json, "The same for programs");
  doctor->footer("Example:\n  shortfuse doctor\nExit status: 0 unless something makes shortfuse unusable here.");
}

/// Splits "shortfuse run OPTIONS -- COMMAND": what is behind the first "--" is never looked at.
std::vector<std::string> split_command(int argc, char **argv, std::vector<std::string> &own) {
  std::vector<std::string> all(argv + 1, argv + argc);
  const auto dashes = std::find(all.begin(), all.end(), "--");
  own.assign(all.begin(), dashes);
  return dashes == all.end() ? std::vector<std::string>() : std::vector<std::string>(dashes + 1, all.end());
}

/// "run ls -l" and "run -- ls -l" alike; a "--" behind the program's name is the program's.
std::vector<std::string> whole_command(const CLI::App &command, bool dashes, const std::vector<std::string> &tail) {
  std::vector<std::string> words = command.remaining();
  if (dashes && !words.empty()) words.push_back("--");
  words.insert(words.end(), tail.begin(), tail.end());
  return words;
}

int dispatch_policy(const Context &context, const CLI::App &policy, const Arguments &a) {
  if (policy.got_subcommand("disasm")) return policy_disasm_command(context, a.disasm_chain, a.disasm_section);
  if (policy.got_subcommand("run")) return policy_run_command(context, a.policy_run);
  if (policy.got_subcommand("dump-ir"))
    return policy_dump_ir_command(context, a.dump_chain, a.dump_section,
                                  a.dump_assembly    ? vm::CompilerStage::Assembly
                                  : a.dump_optimised ? vm::CompilerStage::Optimised
                                                     : vm::CompilerStage::Lowered);
  if (policy.got_subcommand("aot")) return policy_aot_command(context, a.aot_chain, a.aot_output);
  if (policy.got_subcommand("init")) return policy_init_command(context, a.init_name, a.init_kind);
  return policy_check_command(context, a.check_chains, a.check_json);
}

int dispatch(CLI::App &app, Arguments &arguments, bool dashes, const std::vector<std::string> &tail) {
  const Context context{.executable_directory = own_directory(), .registry = registry_directories(geteuid())};
  const std::string name = app.get_subcommands()[0]->get_name();
  CLI::App &command = *app.get_subcommand(name);
  if (name == "trace" && arguments.trace.list_calls) return trace_calls_command();
  if (name == "run" || name == "mount" || name == "trace") {
    auto words = whole_command(command, dashes, tail);
    if (words.empty()) {
      complain(name.c_str(),
               name == "run"     ? "which program? shortfuse run -- PROGRAM [ARGUMENT...]"
               : name == "trace" ? "which program? shortfuse trace -p POLICY -- PROGRAM [ARGUMENT...]"
                                 : "which daemon? shortfuse mount -o bpftime=POLICY -- DAEMON [ARGUMENT...]");
      return kUsageError;
    }
    if (words[0].starts_with('-')) {
      complain(name.c_str(), words[0] + ": no such option; see shortfuse " + name + " --help");
      return kUsageError;
    }
    if (name == "trace") {
      arguments.trace.command = std::move(words);
      return trace_command(context, arguments.trace);
    }
    arguments.run.command = arguments.mount.command = std::move(words);
    return name == "run" ? run_command(context, arguments.run) : mount_command(context, arguments.mount);
  }
  if (dashes) {
    complain(name.c_str(), "\"--\" has no meaning here");
    return kUsageError;
  }
  if (name == "swap") return swap_command(context, arguments.swap_point, arguments.swap_chain);
  if (name == "map") return map_command(context, arguments.map);
  if (name == "status") return status_command(context, arguments.status);
  if (name == "doctor") return doctor_command(context, arguments.doctor_json);
  return dispatch_policy(context, command, arguments);
}

int run_main(int argc, char **argv) {
  CLI::App app("shortfuse: FUSE file systems answered from shared memory by verified eBPF policies", "shortfuse");
  Arguments arguments;
  app.formatter(std::make_shared<Formatter>());
  app.set_version_flag("--version", "shortfuse " SF_VERSION);
  app.require_subcommand(1);
  app.footer("Examples:\n"
             "  passthroughfs /usr/include /mnt/x -o bpftime=metacache.bpf.o\n"
             "  shortfuse run -- find /mnt/x -name '*.h'\n"
             "  shortfuse status /mnt/x\n"
             "  shortfuse swap /mnt/x datacache.bpf.o\n"
             "shortfuse COMMAND --help says more about each.");
  add_mount(app, arguments.mount);
  add_run(app, arguments.run);
  add_trace(app, arguments.trace);
  add_swap(app, arguments);
  add_status(app, arguments.status);
  add_map(app, arguments.map);
  add_policy(app, arguments);
  add_doctor(app, arguments.doctor_json);

  std::vector<std::string> own;
  const auto tail = split_command(argc, argv, own);
  const bool dashes = static_cast<size_t>(argc) != own.size() + 1;
  try {
    std::reverse(own.begin(), own.end());  // CLI11 takes them from the back
    app.parse(own);
  } catch (const CLI::ParseError &e) {
    return app.exit(e) == 0 ? 0 : kUsageError;
  }
  return dispatch(app, arguments, dashes, tail);
}

}  // namespace
}  // namespace shortfuse::cli

int main(int argc, char **argv) {
  // Standard error may be what cannot be written.
  try {
    const int status = shortfuse::cli::run_main(argc, argv);
    if (fflush(stdout) == 0 || status != 0) return status;
    fputs(fmt::format("shortfuse: cannot write to standard output: {}\n", strerror(errno)).c_str(), stderr);
  } catch (const std::exception &e) {
    fputs(fmt::format("shortfuse: {}\n", e.what()).c_str(), stderr);
  }
  return 1;
}
