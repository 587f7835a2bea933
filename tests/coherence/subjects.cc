#include "coherence/subjects.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>

#include "support/harness.h"

namespace shortfuse::tests {

namespace {

void must(bool good, const char *what) {
  if (!good) throw Broken(std::string(what) + ": " + std::strerror(errno));
}

void put(const std::string &path, const void *bytes, size_t size, int flags, off_t offset = 0) {
  int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0644);
  must(fd >= 0, "open for writing");
  must(pwrite(fd, bytes, size, offset) == static_cast<ssize_t>(size), "pwrite");
  must(close(fd) == 0, "close");
}

struct stat stat_of(const std::string &path) {
  struct stat st;
  must(stat(path.c_str(), &st) == 0, "stat");
  return st;
}

/// The number in the first 8 bytes; in between when the file is not that long, or not there.
Observation number_in(const std::string &path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    must(errno == ENOENT, "open for reading");
    return Observation::in_between();
  }
  uint64_t value = 0;
  ssize_t got = ::read(fd, &value, sizeof value);
  close(fd);
  must(got >= 0, "read");
  return got == sizeof value ? Observation::exactly(value) : Observation::in_between();
}

// ---- attributes

struct SizeByTruncate : Subject {
  void prepare() override { write_file(at("f"), ""); }
  void write(uint64_t seq) override { must(truncate(at("f").c_str(), static_cast<off_t>(seq)) == 0, "truncate"); }
  Observation read() override { return Observation::exactly(static_cast<uint64_t>(stat_of(at("f")).st_size)); }
};

