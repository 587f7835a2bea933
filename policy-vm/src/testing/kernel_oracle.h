// The kernel's virtual machine as somebody to compare with: the same program, its maps, and BPF_PROG_TEST_RUN. For
// tests and the benchmark; needs the right to load programs.
#pragma once
#include <linux/bpf.h>

#include <cstdint>
#include <expected>
#include <string>
#include <utility>
#include <vector>

#include "object/object.h"
#include "shortfuse/vm/vm.h"

namespace shortfuse::vm::testing {

class Handle {
 public:
  explicit Handle(int fd = -1) : fd_(fd) {}
  Handle(Handle &&o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  Handle &operator=(Handle &&o) noexcept { return std::swap(fd_, o.fd_), *this; }
  ~Handle();
  int get() const { return fd_; }

 private:
  int fd_;
};

/// The kernel's maps of the same shapes. An ARRAY can be looked at through memory().
class KernelMaps {
 public:
  static std::expected<KernelMaps, std::string> make(const std::vector<Policy::Map> &maps);
  int fd(size_t map) const { return maps_[map].fd.get(); }
  /// The values of an ARRAY, each at a multiple of 8 bytes.
  unsigned char *memory(size_t map) const { return maps_[map].memory; }
  size_t size() const { return maps_.size(); }
  KernelMaps(KernelMaps &&) = default;
  ~KernelMaps();

 private:
  KernelMaps() = default;
  struct Map {
    Handle fd;
    unsigned char *memory = nullptr;
    size_t bytes = 0;
    Map() = default;
    Map(Map &&o) noexcept : fd(std::move(o.fd)), memory(std::exchange(o.memory, nullptr)), bytes(o.bytes) {}
  };
  std::vector<Map> maps_;
};

class KernelProgram {
 public:
  /// Translates and loads. REQUIRES: no CallReg. The error is the last words of the kernel's verifier.
  static std::expected<KernelProgram, std::string> load(const LinkedProgram &program, const KernelMaps &maps,
                                                        bpf_prog_type type = BPF_PROG_TYPE_SCHED_CLS);
  struct Ran { uint32_t result; uint32_t nanoseconds; };  // of one run, on average
  std::expected<Ran, std::string> run(uint32_t times = 1) const;

 private:
  Handle fd_;
};

void update_kernel_map(int fd, const void *key, const void *value);

/// Why the kernel cannot be asked, or nothing.
std::string kernel_unavailable();

}  // namespace shortfuse::vm::testing
