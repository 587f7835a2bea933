// Lanes, and staying in a mount.
//
// A thread raises its lane's `active` and then looks whether the mount is still there; whoever wants to unmap makes
// it unreachable first, then runs membarrier(), which is a full fence in every running thread, and looks at all
// lanes. So either the thread sees that the mount is gone, or the other sees that the thread is inside. The hit path
// pays one plain store each way.
#include "attach.h"
#include "attach_internal.h"
#include "kernel.h"

namespace shortfuse::bypass {

// ---- lanes

static void claim_lane(Process *process, unsigned index) {
  Link &link = process->link[index];
  auto &mine = t.lane[index];
  mine.serial = link.serial;
  mine.lane = &process->own;
  mine.shared = true;
  sf_session *session = __atomic_load_n(&link.session, __ATOMIC_ACQUIRE);
  if (session == nullptr) return;
  for (unsigned i = 0; i + 1 < SF_LANES; ++i) {
    uint32_t free = 0;
    if (__atomic_compare_exchange_n(&session->lane[i].owner, &free, t.tid, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
      mine.lane = &session->lane[i];
      mine.shared = false;
      mine.cpu = i;
      return;
    }
  }
  mine.lane = &session->lane[SF_LANES - 1];
}

static bool is_due(const Link &link) {
  return link.session == nullptr &&
         (link.retry_at_ns == 0 || static_cast<int64_t>(clock_coarse_ns() - link.retry_at_ns) >= 0);
}

// A forked child has no session of its own yet. Where the daemon gives none it is asked again, later and later: without
// one the child is served, but what its programs write to maps, and that it is there, nobody sees.
static void want_session(Process *process, Mount *m) {
  Link &link = process->link[index_of(*m)];
  if (!is_due(link)) return;
  Hold hold(process->attach_latch);
  if (!hold) return;
  if (is_due(link) && state_of(*m) == MountState::Attached && !attach_session(m)) {
    link.retry_at_ns = clock_coarse_ns() + (kRetryNs << link.retries);
    if (link.retries < kRetryDoublingsMax) ++link.retries;
  }
}

void release_lanes() {
  Process *process = g.process;
  if (process == nullptr || t.generation != process->generation) return;
  for (auto &mine : t.lane) {
    if (mine.lane != nullptr && !mine.shared) {
      mine.lane->active = 0;
      __atomic_store_n(&mine.lane->owner, 0u, __ATOMIC_RELEASE);
    }
    mine.lane = nullptr;
  }
}

static void add_lane(sf_lane *to, const sf_lane &from) {
  __atomic_add_fetch(&to->bytes_served, from.bytes_served, __ATOMIC_RELAXED);
  for (unsigned op = 0; op < SF_OP_COUNT; ++op) {
    for (unsigned i = 0; i < SF_OUT_COUNT; ++i)
      __atomic_add_fetch(&to->count[op][i], from.count[op][i], __ATOMIC_RELAXED);
    for (unsigned i = 0; i < SF_MISS_COUNT; ++i)
      __atomic_add_fetch(&to->miss[op][i], from.miss[op][i], __ATOMIC_RELAXED);
  }
}

void fold_session(const sf_session &session) {
  for (const sf_lane &lane : session.lane) add_lane(&g.process->own, lane);
}

// ---- unmapping in safety

static bool fence_all_threads() {
  long result = SF_SYS3(__NR_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
  if (result == -EPERM) {
    SF_SYS3(__NR_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
    result = SF_SYS3(__NR_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
  }
  return !is_error(result);
}

static bool somebody_in(const sf_session *session) {
  if (session == nullptr) return false;
  for (const sf_lane &lane : session->lane) {
    if (__atomic_load_n(&lane.active, __ATOMIC_ACQUIRE) != 0) return true;
  }
  return false;
}

bool nobody_inside() {
  if (!fence_all_threads()) return false;
  Process *process = g.process;
  if (__atomic_load_n(&process->own.active, __ATOMIC_ACQUIRE) != 0) return false;
  for (const Link &link : process->link) {
    if (somebody_in(link.session)) return false;
  }
  if (process->formers > kFormerMax) return false;
  for (unsigned i = 0; i < process->formers; ++i) {
    if (somebody_in(process->former[i])) return false;
  }
  return true;
}

// ---- staying

static void leave_lane(sf_lane *lane, bool shared) {
  if (shared) {
    __atomic_sub_fetch(&lane->active, 1u, __ATOMIC_RELEASE);
  } else {
    __atomic_store_n(&lane->active, lane->active - 1, __ATOMIC_RELEASE);
  }
}

void Stay::arrive() {
  // Counted, not set: a signal handler may arrive while its thread is inside.
  if (shared_) {
    __atomic_add_fetch(&lane_->active, 1u, __ATOMIC_SEQ_CST);
  } else {
    __atomic_store_n(&lane_->active, lane_->active + 1, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);  // the processor's part is membarrier's
  }
}

void Stay::leave() { leave_lane(lane_, shared_); }

void abandon_stays() {
  const bool ours = t.generation == g.process->generation;
  // A call that this one interrupted is still inside. One deeper than the array is only never unmapped under.
  while (t.stays > t.stays_at_call) {
    if (--t.stays < kStaysMax && ours) leave_lane(t.stay[t.stays].lane, t.stay[t.stays].shared);
  }
  // How many calls this one interrupted had begun is no longer known. There is hardly ever more than one of them.
  t.stays_at_call = 0;
}

// A daemon that is busy (it compiles, say) may not answer in time: the former policy must not serve on for that.
static bool is_to_be_asked_for(const Mount &m, uint32_t epoch) {
  const uint64_t retry = __atomic_load_n(&m.policy_retry_at_ns, __ATOMIC_RELAXED);
  return epoch != m.policy_asked || (retry != 0 && static_cast<int64_t>(clock_coarse_ns() - retry) >= 0);
}

Stay::Stay(MountRef ref, bool by_path, bool by_policy) {
  Process *process = process_now();
  if (process == nullptr) return;
  Mount *m = ref.mount;
  unsigned index = index_of(*m);
  auto &mine = t.lane[index];
  if (mine.lane == nullptr || mine.serial != process->link[index].serial || mine.serial == 0) [[unlikely]] {
    want_session(process, m);
    claim_lane(process, index);
  }
  lane_ = mine.lane;
  shared_ = mine.shared;
  generation_ = t.generation;
  for (int attempt = 0; attempt < 3; ++attempt) {
    arrive();
    if (state_of(*m) != MountState::Attached || __atomic_load_n(&m->serial, __ATOMIC_ACQUIRE) != ref.serial) break;
    const sf_segment_header *header = m->view.header;
    if (!sf_view_serving(&m->view)) [[unlikely]] {
      leave();
      detach(m);
      return;
    }
    uint32_t epoch = __atomic_load_n(&header->policy_epoch, __ATOMIC_ACQUIRE);
    const Policy *policy = policy_of(*m);
    const bool other = by_policy && epoch != (policy != nullptr ? policy->epoch : 0);
    if (other && is_to_be_asked_for(*m, epoch)) [[unlikely]] {
      leave();
      refresh(m);
      if (attempt == 2) return;
      continue;
    }
    if (by_path) {
      if (header->mount_flags & SF_MNT_SUBMOUNTS) break;
      if (m->foreign_namespace || (!verified(*m) && !verify_again(m))) break;
    }
    entered_ = true;
    if (t.stays < kStaysMax) t.stay[t.stays] = {lane_, shared_};
    __atomic_signal_fence(__ATOMIC_RELEASE);
    ++t.stays;
    return;
  }
  leave();
}

Stay::~Stay() {
  if (!entered_) return;
  --t.stays;
  __atomic_signal_fence(__ATOMIC_RELEASE);
  // In a child that a signal handler forked in the middle of the call: the lane is its parent's, who is still inside.
  if (g.process->generation == generation_) leave();
}

}  // namespace shortfuse::bypass
