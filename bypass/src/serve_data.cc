// read out of the cache: pages into the caller's buffers.
//
// The ATTR record names the contents (cid); pages of one cid never change, so whatever pages are found make one
// consistent state, that of the moment the ATTR record was read. Pages are copied straight to where the caller wants
// them; when one is missing the real call writes over what was copied.
#include "kernel.h"
#include "op.h"

namespace shortfuse::bypass {

// One buffer's share of the extent. False: a page is missing or not as it must be.
static bool copy_extent(Op *op, uint64_t offset, unsigned char *to, uint64_t bytes, sf_find *find) {
  while (bytes != 0) {
    uint32_t from = static_cast<uint32_t>(offset % SF_PAGE_BYTES);
    uint64_t left = SF_PAGE_BYTES - from;
    uint32_t size = static_cast<uint32_t>(bytes < left ? bytes : left), copied = 0;
    *find = sf_find_data(&op->mount->view, op->attr.cid, offset / SF_PAGE_BYTES, from, size, to, &copied);
    if (*find != SF_FIND_OK) return false;
    if (copied != size) {  // the page ends before the file does: not these attributes' contents
      *find = SF_FIND_ABSENT;
      return false;
    }
    to += size;
    offset += size;
    bytes -= size;
  }
  return true;
}

static bool copy_all(Op *op, uint64_t bytes, sf_find *find) {
  uint64_t offset = op->offset;
  const Buffers &b = *op->buffers;
  for (int i = 0; i < b.count && bytes != 0; ++i) {
    iovec part;
    __builtin_memcpy(&part, &b.iov[i], sizeof part);  // once: the caller may change it
    uint64_t n = part.iov_len < bytes ? part.iov_len : bytes;
    if (!copy_extent(op, offset, static_cast<unsigned char *>(part.iov_base), n, find)) return false;
    offset += n;
    bytes -= n;
  }
  // An iovec that shrank under us: the kernel shall see what it makes of it.
  *find = SF_FIND_BUSY;
  return bytes == 0;
}

bool serve_data(Op *op) {
  if (!op->need_attr()) return false;
  const sf_attr_view &a = op->attr;
  if (!is_regular(a.attr.mode)) return op->give_up(SF_MISS_UNSUPPORTED);
  if (a.attr.size > INT64_MAX) return op->give_up(SF_MISS_UNSUPPORTED);
  if (!op->need_contents(SF_MISS_DATA, SF_HINT_DATA)) return false;
  if (a.attr.size == 0 && !op->need_emptiness()) return false;
  if (op->offset >= a.attr.size) return op->answer(0);
  uint64_t bytes = a.attr.size - op->offset;
  if (bytes > op->buffers->bytes) bytes = op->buffers->bytes;
  uint64_t last = (op->offset + bytes - 1) / SF_PAGE_BYTES;
  sf_find find = SF_FIND_ABSENT;
  // Of a long extent the end is the likeliest to be missing: look before copying what would be copied in vain.
  bool end_there = last == op->offset / SF_PAGE_BYTES || sf_find_ref(&op->mount->view, SF_REC_DATA, a.cid, last) != 0;
  if (end_there && copy_all(op, bytes, &find)) return op->answer(static_cast<long>(bytes));
  return op->missing(find, SF_MISS_DATA, SF_HINT_DATA, op->nid, op->offset, bytes);
}

}  // namespace shortfuse::bypass
