// An accelerated mount as this process has it mapped.
//
// Life: Free -> Announced (announce.cc) -> first use -> Attached -> (daemon gone) -> Detached -> (no thread inside any
// more) -> Free; Failed when attaching did not work. Only the holder of Process.attach_latch changes it. Every other
// thread reads it within a Stay (attach.h), which marks its lane active; what a thread may be reading is unmapped only
// when no lane of the process is active (stay.cc).
// Everything but `state`, `policy`, the view's generations and root.statfs_flags is constant while Attached.
#pragma once
#include "creds.h"
#include "process.h"
#include "shortfuse/cache/reader.h"
#include "shortfuse/vm/image.h"
#include "shortfuse/vm/map.h"

namespace shortfuse::bypass {

constexpr unsigned kSocketPathMax = 108;

/// A policy image with its maps, immutable once published.
struct Policy {
  const sf_image *image;
  size_t image_bytes;
  uint32_t epoch;
  uint32_t maps;
  uint32_t own_maps;     // of them, those of this process alone
  uint32_t serial;       // of the session that they belong to (Link.serial)
  bool opens_only_serve; // the program for opens can do nothing but serve them (opens.h)
  sf_map map[SF_IMAGE_MAPS_MAX];
  sf_map *handles[SF_IMAGE_MAPS_MAX];  // of them
  size_t storage_bytes[SF_IMAGE_MAPS_MAX];
  void *values[SF_IMAGE_MAPS_MAX];
};

/// What the kernel says of the mount and the cache does not know.
struct RootFacts {
  uint64_t dev;            // as st_dev has it; also of a mount that is only announced
  uint32_t dev_major, dev_minor;
  uint32_t stx_mask;
  uint32_t blksize;
  uint64_t attributes, attributes_mask;
  uint64_t mnt_id;
  uint64_t statfs_type, fsid;
  uint64_t statfs_flags;   // atomic
};

// From Failed on, the mount point, the device and the socket's name are there, and paths are compared with it.
enum class MountState : uint32_t { Free = 0, Detached, Attaching, Failed, Announced, Attached };

struct Mount {
  uint32_t state;          // MountState; atomic
  uint32_t serial;         // of this attachment, 0 while Free, never repeated in a process; atomic
  uint64_t point_word;     // the first bytes of the mount point, for a comparison at one go
  uint64_t point_mask;
  uint32_t point_len;
  bool foreign_namespace;  // mounts below it would not be heard of: paths are the kernel's
  uint32_t flags_epoch;    // header.mount_epoch at which root.statfs_flags were looked up; atomic
  uint32_t policy_asked;   // header.policy_epoch for which a refresh has been made
  uint64_t policy_retry_at_ns; // when it is made again, coarse; 0: it was answered
  const Policy *policy;    // atomic; null: none
  void *head;
  size_t head_bytes;
  void *chunks;
  size_t chunks_bytes;
  uint64_t head_ino;
  uint64_t retry_at_ns;    // of Failed
  uint32_t retries;
  uint32_t peer_uid;
  RootFacts root;
  // What is announced lies together with the beginning of the path: every process writes it at its start.
  char socket_path[kSocketPathMax];
  char point[sizeof(sf_segment_header::mount_point) + 1];
  sf_view view;
};

extern Mount mounts[kMountsMax];
extern unsigned mounts_used;   // slots [0, mounts_used) are in use, or were; atomic

inline MountState state_of(const Mount &m) {
  return static_cast<MountState>(__atomic_load_n(&m.state, __ATOMIC_ACQUIRE));
}
inline const Policy *policy_of(const Mount &m) { return __atomic_load_n(&m.policy, __ATOMIC_ACQUIRE); }
inline uint32_t flags_of(const Mount &m) { return __atomic_load_n(&m.view.header->mount_flags, __ATOMIC_RELAXED); }
inline unsigned index_of(const Mount &m) { return static_cast<unsigned>(&m - mounts); }

/// A mount as found without being inside it: the serial tells later whether it is still the same.
struct MountRef {
  Mount *mount;
  uint32_t serial;
};

/// Attaches to a mount that is announced. False: not possible, or not now.
bool attach_announced(Mount *m);

/// Whether mount_of_path() could find one, by the first bytes alone: no, for nearly every path of nearly every process.
inline bool may_be_on_a_mount(const char *path) {
  unsigned used = __atomic_load_n(&mounts_used, __ATOMIC_ACQUIRE);
  if (used == 0) return false;
  if ((reinterpret_cast<uintptr_t>(path) & 4095) > 4088) return true;
  uint64_t word;
  __builtin_memcpy(&word, path, 8);
  for (unsigned i = 0; i < used; ++i) {
    const Mount &m = mounts[i];
    if (state_of(m) >= MountState::Failed && ((word ^ m.point_word) & m.point_mask) == 0) return true;
  }
  return false;
}

/// The mount at whose mount point `path` begins (the mount point itself, or below), and where the rest begins.
/// Reads the caller's memory up to the first difference only. Null: none, by far the commonest answer. The slot may
/// get another mount during the comparison: then its serial is not the one returned. may_attach: a mount that is only
/// announced is attached to.
inline MountRef mount_of_path(const char *path, const char **rest, bool may_attach) {
  unsigned used = __atomic_load_n(&mounts_used, __ATOMIC_ACQUIRE);
  for (unsigned i = 0; i < used; ++i) {
    Mount &m = mounts[i];
    const MountState state = state_of(m);
    if (state < MountState::Failed) continue;
    uint32_t serial = __atomic_load_n(&m.serial, __ATOMIC_ACQUIRE);
    const char *point = m.point;
    uint32_t n = 0, len = m.point_len;
    // Eight bytes at once where they cannot cross into another page, which may not be there.
    if ((reinterpret_cast<uintptr_t>(path) & 4095) <= 4088) {
      uint64_t word;
      __builtin_memcpy(&word, path, 8);
      if (((word ^ m.point_word) & m.point_mask) != 0) continue;
      n = len < 8 ? len : 8;
    }
    while (n < len && path[n] == point[n]) ++n;
    if (n < len || (path[n] != 0 && path[n] != '/')) continue;
    if (state != MountState::Attached) [[unlikely]] {
      if (may_attach && attach_announced(&m)) --i;  // once more
      continue;
    }
    *rest = path + n;
    return {&m, serial};
  }
  return {nullptr, 0};
}

}  // namespace shortfuse::bypass
