// The table of descriptors and the working directory.
#include "files.h"

#include "kernel.h"

namespace shortfuse::bypass {

FileSlot *file_pages[kFilePages];
static uint32_t owned;            // slots whose offset is ours; atomic
static uint32_t highest;          // no slot above has ever been used; atomic
static uint32_t stream_serials;

// ---- slots

static FileSlot *slot_for(int fd) {
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
  uint32_t top = __atomic_load_n(&highest, __ATOMIC_RELAXED);
  while (n > top && !__atomic_compare_exchange_n(&highest, &top, n, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return slot_of(fd);
}

static uint64_t next_state(uint64_t state, FileKind kind) { return ((state >> 8) + 1) << 8 | kind; }

static void publish(FileSlot *slot, FileKind kind) {
  __atomic_store_n(&slot->state, next_state(slot->state, kind), __ATOMIC_RELEASE);
}

static void set_position(FileSlot *slot, int64_t position) {
  if (position >= 0) __atomic_add_fetch(&owned, 1u, __ATOMIC_SEQ_CST);
  int64_t before = ~__atomic_exchange_n(&slot->not_position, ~position, __ATOMIC_ACQ_REL);
  if (before >= 0) __atomic_sub_fetch(&owned, 1u, __ATOMIC_SEQ_CST);
}

static void empty(FileSlot *slot) {
  uint64_t state = slot_state(*slot);
  if (kind_of(state) != kOnMount) return;
  if (!__atomic_compare_exchange_n(&slot->state, &state, next_state(state, kNotOurs), false, __ATOMIC_ACQ_REL,
                                   __ATOMIC_RELAXED))
    return;
  set_position(slot, kKernelOwned);
  set_stream(slot, nullptr);
}

uint64_t nid_of(const File &file) {
  uint64_t nid = __atomic_load_n(&file.slot->nid, __ATOMIC_RELAXED);
  if (nid != 0) return nid;
  // The kernel keeps the node's number alive as long as the descriptor is open, so asking late gives the same life.
  const Mount &m = mounts[file.slot->mount];
  if (sf_find_node(&m.view, file.slot->nodeid, &nid) != SF_FIND_OK) return 0;
  if (file.same()) __atomic_store_n(&file.slot->nid, nid, __ATOMIC_RELAXED);
  return nid;
}

// ---- offsets

int64_t position_of(const FileSlot &slot) {
  int64_t position = ~__atomic_load_n(&slot.not_position, __ATOMIC_ACQUIRE);
  // Its signals are blocked, so the thread that gives it back is never one that we have interrupted.
  while (position == kGivingBack) {
    SF_SYS0(__NR_sched_yield);
    position = ~__atomic_load_n(&slot.not_position, __ATOMIC_ACQUIRE);
  }
  return position;
}

bool move_position(FileSlot *slot, int64_t from, int64_t to) {
  int64_t expected = ~from;
  return __atomic_compare_exchange_n(&slot->not_position, &expected, ~to, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

// What the kernel's offset would be at a position of ours.
static int64_t kernel_offset(const FileSlot &slot, int64_t position) {
  if (!(slot.flags & kFileDirectory) || position == 0) return position;
  uint32_t serial = static_cast<uint32_t>(position >> 32), byte = static_cast<uint32_t>(position);
  if (serial == 0) return static_cast<int64_t>(slot.last_cookie);
  const Stream *stream = __atomic_load_n(&slot.stream, __ATOMIC_ACQUIRE);
  if (stream == nullptr || (stream->serial & 0x7fffffff) != serial) return 0;
  uint64_t cookie = 0;
  for (uint32_t at = 0; at < byte && at < stream->bytes;) {
    const auto *entry = reinterpret_cast<const sf_dirent *>(stream->entries + at);
    cookie = entry->off;
    at += entry->reclen;
  }
  return static_cast<int64_t>(cookie);
}

void settle(FileSlot *slot) {
  const int32_t origin = __atomic_exchange_n(&slot->origin, 0, __ATOMIC_ACQ_REL);
  if (origin == 0) return;
  File file = file_of(origin - 1);
  if (file && static_cast<uint32_t>(file.state >> 8) == slot->origin_count) give_back(origin - 1, file.slot);
}

void give_back(int fd, FileSlot *slot) {
  settle(slot);
  for (;;) {
    const int64_t position = position_of(*slot);
    if (position < 0) return;
    // One thread tells the kernel, the others wait: a second lseek() would undo what was read after the first. No
    // handler of this thread may come in between and wait for ever.
    const uint64_t all = ~0ull;
    uint64_t before;
    SF_SYS4(__NR_rt_sigprocmask, kSigBlock, &all, &before, sizeof before);
    const bool mine = move_position(slot, position, kGivingBack);
    if (mine) {
      if (position != 0 || (slot->flags & kFileMoved)) {
        SF_SYS3(__NR_lseek, fd, kernel_offset(*slot, position), kSeekSet);
        __atomic_or_fetch(&slot->flags, kFileMoved, __ATOMIC_RELAXED);
      }
      move_position(slot, kGivingBack, kKernelOwned);
      __atomic_sub_fetch(&owned, 1u, __ATOMIC_SEQ_CST);
      set_stream(slot, nullptr);
    }
    SF_SYS4(__NR_rt_sigprocmask, kSigSetmask, &before, nullptr, sizeof before);
    if (mine) return;
  }
}

template <typename Action>
static void for_each_slot(unsigned first, unsigned last, Action action) {
  uint32_t top = __atomic_load_n(&highest, __ATOMIC_RELAXED);
  if (last > top) last = top;
  for (unsigned fd = first; fd <= last; ++fd) {
    FileSlot *slot = slot_of(static_cast<int>(fd));
    if (slot == nullptr) {
      fd |= kFilesPerPage - 1;  // the rest of a page that is not there
    } else if (kind_of(slot_state(*slot)) == kOnMount) {
      action(static_cast<int>(fd), slot);
    }
  }
}

void files_give_back_all() {
  if (__atomic_load_n(&owned, __ATOMIC_SEQ_CST) == 0) return;
  for_each_slot(0, ~0u, [](int fd, FileSlot *slot) { give_back(fd, slot); });
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
  FileSlot *slot = slot_for(fd);
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
  slot->flags = flags;
  slot->origin = 0;
  // What cannot be positioned (the daemon may say so at open) has no offset that could be ours.
  own = own && SF_SYS3(__NR_lseek, fd, 0, kSeekCur) == 0;
  set_position(slot, own ? 0 : kKernelOwned);
  publish(slot, kOnMount);
}

void files_duplicating(const File &from) { __atomic_or_fetch(&from.slot->flags, kFileLinked, __ATOMIC_SEQ_CST); }

void files_duplicated(const File &from, int from_fd, int to) {
  if (g.files_off) return;
  FileSlot *slot = slot_for(to);
  if (slot == nullptr) return give_back(from_fd, from.slot);
  empty(slot);
  const FileSlot &origin = *from.slot;
  slot->nodeid = origin.nodeid;
  slot->nid = origin.nid;
  slot->mount = origin.mount;
  slot->serial = origin.serial;
  slot->flags = origin.flags & static_cast<uint8_t>(~kFileLinked);
  slot->origin = origin.origin;
  slot->origin_count = origin.origin_count;
  if (position_of(origin) >= 0) {
    slot->origin = from_fd + 1;
    slot->origin_count = static_cast<uint32_t>(from.state >> 8);
  }
  set_position(slot, kKernelOwned);
  if (from.same()) publish(slot, kOnMount);
}

void files_close(int fd) {
  FileSlot *slot = slot_of(fd);
  if (slot == nullptr) return;
  // Duplicates go on where this one stood.
  if (kind_of(slot_state(*slot)) == kOnMount && (slot->flags & kFileLinked)) give_back(fd, slot);
  empty(slot);
}

void files_close_range(unsigned first, unsigned last) {
  for_each_slot(first, last, [](int fd, FileSlot *slot) {
    if (slot->flags & kFileLinked) give_back(fd, slot);
    empty(slot);
  });
}

void files_off() {
  files_give_back_all();
  __atomic_store_n(&g.files_off, true, __ATOMIC_SEQ_CST);
  files_give_back_all();
  files_close_range(0, ~0u);
}

void files_mark_hidden(int fd) {
  FileSlot *slot = slot_for(fd);
  if (slot == nullptr) return;
  empty(slot);
  publish(slot, kHiddenFd);
}

void files_unmark_hidden(int fd) {
  FileSlot *slot = slot_of(fd);
  if (slot != nullptr && kind_of(slot_state(*slot)) == kHiddenFd) publish(slot, kNotOurs);
}

// ---- streams

Stream *new_stream(uint64_t bytes) {
  uint64_t room = (sizeof(Stream) + bytes + 4095) & ~4095ull;
  auto *stream = static_cast<Stream *>(map_anonymous(room));
  if (stream == nullptr) return nullptr;
  stream->room = room;
  do {
    stream->serial = __atomic_add_fetch(&stream_serials, 1u, __ATOMIC_RELAXED) & 0x7fffffff;
  } while (stream->serial == 0);
  return stream;
}

void set_stream(FileSlot *slot, Stream *stream) {
  Stream *before = __atomic_exchange_n(&slot->stream, stream, __ATOMIC_ACQ_REL);
  if (before != nullptr) unmap(before, before->room);
}

// ---- the working directory

static uint32_t cwd_begun, cwd_ended;  // changes of it; equal: none under way
static uint32_t cwd_lock;              // odd while `cwd` is being written
static Cwd cwd_known;                  // true of the change cwd_known.version

void cwd_changing() { __atomic_add_fetch(&cwd_begun, 1u, __ATOMIC_SEQ_CST); }
void cwd_changed() { __atomic_add_fetch(&cwd_ended, 1u, __ATOMIC_SEQ_CST); }

void files_cwd_changed() {
  cwd_changing();
  cwd_changed();
}

static void remember_cwd(const Cwd &cwd) {
  uint32_t even = __atomic_load_n(&cwd_lock, __ATOMIC_RELAXED);
  if ((even & 1) || !__atomic_compare_exchange_n(&cwd_lock, &even, even + 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
    return;
  cwd_known = cwd;
  __atomic_store_n(&cwd_lock, even + 2, __ATOMIC_RELEASE);
}

static bool recall_cwd(uint32_t version, Cwd *out) {
  uint32_t before = __atomic_load_n(&cwd_lock, __ATOMIC_ACQUIRE);
  *out = cwd_known;
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return !(before & 1) && __atomic_load_n(&cwd_lock, __ATOMIC_RELAXED) == before && out->version == version;
}

static void resolve_cwd(uint32_t version, Cwd *out) {
  *out = {};
  out->version = version;
  Identity who;
  if (identify(AT_FDCWD, &who)) {
    out->mount = who.mount;
    out->nodeid = who.nodeid;
  }
}

bool cwd_now(Cwd *out) {
  // Version 0 is no version: cwd_known begins with it.
  uint32_t version = __atomic_load_n(&cwd_ended, __ATOMIC_ACQUIRE) + 1;
  if (g.cwd_off || version == 0 || __atomic_load_n(&cwd_begun, __ATOMIC_ACQUIRE) + 1 != version) return false;
  if (!recall_cwd(version, out)) {
    resolve_cwd(version, out);
    if (!cwd_same(*out)) return false;
    remember_cwd(*out);
  }
  if (out->mount.mount == nullptr) return false;
  if (out->nid != 0) return true;
  Stay stay(out->mount, false);
  if (!stay.entered() || sf_find_node(&out->mount.mount->view, out->nodeid, &out->nid) != SF_FIND_OK) return false;
  remember_cwd(*out);
  return true;
}

bool cwd_same(const Cwd &cwd) {
  return __atomic_load_n(&cwd_begun, __ATOMIC_ACQUIRE) + 1 == cwd.version &&
         __atomic_load_n(&cwd_ended, __ATOMIC_ACQUIRE) + 1 == cwd.version;
}

void files_after_fork() {
  // A change that a thread of the parent had under way will never end here: forget what was known.
  cwd_begun = cwd_ended = (cwd_begun > cwd_ended ? cwd_begun : cwd_ended) + 1;
  cwd_lock &= ~1u;
  cwd_known.version = 0;
  // The parent's thread will finish what it began; the offset is shared.
  for_each_slot(0, ~0u, [](int, FileSlot *slot) {
    if (move_position(slot, kGivingBack, kKernelOwned)) __atomic_sub_fetch(&owned, 1u, __ATOMIC_SEQ_CST);
  });
  // Given back before the fork; one that another thread opened since is shared with the parent now.
  files_give_back_all();
}

}  // namespace shortfuse::bypass
