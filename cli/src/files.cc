#include "files.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "control.h"

namespace shortfuse::cli {

namespace fs = std::filesystem;

namespace {

bool is_file(const std::string &path) {
  std::error_code failed;
  return fs::is_regular_file(path, failed);
}

std::string absolute(const std::string &path) {
  std::error_code failed;
  const auto result = fs::absolute(path, failed).lexically_normal();
  return failed ? path : result.string();
}

/// Reads exactly `bytes` bytes at `offset`.
bool read_at(int fd, void *into, size_t bytes, uint64_t offset) {
  return pread(fd, into, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes);
}

constexpr uint64_t kDynamicMax = 1 << 20;  ///< bytes of a dynamic section or string table that we look at

/// The program headers of a 64-bit ELF file; empty when it is none.
std::vector<Elf64_Phdr> program_headers(int fd) {
  Elf64_Ehdr head;
  if (!read_at(fd, &head, sizeof head, 0) || memcmp(head.e_ident, ELFMAG, SELFMAG) != 0) return {};
  if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_phentsize != sizeof(Elf64_Phdr)) return {};
  std::vector<Elf64_Phdr> table(head.e_phnum);
  if (!read_at(fd, table.data(), table.size() * sizeof(Elf64_Phdr), head.e_phoff)) return {};
  return table;
}

std::optional<uint64_t> file_offset(const std::vector<Elf64_Phdr> &table, uint64_t address) {
  for (const auto &p : table) {
    if (p.p_type == PT_LOAD && address >= p.p_vaddr && address - p.p_vaddr < p.p_filesz) {
      return address - p.p_vaddr + p.p_offset;
    }
  }
  return std::nullopt;
}

std::vector<std::string> needed_libraries(int fd, const std::vector<Elf64_Phdr> &table) {
  const auto dynamic = std::find_if(table.begin(), table.end(), [](const auto &p) { return p.p_type == PT_DYNAMIC; });
  if (dynamic == table.end() || dynamic->p_filesz > kDynamicMax) return {};
  std::vector<Elf64_Dyn> entries(dynamic->p_filesz / sizeof(Elf64_Dyn));
  if (!read_at(fd, entries.data(), entries.size() * sizeof(Elf64_Dyn), dynamic->p_offset)) return {};
  uint64_t address = 0, bytes = 0;
  for (const auto &e : entries) {
    if (e.d_tag == DT_STRTAB) address = e.d_un.d_ptr;
    if (e.d_tag == DT_STRSZ) bytes = e.d_un.d_val;
  }
  const auto offset = file_offset(table, address);
  if (!offset || bytes == 0 || bytes > kDynamicMax) return {};
  std::string strings(bytes, '\0');
  if (!read_at(fd, strings.data(), strings.size(), *offset)) return {};
  std::vector<std::string> names;
  for (const auto &e : entries) {
    if (e.d_tag == DT_NEEDED && e.d_un.d_val < bytes) names.emplace_back(strings.c_str() + e.d_un.d_val);
  }
  return names;
}

/// The interpreter that a "#!" line names; "" when the file is no script.
std::string script_interpreter(int fd) {
  char line[256] = {};
  const ssize_t got = pread(fd, line, sizeof line - 1, 0);
  if (got < 3 || line[0] != '#' || line[1] != '!') return "";
  std::string_view rest(line + 2, static_cast<size_t>(got) - 2);
  rest = rest.substr(0, rest.find('\n'));
  const size_t begin = rest.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return "";
  rest.remove_prefix(begin);
  return std::string(rest.substr(0, rest.find_first_of(" \t\r")));
}

/// Fills everything but `path`. One script may name another; the kernel follows a few, so do we.
void inspect_elf(const std::string &file, Program &program, int depth = 0) {
  const Fd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return;  // execute permission without read permission: nothing can be said
  if (const std::string interpreter = script_interpreter(fd.get()); !interpreter.empty() && depth < 4) {
    inspect_elf(interpreter, program, depth + 1);
    return;
  }
  const auto table = program_headers(fd.get());
  if (table.empty()) return;
  program.elf = file;
  program.is_static = std::none_of(table.begin(), table.end(), [](const auto &p) { return p.p_type == PT_INTERP; });
  program.needed = needed_libraries(fd.get(), table);
  struct stat st{};
  const bool by_mode = fstat(fd.get(), &st) == 0 && (st.st_mode & (S_ISUID | S_ISGID)) != 0 &&
                       (st.st_uid != geteuid() || (st.st_mode & S_ISGID) != 0);
  program.is_privileged = by_mode || (geteuid() != 0 && fgetxattr(fd.get(), "security.capability", nullptr, 0) > 0);
}

std::optional<std::string> search_path(const std::string &name, bool &seen) {
  const char *variable = getenv("PATH");
  std::string_view path = variable != nullptr ? variable : "/bin:/usr/bin";
  while (true) {
    const size_t colon = path.find(':');
    const std::string directory(path.substr(0, colon));
    const std::string candidate = (directory.empty() ? "." : directory) + "/" + name;
    if (is_file(candidate)) {
      seen = true;
      if (access(candidate.c_str(), X_OK) == 0) return candidate;
    }
    if (colon == std::string_view::npos) return std::nullopt;
    path.remove_prefix(colon + 1);
  }
}

}  // namespace

