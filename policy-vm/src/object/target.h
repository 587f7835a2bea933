// What programs are attached to: shortfuse's operations, or the places of an application that embeds the virtual
// machine. It decides what a section means, what the context is, and what may be called.
#pragma once
#include <expected>
#include <string>
#include <vector>

#include "isa/host_functions.h"
#include "object/btf_types.h"
#include "shortfuse/vm/vm.h"

namespace shortfuse::vm {

struct Target {
  /// Accesses by name are fitted to these.
  const btf *types = own_btf();
  /// An application's: any section is a program, in slot 0; the context is so many bytes of the application, which it
  /// may call its own functions about, besides the helpers with the kernel's numbers.
  bool embedded = false;
  uint32_t embedded_context_bytes = 0;
  std::vector<HostFunction> functions;  // of the application, numbered from SF_HOST_COUNT on

  /// Programs of `shortfuse trace`: sections are names of system calls.
  bool traced = false;

  static const Target &shortfuse();
  static const Target &trace();

  std::expected<unsigned, Refusal> slot_of(const std::string &section) const;
  std::string section_of(unsigned slot) const;
  /// The structure that programs get; "": whatever the application says.
  std::string context_name(unsigned slot) const;
  uint32_t context_bytes(unsigned slot) const;
  /// Nobody changes the context while programs run: shortfuse's are made for each call, on the stack of the thread that
  /// makes it, and host functions do not write them. (Those that serve a call write where the application wants: what
  /// was known is forgotten there.) An application's may be anywhere; of traced calls nothing is claimed.
  bool context_holds_still() const { return !embedded && !traced; }
  /// Programs under syscall/ run in processes that see shared maps read-only.
  bool writes_shared_maps(unsigned slot) const { return embedded || traced || side_of_slot(slot) != Side::Syscall; }
  /// NULL: there is none of this number.
  const HostFunction *function(uint32_t id) const;
  bool callable(const HostFunction &f, unsigned slot) const;
  /// The functions that objects find by name.
  std::vector<const HostFunction *> named_functions() const;
};

/// As load_policy() and load_policy_bytes() of vm.h, for programs of this target, which lives as long as they are used.
/// `settings` are made in all objects that have the variable, before it is verified; one that none has is an error.
std::expected<Policy, Refusal> load_policy(const Target &target, const std::vector<std::string> &paths,
                                           const std::vector<Setting> &settings = {});
std::expected<Policy, Refusal> load_policy_bytes(const Target &target, const void *elf, size_t bytes,
                                                 const std::string &name);

}  // namespace shortfuse::vm
