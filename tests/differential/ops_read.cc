// Operations that read: three times each, see differ.h.
#include <dirent.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "differential/differ.h"
#include "support/harness.h"
#include "support/raw.h"

namespace shortfuse::tests {

namespace {

struct Entry {
  std::string name;
  uint64_t ino;
  int64_t off;
  unsigned type;
};

void parse_dirents(const char *bytes, size_t size, std::vector<Entry> &out) {
  struct Dirent {
    uint64_t ino;
    int64_t off;
    uint16_t reclen;
    uint8_t type;
    char name[];
  };
  for (size_t at = 0; at < size;) {
    const auto *entry = reinterpret_cast<const Dirent *>(bytes + at);
    out.push_back({entry->name, entry->ino, entry->off, entry->type});
    at += entry->reclen;
  }
}

std::string entry_text(const Entry &entry) {
  return entry.name + " type " + std::to_string(entry.type) + " ino " + std::to_string(entry.ino) + " off " +
         std::to_string(entry.off) + "\n";
}

/// Reads a directory to its end; 0 or -errno.
long read_listing(Via via, int fd, size_t buffer_size, std::vector<Entry> &entries) {
  std::vector<char> buffer(buffer_size);
  for (;;) {
    long got = call_getdents(via, fd, buffer.data(), buffer.size());
    if (got <= 0) return got;
    parse_dirents(buffer.data(), static_cast<size_t>(got), entries);
  }
}

/// lseek on a descriptor of its own for the same file; `otherwise` where that cannot be had.
long seek_by_kernel(int fd, off_t offset, int whence, long otherwise) {
  char self[40];
  std::snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
  long twin = raw(__NR_openat, AT_FDCWD, self, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (twin < 0) return otherwise;
  long result = otherwise == -EBADF ? otherwise : raw(__NR_lseek, twin, offset, whence);
  raw(__NR_close, twin);
  return result;
}

}  // namespace

void Differ::op_stat() {
  static const int flag_choices[] = {
      0, 0, AT_SYMLINK_NOFOLLOW, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, AT_NO_AUTOMOUNT, 0x40000};
  int flags = flag_choices[draw(std::size(flag_choices))];
  bool classic = chance(40);
  Where where = draw_where();
  bool with_at = where.form == Where::Dirfd || !classic;
  reading(with_at ? "fstatat " + std::to_string(flags) : flags ? "lstat" : "stat", &where, [&](Via via, Side side) {
    struct stat st;
    std::memset(&st, 0, sizeof st);
    const char *path = where.path[side].c_str();
    long result = with_at       ? call_fstatat(via, where.dirfd[side], path, &st, flags)
                  : flags != 0 ? call_lstat(via, path, &st)
                               : call_stat(via, path, &st);
    return of_stat(result, st);
  });
}

void Differ::op_fstat() {
  Slot *slot = draw_slot();
  if (slot == nullptr) return;
  bool by_empty_path = chance(30);
  reading("fstat", nullptr, [&](Via via, Side side) {
    struct stat st;
    std::memset(&st, 0, sizeof st);
    return of_stat(by_empty_path ? call_fstatat(via, slot->fd[side], "", &st, AT_EMPTY_PATH)
                                 : call_fstat(via, slot->fd[side], &st),
                   st);
  });
}

void Differ::op_statx() {
  static const unsigned masks[] = {STATX_BASIC_STATS,        STATX_BASIC_STATS,       STATX_ALL, STATX_MODE,
                                   STATX_SIZE | STATX_MTIME, STATX_INO | STATX_NLINK, 0};
  static const int flag_choices[] = {0, AT_SYMLINK_NOFOLLOW, AT_STATX_FORCE_SYNC,
                                     AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW};
  unsigned mask = masks[draw(std::size(masks))];
  int flags = flag_choices[draw(std::size(flag_choices))];
  Slot *slot = chance(25) ? draw_slot() : nullptr;
  Where where = draw_where();
  auto call = [&](Via via, Side side) {
    struct statx x;
    std::memset(&x, 0, sizeof x);
    long result = slot != nullptr ? call_statx(via, slot->fd[side], "", flags | AT_EMPTY_PATH, mask, &x)
                                  : call_statx(via, where.dirfd[side], where.path[side].c_str(), flags, mask, &x);
    // What was not asked for may or may not be told.
    if (mask != STATX_BASIC_STATS && mask != STATX_ALL) {
      x.stx_mtime = x.stx_ctime = {};
      x.stx_size = 0;
    }
    return of_statx(result, x);
  };
  reading("statx " + std::to_string(mask) + " " + std::to_string(flags), slot != nullptr ? nullptr : &where, call);
}

void Differ::op_access() {
  int mode = static_cast<int>(draw(chance(95) ? 8 : 32));
  static const int flag_choices[] = {0, 0, AT_EACCESS, AT_SYMLINK_NOFOLLOW, AT_EACCESS | AT_SYMLINK_NOFOLLOW};
  int flags = flag_choices[draw(std::size(flag_choices))];
  Where where = draw_where();
  bool classic = where.form != Where::Dirfd && chance(50);
  reading("access " + std::to_string(mode) + " " + std::to_string(classic ? 0 : flags), &where,
          [&](Via via, Side side) {
            Answer answer;
            const char *path = where.path[side].c_str();
            answer.result =
                classic ? call_access(via, path, mode) : call_faccessat(via, where.dirfd[side], path, mode, flags);
            return answer;
          });
}

void Differ::op_readlink() {
  Where where = draw_where();
  size_t size = chance(70) ? 4096 : draw(12);
  bool classic = where.form != Where::Dirfd && chance(50);
  reading("readlink " + std::to_string(size), &where, [&](Via via, Side side) {
    char target[4096];
    const char *path = where.path[side].c_str();
    long result = classic ? call_readlink(via, path, target, size)
                          : call_readlinkat(via, where.dirfd[side], path, target, size);
    Answer answer = of_bytes(result, target, result > 0 ? static_cast<size_t>(result) : 0);
    // An absolute target that was cut differs between the sides without being wrong.
    answer.cross = size == 4096 ? strip_root(answer.exact, side) : "";
    return answer;
  });
}

void Differ::op_xattr_get() {
  Where where = draw_where();
  Slot *slot = where.form == Where::Dirfd || chance(20) ? draw_slot() : nullptr;
  if (where.form == Where::Dirfd && slot == nullptr) return;
  Follow follow = slot != nullptr ? Follow::Descriptor : chance(50) ? Follow::Yes : Follow::No;
  size_t size = chance(60) ? 4096 : draw(40);
  std::string name = draw_xattr_name();
  bool list = chance(35);
  reading(list ? "listxattr" : "getxattr " + name, slot != nullptr ? nullptr : &where, [&](Via via, Side side) {
    char value[4096];
    int fd = slot != nullptr ? slot->fd[side] : -1;
    const char *path = where.path[side].c_str();
    long result = list ? call_listxattr(via, follow, fd, path, value, size)
                       : call_getxattr(via, follow, fd, path, name.c_str(), value, size);
    Answer answer = of_bytes(result, value, result > 0 && size > 0 ? static_cast<size_t>(result) : 0);
    if (list) std::sort(answer.cross.begin(), answer.cross.end());
    return answer;
  });
}

void Differ::op_statfs() {
  Where where = draw_where();
  Slot *slot = where.form == Where::Dirfd || chance(30) ? draw_slot() : nullptr;
  if (where.form == Where::Dirfd && slot == nullptr) return;
  reading("statfs", slot != nullptr ? nullptr : &where, [&](Via via, Side side) {
    struct statfs fs;
    std::memset(&fs, 0, sizeof fs);
    Answer answer;
    answer.result =
        slot != nullptr ? call_fstatfs(via, slot->fd[side], &fs) : call_statfs(via, where.path[side].c_str(), &fs);
    if (answer.result < 0) return answer;
    for (long figure : {static_cast<long>(fs.f_type), static_cast<long>(fs.f_bsize), static_cast<long>(fs.f_blocks),
                        static_cast<long>(fs.f_files), static_cast<long>(fs.f_namelen), static_cast<long>(fs.f_frsize),
                        static_cast<long>(fs.f_flags), static_cast<long>(fs.f_fsid.__val[0])}) {
      answer.exact += std::to_string(figure) + " ";
    }
    answer.cross = std::to_string(fs.f_namelen);
    return answer;
  });
}

void Differ::op_list() {
  Where where = draw_where();
  size_t buffer = chance(60) ? 32768 : 400 + draw(3000);
  reading("list", &where, [&](Via via, Side side) {
    Answer answer;
    int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    int fd = via == Via::Libc ? openat(where.dirfd[side], where.path[side].c_str(), flags)
                              : static_cast<int>(raw(__NR_openat, where.dirfd[side], where.path[side].c_str(), flags));
    if (fd < 0) {
      answer.result = via == Via::Libc ? -errno : fd;
      return answer;
    }
    std::vector<Entry> entries;
    answer.result = read_listing(via, fd, buffer, entries);
    close(fd);
    for (const auto &entry : entries) answer.exact += entry_text(entry);
    std::sort(entries.begin(), entries.end(), [](const Entry &a, const Entry &b) { return a.name < b.name; });
    for (const auto &entry : entries) answer.cross += entry.name + " " + std::to_string(entry.type) + "\n";
    return answer;
  });
}

void Differ::rewind_streams(Slot &slot) {
  uint64_t changes = config_.changes->load();
  for (int fd : {slot.fd[kMount], slot.fd[kPlain]}) call_lseek(Via::Libc, fd, 0, SEEK_SET);
  raw(__NR_lseek, slot.twin, 0, SEEK_SET);
  slot.changes = changes;
}

// Parts of a stream, and seeking in it. The mount's two streams (hooked and kernel) agree as long as nothing has
// changed since they were at their start; a plain directory has cookies of its own.
void Differ::op_getdents() {
  Slot *slot = draw_directory_slot();
  if (slot == nullptr || slot->twin < 0) return;
  bool rewind = chance(25) || config_.changes->load() != slot->changes;
  uint64_t before = config_.changes->load();
  if (rewind) rewind_streams(*slot);
  size_t size = chance(10) ? draw(30) : 60 + draw(400);
  note("getdents " + std::to_string(size) + (rewind ? " from the start" : ""));
  auto part = [&](Via via, int fd) {
    char buffer[512];
    Answer answer;
    answer.result = call_getdents(via, fd, buffer, size);
    std::vector<Entry> entries;
    if (answer.result > 0) parse_dirents(buffer, static_cast<size_t>(answer.result), entries);
    for (const auto &entry : entries) answer.exact += entry_text(entry);
    answer.exact += "position " + std::to_string(call_lseek(via, fd, 0, SEEK_CUR));
    return answer;
  };
  Answer served = part(Via::Libc, slot->fd[kMount]), kernel = part(Via::Raw, slot->twin);
  if (config_.changes->load() != before) return;
  if (served.result != kernel.result || served.exact != kernel.exact) {
    mismatch("getdents", served, "libc on the mount", kernel, "the kernel on the mount");
  }
}

void Differ::op_read() {
  Slot *slot = draw_slot();
  if (slot == nullptr) return;
  struct stat st {};
  raw(__NR_fstat, slot->fd[kPlain], &st);
  bool regular = S_ISREG(st.st_mode);
  if (slot->directory) rewind_streams(*slot);
  off_t position = raw(__NR_lseek, slot->fd[kPlain], 0, SEEK_CUR);
  size_t size = draw_size(), split = size > 1 ? 1 + draw(size - 1) : 0;
  bool vectors = chance(30);
  note("read " + std::to_string(size) + " at " + std::to_string(position));
  std::string buffer[2];
  Answer answers[2];
  for (Side side : {kMount, kPlain}) {
    buffer[side].assign(size + 1, '#');
    iovec parts[2] = {{buffer[side].data(), split}, {buffer[side].data() + split, size - split}};
    long result = vectors ? readv(slot->fd[side], parts, 2) : read(slot->fd[side], buffer[side].data(), size);
    answers[side].result = result < 0 ? -errno : result;
    answers[side].cross = buffer[side];
  }
  if (answers[0].result != answers[1].result || (!slot->directory && answers[0].cross != answers[1].cross)) {
    mismatch("read", answers[0], "the mount", answers[1], "the plain directory");
  }
  if (!regular || answers[0].result < 0 || config_.opens_served) return;
  std::string again(size + 1, '#');
  long kernel = raw(__NR_pread64, slot->fd[kMount], again.data(), size, position);
  if (kernel != answers[0].result || again != buffer[kMount]) {
    mismatch("read", answers[0], "libc on the mount", of_bytes(kernel, again.data(), size), "the kernel on the mount");
  }
}

void Differ::op_pread() {
  Slot *slot = draw_slot();
  if (slot == nullptr) return;
  off_t offset = chance(3) ? -1 : draw_offset();
  size_t size = draw_size(), split = size > 1 ? 1 + draw(size - 1) : 0;
  bool vectors = chance(30);
  reading("pread " + std::to_string(size) + " at " + std::to_string(offset), nullptr, [&](Via via, Side side) {
    std::string buffer(size + 1, '#');
    iovec parts[2] = {{buffer.data(), split}, {buffer.data() + split, size - split}};
    long result = vectors ? call_preadv(via, slot->fd[side], parts, 2, offset)
                          : call_pread(via, slot->fd[side], buffer.data(), size, offset);
    return of_bytes(result, buffer.data(), result > 0 ? size + 1 : 0);
  });
}

void Differ::op_lseek() {
  Slot *slot = draw_slot();
  if (slot == nullptr || slot->directory) return;
  static const int whences[] = {SEEK_SET, SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE, 77};
  int whence = whences[draw(std::size(whences))];
  off_t offset = draw_offset();
  if (whence == SEEK_END || whence == SEEK_CUR) offset -= static_cast<off_t>(draw(15'000));
  note("lseek " + std::to_string(offset) + " whence " + std::to_string(whence));
  long mount = call_lseek(Via::Libc, slot->fd[kMount], offset, whence);
  if (whence == SEEK_DATA || whence == SEEK_HOLE) {
    // Where holes are depends on how the bytes came: only the kernel's own answer on the mount can be compared.
    const bool asked = !config_.opens_served;
    if (asked) expect_same("lseek, hook and kernel", mount, seek_by_kernel(slot->fd[kMount], offset, whence, mount));
    for (int fd : slot->fd) call_lseek(Via::Libc, fd, 0, SEEK_SET);
    return;
  }
  long plain = call_lseek(Via::Libc, slot->fd[kPlain], offset, whence);
  expect_same("lseek", mount, plain);
  if (chance(50)) {
    expect_same("the position", call_lseek(Via::Libc, slot->fd[kMount], 0, SEEK_CUR),
                call_lseek(Via::Libc, slot->fd[kPlain], 0, SEEK_CUR));
  }
}

void Differ::op_mmap() {
  Slot *slot = draw_slot();
  if (slot == nullptr || slot->directory) return;
  int kind = chance(50) ? MAP_SHARED : MAP_PRIVATE;
  note("mmap");
  Answer answers[2];
  for (Side side : {kMount, kPlain}) {
    struct stat st {};
    if (fstat(slot->fd[side], &st) != 0) throw Broken("fstat");
    size_t size = static_cast<size_t>(st.st_size);
    if (size == 0) return;
    void *at = mmap(nullptr, size, PROT_READ, kind, slot->fd[side], 0);
    answers[side].result = at == MAP_FAILED ? -errno : 0;
    if (at == MAP_FAILED) continue;
    answers[side].cross.assign(static_cast<char *>(at), size);
    munmap(at, size);
  }
  if (answers[0].result != answers[1].result || answers[0].cross != answers[1].cross) {
    mismatch("mmap", answers[0], "the mount", answers[1], "the plain directory");
  }
}

void Differ::op_bad_pointer() {
  static char *const unmapped = [] {
    size_t page = 4096;
    auto *at = static_cast<char *>(mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    // Not unmapped: the next mapping of anybody in this process could take its place.
    if (mprotect(at + page, page, PROT_NONE) != 0) throw Broken("mprotect");
    return at + page;
  }();
  Where where = draw_where();
  Slot *slot = draw_slot();
  uint64_t which = draw(6);
  if (slot == nullptr && which >= 3) return;
  char *bad = chance(50) ? unmapped : nullptr;
  reading("bad pointer " + std::to_string(which), &where, [&](Via via, Side side) {
    Answer answer;
    const char *path = where.path[side].c_str();
    switch (which) {
      case 0: answer.result = call_fstatat(via, where.dirfd[side], bad, reinterpret_cast<struct stat *>(bad), 0); break;
      case 1:
        answer.result = call_fstatat(via, where.dirfd[side], path, reinterpret_cast<struct stat *>(bad), 0);
        break;
      case 2: answer.result = call_readlinkat(via, where.dirfd[side], path, bad, 100); break;
      case 3: answer.result = call_fstat(via, slot->fd[side], reinterpret_cast<struct stat *>(bad)); break;
      case 4: answer.result = call_pread(via, slot->fd[side], bad, 100, 0); break;
      // Only the first half of the buffer is there.
      default: answer.result = call_pread(via, slot->fd[side], unmapped - 50, 100, 0); break;
    }
    return answer;
  });
}

void Differ::op_getcwd() {
  note("getcwd");
  char served[5000], kernel[5000], plain[5000];
  long results[3] = {call_getcwd(Via::Libc, served, sizeof served), call_getcwd(Via::Raw, kernel, sizeof kernel), 0};
  enter(kPlain);
  results[2] = call_getcwd(Via::Libc, plain, sizeof plain);
  enter(kMount);
  expect_same("getcwd, hook and kernel", results[0], results[1]);
  expect_same("getcwd", results[0], results[2]);
  if (results[0] > 0 && strip_root(served, kMount) != strip_root(plain, kPlain)) throw Mismatch("getcwd");
}

// What most programs do with a file: open, fstat, read to the end, close.
void Differ::op_read_whole() {
  Where where = draw_where();
  size_t step = 1 + draw_size();
  if (step < 500) step = 500;
  reading("read whole by " + std::to_string(step), &where, [&](Via via, Side side) {
    Answer answer;
    int flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC;
    bool libc = via == Via::Libc;
    const char *path = where.path[side].c_str();
    long fd = libc ? openat(where.dirfd[side], path, flags) : raw(__NR_openat, where.dirfd[side], path, flags);
    if (fd < 0) {
      answer.result = libc ? -errno : fd;
      return answer;
    }
    struct stat st;
    std::memset(&st, 0, sizeof st);
    answer = of_stat(call_fstat(via, static_cast<int>(fd), &st), st);
    std::string buffer(step, '\0');
    // What is read from a pipe is gone: nobody could read it again.
    for (long got = S_ISFIFO(st.st_mode) ? 0 : 1; got > 0 && answer.exact.size() < 2'000'000;) {
      got = libc ? read(static_cast<int>(fd), buffer.data(), step) : raw(__NR_read, fd, buffer.data(), step);
      if (got < 0) answer.result = libc ? -errno : got;
      if (got > 0) answer.exact.append(buffer, 0, static_cast<size_t>(got));
      if (got > 0) answer.cross.append(buffer, 0, static_cast<size_t>(got));
    }
    close(static_cast<int>(fd));
    return answer;
  });
}

}  // namespace shortfuse::tests
