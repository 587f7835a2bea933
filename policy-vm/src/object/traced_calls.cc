// The calls on files, descriptors, memory of files, and processes. Not here: calls that libc makes in places that the
// hook leaves alone (time, futexes), and rt_sigreturn, which unwinders know by its bytes.
#include "object/traced_calls.h"

#include <asm/unistd.h>

#include <algorithm>
#include <string_view>

// Newer than the headers of some.
#ifndef __NR_fchmodat2
#define __NR_fchmodat2 452
#endif

namespace shortfuse::vm {
namespace {

#define SF_TRACED_CALLS(X) \
  X(read) X(write) X(open) X(close) X(stat) X(fstat) X(lstat) X(poll) X(lseek) X(mmap) X(munmap) X(msync) X(ioctl) \
  X(pread64) X(pwrite64) X(readv) X(writev) X(access) X(pipe) X(select) X(dup) X(dup2) X(sendfile) X(socket) \
  X(connect) X(accept) X(sendto) X(recvfrom) X(sendmsg) X(recvmsg) X(shutdown) X(bind) X(listen) X(getsockname) \
  X(getpeername) X(socketpair) X(setsockopt) X(getsockopt) X(wait4) X(kill) X(fcntl) X(flock) X(fsync) X(fdatasync) \
  X(truncate) X(ftruncate) X(getdents) X(getcwd) X(chdir) X(fchdir) X(rename) X(mkdir) X(rmdir) X(creat) X(link) \
  X(unlink) X(symlink) X(readlink) X(chmod) X(fchmod) X(chown) X(fchown) X(lchown) X(umask) X(getppid) X(setuid) \
  X(setgid) X(setpgid) X(getpgrp) X(setsid) X(setreuid) X(setregid) X(getgroups) X(setgroups) X(setresuid) \
  X(setresgid) X(getpgid) X(setfsuid) X(setfsgid) X(getsid) X(capset) X(utime) X(mknod) X(statfs) X(fstatfs) \
  X(prctl) X(chroot) X(sync) X(mount) X(umount2) X(pivot_root) X(readahead) X(setxattr) X(lsetxattr) X(fsetxattr) \
  X(getxattr) X(lgetxattr) X(fgetxattr) X(listxattr) X(llistxattr) X(flistxattr) X(removexattr) X(lremovexattr) \
  X(fremovexattr) X(getdents64) X(fadvise64) X(epoll_create) X(epoll_wait) X(epoll_ctl) X(utimes) X(waitid) \
  X(inotify_init) X(inotify_add_watch) X(inotify_rm_watch) X(openat) X(mkdirat) X(mknodat) X(fchownat) X(futimesat) \
  X(newfstatat) X(unlinkat) X(renameat) X(linkat) X(symlinkat) X(readlinkat) X(fchmodat) X(faccessat) X(pselect6) \
  X(ppoll) X(unshare) X(splice) X(tee) X(sync_file_range) X(vmsplice) X(utimensat) X(epoll_pwait) X(signalfd) \
  X(timerfd_create) X(eventfd) X(fallocate) X(timerfd_settime) X(timerfd_gettime) X(accept4) X(signalfd4) X(eventfd2) \
  X(epoll_create1) X(dup3) X(pipe2) X(inotify_init1) X(preadv) X(pwritev) X(recvmmsg) X(fanotify_init) \
  X(fanotify_mark) X(name_to_handle_at) X(open_by_handle_at) X(syncfs) X(sendmmsg) X(setns) X(kcmp) X(renameat2) \
  X(seccomp) X(getrandom) X(memfd_create) X(copy_file_range) X(preadv2) X(pwritev2) X(statx) X(pidfd_send_signal) \
  X(io_uring_setup) X(move_mount) X(pidfd_open) X(close_range) X(openat2) X(pidfd_getfd) X(faccessat2) X(epoll_pwait2) \
  X(fchmodat2)

// They do not return as others do, or not into the program that made them.
#define SF_TRACED_AT_ENTRY(X) X(clone) X(fork) X(vfork) X(execve) X(exit) X(exit_group) X(execveat) X(clone3)

std::string all_names(bool with_exit_only) {
  std::string list;
  for (const TracedCall &call : traced_calls()) {
    if (with_exit_only && !call.has_exit) continue;
    list += (list.empty() ? "" : " ") + std::string(call.name);
  }
  return list;
}

std::unexpected<Refusal> unknown(const std::string &section, const std::string &why, bool with_exit_only) {
  return std::unexpected(Refusal{"section-unknown", "section \"" + section + "\": " + why,
                                 "can be traced: * " + all_names(with_exit_only)});
}

}  // namespace

const std::vector<TracedCall> &traced_calls() {
  static const std::vector<TracedCall> calls = [] {
    std::vector<TracedCall> all = {
#define X(name) {#name, __NR_##name, true},
        SF_TRACED_CALLS(X)
#undef X
#define X(name) {#name, __NR_##name, false},
        SF_TRACED_AT_ENTRY(X)
#undef X
    };
    std::ranges::sort(all, {}, &TracedCall::number);
    return all;
  }();
  return calls;
}

std::string traced_call_name(uint64_t number) {
  const auto &calls = traced_calls();
  const auto at = std::ranges::lower_bound(calls, number, {}, &TracedCall::number);
  return at != calls.end() && at->number == number ? at->name : "";
}

std::expected<TracedPlace, Refusal> traced_place(const std::string &section) {
  const size_t slash = section.find('/');
  const std::string side = section.substr(0, slash), name = slash == std::string::npos ? "" : section.substr(slash + 1);
  const bool at_exit = side == "syscall_exit";
  if ((side != "syscall" && !at_exit) || name.empty())
    return unknown(section, "a program of a trace goes into a section syscall/NAME or syscall_exit/NAME", false);
  if (name == "*") return TracedPlace{at_exit, -1};
  for (const TracedCall &call : traced_calls()) {
    if (name != call.name) continue;
    if (at_exit && !call.has_exit) return unknown(section, "this call is seen when it is made only", true);
    return TracedPlace{at_exit, call.number};
  }
  return unknown(section, "there is no such system call, or it cannot be traced", at_exit);
}

}  // namespace shortfuse::vm
