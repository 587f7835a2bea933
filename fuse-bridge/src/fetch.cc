#include "fetch.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace shortfuse::bridge {
namespace {

uint32_t first_opcode(sf_hint_kind kind) {
  switch (kind) {
    case SF_HINT_ATTR: return FUSE_GETATTR;
    case SF_HINT_DENTRY: return FUSE_LOOKUP;
    case SF_HINT_DATA: return FUSE_OPEN;
    case SF_HINT_LISTING: return FUSE_OPENDIR;
    case SF_HINT_LINK: return FUSE_READLINK;
    case SF_HINT_XATTR: return FUSE_GETXATTR;
    case SF_HINT_XLIST: return FUSE_LISTXATTR;
    case SF_HINT_STATFS: return FUSE_STATFS;
    default: return 0;
  }
}

std::vector<std::byte> with_name(Bytes prefix, std::string_view name) {
  std::vector<std::byte> bytes(prefix.begin(), prefix.end());
  Bytes text = bytes_of(name);
  bytes.insert(bytes.end(), text.begin(), text.end());
  bytes.push_back(std::byte{0});
  return bytes;
}

}  // namespace

Fetcher::Key Fetcher::key_of(const Wish &wish) {
  return {wish.kind, wish.nid, wish.kind == SF_HINT_DATA ? wish.offset / kFetchBytes : 0, wish.name};
}

/// Cheap reasons not to ask: the life is over, nobody may be served the contents now, or it has come in meanwhile.
bool Fetcher::worth_asking(const Wish &wish) const {
  const uint32_t opcode = first_opcode(wish.kind);
  if (opcode == 0 || (unsupported_ >> opcode & 1) != 0) return false;
  if (wish.kind == SF_HINT_STATFS) return true;
  if (cache_.nodeid_of(wish.nid) == 0) return false;
  if (wish.kind == SF_HINT_DATA) {
    constexpr uint64_t kOffsetMax = INT64_MAX;
    if (wish.offset > kOffsetMax || wish.length > kOffsetMax - wish.offset) return false;
    if (wish.length == 0 || cache_.has_writer(wish.nid) || uncached_.contains(wish.nid)) return false;
    sf_moment now{};
    sf_attr_view attr;
    if (sf_find_attr(&cache_.view(), wish.nid, &now, &attr) == SF_FIND_OK) {
      // Of an empty file too: that it is no file of which only the file system knows the contents.
      if (wish.offset >= std::max<uint64_t>(attr.attr.size, 1)) return false;
      const uint64_t page = wish.offset / SF_PAGE_BYTES;
      const uint64_t end = std::min(wish.offset + wish.length, std::max<uint64_t>(attr.attr.size, 1));
      const uint64_t last = (end - 1) / SF_PAGE_BYTES;
      if (attr.cid && sf_find_ref(&cache_.view(), SF_REC_DATA, attr.cid, page) &&
          sf_find_ref(&cache_.view(), SF_REC_DATA, attr.cid, last))
        return false;
    }
  }
  return true;
}

/// The kernel sends OPEN only for regular files and READLINK only for links; so do we, whatever a client wishes: a file
/// system may hang in opening a FIFO.
bool Fetcher::has_kind_for(const Wish &wish) const {
  if (wish.kind == SF_HINT_STATFS || wish.kind == SF_HINT_ATTR) return true;
  const bool root_lookup = wish.kind == SF_HINT_DENTRY && wish.nid == SF_NID_ROOT;
  sf_moment now{};
  sf_attr_view attr;
  if (sf_find_attr(&cache_.view(), wish.nid, &now, &attr) != SF_FIND_OK) return root_lookup;
  switch (wish.kind) {
    case SF_HINT_DATA: return S_ISREG(attr.attr.mode);
    case SF_HINT_LISTING:
    case SF_HINT_DENTRY: return S_ISDIR(attr.attr.mode);
    case SF_HINT_LINK: return S_ISLNK(attr.attr.mode);
    default: return true;
  }
}