// The writer stays open, the reader too: fstat, lseek and the end of file.
struct SizeByAppend : Subject {
  int fd = -1;
  unsigned looks = 0;
  ~SizeByAppend() override { close(fd); }
  void prepare() override { write_file(at("f"), ""); }
  void write(uint64_t) override {
    if (fd < 0) fd = open(at("f").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    must(::write(fd, "x", 1) == 1, "write");
  }
  Observation read() override {
    if (fd < 0) fd = open(at("f").c_str(), O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (++looks % 2 == 0) return Observation::exactly(static_cast<uint64_t>(lseek(fd, 0, SEEK_END)));
    must(fstat(fd, &st) == 0, "fstat");
    return Observation::exactly(static_cast<uint64_t>(st.st_size));
  }
};

struct SizeByFallocate : Subject {
  void prepare() override { write_file(at("f"), ""); }
  void write(uint64_t seq) override {
    int fd = open(at("f").c_str(), O_WRONLY | O_CLOEXEC);
    must(fallocate(fd, 0, 0, static_cast<off_t>(seq)) == 0, "fallocate");
    close(fd);
  }
  Observation read() override { return Observation::exactly(static_cast<uint64_t>(stat_of(at("f")).st_size)); }
};

struct Mtime : Subject {
  void prepare() override {
    write_file(at("f"), "");
    write(0);
  }
  void write(uint64_t seq) override {
    struct timespec times[2] = {{1, 0}, {static_cast<time_t>(seq), 0}};
    must(utimensat(AT_FDCWD, at("f").c_str(), times, 0) == 0, "utimensat");
  }
  Observation read() override { return Observation::exactly(static_cast<uint64_t>(stat_of(at("f")).st_mtim.tv_sec)); }
};

struct Mode : Subject {
  unsigned looks = 0;
  void prepare() override {
    write_file(at("f"), "");
    write(0);
  }
  void write(uint64_t seq) override { must(chmod(at("f").c_str(), seq % 2 ? 0755 : 0644) == 0, "chmod"); }
  Observation read() override {
    if (++looks % 2 == 0) return Observation::modulo(stat_of(at("f")).st_mode & 1, 2);
    return Observation::modulo(access(at("f").c_str(), X_OK) == 0, 2);
  }
};

struct LinkCount : Subject {
  void prepare() override { write_file(at("f"), ""); }
  void write(uint64_t seq) override {
    must((seq % 2 ? link(at("f").c_str(), at("g").c_str()) : unlink(at("g").c_str())) == 0, "link or unlink");
  }
  Observation read() override { return Observation::modulo(stat_of(at("f")).st_nlink - 1, 2); }
};

// ---- contents

struct InPlace : Subject {
  bool also_freely() const override { return false; }
};

struct Pwrite : InPlace {
  void prepare() override { put(at("f"), "\0\0\0\0\0\0\0\0", 8, 0); }
  void write(uint64_t seq) override { put(at("f"), &seq, sizeof seq, 0); }
  Observation read() override { return number_in(at("f")); }
};

// A reader that keeps its descriptor, and a number on each of several pages, written in one call.
struct Pages : InPlace {
  static constexpr size_t kWords = 3 * 4096 / 8;
  int fd = -1;
  unsigned looks = 0;
  ~Pages() override { close(fd); }
  void prepare() override { write(0); }
  void write(uint64_t seq) override {
    std::vector<uint64_t> words(kWords, seq);
    put(at("f"), words.data(), kWords * 8, 0);
  }
  Observation read() override {
    if (fd < 0) fd = open(at("f").c_str(), O_RDONLY | O_CLOEXEC);
    uint64_t value = 0;
    must(pread(fd, &value, sizeof value, static_cast<off_t>(++looks * 1000 % kWords * 8)) == 8, "pread");
    return Observation::exactly(value);
  }
};

struct TruncateAndWrite : InPlace {
  void prepare() override { write(0); }
  void write(uint64_t seq) override { put(at("f"), &seq, sizeof seq, O_TRUNC); }
  Observation read() override { return number_in(at("f")); }
};

struct RenameOver : Subject {
  void prepare() override { write(0); }
  void write(uint64_t seq) override {
    put(at("t"), &seq, sizeof seq, O_EXCL);
    must(rename(at("t").c_str(), at("f").c_str()) == 0, "rename");
  }
  Observation read() override {
    Observation seen = number_in(at("f"));
    // There is no moment without a whole file.
    must(seen.kind == Observation::Exactly, "a file that is replaced by rename was not there, or not whole");
    return seen;
  }
};

struct CopyRange : InPlace {
  void prepare() override { write(0); }
  void write(uint64_t seq) override {
    put(at("s"), &seq, sizeof seq, 0);
    int from = open(at("s").c_str(), O_RDONLY | O_CLOEXEC),
        to = open(at("f").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    must(copy_file_range(from, nullptr, to, nullptr, 8, 0) == 8, "copy_file_range");
    close(from);
    close(to);
  }
  Observation read() override { return number_in(at("f")); }
};

struct SharedMapping : InPlace {
  void prepare() override { put(at("f"), "\0\0\0\0\0\0\0\0", 8, 0); }
  void write(uint64_t seq) override {
    int fd = open(at("f").c_str(), O_RDWR | O_CLOEXEC);
    void *page = mmap(nullptr, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(page != MAP_FAILED, "mmap");
    // Either order of the two is right; only when both are done has the change returned.
    if (seq % 2) close(fd);
    std::memcpy(page, &seq, sizeof seq);
    munmap(page, 8);
    if (seq % 2 == 0) close(fd);
  }
  Observation read() override { return number_in(at("f")); }
};

// ---- names

struct CreateUnlink : Subject {
  void prepare() override {}
  void write(uint64_t seq) override {
    if (seq % 2) put(at("f"), "x", 1, O_EXCL);
    if (seq % 2 == 0) must(unlink(at("f").c_str()) == 0, "unlink");
  }
  Observation read() override { return Observation::modulo(access(at("f").c_str(), F_OK) == 0, 2); }
};

struct MkdirRmdir : Subject {
  void prepare() override {}
  void write(uint64_t seq) override {
    must((seq % 2 ? mkdir(at("d").c_str(), 0755) : rmdir(at("d").c_str())) == 0, "mkdir or rmdir");
  }
  Observation read() override {
    struct stat st;
    return Observation::modulo(lstat(at("d").c_str(), &st) == 0, 2);
  }
};

struct RenameDirectory : Subject {
  void prepare() override {
    must(mkdir(at("even").c_str(), 0755) == 0, "mkdir");
    write_file(at("even/f"), "x");
  }
  void write(uint64_t seq) override {
    must(rename(at(seq % 2 ? "even" : "odd").c_str(), at(seq % 2 ? "odd" : "even").c_str()) == 0, "rename");
  }
  Observation read() override { return Observation::modulo(access(at("odd/f").c_str(), F_OK) == 0, 2); }
};

struct Exchange : Subject {
  void prepare() override {
    write_file(at("a"), "");
    write_file(at("b"), "x");
  }
  void write(uint64_t) override {
    must(renameat2(AT_FDCWD, at("a").c_str(), AT_FDCWD, at("b").c_str(), RENAME_EXCHANGE) == 0, "renameat2");
  }
  Observation read() override { return Observation::modulo(static_cast<uint64_t>(stat_of(at("a")).st_size), 2); }
};

struct Listing : Subject {
  void prepare() override {
    must(mkdir(at("d").c_str(), 0755) == 0, "mkdir");
    for (int i = 0; i < 5; ++i) write_file(at("d") + "/other" + std::to_string(i), "");
    write_file(at("d") + "/0", "");
  }
  void write(uint64_t seq) override {
    std::string from = at("d") + "/" + std::to_string(seq - 1), to = at("d") + "/" + std::to_string(seq);
    must(rename(from.c_str(), to.c_str()) == 0, "rename");
  }
  Observation read() override {
    DIR *directory = opendir(at("d").c_str());
    must(directory != nullptr, "opendir");
    unsigned others = 0, numbers = 0;
    uint64_t value = 0;
    while (dirent *entry = readdir(directory)) {
      if (entry->d_name[0] == 'o') ++others;
      if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9') {
        ++numbers;
        value = std::strtoull(entry->d_name, nullptr, 10);
      }
    }
    closedir(directory);
    must(others == 5, "a listing lost or doubled names that nobody touched");
    return numbers == 1 ? Observation::exactly(value) : Observation::in_between();
  }
};

struct Symlink : Subject {
  void prepare() override { write(0); }
  void write(uint64_t seq) override {
    must(symlink(std::to_string(seq).c_str(), at("t").c_str()) == 0, "symlink");
    must(rename(at("t").c_str(), at("l").c_str()) == 0, "rename");
  }
  Observation read() override {
    char target[32] = {};
    must(readlink(at("l").c_str(), target, sizeof target - 1) > 0, "readlink");
    return Observation::exactly(std::strtoull(target, nullptr, 10));
  }
};

struct ThroughSymlink : Subject {
  void prepare() override {
    must(mkdir(at("d0").c_str(), 0755) == 0 && mkdir(at("d1").c_str(), 0755) == 0, "mkdir");
    write_file(at("d0/f"), "");
    write_file(at("d1/f"), "x");
    must(symlink("d0", at("l").c_str()) == 0, "symlink");
  }
  void write(uint64_t seq) override {
    must(unlink(at("l").c_str()) == 0, "unlink");
    must(symlink(seq % 2 ? "d1" : "d0", at("l").c_str()) == 0, "symlink");
  }
  Observation read() override {
    struct stat st;
    if (stat(at("l/f").c_str(), &st) == 0) return Observation::modulo(static_cast<uint64_t>(st.st_size), 2);
    must(errno == ENOENT, "stat through a symbolic link");
    return Observation::in_between();
  }
};

// ---- extended attributes

struct Xattr : Subject {
  void prepare() override {
    write_file(at("f"), "");
    write(0);
  }
  void write(uint64_t seq) override {
    must(setxattr(at("f").c_str(), "user.seq", &seq, sizeof seq, 0) == 0, "setxattr");
  }
  Observation read() override {
    uint64_t value = 0;
    must(getxattr(at("f").c_str(), "user.seq", &value, sizeof value) == 8, "getxattr");
    return Observation::exactly(value);
  }
};

struct XattrNames : Subject {
  unsigned looks = 0;
  void prepare() override { write_file(at("f"), ""); }
  void write(uint64_t seq) override {
    const std::string f = at("f");
    must((seq % 2 ? setxattr(f.c_str(), "user.s", "", 0, 0) : removexattr(f.c_str(), "user.s")) == 0, "set or remove");
  }
  Observation read() override {
    if (++looks % 2 == 0) return Observation::modulo(getxattr(at("f").c_str(), "user.s", nullptr, 0) == 0, 2);
    char names[100];
    return Observation::modulo(listxattr(at("f").c_str(), names, sizeof names) > 0, 2);
  }
};

using Maker = std::function<Subject *()>;
template <typename T>
Maker maker() {
  return [] { return new T; };
}

const std::map<std::string, Maker> &makers() {
  static const std::map<std::string, Maker> all = {
      {"size-by-truncate", maker<SizeByTruncate>()},
      {"size-by-append", maker<SizeByAppend>()},
      {"size-by-fallocate", maker<SizeByFallocate>()},
      {"mtime", maker<Mtime>()},
      {"mode", maker<Mode>()},
      {"link-count", maker<LinkCount>()},
      {"pwrite", maker<Pwrite>()},
      {"pages", maker<Pages>()},
      {"truncate-and-write", maker<TruncateAndWrite>()},
      {"rename-over", maker<RenameOver>()},
      {"copy-range", maker<CopyRange>()},
      {"shared-mapping", maker<SharedMapping>()},
      {"create-unlink", maker<CreateUnlink>()},
      {"mkdir-rmdir", maker<MkdirRmdir>()},
      {"rename-directory", maker<RenameDirectory>()},
      {"exchange", maker<Exchange>()},
      {"listing", maker<Listing>()},
      {"symlink", maker<Symlink>()},
      {"through-symlink", maker<ThroughSymlink>()},
      {"xattr", maker<Xattr>()},
      {"xattr-names", maker<XattrNames>()},
  };
  return all;
}

}  // namespace

bool Observation::fits(uint64_t published, uint64_t started) const {
  switch (kind) {
    case Exactly: return published <= value && value <= started;
    case InBetween: return published < started;
    case Modulo:
      for (uint64_t seq = published; seq <= started && seq < published + modulus; ++seq) {
        if (seq % modulus == value) return true;
      }
      return false;
  }
  return false;
}

std::string Observation::text() const {
  switch (kind) {
    case Exactly: return "the state of " + std::to_string(value);
    case InBetween: return "a state in between";
    case Modulo: return "a state of " + std::to_string(value) + " mod " + std::to_string(modulus);
  }
  return "";
}

const std::vector<std::string> &subject_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const auto &[name, make] : makers()) all.push_back(name);
    return all;
  }();
  return names;
}

Subject *make_subject(const std::string &name, const std::string &dir) {
  auto subject = makers().at(name)();
  subject->dir = dir;
  return subject;
}

}  // namespace shortfuse::tests
