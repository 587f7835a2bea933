// Descriptors, the working directory, children: what decides where an offset or a path starts.
#include <fcntl.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "differential/differ.h"
#include "support/harness.h"

extern char **environ;

namespace shortfuse::tests {

void Differ::op_close() {
  Slot *slot = draw_slot();
  if (slot == nullptr) return;
  note("close");
  if (chance(10)) {
    unsigned fd = static_cast<unsigned>(slot->fd[kMount]);
    if (close_range(fd, fd, 0) != 0) throw Mismatch("close_range");
    slot->fd[kMount] = -1;
    close(slot->fd[kPlain]);
    slot->fd[kPlain] = -1;
  }
  close_slot(*slot);
}

void Differ::op_dup() {
  Slot *slot = draw_slot();
  bool room = false;
  for (const auto &candidate : slots_) room = room || candidate.fd[kMount] < 0;
  if (slot == nullptr || !room) return;
  note("dup");
  int fds[2], flags = slot->flags;
  uint64_t form = draw(3);
  for (Side side : {kMount, kPlain}) {
    int fd = slot->fd[side];
    if (form == 0) {
      fds[side] = dup(fd);
    } else if (form == 1) {
      fds[side] = fcntl(fd, F_DUPFD_CLOEXEC, 50);
    } else {
      // Over a descriptor that is in use.
      int other = open("/dev/null", O_RDONLY | O_CLOEXEC);
      fds[side] = dup3(fd, other, O_CLOEXEC);
    }
    if (fds[side] < 0) throw Mismatch("dup");
  }
  Slot &copy = keep(fds[kMount], fds[kPlain], flags);
  if (!copy.directory || copy.twin < 0) return;
  // The two share one position, so their streams in the kernel have to.
  close(copy.twin);
  copy.twin = fcntl(slot->twin, F_DUPFD_CLOEXEC, 0);
  copy.changes = slot->changes;
}

void Differ::op_chdir() {
  Where where = draw_where();
  int fds[2] = {-1, -1};
  Slot *slot = draw_directory_slot();
  if (where.form == Where::Dirfd && slot == nullptr) return;
  bool by_descriptor = slot != nullptr && (where.form == Where::Dirfd || chance(30));
  note("chdir " + where.path[kMount]);
  long results[2];
  for (Side side : {kMount, kPlain}) {
    if (side == kPlain) enter(kPlain);
    int result = by_descriptor ? fchdir(slot->fd[side]) : chdir(where.path[side].c_str());
    results[side] = result < 0 ? -errno : 0;
    if (result == 0) fds[side] = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enter(kMount);
  }
  expect_same("chdir", results[kMount], results[kPlain]);
  if (fds[kMount] >= 0 && fds[kPlain] >= 0) {
    set_cwd(fds[kMount], fds[kPlain], chance(40));
  } else {
    for (int fd : fds) {
      if (fd >= 0) close(fd);
    }
  }
  enter(kMount);
}

void Differ::op_umask() {
  // None takes group execution away: a set-group-ID bit without it marks mandatory locking, and no FUSE file system can
  // know when a write by a member of the group keeps it.
  static const mode_t masks[] = {022, 0, 007, 027};
  umask(masks[draw(4)]);
}

// A child reads from the descriptors it inherited: the position is shared with the parent's.
void Differ::op_fork_read() {
  Slot *slot = draw_slot();
  if (slot == nullptr || slot->directory) return;
  op_read();
  pid_t child = fork();
  if (child == 0) {
    try {
      op_fstat();
      op_read();
      op_stat();
      op_lseek();
      op_read();
    } catch (const Mismatch &error) {
      dprintf(2, "in a forked child: %s\n", error.what());
      _exit(1);
    }
    _exit(0);
  }
  int status = -1;
  if (child < 0 || waitpid(child, &status, 0) != child || status != 0) throw Mismatch("a forked child saw a mismatch");
  op_read();
}

// Another program reads from a descriptor handed to it: `dd` takes what it is told from the shared position.
void Differ::op_spawn_read() {
  Slot *slot = draw_slot();
  if (slot == nullptr || slot->directory || (slot->flags & (O_ACCMODE | O_PATH)) != O_RDONLY) return;
  struct stat st;
  if (fstat(slot->fd[kPlain], &st) != 0 || !S_ISREG(st.st_mode)) return;
  op_read();
  note("spawn dd");
  std::string taken[2];
  std::string size = "bs=" + std::to_string(1 + draw(5000));
  for (Side side : {kMount, kPlain}) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw Broken("pipe");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, slot->fd[side], 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    const char *argv[] = {"dd", size.c_str(), "count=1", "status=none", nullptr};
    pid_t child = -1;
    int error = posix_spawn(&child, "/bin/dd", &actions, nullptr, const_cast<char **>(argv), environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    char buffer[8192];
    for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;)
      taken[side].append(buffer, static_cast<size_t>(got));
    close(ends[0]);
    int status = -1;
    if (error != 0 || waitpid(child, &status, 0) != child || status != 0) throw Broken("dd");
  }
  if (taken[kMount] != taken[kPlain]) throw Mismatch("dd read other bytes from the mount's descriptor");
  op_read();
}

// Calls that are not emulated but start at, or tell of, the position of a descriptor.
void Differ::op_offset_users() {
  Slot *slot = draw_slot();
  if (slot == nullptr || slot->directory || (slot->flags & (O_ACCMODE | O_PATH)) != O_RDONLY) return;
  struct stat st;
  if (fstat(slot->fd[kPlain], &st) != 0 || !S_ISREG(st.st_mode)) return;
  op_read();
  uint64_t which = draw(4);
  size_t size = 1 + draw(6000);
  note("offset user " + std::to_string(which));
  long results[2];
  std::string moved[2];
  for (Side side : {kMount, kPlain}) {
    int fd = slot->fd[side], ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) throw Broken("pipe");
    long result = 0;
    if (which == 0) {
      result = sendfile(ends[1], fd, nullptr, size);
    } else if (which == 1) {
      result = splice(fd, nullptr, ends[1], nullptr, size, 0);
    } else if (which == 2) {
      int left = 0;
      result = ioctl(fd, FIONREAD, &left);
      moved[side] = std::to_string(left);
    } else {
      char info[64], text[400] = {};
      std::snprintf(info, sizeof info, "/proc/self/fdinfo/%d", fd);
      // The fork makes every position the kernel's; the parent's view of it has to be true from then on.
      pid_t child = fork();
      if (child == 0) _exit(0);
      if (child < 0 || waitpid(child, nullptr, 0) != child) throw Broken("fork");
      int at = open(info, O_RDONLY | O_CLOEXEC);
      result = at < 0 || read(at, text, sizeof text - 1) < 0 ? -1 : 0;
      close(at);
      if (char *end = std::strchr(text, '\n')) *end = '\0';
      moved[side] = text;
    }
    results[side] = result < 0 ? -errno : result;
    char buffer[8192];
    for (ssize_t got; which < 2 && (got = read(ends[0], buffer, sizeof buffer)) > 0;) {
      moved[side].append(buffer, static_cast<size_t>(got));
    }
    close(ends[0]);
    close(ends[1]);
  }
  expect_same("a call that uses the position", results[kMount], results[kPlain]);
  if (moved[kMount] != moved[kPlain]) {
    throw Mismatch("a call that uses the position moved other bytes: " + moved[kMount].substr(0, 40) + " of " +
                   std::to_string(moved[kMount].size()) + " on the mount, " + moved[kPlain].substr(0, 40) + " of " +
                   std::to_string(moved[kPlain].size()));
  }
  op_read();
}

}  // namespace shortfuse::tests
