// Variables of an object that are given other values before it is linked: `const volatile int limit = 3;`.
#pragma once
#include <set>

#include "object/elf_file.h"
#include "object/btf_types.h"

namespace shortfuse::vm {

class Settings {
 public:
  explicit Settings(const std::vector<Setting> &wanted) : wanted_(wanted) {}
  /// In one object, which need not have all the variables. Errors are for people.
  std::expected<void, std::string> apply(ElfFile *file);
  /// Whether every one was found in some object.
  std::expected<void, std::string> all_used() const;

 private:
  const std::vector<Setting> &wanted_;
  std::set<std::string> used_, known_;
};

}  // namespace shortfuse::vm
