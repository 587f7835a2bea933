// Random file system operations, done on a mount and on a plain directory, with every answer compared.
//
// A Differ lives in one process, hooked or not. Each step draws one operation, makes it through libc on the mount and
// then on the plain directory, and compares result, errno and what was returned. Operations that read are made a third
// time, on the mount, as a system call of this program's own text: what the hook served has to be what the kernel
// answers at that moment, to the byte (st_atime apart: a served read asks nothing of the file system).
//
// Between the mount and the plain directory these may differ and are not compared: st_dev, st_blocks, a directory's
// size and link count, inode numbers (only which of them are the same), times that were not set by hand, the type and
// the counts of statfs, the order of a listing.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/calls.h"

namespace shortfuse::tests {

struct Mismatch : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum Side { kMount = 0, kPlain = 1 };

class Differ {
 public:
  struct Config {
    std::string root[2];  ///< equally long paths; several directories deep below what they belong to
    uint64_t seed = 1;
    bool other_users = false;                 ///< now and then as another user (needs root)
    std::atomic<uint64_t> *changes =
        nullptr;  ///< counts what all processes changed, to know when two streams must agree
    /// Opens are served too: the kernel cannot be asked about a descriptor by calls that the hook does not see.
    bool opens_served = false;
  };
  explicit Differ(const Config &config);
  ~Differ();
  Differ(const Differ &) = delete;

  /// One operation. Throws Mismatch.
  void step();
  /// Makes the same starting tree on both sides (once, before any step of any process).
  static void plant(const std::string &root);
  /// Both trees, whole: names, types, attributes, contents, xattrs. Throws Mismatch.
  void compare_trees();
  /// The operations made last, newest last.
  std::string trail() const;

 private:
  /// What one call gave. `exact` has to equal between hook and kernel, `cross` between mount and plain directory.
  struct Answer {
    long result = 0;
    std::string exact, cross;
  };
  using Body = std::function<Answer(Via, Side)>;

  /// How an operation names its file: one of three forms, the same on both sides.
  struct Where {
    enum Form { Absolute, Cwd, Dirfd } form = Absolute;
    std::string path[2];
    int dirfd[2] = {-100, -100};
  };
  struct Slot {
    int fd[2] = {-1, -1};
    int twin = -1;               ///< directories: another stream of the mount, read by the kernel only
    int flags = 0;
    bool directory = false;
    uint64_t changes = 0;        ///< the count when the stream was at its start
  };

  // ---- drawing
  uint64_t draw(uint64_t below) { return random_() % below; }
  bool chance(unsigned percent) { return draw(100) < percent; }
  std::string draw_name();
  /// What a path is meant for: something to look at (may climb with ".."), to change, or to create.
  enum class Intent { Look, Change, Create };
  std::string draw_blind(bool may_climb);
  std::string draw_existing(int plain_dirfd, bool only_directories);
  std::string draw_relative(Intent intent, int plain_dirfd);
  Where draw_where(Intent intent = Intent::Look);
  off_t draw_offset();
  size_t draw_size();
  std::string draw_bytes(size_t size);
  mode_t draw_mode();
  std::string draw_xattr_name();
  /// A slot in use, or null.
  Slot *draw_slot();
  Slot *draw_directory_slot();

  // ---- doing and comparing
  Answer on(Side side, Via via, const Where *where, const Body &body);
  void reading(const std::string &what, const Where *where, const Body &body);
  void changing(const std::string &what, const Where *where, const Body &body);
  void note(const std::string &what);
  [[noreturn]] void mismatch(const std::string &what, const Answer &one, const char *one_name, const Answer &other,
                             const char *other_name);
  void expect_same(const std::string &what, long mount, long plain);
  std::string strip_root(std::string text, Side side) const;
  static Answer of_stat(long result, const struct stat &st);
  static Answer of_statx(long result, const struct statx &stx);
  static Answer of_bytes(long result, const void *bytes, size_t size);

  // ---- descriptors and the working directory
  Slot &keep(int mount_fd, int plain_fd, int flags);
  void close_slot(Slot &slot);
  void rewind_streams(Slot &slot);
  bool inside(int fd, Side side) const;
  void enter(Side side);
  void set_cwd(int mount_fd, int plain_fd, bool back_to_root);

  // ---- operations: reading (ops_read.cc)
  void op_stat();
  void op_fstat();
  void op_statx();
  void op_access();
  void op_readlink();
  void op_xattr_get();
  void op_statfs();
  void op_list();
  void op_getdents();
  void op_read();
  void op_pread();
  void op_lseek();
  void op_mmap();
  void op_bad_pointer();
  void op_getcwd();
  void op_read_whole();
  // ---- changing (ops_change.cc)
  void op_open();
  void op_create_file();
  void op_rewrite();
  void op_write();
  void op_truncate();
  void op_fallocate();
  void op_copy_range();
  void op_symlink();
  void op_link();
  void op_rename();
  void op_unlink();
  void op_mkdir();
  void op_rmdir();
  void op_mknod();
  void op_chmod();
  void op_chown();
  void op_utimens();
  void op_xattr_set();
  // ---- descriptors and processes (ops_process.cc)
  void op_close();
  void op_dup();
  void op_chdir();
  void op_umask();
  void op_fork_read();
  void op_spawn_read();
  void op_offset_users();

  struct Kind {
    void (Differ::*run)();
    unsigned weight;
  };
  static const std::vector<Kind> &kinds();

  Config config_;
  std::mt19937_64 random_;
  uint64_t steps_ = 0;
  std::deque<std::string> trail_;
  std::vector<Slot> slots_;
  int root_fd_[2];
  int cwd_fd_[2];
  bool as_other_ = false;
};

/// Compares two trees, see Differ::compare_trees(). `mount_named` is how absolute symbolic links below `mount` name its
/// top, where that differs. Throws Mismatch.
void compare_trees(const std::string &mount, const std::string &plain, const std::string &mount_named);

}  // namespace shortfuse::tests
