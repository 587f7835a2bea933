// getdents64 out of the cache.
//
// A reader of a directory must not see two listings mixed. So the first call takes the whole listing: straight into the
// caller's buffer when it fits, else into a Stream of the descriptor, from which the following calls go on.
#include "serve_listing.h"

#include "kernel.h"

namespace shortfuse::bypass {

constexpr uint32_t kPartsMax = 1u << 16;
constexpr uint32_t kStreamBytesMax = 1u << 30;

// The bytes of whole, well-formed entries in at[0..bytes); anything else is not given to anybody. *cookie: of the last.
static bool entries_well_formed(const char *at, uint32_t bytes, uint64_t *cookie) {
  uint32_t done = 0;
  while (done < bytes) {
    if (bytes - done < sizeof(sf_dirent)) return false;
    const auto *entry = reinterpret_cast<const sf_dirent *>(at + done);
    uint32_t reclen = entry->reclen;
    if (reclen < sizeof(sf_dirent) || (reclen & 7) != 0 || reclen > bytes - done) return false;
    if (at[done + reclen - 1] != 0) return false;  // a name ends within its entry
    *cookie = entry->off;
    done += reclen;
  }
  return true;
}

long stream_copy(const Stream &stream, uint32_t from, void *to, uint64_t room) {
  uint32_t end = from;
  uint64_t cookie;
  for (;;) {
    uint32_t bytes = stream_entry(stream, end, &cookie);
    if (bytes == 0) break;
    if (end + uint64_t{bytes} - from > room) {
      if (end == from) return -EINVAL;
      break;
    }
    end += bytes;
  }
  sf_copy(to, stream.entries + from, end - from);
  return end - from;
}

static sf_find listing_bytes(const Op &op, uint32_t parts, uint64_t *bytes) {
  *bytes = 0;
  for (uint32_t i = 0; i < parts; ++i) {
    uint32_t len, again;
    sf_find find = sf_find_listing(&op.mount->view, op.attr.cid, i, nullptr, 0, &len, &again);
    if (find != SF_FIND_OK) return find;
    if (again != parts || len > SF_PAYLOAD_MAX) return SF_FIND_BUSY;
    *bytes += len;
  }
  return *bytes <= kStreamBytesMax ? SF_FIND_OK : SF_FIND_BUSY;
}

static sf_find fill_stream(const Op &op, uint32_t parts, Stream *stream, uint64_t bytes) {
  for (uint32_t i = 0; i < parts; ++i) {
    uint32_t len = 0, again = 0;
    sf_find find = sf_find_listing(&op.mount->view, op.attr.cid, i, stream->entries + stream->bytes,
                                   bytes - stream->bytes, &len, &again);
    if (find != SF_FIND_OK) return find;
    if (again != parts || len > bytes - stream->bytes) return SF_FIND_BUSY;
    uint64_t cookie;
    if (!entries_well_formed(stream->entries + stream->bytes, len, &cookie)) return SF_FIND_BUSY;
    stream->bytes += len;
  }
  return SF_FIND_OK;
}

static bool serve_stream(Op *op, uint32_t parts) {
  uint64_t bytes;
  sf_find find = listing_bytes(*op, parts, &bytes);
  Stream *stream = find == SF_FIND_OK ? new_stream(bytes) : nullptr;
  if (stream == nullptr)
    return op->missing(find == SF_FIND_OK ? SF_FIND_BUSY : find, SF_MISS_LISTING, SF_HINT_LISTING, op->nid);
  find = fill_stream(*op, parts, stream, bytes);
  if (find != SF_FIND_OK) {
    retire_stream(stream);
    return op->missing(find, SF_MISS_LISTING, SF_HINT_LISTING, op->nid);
  }
  // The slot's before the caller's memory is touched: a fault leaves nothing behind that nobody owns.
  const uint32_t serial = stream->serial;
  if (!give_stream(op->file.slot, stream)) {  // another thread has just begun the listing
    retire_stream(stream);
    return op->give_up(SF_MISS_BUSY);
  }
  long copied = stream_copy(*stream, 0, op->out, op->length);
  if (copied <= 0) drop_stream(op->file.slot, stream);
  op->position = copied > 0 ? stream_position(serial, static_cast<uint32_t>(copied)) : 0;
  return op->answer(copied);
}

bool serve_listing(Op *op) {
  if (!op->need_attr()) return false;
  const sf_attr_view &a = op->attr;
  if (!is_directory(a.attr.mode)) return op->give_up(SF_MISS_UNSUPPORTED);
  if (!op->need_contents(SF_MISS_LISTING, SF_HINT_LISTING)) return false;
  uint32_t len = 0, parts = 0;
  sf_find find = sf_find_listing(&op->mount->view, a.cid, 0, op->out, op->length, &len, &parts);
  if (find != SF_FIND_OK) return op->missing(find, SF_MISS_LISTING, SF_HINT_LISTING, op->nid);
  if (parts == 0 || parts > kPartsMax) return op->give_up(SF_MISS_BUSY);
  if (parts > 1 || len > op->length) return serve_stream(op, parts);
  uint64_t cookie = 0;
  if (!entries_well_formed(static_cast<const char *>(op->out), len, &cookie)) return op->give_up(SF_MISS_BUSY);
  op->file.slot->last_cookie = cookie;
  op->position = stream_position(0, kStreamEnd);
  return op->answer(len);
}

}  // namespace shortfuse::bypass
