// Files that are removed or replaced while an application has them open without the kernel's knowledge.
//
// An open that was served from the cache (bypass/src/opens.h) must go on working when its name goes, and the file
// system knows of no open. So before UNLINK, RMDIR or RENAME of a name whose node stands in an open table is given to
// the file system, the request is put aside, and the node is opened through our own mount, as the application could
// have done; then the request goes on. An application that needs the kernel to have it open gets an open of what is
// kept.
//
// The opens are made, and what is kept is held, by a process of its own (opener.h); a thread here talks to it and waits
// for nothing else. Where the kernel holds locks for the request put aside (the directory, the victim), opening the
// victim takes none of them as long as all names on the way are in the kernel's cache, where the request has just
// walked them. Should one have gone since, the two wait for each other: once the opener's thread has slept in the
// kernel for kPatience, and not for the file system, the request goes on, and nothing is kept. While it runs, has not
// got its turn on a busy machine, or waits for a file system that is slow, the request waits with it, but no longer
// than kPatienceMax. Requests go on, too, where the opener has gone; another one is started, and what the first one
// had kept is lost: for applications these files are stale.
//
// Requests go on in threads of their own: in a session with many threads the file system runs them there, and one may
// wait for another.
//
// A change of mode or owner is treated likewise: afterwards a daemon that is not root might not open the node.
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "descriptor.h"
#include "open_tables.h"
#include "opener.h"
#include "pending.h"
#include "place.h"

namespace shortfuse::bridge {

/// A request put aside; `pending` is what is noted of it when it goes on.
struct Parked {
  std::vector<std::byte> message;
  Pending pending;
  cache::Nid nid = 0;      ///< the node that is going to be out of reach
  Place place;
};

/// Thread-safe.
class Keeper {
 public:
  explicit Keeper(OpenTables &opens) : opens_(opens) {}
  ~Keeper() { stop(std::chrono::seconds(0)); }
  /// Before anything is mounted.
  void find_opener() { opener_.find(); }
  /// From here on applications can be served opens, as soon as the opener is there (OpenTables::offer). Call it again
  /// with each that comes.
  void begin(const std::string &mount_point);
  /// The request goes on (go_on) when its node is kept, or cannot be. REQUIRES: would_keep() has said yes.
  void keep(Parked parked);
  /// The node is opened for the application at the other end of the connection, and it is told (SF_MSG_OPENED). Where
  /// the connection just ends, it may ask again.
  void open_for(Descriptor client, cache::Nid nid, Place place, int flags);
  /// It is there, and does not have the node yet.
  bool would_keep(cache::Nid nid);
  /// Closes, before long, what no application has open any more.
  void tidy();
  /// 0: there is none at the moment.
  pid_t opener_pid();
  /// False: a thread did not come back from the file system, and is left to itself; this object has to stay.
  bool stop(std::chrono::seconds limit);

  std::function<void(Parked)> go_on;   ///< called by several threads; set before the first keep()

 private:
  using Time = std::chrono::steady_clock::time_point;
  struct Wanted {
    Descriptor client;
    cache::Nid nid;
    Place place;
    int flags;
  };
  struct Waiting {
    Parked parked;
    Time until;           ///< then it is looked at
    Time last;            ///< then it goes on in any case
    bool asked = false;   ///< the opener knows of it
    pid_t worker = 0;     ///< its thread that is at it; 0: none yet
    unsigned idle = 0;    ///< how often in succession it was seen waiting for neither file system nor processor
  };

  void wake();
  void run();
  void wait();
  void send_waiting();
  void start_opener();
  void opener_failed(const std::string &why);
  void ask_to_keep();
  void look_after(Time now);
  bool is_busy(const Waiting &one) const;
  void hear();
  void opener_ended();
  void let_go(const std::function<bool(Waiting &)> &which);
  void let_go_on(Parked parked);
  void carry_on();

  OpenTables &opens_;
  std::mutex lock_;                   ///< of all but what is the thread's own; a leaf but for the tables'
  std::condition_variable changed_;
  std::string mount_point_;
  bool wanted_ = false;               ///< the opener is to be started
  std::deque<Parked> parked_;         ///< not seen by the thread yet
  std::deque<Wanted> opening_;        ///< likewise
  std::set<cache::Nid> kept_;
  std::deque<cache::Nid> dropped_;    ///< the opener is to be told
  std::deque<Parked> going_on_;
  unsigned carriers_ = 0, idle_ = 0;  ///< threads in which requests go on
  bool running_ = false, stopped_ = false;
  pid_t opener_pid_ = 0;

  // The thread's own.
  Opener opener_;
  Time start_after_{};                ///< not one after the other, should they end at once
  bool start_again_ = false;
  std::deque<Waiting> waiting_;       ///< until the opener answers
  bool no_room_ = false;              ///< the opener has not read yet what it was told before
  bool complained_ = false;

  Descriptor wake_;
  std::thread thread_;
};

}  // namespace shortfuse::bridge
