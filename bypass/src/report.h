// SHORTFUSE_REPORT: what one process came to, as a line of JSON, when it exits.
#pragma once

namespace shortfuse::bypass {

/// Once per process. Nothing when no report is wanted.
void write_report();

}  // namespace shortfuse::bypass
