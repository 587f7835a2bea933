#include "options.h"

#include <charconv>
#include <filesystem>

namespace shortfuse::bridge {
namespace {

std::unexpected<std::string> error(std::string text) { return std::unexpected(std::move(text)); }

/// Splits at commas; a backslash protects the character behind it, as in libfuse.
std::vector<std::string> split_list(std::string_view list) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < list.size(); i++) {
    if (list[i] == '\\' && i + 1 < list.size()) {
      parts.back() += list[i++];
      parts.back() += list[i];
    } else if (list[i] == ',') {
      parts.emplace_back();
    } else {
      parts.back() += list[i];
    }
  }
  return parts;
}

std::expected<void, std::string> take_one(std::string_view key, std::string_view value, bool has_value, Options &into) {
  into.any = true;
  if (key == "bpftime") {
    if (!has_value || value.empty()) return error("option bpftime= needs the path of a policy object");
    auto chain = parse_chain(value);
    if (!chain) return error(chain.error());
    into.policies.insert(into.policies.end(), chain->begin(), chain->end());
    return {};
  }
  if (key == "bpftime_mem") {
    auto bytes = parse_size(value);
    if (!bytes) return error("option bpftime_mem=: " + bytes.error());
    if (*bytes < kBudgetMinBytes || *bytes > kBudgetMaxBytes)
      return error("option bpftime_mem=" + std::string(value) + ": must be between 4M and 1024G");
    into.budget_bytes = *bytes;
    return {};
  }
  if (key == "bpftime_share") {
    if (value != "own" && value != "all")
      return error("option bpftime_share=" + std::string(value) + ": must be own or all");
    into.share_all = value == "all";
    return {};
  }
  return error("unknown option " + std::string(key) + " (there are bpftime=, bpftime_mem= and bpftime_share=)");
}

}  // namespace

std::expected<uint64_t, std::string> parse_size(std::string_view text) {
  uint64_t number = 0;
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  if (failed != std::errc() || unit.size() > 1)
    return error("'" + std::string(text) + "' is not a size (a number, then K, M or G)");
  unsigned shift = 0;
  if (unit == "K" || unit == "k") shift = 10;
  else if (unit == "M" || unit == "m") shift = 20;
  else if (unit == "G" || unit == "g") shift = 30;
  else if (!unit.empty()) return error("'" + std::string(text) + "': the unit must be K, M or G");
  if (number > (~0ull >> shift)) return error("'" + std::string(text) + "' is too large");
  return number << shift;
}

std::expected<std::vector<std::string>, std::string> parse_chain(std::string_view text) {
  std::vector<std::string> chain;
  while (true) {
    const size_t colon = text.find(':');
    const std::string_view path = text.substr(0, colon);
    if (path.empty()) return error("option bpftime=: an empty path in the chain");
    std::error_code failed;
    const std::filesystem::path absolute = std::filesystem::absolute(path, failed);
    if (failed) return error("option bpftime=: " + std::string(path) + ": " + failed.message());
    chain.push_back(absolute.string());
    if (colon == std::string_view::npos) return chain;
    text.remove_prefix(colon + 1);
  }
}

std::expected<void, std::string> take_options(std::string_view list, Options &into, std::string &rest) {
  rest.clear();
  for (const std::string &part : split_list(list)) {
    if (!part.starts_with("bpftime")) {
      if (!rest.empty()) rest += ',';
      rest += part;
      continue;
    }
    const size_t equals = part.find('=');
    const bool has_value = equals != std::string::npos;
    auto taken = take_one(std::string_view(part).substr(0, equals),
                          has_value ? std::string_view(part).substr(equals + 1) : std::string_view(), has_value, into);
    if (!taken) return taken;
  }
  return {};
}

std::expected<void, std::string> take_options(std::vector<std::string> &arguments, Options &into) {
  std::vector<std::string> kept;
  for (size_t i = 0; i < arguments.size(); i++) {
    const std::string &argument = arguments[i];
    if (argument == "--") {
      kept.insert(kept.end(), arguments.begin() + static_cast<ptrdiff_t>(i), arguments.end());
      break;
    }
    if (i == 0 || !argument.starts_with("-o")) {
      kept.push_back(argument);
      continue;
    }
    const bool separate = argument == "-o";
    if (separate && i + 1 == arguments.size()) {
      kept.push_back(argument);
      continue;
    }
    const std::string list = separate ? arguments[++i] : argument.substr(2);
    std::string rest;
    if (auto taken = take_options(list, into, rest); !taken) return taken;
    if (!rest.empty() || list.empty()) {
      kept.push_back("-o");
      kept.push_back(rest);
    }
  }
  arguments = std::move(kept);
  return {};
}

std::expected<void, std::string> check_options(const Options &options) {
  if (options.any && !options.given()) return error("bpftime_mem= and bpftime_share= need bpftime=POLICY.bpf.o");
  return {};
}

}  // namespace shortfuse::bridge
