// `shortfuse policy aot`: compile here, run where no compiler is.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "commands.h"
#include "files.h"

namespace shortfuse::cli {
namespace {

std::string errno_text(const std::string &path) { return path + ": " + std::strerror(errno); }

bool write_all(int fd, const std::vector<unsigned char> &bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = write(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return fsync(fd) == 0;
}

/// The whole file or none of it; "" when it worked. Only the owner may write it: it would not be loaded else.
std::string replace_file(const std::string &path, const std::vector<unsigned char> &bytes) {
  std::string temporary = path + ".XXXXXX";
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return errno_text(path);
  const bool written = write_all(fd, bytes) && fchmod(fd, 0644) == 0;
  const int error = errno;
  close(fd);
  if (written && rename(temporary.c_str(), path.c_str()) == 0) return "";
  if (!written) errno = error;
  std::string why = errno_text(path);
  unlink(temporary.c_str());
  return why;
}

}  // namespace

int policy_aot_command(const Context &context, const std::string &chain, const std::string &output) {
  const auto fail = [](const std::string &why) { return complain("policy aot", why), 1; };
  const auto paths = find_chain(context.executable_directory, chain);
  if (!paths) return fail(paths.error());
  if (output.find_first_of(",:") != std::string::npos)
    return fail(output + ": the path of a policy must not contain ':' or ','");
  const auto policy = vm::load_policy(*paths);
  if (!policy) return fail(chain + ": " + policy.error().str());
  const auto bytes = vm::precompile(*policy);
  if (!bytes) return fail(chain + ": " + bytes.error().str());
  struct stat st;
  if (stat(output.c_str(), &st) == 0 && !S_ISREG(st.st_mode)) return fail(output + ": not a regular file");
  if (const std::string why = replace_file(output, *bytes); !why.empty()) return fail(why);
  fmt::print("{}: {} programs, {} maps, {} bytes\n", output, policy->programs.size(), policy->maps.size(),
             bytes->size());
  return 0;
}

}  // namespace shortfuse::cli
