// The hint ring of the session: many threads of this process push, the bridge takes.
//
// A latch, tried and never waited for, makes the threads one writer. The bridge sleeps only after it has said so in
// `sleeping` and looked at the tail once more; we store the tail, fence, and look at `sleeping`: one of the two
// sees the other.
#include "hints.h"

#include "attach.h"
#include "kernel.h"

namespace shortfuse::bypass {

// The same hint again so soon: the bridge could not keep what it fetched, or is not done yet.
constexpr uint64_t kRepeatPauseNs = 50'000'000;

static bool is_there(sf_find find) { return find == SF_FIND_OK || find == SF_FIND_BUSY; }

// What the wish is for has come with the real call's reply.
static bool fulfilled(const Mount &m, const Wish &w) {
  const sf_view *view = &m.view;
  sf_moment moment = {};
  sf_attr_view attr;
  uint64_t other;
  uint32_t len, parts;
  if (w.kind == SF_HINT_DENTRY) {
    return is_there(
        sf_find_dentry(view, w.nid, w.name, w.name_len, sf_name_hash(view, w.name, w.name_len), &moment, &other));
  }
  if (w.kind == SF_HINT_STATFS) {
    fuse_kstatfs st;
    return is_there(sf_find_statfs(view, &moment, &st));
  }
  bool have_attr = is_there(sf_find_attr(view, w.nid, &moment, &attr));
  if (w.kind == SF_HINT_ATTR) return have_attr && !(attr.flags & SF_RECF_ATIME_STALE);
  if (!have_attr || attr.cid == 0) return false;
  switch (w.kind) {
    case SF_HINT_DATA: return sf_find_ref(view, SF_REC_DATA, attr.cid, w.offset / SF_PAGE_BYTES) != 0;
    case SF_HINT_LISTING: return is_there(sf_find_listing(view, attr.cid, 0, nullptr, 0, &len, &parts));
    case SF_HINT_LINK: return is_there(sf_find_blob(view, SF_REC_LINK, attr.cid, nullptr, 0, &len));
    case SF_HINT_XLIST: return is_there(sf_find_blob(view, SF_REC_XLIST, attr.cid, nullptr, 0, &len));
    case SF_HINT_XATTR: {
      int error;
      return is_there(sf_find_xattr(view, attr.cid, w.name, w.name_len, nullptr, 0, &len, &error));
    }
    default: return true;
  }
}

static uint64_t key_of(unsigned mount, const Wish &w) {
  uint64_t key =
      (w.nid * 0x9e3779b97f4a7c15ull) ^ (w.offset * 0xc2b2ae3d27d4eb4full) ^ (w.kind * 0x165667b19e3779f9ull) ^ mount;
  for (unsigned i = 0; i < w.name_len; ++i) key = (key ^ static_cast<unsigned char>(w.name[i])) * 0x100000001b3ull;
  return key ^ (key >> 29) ^ 1;
}

static bool left_lately(Process *process, uint64_t key) {
  auto &slot = process->recent[key >> 17 & (kRecentHints - 1)];
  uint64_t now = clock_coarse_ns();
  if (slot.key == key && now - slot.at_ns < kRepeatPauseNs) return true;
  slot.key = key;
  slot.at_ns = now;
  return false;
}

static bool push(sf_session *session, const Wish &w) {
  uint32_t tail = session->hint_tail;
  if (tail - __atomic_load_n(&session->hint_head, __ATOMIC_ACQUIRE) >= SF_HINTS) return false;
  sf_hint &hint = session->hint[tail % SF_HINTS];
  hint.kind = w.kind;
  hint.name_len = w.name_len;
  hint.nid = w.nid;
  hint.offset = w.offset;
  hint.size = w.size;
  for (unsigned i = 0; i < w.name_len; ++i) hint.name[i] = w.name[i];
  hint.name[w.name_len] = 0;
  __atomic_store_n(&session->hint_tail, tail + 1, __ATOMIC_RELEASE);  // publishes the hint
  return true;
}

void leave_hint(Mount *m, const Wish &wish) {
  if (wish.kind == 0 || fulfilled(*m, wish)) return;
  Process *process = process_now();
  if (process == nullptr) return;
  sf_session *session = session_of(*m);
  bool pushed = false;
  if (Hold hold(process->hint_latch); hold) {
    pushed = session != nullptr && !left_lately(process, key_of(index_of(*m), wish)) && push(session, wish);
    process->hints += pushed ? 1 : 0;
  }
  if (!pushed) return;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (__atomic_load_n(&session->sleeping, __ATOMIC_RELAXED) != 0) wake_bridge(m);
}

}  // namespace shortfuse::bypass
