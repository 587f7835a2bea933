/* The rules by which records appear and disappear. One lock; readers never take it.
 *
 * The mutation clock. Every end(), and every other event that makes what was read before worthless, raises `clock`.
 * A reply carries the clock of the moment at which its request arrived. It may fill X when nothing in flight
 * touches X and when X was last touched no later than that moment: then what the file system read is younger than
 * every change that has been ended. Lives that end leave the highest of their moments as a floor for new lives, since
 * a new life may be the same file; their mutations in flight count against everything until they end.
 *
 * Contents hang on a cid that only the ATTR record names. Renewing the cid in the node's state and dropping ATTR
 * voids any number of pages in O(1); begin() does so, and as every fill is refused until end(), the new cid is not
 * seen before the mutation is over, so end() has no need to renew it again.
 *
 * Changes from outside are told by the stamp: size, mtime and ctime of the last fill. Contents are accepted only from
 * requests younger than their stamp; so contents are never older than it, and if they are younger, the next stamp
 * differs. After a mutation of our own that touches attributes only, the ctime has moved anyway, and size and mtime
 * decide alone, as they do for the kernel's own page cache (FUSE_AUTO_INVAL_DATA). */
#include "shortfuse/cache/cache.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "index.h"
#include "nodes.h"
#include "shared.h"
#include "store.h"