std::string own_directory() {
  std::error_code failed;
  const auto self = fs::read_symlink("/proc/self/exe", failed);
  return failed ? "" : self.parent_path().string();
}

std::expected<std::string, std::string> find_library(const std::string &executable_directory, const std::string &name) {
  const std::string root = fs::path(executable_directory).parent_path().string();
  const std::string candidates[] = {root + "/lib/" + name, root + "/" SF_LIBDIR "/" + name,
                                    SF_INSTALL_LIBDIR "/" + name};
  for (const auto &candidate : candidates) {
    if (is_file(candidate)) return candidate;
  }
  return std::unexpected(name + " is not there; looked for " + candidates[0] + " and " + candidates[2]);
}

std::expected<std::string, std::string> find_include_directory(const std::string &executable_directory) {
  const std::string candidates[] = {fs::path(executable_directory).parent_path().string() + "/include",
                                    SF_INSTALL_INCLUDEDIR};
  for (const auto &candidate : candidates) {
    if (is_file(candidate + "/shortfuse/policy.h")) return candidate;
  }
  return std::unexpected("shortfuse/policy.h is not there; looked in " + candidates[0] + " and " + candidates[1]);
}

std::expected<std::string, std::string> find_policy(const std::string &executable_directory, const std::string &name) {
  if (name.empty()) return std::unexpected("an empty path in the policy chain");
  const std::string given = absolute(name);
  if (is_file(given)) return given;
  if (name.find('/') == std::string::npos) {
    const std::string root = fs::path(executable_directory).parent_path().string();
    const std::string file = name.ends_with(".o") ? name : name + ".bpf.o";
    for (const std::string &directory : {root + "/policies", root + "/share/shortfuse/policies"}) {
      if (is_file(directory + "/" + file)) return directory + "/" + file;
    }
    return std::unexpected(name + ": no such policy, neither here nor among those that come with shortfuse");
  }
  std::error_code failed;
  return std::unexpected(name + (fs::exists(given, failed) ? ": not a file" : ": no such policy file"));
}

std::expected<std::vector<std::string>, std::string> find_chain(const std::string &executable_directory,
                                                                std::string_view chain) {
  std::vector<std::string> paths;
  while (true) {
    const size_t colon = chain.find(':');
    auto path = find_policy(executable_directory, std::string(chain.substr(0, colon)));
    if (!path) return std::unexpected(path.error());
    // Both characters separate: in a chain, and in a list of mount options.
    if (path->find_first_of(",:") != std::string::npos) {
      return std::unexpected(*path + ": the path of a policy must not contain ':' or ','");
    }
    paths.push_back(std::move(*path));
    if (colon == std::string_view::npos) return paths;
    chain.remove_prefix(colon + 1);
  }
}

std::expected<std::string, std::string> preload_value(const std::string &library, const char *before) {
  if (library.find_first_of(" :") != std::string::npos) {
    return std::unexpected(library + ": LD_PRELOAD cannot hold a path with a space or a colon; move shortfuse");
  }
  std::string value = library;
  std::string_view rest = before != nullptr ? before : "";
  while (!rest.empty()) {
    const size_t end = std::min(rest.find_first_of(" :"), rest.size());
    const std::string_view word = rest.substr(0, end);
    if (!word.empty() && word != library) value.append(":").append(word);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return value;
}

void set_preload(const std::string &value) {
  setenv("LD_PRELOAD", value.c_str(), 1);
  const char *before = getenv("ASAN_OPTIONS");
  std::string options = before != nullptr ? before : "";
  if (options.find("verify_asan_link_order") != std::string::npos) return;
  options += options.empty() ? "verify_asan_link_order=0" : ":verify_asan_link_order=0";
  setenv("ASAN_OPTIONS", options.c_str(), 1);
}

std::expected<Program, NoProgram> inspect_program(const std::string &name) {
  Program program;
  if (name.find('/') != std::string::npos) {
    std::error_code failed;
    if (!fs::exists(name, failed)) return std::unexpected(NoProgram{127, name + ": no such program"});
    if (!is_file(name) || access(name.c_str(), X_OK) != 0) {
      return std::unexpected(NoProgram{126, name + ": not an executable file"});
    }
    program.path = name;
  } else {
    bool seen = false;
    auto found = search_path(name, seen);
    if (!found && seen) return std::unexpected(NoProgram{126, name + ": found in PATH, but not executable"});
    if (!found) return std::unexpected(NoProgram{127, name + ": no such program in PATH"});
    program.path = std::move(*found);
  }
  inspect_elf(program.path, program);
  return program;
}

}  // namespace shortfuse::cli
