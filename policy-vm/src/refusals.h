// What can be refused, and what a person is told about it. refusals.md lists the same for people.
#pragma once
#include <span>

#include "shortfuse/vm/vm.h"

namespace shortfuse::vm {

struct RefusalCode {
  const char *code;
  RefusalCategory category;  // unless the refusal itself knows better
  const char *meaning;
  const char *suggestion;    // "": the sentence says it all
};

std::span<const RefusalCode> refusal_codes();
/// NULL: there is no such code.
const RefusalCode *find_refusal_code(const std::string &code);

/// Fills in what the code alone says, and writes `detail`. Does nothing to a refusal that is complete.
void complete(Refusal *refusal);

/// refusals.md as it should be.
std::string refusal_table();

}  // namespace shortfuse::vm
