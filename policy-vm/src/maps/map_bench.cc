// Maps against std::unordered_map and the kernel's own: what one operation costs, by key size and number of entries.
//
// Which keys lookups draw, in an order made before the clock starts (state.range(0)):
//   half     one half of the entries, the hot one, at random: nothing of a large map stays in the caches
//   all      all entries, at random
//   mixed    every second lookup one of 1,024 hot entries, the others any
//   zipf     the n-th most wanted entry 1/n^0.99 as often as the first
// Keys are made before, and lie one behind the other in the order of their lookups: what is measured is the lookup and
// one read of its value. Many lookups are under way at once, as far as the processor goes. "chained": each lookup's key
// depends on the value before, so that nothing overlaps, which is what a single lookup in a system call waits.
//
// What the machine allows at that moment stands beside each figure ("limit"): the same keys hashed, and the one line
// (keys of up to 8 bytes; two neighbouring ones for 64 bytes) read that the hash leads to, in an array with one place
// per entry. Nothing is searched, compared or found there, so that no table is faster. "line" and "two_lines" do
// without keys and hashes: independent lines by their numbers. "called" lines: behind a call, as for an interpreter.
//
// "inlined": the shape is a constant, as in machine code; "called": sf_map_lookup(), as in the interpreter. "syscall":
// bpf(2). "in_program": a program in the kernel by BPF_PROG_TEST_RUN, its own random number included;
// "in_program_nothing" is what that costs without a lookup.
#include <benchmark/benchmark.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "maps/kernel_maps.h"
#include "maps/packed.h"

namespace {

namespace maps = shortfuse::vm::maps;
using shortfuse::vm::testing::KernelMap;
using shortfuse::vm::testing::KernelProgram;

template <size_t Size> struct Key {
  alignas(Size % 8 == 0 ? 8 : 4) std::array<unsigned char, Size> bytes{};
  // As many bytes at once as are loaded at once: else a load waits for the store before it.
  explicit Key(uint32_t number = 0) {
    const uint64_t wide = number;
    memcpy(bytes.data(), &wide, Size < 8 ? Size : 8);
  }
  bool operator==(const Key &) const = default;
};
template <size_t Size> struct HashOfKey {
  size_t operator()(const Key<Size> &key) const {
    return std::hash<std::string_view>()({reinterpret_cast<const char *>(key.bytes.data()), Size});
  }
};

/// A map as the daemon makes it: in a memfd.
class OurMap {
 public:
  explicit OurMap(const sf_map_shape &shape) : bytes_(sf_map_bytes(&shape)) {
    const int fd = memfd_create("bench", MFD_CLOEXEC);
    if (bytes_ == 0 || ftruncate(fd, static_cast<off_t>(bytes_)) != 0) throw std::runtime_error("no map");
    void *storage = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (storage == MAP_FAILED) throw std::runtime_error("no memory");
    sf_map_init(storage, &shape);
    map = {storage, shape, 1, 0};
  }
  ~OurMap() { munmap(map.storage, bytes_); }
  OurMap(const OurMap &) = delete;
  sf_map map{};

 private:
  size_t bytes_;
};

constexpr uint32_t kOrder = 1 << 20, kHotFew = 1024;
enum Draw : int64_t { kHalf, kAll, kMixed, kZipf };
const char *const kDrawNames[] = {"half", "all", "mixed", "zipf"};

/// Numbers of keys in the order of the lookups.
std::vector<uint32_t> drawn_numbers(uint32_t entries, int64_t draw) {
  std::mt19937 random(7);
  std::vector<uint32_t> all(entries), order(kOrder);
  for (uint32_t i = 0; i < entries; ++i) all[i] = i;
  std::shuffle(all.begin(), all.end(), random);
  std::vector<double> weights;  // of the first n entries together
  for (uint32_t n = 1; draw == kZipf && n <= entries; ++n)
    weights.push_back((weights.empty() ? 0 : weights.back()) + std::pow(n, -0.99));
  for (uint32_t i = 0; i < kOrder; ++i) {
    const uint32_t few = std::min(kHotFew, entries), wide = static_cast<uint32_t>(random() % entries);
    uint32_t which = wide;
    if (draw == kHalf) which = wide % (entries / 2);
    if (draw == kMixed && i % 2 == 0) which = wide % few;
    if (draw == kZipf) {
      const double weight = weights.back() * static_cast<double>(random()) / 4294967296.0;
      which = static_cast<uint32_t>(std::lower_bound(weights.begin(), weights.end(), weight) - weights.begin());
    }
    order[i] = all[std::min(which, entries - 1)];
  }
  return order;
}

// A key is memory to whoever looks it up: that most of its bytes are 0 is not known to the compiler.
template <size_t Size> void hide(Key<Size> &key) { asm volatile("" : "+m"(key)); }

template <size_t Size> std::vector<Key<Size>> keys_of(const std::vector<uint32_t> &numbers) {
  return {numbers.begin(), numbers.end()};
}

double thread_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
}

