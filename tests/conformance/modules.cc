// Modules that come late, with system calls of their own; filters on system calls.
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>

#include "conformance/case.h"
#include "conformance/programs/raw_module.h"
#include "support/raw.h"

namespace shortfuse::tests::conformance {
namespace {

struct Module {
  void *handle;
  RawOpen *open;
  RawRead *read;
  RawSeek *seek;
  RawClose *close;
  explicit Module(const std::string &path) : handle(dlopen(path.c_str(), RTLD_NOW)) {
    if (handle == nullptr) throw Broken(dlerror());
    open = reinterpret_cast<RawOpen *>(dlsym(handle, "raw_open"));
    read = reinterpret_cast<RawRead *>(dlsym(handle, "raw_read"));
    seek = reinterpret_cast<RawSeek *>(dlsym(handle, "raw_seek"));
    close = reinterpret_cast<RawClose *>(dlsym(handle, "raw_close"));
  }
};

void use(const Module &module, int opened_before) {
  char buffer[20];
  said("on from libc", module.read(opened_before, buffer, 10));
  say("it read", "%s", digest({buffer, 10}).c_str());
  say("libc goes on", "%s", reads(opened_before, 10).c_str());
  int fd = open("text", O_RDONLY);
  reads(fd, 30);
  said("opened after it", module.read(fd, buffer, 10));
  say("its bytes", "%s", digest({buffer, 10}).c_str());
  said("sought", module.seek(fd, 200, SEEK_SET));
  say("libc there", "%s", reads(fd, 10).c_str());
  // A number that libc never sees closed.
  said("closed", module.close(fd));
  int ends[2];
  said("pipe", pipe(ends));
  said("in its place", ends[0] - fd);
  said("written", write(ends[1], "of the pipe", 11));
  say("of the pipe", "%s", reads(ends[0], 100).c_str());
  int own = module.open("big", O_RDONLY);
  lseek(own, 50, SEEK_SET);
  say("its own by libc", "%s", reads(own, 10).c_str());
  close(own);
  fd = open("text", O_RDONLY);
  reads(fd, 10);
  module.close(fd);
  own = module.open("big", O_RDONLY);
  said("same number", own - fd);
  say("what is there", "%s at %ld", reads(own, 1000).c_str(), position(own));
  struct stat st;
  said("fstat", fstat(own, &st));
  said("its size", st.st_size);
}

/// What a pipe is that has the number of a file which `close_unseen` closed.
template <class Close>
void number_again(Close close_unseen) {
  struct stat st;
  for (int look = 0; look < 70; ++look) stat("text", &st);
  int fd = open("text", O_RDONLY);
  say("file", "%s", reads(fd, 10).c_str());
  said("closed", close_unseen(fd));
  int ends[2];
  said("pipe", pipe(ends));
  said("in its place", ends[0] - fd);
  said("fstat", fstat(ends[0], &st));
  said("a pipe", S_ISFIFO(st.st_mode));
  said("written", write(ends[1], "of the pipe", 11));
  say("of the pipe", "%s", reads(ends[0], 100).c_str());
  close(ends[0]);
  close(ends[1]);
}

void closed_unseen(const Place &) {
  // By code that nobody can look for: it was made at run time.
  for (int look = 0; look < 3; ++look) say("before", "%s", contents("text").c_str());
  auto unseen = [](int fd) { return raw(SYS_close, fd); };
  for (int round = 0; round < 2; ++round) number_again(unseen);
  int fd = open("text", O_RDONLY);
  reads(fd, 10);
  said("closed", unseen(fd));
  const int memory = memfd_create("x", 0);
  said("in its place", memory - fd);
  said("written", write(memory, "of the memory", 13));
  said("rewound", lseek(memory, 3, SEEK_SET));
  say("of the memory", "%s", reads(memory, 100).c_str());
  close(memory);
}

void dlopened_one_of_two_numbers(const Place &) {
  for (int look = 0; look < 3; ++look) say("before", "%s", contents("text").c_str());
  void *module = dlopen(built("conformance_raw_ways.so").c_str(), RTLD_NOW);
  if (module == nullptr) throw Broken(dlerror());
  auto call = reinterpret_cast<RawCloseIf *>(dlsym(module, "raw_close_if"));
  for (int round = 0; round < 2; ++round) number_again([&](int fd) { return call(fd, 1); });
}

void dlopened_unoptimised(const Place &) {
  for (int look = 0; look < 3; ++look) say("before", "%s", contents("text").c_str());
  int fd = open("text", O_RDONLY);
  say("read", "%s", reads(fd, 10).c_str());
  // Numbers come from the stack, and no unwind information says where functions begin.
  void *module = dlopen(built("conformance_raw_plain.so").c_str(), RTLD_NOW);
  if (module == nullptr) throw Broken(dlerror());
  auto call = reinterpret_cast<RawCall *>(dlsym(module, "raw_call"));
  said("sought", call(SYS_lseek, fd, 200, SEEK_SET, 0, 0, 0));
  said("position", position(fd));
  say("there", "%s", reads(fd, 10).c_str());
  for (int round = 0; round < 2; ++round)
    number_again([&](int other) { return call(SYS_close, other, 0, 0, 0, 0, 0); });
}

void dlopened_two_texts(const Place &) {
  for (int look = 0; look < 3; ++look) say("before", "%s", contents("text").c_str());
  Module module(built("conformance_raw_texts.so"));
  for (int round = 0; round < 2; ++round) number_again(module.close);
}

void second_c_library(const Place &) {
  for (int look = 0; look < 3; ++look) say("before", "%s", contents("text").c_str());
  // Another namespace has a libc of its own, at another place.
  void *library = dlmopen(LM_ID_NEWLM, "libc.so.6", RTLD_NOW);
  if (library == nullptr) throw Broken(dlerror());
  auto its_close = reinterpret_cast<RawClose *>(dlsym(library, "close"));
  auto its_read = reinterpret_cast<RawRead *>(dlsym(library, "read"));
  for (int round = 0; round < 2; ++round) number_again(its_close);
  int fd = open("text", O_RDONLY);
  say("here", "%s", reads(fd, 10).c_str());
  char buffer[20];
  said("on from there", its_read(fd, buffer, 10));
  say("it read", "%s", digest({buffer, 10}).c_str());
}

void dlopened_harmless(const Place &) {
  // Modules without system calls of their own, while files and a listing are in use.
  int fd = open("text", O_RDONLY);
  reads(fd, 10);
  void *module = dlopen("libm.so.6", RTLD_NOW);
  said("loaded", module != nullptr);
  for (int look = 0; look < 3; ++look) say("read on", "%s, %s", reads(fd, 10).c_str(), contents("text").c_str());
  struct stat st;
  said("stat", stat("text", &st));
  said("dlclose", dlclose(module));
}

void dlopened_any_call(const Place &place) {
  struct stat st;
  say("before", "%s", contents("secret").c_str());
  said("closed to others", chmod("sub", 0700));
  for (int look = 0; look < 2; ++look) said("seen", stat("sub/inner/leaf", &st));
  void *module = dlopen(built("conformance_raw_any.so").c_str(), RTLD_NOW);
  if (module == nullptr) throw Broken(dlerror());
  auto call = reinterpret_cast<RawCall *>(dlsym(module, "raw_call"));
  said("its chdir", call(SYS_chdir, reinterpret_cast<long>("dir"), 0, 0, 0, 0, 0));
  say("seen by libc", "%s", contents("file009").c_str());
  said("back", call(SYS_chdir, reinterpret_cast<long>(place.dir.c_str()), 0, 0, 0, 0, 0));
  say("text", "%s", contents("text").c_str());
  if (geteuid() != 0) return;
  said("its setresuid", call(SYS_setresuid, 65534, 65534, 65534, 0, 0, 0));
  for (int look = 0; look < 2; ++look) {
    said("not seen any more", stat("sub/inner/leaf", &st));
    say("nor read", "%s", contents("secret").c_str());
  }
}

void dlopened(const Place &) {
  int before = open("text", O_RDONLY);
  reads(before, 10);
  Module module(built("conformance_raw.so"));
  use(module, before);
  said("dlclose", dlclose(module.handle));
  say("contents", "%s", contents("text").c_str());
}

void dlopened_from_the_mount(const Place &place) {
  std::filesystem::copy_file(built("conformance_raw.so"), place / "module.so");
  for (int round = 0; round < 3; ++round) {
    int before = open("text", O_RDONLY);
    reads(before, 10);
    Module module(place / "module.so");
    if (round == 1) use(module, before);
    said("dlclose", dlclose(module.handle));
    say("contents", "%s", contents("text").c_str());
    close(before);
  }
  said("not there", dlopen((place / "absent.so").c_str(), RTLD_NOW) == nullptr ? -1 : 0);
  said("no module", dlopen((place / "text").c_str(), RTLD_NOW) == nullptr);
  said("not executable text", dlopen("libm.so.6", RTLD_NOW) != nullptr);
}

/// Refuses `nr` with EPERM, or ends the process.
bool filter(unsigned nr, unsigned action) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, action),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog whole = {4, program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &whole) == 0;
}

