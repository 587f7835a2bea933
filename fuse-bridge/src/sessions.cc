// What the service thread takes out of session segments (hints, recency, counters), the mount table, and the status.
//
// A session segment belongs to its client: every word is loaded once into our own memory and checked there. Wishes are
// carried out with the daemon's rights, so only the daemon's own user and root may have any (`bpftime_share=all` gives
// the others what is in the cache, not what they could not read themselves). The worst they can do is to ask in vain.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "control.h"
#include "mount_table.h"

namespace shortfuse::bridge {
namespace {

const char *const kKindNames[SF_REC_KINDS] = {"free", "node", "attr",  "dentry", "parent", "data",
                                              "listing", "link", "xattr", "xlist",  "statfs", "answer"};

/// One hint, copied out of shared memory.
sf_hint copy_hint(const sf_session &session, uint32_t at) {
  sf_hint hint;
  const volatile char *from = reinterpret_cast<const volatile char *>(&session.hint[at % SF_HINTS]);
  for (size_t i = 0; i < sizeof(hint); i++) reinterpret_cast<char *>(&hint)[i] = from[i];
  return hint;
}

}  // namespace

void Control::drain_hints(Client &client) {
  if (!client.session) return;
  sf_session &session = *client.session;
  const bool may_wish = may_control(client);
  const auto policy = bridge_.policy();
  // Not to be woken while we look; afterwards once more, because a hint may have come before it saw us sleeping.
  for (int round = 0; round < 2; round++) {
    __atomic_store_n(&session.sleeping, 0u, __ATOMIC_SEQ_CST);
    const uint32_t tail = __atomic_load_n(&session.hint_tail, __ATOMIC_ACQUIRE);
    // A tail that is far ahead has overwritten what we have not read, or is a lie: take the newest ring full.
    if (tail - client.hint_head > SF_HINTS) client.hint_head = tail - SF_HINTS;
    for (; client.hint_head != tail; client.hint_head++) {
      const sf_hint hint = copy_hint(session, client.hint_head);
      if (!may_wish || hint.kind == 0 || hint.kind >= SF_HINT_KINDS || hint.name_len > SF_NAME_MAX) continue;
      if (hint.kind == SF_HINT_DATA && !policy->keeps_data()) continue;
      const bool named = hint.kind == SF_HINT_DENTRY || hint.kind == SF_HINT_XATTR;
      Wish wish{static_cast<sf_hint_kind>(hint.kind), hint.nid, hint.offset, hint.size, {}};
      if (named) {
        wish.name.assign(hint.name, hint.name_len);
        const bool bad = wish.name.empty() || wish.name.find('\0') != std::string::npos ||
                         (hint.kind == SF_HINT_DENTRY &&
                          (wish.name.find('/') != std::string::npos || wish.name == "." || wish.name == ".."));
        if (bad) continue;
      }
      bridge_.fetcher().want(std::move(wish));
    }
    __atomic_store_n(&session.hint_head, client.hint_head, __ATOMIC_RELEASE);
    __atomic_store_n(&session.sleeping, 1u, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&session.hint_tail, __ATOMIC_SEQ_CST) == client.hint_head) return;
  }
}

void Control::take_recency(Client &client) {
  if (!client.session) return;
  uint64_t refs[SF_RECENCY];
  for (uint32_t i = 0; i < SF_RECENCY; i++)
    refs[i] = __atomic_exchange_n(&client.session->recency[i], 0, __ATOMIC_RELAXED);
  auto end = std::remove(std::begin(refs), std::end(refs), 0);
  bridge_.cache().touched({refs, static_cast<size_t>(end - refs)});
}

