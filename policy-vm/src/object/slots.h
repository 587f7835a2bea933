// Section names to slots: "syscall/stat", "fuse/lookup", "fuse_exit/readdir".
#pragma once
#include <expected>
#include <string>

#include "shortfuse/vm/vm.h"

namespace shortfuse::vm {

/// The slot that programs of this section are attached to; the refusal lists what exists.
std::expected<unsigned, Refusal> slot_of_section(const std::string &section);
/// The other way round.
std::string section_of_slot(unsigned slot);

}  // namespace shortfuse::vm
