#include "script_commands.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sstream>

namespace shortfuse::passthrough::testing {
namespace {

using Words = std::vector<std::string>;

std::string result_of(long result) { return result >= 0 ? "ok" : strerrorname_np(errno); }
std::string number_or_error(long result) { return result >= 0 ? std::to_string(result) : strerrorname_np(errno); }

const char* path(const Words& w, size_t i) { return w.at(i).c_str(); }
long number(const Words& w, size_t i) { return std::stol(w.at(i)); }
mode_t mode(const Words& w, size_t i) { return static_cast<mode_t>(std::stoul(w.at(i), nullptr, 8)); }

int open_flags(const std::string& text) {
  static const std::map<std::string, int> kFlags{
      {"r", O_RDONLY}, {"w", O_WRONLY}, {"rw", O_RDWR}, {"creat", O_CREAT}, {"excl", O_EXCL}, {"trunc", O_TRUNC},
      {"append", O_APPEND}, {"dir", O_DIRECTORY}, {"nofollow", O_NOFOLLOW}, {"tmpfile", O_TMPFILE}, {"path", O_PATH},
      {"sync", O_SYNC}, {"nonblock", O_NONBLOCK}, {"noatime", O_NOATIME}};
  int flags = O_CLOEXEC;
  std::istringstream stream(text);
  for (std::string one; std::getline(stream, one, ',');) flags |= kFlags.at(one);
  return flags;
}

char type_letter(mode_t m) {
  switch (m & S_IFMT) {
    case S_IFREG: return 'f';
    case S_IFDIR: return 'd';
    case S_IFLNK: return 'l';
    case S_IFIFO: return 'p';
    case S_IFSOCK: return 's';
    case S_IFCHR: return 'c';
    case S_IFBLK: return 'b';
    default: return '?';
  }
}

std::string show(const struct stat& st, const Words& fields, size_t from) {
  std::ostringstream out;
  for (size_t i = from; i < fields.size(); ++i) {
    if (i > from) out << ' ';
    const std::string& field = fields[i];
    if (field == "type") out << type_letter(st.st_mode);
    else if (field == "mode") out << std::oct << (st.st_mode & 07777) << std::dec;
    else if (field == "uid") out << st.st_uid;
    else if (field == "gid") out << st.st_gid;
    else if (field == "size") out << st.st_size;
    else if (field == "nlink") out << st.st_nlink;
    else if (field == "rdev") out << major(st.st_rdev) << ':' << minor(st.st_rdev);
    else if (field == "atime") out << st.st_atim.tv_sec << '.' << st.st_atim.tv_nsec;
    else if (field == "mtime") out << st.st_mtim.tv_sec << '.' << st.st_mtim.tv_nsec;
    else out << "?" << field;
  }
  return out.str();
}

std::string do_stat(const Words& w, int flags) {
  struct stat st;
  if (fstatat(AT_FDCWD, path(w, 1), &st, flags) != 0) return strerrorname_np(errno);
  return show(st, w, 2);
}

/// make TYPE NAME: an object of any kind, mode 0644 or 0755
std::string make(const Words& w) {
  const std::string& type = w.at(1);
  const char* name = path(w, 2);
  if (type == "file") {
    int fd = open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    if (fd >= 0) close(fd);
    return result_of(fd);
  }
  if (type == "dir") return result_of(mkdir(name, 0755));
  if (type == "fifo") return result_of(mkfifo(name, 0644));
  if (type == "symlink") return result_of(symlink("target", name));
  if (type == "block") return result_of(mknod(name, S_IFBLK | 0644, makedev(1, 2)));
  if (type == "char") return result_of(mknod(name, S_IFCHR | 0644, makedev(1, 2)));
  if (type == "socket") return result_of(mknod(name, S_IFSOCK | 0644, 0));
  return "?" + type;
}

std::string bind_socket(const Words& w) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path(w, 1));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::string result = result_of(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address));
  close(fd);
  return result;
}

std::string open_and_close(const Words& w) {
  int fd = open(path(w, 1), open_flags(w.at(2)), w.size() > 3 ? mode(w, 3) : 0);
  std::string result = result_of(fd);
  if (fd >= 0) close(fd);
  return result;
}

/// write NAME TEXT: into a file that exists
std::string write_file(const Words& w, int flags) {
  int fd = open(path(w, 1), flags | O_CLOEXEC);
  if (fd < 0) return strerrorname_np(errno);
  std::string result = number_or_error(write(fd, path(w, 2), w[2].size()));
  if (close(fd) != 0) result = strerrorname_np(errno);
  return result;
}

