// Finding the daemons: the registries, and noticing when a mount comes.
//
// A registry is a directory of sockets that only root or oneself can write to, and a file of eight bytes that grows
// with every change. We map that file; a path that matches no mount costs one load per registry. What a look at the
// directory finds is only noted (announce.cc).
#include "attach.h"
#include "attach_internal.h"
#include "kernel.h"
#include "packets.h"
#include "text.h"

namespace shortfuse::bypass {

constexpr unsigned kDirentsBytes = 512; // of a listing at a time, on the stack of whoever calls
constexpr unsigned kBriefAnnouncement = 256;
constexpr uint32_t kLookFirst = 256;    // unmatched paths until a missing registry is looked for again...
constexpr uint32_t kLookMax = 8192;     // ...and at most so many, doubling in between

struct Registry {
  const uint64_t *generation;           // mapped; null: not there yet
  uint64_t seen;
  char path[64];
};
static Registry registries[2];
static unsigned registry_count;
static uint32_t countdown = kLookFirst, interval = kLookFirst;

// The directory, or -errno: only of root's or our own, and nobody else's to write to.
static long open_registry(const char *path, uint32_t euid) {
  long fd = SF_SYS4(__NR_openat, AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
  if (is_error(fd)) return fd;
  struct stat st;
  long result = SF_SYS2(__NR_fstat, fd, &st);
  if (!is_error(result) && ((st.st_uid != 0 && st.st_uid != euid) || (st.st_mode & 022) != 0)) result = -EPERM;
  if (!is_error(result)) return fd;
  log_line(false, "registry not used", path, result);
  close_fd(static_cast<int>(fd));
  return result;
}

static void map_generation(Registry *registry, int dir) {
  if (registry->generation != nullptr) return;
  long fd = SF_SYS4(__NR_openat, dir, "generation", O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
  if (is_error(fd)) return;
  long at = -EINVAL;
  if (file_bytes(static_cast<int>(fd)) >= 8) at = SF_SYS6(__NR_mmap, 0, 4096, PROT_READ, MAP_SHARED, fd, 0);
  close_fd(static_cast<int>(fd));
  if (!is_error(at)) __atomic_store_n(&registry->generation, reinterpret_cast<const uint64_t *>(at), __ATOMIC_RELEASE);
}

static bool known(const char *socket_path) {
  for (unsigned i = 0; i < mounts_used; ++i) {
    const Mount &m = mounts[i];
    const MountState state = state_of(m);
    const bool used = state == MountState::Attached || state == MountState::Announced || state == MountState::Failed;
    if (used && text_is(m.socket_path, socket_path)) return true;
  }
  return false;
}

// A socket: its mount is announced by the link beside it. Without a link the daemon itself is asked.
static void meet(PacketRoom &room, int dir, const Registry &registry, const char *name) {
  size_t n = text_len(name);
  if (n < 6 || !text_is(name + n - 5, ".sock")) return;
  char path[kSocketPathMax], link[kSocketPathMax];
  Text text(path, sizeof path), link_text(link, sizeof link);
  text.add(registry.path).put('/').add(name);
  if (text.full() || known(path)) return;
  for (size_t i = 0; i < n - 5; ++i) link_text.put(name[i]);
  link_text.add(".mount");
  // Most fit: mapping room for the longest took 11 to 14 us of a start.
  char brief[kBriefAnnouncement], *announcement = brief;
  long got = link_text.full() ? -ENAMETOOLONG : SF_SYS4(__NR_readlinkat, dir, link, brief, sizeof brief);
  if (got == static_cast<long>(sizeof brief)) {
    if (!room.need()) return;
    announcement = room->body.bytes;
    got = SF_SYS4(__NR_readlinkat, dir, link, announcement, sizeof room->body.bytes);
  }
  if (is_error(got) || !announce(path, announcement, static_cast<size_t>(got))) attach_mount(path);
}

static void scan(Registry *registry, uint32_t euid) {
  const uint64_t seen = registry->seen;
  long dir = open_registry(registry->path, euid);
  if (is_error(dir)) return forget_announced(registry->path, true);
  map_generation(registry, static_cast<int>(dir));
  // Read before the listing: what comes during it is seen the next time.
  if (registry->generation != nullptr) registry->seen = __atomic_load_n(registry->generation, __ATOMIC_ACQUIRE);
  // A number of a process that was used again may announce another mount now.
  forget_announced(registry->path, registry->seen != seen);
  PacketRoom room(PacketRoom::Mapped::WhenNeeded);
  alignas(KernelDirent) char dirents[kDirentsBytes];
  long n = 0;
  while ((n = SF_SYS3(__NR_getdents64, dir, dirents, sizeof dirents)) > 0) {
    for (long at = 0; at + static_cast<long>(sizeof(KernelDirent)) <= n;) {
      const auto *entry = reinterpret_cast<const KernelDirent *>(dirents + at);
      meet(room, static_cast<int>(dir), *registry, entry->name);
      at += entry->reclen;
    }
  }
  close_fd(static_cast<int>(dir));
}

static void scan_all() {
  Process *process = process_now();
  if (process == nullptr) return;
  Hold hold(process->attach_latch);
  if (!hold) return;
  uint32_t euid = static_cast<uint32_t>(SF_SYS0(__NR_geteuid));
  free_detached();
  for (unsigned i = 0; i < registry_count; ++i) scan(&registries[i], euid);
}

#ifdef SF_BYPASS_TESTING
const char *registry_for_test;

void attach_start() {
  if (registry_for_test == nullptr) return;
  registry_count = 1;
  registries[0].seen = 0;
  registries[0].generation = nullptr;
  Text(registries[0].path, sizeof registries[0].path).add(registry_for_test);
  scan_all();
}
#else
void attach_start() {
  uint32_t uid = static_cast<uint32_t>(SF_SYS0(__NR_geteuid));
  // The path first: who reads before he writes, as counting does, has the page of zeroes mapped in between.
  Text(registries[0].path, sizeof registries[0].path).add(SF_REGISTRY_ROOT);
  registry_count = 1;
  if (uid != 0) {
    Registry &own = registries[registry_count++];
    Text run(own.path, sizeof own.path);
    run.add("/run/user/").num(uid);
    struct stat st;
    if (!is_error(SF_SYS2(__NR_stat, own.path, &st)) && st.st_uid == uid) {
      run.add("/shortfuse");
    } else {
      Text(own.path, sizeof own.path).add("/tmp/shortfuse-").num(uid);
    }
  }
  scan_all();
}
#endif

void look_for_mounts() {
  bool missing = false;
  for (unsigned i = 0; i < registry_count; ++i) {
    const uint64_t *generation = __atomic_load_n(&registries[i].generation, __ATOMIC_ACQUIRE);
    if (generation == nullptr) {
      missing = true;
    } else if (__atomic_load_n(generation, __ATOMIC_ACQUIRE) != registries[i].seen) [[unlikely]] {
      scan_all();
      return;
    }
  }
  // Not atomic: threads that count together only look a little later.
  if (!missing || --countdown != 0) return;
  interval = interval < kLookMax ? interval * 2 : kLookMax;
  countdown = interval;
  scan_all();
}

void look_again_soon() {
  countdown = 1;
}

}  // namespace shortfuse::bypass
