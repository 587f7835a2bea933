// From the kernel to the file system: every request is noted, may be answered by the policy, and marks what it is
// about to change before the file system sees it.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <utility>

#include "bridge.h"
#include "control.h"
#include "libfuse.h"

namespace shortfuse::bridge {
namespace {

/// libfuse cancels its worker threads while they wait for a request. Nothing of ours may be cancelled in the middle, so
/// cancellation is off except around the blocking call itself.
class NoCancel {
 public:
  NoCancel() { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  ~NoCancel() { pthread_setcancelstate(before_, nullptr); }
  template <typename Call>
  auto blocking(Call &&call) {
    int disabled;
    pthread_setcancelstate(before_, &disabled);
    auto result = call();
    const int error = errno;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, nullptr);
    errno = error;
    return result;
  }

 private:
  int before_;
};

constexpr unsigned kJobsEndMs = 1000;  // after that, whoever has the file open has it open

int thread_id() { return static_cast<int>(syscall(SYS_gettid)); }

}  // namespace

uint64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000ull + static_cast<uint64_t>(now.tv_nsec);
}

ssize_t Bridge::read(int fd, void *buffer, size_t size) {
  NoCancel no_cancel;
  // Daemons fork into the background after they mounted: no thread may exist before the first read.
  std::call_once(service_started_, [&] { start_service(); });
  if (!many_threads_.load(std::memory_order_relaxed)) {
    int expected = 0;
    const int self = thread_id();
    if (!first_reader_.compare_exchange_strong(expected, self) && expected != self) many_threads_ = true;
  }
  if (many_threads_.load(std::memory_order_relaxed))
    std::call_once(worker_started_, [&] { worker_ = std::thread([this] { work(); }); });

  while (true) {
    ssize_t got;
    if (deferring_.load(std::memory_order_acquire)) {
      if (ssize_t handed = deferred_message(buffer, size); handed != 0) return handed;
      continue;
    }
    if (many_threads_.load(std::memory_order_relaxed)) {
      // Put aside while one thread read.
      if (ssize_t ready = ready_message(buffer, size); ready != 0) return ready;
      got = no_cancel.blocking([&] { return ::read(fd, buffer, size); });
    } else {
      pollfd waits[2] = {{fd, POLLIN, 0}, {wake_fd_.get(), POLLIN, 0}};
      if (no_cancel.blocking([&] { return ::poll(waits, 2, -1); }) < 0) return -1;
      // The kernel's requests first: a hint is only a wish.
      if (waits[0].revents == 0) {
        got = take_own_message(buffer, size);
        if (got == 0) continue;
        return got;
      }
      got = no_cancel.blocking([&] { return ::read(fd, buffer, size); });
    }
    if (got <= 0) {
      const int error = errno;
      if (got < 0 && error == ENODEV) gone();
      errno = error;
      return got;
    }
    std::span<std::byte> message(static_cast<std::byte *>(buffer), static_cast<size_t>(got));
    message = message.first(take_forgets(message));
    if (message.empty() || must_wait_for_jobs(message)) continue;
    if (on_request(fd, message, nullptr) == Then::PassOn) return static_cast<ssize_t>(message.size());
  }
}

bool Bridge::removes_name(const Request &request, cache::Nid *dir, std::string_view *name) {
  switch (request.header.opcode) {
    case FUSE_UNLINK: case FUSE_RMDIR:
      *dir = cache_->nid_of(request.header.nodeid);
      *name = request.name;
      return true;
    case FUSE_RENAME: case FUSE_RENAME2:
      *dir = cache_->nid_of(request.other_node);
      *name = request.new_name;
      return true;
    default:
      return false;
  }
}

/// Before a name goes that a job of ours has open, the job ends. True: the request is put off until then.
bool Bridge::must_wait_for_jobs(Bytes message) {
  auto header = read_struct<fuse_in_header>(message);
  if (!header || (header->opcode != FUSE_UNLINK && header->opcode != FUSE_RMDIR && header->opcode != FUSE_RENAME &&
                  header->opcode != FUSE_RENAME2))
    return false;
  auto request = parse_request(message);
  cache::Nid dir = 0;
  std::string_view name;
  if (!request || !removes_name(*request, &dir, &name) || !fetcher_.ending_jobs_on(dir, name)) return false;
  if (many_threads_.load(std::memory_order_relaxed)) {
    fetcher_.wait_for_jobs_on(dir, name, std::chrono::milliseconds(kJobsEndMs));
    return false;
  }
  std::lock_guard guard(deferred_lock_);
  deferred_.assign(message.begin(), message.end());
  deferred_until_ns_ = now_ns() + kJobsEndMs * 1'000'000ull;
  deferring_.store(true, std::memory_order_release);
  return true;
}

