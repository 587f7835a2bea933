#include "map_text.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <charconv>
#include <cstring>
#include <optional>

#include "shortfuse/vm/vm.h"

namespace shortfuse::cli {
namespace {

using nlohmann::json;
using Shown = nlohmann::ordered_json;  // fields as they are declared
using Text = std::expected<std::string, std::string>;

constexpr size_t kPrefixBytes = 4;

size_t size_of(const json &type) {
  const std::string kind = type.value("kind", "");
  if (kind == "array") return type.value("count", size_t{0}) * size_of(type.value("of", json()));
  return type.value("bytes", size_t{0});
}

/// A type of this size; else null, and bytes are only bytes.
json fitting(const MapField &field) {
  return field.type.is_object() && size_of(field.type) == field.bytes ? field.type : json();
}

bool is_text(const json &type) {
  return type.value("kind", "") == "array" && type.value("of", json()).value("char", false);
}

Shown integer(const json &type, const std::string &bytes) {
  uint64_t number = 0;
  memcpy(&number, bytes.data(), std::min<size_t>(bytes.size(), 8));
  if (type.value("call", false)) {
    if (const std::string name = vm::traced_call_name(number); !name.empty()) return name;
  }
  if (!type.value("signed", false)) return number;
  const unsigned unused = 64 - 8 * static_cast<unsigned>(bytes.size());
  return static_cast<int64_t>(number << unused) >> unused;
}

/// Up to its end, where all that follows is zeroes and all before can be printed.
std::optional<std::string> as_text(const std::string &bytes) {
  const std::string text(bytes.c_str());
  if (bytes.find_first_not_of('\0', text.size()) != std::string::npos) return std::nullopt;
  for (unsigned char c : text) {
    if (c < 0x20 || c >= 0x7f) return std::nullopt;
  }
  return text;
}

Shown convert(const json &type, const std::string &bytes) {
  const std::string kind = type.value("kind", "");
  if (kind == "int" && bytes.size() <= 8) return integer(type, bytes);
  if (is_text(type)) {
    if (auto text = as_text(bytes)) return *text;
  }
  if (kind == "array") {
    const json of = type["of"];
    const size_t each = size_of(of);
    Shown out = Shown::array();
    for (size_t i = 0; each != 0 && i + each <= bytes.size(); i += each)
      out.push_back(convert(of, bytes.substr(i, each)));
    return out;
  }
  if (kind == "struct") {
    Shown out = Shown::object();
    for (const json &member : type["fields"]) {
      const size_t offset = member.value("offset", size_t{0}), size = size_of(member["type"]);
      if (offset + size > bytes.size()) return "hex:" + to_hex(bytes);
      out[member.value("name", "")] = convert(member["type"], bytes.substr(offset, size));
    }
    return out;
  }
  return "hex:" + to_hex(bytes);
}

std::string as_line(const Shown &value) {
  std::string out;
  if (value.is_object()) {
    for (const auto &[name, field] : value.items()) out += (out.empty() ? "" : ", ") + name + "=" + as_line(field);
    return "{" + out + "}";
  }
  if (value.is_array()) {
    for (const Shown &element : value) out += (out.empty() ? "" : ", ") + as_line(element);
    return "[" + out + "]";
  }
  if (!value.is_string()) return value.dump();
  const std::string text = value.get<std::string>();
  return text.starts_with("hex:") ? text : "\"" + text + "\"";
}

std::optional<std::string> prefix(const MapField &field, const std::string &bytes) {
  const size_t data = field.bytes - kPrefixBytes;
  if (!field.is_prefix || bytes.size() != field.bytes || (data != 4 && data != 16)) return std::nullopt;
  uint32_t bits = 0;
  memcpy(&bits, bytes.data(), sizeof bits);
  char text[INET6_ADDRSTRLEN];
  inet_ntop(data == 4 ? AF_INET : AF_INET6, bytes.data() + kPrefixBytes, text, sizeof text);
  return fmt::format("{}/{}", text, bits);
}

// ---- reading

std::unexpected<std::string> bad(std::string text) { return std::unexpected(std::move(text)); }

Text parse_integer(const json &type, const std::string &text) {
  const bool negative = text.starts_with('-');
  const size_t bytes = size_of(type), sign = negative ? 1 : 0;
  const bool in_hex = text.substr(sign).starts_with("0x");
  const std::string digits = text.substr(sign + (in_hex ? 2 : 0));
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number, in_hex ? 16 : 10);
  if (error == std::errc::result_out_of_range) return bad("\"" + text + "\" is too large a number");
  if (error != std::errc() || end != digits.data() + digits.size()) return bad("\"" + text + "\" is not a number");
  const unsigned bits = static_cast<unsigned>(bytes) * 8;
  const uint64_t most = type.value("signed", false) ? (1ull << (bits - 1)) - 1 + negative
                        : negative                  ? 0
                                                    : ~0ull >> (64 - bits);
  if (number > most) return bad(fmt::format("\"{}\" does not fit into {} byte{}", text, bytes, bytes == 1 ? "" : "s"));
  if (negative) number = -number;
  std::string out(bytes, '\0');
  memcpy(out.data(), &number, bytes);
  return out;
}

Text parse_type(const json &type, const std::string &text);

/// Sets the field that `name` ("a", or "a.b") leads to.
std::expected<void, std::string> set_field(const json &type, const std::string &name, const std::string &text,
                                           std::string *into, size_t base) {
  const size_t dot = name.find('.');
  const std::string first = name.substr(0, dot);
  std::string known;
  for (const json &member : type["fields"]) {
    const std::string is = member.value("name", "");
    known += (known.empty() ? "" : ", ") + is;
    if (is != first) continue;
    const json &of = member["type"];
    const size_t at = base + member.value("offset", size_t{0});
    if (dot != std::string::npos && of.value("kind", "") == "struct")
      return set_field(of, name.substr(dot + 1), text, into, at);
    if (dot != std::string::npos) break;
    auto bytes = parse_type(of, text);
    if (!bytes) return bad(first + ": " + bytes.error());
    into->replace(at, bytes->size(), *bytes);
    return {};
  }
  return bad("there is no field \"" + name + "\"; there are: " + known);
}

std::vector<std::string> split(const std::string &text) {
  std::vector<std::string> out;
  for (size_t from = 0; from <= text.size();) {
    const size_t to = std::min(text.find(',', from), text.size());
    out.push_back(text.substr(from, to - from));
    from = to + 1;
  }
  return out;
}

Text parse_struct(const json &type, const std::string &text) {
  std::string out(size_of(type), '\0');
  for (const std::string &part : split(text)) {
    const size_t equals = part.find('=');
    if (equals == std::string::npos) return bad("\"" + part + "\" is not FIELD=VALUE");
    if (auto set = set_field(type, part.substr(0, equals), part.substr(equals + 1), &out, 0); !set)
      return bad(set.error());
  }
  return out;
}

Text parse_array(const json &type, const std::string &text) {
  const size_t count = type.value("count", size_t{0});
  if (is_text(type)) {
    if (text.size() > count) return bad(fmt::format("\"{}\" is longer than {} characters", text, count));
    return text + std::string(count - text.size(), '\0');
  }
  const auto parts = split(text);
  if (parts.size() != count) return bad(fmt::format("{} numbers are needed, with commas between", count));
  std::string out;
  for (const std::string &part : parts) {
    auto one = parse_type(type["of"], part);
    if (!one) return one;
    out += *one;
  }
  return out;
}

Text parse_type(const json &type, const std::string &text) {
  const std::string kind = type.value("kind", "");
  if (kind == "int") return parse_integer(type, text);
  if (kind == "struct") return parse_struct(type, text);
  if (kind == "array") return parse_array(type, text);
  return bad("only bytes are known of it: hex:01 02 ...");
}

std::optional<Text> parse_prefix(const MapField &field, const std::string &text) {
  const size_t data = field.bytes - kPrefixBytes, slash = text.find('/');
  if (!field.is_prefix || (data != 4 && data != 16)) return std::nullopt;
  std::string out(field.bytes, '\0');
  const std::string address = text.substr(0, slash);
  if (inet_pton(data == 4 ? AF_INET : AF_INET6, address.c_str(), out.data() + kPrefixBytes) != 1)
    return bad("\"" + text + "\" is not ADDRESS/BITS");
  uint32_t bits = static_cast<uint32_t>(data) * 8;
  if (slash != std::string::npos) {
    const char *end = text.data() + text.size();
    const uint32_t most = bits;
    const auto [at, error] = std::from_chars(text.data() + slash + 1, end, bits);
    if (error != std::errc() || at != end || bits > most) return bad(fmt::format("\"{}\": 0 to {} bits", text, most));
  }
  memcpy(out.data(), &bits, sizeof bits);
  return out;
}

}  // namespace

