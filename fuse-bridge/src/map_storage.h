// The memory of a policy's maps, and what the daemon keeps beside it.
//
// Shared maps: one memfd that the daemon alone may write. Maps of each process (sf_map_per_process): the daemon has one
// for its own programs, and each application's session gets one of its own, which it writes and the daemon only reads:
// every byte of it is hostile. What processes that have gone had counted is added to an account; what rings held is
// taken into a backlog, from which any number of readers follow.
//
// A MapStorage is handed on from policy to policy. Its memory may be used by many threads (map.h); account and backlog
// belong to the service thread.
#pragma once
#include <deque>
#include <expected>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "descriptor.h"
#include "shortfuse/vm/map.h"
#include "shortfuse/vm/vm.h"

namespace shortfuse::bridge {

std::string map_name(const sf_image_map &def);

/// A mapping of a map's memory that we may write, and its file.
struct MapMemory {
  Descriptor fd;
  sf_map map{};
  size_t size = 0;
  MapMemory() = default;
  MapMemory(const MapMemory &) = delete;
  MapMemory &operator=(const MapMemory &) = delete;
  ~MapMemory();
};
enum class Writers { DaemonOnly, Client };
std::expected<std::unique_ptr<MapMemory>, std::string> make_memory(const sf_image_map &def, Writers writers);

/// The reader's side of one ring.
struct RingReader {
  uint64_t position = 0;
  uint64_t busy_at = ~0ull;        ///< position of a record that is still written
  uint64_t busy_since_ns = 0;
  uint64_t lost_seen = 0;
};

/// Records of all processes in the order in which they were taken, the newest kept.
class RingBacklog {
 public:
  struct Record {
    uint64_t number;
    int32_t pid;
    std::string bytes;
  };
  /// Takes what is there, at most one ring full. `gone`: nobody writes any more, and unfinished records are left out.
  void drain(const sf_map &ring, RingReader &reader, int32_t pid, bool gone, uint64_t now_ns);
  const std::deque<Record> &records() const { return records_; }
  uint64_t next_number() const { return next_; }
  uint64_t lost() const { return lost_; }

 private:
  void add(int32_t pid, std::string bytes);
  std::deque<Record> records_;
  size_t bytes_ = 0;
  uint64_t next_ = 0, lost_ = 0;
};

/// Values of one key, a word per 8 bytes, added up. Only maps whose values are made of u64 (or are one u32) have sums.
class MapAccount {
 public:
  void fold(const sf_map &gone);
  const std::map<std::string, std::string> &sums() const { return sums_; }
  void set(std::map<std::string, std::string> sums) { sums_ = std::move(sums); }

 private:
  std::map<std::string, std::string> sums_;   ///< key, value: their bytes
};
bool has_sums(const sf_map_shape &shape);
void add_value(const sf_map_shape &shape, std::string &sum, const void *value);
bool is_zero(std::string_view bytes);
/// Where all values of a key lie, given the first CPU's.
std::vector<const void *> cpu_values(const sf_map_shape &shape, const void *first);

struct MapStorage {
  sf_image_map shape{};
  std::unique_ptr<MapMemory> memory;
  bool frozen = false;
  bool restored = false;           ///< its pinned contents were looked for
  std::string key_type, value_type;
  MapAccount account;
  RingReader own_reader;
  RingBacklog backlog;
  uint64_t processes_gone = 0;
  sf_map *handle() const { return &memory->map; }
};

/// A session's own maps of one policy after the other.
class SessionMaps {
 public:
  /// One per per-process map of the policy, made where there is none yet. Those that the policy does not have are
  /// let go of. A descriptor per map of the policy, in order. Errors are for people.
  std::expected<std::vector<int>, std::string> descriptors(const std::vector<std::shared_ptr<MapStorage>> &maps,
                                                           int32_t pid);
  /// The session has ended: what it counted is kept.
  void leave(int32_t pid);
  void drain(int32_t pid, uint64_t now_ns);
  /// The session's map that belongs to a storage; null where it has none.
  const sf_map *of(const MapStorage *storage) const;

 private:
  struct Own {
    std::shared_ptr<MapStorage> storage;
    std::unique_ptr<MapMemory> memory;
    RingReader reader;
  };
  static void let_go(Own &own, int32_t pid);
  std::vector<Own> own_;
};

}  // namespace shortfuse::bridge
