// Who one is, changed while running: users, groups, capabilities, of the process and of one thread; namespaces.
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "conformance/case.h"

namespace shortfuse::tests::conformance {
namespace {

constexpr uid_t kNobody = 65534;

/// What the moment's permissions allow; twice, so that the second could come from a cache.
void look(const char *key) {
  struct stat st;
  for (int twice = 0; twice < 2; ++twice) {
    std::string said_all;
    auto add = [&](long result) { said_all += outcome(result) + " "; };
    add(stat("closed/inside", &st));
    add(stat("group/inside", &st));
    add(access("secret", R_OK));
    add(access("text", W_OK));
    add(faccessat(AT_FDCWD, "secret", R_OK, AT_EACCESS));
    int fd = open("secret", O_RDONLY);
    add(fd < 0 ? -1 : 0);
    close(fd);
    add((fd = open("closed", O_RDONLY | O_DIRECTORY)) < 0 ? -1 : 0);
    close(fd);
    add(stat("text", &st));
    say(key, "%s, %s", said_all.c_str(), contents("text").c_str());
  }
}

void prepare() {
  umask(0);
  mkdir("closed", 0700), mkdir("group", 0710);
  write_file("closed/inside", "inside\n");
  write_file("group/inside", "inside\n");
  if (chown("group", 0, 12345) != 0) throw Broken("chown");
  struct stat st;
  for (int twice = 0; twice < 2; ++twice) stat("closed/inside", &st), stat("group/inside", &st), contents("secret");
}

void users(const Place &) {
  prepare();
  look("root");
  int fd = open("secret", O_RDONLY);
  reads(fd, 2);
  said("seteuid", seteuid(kNobody));
  look("nobody");
  say("opened as root", "%s", reads(fd, 4).c_str());
  said("back", seteuid(0));
  look("root again");
  said("setegid", setegid(kNobody));
  said("setresuid", setresuid(0, kNobody, 0));
  look("effective");
  said("real", setresuid(kNobody, 0, 0));
  look("real is another");
  said("for good", setresuid(kNobody, kNobody, kNobody));
  look("nobody for good");
  said("no way back", seteuid(0));
  say("opened as root still", "%s", reads(fd, 4).c_str());
}

void groups(const Place &) {
  prepare();
  gid_t list[] = {12345};
  say("in the group", "%s", in_child([&] {
        said("groups", setgroups(1, list));
        said("user", setresuid(kNobody, kNobody, kNobody));
        look("member");
      }).c_str());
  say("by its own group", "%s", in_child([&] {
        setgroups(0, nullptr), setresgid(12345, 12345, 12345), setresuid(kNobody, kNobody, kNobody);
        look("own group");
      }).c_str());
  say("not in it", "%s", in_child([&] {
        setgroups(0, nullptr), setresgid(1, 1, 1), setresuid(kNobody, kNobody, kNobody);
        look("stranger");
      }).c_str());
  say("many groups", "%s", in_child([&] {
        std::vector<gid_t> many;
        for (gid_t gid = 20'000; gid < 20'100; ++gid) many.push_back(gid);
        many.push_back(12345);
        setgroups(many.size(), many.data()), setresgid(1, 1, 1), setresuid(kNobody, kNobody, kNobody);
        look("one of many");
      }).c_str());
}

void file_system_ids(const Place &) {
  prepare();
  setfsuid(kNobody);
  look("setfsuid");
  setfsgid(12345);
  look("setfsgid");
  setfsuid(0), setfsgid(0);
  look("back");
}

bool keep_capabilities(unsigned low) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {{low, low, 0}, {0, 0, 0}};
  return syscall(SYS_capset, &header, data) == 0;
}

void capabilities(const Place &) {
  prepare();
  say("without any", "%s", in_child([&] {
        if (chown("secret", 1, 1) + chown("closed", 1, 1) != 0) _exit(1);
        said("dropped", keep_capabilities(0));
        look("no capabilities");
      }).c_str());
  say("read and search", "%s", in_child([&] {
        said("kept", prctl(PR_SET_KEEPCAPS, 1));
        said("user", setresuid(kNobody, kNobody, kNobody));
        look("none in effect");
        said("one", keep_capabilities(1u << CAP_DAC_READ_SEARCH));
        look("may search");
        said("no more", keep_capabilities(0));
        look("may not");
      }).c_str());
  say("bounding set", "%s", in_child([&] {
        said("dropped", prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE));
        look("still there");
        said("securebits", prctl(PR_SET_SECUREBITS, 0));
        look("and still");
      }).c_str());
}

void one_thread_only(const Place &) {
  prepare();
  look("before");
  std::thread([&] {
    said("its own user", syscall(SYS_setresuid, -1, kNobody, -1));
    look("in the thread");
    std::thread([&] { look("its child"); }).join();
  }).join();
  look("afterwards");
  std::thread([&] {
    said("capabilities", keep_capabilities(0) ? 0 : -1);
    look("without");
  }).join();
  look("with");
  std::thread other([&] { look("other thread"); });
  other.join();
}

