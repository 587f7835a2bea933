// The registry and the control protocol against a daemon that the test plays.
#include "control.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>

#include "fake_daemon.h"
#include "mounts.h"

namespace shortfuse::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using std::chrono::milliseconds;

class Control : public ::testing::Test {
 protected:
  TestDirectory directory;
  std::string socket_path = directory.path + "/1-0.sock";
  std::vector<std::string> directories{directory.path + "/absent", directory.path};
};

TEST_F(Control, AnswersAreTheDaemonsJson) {
  FakeDaemon daemon(socket_path, [](const Request &r) { return json_answer("{\"got\":\"" + r.body + "\"}"); });
  const auto answer = ask(socket_path, SF_MSG_SWAP, "hello", milliseconds(5000));
  ASSERT_TRUE(answer.has_value()) << answer.error();
  EXPECT_EQ(*answer, "{\"got\":\"hello\"}");
  EXPECT_EQ(daemon.last().type, SF_MSG_SWAP);
}

TEST_F(Control, LongAnswersComeInAMemfd) {
  const std::string text(3 << 20, 'x');
  FakeDaemon daemon(socket_path, [&](const Request &) {
    Answer a = json_answer("");
    a.memfd = text;
    return a;
  });
  const auto answer = ask(socket_path, SF_MSG_STATUS, "", milliseconds(5000));
  ASSERT_TRUE(answer.has_value()) << answer.error();
  EXPECT_EQ(*answer, text);
}

