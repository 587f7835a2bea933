// read, readv, pread64, preadv, preadv2; lseek; getdents64: by descriptor, with our offset or the call's.
#include "calls.h"
#include "count.h"
#include "kernel.h"
#include "opens.h"
#include "path.h"
#include "serve_listing.h"

namespace shortfuse::bypass {

int pass(MountRef mount, sf_op kind) {
  Stay stay(mount, false);
  if (stay.entered()) {
    count_passed(stay, kind, 0);
  } else {
    count_outside(kind, SF_MISS_DETACHED);
  }
  return 0;
}

namespace {

// The caller's buffers, measured as import_iovec() does. False: the kernel refuses them, let it.
bool measure(const sf_call *c, Buffers *b) {
  if (c->nr == __NR_read || c->nr == __NR_pread64) {
    b->single = {reinterpret_cast<void *>(c->arg[1]), static_cast<size_t>(c->arg[2])};
    b->iov = &b->single;
    b->count = 1;
  } else {
    b->iov = reinterpret_cast<const iovec *>(c->arg[1]);
    b->count = static_cast<int>(c->arg[2]);
    if (c->arg[2] <= 0 || c->arg[2] > kIovMax) return false;
  }
  b->bytes = 0;
  for (int i = 0; i < b->count; ++i) {
    uint64_t n = b->iov[i].iov_len;
    if (n > INT64_MAX) return false;
    b->bytes = n > kMaxRwCount - b->bytes ? static_cast<uint64_t>(kMaxRwCount) : b->bytes + n;
  }
  return b->bytes != 0;
}

bool has_offset(const sf_call *c) {
  return c->nr == __NR_pread64 || c->nr == __NR_preadv || (c->nr == __NR_preadv2 && c->arg[3] != -1);
}

// The same read at an explicit offset.
sf_call at_offset(const sf_call &c, int64_t offset) {
  sf_call p = c;
  p.nr = c.nr == __NR_read ? __NR_pread64 : c.nr == __NR_readv ? __NR_preadv : c.nr;
  p.arg[3] = offset;
  p.arg[4] = 0;
  return p;
}

// One attempt to serve at `offset`. 1: *result is the call's; 0: a miss.
bool try_read(Op *op, Wish *wish, const File &file, Buffers *b, int64_t offset, bool supported, long *result) {
  op->file = file;
  op->buffers = b;
  op->wish = wish;
  op->offset = static_cast<uint64_t>(offset);
  op->length = b->bytes;
  if (!prepare(op)) return false;
  if (!supported || offset < 0 || offset > INT64_MAX - static_cast<int64_t>(b->bytes))
    return op->give_up(SF_MISS_UNSUPPORTED);
  op->nid = nid_of(file);
  if (op->nid == 0) return op->give_up(SF_MISS_ATTR);
  return run_policy(op, result);
}

int read_at(const sf_call *c, const File &file, long *result) {
  Stay stay(file.mount(), false);
  if (!stay.entered()) return count_outside(SF_OP_READ, SF_MISS_DETACHED), 0;
  Op op(c, SF_OP_READ, file.mount(), stay);
  Wish wish;
  Buffers b;
  bool supported = measure(c, &b) && !is_set(*file.slot, kFileDirect) && (c->nr != __NR_preadv2 || c->arg[5] == 0);
  if (try_read(&op, &wish, file, &b, c->arg[3], supported, result)) {
    if (op.served) count_served(op);
  } else {
    *result = fall_back(&op);
  }
  return 1;
}

// At our offset: served or read by the kernel at that place, then the offset moves, if nobody moved it meanwhile.
// A descriptor that another thread closed meanwhile was still the file's when the bytes came: they are the result, for
// the same call made again would be another one, on whatever has the number by now. But where duplicates go on at the
// offset, which did not move, the call is made through one of them.
// 1: done; 0: the kernel's, nothing was read; -1: again.
int read_on(const sf_call *c, const File &file, int64_t position, long *result) {
  Stay stay(file.mount(), false);
  if (!stay.entered()) return count_outside(SF_OP_READ, SF_MISS_DETACHED), 0;
  Op op(c, SF_OP_READ, file.mount(), stay);
  Wish wish;
  Buffers b;
  bool supported = measure(c, &b) && !is_set(*file.slot, kFileDirect) && (c->nr != __NR_preadv2 || c->arg[5] == 0);
  bool done = try_read(&op, &wish, file, &b, position, supported, result);
  if (!done) {
    // The kernel judges the buffers either way; a form that has no twin with an offset needs the kernel's.
    if (c->nr == __NR_preadv2 && c->arg[5] != 0) return count_missed(op, 0), 0;
    if (!file.same()) return count_missed(op, 0), make_through_duplicate(file, *c, result) ? 1 : 0;
    *result = fall_back(&op, at_offset(*c, position));
    if (*result == -ESPIPE) return 0;
  }
  if (*result > 0 && !move_position(file, position, position + *result)) {
    if (file.same()) return -1;
    const bool moved = move_heirs_offset(file, op.nid, position, position + *result);
    if (!moved && make_through_duplicate(file, *c, result)) return count_passed(stay, SF_OP_READ, 0), 1;
  }
  if (done && op.served) count_served(op);
  return 1;
}

// The kernel goes on from where we stand. 0: it can; 1: *result says why not.
int leave_to_kernel(int fd, const File &file, long *result) {
  const int error = give_back(fd, file);
  if (error == 0 || !file.same()) return 0;
  *result = error;
  return 1;
}

}  // namespace

int call_read(const sf_call *c, long *result) {
  int fd = static_cast<int>(c->arg[0]);
  File file = file_of(fd);
  if (!file) {
    if (!is_hidden_slot(fd)) [[likely]] return 0;
    *result = -EBADF;
    return 1;
  }
  if (!is_set(*file.slot, kFileReadable)) return pass(file.mount(), SF_OP_READ);
  if (has_offset(c)) return read_at(c, file, result);
  while (file.same()) {
    int64_t position = position_of(file);
    if (position < 0) return leave_to_kernel(fd, file, result) != 0 ? 1 : pass(file.mount(), SF_OP_READ);
    if (is_set(*file.slot, kFileDirectory)) break;  // EISDIR
    int done = read_on(c, file, position, result);
    if (done > 0) return 1;
    if (done == 0) break;
  }
  return file.same() ? leave_to_kernel(fd, file, result) : 0;
}

// ---- what is known of a file without its program having to be run

namespace {

// The file's attributes, if the policy serves calls of this kind.
bool known_attr(Op *op, const File &file) {
  op->file = file;
  op->wants_atime = false;
  if (!prepare(op)) return false;
  op->nid = nid_of(file);
  op->have_attr = op->nid != 0 && sf_find_attr(&op->mount->view, op->nid, &op->moment, &op->attr) == SF_FIND_OK;
  return op->have_attr && op->attr.attr.size <= INT64_MAX;
}

// What the file system has answered to this question about the contents as they are now.
bool known_answer(const Op &op, sf_question question, uint64_t *from, uint64_t *to) {
  return op.attr.cid != 0 && (op.attr.flags & SF_RECF_WRITER) == 0 &&
         sf_find_answer(&op.mount->view, op.attr.cid, question, from, to) == SF_FIND_OK;
}

}  // namespace

bool is_no_terminal(const sf_call *c) {
  File file = file_of(static_cast<int>(c->arg[0]));
  if (!file || !is_set(*file.slot, kFileReadable)) return false;
  Stay stay(file.mount(), false);
  if (!stay.entered()) return false;
  if ((flags_of(*file.mount().mount) & SF_MNT_NO_IOCTL) != 0) return true;
  Op op(c, SF_OP_READ, file.mount(), stay);
  uint64_t from, to;
  return known_attr(&op, file) && known_answer(op, SF_ASKED_TERMINAL, &from, &to) && file.same();
}

// ---- lseek

namespace {

// Where a seek leads; -errno; or kKernelKnows.
constexpr int64_t kKernelKnows = INT64_MIN;

// The size as fstat would tell.
int64_t served_size(const sf_call *c, const File &file) {
  Stay stay(file.mount(), false);
  if (!stay.entered()) return kKernelKnows;
  Op op(c, SF_OP_STAT, file.mount(), stay);
  return known_attr(&op, file) ? static_cast<int64_t>(op.attr.attr.size) : kKernelKnows;
}

// SEEK_DATA, SEEK_HOLE: in a stretch of data whose end the file system has told. Where it cannot tell anything, a file
// is data to its end for the kernel too.
int64_t served_stretch(const sf_call *c, const File &file) {
  Stay stay(file.mount(), false);
  if (!stay.entered()) return kKernelKnows;
  Op op(c, SF_OP_READ, file.mount(), stay);
  if (!known_attr(&op, file) || !is_regular(op.attr.attr.mode)) return kKernelKnows;
  const auto offset = static_cast<uint64_t>(c->arg[1]);
  uint64_t from = 0, to = op.attr.attr.size;
  if ((flags_of(*op.mount) & SF_MNT_NO_LSEEK) != 0) {
    if (offset >= to) return -ENXIO;
  } else if (!known_answer(op, SF_ASKED_HOLE, &from, &to) || offset < from || offset >= to || to > INT64_MAX) {
    return kKernelKnows;
  }
  return static_cast<int64_t>(static_cast<int>(c->arg[2]) == kSeekHole ? to : offset);
}

int64_t seek_target(const sf_call *c, const File &file, int64_t position) {
  int64_t offset = c->arg[1], base = 0;
  switch (static_cast<int>(c->arg[2])) {
    case kSeekSet: break;
    case kSeekCur: base = position; break;
    case kSeekEnd:
      base = served_size(c, file);
      if (base < 0) return kKernelKnows;
      break;
    case kSeekData:
    case kSeekHole: return served_stretch(c, file);
    default: return kKernelKnows;
  }
  int64_t target;
  if (__builtin_add_overflow(base, offset, &target) || target < 0) return -EINVAL;
  return target;
}

int seek_file(const sf_call *c, int fd, const File &file, long *result) {
  while (file.same()) {
    int64_t position = position_of(file);
    if (position < 0) return 0;
    int64_t target = seek_target(c, file, position);
    bool served = target != kKernelKnows;
    if (!served) {
      // Ends, holes and data: the kernel's offset moves to where ours shall be.
      int whence = static_cast<int>(c->arg[2]);
      if (whence != kSeekEnd && whence != kSeekData && whence != kSeekHole) return 0;
      if (const int error = make_real(file); error != 0) return *result = error, 1;
      __atomic_or_fetch(&file.slot->flags, kFileMoved, __ATOMIC_RELAXED);
      if (!file.same()) return 0;
      target = SF_SYS3(__NR_lseek, fd, c->arg[1], c->arg[2]);
    }
    // Closed meanwhile: this was the last that was asked of it.
    if (target >= 0 && !move_position(file, position, target) && (served || file.same())) continue;
    *result = target;
    Stay stay(file.mount(), false);
    if (stay.entered() && served) {
      Op op(c, SF_OP_LSEEK, file.mount(), stay);
      count_served(op);
    } else if (stay.entered()) {
      count_passed(stay, SF_OP_LSEEK, 0);
    }
    return 1;
  }
  return 0;
}

// Rewinding takes a new listing; a cookie that the Stream has handed out is found in it.
bool seek_directory(const sf_call *c, const File &file, long *result) {
  int64_t position = position_of(file);
  if (position < 0 || static_cast<int>(c->arg[2]) != kSeekSet) return false;
  if (c->arg[1] == 0 && is_set(*file.slot, kFileForked)) return false;
  int64_t target = -1;
  if (c->arg[1] == 0) target = 0;
  Stream *stream = __atomic_load_n(&file.slot->stream, __ATOMIC_ACQUIRE);
  if (target != 0 && stream != nullptr) {
    const uint32_t serial = stream->serial;
    uint64_t cookie;
    for (uint32_t at = 0, bytes; target < 0 && (bytes = stream_entry(*stream, at, &cookie)) != 0;) {
      at += bytes;
      if (static_cast<long>(cookie) == c->arg[1]) target = stream_position(serial, at);
    }
  }
  if (target < 0 || !move_position(file, position, target)) return false;
  if (target == 0 && stream != nullptr) drop_stream(file.slot, stream);
  *result = c->arg[1];
  return true;
}

// A duplicate of a directory reads and seeks through the one that holds their offset. *fd and *holder: that one.
int64_t holders_position(const File &file, int *fd, File *holder) {
  const int own = *fd;
  for (;;) {
    *fd = own;
    *holder = offset_holder(file, fd);
    int64_t position = position_of(*holder);
    if (position >= 0 || holder->slot == file.slot || !file.same()) return position;
    // Closed meanwhile, and its place taken by this duplicate or another? Then it is looked for again.
    if (__atomic_load_n(&file.slot->origin, __ATOMIC_ACQUIRE) == *fd + 1) return position;
  }
}

}  // namespace

int call_lseek(const sf_call *c, long *result) {
  int fd = static_cast<int>(c->arg[0]);
  File file = file_of(fd);
  if (!file) {
    if (!is_hidden_slot(fd)) [[likely]] return 0;
    *result = -EBADF;
    return 1;
  }
  if (!is_set(*file.slot, kFileDirectory)) {
    if (position_of(file) >= 0 && seek_file(c, fd, file, result)) return 1;
    return leave_to_kernel(fd, file, result) != 0 ? 1 : pass(file.mount(), SF_OP_LSEEK);
  }
  File holder;
  if (holders_position(file, &fd, &holder) < 0)
    return leave_to_kernel(static_cast<int>(c->arg[0]), file, result) != 0 ? 1 : pass(file.mount(), SF_OP_LSEEK);
  if (seek_directory(c, holder, result)) {
    Stay stay(file.mount(), false);
    if (!stay.entered()) return 1;
    Op op(c, SF_OP_LSEEK, file.mount(), stay);
    count_served(op);
    return 1;
  }
  return leave_to_kernel(fd, holder, result) != 0 ? 1 : pass(file.mount(), SF_OP_LSEEK);
}

// ---- getdents64

namespace {

// Within a listing already taken. -1: not possible, the kernel goes on from there.
long read_stream(const File &file, int64_t position, void *to, uint64_t room, int64_t *next) {
  uint32_t serial = static_cast<uint32_t>(position >> 32), from = static_cast<uint32_t>(position);
  *next = position;
  if (serial == 0) return 0;  // everything went out at once
  const Stream *stream = __atomic_load_n(&file.slot->stream, __ATOMIC_ACQUIRE);
  if (stream == nullptr || __atomic_load_n(&stream->serial, __ATOMIC_ACQUIRE) != serial) return -1;
  long copied = stream_copy(*stream, from, to, room);
  if (copied > 0) *next = stream_position(serial, from + static_cast<uint32_t>(copied));
  return copied;
}

// A directory that was removed while it was read has no entries any more, and says so. Where its attributes are
// known, and count a name, it is there; else the kernel says. Room for no entry: nothing of its listing is used up.
bool is_removed(const Op &op, int fd) {
  const uint64_t nid = nid_of(op.file);
  sf_attr_view attr;
  sf_moment moment = {};
  const bool known = nid != 0 && sf_find_attr(&op.mount->view, nid, &moment, &attr) == SF_FIND_OK;
  if (known && attr.attr.nlink != 0) return false;
  if (make_real(op.file) != 0) return false;
  char none;
  return SF_SYS3(__NR_getdents64, fd, &none, sizeof none) == -ENOENT && op.file.same();
}

// 1: done; 0: the kernel's from here on; -1: again. `fd`: the number of `file`, which may be a duplicate's origin.
int list_on(const sf_call *c, int fd, const File &file, int64_t position, long *result) {
  Stay stay(file.mount(), false);
  if (!stay.entered()) return count_outside(SF_OP_READDIR, SF_MISS_DETACHED), 0;
  Op op(c, SF_OP_READDIR, file.mount(), stay);
  Wish wish;
  op.file = file;
  op.wish = &wish;
  op.out = reinterpret_cast<void *>(c->arg[1]);
  op.length = static_cast<uint32_t>(c->arg[2]);
  if (position != 0) {
    count_start(&op);
    if (is_removed(op, fd)) return *result = -ENOENT, 1;
    long copied = read_stream(file, position, op.out, op.length, &op.position);
    if (copied == -1) return count_passed(stay, SF_OP_READDIR, 0), 0;
    *result = copied;
  } else {
    bool ready = prepare(&op) && (op.length <= INT32_MAX || op.give_up(SF_MISS_UNSUPPORTED));
    if (ready) op.nid = nid_of(file);
    if (ready && op.nid == 0) ready = op.give_up(SF_MISS_ATTR);
    if (!ready || !run_policy(&op, result)) {
      // The stream is the kernel's before the call is made: it goes on where the caller stands.
      if (leave_to_kernel(fd, file, result) != 0) return count_missed(op, 0), 1;
      if (!file.same() && make_through_duplicate(file, *c, result)) return count_missed(op, 0), 1;
      *result = fall_back(&op);
      return 1;
    }
    if (!op.served) return 1;
  }
  if (op.position != position && !move_position(file, position, op.position)) {
    // Through a duplicate: once more, with whoever holds the offset now.
    if (file.same() || fd != static_cast<int>(c->arg[0])) return -1;
    const bool handed_over = position != 0 && move_heirs_position(position, op.position);
    if (!handed_over && make_through_duplicate(file, *c, result)) return count_passed(stay, SF_OP_READDIR, 0), 1;
  }
  count_served(op);
  return 1;
}

}  // namespace

int call_getdents(const sf_call *c, long *result) {
  int fd = static_cast<int>(c->arg[0]);
  File file = file_of(fd);
  if (!file) return 0;
  File holder = file;
  if (c->nr == __NR_getdents64) {
    while (file.same()) {
      int64_t position = holders_position(file, &fd, &holder);
      if (position < 0)
        return leave_to_kernel(static_cast<int>(c->arg[0]), file, result) != 0 ? 1 : pass(file.mount(), SF_OP_READDIR);
      if (!is_set(*file.slot, kFileDirectory)) break;
      int done = list_on(c, fd, holder, position, result);
      if (done > 0) return 1;
      if (done == 0) break;
      fd = static_cast<int>(c->arg[0]);
    }
  }
  if (!file.same()) return 0;
  return leave_to_kernel(fd, holder, result) != 0 ? 1 : pass(file.mount(), SF_OP_READDIR);
}

}  // namespace shortfuse::bypass
