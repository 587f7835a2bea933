// What a type is, as JSON, for people who look into maps: integers, structures with their fields, arrays.
//
//   {"kind": "int", "bytes": 4, "signed": true}           also of enums, pointers and bools;
//                                                         "char": true of characters, "call": true of sf_call_nr
//   {"kind": "struct", "bytes": 16, "fields": [{"name": "a", "offset": 0, "type": {...}}, ...]}
//   {"kind": "array", "count": 8, "of": {...}}
//   {"kind": "bytes", "bytes": 3}                           whatever else, and what is nested or long beyond reason
#pragma once
#include <cstdint>
#include <string>

#include "object/btf_types.h"

namespace shortfuse::vm {

/// "" when there is no such type.
std::string describe_type(const btf *b, uint32_t id);

}  // namespace shortfuse::vm
