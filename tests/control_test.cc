// The control socket under abuse: bytes that are no message, messages that lie, people without rights, and connections
// by the thousand. The daemon lives, and others are served meanwhile.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "support/agent.h"
#include "support/control.h"
#include "support/harness.h"
#include "support/shared.h"
#include "support/verify.h"

namespace shortfuse::tests {
namespace {

constexpr uid_t kStranger = 45678;

std::string packet(uint32_t magic, uint16_t protocol, uint16_t type, uint32_t body_bytes, std::string_view body) {
  sf_msg head{magic, protocol, type, body_bytes, 0};
  std::string bytes(reinterpret_cast<const char *>(&head), sizeof head);
  return bytes += body;
}

/// Whatever a hostile client could send, one packet.
std::string draw_packet(std::mt19937_64 &random) {
  std::string body(random() % 200, '\0');
  for (auto &byte : body) byte = static_cast<char>(random());
  uint16_t type = static_cast<uint16_t>(random() % 80);
  uint32_t length = static_cast<uint32_t>(body.size());
  switch (random() % 9) {
    case 0: return body;
    case 1: return packet(SF_MSG_MAGIC + 1, SF_PROTOCOL, type, length, body);
    case 2: return packet(SF_MSG_MAGIC, 77, type, length, body);
    case 3: return packet(SF_MSG_MAGIC, SF_PROTOCOL, type, static_cast<uint32_t>(random()), body);
    case 4: return packet(SF_MSG_MAGIC, SF_PROTOCOL, SF_MSG_SWAP, length, body);
    case 5: {
      std::string json =
          R"({"policy": ")" + std::string(random() % 5000, 'a' + static_cast<char>(random() % 26)) + "\"}";
      return packet(SF_MSG_MAGIC, SF_PROTOCOL, SF_MSG_SWAP, static_cast<uint32_t>(json.size()), json);
    }
    case 6: {
      std::string have(sizeof(sf_have), '\0');
      for (auto &byte : have) byte = static_cast<char>(random());
      return packet(SF_MSG_MAGIC, SF_PROTOCOL, SF_MSG_REFRESH, static_cast<uint32_t>(have.size()), have);
    }
    case 7: {
      // JSON that nests deeper than a parser's stack.
      std::string json(20'000, '[');
      return packet(SF_MSG_MAGIC, SF_PROTOCOL, SF_MSG_SWAP, static_cast<uint32_t>(json.size()), json);
    }
    default: return packet(SF_MSG_MAGIC, SF_PROTOCOL, type, length, body);
  }
}

/// socket seed count: sends random packets and hangs up at random.
SF_WORKER(abuse) {
  std::mt19937_64 random(std::stoull(args.at(1)));
  uint64_t count = std::stoull(args.at(2));
  std::unique_ptr<Control> control;
  for (uint64_t i = 0; i < count; ++i) {
    if (!control || random() % 16 == 0) control = std::make_unique<Control>(args.at(0));
    if (!control->send_bytes(draw_packet(random))) control.reset();
    if (control && random() % 3 == 0) {
      char answer[256];
      recv(control->fd(), answer, sizeof answer, MSG_DONTWAIT);
    }
  }
  return 0;
}

/// socket: asks for everything that only the owner may have; 0 when all of it was refused.
SF_WORKER(stranger) {
  try {
    int granted = 0;
    auto tried = [&](uint16_t type, const std::string &body) {
      Control control(args.at(0));
      auto reply = control.ask(type, body);
      if (reply.type == SF_MSG_ATTACHED || reply.descriptors != 0) granted |= 1;
      if (type == SF_MSG_SWAP && reply.type == SF_MSG_JSON) granted |= 2;
    };
    tried(SF_MSG_ATTACH, "");
    tried(SF_MSG_SWAP, R"({"policy": ")" + policy("passall") + "\"}");
    tried(SF_MSG_REFRESH, std::string(sizeof(sf_have), '\0'));
    return granted;
  } catch (const Broken &) {
    return 0;  // not even connected
  }
}

class ControlSocket : public testing::Test {
 protected:
  ControlSocket() {
    make_tree(temp / "source", 50);
    mounted = std::make_unique<Mount>(temp / "source", temp.dir("mnt"), Mount::Options{});
    board = std::make_unique<Shared<Verified>>(temp / "board");
    Spec spec = verifier(temp / "board", temp / "source", mounted->point(), 1);
    spec.err = temp / "err";
    spec.report = temp / "report";
    reader = Process(spec);
    const pid_t daemon = mounted->daemon().pid();
    if (!eventually([&] { return (*board)->looks.load() > 100 && served_to(reader.pid(), daemon) > 0; }))
      throw Broken("the reader does not get going");
    socket = sockets_of(daemon).at(0);
    look_at_all(mounted->point());
    descriptors_before = open_descriptors(mounted->daemon().pid());
  }
  void expect_all_well() {
    EXPECT_TRUE(mounted->daemon().running()) << mounted->log();
    uint64_t looks = (*board)->looks.load();
    EXPECT_TRUE(eventually([&] { return (*board)->looks.load() > looks + 100; })) << "the reader hangs";
    // Somebody who comes now is served, too.
    Agent late(temp, {});
    EXPECT_TRUE(late.comes_to_be_served(*mounted, "read " + mounted->point() + "/dir0/file3"));
    EXPECT_EQ(late.ask_often("read " + mounted->point() + "/dir0/file3"), read_file(temp / "source/dir0/file3"));
    EXPECT_GT(late.finish().served_total(), 0u);
    EXPECT_TRUE(eventually([&] { return open_descriptors(mounted->daemon().pid()) <= descriptors_before + 5; }))
        << open_descriptors(mounted->daemon().pid()) << " descriptors, " << descriptors_before << " before";
    (*board)->stop.store(1);
    EXPECT_EQ(reader.wait(), 0) << read_file(temp / "err");
    EXPECT_GT(Report::read(temp / "report").served_total(), 0u);
    mounted->unmount();
  }