void Fetcher::want(Wish wish) {
  if (wish.kind == SF_HINT_DATA) {
    const uint64_t end = wish.offset + std::min(wish.length, kPrefetchMax);
    if (end < wish.offset) return;
    wish.offset -= wish.offset % SF_PAGE_BYTES;
    wish.length = (end - wish.offset + SF_PAGE_BYTES - 1) / SF_PAGE_BYTES * SF_PAGE_BYTES;
  }
  {
    std::lock_guard guard(lock_);
    if (stopped_ || waiting_.size() >= kJobsWaiting || !worth_asking(wish)) return;
    // Somebody waits for the jobs on this node to end.
    if (auto busy = busy_.find(cache_.nodeid_of(wish.nid)); busy != busy_.end() && busy->second.ending) return;
    if (!known_.insert(key_of(wish)).second) return;
    auto job = std::make_shared<FetchJob>();
    job->wish = std::move(wish);
    if (under_way_ < kJobsUnderWay)
      start_locked(std::move(job));
    else
      waiting_.push_back(std::move(job));
  }
  if (on_queued) on_queued();
}

void Fetcher::start_locked(std::shared_ptr<FetchJob> job) {
  const Wish &wish = job->wish;
  job->nodeid = wish.kind == SF_HINT_STATFS ? FUSE_ROOT_ID : cache_.nodeid_of(wish.nid);
  if (job->nodeid == 0) {
    known_.erase(key_of(wish));
    return;
  }
  under_way_++;
  busy_[job->nodeid].jobs++;
  // Contents are kept only under attributes that were known before them; names are only looked up in directories.
  const bool contents = wish.kind != SF_HINT_ATTR && wish.kind != SF_HINT_STATFS;
  sf_moment now{};
  sf_attr_view attr;
  if (contents && sf_find_attr(&cache_.view(), wish.nid, &now, &attr) != SF_FIND_OK) {
    job->step = FetchJob::Step::Attributes;
    fuse_getattr_in in{};
    return queue_locked(FUSE_GETATTR, job->nodeid, bytes_of(in), job);
  }
  ask_locked(job);
}

/// The message that gets what was wished for, or opens it.
void Fetcher::ask_locked(const std::shared_ptr<FetchJob> &job) {
  const Wish &wish = job->wish;
  if (!has_kind_for(wish)) return finish_locked(*job);
  job->step = FetchJob::Step::Start;
  const uint32_t opcode = first_opcode(wish.kind);
  switch (wish.kind) {
    case SF_HINT_ATTR: {
      fuse_getattr_in in{};
      return queue_locked(opcode, job->nodeid, bytes_of(in), job);
    }
    case SF_HINT_DENTRY:
      return queue_locked(opcode, job->nodeid, with_name({}, wish.name), job);
    case SF_HINT_DATA:
    case SF_HINT_LISTING: {
      fuse_open_in in{};
      in.flags = wish.kind == SF_HINT_LISTING ? O_RDONLY | O_DIRECTORY : O_RDONLY;
      job->position = wish.kind == SF_HINT_DATA ? wish.offset : 0;
      return queue_locked(opcode, job->nodeid, bytes_of(in), job);
    }
    case SF_HINT_XATTR:
    case SF_HINT_XLIST: {
      fuse_getxattr_in in{};
      in.size = SF_PAYLOAD_MAX;
      if (wish.kind == SF_HINT_XLIST) return queue_locked(opcode, job->nodeid, bytes_of(in), job);
      return queue_locked(opcode, job->nodeid, with_name(bytes_of(in), wish.name), job);
    }
    default:
      return queue_locked(opcode, job->nodeid, {}, job);
  }
}

void Fetcher::queue_locked(uint32_t opcode, uint64_t nodeid, Bytes arguments, std::shared_ptr<FetchJob> job) {
  if (stopped_) return;
  fuse_in_header header{};
  header.len = static_cast<uint32_t>(sizeof(header) + arguments.size());
  header.opcode = opcode;
  header.unique = next_unique_ += 2;
  header.nodeid = nodeid;
  header.uid = geteuid();
  header.gid = getegid();
  header.pid = static_cast<uint32_t>(getpid());
  Message message;
  Bytes head = bytes_of(header);
  message.bytes.assign(head.begin(), head.end());
  message.bytes.insert(message.bytes.end(), arguments.begin(), arguments.end());
  message.job = std::move(job);
  messages_.push_back(std::move(message));
  queued_.notify_one();
}

