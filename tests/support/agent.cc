#include "support/agent.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sstream>
#include <vector>

#include "support/calls.h"
#include "support/control.h"

namespace shortfuse::tests {

namespace {

std::string error_name(long result) {
  const char *name = strerrorname_np(static_cast<int>(-result));
  return name != nullptr ? name : std::to_string(result);
}

std::string number_or_error(long result) { return result < 0 ? error_name(result) : std::to_string(result); }

std::string stat_text(long result, const struct stat &st) {
  if (result < 0) return error_name(result);
  char text[100];
  std::snprintf(text, sizeof text, "%o %ld %u", st.st_mode, S_ISDIR(st.st_mode) ? 0l : static_cast<long>(st.st_size),
                st.st_uid);
  return text;
}

long open_by(Via via, const std::string &path, int flags) {
  if (via == Via::Raw) return raw(__NR_openat, AT_FDCWD, path.c_str(), flags);
  int fd = open(path.c_str(), flags);
  return fd < 0 ? -errno : fd;
}

std::string contents_by(Via via, long fd) {
  std::string text;
  char buffer[3000];
  for (off_t at = 0;;) {
    long got = call_pread(via, static_cast<int>(fd), buffer, sizeof buffer, at);
    if (got < 0) return error_name(got);
    if (got == 0) return text;
    text.append(buffer, static_cast<size_t>(got));
    at += got;
  }
}

std::string listing_by(Via via, int fd) {
  std::vector<std::string> names;
  alignas(8) char buffer[5000];
  for (;;) {
    long got = call_getdents(via, fd, buffer, sizeof buffer);
    if (got < 0) return error_name(got);
    if (got == 0) break;
    for (long at = 0; at < got;) {
      const auto *entry = reinterpret_cast<const dirent64 *>(buffer + at);
      std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
      at += entry->d_reclen;
    }
  }
  std::sort(names.begin(), names.end());
  std::string text;
  for (const auto &name : names) text += (text.empty() ? "" : " ") + name;
  return text;
}

class Answering {
 public:
  std::string answer(const std::string &question) {
    std::istringstream words(question);
    std::string verb, path, more;
    words >> verb >> path;
    std::getline(words >> std::ws, more);
    if (auto changed = change(verb, path, more)) return *changed;
    std::string libc = look(Via::Libc, verb, path, more), kernel = look(Via::Raw, verb, path, more);
    if (libc != kernel) return "MISMATCH libc: " + libc + " kernel: " + kernel;
    return libc;
  }

 private:
  std::string look(Via via, const std::string &verb, const std::string &path, const std::string &more) {
    const char *name = path.c_str();
    struct stat st {};
    char buffer[4096];
    if (verb == "stat") return stat_text(call_stat(via, name, &st), st);
    if (verb == "lstat") return stat_text(call_lstat(via, name, &st), st);
    if (verb == "fstat") return stat_text(call_fstat(via, held_, &st), st);
    if (verb == "access") return number_or_error(call_access(via, name, std::atoi(more.c_str())));
    if (verb == "reread") return contents_by(via, held_);
    if (verb == "readlink") return bytes_or_error(call_readlink(via, name, buffer, sizeof buffer), buffer);
    if (verb == "getxattr") {
      return bytes_or_error(call_getxattr(via, Follow::Yes, -1, name, more.c_str(), buffer, sizeof buffer), buffer);
    }
    if (verb == "statfs") {
      struct statfs figures {};
      long result = call_statfs(via, name, &figures);
      return result < 0 ? error_name(result) : std::to_string(figures.f_type) + " " + std::to_string(figures.f_blocks);
    }
    if (verb == "read" || verb == "list") {
      long fd = open_by(via, path, O_RDONLY | O_CLOEXEC | (verb == "list" ? O_DIRECTORY : 0));
      if (fd < 0) return error_name(fd);
      std::string text = verb == "list" ? listing_by(via, static_cast<int>(fd)) : contents_by(via, fd);
      close(static_cast<int>(fd));
      return text;
    }
    if (verb == "relist") {
      call_lseek(via, held_, 0, SEEK_SET);
      return listing_by(via, held_);
    }
    return "unknown question " + verb;
  }