/// What keys that are hashed and the lines that the hashes lead to cost at this moment: the median of five rounds.
template <size_t Size> double limit_ns(const std::vector<Key<Size>> &keys, uint32_t entries) {
  constexpr size_t kPlace = (Size + 8 + 63) / 64 * 64;
  OurMap places({SF_MAP_ARRAY, 4, kPlace, entries});
  for (uint32_t i = 0; i < entries; ++i) *static_cast<uint32_t *>(sf_map_lookup(&places.map, &i, 0)) = i;
  const auto *values = static_cast<const unsigned char *>(sf_map_array_values(&places.map));
  std::array<double, 5> rounds{};
  for (double &round : rounds) {
    const double start = thread_ns();
    uint64_t sum = 0;
    for (const auto &key : keys) {
      const uint64_t hash = maps::hash_key(maps::header_of(places.map.storage)->seed, &key, Size);
      const unsigned char *place = values + maps::index_by(hash, entries) * kPlace;
      sum += maps::load_u64(place);
      if (kPlace > 64) sum += maps::load_u64(place + 64);
    }
    benchmark::DoNotOptimize(sum);
    round = (thread_ns() - start) / static_cast<double>(keys.size());
  }
  std::sort(rounds.begin(), rounds.end());
  return rounds[rounds.size() / 2];
}

template <size_t Size> void fill(OurMap &ours) {
  for (uint32_t i = 0; i < ours.map.shape.max_entries; ++i) {
    const Key<Size> key(i);
    const uint64_t value = i;
    if (sf_map_update(&ours.map, &key, &value, 0, 0) != 0) throw std::runtime_error("not filled");
  }
}

template <size_t Size, class Lookup> void run_lookups(benchmark::State &state, uint32_t entries, Lookup lookup,
                                                      int64_t draw = kHalf) {
  const auto keys = keys_of<Size>(drawn_numbers(entries, draw));
  state.SetLabel(kDrawNames[draw]);
  uint64_t sum = 0;
  uint32_t i = 0;
  for (auto _ : state) {
    sum += lookup(keys[i++ % kOrder]);
    asm("" : "+r"(sum));  // one after the other: a compiler may not add values of several
  }
  benchmark::DoNotOptimize(sum);
  if (entries > kHotFew) state.counters["limit"] = limit_ns<Size>(keys, entries);
}

uint64_t value_of(const void *value) { return value != nullptr ? *static_cast<const uint64_t *>(value) : 0; }

template <size_t Size, uint32_t Entries> void BM_Hash_lookup_inlined(benchmark::State &state) {
  OurMap ours({SF_MAP_HASH, Size, 8, Entries});
  fill<Size>(ours);
  run_lookups<Size>(state, Entries, [&](const Key<Size> &key) {
    return value_of(maps::hash_lookup(ours.map.storage, &key, Size, 8, Entries));
  }, state.range(0));
}

template <class Lookup> [[gnu::noinline]] uint64_t called(Lookup &lookup, uint32_t first, uint32_t second) {
  return lookup(first, second);
}