void own_descriptors_and_directory(const Place &) {
  int fd = open("text", O_RDONLY);
  reads(fd, 10);
  std::thread([&] {
    said("own directory", unshare(CLONE_FS));
    said("chdir", chdir("sub"));
    say("from there", "%s", contents("inner/leaf").c_str());
  }).join();
  say("not from here", "%s %s", contents("inner/leaf").c_str(), contents("text").c_str());
  std::thread([&] {
    said("own descriptors", unshare(CLONE_FILES));
    say("shared offset", "%s", reads(fd, 10).c_str());
    close(fd);
    int other = open("big", O_RDONLY);
    said("same number", other == fd);
    say("there", "%s", reads(other, 10).c_str());
  }).join();
  say("still open here", "%s", reads(fd, 10).c_str());
  say("contents", "%s", contents("text").c_str());
}

void user_namespace(const Place &) {
  prepare();
  say("child", "%s", in_child([&] {
        if (setgroups(0, nullptr) + setresgid(kNobody, kNobody, kNobody) + setresuid(kNobody, kNobody, kNobody) != 0)
          _exit(1);
        look("before");
        long made = unshare(CLONE_NEWUSER);
        said("unshare", made);
        look("all capabilities, of no use here");
      }).c_str());
}

void mount_namespace(const Place &place) {
  int fd = open("text", O_RDONLY);
  reads(fd, 10);
  say("child", "%s", in_child([&] {
        said("unshare", unshare(CLONE_NEWNS));
        said("private", mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
        said("bound over", mount(place.outside.c_str(), (place / "sub").c_str(), nullptr, MS_BIND, nullptr));
        write_file(place.outside + "/leaf", "from outside\n");
        for (int look = 0; look < 3; ++look) {
          say("the other tree", "%s %s", contents("sub/leaf").c_str(), contents("sub/inner/leaf").c_str());
          say("below it all as ever", "%s", contents("text").c_str());
        }
        say("opened before", "%s", reads(fd, 10).c_str());
        said("undone", umount2((place / "sub").c_str(), MNT_DETACH));
        say("back", "%s", contents("sub/inner/leaf").c_str());
      }).c_str());
  say("here", "%s", contents("sub/inner/leaf").c_str());
  say("read on", "%s", reads(fd, 10).c_str());
}

void entered_namespace(const Place &place) {
  // A process of its own namespace, with another tree at `sub`; we enter it.
  int ready[2];
  said("pipe", pipe(ready));
  pid_t pid = fork();
  if (pid == 0) {
    bool made = unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                mount(place.outside.c_str(), (place / "sub").c_str(), nullptr, MS_BIND, nullptr) == 0;
    if (write(ready[1], made ? "y" : "n", 1) != 1) _exit(1);
    pause();
  }
  char byte = 0;
  said("its tree", read(ready[0], &byte, 1) == 1 && byte == 'y');
  write_file(place.outside + "/leaf", "from outside\n");
  int fd = open("text", O_RDONLY);
  reads(fd, 10);
  say("child", "%s", in_child([&] {
        int space = open(("/proc/" + std::to_string(pid) + "/ns/mnt").c_str(), O_RDONLY | O_CLOEXEC);
        said("setns", setns(space, CLONE_NEWNS));
        for (int look = 0; look < 3; ++look) {
          std::string there = place / "sub/leaf", not_there = place / "sub/inner/leaf";
          say("the other tree", "%s %s", contents(there).c_str(), contents(not_there).c_str());
        }
        say("opened before", "%s", reads(fd, 10).c_str());
        said("chdir", chdir(place.dir.c_str()));
        say("there", "%s", contents("text").c_str());
      }).c_str());
  kill(pid, SIGKILL);
  say("ended", "%s", ended(pid).c_str());
  say("here", "%s", contents("sub/inner/leaf").c_str());
  say("read on", "%s", reads(fd, 10).c_str());
}

}  // namespace

std::vector<Case> identity_cases() {
  return {
      {"users", users, {"read", "stat", "access"}, {}, true},
      {"groups", groups, {"read", "stat"}, {}, true},
      {"fsuid", file_system_ids, {"read", "stat"}, {}, true},
      {"capabilities", capabilities, {"read", "stat"}, {}, true},
      {"one_thread", one_thread_only, {"read", "stat"}, {}, true},
      {"unshare_files", own_descriptors_and_directory, {"read"}},
      {"unshare_user", user_namespace, {"read", "stat"}, {}, true},
      {"unshare_mounts", mount_namespace, {"read"}, {}, true},
      {"setns", entered_namespace, {"read"}, {}, true},
  };
}

}  // namespace shortfuse::tests::conformance
