#include "place.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

namespace shortfuse::bridge {
namespace {

/// FUSE's number of the node that a descriptor is open on, by its file handle; 0: it is not on FUSE.
uint64_t node_of_descriptor(int fd) {
  constexpr int kFuseHandle = 0x81, kHandleFid = 0x200;  // FILEID_INO64_GEN; AT_HANDLE_FID
  alignas(file_handle) char bytes[sizeof(file_handle) + 16];
  auto *handle = reinterpret_cast<file_handle *>(bytes);
  for (int kind : {0, kHandleFid}) {
    handle->handle_bytes = 16;
    int mount;
    if (name_to_handle_at(fd, "", handle, &mount, AT_EMPTY_PATH | kind) != 0) continue;
    if (handle->handle_type != kFuseHandle) return 0;
    uint32_t word[2];
    std::memcpy(word, handle->f_handle, sizeof(word));
    return static_cast<uint64_t>(word[0]) << 32 | word[1];
  }
  return 0;
}

/// Nothing where something else is on the way than directories of this mount; errno says what.
Descriptor find_below(Descriptor dir, const std::string &path) {
  open_how how{};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH;
  for (size_t begin = 0, end; dir && begin < path.size(); begin = end + 1) {
    // As much of it as a call takes.
    end = path.size() - begin < PATH_MAX ? path.size() : path.rfind('/', begin + PATH_MAX - 1);
    const std::string part = path.substr(begin, end - begin);
    dir.reset(static_cast<int>(syscall(SYS_openat2, dir.get(), part.c_str(), &how, sizeof(how))));
  }
  return dir;
}

}  // namespace

Descriptor find_place(const Place &place, int *error) {
  Descriptor root(open(place.mount_point.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  *error = -errno;
  if (!root) return {};
  Descriptor found = find_below(std::move(root), place.path);
  struct stat st;
  *error = -errno;
  if (!found) return {};
  *error = -ESTALE;
  // What can be opened for an application: anything else could block, or do something.
  if (node_of_descriptor(found.get()) != place.nodeid || fstat(found.get(), &st) != 0 ||
      !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
    return {};
  *error = 0;
  return found;
}

Descriptor open_again(int fd, int flags) {
  return Descriptor(open(("/proc/self/fd/" + std::to_string(fd)).c_str(), (flags & ~O_NOFOLLOW) | O_CLOEXEC));
}

}  // namespace shortfuse::bridge
