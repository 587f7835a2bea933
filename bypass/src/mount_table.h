// What this process's own mount table says of a mount.
#pragma once
#include "mount.h"

namespace shortfuse::bypass {

struct TableEntry {
  bool found;              // the mount is in the table
  bool below;              // something is mounted below its mount point
  uint64_t statfs_flags;   // of the mount, as statfs() has them
};

/// One line after the other, in pieces as they are read: nothing is allocated, lines may be of any length.
class MountTable {
 public:
  MountTable(const char *point, uint32_t point_len, uint64_t mnt_id)
      : point_(point), point_len_(point_len), mnt_id_(mnt_id) {}
  void feed(const char *bytes, size_t n);
  const TableEntry &entry() const { return entry_; }

 private:
  void field_byte(char c);
  void end_of_field();
  void end_of_option();
  void point_byte(char c);

  const char *point_;
  uint32_t point_len_;
  uint64_t mnt_id_;
  TableEntry entry_ = {};
  // of the line
  unsigned field_ = 0;
  unsigned after_separator_ = 0;  // fields since " - "; 0: it has not come
  uint64_t id_ = 0;
  uint32_t matched_ = 0;
  bool differs_ = false, below_ = false;
  unsigned octal_digits_ = 0;     // of an escape under way, + 1
  unsigned octal_ = 0;
  char option_[12];
  unsigned option_len_ = 0;
};

/// False: the table cannot be read.
bool read_mount_table(const Mount &m, uint64_t mnt_id, TableEntry *entry);

}  // namespace shortfuse::bypass
