/* What a lookup costs when its lines are in the processor's caches, and when they are not; what a fill costs. */
#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "shortfuse/cache/cache.h"

namespace {

using namespace shortfuse::cache;

constexpr uint64_t kMany = 1 << 20;

struct Filled {
  std::unique_ptr<Cache> cache;
  std::vector<Nid> nids;
  std::vector<std::string> names;

  explicit Filled(uint64_t files, bool pages) {
    cache = std::move(*Cache::create({.budget_bytes = (pages ? 8192 : 1024) * files + (64 << 20)}));
    fuse_attr attr{};
    attr.ctime = 1;
    attr.mode = 0100644;
    std::vector<std::byte> page(SF_PAGE_BYTES);
    for (uint64_t i = 0; i < files; ++i) {
      names.push_back("some-file-" + std::to_string(i) + ".txt");
      nids.push_back(cache->learn(1000 + i, SF_NID_ROOT, names.back(), false, Holder::Kernel));
      cache->fill_attr(cache->moment(), nids.back(), attr, kNever);
      cache->fill_dentry(cache->moment(), SF_NID_ROOT, names.back(), nids.back(), kNever);
      if (pages) cache->fill_data(cache->moment(), nids.back(), 0, page, false);
    }
  }
};

Filled &warm() {
  static Filled filled(64, true);
  return filled;
}
Filled &cold() {
  static Filled filled(kMany, false);
  return filled;
}

/// Some order in which no next line can be guessed.
std::vector<uint32_t> shuffled(uint64_t n) {
  std::vector<uint32_t> order(n);
  for (uint32_t i = 0; i < n; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  return order;
}

void find_attr(benchmark::State &state, Filled &filled) {
  const auto order = shuffled(filled.nids.size());
  size_t i = 0;
  sf_attr_view out;
  uint64_t found = 0;
  for (auto _ : state) {
    sf_moment moment{};
    found += sf_find_attr(&filled.cache->view(), filled.nids[order[i]], &moment, &out) == SF_FIND_OK;
    benchmark::DoNotOptimize(out);
    if (++i == order.size()) i = 0;
  }
  if (found < state.iterations() * 0.95) state.SkipWithError("not found");
}

void find_dentry(benchmark::State &state, Filled &filled) {
  const auto order = shuffled(filled.nids.size());
  size_t i = 0;
  uint64_t found = 0;
  const sf_view *view = &filled.cache->view();
  for (auto _ : state) {
    const std::string &name = filled.names[order[i]];
    sf_moment moment{};
    uint64_t child;
    const uint64_t hash = sf_name_hash(view, name.data(), name.size());
    found += sf_find_dentry(view, SF_NID_ROOT, name.data(), name.size(), hash, &moment, &child) == SF_FIND_OK;
    benchmark::DoNotOptimize(child);
    if (++i == order.size()) i = 0;
  }
  if (found < state.iterations() * 0.95) state.SkipWithError("not found");
}

void BM_find_attr_warm(benchmark::State &state) { find_attr(state, warm()); }
void BM_find_attr_million(benchmark::State &state) { find_attr(state, cold()); }
void BM_find_dentry_warm(benchmark::State &state) { find_dentry(state, warm()); }
void BM_find_dentry_million(benchmark::State &state) { find_dentry(state, cold()); }

void BM_find_absent(benchmark::State &state) {
  uint64_t nid = 1ull << 50;
  sf_attr_view out;
  for (auto _ : state) {
    sf_moment moment{};
    benchmark::DoNotOptimize(sf_find_attr(&warm().cache->view(), nid++, &moment, &out));
  }
}

void BM_find_data_4096(benchmark::State &state) {
  Filled &filled = warm();
  const sf_view *view = &filled.cache->view();
  sf_attr_view attr;
  sf_moment moment{};
  sf_find_attr(view, filled.nids[0], &moment, &attr);
  alignas(64) char buffer[SF_PAGE_BYTES];
  uint32_t copied;
  for (auto _ : state) {
    const auto found = sf_find_data(view, attr.cid, 0, 0, SF_PAGE_BYTES, buffer, &copied);
    if (found != SF_FIND_OK) state.SkipWithError("absent");
    benchmark::DoNotOptimize(buffer);
  }
}

void BM_copy_4096(benchmark::State &state) {
  alignas(64) static char from[8192], to[4096];
  for (auto _ : state) {
    sf_copy(to, from + state.range(0), 4096);
    benchmark::DoNotOptimize(to);
  }
}

void BM_serving(benchmark::State &state) {
  for (auto _ : state) benchmark::DoNotOptimize(sf_view_serving(&warm().cache->view()));
}

void BM_name_hash(benchmark::State &state) {
  std::string name(static_cast<size_t>(state.range(0)), 'x');
  for (auto _ : state) {
    benchmark::DoNotOptimize(name.data());
    benchmark::DoNotOptimize(sf_name_hash(&warm().cache->view(), name.data(), name.size()));
  }
}

void BM_fill_attr(benchmark::State &state) {
  Filled &filled = warm();
  fuse_attr attr{};
  attr.ctime = 1;
  size_t i = 0;
  for (auto _ : state) {
    filled.cache->fill_attr(filled.cache->moment(), filled.nids[i++ % filled.nids.size()], attr, kNever);
  }
}

void BM_learn_fill_forget(benchmark::State &state) {
  auto cache = std::move(*Cache::create({.budget_bytes = 64 << 20}));
  fuse_attr attr{};
  attr.ctime = 1;
  uint64_t nodeid = 1000;
  for (auto _ : state) {
    const Moment at = cache->moment();
    const Nid nid = cache->learn(nodeid, SF_NID_ROOT, "name" + std::to_string(nodeid), false, Holder::Kernel, at);
    cache->fill_attr(at, nid, attr, kNever);
    cache->fill_dentry(at, SF_NID_ROOT, "name" + std::to_string(nodeid), nid, kNever);
    if (nodeid > 100000) cache->forget(nodeid - 99000, 1, Holder::Kernel);
    ++nodeid;
  }
}

void BM_fill_data_evicting(benchmark::State &state) {
  auto cache = std::move(*Cache::create({.budget_bytes = 64 << 20}));
  const Nid nid = cache->learn(10, SF_NID_ROOT, "file", false, Holder::Kernel);
  fuse_attr attr{};
  attr.ctime = 1;
  cache->fill_attr(cache->moment(), nid, attr, kNever);
  std::vector<std::byte> bytes(32 * SF_PAGE_BYTES);
  uint64_t offset = 0;
  for (auto _ : state) {
    if (!cache->fill_data(cache->moment(), nid, offset, bytes, false)) {
      cache->fill_attr(cache->moment(), nid, attr, kNever);
    }
    offset += bytes.size();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(bytes.size()));
}

BENCHMARK(BM_find_attr_warm);
BENCHMARK(BM_find_dentry_warm);
BENCHMARK(BM_find_absent);
BENCHMARK(BM_find_data_4096);
BENCHMARK(BM_copy_4096)->Arg(0)->Arg(8)->Arg(40);
BENCHMARK(BM_serving);
BENCHMARK(BM_name_hash)->Arg(1)->Arg(8)->Arg(16)->Arg(32)->Arg(255);
BENCHMARK(BM_find_attr_million);
BENCHMARK(BM_find_dentry_million);
BENCHMARK(BM_fill_attr);
BENCHMARK(BM_learn_fill_forget);
BENCHMARK(BM_fill_data_evicting);

}  // namespace

BENCHMARK_MAIN();
