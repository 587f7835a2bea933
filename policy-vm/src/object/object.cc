// Linking one object.
#include "object/object.h"

#include <elf.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "isa/host_functions.h"
#include "object/map_declaration.h"
#include "object/slots.h"

namespace shortfuse::vm {
namespace {

constexpr uint32_t kRelocAddress = 1;  // R_BPF_64_64
constexpr uint32_t kRelocPointer = 2;  // R_BPF_64_ABS64
constexpr uint32_t kRelocCall = 10;    // R_BPF_64_32
constexpr size_t kMissingTextMax = 240;
constexpr uint32_t kValuesMax = 1u << 16;  // entries of a map with static contents

using Unexpected = std::unexpected<Refusal>;

bool starts_with(const std::string &s, const char *prefix) { return s.rfind(prefix, 0) == 0; }

bool is_data_section(const ElfSection &s) {
  return s.allocated() && !s.executable() &&
         (starts_with(s.name, ".rodata") || starts_with(s.name, ".data") || starts_with(s.name, ".bss"));
}

// Names of maps reach terminals and file systems.
bool belongs_in_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
}

// "metacache.bpf.o" and ".rodata" make "metacache.rodata", as with libbpf; the stem is cut where it is too long.
std::string data_map_name(const std::string &object, const std::string &section) {
  std::string stem = object.substr(object.find_last_of('/') + 1);
  stem = stem.substr(0, stem.find('.'));
  size_t room = sizeof(sf_image_map{}.name) - 1;
  std::string tail = section.substr(0, room);
  std::string name = stem.substr(0, room - tail.size()) + tail;
  std::ranges::replace_if(name, [](char c) { return c != '-' && !belongs_in_name(c); }, '_');
  return name;
}

void set_name(char (&out)[32], const std::string &name) {
  memset(out, 0, sizeof out);
  memcpy(out, name.data(), std::min(name.size(), sizeof out - 1));
}

class Linker {
 public:
  Linker(const ElfFile &file, LinkedObject *out, const LinkPlace &place) : file_(file), out_(*out), place_(place) {}

  std::expected<void, Refusal> run() {
    if (auto ok = collect_maps(); !ok) return ok;
    collect_functions();
    for (uint32_t f = 0; f < functions_.size(); f++) {
      if (file_.sections[functions_[f].section].name == ".text") continue;
      program_of_[f] = static_cast<uint32_t>(out_.programs.size());
      if (auto ok = link_program(f); !ok) return ok;
    }
    for (const StaticValues &values : with_values_) {
      if (auto ok = fill_map(values); !ok) return ok;
    }
    if (out_.programs.empty())
      return refuse("no-programs", "the object has no program in a section syscall/OP, fuse/OP or fuse_exit/OP");
    return {};
  }

 private:
  struct Function {
    std::string name;
    uint32_t section;
    uint64_t start, bytes;
  };
  struct PendingCall { uint32_t at, function; };  // also of a LOAD_IMM64 of the function's address
  struct StaticValues {
    uint32_t map;             // of this object
    const ElfSymbol *symbol;
    uint32_t at;              // byte of the symbol
  };

  Unexpected refuse(const char *code, const std::string &text) const {
    return Unexpected(Refusal{code, out_.name + ": " + text, ""});
  }

  std::expected<void, Refusal> add_map(const sf_image_map &def, const std::string &name, Policy::Map map) {
    if (place_.first_map + out_.maps.size() >= SF_IMAGE_MAPS_MAX) {
      return refuse("too-many-maps", "the chain has more than " + std::to_string(SF_IMAGE_MAPS_MAX) + " maps");
    }
    map.def = def;
    map.def.object = place_.object;
    set_name(map.def.name, name);
    out_.maps.push_back(std::move(map));
    return {};
  }

  // Where a map lies: the type information leaves that to the symbols.
  const ElfSymbol *map_symbol(const std::string &name) const {
    for (const ElfSymbol &s : file_.symbols) {
      if (s.type == STT_OBJECT && s.name == name && s.section != 0 && file_.sections[s.section].name == ".maps")
        return &s;
    }
    return nullptr;
  }

