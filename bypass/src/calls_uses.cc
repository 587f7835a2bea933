// Calls that are none of ours but take a descriptor: a placeholder (opens.h) is made real before the kernel sees it.
//
// Which arguments those are stands in one table, of the system calls up to kSysKnown; of newer ones every argument may
// be one. A call that is missing there and gets a placeholder fails with EBADF, as on any O_PATH descriptor; it does
// not work on another file.
#include "calls.h"
#include "kernel.h"
#include "opens.h"
#include "text.h"

namespace shortfuse::bypass {

namespace {

// Bits by argument. directories: a directory's descriptor, followed by the path that begins there.
struct Uses {
  uint8_t descriptors = 0, directories = 0, paths = 0;
};

constexpr uint8_t bit(unsigned argument) { return static_cast<uint8_t>(1u << argument); }
constexpr Uses fd(unsigned a) { return {bit(a), 0, 0}; }
constexpr Uses fds(unsigned a, unsigned b) { return {static_cast<uint8_t>(bit(a) | bit(b)), 0, 0}; }
constexpr Uses path(unsigned a) { return {0, 0, bit(a)}; }
constexpr Uses paths(unsigned a, unsigned b) { return {0, 0, static_cast<uint8_t>(bit(a) | bit(b))}; }
constexpr Uses at(unsigned a) { return {0, bit(a), 0}; }
constexpr Uses ats(unsigned a, unsigned b) { return {0, static_cast<uint8_t>(bit(a) | bit(b)), 0}; }

constexpr Uses uses_of(long nr) {
  switch (nr) {
    case __NR_fstat: case __NR_fstatfs: case __NR_fgetxattr: case __NR_flistxattr: case __NR_read: case __NR_readv:
    case __NR_pread64: case __NR_preadv: case __NR_preadv2: case __NR_lseek: case __NR_getdents64: case __NR_getdents:
    case __NR_write: case __NR_pwrite64: case __NR_writev: case __NR_pwritev: case __NR_pwritev2: case __NR_ftruncate:
    case __NR_fallocate: case __NR_fsync: case __NR_fdatasync: case __NR_fchmod: case __NR_fchown: case __NR_fsetxattr:
    case __NR_fremovexattr: case __NR_fchdir: case __NR_ioctl: case __NR_flock: case __NR_fadvise64:
    case __NR_readahead: case __NR_sync_file_range: case __NR_syncfs: case __NR_open_by_handle_at: case __NR_setns:
    case __NR_connect: case __NR_accept: case __NR_accept4: case __NR_bind: case __NR_listen: case __NR_shutdown:
    case __NR_sendto: case __NR_recvfrom: case __NR_sendmsg: case __NR_recvmsg: case __NR_sendmmsg: case __NR_recvmmsg:
    case __NR_getsockname: case __NR_getpeername: case __NR_setsockopt: case __NR_getsockopt: case __NR_vmsplice:
    case __NR_signalfd: case __NR_signalfd4: case __NR_timerfd_settime: case __NR_timerfd_gettime:
    case __NR_epoll_wait: case __NR_epoll_pwait: case __NR_epoll_pwait2: case __NR_inotify_rm_watch:
    case __NR_finit_module: case __NR_fsmount: case __NR_process_madvise: case __NR_pidfd_send_signal:
    case kSysQuotactlFd: case kSysCachestat:
      return fd(0);
    case __NR_mmap: return fd(4);
    case __NR_fsconfig: return fds(0, 4);
    case __NR_kexec_file_load: return fds(0, 1);
    case __NR_perf_event_open: return fds(1, 3);
    case __NR_epoll_ctl: return fds(0, 2);
    case __NR_sendfile: case __NR_tee: return fds(0, 1);
    case __NR_splice: case __NR_copy_file_range: return fds(0, 2);
    case __NR_newfstatat: case __NR_statx: case __NR_faccessat: case __NR_faccessat2: case __NR_readlinkat:
    case __NR_mkdirat: case __NR_mknodat: case __NR_unlinkat: case __NR_fchmodat: case kSysFchmodat2:
    case __NR_fchownat: case __NR_utimensat: case __NR_futimesat: case __NR_name_to_handle_at: case __NR_open_tree:
    case __NR_fspick: case kSysMountSetattr: case __NR_execveat:
      return at(0);
    case __NR_symlinkat: return at(1);
    case __NR_renameat: case __NR_renameat2: case __NR_linkat: case __NR_move_mount: return ats(0, 2);
    case __NR_fanotify_mark: return {bit(0), bit(3), 0};
    case __NR_stat: case __NR_lstat: case __NR_access: case __NR_readlink: case __NR_statfs: case __NR_getxattr:
    case __NR_lgetxattr: case __NR_listxattr: case __NR_llistxattr: case __NR_truncate: case __NR_mkdir:
    case __NR_rmdir: case __NR_unlink: case __NR_mknod: case __NR_chmod: case __NR_chown: case __NR_lchown:
    case __NR_utime: case __NR_utimes: case __NR_setxattr: case __NR_lsetxattr: case __NR_removexattr:
    case __NR_lremovexattr: case __NR_chdir: case __NR_chroot: case __NR_umount2:
      return path(0);
    case __NR_rename: case __NR_link: case __NR_pivot_root: case __NR_mount: return paths(0, 1);
    case __NR_symlink: return path(1);
    case __NR_inotify_add_watch: return {bit(0), 0, bit(1)};
    default: return nr > kSysKnown ? Uses{0x3f, 0, 0} : Uses{};
  }
}

struct UsesTable {
  Uses of[kSysKnown + 2];  // the last one: of those that are not known
};
constexpr UsesTable make_uses_table() {
  UsesTable table{};
  for (long nr = 0; nr <= kSysKnown + 1; ++nr) table.of[nr] = uses_of(nr);
  return table;
}
constexpr UsesTable kUses = make_uses_table();

// Of a call that is about to be made.
Uses uses_of_call(const sf_call *c) {
  if (c->nr == __NR_mmap && (c->arg[3] & MAP_ANONYMOUS) != 0) return {};
  return c->nr >= 0 && c->nr <= kSysKnown ? kUses.of[c->nr] : uses_of(c->nr);
}

constexpr bool is_empty(const Uses &uses) { return (uses.descriptors | uses.directories | uses.paths) == 0; }

const char *path_at(const sf_call *c, unsigned argument) { return reinterpret_cast<const char *>(c->arg[argument]); }

// The argument is a descriptor that the call looks at.
bool is_used(const sf_call *c, const Uses &uses, unsigned a) {
  if ((uses.directories & bit(a)) == 0) return (uses.descriptors & bit(a)) != 0;
  const char *from_here = path_at(c, a + 1);
  return from_here == nullptr || from_here[0] != '/';
}

int make_arguments_real(const sf_call *c) {
  const Uses uses = uses_of_call(c);
  uint8_t all_paths = static_cast<uint8_t>(uses.paths | uses.directories << 1);
  for (unsigned a = 0; a < 6; ++a) {
    const int error = is_used(c, uses, a) ? let_kernel_see(static_cast<int>(c->arg[a])) : 0;
    if (error != 0) return error;
    if ((all_paths & bit(a)) && path_at(c, a) != nullptr && names_descriptors(path_at(c, a))) make_all_real();
  }
  return 0;
}

// struct pollfd
struct Polled {
  int fd;
  short events, revents;
};

void make_polled_real(const Polled *at, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    if (at[i].fd >= 0) make_real(file_of(at[i].fd));
  }
}

void make_selected_real(const sf_call *c) {
  const int limit = static_cast<int>(c->arg[0]);
  files_for_each([&](int number, const File &file) {
    if (number >= limit || !is_placeholder(file)) return;
    for (unsigned set = 1; set <= 3; ++set) {
      const auto *words = reinterpret_cast<const uint64_t *>(c->arg[set]);
      if (words != nullptr && (words[number / 64] >> (number % 64) & 1) != 0) make_real(file);
    }
  });
}

// Requests of terminals and of the kernel's own, which name no other descriptor; all others may, in their argument or
// where it points to (FICLONE and its like).
bool names_no_other(long request) {
  constexpr long kTerminals = 'T', kFlagsOfFiles = 'f';
  const long kind = request >> 8 & 0xff;
  return kind == kTerminals || kind == kFlagsOfFiles;
}

// How many numbers there may be is to change, and making one real takes one.
bool lowers_numbers(const sf_call *c) {
  constexpr int kLimitOfFiles = 7;
  const unsigned which = c->nr == __NR_prlimit64 ? 1 : 0, value = which + 1;
  return c->arg[which] == kLimitOfFiles && c->arg[value] != 0;
}

}  // namespace

