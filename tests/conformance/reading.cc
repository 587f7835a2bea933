// Reading and its variants: vectors, flags, seeks, maps, and what another descriptor changes meanwhile.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <climits>
#include <csetjmp>
#include <csignal>
#include <cstring>

#include "conformance/case.h"

namespace shortfuse::tests::conformance {
namespace {

void flags_of_preadv2(const Place &) {
  int fd = open("text", O_RDONLY);
  char a[10], b[2000];
  iovec parts[] = {{a, sizeof a}, {nullptr, 0}, {b, sizeof b}};
  for (int flags : {0, RWF_HIPRI, RWF_DSYNC, RWF_SYNC, RWF_NOWAIT, RWF_APPEND, 1 << 20}) {
    memset(a, 0, sizeof a), memset(b, 0, sizeof b);
    char key[40];
    std::snprintf(key, sizeof key, "flags %x", static_cast<unsigned>(flags));
    said(key, preadv2(fd, parts, 3, 5, flags));
    say(key, "%s %s", digest({a, sizeof a}).c_str(), digest({b, sizeof b}).c_str());
    said(key, preadv2(fd, parts, 3, -1, flags));
    said(key, position(fd));
  }
  said("negative offset", preadv2(fd, parts, 3, -2, 0));
  said("preadv with -1", preadv(fd, parts, 3, -1));
  said("no vectors", preadv(fd, parts, 0, 0));
  said("too many", static_cast<long>(syscall(SYS_preadv, fd, parts, 1025, 0, 0)));
  iovec huge[] = {{a, SSIZE_MAX}, {b, 100}};
  said("too long", readv(fd, huge, 2));
  iovec bad[] = {{a, sizeof a}, {reinterpret_cast<void *>(8), 10}, {b, 10}};
  said("bad in the middle", preadv(fd, bad, 3, 0));
  said("bad at first", preadv(fd, bad + 1, 2, 0));
  said("readv", readv(fd, parts, 3));
  said("where it led", position(fd));
  said("at the end", preadv(fd, parts, 3, 10'000));
  said("behind the end", preadv(fd, parts, 3, 20'000));
  said("over the end", preadv(fd, parts, 3, 9'995));
  said("pread of nothing", pread(fd, nullptr, 0, 5));
  said("pread before the start", pread(fd, a, 10, -1));
  said("pread of a directory", pread(open("dir", O_RDONLY), a, 10, 0));
}

void seeks(const Place &) {
  int fd = open("text", O_RDONLY);
  struct {
    off_t offset;
    int whence;
  } steps[] = {{10, SEEK_SET}, {5, SEEK_CUR},  {-20, SEEK_CUR}, {-1, SEEK_SET},       {0, SEEK_END},
               {-7, SEEK_END}, {9, SEEK_END},  {3, SEEK_CUR},   {LONG_MAX, SEEK_CUR}, {LONG_MAX, SEEK_SET},
               {1, SEEK_CUR},  {0, 77},        {0, -1},         {LONG_MIN, SEEK_END}, {20, SEEK_SET}};
  bool far = false;
  for (const auto &step : steps) {
    // Behind a seek that ext4 refuses the two are at different places.
    far = far || step.offset == LONG_MAX;
    said(far ? "far seek" : "seek", lseek(fd, step.offset, step.whence));
    say(far ? "far away" : "there", "%s, %ld", reads(fd, 6).c_str(), position(fd));
  }
  int writer = open("text", O_WRONLY | O_APPEND);
  said("grows", write(writer, "more", 4));
  said("new end", lseek(fd, 0, SEEK_END));
  said("shrinks", ftruncate(writer, 100));
  said("end again", lseek(fd, 0, SEEK_END));
  said("end of a directory", lseek(open("dir", O_RDONLY), 0, SEEK_END) >= 0 ? 0 : -1);
}

void data_and_holes(const Place &) {
  int fd = open("sparse", O_RDONLY);
  reads(fd, 10);
  for (off_t at : {0l, 10l, 65'536l, 70'000l, 655'360l, 700'000l, 720'896l, 800'000l, -1l}) {
    said("data", lseek(fd, at, SEEK_DATA));
    say("after it", "%s", reads(fd, 6).c_str());
    said("hole", lseek(fd, at, SEEK_HOLE));
    say("after it", "%s", reads(fd, 6).c_str());
  }
  int empty = open("empty", O_RDONLY);
  said("data in nothing", lseek(empty, 0, SEEK_DATA));
  said("hole in nothing", lseek(empty, 0, SEEK_HOLE));
  said("back", lseek(fd, 5, SEEK_SET));
  say("read", "%s", reads(fd, 10).c_str());
  said("by a duplicate", lseek(dup(fd), 0, SEEK_HOLE));
  said("the first is there as well", position(fd));
}

void maps_private(const Place &) {
  int fd = open("text", O_RDONLY);
  reads(fd, 10);
  auto at = static_cast<char *>(mmap(nullptr, 10'000, PROT_READ, MAP_PRIVATE, fd, 0));
  said("mapped", at == MAP_FAILED ? -1 : 0);
  said("offset", position(fd));
  say("bytes", "%s", digest({at, 10'000}).c_str());
  said("writable", mprotect(at, 10'000, PROT_READ | PROT_WRITE));
  memcpy(at, "CHANGED", 7);
  say("changed here", "%s", digest({at, 20}).c_str());
  say("not there", "%s", contents("text").c_str());
  said("shared and writable", mmap(nullptr, 100, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
  auto shared = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
  said("shared", shared == MAP_FAILED ? -1 : 0);
  said("made writable", mprotect(shared, 4096, PROT_READ | PROT_WRITE));
  said("executable", mprotect(at, 4096, PROT_READ | PROT_EXEC));
  said("unaligned", mmap(nullptr, 100, PROT_READ, MAP_PRIVATE, fd, 100) == MAP_FAILED ? -1 : 0);
  close(fd);
  int other = open("text", O_RDWR);
  said("written", pwrite(other, "later", 5, 4096));
  say("in the private map", "%s", digest({at + 4096, 20}).c_str());
  said("unmapped", munmap(at, 10'000));
}

void maps_shared(const Place &) {
  int fd = open("text", O_RDWR), reader = open("text", O_RDONLY);
  reads(reader, 10);
  auto at = static_cast<char *>(mmap(nullptr, 10'000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  said("mapped", at == MAP_FAILED ? -1 : 0);
  for (int round = 0; round < 5; ++round) {
    // By memory, seen by read; by write, seen in memory.
    std::snprintf(at + 20, 20, "round %d by memory", round);
    say("read", "%s", (lseek(reader, 20, SEEK_SET), reads(reader, 18)).c_str());
    say("read anew", "%s", contents("text").c_str());
    char text[30];
    std::snprintf(text, sizeof text, "round %d by write", round);
    said("written", pwrite(fd, text, 16, 5000));
    say("in memory", "%s", digest({at + 5000, 16}).c_str());
  }
  close(fd);
  // The descriptor is gone, the map is not.
  for (int round = 0; round < 3; ++round) {
    std::snprintf(at + 40, 20, "closed %d by memory", round);
    say("through the reader", "%s", (lseek(reader, 40, SEEK_SET), reads(reader, 19)).c_str());
    say("after the close", "%s", contents("text").c_str());
  }
  said("msync", msync(at, 10'000, MS_SYNC));
  say("synced", "%s", contents("text").c_str());
  said("unmapped", munmap(at, 10'000));
  say("at last", "%s", contents("text").c_str());
  say("again", "%s", contents("text").c_str());
}

sigjmp_buf beyond;

void maps_that_shrink(const Place &) {
  int fd = open("text", O_RDWR);
  auto at = static_cast<volatile char *>(mmap(nullptr, 10'000, PROT_READ, MAP_SHARED, fd, 0));
  struct sigaction action = {};
  action.sa_handler = [](int number) { siglongjmp(beyond, number); };
  sigaction(SIGBUS, &action, nullptr);
  said("before", at[8200]);
  said("truncate", ftruncate(fd, 5000));
  for (int round = 0; round < 3; ++round) {
    int number = sigsetjmp(beyond, 1);
    if (number == 0) {
      said("read", at[8200]);
    } else {
      say("signal", "%d", number);
    }
    say("and", "%s", contents("text").c_str());
    // A buffer in what is gone: the kernel's EFAULT.
    int other = open("big", O_RDONLY);
    said("into it", static_cast<long>(read(other, const_cast<char *>(at) + 8192, 100)));
    close(other);
  }
}

void hints(const Place &) {
  int fd = open("big", O_RDONLY), dir = open("dir", O_RDONLY);
  reads(fd, 10);
  said("readahead", readahead(fd, 0, 100'000));
  said("readahead of a directory", readahead(dir, 0, 100));
  said("readahead of nothing", readahead(-1, 0, 100));
  for (int advice : {POSIX_FADV_NORMAL, POSIX_FADV_SEQUENTIAL, POSIX_FADV_RANDOM, POSIX_FADV_WILLNEED,
                     POSIX_FADV_DONTNEED, POSIX_FADV_NOREUSE, 99}) {
    say("advice", "%d", posix_fadvise(fd, 0, 0, advice));
  }
  say("advice to nothing", "%d", posix_fadvise(-1, 0, 0, 0));
  say("read on", "%s", reads(fd, 10).c_str());
  int left = -1;
  said("how much is left", ioctl(fd, FIONREAD, &left));
  say("left", "%d", left);
  lseek(fd, 100, SEEK_SET);
  said("how much then", ioctl(fd, FIONREAD, &left));
  say("left then", "%d", left);
  said("no terminal", ioctl(fd, TCGETS, &left));
  said("sync", fsync(fd));
  said("data sync", fdatasync(fd));
  said("sync range", sync_file_range(fd, 0, 100, 0));
  said("fallocate", fallocate(fd, 0, 0, 100));
  say("at", "%ld", position(fd));
}

void changes_meanwhile(const Place &) {
  int reader = open("text", O_RDONLY), second = open("text", O_RDONLY);
  struct stat st;
  for (int round = 0; round < 6; ++round) {
    int fd = open("text", O_WRONLY);
    char text[40];
    int length = std::snprintf(text, sizeof text, "round %d\n", round);
    pwrite(fd, text, static_cast<size_t>(length), 100 * round);
    say("while it is open", "%s", (lseek(reader, 100 * round, SEEK_SET), reads(reader, 20)).c_str());
    close(fd);
    say("closed", "%s", (lseek(second, 100 * round, SEEK_SET), reads(second, 20)).c_str());
    truncate("text", 10'000 - 500 * round);
    fstat(reader, &st);
    say("size", "%ld %ld", static_cast<long>(st.st_size), static_cast<long>(lseek(reader, 0, SEEK_END)));
    in_child([&] {
      int own = open("text", O_WRONLY | O_APPEND);
      if (write(own, "by a child\n", 11) != 11) _exit(1);
    });
    say("by a child", "%s", (lseek(second, -11, SEEK_END), reads(second, 20)).c_str());
    chmod("text", 0600 + round);
    stat("text", &st);
    say("mode", "%o", st.st_mode);
  }
  said("truncated below the offset", truncate("text", 50));
  said("offset", position(second));
  say("read there", "%s", reads(second, 10).c_str());
}

}  // namespace

std::vector<Case> reading_cases() {
  return {
      {"preadv2", flags_of_preadv2, {"read"}, {{"flags*", "FUSE has neither RWF_NOWAIT nor RWF_HIPRI"}}},
      {"seek", seeks, {"read", "lseek"}, {{"far*", "FUSE files may be 2^63-1 bytes long, those of ext4 16 TiB"}}},
      {"holes", data_and_holes, {"read"}},
      {"mmap_private", maps_private, {"read"}},
      {"mmap_shared", maps_shared, {}},
      {"mmap_shrinks", maps_that_shrink},
      {"hints", hints, {"read"}},
      {"changes", changes_meanwhile, {"stat", "lseek"}},
  };
}

}  // namespace shortfuse::tests::conformance
