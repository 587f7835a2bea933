// Linking one object: each attached function becomes a program of its own, with the sub-programs it calls behind it
// and every symbol resolved.
//
// The linking is done here rather than by libbpf: libbpf's in-memory linker forgets the names of external functions,
// reports positions only as text, and was not made for hostile bytes.
#pragma once
#include <cstdint>
#include <expected>
#include <map>
#include <string>
#include <vector>

#include "isa/insn.h"
#include "object/btf_info.h"
#include "object/elf_file.h"
#include "object/target.h"
#include "shortfuse/vm/vm.h"

namespace shortfuse::vm {

/// A function inside a linked program.
struct LinkedFunction {
  std::string name;
  uint32_t start, end;  // instruction slots
};

struct LinkedProgram {
  std::string section, name;
  const Target *target = &Target::shortfuse();
  unsigned slot = 0;
  bool attached = true;                   // false: of a section "?...", reached by tail calls only
  std::vector<RawInsn> code;              // symbols resolved as vm.h says
  std::vector<const SourceLine *> lines;  // per slot; NULL: unknown. Owned by LinkedObject::btf
  std::vector<LinkedFunction> functions;  // the first is the program itself
  std::map<uint32_t, std::string> missing;  // per kPoisonedCall: what its instruction needed and is not there
  /// Of a program without a context: r1 is the value of this map and r2 its size. Below 0: r1 is the context.
  int32_t memory_map = -1;
};

struct LinkedObject {
  std::string name;
  BtfInfo btf;
  std::vector<Policy::Map> maps;  // indexes in code count from `first_map`
  std::vector<LinkedProgram> programs;
};

inline constexpr uint32_t kInsnsMax = 1u << 16;  // of a linked program
inline constexpr uint32_t kObjectInsnsMax = 1u << 18;  // of all programs of an object
inline constexpr uint32_t kFunctionsMax = 256;   // of a linked program

/// Where in a chain an object comes, and what it is for.
struct LinkPlace {
  uint32_t object = 0;         // its position
  uint32_t first_map = 0;      // maps before it
  uint32_t first_program = 0;  // programs before it
  const Target *target = &Target::shortfuse();
};

std::expected<LinkedObject, Refusal> link_object(const ElfFile &file, const std::string &name, const LinkPlace &place);

}  // namespace shortfuse::vm
