#include "open_tables.h"

#include <algorithm>
#include <atomic>

namespace shortfuse::bridge {

void OpenTables::add(const sf_session *session) {
  std::lock_guard guard(lock_);
  sessions_.push_back(session);
}

void OpenTables::remove(const sf_session *session) {
  std::lock_guard guard(lock_);
  std::erase(sessions_, session);
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
