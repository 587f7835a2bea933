// The descriptors of this process that lie on accelerated mounts, and its working directory.
//
// A table by descriptor number, two levels, mapped as needed: most processes need one page of it, and a number that
// is not ours costs two loads. A slot is written by the thread that just got the number from the kernel and emptied
// before the number goes back, so within this library slot and descriptor agree. A call that was answered from a slot
// looks at its `state` again at the end: changed means that another thread closed the descriptor meanwhile.
//
// A placeholder (opens.h) is closed in two steps, the slot's and the kernel's, and between them, or where a handler
// leaves the call by siglongjmp() in between, the kernel has a descriptor under the number that nobody may see. So its
// slot says kWasPlaceholder from then on. Who meets that asks the kernel what is there: a placeholder, for which the
// answer is EBADF; or something that was made by a call which did not come here, and the slot is forgotten. The next
// open or dup that is given the number needs not ask.
//
// Offsets. A file or directory opened read-only here has its offset here (FileSlot.position) as long as nobody else
// can share the kernel's. Before anybody can, it is given back: lseek(), then kKernelOwned for good. Advancing is
// copy first, then compare-and-swap: nothing is held while the caller's memory is touched. A duplicate shares its
// origin's offset, which stays here until the duplicate is used by offset, or the origin closed: programs that walk
// trees duplicate every directory and read only through the first descriptor.
//
// A directory in the middle of its listing is not given back where that can be avoided: its cookies mean something
// only to the listing they came with, and a file system that makes its list at the handle's first READDIR (as
// libfuse's high-level interface does) would make another one now, in which the cookie skips files. So duplicates of
// a directory read through the one that holds the offset and inherit it; and a forked child goes on from its own copy
// of the listing, as its parent does: `while (readdir()) system("rm ...")` must not lose a file.
#pragma once
#include "attach.h"

