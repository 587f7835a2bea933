// One line per opcode says how its arguments lie; one case says what it touches.
#include "wire.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <termios.h>

#include <cstring>

namespace shortfuse::bridge {
namespace {

using cache::kTouchAttr;
using cache::kTouchContent;

/// The NUL-terminated string at `offset`; advances offset behind it. Empty names do not exist in the protocol.
std::optional<std::string_view> read_name(Bytes bytes, size_t &offset) {
  if (offset >= bytes.size()) return std::nullopt;
  const char *start = reinterpret_cast<const char *>(bytes.data()) + offset;
  const void *end = std::memchr(start, 0, bytes.size() - offset);
  if (!end || end == start) return std::nullopt;
  size_t len = static_cast<size_t>(static_cast<const char *>(end) - start);
  offset += len + 1;
  return std::string_view(start, len);
}

/// Requests that are `prefix` bytes and then one name.
bool take_name(Request &r, size_t prefix) {
  auto name = read_name(r.arguments, prefix);
  if (!name) return false;
  r.name = *name;
  return true;
}

bool take_two_names(Request &r, size_t prefix) {
  auto name = read_name(r.arguments, prefix);
  if (!name) return false;
  auto second = read_name(r.arguments, prefix);
  if (!second) return false;
  r.name = *name;
  r.new_name = *second;
  return true;
}

template <typename T, typename Take>
bool take(Request &r, Take &&fields) {
  auto in = read_struct<T>(r.arguments);
  if (!in) return false;
  fields(*in);
  return true;
}

bool take_io(Request &r) {
  switch (r.header.opcode) {
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
      return take<fuse_read_in>(r, [&](auto &in) { r.file_handle = in.fh, r.offset = in.offset, r.length = in.size; });
    case FUSE_WRITE:
      return take<fuse_write_in>(r, [&](auto &in) { r.file_handle = in.fh, r.offset = in.offset, r.length = in.size; });
    case FUSE_FALLOCATE:
      return take<fuse_fallocate_in>(
          r, [&](auto &in) { r.file_handle = in.fh, r.offset = in.offset, r.length = in.length; });
    case FUSE_LSEEK:
      return take<fuse_lseek_in>(
          r, [&](auto &in) { r.file_handle = in.fh, r.offset = in.offset, r.flags = in.whence; });
    case FUSE_COPY_FILE_RANGE:
      return take<fuse_copy_file_range_in>(r, [&](auto &in) {
        r.file_handle = in.fh_in, r.offset = in.off_out, r.length = in.len, r.other_node = in.nodeid_out;
      });
    default:
      return true;
  }
}

bool take_names(Request &r) {
  switch (r.header.opcode) {
    case FUSE_LOOKUP:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_REMOVEXATTR:
      return take_name(r, 0);
    case FUSE_SYMLINK:
      return take_two_names(r, 0);
    case FUSE_MKNOD:
      return take_name(r, sizeof(fuse_mknod_in));
    case FUSE_MKDIR:
      return take_name(r, sizeof(fuse_mkdir_in));
    case FUSE_GETXATTR:
      return take<fuse_getxattr_in>(r, [&](auto &in) { r.length = in.size; }) &&
             take_name(r, sizeof(fuse_getxattr_in));
    case FUSE_TMPFILE:  // what stands where CREATE has a name is none
      return take<fuse_create_in>(r, [&](auto &in) { r.flags = in.flags; });
    case FUSE_CREATE:
      return take<fuse_create_in>(r, [&](auto &in) { r.flags = in.flags; }) && take_name(r, sizeof(fuse_create_in));
    case FUSE_LINK:
      return take<fuse_link_in>(r, [&](auto &in) { r.other_node = in.oldnodeid; }) &&
             take_name(r, sizeof(fuse_link_in));
    case FUSE_RENAME:
      return take<fuse_rename_in>(r, [&](auto &in) { r.other_node = in.newdir; }) &&
             take_two_names(r, sizeof(fuse_rename_in));
    case FUSE_RENAME2:
      return take<fuse_rename2_in>(r, [&](auto &in) { r.other_node = in.newdir, r.flags = in.flags; }) &&
             take_two_names(r, sizeof(fuse_rename2_in));
    default:
      return true;
  }
}

bool take_handles(Request &r) {
  switch (r.header.opcode) {
    case FUSE_OPEN:
    case FUSE_OPENDIR:
      return take<fuse_open_in>(r, [&](auto &in) { r.flags = in.flags; });
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
      return take<fuse_release_in>(r, [&](auto &in) { r.file_handle = in.fh, r.flags = in.flags; });
    case FUSE_FLUSH:
      return take<fuse_flush_in>(r, [&](auto &in) { r.file_handle = in.fh; });
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
      return take<fuse_fsync_in>(r, [&](auto &in) { r.file_handle = in.fh; });
    case FUSE_SETATTR:
      return take<fuse_setattr_in>(r, [&](auto &in) { r.flags = in.valid; });
    case FUSE_LISTXATTR:
      return take<fuse_getxattr_in>(r, [&](auto &in) { r.length = in.size; });
    case FUSE_IOCTL:
      return take<fuse_ioctl_in>(r, [&](auto &in) { r.file_handle = in.fh, r.flags = in.cmd; });
    default:
      return true;
  }
}

/// struct fuse_dirent without its name.
struct DirentHead {
  uint64_t ino, off;
  uint32_t namelen, type;
};
static_assert(sizeof(DirentHead) == FUSE_NAME_OFFSET);

constexpr size_t kNameMax = 1024;  // FUSE_NAME_MAX of the kernel

size_t dirent_bytes(const DirentHead &head) { return FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + head.namelen); }

void touch_node(Touches &t, const cache::Cache &cache, uint64_t nodeid, uint32_t what) {
  if (cache::Nid nid = cache.nid_of(nodeid)) t.nodes.push_back({nid, what});
}

void touch_name(Touches &t, const cache::Cache &cache, uint64_t dir, std::string_view name, bool child_exists,
                bool child_content) {
  cache::Nid nid = cache.nid_of(dir);
  if (!nid) return;
  cache::TouchedName touched;
  touched.dir = nid;
  touched.name = std::string(name);
  touched.child_content = child_content;
  touched.child_exists = child_exists;
  t.names.push_back(std::move(touched));
}

/// Requests that only ask: above all isatty(), which some run-time libraries call for every file they open.
bool ioctl_asks(uint32_t command) {
  switch (command) {
    case TCGETS: case TIOCGWINSZ: case TIOCGPGRP: case FIONREAD: case FIGETBSZ:
    case FS_IOC_GETFLAGS: case FS_IOC_GETVERSION: case FS_IOC_FSGETXATTR:
      return true;
    default:
      return false;
  }
}

/// Attributes whose change may take extended attributes with it (ACLs, file capabilities) or the data.
constexpr uint32_t kSetattrContent = FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_KILL_SUIDGID;

}  // namespace