std::string to_hex(const std::string &bytes) {
  std::string out;
  for (unsigned char byte : bytes) out += fmt::format("{:02x}", byte);
  return out;
}

Text from_hex(const std::string &text) {
  std::string digits, out;
  for (char c : text) {
    if (c == ' ' || c == ':') continue;
    if (!isxdigit(static_cast<unsigned char>(c))) return bad("\"" + text + "\" is not in hexadecimal");
    digits += c;
  }
  if (digits.size() % 2 != 0) return bad("\"" + text + "\": two digits make a byte");
  for (size_t i = 0; i < digits.size(); i += 2)
    out += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  return out;
}

std::string shown(const MapField &field, const std::string &bytes) {
  if (auto address = prefix(field, bytes)) return *address;
  return as_line(as_json(field, bytes));
}

Shown as_json(const MapField &field, const std::string &bytes) {
  if (auto address = prefix(field, bytes)) return *address;
  const json type = fitting(field);
  return type.is_null() || bytes.size() != field.bytes ? Shown("hex:" + to_hex(bytes)) : convert(type, bytes);
}

Text parsed(const MapField &field, const std::string &text) {
  if (text.starts_with("hex:")) {
    auto bytes = from_hex(text.substr(4));
    if (bytes && bytes->size() != field.bytes)
      return bad(fmt::format("\"{}\" has {} bytes, not {}", text, bytes->size(), field.bytes));
    return bytes;
  }
  if (auto address = parse_prefix(field, text)) return *address;
  const json type = fitting(field);
  if (!type.is_null()) return parse_type(type, text);
  const bool number = field.bytes == 1 || field.bytes == 2 || field.bytes == 4 || field.bytes == 8;
  if (!number) return bad("only bytes are known of it: hex:01 02 ...");
  return parse_integer({{"kind", "int"}, {"bytes", field.bytes}, {"signed", text.starts_with('-')}}, text);
}

}  // namespace shortfuse::cli