/// Lines by number: one, or two that are far from each other; in line or behind a call.
template <bool Two, bool Called> void BM_lines(benchmark::State &state) {
  const auto entries = static_cast<uint32_t>(state.range(1));
  OurMap ours({SF_MAP_ARRAY, 4, 64, entries}), others({SF_MAP_ARRAY, 4, 64, entries});
  for (uint32_t i = 0; i < entries; ++i) {
    for (OurMap *each : {&ours, &others}) *static_cast<uint32_t *>(sf_map_lookup(&each->map, &i, 0)) = i;
  }
  auto order = drawn_numbers(entries, state.range(0)), second = order;
  std::reverse(second.begin(), second.end());
  auto look = [&](uint32_t one, uint32_t two) {
    const uint64_t value = value_of(maps::array_lookup(ours.map.storage, &one, 64, entries));
    return Two ? value + value_of(maps::array_lookup(others.map.storage, &two, 64, entries)) : value;
  };
  state.SetLabel(kDrawNames[state.range(0)]);
  uint64_t sum = 0;
  uint32_t i = 0;
  for (auto _ : state) {
    sum += Called ? called(look, order[i % kOrder], second[i % kOrder]) : look(order[i % kOrder], second[i % kOrder]);
    ++i;
  }
  benchmark::DoNotOptimize(sum);
}

template <size_t Size, uint32_t Entries> void BM_Hash_lookup_chained(benchmark::State &state) {
  OurMap ours({SF_MAP_HASH, Size, 8, Entries});
  fill<Size>(ours);
  const auto order = drawn_numbers(Entries, kHalf);
  uint64_t last = 0;
  uint32_t i = 0;
  for (auto _ : state) {
    Key<Size> key(order[i++ % kOrder] + static_cast<uint32_t>(last >> 32));  // always 0
    hide(key);
    last = value_of(maps::hash_lookup(ours.map.storage, &key, Size, 8, Entries));
  }
  benchmark::DoNotOptimize(last);
}

template <size_t Size, uint32_t Entries> void BM_Hash_lookup_called(benchmark::State &state) {
  OurMap ours({SF_MAP_HASH, Size, 8, Entries});
  fill<Size>(ours);
  run_lookups<Size>(state, Entries, [&](const Key<Size> &key) { return value_of(sf_map_lookup(&ours.map, &key, 0)); },
                    state.range(0));
}

template <size_t Size, uint32_t Entries> void BM_unordered_map_lookup(benchmark::State &state) {
  std::unordered_map<Key<Size>, uint64_t, HashOfKey<Size>> map;
  map.reserve(Entries);
  for (uint32_t i = 0; i < Entries; ++i) map[Key<Size>(i)] = i;
  run_lookups<Size>(state, Entries, [&](const Key<Size> &key) {
    const auto at = map.find(key);
    return at != map.end() ? at->second : 0;
  }, state.range(0));
}

// ---- the kernel's

std::unique_ptr<KernelMap> kernel_hash(uint32_t key, uint32_t entries) {
  auto map = std::make_unique<KernelMap>(SF_MAP_HASH, key, 8, entries);
  std::vector<unsigned char> bytes(key);
  for (uint32_t i = 0; map->fd() >= 0 && i < entries; ++i) {
    const uint64_t value = i;
    memcpy(bytes.data(), &i, sizeof i);
    map->update(bytes.data(), &value, 0);
  }
  return map;
}

template <size_t Size, uint32_t Entries> void BM_kernel_lookup_syscall(benchmark::State &state) {
  const auto map = kernel_hash(Size, Entries);
  if (map->fd() < 0) return state.SkipWithError("bpf(2) is refused");
  run_lookups<Size>(state, Entries, [&](const Key<Size> &key) {
    uint64_t value = 0;
    map->lookup(&key, &value);
    return value;
  });
}

