// The lane is written by one thread, so plain additions do; only the overflow lane needs atomic ones.
#include "count.h"

#include "kernel.h"

namespace shortfuse::bypass {

static void add(uint64_t *counter, bool shared, uint64_t n) {
  if (shared) {
    __atomic_add_fetch(counter, n, __ATOMIC_RELAXED);
  } else {
    // One instruction on x86-64, so a signal handler that counts in between loses nothing.
    *counter += n;
  }
}

static void add_latency(sf_lane *lane, bool shared, sf_op kind, int side, uint64_t ns) {
  add(&lane->latency[kind][side][sf_latency_bucket(ns)], shared, 1);
}

void count_start(Op *op) {
  // The overflow lane is not sampled: its countdown would be everybody's.
  if (op->shared_lane) return;
  if (op->lane->sample_countdown-- != 0) return;
  op->lane->sample_countdown = SF_LATENCY_SAMPLE - 1;
  op->started_ns = clock_ns();
}

// Tells the daemon now and then which records are in use, so that eviction takes others.
static void note_use(const Op &op) {
  constexpr uint64_t kOneIn = 16;  // divides SF_LATENCY_SAMPLE: the countdown passes through its multiples
  static_assert(SF_LATENCY_SAMPLE % kOneIn == 0);
  if (op.shared_lane || op.lane->sample_countdown % kOneIn != 0 || op.error != 0 || !op.have_attr) return;
  sf_session *session = session_of(*op.mount);
  if (session == nullptr) return;
  const sf_view *view = &op.mount->view;
  uint64_t ref = op.kind == SF_OP_READ ? sf_find_ref(view, SF_REC_DATA, op.attr.cid, op.offset / SF_PAGE_BYTES)
                                       : sf_find_ref(view, SF_REC_ATTR, op.nid, 0);
  // Samples that overwrite each other are only fewer samples.
  uint32_t next = __atomic_fetch_add(&session->recency_next, 1u, __ATOMIC_RELAXED);
  if (ref != 0) __atomic_store_n(&session->recency[next % SF_RECENCY], ref, __ATOMIC_RELAXED);
}

void count_served(const Op &op) {
  note_use(op);
  add(&op.lane->count[op.kind][SF_OUT_SERVED], op.shared_lane, 1);
  if (op.kind == SF_OP_READ && op.value > 0)
    add(&op.lane->bytes_served, op.shared_lane, static_cast<uint64_t>(op.value));
  if (op.started_ns != 0) add_latency(op.lane, op.shared_lane, op.kind, 0, clock_ns() - op.started_ns);
}

void count_denied(const Op &op) { add(&op.lane->count[op.kind][SF_OUT_DENIED], op.shared_lane, 1); }

void count_missed(const Op &op, uint64_t ns) {
  add(&op.lane->count[op.kind][SF_OUT_MISSED], op.shared_lane, 1);
  add(&op.lane->miss[op.kind][op.miss < SF_MISS_COUNT ? op.miss : SF_MISS_NONE], op.shared_lane, 1);
  add_latency(op.lane, op.shared_lane, op.kind, 1, ns);
}

void count_passed(const Stay &stay, sf_op kind, uint64_t ns) {
  sf_lane *lane = stay.lane();
  if (lane == nullptr) return;
  add(&lane->count[kind][SF_OUT_PASSED], stay.shared_lane(), 1);
  if (ns != 0) add_latency(lane, stay.shared_lane(), kind, 1, ns);
}

void count_outside(sf_op kind, sf_miss why) {
  Process *process = process_now();
  if (process == nullptr) return;
  __atomic_add_fetch(&process->own.count[kind][SF_OUT_MISSED], 1ull, __ATOMIC_RELAXED);
  __atomic_add_fetch(&process->own.miss[kind][why], 1ull, __ATOMIC_RELAXED);
}

}  // namespace shortfuse::bypass