void Fetcher::read_more_locked(const std::shared_ptr<FetchJob> &job) {
  job->step = FetchJob::Step::Reading;
  fuse_read_in in{};
  in.fh = job->file_handle;
  in.offset = job->position;
  if (job->wish.kind == SF_HINT_LISTING) {
    in.size = kFetchListingBytes;
    return queue_locked(FUSE_READDIR, job->nodeid, bytes_of(in), job);
  }
  const uint64_t end = job->wish.offset + job->wish.length;
  in.size = static_cast<uint32_t>(std::min<uint64_t>(kFetchBytes, end - job->position));
  queue_locked(FUSE_READ, job->nodeid, bytes_of(in), job);
}

void Fetcher::close_locked(const std::shared_ptr<FetchJob> &job) {
  job->step = FetchJob::Step::Closing;
  const bool directory = job->wish.kind == SF_HINT_LISTING;
  fuse_release_in in{};
  in.fh = job->file_handle;
  in.flags = directory ? O_RDONLY | O_DIRECTORY : O_RDONLY;
  queue_locked(directory ? FUSE_RELEASEDIR : FUSE_RELEASE, job->nodeid, bytes_of(in), job);
}

void Fetcher::finish_locked(const FetchJob &job) {
  known_.erase(key_of(job.wish));
  under_way_--;
  if (auto busy = busy_.find(job.nodeid); busy != busy_.end() && --busy->second.jobs == 0) {
    uint64_t held = busy->second.held;
    if (held != 0 && needed_by_application_locked(job.nodeid, held, cache::Holder::Kernel)) {
      kept_open_.insert(job.nodeid);
      held--;
    }
    if (held != 0) {
      cache_.forget(job.nodeid, held, cache::Holder::Kernel);
      fuse_forget_in in{held};
      queue_locked(FUSE_FORGET, job.nodeid, bytes_of(in), nullptr);
    }
    busy_.erase(busy);
  }
  idle_.notify_all();
  while (!stopped_ && under_way_ < kJobsUnderWay && !waiting_.empty()) {
    auto next_job = std::move(waiting_.front());
    waiting_.pop_front();
    start_locked(std::move(next_job));
  }
}

void Fetcher::replied(const std::shared_ptr<FetchJob> &job, uint32_t opcode, int error, Bytes body) {
  {
    std::lock_guard guard(lock_);
    if (error == -ENOSYS && opcode < 64) unsupported_ |= 1ull << opcode;
    advance_locked(job, error, body);
  }
  if (on_queued) on_queued();
}

void Fetcher::advance_locked(const std::shared_ptr<FetchJob> &job, int error, Bytes body) {
  if (stopped_) return finish_locked(*job);
  const bool ending = busy_[job->nodeid].ending;
  const bool has_handle = job->wish.kind == SF_HINT_DATA || job->wish.kind == SF_HINT_LISTING;
  switch (job->step) {
    case FetchJob::Step::Attributes:
      return error == 0 && !ending && worth_asking(job->wish) ? ask_locked(job) : finish_locked(*job);
    case FetchJob::Step::Closing:
      return finish_locked(*job);
    case FetchJob::Step::Start: {
      auto opened = has_handle ? read_struct<fuse_open_out>(body) : std::nullopt;
      if (error != 0 || !opened) return finish_locked(*job);
      job->file_handle = opened->fh;
      const bool direct = job->wish.kind == SF_HINT_DATA && opened->open_flags & FOPEN_DIRECT_IO;
      if (direct && uncached_.size() < kUncachedKnown) uncached_.insert(job->wish.nid);
      return direct || ending ? close_locked(job) : read_more_locked(job);
    }
    case FetchJob::Step::Reading: {
      if (ending) return close_locked(job);
      if (job->wish.kind == SF_HINT_LISTING) {
        auto cookie = last_cookie(body);
        const bool more = error == 0 && cookie && *cookie != job->position;
        if (more) job->position = *cookie;
        return more ? read_more_locked(job) : close_locked(job);
      }
      job->position += body.size();
      const bool full = error == 0 && !body.empty() && job->position % SF_PAGE_BYTES == 0;
      const bool more = full && job->position < job->wish.offset + job->wish.length;
      return more ? read_more_locked(job) : close_locked(job);
    }
  }
}

