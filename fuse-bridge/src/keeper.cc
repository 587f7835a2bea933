#include "keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <string>
#include <system_error>
#include <utility>

namespace shortfuse::bridge {
namespace {

constexpr auto kPatience = std::chrono::seconds(2);
constexpr auto kPatienceMax = std::chrono::seconds(20);
constexpr auto kBetweenLooks = std::chrono::milliseconds(100);
constexpr unsigned kIdleMax = 3;        // looks: one may have met it between two requests
constexpr auto kBetweenStarts = std::chrono::seconds(1);
constexpr unsigned kCarriersMax = 16;   // a thread of the file system each, while it works

/// What a file of /proc says, as far as it matters here; empty when it is not there.
std::string first_bytes_of(const std::string &file) {
  char bytes[512];
  const Descriptor fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  const ssize_t got = fd ? read(fd.get(), bytes, sizeof(bytes)) : 0;
  return std::string(bytes, static_cast<size_t>(std::max<ssize_t>(got, 0)));
}

void block_signals() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
}

}  // namespace

// ---- what others ask for

void Keeper::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] ssize_t ignored = write(wake_.get(), &one, sizeof(one));
}

void Keeper::begin(const std::string &mount_point) {
  std::lock_guard guard(lock_);
  if (stopped_ || mount_point.empty()) return;
  if (!running_) {
    mount_point_ = mount_point;
    wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake_) return;
    thread_ = std::thread([this] { run(); });
    running_ = true;
  }
  wanted_ = true;
  wake();
}

void Keeper::keep(Parked parked) {
  std::lock_guard guard(lock_);
  parked_.push_back(std::move(parked));
  wake();
}

void Keeper::open_for(Descriptor client, cache::Nid nid, Place place, int flags) {
  std::lock_guard guard(lock_);
  if (!running_ || stopped_) return;
  opening_.push_back({std::move(client), nid, std::move(place), flags});
  wake();
}

bool Keeper::would_keep(cache::Nid nid) {
  std::lock_guard guard(lock_);
  return running_ && !stopped_ && !kept_.contains(nid);
}

void Keeper::tidy() {
  std::lock_guard guard(lock_);
  const size_t before = dropped_.size();
  std::erase_if(kept_, [&](cache::Nid nid) {
    if (opens_.has(nid)) return false;
    dropped_.push_back(nid);
    return true;
  });
  if (dropped_.size() != before) wake();
}

pid_t Keeper::opener_pid() {
  std::lock_guard guard(lock_);
  return opener_pid_;
}

bool Keeper::stop(std::chrono::seconds limit) {
  std::unique_lock guard(lock_);
  stopped_ = true;
  changed_.notify_all();
  if (running_) wake();
  guard.unlock();
  if (thread_.joinable()) thread_.join();  // it waits for nobody
  guard.lock();
  // What is kept goes with the opener, which nobody waits for: its last requests may find nobody who answers.
  return changed_.wait_for(guard, limit, [&] { return carriers_ == 0; });
}

// ---- the thread

void Keeper::run() {
  block_signals();
  pthread_setname_np(pthread_self(), "shortfuse-keep");
  while (true) {
    wait();
    {
      std::lock_guard guard(lock_);
      if (stopped_) break;
    }
    hear();
    send_waiting();
    look_after(std::chrono::steady_clock::now());
  }
  opener_.stop();
}

void Keeper::wait() {
  Time until = Time::max();
  for (const Waiting &one : waiting_) until = std::min(until, one.until);
  if (start_again_) until = std::min(until, start_after_);
  int timeout_ms = -1;
  if (until != Time::max()) {
    const auto left = until - std::chrono::steady_clock::now();
    timeout_ms = std::max(0, static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count()));
  }
  const short room = no_room_ ? POLLOUT : 0;
  pollfd waits[2] = {{wake_.get(), POLLIN, 0}, {opener_.socket(), static_cast<short>(POLLIN | room), 0}};
  poll(waits, 2, timeout_ms);
  uint64_t drained;
  [[maybe_unused]] ssize_t ignored = read(wake_.get(), &drained, sizeof(drained));
}

/// What has come from others since, to the opener. An application for which it has no room now asks again; everything
/// else waits until it has.
void Keeper::send_waiting() {
  std::unique_lock guard(lock_);
  const bool wanted = std::exchange(wanted_, false);
  auto parked = std::exchange(parked_, {});
  auto opening = std::exchange(opening_, {});
  guard.unlock();
  if (wanted || start_again_ || !parked.empty() || !opening.empty()) start_opener();
  guard.lock();
  OpenerPacket packet;
  packet.word = OpenerWord::Drop;
  no_room_ = false;
  while (!dropped_.empty()) {
    packet.nid = dropped_.front();
    no_room_ = opener_.running() && !opener_.send(packet, {}, -1);
    if (no_room_) break;
    dropped_.pop_front();
  }
  guard.unlock();
  const Time now = std::chrono::steady_clock::now();
  for (Parked &one : parked) waiting_.push_back({std::move(one), now + kPatience, now + kPatienceMax});
  ask_to_keep();
  for (const Wanted &one : opening) {
    packet.word = OpenerWord::Open;
    packet.nid = one.nid;
    packet.flags = static_cast<uint32_t>(one.flags);
    opener_.send(packet, one.place, one.client.get());
  }
}

