// Meeting a daemon: attaching, swapping the policy, hints, forking, the daemon's death and return, and daemons whose
// segments are not what they must be.
//
// Three processes each time: the test, a daemon (a cache::Cache behind a socket, in a mount namespace where its
// directory is a mount point), and a client that uses the bypass as an application would.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <thread>

#include "attach.h"
#include "attach_internal.h"
#include "fixture.h"
#include "mount_table.h"
#include "shortfuse/cache/attach.h"

namespace shortfuse::bypass {
namespace {

constexpr uint32_t kPlainMount = SF_MNT_DEFAULT_PERMISSIONS | SF_MNT_ALLOW_OTHER;
const std::vector<sf_op> kAll = {SF_OP_STAT, SF_OP_READ, SF_OP_READDIR};

/// How a daemon can be wrong.
enum class Fault {
  None,
  UnsealedHead,
  ShortHead,
  BadMagic,
  ShortSession,
  BadImage,
  TruncatedImage,
  TooManyChunks,
  Silent,
  Garbage,
  OtherClock
};

int sealed_file(const void *bytes, size_t n, int seals) {
  int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (write(fd, bytes, n) != static_cast<ssize_t>(n)) _exit(9);
  fcntl(fd, F_ADD_SEALS, seals);
  return fd;
}

class Daemon {
 public:
  Daemon(const std::string &registry, const std::string &mount_point_file, Fault fault, bool link)
      : tree_(kPlainMount), fault_(fault), registry_(registry) {
    tree_.dir("d");
    tree_.file("d/f", "hello");
    tree_.file("d/g", "secret");
    if (mount(tree_.root().c_str(), tree_.root().c_str(), nullptr, MS_BIND, nullptr) != 0) _exit(8);
    tree_.attach({"absent"});
    sf_segment_header *header = tree_.cache().header();
    struct stat st;
    stat(tree_.root().c_str(), &st);
    header->mount_dev = st.st_dev;
    stat("/proc/self/ns/mnt", &st);
    header->mount_ns_ino = static_cast<uint32_t>(st.st_ino);
    header->time_ns_ino = stat("/proc/self/ns/time", &st) == 0 ? static_cast<uint32_t>(st.st_ino) : 0;
    if (fault == Fault::OtherClock) header->time_ns_ino++;
    header->daemon_pid = static_cast<uint32_t>(getpid());
    header->mount_point_len = static_cast<uint32_t>(tree_.root().size());
    memcpy(header->mount_point, tree_.root().data(), tree_.root().size());
    if (fault == Fault::BadMagic) header->magic++;
    image_ = make_image(kAll, 0);
    listen_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {AF_UNIX, {}};
    std::string path = registry + "/1-0.sock";
    unlink(path.c_str());
    strcpy(address.sun_path, path.c_str());
    if (bind(listen_, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 || listen(listen_, 8) != 0) _exit(7);
    std::string announced = registry + "/1-0.mount";
    unlink(announced.c_str());
    stat(tree_.root().c_str(), &st);
    char text[PATH_MAX];
    snprintf(text, sizeof text, "%lx %s", st.st_dev, tree_.root().c_str());
    if (link && symlink(text, announced.c_str()) != 0) _exit(3);
    raise_generation();
    std::ofstream(mount_point_file + ".new") << tree_.root();
    rename((mount_point_file + ".new").c_str(), mount_point_file.c_str());
  }

  void run(int commands) {
    for (;;) {
      std::vector<pollfd> p = {{listen_, POLLIN, 0}, {commands, POLLIN, 0}};
      for (auto &[fd, session] : clients_) p.push_back({fd, POLLIN, 0});
      poll(p.data(), p.size(), -1);
      if (p[0].revents) accept_client();
      if (p[1].revents) command(commands);
      for (size_t i = 2; i < p.size(); ++i) {
        if (p[i].revents) serve(p[i].fd);
      }
    }
  }

 private:
  void raise_generation() {
    int fd = open((registry_ + "/generation").c_str(), O_RDWR | O_CREAT, 0644);
    if (ftruncate(fd, 8) != 0) _exit(6);
    auto *g = static_cast<uint64_t *>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    __atomic_add_fetch(g, 1, __ATOMIC_SEQ_CST);
    munmap(g, 4096);
    close(fd);
  }

  void accept_client() {
    int fd = accept4(listen_, nullptr, nullptr, SOCK_CLOEXEC);
    ++accepted_;
    clients_[fd] = nullptr;
  }

  // One letter each; the answer is a number.
  void command(int fd) {
    char what;
    uint64_t answer = 0;
    if (read(fd, &what, 1) != 1) _exit(0);
    if (what == 'd') {  // deny from now on
      image_ = make_image(kAll, -EACCES);
      tree_.cache().header()->policy_epoch++;
    }
    if (what == 'h') {  // hints in all sessions
      for (auto &[c, session] : clients_) answer += session != nullptr ? session->hint_tail : 0;
    }
    if (what == 'c') answer = clients_.size();
    if (what == 'n') answer = accepted_;
    if (what == 'a') tree_.cache().drop_node(tree_.nid("d/f"));
    if (what == 'x') pause();
    if (what == 's') fault_ = Fault::None;
    if (what == 'e') tree_.cache().header()->mount_epoch++;
    if (write(fd, &answer, sizeof answer) != sizeof answer) _exit(0);
  }

  void send_packet(int to, uint16_t type, void *body, size_t bytes, const std::vector<int> &fds) {
    sf_msg m = {SF_MSG_MAGIC, SF_PROTOCOL, type, static_cast<uint32_t>(bytes), static_cast<uint32_t>(fds.size())};
    if (fault_ == Fault::Garbage) memset(&m, 0x5a, sizeof m);
    struct iovec iov[2] = {{&m, sizeof m}, {body, bytes}};
    std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
    struct msghdr h = {};
    h.msg_iov = iov;
    h.msg_iovlen = 2;
    if (!fds.empty()) {
      h.msg_control = control.data();
      h.msg_controllen = control.size();
      struct cmsghdr *c = CMSG_FIRSTHDR(&h);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
      memcpy(CMSG_DATA(c), fds.data(), fds.size() * sizeof(int));
    }
    sendmsg(to, &h, MSG_NOSIGNAL);
  }

  int image_fd() {
    std::vector<char> bytes = image_;
    if (fault_ == Fault::BadImage) bytes[offsetof(sf_image, programs)] = 127, bytes[offsetof(sf_image, first)] = 120;
    if (fault_ == Fault::TruncatedImage) bytes.resize(bytes.size() / 2);
    return sealed_file(bytes.data(), bytes.size(), F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW);
  }

  sf_session *make_session(int *fd) {
    size_t bytes = fault_ == Fault::ShortSession ? 4096 : sizeof(sf_session);
    *fd = memfd_create("session", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (ftruncate(*fd, static_cast<off_t>(bytes)) != 0) _exit(5);
    fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    auto *s = static_cast<sf_session *>(mmap(nullptr, sizeof(sf_session), PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0));
    s->magic = SF_SESSION_MAGIC;
    return s;
  }

  void serve(int fd) {
    struct {
      sf_msg m;
      sf_have have;
    } in;
    ssize_t n = recv(fd, &in, sizeof in, 0);
    if (n <= 0) {
      clients_.erase(fd);
      close(fd);
      return;
    }
    if (fault_ == Fault::Silent || in.m.type == SF_MSG_WAKE) return;
    if (in.m.type == SF_MSG_REFRESH) return refresh(fd, in.have);
    sf_attached a = {};
    int session;
    clients_[fd] = make_session(&session);
    int head = tree_.cache().head_fd();
    if (fault_ == Fault::UnsealedHead) {
      head = memfd_create("head", MFD_ALLOW_SEALING);
      if (write(head, tree_.cache().header(), SF_HEADER_BYTES) < 0) _exit(4);
    }
    std::vector<int> fds = {head, session};
    a.head_bytes = fault_ == Fault::ShortHead ? 4096 : tree_.cache().head_bytes();
    if (fault_ == Fault::UnsealedHead) a.head_bytes = SF_HEADER_BYTES;
    a.session_bytes = sizeof(sf_session);
    for (const auto &chunk : tree_.cache().chunks()) {
      if (a.chunks == SF_MSG_FDS_MAX - 4) break;
      a.chunk[a.chunks++] = {chunk.index, chunk.generation};
      fds.push_back(chunk.fd);
    }
    if (fault_ == Fault::TooManyChunks) a.chunks = 5000000;
    a.policy_epoch = tree_.cache().header()->policy_epoch;
    fds.push_back(image_fd());
    send_packet(fd, SF_MSG_ATTACHED, &a, sizeof a, fds);
    close(session);
    close(fds.back());
  }

  void refresh(int fd, const sf_have &have) {
    sf_fresh f = {};
    std::vector<int> fds;
    f.policy_epoch = tree_.cache().header()->policy_epoch;
    if (f.policy_epoch != have.policy_epoch) fds.push_back(image_fd());
    send_packet(fd, SF_MSG_FRESH, &f, sizeof f, fds);
    for (int used : fds) close(used);
  }

  Tree tree_;
  Fault fault_;
  std::string registry_;
  std::vector<char> image_;
  int listen_;
  uint64_t accepted_ = 0;
  std::map<int, sf_session *> clients_;
};

class Attach : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
    if (unshare(CLONE_NEWNS) != 0) GTEST_SKIP() << "needs a mount namespace";
    mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    char name[] = "/tmp/bypass-registry-XXXXXX";
    registry_ = mkdtemp(name);
    chmod(registry_.c_str(), 0755);
  }
  void TearDown() override {
    stop();
    if (!registry_.empty()) std::filesystem::remove_all(registry_);
  }

