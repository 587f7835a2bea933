#include "publish/precompiled.h"

#include <string.h>

#include <algorithm>

#include "lower/jit.h"
#include "object/map_declaration.h"
#include "publish/compiler.h"
#include "shortfuse/vm/map.h"

#ifndef SF_LLVM_VERSION
#define SF_LLVM_VERSION ""  // built without LLVM
#endif

namespace shortfuse::vm {
namespace {

constexpr uint64_t kMagic = 0x3169667365727573ull;
constexpr uint32_t kVersion = 2;
constexpr uint32_t kTextMax = 4096, kItemBytesMax = 16u << 20;

struct Header {
  uint64_t magic;
  uint32_t version, header_bytes;
  uint64_t file_bytes;
  uint64_t checksum;  // of all that follows the header
  uint64_t key;
  uint32_t maps, programs;
  uint32_t code_bytes, reserved;
  char compiler[16];  // NUL-terminated
};
static_assert(sizeof(Header) == 72);

uint64_t hash(uint64_t h, const void *data, size_t bytes) {  // FNV-1a
  const auto *p = static_cast<const unsigned char *>(data);
  for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * 0x100000001b3ull;
  return h;
}
constexpr uint64_t kHashStart = 0xcbf29ce484222325ull;

// ---- writing

class Writer {
 public:
  void number(uint32_t v) { raw(&v, sizeof v); }
  void raw(const void *p, size_t n) {
    const auto *b = static_cast<const unsigned char *>(p);
    bytes_.insert(bytes_.end(), b, b + n);
  }
  void item(const void *p, size_t n) {
    number(static_cast<uint32_t>(n));
    raw(p, n);
  }
  void text(const std::string &s) { item(s.data(), s.size()); }
  std::vector<unsigned char> take() { return std::move(bytes_); }

 private:
  std::vector<unsigned char> bytes_;
};

void write_map(Writer *w, const Policy::Map &map) {
  w->raw(&map.def, sizeof map.def);
  w->number(map.frozen);
  w->item(map.initial.data(), map.initial.size());
  w->text(map.key_type);
  w->text(map.value_type);
  w->item(map.inner.data(), map.inner.size() * sizeof(sf_image_map));
}

void write_program(Writer *w, const Policy::Program &p, uint32_t entry) {
  w->text(p.info.section);
  w->text(p.info.name);
  w->number(p.info.attached);
  w->number(entry);
  w->item(p.linked.data(), p.linked.size() * sizeof(uint64_t));
  w->number(static_cast<uint32_t>(p.functions.size()));
  for (const Policy::Function &f : p.functions) {
    w->text(f.name);
    w->number(f.start);
    w->number(f.end);
  }
}

// ---- reading

class Reader {
 public:
  Reader(const unsigned char *at, size_t left) : at_(at), left_(left) {}
  bool raw(void *to, size_t n) {
    if (n > left_) return ok_ = false;
    if (n > 0) memcpy(to, at_, n);  // neither may be NULL for it
    at_ += n;
    left_ -= n;
    return true;
  }
  uint32_t number() {
    uint32_t v = 0;
    raw(&v, sizeof v);
    return v;
  }
  uint32_t flag() {
    const uint32_t v = number();
    if (v > 1) ok_ = false;
    return v;
  }
  template <typename T> std::vector<T> items(size_t most) {
    const uint32_t n = number();
    if (n % sizeof(T) != 0 || n > most || n > left_) return ok_ = false, std::vector<T>();
    std::vector<T> v(n / sizeof(T));
    raw(v.data(), n);
    return v;
  }
  std::string text() {
    const auto v = items<char>(kTextMax);
    return {v.begin(), v.end()};
  }
  bool ok() const { return ok_; }
  size_t left() const { return left_; }

