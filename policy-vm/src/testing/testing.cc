// For the tests.
#include "testing/testing.h"

#include <errno.h>

#include <algorithm>
#include <bit>

#include "run/interpret.h"
#include "testing/opcodes.h"
#include "shortfuse/trace.h"

namespace shortfuse::vm::testing {

std::vector<Policy::Map> test_maps() {
  auto map = [](const char *name, uint32_t type, uint32_t key, uint32_t value, uint32_t entries) {
    Policy::Map m;
    m.def = {type, key, value, entries, 0, 0, 0, 0, {}};
    strncpy(m.def.name, name, sizeof m.def.name - 1);
    return m;
  };
  std::vector<Policy::Map> maps{map("hash", 1, 8, 16, 64), map("array", 2, 4, 16, 4), map("t.rodata", 2, 4, 16, 1),
                                map("t.bss", 2, 4, 64, 1), map("ring", SF_MAP_RINGBUF, 0, 0, 4096),
                                map("percpu", SF_MAP_PERCPU_ARRAY, 4, 16, 4),
                                map("programs", SF_MAP_PROG_ARRAY, 4, 4, 4),
                                map("queue", SF_MAP_QUEUE, 0, 16, 8), map("bloom", SF_MAP_BLOOM_FILTER, 0, 8, 64),
                                map("maps", SF_MAP_ARRAY_OF_MAPS, 4, 4, 2)};
  maps[kMapOfMaps].inner = {maps[kArrayOfSixteen].def};
  maps[2].frozen = true;
  maps[2].initial = {'c', 'o', 'n', 's', 't', 'a', 'n', 't', 0, 1, 2, 3, 7, 7, 7, 7};
  maps[3].initial.resize(64);
  return maps;
}

LinkedProgram make_program(const Code &code, const std::string &section, std::vector<uint32_t> functions) {
  LinkedProgram p;
  p.section = section;
  p.name = "test";
  p.slot = slot_of_section(section).value();
  p.code = code;
  p.lines.resize(code.size());
  functions.insert(functions.begin(), 0);
  functions.push_back(static_cast<uint32_t>(code.size()));
  for (size_t i = 0; i + 1 < functions.size(); i++)
    p.functions.push_back({"f" + std::to_string(i), functions[i], functions[i + 1]});
  return p;
}

LinkedProgram assemble(const Code &program, const std::vector<Code> &sub_programs, const std::string &section) {
  Code code = program;
  std::vector<uint32_t> starts;
  for (const Code &sub : sub_programs) {
    starts.push_back(static_cast<uint32_t>(code.size()));
    code = code + sub;
  }
  for (uint32_t pc = 0; pc < code.size(); pc += code[pc].code == kOpLoadImm64 ? 2 : 1) {
    if (code[pc].code != kOpLoadImm64 || code[pc].src() != kImmFunction) continue;
    code[pc].imm = static_cast<int32_t>(starts.at(static_cast<size_t>(code[pc].imm)) - pc - 1);
  }
  return make_program(code, section, starts);
}

std::expected<Policy, Refusal> verified_policy(std::vector<LinkedProgram> programs,
                                               const std::vector<Policy::Map> &maps, uint64_t steps_max) {
  Policy policy;
  policy.maps = maps;
  policy.paths = {"test"};
  for (LinkedProgram &p : programs) {
    uint64_t steps = steps_max;
    const Code given = p.code;
    auto verified = verify_program(&p, policy.maps, "t.bpf.o", &steps);
    if (!verified) return std::unexpected(verified.error());
    opcodes_of_tests().verified.add(given.data(), given.size());
    Policy::Program out;
    out.info = {p.section, p.name, p.slot, static_cast<uint32_t>(p.code.size()), verified->steps, p.attached,
                verified->rounds};
    out.object = 0;
    out.stack_bytes = verified->stack_bytes;
    out.insns.resize(p.code.size());
    memcpy(out.insns.data(), p.code.data(), p.code.size() * 8);
    policy.programs.push_back(std::move(out));
  }
  return policy;
}

Policy trusted_policy(std::vector<LinkedProgram> programs, uint32_t frame_bytes) {
  Policy policy;
  policy.maps = test_maps();
  policy.paths = {"test"};
  for (LinkedProgram &p : programs) {
    for (RawInsn &in : p.code) {
      if (in.code == kOpCall || in.code == kOpCallReg) in.off = static_cast<int16_t>(frame_bytes);
    }
    Policy::Program out;
    out.info = {p.section, p.name, p.slot, static_cast<uint32_t>(p.code.size()), 0};
    out.stack_bytes = kStackBytes;
    out.insns.resize(p.code.size());
    memcpy(out.insns.data(), p.code.data(), p.code.size() * 8);
    policy.programs.push_back(std::move(out));
  }
  return policy;
}

std::expected<Image, Refusal> Image::publish(Policy policy, Lowering lowering, bool calls_inlined) {
  policy.calls_inlined = calls_inlined;
  auto published = publish_image(policy, lowering);
  if (!published) return std::unexpected(published.error());
  void *base = mmap(nullptr, published->bytes, PROT_READ | PROT_EXEC, MAP_SHARED, published->fd, 0);
  close(published->fd);
  if (base == MAP_FAILED) return std::unexpected(Refusal{"test", "cannot map the image", ""});
  return Image(base, published->bytes);
}

uint64_t Image::run_code(uint32_t i, void *ctx, sf_vm_env *env) const {
  env->fuel = 1 << 20;
  opcodes_of_tests().compiled.add(insns(i), get()->program[i].insns);
  auto at = reinterpret_cast<uintptr_t>(base_) + get()->program[i].code_offset;
  return reinterpret_cast<sf_image_entry>(at)(ctx, env);
}

uint64_t Image::interpret(uint32_t i, void *ctx, sf_vm_env *env) const {
  env->fuel = 1 << 20;
  opcodes_of_tests().interpreted.add(insns(i), get()->program[i].insns);
  return sf_interpret(insns(i), get()->program[i].insns, ctx, env);
}

RealMaps::RealMaps(const std::vector<Policy::Map> &maps) {
  for (const Policy::Map &m : maps) {
    const sf_map_shape shape = sf_image_map_shape(&m.def);
    void *storage =
        mmap(nullptr, sf_map_bytes(&shape), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (storage == MAP_FAILED) abort();
    sf_map_init(storage, &shape);
    handles.push_back({storage, shape, 1, 0});
  }
  for (size_t i = 0; i < handles.size(); i++) {
    addresses_.push_back(&handles[i]);
    values.push_back(sf_map_array_values(&handles[i]));
    const std::vector<unsigned char> &initial = maps[i].initial;
    if (initial.empty()) continue;
    const uint32_t each = handles[i].shape.value_size;
    for (uint32_t at = 0; at * each < initial.size(); at++)
      sf_map_update(&handles[i], &at, initial.data() + at * each, 0, 0);
  }
#define X(number, name) table_[number] = name;
  SF_VM_FUNCTIONS(X)
#undef X
  env.host = table_;
  env.map = addresses_.data();
  env.map_value = values.data();
}

RealMaps::~RealMaps() {
  for (const sf_map &h : handles) munmap(h.storage, sf_map_bytes(&h.shape));
}

Host::Host(const std::vector<Policy::Map> &maps) : maps_(maps) {
  fill<SF_HOST_COUNT - 1>(table_);
  for (const Policy::Map &m : maps_) {
    values_.push_back(std::make_unique<unsigned char[]>(m.def.value_size));
    keys_.push_back(std::make_unique<unsigned char[]>(m.def.key_size));
    addresses_.push_back(values_.back().get());
  }
  handles_.resize(maps_.size());
  for (size_t m = 0; m < maps_.size(); m++) {
    const sf_image_map &def = maps_[m].def;
    handles_[m] = {values_[m].get(), {def.type, def.key_size, def.value_size, def.max_entries}, 1, 0};
    handle_addresses_.push_back(&handles_[m]);
  }
  env_.map = handle_addresses_.data();
  env_.host = table_;
  env_.host_state = this;
  env_.map_value = addresses_.data();
  reset();
}

void Host::reset() {
  for (size_t m = 0; m < maps_.size(); m++) {
    const Policy::Map &map = maps_[m];
    for (uint32_t i = 0; i < map.def.value_size; i++) values_[m][i] = static_cast<unsigned char>(i * 37 + 11 * m);
    std::copy_n(map.initial.data(), std::min<size_t>(map.initial.size(), map.def.value_size), values_[m].get());
  }
  calls.clear();
  records_.clear();
}

Host::Effects Host::effects() const {
  Effects e{calls, {}};
  for (size_t m = 0; m < maps_.size(); m++)
    e.values.emplace_back(values_[m].get(), values_[m].get() + maps_[m].def.value_size);
  return e;
}

uint64_t Host::give_path(char *buffer, uint32_t size) {
  if (path == "?") return static_cast<uint64_t>(-ENOENT);
  if (path.size() >= size) return static_cast<uint64_t>(-ENAMETOOLONG);
  memcpy(buffer, path.c_str(), path.size() + 1);
  return path.size();
}

uint64_t Host::step(uint32_t map, sf_map_cursor *cursor) {
  const sf_image_map &def = maps_.at(map).def;
  if (cursor->position >= std::min(def.max_entries, 3u)) return 0;
  cursor->position++;
  for (uint32_t i = 0; i < def.key_size; i++) keys_[map][i] = static_cast<unsigned char>(cursor->position * (i + 1));
  cursor->key = keys_[map].get();
  cursor->value = values_[map].get();
  return 1;
}

uint64_t Host::reserve(uint64_t bytes) {
  if (calls.size() % 3 == 0) return 0;
  records_.push_back({std::make_unique<unsigned char[]>(bytes), bytes});
  std::fill_n(records_.back().bytes.get(), bytes, static_cast<unsigned char>(0xa5));
  return reinterpret_cast<uint64_t>(records_.back().bytes.get());
}

uint64_t Host::give_back(uint64_t record, bool submit) {
  for (auto r = records_.begin(); r != records_.end(); ++r) {
    if (reinterpret_cast<uint64_t>(r->bytes.get()) != record) continue;
    if (submit) calls.push_back({r->bytes.get(), r->bytes.get() + r->size});
    records_.erase(r);
    break;
  }
  return 0;
}

// A map of the kind that the map of maps holds.
uint64_t Host::inner_of(uint64_t outer) const {
  for (size_t m = 0; m < maps_.size() && !maps_[outer].inner.empty(); m++) {
    const sf_image_map &a = maps_[m].def, &b = maps_[outer].inner[0];
    const bool same = a.type == b.type && a.key_size == b.key_size && a.value_size == b.value_size;
    if (same && a.max_entries == b.max_entries && !maps_[m].frozen)
      return reinterpret_cast<uint64_t>(&handles_[m]);
  }
  return 0;
}

uint64_t Host::handle(int id, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) {
  auto note = [&](std::vector<uint64_t> v) {
    v.insert(v.begin(), static_cast<uint64_t>(id));
    calls.push_back(std::move(v));
  };
  auto bytes = [](uint64_t p) { return reinterpret_cast<unsigned char *>(p); };
  auto as_result = [](int64_t v) { return static_cast<uint64_t>(v); };
  (void)e;
  switch (id) {
    case SF_HOST_MAP_LOOKUP: case SF_HOST_MAP_UPDATE: case SF_HOST_MAP_DELETE: {
      a = map_index(a);
      const sf_image_map &map = maps_.at(a).def;
      uint64_t sum = 0;
      for (uint32_t i = 0; i < map.key_size; i++) sum += bytes(b)[i];
      note({a, sum});
      if (id == SF_HOST_MAP_LOOKUP && map.type == SF_MAP_ARRAY_OF_MAPS) return sum % 2 == 0 ? inner_of(a) : 0;
      if (id == SF_HOST_MAP_LOOKUP) return sum % 2 == 0 ? reinterpret_cast<uint64_t>(values_[a].get()) : 0;
      if (id == SF_HOST_MAP_UPDATE) memmove(values_[a].get(), bytes(c), map.value_size);
      return sum % 3 ? 0 : as_result(-ENOENT);
    }
    case SF_HOST_STRNCMP:
      note({b});
      return as_result(strncmp(reinterpret_cast<char *>(a), reinterpret_cast<char *>(c), b));
    case SF_HOST_KEEP: case SF_HOST_PREFETCH: note({b, c}); return 0;
    case SF_HOST_PATH: note({c}); return give_path(reinterpret_cast<char *>(b), static_cast<uint32_t>(c));
    case SF_HOST_ARG: case SF_HOST_REPLY:
      note({b, d});
      if (b > arguments.size() || d > arguments.size() - b) return as_result(-EINVAL);
      memcpy(bytes(c), arguments.data() + b, d);
      return 0;
    case SF_HOST_MAP_LOOKUP_PERCPU: {
      a = map_index(a);
      note({a, bytes(b)[0], c});
      return c < 2 && bytes(b)[0] % 2 == 0 ? reinterpret_cast<uint64_t>(values_.at(a).get()) : 0;
    }
    case SF_HOST_MAP_PUSH: case SF_HOST_MAP_POP: case SF_HOST_MAP_PEEK: {
      a = map_index(a);
      note({a});
      const uint32_t size = maps_.at(a).def.value_size;
      const bool bloom = maps_[a].def.type == SF_MAP_BLOOM_FILTER;
      if (id == SF_HOST_MAP_PUSH) memmove(values_[a].get(), bytes(b), size);
      if (id != SF_HOST_MAP_PUSH && !bloom) memmove(bytes(b), values_[a].get(), size);
      return calls.size() % 3 ? 0 : as_result(-ENOENT);
    }
    case SF_HOST_RINGBUF_OUTPUT: note({map_index(a), bytes(b)[0], bytes(b)[c - 1], c, d}); return 0;
    case SF_HOST_RINGBUF_RESERVE: note({map_index(a), b, c}); return reserve(b);
    case SF_HOST_RINGBUF_SUBMIT: case SF_HOST_RINGBUF_DISCARD:
      note({b});
      return give_back(a, id == SF_HOST_RINGBUF_SUBMIT);
    case SF_HOST_RINGBUF_QUERY: note({map_index(a), b}); return 4096 * (b + 1);
    case SF_HOST_CPU: note({}); return 1;
    case SF_HOST_MAP_STEP: return step(map_index(a), reinterpret_cast<sf_map_cursor *>(b));
    case SF_HOST_TAIL_CALL: note({map_index(b), c}); return c % 2 ? 0 : as_result(-ENOENT);
    case SF_HOST_KTIME: case SF_HOST_PRANDOM: case SF_HOST_PID_TGID: case SF_HOST_UID_GID:
      note({});
      return 0x1122334455667788ull * (static_cast<uint64_t>(id) + calls.size());
    default: note({}); return as_result(verdict);
  }
}

// Knows all memory that a program may touch.
struct Checker {
  Host &host;
  uint64_t context, context_bytes;
  bool in_application;
  uint64_t stack = 0;
  std::string wrong;
  struct Range { uint64_t at, bytes; };
  std::vector<Range> keys;     // given to bodies; elements may stay where they are, so keys do
  std::vector<Range> records;  // of ring buffers
  uint64_t reserving = 0;

  void begin(const unsigned char *s) { stack = reinterpret_cast<uint64_t>(s); }
  bool fail(const std::string &what) { return wrong = what, false; }
  static bool within(uint64_t at, uint64_t bytes, uint64_t from, uint64_t size) {
    return at >= from && bytes <= size && at - from <= size - bytes;
  }
  bool access(uint64_t at, uint32_t bytes, bool writes) {
    if (within(at, bytes, stack, kStackBytes)) return true;
    if (within(at, bytes, context, context_bytes)) return writes ? fail("write to the context") : true;
    for (size_t m = 0; m < host.maps_.size(); m++) {
      if (!within(at, bytes, reinterpret_cast<uint64_t>(host.values_[m].get()), host.maps_[m].def.value_size))
        continue;
      return writes && (in_application || host.maps_[m].frozen) ? fail("write to a read-only map") : true;
    }
    for (const Range &r : records) {
      if (within(at, bytes, r.at, r.bytes)) return true;
    }
    for (const Range &r : keys) {
      if (within(at, bytes, r.at, r.bytes)) return writes ? fail("write to a key") : true;
    }
    return fail(std::string(writes ? "write" : "read") + " of memory that is not the program's");
  }
  void visit(uint64_t map, const sf_map_cursor &cursor) {
    const uint32_t index = host.map_index(map);
    if (index >= host.maps_.size()) return;
    keys.push_back({reinterpret_cast<uint64_t>(cursor.key), host.maps_[index].def.key_size});
  }
  bool release(uint64_t record) {
    auto is = [&](const Range &r) { return r.at == record; };
    return std::erase_if(records, is) == 1 ? true : fail("a record is given back that was not reserved");
  }
  void returned(uint32_t id, const uint64_t *r) {
    if (id == SF_HOST_RINGBUF_RESERVE && r[0] != 0) records.push_back({r[0], reserving});
  }
  bool call(uint32_t id, const uint64_t *r) {
    if (id >= SF_HOST_COUNT) return fail("call of nothing");
    uint32_t map = 0;
    for (unsigned i = 0; i < 5; i++) {
      uint64_t v = r[i + 1];
      switch (kHostFunctions[id].args[i]) {
        case Arg::Context: if (v != context) return fail("context argument"); break;
        case Arg::Map:
          map = host.map_index(v);
          if (map >= host.maps_.size()) return fail("map argument");
          break;
        case Arg::MapKey: if (!access(v, host.maps_[map].def.key_size, false)) return false; break;
        case Arg::MapValue: if (!access(v, host.maps_[map].def.value_size, false)) return false; break;
        case Arg::ReadMemory: if (!access(v, static_cast<uint32_t>(r[i + 2]), false)) return false; break;
        case Arg::WriteMemory: if (!access(v, static_cast<uint32_t>(r[i + 2]), true)) return false; break;
        case Arg::ConstString: if (!access(v, 1, false)) return false; break;
        case Arg::MapValueOut: {
          const sf_image_map &def = host.maps_[map].def;
          if (!access(v, def.value_size, def.type != SF_MAP_BLOOM_FILTER)) return false;
          break;
        }
        case Arg::ConstSize: reserving = v; break;
        case Arg::RingRecord: if (!release(v)) return false; break;
        default: break;
      }
    }
    return true;
  }
};

uint64_t insns_max(const Policy::Program &p) {
  constexpr uint64_t kPaidForMap = 128;  // and for buffers: those of tests are small
  uint64_t nests = 1, paid = p.insns.size();
  for (uint64_t word : p.insns) {
    const auto in = std::bit_cast<RawInsn>(word);
    if (in.code == kOpCall && in.src() == 0) paid += kPaidForMap + host_cost_of(static_cast<uint32_t>(in.imm)).always;
    nests += in.off < 0 || in.code == kOpCall || (in.code == (kClassJmp32 | kJumpAlways) && in.imm < 0);
  }
  const uint64_t rounds = p.info.rounds_max * nests + p.info.states_explored + 1;
  return rounds * paid;
}

std::string Host::checked_run(const std::vector<uint64_t> &insns, unsigned slot, void *ctx, uint64_t *r0,
                              uint64_t fuel) {
  const uint64_t context_bytes[] = {sizeof(sf_syscall_ctx), sizeof(sf_fuse_ctx), sizeof(sf_fuse_exit_ctx),
                                    sizeof(sf_call_ctx), sizeof(sf_call_ctx)};
  Side side = side_of_slot(slot);
  Checker checker{*this, reinterpret_cast<uint64_t>(ctx), context_bytes[static_cast<int>(side)],
                  side == Side::Syscall};
  env_.fuel = fuel;
  *r0 = interpret(reinterpret_cast<const RawInsn *>(insns.data()), static_cast<uint32_t>(insns.size()), ctx, &env_,
                  checker);
  if (env_.fuel == 0) return checker.wrong.empty() ? kOutOfFuel : checker.wrong;
  if (checker.wrong.empty() && !checker.records.empty()) return "a record was reserved and not given back";
  return checker.wrong;
}

std::string Host::checked_run_in_short(const Policy::Program &p, void *ctx, uint64_t fuel) {
  uint64_t r0;
  const std::string wrong = checked_run(p.insns, p.info.slot, ctx, &r0, fuel);
  return wrong == kOutOfFuel && insns_max(p) > fuel ? "" : wrong;
}

}  // namespace shortfuse::vm::testing