TEST_F(Control, DescriptorsThatNobodyAskedForAreClosed) {
  FakeDaemon daemon(socket_path, [&](const Request &) {
    Answer a = json_answer("{}");
    a.memfd = "ignored";
    return a;
  });
  const auto open_descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  ASSERT_TRUE(ask(socket_path, SF_MSG_STATUS, "", milliseconds(5000)).has_value());
  daemon.settle();
  const auto before = open_descriptors();
  for (int i = 0; i < 5; i++) EXPECT_EQ(ask(socket_path, SF_MSG_STATUS, "", milliseconds(5000)), "{}");
  daemon.settle();
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(Control, ARefusalIsTheError) {
  FakeDaemon daemon(socket_path, [](const Request &) { return Answer{.type = SF_MSG_ERROR, .body = "no: r2 is bad"}; });
  EXPECT_EQ(ask(socket_path, SF_MSG_SWAP, "{}", milliseconds(5000)).error(), "no: r2 is bad");
}

TEST_F(Control, MalformedAnswersAreErrors) {
  Answer answer;
  FakeDaemon daemon(socket_path, [&](const Request &) { return answer; });
  const auto error = [&](Answer a) {
    answer = std::move(a);
    return ask(socket_path, SF_MSG_STATUS, "", milliseconds(5000)).error();
  };
  EXPECT_THAT(error({.raw = "x"}), HasSubstr("malformed"));
  EXPECT_THAT(error({.raw = std::string(64, 'x')}), HasSubstr("malformed"));
  EXPECT_THAT(error({.type = SF_MSG_JSON, .body = "{}", .claim = 5}), HasSubstr("malformed"));
  EXPECT_THAT(error({.type = SF_MSG_JSON, .body = "{}", .protocol = 9}), HasSubstr("speaks protocol 9"));
  EXPECT_THAT(error({.type = SF_MSG_ATTACHED, .body = "{}"}), HasSubstr("unexpected kind"));
  EXPECT_THAT(error({.hang_up = true}), HasSubstr("without an answer"));
}

TEST_F(Control, ASilentDaemonIsNotWaitedForForEver) {
  FakeDaemon daemon(socket_path, [](const Request &) { return Answer{.silent = true}; });
  EXPECT_THAT(ask(socket_path, SF_MSG_STATUS, "", milliseconds(100)).error(), HasSubstr("does not answer"));
}

TEST_F(Control, ADirectoryThatOthersMayWriteToIsNotUsed) {
  FakeDaemon daemon(socket_path, [](const Request &) { return json_answer("{}"); });
  EXPECT_THAT(registry_sockets(directories), ElementsAre(socket_path));
  chmod(directory.path.c_str(), 0777);
  std::vector<std::string> complaints;
  EXPECT_THAT(registry_sockets(directories, &complaints), IsEmpty());
  ASSERT_THAT(complaints, SizeIs(1));
  EXPECT_THAT(complaints[0], HasSubstr("others own it or may write to it"));
}

TEST_F(Control, ALinkInPlaceOfTheDirectoryIsNotFollowed) {
  const std::string link = directory.path + "/link";
  std::filesystem::create_symlink(directory.path, link);
  FakeDaemon daemon(socket_path, [](const Request &) { return json_answer("{}"); });
  EXPECT_THAT(registry_sockets({link}), IsEmpty());
}

TEST_F(Control, SocketsOfDeadDaemonsAreSkippedSilently) {
  { FakeDaemon daemon(socket_path, [](const Request &) { return json_answer("{}"); }, /*leave_socket=*/true); }
  ASSERT_TRUE(std::filesystem::exists(socket_path));
  std::vector<std::string> complaints;
  EXPECT_THAT(live_mounts(directories, &complaints), IsEmpty());
  EXPECT_THAT(complaints, IsEmpty());
}

TEST_F(Control, MountsAreFoundBySpelling) {
  const std::string point = directory.path + "/mnt";
  std::filesystem::create_directory(point);
  FakeDaemon daemon(socket_path, [&](const Request &) { return json_answer(status_json(point)); });
  for (const auto &spelling : {point, point + "/", directory.path + "/./mnt/../mnt"}) {
    const auto mount = find_mount(directories, spelling);
    ASSERT_TRUE(mount.has_value()) << mount.error();
    EXPECT_EQ(mount->status.mount.point, point);
    EXPECT_EQ(mount->socket, socket_path);
  }
  EXPECT_THAT(find_mount(directories, directory.path).error(), HasSubstr("not a mount point"));
  EXPECT_THAT(find_mount(directories, "/proc").error(), HasSubstr("not a FUSE file system"));
  EXPECT_THAT(live_mounts(directories), SizeIs(1));
}

TEST_F(Control, AStatusOfAnotherFormatIsSaidToBeOne) {
  FakeDaemon daemon(socket_path, [&](const Request &) { return json_answer("{\"format\":99}"); });
  EXPECT_THAT(find_mount(directories, "/nowhere").error(), HasSubstr("format 99"));
}

TEST(Registry, DirectoriesAreThoseOfTheFormat) {
  EXPECT_THAT(registry_directories(1000),
              ElementsAre("/run/shortfuse", "/run/user/1000/shortfuse", "/tmp/shortfuse-1000"));
}

TEST(Mounts, MountinfoIsReadWithItsEscapes) {
  const auto table = parse_mountinfo(
      "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
      "garbage\n"
      "30 22 0:40 / /mnt/a\\040b rw,nosuid shared:5 master:2 - fuse.passthroughfs src\\134x rw,user_id=0\n"
      "31 30 0:41 / /mnt/a\\040b rw - tmpfs tmpfs rw\n"
      "31 30 0:41 / /cut rw -\n");
  ASSERT_THAT(table, SizeIs(3));
  EXPECT_EQ(table[1].point, "/mnt/a b");
  EXPECT_EQ(table[1].source, "src\\x");
  EXPECT_TRUE(table[1].is_fuse());
  EXPECT_EQ(mounted_at(table, "/mnt/a b")->fstype, "tmpfs");
  EXPECT_FALSE(mounted_at(table, "/mnt").has_value());
  EXPECT_EQ(mount_of(table, "/mnt/a b/c")->fstype, "tmpfs");
  EXPECT_EQ(mount_of(table, "/mnt/a bc")->fstype, "ext4");
}

}  // namespace
}  // namespace shortfuse::cli
