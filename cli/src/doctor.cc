// `shortfuse doctor`: what this machine lacks, what that costs, and what to do about it.
//
// Every check is made by trying, where trying changes nothing; none needs a mount. A check that is `vital` and fails
// means that nothing can be accelerated here; every other one costs speed or a feature, and says which.
#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/membarrier.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands.h"
#include "control.h"
#include "files.h"
#include "mounts.h"

namespace shortfuse::cli {

namespace {

namespace fs = std::filesystem;

enum class State { Ok, Missing };

struct Check {
  std::string name;
  State state;
  std::string found;   ///< what there is
  std::string cost;    ///< of its lack; "" when Ok
  std::string remedy;  ///< "" when Ok
  bool vital = false;
};

Check ok(std::string name, std::string found) {
  return {.name = std::move(name), .state = State::Ok, .found = std::move(found)};
}

Check check_machine() {
  utsname name{};
  uname(&name);
  int major = 0, minor = 0;
  sscanf(name.release, "%d.%d", &major, &minor);
  const bool new_enough = major > 5 || (major == 5 && minor >= 8);
  const bool x86 = std::string_view(name.machine) == "x86_64";
  const std::string found = fmt::format("Linux {} on {}", name.release, name.machine);
  if (new_enough && x86) return ok("kernel", found);
  return {"kernel", State::Missing, found, "the hook recognises mounts by statx's mount id (Linux 5.8), on x86-64 only",
          x86 ? "a kernel of 5.8 or later" : "none yet", true};
}

Check check_dev_fuse() {
  const Fd fd(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (fd) return ok("/dev/fuse", "can be opened");
  const std::string why = strerror(errno);
  return {"/dev/fuse", State::Missing, why, "nothing can be mounted by this user",
          errno == ENOENT ? "modprobe fuse; in a container: --device /dev/fuse"
                          : "chmod 666 /dev/fuse (Debian's default), or root",
          true};
}

Check check_fusermount() {
  const auto program = inspect_program("fusermount3");
  if (program && (geteuid() == 0 || program->is_privileged)) return ok("fusermount3", program->path);
  const std::string found = program ? program->path + " is not set-user-ID root" : "not in PATH";
  const bool vital = geteuid() != 0;
  return {"fusermount3", State::Missing, found,
          vital ? "only root can mount" : "other users cannot mount; unmounting as a user", "apt-get install fuse3",
          vital};
}

Check check_libfuse() {
  void *library = dlopen("libfuse3.so.3", RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) {
    return {"libfuse3", State::Missing, "libfuse3.so.3 is not there", "passthroughfs and other daemons do not start",
            "apt-get install libfuse3-3", true};
  }
  const auto version = reinterpret_cast<const char *(*)()>(dlsym(library, "fuse_pkgversion"));
  const bool has_custom_io = dlsym(library, "fuse_session_custom_io") != nullptr;
  const std::string found = version != nullptr ? version() : "of unknown version";
  dlclose(library);
  if (has_custom_io) return ok("libfuse3", found);
  return {"libfuse3", State::Missing, found, "no daemon can be accelerated: fuse_session_custom_io is missing",
          "libfuse 3.14 or later", true};
}

/// Whether a daemon of this user could make its registry directory, without making it.
std::optional<std::string> usable_registry(const std::string &directory) {
  struct stat st{};
  if (lstat(directory.c_str(), &st) == 0) {
    const bool ours = S_ISDIR(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 022) == 0;
    if (ours) return directory;
    return std::nullopt;
  }
  if (access(fs::path(directory).parent_path().c_str(), W_OK | X_OK) == 0) return directory + " (will be made)";
  return std::nullopt;
}

Check check_registry(const Context &context) {
  for (const auto &directory : context.registry) {
    if (directory == SF_REGISTRY_ROOT && geteuid() != 0) continue;
    if (const auto usable = usable_registry(directory)) return ok("registry directory", *usable);
  }
  return {"registry directory", State::Missing, "none of the usual places can be used",
          "programs cannot find accelerated mounts",
          fmt::format("make {} your own, with mode 700", context.registry.back()), true};
}

Check check_sealing() {
  const Fd fd(memfd_create("shortfuse-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (fd && ftruncate(fd.get(), 4096) == 0 &&
      fcntl(fd.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
    return ok("sealed memfd", "F_SEAL_FUTURE_WRITE works");
  }
  return {"sealed memfd", State::Missing, strerror(errno), "the cache cannot be shared safely, so it is not shared",
          "a kernel of 5.1 or later that allows memfd_create", true};
}

Check no_handles() {
  return {"name_to_handle_at", State::Missing, strerror(errno),
          "descriptors are not recognised: reads go to the kernel",
          "allow the call in the container's seccomp profile"};
}

/// How the hook learns which node a descriptor is: on a FUSE mount, if one is at hand.
Check check_handles() {
  struct {
    file_handle head;
    unsigned char bytes[128];
  } handle;
  const auto table = mount_table();
  for (const auto &entry : table) {
    if (!entry.is_fuse()) continue;
    const Fd fd(open(entry.point.c_str(), O_PATH | O_CLOEXEC));
    if (!fd) continue;
    handle.head.handle_bytes = sizeof handle.bytes;
    int mount_id = 0;
    if (name_to_handle_at(fd.get(), "", &handle.head, &mount_id, AT_EMPTY_PATH) == 0) {
      return ok("name_to_handle_at", "works on " + entry.point);
    }
    if (errno != EPERM && errno != ENOSYS) continue;  // this file system has none; another may
    return no_handles();
  }
  handle.head.handle_bytes = sizeof handle.bytes;
  int mount_id = 0;
  if (name_to_handle_at(AT_FDCWD, "/", &handle.head, &mount_id, 0) != 0 && (errno == EPERM || errno == ENOSYS)) {
    return no_handles();
  }
  return ok("name_to_handle_at", "allowed (no FUSE mount here to try it on)");
}

Check check_membarrier() {
  const long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
  if (commands > 0 && (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE) != 0) {
    return ok("membarrier", "expedited, with core synchronisation");
  }
  return {"membarrier", State::Missing, commands < 0 ? strerror(errno) : "without core synchronisation",
          "code patched after threads exist relies on the processor alone", "CONFIG_MEMBARRIER in the kernel"};
}

Check check_jit(const Context &context) {
  const std::string cost = "policies are interpreted instead of compiled";
  const auto path = find_library(context.executable_directory, "libshortfuse-jit.so");
  if (!path) {
    return {"compiler for policies", State::Missing, path.error(), cost, "build or install libshortfuse-jit.so"};
  }
  void *library = dlopen(path->c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (library != nullptr) return ok("compiler for policies", *path);  // left loaded: unloading LLVM is not safe
  return {"compiler for policies", State::Missing, dlerror(), cost, "apt-get install libllvm19"};
}

/// The hook rewrites system call sites in its own process's libc: may code pages be changed here? Tried in a child.
Check check_patching() {
  const pid_t child = fork();
  if (child == 0) {
    const long page = sysconf(_SC_PAGESIZE);
    const auto address = reinterpret_cast<uintptr_t>(dlsym(RTLD_DEFAULT, "getppid"));
    void *code = reinterpret_cast<void *>(address & ~static_cast<uintptr_t>(page - 1));
    const bool works = mprotect(code, static_cast<size_t>(page), PROT_READ | PROT_WRITE) == 0 &&
                       mprotect(code, static_cast<size_t>(page), PROT_READ | PROT_EXEC) == 0;
    _exit(works ? 0 : errno & 0x7f);
  }
  int status = 0;
  if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    return ok("patching libc", "code pages of the own process may be changed");
  }
  return {"patching libc", State::Missing,
          WIFEXITED(status) ? strerror(WEXITSTATUS(status)) : "the attempt was killed",
          "the hook can only interpose functions: calls inside libc are missed",
          "allow execmod (SELinux) or W-then-X mappings for this program"};
}

Check check_preload(const Context &context) {
  const auto hook = find_library(context.executable_directory, "libshortfuse.so");
  const auto bridge = find_library(context.executable_directory, "libshortfuse-bridge.so");
  for (const auto &library : {hook, bridge}) {
    if (!library) {
      return {"own libraries", State::Missing, library.error(), "nothing can be accelerated",
              "build or install shortfuse", true};
    }
    if (auto value = preload_value(*library, nullptr); !value) {
      return {"own libraries", State::Missing, value.error(), "LD_PRELOAD cannot name them", "another directory", true};
    }
  }
  return ok("own libraries", fs::path(*hook).parent_path().string());
}

std::string limit_text(rlim_t value) {
  return value == RLIM_INFINITY ? "unlimited" : std::to_string(value);
}

Check check_open_files() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const std::string found = limit_text(limit.rlim_cur) + " of at most " + limit_text(limit.rlim_max);
  if (limit.rlim_max >= 4096) return ok("open files", found);
  return {"open files", State::Missing, found, "passthroughfs holds one descriptor per file it knows: it forgets early",
          "ulimit -n 65536"};
}

/// The budget of the cache is shared memory: it must fit into what a container or a user may have.
Check check_memory() {
  uint64_t available_kib = 0;
  std::ifstream file("/proc/meminfo");
  for (std::string key, unit; file >> key;) {
    uint64_t value = 0;
    file >> value;
    std::getline(file, unit);
    if (key == "MemAvailable:") available_kib = value;
  }
  const std::string found = fmt::format("{} MiB available", available_kib / 1024);
  if (available_kib == 0 || available_kib / 1024 >= 512) return ok("memory", found);
  return {"memory", State::Missing, found, "the default budget of 256 MiB may push other things out",
          "-o bpftime_mem=64M"};
}

Check check_user_namespaces() {
  std::ifstream file("/proc/sys/user/max_user_namespaces");
  uint64_t most = 0;
  if (file >> most && most > 0) return ok("user namespaces", fmt::format("at most {}", most));
  return {"user namespaces", State::Missing, "not allowed", "users cannot mount in namespaces of their own",
          "sysctl user.max_user_namespaces=10000"};
}

const char *word(State state) {
  return state == State::Ok ? "ok" : "missing";
}

void print(const Check &c) {
  if (c.state == State::Ok) {
    fmt::print("{:<8} {:<22} {}\n", "ok", c.name, c.found);
  } else {
    fmt::print("{:<8} {:<22} {}; cost: {}; remedy: {}\n", word(c.state), c.name, c.found, c.cost, c.remedy);
  }
}

}  // namespace

int doctor_command(const Context &context, bool json) {
  const std::vector<Check> checks = {check_machine(),         check_dev_fuse(),  check_fusermount(),
                                     check_libfuse(),         check_preload(context), check_registry(context),
                                     check_sealing(),         check_handles(),   check_patching(),
                                     check_membarrier(),      check_jit(context), check_open_files(),
                                     check_memory(),          check_user_namespaces()};
  bool usable = true;
  for (const auto &c : checks) usable = usable && (c.state == State::Ok || !c.vital);
  if (json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const auto &c : checks) {
      list.push_back({{"name", c.name}, {"state", word(c.state)}, {"found", c.found}, {"cost", c.cost},
                      {"remedy", c.remedy}, {"vital", c.vital}});
    }
    const nlohmann::ordered_json all = {{"usable", usable}, {"checks", list}};
    fmt::print("{}\n", all.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else {
    for (const auto &c : checks) print(c);
    fmt::print("{}\n", usable ? "shortfuse works here" : "shortfuse does not work here: see above");
  }
  return usable ? 0 : 1;
}

}  // namespace shortfuse::cli
