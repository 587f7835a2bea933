// Meeting the daemons: finding them, mapping what they give, and letting go.
#pragma once
#include "mount.h"

namespace shortfuse::bypass {

/// Looks for registries and attaches to what they list. Called once.
void attach_start();

/// Called for a path that matched no mount: two loads, unless something new may be there.
void look_for_mounts();
/// The registries are looked for again at the next chance (chdir).
void look_again_soon();

/// Attaching raises the limit of descriptors for a moment. A child, or another program, must not inherit that: called
/// before there is one. Waits a limited time.
void wait_for_own_limit();

/// A thread's stay in a mount: its lane is active and the mount's mappings are safe in between.
class Stay {
 public:
  /// entered() tells whether the mount is still the one meant and served, and, when `by_path`, whether paths may be
  /// walked in it. `by_policy`: the one in force is needed, and not entered where it cannot be had now.
  Stay(MountRef ref, bool by_path, bool by_policy = true);
  ~Stay();
  Stay(const Stay &) = delete;
  bool entered() const { return entered_; }
  sf_lane *lane() const { return lane_; }
  bool shared_lane() const { return shared_; }

 private:
  void arrive();
  void leave();
  sf_lane *lane_ = nullptr;
  uint32_t generation_ = 0;
  bool shared_ = false;
  bool entered_ = false;
};

/// A fault ended the call: the stays that it began, whose frames are gone, end with it.
void abandon_stays();
/// How old a verdict on the mount point may be: nothing tells of what happens to the directories above it.
constexpr uint64_t kVerdictNs = 1'000'000'000;
/// Looks (again) at the mount point. True when paths may be walked; a refusal holds for kVerdictNs.
bool verify_again(Mount *m);
/// For a path that begins at the mount point, in a stay by path: the verdict is young enough, or the same again.
inline bool verified_lately(Mount *m, uint64_t now_ns) {
  const Verdict &verdict = t.verdict[index_of(*m)];
  return static_cast<int64_t>(now_ns - verdict.at_ns) < static_cast<int64_t>(kVerdictNs) || verify_again(m);
}

/// Asks the daemon for chunks and policy that are new. True when something came.
bool refresh(Mount *m);
/// Wakes the bridge after a hint.
void wake_bridge(Mount *m);

/// The session of this process for a mount, or null.
sf_session *session_of(const Mount &m);
/// Thread exit: lanes of the thread become free.
void release_lanes();

/// Keeps a duplicate of `fd` at a number that the application does not see, as what placeholders are made of.
bool hide_source(int fd);
/// -1: there is none.
int hidden_source();
void forget_source();

/// Descriptor numbers we hold and the application must not see.
bool is_hidden(int fd);
/// The application takes this number for itself: ours moves elsewhere, or is given up.
void vacate(int fd);
/// The lowest hidden number in [first, last], or -1.
int hidden_between(unsigned first, unsigned last);

/// In a forked child, before anything is served: the parent's sockets are closed.
void attach_after_fork();

/// Which node a descriptor (or AT_FDCWD) is, when it lies on an attached mount.
struct Identity {
  MountRef mount;
  uint64_t nodeid;
};
bool identify(int fd, Identity *out);

#ifdef SF_BYPASS_TESTING
/// Tests put a mount in place by hand: a view of a cache in this process, a policy image, and their own identify().
Mount *adopt_for_test(const sf_view &view, const char *mount_point, const RootFacts &root, const Policy *policy);
void drop_for_test(Mount *m);
extern bool (*identify_for_test)(int fd, Identity *out);
/// The mounts of this test are not FUSE's.
extern bool plain_mounts_for_test;
/// The only registry that is looked at, at the next attach_start(). Null: none, so that no mount of this machine
/// matters.
extern const char *registry_for_test;
/// How long a daemon is waited for: one that is slow because the machine is must not fail a test.
extern int answer_timeout_ms_for_test;
#endif

}  // namespace shortfuse::bypass
