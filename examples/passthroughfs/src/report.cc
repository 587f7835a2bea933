#include "report.h"

#include <sys/resource.h>
#include <syslog.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <ctime>

namespace shortfuse::passthrough {
namespace {
// Written once, before any worker thread exists.
bool to_syslog = false;
}  // namespace

void report_to_syslog() {
  openlog("passthroughfs", LOG_PID, LOG_DAEMON);
  to_syslog = true;
}

void report(const char* format, ...) {
  char line[512];
  va_list args;
  va_start(args, format);
  vsnprintf(line, sizeof line, format, args);
  va_end(args);
  if (to_syslog) syslog(LOG_ERR, "%s", line);
  else fprintf(stderr, "passthroughfs: %s\n", line);
}

void report_no_descriptors() {
  static std::atomic<time_t> next_s{0};
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  time_t due = next_s.load(std::memory_order_relaxed);
  // Relaxed: the loser of the exchange leaves the line to the winner, nothing else hangs on it.
  if (now.tv_sec < due || !next_s.compare_exchange_strong(due, now.tv_sec + 60, std::memory_order_relaxed)) return;
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  report("no file descriptors left (limit %llu): operations fail with ENFILE; raise the limit with 'ulimit -Hn' or "
         "LimitNOFILE=, or as root fs.nr_open", static_cast<unsigned long long>(limit.rlim_cur));
}

}  // namespace shortfuse::passthrough
