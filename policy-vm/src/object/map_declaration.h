// Maps as libbpf has them declared: structures in SEC(".maps") whose members say by their types what the map is.
#pragma once
#include <cstdint>
#include <expected>
#include <string>
#include <vector>

#include "object/btf_types.h"
#include "shortfuse/vm/vm.h"

namespace shortfuse::vm {

struct MapDeclaration {
  std::string name;
  uint32_t type = 0, key_size = 0, value_size = 0, max_entries = 0;
  uint32_t flags = 0, pinning = 0, extra = 0;
  std::string key_type, value_type;   // type_description.h; "" where only sizes are declared
  std::vector<MapDeclaration> inner;  // of an ARRAY_OF_MAPS: what all its maps look like, once
  bool has_values = false;            // `values` may hold static contents
  uint32_t values_at = 0;             // byte of the declaration where they begin

  sf_image_map def() const;
};

/// Whether a map looks like those that an ARRAY_OF_MAPS was declared to hold.
bool looks_as_declared(const sf_image_map &given, const sf_image_map &declared);

/// All maps of an object; each follows the kernel's rules for its kind.
std::expected<std::vector<MapDeclaration>, Refusal> read_map_declarations(const btf *b);

}  // namespace shortfuse::vm
