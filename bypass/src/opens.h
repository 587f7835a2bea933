// Opens that were served from the cache: descriptors behind which the file system has nothing open.
//
// Such a descriptor is a *placeholder*: a duplicate of an O_PATH descriptor of an anonymous file of our own that
// cannot be opened. The kernel refuses nearly everything on it, so a call that went past us fails rather than give
// wrong data. What can be answered from the cache is answered by the slot, as for descriptors that the kernel opened;
// before anything else sees the descriptor it is made *real*: the node is opened, and put in the placeholder's place
// (dup3) under every number that shares the open. The offset stays where it is, in the slot (files.h).
//
// As long as a placeholder is open, its node stands in the session's open table (attach.h), and the bridge keeps the
// node alive.
#pragma once
#include "files.h"
#include "shortfuse/bypass/bypass.h"

namespace shortfuse::bypass {

struct Op;

/// The image's program for opens is a call of sf_serve_open() and no more: where opens are not served, nothing becomes
/// of it, and it need not be run.
bool only_serves_opens(const sf_image &image);

/// Whether an open with these flags may be served in this process at this moment. Cheap.
bool opens_possible(uint64_t flags);
/// The open that the policy has served, of op->nid. False: the kernel has to make it. `path`: the caller's.
bool open_from_cache(Op *op, uint64_t flags, const char *path, long *result);

/// Falls with each that is made real, rises with each that never was: below a limit the kernel is left to open.
extern int opens_worth;
/// Not 0: placeholders exist in this process. Atomic.
extern uint32_t placeholders;
inline bool any_placeholders() { return __atomic_load_n(&placeholders, __ATOMIC_ACQUIRE) != 0; }
inline bool is_placeholder(const File &file) { return file && is_set(*file.slot, kFilePlaceholder); }

/// The kernel has the node open under this number when it returns 0; else -errno, what a call on it has to give.
/// Touches no memory of the caller's. Returns 0 for what is no placeholder.
int make_placeholder_real(const File &file);
inline int make_real(const File &file) { return is_placeholder(file) ? make_placeholder_real(file) : 0; }
/// All of them, as far as possible.
void make_all_real();
/// 0: the kernel has what the program has under this number, if anything. Else -errno, what a call on it has to give.
int let_kernel_see(int fd);
/// The kernel has a placeholder under the number, whatever the slot says.
bool is_placeholder_of_kernel(int fd);
/// Of a number whose slot says kWasPlaceholder: nothing is open there, or what nobody may see.
bool is_left_behind(int fd, FileSlot *slot);
/// Nothing is open there for the program: EBADF.
inline bool is_nobodys(int fd) {
  FileSlot *slot = slot_of(fd);
  const FileKind kind = slot != nullptr ? kind_of(slot_state(*slot)) : kNotOurs;
  return kind == kHiddenFd || (kind == kWasPlaceholder && is_left_behind(fd, slot));
}
/// What F_GETFL says; negative: it is no placeholder any more.
long placeholder_flags(const File &file);
/// F_SETFD of a placeholder, which may be made real meanwhile and keeps what was set.
long set_number_flags(const sf_call &c, const File &file);
/// dup and its like of a placeholder: the new number shares the open.
long duplicate_placeholder(const sf_call &c, int fd, const File &file);

/// The last number that the limit allowed when opens began to be served, and whether it has been taken since, by
/// something else than what highest_file counts: only then may all be used up. The kernel takes a number before it
/// looks for the name. Atomic.
extern int last_number;
extern bool last_number_taken;
inline void note_number(int fd) {
  if (fd != __atomic_load_n(&last_number, __ATOMIC_RELAXED)) return;
  __atomic_store_n(&last_number_taken, true, __ATOMIC_SEQ_CST);
}
bool numbers_may_be_used_up();

/// The path may lead to what a descriptor of this process is open on (/proc/self/fd, /dev/fd, ...).
bool names_descriptors(const char *path);

/// `call` would reach the kernel with a placeholder in its hands. Not 0: *result is the call's, an error.
int keep_from_kernel(const sf_call *c, long *result);
/// The same while no placeholder is open: only numbers that were one's are looked at.
int keep_left_from_kernel(const sf_call *c, long *result);

/// The same where the caller's memory must not be looked at (any more).
void keep_from_kernel_after_fault(const sf_call *c);

/// `file` is about to be closed, and has duplicates: they go on where it stands. Waits for those that are being made.
void hand_over_placeholder(int fd, const File &file);
/// The slot no longer is one of the numbers of its open.
void leave_open(FileSlot *slot);
void opens_after_fork();
/// Who tells whether code of this process makes system calls that do not come here (bypass.h).
void allow_opens(int (*code_is_known)(void));
/// This process opens by the kernel from now on.
void opens_off(const char *why);

}  // namespace shortfuse::bypass
