// kill -9: of hooked readers at any moment, and of the daemon. Nothing hangs, nobody else is harmed, nothing is left.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "support/agent.h"
#include "support/control.h"
#include "support/harness.h"
#include "support/shared.h"
#include "support/verify.h"

namespace shortfuse::tests {
namespace {

/// Which of these processes the daemon still counts as its clients. Others may be there: whoever runs with the hook on
/// this machine meets every mount.
std::vector<pid_t> clients_among(pid_t daemon, const std::vector<pid_t> &processes) {
  std::vector<pid_t> found;
  const auto status = status_of(daemon);
  for (const auto &client : status["clients"]) {
    pid_t pid = client["pid"].get<pid_t>();
    if (std::ranges::find(processes, pid) != processes.end()) found.push_back(pid);
  }
  return found;
}

TEST(Kill, ReadersAtAnyMoment) {
  TempDir temp;
  make_tree(temp / "source", 300);
  Mount mount(temp / "source", temp.dir("mnt"), {});
  pid_t daemon = mount.daemon().pid();
  Shared<Verified> board(temp / "board");
  auto start = [&](uint64_t number) {
    Spec spec = verifier(temp / "board", temp / "source", mount.point(), number);
    spec.env["SHORTFUSE_OPEN"] = number % 2 ? "" : "kernel";
    spec.err = temp / "err";
    spec.report = temp / "report";
    return Process(spec);
  };
  Process survivor = start(1);
  std::vector<pid_t> readers = {survivor.pid()};
  ASSERT_TRUE(eventually([&] { return board->looks.load() > 500 && served_to(survivor.pid(), daemon) > 0; }));
  look_at_all(mount.point());
  const size_t descriptors_before = open_descriptors(daemon);

  std::mt19937 random(static_cast<unsigned>(seed(11)));
  const uint64_t kills = scaled(200, 5000);
  for (uint64_t i = 0; i < kills; ++i) {
    Process victim = start(i + 2);
    readers.push_back(victim.pid());
    // From before main() to the middle of a served call.
    if (i % 20 == 19) {
      ASSERT_TRUE(eventually([&] { return served_to(victim.pid(), daemon) > 0; })) << i;
    }
    nap_ms(random() % 25);
    victim.signal(SIGKILL);
    ASSERT_EQ(victim.wait(), 128 + SIGKILL);
    ASSERT_TRUE(mount.daemon().running()) << mount.log();
    ASSERT_TRUE(survivor.running()) << read_file(temp / "err");
  }
  uint64_t looks = board->looks.load();
  EXPECT_TRUE(eventually([&] { return board->looks.load() > looks + 500; })) << "the surviving reader hangs";
  board->stop.store(1);
  EXPECT_EQ(survivor.wait(), 0) << read_file(temp / "err");
  EXPECT_GT(Report::read(temp / "report").served_total(), 0u);
  // Sessions, their memory and their sockets are given back.
  EXPECT_TRUE(eventually([&] { return clients_among(daemon, readers).empty(); }));
  EXPECT_TRUE(eventually([&] { return open_descriptors(daemon) <= descriptors_before + 5; }))
      << open_descriptors(daemon) << " descriptors, " << descriptors_before << " before";
  mount.unmount();
}

TEST(Kill, TheDaemon) {
  TempDir temp;
  make_tree(temp / "source", 100);
  std::string file = temp.dir("mnt") + "/dir0/file5", directory = temp / "mnt/dir0";
  for (int round = 0; round < 5; ++round) {
    std::vector<std::string> sockets;
    {
      Mount mount(temp / "source", temp / "mnt", {});
      sockets = sockets_of(mount.daemon().pid());
      Shared<Verified> board(temp / ("board" + std::to_string(round)));
      std::vector<Process> readers;
      for (unsigned i = 0; i < 2; ++i) {
        Spec spec = verifier(temp / ("board" + std::to_string(round)), temp / "source", mount.point(), i, true);
        spec.env["SHORTFUSE_OPEN"] = round % 2 ? "" : "kernel";
        spec.err = temp / "err";
        readers.emplace_back(spec);
      }
      Agent agent(temp, {});
      ASSERT_TRUE(agent.comes_to_be_served(mount, "read " + file));
      // Everything warm and held open, then no daemon.
      for (const auto &question :
           {"read " + file, "list " + directory, "stat " + file, "getxattr " + file + " user.number", "hold " + file,
            std::string("reread"), std::string("fstat")}) {
        ASSERT_FALSE(agent.ask_often(question).starts_with("MISMATCH")) << question;
      }
      ASSERT_TRUE(eventually([&] { return board->looks.load() > 200; }));
      ASSERT_TRUE(come_to_be_served(readers, mount.daemon().pid()));
      mount.daemon().signal(SIGKILL);
      ASSERT_EQ(mount.daemon().wait(), 128 + SIGKILL);
      for (auto &reader : readers) EXPECT_EQ(reader.wait(), 0) << read_file(temp / "err");
      // The agent compares with the kernel itself; without kernel caches it must be this error.
      for (const auto &question :
           {"stat " + file, "read " + file, "list " + directory, "access " + file + " 4", "statfs " + file,
            "getxattr " + file + " user.number", std::string("fstat"), "stat " + file + ".absent"}) {
        EXPECT_EQ(agent.ask_often(question), "ENOTCONN") << question;
      }
      EXPECT_FALSE(agent.ask_often("reread").starts_with("MISMATCH"));
      EXPECT_EQ(agent.ask("release"), "ENOTCONN");  // close(2) flushes, and so says what every call says
      agent.finish();
    }
    EXPECT_FALSE(is_mounted(temp / "mnt"));
    // A mount that comes later sweeps the registry; what is left of the dead one must not be in the way of anything.
    Mount again(temp / "source", temp / "mnt", {});
    for (const auto &socket : sockets) {
      EXPECT_TRUE(eventually([&] { return access(socket.c_str(), F_OK) != 0; })) << socket << " is still there";
    }
    EXPECT_EQ(shortfuse({"status"}).status, 0);
    Agent agent(temp, {});
    EXPECT_TRUE(agent.comes_to_be_served(again, "read " + file));
    EXPECT_EQ(agent.ask_often("read " + file), read_file(temp / "source/dir0/file5"));
    EXPECT_GT(agent.finish().served_total(), 0u);
    again.unmount();
  }
}

// A reader stopped in the middle of whatever it does holds nobody up, neither readers nor swaps nor the end.
TEST(Kill, AStoppedReaderIsInNobodysWay) {
  TempDir temp;
  make_tree(temp / "source", 100);
  Mount mount(temp / "source", temp.dir("mnt"), {});
  Shared<Verified> board(temp / "board");
  std::vector<Process> readers;
  for (unsigned i = 0; i < 2; ++i) {
    Spec spec = verifier(temp / "board", temp / "source", mount.point(), i);
    spec.report = temp / ("report" + std::to_string(i));
    readers.emplace_back(spec);
  }
  ASSERT_TRUE(eventually([&] { return board->looks.load() > 200; }));
  ASSERT_TRUE(come_to_be_served(readers, mount.daemon().pid()));
  for (int round = 0; round < 10; ++round) {
    readers[0].signal(SIGSTOP);
    swap(mount.point(), round % 2 ? "datacache" : "metacache");
    write_file(mount.point() + "/new", "x");
    ASSERT_EQ(unlink((mount.point() + "/new").c_str()), 0);
    uint64_t looks = board->looks.load();
    EXPECT_TRUE(eventually([&] { return board->looks.load() > looks + 100; }));
    readers[0].signal(SIGCONT);
    nap_ms(10);
  }
  readers[0].signal(SIGSTOP);
  board->stop.store(1);
  EXPECT_EQ(readers[1].wait(), 0);
  EXPECT_GT(Report::read(temp / "report1").served_total(), 0u);
  readers[0].kill_and_reap();
  mount.unmount();
}

}  // namespace
}  // namespace shortfuse::tests
