// From the kernel to the file system: every request is noted, may be answered by the policy, and marks what it is
// about to change before the file system sees it.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>

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
    std::shared_ptr<FetchJob> job;
    if (many_threads_.load(std::memory_order_relaxed)) {
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
    Bytes message(static_cast<const std::byte *>(buffer), static_cast<size_t>(got));
    if (on_request(fd, message, nullptr) == Then::PassOn) return got;
  }
}

/// Single-threaded sessions: a message of ours in place of the kernel's. 0: none after all.
ssize_t Bridge::take_own_message(void *buffer, size_t size) {
  uint64_t drained;
  [[maybe_unused]] ssize_t ignored = ::read(wake_fd_.get(), &drained, sizeof(drained));
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
    if (!request->for_bridge) note_forget(*request);
    counters_.passed(opcode);
    return Then::PassOn;
  }

  Pending pending;
  pending.nid = cache_->nid_of(request->header.nodeid);
  pending.moment = cache_->moment();
  pending.policy = policy_.load();
  pending.started_ns = started_ns;
  if (apply_policy(fd, *pending.policy, *request, pending.nid, started_ns, job) == Then::Answered)
    return Then::Answered;

  counters_.passed(opcode);
  pending.keep(*request);
  pending.job = std::move(job);
  begin_mutation(pending);
  pending_.put(request->header.unique, std::move(pending));
  return Then::PassOn;
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

void Bridge::note_forget(const Request &request) {
  if (request.header.opcode == FUSE_FORGET) {
    if (auto in = read_struct<fuse_forget_in>(request.arguments))
      cache_->forget(request.header.nodeid, in->nlookup, cache::Holder::Kernel);
  } else if (request.header.opcode == FUSE_BATCH_FORGET) {
    auto batch = read_struct<fuse_batch_forget_in>(request.arguments);
    for (uint32_t i = 0; batch && i < batch->count; i++) {
      auto one = read_struct<fuse_forget_one>(request.arguments, sizeof(*batch) + i * sizeof(fuse_forget_one));
      if (!one) return;
      cache_->forget(one->nodeid, one->nlookup, cache::Holder::Kernel);
    }
  }
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
    pending.flux = cache_->begin(touches.nodes, touches.names);
    pending.mutating = true;
  }
  if (request.header.opcode == FUSE_OPEN && opens_for_writing(request.flags) && pending.nid) {
    cache_->opened_for_write(pending.nid);
    pending.writer_counted = true;
  }
}

}  // namespace shortfuse::bridge