  void start(Fault fault = Fault::None, bool link = false) {
    int pipes[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pipes), 0);
    std::string said = registry_ + "/point";
    unlink(said.c_str());
    daemon_ = fork();
    if (daemon_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(pipes[0]);
      Daemon(registry_, said, fault, link).run(pipes[1]);
    }
    close(pipes[1]);
    commands_ = pipes[0];
    for (int i = 0; i < 1000 && !std::filesystem::exists(said); ++i) usleep(10000);
    std::getline(std::ifstream(said), point_);
    ASSERT_FALSE(point_.empty());
  }
  void stop() {
    if (daemon_ <= 0) return;
    kill(daemon_, SIGKILL);
    waitpid(daemon_, nullptr, 0);
    daemon_ = 0;
    close(commands_);
    umount2(point_.c_str(), MNT_DETACH);
    std::filesystem::remove_all(point_);
  }
  uint64_t tell(char what) {
    uint64_t answer = 0;
    if (send(commands_, &what, 1, MSG_NOSIGNAL) != 1 || read(commands_, &answer, sizeof answer) != sizeof answer)
      return ~0ull;
    return answer;
  }

  // In a process of its own, with a bypass that starts there.
  void client(const std::function<void()> &body) {
    pid_t pid = fork();
    if (pid == 0) {
      registry_for_test = registry_.c_str();
      identify_for_test = nullptr;
      plain_mounts_for_test = true;
      if (!sf_bypass_start(environ, 0)) _exit(3);
      body();
      _exit(HasFailure() ? 1 : 0);
    }
    int status;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
  }
  long stat_of(const std::string &name) {
    struct stat st;
    return through(SYS_stat, arg((point_ + "/" + name).c_str()), arg(&st));
  }
  // Whether the call was answered without the kernel, by what the session or the process counted.
  uint64_t served() {
    uint64_t n = Tree::counts(SF_OP_STAT).served;
    sf_session *s = session_of(mounts[0]);
    for (int i = 0; s != nullptr && i < SF_LANES; ++i) n += s->lane[i].count[SF_OP_STAT][SF_OUT_SERVED];
    return n;
  }

