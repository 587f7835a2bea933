// Any bytes as an object: loading ends with a policy or a refusal, and a policy does only what it may.
#include <cstdlib>

#include "testing/testing.h"

using namespace shortfuse::vm;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  auto policy = load_policy_bytes(data, size, "fuzz.bpf.o");
  if (!policy) return 0;
  testing::Host host(policy->maps);
  host.path = "a/b";
  for (const Policy::Program &p : policy->programs) {
    alignas(8) unsigned char context[sizeof(sf_fuse_exit_ctx)] = {};
    if (host.checked_run_in_short(p, context) != "") abort();
  }
  return 0;
}