  std::optional<std::string> change(const std::string &verb, const std::string &path, const std::string &more) {
    const char *name = path.c_str();
    auto result = [](long value) { return number_or_error(value < 0 ? -errno : 0); };
    if (verb == "hold" || verb == "holddir") {
      if (held_ >= 0) close(held_);
      held_ = open(name, O_RDONLY | O_CLOEXEC);
      return result(held_);
    }
    if (verb == "release") {
      long closed = close(held_);
      held_ = -1;
      return result(closed);
    }
    if (verb == "create" || verb == "write") {
      int fd = open(name, O_WRONLY | O_CLOEXEC | (verb == "create" ? O_CREAT | O_EXCL : O_TRUNC), 0644);
      if (fd < 0) return result(fd);
      std::string outcome = result(::write(fd, more.data(), more.size()));
      close(fd);
      return outcome;
    }
    if (verb == "unlink") return result(unlink(name));
    if (verb == "mkdir") return result(mkdir(name, 0755));
    if (verb == "chdir") return result(chdir(name));
    if (verb == "seteuid") return result(seteuid(static_cast<uid_t>(std::atoi(name))));
    if (verb == "groups") {
      gid_t group = static_cast<gid_t>(std::atoi(name));
      return result(setgroups(1, &group));
    }
    return std::nullopt;
  }

  static std::string bytes_or_error(long result, const char *bytes) {
    return result < 0 ? error_name(result) : std::string(bytes, static_cast<size_t>(result));
  }

  int held_ = -1;
};

SF_WORKER(agent) {
  Shared<Agent::Slate> slate(args.at(0));
  Answering answering;
  for (;;) {
    if (!slate->turn.await(1, slate->stop)) return 0;
    std::string answer = answering.answer(slate->question);
    answer.resize(std::min(answer.size(), sizeof slate->answer - 1));
    std::memcpy(slate->answer, answer.c_str(), answer.size() + 1);
    slate->turn.set(0);
  }
}

}  // namespace

Agent::Agent(const TempDir &temp, const Options &options) {
  static unsigned number = 0;
  directory_ = temp.dir("agent" + std::to_string(number++));
  slate_ = std::make_unique<Shared<Slate>>(directory_ + "/slate");
  Spec spec = worker("agent", {directory_ + "/slate"}, options.hooked);
  spec.report = directory_ + "/report";
  spec.uid = options.uid;
  spec.env = options.env;
  // The kernel is asked about descriptors that libc opened, by calls that nobody sees: it has to have them open.
  spec.env.emplace("SHORTFUSE_OPEN", "kernel");
  if (options.uid) {
    for (const auto &path : {directory_, directory_ + "/slate"}) {
      if (chown(path.c_str(), *options.uid, *options.uid) != 0) throw Broken("chown " + path);
    }
  }
  process_ = Process(spec);
}

std::string Agent::ask(const std::string &question) {
  Slate &slate = **slate_;
  if (question.size() >= sizeof slate.question) throw Broken("question too long");
  std::memcpy(slate.question, question.c_str(), question.size() + 1);
  slate.turn.set(1);
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!slate.turn.await_briefly(0)) {
    if (!process_.running()) throw Broken("the agent died, asked: " + question);
    if (std::chrono::steady_clock::now() > end) throw Broken("no answer to: " + question);
  }
  return slate.answer;
}

std::string Agent::ask_until(const std::string &question, const std::string &wanted) {
  std::string answer;
  eventually([&] { return (answer = ask(question)) == wanted; });
  return answer;
}

std::string Agent::ask_often(const std::string &question, unsigned times) {
  std::string first = ask(question);
  for (unsigned i = 1; i < times; ++i) {
    std::string next = ask(question);
    if (next != first) return "MISMATCH first " + first + " later " + next;
  }
  return first;
}

bool Agent::comes_to_be_served(Mount &mount, const std::string &question) {
  const pid_t daemon = mount.daemon().pid();
  return eventually([&] {
    ask(question);
    return served_to(process_.pid(), daemon) > 0;
  });
}

Report Agent::finish() {
  Slate &slate = **slate_;
  slate.stop.store(1);
  slate.turn.set(2);
  int status = process_.wait(std::chrono::seconds(20));
  if (status != 0) throw Broken("the agent ended with status " + std::to_string(status));
  return Report::read(directory_ + "/report");
}

}  // namespace shortfuse::tests
