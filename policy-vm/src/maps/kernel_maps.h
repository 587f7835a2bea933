// The kernel's own maps, by bpf(2): what ours are compared with, and measured against. For tests; needs privilege.
#pragma once
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace shortfuse::vm::testing {

inline int bpf(bpf_cmd command, bpf_attr *attr) {
  const long result = syscall(SYS_bpf, command, attr, sizeof *attr);
  return result < 0 ? -errno : static_cast<int>(result);
}
inline uint64_t address(const void *p) { return reinterpret_cast<uint64_t>(p); }

class KernelMap {
 public:
  KernelMap(uint32_t type, uint32_t key, uint32_t value, uint32_t entries, uint32_t flags = 0, int inner = -1,
            uint64_t extra = 0) {
    bpf_attr attr{};
    attr.map_type = type;
    attr.key_size = key;
    attr.value_size = value;
    attr.max_entries = entries;
    attr.map_flags = flags;
    attr.map_extra = extra;
    if (inner >= 0) attr.inner_map_fd = static_cast<uint32_t>(inner);
    fd_ = bpf(BPF_MAP_CREATE, &attr);
  }
  ~KernelMap() {
    if (fd_ >= 0) close(fd_);
  }
  KernelMap(const KernelMap &) = delete;
  /// The descriptor, or why there is no map (-EPERM: no privilege).
  int fd() const { return fd_; }

  int update(const void *key, const void *value, uint64_t flags) { return on(BPF_MAP_UPDATE_ELEM, key, value, flags); }
  int lookup(const void *key, void *value) { return on(BPF_MAP_LOOKUP_ELEM, key, value, 0); }
  int lookup_and_delete(const void *key, void *value) { return on(BPF_MAP_LOOKUP_AND_DELETE_ELEM, key, value, 0); }
  int erase(const void *key) { return on(BPF_MAP_DELETE_ELEM, key, nullptr, 0); }
  int next_key(const void *key, void *next) { return on(BPF_MAP_GET_NEXT_KEY, key, next, 0); }

 private:
  int on(bpf_cmd command, const void *key, const void *value, uint64_t flags) {
    bpf_attr attr{};
    attr.map_fd = static_cast<uint32_t>(fd_);
    attr.key = address(key);
    attr.value = address(value);
    attr.flags = flags;
    return bpf(command, &attr);
  }
  int fd_ = -1;
};

/// A program of raw instructions that the kernel runs on a packet of nothing.
class KernelProgram {
 public:
  explicit KernelProgram(const std::vector<bpf_insn> &insns) {
    bpf_attr attr{};
    attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    attr.insns = address(insns.data());
    attr.insn_cnt = static_cast<uint32_t>(insns.size());
    attr.license = address("GPL");
    fd_ = bpf(BPF_PROG_LOAD, &attr);
  }
  ~KernelProgram() {
    if (fd_ >= 0) close(fd_);
  }
  KernelProgram(const KernelProgram &) = delete;
  int fd() const { return fd_; }

  struct Run { int result; uint32_t value; uint32_t average_ns; };
  Run run(uint32_t repeat = 1) const {
    char packet[64]{};
    bpf_attr attr{};
    attr.test.prog_fd = static_cast<uint32_t>(fd_);
    attr.test.data_in = address(packet);
    attr.test.data_size_in = sizeof packet;
    attr.test.repeat = repeat;
    const int result = bpf(BPF_PROG_TEST_RUN, &attr);
    return {result, attr.test.retval, attr.test.duration};
  }

 private:
  int fd_ = -1;
};

}  // namespace shortfuse::vm::testing
