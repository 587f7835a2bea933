// Image and maps in private memory of this process.
#include "shortfuse/vm/runtime.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

namespace shortfuse::vm {
namespace {

std::string name_of(const sf_image_map &def) { return {def.name, strnlen(def.name, sizeof def.name)}; }

uint64_t not_offered(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) {
  return static_cast<uint64_t>(-int64_t{ENOTSUP});
}

// ---- functions that need nothing but this process

uint64_t ktime(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

uint64_t prandom(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) {
  thread_local uint64_t state = ktime(0, 0, 0, 0, 0, nullptr) ^ reinterpret_cast<uintptr_t>(&state);
  state = state * 6364136223846793005u + 1442695040888963407u;
  return state >> 32;
}

uint64_t pid_tgid(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) {
  return static_cast<uint64_t>(getpid()) << 32 | static_cast<uint32_t>(gettid());
}

uint64_t uid_gid(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) {
  return static_cast<uint64_t>(getgid()) << 32 | getuid();
}

bool holds_handles(uint32_t type) { return type == SF_MAP_PROG_ARRAY || type == SF_MAP_ARRAY_OF_MAPS; }

// Globals are the one element of an ARRAY; static contents of maps of maps and programs are a number per element.
int fill(sf_map *handle, const Policy::Map &map) {
  const size_t each = holds_handles(map.def.type) ? sizeof(uint32_t) : map.def.value_size;
  for (uint32_t i = 0; each != 0 && i < map.initial.size() / each; i++) {  // a RINGBUF has no values
    const unsigned char *value = map.initial.data() + i * each;
    uint32_t number = 0;
    if (holds_handles(map.def.type)) memcpy(&number, value, sizeof number);
    if (holds_handles(map.def.type) && number == 0) continue;
    if (int error = sf_map_update(handle, &i, value, 0, 0); error != 0) return error;
  }
  return 0;
}

}  // namespace

Runtime::~Runtime() {
  for (const Mapping &m : mappings_) munmap(m.base, m.bytes);
}

std::expected<void *, Refusal> Runtime::memory(size_t bytes, int fd) {
  void *base = fd < 0 ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                      : mmap(nullptr, bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED && fd >= 0) base = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED)
    return std::unexpected(Refusal{"no-memory", std::string("no memory to run in: ") + strerror(errno), ""});
  mappings_.push_back({base, bytes});
  return base;
}

std::expected<void, Refusal> Runtime::make_map(const Policy::Map &map) {
  const sf_map_shape shape = sf_image_map_shape(&map.def);
  const size_t bytes = sf_map_bytes(&shape);
  if (bytes == 0) {
    return std::unexpected(Refusal{"map-size", "map \"" + name_of(map.def) + "\": this kind, or this size, is not "
                                   "supported", ""});
  }
  auto storage = memory(bytes, -1);
  if (!storage) return std::unexpected(storage.error());
  sf_map_init(*storage, &shape);
  maps_.push_back({*storage, shape, 1, 0});
  if (fill(&maps_.back(), map) != 0) {
    return std::unexpected(Refusal{"map-contents", "map \"" + name_of(map.def) + "\": its contents do not fit", ""});
  }
  map_values_.push_back(sf_map_array_values(&maps_.back()));
  return {};
}

std::expected<std::unique_ptr<Runtime>, Refusal> Runtime::create(const Policy &policy, Lowering lowering) {
  std::unique_ptr<Runtime> out(new Runtime);
  auto published = publish_image(policy, lowering);
  if (!published) return std::unexpected(published.error());
  auto image = out->memory(published->bytes, published->fd);
  close(published->fd);
  if (!image) return std::unexpected(image.error());
  out->image_ = static_cast<const sf_image *>(*image);
  out->why_interpreted_ = published->why_interpreted;
  for (const Policy::Map &map : policy.maps) {
    if (auto ok = out->make_map(map); !ok) return std::unexpected(ok.error());
  }
  for (sf_map &map : out->maps_) out->map_handles_.push_back(&map);
  out->host_.assign(SF_HOST_LIMIT, not_offered);
#define X(number, name) out->host_[number] = name;
  SF_VM_FUNCTIONS(X)
#undef X
  out->env_.host = out->host_.data();
  out->env_.own_functions = SF_HOST_LIMIT - SF_HOST_COUNT;
  out->env_.map = out->map_handles_.data();
  out->env_.map_value = out->map_values_.data();
  return out;
}

void Runtime::add_process_functions() {
  host_[SF_HOST_KTIME] = ktime;
  host_[SF_HOST_PRANDOM] = prandom;
  host_[SF_HOST_PID_TGID] = pid_tgid;
  host_[SF_HOST_UID_GID] = uid_gid;
}

void Runtime::set_function(uint32_t id, sf_host_fn fn) { host_[id] = fn; }

}  // namespace shortfuse::vm