/// A random key of the lower half, and a lookup of it if there is a map.
std::vector<bpf_insn> looks_up(int map, uint32_t key, uint32_t entries) {
  constexpr uint8_t kCall = BPF_JMP | BPF_CALL, kAlu = BPF_ALU64 | BPF_K;
  const auto key_at = static_cast<int16_t>(-static_cast<int>((key + 7) / 8 * 8));
  std::vector<bpf_insn> out;
  for (int16_t at = key_at; at < 0; at = static_cast<int16_t>(at + 8))
    out.push_back({BPF_ST | BPF_DW | BPF_MEM, 10, 0, at, 0});
  out.push_back({kCall, 0, 0, 0, BPF_FUNC_get_prandom_u32});
  out.push_back({kAlu | BPF_MOD, 0, 0, 0, static_cast<int32_t>(entries / 2)});
  out.push_back({BPF_STX | BPF_W | BPF_MEM, 10, 0, key_at, 0});
  if (map >= 0) {
    out.push_back({BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, map});
    out.push_back({0, 0, 0, 0, 0});
    out.push_back({BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0});
    out.push_back({kAlu | BPF_ADD, 2, 0, 0, key_at});
    out.push_back({kCall, 0, 0, 0, BPF_FUNC_map_lookup_elem});
    out.push_back({BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1, 0});
    out.push_back({BPF_LDX | BPF_DW | BPF_MEM, 0, 0, 0, 0});
  }
  out.push_back({kAlu | BPF_MOV, 0, 0, 0, 0});
  out.push_back({BPF_JMP | BPF_EXIT, 0, 0, 0, 0});
  return out;
}

template <size_t Size, uint32_t Entries> void BM_kernel_lookup_in_program(benchmark::State &state) {
  constexpr uint32_t kRepeat = 1'000'000;
  const auto map = Size != 0 ? kernel_hash(Size, Entries) : nullptr;
  const KernelProgram program(looks_up(map ? map->fd() : -1, Size != 0 ? Size : 4, Entries));
  if (program.fd() < 0) return state.SkipWithError("bpf(2) is refused");
  for (auto _ : state) {
    const auto run = program.run(kRepeat);
    if (run.result != 0) return state.SkipWithError("the program did not run");
    state.SetIterationTime(run.average_ns * 1e-9);
  }
}

// ---- other operations, over 1,024 entries

template <uint32_t Type> void BM_update_existing(benchmark::State &state) {
  OurMap ours({Type, 4, 8, 1024});
  fill<4>(ours);
  uint64_t i = 0;
  for (auto _ : state) {
    const auto key = static_cast<uint32_t>(i & 1023);
    benchmark::DoNotOptimize(sf_map_update(&ours.map, &key, &i, 0, 0));
    ++i;
  }
}

template <uint32_t Type> void BM_delete_and_insert(benchmark::State &state) {
  OurMap ours({Type, 4, 8, 1024});
  fill<4>(ours);
  uint64_t i = 0;
  for (auto _ : state) {
    const auto key = static_cast<uint32_t>(i & 1023);
    benchmark::DoNotOptimize(sf_map_delete(&ours.map, &key));
    benchmark::DoNotOptimize(sf_map_update(&ours.map, &key, &i, 1, 0));
    ++i;
  }
}

void BM_unordered_map_delete_and_insert(benchmark::State &state) {
  std::unordered_map<uint32_t, uint64_t> map;
  for (uint32_t i = 0; i < 1024; ++i) map[i] = i;
  uint64_t i = 0;
  for (auto _ : state) {
    const auto key = static_cast<uint32_t>(i & 1023);
    map.erase(key);
    map.emplace(key, i++);
  }
}

void BM_kernel_update_syscall(benchmark::State &state) {
  const auto map = kernel_hash(4, 1024);
  if (map->fd() < 0) return state.SkipWithError("bpf(2) is refused");
  uint64_t i = 0;
  for (auto _ : state) {
    const auto key = static_cast<uint32_t>(i & 1023);
    benchmark::DoNotOptimize(map->update(&key, &i, 0));
    ++i;
  }
}

void BM_Array_lookup_inlined(benchmark::State &state) {
  OurMap ours({SF_MAP_ARRAY, 4, 8, 1024});
  run_lookups<4>(state, 1024, [&](const Key<4> &key) {
    return value_of(maps::array_lookup(ours.map.storage, &key, 8, 1024));
  });
}

void BM_Percpu_array_lookup_inlined(benchmark::State &state) {
  OurMap ours({SF_MAP_PERCPU_ARRAY, 4, 8, 1024});
  run_lookups<4>(state, 1024, [&](const Key<4> &key) {
    return value_of(maps::percpu_array_lookup(ours.map.storage, &key, 8, 1024, 3));
  });
}

