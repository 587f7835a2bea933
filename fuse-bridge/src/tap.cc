// The tap: the five functions of libfuse3 that stand between a daemon and its device, interposed.
//
// Linked by a file system or preloaded into one, these definitions come before libfuse's own; they do what is said here
// and call the original (dlsym, RTLD_NEXT). Without a bpftime option nothing at all is changed.
//     fuse_session_new      takes the bpftime options out, loads the policy; refusal: NULL, nothing is mounted
//     fuse_session_mount    mounts, then puts our read and writev under the session (fuse_session_custom_io)
//     fuse_session_unmount, fuse_session_destroy, exit    the socket leaves the registry, clients stop serving
// Splice is not offered to libfuse, so that every message is in memory (measured: large reads lose at most 3 %).
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bridge.h"
#include "libfuse.h"

namespace shortfuse::bridge {
namespace {

/// What the operating system forces to be global: one accelerated session per process.
struct TapState {
  std::unique_ptr<Bridge> bridge;
  fuse_session *session = nullptr;
  std::string from_environment;   ///< SHORTFUSE_BRIDGE, consumed
  std::vector<char> operations;   ///< the file system's, with our init in front of its own
  void (*file_system_init)(void *, fuse_conn_info *) = nullptr;
};

TapState &tap() {
  static auto *state = new TapState;
  return *state;
}

constexpr const char *kPreloadName = "libshortfuse-bridge.so";

/// Children of the daemon (ssh, sh) are no file systems: nothing of ours is passed on to them.
void clean_environment() {
  if (const char *options = std::getenv("SHORTFUSE_BRIDGE")) tap().from_environment = options;
  unsetenv("SHORTFUSE_BRIDGE");
  const char *preload = std::getenv("LD_PRELOAD");
  if (!preload) return;
  std::string kept;
  const std::string all(preload);
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = std::min(all.find_first_of(": ", begin), all.size());
    const std::string one = all.substr(begin, end - begin);
    if (!one.empty() && one.find(kPreloadName) == std::string::npos) kept += (kept.empty() ? "" : ":") + one;
    begin = end + 1;
  }
  if (kept.empty()) unsetenv("LD_PRELOAD");
  else setenv("LD_PRELOAD", kept.c_str(), 1);
}

/// Only in a process that has libfuse: a shell that starts the daemon must keep the environment for it.
__attribute__((constructor)) void tap_start() {
  if (dlsym(RTLD_NEXT, "fuse_session_new")) clean_environment();
}

__attribute__((destructor)) void tap_end() {
  // A forked child must not take the registry entry away.
  if (tap().bridge && tap().bridge->serving_process() == getpid()) tap().bridge->gone();
}

std::nullptr_t refuse(const std::string &text) {
  std::fprintf(stderr, "shortfuse: %s\n", text.c_str());
  return nullptr;
}

/// The options that this session was given, by argument or by `shortfuse mount`.
std::expected<Options, std::string> options_of(fuse_args *args) {
  Options options;
  std::vector<std::string> arguments(args->argv, args->argv + args->argc);
  if (auto taken = take_options(arguments, options); !taken) return std::unexpected(taken.error());
  const bool in_arguments = options.any;
  if (!tap().from_environment.empty()) {
    std::string rest;
    if (auto taken = take_options(tap().from_environment, options, rest); !taken)
      return std::unexpected(taken.error());
  }
  if (auto checked = check_options(options); !checked) return std::unexpected(checked.error());
  if (!in_arguments) return options;

  fuse_args rest = FUSE_ARGS_INIT(0, nullptr);
  for (const std::string &argument : arguments)
    if (libfuse().opt_add_arg(&rest, argument.c_str()) != 0) return std::unexpected("out of memory");
  libfuse().opt_free_args(args);
  *args = rest;
  return options;
}

/// The agreement with libfuse, before and after the file system has stated what it wants. Some ask for splice without
/// looking whether it is there.
void tap_init(void *userdata, fuse_conn_info *connection) {
  constexpr unsigned hidden =
      FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_WRITEBACK_CACHE;
  connection->capable &= ~hidden;
  if (tap().file_system_init) tap().file_system_init(userdata, connection);
  connection->want &= ~hidden;
}

const fuse_lowlevel_ops *with_our_init(const fuse_lowlevel_ops *op, size_t op_size) {
  constexpr size_t init_at = offsetof(fuse_lowlevel_ops, init);
  auto &copy = tap().operations;
  copy.assign(std::max(op_size, init_at + sizeof(op->init)), 0);
  std::memcpy(copy.data(), op, op_size);
  std::memcpy(&tap().file_system_init, copy.data() + init_at, sizeof(tap().file_system_init));
  auto *ours = tap_init;
  std::memcpy(copy.data() + init_at, &ours, sizeof(ours));
  return reinterpret_cast<const fuse_lowlevel_ops *>(copy.data());
}

/// fuse_new(), the high-level interface, makes its session from inside the library.
bool called_by_libfuse(void *caller) {
  Dl_info from{}, library{};
  return dladdr(caller, &from) != 0 && dladdr(reinterpret_cast<void *>(libfuse().session_new), &library) != 0 &&
         from.dli_fbase == library.dli_fbase;
}

ssize_t tap_read(int fd, void *buffer, size_t size, void *) { return tap().bridge->read(fd, buffer, size); }

ssize_t tap_writev(int fd, iovec *iov, int count, void *) { return tap().bridge->write(fd, iov, count); }

}  // namespace

}  // namespace shortfuse::bridge

