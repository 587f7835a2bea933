// Files that are removed or replaced while an application has them open without the kernel's knowledge.
//
// An open that was served from the cache (bypass/src/opens.h) must go on working when its name goes, and the file
// system knows of no open. So before UNLINK, RMDIR or RENAME of a name whose node stands in an open table is given to
// the file system, the request is put aside, and the node is opened through our own mount, as the application could
// have done; then the request goes on. An application that needs the kernel to have it open gets an open of what is
// kept.
//
// Threads of their own do that: they wait for the file system, so nobody who serves requests may. Where the kernel
// holds locks for the request put aside (the directory, the victim), opening the victim takes none of them as long as
// all names on the way are in the kernel's cache, where the request has just walked them. Should one have gone since,
// or the file system not answer, the request goes on after kPatience, and nothing is kept.
//
// A change of mode or owner is treated likewise: afterwards a daemon that is not root might not open the node.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "descriptor.h"
#include "open_tables.h"
#include "pending.h"

namespace shortfuse::bridge {

/// A node by its name inside a mount.
struct Place {
  std::string mount_point;
  std::string path;        ///< relative; "": the root
  uint64_t nodeid = 0;
};

/// An O_PATH descriptor of a regular file or directory, if the node still is at the place; else *error. Nobody who may
/// rename inside the mount can lead this elsewhere: no link is followed, no other mount entered.
Descriptor find_place(const Place &place, int *error);

/// A request put aside; `pending` is what is noted of it when it goes on.
struct Parked {
  std::vector<std::byte> message;
  Pending pending;
  cache::Nid nid = 0;      ///< the node that is going to be out of reach
  Place place;
};

class Keeper {
 public:
  Keeper(const OpenTables &opens) : opens_(opens) {}
  /// The request goes on (go_on) when its node is kept, or cannot be.
  void keep(Parked parked);
  /// An open of the node for an application, if it is kept: a new one where the file system allows that, else the only
  /// one there is, given once: two applications must not share an offset.
  Descriptor open_kept(cache::Nid nid, int flags);
  bool has(cache::Nid nid);
  /// Closes, before long, what no application has open any more.
  void tidy();
  /// False: the thread did not come back from the file system, and is left to itself.
  bool stop(std::chrono::seconds limit);

  std::function<void(Parked)> go_on;   ///< called by the thread; set before the first keep()

 private:
  void run();
  void keep_node(const Parked &parked);

  const OpenTables &opens_;
  std::mutex lock_;
  std::condition_variable changed_;
  std::deque<Parked> parked_;
  std::map<cache::Nid, std::shared_ptr<Descriptor>> kept_;
  std::vector<std::shared_ptr<Descriptor>> closing_;
  bool stopped_ = false;
  std::thread thread_;
  std::promise<void> ended_;
};

}  // namespace shortfuse::bridge