void filtered(const Place &) {
  int fd = open("text", O_RDONLY);
  reads(fd, 10);
  struct stat st;
  struct {
    const char *name;
    unsigned nr;
  } refused[] = {{"newfstatat", SYS_newfstatat}, {"openat", SYS_openat},     {"read", SYS_read},
                 {"pread64", SYS_pread64},       {"getdents64", SYS_getdents64}, {"lseek", SYS_lseek}};
  for (const auto &one : refused) {
    for (unsigned action : {SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_KILL_PROCESS}) {
      say(one.name, "%s", in_child([&] {
            if (!filter(one.nr, action)) _exit(1);
            char byte[10];
            said("stat", stat("sub", &st));
            said("pread", pread(fd, byte, 10, 0));
            said("read", read(fd, byte, 10));
            said("seek", lseek(fd, 0, SEEK_CUR));
            said("open", open("dir", O_RDONLY) >= 0 ? 0 : -1);
            said("listing", syscall(SYS_getdents64, open("dir", O_RDONLY), byte, 1));
          }).c_str());
    }
  }
  say("by the other call", "%s", in_child([&] {
        sock_filter program[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                                 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 0, 1),
                                 BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
                                 BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
        sock_fprog whole = {4, program};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        said("seccomp", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &whole));
        said("available", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, nullptr));
        say("read", "%s", reads(fd, 10).c_str());
      }).c_str());
  say("strict", "%s", in_child([&] {
        char byte[10];
        reads(fd, 5);
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
        bool right = syscall(SYS_read, fd, byte, 10) == 10;
        syscall(SYS_exit, right ? 5 : 6);
      }).c_str());
  say("strict, then more", "%s", in_child([&] {
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
        syscall(SYS_lseek, fd, 0, SEEK_CUR);
      }).c_str());
  say("without the time stamp counter", "%s", in_child([&] {
        char byte[10];
        reads(fd, 5);
        if (prctl(PR_SET_TSC, PR_TSC_SIGSEGV) != 0) _exit(1);
        for (int i = 0; i < 30; ++i) {
          if (stat("text", &st) != 0 || pread(fd, byte, 10, 0) != 10) _exit(2);
        }
        _exit(lseek(fd, 0, SEEK_CUR) == 5 ? 5 : 6);
      }).c_str());
  say("read on", "%s", reads(fd, 10).c_str());
}

void asked_before_filters(const Place &) {
  // Asking which mode is set sets none.
  said("mode", prctl(PR_GET_SECCOMP));
  said("a filter that is wrong", prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, nullptr));
  said("no such mode", prctl(PR_SET_SECCOMP, 77, nullptr));
  for (int look = 0; look < 3; ++look) say("contents", "%s", contents("text").c_str());
}

}  // namespace

std::vector<Case> module_cases() {
  return {
      {"dlopen", dlopened, {"read"}},
      {"closed_unseen", closed_unseen, {"read"}},
      {"dlopen_two_numbers", dlopened_one_of_two_numbers, {"read"}},
      {"dlopen_unoptimised", dlopened_unoptimised, {"read"}},
      {"dlopen_two_texts", dlopened_two_texts, {"read"}},
      {"dlmopen", second_c_library, {"read"}},
      {"dlopen_harmless", dlopened_harmless, {"read", "stat"}},
      {"dlopen_any_call", dlopened_any_call, {"stat"}},
      {"dlopen_from_mount", dlopened_from_the_mount, {"read"}},
      {"seccomp", filtered, {"read"}},
      {"seccomp_asked", asked_before_filters, {}},
  };
}

}  // namespace shortfuse::tests::conformance
