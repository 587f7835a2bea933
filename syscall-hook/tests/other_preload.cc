// A second preloaded library, of the kind that replaces malloc and works in its constructor.
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {
alignas(16) char heap[64 << 20];
size_t used;

__attribute__((constructor)) void start() {
  struct stat status;
  stat("/", &status);
  int fd = open("/proc/self/maps", O_RDONLY);
  char buffer[512];
  while (read(fd, buffer, sizeof buffer) > 0) {
  }
  close(fd);
}
}  // namespace

extern "C" {
void *malloc(size_t bytes) {
  bytes = (bytes + 31) & ~(size_t)15;
  size_t at = __atomic_fetch_add(&used, bytes, __ATOMIC_RELAXED);
  if (at + bytes > sizeof heap) return nullptr;
  *(size_t *)(heap + at) = bytes - 16;
  return heap + at + 16;
}
void free(void *) {}
void *calloc(size_t count, size_t bytes) { return malloc(count * bytes); }
void *realloc(void *old, size_t bytes) {
  char *fresh = (char *)malloc(bytes);
  size_t before = old ? *(size_t *)((char *)old - 16) : 0;
  for (size_t i = 0; fresh && i < bytes && i < before; i++) fresh[i] = ((char *)old)[i];
  return fresh;
}
}
