// `shortfuse run`: the hook into LD_PRELOAD, then exec. Nothing of this process remains, so exit status, signals,
// terminal and job control are the program's own.
#include <fmt/format.h>
#include <string.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "commands.h"
#include "files.h"

namespace shortfuse::cli {

namespace {

void note_if_out_of_reach(const Program &program) {
  if (program.is_static) complain("run", program.path + " is statically linked: it runs, but without the hook");
  if (program.is_privileged) {
    complain("run", program.path + " runs with other privileges: the hook is not loaded into it");
  }
}

}  // namespace

int run_command(const Context &context, const RunArguments &arguments) {
  auto library = find_library(context.executable_directory, "libshortfuse.so");
  if (!library) {
    complain("run", library.error());
    return 1;
  }
  auto preload = preload_value(*library, getenv("LD_PRELOAD"));
  if (!preload) {
    complain("run", preload.error());
    return 1;
  }
  auto program = inspect_program(arguments.command[0]);
  if (!program) {
    complain("run", program.error().text);
    return program.error().status;
  }
  if (!arguments.quiet) note_if_out_of_reach(*program);

  set_preload(*preload);
  if (!arguments.report.empty()) {
    // Absolute, as the program may change its directory before it exits.
    setenv("SHORTFUSE_REPORT", std::filesystem::absolute(arguments.report).c_str(), 1);
  }
  std::vector<char *> argv;
  for (const auto &word : arguments.command) argv.push_back(const_cast<char *>(word.c_str()));
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  const int status = errno == ENOENT ? 127 : 126;
  complain("run", fmt::format("{}: {}", arguments.command[0], strerror(errno)));
  return status;
}

}  // namespace shortfuse::cli
