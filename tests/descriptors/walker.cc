#include "descriptors/walker.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "support/harness.h"

extern char **environ;

namespace shortfuse::tests::descriptors {

constexpr size_t kNumbersMax = 64, kPieceMax = 6000;

static std::string told(const char *what, long result) {
  return std::string(what) + ": " + std::to_string(result) + (result < 0 ? " errno " + std::to_string(errno) : "");
}

Walker::~Walker() {
  for (const Number &n : numbers_) close(n.fd);
}

std::string Walker::keep(int fd, std::shared_ptr<Open> open) {
  for (const Number &n : numbers_)
    if (n.fd == fd) return "a number that is in use was given again: " + std::to_string(fd);
  numbers_.push_back({fd, std::move(open)});
  return "";
}

void Walker::forget(int fd) {
  std::erase_if(numbers_, [&](const Number &n) { return n.fd == fd; });
}

std::string Walker::opens() {
  if (numbers_.size() >= kNumbersMax) return closes(*any());
  const unsigned file = below(kFiles);
  static const int kFlags[] = {0, O_CLOEXEC, O_CLOEXEC, O_NONBLOCK, O_NOFOLLOW | O_CLOEXEC, O_NOCTTY};
  const int fd = open(path_of(root_, file).c_str(), O_RDONLY | kFlags[below(std::size(kFlags))]);
  if (fd < 0) return told("open", fd);
  auto opened = std::make_shared<Open>();
  opened->tag = tag_of_descriptor(fd);
  struct stat st {};
  if (fstat(fd, &st) != 0) return told("fstat", -1);
  opened->inode = st.st_ino;
  if (file_of_tag(opened->tag) != file || opened->tag < 256)
    return "opened " + std::to_string(file) + ", got contents " + std::to_string(opened->tag);
  return keep(fd, std::move(opened));
}

// What most programs do with most files, and what opens stay worth serving for.
std::string Walker::looks() {
  for (unsigned i = 0; i < 12; ++i) {
    if (std::string wrong = opens(); !wrong.empty()) return wrong;
    Number &n = numbers_.back();
    std::string wrong = reads(n);
    if (wrong.empty() && below(2) == 0) wrong = reads_at(n);
    if (wrong.empty()) wrong = closes(n);
    if (!wrong.empty()) return wrong;
  }
  return "";
}

std::string Walker::opens_from_directory() {
  if (numbers_.size() >= kNumbersMax) return closes(*any());
  const unsigned file = below(kFiles);
  const std::string path = path_of(root_, file);
  const size_t slash = path.rfind('/');
  const int directory = open(path.substr(0, slash).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return told("open of a directory", directory);
  const int fd = openat(directory, path.c_str() + slash + 1, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return told("openat", fd);
  if (close(directory) != 0) return told("close of a directory", -1);
  auto opened = std::make_shared<Open>();
  opened->tag = tag_of_descriptor(fd);
  struct stat st {};
  if (fstat(fd, &st) != 0) return told("fstat", -1);
  opened->inode = st.st_ino;
  if (file_of_tag(opened->tag) != file || opened->tag < 256) return "openat: other contents";
  return keep(fd, std::move(opened));
}

static size_t left_at(const Open &open, size_t wanted) {
  const size_t size = size_of(open.tag);
  return open.offset >= size ? 0 : std::min<size_t>(wanted, size - open.offset);
}

std::string Walker::reads(Number &n) {
  char bytes[kPieceMax];
  const size_t wanted = 1 + below(kPieceMax), half = wanted / 2;
  const iovec parts[2] = {{bytes, half}, {bytes + half, wanted - half}};
  ssize_t got;
  switch (below(3)) {
    case 0: got = readv(n.fd, parts, 2); break;
    case 1: got = preadv2(n.fd, parts, 2, -1, 0); break;
    default: got = read(n.fd, bytes, wanted);
  }
  const size_t expected = left_at(*n.open, wanted);
  if (got != static_cast<ssize_t>(expected)) return told("read", got) + " of " + std::to_string(expected);
  if (!is_of(n.open->tag, n.open->offset, bytes, expected)) return "read: bytes of something else";
  n.open->offset += expected;
  return "";
}

std::string Walker::reads_at(Number &n) {
  char bytes[kPieceMax];
  const size_t wanted = 1 + below(kPieceMax), at = below(size_of(n.open->tag) + 100);
  const Open there{n.open->tag, n.open->inode, at};
  const size_t expected = left_at(there, wanted);
  const ssize_t got = pread(n.fd, bytes, wanted, static_cast<off_t>(at));
  if (got != static_cast<ssize_t>(expected)) return told("pread", got) + " of " + std::to_string(expected);
  return is_of(n.open->tag, at, bytes, expected) ? "" : "pread: bytes of something else";
}

std::string Walker::seeks(Number &n) {
  const auto size = static_cast<off_t>(size_of(n.open->tag)), now = static_cast<off_t>(n.open->offset);
  const off_t by = below(static_cast<uint64_t>(size));
  off_t expected = by, got = -1;
  switch (below(6)) {
    case 0: expected = now, got = lseek(n.fd, 0, SEEK_CUR); break;
    case 1: expected = size - by, got = lseek(n.fd, -by, SEEK_END); break;
    case 2: expected = by, got = lseek(n.fd, by - now, SEEK_CUR); break;
    case 3: got = lseek(n.fd, by, SEEK_DATA); break;
    case 4: expected = size, got = lseek(n.fd, by, SEEK_HOLE); break;
    default: got = lseek(n.fd, by, SEEK_SET);
  }
  if (got != expected) return told("lseek", got) + " instead of " + std::to_string(expected);
  n.open->offset = static_cast<uint64_t>(expected);
  return "";
}

std::string Walker::duplicates(Number &n) {
  if (numbers_.size() >= kNumbersMax) return closes(n);
  int fd;
  switch (below(unshared_ ? 3 : 4)) {
    case 0: fd = fcntl(n.fd, F_DUPFD_CLOEXEC, 3 + below(300)); break;
    case 1: fd = fcntl(n.fd, F_DUPFD, 3 + below(300)); break;
    case 3: {
      const int self = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
      fd = static_cast<int>(syscall(SYS_pidfd_getfd, self, n.fd, 0));
      close(self);
      break;
    }
    default: fd = dup(n.fd);
  }
  return fd < 0 ? told("dup", fd) : keep(fd, n.open);
}

std::string Walker::duplicates_onto(Number &n) {
  Number &target = *any();
  if (&target == &n) return dup2(n.fd, n.fd) == n.fd ? "" : told("dup2 onto itself", -1);
  const int got = below(2) == 0 ? dup2(n.fd, target.fd) : dup3(n.fd, target.fd, O_CLOEXEC);
  if (got != target.fd) return told("dup2", got);
  target.open = n.open;
  return "";
}

std::string Walker::closes(Number &n) {
  const int fd = n.fd;
  const int done = below(4) == 0 ? close_range(static_cast<unsigned>(fd), static_cast<unsigned>(fd), 0) : close(fd);
  forget(fd);
  return done == 0 ? "" : told("close", done);
}

std::string Walker::stats(Number &n) {
  struct stat st {};
  if (fstat(n.fd, &st) != 0) return told("fstat", -1);
  if (st.st_ino != n.open->inode) return "fstat: another inode";
  if (static_cast<size_t>(st.st_size) != size_of(n.open->tag)) return "fstat: another size";
  const int flags = fcntl(n.fd, F_GETFL);
  if (flags < 0 || (flags & (O_ACCMODE | O_PATH | O_APPEND)) != O_RDONLY) return told("F_GETFL", flags);
  const int own = static_cast<int>(below(2));
  if (fcntl(n.fd, F_SETFD, own) != 0 || fcntl(n.fd, F_GETFD) != own) return "F_SETFD is not what F_GETFD says";
  return "";
}

std::string Walker::maps(Number &n) {
  const size_t size = size_of(n.open->tag);
  void *at = mmap(nullptr, size, PROT_READ, below(2) == 0 ? MAP_PRIVATE : MAP_SHARED, n.fd, 0);
  if (at == MAP_FAILED) return told("mmap", -1);
  const bool same = is_of(n.open->tag, 0, at, size);
  munmap(at, size);
  return same ? "" : "mmap: bytes of something else";
}

/// What the kernel has to have the file open for.
std::string Walker::makes_real(Number &n) {
  pollfd polled = {n.fd, POLLIN, 0};
  switch (below(5)) {
    case 0: return flock(n.fd, LOCK_SH) == 0 ? "" : told("flock", -1);
    case 1: return poll(&polled, 1, 0) == 1 && polled.revents == POLLIN ? "" : told("poll", polled.revents);
    case 2: return fsync(n.fd) == 0 ? "" : told("fsync", -1);
    case 3: return write(n.fd, "x", 1) == -1 && errno == EBADF ? "" : told("write", -1);
    default: return readahead(n.fd, 0, 4096) == 0 ? "" : told("readahead", -1);
  }
}

std::string Walker::transfers(Number &n) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return told("pipe", -1);
  char bytes[kPieceMax];
  const size_t expected = left_at(*n.open, kPieceMax);
  const ssize_t moved = below(2) == 0 ? sendfile(ends[1], n.fd, nullptr, kPieceMax)
                                      : splice(n.fd, nullptr, ends[1], nullptr, kPieceMax, 0);
  close(ends[1]);
  const ssize_t got = moved < 0 ? moved : read(ends[0], bytes, sizeof bytes);
  close(ends[0]);
  if (moved < 0 || got != moved || (moved == 0) != (expected == 0) || static_cast<size_t>(moved) > expected)
    return told("transfer", moved) + " of " + std::to_string(expected);
  if (!is_of(n.open->tag, n.open->offset, bytes, static_cast<size_t>(got))) return "transfer: bytes of something else";
  n.open->offset += static_cast<size_t>(got);
  return "";
}

std::string Walker::sends(Number &n) {
  if (numbers_.size() >= kNumbersMax) return closes(n);
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return told("socketpair", -1);
  char byte = 'x';
  iovec part = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr *head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(head), &n.fd, sizeof(int));
  const bool sent = sendmsg(ends[0], &message, 0) == 1 && recvmsg(ends[1], &message, MSG_CMSG_CLOEXEC) == 1;
  close(ends[0]), close(ends[1]);
  if (!sent || message.msg_controllen < sizeof(cmsghdr)) return told("SCM_RIGHTS", -1);
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
  return keep(fd, n.open);
}

std::string Walker::forks(Number &n) {
  const pid_t pid = fork();
  if (pid == 0) {
    std::string wrong = reads(n);
    if (wrong.empty()) wrong = check_all();
    if (wrong.empty() && below(2) == 0) wrong = opens();
    if (!wrong.empty()) dprintf(2, "in a child: %s\n", wrong.c_str());
    _exit(wrong.empty() ? 0 : 1);
  }
  int status = -1;
  if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) return told("a child", status);
  // Whatever it read, the offset is the same for both.
  const off_t now = lseek(n.fd, 0, SEEK_CUR);
  if (now < static_cast<off_t>(n.open->offset) || now > static_cast<off_t>(n.open->offset + kPieceMax))
    return told("the offset after a child", now) + " from " + std::to_string(n.open->offset);
  if (now == static_cast<off_t>(n.open->offset) && left_at(*n.open, 1) == 1) return "the child's read did not show";
  n.open->offset = static_cast<uint64_t>(now);
  return "";
}

