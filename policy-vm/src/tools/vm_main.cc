// shortfuse-vm: runs one program given as bare instructions, for tests of the instruction set.
//
//   echo 'b7 00 00 00 2a 00 00 00 95 00 00 00 00 00 00 00' | shortfuse-vm            -> 2a
//   echo ... | shortfuse-vm '01 02 03 04' --jit
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <iterator>

#include "tools/raw_program.h"

namespace {

/// Machine code of an unverified program has left its memory.
void crashed(int) {
  static const char text[] = "shortfuse-vm: the program left its memory\n";
  [[maybe_unused]] ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
  _exit(1);
}

int fail(const std::string &why) {
  std::cerr << "shortfuse-vm: " << why << "\n";
  return 1;
}

}  // namespace

int main(int argc, char **argv) {
  using namespace shortfuse::vm;
  CLI::App app{
      "Runs one eBPF program. The program comes on standard input as bytes in hexadecimal; r1 is the address of the "
      "memory, r2 its length. Helper 5 unwinds: it returns its argument, and ends the program with 0 when that is 0. "
      "Prints r0 in hexadecimal."};
  std::string memory_text;
  bool jit = false, interpreted = false, verify = false;
  app.add_option("MEMHEX", memory_text, "the memory, bytes in hexadecimal (none if it is left out)");
  auto *by_code = app.add_flag("--jit", jit, "run it as machine code");
  app.add_flag("--interp", interpreted, "run it in the interpreter, which checks every access (the default)")
      ->excludes(by_code);
  app.add_flag("--verify", verify, "run it only if the verifier finds it safe");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError &error) {
    return app.exit(error) == 0 ? 0 : 2;
  }

  auto memory = parse_hex_bytes(memory_text);
  if (!memory) return fail("the memory: " + memory.error());
  auto code = parse_hex_bytes({std::istreambuf_iterator<char>(std::cin), {}});
  if (!code) return fail("the program: " + code.error());
  auto program = RawProgram::read(*code);
  if (!program) return fail(program.error());
  if (verify) {
    if (auto safe = program->verify(memory->size()); !safe) return fail(safe.error());
  }
  for (int sig : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) std::signal(sig, crashed);
  auto r0 = jit ? program->run_compiled(*memory) : program->interpret(*memory);
  if (!r0) return fail(r0.error());
  std::printf("%" PRIx64 "\n", *r0);
  return 0;
}
