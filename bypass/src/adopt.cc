// For unit tests: a mount without a daemon.
#include "attach.h"
#include "files.h"
#include "text.h"

namespace shortfuse::bypass {

Mount *adopt_for_test(const sf_view &view, const char *mount_point, const RootFacts &root, const Policy *policy) {
  static uint32_t serials = 1000;
  for (Mount &m : mounts) {
    if (state_of(m) != MountState::Free) continue;
    m.view = view;
    m.root = root;
    m.policy = policy;
    m.policy_asked = view.header->policy_epoch;
    m.point_len = static_cast<uint32_t>(text_len(mount_point));
    m.point_word = m.point_mask = 0;
    for (uint32_t i = 0; i <= m.point_len; ++i) {
      m.point[i] = mount_point[i];
      if (i >= 8 || i == m.point_len) continue;
      m.point_word |= static_cast<uint64_t>(static_cast<unsigned char>(mount_point[i])) << (8 * i);
      m.point_mask |= 0xffull << (8 * i);
    }
    m.foreign_namespace = false;
    m.serial = ++serials;
    unsigned index = index_of(m);
    g.process->link[index].retry_at_ns = clock_coarse_ns() + INT64_MAX / 2;  // there is no daemon
    if (index >= mounts_used) mounts_used = index + 1;
    __atomic_store_n(&m.state, static_cast<uint32_t>(MountState::Attached), __ATOMIC_RELEASE);
    files_cwd_changed();
    return &m;
  }
  return nullptr;
}

void drop_for_test(Mount *m) {
  m->policy = nullptr;
  m->serial = 0;
  __atomic_store_n(&m->state, static_cast<uint32_t>(MountState::Free), __ATOMIC_RELEASE);
}

}  // namespace shortfuse::bypass
