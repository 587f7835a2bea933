// For the tests.
#include "testing.h"

#include <errno.h>

#include <algorithm>
#include <utility>

namespace shortfuse::vm::testing {

std::vector<Policy::Map> test_maps() {
  auto map = [](const char *name, uint32_t type, uint32_t key, uint32_t value, uint32_t entries) {
    Policy::Map m;
    m.def = {type, key, value, entries, 0, 0, {}};
    strncpy(m.def.name, name, sizeof m.def.name - 1);
    return m;
  };
  std::vector<Policy::Map> maps{map("hash", 1, 8, 16, 64), map("array", 2, 4, 16, 4), map("t.rodata", 2, 4, 16, 1), map("t.bss", 2, 4, 64, 1)};
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
  for (size_t i = 0; i + 1 < functions.size(); i++) p.functions.push_back({"f" + std::to_string(i), functions[i], functions[i + 1]});
  return p;
}

std::expected<Policy, Refusal> verified_policy(std::vector<LinkedProgram> programs) {
  Policy policy;
  policy.maps = test_maps();
  policy.paths = {"test"};
  for (LinkedProgram &p : programs) {
    uint64_t steps = kStepsMax;
    auto verified = verify_program(&p, policy.maps, "t.bpf.o", &steps);
    if (!verified) return std::unexpected(verified.error());
    Policy::Program out;
    out.info = {p.section, p.name, p.slot, static_cast<uint32_t>(p.code.size()), verified->steps};
    out.object = 0;
    out.stack_bytes = verified->stack_bytes;
    out.insns.resize(p.code.size());
    memcpy(out.insns.data(), p.code.data(), p.code.size() * 8);
    policy.programs.push_back(std::move(out));
  }
  return policy;
}

std::expected<Image, Refusal> Image::publish(const Policy &policy, Lowering lowering) {
  auto published = publish_image(policy, lowering);
  if (!published) return std::unexpected(published.error());
  void *base = mmap(nullptr, published->bytes, PROT_READ | PROT_EXEC, MAP_SHARED, published->fd, 0);
  close(published->fd);
  if (base == MAP_FAILED) return std::unexpected(Refusal{"test", "cannot map the image", ""});
  return Image(base, published->bytes);
}

uint64_t Image::run_code(uint32_t i, void *ctx, sf_vm_env *env) const {
  env->fuel = 1 << 20;
  auto at = reinterpret_cast<uintptr_t>(base_) + get()->program[i].code_offset;
  return reinterpret_cast<sf_image_entry>(at)(ctx, env);
}

uint64_t Image::interpret(uint32_t i, void *ctx, sf_vm_env *env) const {
  env->fuel = 1 << 20;
  const sf_image_program &p = get()->program[i];
  return sf_interpret(static_cast<const char *>(base_) + p.insns_offset, p.insns, ctx, env);
}

template <int id> struct FillTable {
  template <typename Get> static void fill(sf_host_fn *table, Get get) {
    table[id] = get(std::integral_constant<int, id>{});
    if constexpr (id > 0) FillTable<id - 1>::fill(table, get);
  }
};

Host::Host() {
  FillTable<SF_HOST_COUNT - 1>::fill(table_, [](auto id) -> sf_host_fn { return &Host::entry<decltype(id)::value>; });
  env_.host = table_;
  env_.host_state = this;
  values_[0] = nullptr;
  values_[1] = array_values_;
  values_[2] = rodata_;
  values_[3] = bss_;
  env_.map_value = values_;
  reset();
}

void Host::reset() {
  for (size_t i = 0; i < sizeof bss_; i++) bss_[i] = static_cast<unsigned char>(i * 37 + 11);
  for (size_t i = 0; i < sizeof array_values_; i++) array_values_[i] = static_cast<unsigned char>(i * 5 + 3);
  for (size_t i = 0; i < sizeof hash_value_; i++) hash_value_[i] = static_cast<unsigned char>(i * 91 + 1);
  memcpy(rodata_, test_maps()[2].initial.data(), sizeof rodata_);
  hash_present_ = true;
  calls.clear();
}

Host::Effects Host::effects() const {
  return {calls, {bss_, bss_ + sizeof bss_}, {hash_value_, hash_value_ + sizeof hash_value_}};
}

uint64_t Host::give_path(char *buffer, uint32_t size) {
  if (path == "?") return static_cast<uint64_t>(-ENOENT);
  if (path.size() >= size) return static_cast<uint64_t>(-ENAMETOOLONG);
  memcpy(buffer, path.c_str(), path.size() + 1);
  return path.size();
}

uint64_t Host::handle(int id, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) {
  auto note = [&](std::vector<uint64_t> v) { v.insert(v.begin(), static_cast<uint64_t>(id)), calls.push_back(std::move(v)); };
  auto bytes = [](uint64_t p) { return reinterpret_cast<unsigned char *>(p); };
  (void)e;
  switch (id) {
    case SF_HOST_MAP_LOOKUP: {
      uint64_t key = 0;
      memcpy(&key, bytes(b), a == 0 ? 8 : 4);
      note({a, key});
      if (a == 1) return key < 4 ? reinterpret_cast<uint64_t>(array_values_ + key * 16) : 0;
      return a == 0 && hash_present_ && key % 2 == 0 ? reinterpret_cast<uint64_t>(hash_value_) : 0;
    }
    case SF_HOST_MAP_UPDATE: note({a, d}); memcpy(a == 0 ? hash_value_ : array_values_, bytes(c), 16); return 0;
    case SF_HOST_MAP_DELETE: note({a}); hash_present_ = false; return 0;
    case SF_HOST_STRNCMP: note({b}); return static_cast<uint64_t>(static_cast<int64_t>(strncmp(reinterpret_cast<char *>(a), reinterpret_cast<char *>(c), b)));
    case SF_HOST_KEEP: case SF_HOST_PREFETCH: note({b, c}); return 0;
    case SF_HOST_PATH: note({c}); return give_path(reinterpret_cast<char *>(b), static_cast<uint32_t>(c));
    case SF_HOST_ARG: case SF_HOST_REPLY:
      note({b, d});
      if (b > arguments.size() || d > arguments.size() - b) return static_cast<uint64_t>(-EINVAL);
      memcpy(bytes(c), arguments.data() + b, d);
      return 0;
    case SF_HOST_KTIME: case SF_HOST_PRANDOM: case SF_HOST_PID_TGID: case SF_HOST_UID_GID: note({}); return 0x1122334455667788ull * (static_cast<uint64_t>(id) + calls.size());
    default: note({}); return static_cast<uint64_t>(static_cast<int64_t>(verdict));
  }
}

}  // namespace shortfuse::vm::testing
