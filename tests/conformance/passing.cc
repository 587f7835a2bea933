// Descriptors on their way to others, and other ways to the same file: SCM_RIGHTS, pidfd_getfd, /proc/self/fd, /dev/fd,
// fchdir, chroot, handles; statx in its variants.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "conformance/case.h"
#include "support/raw.h"

namespace shortfuse::tests::conformance {
namespace {

bool send_descriptors(int socket, const int *fds, size_t count) {
  alignas(cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))] = {};
  char byte = 'x';
  iovec part = {&byte, 1};
  msghdr message = {};
  message.msg_iov = &part, message.msg_iovlen = 1;
  message.msg_control = control, message.msg_controllen = CMSG_SPACE(count * sizeof(int));
  cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(count * sizeof(int));
  memcpy(CMSG_DATA(header), fds, count * sizeof(int));
  return sendmsg(socket, &message, 0) == 1;
}

bool receive_descriptors(int socket, int *fds, size_t count) {
  alignas(cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))] = {};
  char byte;
  iovec part = {&byte, 1};
  msghdr message = {};
  message.msg_iov = &part, message.msg_iovlen = 1;
  message.msg_control = control, message.msg_controllen = sizeof control;
  if (recvmsg(socket, &message, 0) != 1 || CMSG_FIRSTHDR(&message) == nullptr) return false;
  memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), count * sizeof(int));
  return true;
}

void descriptors_in_messages(const Place &) {
  int pair[2], fds[3] = {open("text", O_RDONLY), open("big", O_RDONLY), open("dir", O_RDONLY | O_DIRECTORY)};
  socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
  reads(fds[0], 10), reads(fds[1], 1000);
  said("sent", send_descriptors(pair[1], fds, 3));
  int mine[3];
  said("received", receive_descriptors(pair[0], mine, 3));
  say("read", "%s", reads(mine[0], 10).c_str());
  say("the sender sees it", "%ld %ld", position(fds[0]), position(fds[1]));
  say("and on", "%s", reads(fds[0], 10).c_str());
  say("the other", "%s", reads(mine[1], 10).c_str());
  struct stat st;
  said("in the directory", fstatat(mine[2], "file003", &st, 0));
  for (int fd : mine) close(fd);
  said("sent again", send_descriptors(pair[1], fds, 2));
  say("a child", "%s", in_child([&] {
        int own[2];
        if (!receive_descriptors(pair[0], own, 2)) _exit(1);
        say("in the child", "%s %s", reads(own[0], 10).c_str(), reads(own[1], 10).c_str());
      }).c_str());
  say("positions", "%ld %ld", position(fds[0]), position(fds[1]));
  // Sent, and closed by the sender before it arrives.
  said("on their way", send_descriptors(pair[1], fds, 2));
  close(fds[0]), close(fds[1]);
  said("number reused", open("empty", O_RDONLY) == fds[0] ? 0 : -1);
  said("arrived", receive_descriptors(pair[0], mine, 2));
  say("still there", "%s %s", reads(mine[0], 10).c_str(), reads(mine[1], 10).c_str());
  say("the number", "%s", reads(fds[0], 10).c_str());
}

// The target's mkdirat() is answered by its supervisor, with a descriptor that is put into the target.
void supervised_target(int socket) {
  sock_filter filter[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mkdirat, 0, 1),
                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog program = {std::size(filter), filter};
  const int own = open("text", O_RDONLY);
  reads(own, 10);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  const auto listener = static_cast<int>(
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
  if (!send_descriptors(socket, &listener, 1)) _exit(2);
  say("the target's own", "%s", reads(own, 10).c_str());
  say("put into the target", "%s", reads(mkdirat(AT_FDCWD, "no", 0), 10).c_str());
  _exit(0);
}

void descriptors_by_a_supervisor(const Place &) {
  int pair[2], listener = -1;
  socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
  const pid_t target = fork();
  if (target == 0) supervised_target(pair[1]);
  const int big = open("big", O_RDONLY), text = open("text", O_RDONLY);
  reads(big, 1000), reads(text, 7);
  const bool received = receive_descriptors(pair[0], &listener, 1);
  seccomp_notif notice = {};
  const int noticed = ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &notice);
  seccomp_notif_addfd add = {};
  add.id = notice.id, add.srcfd = static_cast<uint32_t>(big);
  seccomp_notif_resp answer = {};
  answer.id = notice.id, answer.val = ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
  const int answered = ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
  say("target", "%s", ended(target).c_str());
  say("supervisor", "%d %d %d", received, noticed, answered);
  say("positions", "%ld %ld", position(big), position(text));
  say("and on", "%s", reads(big, 10).c_str());
}