std::string Walker::spawns(Number &n) {
  const size_t wanted = 1 + below(3000), expected = left_at(*n.open, wanted);
  std::vector<std::string> strings = {own_program(), "--worker", "descriptors_inherit", "77",
                                      std::to_string(n.open->tag), std::to_string(n.open->offset),
                                      std::to_string(wanted)};
  std::vector<char *> command;
  for (auto &text : strings) command.push_back(text.data());
  command.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, n.fd, 77);
  pid_t pid = -1;
  int status = -1;
  std::vector<char *> bare = {nullptr};
  if (posix_spawn(&pid, command[0], &actions, nullptr, command.data(), below(2) == 0 ? environ : bare.data()) == 0)
    waitpid(pid, &status, 0);
  posix_spawn_file_actions_destroy(&actions);
  n.open->offset += expected;
  return status == 0 ? "" : told("a program that inherits", status);
}

std::string Walker::lists() {
  const unsigned which = below(kDirectories);
  DIR *listing = opendir((root_ + "/d" + std::to_string(which)).c_str());
  if (listing == nullptr) return told("opendir", -1);
  std::multiset<std::string> names;
  while (const dirent *entry = readdir(listing)) names.insert(entry->d_name);
  if (closedir(listing) != 0) return told("closedir", -1);
  for (unsigned file = which; file < kFiles; file += kDirectories) {
    if (names.count("f" + std::to_string(file)) != 1) return "f" + std::to_string(file) + " is not once in its listing";
  }
  return "";
}

