// Policies that were compiled ahead of time: an .sfi file holds a linked chain and its machine code, so that a machine
// without LLVM runs it at full speed.
//
// The bytecode in it is verified when it is loaded, as an object's is. Machine code cannot be: the file is trusted as a
// program is, so it must belong to root or to who loads it, and nobody else may be able to write it (policy.cc). Its
// code is used where its key fits: the same bytecode, shapes of maps, read-only data, layouts and lowering of this
// build, and processor; where LLVM had the version that this build was made with, if it was made with any; and where it
// comes first among the maps of its chain, since code knows maps by their number. Otherwise it is compiled again, or
// interpreted, and Policy::notes says why.
#pragma once
#include <cstdint>
#include <expected>
#include <string>
#include <vector>

#include "object/object.h"

namespace shortfuse::vm {

bool is_precompiled(const void *bytes, size_t size);

/// What a file holds; maps and programs count from `place`.
struct Precompiled {
  std::vector<Policy::Map> maps;
  std::vector<LinkedProgram> programs;
  std::vector<uint32_t> entries;     // per program: of its machine code; kNoEntry: it has none
  std::vector<unsigned char> code;
  uint64_t key = 0;                  // what the code was made for
  std::string compiler;              // the version of LLVM that made it
};
inline constexpr uint32_t kNoEntry = ~0u;

/// Any bytes: a file of this version, every field in its bounds, or why not.
std::expected<Precompiled, Refusal> read_precompiled(const void *bytes, size_t size, const std::string &name,
                                                     const LinkPlace &place);

/// Whether machine code by this version of LLVM is as good as our own.
bool is_own_compiler(const std::string &version);

/// Names everything that machine code for these maps and programs depends on.
uint64_t code_key(const std::vector<Policy::Map> &maps, const std::vector<Policy::Program> &programs, size_t first_map,
                  size_t first_program);

}  // namespace shortfuse::vm