// Any path with such a component: it may be relative, or lead there over "..".
bool names_descriptors(const char *path) {
  for (const char *name = path; *name != 0;) {
    size_t n = 0;
    while (name[n] != 0 && name[n] != '/') ++n;
    const bool named = (n == 4 && text_starts(name, "proc")) || (n == 3 && text_starts(name, "dev")) ||
                       (n == 2 && text_starts(name, "fd"));
    if (named) return true;
    name += n;
    while (*name == '/') ++name;
  }
  return false;
}

namespace {

constexpr bool uses(long nr) {
  switch (nr) {
    case __NR_poll: case __NR_ppoll: case __NR_select: case __NR_pselect6: case __NR_bpf: case __NR_kcmp:
    case __NR_io_uring_enter: case __NR_io_uring_register: case __NR_io_submit: case kSysLandlockAddRule:
    case kSysLandlockRestrictSelf: case __NR_prlimit64: case __NR_setrlimit:
      return true;
    default: return nr >= 0 && !is_empty(uses_of(nr));
  }
}

constexpr bool may_end_opens(long nr) {
  switch (nr) {
    case __NR_io_uring_enter: case __NR_io_uring_register: case __NR_io_submit: case kSysLandlockRestrictSelf:
    case __NR_prlimit64: case __NR_setrlimit:
      return true;
    default: return false;
  }
}

constexpr UsersTable make_users_table() {
  UsersTable table{};
  for (long nr = 0; nr < kSysSeen; ++nr) {
    table.of[nr] = may_end_opens(nr) ? Users::MayEndOpens : uses(nr) ? Users::Yes : Users::No;
  }
  return table;
}

}  // namespace

