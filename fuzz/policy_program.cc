// Any bytes as instructions: the first byte chooses where the program is attached, the rest is code, cut into up to
// four functions. What the verifier accepts makes no access that it may not, and ends.
#include <cstdlib>
#include <cstring>

#include "testing/testing.h"

using namespace shortfuse::vm;

// Of one run: what goes wrong in a few instructions does so soon, and loops of millions of rounds would take the time
// of all other inputs.
static constexpr uint64_t kFuel = 100'000;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const sections[] = {"syscall/stat", "syscall/read", "fuse/lookup", "fuse/read", "fuse_exit/read"};
  if (size < 9) return 0;
  const size_t count = (size - 1) / 8;
  testing::Code code(count);
  memcpy(code.data(), data + 1, count * 8);
  std::vector<uint32_t> functions;
  for (uint32_t pc = 1; pc < count && functions.size() < 3; pc++) {
    if (code[pc - 1].code == kOpExit && data[0] & 0x80) functions.push_back(pc);
  }
  auto policy =
      testing::verified_policy({testing::make_program(code, sections[data[0] % std::size(sections)], functions)});
  if (!policy) return 0;
  testing::Host host;
  host.path = "private/key.pem";
  host.arguments.assign(64, 'x');
  for (unsigned char fill : {0x00, 0x01, 0x7f, 0xff}) {
    alignas(8) unsigned char context[sizeof(sf_fuse_exit_ctx)];
    memset(context, fill, sizeof context);
    if (host.checked_run_in_short(policy->programs[0], context, kFuel) != "") abort();
  }
  return 0;
}
