// The two kinds of targets.
#include "object/target.h"

#include "object/slots.h"
#include "object/traced_calls.h"

namespace shortfuse::vm {

const Target &Target::shortfuse() {
  static const Target target;
  return target;
}

const Target &Target::trace() {
  static const Target target = [] {
    Target t;
    t.traced = true;
    return t;
  }();
  return target;
}

std::expected<unsigned, Refusal> Target::slot_of(const std::string &section) const {
  if (embedded) return 0;
  if (traced) {
    auto place = traced_place(section);
    if (!place) return std::unexpected(place.error());
    return place->at_exit ? SF_SLOT_CALL_EXIT : SF_SLOT_CALL;
  }
  return slot_of_section(section);
}

std::string Target::section_of(unsigned slot) const { return embedded ? "this application" : section_of_slot(slot); }

std::string Target::context_name(unsigned slot) const {
  if (embedded) return "";
  switch (side_of_slot(slot)) {
    case Side::Syscall: return "sf_syscall_ctx";
    case Side::Fuse: return "sf_fuse_ctx";
    case Side::FuseExit: return "sf_fuse_exit_ctx";
    case Side::Call: case Side::CallExit: return "sf_call_ctx";
  }
  return "";
}

uint32_t Target::context_bytes(unsigned slot) const {
  if (embedded) return embedded_context_bytes;
  switch (side_of_slot(slot)) {
    case Side::Syscall: return sizeof(sf_syscall_ctx);
    case Side::Fuse: return sizeof(sf_fuse_ctx);
    case Side::FuseExit: return sizeof(sf_fuse_exit_ctx);
    case Side::Call: case Side::CallExit: return sizeof(sf_call_ctx);
  }
  return 0;
}

const HostFunction *Target::function(uint32_t id) const {
  if (id < SF_HOST_COUNT) return kHostFunctions[id].name[0] ? &kHostFunctions[id] : nullptr;
  return id - SF_HOST_COUNT < functions.size() ? &functions[id - SF_HOST_COUNT] : nullptr;
}

bool Target::callable(const HostFunction &f, unsigned slot) const {
  if (!embedded) return callable_from(f, slot);
  return f.id >= SF_HOST_COUNT || (f.kernel_number != 0 && f.on_fuse != kNowhere);
}

std::vector<const HostFunction *> Target::named_functions() const {
  std::vector<const HostFunction *> out;
  for (const HostFunction &f : functions) out.push_back(&f);
  for (const HostFunction &f : kHostFunctions) {
    if (!embedded && f.kernel_number == 0 && f.name[0] != 0) out.push_back(&f);
  }
  return out;
}

}  // namespace shortfuse::vm