/// What our jobs still have to say, then the request that waited for them. 0: nothing for the caller. A second thread
/// may appear meanwhile: our worker has the jobs then, and whoever comes here first has the request.
ssize_t Bridge::deferred_message(void *buffer, size_t size) {
  std::lock_guard guard(deferred_lock_);
  while (!deferred_.empty()) {
    auto request = parse_request(deferred_);
    cache::Nid dir = 0;
    std::string_view name;
    const bool wait = request && removes_name(*request, &dir, &name) && now_ns() < deferred_until_ns_ &&
                      fetcher_.ending_jobs_on(dir, name);
    if (!wait) break;
    if (!many_threads_.load(std::memory_order_relaxed))
      if (ssize_t got = take_own_message(buffer, size); got != 0) return got;
    pollfd woken{wake_fd_.get(), POLLIN, 0};
    ::poll(&woken, 1, 20);
  }
  if (deferred_.empty()) return 0;
  const std::vector<std::byte> message = std::exchange(deferred_, {});
  deferring_.store(false, std::memory_order_release);
  std::memcpy(buffer, message.data(), std::min(size, message.size()));
  if (on_request(device_fd_, Bytes(static_cast<const std::byte *>(buffer), message.size()), nullptr) == Then::PassOn)
    return static_cast<ssize_t>(message.size());
  return 0;
}

/// What the kernel forgets is told to the cache, and less of it to the file system where a job of ours goes on with the
/// node. Returns what is left of the message; 0: nothing.
size_t Bridge::take_forgets(std::span<std::byte> message) {
  auto header = read_struct<fuse_in_header>(message);
  if (!header || header->len != message.size()) return message.size();
  constexpr size_t args = sizeof(fuse_in_header);
  if (header->opcode == FUSE_FORGET) {
    auto in = read_struct<fuse_forget_in>(message, args);
    if (!in) return message.size();
    const uint64_t left = fetcher_.forgotten(header->nodeid, in->nlookup);
    if (left == 0 && in->nlookup != 0) return 0;
    in->nlookup = left;
    std::memcpy(message.data() + args, &*in, sizeof(*in));
    return message.size();
  }
  auto batch = read_struct<fuse_batch_forget_in>(message, args);
  if (header->opcode != FUSE_BATCH_FORGET || !batch) return message.size();
  std::byte *const list = message.data() + args + sizeof(*batch);
  const size_t room = (message.size() - args - sizeof(*batch)) / sizeof(fuse_forget_one);
  uint32_t left = 0;
  for (uint32_t i = 0; i < batch->count && i < room; i++) {
    fuse_forget_one one;
    std::memcpy(&one, list + i * sizeof(one), sizeof(one));
    one.nlookup = fetcher_.forgotten(one.nodeid, one.nlookup);
    if (one.nlookup == 0) continue;
    std::memcpy(list + left++ * sizeof(one), &one, sizeof(one));
  }
  if (left == 0) return 0;
  batch->count = left;
  header->len = static_cast<uint32_t>(args + sizeof(*batch) + left * sizeof(fuse_forget_one));
  std::memcpy(message.data(), &*header, sizeof(*header));
  std::memcpy(message.data() + args, &*batch, sizeof(*batch));
  return header->len;
}

/// Single-threaded sessions: a message of ours in place of the kernel's. 0: none after all.
ssize_t Bridge::take_own_message(void *buffer, size_t size) {
  uint64_t drained;
  [[maybe_unused]] ssize_t ignored = ::read(wake_fd_.get(), &drained, sizeof(drained));
  if (ssize_t ready = ready_message(buffer, size); ready != 0) return ready;
  Fetcher::Message message;
  while (fetcher_.next(message, false)) {
    if (message.bytes.size() > size) continue;
    uint64_t more = 1;
    ignored = ::write(wake_fd_.get(), &more, sizeof(more));
    std::memcpy(buffer, message.bytes.data(), message.bytes.size());
    Bytes copy(static_cast<const std::byte *>(buffer), message.bytes.size());
    if (on_request(device_fd_, copy, std::move(message.job)) == Then::PassOn)
      return static_cast<ssize_t>(message.bytes.size());
  }
  return 0;
}