std::string read_file(const Words& w) {
  int fd = open(path(w, 1), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return strerrorname_np(errno);
  char data[4096];
  ssize_t n = read(fd, data, sizeof data);
  std::string result = n < 0 ? strerrorname_np(errno) : "'" + std::string(data, static_cast<size_t>(n)) + "'";
  std::replace(result.begin(), result.end(), '\0', '0');
  close(fd);
  return result;
}

std::string list(const Words& w) {
  DIR* dir = opendir(path(w, 1));
  if (!dir) return strerrorname_np(errno);
  std::vector<std::string> names;
  while (dirent* entry = readdir(dir)) {
    const char letters[] = "?pc?d?b?f?l?s";
    char type = entry->d_type < sizeof letters ? letters[entry->d_type] : '?';
    names.push_back(std::string(entry->d_name).substr(0, 20) + ":" + type);
  }
  closedir(dir);
  std::sort(names.begin(), names.end());
  std::string result;
  for (const auto& name : names) result += (result.empty() ? "" : " ") + name;
  return result;
}

std::string read_link(const Words& w) {
  char target[5000];
  ssize_t n = readlink(path(w, 1), target, sizeof target);
  return n < 0 ? strerrorname_np(errno) : std::string(target, static_cast<size_t>(n));
}

/// rename2 OLD NEW noreplace|exchange|whiteout
std::string rename2(const Words& w) {
  unsigned flags = w.at(3) == "noreplace" ? RENAME_NOREPLACE : w[3] == "exchange" ? RENAME_EXCHANGE
                   : w[3] == "whiteout" ? RENAME_WHITEOUT : static_cast<unsigned>(number(w, 3));
  return result_of(syscall(SYS_renameat2, AT_FDCWD, path(w, 1), AT_FDCWD, path(w, 2), flags));
}

timespec time_word(const std::string& text) {
  if (text == "now") return {0, UTIME_NOW};
  if (text == "omit") return {0, UTIME_OMIT};
  size_t dot = text.find('.');
  return {std::stol(text.substr(0, dot)), dot == std::string::npos ? 0 : std::stol(text.substr(dot + 1))};
}

/// utimens NAME ATIME MTIME [nofollow]; seconds.nanoseconds, now, or omit
std::string utimens(const Words& w) {
  timespec times[2] = {time_word(w.at(2)), time_word(w.at(3))};
  return result_of(utimensat(AT_FDCWD, path(w, 1), times, w.size() > 4 ? AT_SYMLINK_NOFOLLOW : 0));
}

std::string get_xattr(const Words& w, bool follow) {
  char value[70000];
  auto call = follow ? getxattr : lgetxattr;
  ssize_t n = call(path(w, 1), path(w, 2), value, sizeof value);
  if (n < 0) return strerrorname_np(errno);
  if (n > 100) return "long " + std::to_string(n);
  return "'" + std::string(value, static_cast<size_t>(n)) + "'";
}

std::string list_xattr(const Words& w) {
  char names[70000];
  ssize_t n = llistxattr(path(w, 1), names, sizeof names);
  if (n < 0) return strerrorname_np(errno);
  std::vector<std::string> sorted;
  for (ssize_t at = 0; at < n; at += static_cast<ssize_t>(strlen(names + at)) + 1) sorted.push_back(names + at);
  std::sort(sorted.begin(), sorted.end());
  std::string result = "[";
  for (const auto& name : sorted) result += name + " ";
  return result + "]";
}

/// setfacl OPTIONS... : the program, quietly
std::string set_acl(const Words& w) {
  std::string line = "setfacl";
  for (size_t i = 1; i < w.size(); ++i) line += " '" + w[i] + "'";
  return system((line + " 2>/dev/null").c_str()) == 0 ? "ok" : "failed";
}

std::string get_acl(const Words& w) {
  FILE* pipe = popen(("getfacl -cnpE '" + w.at(1) + "' 2>/dev/null").c_str(), "re");
  if (!pipe) return "failed";
  std::string text;
  for (int c; (c = fgetc(pipe)) != EOF;) text += c == '\n' ? ' ' : static_cast<char>(c);
  pclose(pipe);
  return text;
}

/// snap NAME remembers the times; changed NAME tells which of a, m, c have moved since.
std::string snap(const Words& w, OpenSlots* slots) {
  usleep(12000);  // so that the next change is in another tick of the kernel's clock
  return result_of(lstat(path(w, 1), &slots->snaps[w.at(1)]));
}

std::string changed(const Words& w, OpenSlots* slots) {
  struct stat now;
  if (lstat(path(w, 1), &now) != 0) return strerrorname_np(errno);
  const struct stat& then = slots->snaps.at(w.size() > 2 ? w[2] : w[1]);
  auto moved = [](const timespec& a, const timespec& b) { return a.tv_sec != b.tv_sec || a.tv_nsec != b.tv_nsec; };
  std::string result;
  if (moved(then.st_mtim, now.st_mtim)) result += 'm';
  if (moved(then.st_ctim, now.st_ctim)) result += 'c';
  return result.empty() ? "none" : result;
}

/// Commands on a descriptor that an "open SLOT NAME FLAGS [MODE]" left.
std::string on_descriptor(const Words& w, OpenSlots* slots) {
  const std::string& command = w[0];
  if (command == "fopen") {
    int fd = open(path(w, 2), open_flags(w.at(3)), w.size() > 4 ? mode(w, 4) : 0);
    if (fd >= 0) slots->files[w[1]] = fd;
    return result_of(fd);
  }
  auto found = slots->files.find(w.at(1));
  if (found == slots->files.end()) return "no slot";
  int fd = found->second;
  if (command == "fclose") {
    slots->files.erase(found);
    return result_of(close(fd));
  }
  struct stat st;
  if (command == "fstat") return fstat(fd, &st) != 0 ? strerrorname_np(errno) : show(st, w, 2);
  if (command == "fwrite") return number_or_error(write(fd, path(w, 2), w[2].size()));
  if (command == "pwrite") return number_or_error(pwrite(fd, path(w, 2), w[2].size(), number(w, 3)));
  if (command == "pread") {
    std::string data(static_cast<size_t>(number(w, 2)), '\0');
    ssize_t n = pread(fd, data.data(), data.size(), number(w, 3));
    if (n < 0) return strerrorname_np(errno);
    data.resize(static_cast<size_t>(n));
    std::replace(data.begin(), data.end(), '\0', '0');
    return "'" + data + "'";
  }
  if (command == "ftruncate") return result_of(ftruncate(fd, number(w, 2)));
  if (command == "fchmod") return result_of(fchmod(fd, mode(w, 2)));
  if (command == "fchown") {
    return result_of(fchown(fd, static_cast<uid_t>(number(w, 2)), static_cast<gid_t>(number(w, 3))));
  }
  if (command == "fsync") return result_of(fsync(fd));
  if (command == "fallocate") {
    return result_of(fallocate(fd, static_cast<int>(number(w, 2)), number(w, 3), number(w, 4)));
  }
  if (command == "seek") {
    int whence = w.at(2) == "data" ? SEEK_DATA : w[2] == "hole" ? SEEK_HOLE : SEEK_END;
    return number_or_error(lseek(fd, number(w, 3), whence));
  }
  if (command == "copyrange") {  // copyrange FROM TO OFFSET_FROM OFFSET_TO LENGTH
    off_t from = number(w, 3), to = number(w, 4);
    auto out = slots->files.find(w[2]);
    if (out == slots->files.end()) return "no slot";
    return number_or_error(copy_file_range(fd, &from, out->second, &to, static_cast<size_t>(number(w, 5)), 0));
  }
  if (command == "flags") {  // the inode's flags, as chattr sets them
    int flags = static_cast<int>(number(w, 2));
    return result_of(ioctl(fd, FS_IOC_SETFLAGS, &flags));
  }
  return "?" + command;
}

using Command = std::function<std::string(const Words&)>;

// Names as in the manual, section 2; arguments in the same order, modes octal.
const std::map<std::string, Command> kCommands{
    {"make", make},
    {"mkdir", [](const Words& w) { return result_of(mkdir(path(w, 1), mode(w, 2))); }},
    {"rmdir", [](const Words& w) { return result_of(rmdir(path(w, 1))); }},
    {"unlink", [](const Words& w) { return result_of(unlink(path(w, 1))); }},
    {"link", [](const Words& w) { return result_of(link(path(w, 1), path(w, 2))); }},
    {"symlink", [](const Words& w) { return result_of(symlink(path(w, 1), path(w, 2))); }},
    {"readlink", read_link},
    {"rename", [](const Words& w) { return result_of(rename(path(w, 1), path(w, 2))); }},
    {"rename2", rename2},
    {"mkfifo", [](const Words& w) { return result_of(mkfifo(path(w, 1), mode(w, 2))); }},
    {"mknod", [](const Words& w) {
       mode_t type = w.at(2) == "c" ? S_IFCHR : w[2] == "b" ? S_IFBLK : w[2] == "p" ? S_IFIFO
                     : w[2] == "s" ? S_IFSOCK : S_IFREG;
       return result_of(mknod(path(w, 1), type | mode(w, 3), makedev(number(w, 4), number(w, 5))));
     }},
    {"bind", bind_socket},
    {"open", open_and_close},
    {"create", [](const Words& w) { return open_and_close({w[0], w.at(1), "w,creat,excl", w.at(2)}); }},
    {"write", [](const Words& w) { return write_file(w, O_WRONLY); }},
    {"append", [](const Words& w) { return write_file(w, O_WRONLY | O_APPEND); }},
    {"overwrite", [](const Words& w) { return write_file(w, O_WRONLY | O_TRUNC); }},
    {"read", read_file},
    {"list", list},
    {"stat", [](const Words& w) { return do_stat(w, AT_SYMLINK_NOFOLLOW); }},
    {"statf", [](const Words& w) { return do_stat(w, 0); }},
    {"chmod", [](const Words& w) { return result_of(chmod(path(w, 1), mode(w, 2))); }},
    {"lchmod", [](const Words& w) {
       return result_of(fchmodat(AT_FDCWD, path(w, 1), mode(w, 2), AT_SYMLINK_NOFOLLOW));
     }},
    {"chown", [](const Words& w) {
       return result_of(chown(path(w, 1), static_cast<uid_t>(number(w, 2)), static_cast<gid_t>(number(w, 3))));
     }},
    {"lchown", [](const Words& w) {
       return result_of(lchown(path(w, 1), static_cast<uid_t>(number(w, 2)), static_cast<gid_t>(number(w, 3))));
     }},
    {"truncate", [](const Words& w) { return result_of(truncate(path(w, 1), number(w, 2))); }},
    {"utimens", utimens},
    {"access", [](const Words& w) { return result_of(access(path(w, 1), static_cast<int>(number(w, 2)))); }},
    {"chdir", [](const Words& w) {  // and back
       int here = open(".", O_PATH | O_CLOEXEC);
       std::string result = result_of(chdir(path(w, 1)));
       if (fchdir(here) != 0) abort();
       close(here);
       return result;
     }},
    {"setxattr", [](const Words& w) {
       int flags = w.size() > 4 ? static_cast<int>(number(w, 4)) : 0;
       return result_of(setxattr(path(w, 1), path(w, 2), path(w, 3), w[3].size(), flags));
     }},
    {"lsetxattr", [](const Words& w) {
       return result_of(lsetxattr(path(w, 1), path(w, 2), path(w, 3), w[3].size(), 0));
     }},
    {"getxattr", [](const Words& w) { return get_xattr(w, true); }},
    {"lgetxattr", [](const Words& w) { return get_xattr(w, false); }},
    {"xattrsize", [](const Words& w) { return number_or_error(getxattr(path(w, 1), path(w, 2), nullptr, 0)); }},
    {"listxattr", list_xattr},
    {"removexattr", [](const Words& w) { return result_of(removexattr(path(w, 1), path(w, 2))); }},
    {"lremovexattr", [](const Words& w) { return result_of(lremovexattr(path(w, 1), path(w, 2))); }},
    {"setfacl", set_acl},
    {"getfacl", get_acl},
    {"namemax", [](const Words& w) {
       struct statvfs st;
       return statvfs(path(w, 1), &st) == 0 ? std::to_string(st.f_namemax) : strerrorname_np(errno);
     }},
};

}  // namespace

std::string run_command(const Words& words, OpenSlots* slots) {
  if (words[0] == "snap") return snap(words, slots);
  if (words[0] == "changed") return changed(words, slots);
  auto known = kCommands.find(words[0]);
  return known != kCommands.end() ? known->second(words) : on_descriptor(words, slots);
}

void close_slots(OpenSlots* slots) {
  for (auto& [name, fd] : slots->files) close(fd);
  slots->files.clear();
}

}  // namespace shortfuse::passthrough::testing
