// readlink and extended attributes out of the cache.
#include "kernel.h"
#include "op.h"
#include "text.h"

namespace shortfuse::bypass {

bool serve_link(Op *op) {
  if (!op->need_attr()) return false;
  if (!is_link(op->attr.attr.mode)) return op->answer(-EINVAL);
  if (!op->need_contents(SF_MISS_LINK, SF_HINT_LINK)) return false;
  uint32_t len = 0;
  sf_find find = sf_find_blob(&op->mount->view, SF_REC_LINK, op->attr.cid, op->out, op->length, &len);
  if (find != SF_FIND_OK) return op->missing(find, SF_MISS_LINK, SF_HINT_LINK, op->nid);
  // A target that does not fit is cut by the kernel; nothing was copied here.
  if (len > op->length) return op->give_up(SF_MISS_UNSUPPORTED);
  return op->answer(len);
}

// SELinux and Smack answer for their attributes themselves; their directories are there when they are active.
static bool no_labels() {
  static uint8_t known;  // 0: not looked yet; threads that look together find the same
  if (known == 0) {
    struct stat st;
    auto exists = [&](const char *path) { return !is_error(SF_SYS2(__NR_stat, path, &st)); };
    known = exists("/sys/fs") && !exists("/sys/fs/selinux") && !exists("/sys/fs/smackfs") ? 1 : 2;
  }
  return known == 1;
}

// Of these only the absence is served: what there is the kernel translates on its way.
static bool translated(const char *name) {
  return text_is(name, "security.capability") || text_starts(name, "system.posix_acl_");
}

// xattr_permission() for reading. -ENODATA and -EACCES are the kernel's answers before it asks the file system.
static bool may_read_xattr(Op *op) {
  const char *name = op->name;
  uint32_t mode = op->attr.attr.mode;
  if (text_starts(name, "system.")) {
    bool acl = text_is(name, "system.posix_acl_access") || text_is(name, "system.posix_acl_default");
    return acl && !is_link(mode) && g.initial_user_ns ? true : op->give_up(SF_MISS_UNSUPPORTED);
  }
  if (text_starts(name, "security.")) {
    return text_is(name, "security.capability") || no_labels() ? true : op->give_up(SF_MISS_UNSUPPORTED);
  }
  if (text_starts(name, "trusted.")) {
    if (!op->creds->sys_admin) op->answer(-ENODATA);
    return true;
  }
  if (text_starts(name, "user.") && !is_regular(mode) && !is_directory(mode)) return op->give_up(SF_MISS_UNSUPPORTED);
  switch (permission(*op->creds, op->flags_of_mount, op->attr.attr, kMayRead)) {
    case Decision::Allowed: return true;
    case Decision::Denied: return op->answer(-EACCES);
    case Decision::Unknown: break;
  }
  return op->give_up(SF_MISS_PERMISSION);
}

// The wish for an xattr carries its name, which missing() does not know.
static bool wish_name(Op *op) {
  for (uint32_t i = 0; i <= op->name_len; ++i) op->wish->name[i] = op->name[i];
  op->wish->name_len = static_cast<uint8_t>(op->name_len);
  return false;
}

bool serve_xattr(Op *op) {
  if (!op->need_attr()) return false;
  if (!may_read_xattr(op)) return false;
  if (op->served) return true;
  if (!op->need_contents(SF_MISS_XATTR, SF_HINT_XATTR)) return wish_name(op);
  uint32_t len = 0;
  int error = 0;
  sf_find find =
      sf_find_xattr(&op->mount->view, op->attr.cid, op->name, op->name_len, op->out, op->length, &len, &error);
  if (find != SF_FIND_OK) {
    op->missing(find, SF_MISS_XATTR, SF_HINT_XATTR, op->nid);
    return wish_name(op);
  }
  if (error != 0) return op->answer(error);
  if (translated(op->name)) return op->give_up(SF_MISS_UNSUPPORTED);
  return op->answer(op->length != 0 && len > op->length ? -ERANGE : static_cast<long>(len));
}

bool serve_xlist(Op *op) {
  if (!op->need_attr()) return false;
  if (!op->need_contents(SF_MISS_XATTR, SF_HINT_XLIST)) return false;
  uint32_t len = 0;
  sf_find find = sf_find_blob(&op->mount->view, SF_REC_XLIST, op->attr.cid, op->out, op->length, &len);
  if (find != SF_FIND_OK) return op->missing(find, SF_MISS_XATTR, SF_HINT_XLIST, op->nid);
  return op->answer(op->length != 0 && len > op->length ? -ERANGE : static_cast<long>(len));
}

}  // namespace shortfuse::bypass
