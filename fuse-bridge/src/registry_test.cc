// Daemons that begin beside one another, and what killed ones leave. `listen` here is the test's own, so that a daemon
// can be held up between bind() and listen().
#include "registry.h"

#include <dirent.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <vector>

static std::function<void()> before_listening;

extern "C" int listen(int fd, int backlog) noexcept {
  if (before_listening) std::exchange(before_listening, nullptr)();
  return static_cast<int>(syscall(SYS_listen, fd, backlog));
}

namespace shortfuse::bridge {
namespace {

std::vector<std::string> names_of(pid_t pid) {
  std::vector<std::string> names;
  auto directory = Registry::prepare_directory();
  DIR *dir = directory ? opendir(directory->c_str()) : nullptr;
  while (const dirent *entry = dir ? readdir(dir) : nullptr) {
    if (std::string_view(entry->d_name).starts_with(std::to_string(pid) + "-")) names.push_back(entry->d_name);
  }
  if (dir) closedir(dir);
  return names;
}

bool connects(const std::string &name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = Registry::prepare_directory().value() + "/" + name;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  Descriptor fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  return connect(fd.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) == 0;
}

/// Another daemon, which enters and is killed unless it shall leave.
pid_t other_daemon(bool leaves) {
  const pid_t child = fork();
  if (child == 0) {
    auto registry = Registry::enter(false);
    if (!registry) _exit(1);
    registry->announce(1, "/nowhere");
    if (leaves) registry->leave();
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(0, status);
  return child;
}

TEST(Registry, ADaemonThatIsHeldUpKeepsItsName) {
  before_listening = [] {
    for (const std::string &name : names_of(getpid()))
      EXPECT_FALSE(name.ends_with(".sock")) << "found before it listens";
    other_daemon(true);
  };
  auto registry = Registry::enter(false);
  ASSERT_TRUE(registry) << registry.error();
  EXPECT_EQ(nullptr, before_listening) << "nobody was held up";
  const auto names = names_of(getpid());
  ASSERT_EQ(1u, names.size());
  EXPECT_TRUE(names[0].ends_with(".sock")) << names[0];
  EXPECT_TRUE(connects(names[0]));
  registry->announce(1, "/nowhere");
  EXPECT_EQ(2u, names_of(getpid()).size());
  other_daemon(true);
  EXPECT_EQ(2u, names_of(getpid()).size());
  registry->leave();
  EXPECT_TRUE(names_of(getpid()).empty());
}

TEST(Registry, WhatKilledOnesLeftIsSwept) {
  const pid_t dead = other_daemon(false);
  EXPECT_EQ(2u, names_of(dead).size());
  const std::string unfinished = Registry::prepare_directory().value() + "/" + std::to_string(dead) + "-7.sock.new";
  ASSERT_EQ(0, symlink("x", unfinished.c_str()));
  auto registry = Registry::enter(false);
  ASSERT_TRUE(registry) << registry.error();
  EXPECT_TRUE(names_of(dead).empty()) << names_of(dead)[0];
  registry->leave();
}

}  // namespace
}  // namespace shortfuse::bridge
