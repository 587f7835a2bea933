// One component at a time: is the directory searchable, is the name known, is what it means a link?
//
// The caller's string is walked where it lies, without a copy; a thread that changes it meanwhile gets some
// answer, as in the kernel. A caller that may search every directory (and so most of the time root, or a mount without
// default_permissions) needs no attributes on the way: whether a name means a directory shows in its having entries,
// and only where it has none is the type looked up. Everybody else needs the ATTR record of each directory.
// Constant work per component; anything not certain is a miss, and the kernel answers.
#include "walk.h"

#include "kernel.h"
#include "shortfuse/cache/attach.h"

namespace shortfuse::bypass {

sf_miss miss_of(sf_find find, sf_miss absent) {
  switch (find) {
    case SF_FIND_EXPIRED: return SF_MISS_EXPIRED;
    case SF_FIND_BUSY: return SF_MISS_BUSY;
    default: return absent;
  }
}

namespace {

enum class Next { Go, Stop };

class Walker {
 public:
  Walker(Walk *w, uint64_t start) : w_(*w), view_(w->mount->view), cur_(start) {
    searches_all_ = searches_all(*w->creds, w->mount_flags);
  }
  Walked run(const char *rest, const char *whole);

 private:
  Next component();
  Next enter_name(const char *name, size_t len);
  Next go_up();
  Next finish();
  Next need_directory(bool certain);
  Next follow_link();
  Next jump_to(char *target);
  bool load_attr(uint64_t nid);
  Next miss(sf_miss why) { return w_.miss = why, result_ = Walked::Miss, Next::Stop; }
  Next miss(sf_find find, sf_miss absent, uint8_t wish, uint64_t nid);
  Next fail(int error) { return w_.error = error, result_ = Walked::Error, Next::Stop; }
  void wish_name(const char *name, size_t len);

