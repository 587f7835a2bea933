// Type information through libbpf, which trusts some of a header: that is checked here first.
#include "object/btf_types.h"

#include <bpf/libbpf.h>
#include <string.h>

#include <mutex>

#include "object/elf_file.h"

// The section .BTF of own_types.bpf.c (own_btf.S).
extern "C" const unsigned char sf_own_btf_begin[], sf_own_btf_end[];

namespace shortfuse::vm {
namespace {

// libbpf reports to a function of the whole process. While a thread is in here, what libbpf has to say to it is
// dropped (the refusal says it better); others keep the printer that they had.
thread_local bool quiet_here = false;
libbpf_print_fn_t previous_printer = nullptr;

int print_unless_quiet(libbpf_print_level level, const char *format, va_list args) {
  return quiet_here || !previous_printer ? 0 : previous_printer(level, format, args);
}

class Quiet {
 public:
  Quiet() {
    static std::once_flag once;
    std::call_once(once, [] { previous_printer = libbpf_set_print(print_unless_quiet); });
    quiet_here = true;
  }
  ~Quiet() { quiet_here = false; }
};

const char *check_header(std::span<const unsigned char> raw) {
  btf_header h;
  if (raw.size() < sizeof h) return "it is too short";
  memcpy(&h, raw.data(), sizeof h);
  if (h.magic != BTF_MAGIC || h.version != BTF_VERSION || h.flags != 0) return "its magic number or version";
  if (h.hdr_len != sizeof h) return "the length of its header";
  uint64_t rest = raw.size() - sizeof h;
  if (uint64_t{h.type_off} + h.type_len > rest || uint64_t{h.str_off} + h.str_len > rest)
    return "its parts lie outside";
  if (h.type_off % 4 != 0 || uint64_t{h.type_off} + h.type_len > h.str_off) return "its parts overlap";
  return nullptr;
}

}  // namespace

std::expected<BtfPtr, const char *> read_btf(std::span<const unsigned char> bytes) {
  if (bytes.size() > kBtfBytesMax) return std::unexpected("it is larger than 1 MiB");
  if (const char *wrong = check_header(bytes)) return std::unexpected(wrong);
  Quiet quiet;
  btf *parsed = btf__new(bytes.data(), static_cast<uint32_t>(bytes.size()));
  if (!parsed || libbpf_get_error(parsed)) return std::unexpected("libbpf cannot read it");
  return BtfPtr(parsed);
}

const btf *own_btf() {
  static const BtfPtr own = read_btf({sf_own_btf_begin, sf_own_btf_end}).value();
  return own.get();
}

const btf_type *resolve_type(const btf *b, uint32_t id, uint32_t *resolved) {
  for (int depth = 0; depth < kTypeDepthMax; depth++) {
    const btf_type *t = btf__type_by_id(b, id);
    if (!t) return nullptr;
    if (!btf_is_mod(t) && !btf_is_typedef(t)) {
      if (resolved) *resolved = id;
      return t;
    }
    id = t->type;
  }
  return nullptr;
}

std::string btf_string(const btf *b, uint32_t offset) {
  const char *s = btf__name_by_offset(b, offset);
  return s ? std::string(s, strnlen(s, kNameBytesMax)) : "";
}

std::string essential_name(const std::string &name) {
  const size_t flavour = name.rfind("___");
  const bool has_one = flavour != std::string::npos && flavour > 0 && flavour + 3 < name.size();
  return has_one ? name.substr(0, flavour) : name;
}

}  // namespace shortfuse::vm
