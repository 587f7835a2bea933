#include "open_tables.h"

#include <algorithm>
#include <atomic>

namespace shortfuse::bridge {

namespace {

/// Unless the application has ended it.
void tell(sf_session *session, bool may) {
  uint32_t before = may ? SF_OPENS_NOT_NOW : SF_OPENS_KEPT;
  __atomic_compare_exchange_n(&session->opens_kept, &before, may ? SF_OPENS_KEPT : SF_OPENS_NOT_NOW, false,
                              __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

}  // namespace

void OpenTables::add(sf_session *session) {
  std::lock_guard guard(lock_);
  sessions_.push_back(session);
  tell(session, offered_);
}

void OpenTables::remove(sf_session *session) {
  std::lock_guard guard(lock_);
  // Should it live on, it is to be served no open that nobody looks after.
  if (std::erase(sessions_, session) != 0) __atomic_store_n(&session->opens_kept, SF_OPENS_ENDED, __ATOMIC_SEQ_CST);
}

void OpenTables::offer(bool may) {
  std::lock_guard guard(lock_);
  offered_ = may;
  for (sf_session *session : sessions_) tell(session, may);
}

bool OpenTables::has(cache::Nid nid) const {
  // Pairs with the client's compare-and-swap: it looks at the records after that, we look here after they have gone.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint32_t place = sf_open_place(nid);
  std::lock_guard guard(lock_);
  return std::ranges::any_of(sessions_, [&](const sf_session *session) {
    for (uint32_t i = 0; i < SF_OPEN_PROBE; i++)
      if (__atomic_load_n(&session->open[place + i], __ATOMIC_ACQUIRE) == nid) return true;
    return false;
  });
}

}  // namespace shortfuse::bridge
