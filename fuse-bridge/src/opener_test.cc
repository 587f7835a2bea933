// The process that opens for the daemon: nobody notices that it is there, it has nothing of the daemon's, it ends.
#include "opener.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "shortfuse/cache/attach.h"

namespace shortfuse::bridge {
namespace {

constexpr int kLongMs = 30'000;

std::string contents_of(const std::string &path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

struct OpenerTest : testing::Test {
  Opener opener;

  void SetUp() override {
    opener.find();
    start();
  }
  void start() {
    auto started = opener.start("/tmp");
    ASSERT_TRUE(started) << started.error();
    OpenerPacket packet;
    ASSERT_EQ(next(packet), Opener::Got::Packet);
    ASSERT_EQ(packet.word, OpenerWord::Ready);
    ASSERT_TRUE(opener.was_ready());
  }
  Opener::Got next(OpenerPacket &packet) {
    pollfd waits{opener.socket(), POLLIN, 0};
    poll(&waits, 1, kLongMs);
    return opener.receive(packet);
  }
  std::string of_process(const char *what) { return "/proc/" + std::to_string(opener.pid()) + "/" + what; }
};

/// Waits until a process that is not our child has gone; false after a long time.
bool gone(pid_t pid) {
  for (int i = 0; i < kLongMs / 10 && kill(pid, 0) == 0; i++) usleep(10'000);
  return kill(pid, 0) != 0;
}

std::atomic<int> children_heard_of{0};

TEST(Opener, ItsParentDoesNotNotice) {
  struct sigaction noted{}, before;
  noted.sa_handler = [](int) { children_heard_of++; };
  sigaction(SIGCHLD, &noted, &before);
  Opener opener;
  opener.find();
  ASSERT_TRUE(opener.start("/tmp"));
  const pid_t pid = opener.pid();
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD) << "the daemon has a child";
  opener.stop();
  EXPECT_TRUE(gone(pid));
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG | __WALL), -1) << "not even one that is not waited for";
  EXPECT_EQ(children_heard_of, 0);
  sigaction(SIGCHLD, &before, nullptr);
}

TEST_F(OpenerTest, ItHasNothingOfTheDaemons) {
  size_t descriptors = 0;
  for (const auto &entry : std::filesystem::directory_iterator(of_process("fd"))) {
    const int fd = std::stoi(entry.path().filename());
    descriptors++;
    EXPECT_LE(fd, 3);
    if (fd < 2) {
      EXPECT_EQ(std::filesystem::read_symlink(entry.path()), "/dev/null");
    }
  }
  EXPECT_LE(descriptors, 4u);
  EXPECT_EQ(contents_of(of_process("environ")), "");
  EXPECT_EQ(std::filesystem::read_symlink(of_process("cwd")), "/");
  EXPECT_EQ(getsid(opener.pid()), opener.pid()) << "a terminal's signals reach it";
  EXPECT_NE(contents_of(of_process("status")).find("NoNewPrivs:\t1"), std::string::npos);
}

TEST_F(OpenerTest, SignalsButOneDoNotEndIt) {
  for (int number : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGPIPE}) kill(opener.pid(), number);
  OpenerPacket packet;
  packet.word = OpenerWord::Keep;
  packet.nid = 7;
  ASSERT_TRUE(opener.send(packet, {"/tmp", "", 1}, -1));
  ASSERT_EQ(next(packet), Opener::Got::Packet);
  EXPECT_EQ(packet.word, OpenerWord::Began);
  EXPECT_EQ(packet.nid, 7u);
  EXPECT_NE(packet.flags, static_cast<uint32_t>(opener.pid())) << "a thread of its own";
  ASSERT_EQ(next(packet), Opener::Got::Packet);
  EXPECT_EQ(packet.word, OpenerWord::NotKept) << "of what is not on FUSE";
  EXPECT_EQ(packet.nid, 7u);
  kill(opener.pid(), SIGKILL);
  EXPECT_EQ(next(packet), Opener::Got::Ended);
  EXPECT_FALSE(opener.running());
  EXPECT_EQ(opener.pid(), 0);
  EXPECT_FALSE(opener.send(packet, {"/tmp", "", 1}, -1));
  start();
}

TEST_F(OpenerTest, AnApplicationIsAnswered) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  Descriptor application(ends[0]), connection(ends[1]);
  OpenerPacket packet;
  packet.word = OpenerWord::Open;
  packet.flags = O_RDONLY;
  ASSERT_TRUE(opener.send(packet, {"/tmp", "", 42}, connection.get()));
  connection.reset(-1);
  struct {
    sf_msg message;
    sf_opened opened;
  } answer{};
  ASSERT_EQ(recv(application.get(), &answer, sizeof(answer), 0), static_cast<ssize_t>(sizeof(answer)));
  EXPECT_EQ(answer.message.type, SF_MSG_OPENED);
  EXPECT_EQ(answer.opened.error, -ESTALE) << "another node is there";
  EXPECT_EQ(answer.opened.nodeid, 42u);
  EXPECT_EQ(recv(application.get(), &answer, sizeof(answer), 0), 0) << "and the connection ends";
}

TEST_F(OpenerTest, WhenItEndsTheApplicationIsTold) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  Descriptor application(ends[0]), connection(ends[1]);
  kill(opener.pid(), SIGSTOP);
  OpenerPacket packet;
  packet.word = OpenerWord::Open;
  ASSERT_TRUE(opener.send(packet, {"/tmp", "", 42}, connection.get()));
  connection.reset(-1);
  const pid_t pid = opener.pid();
  kill(pid, SIGKILL);
  EXPECT_TRUE(gone(pid));
  opener.stop();
  char byte;
  EXPECT_EQ(recv(application.get(), &byte, 1, 0), 0);
}

TEST(Opener, WhereItCannotBeStarted) {
  Opener opener;  // nobody has looked for it
  auto started = opener.start("/tmp");
  ASSERT_FALSE(started);
  EXPECT_NE(started.error().find("was not found"), std::string::npos) << started.error();
  EXPECT_FALSE(opener.running());
}

}  // namespace
}  // namespace shortfuse::bridge
