/* passthroughfs SOURCE MOUNTPOINT: the wiring, from the command line to the loop and back. */
#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstring>

#include "filesystem.h"
#include "process_limits.h"
#include "options.h"
#include "report.h"

namespace shortfuse::passthrough {
namespace {

/// Ends the session on every way out.
struct Session {
  fuse_session* handle = nullptr;
  bool handlers = false, mounted = false;
  ~Session() {
    if (mounted) fuse_session_unmount(handle);
    if (handlers) fuse_remove_signal_handlers(handle);
    if (handle) fuse_session_destroy(handle);
  }
};

/// Opens the source. The error has been reported.
bool open_source(Filesystem& fs, const Invocation& invocation) {
  auto root = fs.source.open(invocation.source, fs.settings.follow_mounts);
  if (!root) {
    report("source '%s': %s", invocation.source.c_str(), strerror(root.error()));
    return false;
  }
  if (int error = fs.source.open_proc()) {
    report("/proc/self/fd: %s; /proc must be mounted", strerror(error));
    return false;
  }
  fs.inodes.set_root(std::move(*root));
  return true;
}

int run_loop(fuse_session* session, const fuse_cmdline_opts& cmdline) {
  if (cmdline.singlethread) return fuse_session_loop(session);
  fuse_loop_config* config = fuse_loop_cfg_create();
  fuse_loop_cfg_set_clone_fd(config, static_cast<unsigned>(cmdline.clone_fd));
  // What the command line leaves open comes as UINT_MAX; libfuse's own defaults are then in the configuration.
  if (cmdline.max_idle_threads != UINT_MAX) fuse_loop_cfg_set_idle_threads(config, cmdline.max_idle_threads);
  if (cmdline.max_threads != UINT_MAX) fuse_loop_cfg_set_max_threads(config, cmdline.max_threads);
  int result = fuse_session_loop_mt(session, config);
  fuse_loop_cfg_destroy(config);
  return result;
}

/// Mounts, serves, unmounts. Returns the exit status.
int serve(Invocation& invocation) {
  Filesystem fs(invocation.settings);
  if (!open_source(fs, invocation)) return 1;
  fs.conn_options = invocation.conn.get();
  fuse_lowlevel_ops ops = operations(fs.settings);

  Session session;
  session.handle = fuse_session_new(&invocation.args, &ops, sizeof ops, &fs);
  if (!session.handle) return 1;  // whoever refused, libfuse or the bridge, has said why
  fs.session = session.handle;
  fs.single_threaded = invocation.cmdline.singlethread != 0;
  if (fuse_set_signal_handlers(session.handle) != 0) {
    report("signal handlers cannot be set; nothing is mounted");
    return 1;
  }
  session.handlers = true;
  if (fuse_session_mount(session.handle, invocation.mountpoint.c_str()) != 0) {
    report("cannot mount at '%s'", invocation.mountpoint.c_str());
    return 1;
  }
  session.mounted = true;
  fs.source.set_own_device(device_of_mount(invocation.mountpoint.c_str()));
  fs.callers = CallerPolicy::of_this_process(fs.settings.default_permissions);

  if (!invocation.cmdline.foreground) report_to_syslog();
  if (fuse_daemonize(invocation.cmdline.foreground) != 0) {
    report("cannot go into the background");
    return 1;
  }
  int result = run_loop(session.handle, invocation.cmdline);
  fs.locks.stop();  // its threads answer requests of the session
  fs.pressure.stop();
  return result < 0 ? 1 : 0;  // above 0: the signal that ended it
}

int run(int argc, char** argv) {
  auto invocation = parse_command_line(argc, argv);
  if (!invocation) {
    report("%s", invocation.error().c_str());
    return 1;
  }
  if ((*invocation)->cmdline.show_help) {
    print_help(argv[0]);
    return 0;
  }
  if ((*invocation)->cmdline.show_version) {
    printf("passthroughfs %s\nFUSE library version %s\n", PASSTHROUGHFS_VERSION, fuse_pkgversion());
    fuse_lowlevel_version();
    return 0;
  }
  umask(0);
  raise_limits();
  return serve(**invocation);
}

}  // namespace
}  // namespace shortfuse::passthrough

int main(int argc, char** argv) { return shortfuse::passthrough::run(argc, argv); }
