#include "pin_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "cpu_number.h"

namespace shortfuse::bridge {
namespace {

constexpr uint64_t kMagic = 0x31504d6673ull;   // "sfMP1"
constexpr uint32_t kVersion = 1;
constexpr uint64_t kFileBytesMax = 512ull << 20;

struct FileHeader {
  uint64_t magic;
  uint32_t version, identity_bytes;
  uint32_t type, key_size, value_size, max_entries;
  uint64_t entries, payload_bytes;
  uint64_t checksum;        // over the header with 0 here, and all that follows
};
static_assert(sizeof(FileHeader) == 56);

/// FNV-1a, 64 bits: it finds damage, not malice; who may write the file is the mounter.
uint64_t checksum(std::string_view bytes, uint64_t hash = 0xcbf29ce484222325ull) {
  for (unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3ull;
  return hash;
}
std::string_view view(const FileHeader &header) { return {reinterpret_cast<const char *>(&header), sizeof header}; }

bool per_cpu(const MapStorage &map) { return sf_map_cpu_stride(&map.handle()->shape) != 0; }
bool is_queue(const MapStorage &map) { return map.shape.type == SF_MAP_QUEUE || map.shape.type == SF_MAP_STACK; }
bool can_be_kept(const MapStorage &map) {
  const uint32_t type = map.shape.type;
  const bool references = type == SF_MAP_PROG_ARRAY || type == SF_MAP_ARRAY_OF_MAPS;
  return map.shape.pinning != 0 && type != SF_MAP_RINGBUF && !references &&
         (!per_cpu(map) || has_sums(map.handle()->shape));
}

struct Contents {
  uint64_t entries = 0;
  std::string bytes;        ///< keys and values, one after the other
};

/// The whole storage: bits, and the seed that they were set by.
Contents bits_of(const MapStorage &map) {
  return {1, std::string(static_cast<const char *>(map.handle()->storage), map.memory->size)};
}

Contents contents_of(const MapStorage &map, const std::map<std::string, std::string> &sums) {
  Contents out;
  if (map.shape.type == SF_MAP_BLOOM_FILTER) return bits_of(map);
  if (per_cpu(map)) {
    for (const auto &[key, value] : sums) out.bytes += key + value, out.entries++;
    return out;
  }
  const sf_map_shape &shape = map.handle()->shape;
  sf_map handle = *map.handle();
  handle.writable = 0;
  if (is_queue(map)) {
    sf_map_cursor cursor{};
    for (; sf_map_step(&handle, &cursor, 0) != 0; out.entries++)
      out.bytes.append(static_cast<const char *>(cursor.value), shape.value_size);
    return out;
  }
  std::string key(shape.key_size, '\0');
  int more = sf_map_next_key(&handle, nullptr, key.data());
  // A map that is written meanwhile may begin again: it ends all the same.
  for (uint64_t steps = 0; more == 0 && steps < 2ull * shape.max_entries; steps++) {
    if (const void *value = sf_map_lookup(&handle, key.data(), 0); value && out.entries < shape.max_entries) {
      out.bytes += key;
      out.bytes.append(static_cast<const char *>(value), shape.value_size);
      out.entries++;
    }
    more = sf_map_next_key(&handle, key.data(), key.data());
  }
  return out;
}

bool fill(MapStorage &map, const Contents &from) {
  const sf_map_shape &shape = map.handle()->shape;
  if (shape.type == SF_MAP_BLOOM_FILTER) {
    if (from.bytes.size() != map.memory->size || sf_map_check(from.bytes.data(), from.bytes.size(), &shape) != 0)
      return false;
    std::memcpy(map.handle()->storage, from.bytes.data(), from.bytes.size());
    return true;
  }
  const size_t each = shape.key_size + shape.value_size;
  if (from.bytes.size() != from.entries * each || from.entries > shape.max_entries) return false;
  std::map<std::string, std::string> sums;
  if (sf_map_lock(map.handle(), thread_number()) != 0) return false;
  for (uint64_t i = 0; i < from.entries; i++) {
    // The value that a STACK shows first was pushed last.
    const uint64_t n = shape.type == SF_MAP_STACK ? from.entries - 1 - i : i;
    const char *key = from.bytes.data() + n * each, *value = key + shape.key_size;
    if (per_cpu(map)) sums[{key, shape.key_size}] = {value, shape.value_size};
    else if (is_queue(map)) sf_map_push(map.handle(), value, 0);
    else sf_map_update(map.handle(), key, value, 0, 0);
  }
  sf_map_unlock(map.handle());
  if (per_cpu(map)) map.account.set(std::move(sums));
  return true;
}

/// The directory, made where it is missing; -1 when it is not ours alone to write.
int open_directory(const std::string &path) {
  // File systems set the umask to 0: modes are said. What is missing above is made as private.
  for (size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
    mkdir(path.substr(0, at).c_str(), 0700);
    if (at == std::string::npos) break;
  }
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  struct stat st{};
  if (fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == geteuid() && (st.st_mode & 022) == 0) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

std::string name_in(const std::string &path) { return path.substr(path.rfind('/') + 1); }

/// A whole file that is ours; "" else. `there`: there is one at all.
std::string read_whole(const std::string &path, bool *there) {
  Descriptor fd(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  *there = fd.get() >= 0 || errno != ENOENT;
  struct stat st{};
  if (!fd || fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022) != 0 ||
      static_cast<uint64_t>(st.st_size) > kFileBytesMax) {
    return "";
  }
  std::string bytes(static_cast<size_t>(st.st_size), '\0');
  size_t have = 0;
  for (ssize_t n; have < bytes.size() && (n = read(fd.get(), bytes.data() + have, bytes.size() - have)) > 0;)
    have += static_cast<size_t>(n);
  bytes.resize(have);
  return bytes;
}

}  // namespace

std::string PinStore::default_directory() {
  auto variable = [](const char *name) {
    const char *value = secure_getenv(name);
    return std::string(value && value[0] == '/' ? value : "");
  };
  if (auto state = variable("SHORTFUSE_STATE"); !state.empty()) return state + "/maps";
  if (geteuid() == 0) return "/var/lib/shortfuse/maps";
  if (auto state = variable("XDG_STATE_HOME"); !state.empty()) return state + "/shortfuse/maps";
  auto home = variable("HOME");
  return home.empty() ? "" : home + "/.local/state/shortfuse/maps";
}

std::string PinStore::identity_of(const MapStorage &map) const { return mount_ + '\0' + map_name(map.shape); }

std::string PinStore::path_of(const MapStorage &map) const {
  static constexpr char digits[] = "0123456789abcdef";
  std::string name;
  for (uint64_t hash = checksum(identity_of(map)), i = 0; i < 16; i++, hash >>= 4) name += digits[hash & 15];
  return directory_ + "/" + name + ".map";
}

std::string PinStore::restore(MapStorage &map) {
  if (map.restored || directory_.empty() || !can_be_kept(map)) return "";
  map.restored = true;
  const std::string path = path_of(map);
  const int directory = open_directory(directory_);
  if (directory < 0) return "pinned maps: " + directory_ + " is not used, others may write to it or it cannot be made";
  close(directory);
  bool there = false;
  const std::string bytes = read_whole(path, &there);
  if (!there) return "";
  FileHeader header{};
  const std::string identity = identity_of(map);
  bool good = bytes.size() >= sizeof header;
  if (good) {
    std::memcpy(&header, bytes.data(), sizeof header);
    FileHeader summed = header;
    summed.checksum = 0;
    const std::string_view rest = std::string_view(bytes).substr(sizeof header);
    good = header.magic == kMagic && header.version == kVersion && header.identity_bytes == identity.size() &&
           header.payload_bytes == rest.size() - std::min<size_t>(rest.size(), identity.size()) &&
           checksum(rest, checksum(view(summed))) == header.checksum && rest.starts_with(identity);
  }
  const sf_map_shape &shape = map.handle()->shape;
  const bool fits = good && header.type == shape.type && header.key_size == shape.key_size &&
                    header.value_size == shape.value_size && header.max_entries == shape.max_entries;
  if (fits && fill(map, {header.entries, bytes.substr(sizeof header + identity.size())})) return "";
  unlink(path.c_str());
  return "pinned map " + map_name(map.shape) + " begins empty: " + path +
         (good ? " is of another shape, and was dropped" : " is damaged or not of this mount, and was dropped");
}

std::string PinStore::save(MapStorage &map, const std::map<std::string, std::string> &sums) {
  if (!map.restored || directory_.empty() || !can_be_kept(map)) return "";
  const Contents contents = contents_of(map, sums);
  const std::string identity = identity_of(map), path = path_of(map);
  const sf_map_shape &shape = map.handle()->shape;
  FileHeader header{.magic = kMagic, .version = kVersion, .identity_bytes = static_cast<uint32_t>(identity.size()),
                    .type = shape.type, .key_size = shape.key_size, .value_size = shape.value_size,
                    .max_entries = shape.max_entries, .entries = contents.entries,
                    .payload_bytes = contents.bytes.size(), .checksum = 0};
  header.checksum = checksum(contents.bytes, checksum(identity, checksum(view(header))));
  if (auto saved = saved_.find(path); saved != saved_.end() && saved->second == header.checksum) return "";
  Descriptor directory(open_directory(directory_));
  if (!directory) return "pinned map " + map_name(map.shape) + " is not kept: " + directory_ + " is not ours to write";
  const std::string name = name_in(path), beside = name + ".new";
  unlinkat(directory.get(), beside.c_str(), 0);
  Descriptor fd(openat(directory.get(), beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  const bool good = fd && write_all(fd.get(), view(header)) && write_all(fd.get(), identity) &&
                    write_all(fd.get(), contents.bytes) && fsync(fd.get()) == 0 &&
                    renameat(directory.get(), beside.c_str(), directory.get(), name.c_str()) == 0;
  if (!good) {
    const std::string why = std::strerror(errno);
    unlinkat(directory.get(), beside.c_str(), 0);
    return "pinned map " + map_name(map.shape) + " is not kept: " + path + ": " + why;
  }
  saved_[path] = header.checksum;
  return "";
}

}  // namespace shortfuse::bridge
