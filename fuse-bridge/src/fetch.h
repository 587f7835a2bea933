// The bridge's own requests: what a client missed and the kernel answered out of its own caches never reaches the
// daemon, so the bridge asks for it itself and keeps the reply like any other.
//
// A job is a few messages one after another (open, read ..., release). Messages go to the file system the way its
// session expects: where several threads serve it, a worker of ours calls fuse_session_process_buf; where a single
// thread does, our read() hands them to libfuse between two requests of the kernel (tap.cc). Replies come back
// through the same writev as all others, told apart by their unique number.
// A node that a job is about stays alive until the job has ended: of what the kernel forgets meanwhile, one reference
// is held back and given away afterwards. And no name is removed or replaced while a job has its file open: libfuse's
// high-level interface would keep such a file under another name.
// Everything is bounded: jobs under way, jobs waiting, references held. What does not fit is dropped: a hint is a wish.
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "open_tables.h"
#include "shortfuse/cache/attach.h"
#include "wire.h"

namespace shortfuse::bridge {

constexpr uint64_t kBridgeUnique = 1ull << 62;  ///< the kernel counts up from 2 and will not get there
constexpr size_t kJobsUnderWay = 32;
constexpr size_t kJobsWaiting = 4096;
constexpr size_t kReferencesHeld = 8192;     ///< each may cost the file system a descriptor
constexpr size_t kUncachedKnown = 4096;
constexpr uint32_t kFetchBytes = 128 * 1024;    ///< of one READ, what the kernel asks for by default too
constexpr uint32_t kFetchListingBytes = 64 * 1024;
constexpr uint64_t kPrefetchMax = 16ull << 20;  ///< of one wish

struct Wish {
  sf_hint_kind kind = SF_HINT_ATTR;
  cache::Nid nid = 0;
  uint64_t offset = 0, length = 0;
  std::string name;
};

struct FetchJob {
  Wish wish;
  uint64_t nodeid = 0;
  enum class Step { Attributes, Start, Reading, Closing } step = Step::Start;
  uint64_t file_handle = 0;
  uint64_t position = 0;
};

class Fetcher {
 public:
  Fetcher(cache::Cache &cache, const OpenTables &opens) : cache_(cache), opens_(opens) {}

  /// Asks for something; quickly nothing when it is already asked for, there, or there is too much to do.
  void want(Wish wish);
  /// A reply to one of our messages: the job's next step, or its end.
  void replied(const std::shared_ptr<FetchJob> &job, uint32_t opcode, int error, Bytes body);
  /// A LOOKUP of ours was answered: the reference is ours to give back, some day.
  void hold_reference(uint64_t nodeid);
  /// Gives one reference on a node back to the file system (it was handed to us in the kernel's place).
  void return_reference(uint64_t nodeid, uint64_t count);
  /// The kernel gives `count` references back: told to the cache here. Returns how many the file system may be told of;
  /// one less when a job needs the node until it has ended.
  uint64_t forgotten(uint64_t nodeid, uint64_t count);

  /// Gives back what was kept for applications that have closed meanwhile. Now and then.
  void tidy();

  /// The contents of this node are never asked for again: it is opened with FOPEN_DIRECT_IO.
  void leave_contents_alone(cache::Nid nid);

  /// Whether a job has this name's file open. Its jobs end early from then on.
  bool ending_jobs_on(cache::Nid dir, std::string_view name);
  /// Waits for that: false when it took too long. Not for the only thread that could end them.
  bool wait_for_jobs_on(cache::Nid dir, std::string_view name, std::chrono::milliseconds limit);

  struct Message {
    std::vector<std::byte> bytes;
    std::shared_ptr<FetchJob> job;  ///< null: FORGET, no reply
  };
  /// The next message to be given to the file system, if there is one; none after stop(). `wait`: until then.
  bool next(Message &message, bool wait);
  /// Called (with no lock held) whenever a message was queued: wakes a single-threaded reader.
  std::function<void()> on_queued;
  void stop();

 private:
  using Key = std::tuple<int, cache::Nid, uint64_t, std::string>;
  static Key key_of(const Wish &wish);
  bool worth_asking(const Wish &wish) const;
  bool has_kind_for(const Wish &wish) const;
  void start_locked(std::shared_ptr<FetchJob> job);
  void ask_locked(const std::shared_ptr<FetchJob> &job);
  void advance_locked(const std::shared_ptr<FetchJob> &job, int error, Bytes body);
  void finish_locked(const FetchJob &job);
  bool end_jobs_locked(cache::Nid dir, std::string_view name);
  void queue_locked(uint32_t opcode, uint64_t nodeid, Bytes arguments, std::shared_ptr<FetchJob> job);
  void read_more_locked(const std::shared_ptr<FetchJob> &job);
  void close_locked(const std::shared_ptr<FetchJob> &job);

  bool needed_by_application_locked(uint64_t nodeid, uint64_t count, cache::Holder holder);

  cache::Cache &cache_;
  const OpenTables &opens_;
  std::mutex lock_;
  std::condition_variable queued_;
  std::deque<Message> messages_;
  std::deque<std::shared_ptr<FetchJob>> waiting_;
  /// A node that jobs under way are about.
  struct Busy {
    unsigned jobs = 0;
    uint64_t held = 0;                ///< references to be given back when they have ended
    bool ending = false;              ///< its jobs close what they have open
  };
  std::map<uint64_t, Busy> busy_;     ///< by node id
  std::condition_variable idle_;      ///< a job has ended
  std::set<Key> known_;               ///< waiting and under way
  size_t under_way_ = 0;
  std::deque<uint64_t> references_;   ///< oldest first
  std::set<uint64_t> kept_open_;      ///< nodes of which one of the kernel's references is held for applications
  uint64_t next_unique_ = kBridgeUnique;
  std::set<cache::Nid> uncached_;     ///< opened with FOPEN_DIRECT_IO: the file system wants every read itself
  uint64_t unsupported_ = 0;          ///< bit per opcode that was answered ENOSYS
  bool stopped_ = false;
};

}  // namespace shortfuse::bridge
