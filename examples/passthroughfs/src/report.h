/* Telling the administrator: standard error in the foreground, the system log in the background. */
#pragma once

namespace shortfuse::passthrough {

/// printf-like; one line, without the newline.
[[gnu::format(printf, 1, 2)]] void report(const char* format, ...);
/// From now on to the system log.
void report_to_syslog();
/// Says once a minute at most that there are no descriptors left, and what to do about it.
void report_no_descriptors();

}  // namespace shortfuse::passthrough