using namespace shortfuse::bridge;

extern "C" {

__attribute__((visibility("default"))) fuse_session *fuse_session_new(fuse_args *args, const fuse_lowlevel_ops *op,
                                                                      size_t op_size, void *userdata) {
  const Libfuse &real = libfuse();
  if (!real.session_new) return refuse("this program has no libfuse3");
  auto options = options_of(args);
  if (!options) return refuse(options.error());
  if (!options->given()) return real.session_new(args, op, op_size, userdata);
  if (!real.complete()) return refuse("libfuse 3.13 or later is needed (fuse_session_custom_io)");
  if (tap().bridge) return refuse("a process can accelerate one mount only");
  auto bridge = Bridge::create(*options);
  if (!bridge) return refuse(bridge.error());
  const fuse_lowlevel_ops *wrapped = with_our_init(op, op_size);
  fuse_session *session = real.session_new(args, wrapped, tap().operations.size(), userdata);
  if (!session) return nullptr;
  if (called_by_libfuse(__builtin_return_address(0))) (*bridge)->has_a_node_per_name();
  tap().bridge = std::move(*bridge);
  tap().session = session;
  tap().from_environment.clear();
  return session;
}

__attribute__((visibility("default"))) int fuse_session_mount(fuse_session *session, const char *mount_point) {
  const Libfuse &real = libfuse();
  if (tap().session != session || !session) return real.session_mount(session, mount_point);
  // The path has to be resolved before a file system lies on it that does not answer yet.
  char resolved[PATH_MAX];
  const std::string canonical = realpath(mount_point, resolved) ? resolved : "";
  const int result = real.session_mount(session, mount_point);
  if (result != 0) return result;
  const int fd = real.session_fd(session);
  const fuse_custom_io io = {.writev = tap_writev, .read = tap_read, .splice_receive = nullptr, .splice_send = nullptr};
  if (real.session_custom_io(session, &io, fd) != 0) {
    refuse("libfuse does not take our device functions");
    real.session_unmount(session);
    return -1;
  }
  tap().bridge->mounted(session, fd, canonical);
  return 0;
}

__attribute__((visibility("default"))) void fuse_session_unmount(fuse_session *session) {
  // Behind this the high-level interface frees what our messages would look at.
  if (session && tap().session == session) tap().bridge->stop();
  libfuse().session_unmount(session);
}

__attribute__((visibility("default"))) void fuse_session_destroy(fuse_session *session) {
  const bool ours = session && tap().session == session;
  // Our worker hands messages to this session: it has to end first. The daemon's own threads have ended already.
  if (ours && !tap().bridge->stop()) return;  // a thread is still in there; the process is about to end
  libfuse().session_destroy(session);
  if (!ours) return;
  tap().bridge.reset();
  tap().session = nullptr;
}

}  // extern "C"
