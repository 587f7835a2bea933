#include "trace_session.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <map>

namespace shortfuse::cli {
namespace {

using Unexpected = std::unexpected<std::string>;
constexpr size_t kPageBytes = 4096;

size_t whole_pages(size_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }
sf_map_shape shape_of(const vm::Policy::Map &map) { return sf_image_map_shape(&map.def); }
bool holds_handles(uint32_t type) { return type == SF_MAP_PROG_ARRAY || type == SF_MAP_ARRAY_OF_MAPS; }

// Globals are the one element of an ARRAY; static contents of maps of maps and programs are a number per element.
int fill(sf_map *map, const vm::Policy::Map &from) {
  const size_t each = holds_handles(from.def.type) ? sizeof(uint32_t) : from.def.value_size;
  for (uint32_t i = 0; each != 0 && i < from.initial.size() / each; i++) {
    uint32_t number = 0;
    memcpy(&number, from.initial.data() + i * each, std::min(each, sizeof number));
    if (holds_handles(from.def.type) && number == 0) continue;
    if (const int error = sf_map_update(map, &i, from.initial.data() + i * each, 0, 0); error != 0) return error;
  }
  return 0;
}

template <class T> T load(const T &word) { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }

}  // namespace

std::expected<std::unique_ptr<TraceSession>, std::string> TraceSession::create(const vm::Policy &policy) {
  std::unique_ptr<TraceSession> session(new TraceSession);
  if (auto ok = session->make(policy); !ok) return Unexpected(ok.error());
  return session;
}

TraceSession::~TraceSession() {
  if (session_ != nullptr) munmap(session_, bytes_);
  if (session_fd_ >= 0) close(session_fd_);
  if (image_fd_ >= 0) close(image_fd_);
}

std::expected<void, std::string> TraceSession::make(const vm::Policy &policy) {
  auto image = vm::publish_image(policy, vm::Lowering::Auto);
  if (!image) return Unexpected(image.error().str());
  image_fd_ = image->fd;
  why_interpreted_ = image->why_interpreted;
  bytes_ = whole_pages(sizeof(sf_trace_session));
  for (const auto &map : policy.maps) {
    const sf_map_shape shape = shape_of(map);
    const size_t need = sf_map_bytes(&shape);
    if (need == 0) return Unexpected(fmt::format("map \"{}\" cannot be made so large", map.def.name));
    bytes_ += whole_pages(need);
  }
  session_fd_ = memfd_create("shortfuse-trace", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  const bool made = session_fd_ >= 0 && ftruncate(session_fd_, static_cast<off_t>(bytes_)) == 0 &&
                    fcntl(session_fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
  void *at = made ? mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, session_fd_, 0) : MAP_FAILED;
  if (at == MAP_FAILED) return Unexpected(std::string("no memory for the session: ") + strerror(errno));
  session_ = static_cast<sf_trace_session *>(at);
  session_->format = SF_TRACE_FORMAT;
  session_->maps = static_cast<uint32_t>(policy.maps.size());
  session_->bytes = bytes_;
  struct stat ns;
  session_->pid_namespace = stat("/proc/self/ns/pid", &ns) == 0 ? ns.st_ino : 0;
  if (getrandom(&session_->nonce, sizeof session_->nonce, 0) != sizeof session_->nonce)
    return Unexpected(std::string("no random number: ") + strerror(errno));
  if (auto ok = make_maps(policy); !ok) return ok;
  if (auto ok = make_chains(policy); !ok) return ok;
  session_->magic = SF_TRACE_MAGIC;
  return {};
}

std::expected<void, std::string> TraceSession::make_maps(const vm::Policy &policy) {
  size_t offset = whole_pages(sizeof(sf_trace_session));
  for (size_t i = 0; i < policy.maps.size(); i++) {
    const sf_map_shape shape = shape_of(policy.maps[i]);
    void *storage = reinterpret_cast<char *>(session_) + offset;
    sf_map_init(storage, &shape);
    session_->map_offset[i] = offset;
    maps_.push_back({storage, shape, 1, 1, 1});
    if (fill(&maps_.back(), policy.maps[i]) != 0)
      return Unexpected(fmt::format("map \"{}\": its contents do not fit", policy.maps[i].def.name));
    offset += whole_pages(sf_map_bytes(&shape));
  }
  return {};
}

// Calls with the same programs share a chain.
std::expected<void, std::string> TraceSession::make_chains(const vm::Policy &policy) {
  std::map<std::vector<uint16_t>, uint16_t> known;
  size_t used = 1;
  for (const vm::TracedCall &call : vm::traced_calls()) {
    for (int side = 0; side < SF_TRACE_SIDES; side++) {
      std::vector<uint16_t> chain;
      for (size_t i = 0; i < policy.programs.size(); i++) {
        const vm::ProgramInfo &info = policy.programs[i].info;
        const auto place = vm::traced_place(info.section);
        if (!info.attached || !place || place->at_exit != (side == SF_TRACE_EXIT)) continue;
        if (place->number < 0 ? call.has_exit || side == SF_TRACE_ENTER : place->number == call.number)
          chain.push_back(static_cast<uint16_t>(i + 1));
      }
      if (chain.empty()) continue;
      auto [at, is_new] = known.try_emplace(chain, static_cast<uint16_t>(used));
      if (is_new && used + chain.size() + 1 > SF_TRACE_CHAIN_MAX)
        return Unexpected("too many programs on too many calls");
      if (is_new) {
        for (uint16_t program : chain) session_->chain[used++] = program;
        session_->chain[used++] = 0;
      }
      session_->chain_of[side][call.number] = at->second;
    }
  }
  return {};
}

std::string TraceSession::variable() const {
  return fmt::format("{}.{}.{}.{:x}", getpid(), image_fd_, session_fd_, session_->nonce);
}

void TraceSession::stop() { __atomic_store_n(&session_->stopped, 1u, __ATOMIC_RELEASE); }

void TraceSession::expect_exec(const std::string &path) {
  sf_trace_exec &entry = session_->exec[0];
  memcpy(entry.path, path.c_str(), std::min(path.size(), sizeof entry.path - 1));
  entry.by_another_name = 1;  // execvp() may find it by a longer one
  __atomic_store_n(&entry.pid, static_cast<uint32_t>(getpid()), __ATOMIC_RELEASE);
}

uint64_t TraceSession::attached() const { return load(session_->attached); }
uint64_t TraceSession::missed() const { return load(session_->missed); }
uint64_t TraceSession::left() const { return load(session_->left); }
uint64_t TraceSession::unpatched() const { return load(session_->unpatched); }

std::vector<std::string> TraceSession::untraced(uint64_t *more) const {
  std::vector<std::string> out;
  for (const sf_trace_exec &entry : session_->exec) {
    if (load(entry.pid) == 0) continue;
    std::string path(entry.path, strnlen(entry.path, sizeof entry.path));
    for (char &c : path) c = static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    out.push_back(path.empty() ? "?" : path);
  }
  *more = load(session_->more_execs);
  return out;
}

}  // namespace shortfuse::cli
