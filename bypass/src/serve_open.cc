// open out of the cache: may it be opened, and is what will be read there?
//
// Only looks: the descriptor is made when the policy has said that it is served (opens.cc). What the kernel would check
// is checked as it would; what the file system's own open might refuse is not asked: the policy that calls
// sf_serve_open() says that it need not be.
#include "kernel.h"
#include "op.h"
#include "stat_fill.h"

namespace shortfuse::bypass {

static bool may_read(Op *op) {
  const uint32_t flags = op->flags_of_mount;
  // Where the kernel leaves permissions to the file system, it is asked where the mode alone would not allow it.
  const Decision decision = permission(*op->creds, flags | SF_MNT_DEFAULT_PERMISSIONS, op->attr.attr, kMayRead);
  if (decision == Decision::Allowed) return true;
  if (decision == Decision::Denied && (flags & SF_MNT_DEFAULT_PERMISSIONS)) return op->answer(-EACCES), false;
  return op->give_up(SF_MISS_PERMISSION);
}

// The daemon opens for its own user and for root only, should it have to. And a chain that looks at requests to open
// has to see them.
static bool may_be_served(const Op &op, bool directory) {
  const uint32_t euid = op.creds->euid;
  return (euid == 0 || euid == op.mount->peer_uid) &&
         !sf_image_has(op.policy->image, SF_SLOT_FUSE + (directory ? FUSE_OPENDIR : FUSE_OPEN));
}

bool serve_open(Op *op) {
  if (!op->need_attr()) return false;
  const sf_attr_view &a = op->attr;
  const bool directory = is_directory(a.attr.mode);
  if (!plain_attr(a.attr) || !(directory || is_regular(a.attr.mode))) return op->give_up(SF_MISS_UNSUPPORTED);
  if (!directory && (op->flags & O_DIRECTORY)) return op->answer(-ENOTDIR);
  if (!may_be_served(*op, directory)) return op->give_up(SF_MISS_PERMISSION);
  const sf_miss absent = directory ? SF_MISS_LISTING : SF_MISS_DATA;
  op->length = directory ? 0 : SF_PAGE_BYTES;
  if (!op->need_contents(absent, directory ? SF_HINT_LISTING : SF_HINT_DATA)) return false;
  // What is not going to be read from the cache would be opened right afterwards.
  const sf_record_kind contents = directory ? SF_REC_LISTING : SF_REC_DATA;
  if (sf_find_ref(&op->mount->view, contents, a.cid, 0) == 0) return op->give_up(absent);
  if (!directory && a.attr.size == 0 && !op->need_emptiness()) return false;
  if (!may_read(op)) return op->served;
  return op->answer(0);
}

}  // namespace shortfuse::bypass