  std::string registry_, point_;
  pid_t daemon_ = 0;
  int commands_ = -1;
};

// In pieces of every length; blanks in names are escaped.
TEST(MountTable, SaysWhatIsBelowAndWithWhichFlags) {
  const std::string lines =
      "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root ro\n"
      "36 21 0:50 / /mnt/a\\040b rw,nosuid,noatime shared:7 master:2 - fuse.x x rw,user_id=0\n"
      "37 21 0:51 / /mnt/a\\040bc rw - tmpfs none rw\n";
  const std::string below = "38 36 0:52 / /mnt/a\\040b/c rw - tmpfs none rw\n";
  for (size_t piece = 1; piece < 40; ++piece) {
    MountTable plain("/mnt/a b", 8, 36), covered("/mnt/a b", 8, 36), root("/", 1, 21), none("/mnt/a b", 8, 99);
    for (size_t at = 0; at < lines.size(); at += piece) {
      for (MountTable *table : {&plain, &covered, &root, &none}) {
        table->feed(lines.data() + at, std::min(piece, lines.size() - at));
      }
    }
    covered.feed(below.data(), below.size());
    EXPECT_TRUE(plain.entry().found);
    EXPECT_FALSE(plain.entry().below);
    EXPECT_EQ(plain.entry().statfs_flags, 2u | 1024u);
    EXPECT_TRUE(covered.entry().below);
    EXPECT_EQ(root.entry().statfs_flags, 4096u | 1u);
    EXPECT_FALSE(none.entry().found);
  }
}

TEST_F(Attach, ServesFromADaemonsCache) {
  start();
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 1u);
    EXPECT_EQ(stat_of("absent"), -ENOENT);
    EXPECT_EQ(served(), 2u);
    EXPECT_EQ(mounts[0].view.header->daemon_pid, static_cast<uint32_t>(daemon_));
    // The daemon learns what is in use.
    for (int i = 0; i < 200; ++i) stat_of("d/f");
    EXPECT_NE(session_of(mounts[0])->recency[0], 0u);
    // The cache cannot be written from here.
    EXPECT_NE(mprotect(mounts[0].head, 4096, PROT_READ | PROT_WRITE), 0);
  });
}