void Fetcher::hold_reference(uint64_t nodeid) {
  std::lock_guard guard(lock_);
  references_.push_back(nodeid);
  if (references_.size() <= kReferencesHeld) return;
  const uint64_t oldest = references_.front();
  references_.pop_front();
  if (busy_.contains(oldest) || needed_by_application_locked(oldest, 1, cache::Holder::Bridge)) {
    references_.push_back(oldest);
    return;
  }
  cache_.forget(oldest, 1, cache::Holder::Bridge);
  fuse_forget_in in{1};
  queue_locked(FUSE_FORGET, oldest, bytes_of(in), nullptr);
}

void Fetcher::return_reference(uint64_t nodeid, uint64_t count) {
  {
    std::lock_guard guard(lock_);
    fuse_forget_in in{count};
    queue_locked(FUSE_FORGET, nodeid, bytes_of(in), nullptr);
  }
  if (on_queued) on_queued();
}

uint64_t Fetcher::forgotten(uint64_t nodeid, uint64_t count) {
  std::lock_guard guard(lock_);
  auto busy = busy_.find(nodeid);
  if (count != 0 && busy != busy_.end() && busy->second.held == 0) {
    busy->second.held = 1;
    count--;
  } else if (count != 0 && !kept_open_.contains(nodeid) &&
             needed_by_application_locked(nodeid, count, cache::Holder::Kernel)) {
    kept_open_.insert(nodeid);
    count--;
  }
  cache_.forget(nodeid, count, cache::Holder::Kernel);
  return count;
}

/// With these references the node would die, but an application was served an open of it, or of what lies below: that
/// will be opened by its path.
bool Fetcher::needed_by_application_locked(uint64_t nodeid, uint64_t count, cache::Holder holder) {
  const cache::Nid nid = cache_.last_references(nodeid, count, holder);
  if (nid == 0) return false;
  if (opens_.has(nid)) return true;
  const auto path = kept_open_.empty() ? std::nullopt : cache_.path_of(nid);
  return path && std::ranges::any_of(kept_open_, [&](uint64_t kept) {
    const auto below = cache_.path_of(cache_.nid_of(kept));
    return below && below->starts_with(*path + '/');
  });
}

void Fetcher::tidy() {
  {
    std::lock_guard guard(lock_);
    std::erase_if(kept_open_, [&](uint64_t nodeid) {
      if (opens_.has(cache_.nid_of(nodeid)) || needed_by_application_locked(nodeid, 1, cache::Holder::Kernel))
        return false;
      cache_.forget(nodeid, 1, cache::Holder::Kernel);
      fuse_forget_in in{1};
      queue_locked(FUSE_FORGET, nodeid, bytes_of(in), nullptr);
      return true;
    });
  }
  if (on_queued) on_queued();
}

void Fetcher::leave_contents_alone(cache::Nid nid) {
  std::lock_guard guard(lock_);
  if (uncached_.size() < kUncachedKnown) uncached_.insert(nid);
}

bool Fetcher::end_jobs_locked(cache::Nid dir, std::string_view name) {
  if (busy_.empty()) return false;
  const auto path = cache_.path_of(dir, name);
  bool any = false;
  for (auto &[nodeid, busy] : busy_) {
    const auto names = cache_.paths_of(cache_.nid_of(nodeid), SIZE_MAX);
    if (!path || std::ranges::find(names, *path) == names.end()) continue;
    busy.ending = true;
    any = true;
  }
  return any;
}

bool Fetcher::ending_jobs_on(cache::Nid dir, std::string_view name) {
  std::lock_guard guard(lock_);
  return end_jobs_locked(dir, name);
}

bool Fetcher::wait_for_jobs_on(cache::Nid dir, std::string_view name, std::chrono::milliseconds limit) {
  std::unique_lock guard(lock_);
  return idle_.wait_for(guard, limit, [&] { return stopped_ || !end_jobs_locked(dir, name); });
}

bool Fetcher::next(Message &message, bool wait) {
  std::unique_lock guard(lock_);
  if (wait) queued_.wait(guard, [&] { return stopped_ || !messages_.empty(); });
  if (stopped_ || messages_.empty()) return false;
  message = std::move(messages_.front());
  messages_.pop_front();
  return true;
}

void Fetcher::stop() {
  std::lock_guard guard(lock_);
  stopped_ = true;
  waiting_.clear();
  messages_.clear();
  queued_.notify_all();
  idle_.notify_all();
}

}  // namespace shortfuse::bridge