void descriptors_by_pidfd(const Place &) {
  int fd = open("text", O_RDONLY);
  reads(fd, 10);
  int self = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  int mine = static_cast<int>(syscall(SYS_pidfd_getfd, self, fd, 0));
  said("of this process", mine >= 0 ? 0 : -1);
  say("read", "%s", reads(mine, 10).c_str());
  said("shared", position(fd));
  said("nothing there", syscall(SYS_pidfd_getfd, self, 999, 0));
  said("a flag", syscall(SYS_pidfd_getfd, self, fd, 1));
  int ready[2];
  said("pipe", pipe(ready));
  pid_t child = fork();
  if (child == 0) {
    int own = open("big", O_RDONLY);
    dup2(own, 50);
    if (write(ready[1], "x", 1) == 1) pause();
    _exit(1);
  }
  char byte;
  said("waited", read(ready[0], &byte, 1));
  int pidfd = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
  int theirs = static_cast<int>(syscall(SYS_pidfd_getfd, pidfd, 50, 0));
  said("of the child", theirs >= 0 ? 0 : -1);
  say("its file", "%s", reads(theirs, 20).c_str());
  kill(child, SIGKILL);
  say("child", "%s", ended(child).c_str());
  say("still there", "%s", reads(theirs, 20).c_str());
}

std::string first_line_of(const std::string &path) {
  char buffer[100] = "";
  int fd = open(path.c_str(), O_RDONLY);
  ssize_t got = read(fd, buffer, sizeof buffer - 1);
  close(fd);
  if (got < 0) return outcome(-1);
  return std::string(buffer, strcspn(buffer, "\n"));
}

void through_proc(const Place &place) {
  int fd = open("text", O_RDONLY), path = open("sub", O_PATH);
  reads(fd, 10);
  for (const char *base : {"/proc/self/fd/", "/dev/fd/", "/proc/thread-self/fd/"}) {
    std::string magic = base + std::to_string(fd);
    char target[4096];
    ssize_t length = readlink(magic.c_str(), target, sizeof target);
    std::string_view name(target, length > 0 ? static_cast<size_t>(length) : 0);
    say("leads to", "%d", name == place / "text");
    struct stat st;
    said("stat", stat(magic.c_str(), &st));
    say("size", "%ld", static_cast<long>(st.st_size));
    say("opened anew", "%s", contents(magic).c_str());
    int again = open(magic.c_str(), O_RDONLY);
    say("from the start", "%s", reads(again, 10).c_str());
    close(again);
    said("the first's position", position(fd));
    said("for writing", (again = open(magic.c_str(), O_WRONLY)) >= 0 ? 0 : -1);
    close(again);
    say("below a directory", "%s", contents(base + std::to_string(path) + "/inner/leaf").c_str());
  }
  say("position told", "%s", first_line_of("/proc/self/fdinfo/" + std::to_string(fd)).c_str());
  reads(fd, 15);
  say("and then", "%s", first_line_of("/proc/self/fdinfo/" + std::to_string(fd)).c_str());
  int infos = open("/proc/self/fdinfo", O_RDONLY | O_DIRECTORY), later = open("text", O_RDONLY);
  reads(later, 35);
  char buffer[100];
  int info = openat(infos, std::to_string(later).c_str(), O_RDONLY);
  ssize_t got = read(info, buffer, sizeof buffer);
  say("from its directory", "%s", std::string(buffer, got > 0 ? 7 : 0).c_str());
  dup2(fd, STDIN_FILENO);
  lseek(fd, 40, SEEK_SET);
  say("standard input", "%s", contents("/dev/stdin").c_str());
  said("a shell reads", system("read -r a; read -r b; echo \"shell: $a $b\"; cat /dev/fd/0 | wc -c"));
  said("where it stopped", position(fd));
  unlink("text");
  say("after unlink", "%s", contents("/proc/self/fd/" + std::to_string(fd)).c_str());
}

