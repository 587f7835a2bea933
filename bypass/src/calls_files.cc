// open and its kin; close, dup, fcntl, close_range; whatever else uses a descriptor's offset.
#include <linux/openat2.h>

#include "calls.h"
#include "count.h"
#include "hints.h"
#include "kernel.h"
#include "opens.h"
#include "path.h"
#include "text.h"

namespace shortfuse::bypass {

void note_offsets_shown(const char *path) {
  for (const char *p = path; *p != 0; ++p) {
    if (*p != 'f' || !text_starts(p, "fdinfo")) continue;
    // Who has the directory itself reads in it later by names that say nothing.
    const char *file = p + sizeof "fdinfo" - 1;
    if (file[0] != '/' || file[1] == 0) g.offsets_off = true;
    return files_give_back_all_but_listings();
  }
}

namespace {

struct OpenCall {
  int dirfd = AT_FDCWD;
  const char *path = nullptr;
  uint64_t flags = 0;
  bool plain = true;   // no RESOLVE_* restrictions
  bool proper = true;  // nothing that openat2() refuses where the others look away
};

void normalise_open(const sf_call *c, OpenCall *o) {
  bool at = c->nr == __NR_openat || c->nr == __NR_openat2;
  if (at) o->dirfd = static_cast<int>(c->arg[0]);
  o->path = reinterpret_cast<const char *>(c->arg[at ? 1 : 0]);
  if (c->nr == __NR_creat) {
    o->flags = O_CREAT | O_WRONLY | O_TRUNC;
  } else if (c->nr == __NR_openat2) {
    const auto *how = reinterpret_cast<const open_how *>(c->arg[2]);
    o->plain = static_cast<size_t>(c->arg[3]) == sizeof(open_how) && how->resolve == 0;
    if (static_cast<size_t>(c->arg[3]) >= sizeof(open_how)) o->flags = how->flags, o->proper = how->mode == 0;
  } else {
    o->flags = static_cast<uint32_t>(c->arg[at ? 2 : 1]);
  }
}

// Opens elsewhere that matter to us: a FUSE daemon in the making, and a look at a descriptor's offset.
void note_other_open(const OpenCall &o) {
  if (o.path == nullptr) return;
  if (o.path[0] != '/' || (o.path[1] == 'p' && text_starts(o.path, "/proc/"))) note_offsets_shown(o.path);
  if (o.path[0] == '/' && o.path[1] == 'd' && text_is(o.path, "/dev/fuse")) go_inert("it opens /dev/fuse");
}

// A program for open may deny what the kernel would allow, and serve what nobody else need see. True: *result is the
// call's.
bool answered(Op *op, Walk *w, const OpenCall &o, const Start &start, long *result) {
  const Policy *policy = policy_of(*op->mount);
  if (policy == nullptr || !o.plain || !sf_image_has(policy->image, SF_SLOT_SYSCALL + SF_OP_OPEN)) return false;
  op->may_open = o.proper && opens_possible(o.flags);
  if (!op->may_open && policy->opens_only_serve) return false;
  op->flags = static_cast<uint32_t>(o.flags);
  if (!prepare(op) || !walk_to(op, w, start, o.path, !(o.flags & O_NOFOLLOW))) return false;
  if (op->error != 0 && !op->may_open) return false;
  if (!run_policy(op, result)) return false;
  if (!op->served) return true;
  if (op->value < 0 ? numbers_may_be_used_up() : !open_from_cache(op, o.flags, o.path, result)) return false;
  count_served(*op);
  return true;
}

// Contents are wished for by who reads them.
bool is_of_names(uint8_t wish) { return wish == SF_HINT_ATTR || wish == SF_HINT_DENTRY || wish == SF_HINT_LINK; }

// A directory that the path begins at, when the kernel walks it. 0 or -errno.
int make_start_real(OpenCall o) {
  if ((!any_placeholders() && !may_be_left_behind()) || o.path == nullptr) return 0;
  // Under RESOLVE_IN_ROOT an absolute path begins there too.
  return o.path[0] != '/' || !o.plain ? let_kernel_see(o.dirfd) : 0;
}

// Its number may be one that was closed by a call which did not come here.
void open_elsewhere(const sf_call *c, long *result) {
  *result = make_call(*c);
  if (!is_error(*result)) files_forget_stale(static_cast<int>(*result));
}

// By value: what is looked at by address does not stay in registers, where opens are not served either.
[[gnu::noinline]] int open_beside_placeholders(const sf_call *c, OpenCall o, long *result) {
  const bool named = o.path != nullptr && names_descriptors(o.path);
  if (named) make_all_real();
  const bool perhaps_proc = named && !g.opens_off;
  if (!files_any() && !perhaps_proc) return 0;
  if (const int error = make_start_real(o); error != 0) return *result = error, 1;
  open_elsewhere(c, result);
  if (!is_error(*result) && perhaps_proc) note_proc(static_cast<int>(*result));
  return 1;
}

}  // namespace

// Who has a directory of /proc comes to descriptors by names that say nothing.
void note_proc(int fd) {
  constexpr long kProcMagic = 0x9fa0;
  struct statfs system;
  struct stat st;
  if (is_error(SF_SYS2(__NR_fstatfs, fd, &system)) || system.f_type != kProcMagic) return;
  if (!is_error(SF_SYS2(__NR_fstat, fd, &st)) && is_directory(st.st_mode)) opens_off("it looks into /proc");
}

int call_open(const sf_call *c, long *result) {
  OpenCall o;
  normalise_open(c, &o);
  Start start;
  if (!find_start(o.dirfd, o.path, false, &start)) [[likely]] {
    note_other_open(o);
    if (g.options.serve_opens) return open_beside_placeholders(c, o, result);
    if (!files_any()) return 0;
    open_elsewhere(c, result);
    return 1;
  }
  Walk w;
  bool is_missed = false, unmapped = false;
  {
    // Where paths are not served, what is opened still may be: which file it is, the kernel says.
    Stay stay(start.mount, true);
    if (stay.entered()) {
      Op op(c, SF_OP_OPEN, start.mount, stay);
      if (answered(&op, &w, o, start, result)) return 1;
      is_missed = op.may_open && is_of_names(w.wish.kind);
      unmapped = op.unmapped;
    }
  }
  if (const int error = make_start_real(o); error != 0) return *result = error, 1;
  uint64_t begun = clock_ns();
  long fd = make_call(*c);
  uint64_t ns = clock_ns() - begun;
  Stay stay(start.mount, false);
  if (stay.entered()) {
    count_passed(stay, SF_OP_OPEN, ns);
    if (unmapped) refresh(start.mount.mount);
    // The kernel may have known the name itself, so that no request has brought it back.
    if (is_missed) leave_hint(start.mount.mount, w.wish);
  } else {
    count_outside(SF_OP_OPEN, SF_MISS_DETACHED);
  }
  if (!is_error(fd)) files_forget_stale(static_cast<int>(fd)), files_opened(static_cast<int>(fd), o.flags);
  if (fd == -EMFILE) opens_off("the numbers are used up");
  *result = fd;
  return 1;
}

// ---- close, dup, fcntl

namespace {

int bad_descriptor(long *result) {
  *result = -EBADF;
  return 1;
}

int do_close(const sf_call *c, long *result) {
  int fd = static_cast<int>(c->arg[0]);
  FileSlot *slot = slot_of(fd);
  if (slot == nullptr) return 0;
  FileKind kind = kind_of(slot_state(*slot));
  if (kind == kHiddenFd) return bad_descriptor(result);
  if (kind == kOnMount) files_close(fd);
  // By another thread at the same time, or by who has left the first close in the middle.
  if (kind == kWasPlaceholder && __atomic_load_n(&slot->open, __ATOMIC_SEQ_CST) != 0) leave_open(slot);
  return 0;
}

// dup, F_DUPFD: the new number shares the offset, wherever that is held.
int duplicate(const sf_call *c, int fd, long *result) {
  File file = file_of(fd);
  if (!file) {
    if (is_nobodys(fd)) return bad_descriptor(result);
    if (!files_any()) return 0;
    *result = make_call(*c);
    if (!is_error(*result)) files_forget_stale(static_cast<int>(*result));
    return 1;
  }
  if (is_placeholder(file)) return *result = duplicate_placeholder(*c, fd, file), 1;
  files_duplicating(file);
  *result = make_call(*c);
  if (is_error(*result) || files_duplicated(file, fd, static_cast<int>(*result))) return 1;
  // Closed meanwhile, and the number given to a placeholder: then the former came first.
  if (!g.options.serve_opens || !is_placeholder_of_kernel(static_cast<int>(*result))) return 1;
  close_fd(static_cast<int>(*result));
  return bad_descriptor(result);
}

bool was_placeholder(int fd) {
  FileSlot *slot = slot_of(fd);
  return slot != nullptr && kind_of(slot_state(*slot)) == kWasPlaceholder;
}

bool is_open(int fd) { return !is_error(SF_SYS2(__NR_fcntl, fd, F_GETFD)); }

int duplicate_onto(const sf_call *c, long *result) {
  int from = static_cast<int>(c->arg[0]), to = static_cast<int>(c->arg[1]);
  File source = file_of(from), target = file_of(to);
  note_number(to);
  if (!source && is_nobodys(from)) return from == to && c->nr == __NR_dup3 ? 0 : bad_descriptor(result);
  if (from == to) return 0;
  bool hidden = is_hidden_slot(to);
  if (!source && !target && !hidden && !was_placeholder(to)) [[likely]] return 0;
  if (hidden) vacate(to);
  // Given back although it is about to be closed: the call may fail and leave it open.
  if (target) give_back(to, target);
  // Another thread that asks the number meanwhile is answered by the kernel: both files have to be what they are there.
  if (source && g.has_threads && is_open(to)) give_back(from, source);
  if (target) files_close(to);
  if (is_placeholder(source)) return *result = duplicate_placeholder(*c, from, source), 1;
  if (source) files_duplicating(source);
  *result = make_call(*c);
  if (is_error(*result)) return 1;
  files_forget_stale(to);
  if (source) files_duplicated(source, from, to);
  return 1;
}

bool is_lock_command(int command) {
  return command == F_SETLK || command == F_SETLKW || command == F_GETLK || command == F_OFD_SETLK ||
         command == F_OFD_SETLKW || command == F_OFD_GETLK;
}

// The number's own flag is the kernel's; a placeholder may be made real while it is set. 0: it is none any more.
int fcntl_of_placeholder(const sf_call *c, int fd, const File &file, long *result) {
  const int command = static_cast<int>(c->arg[1]);
  if (command == F_GETFD) return 0;
  if (command == F_SETFD) return *result = set_number_flags(*c, file), 1;
  *result = command == F_GETFL ? placeholder_flags(file) : -1;
  if (*result >= 0) return 1;
  *result = let_kernel_see(fd);
  return *result != 0;
}

int do_fcntl(const sf_call *c, long *result) {
  int fd = static_cast<int>(c->arg[0]);
  int command = static_cast<int>(c->arg[1]);
  const File held = file_of(fd);
  if (!held && is_nobodys(fd)) return bad_descriptor(result);
  if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) return duplicate(c, fd, result);
  // POSIX locks go with the first close of any descriptor of the file, so every open has to be the kernel's.
  if (command == F_SETLK || command == F_SETLKW) opens_off("it locks files");
  if (is_placeholder(held) && fcntl_of_placeholder(c, fd, held, result) != 0) return 1;
  // A lock's range may be counted from the offset (SEEK_CUR).
  if (is_lock_command(command)) give_back(fd);
  if (command != F_SETFL) return 0;
  File file = file_of(fd);
  if (!file) return 0;
  // Before: a read that starts after the call must not be served if it turns O_DIRECT on; a flag too many is only slow.
  if (c->arg[2] & O_DIRECT) __atomic_or_fetch(&file.slot->flags, kFileDirect, __ATOMIC_RELAXED);
  return 0;
}

int do_close_range(const sf_call *c, long *result) {
  unsigned first = static_cast<unsigned>(c->arg[0]), last = static_cast<unsigned>(c->arg[1]);
  unsigned flags = static_cast<unsigned>(c->arg[2]);
  if (first > last || (flags & ~(kCloseRangeUnshare | kCloseRangeCloexec)) != 0) return 0;
  if (flags & kCloseRangeUnshare) go_inert("the descriptor table is unshared");
  if (flags & kCloseRangeCloexec) {
    // One that is made real meanwhile could lose the flag.
    if (any_placeholders()) files_for_each(first, last, [](int, const File &file) { make_real(file); });
    return 0;
  }
  files_close_range(first, last);
  int spare = hidden_between(first, last);
  if (spare < 0) return 0;
  // In pieces around the numbers that are not the application's.
  *result = 0;
  for (unsigned from = first;;) {
    unsigned end = spare < 0 ? last : static_cast<unsigned>(spare) - 1;
    if (from <= end && end != ~0u) *result = SF_SYS3(__NR_close_range, from, end, flags);
    if (spare < 0 && end == ~0u) *result = SF_SYS3(__NR_close_range, from, end, flags);
    if (spare < 0 || is_error(*result) || static_cast<unsigned>(spare) == last) return 1;
    from = static_cast<unsigned>(spare) + 1;
    spare = hidden_between(from, last);
  }
}

}  // namespace