std::optional<Request> parse_request(Bytes message) {
  auto header = read_struct<fuse_in_header>(message);
  if (!header || header->len != message.size()) return std::nullopt;
  Request r;
  r.header = *header;
  r.arguments = message.subspan(sizeof(fuse_in_header));
  if (!take_io(r) || !take_names(r) || !take_handles(r)) return std::nullopt;
  return r;
}

Touches touches_of(const Request &r, const cache::Cache &cache) {
  Touches t;
  const uint64_t node = r.header.nodeid;
  switch (r.header.opcode) {
    case FUSE_LOOKUP: case FUSE_FORGET: case FUSE_BATCH_FORGET: case FUSE_GETATTR: case FUSE_READLINK:
    case FUSE_READ: case FUSE_STATFS: case FUSE_RELEASEDIR: case FUSE_GETXATTR: case FUSE_LISTXATTR:
    case FUSE_INIT: case FUSE_OPENDIR: case FUSE_READDIR: case FUSE_READDIRPLUS: case FUSE_FSYNCDIR:
    case FUSE_GETLK: case FUSE_SETLK: case FUSE_SETLKW: case FUSE_ACCESS: case FUSE_INTERRUPT: case FUSE_BMAP:
    case FUSE_DESTROY: case FUSE_POLL: case FUSE_NOTIFY_REPLY: case FUSE_LSEEK: case FUSE_SYNCFS:
    case kOpcodeStatx:
      break;
    case FUSE_SETATTR:
      touch_node(t, cache, node, r.flags & kSetattrContent ? kTouchContent : kTouchAttr);
      break;
    case FUSE_OPEN:
      // A descriptor for writing hides the contents as long as it lives; O_TRUNC changes them at once.
      if (opens_for_writing(r.flags) || r.flags & O_TRUNC) touch_node(t, cache, node, kTouchContent);
      break;
    case FUSE_RELEASE:
      if (opens_for_writing(r.flags)) touch_node(t, cache, node, kTouchContent);
      break;
    case FUSE_FLUSH:
    case FUSE_FSYNC:
      // File systems may delay what was written until now, its times included.
      if (cache::Nid nid = cache.nid_of(node); nid && cache.has_writer(nid)) t.nodes.push_back({nid, kTouchContent});
      break;
    case FUSE_IOCTL:
      if (!ioctl_asks(r.flags)) touch_node(t, cache, node, kTouchContent);
      break;
    case FUSE_WRITE: case FUSE_FALLOCATE: case FUSE_SETXATTR: case FUSE_REMOVEXATTR:
    case FUSE_SETUPMAPPING: case FUSE_REMOVEMAPPING:
      touch_node(t, cache, node, kTouchContent);
      break;
    case FUSE_COPY_FILE_RANGE:
      touch_node(t, cache, r.other_node, kTouchContent);
      break;
    case FUSE_MKNOD: case FUSE_MKDIR: case FUSE_SYMLINK:
      touch_name(t, cache, node, r.name, false, false);
      break;
    case FUSE_CREATE:
      // The file may exist after all (another client made it): then O_TRUNC empties it and it gets a writer.
      touch_name(t, cache, node, r.name, false, true);
      t.old_names = true;
      break;
    case FUSE_TMPFILE:
      touch_node(t, cache, node, kTouchAttr);
      break;
    case FUSE_LINK:
      touch_node(t, cache, r.other_node, kTouchAttr);
      touch_name(t, cache, node, r.name, false, false);
      break;
    case FUSE_UNLINK: case FUSE_RMDIR:
      t.old_names = r.header.opcode == FUSE_UNLINK;
      touch_name(t, cache, node, r.name, true, false);
      break;
    case FUSE_RENAME: case FUSE_RENAME2:
      t.old_names = true;
      touch_name(t, cache, node, r.name, true, false);
      touch_name(t, cache, r.other_node, r.new_name, !(r.flags & RENAME_NOREPLACE), false);
      break;
    default:
      t.everything = true;
  }
  return t;
}

