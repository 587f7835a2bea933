// vm_bench: the same programs in the interpreter, as an image, as native C and, where permitted, in the kernel.
//
// Native is programs.bpf.c compiled by clang -O2 for the processor without vector registers, with the maps' C
// functions, as a file system would call them. All four are run in turn, 15 times; figures are medians of nanoseconds
// per run of a program, the kernel's as BPF_PROG_TEST_RUN reports them. Results must be equal, else it fails.
//
//   build/bin/vm_bench [--json] [PROGRAM...]
//
// On two cores of an AMD EPYC, Linux 6.18, clang 19.1 (medians of three runs of it; busy with other work, so a tenth is
// noise, and now and then the branches of one program are predicted wrong for a whole run, four times as slow):
//
//   ns per run        interpreter      image     native     kernel   im/nat   ker/im
//   arithmetic              21064       1617       1815       1634     0.89     1.01
//   hash_bytes              19549       1099       1090       1120     1.01     1.02
//   compare                  8089         81         78        230     1.04     2.83
//   lookup_hit_4            2923        226        492       1678     0.46     7.42
//   lookup_miss_4           3460        136        457       1219     0.30     8.95
//   lookup_hit_64           4319        573       1173       2723     0.49     4.75
//   count_in_array           2646         40        125         98     0.32     2.43
//   loop_callback           25686       1082       2689       7617     0.40     7.04
//   sub_programs             6729        176        381       2166     0.46    12.34
//   path_match               1178         27         25         55     1.08     2.04
//   branches                 8753        307        538        376     0.57     1.22
//   copy_on_stack            4558        280        294        318     0.95     1.14
//   checksum                 8762         71         67        309     1.06     4.37
//
// The image beats native C where a call is left there: the maps' functions, sub-programs that were asked not to be
// inlined, bpf_loop(). The kernel's JIT inlines lookups in ARRAY maps only.
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bench/programs.h"
#include "testing/testing.h"
#include "testing/kernel_oracle.h"

extern "C" {
extern input native_in;
sf_map table4, table64, counters;
#define X(name, operations) int native_##name(void *ctx);
SF_BENCH_PROGRAMS(X)
#undef X
}