TEST_F(Attach, AnAnnouncedMountIsAttachedToAtItsFirstUse) {
  start(Fault::None, true);
  client([&] {
    struct stat st;
    through(SYS_stat, arg("/etc/passwd"), arg(&st));
    through(SYS_stat, arg((point_ + "x").c_str()), arg(&st));
    through(SYS_stat, arg("x"), arg(&st));
    EXPECT_EQ(tell('n'), 0u);
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 1u);
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 2u);
    EXPECT_EQ(tell('n'), 1u);
  });
  // A child does not attach either before it needs to, and then has a session of its own.
  client([&] {
    pid_t pid = fork();
    if (pid == 0) _exit(tell('n') == 1 && stat_of("d/f") == 0 && served() == 1 && tell('n') == 2 ? 0 : 1);
    int status;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 1u);
  });
}

// A handler that never returns, in the middle of attaching: it comes when nothing is held any more.
TEST_F(Attach, AThreadThatLeavesInTheMiddleHoldsNobodyUp) {
  start(Fault::Silent, true);
  client([&] {
    answer_timeout_ms_for_test = 500;
    static sigjmp_buf back;
    signal(SIGUSR1, [](int) { siglongjmp(back, 1); });
    std::atomic<bool> jumped = false;
    std::thread leaver([&] {
      while (sigsetjmp(back, 1) == 0) stat_of("d/f");
      jumped = true;
    });
    while (tell('n') == 0) usleep(1000);
    pthread_kill(leaver.native_handle(), SIGUSR1);
    leaver.join();
    EXPECT_TRUE(jumped);
    EXPECT_FALSE(g.process->attach_latch.is_taken());
    tell('s');
    answer_timeout_ms_for_test = 20'000;
    for (int i = 0; i < 2000 && served() == 0; ++i) {
      usleep(10'000);
      EXPECT_EQ(stat_of("d/f"), 0);
    }
    EXPECT_NE(served(), 0u);
  });
}

// A descriptor on the device attaches as well.
TEST_F(Attach, AnAnnouncedMountIsKnownByItsDevice) {
  start(Fault::None, true);
  client([&] {
    int elsewhere = open("/proc", O_RDONLY), here = open(point_.c_str(), O_RDONLY);
    EXPECT_FALSE(attach_by_descriptor(elsewhere));
    EXPECT_EQ(tell('n'), 0u);
    EXPECT_TRUE(attach_by_descriptor(here));
    EXPECT_EQ(tell('n'), 1u);
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 1u);
  });
}

// The text of a link is read into little memory, and once more into much where that was not enough.
TEST_F(Attach, AnAnnouncementOfAnyLengthIsReadWhole) {
  start(Fault::None, true);
  const std::string announced = registry_ + "/1-0.mount";
  struct stat st;
  ASSERT_EQ(stat(point_.c_str(), &st), 0);
  for (size_t bytes : {20, 200, 254, 255, 256, 257, 258, 400, 900}) {
    char dev[32];
    snprintf(dev, sizeof dev, "%lx ", st.st_dev);
    const std::string text = dev + ("/" + std::string(bytes - strlen(dev) - 1, 'x'));
    unlink(announced.c_str());
    ASSERT_EQ(symlink(text.c_str(), announced.c_str()), 0);
    client([&] {
      EXPECT_EQ(state_of(mounts[0]), MountState::Announced) << bytes;
      EXPECT_EQ(mounts[0].point, text.substr(strlen(dev))) << bytes;
    });
  }
}

