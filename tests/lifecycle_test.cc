// How mounts come and go under processes that stay: started before the mount, still there after it, two at once, one
// over another, the same place again with something else in it. The agent compares every answer with the kernel's.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "support/agent.h"
#include "support/control.h"
#include "support/harness.h"
#include "support/shared.h"
#include "support/verify.h"

namespace shortfuse::tests {
namespace {

class Lifecycle : public testing::Test {
 protected:
  Lifecycle() {
    for (const char *name : {"one", "two"}) {
      write_file(temp.dir(name) + "/f", name);
      write_file(temp.dir(std::string(name) + "/d") + "/in-" + name, "x");
      write_file(temp / (std::string(name) + "/only-" + name), "x");
    }
    point = temp.dir("mnt");
  }
  std::unique_ptr<Mount> mount(const std::string &source) {
    return std::make_unique<Mount>(temp / source, point, Mount::Options{});
  }
  void expect_shows(Agent &agent, const std::string &at, const std::string &source) {
    EXPECT_EQ(agent.ask_often("read " + at + "/f"), source);
    EXPECT_EQ(agent.ask_often("list " + at), "d f only-" + source);
    EXPECT_EQ(agent.ask_often("list " + at + "/d"), "in-" + source);
    EXPECT_EQ(agent.ask_often("stat " + at + "/only-" + (source == "one" ? "two" : "one")), "ENOENT");
  }
  void expect_was_served(Agent &agent) { EXPECT_GT(agent.finish().served_total(), 0u); }
  TempDir temp;
  std::string point;
};

TEST_F(Lifecycle, AProcessThatWasThereBeforeTheMount) {
  Agent agent(temp, {});
  EXPECT_EQ(agent.ask("stat " + point + "/f"), "ENOENT");
  auto mounted = mount("one");
  expect_shows(agent, point, "one");
  EXPECT_TRUE(agent.comes_to_be_served(*mounted, "read " + point + "/f")) << status_of(mounted->daemon().pid());
  expect_shows(agent, point, "one");
  mounted->unmount();
  EXPECT_EQ(agent.ask_often("stat " + point + "/f"), "ENOENT");
  expect_was_served(agent);
}

TEST_F(Lifecycle, TheSamePlaceAgainWithSomethingElse) {
  Agent agent(temp, {});
  for (int round = 0; round < 10; ++round) {
    std::string source = round % 2 ? "two" : "one";
    auto mounted = mount(source);
    expect_shows(agent, point, source);
    EXPECT_TRUE(agent.comes_to_be_served(*mounted, "read " + point + "/f")) << round;
    expect_shows(agent, point, source);
    mounted->unmount();
    EXPECT_EQ(agent.ask_often("read " + point + "/f"), "ENOENT");
    EXPECT_EQ(agent.ask_often("list " + point), "");
  }
  expect_was_served(agent);
}

TEST_F(Lifecycle, AHookedProcessDoesNotKeepAMountBusy) {
  auto mounted = mount("one");
  Agent agent(temp, {});
  EXPECT_TRUE(agent.comes_to_be_served(*mounted, "read " + point + "/f"));
  expect_shows(agent, point, "one");
  // umount(2) itself, once: nothing of the hook's may hold the mount.
  EXPECT_EQ(umount(point.c_str()), 0) << strerror(errno);
  EXPECT_EQ(agent.ask_often("list " + point), "");
  EXPECT_EQ(mounted->daemon().wait(), 0);
  expect_was_served(agent);
}

TEST_F(Lifecycle, DescriptorsAndWorkingDirectoryOutliveALazyUnmount) {
  auto mounted = mount("one");
  Agent agent(temp, {});
  EXPECT_TRUE(agent.comes_to_be_served(*mounted, "stat " + point + "/f"));  // what is opened before is the kernel's
  EXPECT_EQ(agent.ask("hold " + point + "/f"), "0");
  EXPECT_EQ(agent.ask("chdir " + point + "/d"), "0");
  EXPECT_EQ(agent.ask_often("list ."), "in-one");
  EXPECT_EQ(agent.ask_often("reread"), "one");
  EXPECT_NE(umount(point.c_str()), 0) << "open files must keep it busy";
  ASSERT_EQ(umount2(point.c_str(), MNT_DETACH), 0);
  // The daemon tells of a changed mount table when it hears of it, a moment after the call that changed it.
  EXPECT_TRUE(eventually([&] { return agent.ask_often("stat " + point + "/f") == "ENOENT"; }));
  EXPECT_EQ(agent.ask_often("reread"), "one");
  EXPECT_EQ(agent.ask_often("list ."), "in-one");
  EXPECT_EQ(agent.ask_often("read ../f"), "one");
  EXPECT_EQ(agent.ask("release"), "0");
  EXPECT_EQ(agent.ask("chdir /"), "0");
  EXPECT_EQ(mounted->daemon().wait(), 0);
  EXPECT_GT(agent.finish().served("read"), 0u);
}

TEST_F(Lifecycle, SomethingMountedOverIt) {
  if (!is_root()) GTEST_SKIP() << "mounting over needs root";
  auto mounted = mount("one");
  Agent agent(temp, {});
  EXPECT_TRUE(agent.comes_to_be_served(*mounted, "stat " + point + "/only-one"));
  expect_shows(agent, point, "one");
  ASSERT_EQ(::mount((temp / "two").c_str(), point.c_str(), nullptr, MS_BIND, nullptr), 0);
  // By a question that the hook answers: the kernel, which opens files, knows at once.
  EXPECT_TRUE(eventually([&] { return agent.ask_often("stat " + point + "/only-one") == "ENOENT"; }));
  expect_shows(agent, point, "two");
  ASSERT_EQ(umount(point.c_str()), 0);
  expect_shows(agent, point, "one");
  // Below the top, too.
  ASSERT_EQ(::mount((temp / "two/d").c_str(), (point + "/d").c_str(), nullptr, MS_BIND, nullptr), 0);
  EXPECT_TRUE(eventually([&] { return agent.ask_often("list " + point + "/d") == "in-two"; }));
  EXPECT_EQ(agent.ask_often("list " + point + "/d"), "in-two");
  EXPECT_TRUE(eventually([&] { return agent.ask_often("stat " + point + "/d/in-one") == "ENOENT"; }));
  EXPECT_EQ(agent.ask_often("read " + point + "/d/../f"), "one");
  ASSERT_EQ(umount((point + "/d").c_str()), 0);
  expect_shows(agent, point, "one");
  expect_was_served(agent);
  mounted->unmount();
}

TEST_F(Lifecycle, TheMountMoved) {
  if (!is_root()) GTEST_SKIP() << "moving a mount needs root";
  std::string outer = temp.dir("outer"), elsewhere = temp.dir("outer/elsewhere"), first = temp.dir("outer/first");
  // Moving is refused below a shared mount, so in one that is private.
  ASSERT_EQ(::mount(outer.c_str(), outer.c_str(), nullptr, MS_BIND, nullptr), 0);
  ASSERT_EQ(::mount(nullptr, outer.c_str(), nullptr, MS_PRIVATE, nullptr), 0);
  Mount mounted(temp / "one", first, {});
  Agent agent(temp, {});
  EXPECT_TRUE(agent.comes_to_be_served(mounted, "read " + first + "/f"));
  expect_shows(agent, first, "one");
  ASSERT_EQ(::mount(first.c_str(), elsewhere.c_str(), nullptr, MS_MOVE, nullptr), 0) << strerror(errno);
  EXPECT_EQ(agent.ask_often("read " + first + "/f"), "ENOENT");
  expect_shows(agent, elsewhere, "one");
  // A second way in.
  ASSERT_EQ(::mount(elsewhere.c_str(), first.c_str(), nullptr, MS_BIND, nullptr), 0);
  expect_shows(agent, first, "one");
  EXPECT_EQ(agent.ask("write " + first + "/f changed"), "0");
  EXPECT_EQ(agent.ask_often("read " + elsewhere + "/f"), "changed");
  expect_was_served(agent);
  detach_below(outer);
}

// Nobody tells that a directory above has another name, and an absolute link in the mount leads there.
TEST_F(Lifecycle, ADirectoryAboveItRenamed) {
  const std::string above = temp / "above";
  Mount mounted(temp / "one", temp.dir("above/mnt"), {});
  ASSERT_EQ(symlink((mounted.point() + "/d/in-one").c_str(), (temp / "one/absolute").c_str()), 0);
  Agent agent(temp, {});
  ASSERT_EQ(agent.ask("chdir " + mounted.point()), "0");
  EXPECT_TRUE(agent.comes_to_be_served(mounted, "stat absolute"));
  const std::string before = agent.ask_often("stat absolute");
  ASSERT_EQ(rename(above.c_str(), (temp / "moved").c_str()), 0);
  EXPECT_EQ(agent.ask_until("stat absolute", "ENOENT"), "ENOENT");
  EXPECT_EQ(agent.ask_until("stat d/in-one", before), before);
  ASSERT_EQ(rename((temp / "moved").c_str(), above.c_str()), 0);
  EXPECT_EQ(agent.ask_until("stat absolute", before), before);
  EXPECT_TRUE(agent.comes_to_be_served(mounted, "stat absolute"));
  ASSERT_EQ(agent.ask("chdir /"), "0");
  mounted.unmount();
}

TEST_F(Lifecycle, TwoMountsAtOnce) {
  Mount first(temp / "one", temp.dir("first"), {}), second(temp / "two", temp.dir("second"), {});
  Agent agent(temp, {});
  for (Mount *each : {&first, &second}) {
    EXPECT_TRUE(agent.comes_to_be_served(*each, "read " + each->point() + "/f"));
  }
  for (int round = 0; round < 3; ++round) {
    expect_shows(agent, first.point(), "one");
    expect_shows(agent, second.point(), "two");
  }
  // A path from one into the other, by name and by symbolic link.
  EXPECT_EQ(agent.ask_often("read " + first.point() + "/../second/f"), "two");
  ASSERT_EQ(symlink(second.point().c_str(), (first.point() + "/across").c_str()), 0);
  EXPECT_EQ(agent.ask_often("read " + first.point() + "/across/f"), "two");
  first.unmount();
  expect_shows(agent, second.point(), "two");
  expect_was_served(agent);
  second.unmount();
}

// One mount's source is another mount: the hook is in no daemon, so nobody waits for itself.
TEST_F(Lifecycle, AMountOverAMount) {
  Mount lower(temp / "one", temp.dir("lower"), {});
  Mount upper(lower.point(), temp.dir("upper"), {});
  Agent agent(temp, {});
  for (Mount *each : {&upper, &lower}) {
    EXPECT_TRUE(agent.comes_to_be_served(*each, "read " + each->point() + "/f"));
  }
  expect_shows(agent, upper.point(), "one");
  EXPECT_EQ(agent.ask("write " + upper.point() + "/f changed"), "0");
  EXPECT_EQ(agent.ask_often("read " + upper.point() + "/f"), "changed");
  EXPECT_EQ(agent.ask_often("read " + lower.point() + "/f"), "changed");
  expect_was_served(agent);
  upper.unmount();
  lower.unmount();
}

TEST_F(Lifecycle, UnmountWhileReadersRun) {
  make_tree(temp / "tree", 100);
  for (int round = 0; round < 6; ++round) {
    Mount mounted(temp / "tree", point, {});
    Shared<Verified> board(temp / ("board" + std::to_string(round)));
    std::vector<Process> readers;
    for (unsigned i = 0; i < 3; ++i) {
      Spec spec = verifier(temp / ("board" + std::to_string(round)), temp / "tree", point, i, /*tolerate_gone=*/true);
      spec.err = temp / "err";
      readers.emplace_back(spec);
    }
    ASSERT_TRUE(eventually([&] { return board->looks.load() > 200; }));
    ASSERT_TRUE(come_to_be_served(readers, mounted.daemon().pid()));
    ASSERT_EQ(umount2(point.c_str(), MNT_DETACH), 0);
    for (auto &reader : readers) EXPECT_EQ(reader.wait(), 0) << read_file(temp / "err");
    EXPECT_EQ(mounted.daemon().wait(), 0) << mounted.log();
  }
}

// A hundred mounts come and go, and nothing is left in the registry nor in a process that saw them all.
TEST_F(Lifecycle, ManyMounts) {
  Agent agent(temp, {});
  size_t descriptors = 0;
  std::vector<std::string> sockets;
  for (int round = 0; round < 60; ++round) {
    auto mounted = mount(round % 2 ? "two" : "one");
    EXPECT_EQ(agent.ask_often("read " + point + "/f", 5), round % 2 ? "two" : "one");
    for (const auto &socket : sockets_of(mounted->daemon().pid())) sockets.push_back(socket);
    mounted->unmount();
    if (round == 10) descriptors = open_descriptors(agent.process().pid());
  }
  EXPECT_LE(open_descriptors(agent.process().pid()), descriptors + 5);
  EXPECT_GE(sockets.size(), 60u);
  for (const auto &socket : sockets) EXPECT_NE(access(socket.c_str(), F_OK), 0) << socket;
  expect_was_served(agent);
}

}  // namespace
}  // namespace shortfuse::tests
