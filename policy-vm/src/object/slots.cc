// Section names to slots.
#include "object/slots.h"

#include <string_view>

#include "isa/host_functions.h"

namespace shortfuse::vm {
namespace {

struct Operation { const char *name; unsigned number; };

constexpr Operation kSyscallOps[] = {
#define X(name, number) {#name, number},
  SF_SYSCALL_OPS(X)
#undef X
};

constexpr Operation kFuseOps[] = {
#define X(name, number) {#name, number},
  SF_FUSE_OPS(X)
#undef X
};

// Operations whose requests have no reply, or do not concern files.
constexpr uint64_t kNotAttachable = fuse_op::forget | fuse_op::batch_forget | fuse_op::init | fuse_op::destroy |
                                    fuse_op::interrupt | fuse_op::notify_reply;

template <size_t n> std::string names(const Operation (&ops)[n], uint64_t without) {
  std::string list;
  for (const Operation &op : ops) {
    if (without >> op.number & 1) continue;
    if (!list.empty()) list += ' ';
    list += op.name;
  }
  return list;
}

template <size_t n> int number_of(const Operation (&ops)[n], std::string_view name, uint64_t without) {
  for (const Operation &op : ops) {
    if (name == op.name && !(without >> op.number & 1)) return static_cast<int>(op.number);
  }
  return -1;
}

Refusal unknown(const std::string &section, const std::string &why, const std::string &list) {
  return {"section-unknown", "section \"" + section + "\": " + why, list};
}

}  // namespace

std::expected<unsigned, Refusal> slot_of_section(const std::string &section) {
  size_t slash = section.find('/');
  std::string side = section.substr(0, slash);
  std::string op = slash == std::string::npos ? "" : section.substr(slash + 1);
  if (side == "syscall") {
    if (int number = number_of(kSyscallOps, op, 0); number >= 0) return SF_SLOT_SYSCALL + number;
    return std::unexpected(unknown(section, "there is no such operation under syscall/",
                                   "known are: syscall/ + " + names(kSyscallOps, 0)));
  }
  if (side == "fuse" || side == "fuse_exit") {
    int number = number_of(kFuseOps, op, kNotAttachable);
    if (number >= 0) return static_cast<unsigned>(number) + (side == "fuse" ? SF_SLOT_FUSE : SF_SLOT_FUSE_EXIT);
    return std::unexpected(unknown(section, "there is no such operation under " + side + "/",
                                   "known are: " + side + "/ + " + names(kFuseOps, kNotAttachable)));
  }
  return std::unexpected(unknown(
      section, "a program goes into a section syscall/OP, fuse/OP or fuse_exit/OP",
      "syscall/ + " + names(kSyscallOps, 0) + "\nfuse/, fuse_exit/ + " + names(kFuseOps, kNotAttachable)));
}

std::string section_of_slot(unsigned slot) {
  const char *sides[] = {"syscall/", "fuse/", "fuse_exit/"};
  Side side = side_of_slot(slot);
  if (side == Side::Call || side == Side::CallExit) return side == Side::Call ? "syscall/CALL" : "syscall_exit/CALL";
  unsigned op = op_of_slot(slot);
  std::string name = sides[static_cast<int>(side)];
  if (side == Side::Syscall) return name + (op < std::size(kSyscallOps) ? kSyscallOps[op].name : "?");
  const char *fuse = sf_fuse_opcode_name(op);
  return name + (fuse ? fuse : "?");
}

}  // namespace shortfuse::vm
