// The instruction of raw.h.
#include "support/raw.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

namespace shortfuse::tests {

static void *make() {
  static const unsigned char kCode[] = {0x0f, 0x05, 0xc3};
  void *page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) std::abort();
  memcpy(page, kCode, sizeof kCode);
  if (mprotect(page, 4096, PROT_READ | PROT_EXEC) != 0) std::abort();
  return page;
}

void *const raw_instruction = make();

}  // namespace shortfuse::tests
