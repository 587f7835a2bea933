// `shortfuse policy run`: one operation through a policy, without a mount.
#include <errno.h>
#include <fmt/format.h>
#include <string.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "commands.h"
#include "files.h"
#include "shortfuse/vm/trial.h"

namespace shortfuse::cli {

namespace {

using Json = nlohmann::ordered_json;

std::string list_of(const std::set<std::string> &names) {
  std::string out;
  for (const auto &name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

/// The section asked for, or the only one.
std::expected<const vm::ProgramInfo *, std::string> choose(const vm::Policy &policy, const std::string &section) {
  std::set<std::string> sections;
  const vm::ProgramInfo *chosen = nullptr;
  for (const auto &program : policy.programs) {
    sections.insert(program.info.section);
    if (!chosen && (section.empty() || program.info.section == section)) chosen = &program.info;
  }
  if (!chosen) return std::unexpected("no program in section \"" + section + "\"; there are: " + list_of(sections));
  if (section.empty() && sections.size() > 1)
    return std::unexpected("which program? --section with one of: " + list_of(sections));
  return chosen;
}

std::optional<int64_t> number_of(const std::string &text) {
  if (text.empty()) return std::nullopt;
  errno = 0;
  char *end = nullptr;
  const int64_t value = text[0] == '-' ? strtoll(text.c_str(), &end, 0)
                                       : static_cast<int64_t>(strtoull(text.c_str(), &end, 0));
  if (*end != 0 || errno != 0) return std::nullopt;
  return value;
}

bool fits(int64_t value, const vm::ContextField &field) {
  if (field.bytes == 8) return true;
  const int bits = static_cast<int>(field.bytes) * 8;
  return value >= -(int64_t{1} << (bits - 1)) && value < int64_t{1} << bits;
}

/// "req.node" by its name, and by "node" too.
const vm::ContextField *find_field(const std::vector<vm::ContextField> &fields, const std::string &name) {
  for (const auto &field : fields) {
    if (field.name == name || field.name == "req." + name) return &field;
  }
  return nullptr;
}

void put(std::vector<unsigned char> *context, const vm::ContextField &field, uint64_t value) {
  memcpy(context->data() + field.offset, &value, field.bytes);
}

/// The context: zeros, its size and operation, and what was asked for.
std::expected<std::vector<unsigned char>, std::string> make_context(const std::vector<std::string> &assignments,
                                                                    const vm::ProgramInfo &program) {
  const auto fields = vm::context_fields(program.slot);
  size_t bytes = 0;
  for (const auto &field : fields) bytes = std::max<size_t>(bytes, field.offset + field.bytes);
  std::vector<unsigned char> context((bytes + 7) / 8 * 8);
  const unsigned base = program.slot < SF_SLOT_FUSE        ? SF_SLOT_SYSCALL
                        : program.slot < SF_SLOT_FUSE_EXIT ? SF_SLOT_FUSE
                                                           : SF_SLOT_FUSE_EXIT;
  if (const auto *size = find_field(fields, "size")) put(&context, *size, context.size());
  for (const char *name : {"op", "opcode"}) {
    if (const auto *op = find_field(fields, name)) put(&context, *op, program.slot - base);
  }
  for (const auto &assignment : assignments) {
    const size_t equals = assignment.find('=');
    const std::string name = assignment.substr(0, equals);
    const auto *field = find_field(fields, name);
    if (!field) {
      std::string known;
      for (const auto &f : fields) known += (known.empty() ? "" : " ") + f.name;
      return std::unexpected("the context of " + program.section + " has no field \"" + name + "\"; it has: " + known);
    }
    const auto value = equals == std::string::npos ? std::nullopt : number_of(assignment.substr(equals + 1));
    if (!value || !fits(*value, *field))
      return std::unexpected(fmt::format("--ctx {}: FIELD=NUMBER is expected, of {} bytes", assignment, field->bytes));
    put(&context, *field, static_cast<uint64_t>(*value));
  }
  return context;
}

std::expected<std::vector<unsigned char>, std::string> bytes_of_hex(const std::string &option,
                                                                    const std::string &text) {
  std::vector<unsigned char> out;
  if (text.size() % 2 != 0 || text.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
    return std::unexpected(option + ": bytes in hexadecimal are expected, e.g. 6100ff");
  for (size_t i = 0; i < text.size(); i += 2)
    out.push_back(static_cast<unsigned char>(std::stoul(text.substr(i, 2), nullptr, 16)));
  return out;
}

std::string verdict_text(int64_t verdict) {
  if (verdict == SF_PASS) return "SF_PASS: the call takes its usual way";
  if (verdict == SF_SERVED) return "SF_SERVED: answered";
  const char *name = verdict < 0 && verdict >= -4095 ? strerrorname_np(static_cast<int>(-verdict)) : nullptr;
  return name ? fmt::format("denied: {}", name) : "no verdict: counts as SF_PASS";
}

std::string call_text(const vm::HostCall &call) {
  std::string arguments;
  for (const auto &a : call.arguments) arguments += (arguments.empty() ? "" : ", ") + a;
  return fmt::format("{}({}) = {}", call.function, arguments, call.result) +
         (call.note.empty() ? "" : "   -- " + call.note);
}

std::string change_text(const vm::MapChange &change) {
  const std::string what = change.map + "[" + change.key + "]";
  if (change.before.empty()) return what + " = " + change.after + "   (new)";
  if (change.after.empty()) return what + " deleted   (was " + change.before + ")";
  return what + " = " + change.after + "   (was " + change.before + ")";
}

void print(const vm::Trial &trial, const vm::ProgramInfo &program, uint64_t runs) {
  fmt::print("{}: {} ({})\n", program.section, trial.verdict, verdict_text(trial.verdict));
  for (const auto &call : trial.calls) fmt::print("  call  {}\n", call_text(call));
  if (trial.calls_made > trial.calls.size())
    fmt::print("  ... and {} calls more\n", trial.calls_made - trial.calls.size());
  for (const auto &change : trial.changes) fmt::print("  map   {}\n", change_text(change));
  if (runs > 1) fmt::print("  time  {:.1f} ns per run, of {} runs\n", trial.ns_per_run, runs);
  fmt::print("  by    {}\n", trial.engine);
}

Json to_json(const vm::Trial &trial, const vm::ProgramInfo &program, uint64_t runs) {
  Json calls = Json::array(), maps = Json::array();
  for (const auto &call : trial.calls) {
    calls.push_back({{"function", call.function}, {"arguments", call.arguments}, {"result", call.result},
                     {"note", call.note}});
  }
  auto or_null = [](const std::string &s) { return s.empty() ? Json() : Json(s); };
  for (const auto &c : trial.changes) {
    maps.push_back({{"map", c.map}, {"key", c.key}, {"before", or_null(c.before)}, {"after", or_null(c.after)}});
  }
  Json out = {{"section", program.section}, {"verdict", trial.verdict}, {"meaning", verdict_text(trial.verdict)},
              {"calls_made", trial.calls_made}, {"calls", calls}, {"maps", maps}, {"engine", trial.engine},
              {"runs", runs}};
  if (runs > 1) out["ns_per_run"] = trial.ns_per_run;
  return out;
}

std::expected<void, std::string> run(const Context &context, const PolicyRunArguments &a) {
  const auto paths = find_chain(context.executable_directory, a.chain);
  if (!paths) return std::unexpected(paths.error());
  const auto policy = vm::load_policy(*paths);
  if (!policy) return std::unexpected(a.chain + ": " + policy.error().str());
  const auto program = choose(*policy, a.section);
  if (!program) return std::unexpected(a.chain + ": " + program.error());
  auto bytes = make_context(a.fields, **program);
  if (!bytes) return std::unexpected(bytes.error());
  const auto arguments = bytes_of_hex("--arg", a.argument_hex), reply = bytes_of_hex("--reply", a.reply_hex);
  if (!arguments || !reply) return std::unexpected(!arguments ? arguments.error() : reply.error());
  vm::TrialOptions options{.section = (*program)->section, .context = std::move(*bytes), .runs = a.runs,
                           .hit = !a.miss, .path = a.path, .arguments = *arguments, .reply = *reply};
  // One run is for looking, and the interpreter shows every call; many are for the time.
  options.lowering = a.jit                     ? vm::Lowering::Required
                     : a.interp || a.runs == 1 ? vm::Lowering::InterpretOnly
                                               : vm::Lowering::Auto;
  auto trial = vm::try_section(*policy, options);
  if (!trial) return std::unexpected(a.chain + ": " + trial.error().str());
  if (options.lowering == vm::Lowering::InterpretOnly) trial->engine = "interpreter";
  if (a.json) {
    fmt::print("{}\n", to_json(*trial, **program, a.runs).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    print(*trial, **program, a.runs);
  }
  return {};
}

}  // namespace

int policy_run_command(const Context &context, const PolicyRunArguments &arguments) {
  if (auto ok = run(context, arguments); !ok) return complain("policy run", ok.error()), 1;
  return 0;
}

}  // namespace shortfuse::cli
