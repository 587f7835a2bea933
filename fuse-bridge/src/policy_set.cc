#include "policy_set.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace shortfuse::bridge {
namespace {

bool same_shape(const sf_image_map &a, const sf_image_map &b) {
  return a.type == b.type && a.key_size == b.key_size && a.value_size == b.value_size &&
         a.max_entries == b.max_entries && std::strncmp(a.name, b.name, sizeof(a.name)) == 0;
}

/// Names of globals begin with a dot, or hold one behind the object's name (".rodata", "foo.bss").
bool is_global(const sf_image_map &map) { return std::memchr(map.name, '.', sizeof(map.name)) != nullptr; }

std::string errno_text(const char *what) { return std::string(what) + ": " + std::strerror(errno); }

std::expected<std::shared_ptr<MapStorage>, std::string> make_map(const vm::Policy::Map &map) {
  auto storage = std::make_shared<MapStorage>();
  storage->shape = map.def;
  const sf_map_shape shape{map.def.type, map.def.key_size, map.def.value_size, map.def.max_entries};
  storage->size = sf_map_bytes(&shape);
  const std::string name(map.def.name, strnlen(map.def.name, sizeof(map.def.name)));
  if (storage->size == 0) return std::unexpected("map " + name + ": this kind, or this size, is not supported");
  storage->fd.reset(memfd_create("shortfuse-map", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!storage->fd || ftruncate(storage->fd.get(), static_cast<off_t>(storage->size)) != 0)
    return std::unexpected(errno_text(("map " + name).c_str()));
  void *bytes = mmap(nullptr, storage->size, PROT_READ | PROT_WRITE, MAP_SHARED, storage->fd.get(), 0);
  if (bytes == MAP_FAILED) return std::unexpected(errno_text(("map " + name).c_str()));
  storage->map = {bytes, shape, 1, 0};
  sf_map_init(bytes, &shape);
  if (!map.initial.empty()) {
    const uint32_t first = 0;
    if (sf_map_update(&storage->map, &first, map.initial.data(), 0, 0) != 0)
      return std::unexpected("map " + name + ": its initial contents do not fit");
  }
  if (fcntl(storage->fd.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return std::unexpected(errno_text(("sealing map " + name).c_str()));
  return storage;
}

}  // namespace

void Descriptor::reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

MapStorage::~MapStorage() {
  if (map.storage) munmap(map.storage, size);
}

PolicySet::~PolicySet() {
  if (image_) munmap(const_cast<sf_image *>(image_), image_bytes_);
}

std::expected<std::shared_ptr<const PolicySet>, std::string> PolicySet::load(const std::vector<std::string> &paths,
                                                                             const PolicySet *previous) {
  auto policy = vm::load_policy(paths);
  if (!policy) return std::unexpected(policy.error().str());
  auto set = std::make_shared<PolicySet>();
  set->policy_ = std::move(*policy);

  auto published = vm::publish_image(set->policy_, vm::Lowering::Auto);
  if (!published) return std::unexpected(published.error().str());
  set->image_fd_.reset(published->fd);
  set->image_bytes_ = published->bytes;
  set->why_interpreted_ = published->why_interpreted;
  void *image = mmap(nullptr, published->bytes, PROT_READ | PROT_EXEC, MAP_SHARED, published->fd, 0);
  if (image == MAP_FAILED) return std::unexpected(errno_text("mapping the policy image"));
  set->image_ = static_cast<const sf_image *>(image);
  if (sf_image_check(image, published->bytes) != 0)
    return std::unexpected("the policy image that was just made is not well-formed");

  std::vector<std::shared_ptr<MapStorage>> reusable = previous ? previous->maps_ : decltype(previous->maps_){};
  for (const vm::Policy::Map &map : set->policy_.maps) {
    std::shared_ptr<MapStorage> storage;
    for (auto &old : reusable) {
      if (old && !is_global(map.def) && same_shape(old->shape, map.def)) {
        storage = std::move(old);
        old = nullptr;
        break;
      }
    }
    if (!storage) {
      auto made = make_map(map);
      if (!made) return std::unexpected(made.error());
      storage = std::move(*made);
    }
    set->map_values_.push_back(sf_map_array_values(&storage->map));
    set->map_handles_.push_back(&storage->map);
    set->maps_.push_back(std::move(storage));
  }
  return set;
}

bool PolicySet::keeps_data() const { return has(SF_SLOT_FUSE_EXIT + FUSE_READ); }

bool PolicySet::looks_at_names() const { return has(SF_SLOT_FUSE + FUSE_LOOKUP); }

}  // namespace shortfuse::bridge
