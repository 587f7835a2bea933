// Attributes as the kernel hands them out for FUSE (fs/fuse/dir.c: fuse_fillattr; fs/stat.c).
#pragma once
#include "mount.h"

namespace shortfuse::bypass {

/// The kernel would answer from these as we do; block devices and ids that are none are left to it.
bool plain_attr(const fuse_attr &attr);
void fill_stat(struct stat *out, const fuse_attr &attr, const RootFacts &root);
void fill_statx(struct statx *out, const fuse_attr &attr, const RootFacts &root, bool mount_root);
void fill_statfs(struct statfs *out, const fuse_kstatfs &st, const RootFacts &root);

}  // namespace shortfuse::bypass