namespace shortfuse::vm {
namespace {

using namespace testing;

constexpr int kRounds = 15;
constexpr uint64_t kChunkNs = 1'000'000;

struct Native { const char *name; int (*run)(void *); unsigned operations; };
constexpr Native kNative[] = {
#define X(name, operations) {#name, native_##name, operations},
    SF_BENCH_PROGRAMS(X)
#undef X
};

uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

void fill_input(input *to) {
  uint64_t x = 42;
  auto next = [&x] { return x = x * 6364136223846793005u + 1442695040888963407u, x >> 33; };
  to->seed = 12345;
  for (auto &w : to->words) w = next() << 32 | next();
  for (auto &k : to->keys) k = static_cast<uint32_t>(next() % TABLE_ENTRIES);
  for (auto &c : to->text) c = static_cast<unsigned char>('a' + next() % 26);
  const char *paths[] = {"usr/include/stdio.h", "usr/lib/x", "home/user/secret", "etc/passwd", "home/user/public/a"};
  for (size_t i = 0; i < 8; i++) strcpy(reinterpret_cast<char *>(to->text) + i * 128, paths[i % std::size(paths)]);
  memcpy(to->other, to->text, sizeof to->other);
  for (size_t i = 40; i < sizeof to->other; i += 100) to->other[i] ^= 1;
}

template <typename Put> void fill_tables(Put &&put) {
  for (uint32_t i = 0; i < TABLE_ENTRIES; i++) {
    const uint64_t value = i * 3, key[8] = {i, i, i, i, i, i, i, i};
    put("table4", &i, &value);
    put("table64", key, &value);
  }
}

std::string name_of(const Policy::Map &m) { return m.def.name; }
bool is_input(const Policy::Map &m) { return m.def.value_size == sizeof(input); }

// A verified program as the kernel can take it.
LinkedProgram linked(const Policy::Program &p) {
  LinkedProgram out;
  out.code.resize(p.insns.size());
  memcpy(out.code.data(), p.insns.data(), p.insns.size() * 8);
  std::vector<uint32_t> starts{0};
  for (uint32_t pc = 0; pc < out.code.size(); pc++) {
    Insn in;
    if (decode_insn(&out.code[pc], static_cast<uint32_t>(out.code.size()) - pc, &in)) continue;
    if (in.calls_local() || in.takes_function_address()) starts.push_back(static_cast<uint32_t>(pc + in.distance()));
    if (in.kind == Kind::LoadImm64) pc++;
  }
  std::sort(starts.begin(), starts.end());
  starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
  starts.push_back(static_cast<uint32_t>(out.code.size()));
  for (size_t i = 0; i + 1 < starts.size(); i++) out.functions.push_back({"f", starts[i], starts[i + 1]});
  return out;
}

struct Engine {
  std::string name;
  std::function<int()> once;
  std::function<double(uint64_t)> many;  // nanoseconds per run
  uint64_t runs = 1;
  std::vector<double> ns;
};

template <typename Run> Engine engine(const char *name, Run run) {
  return {name, [run] { return static_cast<int>(run()); },
          [run](uint64_t n) {
            const uint64_t start = now_ns();
            for (uint64_t i = 0; i < n; i++) run();
            return static_cast<double>(now_ns() - start) / static_cast<double>(n);
          },
          1, {}};
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

class Bench {
 public:
  explicit Bench(Policy policy) : policy_(std::move(policy)), maps_(policy_.maps) {
    for (size_t i = 0; i < policy_.maps.size(); i++) {
      const Policy::Map &m = policy_.maps[i];
      if (name_of(m) == "table4") table4 = maps_.handles[i];
      if (name_of(m) == "table64") table64 = maps_.handles[i];
      if (name_of(m) == "counters") counters = maps_.handles[i];
      if (is_input(m)) fill_input(static_cast<input *>(maps_.values[i]));
    }
    fill_input(&native_in);
    fill_tables([](const std::string &table, const void *key, const void *value) {
      sf_map_update(table == "table4" ? &table4 : &table64, key, value, 0, 0);
    });
    prepare_kernel();
  }

  bool start() {
    auto image = Image::publish(policy_, Lowering::Required, true);
    if (!image) return fprintf(stderr, "vm_bench: %s\n", image.error().str().c_str()), false;
    image_.emplace(std::move(*image));
    return true;
  }

  std::vector<Engine> engines(const Native &native) {
    uint32_t index = 0;
    while (index < policy_.programs.size() && policy_.programs[index].info.name != native.name) index++;
    const sf_image *image = image_->get();
    const auto *base = reinterpret_cast<const char *>(image);
    const sf_image_program &p = image->program[index];
    auto entry = reinterpret_cast<sf_image_entry>(reinterpret_cast<uintptr_t>(base + p.code_offset));
    sf_vm_env *env = &maps_.env;
    std::vector<Engine> out;
    out.push_back(engine("interpreter", [=] {
      env->fuel = 1 << 30;
      return sf_interpret(base + p.insns_offset, p.insns, nullptr, env);
    }));
    out.push_back(engine("image", [=] {
      env->fuel = 1 << 30;
      return entry(nullptr, env);
    }));
    out.push_back(engine("native", [run = native.run] { return run(nullptr); }));
    if (!kernel_maps_) return out;
    auto loaded = KernelProgram::load(linked(policy_.programs[index]), *kernel_maps_);
    if (!loaded) return fprintf(stderr, "vm_bench: kernel: %s: %s\n", native.name, loaded.error().c_str()), out;
    auto kernel = std::make_shared<KernelProgram>(std::move(*loaded));
    out.push_back({"kernel", [kernel] { return static_cast<int>(kernel->run()->result); },
                   [kernel](uint64_t n) { return double(kernel->run(static_cast<uint32_t>(n))->nanoseconds); }, 1, {}});
    return out;
  }

  const std::string &why_no_kernel() const { return why_no_kernel_; }

 private:
  void prepare_kernel() {
    why_no_kernel_ = kernel_unavailable();
    if (!why_no_kernel_.empty()) return;
    auto made = KernelMaps::make(policy_.maps);
    if (!made) {
      why_no_kernel_ = made.error();
      return;
    }
    kernel_maps_.emplace(std::move(*made));
    std::map<std::string, int> fds;
    for (size_t i = 0; i < policy_.maps.size(); i++) {
      const Policy::Map &m = policy_.maps[i];
      fds[name_of(m)] = kernel_maps_->fd(i);
      if (!m.initial.empty()) memcpy(kernel_maps_->memory(i), m.initial.data(), m.initial.size());
      if (is_input(m)) fill_input(reinterpret_cast<input *>(kernel_maps_->memory(i)));
    }
    fill_tables([&](const std::string &table, const void *key, const void *value) {
      update_kernel_map(fds[table], key, value);
    });
  }

  Policy policy_;
  RealMaps maps_;  // the named ones are the native programs' too
  std::optional<Image> image_;
  std::optional<KernelMaps> kernel_maps_;
  std::string why_no_kernel_;
};

// How many runs fill a chunk; and whether all agree on the result.
bool prepare(const Native &native, std::vector<Engine> *engines) {
  const int expected = (*engines)[0].once();
  for (Engine &e : *engines) {
    if (e.once() != expected) {
      fprintf(stderr, "vm_bench: %s: %s gives %d, not %d\n", native.name, e.name.c_str(), e.once(), expected);
      return false;
    }
    const double ns = std::max(1.0, e.many(100));
    e.runs = std::max<uint64_t>(10, static_cast<uint64_t>(double(kChunkNs) / ns));
  }
  return true;
}

void print(const Native &native, const std::vector<Engine> &engines, bool json, bool first) {
  std::map<std::string, double> ns;
  for (const Engine &e : engines) ns[e.name] = median(e.ns);
  if (json) {
    printf("%s  {\"program\": \"%s\", \"operations\": %u", first ? "" : ",\n", native.name, native.operations);
    for (auto &[name, value] : ns) printf(", \"%s_ns\": %.1f", name.c_str(), value);
    printf("}");
    return;
  }
  const double kernel = ns.contains("kernel") ? ns["kernel"] : 0;
  printf("%-16s %12.0f %10.0f %10.0f %10.0f %8.2f %8.2f\n", native.name, ns["interpreter"], ns["image"], ns["native"],
         kernel, ns["image"] / ns["native"], kernel / ns["image"]);
  fflush(stdout);
}

int run(bool json, const std::vector<std::string> &wanted) {
  auto policy = load_policy({SF_BENCH_PROGRAMS_OBJECT});
  if (!policy) return fprintf(stderr, "vm_bench: %s\n", policy.error().str().c_str()), 1;
  Bench bench(std::move(*policy));
  if (!bench.start()) return 1;
  if (!bench.why_no_kernel().empty()) fprintf(stderr, "vm_bench: no kernel: %s\n", bench.why_no_kernel().c_str());
  if (json) printf("[\n");
  else printf("%-16s %12s %10s %10s %10s %8s %8s\n", "ns per run", "interpreter", "image", "native", "kernel",
              "im/nat", "ker/im");
  bool first = true;
  for (const Native &native : kNative) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), native.name) == wanted.end()) continue;
    std::vector<Engine> engines = bench.engines(native);
    if (!prepare(native, &engines)) return 1;
    for (int round = 0; round < kRounds; round++) {
      for (Engine &e : engines) e.ns.push_back(e.many(e.runs));
    }
    print(native, engines, json, std::exchange(first, false));
  }
  if (json) printf("\n]\n");
  return 0;
}

}  // namespace
}  // namespace shortfuse::vm

int main(int argc, char **argv) {
  std::vector<std::string> wanted(argv + 1, argv + argc);
  const bool json = std::erase(wanted, "--json") > 0;
  return shortfuse::vm::run(json, wanted);
}
