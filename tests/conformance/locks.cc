// Locks of every kind, and waiting: poll, select, epoll, inotify.
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>

#include "conformance/case.h"

namespace shortfuse::tests::conformance {
namespace {

void whole_files(const Place &) {
  int fd = open("text", O_RDONLY), copy = dup(fd), other = open("text", O_RDONLY);
  said("exclusive", flock(fd, LOCK_EX | LOCK_NB));
  said("the duplicate has it too", flock(copy, LOCK_EX | LOCK_NB));
  said("another open has not", flock(other, LOCK_EX | LOCK_NB));
  say("a child", "%s", in_child([&] {
        said("inherited", flock(fd, LOCK_EX | LOCK_NB));
        int own = open("text", O_RDONLY);
        said("its own", flock(own, LOCK_SH | LOCK_NB));
      }).c_str());
  said("shared", flock(fd, LOCK_SH));
  said("two share", flock(other, LOCK_SH | LOCK_NB));
  said("one cannot have it alone", flock(fd, LOCK_EX | LOCK_NB));
  close(fd);
  said("held by the duplicate", flock(other, LOCK_EX | LOCK_NB));
  close(copy);
  said("now nobody holds it", eventually([&] { return flock(other, LOCK_EX | LOCK_NB) == 0; }) ? 0 : -1);
  said("unlocked", flock(other, LOCK_UN));
  said("nothing", flock(-1, LOCK_SH));
  said("wrong", flock(other, 99));
  said("a path", flock(open("text", O_PATH), LOCK_SH));
  say("read", "%s", reads(other, 10).c_str());
}

void say_lock(const char *key, int fd, short type, short whence, off_t start, off_t length) {
  struct flock lock = {type, whence, start, length, 0};
  long result = fcntl(fd, F_GETLK, &lock);
  if (result != 0) return said(key, result);
  say(key, "%d from %ld, %ld bytes, whence %d, by the parent: %d", lock.l_type, static_cast<long>(lock.l_start),
      static_cast<long>(lock.l_len), lock.l_whence, lock.l_pid == getppid());
}

void ranges(const Place &) {
  int fd = open("text", O_RDWR), reader = open("text", O_RDONLY);
  reads(fd, 100), reads(reader, 50);
  struct flock lock = {F_WRLCK, SEEK_CUR, 10, 20, 0};
  said("from the offset", fcntl(fd, F_SETLK, &lock));
  lock = {F_RDLCK, SEEK_CUR, 0, 10, 0};
  said("of the reader", fcntl(reader, F_SETLK, &lock));
  lock = {F_RDLCK, SEEK_END, -10, 0, 0};
  said("from the end", fcntl(reader, F_SETLK, &lock));
  say("offsets", "%ld %ld", position(fd), position(reader));
  say("a child", "%s", in_child([&] {
        say_lock("whole", fd, F_WRLCK, SEEK_SET, 0, 0);
        say_lock("at 110", fd, F_RDLCK, SEEK_SET, 110, 1);
        say_lock("at 50", fd, F_RDLCK, SEEK_SET, 50, 5);
        say_lock("at 70", fd, F_WRLCK, SEEK_SET, 70, 5);
        say_lock("by the reader's offset", reader, F_WRLCK, SEEK_CUR, 0, 1);
        say_lock("the end", reader, F_WRLCK, SEEK_END, -1, 0);
        struct flock own = {F_WRLCK, SEEK_SET, 110, 1, 0};
        said("cannot", fcntl(fd, F_SETLK, &own));
      }).c_str());
  // Closing any descriptor of the file gives all of the process's locks up.
  close(open("text", O_RDONLY));
  say("after a close", "%s", in_child([&] { say_lock("nothing", fd, F_WRLCK, SEEK_SET, 0, 0); }).c_str());
  lock = {F_WRLCK, SEEK_SET, 0, 0, 0};
  said("write lock on a reader", fcntl(reader, F_SETLK, &lock));
  lock = {F_RDLCK, SEEK_SET, -5, 1, 0};
  said("before the start", fcntl(fd, F_SETLK, &lock));
  lock = {9, SEEK_SET, 0, 1, 0};
  said("no such type", fcntl(fd, F_SETLK, &lock));
  said("bad pointer", fcntl(fd, F_SETLK, nullptr));
  said("lockf", lockf(fd, F_TLOCK, 10));
  said("tested", lockf(fd, F_TEST, 10));
  said("unlocked", lockf(fd, F_ULOCK, 10));
  say("read on", "%s", reads(reader, 10).c_str());
}

void open_file_locks(const Place &) {
  int fd = open("text", O_RDWR), other = open("text", O_RDWR), copy = dup(fd);
  reads(fd, 30), reads(other, 10);
  struct flock lock = {F_WRLCK, SEEK_CUR, 0, 10, 0};
  said("taken", fcntl(fd, F_OFD_SETLK, &lock));
  lock = {F_WRLCK, SEEK_SET, 35, 1, 0};
  said("another open", fcntl(other, F_OFD_SETLK, &lock));
  lock = {F_WRLCK, SEEK_SET, 35, 1, 0};
  said("the duplicate", fcntl(copy, F_OFD_SETLK, &lock));
  lock = {F_WRLCK, SEEK_SET, 0, 0, 0};
  said("who has it", fcntl(other, F_OFD_GETLK, &lock));
  say("it is", "%d from %ld, %ld bytes, pid %d", lock.l_type, static_cast<long>(lock.l_start),
      static_cast<long>(lock.l_len), lock.l_pid);
  close(open("text", O_RDONLY));
  lock = {F_WRLCK, SEEK_SET, 35, 1, 0};
  said("kept over a close", fcntl(other, F_OFD_SETLK, &lock));
  close(fd), close(copy);
  lock = {F_WRLCK, SEEK_SET, 35, 1, 0};
  // FUSE releases a moment after the close.
  bool is_free = eventually([&] { return fcntl(other, F_OFD_SETLK, &lock) == 0; }, std::chrono::milliseconds(500));
  said("free now", is_free ? 0 : -1);
  lock.l_pid = 1;
  said("with a pid", fcntl(other, F_OFD_SETLK, &lock));
  said("lease", fcntl(other, F_SETLEASE, F_RDLCK));
  said("lease of a reader", fcntl(open("big", O_RDONLY), F_SETLEASE, F_RDLCK));
  said("notify of a file", fcntl(other, F_NOTIFY, DN_MODIFY));
  say("offset", "%ld %s", position(other), reads(other, 10).c_str());
}

void polls(const Place &) {
  int fd = open("text", O_RDONLY), dir = open("dir", O_RDONLY), path = open("text", O_PATH), ends[2];
  said("pipe", pipe(ends));
  reads(fd, 10);
  pollfd set[] = {{fd, POLLIN | POLLOUT | POLLPRI, 0}, {dir, POLLIN, 0}, {path, POLLIN, 0}, {ends[0], POLLIN, 0},
                  {-1, POLLIN, 0},                     {999, POLLIN, 0}};
  said("ready", poll(set, 6, 0));
  for (const auto &one : set) say("events", "%x", static_cast<unsigned>(one.revents));
  fd_set readable;
  FD_ZERO(&readable);
  FD_SET(fd, &readable), FD_SET(ends[0], &readable);
  timeval now = {0, 0};
  said("select", select(64, &readable, nullptr, nullptr, &now));
  say("which", "%d %d", FD_ISSET(fd, &readable) != 0, FD_ISSET(ends[0], &readable) != 0);
  int queue = epoll_create1(0);
  epoll_event event = {EPOLLIN, {.fd = fd}};
  said("epoll", epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event));
  said("waited", epoll_wait(queue, &event, 1, 0));
  say("read on", "%s", reads(fd, 10).c_str());
  said("epoll of the pipe", epoll_ctl(queue, EPOLL_CTL_ADD, ends[0], &event));
  said("nothing there", epoll_wait(queue, &event, 1, 0) > 1);
  said("closed", close(fd));
  said("after the close", epoll_wait(queue, &event, 1, 0));
}

/// The events there are, merged by kind: FUSE and ext4 may tell the same thing in two parts.
std::string events(int notify) {
  alignas(inotify_event) char buffer[65536];
  std::string all;
  ssize_t got;
  while ((got = read(notify, buffer, sizeof buffer)) > 0) {
    for (ssize_t at = 0; at < got;) {
      auto event = reinterpret_cast<inotify_event *>(buffer + at);
      char one[300];
      std::snprintf(one, sizeof one, " %d:%x:%s", event->wd, event->mask, event->len > 0 ? event->name : "");
      all += one;
      at += static_cast<ssize_t>(sizeof *event + event->len);
    }
  }
  return all;
}

void watched_changes(const Place &) {
  constexpr uint32_t kChanges = IN_MODIFY | IN_ATTRIB | IN_CREATE | IN_DELETE | IN_MOVE | IN_DELETE_SELF |
                                IN_CLOSE_WRITE | IN_MOVE_SELF;
  int notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  said("directory", inotify_add_watch(notify, "sub", kChanges));
  said("file", inotify_add_watch(notify, "text", kChanges));
  said("nothing", inotify_add_watch(notify, "absent", kChanges));
  write_file("sub/new", "contents");
  say("created", "%s", events(notify).c_str());
  said("again", inotify_add_watch(notify, "sub/../text", kChanges));
  chmod("text", 0600);
  say("mode", "%s", events(notify).c_str());
  rename("sub/new", "sub/other");
  say("renamed", "%s", events(notify).c_str());
  say("read", "%s", contents("text").c_str());
  truncate("text", 100);
  say("truncated", "%s", events(notify).c_str());
  unlink("sub/other");
  say("removed", "%s", events(notify).c_str());
  unlink("text");
  say("removed too", "%s", events(notify).c_str());
}

void watched_accesses(const Place &) {
  constexpr uint32_t kAccesses = IN_ACCESS | IN_OPEN | IN_CLOSE_NOWRITE;
  say("before", "%s %s", contents("text").c_str(), contents("text").c_str());
  int early = open("text", O_RDONLY);
  reads(early, 10);
  int notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  said("file", inotify_add_watch(notify, "text", kAccesses));
  said("directory", inotify_add_watch(notify, "dir", kAccesses));
  for (int look = 0; look < 3; ++look) {
    say("contents", "%s", contents("text").c_str());
    say("opened and read", "%s", events(notify).c_str());
    say("in the directory", "%s", contents("dir/file007").c_str());
    say("told of it", "%s", events(notify).c_str());
  }
  say("opened before", "%s", reads(early, 10).c_str());
  say("told too", "%s", events(notify).c_str());
  // A child inherits the watch.
  say("child", "%s", in_child([&] { contents("text"); }).c_str());
  say("of the child", "%s", events(notify).c_str());
}

}  // namespace

std::vector<Case> lock_cases() {
  return {
      {"flock", whole_files},
      {"record_locks", ranges},
      {"ofd_locks",
       open_file_locks,
       {},
       {{"lease*", "FUSE inodes cannot have leases"},
        {"free now", "passthroughfs gives OFD locks up only when its own descriptor goes"}}},
      {"poll", polls, {"read"}, {{"epoll", "FUSE files can be waited for"}, {"waited", "likewise"}}},
      {"inotify_changes", watched_changes, {"read"}},
      {"inotify_accesses", watched_accesses, {}},
  };
}

}  // namespace shortfuse::tests::conformance
