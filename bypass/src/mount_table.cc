// /proc/self/mountinfo (proc_pid_mountinfo(5)): what is mounted below a mount, and with which flags the mount itself.
//
//   36 35 98:0 /root /mnt/point rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//   id parent dev root point    options    optional - type source    options of the file system
#include "mount_table.h"

#include "kernel.h"
#include "text.h"

namespace shortfuse::bypass {

namespace {

struct Option {
  const char *name;
  uint64_t flag;
};
constexpr Option kOptions[] = {{"ro", 1},         {"nosuid", 2},        {"nodev", 4},       {"noexec", 8},
                               {"sync", 16},      {"noatime", 1024},    {"nodiratime", 2048}, {"relatime", 4096},
                               {"nosymfollow", kStNoSymFollow}};

constexpr unsigned kIdField = 0, kPointField = 4, kOptionsField = 5, kSuperOptionsField = 3;

}  // namespace

void MountTable::point_byte(char c) {
  // Blanks, tabs, line ends and backslashes are written as a backslash and three octal digits.
  if (octal_digits_ == 0 && c == '\\') {
    octal_digits_ = 1;
    octal_ = 0;
    return;
  }
  if (octal_digits_ != 0) {
    octal_ = octal_ * 8 + (static_cast<unsigned>(c - '0') & 7);
    if (++octal_digits_ <= 3) return;
    octal_digits_ = 0;
    c = static_cast<char>(octal_);
  }
  if (differs_ || below_) return;
  if (matched_ == point_len_) {
    below_ = c == '/';
    differs_ = !below_;
  } else if (point_[matched_] == c) {
    ++matched_;
  } else {
    differs_ = true;
  }
}

void MountTable::end_of_option() {
  if (option_len_ < sizeof option_) {
    option_[option_len_] = 0;
    for (const Option &known : kOptions) {
      if (id_ == mnt_id_ && text_is(option_, known.name)) entry_.statfs_flags |= known.flag;
    }
  }
  option_len_ = 0;
}

void MountTable::field_byte(char c) {
  const bool options = after_separator_ != 0 ? after_separator_ == kSuperOptionsField : field_ == kOptionsField;
  if (options) {
    if (c == ',') return end_of_option();
    if (option_len_ < sizeof option_) option_[option_len_++] = c;
  } else if (after_separator_ != 0) {
    return;
  } else if (field_ == kIdField) {
    id_ = id_ * 10 + static_cast<unsigned>(c - '0');
  } else if (field_ == kPointField) {
    point_byte(c);
  } else if (field_ > kOptionsField) {
    // An optional field, or the separator, which is the only one that is a hyphen alone.
    if (option_len_ < sizeof option_) option_[option_len_++] = c;
  }
}

void MountTable::end_of_field() {
  if (after_separator_ != 0) {
    if (after_separator_ == kSuperOptionsField) end_of_option();
    ++after_separator_;
  } else if (field_ == kOptionsField) {
    end_of_option();
  } else if (field_ > kOptionsField) {
    if (option_len_ == 1 && option_[0] == '-') after_separator_ = 1;
    option_len_ = 0;
  }
  ++field_;
}

void MountTable::feed(const char *bytes, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    if (bytes[i] != ' ' && bytes[i] != '\n') {
      field_byte(bytes[i]);
      continue;
    }
    end_of_field();
    if (bytes[i] == ' ') continue;
    entry_.found = entry_.found || id_ == mnt_id_;
    entry_.below = entry_.below || below_;
    field_ = after_separator_ = matched_ = octal_digits_ = option_len_ = 0;
    id_ = 0;
    differs_ = below_ = false;
  }
}

bool read_mount_table(const Mount &m, uint64_t mnt_id, TableEntry *entry) {
  // A handler that leaves by siglongjmp() would leave the descriptor behind.
  const uint64_t signals = hold_off_signals();
  long fd = SF_SYS4(__NR_openat, AT_FDCWD, "/proc/thread-self/mountinfo", O_RDONLY | O_CLOEXEC, 0);
  if (is_error(fd)) return let_signals_in(signals), false;
  MountTable table(m.point, m.point_len, mnt_id);
  // Not on the stack: that may be the 8 KiB of a signal handler.
  constexpr size_t kPiece = 4096;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS;
  const long piece = SF_SYS6(__NR_mmap, 0, kPiece, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  long n = piece;
  if (!is_error(piece)) {
    while ((n = SF_SYS3(__NR_read, fd, piece, kPiece)) > 0)
      table.feed(reinterpret_cast<const char *>(piece), static_cast<size_t>(n));
    SF_SYS2(__NR_munmap, piece, kPiece);
  }
  close_fd(static_cast<int>(fd));
  let_signals_in(signals);
  *entry = table.entry();
  return n == 0;
}

}  // namespace shortfuse::bypass
