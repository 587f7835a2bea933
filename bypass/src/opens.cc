// Placeholders: made, shared, made real.
//
// Two locks, both held with all signals blocked, so that no handler of the same thread waits for them:
//   the turn   one thread at a time makes placeholders real or duplicates them; held while the node is opened, which
//              may take as long as an open takes
//   kSlotBusy  of one slot, while dup3() puts the real descriptor in its place. close() does not take it, but waits
//              until it is free after it has made the slot nobody's: whoever sets it looks at the slot's state
//              afterwards, so either the one sees the other, and dup3() never hits a number that is somebody else's.
#include "opens.h"

#include <linux/bpf.h>

#include "attach_internal.h"
#include "kernel.h"
#include "op.h"
#include "packets.h"
#include "shortfuse/bypass/seldom.h"
#include "text.h"

namespace shortfuse::bypass {

constexpr unsigned kOpenPathMax = 208;
constexpr uint16_t kSlotBusy = 0x8000;
constexpr uint64_t kDescriptorsMin = 128;    // with fewer allowed, making one real could fail for want of numbers
constexpr int kLimitOfFiles = 7;
constexpr unsigned kMovesMax = 20;           // attempts, while names on the way change,
constexpr unsigned kSlowMovesMax = 20;       // and as many more where whoever changes them does not get its turn
constexpr long kNap_ns = 500'000, kLongNap_ns = 50'000'000;
constexpr unsigned kBusyMax = 4000;          // while the daemon has too many to open
// Programs whose opens are mostly made real are better off with the kernel's: each of those costs as much as so many.
constexpr int kCostOfReal = 16, kScoreMin = -32, kScoreMax = 64;

struct alignas(64) OpenFile {
  uint32_t slots;          // 1 + numbers that share it; 0: free; 1: being given up. Atomic
  uint32_t generation;     // of the process that published it
  uint64_t nid;
  sf_session *session;
  uint32_t entry;          // in the session's open table
  uint32_t flags;          // as F_GETFL tells them
  uint32_t serial;         // of the mount
  uint8_t mount;
  bool stale;              // it has not been found for long: the next time one does not look for as long. The turn's
  char path[kOpenPathMax]; // absolute, as the caller gave it; empty: not known
};

SF_SELDOM static OpenFile opens[SF_OPENS];
static uint32_t next_free;      // where to look first; a hint
int opens_worth;                // a hint; races lose some of it
static uint32_t turn;           // atomic
uint32_t placeholders;
int last_number = -1;
bool last_number_taken;

namespace {
class Turn {
 public:
  Turn() {
    const uint64_t all = ~0ull;
    SF_SYS4(__NR_rt_sigprocmask, kSigBlock, &all, &before_, sizeof before_);
    for (unsigned turns = 0; __atomic_exchange_n(&turn, 1u, __ATOMIC_ACQUIRE) != 0; ++turns) pause_a_little(turns);
  }
  ~Turn() {
    __atomic_store_n(&turn, 0u, __ATOMIC_RELEASE);
    SF_SYS4(__NR_rt_sigprocmask, kSigSetmask, &before_, nullptr, sizeof before_);
  }
  Turn(const Turn &) = delete;

