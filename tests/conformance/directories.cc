// Listings: positions in them, their changes while they are read, duplicates, forks.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "conformance/case.h"

namespace shortfuse::tests::conformance {
namespace {

std::vector<std::string> rest_of(DIR *listing) {
  std::vector<std::string> names;
  for (dirent *entry; (entry = readdir(listing)) != nullptr;) names.emplace_back(entry->d_name);
  return names;
}

std::string joined(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  std::string all;
  for (const auto &name : names) all += name + " ";
  return digest(all);
}

std::string listed(const char *path) {
  DIR *listing = opendir(path);
  if (listing == nullptr) return outcome(-1);
  auto names = rest_of(listing);
  closedir(listing);
  return std::to_string(names.size()) + " names, " + joined(names);
}

void positions(const Place &) {
  for (int look = 0; look < 2; ++look) {
    DIR *listing = opendir("dir");
    std::vector<long> told;
    std::vector<std::string> names;
    for (;;) {
      told.push_back(telldir(listing));
      dirent *entry = readdir(listing);
      if (entry == nullptr) break;
      names.emplace_back(entry->d_name);
    }
    say("names", "%zu, %s", names.size(), joined(names).c_str());
    bool all_right = true;
    for (size_t at : {size_t{5}, size_t{0}, names.size() - 1, size_t{60}, size_t{1}, size_t{61}}) {
      seekdir(listing, told[at]);
      all_right = all_right && telldir(listing) == told[at];
      dirent *entry = readdir(listing);
      all_right = all_right && entry != nullptr && entry->d_name == names[at];
    }
    said("each found again", all_right);
    seekdir(listing, told.back());
    said("the end", readdir(listing) == nullptr);
    seekdir(listing, told[100]);
    say("the rest", "%s", joined(rest_of(listing)).c_str());
    rewinddir(listing);
    say("all again", "%s", joined(rest_of(listing)).c_str());
    closedir(listing);
  }
}

void raw_listing(const Place &) {
  alignas(dirent64) char buffer[4096];
  int fd = open("dir", O_RDONLY | O_DIRECTORY);
  said("too small", syscall(SYS_getdents64, fd, buffer, 10));
  said("nothing", syscall(SYS_getdents64, fd, buffer, 0));
  said("bad buffer", syscall(SYS_getdents64, fd, nullptr, 4096));
  // How many entries a call gives is not told: FUSE ends one where a reply of the daemon's ended.
  unsigned names = 0, unknown = 0, odd_types = 0, lost = 0;
  std::set<std::string> all;
  off_t last = 0;
  for (size_t room : {100, 300, 4096, 200, 4096, 4096, 4096, 4096, 4096, 4096, 4096, 4096}) {
    long got = syscall(SYS_getdents64, fd, buffer, room);
    if (got <= 0) continue;
    for (long at = 0; at < got;) {
      auto entry = reinterpret_cast<dirent64 *>(buffer + at);
      struct stat st;
      std::string name = entry->d_name;
      if (name != "." && name != "..") {
        unknown += fstatat(fd, name.c_str(), &st, 0) != 0 || st.st_ino != entry->d_ino;
        odd_types += entry->d_type != DT_UNKNOWN && entry->d_type != DT_REG;
      }
      all.insert(name);
      last = entry->d_off;
      ++names;
      at += entry->d_reclen;
    }
    lost += position(fd) != last;
  }
  say("wrong", "%u inodes, %u types, %u positions", unknown, odd_types, lost);
  say("names", "%u, each once: %d", names, all.size() == names);
  said("a file", syscall(SYS_getdents64, open("text", O_RDONLY), buffer, sizeof buffer));
  said("read", read(fd, buffer, 10));
  said("a position nobody told", lseek(fd, 12'345, SEEK_SET) >= 0 ? 0 : -1);
  said("start", lseek(fd, 0, SEEK_SET));
  said("first entries", syscall(SYS_getdents64, fd, buffer, 4096) > 0);
}

/// Reads with a small buffer, so that the listing is not read at once.
struct Slow {
  int fd;
  std::vector<std::string> names = {};
  bool step(size_t room = 256) {
    alignas(dirent64) char buffer[4096];
    long got = syscall(SYS_getdents64, fd, buffer, room);
    for (long at = 0; at < got;) {
      auto entry = reinterpret_cast<dirent64 *>(buffer + at);
      names.emplace_back(entry->d_name);
      at += entry->d_reclen;
    }
    return got > 0;
  }
};

void removed_while_read(const Place &) {
  Slow slow = {open("dir", O_RDONLY | O_DIRECTORY)};
  size_t removed = 0, seen = 0;
  while (slow.step()) {
    for (; seen < slow.names.size(); ++seen) removed += unlink(("dir/" + slow.names[seen]).c_str()) == 0;
  }
  say("removed", "%zu", removed);
  say("left", "%s", listed("dir").c_str());
  said("rmdir", rmdir("dir"));
  said("in what is removed", syscall(SYS_getdents64, slow.fd, nullptr, 100));
  lseek(slow.fd, 0, SEEK_SET);
  said("from its start", slow.step());
}

void removed_by_others(const Place &) {
  DIR *listing = opendir("dir");
  unsigned removed = 0;
  // A command per name, as `for (readdir()) system("rm ...")` does.
  for (dirent *entry; (entry = readdir(listing)) != nullptr;) {
    std::string name = entry->d_name;
    if (name[0] == '.') continue;
    in_child([&] { unlink(("dir/" + name).c_str()); });
    ++removed;
  }
  closedir(listing);
  say("removed", "%u", removed);
  say("left", "%s", listed("dir").c_str());
}

void changed_while_read(const Place &) {
  Slow slow = {open("dir", O_RDONLY | O_DIRECTORY)};
  slow.step();
  std::set<std::string> gone;
  for (unsigned i = 0; i < 120; i += 7) {
    char name[40], other[40];
    std::snprintf(name, sizeof name, "dir/file%03u", i);
    std::snprintf(other, sizeof other, "dir/other%03u", i);
    if (i % 2 == 0) unlink(name);
    else rename(name, other);
    gone.insert(name + 4);
    write_file("dir/new" + std::to_string(i), "new\n");
  }
  while (slow.step()) continue;
  // What was not touched is there, once.
  unsigned missing = 0, twice = 0;
  for (unsigned i = 0; i < 120; ++i) {
    char name[40];
    std::snprintf(name, sizeof name, "file%03u", i);
    auto times = std::count(slow.names.begin(), slow.names.end(), name);
    if (gone.count(name) == 0) missing += times == 0, twice += times > 1;
  }
  say("untouched", "%u missing, %u twice", missing, twice);
  say("a new listing", "%s", listed("dir").c_str());
  lseek(slow.fd, 0, SEEK_SET);
  slow.names.clear();
  while (slow.step()) continue;
  say("rewound", "%s", joined(slow.names).c_str());
}

void rewound(const Place &) {
  DIR *listing = opendir("sub");
  say("first", "%s", joined(rest_of(listing)).c_str());
  for (int round = 0; round < 4; ++round) {
    write_file("sub/new" + std::to_string(round), "");
    rewinddir(listing);
    say("with a new one", "%s", joined(rest_of(listing)).c_str());
    unlink("sub/new0");
    say("another", "%s", listed("sub").c_str());
    rewinddir(listing);
    say("again", "%s", joined(rest_of(listing)).c_str());
  }
  closedir(listing);
}

void shared_by_duplicates(const Place &) {
  Slow first = {open("dir", O_RDONLY | O_DIRECTORY)};
  first.step();
  Slow second = {dup(first.fd)};
  second.step(), first.step(), second.step();
  std::string before = joined(first.names) + joined(second.names);
  close(first.fd);
  Slow third = {dup(second.fd)};
  third.step();
  close(second.fd);
  while (third.step()) continue;
  first.names.insert(first.names.end(), second.names.begin(), second.names.end());
  first.names.insert(first.names.end(), third.names.begin(), third.names.end());
  say("all together", "%zu names, %s", first.names.size(), joined(first.names).c_str());
}

void shared_by_processes(const Place &) {
  Slow slow = {open("dir", O_RDONLY | O_DIRECTORY)};
  say("child before the start", "%s", in_child([&] {
        Slow own = {slow.fd};
        while (own.step(4096)) continue;
        say("it read", "%s", joined(own.names).c_str());
      }).c_str());
  lseek(slow.fd, 0, SEEK_SET);
  while (slow.step()) continue;
  say("the parent", "%s", joined(slow.names).c_str());
  lseek(slow.fd, 0, SEEK_SET);
  DIR *of_descriptor = fdopendir(dup(slow.fd));
  say("by fdopendir", "%s", joined(rest_of(of_descriptor)).c_str());
  closedir(of_descriptor);
  dirent **found = nullptr;
  int count = scandir("dir", &found, nullptr, alphasort);
  say("scandir", "%d, %s", count, count > 2 ? found[2]->d_name : "");
  said("opendir of a file", opendir("text") == nullptr ? -1 : 0);
  said("fdopendir of a file", fdopendir(open("text", O_RDONLY)) == nullptr ? -1 : 0);
}

}  // namespace

std::vector<Case> directory_cases() {
  return {
      {"telldir", positions, {"readdir"}},
      {"getdents", raw_listing, {"readdir"}},
      {"listing_removed", removed_while_read, {"readdir"}},
      {"listing_removed_by_children", removed_by_others, {"readdir"}},
      {"listing_changed", changed_while_read, {"readdir"}},
      {"rewinddir", rewound, {"readdir"}},
      {"listing_dup", shared_by_duplicates, {"readdir"}},
      {"listing_fork", shared_by_processes, {"readdir"}},
  };
}

}  // namespace shortfuse::tests::conformance
