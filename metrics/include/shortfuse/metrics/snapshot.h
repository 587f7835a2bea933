/* What `shortfuse status` shows: the numbers of one mount, from counters to text.
 *
 *   lanes of living sessions --fold_lanes()--+
 *   totals of processes that have gone ------+--> Snapshot --to_json()--> control socket --from_json()--> to_table()
 *   BridgeCounters::totals() ----------------+
 *
 * The daemon fills a Snapshot and answers SF_MSG_STATUS with to_json(); the command parses it back and prints the
 * table. The keys of the JSON are an interface: they are added to, never renamed or removed.
 *
 * Lanes are written by applications and so are hostile: every word is read once, added with saturation, and never
 * used as an index or a length. The worst a client can do is to spoil the counts. */
#pragma once
#include <array>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shortfuse/metrics/lane.h"

namespace shortfuse::metrics {

constexpr int kSnapshotFormat = 1;  ///< "format" in the JSON; raised when a key changes its meaning

/// a + b, or the largest value.
constexpr uint64_t saturating_add(uint64_t a, uint64_t b) {
  return a + b < a ? ~0ull : a + b;
}

/// What is printed of a histogram. Percentiles are the floor of the bucket that holds them (at most 25 % low);
/// all are 0 when count is 0.
struct Latency {
  uint64_t count = 0;
  uint64_t p50_ns = 0, p90_ns = 0, p99_ns = 0, p999_ns = 0, max_ns = 0;
  bool operator==(const Latency &) const = default;
};

/// Log-linear (lane.h). Not thread-safe.
struct Histogram {
  std::array<uint64_t, SF_LATENCY_BUCKETS> bucket{};

  void record(uint64_t ns) { bucket[sf_latency_bucket(ns)]++; }
  void add(const Histogram &other);
  uint64_t count() const;
  /// The floor of the bucket in which the duration lies that `per_mille` thousandths of all do not exceed; 0 if empty.
  uint64_t percentile_ns(unsigned per_mille) const;
  Latency summary() const;
};

/// Calls of applications, summed over threads and processes.
struct ClientTotals {
  struct Op {
    std::array<uint64_t, SF_OUT_COUNT> outcome{};
    std::array<uint64_t, SF_MISS_COUNT> miss{};
    Histogram served;  ///< one call in SF_LATENCY_SAMPLE
    Histogram other;   ///< missed and passed calls, all of them
  };
  std::array<Op, SF_OP_COUNT> op{};
  uint64_t bytes_served = 0;

  void add(const ClientTotals &other);
  uint64_t sum(sf_outcome outcome) const;
};

/// Adds up the lanes of one session, which may change while they are read.
ClientTotals fold_lanes(std::span<const sf_lane> lanes);

/// A name of at most `bytes` bytes that a client wrote (sf_session.comm): up to the first NUL, anything that is not a
/// printable ASCII character replaced by '?'.
std::string printable(const char *text, size_t bytes);

// ---- what the bridge counts itself

struct FuseTotals {
  uint64_t seen = 0;    ///< requests that arrived
  uint64_t served = 0;  ///< answered by a policy out of the cache
  uint64_t denied = 0;  ///< answered by a policy with an error
  uint64_t passed = 0;  ///< handed to the file system
  uint64_t errors = 0;  ///< replies of the file system with an error (ENOENT included)
  Histogram latency;    ///< from request read to reply, served and passed alike
};

/// Counters by FUSE opcode. Thread-safe; threads have shards, so that they rarely write to the same cache line.
/// Relaxed atomics throughout: a sum may be late, nothing is ordered by it. Starts no thread.
class BridgeCounters {
 public:
  static constexpr unsigned kOpcodes = 64;  ///< larger opcodes are counted together as opcode 0

  BridgeCounters();
  ~BridgeCounters();
  BridgeCounters(const BridgeCounters &) = delete;
  BridgeCounters &operator=(const BridgeCounters &) = delete;

