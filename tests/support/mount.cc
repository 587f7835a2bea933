// passthroughfs mounts and the `shortfuse` command. See harness.h.
#include <sys/mount.h>
#include <unistd.h>

#include <cstdio>
#include <sstream>

#include "support/harness.h"

namespace shortfuse::tests {

std::string policy_chain(std::string_view names) {
  std::istringstream in{std::string(names)};
  std::string chain;
  for (std::string name; std::getline(in, name, ':');) chain += (chain.empty() ? "" : ":") + policy(name);
  return chain;
}

Mount::Mount(std::string source, std::string point, const Options &options) : point_(point), log_(point + ".log") {
  char timeouts[100];
  std::snprintf(timeouts, sizeof timeouts, "attr_timeout=%g,entry_timeout=%g", options.kernel_timeout_s,
                options.kernel_timeout_s);
  std::string mount_options = timeouts;
  if (!options.policy.empty()) mount_options += ",bpftime=" + policy_chain(options.policy);
  if (!options.more.empty()) mount_options += "," + options.more;
  Spec spec;
  spec.argv = {program("passthroughfs"), std::move(source), point, "-f", "-o", mount_options};
  spec.out = spec.err = log_;
  spec.uid = options.uid;
  write_file(log_, "");
  if (options.uid && chown(log_.c_str(), *options.uid, *options.uid) != 0) throw Broken("chown " + log_);
  daemon_ = Process(spec);
  bool mounted = eventually([&] { return is_mounted(point_) || !daemon_.running(); }, std::chrono::seconds(30));
  if (!mounted || !daemon_.running()) throw Broken("passthroughfs did not mount " + point_ + ": " + log());
}

Mount::~Mount() {
  detach_below(point_);
  eventually([&] { return !daemon_.running(); }, std::chrono::seconds(5));
  daemon_.kill_and_reap();
}

void Mount::unmount() {
  if (!eventually([&] { return umount(point_.c_str()) == 0; })) throw Broken("umount " + point_ + " failed");
  int status = daemon_.wait(std::chrono::seconds(20));
  if (status != 0) throw Broken("the daemon ended with status " + std::to_string(status) + ": " + log());
}

std::string Mount::log() const { return read_file(log_); }

Finished shortfuse(std::vector<std::string> args) {
  Spec spec;
  spec.argv = {program("shortfuse")};
  spec.argv.insert(spec.argv.end(), args.begin(), args.end());
  return run(spec);
}

void swap(const std::string &point, std::string_view policies) {
  auto done = shortfuse({"swap", point, policy_chain(policies)});
  if (done.status != 0) throw Broken("swap failed: " + done.out + done.err);
}

}  // namespace shortfuse::tests
