// Operations that change something: once on each side.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "differential/differ.h"
#include "support/harness.h"

namespace shortfuse::tests {

namespace {
long result_of(long libc_result) { return libc_result < 0 ? -errno : libc_result; }
}  // namespace

void Differ::op_open() {
  Where where = draw_where(Intent::Change);
  int flags = static_cast<int>(draw(3)) | O_NONBLOCK;
  if (chance(60)) flags = O_RDONLY | O_NONBLOCK;
  if (chance(15)) flags |= O_CREAT;
  if (chance(4)) flags |= O_EXCL;
  if (chance(5)) flags |= O_TRUNC;
  if (chance(6)) flags |= O_APPEND;
  if (chance(25)) flags |= O_DIRECTORY;
  if (chance(8)) flags |= O_NOFOLLOW;
  if (chance(5)) flags |= O_PATH;
  if (chance(3)) flags |= O_SYNC;
  if (chance(3)) flags |= O_NOATIME;
  if (chance(70)) flags |= O_CLOEXEC;
  mode_t mode = draw_mode();
  bool classic = where.form != Where::Dirfd && chance(40);
  int fds[2] = {-1, -1};
  changing("open flags " + std::to_string(flags), &where, [&](Via, Side side) {
    Answer answer;
    const char *path = where.path[side].c_str();
    fds[side] = classic ? open(path, flags, mode) : openat(where.dirfd[side], path, flags, mode);
    answer.result = fds[side] < 0 ? -errno : 0;
    return answer;
  });
  if (fds[kMount] >= 0) keep(fds[kMount], fds[kPlain], flags);
}

void Differ::op_create_file() {
  Where where = draw_where(Intent::Create);
  mode_t mode = draw_mode();
  std::string bytes = draw_bytes(draw_size());
  changing("create " + std::to_string(bytes.size()), &where, [&](Via, Side side) {
    Answer answer;
    int fd = openat(where.dirfd[side], where.path[side].c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    answer.result = result_of(fd < 0 ? fd : write(fd, bytes.data(), bytes.size()));
    if (fd >= 0) close(fd);
    return answer;
  });
}

void Differ::op_rewrite() {
  Where where = draw_where(Intent::Change);
  static const int flag_choices[] = {0, 0, O_TRUNC, O_APPEND};
  int flags = O_WRONLY | O_NONBLOCK | O_CLOEXEC | flag_choices[draw(4)];
  off_t offset = draw_offset();
  std::string bytes = draw_bytes(draw_size());
  changing("rewrite " + std::to_string(flags) + " " + std::to_string(bytes.size()) + " at " + std::to_string(offset),
           &where, [&](Via, Side side) {
             Answer answer;
             int fd = openat(where.dirfd[side], where.path[side].c_str(), flags);
             answer.result = result_of(fd);
             if (fd < 0) return answer;
             answer.result = result_of(pwrite(fd, bytes.data(), bytes.size(), offset));
             close(fd);
             return answer;
           });
}

void Differ::op_write() {
  Slot *slot = draw_slot();
  if (slot == nullptr) return;
  std::string bytes = draw_bytes(draw_size());
  off_t offset = draw_offset();
  uint64_t form = draw(3);
  changing("write form " + std::to_string(form) + " " + std::to_string(bytes.size()), nullptr, [&](Via, Side side) {
    Answer answer;
    iovec parts[2] = {{bytes.data(), bytes.size() / 3},
                      {bytes.data() + bytes.size() / 3, bytes.size() - bytes.size() / 3}};
    int fd = slot->fd[side];
    answer.result = result_of(form == 0   ? write(fd, bytes.data(), bytes.size())
                              : form == 1 ? pwrite(fd, bytes.data(), bytes.size(), offset)
                                          : writev(fd, parts, 2));
    return answer;
  });
}

void Differ::op_truncate() {
  off_t size = chance(3) ? -1 : draw_offset();
  Slot *slot = chance(50) ? draw_slot() : nullptr;
  Where where = draw_where(Intent::Change);
  if (slot == nullptr && where.form == Where::Dirfd) return;
  changing("truncate to " + std::to_string(size), slot != nullptr ? nullptr : &where, [&](Via, Side side) {
    Answer answer;
    answer.result =
        result_of(slot != nullptr ? ftruncate(slot->fd[side], size) : truncate(where.path[side].c_str(), size));
    return answer;
  });
}

void Differ::op_fallocate() {
  Slot *slot = draw_slot();
  if (slot == nullptr) return;
  static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
                              FALLOC_FL_PUNCH_HOLE};
  int mode = modes[draw(std::size(modes))];
  off_t offset = draw_offset();
  off_t length = static_cast<off_t>(draw_size());
  changing("fallocate " + std::to_string(mode), nullptr, [&](Via, Side side) {
    Answer answer;
    answer.result = result_of(fallocate(slot->fd[side], mode, offset, length));
    return answer;
  });
}

void Differ::op_copy_range() {
  Slot *from = draw_slot(), *to = draw_slot();
  if (from == nullptr || to == nullptr || from->directory || to->directory) return;
  bool own_offsets = chance(50);
  off_t in = draw_offset(), out = draw_offset();
  size_t size = draw_size();
  changing("copy_file_range " + std::to_string(size), nullptr, [&](Via, Side side) {
    off_t in_at = in, out_at = out;
    Answer answer;
    answer.result = result_of(own_offsets ? copy_file_range(from->fd[side], nullptr, to->fd[side], nullptr, size, 0)
                                          : copy_file_range(from->fd[side], &in_at, to->fd[side], &out_at, size, 0));
    answer.cross = std::to_string(in_at) + " " + std::to_string(out_at);
    return answer;
  });
}

void Differ::op_symlink() {
  Where where = draw_where(Intent::Create);
  std::string target = chance(10) ? "../" + draw_name() : draw_name();
  bool nested = chance(40);
  if (nested) target = "d" + std::to_string(draw(4)) + "/" + target;
  bool absolute = chance(15);
  changing("symlink to " + target, &where, [&](Via, Side side) {
    Answer answer;
    std::string text = absolute ? config_.root[side] + "/" + target : target;
    answer.result = result_of(symlinkat(text.c_str(), where.dirfd[side], where.path[side].c_str()));
    return answer;
  });
}

void Differ::op_link() {
  Where from = draw_where(Intent::Change), to = draw_where(chance(60) ? Intent::Create : Intent::Change);
  // If one of the two names starts at the working directory, that has to be the right one.
  if (from.form == Where::Cwd) to.form = Where::Cwd;
  int flags = chance(40) ? AT_SYMLINK_FOLLOW : 0;
  changing("link " + from.path[kMount] + " to", &to, [&](Via, Side side) {
    Answer answer;
    answer.result =
        result_of(linkat(from.dirfd[side], from.path[side].c_str(), to.dirfd[side], to.path[side].c_str(), flags));
    return answer;
  });
}

void Differ::op_rename() {
  static const unsigned flag_choices[] = {
      0, 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_NOREPLACE | RENAME_EXCHANGE, 64};
  unsigned flags = flag_choices[draw(std::size(flag_choices))];
  Where from = draw_where(Intent::Change), to = draw_where(chance(60) ? Intent::Create : Intent::Change);
  // If one of the two names starts at the working directory, that has to be the right one.
  if (from.form == Where::Cwd) to.form = Where::Cwd;
  changing("rename " + std::to_string(flags) + " " + from.path[kMount] + " to", &to, [&](Via, Side side) {
    Answer answer;
    const char *a = from.path[side].c_str(), *b = to.path[side].c_str();
    answer.result = result_of(flags == 0 ? renameat(from.dirfd[side], a, to.dirfd[side], b)
                                         : renameat2(from.dirfd[side], a, to.dirfd[side], b, flags));
    return answer;
  });
}

void Differ::op_unlink() {
  Where where = draw_where(Intent::Change);
  bool classic = where.form != Where::Dirfd && chance(50);
  changing("unlink", &where, [&](Via, Side side) {
    Answer answer;
    const char *path = where.path[side].c_str();
    answer.result = result_of(classic ? unlink(path) : unlinkat(where.dirfd[side], path, 0));
    return answer;
  });
}

void Differ::op_mkdir() {
  Where where = draw_where(Intent::Create);
  mode_t mode = chance(70) ? 0755 : draw_mode();
  changing("mkdir", &where, [&](Via, Side side) {
    Answer answer;
    answer.result = result_of(mkdirat(where.dirfd[side], where.path[side].c_str(), mode));
    return answer;
  });
}

void Differ::op_rmdir() {
  Where where = draw_where(Intent::Change);
  changing("rmdir", &where, [&](Via, Side side) {
    Answer answer;
    answer.result = result_of(unlinkat(where.dirfd[side], where.path[side].c_str(), AT_REMOVEDIR));
    return answer;
  });
}

void Differ::op_mknod() {
  static const mode_t types[] = {S_IFREG, S_IFIFO, S_IFSOCK};
  Where where = draw_where(Intent::Create);
  mode_t mode = types[draw(3)] | (draw_mode() & 0777);
  changing("mknod " + std::to_string(mode), &where, [&](Via, Side side) {
    Answer answer;
    answer.result = result_of(mknodat(where.dirfd[side], where.path[side].c_str(), mode, 0));
    return answer;
  });
}

void Differ::op_chmod() {
  Where where = draw_where(Intent::Change);
  Slot *slot = chance(30) ? draw_slot() : nullptr;
  mode_t mode = draw_mode();
  changing("chmod " + std::to_string(mode), slot != nullptr ? nullptr : &where, [&](Via, Side side) {
    Answer answer;
    answer.result = result_of(slot != nullptr ? fchmod(slot->fd[side], mode)
                                              : fchmodat(where.dirfd[side], where.path[side].c_str(), mode, 0));
    return answer;
  });
}

void Differ::op_chown() {
  Where where = draw_where(Intent::Change);
  Slot *slot = chance(30) ? draw_slot() : nullptr;
  static const uid_t owners[] = {0, 12345, 54321, static_cast<uid_t>(-1)};
  uid_t uid = owners[draw(4)];
  gid_t gid = owners[draw(4)];
  int flags = chance(40) ? AT_SYMLINK_NOFOLLOW : 0;
  changing("chown " + std::to_string(uid), slot != nullptr ? nullptr : &where, [&](Via, Side side) {
    Answer answer;
    answer.result = result_of(slot != nullptr
                                  ? fchown(slot->fd[side], uid, gid)
                                  : fchownat(where.dirfd[side], where.path[side].c_str(), uid, gid, flags));
    return answer;
  });
}

void Differ::op_utimens() {
  Where where = draw_where(Intent::Change);
  Slot *slot = chance(30) ? draw_slot() : nullptr;
  struct timespec times[2];
  for (auto &time : times) {
    time = {static_cast<time_t>(draw(900'000'000)), static_cast<long>(draw(1'000'000'000))};
    if (chance(15)) time.tv_nsec = UTIME_NOW;
    if (chance(15)) time.tv_nsec = UTIME_OMIT;
  }
  int flags = chance(40) ? AT_SYMLINK_NOFOLLOW : 0;
  changing("utimens", slot != nullptr ? nullptr : &where, [&](Via, Side side) {
    Answer answer;
    answer.result = result_of(slot != nullptr
                                  ? futimens(slot->fd[side], times)
                                  : utimensat(where.dirfd[side], where.path[side].c_str(), times, flags));
    return answer;
  });
}

void Differ::op_xattr_set() {
  Where where = draw_where(Intent::Change);
  Slot *slot = where.form == Where::Dirfd || chance(30) ? draw_slot() : nullptr;
  if (where.form == Where::Dirfd && slot == nullptr) return;
  std::string name = draw_xattr_name(), value = draw_bytes(draw(chance(90) ? 40 : 300));
  static const int flag_choices[] = {0, 0, 0, XATTR_CREATE, XATTR_REPLACE};
  int flags = flag_choices[draw(std::size(flag_choices))];
  bool remove = chance(30), follow = chance(50);
  changing((remove ? "removexattr " : "setxattr ") + name, slot != nullptr ? nullptr : &where, [&](Via, Side side) {
    Answer answer;
    const char *path = where.path[side].c_str(), *key = name.c_str();
    const void *bytes = value.data();
    if (slot != nullptr) {
      int fd = slot->fd[side];
      answer.result = result_of(remove ? fremovexattr(fd, key) : fsetxattr(fd, key, bytes, value.size(), flags));
    } else if (follow) {
      answer.result = result_of(remove ? removexattr(path, key) : setxattr(path, key, bytes, value.size(), flags));
    } else {
      answer.result = result_of(remove ? lremovexattr(path, key) : lsetxattr(path, key, bytes, value.size(), flags));
    }
    return answer;
  });
}

}  // namespace shortfuse::tests
