// A policy image in this process: code from the daemon, mapped read and execute, with its maps: shared ones read-only,
// those of this process alone (sf_map_per_process) writable, as the daemon made them for this session.
#include "policy.h"

#include "kernel.h"
#include "opens.h"

namespace shortfuse::bypass {

constexpr unsigned kRetiredMax = 64;
static const Policy *retired[kRetiredMax];

static void *map_sealed(int fd, size_t bytes, int protection) {
  if (!sealed_file(fd, bytes, (protection & PROT_WRITE) == 0)) return nullptr;
  long at = SF_SYS6(__NR_mmap, 0, bytes, protection, MAP_SHARED, fd, 0);
  return is_error(at) ? nullptr : reinterpret_cast<void *>(at);
}

static bool map_map(PacketRoom &room, uint32_t fd_index, Policy *policy, uint32_t i) {
  int fd = room.take(fd_index);
  size_t bytes = file_bytes(fd);
  const sf_image_map &def = policy->image->map[i];
  const sf_map_shape shape = sf_image_map_shape(&def);
  const bool own = sf_map_per_process(def.type);
  void *storage = map_sealed(fd, bytes, own ? PROT_READ | PROT_WRITE : PROT_READ);
  close_fd(fd);
  if (storage == nullptr) return false;
  policy->map[i] = {storage, shape, own, 0};
  policy->own_maps += own;
  policy->handles[i] = &policy->map[i];
  policy->storage_bytes[i] = bytes;
  if (sf_map_check(storage, bytes, &shape) != 0) return false;
  policy->values[i] = sf_map_array_values(&policy->map[i]);
  return true;
}

const Policy *map_policy(PacketRoom &room, uint32_t first, uint32_t maps, uint32_t epoch,
                         uint32_t serial) {
  if (maps > SF_IMAGE_MAPS_MAX) return nullptr;
  auto *policy = static_cast<Policy *>(map_anonymous(sizeof(Policy)));
  if (policy == nullptr) return nullptr;
  policy->epoch = epoch;
  policy->serial = serial;
  int fd = room.take(first);
  policy->image_bytes = file_bytes(fd);
  const void *image = map_sealed(fd, policy->image_bytes, PROT_READ | PROT_EXEC);
  close_fd(fd);
  policy->image = static_cast<const sf_image *>(image);
  bool good = image != nullptr && sf_image_check(image, policy->image_bytes) == 0 && policy->image->maps == maps;
  for (uint32_t i = 0; good && i < maps; ++i) {
    good = map_map(room, first + 1 + i, policy, i);
    policy->maps = i + 1;
  }
  if (good) {
    policy->opens_only_serve = only_serves_opens(*policy->image);
    return policy;
  }
  unmap_policy(policy);
  return nullptr;
}

void unmap_policy(const Policy *policy) {
  if (policy == nullptr) return;
  for (uint32_t i = 0; i < policy->maps; ++i) unmap(policy->map[i].storage, policy->storage_bytes[i]);
  unmap(policy->image, policy->image_bytes);
  unmap(policy, sizeof(Policy));
}

void retire_policy(const Policy *policy) {
  if (policy == nullptr) return;
  for (const Policy *&slot : retired) {
    if (slot != nullptr) continue;
    slot = policy;
    return;
  }
}

void release_retired() {
  for (const Policy *&slot : retired) {
    unmap_policy(slot);
    slot = nullptr;
  }
}

}  // namespace shortfuse::bypass