void working_directories(const Place &place) {
  int dir = open("dir", O_RDONLY | O_DIRECTORY), inner = open("sub/inner", O_PATH), file = open("text", O_RDONLY);
  char cwd[4096];
  said("fchdir", fchdir(dir));
  say("there", "%s", contents("file011").c_str());
  say("up", "%s", contents("../text").c_str());
  said("getcwd", getcwd(cwd, sizeof cwd) != nullptr && cwd == place / "dir");
  said("by a path descriptor", fchdir(inner));
  say("leaf", "%s", contents("leaf").c_str());
  said("to a file", fchdir(file));
  said("to nothing", fchdir(-1));
  said("chdir to a file", chdir("leaf"));
  say("still there", "%s", contents("leaf").c_str());
  said("renamed above", rename((place / "sub").c_str(), (place / "moved").c_str()));
  say("by the new way", "%s", contents("leaf").c_str());
  said("cwd", getcwd(cwd, sizeof cwd) != nullptr && cwd == place / "moved/inner");
  say("up and down", "%s", contents("../../text").c_str());
  said("short buffer", getcwd(cwd, 3) == nullptr ? -1 : 0);
  unlink("leaf");
  said("removed", rmdir((place / "moved/inner").c_str()));
  said("cwd of nothing", getcwd(cwd, sizeof cwd) == nullptr ? -1 : 0);
  said("nothing in it", open("leaf", O_RDONLY));
  struct stat st;
  said("it is there itself", stat(".", &st));
  said("and above", stat("..", &st));
  said("back", chdir(place.dir.c_str()));
  say("text", "%s", contents("text").c_str());
}

void another_root(const Place &place) {
  symlink("/inner/leaf", "sub/absolute");
  int outside = open("dir", O_RDONLY | O_DIRECTORY), file = open("text", O_RDONLY);
  reads(file, 10);
  say("child", "%s", in_child([&] {
        said("chroot", chroot("sub"));
        say("from the root", "%s", contents("/inner/leaf").c_str());
        say("by a link", "%s", contents("/absolute").c_str());
        say("the old name", "%s", contents(place / "text").c_str());
        say("where we are", "%s", contents("text").c_str());
        int above = openat(outside, "../text", O_RDONLY);
        say("by a descriptor", "%s", reads(above, 10).c_str());
        say("opened before", "%s", reads(file, 10).c_str());
        said("chdir", chdir("/"));
        say("up stays", "%s", contents("../../inner/leaf").c_str());
        said("a file", chroot("inner/leaf"));
        said("nothing", chroot("/nothing"));
      }).c_str());
  said("the parent's offset", position(file));
  said("back here", chroot("absent"));
  say("in the parent", "%s", contents(place / "text").c_str());
}

struct Handle {
  file_handle header;
  unsigned char bytes[MAX_HANDLE_SZ];
};

void handles(const Place &) {
  Handle handle = {}, by_fd = {};
  int id = 0, id_by_fd = 0, fd = open("text", O_RDONLY);
  said("too small", name_to_handle_at(AT_FDCWD, "text", &handle.header, &id, 0));
  handle.header.handle_bytes = MAX_HANDLE_SZ;
  said("by name", name_to_handle_at(AT_FDCWD, "text", &handle.header, &id, 0));
  by_fd.header.handle_bytes = MAX_HANDLE_SZ;
  said("by descriptor", name_to_handle_at(fd, "", &by_fd.header, &id_by_fd, AT_EMPTY_PATH));
  said("the same", handle.header.handle_type == by_fd.header.handle_type && id == id_by_fd &&
                       memcmp(handle.bytes, by_fd.bytes, handle.header.handle_bytes) == 0);
  said("nothing", name_to_handle_at(AT_FDCWD, "absent", &handle.header, &id, 0));
  said("a link", name_to_handle_at(AT_FDCWD, "dangling", &by_fd.header, &id, 0));
  int opened = open_by_handle_at(fd, &handle.header, O_RDONLY);
  said("opened", opened >= 0 ? 0 : -1);
  say("read", "%s", reads(opened, 10).c_str());
  say("and on", "%s at %ld", reads(opened, 10).c_str(), position(opened));
}

