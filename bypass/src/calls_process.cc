// What changes the process itself: directory, root, credentials, namespaces, filters, asynchronous I/O.
#include "calls.h"
#include "count.h"
#include "kernel.h"
#include "opens.h"
#include "path.h"

namespace shortfuse::bypass {

// Before it becomes the working directory: from then on names that say nothing lead to descriptors.
static void note_where_it_goes(const char *path) {
  if (!g.options.serve_opens || !names_descriptors(path)) return;
  const long fd = SF_SYS4(__NR_openat, AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd == -EMFILE || fd == -ENFILE) return opens_off("it may go where descriptors are names");
  if (is_error(fd)) return;
  note_proc(static_cast<int>(fd));
  close_fd(static_cast<int>(fd));
}

int call_directory(const sf_call *c, long *result) {
  look_again_soon();
  const char *path = reinterpret_cast<const char *>(c->arg[0]);
  if (c->nr == __NR_chdir && path != nullptr) {
    note_offsets_shown(path);
    note_where_it_goes(path);
  }
  cwd_changing();
  *result = make_call(*c);
  cwd_changed();
  return 1;
}

namespace {

int change_credentials(const sf_call *c, long *result) {
  make_all_real();  // what is open is open with the rights of its time
  creds_changed();
  *result = make_call(*c);
  creds_changed();
  return 1;
}

int do_prctl(const sf_call *c, long *result) {
  switch (static_cast<int>(c->arg[0])) {
    case PR_SET_SECCOMP: go_inert("a system call filter is set"); return 0;
    case PR_SET_SECUREBITS:
    case PR_CAPBSET_DROP:
    case PR_CAP_AMBIENT: return change_credentials(c, result);
    default: return 0;
  }
}

int do_unshare(unsigned long flags) {
  constexpr unsigned long kOther = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWTIME | CLONE_FILES;
  if (flags & kOther) {
    go_inert("namespaces or descriptors are unshared");
  } else if (flags & CLONE_FS) {
    g.cwd_off = true;
  }
  return 0;
}

// The root or the mounts as this process sees them: when it worked, nothing verified before holds.
int change_root(const sf_call *c, long *result) {
  make_all_real();  // no path, and perhaps no daemon, is found from there
  *result = make_call(*c);
  if (!is_error(*result)) go_inert("the root directory has changed");
  return 1;
}

int change_mounts(const sf_call *c, long *result) {
  make_all_real();  // what this process has open keeps a mount busy
  *result = make_call(*c);
  __atomic_store_n(&g.own_mounts, true, __ATOMIC_RELEASE);
  __atomic_add_fetch(&g.verify_epoch, 1, __ATOMIC_ACQ_REL);
  files_cwd_changed();
  look_again_soon();
  return 1;
}

// What is served leaves no traces: who wants to be told of opens and reads takes the kernel's way itself. The
// descriptor says what lies where the path leads. Others' accesses that are served remain unseen.
int watch(const sf_call *c, long *result) {
  constexpr uint32_t kInAccess = 1, kInCloseNowrite = 0x10, kInOpen = 0x20;
  *result = make_call(*c);
  if (is_error(*result) || !(static_cast<uint32_t>(c->arg[2]) & (kInAccess | kInCloseNowrite | kInOpen))) return 1;
  long fd = SF_SYS4(__NR_openat, AT_FDCWD, c->arg[1], O_PATH | O_CLOEXEC, 0);
  Identity who;
  if (!is_error(fd) && identify(static_cast<int>(fd), &who)) go_inert("it watches accesses");
  if (!is_error(fd)) close_fd(static_cast<int>(fd));
  return 1;
}

int watch_all(const sf_call *c) {
  constexpr uint64_t kFanAccesses = 0x1 | 0x10 | 0x20 | 0x10000 | 0x20000 | 0x40000;  // and those that ask permission
  if (static_cast<uint64_t>(c->arg[2]) & kFanAccesses) go_inert("it watches accesses");
  return 0;
}

}  // namespace

int call_process(const sf_call *c, long *result) {
  switch (c->nr) {
    case __NR_prctl: return do_prctl(c, result);
    case __NR_seccomp: go_inert("a system call filter is set"); return 0;
    case __NR_unshare: return do_unshare(static_cast<unsigned long>(c->arg[0]));
    case __NR_setns: go_inert("a namespace is entered"); return 0;
    case __NR_chroot:
    case __NR_pivot_root: return change_root(c, result);
    case __NR_mount:
    case __NR_umount2:
    case __NR_move_mount:
    case kSysMountSetattr: return change_mounts(c, result);
    case __NR_io_uring_setup:
      // Its requests open and close descriptors that we would not see.
      files_off();
      return 0;
    case __NR_inotify_add_watch: return watch(c, result);
    case __NR_fanotify_mark: return watch_all(c);
    case __NR_io_setup:
      files_hold_nothing("requests without a call of their own");
      return 0;
    case __NR_setfsuid:
    case __NR_setfsgid: __atomic_store_n(&g.fsids_set, true, __ATOMIC_RELEASE); [[fallthrough]];
    default: return change_credentials(c, result);
  }
}

// ---- calls that change the mount, or otherwise concern it, and are never served

namespace {

// Which argument names a file: a descriptor, a path, or a directory descriptor with a path.
enum class Names { Fd, Path, DirPath };

Names names_of(long nr) {
  switch (nr) {
    case __NR_write:
    case __NR_pwrite64:
    case __NR_writev:
    case __NR_pwritev:
    case __NR_pwritev2:
    case __NR_ftruncate:
    case __NR_fchmod:
    case __NR_fchown:
    case __NR_fsetxattr:
    case __NR_fremovexattr:
    case __NR_fsync:
    case __NR_fdatasync:
    case __NR_fallocate: return Names::Fd;
    case __NR_renameat:
    case __NR_renameat2:
    case __NR_mkdirat:
    case __NR_linkat:
    case __NR_unlinkat:
    case __NR_mknodat:
    case __NR_fchmodat:
    case kSysFchmodat2:
    case __NR_fchownat:
    case __NR_utimensat: return Names::DirPath;
    default: return Names::Path;
  }
}

}  // namespace

int call_other(const sf_call *c, long *result) {
  (void)result;
  Names names = names_of(c->nr);
  MountRef mount = {nullptr, 0};
  if (names == Names::Fd) {
    File file = file_of(static_cast<int>(c->arg[0]));
    if (file) mount = file.mount();
  } else {
    Start start;
    // Of symlink and symlinkat the first argument is text; of the new name it is the last that counts.
    int dirfd = AT_FDCWD;
    int at = 0;
    if (names == Names::DirPath) dirfd = static_cast<int>(c->arg[0]), at = 1;
    if (c->nr == __NR_symlink) at = 1;
    if (c->nr == __NR_symlinkat) dirfd = static_cast<int>(c->arg[1]), at = 2;
    if (find_start(dirfd, reinterpret_cast<const char *>(c->arg[at]), false, &start)) mount = start.mount;
  }
  if (mount.mount == nullptr) [[likely]] return 0;
  return pass(mount, SF_OP_OTHER);
}

}  // namespace shortfuse::bypass
