// Mounts that are known to be there and have not been needed: most programs touch none of them.
//
// Beside its socket PID-N.sock a daemon puts a symbolic link PID-N.mount whose text is "DEV POINT": st_dev of the mount
// in hexadecimal, a blank, the mount point. Reading it costs one system call; attaching costs a round trip and the
// mapping of a dozen descriptors, and is left until a path begins at the mount point, or a descriptor or the working
// directory turns out to be on the device.
#include "attach.h"
#include "attach_internal.h"
#include "files.h"
#include "kernel.h"
#include "text.h"

namespace shortfuse::bypass {

static void set_state(Mount *m, MountState state) {
  __atomic_store_n(&m->state, static_cast<uint32_t>(state), __ATOMIC_RELEASE);
}

static bool parse(const char *text, size_t n, uint64_t *dev, const char **point, uint32_t *len) {
  size_t at = 0;
  *dev = 0;
  for (; at < n && text[at] != ' '; ++at) {
    const char c = text[at];
    const bool digit = c >= '0' && c <= '9', letter = c >= 'a' && c <= 'f';
    if ((!digit && !letter) || at >= 16) return false;
    *dev = *dev * 16 + static_cast<uint64_t>(digit ? c - '0' : c - 'a' + 10);
  }
  if (at == 0 || at + 1 >= n || text[at + 1] != '/') return false;
  *point = text + at + 1;
  *len = static_cast<uint32_t>(n - at - 1);
  return *len < sizeof(Mount::point);
}

bool announce(const char *socket_path, const char *text, size_t n) {
  uint64_t dev;
  const char *point;
  uint32_t len;
  if (!parse(text, n, &dev, &point, &len)) return false;
  Mount *m = free_slot();
  if (m == nullptr) return true;
  for (size_t i = 0; i <= text_len(socket_path); ++i) m->socket_path[i] = socket_path[i];
  set_point(m, point, len);
  m->root.dev = dev;
  m->retries = 0;
  const unsigned index = index_of(*m);
  if (index >= mounts_used) __atomic_store_n(&mounts_used, index + 1, __ATOMIC_RELEASE);
  set_state(m, MountState::Announced);
  files_cwd_changed();
  log_line(true, "announced", m->point);
  return true;
}

void forget_announced(const char *registry, bool failed_too) {
  for (unsigned i = 0; i < mounts_used; ++i) {
    Mount &m = mounts[i];
    const MountState state = state_of(m);
    const bool forget = state == MountState::Announced || (failed_too && state == MountState::Failed);
    if (forget && text_starts(m.socket_path, registry)) set_state(&m, MountState::Free);
  }
}

bool attach_announced(Mount *m) {
  Process *process = process_now();
  if (process == nullptr) return false;
  Hold hold(process->attach_latch);
  if (!hold) return false;
  const MountState state = state_of(*m);
  bool good = state == MountState::Attached;
  if (state == MountState::Announced ||
      (state == MountState::Failed && static_cast<int64_t>(clock_coarse_ns() - m->retry_at_ns) >= 0)) {
    good = attach_into(m, m->socket_path) == 0;
    if (!good) {
      m->retry_at_ns = clock_coarse_ns() + (kRetryNs << m->retries);
      if (m->retries < kRetryDoublingsMax) ++m->retries;
      set_state(m, MountState::Failed);
    }
  }
  return good;
}

bool attach_by_descriptor(int fd) {
  unsigned used = __atomic_load_n(&mounts_used, __ATOMIC_ACQUIRE);
  for (unsigned i = 0; i < used; ++i) {
    Mount &m = mounts[i];
    const MountState state = state_of(m);
    if (state != MountState::Announced && state != MountState::Failed) continue;
    if (lies_on(fd, m)) return attach_announced(&m);
  }
  return false;
}

}  // namespace shortfuse::bypass
