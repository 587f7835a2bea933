/* From counters to totals: histograms, lanes, and what the bridge counts.
 *
 * Everything that is read here may be written by another thread or process meanwhile. Each word is loaded once,
 * relaxed: a sum that misses the last few calls is as good as one that was taken a moment earlier. */
#include <atomic>

#include "shortfuse/metrics/snapshot.h"

namespace shortfuse::metrics {

namespace {

uint64_t load(const uint64_t &word) {
  return __atomic_load_n(&word, __ATOMIC_RELAXED);
}

void add_word(uint64_t &sum, const uint64_t &word) {
  sum = saturating_add(sum, load(word));
}

void add_lane(ClientTotals &totals, const sf_lane &lane) {
  for (unsigned op = 0; op < SF_OP_COUNT; op++) {
    ClientTotals::Op &to = totals.op[op];
    for (unsigned i = 0; i < SF_OUT_COUNT; i++) add_word(to.outcome[i], lane.count[op][i]);
    for (unsigned i = 0; i < SF_MISS_COUNT; i++) add_word(to.miss[i], lane.miss[op][i]);
    for (unsigned i = 0; i < SF_LATENCY_BUCKETS; i++) {
      add_word(to.served.bucket[i], lane.latency[op][0][i]);
      add_word(to.other.bucket[i], lane.latency[op][1][i]);
    }
  }
  add_word(totals.bytes_served, lane.bytes_served);
}

}  // namespace

void Histogram::add(const Histogram &other) {
  for (unsigned i = 0; i < SF_LATENCY_BUCKETS; i++) bucket[i] = saturating_add(bucket[i], other.bucket[i]);
}

uint64_t Histogram::count() const {
  uint64_t sum = 0;
  for (uint64_t n : bucket) sum = saturating_add(sum, n);
  return sum;
}

uint64_t Histogram::percentile_ns(unsigned per_mille) const {
  // The rank of the wanted duration, 1-based; 128 bits, for the product of two large numbers.
  using Wide = unsigned __int128;
  const auto wanted = static_cast<uint64_t>((static_cast<Wide>(count()) * per_mille + 999) / 1000);
  uint64_t below = 0;
  unsigned last = 0;
  for (unsigned i = 0; i < SF_LATENCY_BUCKETS; i++) {
    if (bucket[i] == 0) continue;
    below = saturating_add(below, bucket[i]);
    last = i;
    if (below >= wanted) break;
  }
  return sf_latency_bucket_floor_ns(last);
}

Latency Histogram::summary() const {
  return {.count = count(),
          .p50_ns = percentile_ns(500),
          .p90_ns = percentile_ns(900),
          .p99_ns = percentile_ns(990),
          .p999_ns = percentile_ns(999),
          .max_ns = percentile_ns(1000)};
}

void ClientTotals::add(const ClientTotals &other) {
  for (unsigned o = 0; o < SF_OP_COUNT; o++) {
    Op &to = op[o];
    const Op &from = other.op[o];
    for (unsigned i = 0; i < SF_OUT_COUNT; i++) to.outcome[i] = saturating_add(to.outcome[i], from.outcome[i]);
    for (unsigned i = 0; i < SF_MISS_COUNT; i++) to.miss[i] = saturating_add(to.miss[i], from.miss[i]);
    to.served.add(from.served);
    to.other.add(from.other);
  }
  bytes_served = saturating_add(bytes_served, other.bytes_served);
}

uint64_t ClientTotals::sum(sf_outcome outcome) const {
  uint64_t sum = 0;
  for (const Op &o : op) sum = saturating_add(sum, o.outcome[outcome]);
  return sum;
}

ClientTotals fold_lanes(std::span<const sf_lane> lanes) {
  ClientTotals totals;
  for (const sf_lane &lane : lanes) add_lane(totals, lane);
  return totals;
}

std::string printable(const char *text, size_t bytes) {
  std::string out;
  for (size_t i = 0; i < bytes; i++) {
    // One load per byte: the writer may be changing it, and what was checked must be what is kept.
    const char c = __atomic_load_n(&text[i], __ATOMIC_RELAXED);
    if (c == '\0') break;
    out.push_back(c >= 0x20 && c < 0x7f ? c : '?');
  }
  return out;
}

/* Threads take shards in turn. More threads than shards share, so the adds are atomic; the usual case is a handful of
 * threads, each with cache lines of its own. */
constexpr unsigned kShards = 16;

struct alignas(64) BridgeCounters::Shard {
  struct Op {
    std::atomic<uint64_t> seen, served, denied, passed, errors;
    std::atomic<uint64_t> latency[SF_LATENCY_BUCKETS];
  };
  Op op[kOpcodes];
};

BridgeCounters::BridgeCounters() : shards_(new Shard[kShards]()) {}
BridgeCounters::~BridgeCounters() = default;

BridgeCounters::Shard &BridgeCounters::shard() {
  static std::atomic<unsigned> next{0};
  static thread_local const unsigned mine = next.fetch_add(1, std::memory_order_relaxed) % kShards;
  return shards_[mine];
}

namespace {

unsigned clamp_opcode(uint32_t opcode) {
  return opcode < BridgeCounters::kOpcodes ? opcode : 0;
}

void bump(std::atomic<uint64_t> &counter) {
  counter.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

void BridgeCounters::seen(uint32_t opcode) { bump(shard().op[clamp_opcode(opcode)].seen); }
void BridgeCounters::served(uint32_t opcode) { bump(shard().op[clamp_opcode(opcode)].served); }
void BridgeCounters::denied(uint32_t opcode) { bump(shard().op[clamp_opcode(opcode)].denied); }
void BridgeCounters::passed(uint32_t opcode) { bump(shard().op[clamp_opcode(opcode)].passed); }

void BridgeCounters::replied(uint32_t opcode, uint64_t ns, int error) {
  Shard::Op &op = shard().op[clamp_opcode(opcode)];
  if (error != 0) bump(op.errors);
  bump(op.latency[sf_latency_bucket(ns)]);
}

std::array<FuseTotals, BridgeCounters::kOpcodes> BridgeCounters::totals() const {
  std::array<FuseTotals, kOpcodes> totals;
  for (unsigned s = 0; s < kShards; s++) {
    for (unsigned o = 0; o < kOpcodes; o++) {
      const Shard::Op &from = shards_[s].op[o];
      FuseTotals &to = totals[o];
      to.seen += from.seen.load(std::memory_order_relaxed);
      to.served += from.served.load(std::memory_order_relaxed);
      to.denied += from.denied.load(std::memory_order_relaxed);
      to.passed += from.passed.load(std::memory_order_relaxed);
      to.errors += from.errors.load(std::memory_order_relaxed);
      for (unsigned i = 0; i < SF_LATENCY_BUCKETS; i++) {
        to.latency.bucket[i] += from.latency[i].load(std::memory_order_relaxed);
      }
    }
  }
  return totals;
}

}  // namespace shortfuse::metrics
