/* The names of operations, outcomes and reasons: the one place where a number becomes a word.
 * Built for the daemon and for the preloaded library: freestanding. */
#include "shortfuse/metrics/ops.h"

namespace {

const char *const kOpNames[] = {"stat",     "access",    "readlink", "open",  "read", "readdir",
                                "getxattr", "listxattr", "statfs",   "lseek", "other"};
const char *const kOutcomeNames[] = {"served", "denied", "missed", "passed"};
const char *const kMissNames[] = {"none",   "dentry", "attr",   "data",      "listing",    "link",
                                  "xattr",  "statfs", "expired", "writer",    "policy",     "no_policy",
                                  "permission", "left_mount", "unsupported", "detached", "fault", "busy"};

static_assert(sizeof(kOpNames) / sizeof(kOpNames[0]) == SF_OP_COUNT);
static_assert(sizeof(kOutcomeNames) / sizeof(kOutcomeNames[0]) == SF_OUT_COUNT);
static_assert(sizeof(kMissNames) / sizeof(kMissNames[0]) == SF_MISS_COUNT);

}  // namespace

extern "C" const char *sf_op_name(unsigned op) {
  return op < SF_OP_COUNT ? kOpNames[op] : nullptr;
}

extern "C" const char *sf_outcome_name(unsigned outcome) {
  return outcome < SF_OUT_COUNT ? kOutcomeNames[outcome] : nullptr;
}

extern "C" const char *sf_miss_name(unsigned miss) {
  return miss < SF_MISS_COUNT ? kMissNames[miss] : nullptr;
}