  /// A request was read.
  void seen(uint32_t opcode);
  /// What became of it: exactly one of these per request.
  void served(uint32_t opcode);
  void denied(uint32_t opcode);
  void passed(uint32_t opcode);
  /// A reply left, `ns` after the request was read. error: of the reply, 0 or negative.
  void replied(uint32_t opcode, uint64_t ns, int error);

  std::array<FuseTotals, kOpcodes> totals() const;

 private:
  struct Shard;
  Shard &shard();
  std::unique_ptr<Shard[]> shards_;
};

// ---- the whole

struct Snapshot {
  struct Mount {
    std::string point, source, fstype;
    int daemon_pid = 0;
    int opener_pid = 0;              ///< the process that opens files for it; 0: none
    uint64_t uptime_ns = 0;
    uint32_t owner_uid = 0;
    std::vector<std::string> flags;  ///< e.g. "default_permissions", "allow_other"
    bool operator==(const Mount &) const = default;
  };
  struct Program {
    std::string section, name;
    uint64_t insns = 0;
    bool operator==(const Program &) const = default;
  };
  struct Policy {
    std::vector<std::string> paths;
    uint64_t epoch = 0, swaps = 0;
    bool native = false;          ///< machine code; else interpreted
    std::string why_interpreted;  ///< empty when native
    std::vector<Program> programs;
    bool operator==(const Policy &) const = default;
  };
  struct Op {
    std::array<uint64_t, SF_OUT_COUNT> outcome{};
    std::array<uint64_t, SF_MISS_COUNT> miss{};
    Latency served, other;
    bool operator==(const Op &) const = default;
  };
  struct FuseOp {
    std::string name;
    uint64_t seen = 0, served = 0, denied = 0, passed = 0, errors = 0;
    Latency latency;
    bool operator==(const FuseOp &) const = default;
  };
  struct CacheKind {
    std::string name;  ///< "attr", "dentry", ...
    uint64_t records = 0, bytes = 0, fills = 0;
    bool operator==(const CacheKind &) const = default;
  };
  struct Cache {
    uint64_t budget_bytes = 0, used_bytes = 0, chunks = 0, index_buckets = 0, nodes = 0;
    uint64_t refused_fills = 0, evictions = 0, mutations = 0, epoch_bumps = 0;
    std::vector<CacheKind> kinds;
    bool operator==(const Cache &) const = default;
  };
  struct Client {
    int pid = 0;
    std::string comm;
    uint64_t served = 0, denied = 0, missed = 0, passed = 0;
    bool operator==(const Client &) const = default;
  };

  std::string version;  ///< of shortfuse
  Mount mount;
  Policy policy;
  std::array<Op, SF_OP_COUNT> op{};
  uint64_t bytes_served = 0;
  std::vector<FuseOp> fuse;  ///< in order of opcode
  Cache cache;
  std::vector<Client> clients;  ///< attached now
  uint64_t clients_gone = 0;    ///< attached once; their counts are in `op`
  bool operator==(const Snapshot &) const = default;

  /// Takes over op and bytes_served.
  void set_ops(const ClientTotals &totals);
  /// Takes over what the bridge counted: every opcode that has a name (`opcode_name` gives NULL for others), and
  /// "other" where something without a name was seen.
  void set_fuse(const std::array<FuseTotals, BridgeCounters::kOpcodes> &totals, const char *(*opcode_name)(unsigned));
  /// One attached process; comm as the client wrote it.
  void add_client(int pid, const char *comm, size_t comm_bytes, const ClientTotals &totals);
};

/// One line of JSON. Bytes that are not UTF-8 are replaced.
std::string to_json(const Snapshot &snapshot);
/// Missing keys are zero or empty (an older daemon); something that is not such an object is an error, in a sentence.
std::expected<Snapshot, std::string> from_json(std::string_view json);
/// For people: several lines, ending in a newline. Control characters in names are shown as '?'.
std::string to_table(const Snapshot &snapshot);

}  // namespace shortfuse::metrics
