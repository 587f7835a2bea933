// From the file system to the kernel: every reply ends the mutation of its request, may be kept by the policy, and only
// then leaves.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "bridge.h"

namespace shortfuse::bridge {
namespace {

/// A reply as one piece of memory. Most replies are a header and one block already.
class Flat {
 public:
  Flat(const iovec *iov, int count) {
    size_t total = 0;
    for (int i = 0; i < count; i++) total += iov[i].iov_len;
    if (count == 1) {
      bytes_ = {static_cast<const std::byte *>(iov[0].iov_base), iov[0].iov_len};
      return;
    }
    if (count == 2 && iov[0].iov_len == sizeof(fuse_out_header)) {
      head_ = {static_cast<const std::byte *>(iov[0].iov_base), iov[0].iov_len};
      body_ = {static_cast<const std::byte *>(iov[1].iov_base), iov[1].iov_len};
      return;
    }
    joined_.reserve(total);
    for (int i = 0; i < count; i++) {
      auto *begin = static_cast<const std::byte *>(iov[i].iov_base);
      joined_.insert(joined_.end(), begin, begin + iov[i].iov_len);
    }
    bytes_ = joined_;
  }
  std::optional<fuse_out_header> header() const {
    return read_struct<fuse_out_header>(bytes_.empty() ? head_ : bytes_);
  }
  Bytes body() const {
    if (bytes_.empty()) return body_;
    return bytes_.size() < sizeof(fuse_out_header) ? Bytes() : bytes_.subspan(sizeof(fuse_out_header));
  }

