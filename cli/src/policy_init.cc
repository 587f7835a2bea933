// `shortfuse policy init`: a policy project that builds, tests itself and says what it does.
#include <errno.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "commands.h"
#include "files.h"
#include "policy_templates.h"

namespace shortfuse::cli {

namespace {

constexpr size_t kNameMax = 40;

struct Kind { const char *name, *source, *test, *purpose; };

constexpr Kind kKinds[] = {
    {"cache", kCacheSource, kCacheTest, "It keeps names and attributes in shared memory, and answers from there."},
    {"deny", kDenySource, kDenyTest, "It keeps everybody away from the paths on its list."},
    {"count", kCountSource, kCountTest, "It counts the requests that reach the daemon, and changes nothing."},
};

std::string replace_all(std::string text, const std::string &what, const std::string &with) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size())
    text.replace(at, what.size(), with);
  return text;
}

bool good_name(const std::string &name) {
  return !name.empty() && name.size() <= kNameMax && name[0] != '-' &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
             std::string::npos;
}

std::expected<void, std::string> write_file(const std::string &path, const std::string &text, bool executable) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  if (!out || (executable && chmod(path.c_str(), 0755) != 0))
    return std::unexpected(path + ": " + strerror(errno));
  return {};
}

std::expected<void, std::string> init(const Context &context, const std::string &directory,
                                      const std::string &kind_name) {
  const std::string trimmed = directory.substr(0, directory.find_last_not_of('/') + 1);
  const std::string name = trimmed.substr(trimmed.find_last_of('/') + 1);
  if (!good_name(name))
    return std::unexpected("\"" + name + "\": a name of up to 40 letters, digits, - and _ is expected");
  const Kind *kind = nullptr;
  for (const Kind &k : kKinds) {
    if (kind_name == k.name) kind = &k;
  }
  if (!kind) return std::unexpected("there is no kind \"" + kind_name + "\"; there are cache, deny and count");
  const auto include = find_include_directory(context.executable_directory);
  if (!include) return std::unexpected(include.error());
  if (mkdir(trimmed.c_str(), 0777) != 0) {
    return std::unexpected(errno == EEXIST ? trimmed + " is already there; nothing was written"
                                           : trimmed + ": " + strerror(errno));
  }
  struct File { std::string path, text; bool executable; };
  const File files[] = {{name + ".bpf.c", kind->source, false}, {"Makefile", kMakefile, false},
                        {"test.sh", std::string(kTestBegin) + kind->test, true}, {"README.md", kReadme, false}};
  for (const File &file : files) {
    std::string text = replace_all(file.text.substr(file.text.find_first_not_of('\n')), "@NAME@", name);
    text = replace_all(text, "@PURPOSE@", kind->purpose);
    text = replace_all(text, "@INCLUDE@", *include);
    text = replace_all(text, "@SHORTFUSE@", context.executable_directory + "/shortfuse");
    if (auto ok = write_file(trimmed + "/" + file.path, text, file.executable); !ok) return ok;
  }
  fmt::print("{}: a policy of kind {}. Next:\n  cd {}\n  make test\nand read {}.bpf.c.\n", trimmed, kind->name,
             trimmed, name);
  return {};
}

}  // namespace

int policy_init_command(const Context &context, const std::string &name, const std::string &kind) {
  if (auto ok = init(context, name, kind); !ok) return complain("policy init", ok.error()), 1;
  return 0;
}

}  // namespace shortfuse::cli
