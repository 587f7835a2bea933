// bpf_strncmp(): here and in machine code the same function. Freestanding.
#pragma once
#include <stdint.h>

namespace shortfuse::vm {

/// -1, 0 or 1, as the kernel's.
inline int64_t compare_text(const char *a, uint32_t size, const char *b) {
  for (uint32_t i = 0; i < size; ++i) {
    const auto x = static_cast<unsigned char>(a[i]), y = static_cast<unsigned char>(b[i]);
    if (x != y) return x < y ? -1 : 1;
    if (x == 0) break;
  }
  return 0;
}

}  // namespace shortfuse::vm
