/* Counters of one thread, written where the daemon can read them.
 *
 * A *lane* is a page-aligned block in the session segment that exactly one thread at a time writes
 * (a second thread never shares a cache line with it), and that the daemon reads whenever it likes and
 * folds for good when the process has gone. Plain stores: a torn or late sum is only a late sum.
 * The last lane (SF_LANES - 1) is shared by every thread that found no lane free; it is written with
 * atomic adds.
 *
 * Histograms are log-linear: 4 sub-buckets per power of two of nanoseconds, 0 to 2^31 ns and more.
 * Served calls are timed one in SF_LATENCY_SAMPLE (two clock reads cost as much as the call); missed and
 * passed calls are all timed. */
#ifndef SHORTFUSE_METRICS_LANE_H
#define SHORTFUSE_METRICS_LANE_H

#include <stdint.h>

#include "shortfuse/metrics/ops.h"

#define SF_LANES 32
#define SF_LATENCY_BUCKETS 128
#define SF_LATENCY_SAMPLE 64

struct sf_lane {
  uint32_t owner;  /* thread id, 0 = free. Claimed with compare-and-swap. */
  uint32_t active; /* not 0 while the thread is inside the hook: guards mappings against reclaim */
  uint64_t sample_countdown;
  uint64_t bytes_served;
  uint64_t reserved0[5];
  uint64_t count[SF_OP_COUNT][SF_OUT_COUNT];
  uint64_t miss[SF_OP_COUNT][SF_MISS_COUNT];
  uint64_t latency[SF_OP_COUNT][2][SF_LATENCY_BUCKETS]; /* [0] served, [1] missed or passed */
} __attribute__((aligned(4096)));

#ifdef __cplusplus
static_assert(sizeof(struct sf_lane) % 4096 == 0);
static_assert(SF_LATENCY_SAMPLE > 0);
#endif

/* The bucket of a duration. Exact below 4 ns, then 4 buckets per power of two; the last holds the rest. */
static inline unsigned sf_latency_bucket(uint64_t ns) {
  if (ns < 4) return (unsigned)ns;
  unsigned log2 = 63u - (unsigned)__builtin_clzll(ns);
  unsigned bucket = (log2 - 1) * 4 + (unsigned)((ns >> (log2 - 2)) & 3);
  return bucket < SF_LATENCY_BUCKETS ? bucket : SF_LATENCY_BUCKETS - 1;
}

/* The smallest duration that falls into a bucket, ns. */
static inline uint64_t sf_latency_bucket_floor_ns(unsigned bucket) {
  if (bucket < 4) return bucket;
  unsigned log2 = bucket / 4 + 1;
  return (1ull << log2) | ((uint64_t)(bucket & 3) << (log2 - 2));
}

#endif
