// The life of an accelerated mount: made before anything is mounted, served from the first read on, swapped while it
// runs, gone when the connection ends.
#include "bridge.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "control.h"
#include "libfuse.h"

namespace shortfuse::bridge {

namespace {
/// A file system whose server is out of reach may never come back; a daemon must end all the same.
constexpr auto kStopTime = std::chrono::seconds(5);
}  // namespace

Bridge::Bridge(const Options &options, std::unique_ptr<cache::Cache> cache)
    : options_(options), cache_(std::move(cache)), fetcher_(*cache_, opens_) {}

Bridge::~Bridge() { stop(); }

bool Bridge::stop() {
  gone();
  fetcher_.stop();
  worker_lost_ = !keeper_.stop(kStopTime) || worker_lost_;
  if (worker_.joinable()) {
    if (worker_ended_.get_future().wait_for(kStopTime) == std::future_status::ready) {
      worker_.join();
    } else {
      worker_lost_ = true;
      worker_.detach();
    }
  }
  if (control_) control_->stop();
  return !worker_lost_;
}

std::expected<std::unique_ptr<Bridge>, std::string> Bridge::create(const Options &options) {
  auto policy = PolicySet::load(options.policies, nullptr, options.budget_bytes);
  // One line, as for everything else that can be wrong with a mount.
  if (!policy) return std::unexpected(policy.error().substr(0, policy.error().find('\n')));
  if (auto directory = Registry::prepare_directory(); !directory) return std::unexpected(directory.error());
  auto cache = cache::Cache::create({.budget_bytes = options.budget_bytes});
  if (!cache) return std::unexpected(cache.error());
  std::unique_ptr<Bridge> bridge(new Bridge(options, std::move(*cache)));
  bridge->policy_.store(std::move(*policy));
  bridge->cache_->header()->policy_epoch = 1;
  bridge->keeper_.find_opener();
  bridge->wake_fd_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!bridge->wake_fd_) return std::unexpected(std::string("eventfd: ") + std::strerror(errno));
  return bridge;
}

void Bridge::mounted(fuse_session *session, int fd, const std::string &mount_point) {
  session_ = session;
  device_fd_ = fd;
  mount_point_ = mount_point;
  sf_segment_header *header = cache_->header();
  if (mount_point.size() < sizeof(header->mount_point)) {
    std::memcpy(header->mount_point, mount_point.data(), mount_point.size());
    header->mount_point_len = static_cast<uint32_t>(mount_point.size());
  }
  keeper_.go_on = [this](Parked parked) { go_on(std::move(parked)); };
  fetcher_.on_queued = [this] {
    if (many_threads_.load(std::memory_order_relaxed)) return;
    const uint64_t one = 1;
    [[maybe_unused]] ssize_t ignored = ::write(wake_fd_.get(), &one, sizeof(one));
  };
}

void Bridge::start_service() {
  serving_process_ = getpid();
  cache_->header()->daemon_pid = static_cast<uint32_t>(getpid());
  control_ = std::make_unique<Control>(*this);
  if (auto started = control_->start(); !started) {
    // The mount itself works; only nobody will find the cache.
    std::fprintf(stderr, "shortfuse: this mount is not accelerated: %s\n", started.error().c_str());
    control_.reset();
  }
}

void Bridge::gone() {
  if (gone_.exchange(true)) return;
  __atomic_store_n(&cache_->header()->state, static_cast<uint32_t>(SF_SEG_GONE), __ATOMIC_RELEASE);
  if (control_) control_->leave();
}

std::expected<void, std::string> Bridge::swap(const std::vector<std::string> &paths) {
  const auto before = policy_.load();
  auto loaded = PolicySet::load(paths, before.get(), options_.budget_bytes);
  if (!loaded) return std::unexpected(loaded.error());
  const bool names = (*loaded)->looks_at_names();
  policy_.store(std::move(*loaded));
  // Replies that are seen from here on are held against the new chain; names that were handed out before are taken
  // back now, so that what it denies is in force when the swap is answered.
  if (names) take_back_denied_names();
  __atomic_fetch_add(&cache_->header()->policy_epoch, 1, __ATOMIC_RELEASE);
  swaps_.fetch_add(1, std::memory_order_relaxed);
  return {};
}

bool Bridge::denies_name(const PolicySet &policy, const Request &like, cache::Nid dir, std::string_view name,
                         int *error) {
  if (!policy.looks_at_names()) return false;
  Request lookup = like;
  lookup.header.opcode = FUSE_LOOKUP;
  lookup.name = name;
  lookup.arguments = {};
  ProgramRun run{*this, policy, lookup, dir, {}};
  run.probing = true;
  const int verdict = run_programs(run, SF_SLOT_FUSE, 0);
  if (verdict < 0 && error) *error = verdict;
  return verdict < 0;
}

/// Runs on the service thread, which never holds a request of the kernel: the kernel may take a directory's lock here
/// that a request waits under.
void Bridge::take_back_denied_names() {
  const auto policy = policy_.load();
  for (const cache::Cache::KnownName &known : cache_->known_names()) {
    const cache::Nid dir = cache_->nid_of(known.dir_nodeid);
    Request request;
    request.header.nodeid = known.dir_nodeid;
    if (!dir || !denies_name(*policy, request, dir, known.name, nullptr)) continue;
    cache_->drop_name(dir, known.name);
    fuse_notify_inval_entry_out entry{};
    entry.parent = known.dir_nodeid;
    entry.namelen = static_cast<uint32_t>(known.name.size());
    fuse_out_header out{};
    out.error = FUSE_NOTIFY_INVAL_ENTRY;
    out.len = static_cast<uint32_t>(sizeof(out) + sizeof(entry) + known.name.size() + 1);
    iovec iov[3] = {{&out, sizeof(out)},
                    {&entry, sizeof(entry)},
                    {const_cast<char *>(known.name.c_str()), known.name.size() + 1}};
    // ENOENT: the kernel does not have it; anything else is the connection's end, noticed by the next read.
    [[maybe_unused]] ssize_t ignored = ::writev(device_fd_, iov, 3);
  }
}

}  // namespace shortfuse::bridge
