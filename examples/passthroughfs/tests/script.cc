#include "script.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "script_commands.h"

namespace shortfuse::passthrough::testing {
namespace {

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

[[noreturn]] void bad_script(const std::string& where, const std::string& what) {
  fprintf(stderr, "%s: %s\n", where.c_str(), what.c_str());
  abort();
}

void replace_all(std::string* text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text->find(from, at)) != std::string::npos; at += to.size()) {
    text->replace(at, from.size(), to);
  }
}

/// Fills one variable of every case.
std::vector<ScriptCase> multiply(const std::vector<ScriptCase>& cases, const std::string& assignment) {
  size_t equals = assignment.find('=');
  std::string variable = "$" + assignment.substr(0, equals);
  std::istringstream values(assignment.substr(equals + 1));
  std::vector<ScriptCase> result;
  for (std::string value; std::getline(values, value, ',');) {
    for (ScriptCase one : cases) {
      one.name += " " + variable.substr(1) + "=" + value;
      for (auto& line : one.lines) {
        replace_all(&line.text, variable, value);
        replace_all(&line.expected, variable, value);
      }
      result.push_back(std::move(one));
    }
  }
  return result;
}

/// {n255}, {p4096}
std::string expand(std::string word) {
  for (size_t open; (open = word.find('{')) != std::string::npos;) {
    size_t close = word.find('}', open);
    size_t length = strtoul(word.c_str() + open + 2, nullptr, 10);
    std::string text;
    if (word[open + 1] == 'n') text.assign(length, 'n');
    else while (text.size() < length) text += text.size() + 1 == length ? "/" : "./";
    word.replace(open, close - open + 1, text);
  }
  return word;
}

struct Actor {
  bool other = false;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  mode_t mask = 022;
};

/// Takes the u= g= G= m= words from the front.
Actor take_actor(std::vector<std::string>* words) {
  Actor actor;
  while (!words->empty() && words->front().size() > 2 && words->front()[1] == '=') {
    const std::string value = words->front().substr(2);
    switch (words->front()[0]) {
      case 'u': actor.uid = static_cast<uid_t>(atoi(value.c_str())); break;
      case 'g': actor.gid = static_cast<gid_t>(atoi(value.c_str())); break;
      case 'm': actor.mask = static_cast<mode_t>(strtoul(value.c_str(), nullptr, 8)); break;
      case 'G': {
        std::istringstream list(value);
        for (std::string group; std::getline(list, group, ',');) {
          actor.groups.push_back(static_cast<gid_t>(stoi(group)));
        }
        break;
      }
      default: return actor;
    }
    actor.other = true;
    words->erase(words->begin());
  }
  return actor;
}

std::string run_as(const Actor& actor, const std::vector<std::string>& words, OpenSlots* slots) {
  int pipes[2];
  if (pipe2(pipes, O_CLOEXEC) != 0) abort();
  pid_t child = fork();
  if (child == 0) {
    umask(actor.mask);
    if (setgroups(actor.groups.size(), actor.groups.data()) != 0 || setresgid(actor.gid, actor.gid, actor.gid) != 0 ||
        setresuid(actor.uid, actor.uid, actor.uid) != 0) {
      _exit(1);
    }
    std::string result = run_command(words, slots);
    if (write(pipes[1], result.data(), result.size()) < 0) _exit(1);
    _exit(0);
  }
  close(pipes[1]);
  std::string result;
  char block[4096];
  for (ssize_t n; (n = read(pipes[0], block, sizeof block)) > 0;) result.append(block, static_cast<size_t>(n));
  close(pipes[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return status == 0 ? result : "child failed";
}

}  // namespace

std::vector<ScriptCase> read_script(const std::string& file) {
  std::ifstream stream(file);
  if (!stream) bad_script(file, "cannot be read");
  std::vector<ScriptCase> all;
  std::vector<std::string> loops;
  ScriptCase current;
  auto flush = [&] {
    std::vector<ScriptCase> cases{current};
    for (const auto& loop : loops) cases = multiply(cases, loop);
    if (!current.lines.empty()) all.insert(all.end(), cases.begin(), cases.end());
    current = {};
    loops.clear();
  };
  int number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    auto words = words_of(line);
    if (words.empty() || words[0][0] == '#') continue;
    if (words[0] == "case") {
      flush();
      current.name = words.at(1);
      for (size_t i = 2; i + 1 < words.size(); i += 2) loops.push_back(words[i + 1]);
      continue;
    }
    size_t result = line.find(" = ");
    current.lines.push_back({number, line.substr(0, result),
                             result == std::string::npos ? "" : line.substr(result + 3)});
  }
  flush();
  return all;
}

std::vector<std::string> run_script(const ScriptCase& script, const std::string& directory) {
  std::vector<std::string> results;
  if (chdir(directory.c_str()) != 0) bad_script(directory, "cannot be entered");
  OpenSlots slots;
  for (const auto& line : script.lines) {
    auto words = words_of(line.text);
    Actor actor = take_actor(&words);
    for (auto& word : words) word = expand(word);
    umask(022);
    results.push_back(actor.other ? run_as(actor, words, &slots) : run_command(words, &slots));
  }
  close_slots(&slots);
  if (chdir("/") != 0) abort();
  return results;
}

}  // namespace shortfuse::passthrough::testing
