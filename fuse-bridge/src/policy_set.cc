#include "policy_set.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace shortfuse::bridge {
namespace {

bool same_shape(const sf_image_map &a, const sf_image_map &b) {
  return a.type == b.type && a.key_size == b.key_size && a.value_size == b.value_size &&
         a.max_entries == b.max_entries && a.extra == b.extra && std::strncmp(a.name, b.name, sizeof(a.name)) == 0;
}

/// Names of globals begin with a dot, or hold one behind the object's name (".rodata", "foo.bss").
bool is_global(const sf_image_map &map) { return std::memchr(map.name, '.', sizeof(map.name)) != nullptr; }

std::string errno_text(const char *what) { return std::string(what) + ": " + std::strerror(errno); }

bool holds_references(uint32_t type) { return type == SF_MAP_PROG_ARRAY || type == SF_MAP_ARRAY_OF_MAPS; }

/// Globals are the one element of an ARRAY; references are a number per element, 0 for none.
bool fill(sf_map *map, const vm::Policy::Map &from) {
  const size_t each = holds_references(from.def.type) ? sizeof(uint32_t) : from.def.value_size;
  for (uint32_t i = 0; each != 0 && i < from.initial.size() / each; i++) {
    if (sf_map_update(map, &i, from.initial.data() + i * each, 0, 0) != 0) return false;
  }
  return true;
}

std::expected<std::shared_ptr<MapStorage>, std::string> make_map(const vm::Policy::Map &map) {
  auto storage = std::make_shared<MapStorage>();
  storage->shape = map.def;
  storage->frozen = map.frozen;
  auto memory = make_memory(map.def, Writers::DaemonOnly);
  if (!memory) return std::unexpected(memory.error());
  storage->memory = std::move(*memory);
  if (!fill(storage->handle(), map))
    return std::unexpected("map " + map_name(map.def) + ": its initial contents do not fit");
  return storage;
}

std::string mebibytes(uint64_t bytes) { return std::to_string((bytes + (1u << 20) - 1) >> 20) + "M"; }

/// "" or why these maps are too many.
std::string over_budget(const std::vector<vm::Policy::Map> &maps, uint64_t budget_bytes) {
  uint64_t all = 0, most = 0;
  std::string largest;
  for (const vm::Policy::Map &map : maps) {
    const sf_map_shape shape = sf_image_map_shape(&map.def);
    const uint64_t bytes = sf_map_bytes(&shape);
    all += bytes;
    if (bytes > most) most = bytes, largest = map_name(map.def);
  }
  if (all <= budget_bytes) return "";
  return "the policy's maps need " + mebibytes(all) + " (the largest, \"" + largest + "\", " + mebibytes(most) +
         "), but may have " + mebibytes(budget_bytes) + ": give more with bpftime_mem=, or lower max_entries";
}

}  // namespace

PolicySet::~PolicySet() {
  if (image_) munmap(const_cast<sf_image *>(image_), image_bytes_);
}

std::expected<std::shared_ptr<const PolicySet>, std::string> PolicySet::load(const std::vector<std::string> &paths,
                                                                             const PolicySet *previous,
                                                                             uint64_t maps_budget_bytes) {
  auto policy = vm::load_policy(paths);
  if (!policy) return std::unexpected(policy.error().str());
  if (std::string refusal = over_budget(policy->maps, maps_budget_bytes); !refusal.empty())
    return std::unexpected(refusal);
  auto set = std::make_shared<PolicySet>();
  set->policy_ = std::move(*policy);

  auto published = vm::publish_image(set->policy_, vm::Lowering::Auto);
  if (!published) return std::unexpected(published.error().str());
  set->image_fd_.reset(published->fd);
  set->image_bytes_ = published->bytes;
  set->why_interpreted_ = published->why_interpreted;
  for (const std::string &note : set->policy_.notes) std::fprintf(stderr, "shortfuse: %s\n", note.c_str());
  void *image = mmap(nullptr, published->bytes, PROT_READ | PROT_EXEC, MAP_SHARED, published->fd, 0);
  if (image == MAP_FAILED) return std::unexpected(errno_text("mapping the policy image"));
  set->image_ = static_cast<const sf_image *>(image);
  if (sf_image_check(image, published->bytes) != 0)
    return std::unexpected("the policy image that was just made is not well-formed");

  std::vector<std::shared_ptr<MapStorage>> reusable = previous ? previous->maps_ : decltype(previous->maps_){};
  for (const vm::Policy::Map &map : set->policy_.maps) {
    std::shared_ptr<MapStorage> storage;
    for (auto &old : reusable) {
      // References are to the policy's own programs and maps.
      if (old && !is_global(map.def) && !holds_references(map.def.type) && same_shape(old->shape, map.def)) {
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
    storage->shape.pinning = map.def.pinning;
    storage->key_type = map.key_type;
    storage->value_type = map.value_type;
    set->map_values_.push_back(sf_map_array_values(storage->handle()));
    set->map_handles_.push_back(storage->handle());
    set->maps_.push_back(std::move(storage));
  }
  return set;
}

bool PolicySet::keeps_data() const { return has(SF_SLOT_FUSE_EXIT + FUSE_READ); }

bool PolicySet::looks_at_names() const { return has(SF_SLOT_FUSE + FUSE_LOOKUP); }

}  // namespace shortfuse::bridge