  std::expected<void, Refusal> collect_maps() {
    auto declared = read_map_declarations(out_.btf.types());
    if (!declared) {
      const Refusal &r = declared.error();
      return Unexpected(Refusal{r.code, out_.name + ": " + r.text, r.detail});
    }
    for (const MapDeclaration &d : *declared) {
      if (!std::ranges::all_of(d.name, belongs_in_name))
        return refuse("map-malformed", "a map's name has other characters than A-Z a-z 0-9 _ .");
      const ElfSymbol *symbol = map_symbol(d.name);
      if (!symbol) return refuse("map-malformed", "map \"" + d.name + "\" has no symbol in .maps");
      map_at_[symbol->value] = place_.first_map + static_cast<uint32_t>(out_.maps.size());
      Policy::Map map;
      map.key_type = d.key_type;
      map.value_type = d.value_type;
      for (const MapDeclaration &inner : d.inner) map.inner.push_back(inner.def());
      if (d.has_values) with_values_.push_back({static_cast<uint32_t>(out_.maps.size()), symbol, d.values_at});
      if (auto ok = add_map(d.def(), d.name, std::move(map)); !ok) return ok;
    }
    return collect_data();
  }

  std::expected<void, Refusal> collect_data() {
    for (uint32_t i = 0; i < file_.sections.size(); i++) {
      const ElfSection &section = file_.sections[i];
      if (!is_data_section(section) || section.bytes == 0) continue;
      if (!section.relocations.empty()) {
        return refuse("data-relocation",
                      "section \"" + section.name + "\" holds an address, which is not supported in data");
      }
      if (section.bytes > kDataBytesMax)
        return refuse("data-too-large", "section \"" + section.name + "\" is larger than 1 MiB");
      Policy::Map map;
      map.frozen = starts_with(section.name, ".rodata");
      map.initial = section.data;
      map.initial.resize(section.bytes);
      data_map_[i] = place_.first_map + static_cast<uint32_t>(out_.maps.size());
      sf_image_map def{};
      def.type = BPF_MAP_TYPE_ARRAY_NUMBER;
      def.key_size = 4;
      def.value_size = static_cast<uint32_t>(section.bytes);
      def.max_entries = 1;
      if (auto ok = add_map(def, data_map_name(out_.name, section.name), std::move(map)); !ok) return ok;
    }
    return {};
  }

  void collect_functions() {
    for (const ElfSymbol &s : file_.symbols) {
      if (s.type != STT_FUNC || s.special || s.section == 0) continue;
      if (!file_.sections[s.section].executable()) continue;
      functions_.push_back({s.name, s.section, s.value, s.size});
    }
    std::stable_sort(functions_.begin(), functions_.end(), [](const Function &a, const Function &b) {
      return std::pair(a.section, a.start) < std::pair(b.section, b.start);
    });
    for (uint32_t f = 0; f < functions_.size(); f++) {
      function_at_.try_emplace({functions_[f].section, functions_[f].start}, f);
    }
  }

  std::expected<void, Refusal> link_program(uint32_t f) {
    const Function &function = functions_[f];
    LinkedProgram program;
    program.section = file_.sections[function.section].name;
    program.name = function.name;
    program.attached = program.section[0] != '?';
    program.target = place_.target;
    auto slot = place_.target->slot_of(program.section.substr(program.attached ? 0 : 1));
    if (!slot)
      return Unexpected(Refusal{slot.error().code, out_.name + ": " + slot.error().text, slot.error().detail});
    program.slot = *slot;
    const std::string given = essential_name(out_.btf.context_of(program.name));
    const std::string wanted = place_.target->context_name(program.slot);
    if (!given.empty() && !wanted.empty() && given != wanted) {
      return refuse("context-type", program.section + " (" + program.name + "): the program takes a struct " + given +
                    ", but is given a struct " + wanted);
    }
    if (out_.programs.size() >= SF_IMAGE_PROGRAMS_MAX) return refuse("too-many-programs", "more than 256 programs");
    placed_.clear();
    calls_.clear();
    if (auto ok = place(&program, f); !ok) return ok;
    for (size_t i = 0; i < calls_.size(); i++) {  // placing a function may add calls
      PendingCall call = calls_[i];
      if (!placed_.contains(call.function)) {
        if (auto ok = place(&program, call.function); !ok) return ok;
      }
      program.code[call.at].imm = static_cast<int32_t>(placed_[call.function]) - static_cast<int32_t>(call.at) - 1;
    }
    out_.programs.push_back(std::move(program));
    return {};
  }