  Walk &w_;
  const sf_view &view_;
  uint64_t cur_;             // the node reached
  uint64_t prev_ = 0;        // the directory in which a name led to cur_; 0: it was not reached by a name
  bool checked_ = false;     // cur_ is known to be a directory that may be searched
  bool must_be_directory_ = false;
  bool searches_all_;
  const char *p_ = nullptr;
  Walked result_ = Walked::Node;
  unsigned links_ = 0, depth_ = 0, link_bytes_ = 0;
  struct {
    const char *rest;
    unsigned link_bytes;     // in use before this link's target was put there
  } outer_[kLinkDepthMax];
  char link_[kLinkBytesMax];
};

bool Walker::load_attr(uint64_t nid) {
  if (w_.have_attr && w_.nid == nid) return true;
  w_.nid = nid;
  sf_find find = sf_find_attr(&view_, nid, w_.moment, &w_.attr);
  w_.have_attr = find == SF_FIND_OK;
  if (!w_.have_attr) miss(find, SF_MISS_ATTR, SF_HINT_ATTR, nid);
  return w_.have_attr;
}

Next Walker::miss(sf_find find, sf_miss absent, uint8_t wish, uint64_t nid) {
  w_.unmapped = find == SF_FIND_UNMAPPED;
  w_.wish.kind = find == SF_FIND_BUSY ? 0 : wish;
  w_.wish.nid = nid;
  w_.wish.name_len = 0;
  return miss(miss_of(find, absent));
}

void Walker::wish_name(const char *name, size_t len) {
  for (size_t i = 0; i < len; ++i) w_.wish.name[i] = name[i];
  w_.wish.name[len] = 0;
  w_.wish.name_len = static_cast<uint8_t>(len);
}

// cur_ must be a directory that the caller may search, or a link to one. `certain`: look it up even for callers who
// may search anything ("." and ".." do not tell whether cur_ has entries).
Next Walker::need_directory(bool certain) {
  if (checked_ || (searches_all_ && !certain)) return Next::Go;
  if (!load_attr(cur_)) return Next::Stop;
  if (is_link(w_.attr.attr.mode) && prev_ != 0) {
    return follow_link();  // what it leads to is looked at when its target has been walked
  }
  if (!is_directory(w_.attr.attr.mode)) return prev_ != 0 ? fail(-ENOTDIR) : miss(SF_MISS_UNSUPPORTED);
  switch (permission(*w_.creds, w_.mount_flags, w_.attr.attr, kMayExec)) {
    case Decision::Allowed: break;
    case Decision::Denied: return fail(-EACCES);
    case Decision::Unknown: return miss(SF_MISS_PERMISSION);
  }
  checked_ = true;
  return Next::Go;
}

// cur_ is a link reached by a name in prev_; its target is walked from there, then what is left of the outer path.
Next Walker::follow_link() {
  if (++links_ > kLinksMax) return fail(-ELOOP);
  const uint64_t flags = __atomic_load_n(&w_.mount->root.statfs_flags, __ATOMIC_RELAXED);
  if (flags & kStNoSymFollow) return miss(SF_MISS_UNSUPPORTED);
  uint64_t link = cur_, cid = w_.attr.cid;
  sf_attr_view dir;
  sf_find find = sf_find_attr(&view_, prev_, w_.moment, &dir);
  if (find != SF_FIND_OK) return miss(find, SF_MISS_ATTR, SF_HINT_ATTR, prev_);
  // fs.protected_symlinks may forbid to follow links in such a directory.
  if ((dir.attr.mode & kStickyWorldWritable) == kStickyWorldWritable) return miss(SF_MISS_PERMISSION);
  if (cid == 0) return miss(SF_FIND_ABSENT, SF_MISS_LINK, SF_HINT_LINK, link);
  // Nothing left of the current path: its room can be used again.
  const char *rest = p_;
  while (*rest == '/') ++rest;
  unsigned base = link_bytes_;
  if (*rest == 0) {
    base = depth_ > 0 ? outer_[depth_ - 1].link_bytes : 0;
  } else {
    if (depth_ == kLinkDepthMax) return miss(SF_MISS_UNSUPPORTED);
    outer_[depth_++] = {rest, base};
  }
  char *target = link_ + base;
  uint32_t len = 0, room = kLinkBytesMax - base - 1;
  find = sf_find_blob(&view_, SF_REC_LINK, cid, target, room, &len);
  if (find != SF_FIND_OK) return miss(find, SF_MISS_LINK, SF_HINT_LINK, link);
  if (len == 0 || len > room) return miss(SF_MISS_UNSUPPORTED);
  target[len] = 0;
  link_bytes_ = base + len + 1;
  return jump_to(target);
}

Next Walker::jump_to(char *target) {
  w_.have_attr = false;
  if (target[0] != '/') {
    cur_ = prev_;
    checked_ = true;  // it was searched to find the link
    p_ = target;
  } else {
    const char *rest = nullptr;
    MountRef ref = mount_of_path(target, &rest, false);
    if (ref.mount != w_.mount) return miss(SF_MISS_LEFT_MOUNT);
    w_.from_mount_point = true;
    cur_ = SF_NID_ROOT;
    checked_ = false;
    p_ = rest;
  }
  prev_ = 0;
  return Next::Go;
}

Next Walker::go_up() {
  if (cur_ == SF_NID_ROOT) return miss(SF_MISS_LEFT_MOUNT);
  uint64_t parent = prev_;
  if (parent == 0) {
    sf_find find = sf_find_parent(&view_, cur_, w_.moment, &parent);
    if (find != SF_FIND_OK) return miss(find, SF_MISS_DENTRY, SF_HINT_ATTR, cur_);
  }
  cur_ = parent;
  prev_ = 0;
  checked_ = false;
  return Next::Go;
}

Next Walker::enter_name(const char *name, size_t len) {
  uint64_t child = 0;
  sf_find find = sf_find_dentry(&view_, cur_, name, len, sf_name_hash(&view_, name, len), w_.moment, &child);
  if (find == SF_FIND_OK && child != 0) {
    prev_ = cur_;
    cur_ = child;
    checked_ = false;
    return Next::Go;
  }
  if (find == SF_FIND_OK) {
    w_.nid = cur_;
    return fail(-ENOENT);
  }
  if (!checked_) {
    // Nothing known of such a name: perhaps because cur_ is no directory.
    const char *rest = p_;
    Next next = need_directory(true);
    if (next == Next::Stop) {
      if (result_ == Walked::Miss && w_.miss == SF_MISS_ATTR) w_.miss = SF_MISS_DENTRY;
      return next;
    }
    if (!checked_ || p_ != rest) {  // a link was followed: the name comes after its target
      return Next::Go;
    }
  }
  w_.nid = cur_;
  miss(find, SF_MISS_DENTRY, SF_HINT_DENTRY, cur_);
  wish_name(name, len);
  return Next::Stop;
}

// One name of the path at p_, which does not begin with a slash.
Next Walker::component() {
  const char *name = p_, *end = name;
  while (*end != 0 && *end != '/') ++end;
  size_t len = static_cast<size_t>(end - name);
  if (len > SF_NAME_MAX) return miss(SF_MISS_UNSUPPORTED);
  bool dot = name[0] == '.' && len == 1, dots = name[0] == '.' && len == 2 && name[1] == '.';
  unsigned before = links_;
  if (need_directory(dot || dots) == Next::Stop) return Next::Stop;
  if (links_ != before) return Next::Go;  // p_ is the target now; this component waits in outer_
  p_ = end;
  if (dot) return Next::Go;
  if (dots) return go_up();
  if (*end == '/' && depth_ == 0) {
    const char *rest = end;
    while (*rest == '/') ++rest;
    if (*rest == 0) must_be_directory_ = true;
  }
  p_ = name;  // until it is found: a link in place of its directory is followed first
  if (enter_name(name, len) == Next::Stop) return Next::Stop;
  if (links_ == before) p_ = end;
  return Next::Go;
}

// The path has ended at cur_.
Next Walker::finish() {
  if (!w_.follow && !must_be_directory_) {
    if (w_.nid != cur_) w_.have_attr = false;
    w_.nid = cur_;
    return Next::Stop;
  }
  if (!load_attr(cur_)) return Next::Stop;
  if (is_link(w_.attr.attr.mode) && prev_ != 0) return follow_link();
  if (must_be_directory_ && !is_directory(w_.attr.attr.mode)) return fail(-ENOTDIR);
  return Next::Stop;
}

Walked Walker::run(const char *rest, const char *whole) {
  p_ = rest;
  for (;;) {
    const char *at = p_;
    while (*at == '/') ++at;
    if (*at != 0) {
      p_ = at;
      if (component() == Next::Stop) break;
    } else if (depth_ > 0) {
      // A target has been walked; what follows it must find a directory, which its first component checks.
      link_bytes_ = outer_[--depth_].link_bytes;
      p_ = outer_[depth_].rest;
    } else {
      p_ = at;
      if (finish() == Next::Stop) break;
    }
  }
  if (result_ == Walked::Miss) return result_;
  // The kernel takes the whole string before it looks at it: too long or not readable comes first.
  size_t length = 0;
  while (whole[length] != 0) {
    if (++length >= kPathMax) return miss(SF_MISS_UNSUPPORTED), Walked::Miss;
  }
  return result_;
}

}  // namespace

Walked walk(Walk *w, uint64_t start, const char *rest, const char *whole) {
  Walker walker(w, start);
  return walker.run(rest, whole);
}

}  // namespace shortfuse::bypass