/// The fields in which two answers to one question differ. An access time that was not asked for may be an old one:
/// a read makes FUSE forget it, and the kernel fetches it anew for those who ask.
std::string differing(struct statx one, struct statx other, unsigned mask) {
  if (!(mask & STATX_ATIME)) one.stx_atime = other.stx_atime = {};
  std::string names;
  auto compare = [&](const char *name, const auto &field, const auto &same) {
    if (memcmp(&field, &same, sizeof field) != 0) names += std::string(" ") + name;
  };
  compare("atime", one.stx_atime, other.stx_atime);
  compare("mtime", one.stx_mtime, other.stx_mtime);
  compare("ctime", one.stx_ctime, other.stx_ctime);
  compare("blocks", one.stx_blocks, other.stx_blocks);
  compare("mask", one.stx_mask, other.stx_mask);
  if (names.empty() && memcmp(&one, &other, sizeof one) != 0) names = " some other field";
  return names.empty() ? " no difference" : names;
}

void statx_variants(const Place &) {
  int fd = open("text", O_RDONLY);
  for (int look = 0; look < 2; ++look) {
    for (unsigned mask : {0u, 1u, static_cast<unsigned>(STATX_BASIC_STATS), static_cast<unsigned>(STATX_ALL),
                          static_cast<unsigned>(STATX_MNT_ID), static_cast<unsigned>(STATX_SIZE | STATX_MODE), 0x2000u,
                          0x4000u, 0x10000u, 0x8000'0000u}) {
      for (int flags : {0, AT_STATX_FORCE_SYNC, AT_STATX_DONT_SYNC, AT_STATX_SYNC_TYPE, AT_SYMLINK_NOFOLLOW,
                        AT_NO_AUTOMOUNT, AT_EACCESS}) {
        char key[60];
        std::snprintf(key, sizeof key, "mask %x flags %x", mask, static_cast<unsigned>(flags));
        struct statx answer = {}, kernels = {};
        said(key, statx(AT_FDCWD, "link", flags, mask, &answer));
        raw(__NR_statx, AT_FDCWD, "link", flags, mask, &kernels);
        bool basic = (kernels.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS;
        if (basic) say(key, "%o %llu %u", answer.stx_mode, answer.stx_size, answer.stx_nlink);
        if (basic) say(key, "as the kernel's:%s", differing(answer, kernels, mask).c_str());
      }
    }
  }
  struct statx answer = {};
  said("by descriptor", statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &answer));
  said("size", static_cast<long>(answer.stx_size));
  said("no path", statx(fd, "", 0, STATX_SIZE, &answer));
  const char *volatile null = nullptr;
  said("null path", statx(fd, null, AT_EMPTY_PATH, STATX_SIZE, &answer));
  said("bad buffer", statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, reinterpret_cast<struct statx *>(8)));
  struct statfs by_path, by_fd;
  said("statfs", statfs("text", &by_path));
  said("fstatfs", fstatfs(fd, &by_fd));
  said("same type", by_path.f_type == by_fd.f_type && by_path.f_namelen == by_fd.f_namelen);
  said("accessible", faccessat(AT_FDCWD, "text", R_OK | W_OK, AT_EACCESS));
  said("executable", access("text", X_OK));
  said("a script is", access("script", X_OK));
  said("wrong mode", access("text", 64));
}

}  // namespace

std::vector<Case> passing_cases() {
  return {
      {"scm_rights", descriptors_in_messages, {"read"}},
      {"seccomp_supervisor", descriptors_by_a_supervisor, {"read"}},
      {"pidfd_getfd", descriptors_by_pidfd, {"read"}, {}, false,
       {{"its file", "EBADF", "nobody tells a process that another one takes its descriptors: it gets the placeholder"},
        {"still there", "EBADF", "likewise: an error, not another file"}}},
      {"proc_fd", through_proc, {"read"}},
      {"fchdir", working_directories, {"read", "stat"}},
      {"chroot", another_root, {"read"}, {}, /*root_only=*/true},
      {"handles", handles},
      {"statx", statx_variants, {"stat", "access"}, {{"mask*", "ext4 knows birth times and direct I/O alignment"}}},
  };
}

}  // namespace shortfuse::tests::conformance
