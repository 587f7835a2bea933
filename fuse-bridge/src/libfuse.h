// The few functions of libfuse3 that the bridge calls, found behind our own interposed ones at run time.
#pragma once
#include <fuse3/fuse_lowlevel.h>

#include <cstddef>

namespace shortfuse::bridge {

struct Libfuse {
  decltype(&::fuse_session_new) session_new = nullptr;
  decltype(&::fuse_session_mount) session_mount = nullptr;
  decltype(&::fuse_session_unmount) session_unmount = nullptr;
  decltype(&::fuse_session_destroy) session_destroy = nullptr;
  decltype(&::fuse_session_custom_io) session_custom_io = nullptr;
  decltype(&::fuse_session_fd) session_fd = nullptr;
  decltype(&::fuse_session_process_buf) session_process_buf = nullptr;
  decltype(&::fuse_opt_add_arg) opt_add_arg = nullptr;
  decltype(&::fuse_opt_free_args) opt_free_args = nullptr;

  /// All of them are there: this process runs a libfuse3 with custom I/O (3.13 or later).
  bool complete() const;
  /// Gives one message in memory to the session.
  void process(fuse_session *session, void *bytes, size_t size) const;
};

/// Looked up once; any thread.
const Libfuse &libfuse();

}  // namespace shortfuse::bridge