int call_descriptor(const sf_call *c, long *result) {
  switch (c->nr) {
    case __NR_close: return do_close(c, result);
    case __NR_dup: return duplicate(c, static_cast<int>(c->arg[0]), result);
    case __NR_dup2:
    case __NR_dup3: return duplicate_onto(c, result);
    case __NR_fcntl: return do_fcntl(c, result);
    default: return do_close_range(c, result);
  }
}

// ---- offsets used by others, and numbers made by others

static constexpr uint32_t kTcgets = 0x5401, kFionread = 0x541b, kNotifAddfd = 0x40182103;

// The descriptors that go with a message, or came with it.
template <typename Action>
static void for_each_passed(const KernelMsghdr *message, Action action) {
  KernelMsghdr m;
  __builtin_memcpy(&m, message, sizeof m);
  if (m.control == nullptr) return;
  const char *at = static_cast<const char *>(m.control);
  size_t left = m.control_len;
  while (left >= sizeof(KernelCmsg)) {
    KernelCmsg cmsg;
    __builtin_memcpy(&cmsg, at, sizeof cmsg);
    if (cmsg.len < sizeof cmsg || cmsg.len > left) return;
    if (cmsg.level == kSolSocket && cmsg.type == kScmRights) {
      for (size_t i = sizeof cmsg; i + sizeof(int) <= cmsg.len; i += sizeof(int)) {
        int fd;
        __builtin_memcpy(&fd, at + i, sizeof fd);
        action(fd);
      }
    }
    size_t step = (cmsg.len + 7) & ~7ul;
    if (step > left) return;
    at += step;
    left -= step;
  }
}

