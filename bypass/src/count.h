// Counting: what each call on a mount came to, in the thread's lane.
#pragma once
#include "op.h"

namespace shortfuse::bypass {

/// Starts the clock for one served call in SF_LATENCY_SAMPLE.
void count_start(Op *op);
void count_served(const Op &op);
void count_denied(const Op &op);
void count_missed(const Op &op, uint64_t ns);
/// Calls that are never served: counted, timed only where `ns` is not 0.
void count_passed(const Stay &stay, sf_op kind, uint64_t ns);
/// A call on a mount that could not be entered (daemon gone, mount covered).
void count_outside(sf_op kind, sf_miss why);

}  // namespace shortfuse::bypass