void BM_Lpm_trie_lookup(benchmark::State &state) {
  OurMap ours({SF_MAP_LPM_TRIE, 8, 8, 1024});
  std::mt19937 random(3);
  uint32_t key[2];
  for (uint64_t i = 0; i < 1024; ++i) {
    key[0] = 8 + random() % 25, key[1] = static_cast<uint32_t>(random());
    sf_map_update(&ours.map, key, &i, 0, 0);
  }
  uint64_t sum = 0;
  for (auto _ : state) {
    key[0] = 32, key[1] = key[1] * 0x9e3779b1u + 12345;
    sum += value_of(sf_map_lookup(&ours.map, key, 0));
  }
  benchmark::DoNotOptimize(sum);
}

void BM_Ring_record(benchmark::State &state) {
  OurMap ours({SF_MAP_RINGBUF, 0, 0, 65536});
  uint64_t position = 0;
  char out[64];
  for (auto _ : state) {
    void *record = sf_ring_reserve(&ours.map, 16, 1);
    memset(record, 1, 16);
    sf_ring_commit(record, 0, 1);
    benchmark::DoNotOptimize(sf_ring_take(&ours.map, &position, out, sizeof out, 0));
  }
}

void BM_Queue_push_and_pop(benchmark::State &state) {
  OurMap ours({SF_MAP_QUEUE, 0, 8, 64});
  uint64_t value = 0;
  for (auto _ : state) {
    sf_map_push(&ours.map, &value, 0);
    benchmark::DoNotOptimize(sf_map_pop(&ours.map, &value));
  }
}

#define SF_DRAWN ->Arg(kHalf)->Arg(kAll)->Arg(kMixed)->Arg(kZipf)
#define SF_LOOKUPS(size, entries, drawn) \
  BENCHMARK(BM_Hash_lookup_inlined<size, entries>) drawn; BENCHMARK(BM_Hash_lookup_called<size, entries>) drawn; \
  BENCHMARK(BM_unordered_map_lookup<size, entries>) drawn; BENCHMARK(BM_Hash_lookup_chained<size, entries>); \
  BENCHMARK(BM_kernel_lookup_syscall<size, entries>); \
  BENCHMARK(BM_kernel_lookup_in_program<size, entries>)->UseManualTime()->Iterations(1)
SF_LOOKUPS(4, 1024, ->Arg(kHalf));
SF_LOOKUPS(8, 1024, ->Arg(kHalf));
SF_LOOKUPS(64, 1024, ->Arg(kHalf));
#define SF_LINES ->ArgsProduct({{kHalf, kAll, kMixed, kZipf}, {1'000'000}})
BENCHMARK(BM_lines<false, false>)->Name("BM_line") SF_LINES;
BENCHMARK(BM_lines<true, false>)->Name("BM_two_lines") SF_LINES;
BENCHMARK(BM_lines<false, true>)->Name("BM_line_called") SF_LINES;
BENCHMARK(BM_lines<true, true>)->Name("BM_two_lines_called") SF_LINES;
SF_LOOKUPS(4, 1'000'000, SF_DRAWN);
SF_LOOKUPS(8, 1'000'000, SF_DRAWN);
SF_LOOKUPS(64, 1'000'000, SF_DRAWN);
BENCHMARK(BM_kernel_lookup_in_program<0, 1024>)->Name("BM_kernel_in_program_nothing")->UseManualTime()->Iterations(1);
BENCHMARK(BM_Array_lookup_inlined);
BENCHMARK(BM_Percpu_array_lookup_inlined);
BENCHMARK(BM_Lpm_trie_lookup);
BENCHMARK(BM_update_existing<SF_MAP_HASH>)->Name("BM_Hash_update");
BENCHMARK(BM_update_existing<SF_MAP_LRU_HASH>)->Name("BM_Lru_hash_update");
BENCHMARK(BM_update_existing<SF_MAP_PERCPU_HASH>)->Name("BM_Percpu_hash_update");
BENCHMARK(BM_kernel_update_syscall);
BENCHMARK(BM_delete_and_insert<SF_MAP_HASH>)->Name("BM_Hash_delete_and_insert");
BENCHMARK(BM_unordered_map_delete_and_insert);
BENCHMARK(BM_Queue_push_and_pop);
BENCHMARK(BM_Ring_record);

}  // namespace

BENCHMARK_MAIN();