namespace shortfuse::cache {

namespace {

constexpr uint32_t kListingPartMax = 16384 - sizeof(sf_record);  // a slot of a quarter span
constexpr uint64_t kPagesPerLock = 8;
constexpr uint32_t kEndedLivesPerTrim = 4096;
/// Time stamps within a clock tick of now may not tell two changes apart. File systems that show no fraction of a
/// second have ticks of one second, the others of at most 10 ms.
constexpr int64_t kYoungWholeSecondsNs = 2'000'000'000;
constexpr int64_t kYoungFractionsNs = 20'000'000;

bool cacheable_name(std::string_view name) {
  return !name.empty() && name.size() <= SF_NAME_MAX && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

int64_t realtime_ns() {
  timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

bool is_young(const fuse_attr &attr) {
  const bool has_ctime = attr.ctime != 0;
  const auto seconds = static_cast<int64_t>(has_ctime ? attr.ctime : attr.mtime);
  const uint32_t fraction = has_ctime ? attr.ctimensec : attr.mtimensec;
  if (seconds > INT64_MAX / 1'000'000'000 - 1 || seconds < 0) return false;
  const int64_t changed_ns = seconds * 1'000'000'000 + fraction;
  return changed_ns > realtime_ns() - (fraction == 0 ? kYoungWholeSecondsNs : kYoungFractionsNs);
}

uint64_t stamp_of(uint64_t seed, const fuse_attr &attr) {
  const uint64_t parts[] = {attr.size, attr.mtime, attr.mtimensec};
  return hash_bytes(seed, parts, sizeof parts);
}
uint32_t ctime_stamp_of(uint64_t seed, const fuse_attr &attr) {
  const uint64_t parts[] = {attr.ctime, attr.ctimensec};
  return static_cast<uint32_t>(hash_bytes(seed, parts, sizeof parts));
}

}  // namespace

struct Cache::Impl {
  explicit Impl(std::unique_ptr<Store> made)
      : store(std::move(made)), nodes(store->segment().header()->hash_seed * kOddB) {}

  mutable std::mutex mutex;
  std::unique_ptr<Store> store;
  NodeTable nodes;

  /// Raised under the lock, read without it by moment(): a request that reads it early is only refused more.
  std::atomic<Moment> clock{1};
  uint64_t last_cid = 0;
  uint64_t void_cid = 0;             ///< this one and all below it name nothing any more
  uint64_t everything_flux = 0;      ///< mutations in flight that may touch anything
  Moment everything_last = 0;
  uint64_t in_flight = 0;            ///< all mutations
  Moment any_last = 0;
  Moment floor = 0, floor_atime = 0; ///< of lives that have ended
  uint32_t ended_since_trim = 0;
  bool statfs_kept = false;

  uint64_t fills[SF_REC_KINDS] = {};
  uint64_t refused_fills = 0, mutations = 0, epoch_bumps = 0;

  sf_segment_header *header() const { return store->segment().header(); }
  uint64_t expiry(uint64_t ttl_ns) const {
    if (ttl_ns == kNever) return 0;
    const uint64_t now = store->view().now_ns();
    return ttl_ns > ~0ull - now ? ~0ull : now + ttl_ns;
  }
  RecordKey dentry_key(Nid dir, std::string_view name) const {
    return {SF_REC_DENTRY, dir, store->name_hash(name), name};
  }
  static uint64_t payload_u64(const sf_record *record) { return load_u64(record->payload); }

  bool settled(Moment at) const { return everything_flux == 0 && everything_last <= at; }
  bool may_fill(const NodeState *node, Moment at) const {
    return node != nullptr && node->flux == 0 && node->last_mutation <= at && settled(at);
  }
  bool may_fill_name(const NodeState *dir, Moment at) const {
    return dir != nullptr && dir->name_flux == 0 && dir->last_name <= at && settled(at);
  }
  bool may_fill_content(const NodeState *node, Moment at) const {
    return may_fill(node, at) && node->is(kNodeStamped) && node->cid > void_cid && node->writers == 0;
  }
  bool refuse() {
    ++refused_fills;
    return false;
  }
  bool filled(sf_record_kind kind, bool placed) {
    if (!placed) return refuse();
    ++fills[kind];
    return true;
  }

  void renew_cid(NodeState *node) {
    node->cid = ++last_cid;
    node->flags &= static_cast<uint8_t>(~kNodeListed);
  }
  void unstamp(NodeState *node) { node->flags &= static_cast<uint8_t>(~(kNodeStamped | kNodeYoung | kNodeChanged)); }
  void void_contents(NodeState *node) {
    renew_cid(node);
    unstamp(node);
  }
  void publish_node(const NodeState *node) {
    const sf_record *there = store->find({SF_REC_NODE, node->nodeid});
    if (there != nullptr && payload_u64(there) == node->nid) return;
    store->put({SF_REC_NODE, node->nodeid}, {}, {bytes_of(node->nid)});
  }

  void touch(NodeState *node, uint32_t what, Flux &flux);
  void touch_name(const TouchedName &touched, Flux &flux);
  void touch_everything(Flux &flux);
  void void_all_nodes();
  void bump_epoch();
  void end_life(NodeState *node);
  void drop(NodeState *node);
  bool put_page(Moment at, Nid nid, uint64_t page, Bytes bytes);
  bool put_content(Moment at, Nid nid, sf_record_kind kind, uint64_t sub, std::string_view name,
                   std::initializer_list<Bytes> parts);
};

Cache::Cache() = default;

Cache::~Cache() {
  if (impl_) store_release(&header()->state, static_cast<uint32_t>(SF_SEG_GONE));
}

std::expected<std::unique_ptr<Cache>, std::string> Cache::create(const Options &options) {
  auto store = Store::create(options.budget_bytes);
  if (!store) return std::unexpected(store.error());
  std::unique_ptr<Cache> cache(new Cache());
  cache->impl_ = std::make_unique<Impl>(std::move(*store));
  NodeState *root = cache->impl_->nodes.by_nid(SF_NID_ROOT);
  cache->impl_->renew_cid(root);
  cache->impl_->publish_node(root);
  return cache;
}

// ---- the segment

sf_segment_header *Cache::header() { return impl_->header(); }
int Cache::head_fd() const { return impl_->store->segment().head_fd(); }
uint64_t Cache::head_bytes() const { return impl_->store->segment().head_bytes(); }
const sf_view &Cache::view() const { return impl_->store->view(); }

std::vector<Cache::Chunk> Cache::chunks() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->store->chunks();
}

void Cache::hold_liveness() {
  static_assert(sizeof(pthread_mutex_t) <= sizeof(sf_segment_header::liveness));
  auto *mutex = reinterpret_cast<pthread_mutex_t *>(header()->liveness);
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(mutex, &attributes);
  pthread_mutexattr_destroy(&attributes);
  pthread_mutex_lock(mutex);
}

// ---- identities

Nid Cache::nid_of(uint64_t nodeid) const {
  std::lock_guard lock(impl_->mutex);
  const NodeState *node = impl_->nodes.by_nodeid(nodeid);
  return node != nullptr ? node->nid : 0;
}

uint64_t Cache::nodeid_of(Nid nid) const {
  std::lock_guard lock(impl_->mutex);
  const NodeState *node = impl_->nodes.by_nid(nid);
  return node != nullptr ? node->nodeid : 0;
}

Nid Cache::learn(uint64_t nodeid, Nid parent, std::string_view name, bool is_directory, Holder holder, Moment at) {
  if (nodeid == 0) return 0;
  std::lock_guard lock(impl_->mutex);
  Impl &impl = *impl_;
  NodeState *node = impl.nodes.by_nodeid(nodeid);
  if (node != nullptr && node->nid == SF_NID_ROOT) return SF_NID_ROOT;
  if (node == nullptr) {
    node = impl.nodes.begin_life(nodeid);
    if (node == nullptr) return 0;
    impl.renew_cid(node);
    node->last_mutation = node->last_name = impl.floor;
    node->last_atime = impl.floor_atime;
  }
  if (holder == Holder::Kernel) {
    ++node->kernel_references;
  } else {
    ++node->bridge_references;
  }
  if (is_directory) node->flags |= kNodeDirectory;
  impl.publish_node(node);

  const NodeState *dir = impl.nodes.by_nid(parent);
  if (dir == nullptr || !cacheable_name(name)) return node->nid;
  // A mutation of names in flight does not matter here: what it moves, renamed() moves once more. A reply that is
  // older than the last one proves nothing about the name, except that nothing is sure any more if it disagrees.
  if (dir->last_name <= at) {
    impl.nodes.set_name(node, parent, name);
  } else if (NodeState *named = impl.nodes.by_name(parent, name); named != nullptr && named != node) {
    impl.nodes.clear_name(parent, name);
  }
  const RecordKey key = impl.dentry_key(parent, name);
  if (const sf_record *dentry = impl.store->find(key); dentry != nullptr && Impl::payload_u64(dentry) != node->nid) {
    impl.store->remove(key);
  }
  return node->nid;
}

bool Cache::forget(uint64_t nodeid, uint64_t count, Holder holder) {
  std::lock_guard lock(impl_->mutex);
  NodeState *node = impl_->nodes.by_nodeid(nodeid);
  if (node == nullptr || node->nid == SF_NID_ROOT) return false;
  if (holder == Holder::Kernel) {
    node->kernel_references -= std::min(node->kernel_references, count);
  } else {
    node->bridge_references -= static_cast<uint32_t>(std::min<uint64_t>(node->bridge_references, count));
  }
  if (node->kernel_references != 0 || node->bridge_references != 0) return false;
  impl_->end_life(node);
  return true;
}

void Cache::Impl::end_life(NodeState *node) {
  floor = std::max({floor, node->last_mutation, node->last_name});
  floor_atime = std::max(floor_atime, node->last_atime);
  // end() will not find this life any more and takes one off everything_flux for each touch instead.
  everything_flux += node->flux + node->name_flux;
  store->remove({SF_REC_NODE, node->nodeid});
  store->remove({SF_REC_ATTR, node->nid});
  if (node->is(kNodeDirectory)) store->remove({SF_REC_PARENT, node->nid});
  nodes.end_life(node);
  if (++ended_since_trim >= kEndedLivesPerTrim) {
    ended_since_trim = 0;
    store->trim();
  }
}

Nid Cache::last_references(uint64_t nodeid, uint64_t count, Holder holder) {
  std::lock_guard lock(impl_->mutex);
  const NodeState *node = impl_->nodes.by_nodeid(nodeid);
  if (node == nullptr || node->nid == SF_NID_ROOT) return 0;
  const uint64_t others = holder == Holder::Kernel ? node->bridge_references : node->kernel_references;
  const uint64_t own = holder == Holder::Kernel ? node->kernel_references : node->bridge_references;
  if (others != 0 || own > count) return 0;
  impl_->store->remove({SF_REC_ATTR, node->nid});
  return node->nid;
}

uint64_t Cache::bridge_references(uint64_t nodeid) const {
  std::lock_guard lock(impl_->mutex);
  const NodeState *node = impl_->nodes.by_nodeid(nodeid);
  return node != nullptr ? node->bridge_references : 0;
}

std::vector<std::string> Cache::paths_of(Nid nid, size_t most) const {
  std::lock_guard lock(impl_->mutex);
  const NodeState *node = impl_->nodes.by_nid(nid);
  return node != nullptr ? impl_->nodes.paths_of(node, most) : std::vector<std::string>();
}

std::optional<std::string> Cache::path_of(Nid nid) const {
  auto paths = paths_of(nid, 1);
  return !paths.empty() ? std::optional(std::move(paths.front())) : std::nullopt;
}

Nid Cache::child_of(Nid dir, std::string_view name) const {
  std::lock_guard lock(impl_->mutex);
  if (cacheable_name(name))
    if (const sf_record *dentry = impl_->store->find(impl_->dentry_key(dir, name)); dentry != nullptr)
      return Impl::payload_u64(dentry);
  const NodeState *node = impl_->nodes.by_name(dir, name);
  return node != nullptr ? node->nid : 0;
}

std::optional<std::string> Cache::path_of(Nid dir, std::string_view name) const {
  auto path = path_of(dir);
  if (!path) return std::nullopt;
  if (!path->empty()) *path += '/';
  return *path += name;
}

std::vector<Cache::KnownName> Cache::known_names() const {
  std::lock_guard lock(impl_->mutex);
  std::vector<KnownName> names;
  names.reserve(impl_->nodes.size());
  impl_->nodes.for_each_name([&](const NodeName &name) {
    if (const NodeState *dir = impl_->nodes.by_nid(name.dir); dir != nullptr)
      names.push_back({dir->nodeid, std::string(name.view())});
  });
  return names;
}

void Cache::renamed(Nid from_dir, std::string_view from, Nid to_dir, std::string_view to, bool exchange) {
  std::lock_guard lock(impl_->mutex);
  NodeTable &nodes = impl_->nodes;
  NodeState *source = nodes.by_name(from_dir, from);
  NodeState *target = nodes.by_name(to_dir, to);
  if (source == target) return;
  nodes.clear_name(from_dir, from);
  nodes.clear_name(to_dir, to);
  if (source != nullptr) nodes.set_name(source, to_dir, to);
  if (exchange && target != nullptr) nodes.set_name(target, from_dir, from);
}

void Cache::removed(Nid dir_nid, std::string_view name, Moment at) {
  std::lock_guard lock(impl_->mutex);
  const NodeState *dir = impl_->nodes.by_nid(dir_nid);
  if (dir == nullptr || dir->last_name <= at) impl_->nodes.clear_name(dir_nid, name);
}

// ---- mutations

Moment Cache::moment() const { return impl_->clock.load(std::memory_order_acquire); }

void Cache::Impl::touch(NodeState *node, uint32_t what, Flux &flux) {
  store->remove({SF_REC_ATTR, node->nid});
  if ((what & kTouchContent) != 0) {
    void_contents(node);
  } else {
    node->flags |= kNodeChanged;
  }
  ++node->flux;
  flux.nodes.push_back({node->nid, what});
}

void Cache::Impl::touch_everything(Flux &flux) {
  if (flux.everything) return;
  flux.everything = true;
  ++everything_flux;
}

void Cache::Impl::bump_epoch() {
  auto next = static_cast<uint16_t>(header()->attr_epoch + 1);
  if (next == 0) {
    // The numbers begin again: no record may be left that carries one of them.
    store->remove_kinds(SF_REC_ATTR, SF_REC_PARENT);
    next = 1;
  }
  store_release(&header()->attr_epoch, next);
  ++epoch_bumps;
}

void Cache::Impl::void_all_nodes() {
  void_cid = last_cid;
  bump_epoch();
}

void Cache::Impl::touch_name(const TouchedName &touched, Flux &flux) {
  NodeState *dir = nodes.by_nid(touched.dir);
  if (dir == nullptr) return touch_everything(flux);
  touch(dir, kTouchAttr | kTouchContent, flux);
  ++dir->name_flux;
  flux.dirs.push_back(dir->nid);

  // Whom the name meant so far: what readers see, expired or not, and what was learned last. Both, if they differ.
  NodeState *seen = nullptr;
  bool known_absent = false;
  if (cacheable_name(touched.name)) {
    const RecordKey key = dentry_key(dir->nid, touched.name);
    if (const sf_record *dentry = store->find(key); dentry != nullptr) {
      known_absent = payload_u64(dentry) == 0;
      seen = nodes.by_nid(payload_u64(dentry));
      store->remove(key);
    }
  }
  NodeState *learned = nodes.by_name(dir->nid, touched.name);
  for (NodeState *child : {seen, learned == seen ? nullptr : learned}) {
    if (child == nullptr) continue;
    const bool directory = child->is(kNodeDirectory);
    // A directory's listing holds the inode number of "..", which moves with it.
    touch(child, kTouchAttr | (touched.child_content || directory ? kTouchContent : 0u), flux);
    if (directory) store->remove({SF_REC_PARENT, child->nid});
  }
  if (seen == nullptr && learned == nullptr && !known_absent && touched.child_exists) {
    touch_everything(flux);
    bump_epoch();
  }
}

Cache::Flux Cache::begin(std::span<const TouchedNode> nodes, std::span<const TouchedName> names, Reach reach) {
  std::lock_guard lock(impl_->mutex);
  Impl &impl = *impl_;
  Flux flux;
  flux.begun = true;
  flux.at = impl.clock.load(std::memory_order_relaxed);
  ++impl.in_flight;
  ++impl.mutations;
  for (const TouchedNode &touched : nodes) {
    NodeState *node = impl.nodes.by_nid(touched.nid);
    // A node that is not known has no records, but it may be learned before the end.
    if (node == nullptr) {
      impl.touch_everything(flux);
    } else {
      impl.touch(node, touched.what, flux);
    }
  }
  for (const TouchedName &touched : names) impl.touch_name(touched, flux);
  if (reach == Reach::AnyNode) {
    impl.touch_everything(flux);
    impl.void_all_nodes();
  }
  if (impl.statfs_kept) {
    impl.store->remove({SF_REC_STATFS, SF_NID_ROOT});
    impl.statfs_kept = false;
  }
  return flux;
}

Moment Cache::end(const Flux &flux) {
  if (!flux.begun) return moment();
  std::lock_guard lock(impl_->mutex);
  Impl &impl = *impl_;
  const Moment now = impl.clock.load(std::memory_order_relaxed) + 1;
  bool alone = !flux.everything && impl.settled(flux.at);
  // First everything back by as often as it was touched, then look: a node may have been touched twice.
  for (const TouchedNode &touched : flux.nodes) {
    if (NodeState *node = impl.nodes.by_nid(touched.nid); node != nullptr) {
      --node->flux;
    } else {
      // That life is over: end_life() has made this touch one of everything.
      --impl.everything_flux;
      impl.everything_last = now;
      alone = false;
    }
  }
  for (Nid nid : flux.dirs) {
    if (NodeState *dir = impl.nodes.by_nid(nid); dir != nullptr) {
      --dir->name_flux;
    } else {
      --impl.everything_flux;
      impl.everything_last = now;
      alone = false;
    }
  }
  // The directories of names are among the nodes.
  for (const TouchedNode &touched : flux.nodes) {
    NodeState *node = impl.nodes.by_nid(touched.nid);
    if (node == nullptr) continue;
    alone = alone && node->flux == 0 && (node->last_mutation <= flux.at || node->last_mutation == now);
    node->last_mutation = now;
  }
  for (Nid nid : flux.dirs) {
    if (NodeState *dir = impl.nodes.by_nid(nid); dir != nullptr) dir->last_name = now;
  }
  if (flux.everything) {
    --impl.everything_flux;
    impl.everything_last = now;
  }
  --impl.in_flight;
  impl.any_last = now;
  impl.clock.store(now, std::memory_order_release);
  return alone ? now : flux.at;
}

void Cache::drop_everything() {
  std::lock_guard lock(impl_->mutex);
  impl_->store->clear();
  impl_->statfs_kept = false;
  impl_->any_last = impl_->everything_last = ++impl_->clock;
}

void Cache::Impl::drop(NodeState *node) {
  store->remove({SF_REC_ATTR, node->nid});
  void_contents(node);
  node->last_mutation = ++clock;
}

void Cache::drop_node(Nid nid) {
  std::lock_guard lock(impl_->mutex);
  if (NodeState *node = impl_->nodes.by_nid(nid); node != nullptr) impl_->drop(node);
}

void Cache::drop_name(Nid dir_nid, std::string_view name) {
  std::lock_guard lock(impl_->mutex);
  Impl &impl = *impl_;
  NodeState *dir = impl.nodes.by_nid(dir_nid);
  if (dir == nullptr) return;
  NodeState *learned = impl.nodes.by_name(dir_nid, name);
  if (cacheable_name(name)) {
    const RecordKey key = impl.dentry_key(dir_nid, name);
    if (const sf_record *dentry = impl.store->find(key); dentry != nullptr) {
      if (learned == nullptr) learned = impl.nodes.by_nid(Impl::payload_u64(dentry));
      impl.store->remove(key);
    }
  }
  if (learned != nullptr) {
    impl.drop(learned);
    if (learned->is(kNodeDirectory)) impl.store->remove({SF_REC_PARENT, learned->nid});
  }
  impl.drop(dir);
  dir->last_name = impl.clock.load(std::memory_order_relaxed);
}

// ---- writers

void Cache::opened_for_write(Nid nid) {
  std::lock_guard lock(impl_->mutex);
  NodeState *node = impl_->nodes.by_nid(nid);
  if (node == nullptr) return;
  ++node->writers;
  impl_->drop(node);
}

void Cache::released_by_writer(Nid nid) {
  std::lock_guard lock(impl_->mutex);
  NodeState *node = impl_->nodes.by_nid(nid);
  if (node == nullptr || node->writers == 0) return;
  if (--node->writers == 0) impl_->drop(node);
}

bool Cache::has_writer(Nid nid) const {
  std::lock_guard lock(impl_->mutex);
  const NodeState *node = impl_->nodes.by_nid(nid);
  return node != nullptr && node->writers != 0;
}

bool Cache::atime_moved(Nid nid) {
  std::lock_guard lock(impl_->mutex);
  NodeState *node = impl_->nodes.by_nid(nid);
  if (node == nullptr) return false;
  node->last_atime = ++impl_->clock;
  const sf_record *attr = impl_->store->find({SF_REC_ATTR, nid});
  if (attr == nullptr || (attr->flags & SF_RECF_ATIME_STALE) != 0) return false;
  impl_->store->amend(attr, attr->sub, attr->flags | SF_RECF_ATIME_STALE);
  return true;
}

// ---- fills

bool Cache::fill_attr(Moment at, Nid nid, const fuse_attr &attr, uint64_t ttl_ns) {
  std::lock_guard lock(impl_->mutex);
  Impl &impl = *impl_;
  NodeState *node = impl.nodes.by_nid(nid);
  if (!impl.may_fill(node, at)) return impl.refuse();

  const uint64_t seed = impl.header()->hash_seed;
  const uint64_t stamp = stamp_of(seed, attr);
  const uint32_t stamp_ctime = ctime_stamp_of(seed, attr);
  const bool same = node->stamp == stamp && (node->is(kNodeChanged) || node->stamp_ctime == stamp_ctime);
  const bool voided = node->cid <= impl.void_cid;
  if (!node->is(kNodeStamped) || node->is(kNodeYoung) || !same || voided) {
    // From here on, contents must come from requests that arrive later: those on their way may be older.
    if (node->is(kNodeStamped) || voided) impl.renew_cid(node);
    node->last_mutation = ++impl.clock;
  }
  node->stamp = stamp;
  node->stamp_ctime = stamp_ctime;
  impl.unstamp(node);
  node->flags |= kNodeStamped;
  if (ttl_ns != kNever && is_young(attr)) node->flags |= kNodeYoung;

  RecordKey key{SF_REC_ATTR, nid, node->writers != 0 ? 0 : node->cid};
  RecordFields fields{.expires_ns = impl.expiry(ttl_ns), .epoch = impl.header()->attr_epoch};
  if (node->writers != 0) fields.flags |= SF_RECF_WRITER;
  if (at < node->last_atime) fields.flags |= SF_RECF_ATIME_STALE;
  impl.publish_node(node);
  return impl.filled(SF_REC_ATTR, impl.store->put(key, fields, {bytes_of(attr)}));
}

bool Cache::fill_dentry(Moment at, Nid dir_nid, std::string_view name, Nid child_nid, uint64_t ttl_ns) {
  std::lock_guard lock(impl_->mutex);
  Impl &impl = *impl_;
  const NodeState *dir = impl.nodes.by_nid(dir_nid);
  const NodeState *child = impl.nodes.by_nid(child_nid);
  if (!cacheable_name(name) || !impl.may_fill_name(dir, at)) return impl.refuse();
  if (child_nid != 0 && child == nullptr) return impl.refuse();
  const RecordFields fields{.expires_ns = impl.expiry(ttl_ns)};
  // A directory has one name, so what may be said of the name may be said of "..".
  if (child != nullptr && child->is(kNodeDirectory)) {
    RecordFields with_epoch = fields;
    with_epoch.epoch = impl.header()->attr_epoch;
    impl.filled(SF_REC_PARENT, impl.store->put({SF_REC_PARENT, child_nid}, with_epoch, {bytes_of(dir_nid)}));
  }
  return impl.filled(SF_REC_DENTRY, impl.store->put(impl.dentry_key(dir_nid, name), fields,
                                                    {bytes_of(child_nid), as_bytes(name)}));
}

bool Cache::Impl::put_page(Moment at, Nid nid, uint64_t page, Bytes bytes) {
  const NodeState *node = nodes.by_nid(nid);
  if (!may_fill_content(node, at)) return refuse();
  const RecordKey key{SF_REC_DATA, node->cid, page};
  // The same cid means the same contents: a page that is there need not be written, or disturbed, again.
  if (const sf_record *there = store->find(key); there != nullptr && there->len >= bytes.size()) return true;
  return filled(SF_REC_DATA, store->put(key, {}, {bytes}));
}

bool Cache::fill_data(Moment at, Nid nid, uint64_t offset, Bytes bytes, bool end_of_file) {
  const uint64_t head = (SF_PAGE_BYTES - offset % SF_PAGE_BYTES) % SF_PAGE_BYTES;
  if (head > bytes.size()) return false;
  bytes = bytes.subspan(head);
  uint64_t page = (offset + head) / SF_PAGE_BYTES;
  bool kept = false;
  if (bytes.empty() && offset == 0 && end_of_file) {
    std::lock_guard lock(impl_->mutex);
    return impl_->put_page(at, nid, 0, bytes);
  }
  while (!bytes.empty()) {
    // A large read is many copies: let others in between.
    std::lock_guard lock(impl_->mutex);
    for (uint64_t i = 0; i < kPagesPerLock && !bytes.empty(); ++i, ++page) {
      if (bytes.size() < SF_PAGE_BYTES && !end_of_file) return kept;
      const size_t size = std::min<size_t>(bytes.size(), SF_PAGE_BYTES);
      if (!impl_->put_page(at, nid, page, bytes.first(size))) return false;
      bytes = bytes.subspan(size);
      kept = true;
    }
  }
  return kept;
}

namespace {

/// Where the listing is to be cut so that no entry crosses parts; empty when it is malformed.
std::vector<Bytes> cut_listing(Bytes dirents) {
  std::vector<Bytes> parts;
  size_t start = 0, at = 0;
  while (at < dirents.size()) {
    sf_dirent entry;
    constexpr size_t head = offsetof(sf_dirent, name);
    if (dirents.size() - at < sizeof entry) return {};
    std::memcpy(&entry, dirents.data() + at, head);
    if (entry.reclen < sizeof entry || entry.reclen % 8 != 0 || entry.reclen > dirents.size() - at) return {};
    if (at + entry.reclen - start > kListingPartMax - 8) {
      parts.push_back(dirents.subspan(start, at - start));
      start = at;
    }
    at += entry.reclen;
  }
  parts.push_back(dirents.subspan(start));
  return parts;
}

}  // namespace

bool Cache::fill_listing(Moment at, Nid nid, Bytes dirents) {
  std::lock_guard lock(impl_->mutex);
  Impl &impl = *impl_;
  NodeState *node = impl.nodes.by_nid(nid);
  if (!impl.may_fill_content(node, at) || dirents.size() > impl.header()->budget_bytes / 8) return impl.refuse();
  const std::vector<Bytes> parts = cut_listing(dirents);
  if (parts.empty()) return impl.refuse();
  const auto count = static_cast<uint32_t>(parts.size());

  // Somebody may be between two parts of an earlier listing under this cid. Either that is still whole, or this one
  // gets a cid of its own.
  if (node->is(kNodeListed)) {
    bool whole = true;
    for (uint32_t i = 0, there = 1; i < there && whole; ++i) {
      const sf_record *part = impl.store->find({SF_REC_LISTING, node->cid, i});
      whole = part != nullptr;
      if (whole) there = load_u32(part->payload);
    }
    if (whole) return true;
    impl.renew_cid(node);
    if (const sf_record *attr = impl.store->find({SF_REC_ATTR, nid}); attr != nullptr) {
      impl.store->amend(attr, node->cid, attr->flags);
    }
  }
  if (count > 1) node->flags |= kNodeListed;
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t of = count;
    if (!impl.store->put({SF_REC_LISTING, node->cid, i}, {}, {bytes_of(of), parts[i]})) return impl.refuse();
  }
  return impl.filled(SF_REC_LISTING, true);
}

bool Cache::Impl::put_content(Moment at, Nid nid, sf_record_kind kind, uint64_t sub, std::string_view name,
                              std::initializer_list<Bytes> parts) {
  const NodeState *node = nodes.by_nid(nid);
  if (!may_fill_content(node, at)) return refuse();
  return filled(kind, store->put({kind, node->cid, sub, name}, {}, parts));
}

bool Cache::fill_link(Moment at, Nid nid, std::string_view target) {
  std::lock_guard lock(impl_->mutex);
  return impl_->put_content(at, nid, SF_REC_LINK, 0, {}, {as_bytes(target)});
}

bool Cache::fill_xattr(Moment at, Nid nid, std::string_view name, Bytes value, int error) {
  std::lock_guard lock(impl_->mutex);
  if (name.empty() || name.size() > SF_NAME_MAX) return impl_->refuse();
  const struct { uint32_t name_len; int32_t error; } lengths{static_cast<uint32_t>(name.size()), error};
  return impl_->put_content(at, nid, SF_REC_XATTR, impl_->store->name_hash(name), name,
                            {bytes_of(lengths), as_bytes(name), value});
}

bool Cache::fill_xlist(Moment at, Nid nid, Bytes names) {
  std::lock_guard lock(impl_->mutex);
  return impl_->put_content(at, nid, SF_REC_XLIST, 0, {}, {names});
}

bool Cache::fill_answer(Moment at, Nid nid, sf_question question, uint64_t from, uint64_t to) {
  std::lock_guard lock(impl_->mutex);
  const NodeState *node = impl_->nodes.by_nid(nid);
  if (node == nullptr) return impl_->refuse();
  if (const sf_record *there = impl_->store->find({SF_REC_ANSWER, node->cid, question}); there != nullptr) {
    const uint64_t known_from = load_u64(there->payload), known_to = load_u64(there->payload + 8);
    if (known_to == to && known_from < from) from = known_from;
  }
  return impl_->put_content(at, nid, SF_REC_ANSWER, question, {}, {bytes_of(from), bytes_of(to)});
}

bool Cache::fill_statfs(Moment at, const fuse_kstatfs &statfs, uint64_t ttl_ns) {
  std::lock_guard lock(impl_->mutex);
  Impl &impl = *impl_;
  // Any change may move the figures.
  if (impl.in_flight != 0 || impl.any_last > at) return impl.refuse();
  const RecordFields fields{.expires_ns = impl.expiry(ttl_ns)};
  impl.statfs_kept = impl.store->put({SF_REC_STATFS, SF_NID_ROOT}, fields, {bytes_of(statfs)});
  return impl.filled(SF_REC_STATFS, impl.statfs_kept);
}

// ---- eviction

void Cache::touched(std::span<const uint64_t> refs) {
  std::lock_guard lock(impl_->mutex);
  for (uint64_t ref : refs) impl_->store->touch(ref);
}

Stats Cache::stats() const {
  std::lock_guard lock(impl_->mutex);
  Stats stats{};
  impl_->store->add_stats(stats);
  std::ranges::copy(impl_->fills, stats.fills);
  stats.refused_fills = impl_->refused_fills;
  stats.mutations = impl_->mutations;
  stats.epoch_bumps = impl_->epoch_bumps;
  stats.nodes = impl_->nodes.size();
  return stats;
}

}  // namespace shortfuse::cache
