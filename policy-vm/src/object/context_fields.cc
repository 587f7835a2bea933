// The contexts by the names of their fields, out of our own type information.
#include "isa/host_functions.h"
#include "object/btf_types.h"
#include "shortfuse/vm/vm.h"

namespace shortfuse::vm {
namespace {

void add_fields(const btf *b, const btf_type *structure, const std::string &prefix, uint32_t base, int depth,
                std::vector<ContextField> *out) {
  for (uint32_t i = 0; i < btf_vlen(structure) && depth < kTypeDepthMax; i++) {
    const btf_member *m = btf_members(structure) + i;
    const btf_type *t = resolve_type(b, m->type);
    const std::string name = prefix + btf_string(b, m->name_off);
    const uint32_t offset = base + btf_member_bit_offset(structure, i) / 8;
    if (!t) continue;
    if (btf_is_struct(t)) add_fields(b, t, name + ".", offset, depth + 1, out);
    if (btf_is_int(t)) out->push_back({name, offset, t->size, (btf_int_encoding(t) & BTF_INT_SIGNED) != 0});
  }
}

}  // namespace

std::vector<ContextField> context_fields(unsigned slot) {
  static constexpr const char *names[] = {"sf_syscall_ctx", "sf_fuse_ctx", "sf_fuse_exit_ctx", "sf_call_ctx",
                                          "sf_call_ctx"};
  const btf *b = own_btf();
  const int32_t id = btf__find_by_name_kind(b, names[static_cast<int>(side_of_slot(slot))], BTF_KIND_STRUCT);
  std::vector<ContextField> out;
  if (id > 0) add_fields(b, btf__type_by_id(b, static_cast<uint32_t>(id)), "", 0, 0, &out);
  return out;
}

}  // namespace shortfuse::vm
