// Credentials and permission checks, as fs/namei.c (generic_permission) and fs/fuse/dir.c (fuse_permission) have them.
//
// The snapshot is per thread, as credentials are in the kernel; the epoch is per process, because libc changes all
// threads at once from signal handlers. It is raised before and after every call that may change them.
#include "creds.h"

#include "kernel.h"

namespace shortfuse::bypass {

// A filter that the program was started under may forbid any of these calls: then nothing is known. setfsuid() is the
// likeliest, and there is no other way to ask; but an exec makes both ids those of the effective user, and who never
// calls it has them so still.
static bool take_ids(Creds *creds) {
  if (is_error(SF_SYS3(__NR_getresuid, &creds->ruid, &creds->euid, &creds->suid))) return false;
  if (is_error(SF_SYS3(__NR_getresgid, &creds->rgid, &creds->egid, &creds->sgid))) return false;
  creds->fsuid = creds->euid;
  creds->fsgid = creds->egid;
  if (!__atomic_load_n(&g.fsids_set, __ATOMIC_ACQUIRE)) return true;
  // An id that is no id changes nothing and returns what is.
  const long uid = SF_SYS1(__NR_setfsuid, -1), gid = SF_SYS1(__NR_setfsgid, -1);
  creds->fsuid = static_cast<uint32_t>(uid);
  creds->fsgid = static_cast<uint32_t>(gid);
  return !is_error(uid) && !is_error(gid);
}

static void take_groups(Creds *creds) {
  long n = SF_SYS2(__NR_getgroups, kGroupsMax, creds->group);
  creds->groups_known = !is_error(n);
  creds->groups = creds->groups_known ? static_cast<uint16_t>(n) : 0;
}

static bool take_capabilities(Creds *creds) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (is_error(SF_SYS2(__NR_capget, &header, data))) return false;
  auto has = [&](unsigned cap) { return (data[cap / 32].effective >> (cap % 32) & 1) != 0; };
  creds->dac_override = has(CAP_DAC_OVERRIDE);
  creds->dac_read_search = has(CAP_DAC_READ_SEARCH);
  creds->sys_admin = has(CAP_SYS_ADMIN);
  bool none = data[0].effective == 0 && data[1].effective == 0;
  bool all = data[0].effective == data[0].permitted && data[1].effective == data[1].permitted;
  creds->same_for_access =
      creds->ruid == creds->fsuid && creds->rgid == creds->fsgid && (creds->ruid == 0 ? all : none);
  return true;
}

const Creds &creds_now() {
  uint32_t epoch = __atomic_load_n(&g.creds_epoch, __ATOMIC_ACQUIRE);
  if (t.creds.epoch == epoch) [[likely]] return t.creds;
  // The epoch is stored last and is the one read first: a change during the snapshot makes it stale at once.
  t.creds.known = take_ids(&t.creds);
  take_groups(&t.creds);
  t.creds.known = take_capabilities(&t.creds) && t.creds.known;
  __atomic_signal_fence(__ATOMIC_RELEASE);
  t.creds.epoch = epoch;
  return t.creds;
}

void creds_changed() {
  if (__atomic_add_fetch(&g.creds_epoch, 1, __ATOMIC_ACQ_REL) == 0)
    __atomic_store_n(&g.creds_epoch, 1, __ATOMIC_RELEASE);
  // The way to a mount point was walked with the old credentials.
  __atomic_add_fetch(&g.verify_epoch, 1, __ATOMIC_ACQ_REL);
}

bool may_enter(const Creds &c, uint32_t mount_flags, uint32_t owner_uid, uint32_t owner_gid) {
  if (mount_flags & SF_MNT_ALLOW_OTHER) return true;
  return c.euid == owner_uid && c.suid == owner_uid && c.ruid == owner_uid && c.egid == owner_gid &&
         c.sgid == owner_gid && c.rgid == owner_gid;
}

static bool is_mapped(const IdMap &map, uint32_t id) {
  const uint32_t ranges = __atomic_load_n(&map.ranges, __ATOMIC_ACQUIRE);
  for (uint32_t i = 0; i < ranges; ++i) {
    if (id - map.range[i].first < map.range[i].count) return true;
  }
  return false;
}

bool owners_are_mapped(const fuse_attr &attr) {
  if (attr.uid == ~0u || attr.gid == ~0u) return false;
  return g.initial_user_ns || (is_mapped(g.uids, attr.uid) && is_mapped(g.gids, attr.gid));
}

static Decision in_group(const Creds &creds, uint32_t gid) {
  if (gid == creds.fsgid) return Decision::Allowed;
  if (!creds.groups_known) return Decision::Unknown;
  for (unsigned i = 0; i < creds.groups; ++i) {
    if (creds.group[i] == gid) return Decision::Allowed;
  }
  return Decision::Denied;
}

// By mode bits alone: acl_permission_check().
static Decision by_mode(const Creds &creds, uint32_t mount_flags, const fuse_attr &attr, int mask) {
  uint32_t mode = attr.mode;
  uint32_t want = static_cast<uint32_t>(mask);
  if (creds.fsuid == attr.uid) return (want & ~(mode >> 6)) & 7 ? Decision::Denied : Decision::Allowed;
  if ((mount_flags & SF_MNT_POSIX_ACL) && (mode & 070)) return Decision::Unknown;
  if (want & (mode ^ (mode >> 3))) {
    Decision member = in_group(creds, attr.gid);
    if (member == Decision::Unknown) return member;
    if (member == Decision::Allowed) mode >>= 3;
  }
  return (want & ~mode) & 7 ? Decision::Denied : Decision::Allowed;
}

static bool by_capability(const Creds &creds, const fuse_attr &attr, int mask) {
  if (is_directory(attr.mode)) return creds.dac_override || (!(mask & kMayWrite) && creds.dac_read_search);
  if (mask == kMayRead && creds.dac_read_search) return true;
  return creds.dac_override && (!(mask & kMayExec) || (attr.mode & 0111));
}

Decision permission(const Creds &creds, uint32_t mount_flags, const fuse_attr &attr, int mask) {
  if ((mask & kMayWrite) && (mount_flags & SF_MNT_READ_ONLY)) return Decision::Unknown;  // EROFS: the caller's matter
  if (!owners_are_mapped(attr)) return Decision::Unknown;
  if ((mount_flags & SF_MNT_DEFAULT_PERMISSIONS) == 0) {
    return (mask & kMayExec) && is_regular(attr.mode) && !(attr.mode & 0111) ? Decision::Denied : Decision::Allowed;
  }
  Decision decision = by_mode(creds, mount_flags, attr, mask);
  if (decision == Decision::Allowed || by_capability(creds, attr, mask)) return Decision::Allowed;
  return decision;
}

}  // namespace shortfuse::bypass
