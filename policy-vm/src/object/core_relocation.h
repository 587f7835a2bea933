// CO-RE: an object says by name which field, type or enumerator an instruction's number comes from; here the number
// is made right for the types that this build has.
//
// Matching is libbpf's: flavours ("node___v2") do not count, fields are found by name, also inside anonymous members,
// and must be of a compatible type. All bytes may be hostile; what comes out is verified like any other code.
#pragma once
#include <cstdint>
#include <expected>
#include <string>

#include "isa/insn.h"
#include "object/btf_types.h"

namespace shortfuse::vm {

/// One record of .BTF.ext.
struct CoreRelocation {
  uint32_t type = 0;   // in the object's types
  std::string path;    // "0:1:2": indexes of members and elements, beginning with one of the type itself
  uint32_t kind = 0;   // bpf_core_relo_kind
};

/// Stands for an instruction whose field, type or enumerator does not exist here: a call that the verifier refuses
/// where it is reached.
inline constexpr int32_t kPoisonedCall = 0x0bad2310;

/// Fits `insn` (and the one behind it, for LOAD_IMM64: `left` >= 2) to `target`. Returns "" where that was possible;
/// what is missing where the instruction has become kPoisonedCall. The error: the relocation itself makes no sense.
std::expected<std::string, std::string> apply_core_relocation(const btf *local, const btf *target,
                                                              const CoreRelocation &relocation, RawInsn *insn,
                                                              uint32_t left);

}  // namespace shortfuse::vm
