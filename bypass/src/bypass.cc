// The entry: which family a system call belongs to, and the life of the process.
#include "shortfuse/bypass/bypass.h"

#include "calls.h"
#include "count.h"
#include "kernel.h"
#include "opens.h"
#include "report.h"
#include "text.h"

namespace shortfuse::bypass {
namespace {

// The calls that are treated alike. Not known by the function that treats them, which cannot be compared in constant
// expressions of the sanitisers' builds.
enum class Group : uint8_t {
  NotOurs, Stat, Access, Readlink, Xattr, Statfs, Open, Read, Lseek, Getdents, Descriptor, OffsetUser, Creator,
  Directory, Process, Other, Uses
};

// Not a table: its relocations would cost every process a page.
int handle(Group group, const sf_call *call, long *result) {
  switch (group) {
    case Group::Stat: return call_stat(call, result);
    case Group::Access: return call_access(call, result);
    case Group::Readlink: return call_readlink(call, result);
    case Group::Xattr: return call_xattr(call, result);
    case Group::Statfs: return call_statfs(call, result);
    case Group::Open: return call_open(call, result);
    case Group::Read: return call_read(call, result);
    case Group::Lseek: return call_lseek(call, result);
    case Group::Getdents: return call_getdents(call, result);
    case Group::Descriptor: return call_descriptor(call, result);
    case Group::OffsetUser: return call_offset_user(call, result);
    case Group::Creator: return call_creator(call, result);
    case Group::Directory: return call_directory(call, result);
    case Group::Process: return call_process(call, result);
    case Group::Other: return call_other(call, result);
    case Group::Uses: return call_uses(call, result);
    case Group::NotOurs: break;
  }
  return 0;
}

// One list for sf_bypass_call and sf_bypass_wants.
constexpr Group group_of(long nr) {
  switch (nr) {
    case __NR_stat: case __NR_lstat: case __NR_fstat: case __NR_newfstatat: case __NR_statx:
      return Group::Stat;
    case __NR_access: case __NR_faccessat: case __NR_faccessat2:
      return Group::Access;
    case __NR_readlink: case __NR_readlinkat:
      return Group::Readlink;
    case __NR_getxattr: case __NR_lgetxattr: case __NR_fgetxattr:
    case __NR_listxattr: case __NR_llistxattr: case __NR_flistxattr:
      return Group::Xattr;
    case __NR_statfs: case __NR_fstatfs:
      return Group::Statfs;
    case __NR_open: case __NR_openat: case __NR_openat2: case __NR_creat:
      return Group::Open;
    case __NR_read: case __NR_readv: case __NR_pread64: case __NR_preadv: case __NR_preadv2:
      return Group::Read;
    case __NR_lseek:
      return Group::Lseek;
    case __NR_getdents64: case __NR_getdents:
      return Group::Getdents;
    case __NR_close: case __NR_dup: case __NR_dup2: case __NR_dup3: case __NR_fcntl: case __NR_close_range:
      return Group::Descriptor;
    case __NR_sendfile: case __NR_splice: case __NR_copy_file_range: case __NR_sendmsg: case __NR_sendmmsg:
    case __NR_pidfd_getfd: case __NR_ioctl:
      return Group::OffsetUser;
    case __NR_pipe: case __NR_pipe2: case __NR_socket: case __NR_socketpair: case __NR_accept: case __NR_accept4:
    case __NR_recvmsg: case __NR_recvmmsg: case __NR_eventfd: case __NR_eventfd2: case __NR_signalfd:
    case __NR_signalfd4: case __NR_timerfd_create: case __NR_epoll_create: case __NR_epoll_create1:
    case __NR_inotify_init: case __NR_inotify_init1: case __NR_fanotify_init: case __NR_memfd_create:
    case __NR_memfd_secret: case __NR_userfaultfd: case __NR_perf_event_open: case __NR_bpf: case __NR_mq_open:
    case __NR_open_by_handle_at: case __NR_open_tree: case __NR_fsopen: case __NR_fsmount: case __NR_fspick:
    case __NR_pidfd_open: case __NR_landlock_create_ruleset:
      return Group::Creator;
    case __NR_chdir: case __NR_fchdir:
      return Group::Directory;
    case __NR_chroot: case __NR_pivot_root: case __NR_mount: case __NR_umount2: case __NR_move_mount:
    case kSysMountSetattr: case __NR_setns: case __NR_unshare: case __NR_seccomp: case __NR_prctl:
    case __NR_io_uring_setup: case __NR_io_setup: case __NR_inotify_add_watch: case __NR_fanotify_mark:
    case __NR_setuid: case __NR_setgid: case __NR_setreuid: case __NR_setregid:
    case __NR_setresuid: case __NR_setresgid: case __NR_setfsuid: case __NR_setfsgid: case __NR_setgroups:
    case __NR_capset:
      return Group::Process;
    case __NR_write: case __NR_pwrite64: case __NR_writev: case __NR_pwritev: case __NR_pwritev2:
    case __NR_ftruncate: case __NR_truncate: case __NR_fallocate: case __NR_fsync: case __NR_fdatasync:
    case __NR_rename: case __NR_renameat: case __NR_renameat2: case __NR_mkdir: case __NR_mkdirat: case __NR_rmdir:
    case __NR_link: case __NR_linkat: case __NR_unlink: case __NR_unlinkat: case __NR_symlink: case __NR_symlinkat:
    case __NR_mknod: case __NR_mknodat: case __NR_chmod: case __NR_fchmod: case __NR_fchmodat: case kSysFchmodat2:
    case __NR_chown: case __NR_lchown: case __NR_fchown: case __NR_fchownat: case __NR_utime: case __NR_utimes:
    case __NR_utimensat: case __NR_setxattr: case __NR_lsetxattr: case __NR_fsetxattr: case __NR_removexattr:
    case __NR_lremovexattr: case __NR_fremovexattr:
      return Group::Other;
    default:
      return Group::NotOurs;
  }
}

// Answers from the cache, so that a placeholder among its arguments need not be made real before.
bool serves(Group group) {
  switch (group) {
    case Group::Stat: case Group::Access: case Group::Readlink: case Group::Xattr: case Group::Statfs:
    case Group::Open: case Group::Read: case Group::Lseek: case Group::Getdents: case Group::Descriptor:
    case Group::Uses:
      return true;
    default:
      return false;
  }
}

// In this order: the last one that is closed is no longer counted, but has left its mark before.
inline int keep_all_from_kernel(const sf_call *call, long *result) {
  if (any_placeholders()) return keep_from_kernel(call, result);
  return may_be_left_behind() ? keep_left_from_kernel(call, result) : 0;
}

// Where opens are served: no placeholder gets to the kernel with a call.
[[gnu::noinline]] int call_with_placeholders(const sf_call *call, long *result) {
  Group group = group_of(call->nr);
  if (group == Group::NotOurs && users_of(call->nr) != Users::No) group = Group::Uses;
  if (group == Group::NotOurs) return 0;
  int handled = 0;
  // Those that may make the kernel's call themselves, of what they do not serve.
  if (!serves(group) && call->nr != __NR_ioctl) handled = keep_all_from_kernel(call, result);
  if (handled == 0) handled = handle(group, call, result);
  return handled != 0 ? handled : keep_all_from_kernel(call, result);
}

// What is enough to know that a call is not ours. Only for calls that have no other effect on us.
enum class Needs : uint8_t { MoreThanThat, Path0, Path1, Descriptor };

constexpr Needs needs_of(long nr) {
  switch (nr) {
    case __NR_stat: case __NR_lstat: case __NR_access: case __NR_readlink: case __NR_statfs:
    case __NR_getxattr: case __NR_lgetxattr: case __NR_listxattr: case __NR_llistxattr:
      return Needs::Path0;
    case __NR_newfstatat: case __NR_statx: case __NR_faccessat: case __NR_faccessat2: case __NR_readlinkat:
      return Needs::Path1;
    case __NR_fstat: case __NR_fstatfs: case __NR_fgetxattr: case __NR_flistxattr:
    case __NR_read: case __NR_readv: case __NR_pread64: case __NR_preadv: case __NR_preadv2:
    case __NR_lseek: case __NR_getdents64: case __NR_getdents: case __NR_close:
    case __NR_write: case __NR_pwrite64: case __NR_writev: case __NR_pwritev: case __NR_pwritev2:
    case __NR_ftruncate: case __NR_fallocate: case __NR_fsync: case __NR_fdatasync:
      return Needs::Descriptor;
    default:
      return Needs::MoreThanThat;
  }
}

struct NeedsTable {
  Needs of[kSysSeen];
};
constexpr NeedsTable make_needs_table() {
  NeedsTable table{};
  for (long nr = 0; nr < kSysSeen; ++nr) table.of[nr] = needs_of(nr);
  return table;
}
constexpr NeedsTable kNeeds = make_needs_table();

// sf_bypass_wants() without opens: all of them are asked for at every start of a process.
struct WantedTable {
  uint8_t of[kSysSeen];
};
constexpr WantedTable make_wanted_table() {
  WantedTable table{};
  for (long nr = 0; nr < kSysSeen; ++nr) {
    const Group group = group_of(nr);
    table.of[nr] = group == Group::NotOurs ? SF_UNWANTED : group == Group::Creator ? SF_WANTED_LATER : SF_WANTED;
  }
  return table;
}
constexpr WantedTable kWanted = make_wanted_table();

// By far the commonest answer of all. Reads the first bytes of the caller's path.
inline bool plainly_not_ours(const sf_call &call) {
  if (call.nr < 0 || call.nr >= kSysSeen) return false;
  const Needs needs = kNeeds.of[call.nr];
  if (needs == Needs::Descriptor) {
    const FileSlot *slot = slot_of(static_cast<int>(call.arg[0]));
    return slot == nullptr || kind_of(slot_state(*slot)) == kNotOurs;
  }
  if (needs == Needs::MoreThanThat) return false;
  const char *path = reinterpret_cast<const char *>(call.arg[needs == Needs::Path0 ? 0 : 1]);
  if (path == nullptr) return false;
  if (path[0] != '/') {
    const int dirfd = needs == Needs::Path0 ? AT_FDCWD : static_cast<int>(call.arg[0]);
    return path[0] != 0 && dirfd == AT_FDCWD && cwd_is_elsewhere();
  }
  if (may_be_on_a_mount(path)) return false;
  look_for_mounts();
  return !may_be_on_a_mount(path);
}

// AT_SECURE, where the vector behind the environment is the kernel's (its AT_SYSINFO_EHDR is the one we were told).
bool secure_by_auxv(char **envp, unsigned long vdso) {
  constexpr int kEntriesMax = 64;
  if (envp == nullptr || vdso == 0) return false;
  char **end = envp;
  while (*end != nullptr) ++end;
  const auto *entry = reinterpret_cast<const unsigned long *>(end + 1);
  bool genuine = false, secure = false;
  for (int i = 0; i < kEntriesMax && entry[0] != AT_NULL; ++i, entry += 2) {
    if (entry[0] == AT_SYSINFO_EHDR) genuine = entry[1] == vdso;
    if (entry[0] == AT_SECURE) secure = entry[1] != 0;
  }
  return genuine && secure;
}

bool secure_execution(char **envp, unsigned long vdso) {
  uint32_t id[3];
  SF_SYS3(__NR_getresuid, &id[0], &id[1], &id[2]);
  if (id[0] != id[1]) return true;
  SF_SYS3(__NR_getresgid, &id[0], &id[1], &id[2]);
  return id[0] != id[1] || secure_by_auxv(envp, vdso);
}

bool told_not_to(char **envp) {
  for (char **e = envp; e != nullptr && *e != nullptr; ++e) {
    if (!text_starts(*e, "SHORTFUSE_D")) continue;
    if (text_is(*e, "SHORTFUSE_DISABLE=1") || text_is(*e, "SHORTFUSE_DAEMON=1")) return true;
  }
  return false;
}

sf_op op_of_call(long nr) {
  switch (group_of(nr)) {
    case Group::Stat: return SF_OP_STAT;
    case Group::Access: return SF_OP_ACCESS;
    case Group::Readlink: return SF_OP_READLINK;
    case Group::Open: return SF_OP_OPEN;
    case Group::Read: return SF_OP_READ;
    case Group::Getdents: return SF_OP_READDIR;
    case Group::Statfs: return SF_OP_STATFS;
    case Group::Xattr:
      return nr == __NR_getxattr || nr == __NR_lgetxattr || nr == __NR_fgetxattr ? SF_OP_GETXATTR : SF_OP_LISTXATTR;
    default: return SF_OP_OTHER;
  }
}

}  // namespace
}  // namespace shortfuse::bypass