TEST_F(Attach, AnAnnouncementThatIsNotTrue) {
  start(Fault::Garbage, true);
  client([&] {
    for (int i = 0; i < 5; ++i) EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 0u);
    EXPECT_EQ(tell('n'), 1u);  // not at every call
  });
  stop();
  // The daemon has gone and left its link: nothing to attach to, and a new one is met under the same name.
  start(Fault::None, true);
  client([&] {
    kill(daemon_, SIGKILL);
    EXPECT_EQ(tell('x'), ~0ull);
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 0u);
    umount2(point_.c_str(), MNT_DETACH);
    std::filesystem::remove_all(point_);
    start(Fault::None, true);
    struct stat st;
    through(SYS_stat, arg("/etc/passwd"), arg(&st));
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 1u);
    stop();
  });
  waitpid(daemon_, nullptr, 0);
  daemon_ = 0;
  close(commands_);
  // Text that is no announcement: the daemon itself is asked, as without a link.
  for (const char *text : {"", "12", "zz /", "12 relative", "1234567890abcdef0 /x", "12  /x"}) {
    EXPECT_FALSE(announce("/none", text, strlen(text))) << text;
  }
}

TEST_F(Attach, TheSocketIsNotTheApplications) {
  start();
  client([&] {
    int hidden = hidden_between(0, ~0u);
    ASSERT_GT(hidden, 100);
    EXPECT_EQ(through(SYS_close, hidden), -EBADF);
    EXPECT_EQ(through(SYS_dup, hidden), -EBADF);
    EXPECT_EQ(through(SYS_fcntl, hidden, F_GETFD), -EBADF);
    struct stat st;
    EXPECT_EQ(through(SYS_fstat, hidden, arg(&st)), -EBADF);
    EXPECT_EQ(by_kernel(SYS_fstat, hidden, arg(&st)), 0);
    EXPECT_EQ(through(SYS_close_range, 50, ~0u, 0), 0);
    EXPECT_EQ(by_kernel(SYS_fstat, hidden, arg(&st)), 0);
    EXPECT_EQ(through(SYS_dup2, 1, hidden), hidden);
    EXPECT_EQ(by_kernel(SYS_fcntl, hidden, F_GETFD), 0);
    EXPECT_NE(hidden_between(0, ~0u), hidden);
    // Closed behind our back, the next need of it connects anew.
    by_kernel(SYS_close, hidden_between(0, ~0u));
    tell('d');
    EXPECT_EQ(stat_of("d/f"), -EACCES);
  });
}

TEST_F(Attach, ASwappedPolicyIsSeenAtTheNextCall) {
  start();
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    tell('d');
    EXPECT_EQ(stat_of("d/f"), -EACCES);
  });
}

TEST_F(Attach, AMissLeavesOneHint) {
  start();
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    tell('a');
    EXPECT_EQ(tell('h'), 0u);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(tell('h'), 1u);
    EXPECT_EQ(served(), 1u);
  });
}

TEST_F(Attach, AChildHasASessionOfItsOwn) {
  start();
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    sf_bypass_before_fork(SIGCHLD, 0);
    sf_session *parents = session_of(mounts[0]);
    pid_t pid = fork();
    if (pid == 0) {
      bool good = stat_of("d/f") == 0 && session_of(mounts[0]) != nullptr && session_of(mounts[0]) != parents;
      _exit(good && served() == 1 && tell('c') == 2 ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 2u);
  });
}

// Its daemon was too busy when the child first asked.
TEST_F(Attach, AChildWithoutASessionAsksAgain) {
  start();
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    sf_bypass_before_fork(SIGCHLD, 0);
    kill(daemon_, SIGSTOP);
    pid_t pid = fork();
    if (pid == 0) {
      answer_timeout_ms_for_test = 50;
      if (stat_of("d/f") != 0 || session_of(mounts[0]) != nullptr || served() != 1) _exit(1);
      kill(daemon_, SIGCONT);
      answer_timeout_ms_for_test = 20'000;
      for (int i = 0; i < 2000 && session_of(mounts[0]) == nullptr; ++i) {
        if (stat_of("d/f") != 0) _exit(2);
        usleep(10'000);
      }
      _exit(session_of(mounts[0]) != nullptr && stat_of("d/f") == 0 ? 0 : 3);
    }
    int status;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
  });
}

