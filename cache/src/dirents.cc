#include <cstring>

#include "shortfuse/cache/cache.h"

namespace shortfuse::cache {

namespace {

constexpr size_t kNameOffset = offsetof(sf_dirent, name);
constexpr size_t kFuseNameOffset = FUSE_NAME_OFFSET;

size_t align8(size_t n) { return (n + 7) & ~size_t{7}; }

}  // namespace

/* The kernel takes a READDIR reply record by record and refuses empty names and those with a slash; so do we, and a
 * NUL inside a name as well, because a getdents64(2) record could not carry it. */
bool convert_dirents(std::span<const std::byte> fuse_dirents, std::vector<std::byte> &out) {
  size_t at = 0;
  while (at < fuse_dirents.size()) {
    fuse_dirent from;
    if (fuse_dirents.size() - at < kFuseNameOffset) return false;
    std::memcpy(&from, fuse_dirents.data() + at, kFuseNameOffset);
    if (from.namelen == 0 || from.namelen > 1024) return false;
    if (fuse_dirents.size() - at < kFuseNameOffset + from.namelen) return false;
    const std::byte *name = fuse_dirents.data() + at + kFuseNameOffset;
    if (std::memchr(name, '/', from.namelen) != nullptr || std::memchr(name, 0, from.namelen) != nullptr) return false;

    sf_dirent to{};
    to.ino = from.ino;
    to.off = from.off;
    to.reclen = static_cast<uint16_t>(align8(kNameOffset + from.namelen + 1));
    to.type = static_cast<uint8_t>(from.type);
    const size_t place = out.size();
    out.resize(place + to.reclen);  // zero-filled: NUL and padding
    std::memcpy(out.data() + place, &to, kNameOffset);
    std::memcpy(out.data() + place + kNameOffset, name, from.namelen);
    at += align8(kFuseNameOffset + from.namelen);
  }
  return true;
}

}  // namespace shortfuse::cache