using namespace shortfuse::bypass;

extern "C" {

int sf_bypass_start(char **envp, unsigned long auxv_vdso) {
  if (g.started) return !g.inert;
  if (told_not_to(envp)) {
    g.inert = true;
    return 0;
  }
  // Before anything is called that programs seldom call.
  if (filter_may_kill(envp)) {
    g.inert = true;
    if (secure_by_auxv(envp, auxv_vdso)) return 0;
    options_start(envp);
    log_line(false, "this process uses the kernel path", "it was started under a filter of system calls");
    return 0;
  }
  if (secure_execution(envp, auxv_vdso)) {
    g.inert = true;
    return 0;
  }
  clock_start(auxv_vdso);
  options_start(envp);
  if (!process_start()) {
    g.inert = true;
    return 0;
  }
  g.started = true;
  attach_start();
  return 1;
}

int sf_bypass_call(const struct sf_call *call, long *result) {
  if (g.inert || !g.started) return 0;
  // In a child after fork, its state is put in order before anything looks at it.
  if (__atomic_load_n(&g.process->generation, __ATOMIC_RELAXED) == 0 && process_now() == nullptr) [[unlikely]] return 0;
  // Not 0 in a signal handler that interrupted a call: a fault in this one must not end what that one began.
  const uint32_t outer = t.stays_at_call;
  // Left over where a handler jumped out of a policy.
  if (t.in_policy == call) t.in_policy = nullptr;
  t.stays_at_call = t.stays;
  int handled = 0;
  if (plainly_not_ours(*call)) {
    // Its path may still lead to what a descriptor is open on.
    if (any_placeholders()) handled = keep_from_kernel(call, result);
  } else if (g.options.serve_opens) {
    handled = call_with_placeholders(call, result);
  } else if (const Group group = group_of(call->nr); group != Group::NotOurs) {
    handled = handle(group, call, result);
  }
  t.stays_at_call = outer;
  return handled;
}

void sf_bypass_abandoned(const struct sf_call *call) {
  abandon_hold();
  abandon_stays();
  if (op_of_call(call->nr) != SF_OP_OTHER) count_outside(op_of_call(call->nr), SF_MISS_FAULT);
  if (any_placeholders()) keep_from_kernel_after_fault(call);
  // The original call goes by the kernel's offset.
  bool by_offset =
      call->nr == __NR_read || call->nr == __NR_readv || call->nr == __NR_preadv2 || call->nr == __NR_getdents64;
  if (by_offset) give_back(static_cast<int>(call->arg[0]));
}

int sf_bypass_in_policy(const struct sf_call *call) { return t.in_policy == call; }

int sf_bypass_wants(long nr) {
  const uint8_t wanted = nr >= 0 && nr < kSysSeen ? kWanted.of[nr] : uint8_t{SF_UNWANTED};
  const Users users = users_of(nr);
  if (wanted == SF_WANTED || users == Users::No || !g.options.serve_opens) return wanted;
  return users == Users::MayEndOpens ? SF_WANTED_FOR_OPENS : SF_WANTED_FOR_OPENS_LATER;
}

void sf_bypass_at_first_file(void (*call)(void)) { files_at_first(call); }

void sf_bypass_before_fork(unsigned long clone_flags, int is_exec) {
  if (g.inert || !g.started) return;
  wait_for_own_limit();
  // A child that has called nothing yet.
  if (any_placeholders() && process_now() == nullptr) return;
  if (is_exec) return files_before_exec();
  bool shares_memory = (clone_flags & CLONE_VM) != 0, shares_files = (clone_flags & CLONE_FILES) != 0;
  g.child_inert = (clone_flags & (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWTIME)) != 0;
  // A table of descriptors that another process changes too cannot be followed from here.
  if (shares_files && !shares_memory) return go_inert("another process shares the descriptors");
  if (shares_memory && shares_files && !(clone_flags & CLONE_FS)) g.cwd_off = true;
  if (shares_memory && shares_files) __atomic_store_n(&g.has_threads, true, __ATOMIC_RELEASE);
  if (!shares_files) files_give_back_all_but_listings();
}

void sf_bypass_before_unseen_exec(void) {
  if (g.started && g.options.serve_opens) files_before_unseen_exec();
}

int sf_bypass_in_use(void) { return __atomic_load_n(&mounts_used, __ATOMIC_RELAXED) != 0; }

void sf_bypass_give_back(void) {
  if (!g.inert && g.started) files_give_back_all_but_listings();
}

void sf_bypass_descriptors_unseen(const char *why) {
  if (g.inert || !g.started) return;
  log_line(false, "descriptors are left to the kernel", why);
  files_off();
}

void sf_bypass_allow_opens(int (*code_is_known)(void)) { allow_opens(code_is_known); }

void sf_bypass_switch_off(void) {
  if (g.inert || !g.started) return;
  files_hold_nothing("calls are not seen any more");
}

void sf_bypass_filtered(void) {
  if (!g.started || g.filtered) return;
  go_inert("a filter of system calls is set");
  write_report();
  g.filtered = true;
}

void sf_bypass_exit(void) {
  if (g.started) write_report();
}

void sf_bypass_thread_exit(void) {
  if (g.started) release_lanes();
}

}  // extern "C"
