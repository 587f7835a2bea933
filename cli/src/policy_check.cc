// `shortfuse policy check`: the verifier's answer, without a mount; `policy disasm`: what it answered about.
#include <fmt/format.h>
#include <string.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "commands.h"
#include "files.h"
#include "shortfuse/vm/map.h"
#include "shortfuse/vm/vm.h"

namespace shortfuse::cli {

namespace {

using Json = nlohmann::ordered_json;

std::string map_type(uint32_t type) {
  std::string name = vm::map_kind_name(type);
  for (char &c : name) c = static_cast<char>(tolower(static_cast<unsigned char>(c)));
  return name;
}

std::string map_name(const vm::Policy::Map &map) {
  return {map.def.name, strnlen(map.def.name, sizeof map.def.name)};
}

constexpr std::string_view kUnknownSection = "section-unknown";

// With its header, hash buckets, copies per CPU and so on: what mounting takes for it.
uint64_t map_bytes(const vm::Policy::Map &map) {
  const sf_map_shape shape = sf_image_map_shape(&map.def);
  return sf_map_bytes(&shape);
}

uint64_t all_map_bytes(const vm::Policy &policy) {
  uint64_t all = 0;
  for (const auto &map : policy.maps) all += map_bytes(map);
  return all;
}


// A mount's policy, or programs for `shortfuse trace`: whichever their sections name.
std::expected<vm::Policy, vm::Refusal> load(const std::vector<std::string> &paths) {
  auto policy = vm::load_policy(paths);
  if (policy || std::string_view(policy.error().code) != kUnknownSection) return policy;
  auto trace = vm::load_trace(paths, {});
  return trace || std::string_view(trace.error().code) != kUnknownSection ? std::move(trace) : std::move(policy);
}

struct Checked {
  std::string chain;
  std::expected<vm::Policy, vm::Refusal> policy;
  double verify_ms = 0;
  // Of publishing: what the daemon would run.
  double publish_ms = 0;
  size_t image_bytes = 0;
  std::string lowered;  ///< "machine code", or why not
};

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

Checked check(const std::string &name, const std::vector<std::string> &paths) {
  auto start = std::chrono::steady_clock::now();
  Checked result{.chain = name, .policy = load(paths)};
  result.verify_ms = milliseconds_since(start);
  if (!result.policy) return result;
  start = std::chrono::steady_clock::now();
  const auto image = vm::publish_image(*result.policy, vm::Lowering::Auto);
  result.publish_ms = milliseconds_since(start);
  if (!image) {
    result.policy = std::unexpected(image.error());
    return result;
  }
  result.image_bytes = image->bytes;
  result.lowered = image->why_interpreted.empty() ? "machine code" : "interpreted: " + image->why_interpreted;
  close(image->fd);
  return result;
}

void print(const Checked &c) {
  if (!c.policy) {
    const vm::Refusal &r = c.policy.error();
    fmt::print("{}: refused, {} [{}]\n{}\n", c.chain, vm::category_name(r.category), r.code, r.str());
    return;
  }
  const vm::Policy &p = *c.policy;
  fmt::print("{}: accepted; {} programs, {} maps, image of {} bytes, {}; verified in {:.1f} ms, lowered in {:.1f} ms\n",
             c.chain, p.programs.size(), p.maps.size(), c.image_bytes, c.lowered, c.verify_ms, c.publish_ms);
  for (const auto &note : p.notes) fmt::print("  note    {}\n", note);
  for (const auto &program : p.programs) {
    fmt::print("  program {:<24} {:<24} {:>5} instructions, {:>6} states\n", program.info.section, program.info.name,
               program.info.insns, program.info.states_explored);
    if (program.info.rounds_max > SF_RUN_FUEL) {
      fmt::print("          its loops may take {} rounds; a run ends after {} instructions, and the operation goes its "
                 "ordinary way\n",
                 program.info.rounds_max, SF_RUN_FUEL);
    }
  }
  for (const auto &map : p.maps) {
    fmt::print("  map     {:<24} {:<13} {:>6} entries, {} + {} bytes each, {} bytes{}\n", map_name(map),
               map_type(map.def.type), map.def.max_entries, map.def.key_size, map.def.value_size, map_bytes(map),
               map.frozen ? ", read-only" : "");
  }
  if (!p.maps.empty()) fmt::print("  maps take {} bytes in all\n", all_map_bytes(p));
}

Json to_json(const std::string &chain, const vm::Refusal &r) {
  Json path = Json::array();
  for (const auto &step : r.path) {
    path.push_back({{"file", step.file}, {"line", step.line}, {"source", step.source}, {"insn", step.insn},
                    {"what", step.what}});
  }
  Json out = {{"policy", chain},       {"accepted", false},  {"code", r.code},
              {"category", category_name(r.category)},
              {"text", r.text},        {"detail", r.detail}, {"reason", r.reason}, {"needed", r.needed},
              {"known", r.known},      {"path", path},       {"suggestion", r.suggestion}};
  if (!r.file.empty()) out.update({{"file", r.file}, {"line", r.line}, {"source", r.source}});
  if (r.insn >= 0) out.update({{"insn", r.insn}, {"insn_text", r.insn_text}});
  return out;
}

Json to_json(const Checked &c) {
  if (!c.policy) {
    return to_json(c.chain, c.policy.error());
  }
  Json programs = Json::array(), maps = Json::array();
  for (const auto &program : c.policy->programs) {
    programs.push_back({{"section", program.info.section},
                        {"name", program.info.name},
                        {"insns", program.info.insns},
                        {"states", program.info.states_explored},
                        {"rounds_max", program.info.rounds_max}});
  }
  for (const auto &map : c.policy->maps) {
    maps.push_back({{"name", map_name(map)},
                    {"type", map_type(map.def.type)},
                    {"key_bytes", map.def.key_size},
                    {"value_bytes", map.def.value_size},
                    {"max_entries", map.def.max_entries},
                    {"bytes", map_bytes(map)},
                    {"read_only", map.frozen}});
  }
  return {{"policy", c.chain},           {"accepted", true}, {"verify_ms", c.verify_ms},
          {"publish_ms", c.publish_ms}, {"image_bytes", c.image_bytes}, {"image", c.lowered},
          {"notes", c.policy->notes},     {"programs", programs}, {"maps", maps},
          {"map_bytes", all_map_bytes(*c.policy)}};
}

}  // namespace

int policy_check_command(const Context &context, const std::vector<std::string> &chains, bool json) {
  int status = 0;
  Json list = Json::array();
  for (const auto &chain : chains) {
    const auto paths = find_chain(context.executable_directory, chain);
    if (!paths) {
      complain("policy check", paths.error());
      status = 1;
      continue;
    }
    const Checked checked = check(chain, *paths);
    if (!checked.policy) status = 1;
    if (json) {
      list.push_back(to_json(checked));
    } else {
      print(checked);
    }
  }
  if (json) fmt::print("{}\n", list.dump(2, ' ', false, Json::error_handler_t::replace));
  return status;
}

int policy_disasm_command(const Context &context, const std::string &chain, const std::string &section) {
  const auto paths = find_chain(context.executable_directory, chain);
  if (!paths) return complain("policy disasm", paths.error()), 1;
  const auto policy = load(*paths);
  if (!policy) return complain("policy disasm", chain + ": " + policy.error().str()), 1;
  bool any = false;
  for (const auto &program : policy->programs) {
    if (!section.empty() && program.info.section != section) continue;
    fmt::print("{}{}: {} ({} instructions, {} bytes of stack)\n", any ? "\n" : "", program.info.section,
               program.info.name, program.info.insns, program.stack_bytes);
    for (const auto &line : vm::disassemble(program)) fmt::print("{:6}: {}\n", line.pc, line.text);
    any = true;
  }
  if (any) return 0;
  complain("policy disasm", chain + ": no program in section \"" + section + "\"");
  return 1;
}

int policy_dump_ir_command(const Context &context, const std::string &chain, const std::string &section,
                           vm::CompilerStage stage) {
  const auto paths = find_chain(context.executable_directory, chain);
  if (!paths) return complain("policy dump-ir", paths.error()), 1;
  auto policy = load(*paths);
  if (!policy) return complain("policy dump-ir", chain + ": " + policy.error().str()), 1;
  std::erase_if(policy->programs, [&](const vm::Policy::Program &p) {
    return !section.empty() && p.info.section != section;
  });
  if (policy->programs.empty())
    return complain("policy dump-ir", chain + ": no program in section \"" + section + "\""), 1;
  const auto text = vm::compiler_text(*policy, stage);
  if (!text) return complain("policy dump-ir", chain + ": " + text.error().str()), 1;
  const char *comment = stage == vm::CompilerStage::Assembly ? "#" : ";";
  fmt::print("{} in order, equal ones once:", comment);
  for (const auto &program : policy->programs) fmt::print(" {} ({})", program.info.section, program.info.name);
  fmt::print("\n{}", *text);
  return 0;
}

}  // namespace shortfuse::cli
