// Keys and values of maps, between bytes and what people read and write.
//
//   42, -1, 0x10        integers, by their size and sign
//   a=1,b=2             structures; fields of fields as a.b=3; fields that are not named are 0
//   1,2,3               arrays; of characters: the text itself
//   10.1.0.0/16         keys of an LPM_TRIE over 4 or 16 bytes (IPv4, IPv6)
//   hex:01 02           anything
#pragma once
#include <cstdint>
#include <expected>
#include <nlohmann/json.hpp>
#include <string>

namespace shortfuse::cli {

/// What a key or a value is: its size, and its type where the policy's type information has one (else null).
struct MapField {
  size_t bytes = 0;
  nlohmann::json type;      ///< policy-vm/type_description.h
  bool is_prefix = false;   ///< the key of an LPM_TRIE
};

std::string to_hex(const std::string &bytes);
std::expected<std::string, std::string> from_hex(const std::string &text);

/// Never fails: what has no type, or another size than its type says, is shown as hex.
std::string shown(const MapField &field, const std::string &bytes);
nlohmann::ordered_json as_json(const MapField &field, const std::string &bytes);

/// Exactly field.bytes bytes. Errors are for people.
std::expected<std::string, std::string> parsed(const MapField &field, const std::string &text);

}  // namespace shortfuse::cli