// 0, or why they cannot be sent.
static int give_back_sent(const KernelMsghdr *message) {
  int error = 0;
  for_each_passed(message, [&](int fd) {
    give_back(fd);
    if (error == 0 && g.options.serve_opens) error = let_kernel_see(fd);
  });
  return error;
}

// As many messages are sent as the kernel would send.
static int send_messages(const sf_call *c, long *result) {
  const auto *messages = reinterpret_cast<const KernelMmsghdr *>(c->arg[1]);
  for (unsigned i = 0, n = static_cast<unsigned>(c->arg[2]); i < n && i < 1024; ++i) {
    const int error = give_back_sent(&messages[i].hdr);
    if (error == 0) continue;
    sf_call before = *c;
    before.arg[2] = i;
    *result = i > 0 ? make_call(before) : error;
    return 1;
  }
  return 0;
}

// A transfer from a file at the offset we hold is made at that offset, told explicitly, so that it stays ours: programs
// that copy try these calls first and read when they are refused. True: made, *result is the call's.
static bool transfer_at_ours(const sf_call *c, unsigned fd_arg, unsigned offset_arg, long *result) {
  File file = file_of(static_cast<int>(c->arg[fd_arg]));
  if (!file || c->arg[offset_arg] != 0 || is_set(*file.slot, kFileDirectory)) return false;
  int64_t position = position_of(file), at = position;
  if (position < 0) return false;
  sf_call with_offset = *c;
  with_offset.arg[offset_arg] = reinterpret_cast<long>(&at);
  *result = make_call(with_offset);
  if (*result <= 0 || move_position(file, position, position + *result)) return true;
  // Where another thread read meanwhile, who comes first is open to the kernel's own offset too. Else it was told where
  // we stood, by a fork or a close.
  if (!file.same() || position_of(file) < 0) advance_kernels_offset(file, static_cast<int>(c->arg[fd_arg]), *result);
  return true;
}

