#include "registry.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "shortfuse/cache/attach.h"

namespace shortfuse::bridge {
namespace {

constexpr int kBacklog = 512;
const std::string kSocketSuffix = ".sock", kAnnouncementSuffix = ".mount", kUnfinishedSuffix = ".new";

std::string why(const std::string &what) { return what + ": " + std::strerror(errno); }

std::string directory_of_user() {
  const uid_t uid = geteuid();
  if (uid == 0) return SF_REGISTRY_ROOT;
  const std::string runtime = "/run/user/" + std::to_string(uid);
  struct stat st;
  if (stat(runtime.c_str(), &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == uid) return runtime + "/shortfuse";
  return "/tmp/shortfuse-" + std::to_string(uid);
}

/// The daemon's number in "PID-N..."; 0 when the name is not of that form.
pid_t pid_of(const char *name) {
  char *end = nullptr;
  const long pid = std::strtol(name, &end, 10);
  return pid > 0 && *end == '-' ? static_cast<pid_t>(pid) : 0;
}

/// "PID-N.mount" beside "PID-N.sock".
std::string announcement_of(const std::string &socket_path) {
  return socket_path.substr(0, socket_path.size() - kSocketSuffix.size()) + kAnnouncementSuffix;
}

bool connects(const std::string &path) {
  Descriptor probe(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (!probe || path.size() >= sizeof(address.sun_path)) return true;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return connect(probe.get(), reinterpret_cast<sockaddr *>(&address), sizeof(address)) == 0 ||
         (errno != ECONNREFUSED && errno != ENOENT);
}

/// Whether a name in the registry is of a daemon that is no more. A socket has its name only once somebody listens
/// there, so one that refuses has been left behind, however slow its daemon was at its start.
bool is_stale(const std::string &directory, std::string_view name, pid_t pid) {
  if (name.ends_with(kUnfinishedSuffix)) return kill(pid, 0) != 0 && errno == ESRCH;
  if (name.ends_with(kAnnouncementSuffix)) name.remove_suffix(kAnnouncementSuffix.size());
  else if (name.ends_with(kSocketSuffix)) name.remove_suffix(kSocketSuffix.size());
  else return false;
  return !connects(directory + "/" + std::string(name) + kSocketSuffix);
}

/// A listening socket under that name. It comes there in one step: remove_stale() of another daemon must not find a
/// socket where nobody listens yet.
std::expected<Descriptor, std::string> listen_at(const std::string &path, mode_t mode) {
  Descriptor listening(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listening) return std::unexpected(why("socket"));
  const std::string unfinished = path + kUnfinishedSuffix;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (unfinished.size() >= sizeof(address.sun_path)) return std::unexpected(path + ": too long");
  std::memcpy(address.sun_path, unfinished.c_str(), unfinished.size() + 1);
  unlink(unfinished.c_str());
  if (bind(listening.get(), reinterpret_cast<sockaddr *>(&address), sizeof(address)) != 0)
    return std::unexpected(why(unfinished));
  if (chmod(unfinished.c_str(), mode) != 0 || listen(listening.get(), kBacklog) != 0 ||
      rename(unfinished.c_str(), path.c_str()) != 0) {
    auto error = std::unexpected(why(path));
    unlink(unfinished.c_str());
    return error;
  }
  return listening;
}

}  // namespace

std::expected<std::string, std::string> Registry::prepare_directory() {
  const std::string directory = directory_of_user();
  if (mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST)
    return std::unexpected(why("cannot make the registry " + directory));
  Descriptor opened(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat st;
  if (!opened || fstat(opened.get(), &st) != 0) return std::unexpected(why("cannot use the registry " + directory));
  if (st.st_uid != geteuid() || st.st_mode & (S_IWGRP | S_IWOTH))
    return std::unexpected("the registry " + directory + " belongs to somebody else or can be written by others");
  return directory;
}

/// A daemon that was killed leaves its names behind.
void Registry::remove_stale(const std::string &directory) {
  DIR *dir = opendir(directory.c_str());
  if (!dir) return;
  std::vector<std::string> stale;
  while (const dirent *entry = readdir(dir)) {
    const pid_t pid = pid_of(entry->d_name);
    if (pid != 0 && is_stale(directory, entry->d_name, pid)) stale.push_back(directory + "/" + entry->d_name);
  }
  closedir(dir);
  for (const std::string &path : stale) unlink(path.c_str());
}

std::expected<Registry, std::string> Registry::enter(bool for_everybody) {
  auto directory = prepare_directory();
  if (!directory) return std::unexpected(directory.error());
  remove_stale(*directory);

  Registry registry;
  static std::atomic<unsigned> number{0};
  registry.path_ = *directory + "/" + std::to_string(getpid()) + "-" + std::to_string(number++) + kSocketSuffix;
  registry.announcement_ = announcement_of(registry.path_);
  // Who connects is asked for its credentials; the mode only keeps strangers from knocking.
  auto listening = listen_at(registry.path_, for_everybody ? 0666 : 0600);
  if (!listening) return std::unexpected(listening.error());
  registry.socket_ = std::move(*listening);

  const std::string generation = *directory + "/generation";
  registry.generation_.reset(open(generation.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  struct stat st;
  if (!registry.generation_ || fstat(registry.generation_.get(), &st) != 0 ||
      (st.st_size < 8 && ftruncate(registry.generation_.get(), 8) != 0))
    return std::unexpected(why(generation));
  registry.raise_generation();
  return registry;
}

void Registry::raise_generation() {
  if (!generation_) return;
  void *page = mmap(nullptr, 8, PROT_READ | PROT_WRITE, MAP_SHARED, generation_.get(), 0);
  if (page == MAP_FAILED) return;
  // Readers only compare it with what they saw last.
  __atomic_fetch_add(static_cast<uint64_t *>(page), 1, __ATOMIC_RELEASE);
  munmap(page, 8);
}

void Registry::announce(dev_t dev, const std::string &mount_point) {
  char text[32];
  std::snprintf(text, sizeof(text), "%llx ", static_cast<unsigned long long>(dev));
  const std::string target = text + mount_point, fresh = announcement_ + kUnfinishedSuffix;
  if (*left_ || target == announced_) return;
  unlink(fresh.c_str());
  if (symlink(target.c_str(), fresh.c_str()) != 0 || rename(fresh.c_str(), announcement_.c_str()) != 0) {
    unlink(fresh.c_str());
    return;
  }
  announced_ = target;
  // Another thread may have left meanwhile, before there was anything to take away.
  if (*left_) unlink(announcement_.c_str());
  raise_generation();
}

void Registry::leave() {
  if (left_->exchange(true)) return;
  unlink(path_.c_str());
  unlink(announcement_.c_str());
  raise_generation();
}

}  // namespace shortfuse::bridge
