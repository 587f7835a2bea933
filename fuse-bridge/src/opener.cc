#include "opener.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace shortfuse::bridge {
namespace {

/// Beside whatever holds this code (lib/, lib/ARCHITECTURE/, a program in bin/), else where it was to be installed.
std::vector<std::string> candidates() {
  std::vector<std::string> found;
  Dl_info info;
  if (dladdr(reinterpret_cast<void *>(&candidates), &info) && info.dli_fname) {
    // Of the program itself this is the name that it was started by, perhaps found in PATH or from another directory.
    const char *name = info.dli_fname[0] == '/' ? info.dli_fname : "/proc/self/exe";
    char resolved[PATH_MAX];
    const std::string path = realpath(name, resolved) ? resolved : "";
    if (const size_t slash = path.find_last_of('/'); slash != std::string::npos)
      for (const char *up : {"/../", "/../../"})
        found.push_back(path.substr(0, slash) + up + SF_LIBEXECDIR "/" + kOpenerProgram);
  }
  found.push_back(std::string(SF_INSTALL_LIBEXECDIR "/") + kOpenerProgram);
  return found;
}

// ---- starting it
//
// Both processes share the daemon's memory and the stack of the calling thread, which stands still until they end or
// become something else, as after vfork(): system calls only, no locks. All signals are blocked. Not by clone() or
// vfork(): where sanitisers stand in front of these, they take the memory for the child's own.

struct Start {
  int program, socket;
  char *const *argv;
  int error = 0;
  pid_t pid = 0;
};

#define SF_BARE __attribute__((noinline, no_sanitize("address"), no_sanitize("thread"), no_sanitize("undefined")))

SF_BARE pid_t run_apart(unsigned long flags, void (*run)(Start *), Start *start) {
  long pid;
  register long none asm("r10") = 0;
  register long neither asm("r8") = 0;
  asm volatile("syscall"
               : "=a"(pid)
               : "0"(SYS_clone), "D"(flags | CLONE_VM | CLONE_VFORK), "S"(0), "d"(0), "r"(none), "r"(neither)
               : "rcx", "r11", "memory");
  if (pid != 0) return static_cast<pid_t>(pid);
  run(start);
  while (true) syscall(SYS_exit_group, 0);
}

SF_BARE void become_opener(Start *start) {
  // No new rights by the exec: a daemon of root's that has given capabilities up would get them back.
  syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  const int low = start->program < start->socket ? start->program : start->socket;
  const int high = start->program < start->socket ? start->socket : start->program;
  // The device first of all.
  const int from[3] = {3, low + 1, high + 1}, to[3] = {low - 1, high - 1, INT_MAX};
  for (int i = 0; i < 3; i++) {
    const int first = from[i] > 3 ? from[i] : 3;
    if (first <= to[i] && syscall(SYS_close_range, first, to[i], 0) != 0) {
      start->error = errno;
      return;
    }
  }
  char *const no_environment[] = {nullptr};
  if (syscall(SYS_fcntl, start->socket, F_SETFD, 0) == 0)
    syscall(SYS_execveat, start->program, "", start->argv, no_environment, AT_EMPTY_PATH);
  start->error = errno;
}

SF_BARE void start_and_end(Start *start) {
  start->pid = run_apart(SIGCHLD, become_opener, start);
  if (start->pid < 0) start->error = -start->pid;
}

}  // namespace

void Opener::find() {
  for (const std::string &path : candidates()) {
    program_.reset(open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!program_ || faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) != 0) continue;
    program_path_ = path;
    return;
  }
  program_.reset(-1);
}

std::expected<void, std::string> Opener::start(const std::string &mount_point) {
  if (!program_) return std::unexpected(std::string(kOpenerProgram) + " was not found");
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return std::unexpected(std::strerror(errno));
  Descriptor ours(ends[0]), its(ends[1]);
  std::string number = std::to_string(its.get()), title = "shortfuse-opener", where = mount_point;
  char *argv[] = {title.data(), number.data(), where.data(), nullptr};
  Start start{program_.get(), its.get(), argv};
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t between = run_apart(0, start_and_end, &start);
  const int error = between < 0 ? -between : start.error;
  if (between > 0)
    while (waitpid(between, nullptr, __WCLONE) < 0 && errno == EINTR) {}
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error != 0) return std::unexpected(program_path_ + ": " + std::strerror(error));
  socket_ = std::move(ours);
  pid_ = start.pid;
  ready_ = false;
  uid_ = geteuid();
  gid_ = getegid();
  return {};
}

bool Opener::send(OpenerPacket packet, const Place &place, int client) {
  if (!socket_ || place.path.size() > kOpenerPathMax) return false;
  packet.nodeid = place.nodeid;
  packet.has_name = !place.mount_point.empty();
  packet.path_bytes = static_cast<uint32_t>(place.path.size());
  iovec iov[2] = {{&packet, sizeof(packet)}, {const_cast<char *>(place.path.data()), place.path.size()}};
  alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = iov;
  header.msg_iovlen = 2;
  if (client >= 0) attach(header, control, {&client, 1});
  return sendmsg(socket_.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

Opener::Got Opener::receive(OpenerPacket &packet) {
  if (!socket_) return Got::Nothing;
  const ssize_t got = recv(socket_.get(), &packet, sizeof(packet), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Got::Nothing;
  if (got != sizeof(packet)) {
    socket_.reset(-1);
    return Got::Ended;
  }
  if (packet.word == OpenerWord::Ready) ready_ = true;
  return Got::Packet;
}

bool Opener::is_ours() const { return uid_ == geteuid() && gid_ == getegid(); }

void Opener::stop() { socket_.reset(-1); }

}  // namespace shortfuse::bridge
