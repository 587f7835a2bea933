// Walking a path in the dentry cache, as fs/namei.c walks it.
#pragma once
#include "creds.h"
#include "mount.h"

namespace shortfuse::bypass {

constexpr unsigned kLinksMax = 40;        // followed in one walk; then ELOOP, as in the kernel
constexpr unsigned kLinkDepthMax = 8;     // links within links whose rest is still to be walked; more: the kernel's
constexpr unsigned kLinkBytesMax = 512;   // of targets held at once; more: the kernel's

/// What a miss would like the bridge to fetch.
struct Wish {
  uint8_t kind = 0;                       // enum sf_hint_kind; 0: nothing
  uint8_t name_len = 0;
  uint64_t nid = 0, offset = 0, size = 0;
  char name[SF_NAME_MAX + 1];             // copied from the caller before the real call is made
};

enum class Walked { Node, Error, Miss };

/// In: where to start and what for. Out: the node, or an errno that the kernel would give too, or why we cannot tell.
struct Walk {
  // in
  const Mount *mount;
  const Creds *creds;
  uint32_t mount_flags;
  bool follow;                            // a symbolic link at the end
  sf_moment *moment;
  // out
  uint64_t nid = 0;                       // Error: of the directory that was reached
  bool have_attr = false;                 // of nid, in attr
  sf_attr_view attr;
  int error = 0;                          // negative errno
  sf_miss miss = SF_MISS_NONE;
  bool from_mount_point = false;          // a link led over the directories above it
  bool unmapped = false;                  // a chunk is not mapped: refresh and try again
  Wish wish;
};

/// `rest` is walked from `start`; `whole` is where the caller's string begins (its length is limited). The caller's
/// memory may fault. REQUIRES: inside the mount, its mount point verified.
Walked walk(Walk *w, uint64_t start, const char *rest, const char *whole);

/// The reason to count for a failed find of a kind.
sf_miss miss_of(sf_find find, sf_miss absent);

}  // namespace shortfuse::bypass
