#include "caller.h"

#include <linux/capability.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "report.h"

namespace shortfuse::passthrough {
namespace {

constexpr uint64_t bit(int capability) { return 1ull << capability; }
constexpr uint64_t kNeeded =
    bit(CAP_SETUID) | bit(CAP_SETGID) | bit(CAP_CHOWN) | bit(CAP_DAC_OVERRIDE) | bit(CAP_FOWNER);
constexpr uint64_t kChangesResults = bit(CAP_FSETID) | bit(CAP_SYS_RESOURCE) | bit(CAP_SYS_ADMIN);

// The C library's setgroups() and capset() wrappers act on the whole process; the system calls on this thread.
int set_groups(const std::vector<gid_t>& groups) {
  return syscall(SYS_setgroups, groups.size(), groups.data()) == 0 ? 0 : errno;
}

int set_effective(uint64_t permitted, uint64_t effective) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  for (int word = 0; word < 2; ++word) {
    data[word].permitted = static_cast<uint32_t>(permitted >> (32 * word));
    data[word].effective = static_cast<uint32_t>(effective >> (32 * word));
  }
  return syscall(SYS_capset, &header, data) == 0 ? 0 : errno;
}

int set_fs_gid(gid_t gid) {
  syscall(SYS_setfsgid, gid);
  return static_cast<gid_t>(syscall(SYS_setfsgid, -1)) == gid ? 0 : EPERM;
}

int set_fs_uid(uid_t uid) {
  syscall(SYS_setfsuid, uid);
  return static_cast<uid_t>(syscall(SYS_setfsuid, -1)) == uid ? 0 : EPERM;
}

std::vector<gid_t> groups_of(fuse_req_t req) {
  std::vector<gid_t> groups(64);
  for (;;) {
    int count = fuse_req_getgroups(req, static_cast<int>(groups.size()), groups.data());
    if (count < 0) return {};  // the process is not visible from here
    bool fits = static_cast<size_t>(count) <= groups.size();
    groups.resize(static_cast<size_t>(count));
    if (fits) return groups;
  }
}

}  // namespace

CallerPolicy CallerPolicy::of_this_process(bool kernel_checks) {
  CallerPolicy policy;
  policy.kernel_checks = kernel_checks;
  policy.uid = geteuid();
  policy.gid = getegid();
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (syscall(SYS_capget, &header, data) != 0) return policy;
  policy.effective = data[0].effective | static_cast<uint64_t>(data[1].effective) << 32;
  policy.permitted = data[0].permitted | static_cast<uint64_t>(data[1].permitted) << 32;
  policy.may_impersonate = (policy.effective & kNeeded) == kNeeded;
  if (policy.may_impersonate) set_groups({});  // a user namespace may forbid it; then there are none to speak of
  return policy;
}

bool set_thread_umask(mode_t mask) {
  thread_local bool own = unshare(CLONE_FS) == 0;
  if (own) umask(mask);
  return own;
}

ActingAs::ActingAs(const CallerPolicy& policy, fuse_req_t req, CallerNeeds needs) : policy_(policy) {
  const fuse_ctx* context = fuse_req_ctx(req);
  if (!policy.may_impersonate || (context->uid == 0 && context->gid == policy.gid && policy.uid == 0)) return;
  bool want_groups = context->uid != 0 && (needs.groups || !policy.kernel_checks) && !needs.only_powers;
  if (want_groups) {
    std::vector<gid_t> groups = groups_of(req);
    become(context->uid, context->gid, &groups, needs);
  } else {
    become(context->uid, context->gid, nullptr, needs);
  }
}

ActingAs::ActingAs(const CallerPolicy& policy, uid_t uid, gid_t gid, CallerNeeds needs) : policy_(policy) {
  if (policy.may_impersonate) become(uid, gid, nullptr, needs);
}

void ActingAs::become(uid_t uid, gid_t gid, const std::vector<gid_t>* groups, CallerNeeds needs) {
  if (groups && !groups->empty()) {
    if ((error_ = set_groups(*groups)) != 0) return;
    groups_changed_ = true;
  }
  identity_changed_ = true;
  if ((error_ = set_fs_gid(gid)) != 0) return;
  if (!needs.only_powers && (error_ = set_fs_uid(uid)) != 0) return;
  if (uid == 0) return;
  uint64_t powers = policy_.effective & ~kChangesResults;
  if (needs.keep_sgid) powers |= policy_.effective & bit(CAP_FSETID);
  if (needs.unprivileged || !policy_.kernel_checks) powers = 0;
  powers_changed_ = true;
  error_ = set_effective(policy_.permitted, powers);
}

ActingAs::~ActingAs() {
  if (!identity_changed_ && !powers_changed_ && !groups_changed_) return;
  // The powers first, as they allow the rest; once more at the end, as a change of identity raises some.
  bool restored = set_effective(policy_.permitted, policy_.effective) == 0;
  if (identity_changed_) {
    restored = set_fs_uid(policy_.uid) == 0 && restored;
    restored = set_fs_gid(policy_.gid) == 0 && restored;
  }
  if (groups_changed_) restored = set_groups({}) == 0 && restored;
  if (identity_changed_ && policy_.effective != policy_.permitted) {
    restored = set_effective(policy_.permitted, policy_.effective) == 0 && restored;
  }
  if (restored) return;
  report("a thread cannot give back the identity of a caller; stopping");
  abort();
}

}  // namespace shortfuse::passthrough
