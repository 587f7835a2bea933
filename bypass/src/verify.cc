// Is the mount point, as this process sees it, the mount that the daemon serves? And which node is a descriptor?
//
// Both are asked of the kernel: statx() says whether a path is the root of a mount and which mount it is in;
// name_to_handle_at() gives FUSE's node id of anything open, without asking the daemon.
#include "attach.h"
#include "attach_internal.h"
#include "kernel.h"

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

static const char *look_at_mount(Mount *m) {
  struct statx root, top;
  m->verified_mount_epoch = __atomic_load_n(&m->view.header->mount_epoch, __ATOMIC_ACQUIRE);
  m->verified_epoch = __atomic_load_n(&g.verify_epoch, __ATOMIC_ACQUIRE);
  if (!look_at(m->point, &root)) return "the mount point cannot be reached";
  uint64_t dev = encode_dev(root.stx_dev_major, root.stx_dev_minor);
  if (!(root.stx_attributes & STATX_ATTR_MOUNT_ROOT) || dev != m->view.header->mount_dev) {
    return "the mount point is another file system here";
  }
  // A process whose root lies in the mount would leave it by "..": not emulated.
  if (!look_at("/", &top) || top.stx_mnt_id == root.stx_mnt_id) return "this process's root is in the mount";
  m->root.dev = dev;
  m->root.dev_major = root.stx_dev_major;
  m->root.dev_minor = root.stx_dev_minor;
  m->root.mnt_id = root.stx_mnt_id;
  m->root.stx_mask = root.stx_mask;
  m->root.blksize = root.stx_blksize;
  m->root.attributes = root.stx_attributes & ~static_cast<uint64_t>(STATX_ATTR_MOUNT_ROOT);
  m->root.attributes_mask = root.stx_attributes_mask;
  return nullptr;
}

const char *verify_at_attach(Mount *m) {
  const char *why = look_at_mount(m);
  struct statfs fs;
  if (why == nullptr && is_error(SF_SYS2(__NR_statfs, m->point, &fs))) why = "statfs fails";
  if (why != nullptr) return why;
  m->root.statfs_type = static_cast<uint64_t>(fs.f_type);
  m->root.statfs_flags = static_cast<uint64_t>(fs.f_flags);
  __builtin_memcpy(&m->root.fsid, &fs.f_fsid, sizeof m->root.fsid);
  m->covered = 0;
  return nullptr;
}

bool verify_again(Mount *m) {
  uint64_t mnt_id = m->root.mnt_id;
  const char *why = look_at_mount(m);
  if (why == nullptr && mnt_id != m->root.mnt_id) why = "the mount point is another mount here";
  if (why != nullptr) {
    m->root.mnt_id = mnt_id;
    log_line(true, why, m->point);
  }
  __atomic_store_n(&m->covered, why != nullptr ? 1u : 0u, __ATOMIC_RELEASE);
  return why == nullptr;
}

// ---- user namespaces

static bool map_is_identity(const char *path) {
  char text[64];
  long fd = SF_SYS4(__NR_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
  if (is_error(fd)) return false;
  long n = SF_SYS3(__NR_read, fd, text, sizeof text);
  close_fd(static_cast<int>(fd));
  uint64_t number[3] = {};
  int field = 0;
  bool digit = false;
  for (long i = 0; i < n; ++i) {
    if (text[i] >= '0' && text[i] <= '9') {
      if (field >= 3) return false;
      number[field] = number[field] * 10 + static_cast<uint64_t>(text[i] - '0');
      digit = true;
    } else {
      field += digit ? 1 : 0;
      digit = false;
    }
  }
  return number[0] == 0 && number[1] == 0 && number[2] == 4294967295ull;
}

bool same_user_namespace(uint32_t daemon_pid) {
  g.initial_user_ns = map_is_identity("/proc/self/uid_map") && map_is_identity("/proc/self/gid_map");
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

static bool handle_of(int fd, KernelFileHandle *handle, int *mount_id) {
  // Kernels that will not encode a handle they could not decode give one for identification only.
  constexpr int kTries[] = {AT_EMPTY_PATH, AT_EMPTY_PATH | kAtHandleFid};
  for (int flags : kTries) {
    handle->bytes = sizeof handle->word;
    long result = SF_SYS5(__NR_name_to_handle_at, fd, "", handle, mount_id, flags);
    if (!is_error(result)) return handle->type == kFuseHandle && handle->bytes == kFuseHandleBytes;
    if (result != -EOPNOTSUPP) return false;
  }
  return false;
}

bool identify(int fd, Identity *out) {
#ifdef SF_BYPASS_TESTING
  if (identify_for_test != nullptr) return identify_for_test(fd, out);
#endif
  KernelFileHandle handle;
  int mount_id = -1;
  if (!handle_of(fd, &handle, &mount_id)) return false;
  unsigned used = __atomic_load_n(&mounts_used, __ATOMIC_ACQUIRE);
  for (unsigned i = 0; i < used; ++i) {
    Mount &m = mounts[i];
    uint32_t serial = __atomic_load_n(&m.serial, __ATOMIC_ACQUIRE);
    if (state_of(m) != MountState::Attached || m.root.mnt_id != static_cast<uint64_t>(mount_id)) continue;
    out->mount = {&m, serial};
    out->nodeid = static_cast<uint64_t>(handle.word[0]) << 32 | handle.word[1];
    return true;
  }
  return false;
}

}  // namespace shortfuse::bypass