/// Multi-threaded sessions: our own thread hands our messages to libfuse, as one more of its workers.
void Bridge::work() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  Fetcher::Message message;
  while (fetcher_.next(message, true)) {
    if (on_request(device_fd_, message.bytes, std::move(message.job)) == Then::PassOn)
      libfuse().process(session_, message.bytes.data(), message.bytes.size());
  }
  worker_ended_.set_value();
}

Bridge::Then Bridge::on_request(int fd, Bytes message, std::shared_ptr<FetchJob> job) {
  const uint64_t started_ns = now_ns();
  auto request = parse_request(message);
  if (!request) {
    // Not a request as we know them; the file system will say what it thinks. It may change anything.
    cache_->drop_everything();
    return Then::PassOn;
  }
  request->for_bridge = job != nullptr || request->header.unique >= kBridgeUnique;
  const uint32_t opcode = request->header.opcode;
  counters_.seen(opcode);
  if (!has_reply(opcode)) {
    counters_.passed(opcode);
    return Then::PassOn;
  }

  Pending pending;
  pending.nid = cache_->nid_of(request->header.nodeid);
  pending.moment = cache_->moment();
  const bool through_handle = opcode == FUSE_READ || opcode == FUSE_READDIR || opcode == FUSE_READDIRPLUS;
  if (through_handle)
    if (auto since = handles_.opened_at(request->header.nodeid, request->file_handle))
      pending.moment = std::min(pending.moment, *since);
  if (opcode == FUSE_RELEASE || opcode == FUSE_RELEASEDIR)
    handles_.closed(request->header.nodeid, request->file_handle);
  pending.policy = policy_.load();
  pending.started_ns = started_ns;
  if (apply_policy(fd, *pending.policy, *request, pending.nid, started_ns, job) == Then::Answered)
    return Then::Answered;

  counters_.passed(opcode);
  pending.keep(*request);
  pending.job = std::move(job);
  const Loss loss = loss_by(*request, pending.nid);
  begin_mutation(pending);
  if (loss.nid != 0 && park(message, pending, loss)) return Then::Answered;
  pending_.put(request->header.unique, std::move(pending));
  return Then::PassOn;
}

/// By UNLINK, RMDIR and RENAME, and by a change of mode or owner after which its owner may not open it.
Bridge::Loss Bridge::loss_by(const Request &request, cache::Nid nid) {
  if (request.header.opcode == FUSE_SETATTR)
    return request.flags & (FATTR_MODE | FATTR_UID | FATTR_GID) ? Loss{.nid = nid} : Loss{};
  cache::Nid dir = 0;
  std::string_view name;
  constexpr uint32_t kExchange = 2;  // RENAME_EXCHANGE: both names stay
  if (request.header.opcode == FUSE_RENAME2 && request.flags & kExchange) return {};
  if (!removes_name(request, &dir, &name) || dir == 0) return {};
  return {cache_->child_of(dir, name), dir, name};
}

/// The mutation has begun: nobody can be served an open of the node any more who does not stand in a table already.
bool Bridge::park(Bytes message, Pending &pending, const Loss &loss) {
  if (!opens_.has(loss.nid) || !keeper_.would_keep(loss.nid)) return false;
  const auto path = loss.dir != 0 ? cache_->path_of(loss.dir, loss.name) : cache_->path_of(loss.nid);
  Parked parked;
  parked.place = {path ? mount_point_ : std::string(), path.value_or(""), cache_->nodeid_of(loss.nid)};
  parked.nid = loss.nid;
  parked.message.assign(message.begin(), message.end());
  parked.pending = std::move(pending);
  keeper_.keep(std::move(parked));
  return true;
}

