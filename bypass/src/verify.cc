// Is the mount point, as this process sees it, the mount that the daemon serves? And which node is a descriptor?
//
// Both are asked of the kernel: statx() says whether a path is the root of a mount and which mount it is in;
// name_to_handle_at() gives FUSE's node id of anything open, without asking the daemon.
#include "attach.h"
#include "attach_internal.h"
#include "kernel.h"
#include "mount_table.h"

namespace shortfuse::bypass {

constexpr int kFuseHandle = 0x81;       // FILEID_INO64_GEN: node id in two words, generation
constexpr uint32_t kFuseHandleBytes = 12;

static uint64_t encode_dev(uint32_t major, uint32_t minor) {
  return (minor & 0xff) | (major << 8) | ((minor & ~0xffu) << 12);
}

static bool look_at(const char *path, struct statx *out) {
  int flags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT;
  return !is_error(SF_SYS5(__NR_statx, AT_FDCWD, path, flags, STATX_BASIC_STATS | STATX_MNT_ID, out)) &&
         (out->stx_mask & STATX_MNT_ID);
}

#ifdef SF_BYPASS_TESTING
bool plain_mounts_for_test;
#endif

static bool handle_of(int dirfd, const char *path, int flags, KernelFileHandle *handle, int *mount_id);

static uint64_t node_of(const KernelFileHandle &handle) {
  return static_cast<uint64_t>(handle.word[0]) << 32 | handle.word[1];
}

// Not a directory of the mount that somebody has bound to the mount point.
static bool root_of_file_system(const Mount &m) {
#ifdef SF_BYPASS_TESTING
  if (plain_mounts_for_test) return true;
#endif
  constexpr uint64_t kFuseRoot = 1;
  KernelFileHandle handle;
  int mount_id;
  return handle_of(AT_FDCWD, m.point, 0, &handle, &mount_id) && node_of(handle) == kFuseRoot;
}

static const char *look_at_mount(const Mount &m, RootFacts *out) {
  struct statx root, top;
  if (!look_at(m.point, &root)) return "the mount point cannot be reached";
  uint64_t dev = encode_dev(root.stx_dev_major, root.stx_dev_minor);
  if (!(root.stx_attributes & STATX_ATTR_MOUNT_ROOT) || dev != m.view.header->mount_dev) {
    return "the mount point is another file system here";
  }
  if (!root_of_file_system(m)) return "the mount point is not the root of the file system here";
  // A process whose root lies in the mount would leave it by "..": not emulated.
  if (!look_at("/", &top) || top.stx_mnt_id == root.stx_mnt_id) return "this process's root is in the mount";
  out->dev = dev;
  out->dev_major = root.stx_dev_major;
  out->dev_minor = root.stx_dev_minor;
  out->mnt_id = root.stx_mnt_id;
  out->stx_mask = root.stx_mask;
  out->blksize = root.stx_blksize;
  out->attributes = root.stx_attributes & ~static_cast<uint64_t>(STATX_ATTR_MOUNT_ROOT);
  out->attributes_mask = root.stx_attributes_mask;
  return nullptr;
}

// The daemon tells of mounts in its own namespace only.
static bool same_mount_namespace(const sf_segment_header &header) {
  struct stat st;
  return header.mount_ns_ino != 0 && !is_error(SF_SYS2(__NR_stat, "/proc/thread-self/ns/mnt", &st)) &&
         st.st_ino == header.mount_ns_ino;
}

// Times to live end by the daemon's CLOCK_MONOTONIC.
static bool same_clock(const sf_segment_header &header) {
  struct stat st;
  if (is_error(SF_SYS2(__NR_stat, "/proc/thread-self/ns/time", &st))) st.st_ino = 0;
  return static_cast<uint32_t>(st.st_ino) == header.time_ns_ino;
}

const char *verify_at_attach(Mount *m) {
  if (!same_clock(*m->view.header)) return "another time namespace";
  m->flags_epoch = __atomic_load_n(&m->view.header->mount_epoch, __ATOMIC_ACQUIRE);
  const char *why = look_at_mount(*m, &m->root);
  struct statfs fs;
  if (why == nullptr && is_error(SF_SYS2(__NR_statfs, m->point, &fs))) why = "statfs fails";
  if (why != nullptr) return why;
  m->root.statfs_type = static_cast<uint64_t>(fs.f_type);
  m->root.statfs_flags = static_cast<uint64_t>(fs.f_flags);
  __builtin_memcpy(&m->root.fsid, &fs.f_fsid, sizeof m->root.fsid);
  m->foreign_namespace = !same_mount_namespace(*m->view.header);
  if (m->foreign_namespace) log_line(true, "another mount namespace: paths are the kernel's", m->point);
  return nullptr;
}

// What only the mount table tells, where it may have changed: flags once per change that the daemon announces, by
// whichever thread comes first; mounts below when this process makes mounts itself and cannot wait for the daemon.
static const char *look_at_table(Mount *m, uint32_t mount_epoch) {
  constexpr uint64_t kFromTable = 1 | 2 | 4 | 8 | 16 | 1024 | 2048 | 4096 | kStNoSymFollow;
  const bool own = __atomic_load_n(&g.own_mounts, __ATOMIC_ACQUIRE);
  uint32_t looked = __atomic_load_n(&m->flags_epoch, __ATOMIC_ACQUIRE);
  const bool first = looked != mount_epoch && __atomic_compare_exchange_n(&m->flags_epoch, &looked, mount_epoch, false,
                                                                          __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
  if (!own && !first) return nullptr;
  TableEntry entry;
  if (!read_mount_table(*m, m->root.mnt_id, &entry) || !entry.found) return "the mount is not in the mount table";
  const uint64_t before = __atomic_load_n(&m->root.statfs_flags, __ATOMIC_RELAXED);
  __atomic_store_n(&m->root.statfs_flags, (before & ~kFromTable) | entry.statfs_flags, __ATOMIC_RELAXED);
  return entry.below ? "something is mounted below" : nullptr;
}

bool verify_again(Mount *m) {
#ifdef SF_BYPASS_TESTING
  if (identify_for_test != nullptr) return true;  // the test plays the kernel
#endif
  Verdict &verdict = t.verdict[index_of(*m)];
  const uint64_t now = clock_coarse_ns();
  if (verdict_is_of_now(*m, verdict) && !verdict.good && now - verdict.at_ns < kVerdictNs) return false;
  // What the verdict is about is read before anything is looked at: a change meanwhile makes it void at once.
  Verdict fresh = {};
  fresh.mount_epoch = __atomic_load_n(&m->view.header->mount_epoch, __ATOMIC_ACQUIRE);
  fresh.verify_epoch = __atomic_load_n(&g.verify_epoch, __ATOMIC_ACQUIRE);
  RootFacts root;
  const char *why = look_at_mount(*m, &root);
  if (why == nullptr && root.mnt_id != m->root.mnt_id) why = "the mount point is another mount here";
  if (why == nullptr) why = look_at_table(m, fresh.mount_epoch);
  if (why != nullptr) log_line(true, why, m->point);
  verdict.serial = 0;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);  // a handler of this thread may look, and make its own
  verdict.good = why == nullptr;
  verdict.at_ns = now;
  verdict.mount_epoch = fresh.mount_epoch;
  verdict.verify_epoch = fresh.verify_epoch;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  verdict.serial = m->serial;
  return why == nullptr;
}

// ---- user namespaces

// /proc/self/uid_map: lines of first number here, first number outside, count. A line that does not fit, and
// all behind it, is as if it were not there. True: the map of the first namespace.
static bool read_id_map(const char *path, IdMap *map) {
  char text[1024];
  __atomic_store_n(&map->ranges, 0u, __ATOMIC_RELEASE);
  long fd = SF_SYS4(__NR_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
  if (is_error(fd)) return false;
  long n = SF_SYS3(__NR_read, fd, text, sizeof text);
  close_fd(static_cast<int>(fd));
  uint64_t number[3] = {};
  uint32_t ranges = 0;
  unsigned field = 0;
  bool identity = false;
  for (long i = 0; i < n && ranges < kIdRangesMax; ++i) {
    const bool digit = text[i] >= '0' && text[i] <= '9';
    if (digit && field < 3) number[field] = number[field] * 10 + static_cast<uint64_t>(text[i] - '0');
    if (digit || i == 0 || text[i - 1] < '0' || text[i - 1] > '9') continue;
    if (++field < 3 || text[i] != '\n') continue;
    map->range[ranges++] = {static_cast<uint32_t>(number[0]), static_cast<uint32_t>(number[2])};
    identity = ranges == 1 && number[0] == 0 && number[1] == 0 && number[2] == 4294967295ull;
    number[0] = number[1] = number[2] = 0;
    field = 0;
  }
  __atomic_store_n(&map->ranges, ranges, __ATOMIC_RELEASE);
  return identity;
}

bool same_user_namespace(uint32_t daemon_pid) {
  const bool users = read_id_map("/proc/self/uid_map", &g.uids), groups = read_id_map("/proc/self/gid_map", &g.gids);
  g.initial_user_ns = users && groups;
  if (g.initial_user_ns) return true;
  char path[40], ours[64] = {}, theirs[64] = {};
  char *end = path;
  for (const char *s = "/proc/"; *s != 0; ++s) *end++ = *s;
  char digits[12];
  int n = 0;
  do {
    digits[n++] = static_cast<char>('0' + daemon_pid % 10);
    daemon_pid /= 10;
  } while (daemon_pid != 0);
  while (n > 0) *end++ = digits[--n];
  for (const char *s = "/ns/user"; *s != 0; ++s) *end++ = *s;
  *end = 0;
  long a = SF_SYS4(__NR_readlinkat, AT_FDCWD, "/proc/self/ns/user", ours, sizeof ours - 1);
  long b = SF_SYS4(__NR_readlinkat, AT_FDCWD, path, theirs, sizeof theirs - 1);
  return !is_error(a) && a == b && __builtin_memcmp(ours, theirs, static_cast<size_t>(a)) == 0;
}

// ---- identity

#ifdef SF_BYPASS_TESTING
bool (*identify_for_test)(int fd, Identity *out);
#endif

static bool handle_of(int dirfd, const char *path, int flags, KernelFileHandle *handle, int *mount_id) {
  // Kernels that will not encode a handle they could not decode give one for identification only.
  constexpr int kKinds[] = {0, kAtHandleFid};
  for (int kind : kKinds) {
    handle->bytes = sizeof handle->word;
    long result = SF_SYS5(__NR_name_to_handle_at, dirfd, path, handle, mount_id, flags | kind);
    if (!is_error(result)) return handle->type == kFuseHandle && handle->bytes == kFuseHandleBytes;
    if (result != -EOPNOTSUPP) return false;
  }
  return false;
}

bool lies_on(int fd, const Mount &m) {
  struct statx st;
  const int flags = AT_STATX_DONT_SYNC | AT_EMPTY_PATH | AT_NO_AUTOMOUNT;
  return !is_error(SF_SYS5(__NR_statx, fd, "", flags, STATX_TYPE, &st)) &&
         encode_dev(st.stx_dev_major, st.stx_dev_minor) == m.root.dev;
}

static bool identify_attached(int fd, int mount_id, const KernelFileHandle &handle, Identity *out) {
  unsigned used = __atomic_load_n(&mounts_used, __ATOMIC_ACQUIRE);
  for (unsigned i = 0; i < used; ++i) {
    Mount &m = mounts[i];
    uint32_t serial = __atomic_load_n(&m.serial, __ATOMIC_ACQUIRE);
    if (state_of(m) != MountState::Attached || m.root.mnt_id != static_cast<uint64_t>(mount_id)) continue;
    if (!lies_on(fd, m)) return false;  // numbers of mounts are used again
    out->mount = {&m, serial};
    out->nodeid = node_of(handle);
    return true;
  }
  return false;
}

bool identify(int fd, Identity *out) {
#ifdef SF_BYPASS_TESTING
  if (identify_for_test != nullptr) return identify_for_test(fd, out);
#endif
  KernelFileHandle handle;
  int mount_id = -1;
  if (!handle_of(fd, "", AT_EMPTY_PATH, &handle, &mount_id)) return false;
  if (identify_attached(fd, mount_id, handle, out)) return true;
  return attach_by_descriptor(fd) && identify_attached(fd, mount_id, handle, out);
}

}  // namespace shortfuse::bypass