namespace shortfuse::bypass {

constexpr unsigned kFilesPerPage = 1024;
constexpr unsigned kFilePages = 1024;
constexpr int64_t kKernelOwned = -1;
constexpr int64_t kGivingBack = -2;   // a thread is telling the kernel: wait for it
constexpr int32_t kNewOrigin = -1;    // a thread is about to name another: wait for it

enum FileFlag : uint8_t {
  kFileReadable = 1,    // opened for reading, not O_PATH
  kFileDirect = 2,      // O_DIRECT
  kFileDirectory = 4,   // position counts in a Stream
  kFileMoved = 8,       // the kernel's own offset may not be 0 although we never gave ours back
  kFilePath = 16,       // O_PATH
  kFileLinked = 32,     // duplicates exist that share the offset held here
  kFileForked = 64,     // a directory whose listing went on in two processes: rewound, it is the kernel's
  kFilePlaceholder = 128,  // the kernel has nothing open under this number (opens.h); the offset is always ours
};

/// A directory listing as one reader of one descriptor sees it, until it rewinds. When it is no longer a slot's it may
/// be filled with another listing while a thread still reads in it, but is not unmapped: such a reader finds out when
/// it moves the position, which names the Stream's serial.
struct Stream {
  uint32_t serial;
  uint32_t bytes;        // of entries
  uint64_t room;         // bytes mapped; never changes
  char entries[];
};

/// A position in a directory: 0 is the start (the next call takes a new listing), else which Stream and where in it.
/// Serial 0 with a byte of kStreamEnd: all entries went out in one call and no Stream was kept.
constexpr uint32_t kStreamEnd = ~0u;
inline int64_t stream_position(uint32_t serial, uint32_t byte) {
  return static_cast<int64_t>(static_cast<uint64_t>(serial & 0x7fffffff) << 32 | byte);
}

struct alignas(64) FileSlot {
  uint64_t state;        // FileKind in the low byte, then a count that every change raises; atomic
  int64_t not_position;  // the position as stored (files.cc), so that fresh memory says kKernelOwned; atomic
  uint64_t nodeid;
  uint64_t nid;          // 0: not known to the cache when opened; asked again
  uint64_t last_cookie;  // of a directory whose entries all went out at once
  Stream *stream;        // atomic
  uint32_t serial;       // of the mount
  uint8_t mount;
  uint8_t flags;         // FileFlag; atomic
  uint16_t open;         // of a placeholder: which open it is (opens.cc); atomic
  uint32_t origin_count; // of a duplicate: the origin's state when it was made
  int32_t origin;        // of a duplicate: 1 + the descriptor that holds the offset; 0: none; kNewOrigin. Atomic
};
static_assert(sizeof(FileSlot) == 64);

inline bool is_set(const FileSlot &slot, FileFlag flag) {
  return (__atomic_load_n(&slot.flags, __ATOMIC_RELAXED) & flag) != 0;
}

enum FileKind : uint8_t { kNotOurs = 0, kOnMount = 1, kHiddenFd = 2, kWasPlaceholder = 3 };

extern FileSlot *file_pages[kFilePages];
extern uint32_t highest_file;   // no slot above has ever held a file; atomic

/// The slot of a number, whatever it holds; null when it never held anything.
inline FileSlot *slot_of(int fd) {
  unsigned n = static_cast<unsigned>(fd);
  if (n >= kFilesPerPage * kFilePages) return nullptr;
  FileSlot *page = __atomic_load_n(&file_pages[n / kFilesPerPage], __ATOMIC_ACQUIRE);
  return page != nullptr ? &page[n % kFilesPerPage] : nullptr;
}
inline uint64_t slot_state(const FileSlot &slot) { return __atomic_load_n(&slot.state, __ATOMIC_ACQUIRE); }
inline FileKind kind_of(uint64_t state) { return static_cast<FileKind>(state & 0xff); }

/// What a slot held at one moment.
struct File {
  FileSlot *slot = nullptr;
  uint64_t state = 0;
  explicit operator bool() const { return slot != nullptr; }
  bool same() const { return slot_state(*slot) == state; }
  MountRef mount() const { return {&mounts[slot->mount], slot->serial}; }
};
/// Not false: a descriptor on an attached or formerly attached mount.
inline File file_of(int fd) {
  FileSlot *slot = slot_of(fd);
  if (slot == nullptr) return {};
  uint64_t state = slot_state(*slot);
  if (kind_of(state) != kOnMount) return {};
  return {slot, state};
}
inline bool is_hidden_slot(int fd) {
  FileSlot *slot = slot_of(fd);
  return slot != nullptr && kind_of(slot_state(*slot)) == kHiddenFd;
}
/// Some slot is, or was, kWasPlaceholder. Atomic.
extern bool any_left_behind;
inline bool may_be_left_behind() { return __atomic_load_n(&any_left_behind, __ATOMIC_RELAXED); }
/// Who asks the kernel for such a slot: its state is still the one that was seen, or it is nobody's now.
void files_forget_left(FileSlot *slot, uint64_t state);

/// The node a file is, 0 while the cache does not know it. REQUIRES: inside its mount.
uint64_t nid_of(const File &file);

/// After a successful open of `fd` with `flags`: registered if it lies on an attached mount.
void files_opened(int fd, uint64_t open_flags);
/// Before a dup of `fd`: the offset is no longer its alone.
void files_duplicating(const File &from);
/// After a successful dup: `to` is what `from` was; a placeholder's open is given. False: `from` was closed meanwhile.
bool files_duplicated(const File &from, int from_fd, int to, uint16_t open = 0);
/// A placeholder on the node `nid`, offset 0. False: it cannot be registered.
bool files_opened_here(int fd, MountRef mount, uint64_t nid, uint16_t open, bool directory);
/// Before a duplicate is used by the kernel's offset: what its origin holds is given back, or the duplicate's own now,
/// where the origin is closed meanwhile. 0, or why the kernel cannot have it (give_back()).
int settle(FileSlot *slot);
/// Of a duplicate: the file that holds the offset they share, and its number; else `file` itself.
File offset_holder(const File &file, int *fd);
/// The duplicates of `from`, which is being closed, have its offset when this returns. The caller may have blocked all
/// signals already.
void files_hand_over(int fd, const File &from, bool signals_blocked = false);
/// Some descriptor on a mount is, or was, registered.
bool files_any();
/// To be called when the first one is.
void files_at_first(void (*call)());
/// The number came from the kernel for something that is not on a mount: what the slot says of it is out of date.
void files_forget_stale(int fd);
/// Before the number goes back to the kernel.
void files_close(int fd);
void files_close_range(unsigned first, unsigned last);

/// What is held here for the file; negative: nothing, or the number means something else by now.
int64_t position_of(const File &file);
/// False: the position is no longer `from`, or the file no longer this one.
bool move_position(const File &file, int64_t from, int64_t to);
/// The offset is the kernel's when this returns 0. Else it is a placeholder's that cannot be made real (-errno): the
/// call that needs it has to fail with that, and not be made, for by then it might be possible, at another offset.
int give_back(int fd, const File &file);
inline void give_back(int fd) {
  File file = file_of(fd);
  if (file) give_back(fd, file);
}
/// The file was closed in the middle of a call at the offset that it held: duplicates have the offset now, and the
/// same call on one of them is what the caller meant. False: there is none, and nobody will ask where the offset is.
bool make_through_duplicate(const File &closed, const sf_call &call, long *result);
/// The offset became the kernel's in the middle of a call which has gone on from it by so many bytes.
void advance_kernels_offset(const File &file, int fd, int64_t bytes);
/// A directory was closed in the middle of a call, and a duplicate has its listing now. False: nobody has it, or who
/// has it has read on. REQUIRES: `from` names a Stream.
bool move_heirs_position(int64_t from, int64_t to);
/// A placeholder of the node was closed in the middle of a call, and a duplicate holds its offset now. False: none
/// does, or it has moved on from `from`.
bool move_heirs_offset(const File &closed, uint64_t nid, int64_t from, int64_t to);
void files_give_back_all();
/// From now on every open and every offset is the kernel's. To be called while calls of all threads are still seen:
/// when it returns, nothing is left that would be done to a number later.
void files_hold_nothing(const char *why);
/// Before a fork, or when a daemon is gone: all but directories in the middle of their listings.
void files_give_back_all_but_listings();
/// Before an exec: all that a program that inherits it could read on from.
void files_before_exec();
/// The same in a child that runs on its parent's memory, with descriptors of its own that nobody has followed.
void files_before_unseen_exec();
/// Nothing more is registered, and what is is forgotten.
void files_off();

void files_mark_hidden(int fd);
void files_unmark_hidden(int fd);
void files_after_fork();

/// Null: no memory.
Stream *new_stream(uint64_t bytes);
/// A stream that was never, or is no longer, a slot's.
void retire_stream(Stream *stream);
/// The stream becomes the slot's. False: it has one already.
bool give_stream(FileSlot *slot, Stream *stream);
/// The slot's stream, if it still is this one (any, when null), is dropped.
void drop_stream(FileSlot *slot, Stream *stream);
/// The length of the whole entry at byte `at`; 0: there is none. Right also while the memory is filled anew.
uint32_t stream_entry(const Stream &stream, uint32_t at, uint64_t *cookie);

/// action(fd, file) for every registered descriptor.
template <typename Action>
void files_for_each(unsigned first, unsigned last, Action action) {
  uint32_t top = __atomic_load_n(&highest_file, __ATOMIC_RELAXED);
  if (last > top) last = top;
  for (unsigned fd = first; fd <= last; ++fd) {
    FileSlot *slot = slot_of(static_cast<int>(fd));
    if (slot == nullptr) {
      fd |= kFilesPerPage - 1;  // the rest of a page that is not there
    } else if (File file = file_of(static_cast<int>(fd))) {
      action(static_cast<int>(fd), file);
    }
  }
}
template <typename Action>
void files_for_each(Action action) {
  files_for_each(0, ~0u, action);
}

// ---- the working directory

/// Around chdir and the like.
void cwd_changing();
void cwd_changed();
void cwd_after_fork();
/// Forgets what is known of it (a new mount may be the one it lies on).
void files_cwd_changed();

struct Cwd {
  uint32_t version; // 0: nothing is known
  MountRef mount;   // mount null: not on an accelerated mount
  uint64_t nodeid;
  uint64_t nid;
};
/// False when the working directory is not on an accelerated mount, or not known for certain.
bool cwd_now(Cwd *out);
/// The mount below the working directory that a relative path leads into, perhaps one that is only announced, and where
/// the rest begins. Null: none. Only names are compared: that they lead there is verified as for an absolute path.
MountRef mount_below(const Cwd &cwd, const char *path, const char **rest);
bool cwd_same(const Cwd &cwd);
/// True: it is known not to lie on one, nor one below it. Quick.
bool cwd_is_elsewhere();

}  // namespace shortfuse::bypass