static void give_back_unless_told(const sf_call *c, unsigned fd_arg, unsigned offset_arg) {
  if (c->arg[offset_arg] == 0) give_back(static_cast<int>(c->arg[fd_arg]));
}

int call_offset_user(const sf_call *c, long *result) {
  switch (c->nr) {
    case __NR_ioctl:
      if (static_cast<uint32_t>(c->arg[1]) == kTcgets && is_no_terminal(c)) return *result = -ENOTTY, 1;
      if (any_placeholders() && keep_from_kernel(c, result) != 0) return 1;
      // "How much is left to read" is counted from the offset; the other requests do not look at it.
      if (static_cast<uint32_t>(c->arg[1]) == kFionread) give_back(static_cast<int>(c->arg[0]));
      // What a supervisor gives to another process shares its offset.
      if (static_cast<uint32_t>(c->arg[1]) == kNotifAddfd) files_give_back_all();
      break;
    case __NR_sendfile:
      give_back(static_cast<int>(c->arg[0]));
      if (transfer_at_ours(c, 1, 2, result)) return 1;
      give_back_unless_told(c, 1, 2);
      break;
    case __NR_splice:
    case __NR_copy_file_range:
      give_back_unless_told(c, 2, 3);
      if (transfer_at_ours(c, 0, 1, result)) return 1;
      give_back_unless_told(c, 0, 1);
      break;
    case __NR_sendmsg:
      *result = give_back_sent(reinterpret_cast<const KernelMsghdr *>(c->arg[1]));
      return *result != 0;
    case __NR_sendmmsg: return send_messages(c, result);
    default:  // pidfd_getfd: a process may take its own
      files_give_back_all();
      return call_creator(c, result);
  }
  return 0;
}