 private:
  Bytes bytes_, head_, body_;
  std::vector<std::byte> joined_;
};

bool is_directory(const fuse_attr &attr) { return (attr.mode & S_IFMT) == S_IFDIR; }

bool is_dot(std::string_view name) { return name == "." || name == ".."; }

/// CREATE and TMPFILE: the reply is an entry and an open handle.
bool creates_and_opens(uint32_t opcode) { return opcode == FUSE_CREATE || opcode == FUSE_TMPFILE; }

/// libfuse's high-level interface keeps a file that is removed while it is open under such a name, and removes it
/// without any request when it is closed. No record may outlive that.
constexpr std::string_view kHidden = ".fuse_hidden";
bool is_hidden_by_libfuse(std::string_view name) { return name.starts_with(kHidden); }
bool has_name_hidden_by_libfuse(Bytes dirents) { return text_of(dirents).find(kHidden) != std::string_view::npos; }

constexpr size_t kDirectKnown = 1 << 16;

ssize_t total_of(const iovec *iov, int count) {
  size_t total = 0;
  for (int i = 0; i < count; i++) total += iov[i].iov_len;
  return static_cast<ssize_t>(total);
}

/// What a fuse_exit program may keep although it is an error.
bool keepable_error(const Request &request, int error) {
  switch (request.header.opcode) {
    case FUSE_LOOKUP: return error == -ENOENT;
    case FUSE_GETXATTR: return error == -ENODATA;
    case FUSE_IOCTL: return error == -ENOTTY && request.flags == TCGETS;
    default: return false;
  }
}

/// Whether everybody would be told this list of attribute names. "trusted." names are for the privileged only, so a
/// list that has some, or that was made for a user who may not see them, holds for nobody else.
bool is_everyones_list(const fuse_in_header &header, Bytes names) {
  const std::string_view text(reinterpret_cast<const char *>(names.data()), names.size());
  return header.uid == 0 && !text.starts_with("trusted.") &&
         text.find(std::string_view("\0trusted.", 9)) == std::string_view::npos;
}

}  // namespace

ssize_t Bridge::write(int fd, const iovec *iov, int count) {
  const Flat flat(iov, count);
  auto out = flat.header();
  if (!out) return ::writev(fd, iov, count);
  if (out->unique == 0) {
    on_notification(*out, flat.body());
    return ::writev(fd, iov, count);
  }
  return on_reply(fd, *out, flat.body(), iov, count);
}

ssize_t Bridge::on_reply(int fd, const fuse_out_header &out, Bytes body, const iovec *iov, int count) {
  auto pending = pending_.take(out.unique);
  if (!pending) return ::writev(fd, iov, count);
  const uint32_t opcode = pending->request.header.opcode;

  // 1. What changes the reply itself: the INIT agreement, entries that the policy denies, an OPEN that must stay
  // visible.
  std::vector<std::byte> rewritten;
  int error = out.error;
  if (opcode == FUSE_INIT && error == 0) rewrite_init(body, rewritten);
  if (opcode == FUSE_OPEN && error == -ENOSYS) {
    no_open_ = true;
    if (pending->policy->keeps_data() && !read_only_mount) {
      fuse_open_out opened{};
      opened.open_flags = FOPEN_KEEP_CACHE;
      rewritten.assign(bytes_of(opened).begin(), bytes_of(opened).end());
      error = 0;
    }
  }
  if (error == -ENOSYS) note_missing(opcode);
  if (error == 0) learn_entries(*pending, body, rewritten);
  if (opcode == FUSE_LOOKUP && error == -ENOENT && pending->nid)
    cache_->removed(pending->nid, pending->request.name, pending->moment);
  // Once the name is known: a swap that comes from here on finds it among those to be taken back.
  if (opcode == FUSE_LOOKUP && error == 0) error = deny_late(*pending, body);
  const Bytes reply = rewritten.empty() ? body : Bytes(rewritten);

  // 2. What the policy wants kept of it.
  ProgramRun run{*this, *pending->policy, pending->request, pending->nid, reply};
  if (opcode < kOpcodes && pending->policy->has(SF_SLOT_FUSE_EXIT + opcode) &&
      (error == 0 || keepable_error(pending->request, error)))
    run_programs(run, SF_SLOT_FUSE_EXIT, error);

  // 3. The mutation is over: from here on its own reply may be kept; 4. only then does the reply leave.
  end_mutation(*pending, error);
  if (run.keep) keep_reply(*pending, error, reply, run);
  note_effects(*pending, error, reply);
  counters_.replied(opcode, now_ns() - pending->started_ns, error);
  if (pending->job) {
    if (opcode == FUSE_LOOKUP && error == 0) {
      if (auto entry = read_struct<fuse_entry_out>(reply); entry && entry->nodeid)
        fetcher_.hold_reference(entry->nodeid);
    }
    fetcher_.replied(pending->job, opcode, error, reply);
    return total_of(iov, count);
  }
  ssize_t written;
  if (rewritten.empty() && error == out.error) {
    written = ::writev(fd, iov, count);
  } else {
    fuse_out_header head{};
    head.len = static_cast<uint32_t>(sizeof(head) + rewritten.size());
    head.error = error;
    head.unique = out.unique;
    iovec parts[2] = {{&head, sizeof(head)}, {rewritten.data(), rewritten.size()}};
    written = ::writev(fd, parts, rewritten.empty() ? 1 : 2);
    if (written >= 0) written = total_of(iov, count);
  }
  if (written < 0) {
    const int failed = errno;
    if (error == 0) unlearn(*pending, reply);
    errno = failed;
  }
  return written;
}

/// Calls that the file system does not have, so that the kernel's own answer is always the same.
void Bridge::note_missing(uint32_t opcode) {
  uint32_t flag = 0;
  if (opcode == FUSE_IOCTL && !no_ioctl.exchange(true)) flag = SF_MNT_NO_IOCTL;
  if (opcode == FUSE_LSEEK && !no_lseek.exchange(true)) flag = SF_MNT_NO_LSEEK;
  if (flag != 0) __atomic_fetch_or(&cache_->header()->mount_flags, flag, __ATOMIC_RELEASE);
}

/// A LOOKUP that began before a swap and is answered after it: the new chain decides. 0, or the denial.
int Bridge::deny_late(const Pending &pending, Bytes body) {
  const auto policy = policy_.load();
  int error = 0;
  if (policy == pending.policy || !pending.nid ||
      !denies_name(*policy, pending.request, pending.nid, pending.request.name, &error))
    return 0;
  if (auto entry = read_struct<fuse_entry_out>(body); entry && entry->nodeid) {
    cache_->drop_name(pending.nid, pending.request.name);
    cache_->forget(entry->nodeid, 1, pending.job ? cache::Holder::Bridge : cache::Holder::Kernel);
    fetcher_.return_reference(entry->nodeid, 1);
  }
  return error;
}

/// The bridge must see every change: write-back caching, passthrough and io_uring would hide them.
void Bridge::rewrite_init(Bytes body, std::vector<std::byte> &rewritten) {
  // Old protocol versions answer with less than the whole struct.
  rewritten.assign(body.begin(), body.end());
  fuse_init_out init{};
  std::memcpy(&init, rewritten.data(), std::min(rewritten.size(), sizeof(init)));
  init.flags &= ~static_cast<uint32_t>(FUSE_WRITEBACK_CACHE);
  init.flags2 &= ~(kInitFlags2Passthrough | kInitFlags2OverIoUring);
  std::memcpy(rewritten.data(), &init, std::min(rewritten.size(), sizeof(init)));
  init_flags_ = init.flags;
  init_minor_ = init.minor;
  initialised_.store(true, std::memory_order_release);
}

/// Every entry in a reply is a reference that the receiver holds from now on; its node begins or continues a life.
void Bridge::learn_entries(Pending &pending, Bytes body, std::vector<std::byte> &rewritten) {
  const Request &request = pending.request;
  const cache::Holder holder = pending.job ? cache::Holder::Bridge : cache::Holder::Kernel;
  if (replies_with_entry(request.header.opcode)) {
    auto entry = read_struct<fuse_entry_out>(body);
    if (!entry) return;
    const bool name_is_its_own = !is_dot(request.name) && !request.name.empty();
    if (entry->nodeid == 0) {
      if (pending.nid && name_is_its_own) cache_->removed(pending.nid, request.name, pending.moment);
      return;
    }
    cache::Nid nid = cache_->learn(entry->nodeid, name_is_its_own ? pending.nid : 0,
                                   name_is_its_own ? request.name : std::string_view(), is_directory(entry->attr),
                                   holder, pending.moment);
    if (creates_and_opens(request.header.opcode) && opens_for_writing(request.flags)) cache_->opened_for_write(nid);
    return;
  }
  if (request.header.opcode != FUSE_READDIRPLUS) return;
  std::vector<PlusEntry> entries;
  std::vector<std::byte> dirents;
  if (!read_direntplus(body, entries, dirents)) return;
  const auto policy = policy_.load();
  for (const PlusEntry &entry : entries) {
    if (entry.entry.nodeid == 0 || is_dot(entry.name)) continue;
    // As if the kernel had looked the name up: what the policy denies must not become known by a listing.
    if (denies_name(*policy, request, pending.nid, entry.name, nullptr)) {
      if (rewritten.empty()) rewritten.assign(body.begin(), body.end());
      const fuse_entry_out unknown{};
      std::memcpy(rewritten.data() + entry.entry_offset, &unknown, sizeof(unknown));
      fetcher_.return_reference(entry.entry.nodeid, 1);
      continue;
    }
    cache_->learn(entry.entry.nodeid, pending.nid, entry.name, is_directory(entry.entry.attr), holder, pending.moment);
  }
}

/// The reply did not arrive (the request was interrupted): the kernel holds none of its references.
void Bridge::unlearn(const Pending &pending, Bytes body) {
  const Request &request = pending.request;
  if (replies_with_entry(request.header.opcode)) {
    auto entry = read_struct<fuse_entry_out>(body);
    if (!entry || entry->nodeid == 0) return;
    if (auto opened = read_struct<fuse_open_out>(body, sizeof(fuse_entry_out));
        opened && creates_and_opens(request.header.opcode))
      handles_.closed(entry->nodeid, opened->fh);
    if (creates_and_opens(request.header.opcode) && opens_for_writing(request.flags)) {
      if (cache::Nid nid = cache_->nid_of(entry->nodeid)) cache_->released_by_writer(nid);
    }
    cache_->forget(entry->nodeid, 1, cache::Holder::Kernel);
  } else if (request.header.opcode == FUSE_READDIRPLUS) {
    std::vector<PlusEntry> entries;
    std::vector<std::byte> dirents;
    if (!read_direntplus(body, entries, dirents)) return;
    for (const PlusEntry &entry : entries)
      if (entry.entry.nodeid != 0 && !is_dot(entry.name)) cache_->forget(entry.entry.nodeid, 1, cache::Holder::Kernel);
  } else if (request.header.opcode == FUSE_OPEN || request.header.opcode == FUSE_OPENDIR) {
    if (pending.writer_counted) cache_->released_by_writer(pending.nid);
    if (auto opened = read_struct<fuse_open_out>(body)) handles_.closed(request.header.nodeid, opened->fh);
  }
}

void Bridge::keep_reply(Pending &pending, int error, Bytes body, const ProgramRun &run) {
  const Request &request = pending.request;
  // A reply to LOOKUP can say that there is nothing without being an error.
  if (error == 0 && run.ttl_ns == SF_DROP && request.header.opcode != FUSE_LOOKUP) return;
  switch (request.header.opcode) {
    case FUSE_LOOKUP: case FUSE_MKNOD: case FUSE_MKDIR: case FUSE_SYMLINK: case FUSE_LINK: case FUSE_CREATE:
      return keep_entry(pending, error, body, run);
    case FUSE_GETATTR: case FUSE_SETATTR:
      if (auto out = read_struct<fuse_attr_out>(body); out && pending.nid && keeps_attr(out->attr))
        cache_->fill_attr(pending.moment, pending.nid, out->attr, run.ttl_ns);
      return;
    case FUSE_READLINK:
      if (pending.nid) cache_->fill_link(pending.moment, pending.nid, text_of(body));
      return;
    case FUSE_READ:
      if (keeps_contents(pending.nid))
        cache_->fill_data(pending.moment, pending.nid, request.offset, body, body.size() < request.length);
      return;
    case FUSE_READDIR: case FUSE_READDIRPLUS:
      return keep_listing(pending, body, run);
    case FUSE_GETXATTR: case FUSE_LISTXATTR:
      return keep_xattr(pending, error, body, run);
    case FUSE_IOCTL:
      if (error != 0 && keeps_contents(pending.nid))
        cache_->fill_answer(pending.moment, pending.nid, SF_ASKED_TERMINAL, 0, 0);
      return;
    case FUSE_LSEEK:
      if (auto out = read_struct<fuse_lseek_out>(body); out && keeps_contents(pending.nid)) keep_hole(pending, *out);
      return;
    case FUSE_STATFS:
      if (auto out = read_struct<fuse_statfs_out>(body)) cache_->fill_statfs(pending.moment, out->st, run.ttl_ns);
      return;
    default:
      return;
  }
}

bool Bridge::keeps_contents(cache::Nid nid) {
  return nid && !(no_open_ && !read_only_mount) && !wants_every_read(nid);
}

void Bridge::keep_hole(const Pending &pending, const fuse_lseek_out &out) {
  const uint64_t from = pending.request.offset;
  if (pending.request.flags == SEEK_HOLE && out.offset > from && out.offset <= INT64_MAX)
    cache_->fill_answer(pending.moment, pending.nid, SF_ASKED_HOLE, from, out.offset);
}

void Bridge::keep_entry(Pending &pending, int error, Bytes body, const ProgramRun &run) {
  const Request &request = pending.request;
  if (!pending.nid || is_dot(request.name)) return;
  auto entry = read_struct<fuse_entry_out>(body);
  if (error == -ENOENT || (entry && entry->nodeid == 0)) {
    if (request.header.opcode == FUSE_LOOKUP && run.negative_ttl_ns != SF_DROP)
      cache_->fill_dentry(pending.moment, pending.nid, request.name, 0, run.negative_ttl_ns);
    return;
  }
  if (error != 0 || !entry || run.ttl_ns == SF_DROP) return;
  if (entry->attr.flags & FUSE_ATTR_SUBMOUNT || is_hidden_by_libfuse(request.name)) return;
  const cache::Nid child = cache_->nid_of(entry->nodeid);
  if (!child) return;
  if (keeps_attr(entry->attr)) cache_->fill_attr(pending.moment, child, entry->attr, run.ttl_ns);
  cache_->fill_dentry(pending.moment, pending.nid, request.name, child, run.ttl_ns);
}

void Bridge::keep_listing(Pending &pending, Bytes body, const ProgramRun &run) {
  const Request &request = pending.request;
  if (!pending.nid) return;
  std::vector<std::byte> plain;
  Bytes dirents = body;
  if (request.header.opcode == FUSE_READDIRPLUS) {
    std::vector<PlusEntry> entries;
    if (!read_direntplus(body, entries, plain)) return;
    dirents = plain;
    for (const PlusEntry &e : entries) {
      if (e.entry.nodeid == 0 || is_dot(e.name) || e.entry.attr.flags & FUSE_ATTR_SUBMOUNT ||
          is_hidden_by_libfuse(e.name))
        continue;
      const cache::Nid child = cache_->nid_of(e.entry.nodeid);
      if (!child) continue;
      if (keeps_attr(e.entry.attr)) cache_->fill_attr(pending.moment, child, e.entry.attr, run.ttl_ns);
      cache_->fill_dentry(pending.moment, pending.nid, e.name, child, run.ttl_ns);
    }
  }
  auto finished =
      listings_.add(request.header.nodeid, request.file_handle, request.offset, pending.moment, dirents);
  if (!finished || has_name_hidden_by_libfuse(finished->dirents)) return;
  std::vector<std::byte> records;
  if (cache::convert_dirents(finished->dirents, records))
    cache_->fill_listing(finished->moment, pending.nid, records);
}

void Bridge::keep_xattr(Pending &pending, int error, Bytes body, const ProgramRun &run) {
  const Request &request = pending.request;
  // With length 0 only the size was asked for.
  if (!pending.nid || (error == 0 && request.length == 0)) return;
  if (request.header.opcode == FUSE_LISTXATTR) {
    if (is_everyones_list(request.header, body)) cache_->fill_xlist(pending.moment, pending.nid, body);
  } else if (error == 0 || run.negative_ttl_ns != SF_DROP) {
    cache_->fill_xattr(pending.moment, pending.nid, request.name, error == 0 ? body : Bytes(), error);
  }
}

void Bridge::note_handle(const Pending &pending, Bytes body) {
  const Request &request = pending.request;
  const bool create = creates_and_opens(request.header.opcode);
  auto opened = read_struct<fuse_open_out>(body, create ? sizeof(fuse_entry_out) : 0);
  if (!opened) return;
  uint64_t nodeid = request.header.nodeid;
  if (create) nodeid = read_struct<fuse_entry_out>(body)->nodeid;
  handles_.opened(nodeid, opened->fh, pending.moment);
  // What cannot be positioned is not to be opened without the file system either, so nothing of it is kept.
  constexpr uint32_t kNotOurs = FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE | FOPEN_STREAM;
  if (request.header.opcode != FUSE_OPENDIR && opened->open_flags & kNotOurs)
    read_directly(cache_->nid_of(nodeid));
}

/// FOPEN_DIRECT_IO: the file system wants to see every read, so the node's contents are nobody's to keep, for good.
void Bridge::read_directly(cache::Nid nid) {
  if (nid == 0) return;
  fetcher_.leave_contents_alone(nid);
  {
    std::lock_guard guard(direct_lock_);
    if (direct_.size() >= kDirectKnown)
      std::erase_if(direct_, [&](cache::Nid known) { return cache_->nodeid_of(known) == 0; });
    if (direct_.size() >= kDirectKnown) all_direct_ = true;
    if (all_direct_ || !direct_.insert(nid).second) return;
  }
  cache_->drop_node(nid);
}

bool Bridge::wants_every_read(cache::Nid nid) {
  if (all_direct_) return true;
  std::lock_guard guard(direct_lock_);
  return direct_.contains(nid);
}

/// Where each name is a node, a change through one name of a file says nothing of the node of another.
bool Bridge::keeps_attr(const fuse_attr &attr) const {
  return !(many_nodes_per_file_.load(std::memory_order_relaxed) && S_ISREG(attr.mode) && attr.nlink > 1);
}

/// A link that is a node of its own: what was kept before that was known goes with everything else. Where the linked
/// file says that it has one name (sshfs: the protocol knows no number), nlink says nothing on this file system, and
/// from now on a change of one file may be one of any other.
void Bridge::note_link(const Pending &pending, Bytes body) {
  auto entry = read_struct<fuse_entry_out>(body);
  if (!entry || entry->nodeid == pending.request.other_node) return;
  bool new_to_us = !many_nodes_per_file_.exchange(true);
  if (entry->attr.nlink <= 1) new_to_us = !links_uncounted_.exchange(true) || new_to_us;
  if (new_to_us) cache_->drop_everything();
}

/// What a reply means for the records beside being kept.
void Bridge::note_effects(const Pending &pending, int error, Bytes body) {
  const Request &request = pending.request;
  switch (request.header.opcode) {
    case FUSE_OPEN: case FUSE_CREATE: case FUSE_TMPFILE: case FUSE_OPENDIR:
      if (error == 0) note_handle(pending, body);
      return;
    case FUSE_LINK:
      if (error == 0) note_link(pending, body);
      return;
    case FUSE_COPY_FILE_RANGE:
      if (pending.nid) cache_->atime_moved(pending.nid);
      return;
    case FUSE_READ: case FUSE_READDIR: case FUSE_READDIRPLUS: case FUSE_READLINK:
      if (error == 0 && pending.nid) cache_->atime_moved(pending.nid);
      return;
    case FUSE_RELEASEDIR:
      listings_.closed(request.header.nodeid, request.file_handle);
      [[fallthrough]];
    case FUSE_RELEASE: {
      // Reading moved the access time; ask once, now that reading is over, so that the next stat is a hit.
      if (!pending.nid) return;
      sf_moment now{};
      sf_attr_view attr;
      if (sf_find_attr(&cache_->view(), pending.nid, &now, &attr) == SF_FIND_OK && attr.flags & SF_RECF_ATIME_STALE)
        fetcher_.want({SF_HINT_ATTR, pending.nid, 0, 0, {}});
      return;
    }
    default:
      return;
  }
}

void Bridge::end_mutation(Pending &pending, int error) {
  const Request &request = pending.request;
  if (pending.writer_counted && error != 0) {
    cache_->released_by_writer(pending.nid);
    pending.writer_counted = false;
  }
  if (request.header.opcode == FUSE_RELEASE && opens_for_writing(request.flags) && pending.nid)
    cache_->released_by_writer(pending.nid);
  const bool rename = request.header.opcode == FUSE_RENAME || request.header.opcode == FUSE_RENAME2;
  if (rename && error == 0 && pending.nid) {
    constexpr uint32_t kExchange = 2;  // RENAME_EXCHANGE
    if (cache::Nid to = cache_->nid_of(request.other_node))
      cache_->renamed(pending.nid, request.name, to, request.new_name, request.flags & kExchange);
  }
  const bool removal = request.header.opcode == FUSE_UNLINK || request.header.opcode == FUSE_RMDIR;
  if (removal && error == 0 && pending.nid) cache_->removed(pending.nid, request.name);
  // Begun before a link showed that the change concerns other nodes too.
  const bool reached_more = pending.may_change_a_file && !pending.reaches_any_node && links_uncounted_;
  if (pending.touches_everything || reached_more) cache_->drop_everything();
  if (pending.mutating) pending.moment = cache_->end(pending.flux);
}

/// The file system itself says that something has changed.
void Bridge::on_notification(const fuse_out_header &out, Bytes body) {
  switch (out.error) {
    case FUSE_NOTIFY_INVAL_INODE:
    case FUSE_NOTIFY_STORE: {
      if (links_uncounted_) break;
      // Both begin with the node id.
      auto node = read_struct<uint64_t>(body);
      if (cache::Nid nid = node ? cache_->nid_of(*node) : 0) cache_->drop_node(nid);
      return;
    }
    case FUSE_NOTIFY_INVAL_ENTRY: {
      auto entry = read_struct<fuse_notify_inval_entry_out>(body);
      if (!entry || body.size() < sizeof(*entry) + entry->namelen) break;
      if (cache::Nid dir = cache_->nid_of(entry->parent)) {
        cache_->drop_name(dir, text_of(body.subspan(sizeof(*entry), entry->namelen)));
        cache_->drop_node(dir);
      }
      return;
    }
    case FUSE_NOTIFY_DELETE: {
      auto entry = read_struct<fuse_notify_delete_out>(body);
      if (!entry || body.size() < sizeof(*entry) + entry->namelen) break;
      if (cache::Nid dir = cache_->nid_of(entry->parent)) {
        cache_->drop_name(dir, text_of(body.subspan(sizeof(*entry), entry->namelen)));
        cache_->drop_node(dir);
      }
      if (cache::Nid child = cache_->nid_of(entry->child)) cache_->drop_node(child);
      return;
    }
    case FUSE_NOTIFY_POLL:
    case FUSE_NOTIFY_RETRIEVE:
      return;
    default:
      break;
  }
  cache_->drop_everything();
}

}  // namespace shortfuse::bridge
