#include "control.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>

#include "descriptor.h"
#include "mount_table.h"

namespace shortfuse::bridge {
namespace {

constexpr int kTickMs = 1000;
constexpr int kSaveMs = 30'000;   // between two savings of what is pinned
const char *const kMountinfo = "/proc/self/mountinfo";

std::string why(const char *what) { return std::string(what) + ": " + std::strerror(errno); }

bool watch(int epoll, int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

/// A client that does not read its answers is given up rather than waited for.
bool send_packet(int socket, sf_msg_type type, Bytes body, const std::vector<int> &fds) {
  sf_msg message{};
  message.magic = SF_MSG_MAGIC;
  message.protocol = SF_PROTOCOL;
  message.type = type;
  message.body_bytes = static_cast<uint32_t>(body.size());
  message.fds = static_cast<uint32_t>(fds.size());
  iovec iov[2] = {{&message, sizeof(message)}, {const_cast<std::byte *>(body.data()), body.size()}};
  std::vector<std::byte> room(CMSG_SPACE(sizeof(int) * fds.size()));
  msghdr header{};
  header.msg_iov = iov;
  header.msg_iovlen = 2;
  attach(header, room, fds);
  while (sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
    if (errno != EINTR) return false;
  return true;
}

}  // namespace

Control::Client::~Client() {
  if (session) munmap(session, sizeof(sf_session));
}

Control::~Control() {
  stop();
  for (const auto &[fd, client] : clients_)
    if (client->session) bridge_.opens().remove(client->session);
}

std::expected<void, std::string> Control::start() {
  auto registry = Registry::enter(bridge_.options().share_all || geteuid() == 0);
  if (!registry) return std::unexpected(registry.error());
  registry_ = std::move(*registry);
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  mountinfo_.reset(open(kMountinfo, O_RDONLY | O_CLOEXEC));
  if (!epoll_ || !wake_ || !watch(epoll_.get(), registry_->socket_fd(), EPOLLIN) ||
      !watch(epoll_.get(), wake_.get(), EPOLLIN))
    return std::unexpected(why("the service thread's epoll"));
  if (mountinfo_) watch(epoll_.get(), mountinfo_.get(), EPOLLPRI | EPOLLERR | EPOLLET);
  started_ns_ = saved_ns_ = now_ns();
  // Before the first request is looked at.
  const auto entry = find_mount(kMountinfo, bridge_.mount_point(), 0);
  pins_.emplace(PinStore::default_directory(), bridge_.mount_point() + '\0' + (entry ? entry->source : ""));
  restore_pinned();
  thread_ = std::thread([this] { run(); });
  return {};
}

void Control::stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  const uint64_t one = 1;
  [[maybe_unused]] ssize_t ignored = write(wake_.get(), &one, sizeof(one));
  thread_.join();
}

void Control::run() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  pthread_setname_np(pthread_self(), "shortfuse");
  bridge_.cache().hold_liveness();
  watch_mounts(false);
  while (!stopping_.load(std::memory_order_acquire)) {
    // Before the mount is known and INIT is agreed, look often: until then nobody is served.
    const bool ready = __atomic_load_n(&bridge_.cache().header()->state, __ATOMIC_ACQUIRE) != SF_SEG_STARTING;
    epoll_event events[64];
    const int n = epoll_wait(epoll_.get(), events, 64, ready ? kTickMs : 5);
    if (!listening_ && now_ns() >= listen_again_ns_) {
      listening_ = watch(epoll_.get(), registry_->socket_fd(), EPOLLIN);
    }
    for (int i = 0; i < n; i++) {
      const int fd = events[i].data.fd;
      if (fd == wake_.get()) continue;
      if (fd == registry_->socket_fd()) accept_clients();
      else if (fd == mountinfo_.get()) watch_mounts(true);
      else serve_client(fd);
    }
    if (!ready) watch_mounts(false);
    if (n == 0 && ready) {
      for (auto &[fd, client] : clients_) {
        drain_hints(*client);
        take_recency(*client);
      }
    }
    if (ready && now_ns() - tidied_ns_ >= kTickMs * 1'000'000ull) tidy();
    if (ready && now_ns() - saved_ns_ >= kSaveMs * 1'000'000ull) save_pinned();
    if (ready && now_ns() - drained_ns_ >= kTickMs * 1'000'000ull) drain_rings();
  }
  save_pinned();
}

/// What was kept for applications that have closed, or gone: it would keep the mount busy.
void Control::tidy() {
  bridge_.fetcher().tidy();
  bridge_.keeper().tidy();
  tidied_ns_ = now_ns();
}

/// Connections are descriptors, and those are the file system's: a quarter of them at most, and nobody's who has no
/// business here.
void Control::accept_clients() {
  rlimit limit{};
  const bool known = getrlimit(RLIMIT_NOFILE, &limit) == 0;
  const size_t most = known ? std::min<size_t>(kConnectionsMax, limit.rlim_cur / 4) : kConnectionsMax;
  while (true) {
    Descriptor socket(accept4(registry_->socket_fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      // No descriptor is left: who waits, waits until the next tick, and we do not spin meanwhile.
      if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) listen_again_later();
      return;
    }
    ucred peer{};
    socklen_t size = sizeof(peer);
    if (clients_.size() >= most ||
        getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
      continue;
    auto client = std::make_unique<Client>();
    client->pid = peer.pid;
    client->uid = peer.uid;
    if (!may_map(*client) && !may_control(*client)) {
      // Told why, as far as the socket takes it at once, and let go.
      send_packet(socket.get(), SF_MSG_ERROR, bytes_of(std::string_view("this mount belongs to another user")), {});
      continue;
    }
    const int fd = socket.get();
    client->socket = std::move(socket);
    if (!watch(epoll_.get(), fd, EPOLLIN)) continue;
    clients_[fd] = std::move(client);
  }
}

void Control::listen_again_later() {
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, registry_->socket_fd(), nullptr);
  listening_ = false;
  listen_again_ns_ = now_ns() + kTickMs * 1'000'000ull;
}

void Control::serve_client(int fd) {
  auto found = clients_.find(fd);
  if (found == clients_.end()) return;
  Client &client = *found->second;
  static thread_local std::vector<char> packet(kPacketMax);
  for (int budget = 64; budget > 0; budget--) {
    const ssize_t got = recv(fd, packet.data(), packet.size(), MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) return drop_client(fd);
    sf_msg message;
    if (static_cast<size_t>(got) < sizeof(message)) return drop_client(fd);
    std::memcpy(&message, packet.data(), sizeof(message));
    const std::string_view body(packet.data() + sizeof(message), static_cast<size_t>(got) - sizeof(message));
    if (message.magic != SF_MSG_MAGIC || message.protocol != SF_PROTOCOL || message.body_bytes != body.size() ||
        !on_message(client, message, body))
      return drop_client(fd);
  }
}

void Control::drop_client(int fd) {
  auto found = clients_.find(fd);
  if (found == clients_.end()) return;
  if (sf_session *session = found->second->session) {
    bridge_.opens().remove(session);
    gone_totals_.add(metrics::fold_lanes({session->lane, SF_LANES}));
    clients_gone_++;
    found->second->maps.leave(found->second->pid);
  }
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  clients_.erase(found);
  tidied_ns_ = 0;
}

bool Control::may_map(const Client &client) const {
  return client.uid == geteuid() || bridge_.options().share_all;
}

bool Control::may_control(const Client &client) const { return client.uid == geteuid() || client.uid == 0; }

/// False: the connection is of no use any more.
bool Control::on_message(Client &client, const sf_msg &message, std::string_view body) {
  switch (message.type) {
    case SF_MSG_ATTACH:
      return may_map(client) ? attach(client)
                             : reply_text(client, SF_MSG_ERROR, "this cache belongs to another user");
    case SF_MSG_REFRESH:
      return client.session ? refresh(client, body) : false;
    case SF_MSG_WAKE:
      drain_hints(client);
      take_recency(client);
      return true;
    case SF_MSG_OPEN:
      return may_control(client) ? open_node(client, body) : false;
    case SF_MSG_STATUS:
      return may_control(client) ? status(client)
                                 : reply_text(client, SF_MSG_ERROR, "only the mounter may ask for the status");
    case SF_MSG_MAPS:
      return may_control(client) ? maps(client, body)
                                 : reply_text(client, SF_MSG_ERROR, "only the mounter may look into the maps");
    case SF_MSG_SWAP:
      return may_control(client) ? swap(client, body)
                                 : reply_text(client, SF_MSG_ERROR, "only the mounter may change the policy");
    default:
      return reply_text(client, SF_MSG_ERROR, "unknown message");
  }
}

bool Control::attach(Client &client) {
  if (client.session) return false;
  Descriptor memory(memfd_create("shortfuse-session", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory || ftruncate(memory.get(), sizeof(sf_session)) != 0 ||
      fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return reply_text(client, SF_MSG_ERROR, why("session segment"));
  void *mapped = mmap(nullptr, sizeof(sf_session), PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
  if (mapped == MAP_FAILED) return reply_text(client, SF_MSG_ERROR, why("session segment"));
  client.session = static_cast<sf_session *>(mapped);
  client.session->magic = SF_SESSION_MAGIC;
  client.session->format = SF_SEGMENT_FORMAT;
  client.session->pid = static_cast<uint32_t>(client.pid);
  client.session->sleeping = 1;
  // An open by the daemon is made with the daemon's rights.
  if (may_control(client)) bridge_.opens().add(client.session);

  cache::Cache &cache = bridge_.cache();
  const auto policy = bridge_.policy();
  const auto map_fds = client.maps.descriptors(policy->maps(), client.pid);
  if (!map_fds) return reply_text(client, SF_MSG_ERROR, map_fds.error());
  sf_attached body{};
  body.head_bytes = cache.head_bytes();
  body.session_bytes = sizeof(sf_session);
  body.policy_epoch = cache.header()->policy_epoch;
  body.policy_maps = static_cast<uint32_t>(policy->maps().size());
  std::vector<int> fds{cache.head_fd(), memory.get()};
  // What does not fit into one packet is fetched by REFRESH when it is needed.
  const size_t room = SF_MSG_FDS_MAX - 3 - policy->maps().size();
  for (const cache::Cache::Chunk &chunk : cache.chunks()) {
    if (body.chunks >= room) break;
    body.chunk[body.chunks].index = chunk.index;
    body.chunk[body.chunks++].generation = chunk.generation;
    fds.push_back(chunk.fd);
  }
  fds.push_back(policy->image_fd());
  fds.insert(fds.end(), map_fds->begin(), map_fds->end());
  const bool attached = reply(client, SF_MSG_ATTACHED, bytes_of(body), fds);
  if (may_control(client)) bridge_.keeper().begin(bridge_.mount_point());
  return attached;
}

bool Control::refresh(Client &client, std::string_view bytes) {
  auto have = std::make_unique<sf_have>();
  if (bytes.size() < offsetof(sf_have, chunk) || bytes.size() > sizeof(sf_have)) return false;
  std::memcpy(have.get(), bytes.data(), bytes.size());
  if (have->chunks > SF_CHUNKS_MAX || bytes.size() < offsetof(sf_have, chunk) + have->chunks * sizeof(have->chunk[0]))
    return false;
  cache::Cache &cache = bridge_.cache();
  const auto policy = bridge_.policy();
  sf_fresh body{};
  std::vector<int> fds;
  const uint32_t epoch = cache.header()->policy_epoch;
  const bool new_policy = have->policy_epoch != epoch;
  std::expected<std::vector<int>, std::string> map_fds;
  if (new_policy) map_fds = client.maps.descriptors(policy->maps(), client.pid);
  if (!map_fds) return reply_text(client, SF_MSG_ERROR, map_fds.error());
  const size_t room = SF_MSG_FDS_MAX - (new_policy ? 1 + policy->maps().size() : 0);
  for (const cache::Cache::Chunk &chunk : cache.chunks()) {
    bool known = false;
    for (uint32_t i = 0; i < have->chunks && !known; i++)
      known = have->chunk[i].index == chunk.index && have->chunk[i].generation == chunk.generation;
    if (known) continue;
    if (body.chunks >= room) {
      body.more = 1;
      break;
    }
    body.chunk[body.chunks].index = chunk.index;
    body.chunk[body.chunks++].generation = chunk.generation;
    fds.push_back(chunk.fd);
  }
  body.policy_epoch = epoch;
  if (new_policy) {
    body.policy_maps = static_cast<uint32_t>(policy->maps().size());
    fds.push_back(policy->image_fd());
    fds.insert(fds.end(), map_fds->begin(), map_fds->end());
  }
  return reply(client, SF_MSG_FRESH, bytes_of(body), fds);
}

bool Control::swap(Client &client, std::string_view body) {
  const auto request = nlohmann::json::parse(body, nullptr, false);
  if (!request.is_object() || !request.contains("policy") || !request["policy"].is_string())
    return reply_text(client, SF_MSG_ERROR, "swap needs {\"policy\": \"A.bpf.o[:B.bpf.o]\"}");
  auto chain = parse_chain(request["policy"].get<std::string>());
  if (!chain) return reply_text(client, SF_MSG_ERROR, chain.error());
  save_pinned();  // of maps that the new chain does not have
  if (auto swapped = bridge_.swap(*chain); !swapped) return reply_text(client, SF_MSG_ERROR, swapped.error());
  restore_pinned();
  const auto policy = bridge_.policy();
  nlohmann::json answer{{"ok", true},
                        {"epoch", bridge_.cache().header()->policy_epoch},
                        {"programs", policy->policy().programs.size()},
                        {"native", policy->why_interpreted().empty()}};
  return reply_text(client, SF_MSG_JSON, answer.dump());
}

bool Control::status(Client &client) { return reply_text(client, SF_MSG_JSON, metrics::to_json(snapshot())); }

bool Control::reply_text(Client &client, sf_msg_type type, const std::string &text) {
  if (text.size() < kPacketMax - sizeof(sf_msg)) return reply(client, type, bytes_of(std::string_view(text)), {});
  Descriptor memory(memfd_create("shortfuse-reply", MFD_CLOEXEC));
  size_t done = 0;
  while (memory && done < text.size()) {
    const ssize_t n = write(memory.get(), text.data() + done, text.size() - done);
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return memory && reply(client, type, {}, {memory.get()});
}

bool Control::reply(Client &client, sf_msg_type type, Bytes body, const std::vector<int> &fds) {
  return send_packet(client.socket.get(), type, body, fds);
}

}  // namespace shortfuse::bridge
