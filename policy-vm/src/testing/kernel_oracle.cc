#include "testing/kernel_oracle.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "isa/host_functions.h"

namespace shortfuse::vm::testing {
namespace {

size_t stride(const sf_image_map &def) { return (def.value_size + 7u) / 8 * 8; }

/// What the kernel wants to know of functions whose address is taken: a static function of a type for each.
struct FunctionTypes {
  std::unique_ptr<btf, decltype(&btf__free)> types{btf__new_empty(), btf__free};
  Handle fd;
  std::vector<bpf_func_info> functions;

  bool load(const std::vector<LinkedFunction> &all) {
    const int number = btf__add_int(types.get(), "long", 8, BTF_INT_SIGNED);
    for (size_t i = 0; i < all.size(); i++) {
      const int type = btf__add_func_proto(types.get(), number);
      if (i > 0) btf__add_func_param(types.get(), "a", number);
      const std::string name = "f" + std::to_string(i);
      const int function =
          btf__add_func(types.get(), name.c_str(), i == 0 ? BTF_FUNC_GLOBAL : BTF_FUNC_STATIC, type);
      if (function < 0) return false;
      functions.push_back({all[i].start, static_cast<uint32_t>(function)});
    }
    uint32_t bytes = 0;
    const void *raw = btf__raw_data(types.get(), &bytes);
    fd = Handle(raw ? bpf_btf_load(raw, bytes, nullptr) : -1);
    return fd.get() >= 0;
  }
};

bool translate(const LinkedProgram &program, const KernelMaps &maps, std::vector<bpf_insn> *out, bool *addresses) {
  out->resize(program.code.size());
  memcpy(out->data(), program.code.data(), out->size() * sizeof(bpf_insn));
  for (size_t pc = 0; pc < out->size(); pc++) {
    bpf_insn &in = (*out)[pc];
    if (in.code == kOpLoadImm64) {
      if (in.src_reg == kImmMap || in.src_reg == kImmMapValue) in.imm = maps.fd(static_cast<size_t>(in.imm));
      *addresses |= in.src_reg == kImmFunction;
      pc++;
    } else if (in.code == kOpCallReg) {
      return false;
    } else if (in.code == kOpCall) {
      in.off = 0;
      if (in.src_reg != kCallHost) continue;
      in.imm = kHostFunctions[in.imm].kernel_number;
      if (in.imm == 0) return false;
    }
  }
  return true;
}

// The last line of the verifier's log before its statistics.
std::string last_words(const char *log) {
  std::string text(log), last;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (!line.empty() && !line.starts_with("processed ") && !line.starts_with("verification time")) last = line;
    at = end + 1;
  }
  return last;
}

}  // namespace

Handle::~Handle() {
  if (fd_ >= 0) close(fd_);
}

KernelMaps::~KernelMaps() {
  for (Map &m : maps_) {
    if (m.memory) munmap(m.memory, m.bytes);
  }
}

std::expected<KernelMaps, std::string> KernelMaps::make(const std::vector<Policy::Map> &maps) {
  KernelMaps out;
  for (const Policy::Map &m : maps) {
    const bool array = m.def.type == SF_MAP_ARRAY;
    LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = array ? uint32_t{BPF_F_MMAPABLE} : 0);
    Map made;
    made.fd = Handle(bpf_map_create(static_cast<bpf_map_type>(m.def.type), "oracle", m.def.key_size, m.def.value_size,
                                    m.def.max_entries, &options));
    if (made.fd.get() < 0) return std::unexpected(std::string("a map: ") + strerror(errno));
    if (array) {
      made.bytes = (stride(m.def) * m.def.max_entries + 4095) / 4096 * 4096;
      void *at = mmap(nullptr, made.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, made.fd.get(), 0);
      if (at == MAP_FAILED) return std::unexpected(std::string("memory of a map: ") + strerror(errno));
      made.memory = static_cast<unsigned char *>(at);
    }
    out.maps_.push_back(std::move(made));
  }
  return out;
}

std::expected<KernelProgram, std::string> KernelProgram::load(const LinkedProgram &program, const KernelMaps &maps,
                                                              bpf_prog_type type) {
  std::vector<bpf_insn> code;
  bool addresses = false;
  if (!translate(program, maps, &code, &addresses)) return std::unexpected("not for the kernel");
  LIBBPF_OPTS(bpf_prog_load_opts, options);
  FunctionTypes types;
  if (addresses) {
    if (!types.load(program.functions)) return std::unexpected(std::string("types: ") + strerror(errno));
    options.prog_btf_fd = static_cast<uint32_t>(types.fd.get());
    options.func_info = types.functions.data();
    options.func_info_cnt = static_cast<uint32_t>(types.functions.size());
    options.func_info_rec_size = sizeof(bpf_func_info);
  }
  KernelProgram out;
  out.fd_ = Handle(bpf_prog_load(type, "oracle", "GPL", code.data(), code.size(), &options));
  if (out.fd_.get() >= 0) return out;
  std::vector<char> log(1 << 20);
  options.log_buf = log.data();
  options.log_size = static_cast<uint32_t>(log.size());
  options.log_level = 1;
  out.fd_ = Handle(bpf_prog_load(type, "oracle", "GPL", code.data(), code.size(), &options));
  if (out.fd_.get() >= 0) return out;
  std::string words = last_words(log.data());
  return std::unexpected(words.empty() ? strerror(errno) : words);
}

std::expected<KernelProgram::Ran, std::string> KernelProgram::run(uint32_t times) const {
  unsigned char packet[64] = {};
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packet, .data_size_in = sizeof packet,
              .repeat = static_cast<int>(times));
  if (bpf_prog_test_run_opts(fd_.get(), &options) != 0)
    return std::unexpected(std::string("BPF_PROG_TEST_RUN: ") + strerror(errno));
  return Ran{options.retval, options.duration};
}

void update_kernel_map(int fd, const void *key, const void *value) { bpf_map_update_elem(fd, key, value, BPF_ANY); }

std::string kernel_unavailable() {
  const bpf_insn code[] = {{kClassAlu64 | 0xb0, 0, 0, 0, 42}, {kOpExit, 0, 0, 0, 0}};
  Handle program(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "oracle", "GPL", code, 2, nullptr));
  if (program.get() < 0) return std::string("bpf(2) refuses to load programs: ") + strerror(errno);
  unsigned char packet[64] = {};
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packet, .data_size_in = sizeof packet);
  if (bpf_prog_test_run_opts(program.get(), &options) != 0)
    return std::string("BPF_PROG_TEST_RUN is not permitted: ") + strerror(errno);
  return options.retval == 42 ? "" : "BPF_PROG_TEST_RUN gives a wrong result";
}

}  // namespace shortfuse::vm::testing