std::string Walker::check_all() {
  for (Number &n : numbers_) {
    if (tag_of_descriptor(n.fd) != n.open->tag) return "it is another file: number " + std::to_string(n.fd);
    const off_t at = lseek(n.fd, 0, SEEK_CUR);
    if (at != static_cast<off_t>(n.open->offset))
      return told("an offset", at) + " instead of " + std::to_string(n.open->offset);
  }
  return "";
}

std::string Walker::step() {
  if (numbers_.size() < 3) return last_ = "open", opens();
  Number &n = *any();
  const unsigned what = below(100);
  last_ = std::to_string(what) + " of number " + std::to_string(n.fd);
  if (what < 14) return looks();
  if (what < 22) return opens();
  if (what < 26) return opens_from_directory();
  if (what < 42) return reads(n);
  if (what < 50) return reads_at(n);
  if (what < 56) return seeks(n);
  if (what < 66) return duplicates(n);
  if (what < 70) return duplicates_onto(n);
  if (what < 84) return closes(n);
  if (what < 89) return stats(n);
  if (what < 91) return maps(n);
  if (what < 93) return makes_real(n);
  if (what < 94) return transfers(n);
  if (what < 95) return sends(n);
  if (what < 96) return lists();
  if (what < 98) return check_all();
  if (what < 99 || below(5) != 0) return forks(n);
  return spawns(n);
}

}  // namespace shortfuse::tests::descriptors
