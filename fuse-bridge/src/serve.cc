// Answering a request of the kernel out of the cache, for processes that do not run the hook.
//
// The reply is what the file system would have said when the record was kept; the times to live handed to the kernel
// are 0, so that the kernel asks again rather than keeping a copy whose age it cannot know. Entries that exist are not
// served: the kernel would count a reference that the file system knows nothing of.
#include <linux/fuse.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "bridge.h"

namespace shortfuse::bridge {
namespace {

constexpr uint32_t kServedReadMax = 1u << 20;

template <typename T>
bool reply_with(ProgramRun &run, const T &value) {
  Bytes bytes = bytes_of(value);
  run.answer.assign(bytes.begin(), bytes.end());
  run.answer_error = 0;
  return true;
}

bool reply_error(ProgramRun &run, int error) {
  run.answer.clear();
  run.answer_error = error;
  return true;
}

/// Attributes with contents that may be served; false when not there.
bool contents_of(const sf_view &view, const ProgramRun &run, sf_attr_view &attr) {
  sf_moment now{};
  return sf_find_attr(&view, run.nid, &now, &attr) == SF_FIND_OK && attr.cid != 0 && !(attr.flags & SF_RECF_WRITER);
}

bool serve_attr(const sf_view &view, ProgramRun &run) {
  if (run.request.header.opcode != FUSE_GETATTR) return false;
  sf_moment now{};
  sf_attr_view attr;
  if (sf_find_attr(&view, run.nid, &now, &attr) != SF_FIND_OK || attr.flags & SF_RECF_ATIME_STALE) return false;
  fuse_attr_out out{};
  out.attr = attr.attr;
  return reply_with(run, out);
}

bool serve_entry(const sf_view &view, ProgramRun &run) {
  const std::string_view name = run.request.name;
  if (run.request.header.opcode != FUSE_LOOKUP || name.size() > SF_NAME_MAX) return false;
  sf_moment now{};
  uint64_t child = 0;
  const uint64_t hash = sf_name_hash(&view, name.data(), name.size());
  if (sf_find_dentry(&view, run.nid, name.data(), name.size(), hash, &now, &child) != SF_FIND_OK || child != 0)
    return false;
  return reply_error(run, -ENOENT);
}

bool serve_link(const sf_view &view, ProgramRun &run) {
  sf_attr_view attr;
  if (run.request.header.opcode != FUSE_READLINK || !contents_of(view, run, attr)) return false;
  run.answer.resize(4096);
  uint32_t length = 0;
  if (sf_find_blob(&view, SF_REC_LINK, attr.cid, run.answer.data(), run.answer.size(), &length) != SF_FIND_OK ||
      length > run.answer.size())
    return false;
  run.answer.resize(length);
  return true;
}

bool serve_data(const sf_view &view, ProgramRun &run) {
  const Request &request = run.request;
  sf_attr_view attr;
  if (request.header.opcode != FUSE_READ || request.length > kServedReadMax || !contents_of(view, run, attr) ||
      !S_ISREG(attr.attr.mode))
    return false;
  const uint64_t end = std::min(request.offset + request.length, attr.attr.size);
  if (request.offset + request.length < request.offset) return false;
  run.answer.resize(end > request.offset ? end - request.offset : 0);
  for (uint64_t at = request.offset; at < end;) {
    const auto from = static_cast<uint32_t>(at % SF_PAGE_BYTES);
    const auto size = static_cast<uint32_t>(std::min<uint64_t>(SF_PAGE_BYTES - from, end - at));
    uint32_t copied = 0;
    if (sf_find_data(&view, attr.cid, at / SF_PAGE_BYTES, from, size, run.answer.data() + (at - request.offset),
                     &copied) != SF_FIND_OK ||
        copied != size)
      return false;
    at += size;
  }
  return true;
}

/// As many entries behind the cookie as fit. Continuing needs the cookie in this very listing; else the file system
/// does it.
bool serve_listing(const sf_view &view, ProgramRun &run) {
  const Request &request = run.request;
  sf_attr_view attr;
  if (request.header.opcode != FUSE_READDIR || request.length > kServedReadMax || !contents_of(view, run, attr))
    return false;
  std::vector<std::byte> part(SF_PAYLOAD_MAX);
  bool found = request.offset == 0;
  uint32_t parts = 1;
  for (uint32_t i = 0; i < parts; i++) {
    uint32_t length = 0;
    if (sf_find_listing(&view, attr.cid, i, part.data(), part.size(), &length, &parts) != SF_FIND_OK ||
        length > part.size())
      return false;
    for (size_t at = 0; at + sizeof(sf_dirent) <= length;) {
      sf_dirent entry;
      std::memcpy(&entry, part.data() + at, sizeof(entry));
      const char *name = reinterpret_cast<const char *>(part.data() + at + offsetof(sf_dirent, name));
      const size_t next = at + entry.reclen;
      if (entry.reclen < offsetof(sf_dirent, name) + 1 || next > length) return false;
      if (found) {
        fuse_dirent out{};
        out.ino = entry.ino;
        out.off = entry.off;
        out.type = entry.type;
        out.namelen = static_cast<uint32_t>(strnlen(name, next - at - offsetof(sf_dirent, name)));
        const size_t before = run.answer.size(), size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + out.namelen);
        if (before + size > request.length) return true;
        run.answer.resize(before + size);
        std::memcpy(run.answer.data() + before, &out, FUSE_NAME_OFFSET);
        std::memcpy(run.answer.data() + before + FUSE_NAME_OFFSET, name, out.namelen);
      } else {
        found = entry.off == request.offset;
      }
      at = next;
    }
  }
  return found;
}

/// Size queries get the size, too small a buffer ERANGE, as the file system would answer.
bool reply_sized(ProgramRun &run, uint32_t length) {
  if (run.request.length == 0) {
    fuse_getxattr_out out{};
    out.size = length;
    return reply_with(run, out);
  }
  if (length > run.request.length) return reply_error(run, -ERANGE);
  run.answer.resize(length);
  return true;
}

bool serve_xattr(const sf_view &view, ProgramRun &run) {
  const Request &request = run.request;
  sf_attr_view attr;
  if (!contents_of(view, run, attr)) return false;
  run.answer.resize(SF_PAYLOAD_MAX);
  uint32_t length = 0;
  int error = 0;
  if (request.header.opcode == FUSE_LISTXATTR) {
    if (sf_find_blob(&view, SF_REC_XLIST, attr.cid, run.answer.data(), run.answer.size(), &length) != SF_FIND_OK)
      return false;
  } else if (request.header.opcode != FUSE_GETXATTR ||
             sf_find_xattr(&view, attr.cid, request.name.data(), request.name.size(), run.answer.data(),
                           run.answer.size(), &length, &error) != SF_FIND_OK) {
    return false;
  }
  return error ? reply_error(run, error) : reply_sized(run, length);
}

bool serve_statfs(const sf_view &view, ProgramRun &run) {
  if (run.request.header.opcode != FUSE_STATFS) return false;
  sf_moment now{};
  fuse_statfs_out out{};
  return sf_find_statfs(&view, &now, &out.st) == SF_FIND_OK && reply_with(run, out);
}

}  // namespace

bool Bridge::serve(ProgramRun &run, sf_host_id what) {
  // Where the kernel leaves permissions to the file system, only the file system knows who may have which answer.
  const uint32_t flags = __atomic_load_n(&cache_->header()->mount_flags, __ATOMIC_RELAXED);
  if (flags & SF_MNT_ALLOW_OTHER && !(flags & SF_MNT_DEFAULT_PERMISSIONS) && run.request.header.uid != geteuid())
    return false;
  const sf_view &view = cache_->view();
  bool served = false;
  switch (what) {
    case SF_HOST_SERVE_ATTR: served = serve_attr(view, run); break;
    case SF_HOST_SERVE_ENTRY: served = serve_entry(view, run); break;
    case SF_HOST_SERVE_LINK: served = serve_link(view, run); break;
    case SF_HOST_SERVE_DATA: served = serve_data(view, run); break;
    case SF_HOST_SERVE_LISTING: served = serve_listing(view, run); break;
    case SF_HOST_SERVE_XATTR: served = serve_xattr(view, run); break;
    case SF_HOST_SERVE_STATFS: served = serve_statfs(view, run); break;
    default: break;
  }
  if (!served) run.answer.clear();
  return served;
}

}  // namespace shortfuse::bridge
