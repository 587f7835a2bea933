// Ways to open: O_APPEND, O_DIRECT, O_PATH, O_TMPFILE, openat2; and what an open file is while its name goes.
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "conformance/case.h"

namespace shortfuse::tests::conformance {
namespace {

void append(const Place &) {
  int fd = open("text", O_RDWR | O_APPEND), reader = open("text", O_RDONLY);
  reads(reader, 9990);
  said("written", write(fd, "appended\n", 9));
  said("position", position(fd));
  say("seen by the reader", "%s", reads(reader, 100).c_str());
  said("pwrite goes to the end as well", pwrite(fd, "again\n", 6, 3));
  say("tail", "%s", reads(reader, 100).c_str());
  lseek(fd, 0, SEEK_SET);
  say("read at the start", "%s", reads(fd, 10).c_str());
  said("written at the end all the same", write(fd, "third\n", 6));
  said("position at the end", position(fd));
  said("no longer", fcntl(fd, F_SETFL, 0));
  lseek(fd, 0, SEEK_SET);
  said("overwritten", write(fd, "LINE", 4));
  say("the whole", "%s", contents("text").c_str());
  for (int child = 0; child < 4; ++child) {
    in_child([&] {
      int own = open("empty", O_WRONLY | O_APPEND);
      for (int i = 0; i < 50; ++i) {
        if (write(own, "a line of a child\n", 18) != 18) _exit(1);
      }
    });
  }
  say("all lines", "%s", contents("empty").c_str());
}

void direct(const Place &) {
  int fd = open("big", O_RDONLY | O_DIRECT);
  if (fd < 0) {
    said("open", fd);
    return;
  }
  void *aligned = std::aligned_alloc(4096, 65536);
  said("aligned", read(fd, aligned, 65536));
  say("bytes", "%s", digest({static_cast<char *>(aligned), 65536}).c_str());
  said("position", position(fd));
  said("pread", pread(fd, aligned, 4096, 8192));
  say("its bytes", "%s", digest({static_cast<char *>(aligned), 4096}).c_str());
  said("at the end", pread(fd, aligned, 4096, 299'008));
  said("behind the end", pread(fd, aligned, 4096, 303'104));
  said("unaligned buffer", read(fd, static_cast<char *>(aligned) + 1, 4096));
  said("unaligned length", read(fd, aligned, 100));
  said("unaligned offset", pread(fd, aligned, 4096, 10));
  say("status flags", "%x", static_cast<unsigned>(fcntl(fd, F_GETFL)) & O_DIRECT);
  int other = open("text", O_RDONLY);
  reads(other, 10);
  said("turned on later", fcntl(other, F_SETFL, O_DIRECT));
  said("aligned then", pread(other, aligned, 4096, 4096));
  said("turned off", fcntl(other, F_SETFL, 0));
  said("seek", lseek(other, 20, SEEK_SET));
  say("read", "%s", reads(other, 10).c_str());
  std::free(aligned);
}

void only_a_path(const Place &) {
  int fd = open("text", O_PATH), dir = open("sub", O_PATH | O_DIRECTORY), link = open("link", O_PATH | O_NOFOLLOW);
  struct stat by_fd, by_path;
  char buffer[100];
  say("read", "%s", reads(fd, 10).c_str());
  said("pread", pread(fd, buffer, 10, 0));
  said("seek", position(fd));
  said("fstat", fstat(fd, &by_fd));
  said("stat", stat("text", &by_path));
  said("same", by_fd.st_ino == by_path.st_ino && by_fd.st_size == by_path.st_size);
  said("fgetxattr", fgetxattr(fd, "user.note", buffer, sizeof buffer));
  said("fchmod", fchmod(fd, 0600));
  said("mmap", mmap(nullptr, 100, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
  say("flags", "%x", static_cast<unsigned>(fcntl(fd, F_GETFL)));
  said("empty path", fstatat(fd, "", &by_fd, AT_EMPTY_PATH));
  said("empty path without the flag", fstatat(fd, "", &by_fd, 0));
  int leaf = openat(dir, "inner/leaf", O_RDONLY);
  say("through the directory", "%s", reads(leaf, 100).c_str());
  said("fstatat through it", fstatat(dir, "inner", &by_fd, 0));
  said("listing", syscall(SYS_getdents64, dir, buffer, sizeof buffer));
  said("link itself", fstatat(link, "", &by_fd, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
  said("is a link", S_ISLNK(by_fd.st_mode));
  said("readlinkat", readlinkat(link, "", buffer, sizeof buffer));
  said("readlinkat of a file", readlinkat(fd, "", buffer, sizeof buffer));
  int copy = dup(fd);
  said("duplicate", fstat(copy, &by_fd));
  say("reading it", "%s", reads(copy, 10).c_str());
  std::string magic = "/proc/self/fd/" + std::to_string(fd);
  say("reopened", "%s", contents(magic).c_str());
  said("renamed", rename("text", "renamed"));
  said("still", fstat(fd, &by_fd));
  said("still the same", by_fd.st_ino == by_path.st_ino);
  said("fchdir", fchdir(dir));
  say("from there", "%s", contents("inner/leaf").c_str());
}

void without_a_name(const Place &) {
  int fd = open("dir", O_TMPFILE | O_RDWR, 0600);
  said("open", fd < 0 ? -1 : 0);
  if (fd < 0) return;
  said("written", write(fd, "nameless", 8));
  say("read", "%s", (lseek(fd, 0, SEEK_SET), reads(fd, 10)).c_str());
  std::string magic = "/proc/self/fd/" + std::to_string(fd);
  said("named", linkat(AT_FDCWD, magic.c_str(), AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
  say("by its name", "%s", contents("named").c_str());
}

long open_with(int dir, const char *path, uint64_t flags, uint64_t resolve, uint64_t mode = 0) {
  struct open_how how = {flags, mode, resolve};
  // EAGAIN: something was renamed or mounted meanwhile, anywhere on the machine (openat2(2)).
  for (;;) {
    const long fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
    if (fd >= 0 || errno != EAGAIN) return fd;
  }
}

void say_opened(const char *key, long fd) {
  if (fd < 0) {
    said(key, fd);
  } else {
    say(key, "%s", reads(static_cast<int>(fd), 20).c_str());
    close(static_cast<int>(fd));
  }
}

void open_restricted(const Place &place) {
  int dir = open("sub", O_RDONLY | O_DIRECTORY), here = open(".", O_PATH | O_DIRECTORY);
  symlink("../text", "sub/out");
  symlink("inner/leaf", "sub/in");
  symlink((place / "text").c_str(), "sub/absolute");
  symlink("/proc/self/cwd/text", "sub/magic");
  for (int look = 0; look < 3; ++look) {
    say_opened("plain", open_with(dir, "inner/leaf", O_RDONLY, 0));
    for (uint64_t resolve : {RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS,
                             RESOLVE_NO_XDEV, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS}) {
      char key[40];
      std::snprintf(key, sizeof key, "resolve %02llx", static_cast<unsigned long long>(resolve));
      for (const char *path : {"inner/leaf", "in", "out", "absolute", "magic", "../text", "inner/../../text",
                               "inner/../inner/leaf", "/inner/leaf"})
        say_opened(key, open_with(dir, path, O_RDONLY, resolve));
    }
    say_opened("beyond the mount", open_with(here, "sub/../../..", O_RDONLY | O_DIRECTORY, RESOLVE_BENEATH));
  }
  say_opened("unknown restriction", open_with(dir, "in", O_RDONLY, 1u << 20));
  say_opened("unknown flag", open_with(dir, "in", 1ull << 40, 0));
  say_opened("mode without O_CREAT", open_with(dir, "in", O_RDONLY, 0, 0644));
  struct open_how how = {};
  said("too small", syscall(SYS_openat2, dir, "in", &how, 8));
  said("bad pointer", syscall(SYS_openat2, dir, "in", nullptr, sizeof how));
  struct {
    struct open_how how;
    uint64_t more;
  } larger = {};
  long fd = syscall(SYS_openat2, dir, "in", &larger, sizeof larger);
  say_opened("larger, the rest zero", fd);
  larger.more = 1;
  said("larger, the rest not zero", syscall(SYS_openat2, dir, "in", &larger, sizeof larger));
  say_opened("created", open_with(dir, "new", O_RDWR | O_CREAT | O_EXCL, RESOLVE_BENEATH, 0640));
  say_opened("created again", open_with(dir, "new", O_RDWR | O_CREAT | O_EXCL, RESOLVE_BENEATH, 0640));
}

void gone_but_open(const Place &) {
  int unlinked = open("text", O_RDONLY), replaced = open("big", O_RDONLY), dir = open("sub/inner", O_RDONLY);
  struct stat st;
  reads(unlinked, 10), reads(replaced, 10);
  said("unlink", unlink("text"));
  said("fstat", fstat(unlinked, &st));
  say("links and size", "%lu %ld", static_cast<unsigned long>(st.st_nlink), static_cast<long>(st.st_size));
  say("read on", "%s", reads(unlinked, 100).c_str());
  say("by name", "%s", contents("text").c_str());
  write_file("new", "new contents\n");
  said("rename over", rename("new", "big"));
  say("the old one", "%s", reads(replaced, 100).c_str());
  said("pread of it", lseek(replaced, 0, SEEK_END));
  say("the new one", "%s", contents("big").c_str());
  said("a leaf", unlink("sub/inner/leaf"));
  said("rmdir", rmdir("sub/inner"));
  said("fstat of the directory", fstat(dir, &st));
  said("in it", openat(dir, "leaf", O_RDONLY));
  said("create in it", openat(dir, "leaf", O_RDWR | O_CREAT, 0600));
  write_file("text", "another\n");
  say("a new one by that name", "%s", contents("text").c_str());
  say("and the old one still", "%s", (lseek(unlinked, 0, SEEK_SET), reads(unlinked, 20)).c_str());
}

void creating(const Place &) {
  said("exclusive", open("text", O_RDWR | O_CREAT | O_EXCL, 0600));
  said("exclusive on a dangling link", open("dangling", O_RDWR | O_CREAT | O_EXCL, 0600));
  said("a file as a directory", open("text", O_RDONLY | O_DIRECTORY));
  said("a directory for writing", open("dir", O_RDWR));
  said("a link not followed", open("link", O_RDONLY | O_NOFOLLOW));
  said("a loop", open("loop", O_RDONLY));
  said("below a file", open("text/below", O_RDONLY));
  said("nothing", open("", O_RDONLY));
  said("a long name", open(std::string(300, 'n').c_str(), O_RDONLY));
  said("a long path", open(std::string(5000, '/').c_str(), O_RDONLY));
  int reader = open("text", O_RDONLY);
  reads(reader, 10);
  int fd = open("text", O_WRONLY | O_TRUNC);
  say("the reader after a truncation", "%s", reads(reader, 10).c_str());
  said("written", pwrite(fd, "0123456789abcdef", 16, 0));
  say("the reader", "%s", reads(reader, 10).c_str());
  said("creat", creat("dangling", 0600) >= 0 ? 0 : -1);
  say("what the link led to", "%s", contents("nothing").c_str());
  said("write-only", (fd = open("big", O_WRONLY)) >= 0 ? 0 : -1);
  say("reading it", "%s", reads(fd, 10).c_str());
  said("seek to its end", lseek(fd, 0, SEEK_END));
  said("access mode 3", open("big", 3) >= 0 ? 0 : -1);
}

}  // namespace

std::vector<Case> open_cases() {
  return {
      {"append",
       append,
       {},
       {{"the whole", "the descriptor that passthroughfs holds goes on appending after F_SETFL"}}},
      {"direct", direct, {"read"}, {{"unaligned*", "passthroughfs reads through the lower page cache: any alignment"}}},
      {"o_path", only_a_path, {"stat", "read"}},
      {"tmpfile", without_a_name, {}, {{"*", "libfuse 3.14 has no TMPFILE"}}},
      {"openat2", open_restricted, {"read"}},
      {"gone_but_open", gone_but_open, {"read"}},
      {"creating", creating, {"read"}},
  };
}

}  // namespace shortfuse::tests::conformance
