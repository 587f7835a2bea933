// Drawing, doing on both sides, comparing. The operations are in ops_*.cc.
#include "differential/differ.h"

#include <dirent.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "support/harness.h"
#include "support/raw.h"

namespace shortfuse::tests {

namespace {

constexpr size_t kSlots = 8;
constexpr size_t kTrail = 40;
constexpr uid_t kOtherUser = 12345;
// Times set by hand lie before this second, all others after it.
constexpr time_t kHandSetBefore = 1'000'000'000;

// A pipe is the kernel's own affair: what moves through it moves no time of the file system that holds its name.
std::string time_for_cross(unsigned mode, time_t seconds, long nanoseconds) {
  if (S_ISFIFO(mode)) return "any";
  if (seconds >= kHandSetBefore) return "now";
  return std::to_string(seconds) + "." + std::to_string(nanoseconds);
}

std::string format(const char *pattern, auto... values) {
  char text[600];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

}  // namespace

Differ::Differ(const Config &config) : config_(config), random_(config.seed) {
  for (Side side : {kMount, kPlain}) {
    root_fd_[side] = open(config_.root[side].c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    cwd_fd_[side] = open(config_.root[side].c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root_fd_[side] < 0 || cwd_fd_[side] < 0) throw Broken("cannot open " + config_.root[side]);
  }
  slots_.resize(kSlots);
  enter(kMount);
}

Differ::~Differ() {
  for (auto &slot : slots_) close_slot(slot);
  if (chdir("/") != 0) std::perror("chdir");
  for (Side side : {kMount, kPlain}) {
    close(root_fd_[side]);
    close(cwd_fd_[side]);
  }
}

void Differ::step() {
  static const unsigned total = [] {
    unsigned sum = 0;
    for (const auto &kind : kinds()) sum += kind.weight;
    return sum;
  }();
  unsigned at = static_cast<unsigned>(draw(total));
  ++steps_;
  as_other_ = config_.other_users && chance(8);
  for (const auto &kind : kinds()) {
    if (at < kind.weight) return (this->*kind.run)();
    at -= kind.weight;
  }
}

const std::vector<Differ::Kind> &Differ::kinds() {
  static const std::vector<Kind> all = {
      {&Differ::op_stat, 120},      {&Differ::op_fstat, 40},     {&Differ::op_statx, 30},
      {&Differ::op_access, 40},     {&Differ::op_readlink, 30},  {&Differ::op_xattr_get, 40},
      {&Differ::op_statfs, 6},      {&Differ::op_list, 30},      {&Differ::op_getdents, 30},
      {&Differ::op_read, 60},       {&Differ::op_pread, 50},     {&Differ::op_lseek, 30},
      {&Differ::op_mmap, 10},       {&Differ::op_bad_pointer, 8},{&Differ::op_getcwd, 4},
      {&Differ::op_read_whole, 50}, {&Differ::op_open, 60},      {&Differ::op_create_file, 14},
      {&Differ::op_rewrite, 30},    {&Differ::op_write, 20},     {&Differ::op_truncate, 12},
      {&Differ::op_fallocate, 6},   {&Differ::op_copy_range, 8}, {&Differ::op_symlink, 12},
      {&Differ::op_link, 10},       {&Differ::op_rename, 24},    {&Differ::op_unlink, 20},
      {&Differ::op_mkdir, 14},      {&Differ::op_rmdir, 10},     {&Differ::op_mknod, 4},
      {&Differ::op_chmod, 12},      {&Differ::op_chown, 8},      {&Differ::op_utimens, 12},
      {&Differ::op_xattr_set, 16},  {&Differ::op_close, 40},     {&Differ::op_dup, 8},
      {&Differ::op_chdir, 10},      {&Differ::op_umask, 2},      {&Differ::op_fork_read, 2},
      {&Differ::op_spawn_read, 1},  {&Differ::op_offset_users, 8},
  };
  return all;
}

// ---- drawing

std::string Differ::draw_name() {
  static const char *const names[] = {"d0", "d1", "d2", "d3", "f0", "f1", "f2", "f3", "f4",
                                      "f5", "l0", "l1", "l2", "l3", "a name with spaces"};
  if (chance(1)) return std::string(chance(50) ? 255 : 256, 'n');
  return names[draw(std::size(names))];
}

// Any names, most of them not there.
std::string Differ::draw_blind(bool may_climb) {
  std::string path;
  size_t components = 1 + draw(3);
  bool climbed = false;
  for (size_t i = 0; i < components; ++i) {
    if (!path.empty()) path += chance(3) ? "//" : "/";
    // One ".." at most: the tree is deep enough for the few that symbolic links add.
    if (may_climb && !climbed && chance(6)) {
      path += "..";
      climbed = true;
    } else if (chance(3)) {
      path += ".";
    } else {
      path += i + 1 < components && chance(70) ? "d" + std::to_string(draw(4)) : draw_name();
    }
  }
  if (chance(1)) path.clear();
  return path;
}

// Walks down from a directory of the plain side, by the kernel, and takes what it finds; "" where there is nothing.
std::string Differ::draw_existing(int plain_dirfd, bool only_directories) {
  std::string path;
  for (int depth = 0; depth < 4; ++depth) {
    long dir = raw(__NR_openat, plain_dirfd, path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) break;
    std::string names[2][32];
    size_t counts[2] = {0, 0};
    alignas(8) char buffer[4096];
    long got = raw(__NR_getdents64, dir, buffer, sizeof buffer);
    raw(__NR_close, dir);
    for (long at = 0; at < got;) {
      const auto *entry = reinterpret_cast<const dirent64 *>(buffer + at);
      at += entry->d_reclen;
      bool directory = entry->d_type == DT_DIR;
      std::string_view name = entry->d_name;
      if (name != "." && name != ".." && counts[directory] < 32) names[directory][counts[directory]++] = name;
    }
    bool descend = counts[1] > 0 && chance(60);
    if (!descend && (only_directories || counts[0] == 0)) break;
    path += (path.empty() ? "" : "/") + names[descend][draw(counts[descend])];
    if (!descend) break;
  }
  return path;
}

std::string Differ::draw_relative(Intent intent, int plain_dirfd) {
  std::string path;
  if (chance(intent == Intent::Create ? 15 : 25)) {
    path = draw_blind(intent == Intent::Look);
  } else if (intent == Intent::Create) {
    path = draw_existing(plain_dirfd, true);
    path += (path.empty() ? "" : "/") + draw_name();
  } else {
    path = draw_existing(plain_dirfd, false);
    if (chance(8) || path.empty()) path += (path.empty() ? "" : "/") + draw_name();
    if (intent == Intent::Look && chance(5)) path += "/..";
  }
  if (chance(3) && !path.empty()) path += chance(80) ? "/" : "/.";
  return path;
}

Differ::Where Differ::draw_where(Intent intent) {
  Where where;
  Slot *directory = chance(30) ? draw_directory_slot() : nullptr;
  uint64_t form = draw(10);
  int plain_dirfd = root_fd_[kPlain];
  if (directory != nullptr) {
    where.form = Where::Dirfd;
    plain_dirfd = directory->fd[kPlain];
  } else if (form < 5) {
    where.form = Where::Cwd;
    plain_dirfd = cwd_fd_[kPlain];
  }
  std::string relative = draw_relative(intent, plain_dirfd);
  for (Side side : {kMount, kPlain}) {
    if (where.form == Where::Absolute) {
      where.path[side] = (form == 9 ? "/proc/self/root/." : "") + config_.root[side] + "/" + relative;
    } else {
      where.path[side] = relative;
      where.dirfd[side] = directory != nullptr ? directory->fd[side] : AT_FDCWD;
    }
  }
  return where;
}

off_t Differ::draw_offset() {
  switch (draw(8)) {
    case 0: return 0;
    case 1: return static_cast<off_t>(4096 * draw(20));
    case 2: return static_cast<off_t>(4096 * (1 + draw(20)) - 1 - draw(3));
    case 3: return static_cast<off_t>(draw(300'000));
    default: return static_cast<off_t>(draw(20'000));
  }
}

size_t Differ::draw_size() {
  switch (draw(8)) {
    case 0: return draw(4);
    case 1: return 4096 * (1 + draw(4));
    case 2: return draw(100'000);
    default: return draw(9'000);
  }
}

std::string Differ::draw_bytes(size_t size) {
  std::string bytes(size, '\0');
  uint64_t word = random_();
  for (size_t i = 0; i < size; ++i) {
    if (i % 64 == 0) word = word * 6364136223846793005ull + 1442695040888963407ull;
    bytes[i] = static_cast<char>('!' + ((word >> (i % 8 * 7)) + i) % 90);
  }
  return bytes;
}

mode_t Differ::draw_mode() {
  static const mode_t modes[] = {0644, 0600, 0755, 0000, 0444, 0666, 0777, 0710, 04755, 02755, 01777, 02775};
  return modes[draw(std::size(modes))];
}

std::string Differ::draw_xattr_name() {
  static const char *const names[] = {"user.a", "user.b", "user.c", "user.longer.name", "trusted.t", "security.sf",
                                      "user.a", "user.b", "nonamespace", "user."};
  return names[draw(std::size(names))];
}

Differ::Slot *Differ::draw_slot() {
  for (int tries = 0; tries < 4; ++tries) {
    Slot &slot = slots_[draw(slots_.size())];
    if (slot.fd[kMount] >= 0) return &slot;
  }
  return nullptr;
}

Differ::Slot *Differ::draw_directory_slot() {
  Slot *slot = draw_slot();
  return slot != nullptr && slot->directory ? slot : nullptr;
}

// ---- doing and comparing

Differ::Answer Differ::on(Side side, Via via, const Where *where, const Body &body) {
  bool move = where != nullptr && where->form == Where::Cwd && side == kPlain;
  if (move) enter(kPlain);
  // The effective ids only: real and saved ones bring root back.
  if (as_other_ && (setegid(kOtherUser) != 0 || seteuid(kOtherUser) != 0)) throw Broken("seteuid");
  Answer answer = body(via, side);
  if (as_other_ && (seteuid(0) != 0 || setegid(0) != 0)) throw Broken("seteuid back");
  if (move) enter(kMount);
  return answer;
}

void Differ::reading(const std::string &what, const Where *where, const Body &body) {
  note(what + (where ? " " + where->path[kMount] : ""));
  Answer served = on(kMount, Via::Libc, where, body);
  if (!config_.opens_served) {
    Answer kernel = on(kMount, Via::Raw, where, body);
    if (served.result != kernel.result || served.exact != kernel.exact) {
      mismatch(what, served, "libc on the mount", kernel, "the kernel on the mount");
    }
  }
  Answer plain = on(kPlain, Via::Libc, where, body);
  if (served.result != plain.result || served.cross != plain.cross) {
    mismatch(what, served, "the mount", plain, "the plain directory");
  }
}

void Differ::changing(const std::string &what, const Where *where, const Body &body) {
  note(what + (where ? " " + where->path[kMount] : ""));
  config_.changes->fetch_add(1);
  Answer mount = on(kMount, Via::Libc, where, body);
  Answer plain = on(kPlain, Via::Libc, where, body);
  if (mount.result != plain.result || mount.cross != plain.cross) {
    mismatch(what, mount, "the mount", plain, "the plain directory");
  }
  trail_.back() += " = " + std::to_string(mount.result);
  // Often at once, so that a mismatch is found at the operation that made it; not always, as looking fills caches.
  if (where == nullptr || !chance(30)) return;
  as_other_ = false;
  reading("lstat after it", where, [&](Via via, Side side) {
    struct stat st;
    std::memset(&st, 0, sizeof st);
    return of_stat(call_fstatat(via, where->dirfd[side], where->path[side].c_str(), &st, AT_SYMLINK_NOFOLLOW), st);
  });
}

void Differ::note(const std::string &what) {
  trail_.push_back("#" + std::to_string(steps_) + (as_other_ ? " (other user) " : " ") + what);
  if (trail_.size() > kTrail) trail_.pop_front();
}

void Differ::mismatch(const std::string &what, const Answer &one, const char *one_name, const Answer &other,
                      const char *other_name) {
  auto show = [](const Answer &answer) {
    std::string errno_name =
        answer.result < 0 ? std::string(" ") + strerrorname_np(static_cast<int>(-answer.result)) : "";
    return std::to_string(answer.result) + errno_name + "\n    exact: " + answer.exact.substr(0, 1500) +
           "\n    cross: " + answer.cross.substr(0, 1500);
  };
  throw Mismatch("step " + std::to_string(steps_) + " of seed " + std::to_string(config_.seed) + ": " + what + "\n  " +
                 one_name + ": " + show(one) + "\n  " + other_name + ": " + show(other));
}

void Differ::expect_same(const std::string &what, long mount, long plain) {
  if (mount == plain) return;
  Answer one, other;
  one.result = mount;
  other.result = plain;
  mismatch(what, one, "the mount", other, "the plain directory");
}

std::string Differ::trail() const {
  std::string text;
  for (const auto &line : trail_) text += "  " + line + "\n";
  return text;
}

std::string Differ::strip_root(std::string text, Side side) const {
  size_t at = text.find(config_.root[side]);
  if (at != std::string::npos) text.replace(at, config_.root[side].size(), "ROOT");
  return text;
}

Differ::Answer Differ::of_stat(long result, const struct stat &st) {
  Answer answer;
  answer.result = result;
  if (result < 0) return answer;
  bool directory = S_ISDIR(st.st_mode);
  answer.exact =
      format("dev %lx ino %lu mode %o nlink %lu uid %u gid %u rdev %lx size %ld blksize %ld m %ld.%09ld c %ld.%09ld",
             st.st_dev, st.st_ino, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_size, st.st_blksize,
             st.st_mtim.tv_sec, st.st_mtim.tv_nsec, st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
  answer.cross = format("mode %o nlink %lu uid %u gid %u rdev %lx size %ld m %s", st.st_mode,
                        directory ? 0ul : static_cast<unsigned long>(st.st_nlink), st.st_uid, st.st_gid, st.st_rdev,
                        directory ? 0l : static_cast<long>(st.st_size),
                        time_for_cross(st.st_mode, st.st_mtim.tv_sec, st.st_mtim.tv_nsec).c_str());
  return answer;
}

Differ::Answer Differ::of_statx(long result, const struct statx &x) {
  Answer answer;
  answer.result = result;
  if (result < 0) return answer;
  bool directory = S_ISDIR(x.stx_mode);
  answer.exact = format(
      "mask %x attributes %llx/%llx dev %u:%u rdev %u:%u ino %llu mode %o nlink %u uid %u gid %u size %llu "
      "blksize %u m %lld.%09u c %lld.%09u b %lld.%09u mnt %llu",
      x.stx_mask, (unsigned long long)x.stx_attributes, (unsigned long long)x.stx_attributes_mask, x.stx_dev_major,
      x.stx_dev_minor, x.stx_rdev_major, x.stx_rdev_minor, (unsigned long long)x.stx_ino, x.stx_mode, x.stx_nlink,
      x.stx_uid, x.stx_gid, (unsigned long long)x.stx_size, x.stx_blksize, (long long)x.stx_mtime.tv_sec,
      x.stx_mtime.tv_nsec, (long long)x.stx_ctime.tv_sec, x.stx_ctime.tv_nsec, (long long)x.stx_btime.tv_sec,
      x.stx_btime.tv_nsec, (unsigned long long)x.stx_mnt_id);
  answer.cross = format("mode %o nlink %u uid %u gid %u size %llu m %s", x.stx_mode, directory ? 0 : x.stx_nlink,
                        x.stx_uid, x.stx_gid, directory ? 0ull : (unsigned long long)x.stx_size,
                        time_for_cross(x.stx_mode, x.stx_mtime.tv_sec, x.stx_mtime.tv_nsec).c_str());
  return answer;
}

Differ::Answer Differ::of_bytes(long result, const void *bytes, size_t size) {
  Answer answer;
  answer.result = result;
  if (result > 0) answer.exact.assign(static_cast<const char *>(bytes), size);
  answer.cross = answer.exact;
  return answer;
}

// ---- descriptors and the working directory

void Differ::enter(Side side) {
  if (fchdir(cwd_fd_[side]) != 0) throw Broken("fchdir");
}

bool Differ::inside(int fd, Side side) const {
  char link[64], path[5000];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  long length = config_.opens_served ? readlink(link, path, sizeof path) : raw(__NR_readlink, link, path, sizeof path);
  return length > 0 && std::string_view(path, static_cast<size_t>(length)).starts_with(config_.root[side]);
}

void Differ::set_cwd(int mount_fd, int plain_fd, bool back_to_root) {
  bool both_inside = !back_to_root && inside(mount_fd, kMount) && inside(plain_fd, kPlain);
  int take[2] = {mount_fd, plain_fd};
  for (Side side : {kMount, kPlain}) {
    close(cwd_fd_[side]);
    if (both_inside) {
      cwd_fd_[side] = take[side];
    } else {
      close(take[side]);
      cwd_fd_[side] = open(config_.root[side].c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
  }
}

Differ::Slot &Differ::keep(int mount_fd, int plain_fd, int flags) {
  Slot *slot = nullptr;
  for (auto &candidate : slots_) {
    if (candidate.fd[kMount] < 0) slot = &candidate;
  }
  if (slot == nullptr) {
    slot = &slots_[draw(slots_.size())];
    close_slot(*slot);
  }
  slot->fd[kMount] = mount_fd;
  slot->fd[kPlain] = plain_fd;
  slot->flags = flags;
  struct stat st {};
  raw(__NR_fstat, plain_fd, &st);
  slot->directory = S_ISDIR(st.st_mode);
  // Directories outside the tree would let paths climb without end.
  if (slot->directory && !(inside(mount_fd, kMount) && inside(plain_fd, kPlain))) {
    close_slot(*slot);
  } else if (slot->directory && (flags & O_PATH) == 0 && !config_.opens_served) {
    char self[40];
    std::snprintf(self, sizeof self, "/proc/self/fd/%d", mount_fd);
    slot->twin = static_cast<int>(raw(__NR_openat, AT_FDCWD, self, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    slot->changes = config_.changes->load();
  }
  return *slot;
}

void Differ::close_slot(Slot &slot) {
  for (int *fd : {&slot.fd[kMount], &slot.fd[kPlain], &slot.twin}) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
  }
}

void Differ::plant(const std::string &root) {
  for (const char *dir : {"d0", "d1", "d0/d1", "d0/d2", "d1/d0", "d1/d3"}) {
    std::filesystem::create_directories(root + "/" + dir);
  }
  unsigned size = 100;
  for (const char *file : {"f0", "f1", "d0/f0", "d0/f1", "d0/d1/f2", "d1/f3", "d1/d0/f4"}) {
    write_file(root + "/" + file, std::string(size, static_cast<char>('a' + size % 26)));
    size = size * 5 % 100'003;
  }
  std::filesystem::create_symlink("d0/f0", root + "/l0");
  std::filesystem::create_symlink("../d1", root + "/d0/l1");
}

void Differ::compare_trees() { tests::compare_trees(config_.root[kMount], config_.root[kPlain], config_.root[kMount]); }

}  // namespace shortfuse::tests
