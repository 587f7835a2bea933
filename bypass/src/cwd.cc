// The working directory: whether it lies on an accelerated mount, or above one.
#include "attach_internal.h"
#include "files.h"
#include "kernel.h"

namespace shortfuse::bypass {

static uint32_t cwd_begun, cwd_ended;  // changes of it; equal: none under way
static uint32_t cwd_lock;              // odd while `cwd` is being written
static uint32_t cwd_elsewhere;         // the version for which it was found to lie on no mount; atomic

namespace {
constexpr unsigned kBelowMax = 4;
struct KnownCwd : Cwd {
  uint32_t text_len;           // of what getcwd() says of it, without a '/' at its end
  uint32_t belows;
  MountRef below[kBelowMax];   // mounts below it, by that text
};
}  // namespace
static KnownCwd cwd_known;             // true of the change cwd_known.version

void cwd_changing() { __atomic_add_fetch(&cwd_begun, 1u, __ATOMIC_SEQ_CST); }
void cwd_changed() { __atomic_add_fetch(&cwd_ended, 1u, __ATOMIC_SEQ_CST); }

void files_cwd_changed() {
  cwd_changing();
  cwd_changed();
}

static void remember_cwd(const KnownCwd &cwd) {
  uint32_t even = __atomic_load_n(&cwd_lock, __ATOMIC_RELAXED);
  if ((even & 1) || !__atomic_compare_exchange_n(&cwd_lock, &even, even + 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
    return;
  cwd_known = cwd;
  __atomic_store_n(&cwd_lock, even + 2, __ATOMIC_RELEASE);
}

template <typename What>  // Cwd or KnownCwd
static bool recall_cwd(uint32_t version, What *out) {
  uint32_t before = __atomic_load_n(&cwd_lock, __ATOMIC_ACQUIRE);
  *out = cwd_known;
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return !(before & 1) && __atomic_load_n(&cwd_lock, __ATOMIC_RELAXED) == before && out->version == version;
}

static void resolve_cwd(uint32_t version, KnownCwd *out) {
  *out = {};
  out->version = version;
  Identity who;
  if (identify(AT_FDCWD, &who)) {
    out->mount = who.mount;
    out->nodeid = who.nodeid;
  }
}

static void find_below(KnownCwd *cwd) {
  char text[sizeof(Mount::point)];
  const long bytes = SF_SYS2(__NR_getcwd, text, sizeof text);
  if (is_error(bytes) || text[0] != '/') return;  // "(unreachable)"
  const uint32_t len = bytes == 2 ? 0 : static_cast<uint32_t>(bytes) - 1;
  cwd->text_len = len;
  const unsigned used = __atomic_load_n(&mounts_used, __ATOMIC_ACQUIRE);
  for (unsigned i = 0; i < used && cwd->belows < kBelowMax; ++i) {
    Mount &m = mounts[i];
    const uint32_t serial = __atomic_load_n(&m.serial, __ATOMIC_ACQUIRE);
    if (state_of(m) < MountState::Failed || m.point_len <= len + 1 || m.point[len] != '/') continue;
    uint32_t n = 0;
    while (n < len && m.point[n] == text[n]) ++n;
    if (n == len) cwd->below[cwd->belows++] = {&m, serial};
  }
}

MountRef mount_below(const Cwd &known, const char *path, const char **rest) {
  KnownCwd cwd;
  if (!recall_cwd(known.version, &cwd)) return {nullptr, 0};
  while (path[0] == '.' && path[1] == '/') path += 2;
  for (uint32_t i = 0; i < cwd.belows; ++i) {
    Mount &m = *cwd.below[i].mount;
    const char *point = m.point + cwd.text_len + 1;
    const uint32_t serial = __atomic_load_n(&m.serial, __ATOMIC_ACQUIRE), point_len = m.point_len;
    if (serial != cwd.below[i].serial || point_len <= cwd.text_len + 1) continue;
    // Another mount may get the slot meanwhile: then the serial is not the one returned.
    uint32_t n = 0, len = point_len - cwd.text_len - 1;
    while (n < len && path[n] == point[n] && path[n] != 0) ++n;
    if (n < len || (path[n] != 0 && path[n] != '/')) continue;
    *rest = path + n;
    return cwd.below[i];
  }
  return {nullptr, 0};
}

// False: it changes at this moment.
static bool known_cwd(Cwd *out) {
  // Version 0 is no version: cwd_known begins with it.
  uint32_t version = __atomic_load_n(&cwd_ended, __ATOMIC_ACQUIRE) + 1;
  if (version == 0 || __atomic_load_n(&cwd_begun, __ATOMIC_ACQUIRE) + 1 != version) return false;
  if (recall_cwd(version, out)) return true;
  KnownCwd now;
  resolve_cwd(version, &now);
  if (now.mount.mount == nullptr) find_below(&now);
  if (!cwd_same(now)) return false;
  remember_cwd(now);
  const bool elsewhere = now.mount.mount == nullptr && now.belows == 0;
  if (elsewhere) __atomic_store_n(&cwd_elsewhere, version, __ATOMIC_RELEASE);
  *out = now;
  return true;
}

bool cwd_now(Cwd *out) {
  // Twice: finding out may attach to the mount it lies on, after which all that is known of it is void.
  if (g.cwd_off || (!known_cwd(out) && !known_cwd(out))) return out->version = 0, false;
  if (out->mount.mount == nullptr) return false;
  if (out->nid != 0) return true;
  Stay stay(out->mount, false);
  if (!stay.entered() || sf_find_node(&out->mount.mount->view, out->nodeid, &out->nid) != SF_FIND_OK) return false;
  KnownCwd now;
  if (recall_cwd(out->version, &now)) now.nid = out->nid, remember_cwd(now);
  return true;
}

bool cwd_is_elsewhere() {
  const uint32_t version = __atomic_load_n(&cwd_ended, __ATOMIC_ACQUIRE) + 1;
  return version != 0 && __atomic_load_n(&cwd_elsewhere, __ATOMIC_ACQUIRE) == version &&
         __atomic_load_n(&cwd_begun, __ATOMIC_ACQUIRE) + 1 == version;
}

bool cwd_same(const Cwd &cwd) {
  return __atomic_load_n(&cwd_begun, __ATOMIC_ACQUIRE) + 1 == cwd.version &&
         __atomic_load_n(&cwd_ended, __ATOMIC_ACQUIRE) + 1 == cwd.version;
}

void cwd_after_fork() {
  // A change that a thread of the parent had under way will never end here: forget what was known.
  cwd_begun = cwd_ended = (cwd_begun > cwd_ended ? cwd_begun : cwd_ended) + 1;
  cwd_lock &= ~1u;
  cwd_known.version = 0;
}

}  // namespace shortfuse::bypass
