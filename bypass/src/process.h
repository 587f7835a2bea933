// What one process and one thread remember between calls.
//
// Three lifetimes, told apart by what fork() does to them:
//   Thread   thread-local. Copied into a forked child, which notices by `generation` that it is not its own.
//   Process  in pages with MADV_WIPEONFORK. A forked child finds zeroes (generation 0) and starts anew: own session,
//            own counters, and no lock that a thread of the parent held.
//   Global   ordinary memory. The child inherits it, and it stays true: mappings, descriptors, options.
// Nothing here blocks: a Latch is taken or not.
#pragma once
#include <stdint.h>

#include "shortfuse/bypass/bypass.h"
#include "shortfuse/cache/attach.h"
#include "shortfuse/metrics/lane.h"

namespace shortfuse::bypass {

constexpr unsigned kMountsMax = 16;
constexpr unsigned kGroupsMax = 64;     // of a caller; with more, group membership is left to the kernel
constexpr unsigned kIdRangesMax = 16;   // of a user namespace; numbers in further ones are left to the kernel
constexpr unsigned kReportPathMax = 1024;
constexpr unsigned kStaysMax = 8;       // of a thread at once, that a fault can end
constexpr unsigned kFormerMax = 64;     // sessions of a process that others have replaced
constexpr unsigned kRecentHints = 256;  // a power of two

/// Taken by a Hold only. A holder that dies in a fork is forgotten with the page it lies in.
class Latch {
 public:
  bool try_lock() {
    uint32_t free = 0;
    return __atomic_compare_exchange_n(&word_, &free, 1u, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
  }
  void unlock() { __atomic_store_n(&word_, 0u, __ATOMIC_RELEASE); }
  bool is_taken() const { return __atomic_load_n(&word_, __ATOMIC_RELAXED) != 0; }

 private:
  uint32_t word_;
};

/// No handler of the program's runs in this thread in between: one that leaves by siglongjmp(), or libc's own, by which
/// it cancels threads, would never come back. Not SIGSEGV and SIGBUS, which are the hook's.
uint64_t hold_off_signals();
void let_signals_in(uint64_t before);

/// A latch for the time of a scope, with signals held off. False: another has it, or this thread has one already.
/// What is done meanwhile is bounded in time.
class Hold {
 public:
  explicit Hold(Latch &latch);
  ~Hold();
  Hold(const Hold &) = delete;
  explicit operator bool() const { return taken_; }