// Whether what bpf() returned is a descriptor: of other commands it is a count, or nothing.
static bool makes_descriptor(long command) {
  constexpr uint64_t kMakers = 1ull << 0 | 1ull << 5 | 1ull << 7 | 1ull << 13 | 1ull << 14 | 1ull << 17 | 1ull << 18 |
                               1ull << 19 | 1ull << 28 | 1ull << 30 | 1ull << 32 | 1ull << 33;
  return command >= 0 && command < 64 && (kMakers >> command & 1) != 0;
}

static void forget_stale(int fd) { files_forget_stale(fd); }

// Its numbers may be ones that were closed by calls which did not come here.
int call_creator(const sf_call *c, long *result) {
  if (!files_any()) return 0;
  *result = make_call(*c);
  if (is_error(*result)) return 1;
  switch (c->nr) {
    case __NR_pipe:
    case __NR_pipe2:
    case __NR_socketpair: {
      const auto *pair = reinterpret_cast<const int *>(c->arg[c->nr == __NR_socketpair ? 3 : 0]);
      forget_stale(pair[0]), forget_stale(pair[1]);
      break;
    }
    case __NR_recvmsg: for_each_passed(reinterpret_cast<const KernelMsghdr *>(c->arg[1]), forget_stale); break;
    case __NR_recvmmsg: {
      const auto *messages = reinterpret_cast<const KernelMmsghdr *>(c->arg[1]);
      for (long i = 0; i < *result; ++i) for_each_passed(&messages[i].hdr, forget_stale);
      break;
    }
    case __NR_bpf:
      if (makes_descriptor(c->arg[0])) forget_stale(static_cast<int>(*result));
      break;
    case __NR_landlock_create_ruleset:
      if (c->arg[2] == 0) forget_stale(static_cast<int>(*result));  // else a version
      break;
    default: forget_stale(static_cast<int>(*result));
  }
  return 1;
}

}  // namespace shortfuse::bypass
