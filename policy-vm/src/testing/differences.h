// What only one of the two verifiers accepts, the kernel's and ours, as far as the oracle's programs have met it:
// differences.md explains each by its name.
#pragma once
#include <string>
#include <vector>

namespace shortfuse::vm::testing {

struct Difference {
  const char *name;
  std::vector<const char *> said;  // parts of what the other verifier says
};

/// The kernel refuses them.
inline const std::vector<Difference> kOnlyHere = {
    {"remainder", {"register with unbounded min value is not allowed", "makes map_value pointer be out of bounds"}},
    {"unaligned-stack", {"misaligned stack access"}},
    {"uncalled-callback", {"No program to jit at insn"}},
    {"branch-known-here",
     {"frame pointer is read only", "!read_ok", "pointer arithmetic", "misaligned access off",
      "misaligned value access off", "invalid mem access", "min value is outside of the allowed memory range",
      "makes pkt pointer be out of bounds", "prohibited", "invalid size of register fill"}},
};

/// Refused here.
inline const std::vector<Difference> kOnlyThere = {
    {"address-compared", {"verify-pointer-comparison"}},
    {"address-given-away", {"verify-pointer-leak"}},
    {"address-calculated", {"verify-pointer-arithmetic", "verify-not-an-address"}},
    {"stack-unwritten", {"verify-stack-uninitialised"}},
    {"branch-known-there", {"verify-uninitialised", "verify-frame-pointer"}},
};

/// The name of the difference of which this was said; "": a new one.
inline std::string difference_of(const std::vector<Difference> &all, const std::string &said) {
  for (const Difference &d : all) {
    for (const char *part : d.said) {
      if (said.find(part) != std::string::npos) return d.name;
    }
  }
  return "";
}

}  // namespace shortfuse::vm::testing