TEST_F(Attach, TheMountPointIsCoveredAndUncovered) {
  start();
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    ASSERT_EQ(mount("none", point_.c_str(), "tmpfs", 0, nullptr), 0);
    tell('e');
    EXPECT_EQ(stat_of("d/f"), -ENOENT);
    EXPECT_EQ(served(), 1u);
    ASSERT_EQ(umount2(point_.c_str(), 0), 0);
    tell('e');
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 2u);
  });
}

// This process need not wait until the daemon has heard of what it mounts itself.
TEST_F(Attach, AMountOfOurOwnBelowIsSeenAtOnce) {
  start();
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    std::string below = point_ + "/d";
    ASSERT_EQ(through(SYS_mount, arg("none"), arg(below.c_str()), arg("tmpfs")), 0);
    EXPECT_EQ(stat_of("d/f"), -ENOENT);
    EXPECT_EQ(served(), 1u);
    ASSERT_EQ(through(SYS_umount2, arg(below.c_str()), 0), 0);
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 2u);
  });
}

// Nobody tells of what happens above the mount point; it is looked at again after a while.
TEST_F(Attach, AnUnannouncedChangeIsFoundInTime) {
  start();
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    ASSERT_EQ(mount("none", point_.c_str(), "tmpfs", 0, nullptr), 0);
    usleep(1'200'000);
    for (int i = 0; i < 8; ++i) stat_of("d/f");  // where no record expires, not every call reads the clock
    EXPECT_EQ(stat_of("d/f"), -ENOENT);
    ASSERT_EQ(umount2(point_.c_str(), 0), 0);
    usleep(1'200'000);
    uint64_t before = served();
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), before + 1);
  });
}

// What is mounted below would not be announced there: paths are the kernel's, descriptors are served.
TEST_F(Attach, AnotherMountNamespaceIsServedByDescriptorOnly) {
  start();
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 1u);
  });
  ASSERT_EQ(unshare(CLONE_NEWNS), 0);
  client([&] {
    ASSERT_NE(session_of(mounts[0]), nullptr);
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 0u);
  });
}

TEST_F(Attach, FlagsOfTheMountFollowARemount) {
  start();
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(mounts[0].root.statfs_flags & 9, 0u);
    ASSERT_EQ(mount(nullptr, point_.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOEXEC, nullptr), 0);
    tell('e');
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 2u);
    EXPECT_EQ(mounts[0].root.statfs_flags & 9, 9u);
    ASSERT_EQ(mount(nullptr, point_.c_str(), nullptr, MS_REMOUNT | MS_BIND, nullptr), 0);
  });
}

TEST_F(Attach, TheRootOfTheMountIsOne) {
  start();
  client([&] {
    for (const char *name : {"", "/d"}) {
      struct statx ours = {}, plain = {};
      std::string path = point_ + name;
      EXPECT_EQ(through(SYS_statx, AT_FDCWD, arg(path.c_str()), 0, STATX_BASIC_STATS, arg(&ours)), 0);
      EXPECT_EQ(by_kernel(SYS_statx, AT_FDCWD, arg(path.c_str()), 0, STATX_BASIC_STATS, arg(&plain)), 0);
      EXPECT_EQ(ours.stx_attributes & STATX_ATTR_MOUNT_ROOT, plain.stx_attributes & STATX_ATTR_MOUNT_ROOT);
    }
    EXPECT_EQ(served(), 2u);
  });
}

TEST_F(Attach, StaysOfInterruptedCallsAndFormerSessions) {
  start();
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    MountRef ref = {&mounts[0], mounts[0].serial};
    Stay outer(ref, false);
    ASSERT_TRUE(outer.entered());
    // A signal handler's call that faults before it has entered anything.
    t.stays_at_call = t.stays;
    abandon_stays();
    EXPECT_FALSE(nobody_inside());
    // One that faults inside.
    t.stays_at_call = t.stays;
    alignas(Stay) char room[sizeof(Stay)];
    ASSERT_TRUE((new (room) Stay(ref, false))->entered());
    EXPECT_EQ(outer.lane()->active, 2u);
    abandon_stays();
    EXPECT_EQ(outer.lane()->active, 1u);
    // The session is replaced under the outer one.
    sf_session *before = session_of(mounts[0]);
    by_kernel(SYS_close, hidden_between(0, ~0u));
    tell('d');
    EXPECT_EQ(stat_of("d/f"), -EACCES);
    EXPECT_NE(session_of(mounts[0]), before);
    EXPECT_FALSE(nobody_inside());
  });
}