  TempDir temp;
  std::unique_ptr<Mount> mounted;
  std::unique_ptr<Shared<Verified>> board;
  Process reader;
  std::string socket;
  size_t descriptors_before = 0;
};

TEST_F(ControlSocket, RandomPackets) {
  std::vector<Process> abusers;
  for (unsigned i = 0; i < 2; ++i) {
    abusers.emplace_back(
        worker("abuse", {socket, std::to_string(seed(3) + i), std::to_string(scaled(6000, 500'000))}, false));
  }
  for (auto &abuser : abusers) EXPECT_EQ(abuser.wait(std::chrono::seconds(scaled(60, 3600))), 0);
  expect_all_well();
}

TEST_F(ControlSocket, AnAttachedClientThatLies) {
  Control control(socket);
  control.send(SF_MSG_ATTACH, "");
  EXPECT_EQ(control.receive().type, SF_MSG_ATTACHED);
  std::mt19937_64 random(5);
  for (int i = 0; i < 300 && control.send_bytes(draw_packet(random)); ++i) {
    char answer[4096];
    recv(control.fd(), answer, sizeof answer, MSG_DONTWAIT);
  }
  expect_all_well();
}

TEST_F(ControlSocket, AnotherUserGetsNothing) {
  if (!is_root()) GTEST_SKIP() << "becoming another user needs root";
  Spec spec = worker("stranger", {socket}, false);
  spec.uid = kStranger;
  EXPECT_EQ(run(spec).status, 0);
  EXPECT_EQ(status_of(mounted->daemon().pid())["policy"]["swaps"].get<int>(), 0);
  expect_all_well();
}

TEST_F(ControlSocket, ThousandsOfConnections) {
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = limit.rlim_max;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  const size_t count = std::min<size_t>(3000, limit.rlim_cur - 200);
  std::vector<std::unique_ptr<Control>> held;
  for (size_t i = 0; i < count; ++i) {
    try {
      held.push_back(std::make_unique<Control>(socket));
    } catch (const Broken &) {
      break;  // more than it takes: the daemon may refuse, it may not fall over
    }
  }
  EXPECT_GT(held.size(), 100u);
  // Those attached before are served while the crowd stands there.
  uint64_t looks = (*board)->looks.load();
  EXPECT_TRUE(eventually([&] { return (*board)->looks.load() > looks + 100; }));
  // A newcomer works at least by the kernel's way.
  {
    Agent late(temp, {});
    EXPECT_EQ(late.ask_often("read " + mounted->point() + "/dir0/file3"), read_file(temp / "source/dir0/file3"));
    late.finish();
  }
  held.clear();
  for (size_t i = 0; i < 2000; ++i) Control once(socket);
  expect_all_well();
}

// Somebody who connects, asks, and never reads the answer.
TEST_F(ControlSocket, AnAskerWhoDoesNotListen) {
  Control deaf(socket);
  for (int i = 0; i < 5000; ++i) {
    std::string ask = packet(SF_MSG_MAGIC, SF_PROTOCOL, SF_MSG_STATUS, 0, "");
    if (send(deaf.fd(), ask.data(), ask.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) break;
  }
  EXPECT_EQ(shortfuse({"status", mounted->point()}).status, 0);
  Control other(socket);
  EXPECT_EQ(other.ask(SF_MSG_STATUS, "").type, SF_MSG_JSON);
  expect_all_well();
}

}  // namespace
}  // namespace shortfuse::tests
