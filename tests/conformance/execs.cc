// Becoming another program: static, set-user-ID, a script, one with a sanitiser, without an environment; what is
// inherited is where it was.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "conformance/case.h"

extern char **environ;

namespace shortfuse::tests::conformance {
namespace {

std::string become(std::vector<std::string> command, char **environment = environ) {
  return in_child([&] {
    execve(command[0].c_str(), pointers(command).data(), environment);
    said("exec", -1);
    _exit(99);
  });
}

int opened_in_the_middle() {
  int fd = open("text", O_RDONLY);
  reads(fd, 35);
  return fd;
}

void static_program(const Place &place) {
  int fd = opened_in_the_middle();
  say("static", "%s", become({built("conformance_reader_static"), std::to_string(fd), place.dir}).c_str());
  said("offset here", position(fd));
  say("read on", "%s", reads(fd, 10).c_str());
  write_file("text", std::string(10'000, 'z'));
  say("after a change", "%s", become({built("conformance_reader_static"), std::to_string(fd), place.dir}).c_str());
  say("and here", "%s", contents("text").c_str());
}

void set_user_id_program(const Place &place) {
  std::string program = place.outside + "/reader";
  std::filesystem::copy_file(built("conformance_reader"), program);
  said("owner", chown(program.c_str(), 0, 0));
  said("mode", chmod(program.c_str(), 04755));
  int fd = opened_in_the_middle();
  say("by another user", "%s", in_child([&] {
        if (setgid(65534) + setuid(65534) != 0) _exit(1);
        say("secret for us", "%s", contents("secret").c_str());
        std::vector<std::string> command = {program, std::to_string(fd), place.dir};
        execv(program.c_str(), pointers(command).data());
      }).c_str());
  said("offset here", position(fd));
}

void scripts(const Place &place) {
  int fd = opened_in_the_middle();
  dup2(fd, 5);
  say("script", "%s", become({place / "script", "one", "two"}).c_str());
  said("it read a line", position(fd) > 35);
  say("by its relative name", "%s", become({"./script", "three"}).c_str());
  lseek(fd, 100, SEEK_SET);
  say("by descriptor", "%s", in_child([&] {
        int script = open("script", O_RDONLY);
        std::vector<std::string> command = {"script", "four"};
        fexecve(script, pointers(command).data(), environ);
        said("fexecve", -1);
      }).c_str());
  lseek(fd, 200, SEEK_SET);
  say("by execveat", "%s", in_child([&] {
        int dir = open(".", O_PATH);
        std::vector<std::string> command = {"script", "five"};
        syscall(SYS_execveat, dir, "script", pointers(command).data(), environ, 0);
        said("execveat", -1);
      }).c_str());
  said("not executable", chmod("script", 0644));
  say("refused", "%s", become({place / "script", "six"}).c_str());
  write_file("program", "#!" + (place / "script") + "\n");
  chmod("script", 0755), chmod("program", 0755);
  lseek(fd, 300, SEEK_SET);
  say("a script for a script", "%s", become({place / "program"}).c_str());
  std::filesystem::copy_file("/bin/true", place / "true");
  say("a program on the mount", "%s", become({place / "true"}).c_str());
  say("again", "%s", become({place / "true"}).c_str());
  said("busy while it runs", open("true", O_RDWR) >= 0 ? 0 : -1);
  write_file("empty", "not a program");
  chmod("empty", 0755);
  say("not a program", "%s", become({place / "empty"}).c_str());
}

void without_environment(const Place &place) {
  int fd = opened_in_the_middle();
  char *nothing[] = {nullptr};
  std::string text = "NAME=value", path = "PATH=/usr/bin:/bin";
  char *other[] = {text.data(), path.data(), nullptr};
  std::vector<std::string> reader = {built("conformance_reader"), std::to_string(fd), place.dir};
  say("none", "%s", become(reader, nothing).c_str());
  said("offset", position(fd));
  say("another", "%s", become(reader, other).c_str());
  say("the same", "%s", become(reader).c_str());
  say("read on", "%s", reads(fd, 10).c_str());
  clearenv();
  say("cleared", "%s", become(reader).c_str());
  say("contents", "%s", contents("text").c_str());
  said("a null one", in_child([&] {
                       execve(reader[0].c_str(), pointers(reader).data(), nullptr);
                     }) == "exit 3"
                         ? 0
                         : 1);
}

void sanitised_programs(const Place &place) {
  setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
  for (const char *program : {"conformance_reader_asan", "conformance_reader_tsan"}) {
    int fd = opened_in_the_middle();
    say(program, "%s", become({built(program), std::to_string(fd), place.dir}).c_str());
    say("read on", "%s", reads(fd, 10).c_str());
    close(fd);
  }
}

void another_allocator(const Place &place) {
  const char *preload = std::getenv("LD_PRELOAD");
  const std::string jemalloc = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", given = preload != nullptr ? preload : "";
  if (access(jemalloc.c_str(), R_OK) != 0) return say("jemalloc", "is not there");
  for (const auto &both : {given + ":" + jemalloc, jemalloc + ":" + given}) {
    setenv("LD_PRELOAD", both.c_str(), 1);
    int fd = opened_in_the_middle();
    say("with jemalloc", "%s", become({built("conformance_reader"), std::to_string(fd), place.dir}).c_str());
    say("read on", "%s", reads(fd, 10).c_str());
    close(fd);
  }
}

void exec_from_a_thread_and_in_place(const Place &place) {
  int fd = opened_in_the_middle();
  say("exec in place", "%s", in_child([&] {
        // Without a fork of its own: the descriptor goes on in the same process.
        reads(fd, 10);
        std::vector<std::string> command = worker_command("conformance_inherits", {std::to_string(fd)});
        execv("/nonexistent", pointers(command).data());
        say("still here", "%s", reads(fd, 10).c_str());
        execv(command[0].c_str(), pointers(command).data());
      }).c_str());
  said("offset", position(fd));
  rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = 64;
  setrlimit(RLIMIT_NOFILE, &limit);
  say("under a lower limit", "%s", become({built("conformance_reader"), std::to_string(fd), place.dir}).c_str());
}

}  // namespace

std::vector<Case> exec_cases() {
  return {
      {"exec_static", static_program, {"read"}},
      {"exec_setuid", set_user_id_program, {"read"}, {}, /*root_only=*/true},
      {"exec_scripts",
       scripts,
       {"read"},
       {{"busy while it runs", "nothing runs then; listed for file systems that keep the text busy"}}},
      {"exec_environment", without_environment, {"read", "stat"}},
      {"exec_sanitised", sanitised_programs, {"read"}},
      {"exec_jemalloc", another_allocator, {"read"}},
      {"exec_in_place", exec_from_a_thread_and_in_place, {"read"}},
  };
}

}  // namespace shortfuse::tests::conformance