TEST_F(Attach, ADaemonDiesAndAnotherComes) {
  start();
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 1u);
    kill(daemon_, SIGKILL);
    EXPECT_EQ(tell('x'), ~0ull);  // until its descriptors are closed; its memory went before
    // The directory is still there: the kernel answers.
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 1u);
    EXPECT_EQ(hidden_between(0, ~0u), -1);
    umount2(point_.c_str(), MNT_DETACH);
    std::filesystem::remove_all(point_);
    start();
    struct stat st;
    through(SYS_stat, arg("/etc/passwd"), arg(&st));
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 2u);
    stop();
  });
  waitpid(daemon_, nullptr, 0);
  daemon_ = 0;
  close(commands_);
}

TEST_F(Attach, ReportsWhatItDid) {
  start();
  std::string report = registry_ + "/report-%p";
  setenv("SHORTFUSE_REPORT", report.c_str(), 1);
  client([&] {
    stat_of("d/f");
    stat_of("unknown");
    sf_bypass_exit();
    sf_bypass_exit();
    std::string text;
    std::ifstream in(registry_ + "/report-" + std::to_string(getpid()));
    std::getline(in, text);
    EXPECT_NE(text.find("\"stat\":{\"served\":1,\"denied\":0,\"missed\":1,\"passed\":0,\"miss\":{\"dentry\":1}}"),
              std::string::npos)
        << text;
    EXPECT_NE(text.find("\"mounts\":1"), std::string::npos);
    EXPECT_FALSE(std::getline(in, text));
  });
  unsetenv("SHORTFUSE_REPORT");
}

// Another thread has set the limit between our looking at it and our setting it.
TEST(FileLimit, IsChangedOnlyFromWhatItWas) {
  rlimit64 before, now;
  ASSERT_EQ(getrlimit64(RLIMIT_NOFILE, &before), 0);
  const FileLimit was = {before.rlim_cur, before.rlim_max};
  const FileLimit lower = {was.cur - 1, was.max}, lowest = {was.cur - 2, was.max};
  EXPECT_FALSE(change_file_limit(lower, lowest));
  ASSERT_EQ(getrlimit64(RLIMIT_NOFILE, &now), 0);
  EXPECT_EQ(now.rlim_cur, was.cur);
  EXPECT_TRUE(change_file_limit(was, lower));
  ASSERT_EQ(getrlimit64(RLIMIT_NOFILE, &now), 0);
  EXPECT_EQ(now.rlim_cur, lower.cur);
  EXPECT_TRUE(change_file_limit(lower, was));
}

TEST_F(Attach, WrongDaemonsAreNotAttachedTo) {
  for (Fault fault : {Fault::UnsealedHead, Fault::ShortHead, Fault::BadMagic, Fault::ShortSession, Fault::TooManyChunks,
                      Fault::Silent, Fault::Garbage, Fault::OtherClock}) {
    SCOPED_TRACE(static_cast<int>(fault));
    start(fault);
    const int timeout_ms = answer_timeout_ms_for_test;
    if (fault == Fault::Silent) answer_timeout_ms_for_test = 200;  // the client's from its start, when it attaches
    client([&] {
      EXPECT_EQ(stat_of("d/f"), 0);
      EXPECT_EQ(served(), 0u);
      EXPECT_EQ(hidden_between(0, ~0u), -1);
    });
    answer_timeout_ms_for_test = timeout_ms;
    stop();
  }
}

TEST_F(Attach, WrongPoliciesAreNotRun) {
  for (Fault fault : {Fault::BadImage, Fault::TruncatedImage}) {
    SCOPED_TRACE(static_cast<int>(fault));
    start(fault);
    client([&] {
      EXPECT_EQ(stat_of("d/f"), 0);
      EXPECT_EQ(served(), 0u);
    });
    stop();
  }
}

TEST_F(Attach, AForeignRegistryIsNotUsed) {
  start();
  ASSERT_EQ(chmod(registry_.c_str(), 0777), 0);
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 0u);
  });
  ASSERT_EQ(chmod(registry_.c_str(), 0755), 0);
  ASSERT_EQ(chown(registry_.c_str(), 1234, 0), 0);
  client([&] {
    EXPECT_EQ(stat_of("d/f"), 0);
    EXPECT_EQ(served(), 0u);
  });
}

}  // namespace
}  // namespace shortfuse::bypass
