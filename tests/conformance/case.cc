// Files, saying and doing. See case.h.
#include "conformance/case.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace shortfuse::tests::conformance {

std::vector<Case> all_cases() {
  std::vector<Case> all;
  for (auto cases : {descriptor_cases, open_cases, reading_cases, transfer_cases, lock_cases, passing_cases,
                     directory_cases, async_cases, process_cases, exec_cases, thread_cases, signal_cases, module_cases,
                     identity_cases}) {
    for (auto &one : cases()) all.push_back(std::move(one));
  }
  return all;
}

namespace {

std::string numbered_lines(size_t bytes) {
  std::string text;
  for (unsigned i = 0; text.size() < bytes; ++i) {
    char line[32];
    std::snprintf(line, sizeof line, "line %04u\n", i);
    text += line;
  }
  text.resize(bytes);
  return text;
}

void make_sparse(const std::string &path) {
  constexpr off_t kPiece = 65536;
  int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644);
  std::string piece = numbered_lines(kPiece);
  bool made = fd >= 0 && pwrite(fd, piece.data(), kPiece, 0) == kPiece &&
              pwrite(fd, piece.data(), kPiece, 10 * kPiece) == kPiece && fsync(fd) == 0;
  close(fd);
  if (!made) throw Broken("cannot make " + path);
}

void must(int result, const std::string &what) {
  if (result != 0) throw Broken(what + ": " + strerror(errno));
}

}  // namespace

void plant(const std::string &dir) {
  umask(022);
  for (const char *below : {"", "/dir", "/sub", "/sub/inner"}) {
    must(mkdir((dir + below).c_str(), 0755), dir + below);
  }
  write_file(dir + "/text", numbered_lines(10'000));
  write_file(dir + "/big", numbered_lines(300'000));
  make_sparse(dir + "/sparse");
  write_file(dir + "/empty", "");
  write_file(dir + "/sub/inner/leaf", "a leaf\n");
  write_file(dir + "/secret", "for its owner\n");
  must(chmod((dir + "/secret").c_str(), 0600), "chmod");
  write_file(dir + "/script",
             "#!/bin/sh\necho \"script: $# ${1##*/}\"\nread -r line <&5 && echo \"script: $line\"\nexit 7\n");
  must(chmod((dir + "/script").c_str(), 0755), "chmod");
  must(symlink("text", (dir + "/link").c_str()), "link");
  must(symlink("nothing", (dir + "/dangling").c_str()), "dangling");
  must(symlink("loop", (dir + "/loop").c_str()), "loop");
  for (unsigned i = 0; i < 120; ++i) {
    char name[32];
    std::snprintf(name, sizeof name, "/dir/file%03u", i);
    write_file(dir + name, "number " + std::to_string(i) + "\n");
  }
  must(setxattr((dir + "/text").c_str(), "user.note", "a note", 6, 0), "setxattr");
}

void warm(const std::string &dir) {
  struct stat st;
  char buffer[65536];
  stat(dir.c_str(), &st);
  DIR *listing = opendir(dir.c_str());
  if (listing == nullptr) throw Broken("cannot list " + dir);
  for (dirent *entry; (entry = readdir(listing)) != nullptr;) {
    std::string name = entry->d_name, path = dir + "/" + name;
    if (name == "." || name == "..") continue;
    if (lstat(path.c_str(), &st) != 0) continue;
    if (S_ISDIR(st.st_mode)) warm(path);
    if (S_ISLNK(st.st_mode) && readlink(path.c_str(), buffer, sizeof buffer) > 0) stat(path.c_str(), &st);
    if (!S_ISREG(st.st_mode)) continue;
    getxattr(path.c_str(), "user.note", buffer, sizeof buffer);
    int fd = open(path.c_str(), O_RDONLY);
    while (read(fd, buffer, sizeof buffer) > 0) continue;
    close(fd);
  }
  closedir(listing);
}

// ---- saying

void say(const char *key, const char *format, ...) {
  char line[2048];
  int at = std::snprintf(line, sizeof line, "%s: ", key);
  va_list arguments;
  va_start(arguments, format);
  at += std::vsnprintf(line + at, sizeof line - static_cast<size_t>(at) - 1, format, arguments);
  va_end(arguments);
  if (at > static_cast<int>(sizeof line) - 2) at = sizeof line - 2;
  line[at++] = '\n';
  // One call, on a descriptor with O_APPEND: lines of several processes do not mix.
  if (write(STDOUT_FILENO, line, static_cast<size_t>(at)) != at) _exit(124);
}

std::string outcome(long result) {
  if (result != -1) return std::to_string(result);
  const char *name = strerrorname_np(errno);
  return name != nullptr ? name : "errno " + std::to_string(errno);
}

std::string digest(std::string_view bytes) {
  uint64_t hash = 14695981039346656037ull;
  for (unsigned char byte : bytes) hash = (hash ^ byte) * 1099511628211ull;
  std::string start;
  for (char byte : bytes.substr(0, 12)) start += byte >= ' ' && byte <= '~' ? byte : '.';
  char text[100];
  std::snprintf(text, sizeof text, "%zu bytes, %016llx \"%s\"", bytes.size(), static_cast<unsigned long long>(hash),
                start.c_str());
  return text;
}

// ---- doing

std::string reads(int fd, size_t bytes) {
  std::string buffer(bytes, '\0');
  ssize_t got = read(fd, buffer.data(), bytes);
  if (got < 0) return outcome(-1);
  return digest(std::string_view(buffer).substr(0, static_cast<size_t>(got)));
}

std::string contents(const std::string &path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return outcome(-1);
  std::string all;
  char buffer[10'007];
  ssize_t got;
  while ((got = read(fd, buffer, sizeof buffer)) > 0) all.append(buffer, static_cast<size_t>(got));
  std::string result = got < 0 ? outcome(-1) : digest(all);
  close(fd);
  return result;
}

std::string state_of(int fd) { return fcntl(fd, F_GETFD) >= 0 ? "open" : outcome(-1); }
long position(int fd) { return lseek(fd, 0, SEEK_CUR); }

std::string status_text(int status) {
  if (WIFSIGNALED(status)) return "signal " + std::to_string(WTERMSIG(status));
  return "exit " + std::to_string(WEXITSTATUS(status));
}

std::string ended(long pid) {
  int status = 0;
  if (pid < 0) return outcome(-1);
  while (waitpid(static_cast<pid_t>(pid), &status, 0) < 0) {
    if (errno != EINTR) return outcome(-1);
  }
  return status_text(status);
}

std::string in_child(const std::function<void()> &function) {
  pid_t pid = fork();
  if (pid == 0) {
    function();
    _exit(0);
  }
  return ended(pid);
}

std::vector<std::string> worker_command(std::string_view name, std::vector<std::string> args) {
  std::vector<std::string> command = {own_program(), "--worker", std::string(name)};
  command.insert(command.end(), args.begin(), args.end());
  return command;
}

std::vector<char *> pointers(std::vector<std::string> &strings) {
  std::vector<char *> result;
  for (auto &text : strings) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

std::string built(std::string_view name) { return SF_BUILD_DIR "/tests/" + std::string(name); }

}  // namespace shortfuse::tests::conformance
