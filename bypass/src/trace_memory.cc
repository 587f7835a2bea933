#include "trace_memory.h"

#include "kernel.h"
#include "shortfuse/bypass/trace.h"

extern "C" {
long sf_trace_copy(void *to, const void *from, size_t bytes);
long sf_trace_copy_text(char *to, const char *from, size_t room);
void sf_trace_copy_failed(void);
}

namespace shortfuse::bypass {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kUserEnd = 1ull << 47;

void clear(uint64_t to, uint32_t size) {
  auto *out = reinterpret_cast<char *>(to);
  for (uint32_t i = 0; i < size; ++i) out[i] = 0;
}

// By the kernel: bytes read, at most up to the first page that is not there.
long read_by_kernel(uint64_t to, uint64_t from, uint64_t size) {
  iovec here = {reinterpret_cast<void *>(to), size}, there = {reinterpret_cast<void *>(from), size};
  return SF_SYS6(__NR_process_vm_readv, SF_SYS0(__NR_getpid), &here, 1, &there, 1, 0);
}

// A page at a time: behind the end of the text there may be nothing.
long text_by_kernel(uint64_t to, uint64_t from, uint32_t size) {
  auto *out = reinterpret_cast<char *>(to);
  uint64_t done = 0;
  while (done + 1 < size) {
    uint64_t part = kPageBytes - (from + done) % kPageBytes;
    if (part > size - 1 - done) part = size - 1 - done;
    if (read_by_kernel(to + done, from + done, part) != static_cast<long>(part)) return -EFAULT;
    for (const uint64_t end = done + part; done < end; ++done) {
      if (out[done] == 0) return static_cast<long>(done + 1);
    }
  }
  out[done] = 0;
  return static_cast<long>(done + 1);
}

// Addresses that are no memory of a process raise another kind of fault.
bool outside(uint64_t from, uint32_t size) { return from >= kUserEnd || size > kUserEnd - from; }

}  // namespace

long read_memory(uint64_t to, uint64_t from, uint32_t size, bool borrowed) {
  long error = -EFAULT;
  if (!outside(from, size)) {
    error = borrowed ? (read_by_kernel(to, from, size) == static_cast<long>(size) ? 0 : -EFAULT)
                     : sf_trace_copy(reinterpret_cast<void *>(to), reinterpret_cast<const void *>(from), size);
  }
  if (error != 0) clear(to, size);
  return error;
}

long read_text(uint64_t to, uint64_t from, uint32_t size, bool borrowed) {
  if (size == 0) return 0;
  long length = -EFAULT;
  if (!outside(from, size)) {
    length = borrowed ? text_by_kernel(to, from, size)
                      : sf_trace_copy_text(reinterpret_cast<char *>(to), reinterpret_cast<const char *>(from), size);
  }
  if (length < 0) clear(to, size);
  return length;
}

}  // namespace shortfuse::bypass

extern "C" int sf_trace_copy_faulted(uint64_t *rip) {
  const auto begin = reinterpret_cast<uint64_t>(&sf_trace_copy);
  const auto end = reinterpret_cast<uint64_t>(&sf_trace_copy_failed);
  if (*rip < begin || *rip >= end) return 0;
  *rip = end;
  return 1;
}