void Keeper::start_opener() {
  // A daemon that has become somebody else has to open as that.
  if (opener_.running() && !opener_.is_ours()) {
    opener_.stop();
    opener_ended();
  }
  const Time now = std::chrono::steady_clock::now();
  if (opener_.running() || now < start_after_) return;
  start_again_ = false;
  start_after_ = now + kBetweenStarts;
  if (auto started = opener_.start(mount_point_); !started) return opener_failed(started.error());
  std::lock_guard guard(lock_);
  opener_pid_ = opener_.pid();
}

void Keeper::opener_failed(const std::string &why) {
  opens_.offer(false);
  if (!std::exchange(complained_, true))
    std::fprintf(stderr, "shortfuse: applications are served no opens of %s: %s\n", mount_point_.c_str(), why.c_str());
}

/// In turn, and behind what is to be dropped: it must not be told to drop afterwards what it is to keep now.
void Keeper::ask_to_keep() {
  let_go([&](const Waiting &one) { return !opener_.running() || one.parked.place.mount_point.empty(); });
  OpenerPacket packet;
  packet.word = OpenerWord::Keep;
  for (Waiting &one : waiting_) {
    if (no_room_) return;
    if (one.asked) continue;
    packet.nid = one.parked.nid;
    one.asked = opener_.send(packet, one.parked.place, -1);
    no_room_ = !one.asked;
  }
}

void Keeper::look_after(Time now) {
  let_go([&](Waiting &one) {
    if (one.until > now) return false;
    one.until = now + kBetweenLooks;
    one.idle = is_busy(one) ? 0 : one.idle + 1;
    return one.idle >= kIdleMax || one.last <= now;
  });
}

/// Whether the opener's thread runs, is about to, or waits for an answer of the file system. What it waits for is told
/// by proc(5)'s wchan: the function of the kernel in which it sleeps. Where that is not told it counts as idle.
bool Keeper::is_busy(const Waiting &one) const {
  const std::string opener = std::to_string(opener_.pid()), worker = std::to_string(one.worker);
  const std::string thread = "/proc/" + opener + "/task/" + (one.worker != 0 ? worker : opener);
  const std::string stat = first_bytes_of(thread + "/stat");
  const size_t name_end = stat.rfind(") ");
  if (name_end == std::string::npos) return one.worker != 0;  // it has just ended: what it has to say is on its way
  switch (stat[name_end + 2]) {
    case 'R': return true;
    case 'S': case 'D': break;
    default: return false;
  }
  const std::string sleeps_in = first_bytes_of(thread + "/wchan");
  return sleeps_in.find("request") != std::string::npos || sleeps_in.find("fuse") != std::string::npos;
}

void Keeper::hear() {
  OpenerPacket packet;
  while (true) {
    switch (opener_.receive(packet)) {
      case Opener::Got::Nothing: return;
      case Opener::Got::Ended: return opener_ended();
      case Opener::Got::Packet: break;
    }
    if (packet.word == OpenerWord::Ready) {
      opens_.offer(true);
      continue;
    }
    if (packet.word == OpenerWord::Began) {
      for (Waiting &one : waiting_)
        if (one.parked.nid == packet.nid) one.worker = static_cast<pid_t>(packet.flags);
      continue;
    }
    {
      std::lock_guard guard(lock_);
      if (packet.word == OpenerWord::Kept) kept_.insert(packet.nid);
      else kept_.erase(packet.nid);
    }
    let_go([&](const Waiting &one) { return one.parked.nid == packet.nid; });
  }
}

/// Until there is another one nobody is served an open: of what is removed meanwhile nothing would be kept.
void Keeper::opener_ended() {
  opens_.offer(false);
  start_again_ = opener_.was_ready();
  if (!start_again_) opener_failed("the process that opens ended at once");
  {
    std::lock_guard guard(lock_);
    kept_.clear();
    dropped_.clear();
    opener_pid_ = 0;
  }
  let_go([](const Waiting &) { return true; });
}

// ---- requests that go on

void Keeper::let_go(const std::function<bool(Waiting &)> &which) {
  for (auto one = waiting_.begin(); one != waiting_.end();) {
    if (!which(*one)) {
      ++one;
      continue;
    }
    let_go_on(std::move(one->parked));
    one = waiting_.erase(one);
  }
}

void Keeper::let_go_on(Parked parked) {
  std::unique_lock guard(lock_);
  going_on_.push_back(std::move(parked));
  changed_.notify_one();
  if (idle_ >= going_on_.size() || carriers_ >= kCarriersMax) return;
  try {
    std::thread([this] { carry_on(); }).detach();
    carriers_++;
  } catch (const std::system_error &) {
    if (carriers_ != 0) return;  // those that are there take it in turn
    Parked only = std::move(going_on_.front());
    going_on_.pop_front();
    guard.unlock();
    go_on(std::move(only));
  }
}

void Keeper::carry_on() {
  block_signals();
  std::unique_lock guard(lock_);
  while (true) {
    idle_++;
    changed_.wait(guard, [&] { return stopped_ || !going_on_.empty(); });
    idle_--;
    if (stopped_) break;
    Parked one = std::move(going_on_.front());
    going_on_.pop_front();
    guard.unlock();
    go_on(std::move(one));
    guard.lock();
  }
  carriers_--;
  changed_.notify_all();
}

}  // namespace shortfuse::bridge