  // The static contents of a PROG_ARRAY or ARRAY_OF_MAPS: an address per element, each with its relocation.
  std::expected<void, Refusal> fill_map(const StaticValues &values) {
    Policy::Map &map = out_.maps[values.map];
    const ElfSection &section = file_.sections[values.symbol->section];
    const uint64_t begin = values.symbol->value + values.at, end = values.symbol->value + values.symbol->size;
    const std::string what = "map \"" + std::string(map.def.name) + "\": ";
    for (const ElfRelocation &r : section.relocations) {
      if (r.offset < begin || r.offset >= end) continue;
      const uint64_t index = (r.offset - begin) / 8;
      uint64_t addend = 0;
      if ((r.offset - begin) % 8 != 0 || r.type != kRelocPointer ||
          r.offset > section.data.size() || section.data.size() - r.offset < sizeof addend)
        return refuse("map-malformed", what + "one of its `values` is no address");
      if (index >= map.def.max_entries) return refuse("map-malformed", what + "more `values` than max_entries");
      memcpy(&addend, section.data.data() + r.offset, sizeof addend);
      auto element = element_of(map, file_.symbols[r.symbol], addend);
      if (!element) return refuse("map-malformed", what + element.error());
      if (map.initial.empty()) {
        if (map.def.max_entries > kValuesMax) return refuse("map-malformed", what + "too many entries for `values`");
        map.initial.resize(size_t{map.def.max_entries} * sizeof(uint32_t));
      }
      memcpy(map.initial.data() + index * sizeof(uint32_t), &*element, sizeof(uint32_t));
    }
    return {};
  }

  std::expected<uint32_t, std::string> element_of(const Policy::Map &map, const ElfSymbol &symbol,
                                                  uint64_t addend) const {
    const uint64_t at = symbol.value + addend;
    if (map.inner.empty()) {
      auto function = function_at_.find({symbol.section, at});
      auto program = function == function_at_.end() ? program_of_.end() : program_of_.find(function->second);
      if (program == program_of_.end()) return std::unexpected("one of its `values` is not a program");
      return place_.first_program + program->second + 1;
    }
    auto found = symbol.section != 0 && file_.sections[symbol.section].name == ".maps" ? map_at_.find(at)
                                                                                       : map_at_.end();
    if (found == map_at_.end()) return std::unexpected("one of its `values` is not a map");
    const sf_image_map &given = out_.maps[found->second - place_.first_map].def;
    if (!looks_as_declared(given, map.inner[0])) {
      return std::unexpected("its value \"" + std::string(given.name) + "\" does not look as declared");
    }
    return found->second + 1;
  }

  // Appends a function's instructions, resolving all but local calls, which go to calls_.
  std::expected<void, Refusal> place(LinkedProgram *program, uint32_t f) {
    const Function &function = functions_[f];
    const ElfSection &section = file_.sections[function.section];
    const std::string where = section.name + " (" + function.name + ")";
    if (function.start % 8 != 0 || function.bytes % 8 != 0 || function.bytes == 0 ||
        function.start > section.data.size() || function.bytes > section.data.size() - function.start) {
      return refuse("elf-malformed", where + ": the function does not lie inside its section");
    }
    uint32_t base = static_cast<uint32_t>(program->code.size()), count = static_cast<uint32_t>(function.bytes / 8);
    if (count > kInsnsMax - base) return refuse("program-too-large", where + ": more than 65536 instructions");
    if ((insns_ += count) > kObjectInsnsMax)
      return refuse("program-too-large", "more than 262144 instructions in all");
    if (program->functions.size() >= kFunctionsMax)
      return refuse("program-too-large", where + ": more than 256 functions");
    program->functions.push_back({function.name, base, base + count});
    placed_[f] = base;
    program->code.resize(base + count);
    memcpy(program->code.data() + base, section.data.data() + function.start, function.bytes);
    for (uint32_t i = 0; i < count; i++) {
      program->lines.push_back(out_.btf.line(section.name, static_cast<uint32_t>(function.start) + i * 8));
    }
    for (uint32_t i = 0; i < count; i++) {
      RawInsn *insn = &program->code[base + i];
      uint64_t byte = function.start + uint64_t{i} * 8;
      const ElfRelocation *relocation = relocation_at(function.section, byte);
      std::expected<void, Refusal> ok;
      if (const CoreRelocation *core = out_.btf.core_relocation(section.name, static_cast<uint32_t>(byte))) {
        if (relocation) return refuse("elf-malformed", where + ": two relocations apply to one instruction");
        const bool wide = insn->code == kOpLoadImm64;
        if (auto fitted = fit_to_own_types(program, base + i, count - i, *core, where); !fitted) return fitted;
        if (wide) i++;
      } else if (insn->code == kOpLoadImm64) {
        if (i + 1 >= count) return refuse("elf-malformed", where + ": a 64-bit constant lacks its second half");
        ok = resolve_address(insn, base + i, relocation, where);
        i++;
      } else if (insn->code == kOpCall) {
        ok = resolve_call(insn, base + i, relocation, function.section, byte, where);
      } else if (relocation) {
        ok = refuse("elf-malformed", where + ": a relocation applies to an instruction that has no address");
      }
      if (!ok) return ok;
    }
    return {};
  }