 private:
  bool taken_ = false;
};
/// Of a call that a fault has ended.
void abandon_hold();

/// A thread's credentials as its system calls would use them. Valid while epoch == Global.creds_epoch.
struct Creds {
  uint32_t epoch;
  uint32_t ruid, euid, suid, fsuid;
  uint32_t rgid, egid, sgid, fsgid;
  bool dac_override, dac_read_search, sys_admin;
  bool known;             // all that a check needs could be had
  bool same_for_access;   // access(2) would decide by the same ids and capabilities
  bool groups_known;
  uint16_t groups;
  uint32_t group[kGroupsMax];
};

/// What a thread, with its credentials, has found out about a mount point (verify.cc).
struct Verdict {
  uint32_t serial;        // of the mount; 0: nothing. Written last
  uint32_t mount_epoch;   // header.mount_epoch and g.verify_epoch before it looked
  uint32_t verify_epoch;
  bool good;              // it is the mount, seen from here
  uint64_t at_ns;         // coarse
};

struct Thread {
  uint32_t generation;    // of the process it belongs to
  uint32_t tid;
  uint64_t random;
  uint32_t stays;         // begun and not ended (attach.h)
  uint32_t stays_at_call; // of them, those that calls interrupted by this one have begun
  struct {
    sf_lane *lane;
    bool shared;
  } stay[kStaysMax];      // for a call that a fault ends
  const sf_call *in_policy; // the innermost call for which a policy runs
  Latch *held;            // by a Hold; signals were as in held_mask before
  uint64_t held_mask;
  Creds creds;
  Verdict verdict[kMountsMax];
  struct {
    uint32_t serial;      // of the mount's attachment
    bool shared;          // the overflow lane: written by several threads
    uint32_t cpu;         // its number in the session
    sf_lane *lane;
  } lane[kMountsMax];
};

/// A process's own tie to the daemon of a mount.
struct Link {
  sf_session *session;    // null: none yet
  uint64_t session_bytes;
  uint32_t serial;        // of the attachment it belongs to
  int fd;                 // the hidden socket, -1 none
  uint64_t sock_ino;
  uint64_t retry_at_ns;   // not tried again before, after attaching a session failed; 0: has not failed
  uint32_t retries;
};

struct Process {
  uint32_t generation;    // 0: wiped by fork
  uint32_t pid;
  Latch attach_latch, hint_latch;
  uint32_t reported;
  uint32_t hints;
  uint32_t mounts_seen;
  Link link[kMountsMax];
  uint32_t formers;       // may exceed kFormerMax: then there are some that nobody knows
  const sf_session *former[kFormerMax];  // replaced; a thread may still be in a lane of theirs
  struct {
    uint64_t key;
    uint64_t at_ns;
  } recent[kRecentHints]; // hints left lately, so that a miss in a loop does not repeat them
  sf_lane own;            // calls counted while no session was there, and totals of sessions given up
};

struct Options {
  bool log;
  bool log_debug;
  bool serve_opens;       // SHORTFUSE_OPEN
  char log_path[kReportPathMax];    // empty: standard error
  char report_path[kReportPathMax]; // empty: none
};

/// The numbers of users (or groups) that are somebody in our user namespace. For others the kernel shows its overflow
/// number, and capabilities are of no use with what belongs to them.
struct IdMap {
  uint32_t ranges;        // atomic; written last
  struct {
    uint32_t first, count;
  } range[kIdRangesMax];
};

struct Global {
  bool started;
  bool inert;             // never serve again in this process
  bool offsets_off;       // io_uring, aio: every offset is the kernel's
  bool files_off;         // descriptors may change unseen: none is served
  bool opens_off;         // opens are the kernel's
  bool cwd_off;           // threads may have different working directories
  bool has_threads;       // or has had
  bool initial_user_ns;   // numbers of users are the kernel's own
  IdMap uids, gids;       // looked at where they are not
  bool fsids_set;         // setfsuid or setfsgid was called since the program began
  bool filtered;          // a filter of system calls has been set: calls that are only ours may be deadly
  bool own_mounts;        // this process, or one that it was forked from, has changed mounts
  bool child_inert;       // the fork under way makes a child in other namespaces
  uint32_t generation;    // of the newest Process
  uint32_t creds_epoch;   // raised by whatever changes credentials; never 0 once started
  uint32_t verify_epoch;  // raised when the mount table or the root seen by this process may have changed
  Process *process;       // the wiped pages; null before start
  Options options;
};

extern Global g;
extern __thread Thread t __attribute__((tls_model("initial-exec")));

/// False when pages that fork wipes cannot be had: then the process stays inert.
bool process_start();
/// The Process, set up again if a fork has wiped it; Thread likewise. Null: inert.
Process *process_now();
inline Thread &thread_now() { return t; }

/// Whether the process was started under a filter of system calls that might kill it for calls that only we make.
bool filter_may_kill(char **envp);

/// Stops serving in this process for good; offsets go back to the kernel first.
void go_inert(const char *why);

/// CLOCK_MONOTONIC, exact and coarse, without a system call where the vDSO can.
void clock_start(unsigned long auxv_vdso);
uint64_t clock_ns();
uint64_t clock_coarse_ns();

/// One line to SHORTFUSE_LOG. `detail` may be null.
void log_line(bool debug, const char *what, const char *detail = nullptr, long number = 0);

void options_start(char **envp);

}  // namespace shortfuse::bypass
