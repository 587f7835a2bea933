// Attaching: from a daemon's socket to a mount that can be served.
//
//   connect -> who is it? -> ATTACH -> check and map head, session, chunks, policy -> is the mount point really this
//   mount, seen from here? -> publish
// Everything under Process.attach_latch, so one thread at a time; the others use the kernel path meanwhile.
#include "attach.h"

#include "attach_internal.h"
#include "files.h"
#include "kernel.h"
#include "opens.h"
#include "packets.h"
#include "policy.h"
#include "shortfuse/bypass/seldom.h"
#include "text.h"

namespace shortfuse::bypass {

SF_SELDOM Mount mounts[kMountsMax];
unsigned mounts_used;

constexpr int kHiddenFdMin = 960;           // high enough to be out of the way, low enough to keep fd tables small
constexpr unsigned kRefreshRounds = 8;
constexpr uint64_t kRefreshPauseNs = 10'000'000;

static uint32_t next_serial = 1;            // of mounts and of links; REQUIRES attach_latch
constexpr unsigned kSource = kMountsMax;    // what placeholders are duplicates of has the place behind the mounts
static int hidden_fd[kMountsMax + 1];       // + 1; 0: none. Survives fork, so that the child can close them
static uint64_t hidden_ino[kMountsMax];     // of the socket, likewise
static uint64_t refreshed_at_ns[kMountsMax];

// ---- the hidden descriptor

constexpr int kLimitOfFiles = 7;

// The limit is raised for a moment, from one to the other; atomic. One hide() at a time.
static uint32_t limit_raised;
static FileLimit limit_of_program, limit_of_ours;

static bool same_limit(const FileLimit &a, const FileLimit &b) { return a.cur == b.cur && a.max == b.max; }

bool change_file_limit(const FileLimit &from, const FileLimit &to) {
  FileLimit found = {};
  if (is_error(SF_SYS4(__NR_prlimit64, 0, kLimitOfFiles, 0, &found)) || !same_limit(found, from)) return false;
  if (is_error(SF_SYS4(__NR_prlimit64, 0, kLimitOfFiles, &to, &found))) return false;
  if (same_limit(found, from)) return true;
  SF_SYS4(__NR_prlimit64, 0, kLimitOfFiles, &found, 0);
  return false;
}

bool raise_file_limit(uint64_t by) {
  FileLimit limit = {};
  if (is_error(SF_SYS4(__NR_prlimit64, 0, kLimitOfFiles, 0, &limit))) return false;
  if (limit.cur > limit.max || limit.max - limit.cur < by) return false;
  if (__atomic_exchange_n(&limit_raised, 1u, __ATOMIC_SEQ_CST) != 0) return false;
  limit_of_program = limit;
  limit_of_ours = {limit.cur + by, limit.max};
  if (change_file_limit(limit_of_program, limit_of_ours)) return true;
  __atomic_store_n(&limit_raised, 0u, __ATOMIC_RELEASE);
  return false;
}

void restore_file_limit() {
  change_file_limit(limit_of_ours, limit_of_program);
  __atomic_store_n(&limit_raised, 0u, __ATOMIC_RELEASE);
}

// Out of the numbers that the program can use up: behind its limit where that is low and may be raised for a moment.
// A low limit that nobody may raise leaves every number to the program, and the process to the kernel.
static int hide(int fd) {
  constexpr uint64_t kLowLimit = 4096, kVeryLowLimit = 256, kRoom = kMountsMax + 1;
  FileLimit limit = {};
  SF_SYS4(__NR_prlimit64, 0, kLimitOfFiles, 0, &limit);
  const FileLimit raised = {limit.cur + kRoom, limit.max};
  bool behind = limit.cur <= kLowLimit && raised.cur <= limit.max;
  if (behind) {
    if (__atomic_exchange_n(&limit_raised, 1u, __ATOMIC_SEQ_CST) != 0) return -1;
    limit_of_program = limit;
    limit_of_ours = raised;
    behind = change_file_limit(limit, raised);
    if (!behind) __atomic_store_n(&limit_raised, 0u, __ATOMIC_RELEASE);
  }
  if (!behind && limit.cur <= kVeryLowLimit) return -1;
  const uint64_t floor = behind ? limit.cur : limit.cur > kHiddenFdMin + 16 ? kHiddenFdMin : limit.cur - 8;
  long moved = -1;
  if (behind || floor > static_cast<uint64_t>(fd)) moved = SF_SYS3(__NR_fcntl, fd, F_DUPFD_CLOEXEC, floor);
  if (behind) restore_file_limit();
  return is_error(moved) ? -1 : static_cast<int>(moved);
}

void wait_for_own_limit() {
  constexpr unsigned kTurns = kYields + 2000;
  for (unsigned i = 0; i < kTurns && __atomic_load_n(&limit_raised, __ATOMIC_SEQ_CST) != 0; ++i) {
    pause_a_little(i);
  }
}

static void set_hidden(unsigned index, int fd) {
  if (hidden_fd[index] != 0) files_unmark_hidden(hidden_fd[index] - 1);
  hidden_ino[index] = g.process->link[index].sock_ino;
  hidden_fd[index] = fd + 1;
  if (fd >= 0) files_mark_hidden(fd);
  g.process->link[index].fd = fd;
}

// Ours still? The application may have closed it by a call that we did not see.
static bool is_socket(int fd, uint64_t ino) {
  struct stat st;
  return fd >= 0 && !is_error(SF_SYS2(__NR_fstat, fd, &st)) && is_socket_mode(st.st_mode) && st.st_ino == ino;
}
static bool socket_is_ours(const Link &link) { return is_socket(link.fd, link.sock_ino); }

bool hide_source(int fd) {
  const int hidden = hide(fd);
  if (hidden < 0) return false;
  files_mark_hidden(hidden);
  __atomic_store_n(&hidden_fd[kSource], hidden + 1, __ATOMIC_RELEASE);
  return true;
}

int hidden_source() { return __atomic_load_n(&hidden_fd[kSource], __ATOMIC_ACQUIRE) - 1; }

void forget_source() {
  const int fd = __atomic_exchange_n(&hidden_fd[kSource], 0, __ATOMIC_ACQ_REL) - 1;
  if (fd < 0) return;
  files_unmark_hidden(fd);
  close_fd(fd);
}

static void vacate_source(int fd) {
  const int moved = hide(fd);
  files_unmark_hidden(fd);
  __atomic_store_n(&hidden_fd[kSource], moved + 1, __ATOMIC_RELEASE);
  if (moved >= 0) files_mark_hidden(moved);
  SF_SYS1(__NR_close, fd);
}

// With the socket goes the bridge's care for the nodes that the session's open table names.
static void end_opens_of(const Link &link) {
  sf_session *session = __atomic_load_n(&link.session, __ATOMIC_ACQUIRE);
  constexpr uint32_t kEnded = SF_OPENS_ENDED;
  if (session != nullptr) __atomic_store_n(&session->opens_kept, kEnded, __ATOMIC_SEQ_CST);
  make_all_real();
}

static void drop_socket(unsigned index) {
  Link &link = g.process->link[index];
  int fd = link.fd;
  if (fd < 0) return;
  end_opens_of(link);
  bool ours = socket_is_ours(link);
  set_hidden(index, -1);
  if (ours) close_fd(fd);
}

void vacate(int fd) {
  const uint64_t signals = hold_off_signals();
  if (hidden_fd[kSource] == fd + 1) vacate_source(fd);
  for (unsigned i = 0; i < kMountsMax; ++i) {
    if (hidden_fd[i] != fd + 1) continue;
    int moved = socket_is_ours(g.process->link[i]) ? hide(fd) : -1;
    if (moved < 0) end_opens_of(g.process->link[i]);
    set_hidden(i, moved);
    // A socket that cannot be moved is given up; the next refresh connects anew.
    SF_SYS1(__NR_close, fd);
  }
  let_signals_in(signals);
}

bool is_hidden(int fd) {
  for (int hidden : hidden_fd) {
    if (hidden == fd + 1) return true;
  }
  return false;
}

int hidden_between(unsigned first, unsigned last) {
  int lowest = -1;
  for (int hidden : hidden_fd) {
    unsigned fd = static_cast<unsigned>(hidden - 1);
    if (hidden == 0 || fd < first || fd > last) continue;
    if (lowest < 0 || hidden - 1 < lowest) lowest = hidden - 1;
  }
  return lowest;
}

void attach_after_fork() {
  if (limit_raised != 0) change_file_limit(limit_of_ours, limit_of_program);
  limit_raised = 0;
  for (unsigned i = 0; i < kMountsMax; ++i) {
    if (hidden_fd[i] == 0) continue;
    int fd = hidden_fd[i] - 1;
    files_unmark_hidden(fd);
    hidden_fd[i] = 0;
    if (is_socket(fd, hidden_ino[i])) close_fd(fd);
  }
}

// ---- mapping

static bool map_session(PacketRoom &room, uint64_t bytes, Link *link) {
  int fd = room.take(1);
  bool good = bytes >= sizeof(sf_session) && sealed_file(fd, bytes, false);
  long at = good ? SF_SYS6(__NR_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : -EINVAL;
  close_fd(fd);
  if (is_error(at)) return false;
  auto *session = reinterpret_cast<sf_session *>(at);
  if (session->magic != SF_SESSION_MAGIC) {
    unmap(session, bytes);
    return false;
  }
  SF_SYS2(__NR_prctl, PR_GET_NAME, session->comm);
  link->session_bytes = bytes;
  // A session given up stays mapped: a thread may still hold a lane of it. Its counts move to the process's own.
  if (link->session != nullptr) {
    fold_session(*link->session);
    Process *process = g.process;
    if (process->formers < kFormerMax) process->former[process->formers] = link->session;
    ++process->formers;
  }
  __atomic_store_n(&link->session, session, __ATOMIC_RELEASE);
  return true;
}

static void map_chunk(Mount *m, uint32_t index, uint32_t generation, int fd) {
  if (index < m->view.chunks_max && generation != 0 && sealed_file(fd, m->view.chunk_bytes, true)) {
    // Readers meanwhile are told that it is not there.
    __atomic_store_n(&m->view.mapped_generation[index], 0u, __ATOMIC_RELEASE);
    char *at = static_cast<char *>(m->chunks) + index * m->view.chunk_bytes;
    long result = SF_SYS6(__NR_mmap, at, m->view.chunk_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    if (!is_error(result)) __atomic_store_n(&m->view.mapped_generation[index], generation, __ATOMIC_RELEASE);
  }
  close_fd(fd);
}

// Chunks the daemon has dropped: their memory is the system's again only when we let go too. Zero pages take their
// place, so that a reader still in there finds no valid record and not a hole.
static void drop_chunk(Mount *m, uint32_t index) {
  __atomic_store_n(&m->view.mapped_generation[index], 0u, __ATOMIC_RELEASE);
  char *at = static_cast<char *>(m->chunks) + index * m->view.chunk_bytes;
  SF_SYS6(__NR_mmap, at, m->view.chunk_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
          0);
}

static bool map_head(PacketRoom &room, uint64_t bytes, Mount *m) {
  int fd = room.take(0);
  bool good = bytes >= SF_HEADER_BYTES && sealed_file(fd, bytes, true);
  file_bytes(fd, &m->head_ino);
  long at = good ? SF_SYS6(__NR_mmap, 0, bytes, PROT_READ, MAP_SHARED, fd, 0) : -EINVAL;
  close_fd(fd);
  if (is_error(at)) return false;
  m->head = reinterpret_cast<void *>(at);
  m->head_bytes = bytes;
  // Sizes come from the head; sf_view_open checks them, and only then is the space for chunks reserved.
  if (sf_view_open(&m->view, m->head, bytes, nullptr) != 0) return false;
  m->chunks_bytes = m->view.chunks_max * m->view.chunk_bytes;
  long space = SF_SYS6(__NR_mmap, 0, m->chunks_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (is_error(space)) return false;
  m->chunks = reinterpret_cast<void *>(space);
  m->view.chunks = static_cast<const unsigned char *>(m->chunks);
  m->view.now_ns = clock_coarse_ns;
  return true;
}

static void unmap_mount(Mount *m) {
  unmap(m->head, m->head_bytes);
  unmap(m->chunks, m->chunks_bytes);
  unmap_policy(m->policy);
  m->head = m->chunks = nullptr;
  m->policy = nullptr;
}

// Descriptors from `first` on: chunks, then image and maps.
static void take_chunks(PacketRoom &room, Mount *m, uint32_t first, uint32_t count, const uint32_t (*entry)[2]) {
  for (uint32_t i = 0; i < count; ++i) map_chunk(m, entry[i][0], entry[i][1], room.take(first + i));
}

// ---- sessions

// Connects and attaches anew; on success the room holds the answer and *fd the hidden socket.
static int attach_packets(PacketRoom &room, const char *path, Link *link, KernelUcred *peer) {
  uint32_t euid = static_cast<uint32_t>(SF_SYS0(__NR_geteuid));
  int fd = connect_daemon(path, euid, peer);
  if (fd < 0) return fd;
  int hidden = -1, result = peer->pid == static_cast<uint32_t>(SF_SYS0(__NR_getpid)) ? -EDEADLK : 0;
  if (result == 0) result = ask(room, fd, SF_MSG_ATTACH, false, SF_MSG_ATTACHED);
  const sf_attached &a = room->body.attached;
  if (result == 0) {
    bool sized = room->body_bytes >= offsetof(sf_attached, chunk) && a.chunks <= SF_MSG_FDS_MAX &&
                 a.policy_maps <= SF_IMAGE_MAPS_MAX &&
                 room->fds == 2 + a.chunks + (a.policy_epoch != 0 ? 1 + a.policy_maps : 0) &&
                 room->body_bytes >= offsetof(sf_attached, chunk) + a.chunks * sizeof a.chunk[0];
    result = sized ? 0 : -EPROTO;
  }
  if (result == 0) {
    hidden = hide(fd);
    if (hidden < 0) result = -EMFILE;
  }
  close_fd(fd);
  if (result != 0) return result;
  file_bytes(hidden, &link->sock_ino);
  return hidden;
}

bool attach_session(Mount *m) {
  Process *process = g.process;
  unsigned index = index_of(*m);
  Link &link = process->link[index];
  PacketRoom room;
  if (!room) return false;
  drop_socket(index);
  KernelUcred peer;
  int fd = attach_packets(room, m->socket_path, &link, &peer);
  if (fd < 0) {
    log_line(true, "no session", m->socket_path, fd);
    return false;
  }
  uint64_t ino = 0;
  if (room->fd[0] >= 0) file_bytes(room->fd[0], &ino);
  if (ino != m->head_ino || !map_session(room, room->body.attached.session_bytes, &link)) {
    close_fd(fd);  // another daemon took the socket's name: not the mount we know
    return false;
  }
  link.serial = next_serial++;
  set_hidden(index, fd);
  return true;
}

// ---- refresh

static void list_chunks(const Mount &m, sf_have *have) {
  have->chunks = 0;
  for (uint32_t i = 0; i < m.view.chunks_max; ++i) {
    uint32_t generation = m.view.mapped_generation[i];
    if (generation == 0) continue;
    have->chunk[have->chunks].index = i;
    have->chunk[have->chunks++].generation = generation;
  }
}

// A policy with maps of this process alone is of use to the session that they were made for: not after a fork.
static bool is_of_session(const Policy &policy, const Mount &m) {
  return policy.own_maps == 0 || policy.serial == g.process->link[index_of(m)].serial;
}

static bool refresh_once(PacketRoom &room, Mount *m, int socket, bool *more) {
  const Policy *policy = policy_of(*m);
  list_chunks(*m, &room->have);
  room->have.policy_epoch = policy != nullptr && is_of_session(*policy, *m) ? policy->epoch : 0;
  if (ask(room, socket, SF_MSG_REFRESH, true, SF_MSG_FRESH) != 0) return false;
  const sf_fresh &f = room->body.fresh;
  if (room->body_bytes < offsetof(sf_fresh, chunk) || f.chunks > SF_MSG_FDS_MAX || f.chunks > room->fds ||
      room->body_bytes < offsetof(sf_fresh, chunk) + f.chunks * sizeof f.chunk[0]) {
    return false;
  }
  take_chunks(room, m, 0, f.chunks, reinterpret_cast<const uint32_t(*)[2]>(f.chunk));
  *more = f.more != 0;
  if (f.policy_epoch == room->have.policy_epoch) return true;
  const Policy *fresh = nullptr;
  if (f.policy_epoch != 0) {
    fresh = map_policy(room, f.chunks, f.policy_maps, f.policy_epoch, g.process->link[index_of(*m)].serial);
    if (fresh == nullptr) return f.chunks != 0;
  }
  __atomic_store_n(&m->policy, fresh, __ATOMIC_RELEASE);
  retire_policy(policy);
  return true;
}

bool refresh(Mount *m) {
  Process *process = g.process;
  Hold hold(process->attach_latch);
  // Detached meanwhile, and perhaps unmapped: nothing of it may be read.
  if (!hold || state_of(*m) != MountState::Attached) return false;
  bool good = false;
  unsigned index = index_of(*m);
  uint64_t now = clock_coarse_ns();
  const Policy *policy = policy_of(*m);
  bool other_policy = m->view.header->policy_epoch != (policy != nullptr ? policy->epoch : 0) ||
                      (policy != nullptr && !is_of_session(*policy, *m));
  // Chunks that a daemon keeps to itself would otherwise be asked for by every call.
  if (other_policy || now - refreshed_at_ns[index] >= kRefreshPauseNs) {
    refreshed_at_ns[index] = now;
    m->policy_asked = __atomic_load_n(&m->view.header->policy_epoch, __ATOMIC_ACQUIRE);
    PacketRoom room;
    Link &link = process->link[index];
    if (room && (socket_is_ours(link) || attach_session(m))) {
      bool more = true;
      for (unsigned i = 0; more && i < kRefreshRounds; ++i) {
        more = false;
        good = refresh_once(room, m, link.fd, &more) || good;
      }
      if (!good) drop_socket(index);
    }
    m->policy_retry_at_ns = good ? 0 : clock_coarse_ns() + kRetryNs;
    for (uint32_t i = 0; i < m->view.chunks_max; ++i) {
      bool gone = __atomic_load_n(&m->view.header->chunk_generation[i], __ATOMIC_RELAXED) == 0;
      if (gone && m->view.mapped_generation[i] != 0) drop_chunk(m, i);
    }
    if (nobody_inside()) release_retired();
  }
  return good;
}

void wake_bridge(Mount *m) {
  Link &link = g.process->link[index_of(*m)];
  if (socket_is_ours(link)) tell(link.fd, SF_MSG_WAKE);
}

sf_session *session_of(const Mount &m) {
  return __atomic_load_n(&g.process->link[index_of(m)].session, __ATOMIC_ACQUIRE);
}

// ---- whole mounts

void set_point(Mount *m, const char *point, uint32_t len) {
  for (uint32_t i = 0; i < len; ++i) m->point[i] = point[i];
  m->point[len] = 0;
  m->point_len = len;
  uint64_t word = 0, mask = 0;
  for (uint32_t i = 0; i < len && i < 8; ++i) {
    word |= static_cast<uint64_t>(static_cast<unsigned char>(m->point[i])) << (8 * i);
    mask |= 0xffull << (8 * i);
  }
  m->point_word = word;
  m->point_mask = mask;
}

static const char *build_mount(PacketRoom &room, Mount *m) {
  const sf_attached &a = room->body.attached;
  uint32_t chunks = a.chunks, epoch = a.policy_epoch, maps = a.policy_maps;
  if (!map_head(room, a.head_bytes, m)) return "the cache segment is not of this version";
  const sf_segment_header *header = m->view.header;
  if (header->mount_point_len == 0 || header->mount_point_len >= sizeof header->mount_point ||
      header->mount_point[0] != '/') {
    return "the mount point is not usable";
  }
  if (header->daemon_pid == g.process->pid) return "this process is the daemon";
  set_point(m, header->mount_point, header->mount_point_len);
  take_chunks(room, m, 2, chunks, reinterpret_cast<const uint32_t(*)[2]>(a.chunk));
  if (epoch != 0) m->policy = map_policy(room, 2 + chunks, maps, epoch, next_serial);  // the link's, in a moment
  m->policy_asked = epoch;
  if (!sf_view_serving(&m->view)) return "the daemon does not serve (yet)";
  return verify_at_attach(m);
}

Mount *free_slot() {
  for (Mount &m : mounts) {
    if (state_of(m) == MountState::Free) return &m;
  }
  return nullptr;
}

int attach_mount(const char *socket_path) {
  Mount *m = free_slot();
  if (m == nullptr) return -ENOSPC;
  int result = attach_into(m, socket_path);
  if (result != 0) __atomic_store_n(&m->state, static_cast<uint32_t>(MountState::Free), __ATOMIC_RELEASE);
  return result;
}

int attach_into(Mount *m, const char *socket_path) {
  PacketRoom room;
  if (!room) return -ENOMEM;
  __atomic_store_n(&m->state, static_cast<uint32_t>(MountState::Attaching), __ATOMIC_RELEASE);
  unsigned index = index_of(*m);
  Link &link = g.process->link[index];
  KernelUcred peer;
  int fd = attach_packets(room, socket_path, &link, &peer);
  if (fd < 0) {
    log_line(true, "not attached", socket_path, fd);
    return fd;
  }
  m->policy = nullptr;
  for (size_t i = 0; i <= text_len(socket_path); ++i) m->socket_path[i] = socket_path[i];
  m->peer_uid = peer.uid;
  const char *why = same_user_namespace(peer.pid) ? build_mount(room, m) : "another user namespace";
  if (why == nullptr && !map_session(room, room->body.attached.session_bytes, &link)) why = "no session";
  if (why != nullptr) {
    log_line(true, why, socket_path);
    unmap_mount(m);
    close_fd(fd);
    return -EINVAL;
  }
  link.serial = next_serial++;
  __atomic_store_n(&m->serial, next_serial++, __ATOMIC_RELEASE);
  set_hidden(index, fd);
  if (index >= mounts_used) __atomic_store_n(&mounts_used, index + 1, __ATOMIC_RELEASE);
  __atomic_store_n(&m->state, static_cast<uint32_t>(MountState::Attached), __ATOMIC_RELEASE);
  __atomic_add_fetch(&g.process->mounts_seen, 1, __ATOMIC_RELAXED);
  files_cwd_changed();
  log_line(false, "attached", m->point);
  return 0;
}

void detach(Mount *m) {
  Hold hold(g.process->attach_latch);
  if (!hold || state_of(*m) != MountState::Attached) return;
  log_line(false, "detached: the daemon is gone", m->point);
  __atomic_store_n(&m->state, static_cast<uint32_t>(MountState::Detached), __ATOMIC_RELEASE);
  files_give_back_all_but_listings();
  drop_socket(index_of(*m));
  for (uint32_t i = 0; i < m->view.chunks_max; ++i) {
    if (m->view.mapped_generation[i] != 0) drop_chunk(m, i);
  }
}

void free_detached() {
  for (unsigned i = 0; i < mounts_used; ++i) {
    Mount &m = mounts[i];
    if (state_of(m) != MountState::Detached || !nobody_inside()) continue;
    unmap_mount(&m);
    __atomic_store_n(&m.serial, 0u, __ATOMIC_RELEASE);
    __atomic_store_n(&m.state, static_cast<uint32_t>(MountState::Free), __ATOMIC_RELEASE);
  }
}

}  // namespace shortfuse::bypass