 private:
  uint64_t before_ = 0;
};
}  // namespace

// ---- the open table

static OpenFile *take_open() {
  const uint32_t first = __atomic_load_n(&next_free, __ATOMIC_RELAXED);
  for (uint32_t i = 0; i < SF_OPENS; ++i) {
    OpenFile &open = opens[(first + i) % SF_OPENS];
    uint32_t free = 0;
    if (__atomic_load_n(&open.slots, __ATOMIC_RELAXED) != 0 ||
        !__atomic_compare_exchange_n(&open.slots, &free, 2u, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
      continue;
    }
    __atomic_add_fetch(&placeholders, 1u, __ATOMIC_SEQ_CST);
    return &open;
  }
  return nullptr;
}

static void drop_open(OpenFile &open) {
  if (__atomic_sub_fetch(&open.slots, 1u, __ATOMIC_ACQ_REL) != 1) return;
  // A forked child has its parent's segment, and must not take away what protects the parent.
  if (open.session != nullptr && open.generation == g.process->generation) {
    __atomic_store_n(&open.session->open[open.entry], 0ull, __ATOMIC_RELEASE);
  }
  __atomic_store_n(&open.slots, 0u, __ATOMIC_RELEASE);
  __atomic_store_n(&next_free, static_cast<uint32_t>(&open - opens), __ATOMIC_RELAXED);
  __atomic_sub_fetch(&placeholders, 1u, __ATOMIC_SEQ_CST);
}

// The slot's open, with one number more. 0: it has none (any more).
static uint16_t share_open(const File &file) {
  const uint16_t index = __atomic_load_n(&file.slot->open, __ATOMIC_ACQUIRE);
  if (index == 0) return 0;
  uint32_t slots = __atomic_load_n(&opens[index - 1].slots, __ATOMIC_RELAXED);
  do {
    if (slots < 2) return 0;
  } while (!__atomic_compare_exchange_n(&opens[index - 1].slots, &slots, slots + 1, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED));
  if (file.same() && __atomic_load_n(&file.slot->open, __ATOMIC_ACQUIRE) == index) return index;
  drop_open(opens[index - 1]);
  return 0;
}

// Full fence: the bridge drops records before it looks here, we look at the record after it stands here.
static bool publish_node(OpenFile *open, sf_session *session, uint64_t nid) {
  const uint32_t place = sf_open_place(nid);
  for (uint32_t i = 0; i < SF_OPEN_PROBE; ++i) {
    uint64_t free = 0;
    if (!__atomic_compare_exchange_n(&session->open[place + i], &free, nid, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
      continue;
    open->session = session;
    open->entry = place + i;
    return true;
  }
  return false;
}

void leave_open(FileSlot *slot) {
  for (unsigned turns = 0;; ++turns) {
    uint16_t held = __atomic_load_n(&slot->open, __ATOMIC_SEQ_CST);
    if (held == 0) return;
    if (held & kSlotBusy) {
      pause_a_little(turns);
    } else if (__atomic_compare_exchange_n(&slot->open, &held, static_cast<uint16_t>(0), false, __ATOMIC_ACQ_REL,
                                           __ATOMIC_RELAXED)) {
      if (opens_worth < kScoreMax) ++opens_worth;
      return drop_open(opens[held - 1]);
    }
  }
}

// ---- serving

static uint32_t source_state;   // 0: not tried; 1: being made; 2: there; 3: not to be had. Atomic
static uint64_t source_device, source_inode;  // of the first one; all have the same. Atomic

// Somebody may have forbidden this process to open what its user may: then the kernel has to be asked each time. A
// Landlock domain cannot be seen, but who is not root entered it with no_new_privs; AppArmor and SELinux give labels.
static bool may_be_confined() {
  if (SF_SYS5(__NR_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 0) return true;
  const long fd = SF_SYS4(__NR_openat, AT_FDCWD, "/proc/thread-self/attr/current", O_RDONLY | O_CLOEXEC, 0);
  if (is_error(fd)) return fd != -ENOENT;
  constexpr char kFree[] = "unconfined";
  char label[sizeof kFree] = {};
  const long n = SF_SYS3(__NR_read, fd, label, sizeof label - 1);
  close_fd(static_cast<int>(fd));
  return is_error(n) ? n != -EINVAL : !text_is(label, kFree);  // EINVAL: nobody gives labels
}

static void watch_last_number(const FileLimit &limit) {
  __atomic_store_n(&last_number, static_cast<int>(limit.cur < INT32_MAX ? limit.cur - 1 : INT32_MAX), __ATOMIC_RELAXED);
  note_number(last_number);  // it may have been taken already
}

// Of something that cannot be opened: who comes to it by a link in /proc that we did not see gets ENXIO.
static bool make_source() {
  FileLimit limit = {};
  SF_SYS4(__NR_prlimit64, 0, kLimitOfFiles, 0, &limit);
  if (limit.cur < kDescriptorsMin || may_be_confined()) return false;
  watch_last_number(limit);
  long event = SF_SYS2(__NR_eventfd2, 0, O_CLOEXEC);
  if (is_error(event)) return false;
  char path[40];
  Text(path, sizeof path).add("/proc/self/fd/").num(static_cast<uint64_t>(event));
  long source = SF_SYS4(__NR_openat, AT_FDCWD, path, O_PATH | O_CLOEXEC, 0);
  close_fd(static_cast<int>(event));
  if (is_error(source)) return false;
  struct stat st = {};
  SF_SYS2(__NR_fstat, source, &st);
  __atomic_store_n(&source_device, st.st_dev, __ATOMIC_RELAXED);
  __atomic_store_n(&source_inode, st.st_ino, __ATOMIC_RELEASE);
  const bool hidden = hide_source(static_cast<int>(source));
  close_fd(static_cast<int>(source));
  return hidden;
}

static int source_descriptor() {
  uint32_t state = __atomic_load_n(&source_state, __ATOMIC_ACQUIRE);
  if (state == 0 &&
      __atomic_compare_exchange_n(&source_state, &state, 1u, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
    // A handler that left by siglongjmp(), or forked, would leave descriptors behind, and the limit raised.
    const uint64_t signals = hold_off_signals();
    state = make_source() ? 2 : 3;
    __atomic_store_n(&source_state, state, __ATOMIC_RELEASE);
    let_signals_in(signals);
  }
  return state == 2 ? hidden_source() : -1;
}

static int (*ask_about_code)(void);

void allow_opens(int (*code_is_known)(void)) { ask_about_code = code_is_known; }

static bool code_is_known() {
  const int known = ask_about_code != nullptr ? ask_about_code() : -1;
  if (known == 0) opens_off("a module makes system calls of its own");
  return known > 0;
}

static bool switched_off() {
  return g.inert || g.offsets_off || __atomic_load_n(&g.opens_off, __ATOMIC_RELAXED) ||
         __atomic_load_n(&g.files_off, __ATOMIC_RELAXED);
}

bool only_serves_opens(const sf_image &image) {
  const uint32_t first = image.first[SF_SLOT_SYSCALL + SF_OP_OPEN];
  if (first == 0) return false;
  const sf_image_program &program = image.program[first - 1];
  if (program.next != 0 || program.insns != 2) return false;
  bpf_insn insn[2];
  __builtin_memcpy(insn, reinterpret_cast<const char *>(&image) + program.insns_offset, sizeof insn);
  return insn[0].code == (BPF_JMP | BPF_CALL) && insn[0].src_reg == 0 && insn[0].imm == SF_HOST_SERVE_OPEN &&
         insn[1].code == (BPF_JMP | BPF_EXIT);
}

constexpr uint64_t kFlagsServed = O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_LARGEFILE | O_NOCTTY | O_CLOEXEC;

bool opens_possible(uint64_t flags) {
  if (!g.options.serve_opens || switched_off()) return false;
  if ((flags & ~kFlagsServed) != 0) return false;
  if (__atomic_load_n(&source_state, __ATOMIC_RELAXED) == 3) return false;
  if (opens_worth < kScoreMin) return ++opens_worth, false;
  return code_is_known();
}

// With the NUL; the empty text when it is relative or too long.
static size_t copy_path(const char *path, char *to) {
  if (path[0] == '/') {
    for (size_t i = 0; i < kOpenPathMax; ++i) {
      to[i] = path[i];
      if (to[i] == 0) return i + 1;
    }
  }
  to[0] = 0;
  return 1;
}

// REQUIRES: the node stands in the open table.
static bool is_as_served(const Op &op) {
  sf_attr_view again;
  sf_moment moment = {};
  return sf_find_attr(&op.mount->view, op.nid, &moment, &again) == SF_FIND_OK && again.version == op.attr.version;
}

bool open_from_cache(Op *op, uint64_t flags, const char *path, long *result) {
  sf_session *session = session_of(*op->mount);
  const int source = source_descriptor();
  if (session == nullptr || source < 0 || __atomic_load_n(&session->opens_kept, __ATOMIC_RELAXED) != SF_OPENS_KEPT) {
    return false;
  }
  char known_path[kOpenPathMax];
  const size_t path_bytes = copy_path(path, known_path);  // before anything is taken that a fault would leave behind
  OpenFile *open = take_open();
  if (open == nullptr) return false;
  __builtin_memcpy(open->path, known_path, path_bytes);
  open->session = nullptr;
  open->stale = false;
  open->generation = g.process->generation;
  open->nid = op->nid;
  open->flags = static_cast<uint32_t>(flags & ~static_cast<uint64_t>(O_NOCTTY | O_CLOEXEC)) | O_LARGEFILE;
  open->mount = static_cast<uint8_t>(index_of(*op->mount));
  open->serial = op->mount->serial;
  const bool good = publish_node(open, session, op->nid) && is_as_served(*op);
  long fd = good ? SF_SYS3(__NR_fcntl, source, flags & O_CLOEXEC ? F_DUPFD_CLOEXEC : F_DUPFD, 0) : -EAGAIN;
  const auto index = static_cast<uint16_t>(open - opens + 1);
  if (!is_error(fd) && files_opened_here(static_cast<int>(fd), {op->mount, open->serial}, op->nid, index,
                                         is_directory(op->attr.attr.mode))) {
    // Who ends this, gives the session up, or maps code, does so first and then makes real what there is: full fences
    // on both sides.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    // And a handler may have forked: in its child the session is its parent's.
    const bool kept = __atomic_load_n(&session->opens_kept, __ATOMIC_RELAXED) == SF_OPENS_KEPT &&
                      __atomic_load_n(&g.process->generation, __ATOMIC_RELAXED) == open->generation;
    if (kept && !switched_off() && code_is_known()) [[likely]] return *result = fd, true;
    files_close(static_cast<int>(fd));
    close_fd(static_cast<int>(fd));
    return false;
  }
  if (!is_error(fd)) close_fd(static_cast<int>(fd));
  drop_open(*open);
  // Each that is made real takes a number for a moment: the one that placeholders are made of can be had now.
  if (fd == -EMFILE) opens_off("the numbers are used up");
  *result = fd;
  return fd == -EMFILE;  // the kernel would say so too
}

long placeholder_flags(const File &file) {
  const uint16_t held = __atomic_load_n(&file.slot->open, __ATOMIC_ACQUIRE) & static_cast<uint16_t>(~kSlotBusy);
  if (held == 0) return -1;
  const long flags = opens[held - 1].flags;
  return (__atomic_load_n(&file.slot->open, __ATOMIC_ACQUIRE) & ~kSlotBusy) == held && file.same() ? flags : -1;
}

// ---- making real

static bool is_node(int fd, const Mount &m, uint64_t nid) {
  Identity who;
  uint64_t found = 0;
  return identify(fd, &who) && who.mount.mount == &m && sf_find_node(&m.view, who.nodeid, &found) == SF_FIND_OK &&
         found == nid;
}

static bool is_node_of_kernel(int fd, const Mount &m, uint64_t nodeid) {
  Identity who;
  return identify(fd, &who) && who.mount.mount == &m && who.nodeid == nodeid;
}

// By the path that the caller gave, if it still leads there. What it leads to otherwise must not be opened as it is: it
// could be a pipe.
static int open_by_path(const OpenFile &open, const Mount &m) {
  if (open.path[0] == 0) return -ENOENT;
  if (!(open.flags & O_DIRECTORY)) {
    long look = SF_SYS4(__NR_openat, AT_FDCWD, open.path, O_PATH | O_CLOEXEC, 0);
    if (is_error(look)) return static_cast<int>(look);
    const bool same = is_node(static_cast<int>(look), m, open.nid);
    close_fd(static_cast<int>(look));
    if (!same) return -ENOENT;
  }
  // Should it become a pipe in between, nobody waits for its writer.
  long fd = SF_SYS4(__NR_openat, AT_FDCWD, open.path, open.flags | O_NONBLOCK | O_CLOEXEC, 0);
  if (is_error(fd)) return fd == -EAGAIN ? -ENOENT : static_cast<int>(fd);
  const bool same = is_node(static_cast<int>(fd), m, open.nid);
  if (same && ((open.flags & O_NONBLOCK) || !is_error(SF_SYS3(__NR_fcntl, fd, F_SETFL, open.flags))))
    return static_cast<int>(fd);
  close_fd(static_cast<int>(fd));
  return -ENOENT;
}

// One question, as long as the daemon lives: an open takes as long as it takes.
static int receive_opened(int socket, const Mount &m, uint64_t *nodeid) {
  struct {
    sf_msg message;
    sf_opened opened;
  } answer;
  struct {
    KernelCmsg head;
    int fd;
    int pad;
  } control;
  iovec iov = {&answer, sizeof answer};
  KernelMsghdr message = {};
  message.iov = &iov;
  message.iov_len = 1;
  long n;
  do {
    message.control = &control;
    message.control_len = sizeof control;
    n = SF_SYS3(__NR_recvmsg, socket, &message, kMsgCmsgCloexec);
  } while (n == -EAGAIN && sf_view_serving(&m.view));
  if (n == 0 && sf_view_serving(&m.view)) return -EBUSY;  // it has no room for another connection
  if (n != sizeof answer || answer.message.type != SF_MSG_OPENED) return -ENOTCONN;
  *nodeid = answer.opened.nodeid;
  const bool has_fd = message.control_len >= sizeof control.head + sizeof(int) && control.head.type == kScmRights;
  if (answer.opened.error != 0) return answer.opened.error < 0 ? answer.opened.error : -EIO;
  return has_fd ? control.fd : -EMFILE;
}

// By the daemon, which knows what the node is called now and may open it whatever has become of its mode. It also says
// which one it is to the kernel: the record of that may have been evicted, and would not come back before a LOOKUP.
static int open_by_daemon(const OpenFile &open, const Mount &m, uint32_t attempt) {
  KernelUcred peer;
  const int socket = connect_daemon(m.socket_path, static_cast<uint32_t>(SF_SYS0(__NR_geteuid)), &peer);
  if (socket < 0) return -ENOTCONN;
  struct {
    sf_msg message;
    sf_open open;
  } question = {{SF_MSG_MAGIC, SF_PROTOCOL, SF_MSG_OPEN, sizeof(sf_open), 0}, {open.nid, open.flags, attempt}};
  long sent = SF_SYS6(__NR_sendto, socket, &question, sizeof question, kMsgNosignal, 0, 0);
  uint64_t nodeid = 0;
  int fd = sent == sizeof question ? receive_opened(socket, m, &nodeid) : -ENOTCONN;
  close_fd(socket);
  if (fd < 0 || is_node_of_kernel(fd, m, nodeid)) return fd;
  close_fd(fd);
  return -ESTALE;
}

// What an open says when names on the way change while it walks them.
static bool has_moved(int error) {
  return error == -ENOENT || error == -ENOTDIR || error == -ELOOP || error == -EXDEV || error == -ESTALE;
}

static int open_somehow(OpenFile &open, const Mount &m) {
  int fd = open_by_path(open, m);
  if (!has_moved(fd) && fd != -EACCES) return fd;
  const unsigned moves_max = open.stale ? kMovesMax : kMovesMax + kSlowMovesMax;
  for (unsigned moved = 0, busy = 0; moved < moves_max && busy < kBusyMax;) {
    fd = open_by_daemon(open, m, moved);
    if (fd != -EBUSY && !has_moved(fd)) return fd;
    ++(fd == -EBUSY ? busy : moved);
    __kernel_timespec nap = {0, moved < kMovesMax ? kNap_ns : kLongNap_ns};
    SF_SYS2(__NR_nanosleep, &nap, 0);
  }
  open.stale = true;
  return -ESTALE;
}

namespace {
// The program has used up its numbers, and one more is needed until it takes a placeholder's place: behind the limit
// where that may be raised for a moment, else the one that placeholders are made of.
class MoreNumbers {
 public:
  MoreNumbers() {
    raised_ = raise_file_limit(4);
    if (raised_ || __atomic_load_n(&source_state, __ATOMIC_ACQUIRE) != 2) return;
    forget_source();
    __atomic_store_n(&source_state, 3u, __ATOMIC_RELEASE);
  }
  ~MoreNumbers() {
    if (raised_) restore_file_limit();
  }
  MoreNumbers(const MoreNumbers &) = delete;

 private:
  bool raised_ = false;
};
}  // namespace

// REQUIRES: the turn, and to be inside the mount.
static int really_open(OpenFile &open) {
  const Mount &m = mounts[open.mount];
  const int fd = open_somehow(open, m);
  if (fd != -EMFILE) return fd;
  MoreNumbers more;
  return open_somehow(open, m);
}

// REQUIRES: the turn.
static void replace(int fd, const File &file, uint16_t index, int real) {
  FileSlot *slot = file.slot;
  __atomic_or_fetch(&slot->open, kSlotBusy, __ATOMIC_SEQ_CST);
  const bool ours = file.same() && slot->open == (index | kSlotBusy);
  if (ours) {
    const long own = SF_SYS2(__NR_fcntl, fd, F_GETFD);
    SF_SYS3(__NR_dup3, real, fd, own & FD_CLOEXEC ? O_CLOEXEC : 0);
    __atomic_and_fetch(&slot->flags, static_cast<uint8_t>(~kFilePlaceholder), __ATOMIC_RELEASE);
    __atomic_store_n(&slot->open, static_cast<uint16_t>(0), __ATOMIC_SEQ_CST);
    drop_open(opens[index - 1]);
  } else {
    __atomic_and_fetch(&slot->open, static_cast<uint16_t>(~kSlotBusy), __ATOMIC_SEQ_CST);
  }
}

int make_placeholder_real(const File &file) {
  // A forked child is still being put in order (process.cc).
  if (__atomic_load_n(&g.process->generation, __ATOMIC_RELAXED) == 0) return -EAGAIN;
  // Before the turn: who finds here that the daemon has gone, or gives its socket up, makes all real that can be.
  // Of no policy: one that is being replaced is none of ours.
  Stay stay(file.mount(), false, false);
  Turn mine;
  // Shared, so that it cannot be closed meanwhile and stand for another open, whose numbers would then be replaced.
  const uint16_t index = share_open(file);
  if (index == 0) return 0;
  OpenFile &open = opens[index - 1];
  const int real = stay.entered() ? really_open(open) : -ENOTCONN;
  if (real < 0) return drop_open(open), real;
  if (opens_worth > kScoreMin - kCostOfReal) opens_worth -= kCostOfReal;
  log_line(true, "made real", open.path);
  files_for_each([&](int fd, const File &other) {
    if (__atomic_load_n(&other.slot->open, __ATOMIC_ACQUIRE) == index) replace(fd, other, index, real);
  });
  drop_open(open);
  close_fd(real);
  return 0;
}

bool numbers_may_be_used_up() {
  if (__atomic_load_n(&last_number, __ATOMIC_RELAXED) < 0) {  // no open has been served yet
    FileLimit limit = {};
    SF_SYS4(__NR_prlimit64, 0, kLimitOfFiles, 0, &limit);
    watch_last_number(limit);
  }
  const bool taken_by_files = __atomic_load_n(&highest_file, __ATOMIC_RELAXED) >= static_cast<uint32_t>(last_number);
  if (!taken_by_files && !__atomic_load_n(&last_number_taken, __ATOMIC_RELAXED)) return false;
  // Set again by who takes it after it was looked at.
  __atomic_store_n(&last_number_taken, false, __ATOMIC_SEQ_CST);
  if (is_error(SF_SYS2(__NR_fcntl, last_number, F_GETFD))) return false;
  __atomic_store_n(&last_number_taken, true, __ATOMIC_SEQ_CST);
  return true;
}

// ---- what closed ones may leave behind

namespace {
enum class Left { Nothing, Placeholder, Other };
}

static Left left_under(int fd) {
  struct stat st;
  const long flags = SF_SYS2(__NR_fcntl, fd, F_GETFL);
  if (flags == -EBADF) return Left::Nothing;
  if (is_error(flags) || (flags & O_PATH) == 0 || is_error(SF_SYS2(__NR_fstat, fd, &st))) return Left::Other;
  const bool same = st.st_ino == __atomic_load_n(&source_inode, __ATOMIC_ACQUIRE) &&
                    st.st_dev == __atomic_load_n(&source_device, __ATOMIC_RELAXED);
  return same ? Left::Placeholder : Left::Other;
}

bool is_placeholder_of_kernel(int fd) { return left_under(fd) == Left::Placeholder; }

// REQUIRES: the state says kWasPlaceholder.
static Left left_behind(int fd, FileSlot *slot, uint64_t state) {
  // Who closes it waits for who makes it real, or gives the kernel its offset (files.cc).
  const bool under_way = __atomic_load_n(&slot->open, __ATOMIC_ACQUIRE) != 0 ||
                         (__atomic_load_n(&slot->flags, __ATOMIC_ACQUIRE) & kFilePlaceholder) == 0;
  const Left left = under_way ? Left::Placeholder : left_under(fd);
  if (left == Left::Other) files_forget_left(slot, state);
  return left;
}

bool is_left_behind(int fd, FileSlot *slot) {
  const uint64_t state = slot_state(*slot);
  return kind_of(state) == kWasPlaceholder && left_behind(fd, slot, state) != Left::Other;
}

int let_kernel_see(int fd) {
  for (FileSlot *slot = slot_of(fd); slot != nullptr;) {
    const File file{slot, slot_state(*slot)};
    if (kind_of(file.state) == kWasPlaceholder) {
      const Left left = left_behind(fd, slot, file.state);
      if (left != Left::Other) return left == Left::Nothing ? 0 : -EBADF;
    } else {
      const int error = kind_of(file.state) == kOnMount ? make_real(file) : 0;
      if (file.same()) return error;
    }
  }
  return 0;
}

void make_all_real() {
  if (!g.options.serve_opens) return;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);  // see open_from_cache()
  if (!any_placeholders()) return;
  files_for_each([](int, const File &file) { make_real(file); });
}

// Who puts the real descriptor in its place marks the slot before it looks at the number's flags: where there is no
// mark after the call, they will be seen. Else they may not have been, and are set once more when the other is done.
long set_number_flags(const sf_call &c, const File &file) {
  const long result = make_call(c);
  const uint16_t held = __atomic_load_n(&file.slot->open, __ATOMIC_SEQ_CST);
  if (held != 0 && (held & kSlotBusy) == 0) return result;
  Turn mine;
  return make_call(c);
}

long duplicate_placeholder(const sf_call &c, int fd, const File &file) {
  Turn mine;
  const uint16_t index = share_open(file);
  files_duplicating(file);
  const long to = make_call(c);
  if (!is_error(to) && files_duplicated(file, fd, static_cast<int>(to), index)) return to;
  if (index != 0) drop_open(opens[index - 1]);
  if (is_error(to)) return to;
  // Closed meanwhile by another thread: then that came first.
  close_fd(static_cast<int>(to));
  return -EBADF;
}

void hand_over_placeholder(int fd, const File &file) {
  Turn mine;
  files_hand_over(fd, file, true);
}

void opens_after_fork() {
  turn = 0;
  if (source_state == 1) source_state = 0;
  files_for_each([](int, const File &file) {
    __atomic_and_fetch(&file.slot->open, static_cast<uint16_t>(~kSlotBusy), __ATOMIC_RELAXED);
  });
}

void opens_off(const char *why) {
  if (!g.options.serve_opens) return;
  const bool was_off = __atomic_exchange_n(&g.opens_off, true, __ATOMIC_SEQ_CST);
  if (!was_off) log_line(true, "opens are the kernel's from now on", why);
  make_all_real();  // in any case: another thread may be in the middle of it
}

}  // namespace shortfuse::bypass
