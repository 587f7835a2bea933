// Names of FUSE operations. Freestanding.
#include "shortfuse/vm/abi.h"

#include "isa/host_functions.h"

namespace {

bool same(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

}  // namespace

extern "C" int sf_fuse_opcode(const char *name) {
#define X(op, number) if (same(name, #op)) return number;
  SF_FUSE_OPS(X)
#undef X
  return -1;
}

extern "C" const char *sf_fuse_opcode_name(unsigned opcode) {
  switch (opcode) {
#define X(op, number) case number: return #op;
    SF_FUSE_OPS(X)
#undef X
    default: return nullptr;
  }
}