bool has_reply(uint32_t opcode) {
  return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_NOTIFY_REPLY &&
         opcode != FUSE_INTERRUPT;
}

bool opens_for_writing(uint32_t flags) { return (flags & O_ACCMODE) != O_RDONLY; }

bool replies_with_entry(uint32_t opcode) {
  switch (opcode) {
    case FUSE_LOOKUP: case FUSE_MKNOD: case FUSE_MKDIR: case FUSE_SYMLINK: case FUSE_LINK: case FUSE_CREATE:
    case FUSE_TMPFILE:
      return true;
    default:
      return false;
  }
}

bool read_direntplus(Bytes reply, std::vector<PlusEntry> &entries, std::vector<std::byte> &dirents) {
  size_t at = 0;
  while (at < reply.size()) {
    auto entry = read_struct<fuse_entry_out>(reply, at);
    auto dirent = read_struct<DirentHead>(reply, at + sizeof(fuse_entry_out));
    if (!entry || !dirent) return false;
    const size_t name_at = at + sizeof(fuse_entry_out) + FUSE_NAME_OFFSET;
    if (dirent->namelen == 0 || dirent->namelen > kNameMax || name_at + dirent->namelen > reply.size()) return false;
    entries.push_back({*entry, text_of(reply.subspan(name_at, dirent->namelen)), at});
    const size_t plain = dirent_bytes(*dirent);
    const size_t have = std::min(plain, reply.size() - at - sizeof(fuse_entry_out));
    Bytes record = reply.subspan(at + sizeof(fuse_entry_out), have);
    dirents.insert(dirents.end(), record.begin(), record.end());
    dirents.resize(dirents.size() + (plain - have));
    at += FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + dirent->namelen);
  }
  return true;
}

std::optional<uint64_t> last_cookie(Bytes dirents) {
  std::optional<uint64_t> cookie;
  for (size_t at = 0; at < dirents.size();) {
    auto dirent = read_struct<DirentHead>(dirents, at);
    if (!dirent || dirent->namelen == 0 || dirent->namelen > kNameMax) return std::nullopt;
    cookie = dirent->off;
    at += dirent_bytes(*dirent);
  }
  return cookie;
}

}  // namespace shortfuse::bridge