/// Publishes what the kernel says of the mount; `changed`: the mount table did, clients have to look again.
void Control::watch_mounts(bool changed) {
  sf_segment_header *header = bridge_.cache().header();
  const std::string &point = bridge_.mount_point();
  auto entry = point.empty() ? std::nullopt : find_mount("/proc/self/mountinfo", point, header->mount_dev);
  if (entry) {
    uint32_t flags = 0;
    mount_options_.clear();
    auto flag = [&](bool on, sf_mount_flag bit, const char *name) {
      if (!on) return;
      flags |= bit;
      mount_options_.push_back(name);
    };
    flag(entry->default_permissions, SF_MNT_DEFAULT_PERMISSIONS, "default_permissions");
    flag(entry->allow_other, SF_MNT_ALLOW_OTHER, "allow_other");
    flag(entry->read_only, SF_MNT_READ_ONLY, "ro");
    flag(entry->noexec, SF_MNT_NOEXEC, "noexec");
    flag(bridge_.init_flags() & FUSE_POSIX_ACL, SF_MNT_POSIX_ACL, "posix_acl");
    flag(bridge_.init_minor() >= 39, SF_MNT_STATX, "statx");
    flag(entry->submounts || !entry->on_top, SF_MNT_SUBMOUNTS, "covered");
    if (bridge_.no_ioctl) flags |= SF_MNT_NO_IOCTL;
    if (bridge_.no_lseek) flags |= SF_MNT_NO_LSEEK;
    bridge_.read_only_mount = entry->read_only;
    mount_source_ = entry->source;
    mount_fstype_ = entry->fstype;
    mount_uid_ = entry->owner_uid;
    header->owner_uid = entry->owner_uid;
    header->owner_gid = entry->owner_gid;
    struct stat ns;
    if (stat("/proc/self/ns/mnt", &ns) == 0) header->mount_ns_ino = static_cast<uint32_t>(ns.st_ino);
    if (stat("/proc/self/ns/time", &ns) == 0) header->time_ns_ino = static_cast<uint32_t>(ns.st_ino);
    __atomic_store_n(&header->mount_flags, flags, __ATOMIC_RELAXED);
    __atomic_store_n(&header->mount_dev, entry->dev, __ATOMIC_RELAXED);
    // Readers look at the state first: everything above is there when they see SERVING.
    uint32_t starting = SF_SEG_STARTING;
    if (bridge_.initialised())
      __atomic_compare_exchange_n(&header->state, &starting, SF_SEG_SERVING, false, __ATOMIC_RELEASE,
                                  __ATOMIC_RELAXED);
  }
  if (entry && __atomic_load_n(&header->state, __ATOMIC_RELAXED) == SF_SEG_SERVING)
    registry_->announce(entry->dev, point);
  if (changed) __atomic_fetch_add(&header->mount_epoch, 1, __ATOMIC_RELEASE);
}

metrics::Snapshot Control::snapshot() {
  metrics::Snapshot s;
  s.version = SHORTFUSE_VERSION;
  s.mount.point = bridge_.mount_point();
  s.mount.source = mount_source_;
  s.mount.fstype = mount_fstype_;
  s.mount.daemon_pid = getpid();
  s.mount.opener_pid = bridge_.keeper().opener_pid();
  s.mount.uptime_ns = now_ns() - started_ns_;
  s.mount.owner_uid = mount_uid_;
  s.mount.flags = mount_options_;

  const auto policy = bridge_.policy();
  s.policy.paths = policy->policy().paths;
  s.policy.epoch = bridge_.cache().header()->policy_epoch;
  s.policy.swaps = bridge_.swaps();
  s.policy.native = policy->why_interpreted().empty();
  s.policy.why_interpreted = policy->why_interpreted();
  for (const auto &program : policy->policy().programs)
    s.policy.programs.push_back({program.info.section, program.info.name, program.info.insns});

  metrics::ClientTotals totals = gone_totals_;
  for (const auto &[fd, client] : clients_) {
    if (!client->session) continue;
    const metrics::ClientTotals own = metrics::fold_lanes({client->session->lane, SF_LANES});
    s.add_client(client->pid, client->session->comm, sizeof(client->session->comm), own);
    totals.add(own);
  }
  s.clients_gone = clients_gone_;
  s.set_ops(totals);
  s.set_fuse(bridge_.counters().totals(), sf_fuse_opcode_name);

  const cache::Stats stats = bridge_.cache().stats();
  s.cache.budget_bytes = stats.budget_bytes;
  s.cache.used_bytes = stats.used_bytes;
  s.cache.chunks = stats.chunks;
  s.cache.index_buckets = stats.index_buckets;
  s.cache.nodes = stats.nodes;
  s.cache.refused_fills = stats.refused_fills;
  s.cache.evictions = stats.evictions;
  s.cache.mutations = stats.mutations;
  s.cache.epoch_bumps = stats.epoch_bumps;
  for (int kind = SF_REC_NODE; kind < SF_REC_KINDS; kind++)
    s.cache.kinds.push_back({kKindNames[kind], stats.records[kind], stats.bytes[kind], stats.fills[kind]});
  return s;
}

}  // namespace shortfuse::bridge