 private:
  const unsigned char *at_;
  size_t left_;
  bool ok_ = true;
};

bool terminated(const sf_image_map &def) { return memchr(def.name, 0, sizeof def.name) != nullptr; }

bool possible(const sf_image_map &def) {
  const sf_map_shape shape = sf_image_map_shape(&def);
  return terminated(def) && sf_map_bytes(&shape) != 0;
}

// Static contents: of a value, or references to programs or maps of the file, which are moved to their place.
bool place_contents(Policy::Map *map, uint32_t programs, uint32_t maps, const LinkPlace &place) {
  if (map->initial.empty()) return !map->frozen;
  const bool of_programs = map->def.type == SF_MAP_PROG_ARRAY, of_maps = map->def.type == SF_MAP_ARRAY_OF_MAPS;
  if (!of_programs && !of_maps)
    return map->def.type == SF_MAP_ARRAY && map->def.max_entries == 1 && map->initial.size() == map->def.value_size;
  if (map->frozen || map->initial.size() > size_t{map->def.max_entries} * sizeof(uint32_t)) return false;
  for (size_t at = 0; at + sizeof(uint32_t) <= map->initial.size(); at += sizeof(uint32_t)) {
    uint32_t reference = 0;
    memcpy(&reference, map->initial.data() + at, sizeof reference);
    if (reference == 0) continue;
    if (reference > (of_programs ? programs : maps)) return false;
    reference += of_programs ? place.first_program : place.first_map;
    memcpy(map->initial.data() + at, &reference, sizeof reference);
  }
  return map->initial.size() % sizeof(uint32_t) == 0;
}

bool read_map(Reader *r, const Header &header, const LinkPlace &place, Policy::Map *map) {
  r->raw(&map->def, sizeof map->def);
  map->frozen = r->flag();
  map->initial = r->items<unsigned char>(kItemBytesMax);
  map->key_type = r->text();
  map->value_type = r->text();
  map->inner = r->items<sf_image_map>(sizeof(sf_image_map));
  if (!r->ok() || !possible(map->def)) return false;
  map->def.object = place.object;
  const bool needs_inner = map->def.type == SF_MAP_ARRAY_OF_MAPS;
  if (needs_inner != !map->inner.empty()) return false;
  if (needs_inner && (!possible(map->inner[0]) || map->inner[0].type == SF_MAP_ARRAY_OF_MAPS)) return false;
  return place_contents(map, header.programs, header.maps, place);
}

// What programs are allowed to do with a map that is held by another is decided by what that one declares.
bool held_maps_fit(const std::vector<Policy::Map> &maps, const LinkPlace &place) {
  for (const Policy::Map &map : maps) {
    if (map.def.type != SF_MAP_ARRAY_OF_MAPS) continue;
    for (size_t at = 0; at < map.initial.size(); at += sizeof(uint32_t)) {
      uint32_t reference = 0;
      memcpy(&reference, map.initial.data() + at, sizeof reference);
      if (reference == 0) continue;
      const Policy::Map &held = maps[reference - 1 - place.first_map];
      if (held.frozen || !looks_as_declared(held.def, map.inner[0])) return false;
    }
  }
  return true;
}

bool place_code(LinkedProgram *program, uint32_t maps, const LinkPlace &place) {
  for (size_t pc = 0; pc < program->code.size(); pc++) {
    RawInsn &in = program->code[pc];
    if (in.code != kOpLoadImm64) continue;
    if (in.src() == kImmMap || in.src() == kImmMapValue) {
      if (static_cast<uint32_t>(in.imm) >= maps) return false;
      in.imm += static_cast<int32_t>(place.first_map);
    }
    pc++;
  }
  return true;
}

// The functions must divide the code, the first being the program.
bool functions_fit(const LinkedProgram &program) {
  uint32_t end = 0;
  for (const LinkedFunction &f : program.functions) {
    if (f.start != end || f.end <= f.start) return false;
    end = f.end;
  }
  return end == program.code.size() && end != 0 && end <= kInsnsMax;
}

bool read_program(Reader *r, const Header &header, const LinkPlace &place, LinkedProgram *program, uint32_t *entry) {
  program->target = place.target;
  program->section = r->text();
  program->name = r->text();
  program->attached = r->flag();
  *entry = r->number();
  program->code = r->items<RawInsn>(size_t{kInsnsMax} * sizeof(RawInsn));
  const uint32_t functions = r->number();
  if (!r->ok() || functions > kFunctionsMax) return false;
  for (uint32_t i = 0; i < functions; i++) {
    std::string name = r->text();
    const uint32_t start = r->number(), end = r->number();
    program->functions.push_back({std::move(name), start, end});
  }
  program->lines.resize(program->code.size());
  const auto slot = place.target->slot_of(program->section.substr(program->section.starts_with('?') ? 1 : 0));
  if (!r->ok() || !slot || (*entry != kNoEntry && *entry >= header.code_bytes)) return false;
  program->slot = *slot;
  return functions_fit(*program) && place_code(program, header.maps, place);
}

}  // namespace

bool is_precompiled(const void *bytes, size_t size) {
  return size >= sizeof kMagic && memcmp(bytes, &kMagic, sizeof kMagic) == 0;
}

std::expected<Precompiled, Refusal> read_precompiled(const void *bytes, size_t size, const std::string &name,
                                                     const LinkPlace &place) {
  auto refuse = [&](const char *code, const std::string &why) {
    return std::unexpected(Refusal{code, name + ": " + why, ""});
  };
  Header header{};
  if (!is_precompiled(bytes, size) || size < sizeof header) return refuse("sfi-malformed", "not a precompiled policy");
  memcpy(&header, bytes, sizeof header);
  if (header.version != kVersion || header.header_bytes != sizeof header)
    return refuse("sfi-version", "precompiled by another version of shortfuse; make it anew with shortfuse policy aot");
  const auto *body = static_cast<const unsigned char *>(bytes) + sizeof header;
  if (header.file_bytes != size || header.checksum != hash(kHashStart, body, size - sizeof header))
    return refuse("sfi-malformed", "the file is damaged");
  if (memchr(header.compiler, 0, sizeof header.compiler) == nullptr)
    return refuse("sfi-malformed", "the name of the compiler is not well-formed");
  if (header.maps > SF_IMAGE_MAPS_MAX || header.programs == 0 || header.programs > SF_IMAGE_PROGRAMS_MAX)
    return refuse("sfi-malformed", "the file has too many maps or programs, or none");
  Precompiled out;
  Reader reader(body, size - sizeof header);
  out.key = header.key;
  out.compiler = header.compiler;
  out.maps.resize(header.maps);
  for (uint32_t i = 0; i < header.maps; i++) {
    if (!read_map(&reader, header, place, &out.maps[i])) return refuse("sfi-malformed", "a map is not well-formed");
  }
  if (!held_maps_fit(out.maps, place))
    return refuse("sfi-malformed", "a map does not look as declared where it is held");
  out.programs.resize(header.programs);
  out.entries.resize(header.programs);
  for (uint32_t i = 0; i < header.programs; i++) {
    if (!read_program(&reader, header, place, &out.programs[i], &out.entries[i]))
      return refuse("sfi-malformed", "a program is not well-formed");
  }
  if (reader.left() != header.code_bytes) return refuse("sfi-malformed", "the machine code is not well-formed");
  out.code.resize(header.code_bytes);
  reader.raw(out.code.data(), out.code.size());
  return out;
}

bool is_own_compiler(const std::string &version) {
  return std::string(SF_LLVM_VERSION).empty() || version == SF_LLVM_VERSION;
}

uint64_t code_key(const std::vector<Policy::Map> &maps, const std::vector<Policy::Program> &programs, size_t first_map,
                  size_t first_program) {
  const uint64_t build[] = {SF_CODE_ABI, SF_ABI_VERSION, maps.size() - first_map};
  uint64_t key = hash(kHashStart, build, sizeof build);
#ifdef __x86_64__
  key = hash(key, "x86-64", 6);  // the features that code is made of are those that all of them have
#endif
  for (size_t i = first_map; i < maps.size(); i++) {
    const sf_image_map &def = maps[i].def;
    const sf_map_shape shapes[] = {sf_image_map_shape(&def),
                                   maps[i].inner.empty() ? sf_map_shape{} : sf_image_map_shape(&maps[i].inner[0])};
    const uint32_t frozen = maps[i].frozen;
    key = hash(key, shapes, sizeof shapes);
    key = hash(key, &frozen, sizeof frozen);
    if (maps[i].frozen) key = hash(key, maps[i].initial.data(), maps[i].initial.size());
  }
  for (size_t i = first_program; i < programs.size(); i++) {
    const Policy::Program &p = programs[i];
    const uint64_t sizes[] = {p.insns.size(), p.stack_bytes};
    key = hash(key, sizes, sizeof sizes);
    key = hash(key, p.insns.data(), p.insns.size() * sizeof(uint64_t));
  }
  return key;
}

std::expected<std::vector<unsigned char>, Refusal> precompile(const Policy &policy) {
  auto code = machine_code(policy);
  if (!code) return std::unexpected(Refusal{"lowering-failed", "no machine code: " + code.error(), ""});
  Writer w;
  for (const Policy::Map &map : policy.maps) write_map(&w, map);
  for (size_t i = 0; i < policy.programs.size(); i++) write_program(&w, policy.programs[i], code->entry[i]);
  w.raw(code->bytes.data(), code->bytes.size());
  const std::vector<unsigned char> body = w.take();
  Header header{kMagic, kVersion, sizeof(Header), sizeof(Header) + body.size(), 0, 0, 0, 0, 0, 0, {}};
  header.checksum = hash(kHashStart, body.data(), body.size());
  header.key = code_key(policy.maps, policy.programs, 0, 0);
  header.maps = static_cast<uint32_t>(policy.maps.size());
  header.programs = static_cast<uint32_t>(policy.programs.size());
  header.code_bytes = static_cast<uint32_t>(code->bytes.size());
  const std::string compiler = code->compiler.empty() ? SF_LLVM_VERSION : code->compiler;
  memcpy(header.compiler, compiler.data(), std::min(compiler.size(), sizeof header.compiler - 1));
  std::vector<unsigned char> file(sizeof header);
  memcpy(file.data(), &header, sizeof header);
  file.insert(file.end(), body.begin(), body.end());
  return file;
}

}  // namespace shortfuse::vm