void Bridge::go_on(Parked parked) {
  const uint64_t unique = parked.pending.request.header.unique;
  pending_.put(unique, std::move(parked.pending));
  if (many_threads_.load(std::memory_order_relaxed)) {
    libfuse().process(session_, parked.message.data(), parked.message.size());
    return;
  }
  {
    std::lock_guard guard(ready_lock_);
    ready_.push_back(std::move(parked.message));
  }
  // A second thread that has appeared meanwhile has looked before it set about reading, or is seen here.
  if (many_threads_.load(std::memory_order_seq_cst)) {
    std::unique_lock guard(ready_lock_);
    auto left = std::exchange(ready_, {});
    guard.unlock();
    for (auto &message : left) libfuse().process(session_, message.data(), message.size());
    return;
  }
  const uint64_t one = 1;
  [[maybe_unused]] ssize_t ignored = ::write(wake_fd_.get(), &one, sizeof(one));
}

/// A request that was put aside, for the thread that reads. 0: none.
ssize_t Bridge::ready_message(void *buffer, size_t size) {
  std::lock_guard guard(ready_lock_);
  if (ready_.empty()) return 0;
  const std::vector<std::byte> message = std::move(ready_.front());
  ready_.pop_front();
  std::memcpy(buffer, message.data(), std::min(size, message.size()));
  const uint64_t more = 1;
  [[maybe_unused]] ssize_t ignored = ::write(wake_fd_.get(), &more, sizeof(more));
  return static_cast<ssize_t>(message.size());
}

Bridge::Then Bridge::apply_policy(int fd, const PolicySet &policy, const Request &request, cache::Nid nid,
                                  uint64_t started_ns, const std::shared_ptr<FetchJob> &job) {
  const uint32_t opcode = request.header.opcode;
  if (opcode >= kOpcodes || opcode == FUSE_INIT || opcode == FUSE_DESTROY || !policy.has(SF_SLOT_FUSE + opcode))
    return Then::PassOn;
  // A descriptor that the file system has opened must be closed whatever a policy says.
  if (opcode == FUSE_RELEASE || opcode == FUSE_RELEASEDIR) return Then::PassOn;
  ProgramRun run{*this, policy, request, nid, {}};
  const int verdict = run_programs(run, SF_SLOT_FUSE, 0);
  if (verdict == SF_PASS || (verdict == SF_SERVED && !run.served)) return Then::PassOn;
  const int error = verdict < 0 ? verdict : run.answer_error;
  if (verdict < 0)
    counters_.denied(opcode);
  else
    counters_.served(opcode);
  counters_.replied(opcode, now_ns() - started_ns, error);
  if (job)
    fetcher_.replied(job, opcode, error < 0 ? error : -ECANCELED, {});
  else
    answer(fd, request.header.unique, error, error < 0 ? Bytes() : Bytes(run.answer));
  return Then::Answered;
}

void Bridge::answer(int fd, uint64_t unique, int error, Bytes body) {
  fuse_out_header out{};
  out.len = static_cast<uint32_t>(sizeof(out) + body.size());
  out.error = error;
  out.unique = unique;
  iovec iov[2] = {{&out, sizeof(out)}, {const_cast<std::byte *>(body.data()), body.size()}};
  // ENOENT: the request was interrupted meanwhile; other errors end the connection, which the next read reports.
  [[maybe_unused]] ssize_t ignored = ::writev(fd, iov, body.empty() ? 1 : 2);
}

void Bridge::begin_mutation(Pending &pending) {
  const Request &request = pending.request;
  const uint32_t opcode = request.header.opcode;
  const bool reads = opcode == FUSE_READ || opcode == FUSE_READDIR || opcode == FUSE_READDIRPLUS ||
                     opcode == FUSE_READLINK;
  if (reads && pending.nid) cache_->atime_moved(pending.nid);
  Touches touches = touches_of(request, *cache_);
  pending.touches_everything = touches.everything;
  if (touches.everything) cache_->drop_everything();
  if (!touches.nodes.empty() || !touches.names.empty()) {
    pending.mutating = true;
    pending.may_change_a_file = !touches.nodes.empty() || touches.old_names;
    pending.reaches_any_node = pending.may_change_a_file && links_uncounted_;
    pending.flux = cache_->begin(touches.nodes, touches.names,
                                 pending.reaches_any_node ? cache::Reach::AnyNode : cache::Reach::Named);
  }
  if (opcode == FUSE_COPY_FILE_RANGE && pending.nid) cache_->atime_moved(pending.nid);
  if (request.header.opcode == FUSE_OPEN && opens_for_writing(request.flags) && pending.nid) {
    cache_->opened_for_write(pending.nid);
    pending.writer_counted = true;
  }
}

}  // namespace shortfuse::bridge
