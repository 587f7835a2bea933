#include "map_storage.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace shortfuse::bridge {
namespace {

/// A program runs for microseconds: one that has not finished its record for so long has been left in the middle.
constexpr uint64_t kBusyLimitNs = 2'000'000'000;
constexpr size_t kBacklogBytesMax = 4u << 20;
constexpr size_t kBacklogRecordsMax = 65536;
constexpr uint32_t kDrainRecordsMax = 65536;   ///< at one go
constexpr size_t kHugePageBytes = 2u << 20;

std::string errno_text(const std::string &what) { return what + ": " + std::strerror(errno); }

}  // namespace

std::string map_name(const sf_image_map &def) { return {def.name, strnlen(def.name, sizeof(def.name))}; }

MapMemory::~MapMemory() {
  if (map.storage) munmap(map.storage, size);
}

std::expected<std::unique_ptr<MapMemory>, std::string> make_memory(const sf_image_map &def, Writers writers) {
  const std::string what = "map " + map_name(def);
  auto memory = std::make_unique<MapMemory>();
  const sf_map_shape shape = sf_image_map_shape(&def);
  memory->size = sf_map_bytes(&shape);
  if (memory->size == 0) return std::unexpected(what + ": this kind, or this size, is not supported");
  memory->fd.reset(memfd_create("shortfuse-map", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory->fd || ftruncate(memory->fd.get(), static_cast<off_t>(memory->size)) != 0)
    return std::unexpected(errno_text(what));
  void *bytes = mmap(nullptr, memory->size, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd.get(), 0);
  if (bytes == MAP_FAILED) return std::unexpected(errno_text(what));
  // Taken where the system gives huge pages to shared memory (shmem_enabled=advise); else it changes nothing.
  if (memory->size >= kHugePageBytes) madvise(bytes, memory->size, MADV_HUGEPAGE);
  memory->map = {bytes, shape, 1, 1};
  sf_map_init(bytes, &shape);
  const int own = writers == Writers::DaemonOnly ? F_SEAL_FUTURE_WRITE : 0;
  if (fcntl(memory->fd.get(), F_ADD_SEALS, own | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return std::unexpected(errno_text("sealing " + what));
  return memory;
}

void RingBacklog::add(int32_t pid, std::string bytes) {
  bytes_ += bytes.size();
  records_.push_back({next_++, pid, std::move(bytes)});
  while (bytes_ > kBacklogBytesMax || records_.size() > kBacklogRecordsMax) {
    bytes_ -= records_.front().bytes.size();
    records_.pop_front();
  }
}

void RingBacklog::drain(const sf_map &ring, RingReader &reader, int32_t pid, bool gone, uint64_t now_ns) {
  static thread_local std::vector<char> room;
  room.resize(std::max<size_t>(room.size(), ring.shape.max_entries));
  // Of the reader's own position: the producer's may go on for as long as we look.
  const uint64_t start = reader.position;
  for (uint32_t i = 0; i < kDrainRecordsMax && reader.position - start < ring.shape.max_entries; i++) {
    const bool stuck = reader.busy_at == reader.position && now_ns - reader.busy_since_ns > kBusyLimitNs;
    const int64_t got = sf_ring_take(&ring, &reader.position, room.data(), room.size(), gone || stuck);
    if (got >= 0) {
      add(pid, {room.data(), static_cast<size_t>(got)});
      continue;
    }
    if (got == -ENODATA) {
      lost_++;
      continue;
    }
    if (got == -EPROTO) lost_++;
    if (got == -EBUSY && reader.busy_at != reader.position) {
      reader.busy_at = reader.position;
      reader.busy_since_ns = now_ns;
    }
    break;
  }
  const uint64_t lost = sf_ring_lost(&ring);
  if (lost > reader.lost_seen) lost_ += lost - reader.lost_seen;
  reader.lost_seen = lost;
}

bool has_sums(const sf_map_shape &shape) { return shape.value_size % 8 == 0 || shape.value_size == 4; }

void add_value(const sf_map_shape &shape, std::string &sum, const void *value) {
  sum.resize(shape.value_size);
  auto add = [&]<class Word>(size_t at, Word) {
    Word total, one;
    std::memcpy(&total, sum.data() + at, sizeof total);
    std::memcpy(&one, static_cast<const char *>(value) + at, sizeof one);
    total += one;
    std::memcpy(sum.data() + at, &total, sizeof total);
  };
  if (shape.value_size == 4) return add(0, uint32_t{});
  for (size_t i = 0; i + 8 <= shape.value_size; i += 8) add(i, uint64_t{});
}

void MapAccount::fold(const sf_map &gone) {
  const bool per_cpu = gone.shape.type == SF_MAP_PERCPU_HASH || gone.shape.type == SF_MAP_PERCPU_ARRAY;
  if (!per_cpu || !has_sums(gone.shape)) return;
  sf_map_cursor cursor{};
  while (sf_map_step(&gone, &cursor, 0) != 0) {
    std::string sum(gone.shape.value_size, '\0');
    for (const void *value : cpu_values(gone.shape, cursor.value)) add_value(gone.shape, sum, value);
    if (is_zero(sum)) continue;
    const std::string key(static_cast<const char *>(cursor.key), gone.shape.key_size);
    const bool known = sums_.contains(key);
    if (known || sums_.size() < gone.shape.max_entries) add_value(gone.shape, sums_[key], sum.data());
  }
}

bool is_zero(std::string_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](char byte) { return byte == 0; });
}

std::vector<const void *> cpu_values(const sf_map_shape &shape, const void *first) {
  const size_t stride = sf_map_cpu_stride(&shape);
  std::vector<const void *> values;
  for (uint32_t cpu = 0; cpu < (stride != 0 ? SF_MAP_CPUS : 1); cpu++)
    values.push_back(static_cast<const char *>(first) + cpu * stride);
  return values;
}

std::expected<std::vector<int>, std::string> SessionMaps::descriptors(
    const std::vector<std::shared_ptr<MapStorage>> &maps, int32_t pid) {
  std::vector<int> out;
  for (const auto &storage : maps) {
    if (!sf_map_per_process(storage->shape.type)) {
      out.push_back(storage->memory->fd.get());
      continue;
    }
    auto own = std::find_if(own_.begin(), own_.end(), [&](const Own &o) { return o.storage == storage; });
    if (own == own_.end()) {
      auto memory = make_memory(storage->shape, Writers::Client);
      if (!memory) return std::unexpected(memory.error());
      own = own_.insert(own_.end(), Own{storage, std::move(*memory), {}});
    }
    out.push_back(own->memory->fd.get());
  }
  std::erase_if(own_, [&](Own &own) {
    if (std::find(maps.begin(), maps.end(), own.storage) != maps.end()) return false;
    let_go(own, pid);
    return true;
  });
  return out;
}

void SessionMaps::let_go(Own &own, int32_t pid) {
  own.storage->account.fold(own.memory->map);
  own.storage->processes_gone++;
  if (own.storage->shape.type == SF_MAP_RINGBUF)
    own.storage->backlog.drain(own.memory->map, own.reader, pid, true, 0);
}

void SessionMaps::leave(int32_t pid) {
  for (Own &own : own_) let_go(own, pid);
  own_.clear();
}

void SessionMaps::drain(int32_t pid, uint64_t now_ns) {
  for (Own &own : own_) {
    if (own.storage->shape.type == SF_MAP_RINGBUF)
      own.storage->backlog.drain(own.memory->map, own.reader, pid, false, now_ns);
  }
}

const sf_map *SessionMaps::of(const MapStorage *storage) const {
  for (const Own &own : own_) {
    if (own.storage.get() == storage) return &own.memory->map;
  }
  return nullptr;
}

}  // namespace shortfuse::bridge
