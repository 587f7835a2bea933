// libfuse's own functions: those that come behind this library in the search order.
#include "libfuse.h"

#include <dlfcn.h>

namespace shortfuse::bridge {
namespace {

template <typename Function>
void find(Function &into, const char *name) {
  into = reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

const Libfuse &libfuse() {
  static const Libfuse functions = [] {
    Libfuse f;
    find(f.session_new, "fuse_session_new");
    find(f.session_mount, "fuse_session_mount");
    find(f.session_unmount, "fuse_session_unmount");
    find(f.session_destroy, "fuse_session_destroy");
    find(f.session_custom_io, "fuse_session_custom_io");
    find(f.session_fd, "fuse_session_fd");
    find(f.session_process_buf, "fuse_session_process_buf");
    find(f.opt_add_arg, "fuse_opt_add_arg");
    find(f.opt_free_args, "fuse_opt_free_args");
    return f;
  }();
  return functions;
}

bool Libfuse::complete() const {
  return session_new && session_mount && session_unmount && session_destroy && session_custom_io && session_fd &&
         session_process_buf && opt_add_arg && opt_free_args;
}

void Libfuse::process(fuse_session *session, void *bytes, size_t size) const {
  fuse_buf buffer{};
  buffer.mem = bytes;
  buffer.size = size;
  session_process_buf(session, &buffer);
}

}  // namespace shortfuse::bridge
