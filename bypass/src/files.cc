// The table of descriptors.
#include "files.h"

#include "attach_internal.h"
#include "kernel.h"
#include "opens.h"
#include "shortfuse/bypass/seldom.h"

namespace shortfuse::bypass {

constexpr unsigned kWaitTurns = kYields + 100'000;  // ten seconds: the other reads, perhaps, on a slow file system
constexpr unsigned kSpareStreams = 32;

SF_SELDOM FileSlot *file_pages[kFilePages];
uint32_t highest_file;
bool any_left_behind;
static uint32_t owned;            // slots whose offset is ours; atomic
static uint32_t any_slot;         // some slot holds something, or did; atomic
static void (*at_first)();        // not null until a slot holds a file; atomic
static uint32_t stream_serials;

// ---- slots

static FileSlot *slot_for(int fd, FileKind kind) {
  unsigned n = static_cast<unsigned>(fd);
  if (n >= kFilesPerPage * kFilePages) return nullptr;
  FileSlot **page = &file_pages[n / kFilesPerPage];
  if (__atomic_load_n(page, __ATOMIC_ACQUIRE) == nullptr) {
    void *fresh = map_anonymous(kFilesPerPage * sizeof(FileSlot));
    if (fresh == nullptr) return nullptr;
    FileSlot *none = nullptr;
    // Another thread may have been faster.
    if (!__atomic_compare_exchange_n(page, &none, static_cast<FileSlot *>(fresh), false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE)) {
      unmap(fresh, kFilesPerPage * sizeof(FileSlot));
    }
  }
  if (__atomic_load_n(&any_slot, __ATOMIC_RELAXED) == 0) __atomic_store_n(&any_slot, 1u, __ATOMIC_RELAXED);
  if (kind == kOnMount && __atomic_load_n(&at_first, __ATOMIC_RELAXED) != nullptr) {
    // Nobody goes on before it has been done; twice does no harm.
    if (auto call = __atomic_load_n(&at_first, __ATOMIC_ACQUIRE)) call();
    __atomic_store_n(&at_first, nullptr, __ATOMIC_RELEASE);
  }
  uint32_t top = __atomic_load_n(&highest_file, __ATOMIC_RELAXED);
  // Hidden numbers are high: who looks at every file need not go there.
  while (kind == kOnMount && n > top &&
         !__atomic_compare_exchange_n(&highest_file, &top, n, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return slot_of(fd);
}

static uint64_t next_state(uint64_t state, FileKind kind) { return ((state >> 8) + 1) << 8 | kind; }

static void publish(FileSlot *slot, FileKind kind) {
  __atomic_store_n(&slot->state, next_state(slot_state(*slot), kind), __ATOMIC_RELEASE);
}

// A position as stored. It is mixed with the slot's count, so that a compare-and-swap that comes late, after the file
// was closed, cannot take the place of the same position in the file that has the number now (files are shorter than
// 2^48 bytes, and a listing's serial is its own). Complemented, so that fresh memory says kKernelOwned.
static int64_t mixed(uint64_t state, int64_t position) {
  return position < 0 ? position : position ^ static_cast<int64_t>((state >> 8 & 0x7fff) << 48);
}
static int64_t stored(uint64_t state, int64_t position) { return ~mixed(state, position); }

// REQUIRES: the slot is nobody's yet.
static void first_position(FileSlot *slot, uint64_t state, int64_t position) {
  if (position >= 0) __atomic_add_fetch(&owned, 1u, __ATOMIC_SEQ_CST);
  __atomic_store_n(&slot->not_position, stored(state, position), __ATOMIC_RELEASE);
}

// Waits while another thread tells the kernel: its lseek() must not hit what gets the number next. `state`: the slot's
// when it had the position, which is returned.
static int64_t forget_position(FileSlot *slot, uint64_t state) {
  for (unsigned turn = 0;; ++turn) {
    int64_t word = __atomic_load_n(&slot->not_position, __ATOMIC_ACQUIRE);
    if (~word == kGivingBack && turn < kWaitTurns) {
      pause_a_little(turn);
      continue;
    }
    if (!__atomic_compare_exchange_n(&slot->not_position, &word, ~kKernelOwned, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED))
      continue;
    if (~word >= 0) __atomic_sub_fetch(&owned, 1u, __ATOMIC_SEQ_CST);
    return mixed(state, ~word);
  }
}

static bool change_state(FileSlot *slot, uint64_t state, FileKind kind) {
  // A full fence: see opens.cc.
  return __atomic_compare_exchange_n(&slot->state, &state, next_state(state, kind), false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_RELAXED);
}

// The kernel has given, or is about to give, the number to something new. One that says kWasPlaceholder still may say
// so until it is published.
static void empty(FileSlot *slot) {
  const uint64_t state = slot_state(*slot);
  if (kind_of(state) == kOnMount) {
    if (!change_state(slot, state, kNotOurs)) return;
    forget_position(slot, state);
    drop_stream(slot, nullptr);
  }
  if (__atomic_load_n(&slot->open, __ATOMIC_SEQ_CST) != 0) leave_open(slot);
}

bool files_any() { return __atomic_load_n(&any_slot, __ATOMIC_RELAXED) != 0; }

void files_at_first(void (*call)()) { __atomic_store_n(&at_first, call, __ATOMIC_RELEASE); }

void files_forget_stale(int fd) {
  note_number(fd);
  FileSlot *slot = slot_of(fd);
  if (slot == nullptr) return;
  empty(slot);
  files_forget_left(slot, slot_state(*slot));
}

void files_forget_left(FileSlot *slot, uint64_t state) {
  if (kind_of(state) == kWasPlaceholder) change_state(slot, state, kNotOurs);
}

uint64_t nid_of(const File &file) {
  uint64_t nid = __atomic_load_n(&file.slot->nid, __ATOMIC_RELAXED);
  if (nid != 0) return nid;
  // The kernel keeps the node's number alive as long as the descriptor is open, so asking late gives the same life.
  const Mount &m = mounts[file.slot->mount];
  if (sf_find_node(&m.view, file.slot->nodeid, &nid) != SF_FIND_OK) return 0;
  // Another file may have got the slot in between. One whose node is known keeps that; else ours must not stay there.
  uint64_t unknown = 0, ours = nid;
  __atomic_compare_exchange_n(&file.slot->nid, &unknown, nid, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
  if (!file.same())
    __atomic_compare_exchange_n(&file.slot->nid, &ours, uint64_t{0}, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return nid;
}

// ---- offsets

int64_t position_of(const File &file) {
  // The giver's signals are blocked, so it is never a thread that we have interrupted. Should it not get on all the
  // same, the kernel's offset is used.
  for (unsigned turn = 0; turn < kWaitTurns; ++turn) {
    const int64_t word = ~__atomic_load_n(&file.slot->not_position, __ATOMIC_ACQUIRE);
    if (!file.same()) break;
    if (word != kGivingBack) return mixed(file.state, word);
    pause_a_little(turn);
  }
  return kKernelOwned;
}

bool move_position(const File &file, int64_t from, int64_t to) {
  int64_t expected = stored(file.state, from);
  return __atomic_compare_exchange_n(&file.slot->not_position, &expected, stored(file.state, to), false,
                                     __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

// What the kernel's offset would be at a position of ours.
static int64_t kernel_offset(const FileSlot &slot, int64_t position) {
  if (!is_set(slot, kFileDirectory) || position == 0) return position;
  uint32_t serial = static_cast<uint32_t>(position >> 32), byte = static_cast<uint32_t>(position);
  if (serial == 0) return static_cast<int64_t>(slot.last_cookie);
  const Stream *stream = __atomic_load_n(&slot.stream, __ATOMIC_ACQUIRE);
  if (stream == nullptr || stream->serial != serial) return 0;
  uint64_t cookie = 0;
  for (uint32_t at = 0; at < byte;) {
    uint32_t bytes = stream_entry(*stream, at, &cookie);
    if (bytes == 0) break;
    at += bytes;
  }
  return static_cast<int64_t>(cookie);
}

File offset_holder(const File &file, int *fd) {
  const int32_t origin = __atomic_load_n(&file.slot->origin, __ATOMIC_ACQUIRE);
  if (origin <= 0) return file;
  File holder = file_of(origin - 1);
  if (!holder || static_cast<uint32_t>(holder.state >> 8) != file.slot->origin_count) return file;
  *fd = origin - 1;
  return holder;
}

int settle(FileSlot *slot) {
  for (unsigned turn = 0;; ++turn) {
    int32_t origin = __atomic_load_n(&slot->origin, __ATOMIC_ACQUIRE);
    if (origin == 0) return 0;
    if (origin == kNewOrigin) {
      pause_a_little(turn);
      continue;
    }
    File file = file_of(origin - 1);
    const bool holds = file && static_cast<uint32_t>(file.state >> 8) == slot->origin_count;
    const int error = holds ? give_back(origin - 1, file) : 0;
    // Not before: who closes the origin meanwhile hands over what it holds to those that name it.
    if (error != 0 && file.same()) return error;
    if (error == 0 && __atomic_compare_exchange_n(&slot->origin, &origin, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
      return 0;
  }
}

// One thread at a time has a position in its hands, the others wait; so no handler of this thread may come in between
// and wait for ever.
template <typename Action>
static bool with_signals_blocked(const File &file, int64_t position, Action action) {
  const bool mine = move_position(file, position, kGivingBack);
  if (mine) {
    action();
    if (position >= 0) drop_stream(file.slot, nullptr);
    move_position(file, kGivingBack, kKernelOwned);
    if (position >= 0) __atomic_sub_fetch(&owned, 1u, __ATOMIC_SEQ_CST);
  }
  return mine;
}

template <typename Action>
static bool with_position(const File &file, int64_t position, Action action) {
  const uint64_t all = ~0ull;
  uint64_t before;
  SF_SYS4(__NR_rt_sigprocmask, kSigBlock, &all, &before, sizeof before);
  const bool mine = with_signals_blocked(file, position, action);
  SF_SYS4(__NR_rt_sigprocmask, kSigSetmask, &before, nullptr, sizeof before);
  return mine;
}

int give_back(int fd, const File &file) {
  FileSlot *slot = file.slot;
  for (;;) {
    if (const int error = settle(slot); error != 0) return error;
    if (const int error = make_real(file); error != 0) return error;
    const int64_t position = position_of(file);
    // Handed over meanwhile, because another thread is closing this number: whoever has it now gives it back.
    if (position < 0 && file.same() && __atomic_load_n(&slot->origin, __ATOMIC_ACQUIRE) != 0) continue;
    if (position < 0) return 0;
    const bool given = with_position(file, position, [&] {
      if (position == 0 && !is_set(*slot, kFileMoved)) return;
      SF_SYS3(__NR_lseek, fd, kernel_offset(*slot, position), kSeekSet);
      __atomic_or_fetch(&slot->flags, kFileMoved, __ATOMIC_RELAXED);
    });
    if (given) return 0;
  }
}

void files_give_back_all() {
  make_all_real();
  if (__atomic_load_n(&owned, __ATOMIC_SEQ_CST) == 0) return;
  files_for_each([](int fd, const File &file) { give_back(fd, file); });
}

void files_hold_nothing(const char *why) {
  constexpr unsigned kPassesMax = 4;  // a position may be handed to a number that has been looked at already
  __atomic_store_n(&g.offsets_off, true, __ATOMIC_SEQ_CST);
  opens_off(why);
  // files_opened() looks at the flag after it has registered a file.
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  for (unsigned i = 0; i < kPassesMax && __atomic_load_n(&owned, __ATOMIC_SEQ_CST) != 0; ++i) files_give_back_all();
}

static bool in_listing(const File &file) { return is_set(*file.slot, kFileDirectory) && position_of(file) > 0; }

void files_give_back_all_but_listings() {
  make_all_real();
  if (__atomic_load_n(&owned, __ATOMIC_SEQ_CST) == 0) return;
  files_for_each([](int fd, const File &file) {
    if (!in_listing(file)) return static_cast<void>(give_back(fd, file));
    // The other process may move the kernel's offset.
    __atomic_or_fetch(&file.slot->flags, static_cast<uint8_t>(kFileMoved | kFileForked), __ATOMIC_RELAXED);
  });
}

// action(fd, file) for every number that the kernel may have a placeholder under.
template <typename Action>
static void for_each_left_behind(Action action) {
  if (!may_be_left_behind()) return;
  const uint32_t top = __atomic_load_n(&highest_file, __ATOMIC_RELAXED);
  for (uint32_t fd = 0; fd <= top; ++fd) {
    FileSlot *slot = slot_of(static_cast<int>(fd));
    if (slot == nullptr) {
      fd |= kFilesPerPage - 1;
    } else if (const File file{slot, slot_state(*slot)}; kind_of(file.state) == kWasPlaceholder) {
      action(static_cast<int>(fd), file);
    }
  }
}

static void close_on_exec(int fd) {
  if (is_placeholder_of_kernel(fd)) SF_SYS3(__NR_fcntl, fd, F_SETFD, FD_CLOEXEC);
}

void files_before_unseen_exec() {
  for_each_left_behind([](int fd, const File &) { close_on_exec(fd); });
  files_for_each([](int fd, const File &file) {
    if (is_placeholder(file)) close_on_exec(fd);
  });
}

void files_before_exec() {
  for_each_left_behind([](int fd, const File &) { close_on_exec(fd); });
  make_all_real();
  if (__atomic_load_n(&owned, __ATOMIC_SEQ_CST) == 0) return;
  files_for_each([](int fd, const File &file) {
    const bool stays_here = in_listing(file) && !is_set(*file.slot, kFileLinked) &&
                            (SF_SYS2(__NR_fcntl, fd, F_GETFD) & FD_CLOEXEC) != 0;
    if (!stays_here) give_back(fd, file);
  });
}

// The holder of an offset that the kernel cannot be told goes (a listing's, a placeholder's): the first of its
// duplicates takes its place, the others follow that one.
// False: another thread has moved it meanwhile.
static bool hand_over_from(int fd, const File &from, int64_t position, bool signals_blocked) {
  const uint32_t count = static_cast<uint32_t>(from.state >> 8);
  const auto hand_over = [&] {
    int heir = -1;
    File heirs;
    files_for_each([&](int other, const File &file) {
      FileSlot *slot = file.slot;
      int32_t origin = fd + 1;
      if (__atomic_load_n(&slot->origin, __ATOMIC_ACQUIRE) != origin || slot->origin_count != count) return;
      if (heir >= 0) {
        if (!__atomic_compare_exchange_n(&slot->origin, &origin, kNewOrigin, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
          return;
        slot->origin_count = static_cast<uint32_t>(heirs.state >> 8);
        __atomic_store_n(&slot->origin, heir + 1, __ATOMIC_RELEASE);
        __atomic_or_fetch(&heirs.slot->flags, static_cast<uint8_t>(kFileLinked), __ATOMIC_SEQ_CST);
        return;
      }
      slot->last_cookie = from.slot->last_cookie;
      const uint8_t kept = __atomic_load_n(&from.slot->flags, __ATOMIC_RELAXED) & (kFileMoved | kFileForked);
      __atomic_or_fetch(&slot->flags, kept, __ATOMIC_RELAXED);
      drop_stream(slot, nullptr);
      __atomic_store_n(&slot->stream, __atomic_exchange_n(&from.slot->stream, nullptr, __ATOMIC_ACQ_REL),
                       __ATOMIC_RELEASE);
      if (!move_position(file, kKernelOwned, position)) return;
      __atomic_add_fetch(&owned, 1u, __ATOMIC_SEQ_CST);
      __atomic_store_n(&slot->origin, 0, __ATOMIC_RELEASE);
      heir = other;
      heirs = file;
    });
    if (heir < 0) return;
    // A call that is under way on the number that is being closed goes by the heir's offset.
    from.slot->origin_count = static_cast<uint32_t>(heirs.state >> 8);
    __atomic_store_n(&from.slot->origin, heir + 1, __ATOMIC_RELEASE);
  };
  return signals_blocked ? with_signals_blocked(from, position, hand_over) : with_position(from, position, hand_over);
}

void files_hand_over(int fd, const File &from, bool signals_blocked) {
  for (;;) {
    const int64_t position = position_of(from);
    if (position < 0 || hand_over_from(fd, from, position, signals_blocked)) return;
  }
}

// A descriptor that shares the offset which `file` held when it was closed, or `file` itself. It stays open meanwhile:
// who closes it waits for the position.
template <typename Action>
static bool with_kernels_offset(const File &file, int fd, Action action) {
  bool done = false;
  auto try_one = [&](int number, const File &one) {
    with_position(one, kKernelOwned, [&] {
      if (!one.same()) return;
      action(number);
      done = true;
    });
  };
  if (file.same()) return try_one(fd, file), done;
  const uint32_t count = static_cast<uint32_t>(file.state >> 8);
  files_for_each(0, ~0u, [&](int number, const File &one) {
    const int32_t origin = __atomic_load_n(&one.slot->origin, __ATOMIC_ACQUIRE);
    if (!done && origin == fd + 1 && one.slot->origin_count == count) try_one(number, one);
  });
  return done;
}

bool make_through_duplicate(const File &closed, const sf_call &call, long *result) {
  return with_kernels_offset(closed, static_cast<int>(call.arg[0]), [&](int number) {
    *result = SF_SYS6(call.nr, number, call.arg[1], call.arg[2], call.arg[3], call.arg[4], call.arg[5]);
  });
}

void advance_kernels_offset(const File &file, int fd, int64_t bytes) {
  with_kernels_offset(file, fd, [&](int number) { SF_SYS3(__NR_lseek, number, bytes, kSeekCur); });
}

// What gets the slot next may name an origin too: the node has to be the same.
bool move_heirs_offset(const File &closed, uint64_t nid, int64_t from, int64_t to) {
  const int32_t heir = __atomic_load_n(&closed.slot->origin, __ATOMIC_ACQUIRE);
  if (heir <= 0) return false;
  const File file = file_of(heir - 1);
  const bool heirs = file && static_cast<uint32_t>(file.state >> 8) == closed.slot->origin_count &&
                     file.slot->nid == nid;
  return heirs && position_of(file) == from && move_position(file, from, to);
}

bool move_heirs_position(int64_t from, int64_t to) {
  bool moved = false;
  files_for_each(0, ~0u, [&](int, const File &file) {
    if (!moved && is_set(*file.slot, kFileDirectory)) moved = move_position(file, from, to);
  });
  return moved;
}

// ---- coming and going

static bool may_own(const Mount &m, uint64_t nid, uint64_t open_flags, uint8_t *flags) {
  if (g.offsets_off || (open_flags & (O_ACCMODE | O_PATH)) != O_RDONLY || nid == 0) return false;
  const Policy *policy = policy_of(m);
  if (policy == nullptr) return false;
  sf_attr_view attr;
  sf_moment moment = {};
  bool known = sf_find_attr(&m.view, nid, &moment, &attr) == SF_FIND_OK;
  if ((known && is_directory(attr.attr.mode)) || (open_flags & O_DIRECTORY)) {
    *flags |= kFileDirectory;
    return sf_image_has(policy->image, SF_SLOT_SYSCALL + SF_OP_READDIR);
  }
  return known && is_regular(attr.attr.mode) && !(open_flags & O_DIRECT) &&
         sf_image_has(policy->image, SF_SLOT_SYSCALL + SF_OP_READ);
}

void files_opened(int fd, uint64_t open_flags) {
  Identity who;
  if (g.files_off || !identify(fd, &who)) return;
  FileSlot *slot = slot_for(fd, kOnMount);
  if (slot == nullptr) return;
  empty(slot);
  Stay stay(who.mount, false);
  uint8_t flags = 0;
  if ((open_flags & O_ACCMODE) != O_WRONLY && !(open_flags & O_PATH)) flags |= kFileReadable;
  if (open_flags & O_DIRECT) flags |= kFileDirect;
  if (open_flags & O_PATH) flags |= kFilePath;
  uint64_t nid = 0;
  bool own = false;
  if (stay.entered()) {
    if (sf_find_node(&who.mount.mount->view, who.nodeid, &nid) != SF_FIND_OK) nid = 0;
    own = may_own(*who.mount.mount, nid, open_flags, &flags);
  }
  slot->nodeid = who.nodeid;
  slot->nid = nid;
  slot->mount = static_cast<uint8_t>(index_of(*who.mount.mount));
  slot->serial = who.mount.serial;
  __atomic_store_n(&slot->flags, flags, __ATOMIC_RELAXED);
  __atomic_store_n(&slot->origin, 0, __ATOMIC_RELAXED);
  // What cannot be positioned (the daemon may say so at open) has no offset that could be ours.
  own = own && SF_SYS3(__NR_lseek, fd, 0, kSeekCur) == 0;
  first_position(slot, next_state(slot->state, kOnMount), own ? 0 : kKernelOwned);
  publish(slot, kOnMount);
  if (!own) return;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);  // see files_hold_nothing()
  if (g.offsets_off) give_back(fd);
}

static void note_left_behind() {
  if (!may_be_left_behind()) __atomic_store_n(&any_left_behind, true, __ATOMIC_SEQ_CST);
}

void files_duplicating(const File &from) { __atomic_or_fetch(&from.slot->flags, kFileLinked, __ATOMIC_SEQ_CST); }

bool files_duplicated(const File &from, int from_fd, int to, uint16_t open) {
  if (open == 0) files_forget_stale(to);
  if (g.files_off) return open == 0;
  FileSlot *slot = slot_for(to, kOnMount);
  if (slot == nullptr) {
    if (open == 0) give_back(from_fd, from);
    return open == 0;
  }
  empty(slot);
  const FileSlot &origin = *from.slot;
  slot->nodeid = origin.nodeid;
  slot->nid = origin.nid;
  slot->mount = origin.mount;
  slot->serial = origin.serial;
  const uint8_t flags = __atomic_load_n(&origin.flags, __ATOMIC_RELAXED) & static_cast<uint8_t>(~kFileLinked);
  __atomic_store_n(&slot->flags, flags, __ATOMIC_RELAXED);
  slot->origin = origin.origin;
  slot->origin_count = origin.origin_count;
  if (position_of(from) >= 0) {
    slot->origin = from_fd + 1;
    slot->origin_count = static_cast<uint32_t>(from.state >> 8);
  }
  first_position(slot, 0, kKernelOwned);
  if (!from.same()) return false;
  __atomic_store_n(&slot->open, open, __ATOMIC_RELEASE);
  publish(slot, kOnMount);
  // Closed since by a thread that did not see the link, and so handed nothing over: that came first.
  if (open == 0 || from.same() || __atomic_load_n(&slot->origin, __ATOMIC_ACQUIRE) != from_fd + 1) return true;
  // The caller will close the number.
  note_left_behind();
  __atomic_store_n(&slot->open, static_cast<uint16_t>(0), __ATOMIC_RELEASE);
  publish(slot, kWasPlaceholder);
  return false;
}

bool files_opened_here(int fd, MountRef mount, uint64_t nid, uint16_t open, bool directory) {
  if (g.files_off) return false;
  FileSlot *slot = slot_for(fd, kOnMount);
  if (slot == nullptr) return false;
  empty(slot);
  slot->nodeid = 0;
  slot->nid = nid;
  slot->mount = static_cast<uint8_t>(index_of(*mount.mount));
  slot->serial = mount.serial;
  const uint8_t flags = kFileReadable | kFilePlaceholder | (directory ? kFileDirectory : 0);
  __atomic_store_n(&slot->flags, flags, __ATOMIC_RELAXED);
  __atomic_store_n(&slot->origin, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&slot->open, open, __ATOMIC_RELEASE);
  // Once: another thread may find out meanwhile that nothing was left here.
  const uint64_t state = next_state(slot_state(*slot), kOnMount);
  first_position(slot, state, 0);
  __atomic_store_n(&slot->state, state, __ATOMIC_RELEASE);
  return true;
}

// Its first half: the slot's.
static void close_placeholder(int fd, const File &file) {
  FileSlot *slot = file.slot;
  note_left_behind();
  // Else the number is another file's by now, and that is what the kernel will close.
  if (!change_state(slot, file.state, kWasPlaceholder)) return files_close(fd);
  const int64_t position = forget_position(slot, file.state);
  if (__atomic_load_n(&slot->open, __ATOMIC_SEQ_CST) != 0) leave_open(slot);
  const bool was_made_real = !is_set(*slot, kFilePlaceholder);
  // By another thread in between. The kernel will close it in a moment, and until then reads go on where they stood.
  if (was_made_real && position > 0) SF_SYS3(__NR_lseek, fd, kernel_offset(*slot, position), kSeekSet);
  drop_stream(slot, nullptr);
  if (was_made_real) files_forget_left(slot, next_state(file.state, kWasPlaceholder));
}

// Duplicates go on where this one stood. So does a thread that reads between this and the kernel's close.
static void close_file(int fd, const File &file) {
  const bool placeholder = is_placeholder(file);
  if (g.has_threads && !placeholder && !is_set(*file.slot, kFileDirectory) && position_of(file) > 0)
    give_back(fd, file);
  if (is_set(*file.slot, kFileLinked)) {
    if (placeholder) {
      hand_over_placeholder(fd, file);
    } else if (in_listing(file)) {
      files_hand_over(fd, file);
    } else {
      give_back(fd, file);
    }
  }
  if (placeholder) return close_placeholder(fd, file);
  empty(file.slot);
}

void files_close(int fd) {
  if (File file = file_of(fd)) close_file(fd, file);
}

void files_close_range(unsigned first, unsigned last) { files_for_each(first, last, close_file); }

void files_off() {
  files_give_back_all();
  __atomic_store_n(&g.files_off, true, __ATOMIC_SEQ_CST);
  files_give_back_all();
  files_close_range(0, ~0u);
}

void files_mark_hidden(int fd) {
  note_number(fd);
  FileSlot *slot = slot_for(fd, kHiddenFd);
  if (slot == nullptr) return;
  empty(slot);
  publish(slot, kHiddenFd);
}

void files_unmark_hidden(int fd) {
  FileSlot *slot = slot_of(fd);
  if (slot != nullptr && kind_of(slot_state(*slot)) == kHiddenFd) publish(slot, kNotOurs);
}

// ---- streams

static Stream *spare[kSpareStreams];  // atomic

void retire_stream(Stream *stream) {
  if (stream == nullptr) return;
  // A thread may be reading in it still: the addresses stay valid. A small one keeps its memory too.
  constexpr uint64_t kKept = 65536;
  if (stream->room > kKept) {
    SF_SYS3(__NR_madvise, reinterpret_cast<char *>(stream) + kKept, stream->room - kKept, MADV_DONTNEED);
  }
  for (Stream *&place : spare) {
    Stream *none = nullptr;
    if (__atomic_compare_exchange_n(&place, &none, stream, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) return;
  }
  // More than can be used again. With a thread in it, nothing but the addresses is given away.
  if (nobody_inside()) {
    unmap(stream, stream->room);
  } else {
    SF_SYS3(__NR_madvise, reinterpret_cast<char *>(stream) + 4096, stream->room - 4096, MADV_DONTNEED);
  }
}

static Stream *reuse_stream(uint64_t room) {
  for (Stream *&place : spare) {
    if (__atomic_load_n(&place, __ATOMIC_RELAXED) == nullptr) continue;
    Stream *stream = __atomic_exchange_n(&place, nullptr, __ATOMIC_ACQUIRE);
    if (stream == nullptr) continue;
    if (stream->room >= room && stream->room / 4 <= room) return stream;
    Stream *none = nullptr;
    if (!__atomic_compare_exchange_n(&place, &none, stream, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
      retire_stream(stream);
    }
  }
  return nullptr;
}

Stream *new_stream(uint64_t bytes) {
  uint64_t room = (sizeof(Stream) + bytes + 4095) & ~4095ull;
  Stream *stream = reuse_stream(room);
  if (stream == nullptr) {
    stream = static_cast<Stream *>(map_anonymous(room));
    if (stream == nullptr) return nullptr;
    stream->room = room;
  }
  uint32_t serial;
  do {
    serial = __atomic_add_fetch(&stream_serials, 1u, __ATOMIC_RELAXED) & 0x7fffffff;
  } while (serial == 0);
  // Before the entries change: who reads in it under the former serial will not move the position.
  __atomic_store_n(&stream->serial, serial, __ATOMIC_RELAXED);
  __atomic_store_n(&stream->bytes, 0u, __ATOMIC_RELEASE);
  return stream;
}

bool give_stream(FileSlot *slot, Stream *stream) {
  Stream *none = nullptr;
  return __atomic_compare_exchange_n(&slot->stream, &none, stream, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

void drop_stream(FileSlot *slot, Stream *stream) {
  if (stream == nullptr) return retire_stream(__atomic_exchange_n(&slot->stream, nullptr, __ATOMIC_ACQ_REL));
  if (__atomic_compare_exchange_n(&slot->stream, &stream, nullptr, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
    retire_stream(stream);
  }
}

uint32_t stream_entry(const Stream &stream, uint32_t at, uint64_t *cookie) {
  uint64_t end = __atomic_load_n(&stream.bytes, __ATOMIC_RELAXED);
  if (end > stream.room - sizeof(Stream)) end = stream.room - sizeof(Stream);
  if (at + sizeof(sf_dirent) > end) return 0;
  const auto *entry = reinterpret_cast<const sf_dirent *>(stream.entries + at);
  uint32_t bytes = __atomic_load_n(&entry->reclen, __ATOMIC_RELAXED);
  if (bytes < sizeof(sf_dirent) || (bytes & 7) != 0 || bytes > end - at) return 0;
  *cookie = __atomic_load_n(&entry->off, __ATOMIC_RELAXED);
  return bytes;
}

void files_after_fork() {
  opens_after_fork();
  files_for_each([](int, const File &file) {
    if (file.slot->origin == kNewOrigin) file.slot->origin = 0;
  });
  cwd_after_fork();
  // The parent's thread will finish what it began; the offset is shared.
  files_for_each([](int, const File &file) {
    if (move_position(file, kGivingBack, kKernelOwned)) __atomic_sub_fetch(&owned, 1u, __ATOMIC_SEQ_CST);
  });
  // All others were given back before the fork, but for those that another thread opened since. Nobody here can know of
  // them, and the parent goes on with them: its offset may be the kernel's by now, so the kernel is told nothing.
  files_for_each([](int, const File &file) {
    const int64_t position = position_of(file);
    // Of a placeholder the kernel has none: the child goes on where it stands.
    if (position < 0 || in_listing(file) || is_placeholder(file)) return;
    if (move_position(file, position, kKernelOwned)) __atomic_sub_fetch(&owned, 1u, __ATOMIC_SEQ_CST);
  });
  files_give_back_all_but_listings();
  // The thread that was closing it is the parent's. Where there was none, the closing goes on here.
  if (!g.has_threads) return;
  for_each_left_behind([](int fd, const File &file) {
    if (change_state(file.slot, file.state, kNotOurs) && is_placeholder_of_kernel(fd)) close_fd(fd);
  });
}

}  // namespace shortfuse::bypass
