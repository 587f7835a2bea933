/* Acting as the process that made the request.
 *
 * Linux keeps credentials and the umask per thread, so one worker can act as one user while another acts for another.
 * Where the kernel checks permissions (default_permissions) the caller's identity is taken, so that what is created
 * belongs to the caller, but not the caller's lack of permission: the kernel has decided already. Left out then are the
 * capabilities that would change a result: CAP_FSETID (keeps set-ID bits over writes), CAP_SYS_RESOURCE (quota and
 * reserved blocks) and CAP_SYS_ADMIN (trusted.* attributes). Without default_permissions the thread becomes the
 * caller in every respect, and the source's file system decides.
 *
 * A daemon that may not change its identity acts as itself. */
#pragma once
#include <fuse_lowlevel.h>

#include <cstdint>
#include <vector>

namespace shortfuse::passthrough {

struct CallerPolicy {
  bool may_impersonate = false;  ///< CAP_SETUID, CAP_SETGID, CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER are ours
  bool kernel_checks = true;     ///< default_permissions
  uid_t uid = 0;                 ///< our own
  gid_t gid = 0;
  uint64_t permitted = 0;        ///< our own capabilities
  uint64_t effective = 0;

  /// Reads our own credentials, gives up supplementary groups, which must not leak into what is done for others.
  static CallerPolicy of_this_process(bool kernel_checks);
};

/// What an operation needs beyond the caller's identity.
struct CallerNeeds {
  bool groups = false;    ///< the supplementary groups decide about a set-group-ID bit; costs a look into /proc
  bool keep_sgid = false; ///< chmod: the kernel has decided about the set-group-ID bit
  bool unprivileged = false;  ///< no capability, even where the kernel has checked
  bool only_powers = false;   ///< the group and the capabilities, no user: writing to an open file
};

/// The calling thread acts as the caller of `req` as long as this lives. Reply only afterwards.
class ActingAs {
 public:
  ActingAs(const CallerPolicy& policy, fuse_req_t req, CallerNeeds needs = {});
  ActingAs(const CallerPolicy& policy, uid_t uid, gid_t gid, CallerNeeds needs);
  ~ActingAs();
  ActingAs(const ActingAs&) = delete;

  /// 0, or the errno why the identity could not be taken: the operation must not be done then.
  int error() const { return error_; }

 private:
  void become(uid_t uid, gid_t gid, const std::vector<gid_t>* groups, CallerNeeds needs);
  const CallerPolicy& policy_;
  bool identity_changed_ = false, powers_changed_ = false, groups_changed_ = false;
  int error_ = 0;
};

/// Gives the calling thread a umask of its own. False where the system refuses that to a thread.
bool set_thread_umask(mode_t mask);

}  // namespace shortfuse::passthrough