  std::expected<void, Refusal> fit_to_own_types(LinkedProgram *program, uint32_t pc, uint32_t left,
                                                const CoreRelocation &core, const std::string &where) const {
    auto missing = apply_core_relocation(out_.btf.types(), place_.target->types, core, &program->code[pc], left);
    if (!missing) return refuse("core-malformed", where + ": " + missing.error());
    // Every copy of every instruction may have one, and names in an object have any length.
    if (missing->size() > kMissingTextMax) missing->replace(kMissingTextMax - 3, std::string::npos, "...");
    if (!missing->empty()) program->missing[pc] = *missing;
    return {};
  }

  std::expected<void, Refusal> resolve_address(RawInsn *insn, uint32_t at, const ElfRelocation *relocation,
                                               const std::string &where) {
    if (!relocation) {
      if (insn->src() != kImmValue) return refuse("elf-malformed", where + ": an address without its relocation");
      return {};
    }
    const ElfSymbol &symbol = file_.symbols[relocation->symbol];
    const std::string shown = symbol.name.empty() ? file_.sections[symbol.section].name : symbol.name;
    if (relocation->type != kRelocAddress)
      return refuse("elf-malformed", where + ": unexpected relocation of " + shown);
    if (symbol.section == 0) {
      return refuse("extern-unknown", where + ": \"" + shown + "\" is external, and not a function that is called: "
                    "only functions can be external here");
    }
    uint64_t offset = symbol.value + static_cast<uint32_t>(insn[0].imm);
    const ElfSection &section = file_.sections[symbol.section];
    uint8_t kind = kImmMap;
    uint32_t index = 0;
    if (section.name == ".maps") {
      auto map = map_at_.find(offset);
      if (map == map_at_.end()) return refuse("map-malformed", where + ": \"" + shown + "\" is not a map with a type");
      index = map->second;
      offset = 0;
    } else if (auto data = data_map_.find(symbol.section); data != data_map_.end()) {
      kind = kImmMapValue;
      index = data->second;
      if (offset >= section.bytes)
        return refuse("elf-malformed", where + ": \"" + shown + "\" lies outside its section");
    } else if (section.executable()) {
      auto function = function_at_.find({symbol.section, offset});
      if (function == function_at_.end())
        return refuse("elf-malformed", where + ": an address inside \"" + shown + "\" that is no function's");
      calls_.push_back({at, function->second});
      insn[0].regs = static_cast<uint8_t>(insn[0].dst() | kImmFunction << 4);
      insn[1].imm = 0;
      return {};
    } else {
      return refuse("section-unsupported", where + ": section \"" + section.name +
                    "\" is used for data; supported are .maps, .rodata*, .data* and .bss*");
    }
    insn[0].regs = static_cast<uint8_t>(insn[0].dst() | kind << 4);
    insn[0].imm = static_cast<int32_t>(index);
    insn[1].imm = static_cast<int32_t>(offset);
    return {};
  }

  std::expected<void, Refusal> resolve_call(RawInsn *insn, uint32_t at, const ElfRelocation *relocation,
                                            uint32_t section, uint64_t byte, const std::string &where) {
    insn->off = 0;
    uint64_t target = 0;
    if (relocation) {
      const ElfSymbol &symbol = file_.symbols[relocation->symbol];
      if (relocation->type != kRelocCall) return refuse("elf-malformed", where + ": unexpected relocation of a call");
      if (symbol.section == 0) return resolve_extern(insn, symbol.name, where);
      section = symbol.section;
      target = symbol.value + (static_cast<uint64_t>(static_cast<int64_t>(insn->imm)) + 1) * 8;
    } else if (insn->src() == kCallHost) {
      return resolve_helper(insn, where);
    } else if (insn->src() == kCallLocal) {
      target = byte + (static_cast<uint64_t>(static_cast<int64_t>(insn->imm)) + 1) * 8;
    } else {
      return refuse("call-unsupported", where + ": a call of an unknown form");
    }
    auto function = function_at_.find({section, target});
    if (function == function_at_.end())
      return refuse("elf-malformed", where + ": a call whose target is not a function");
    insn->regs = static_cast<uint8_t>(kCallLocal << 4);
    calls_.push_back({at, function->second});
    return {};
  }

