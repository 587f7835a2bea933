// Finding in one set of types what another names: the half of CO-RE that knows no instructions.
#pragma once
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <vector>

#include "object/btf_types.h"

namespace shortfuse::vm {

/// A field reached from a type by members and elements; only what has a name, and indexes of arrays.
struct FieldPath {
  struct Step {
    uint32_t type;     // the structure that has the member, or the type of the element
    uint32_t index;
    std::string name;  // "": an element
  };
  const btf *types = nullptr;
  uint32_t root = 0;
  std::vector<Step> steps;
  uint64_t bit_offset = 0;

  std::string str() const;  // "req.node", "name[3]"
};

inline constexpr size_t kFieldPathMax = 64;  // steps
inline constexpr uint64_t kFieldOffsetMax = 1u << 28;

/// Follows "0:1:2" from a type; the error says what is wrong with it.
std::expected<FieldPath, const char *> read_field_path(const btf *b, uint32_t type, const std::string &path);

/// The same names followed from a type of `target`; nothing where one is missing or of another kind there.
std::optional<FieldPath> find_field(const FieldPath &local, const btf *target, uint32_t type);

/// Equal in kind (bpf_core_type_exists), and in all that `local` says of it (bpf_core_type_matches).
bool types_compatible(const btf *local, uint32_t local_type, const btf *target, uint32_t target_type);
bool types_match(const btf *local, uint32_t local_type, const btf *target, uint32_t target_type);

/// May one be the other, flavours aside? Judges name and kind only.
bool is_candidate(const btf *local, uint32_t local_type, const btf *target, uint32_t target_type);

/// "struct sf_fuse_ctx".
std::string type_name(const btf *b, uint32_t type);

/// Enumerators of both kinds of enumerations.
std::string enumerator_name(const btf *b, const btf_type *t, uint32_t index);
uint64_t enumerator_value(const btf_type *t, uint32_t index);

}  // namespace shortfuse::vm