constexpr UsersTable kUsers = make_users_table();

int keep_from_kernel(const sf_call *c, long *result) {
  switch (c->nr) {
    case __NR_poll:
    case __NR_ppoll: make_polled_real(reinterpret_cast<const Polled *>(c->arg[0]), static_cast<uint64_t>(c->arg[1]));
      return 0;
    case __NR_select:
    case __NR_pselect6: make_selected_real(c); return 0;
    // Descriptors in structures of their own, or of other processes; what is forbidden to open from now on.
    case __NR_bpf: case __NR_kcmp: case __NR_pidfd_getfd: case __NR_io_uring_setup: case __NR_io_setup:
    case kSysLandlockAddRule: make_all_real(); return 0;
    case __NR_ioctl:
      if (!names_no_other(c->arg[1])) make_all_real();
      break;
    default: break;
  }
  const int error = make_arguments_real(c);
  if (error == 0) return 0;
  *result = error;
  return 1;
}

int keep_left_from_kernel(const sf_call *c, long *result) {
  const Uses uses = uses_of_call(c);
  for (unsigned a = 0, left = uses.descriptors | uses.directories; left != 0; ++a, left >>= 1) {
    const int error = (left & 1) != 0 && is_used(c, uses, a) ? let_kernel_see(static_cast<int>(c->arg[a])) : 0;
    if (error != 0) return *result = error, 1;
  }
  return 0;
}

void keep_from_kernel_after_fault(const sf_call *c) {
  const Uses uses = uses_of(c->nr);
  for (unsigned a = 0; a < 6; ++a) {
    if ((uses.descriptors | uses.directories) & bit(a)) make_real(file_of(static_cast<int>(c->arg[a])));
  }
}

// FUSE does nothing with advice but to refuse what is none (mm/fadvise.c).
static long advise(const sf_call *c) {
  constexpr int kAdviceMax = 5;  // POSIX_FADV_NOREUSE
  const int advice = static_cast<int>(c->arg[3]);
  return c->arg[2] < 0 || advice < 0 || advice > kAdviceMax ? -EINVAL : 0;
}

int call_uses(const sf_call *c, long *result) {
  switch (c->nr) {
    case kSysLandlockRestrictSelf: opens_off("it restricts itself"); break;
    case __NR_io_uring_enter: case __NR_io_uring_register: case __NR_io_submit:
      opens_off("its calls are made by others");
      break;
    case __NR_prlimit64: case __NR_setrlimit:
      if (lowers_numbers(c)) opens_off("the numbers of descriptors change");
      return 0;
    default: break;
  }
  if (!any_placeholders()) return 0;
  if (c->nr == __NR_fadvise64 && is_placeholder(file_of(static_cast<int>(c->arg[0])))) return *result = advise(c), 1;
  return keep_from_kernel(c, result);
}

}  // namespace shortfuse::bypass