  std::expected<void, Refusal> resolve_helper(RawInsn *insn, const std::string &where) {
    std::string known;
    for (const HostFunction &f : kHostFunctions) {
      if (f.kernel_number == 0) continue;
      if (f.kernel_number == insn->imm) {
        insn->regs = 0;
        insn->imm = f.id;
        return {};
      }
      known += std::string(known.empty() ? "" : ", ") + f.name + " (" + std::to_string(f.kernel_number) + ")";
    }
    Refusal refusal = refuse("helper-unknown", where + ": helper number " + std::to_string(insn->imm) +
                             " is not offered here").error();
    refusal.detail = "offered are: " + known;
    return Unexpected(refusal);
  }

  std::expected<void, Refusal> resolve_extern(RawInsn *insn, const std::string &name, const std::string &where) {
    std::string known;
    for (const HostFunction *f : place_.target->named_functions()) {
      if (name != f->name) {
        known += std::string(known.empty() ? "" : " ") + f->name;
        continue;
      }
      if (auto ok = check_prototype(*f, where); !ok) return ok;
      insn->regs = 0;
      insn->imm = f->id;
      return {};
    }
    Refusal refusal = refuse("extern-unknown", where + ": there is no function \"" + name + "\" here").error();
    refusal.detail = "offered are: " + known;
    return Unexpected(refusal);
  }

  // What the program believes of a function must be what the function is.
  std::expected<void, Refusal> check_prototype(const HostFunction &f, const std::string &where) {
    if (checked_.contains(f.id)) return {};
    const std::string what = where + ": the declaration of " + f.name + "()";
    auto declared = out_.btf.function(f.name);
    if (!declared) return refuse("extern-untyped", what + " has no type information: compile with -g");
    size_t wanted = 0;
    while (wanted < std::size(f.args) && f.args[wanted] != Arg::None) wanted++;
    if (declared->parameters.size() != wanted) {
      return refuse("extern-type", what + " has " + std::to_string(declared->parameters.size()) +
                                       " parameters, it takes " + std::to_string(wanted));
    }
    for (size_t i = 0; i < wanted; i++) {
      bool pointer = f.args[i] != Arg::Scalar && f.args[i] != Arg::Size;
      const ParameterShape &got = declared->parameters[i];
      if (got.pointer != pointer || (!pointer && (got.bytes == 0 || got.bytes > 8))) {
        return refuse("extern-type", what + ": parameter " + std::to_string(i + 1) + " must be " +
                      (pointer ? "a pointer" : "an integer"));
      }
    }
    const bool returns_int = declared->result.bytes == 4 || (place_.target->embedded && declared->result.bytes == 8);
    if (declared->result.pointer || !returns_int) return refuse("extern-type", what + " must return int");
    checked_.insert(f.id);
    return {};
  }

  const ElfRelocation *relocation_at(uint32_t section, uint64_t byte) {
    auto [entry, first_time] = relocations_.try_emplace(section);
    if (first_time) {
      for (const ElfRelocation &r : file_.sections[section].relocations) entry->second.try_emplace(r.offset, &r);
    }
    auto found = entry->second.find(byte);
    return found == entry->second.end() ? nullptr : found->second;
  }

  static constexpr uint64_t kDataBytesMax = 1u << 20;
  static constexpr uint32_t BPF_MAP_TYPE_ARRAY_NUMBER = 2;

  const ElfFile &file_;
  LinkedObject &out_;
  const LinkPlace place_;
  uint32_t insns_ = 0;
  std::vector<Function> functions_;
  std::map<std::pair<uint32_t, uint64_t>, uint32_t> function_at_;  // section, byte -> function
  std::unordered_map<uint64_t, uint32_t> map_at_;    // offset in .maps -> map
  std::unordered_map<uint32_t, uint32_t> data_map_;  // section -> map
  std::unordered_map<uint32_t, std::unordered_map<uint64_t, const ElfRelocation *>> relocations_;
  std::unordered_map<uint32_t, uint32_t> placed_;    // function -> start, in the program being linked
  std::unordered_map<uint32_t, uint32_t> program_of_;  // function -> program of this object
  std::vector<StaticValues> with_values_;
  std::vector<PendingCall> calls_;
  std::set<int> checked_;
};

}  // namespace

std::expected<LinkedObject, Refusal> link_object(const ElfFile &file, const std::string &name,
                                                 const LinkPlace &place) {
  auto btf = BtfInfo::read(file);
  if (!btf) return Unexpected(Refusal{btf.error().code, name + ": " + btf.error().text, btf.error().detail});
  LinkedObject out{name, std::move(*btf), {}, {}};
  if (auto ok = Linker(file, &out, place).run(); !ok) return Unexpected(ok.error());
  return out;
}

}  // namespace shortfuse::vm
