// One accelerated mount: what happens to every request and every reply.
//
//     read():   kernel --request--> note it, run fuse/OP, begin mutation --> file system
//     write():  file system --reply--> run fuse_exit/OP, keep, end mutation --> kernel
//
// The tap (tap.cc) calls read() and write() from whatever threads the daemon uses; everything here is thread-safe.
// Lock order: the parts (cache, pending, fetcher, listings) have leaf locks and never call each other under them,
// except the fetcher, which asks the cache.
#pragma once
#include <sys/uio.h>

#include <atomic>
#include <future>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "cpu_number.h"
#include "fetch.h"
#include "handles.h"
#include "keeper.h"
#include "listings.h"
#include "options.h"
#include "pending.h"
#include "policy_set.h"
#include "shortfuse/metrics/snapshot.h"

struct fuse_session;

namespace shortfuse::bridge {

class Control;

/// What one run of a policy chain may look at and leave behind (policy_host.cc).
struct ProgramRun {
  class Bridge &bridge;
  const PolicySet &policy;
  const Request &request;
  cache::Nid nid;
  Bytes reply;                        ///< fuse_exit only
  bool probing = false;               ///< asks only for a denial: nothing is served or fetched
  bool keep = false;                  ///< fuse_exit: sf_keep was called
  uint64_t ttl_ns = 0, negative_ttl_ns = 0;
  int keep_error = 0;                 ///< what sf_keep answers: 0 or -ENOTSUP
  bool served = false;                ///< fuse: `answer` and `answer_error` are the reply
  int answer_error = 0;
  std::vector<std::byte> answer{};
};

class Bridge {
 public:
  /// Loads the policy and makes the cache; touches nothing outside the process. Errors are for people.
  static std::expected<std::unique_ptr<Bridge>, std::string> create(const Options &options);
  ~Bridge();

  /// libfuse's high-level interface makes a node of every name, also of hard links to one file.
  void has_a_node_per_name() { many_nodes_per_file_ = true; }
  /// The session is mounted at this canonical path (empty: not known) through fd.
  void mounted(fuse_session *session, int fd, const std::string &mount_point);
  /// The connection has ended or the session is being unmounted. Idempotent; safe from an exit handler.
  void gone();
  /// Ends our threads; after it nothing of ours calls the session. False: the file system did not come back from what
  /// we asked last, and that thread is left to itself; this object has to stay.
  bool stop();
  /// The process that reads requests (after daemonisation); 0 before the first read.
  pid_t serving_process() const { return serving_process_.load(std::memory_order_relaxed); }

  /// libfuse's device reads and writes (struct fuse_custom_io).
  ssize_t read(int fd, void *buffer, size_t size);
  ssize_t write(int fd, const iovec *iov, int count);

  // ---- for the control socket and the policy host
  cache::Cache &cache() { return *cache_; }
  Fetcher &fetcher() { return fetcher_; }
  OpenTables &opens() { return opens_; }
  Keeper &keeper() { return keeper_; }
  std::shared_ptr<const PolicySet> policy() const { return policy_.load(); }
  const Options &options() const { return options_; }
  /// Verifies, compiles and publishes another chain; the old one stays when that fails.
  std::expected<void, std::string> swap(const std::vector<std::string> &paths);
  CpuNumbers &cpu_numbers() { return cpu_numbers_; }
  uint64_t swaps() const { return swaps_.load(std::memory_order_relaxed); }
  const metrics::BridgeCounters &counters() const { return counters_; }
  const std::string &mount_point() const { return mount_point_; }
  bool initialised() const { return initialised_.load(std::memory_order_acquire); }
  uint32_t init_flags() const { return init_flags_.load(std::memory_order_relaxed); }
  uint32_t init_minor() const { return init_minor_.load(std::memory_order_relaxed); }
  /// Known once the mount table was read: nobody can write to this mount.
  std::atomic<bool> read_only_mount{false};
  std::atomic<bool> no_ioctl{false};   ///< the file system answered IOCTL with ENOSYS
  std::atomic<bool> no_lseek{false};   ///< likewise LSEEK

  // ---- serving requests out of the cache (serve.cc): true when run.answer is the reply
  bool serve(ProgramRun &run, sf_host_id what);

 private:
  Bridge(const Options &options, std::unique_ptr<cache::Cache> cache);

