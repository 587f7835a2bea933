#include "descriptor.h"

#include <unistd.h>

namespace shortfuse::bridge {

void Descriptor::reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

}  // namespace shortfuse::bridge