  // request.cc
  void start_service();
  ssize_t next_message(int fd, void *buffer, size_t size);
  ssize_t take_own_message(void *buffer, size_t size);
  enum class Then { PassOn, Answered };
  Then on_request(int fd, Bytes message, std::shared_ptr<FetchJob> job);
  Then apply_policy(int fd, const PolicySet &policy, const Request &request, cache::Nid nid, uint64_t started_ns,
                    const std::shared_ptr<FetchJob> &job);
  size_t take_forgets(std::span<std::byte> message);
  /// The name that a request takes from a file, where libfuse would rename instead while we have it open.
  bool removes_name(const Request &request, cache::Nid *dir, std::string_view *name);
  bool must_wait_for_jobs(Bytes message);
  ssize_t deferred_message(void *buffer, size_t size);
  void begin_mutation(Pending &pending);
  /// A node that a request takes the name or the accessibility of; nid 0: none.
  struct Loss {
    cache::Nid nid = 0;
    cache::Nid dir = 0;                ///< whose `name` it is that goes; 0: none goes
    std::string_view name;             ///< inside the request
  };
  Loss loss_by(const Request &request, cache::Nid nid);
  ssize_t ready_message(void *buffer, size_t size);
  /// True: an application was served an open of the node, and the request waits until it is kept.
  bool park(Bytes message, Pending &pending, const Loss &loss);
  void go_on(Parked parked);
  void answer(int fd, uint64_t unique, int error, Bytes body);
  void work();

  // reply.cc
  ssize_t on_reply(int fd, const fuse_out_header &out, Bytes body, const iovec *iov, int count);
  void on_notification(const fuse_out_header &out, Bytes body);
  void keep_reply(Pending &pending, int error, Bytes body, const ProgramRun &run);
  bool keeps_contents(cache::Nid nid);
  void keep_hole(const Pending &pending, const fuse_lseek_out &out);
  void keep_entry(Pending &pending, int error, Bytes body, const ProgramRun &run);
  void keep_listing(Pending &pending, Bytes body, const ProgramRun &run);
  void keep_xattr(Pending &pending, int error, Bytes body, const ProgramRun &run);
  void note_missing(uint32_t opcode);
  int deny_late(const Pending &pending, Bytes body);
  void learn_entries(Pending &pending, Bytes body, std::vector<std::byte> &rewritten);
  void end_mutation(Pending &pending, int error);
  void unlearn(const Pending &pending, Bytes body);
  void rewrite_init(Bytes body, std::vector<std::byte> &rewritten);
  void note_handle(const Pending &pending, Bytes body);
  void read_directly(cache::Nid nid);
  bool wants_every_read(cache::Nid nid);
  bool keeps_attr(const fuse_attr &attr) const;
  void note_link(const Pending &pending, Bytes body);
  void note_effects(const Pending &pending, int error, Bytes body);

  // bridge.cc
  /// What the chain would say to a LOOKUP of the name, without serving or fetching anything.
  bool denies_name(const PolicySet &policy, const Request &like, cache::Nid dir, std::string_view name, int *error);
  void take_back_denied_names();

  Options options_;
  std::unique_ptr<cache::Cache> cache_;
  ActivePolicy policy_;
  CpuNumbers cpu_numbers_;
  OpenTables opens_;
  Keeper keeper_{opens_};
  Fetcher fetcher_;
  Listings listings_;
  PendingTable pending_;
  metrics::BridgeCounters counters_;
  std::unique_ptr<Control> control_;
  std::string mount_point_;
  fuse_session *session_ = nullptr;
  int device_fd_ = -1;
  Descriptor wake_fd_;                       ///< eventfd: a message of ours waits for a single-threaded session
  std::once_flag service_started_;
  std::atomic<int> first_reader_{0};         ///< thread id; a second one proves that the session is multi-threaded
  std::atomic<bool> many_threads_{false};
  std::once_flag worker_started_;
  std::thread worker_;
  std::promise<void> worker_ended_;
  bool worker_lost_ = false;
  std::atomic<pid_t> serving_process_{0};
  std::atomic<bool> gone_{false};
  std::atomic<bool> initialised_{false};
  Handles handles_;
  std::mutex direct_lock_;
  std::unordered_set<cache::Nid> direct_;    ///< nodes opened with FOPEN_DIRECT_IO in their life
  std::atomic<bool> all_direct_{false};      ///< too many of them to know each
  std::atomic<bool> many_nodes_per_file_{false};  ///< hard links are nodes of their own
  std::atomic<bool> links_uncounted_{false};      ///< and st_nlink does not tell which files have several
  std::mutex deferred_lock_;
  std::vector<std::byte> deferred_;          ///< a request that waits for our jobs to end, when one thread read it
  uint64_t deferred_until_ns_ = 0;
  std::atomic<bool> deferring_{false};       ///< `deferred_` holds one
  std::mutex ready_lock_;
  std::deque<std::vector<std::byte>> ready_; ///< requests that were put aside and go on, where one thread reads
  std::atomic<bool> no_open_{false};         ///< the file system answered OPEN with ENOSYS: writers are invisible
  std::atomic<uint32_t> init_flags_{0}, init_minor_{0};
  std::atomic<uint64_t> swaps_{0};
};

/// CLOCK_MONOTONIC, ns.
uint64_t now_ns();

/// Host functions of programs in the daemon, for sf_vm_env.host.
/// Runs the slot's chain over the run's request; the verdict.
int run_programs(ProgramRun &run, unsigned slot_base, int error);

}  // namespace shortfuse::bridge
