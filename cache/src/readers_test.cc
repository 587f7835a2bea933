/* Readers at the same time as the writer: in threads, in another process, and when the writer is killed.
 *
 * The truth is a counter per node that only grows. A mutation executes by raising it, and after end() raises
 * `ended` to the same value. Whoever reads `ended` first and finds an older state afterwards has been lied to. Fills
 * come from other threads and are made as late as they like. */
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <map>
#include <random>
#include <thread>

#include "testing.h"

namespace shortfuse::cache {
namespace {

using namespace testing;

constexpr uint64_t kNodes = 12;
constexpr uint64_t kWords = SF_PAGE_BYTES / 8;
constexpr uint64_t kRounds = 6000;

/// A page that says which node and which state it is of, in every word.
struct Page {
  uint64_t word[kWords];
  Page(uint64_t node, uint64_t state) {
    for (uint64_t i = 0; i < kWords; ++i) word[i] = (node << 48 | state) * 0x9e3779b97f4a7c15ull + i;
  }
};

/// -1: torn or another node's.
int64_t state_of(const uint64_t *word, uint64_t node) {
  const uint64_t head = word[0] * 0xf1de83e19937733dull;  // the inverse factor
  if (head >> 48 != node) return -1;
  for (uint64_t i = 1; i < kWords; ++i) {
    if (word[i] != word[0] + i) return -1;
  }
  return static_cast<int64_t>(head & 0xffffffffffffull);
}

/// Lies in memory that all processes of a test share.
struct Shared {
  std::atomic<uint64_t> truth[kNodes];
  std::atomic<uint64_t> ended[kNodes];
  Nid nid[kNodes];
  std::atomic<uint64_t> attr_hits, page_hits, name_hits;
  std::atomic<uint32_t> failures, stop;
};

Shared *make_shared_state() {
  void *at = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return new (at) Shared{};
}

class Readers : public ::testing::Test {
 protected:
  Readers() {
    for (uint64_t i = 0; i < kNodes; ++i) {
      shared->nid[i] = cache->learn(100 + i, SF_NID_ROOT, name_of(i), false, Holder::Kernel);
      shared->truth[i] = shared->ended[i] = 1;
    }
  }
  ~Readers() override { munmap(shared, sizeof(Shared)); }

  static std::string name_of(uint64_t i) { return "name-" + std::to_string(i); }

  void mutate(std::mt19937 &random) {
    const uint64_t i = random() % kNodes;
    const auto flux = cache->begin(std::vector<TouchedNode>{{shared->nid[i], kTouchContent}}, {});
    const uint64_t state = ++shared->truth[i];
    cache->end(flux);
    // Several mutate at a time: `ended` is the highest that has ended.
    uint64_t seen = shared->ended[i];
    while (seen < state && !shared->ended[i].compare_exchange_weak(seen, state)) {
    }
  }

  void fill(std::mt19937 &random) {
    const uint64_t i = random() % kNodes;
    Moment at = cache->moment();
    const uint64_t state = shared->truth[i];
    if (random() % 4 == 0) std::this_thread::yield();
    cache->fill_attr(at, shared->nid[i], attr_of(state), kNever);
    at = cache->moment();
    const Page page(i, shared->truth[i]);
    if (random() % 4 == 0) std::this_thread::yield();
    cache->fill_data(at, shared->nid[i], (random() % 4) * SF_PAGE_BYTES, std::as_bytes(std::span(page.word)), false);
  }

  std::unique_ptr<Cache> cache = make_cache();
  Shared *shared = make_shared_state();
};

/// Reads until told to stop. No gtest in here: it runs in forked processes too.
void read_all(const sf_view &view, Shared *shared, unsigned seed) {
  std::mt19937 random(seed);
  uint64_t word[kWords];
  while (shared->stop.load(std::memory_order_relaxed) == 0) {
    const uint64_t i = random() % kNodes;
    const uint64_t at_least = shared->ended[i];
    sf_attr_view attr{};
    if (find_attr(view, shared->nid[i], &attr) != SF_FIND_OK) continue;
    shared->attr_hits.fetch_add(1, std::memory_order_relaxed);
    if (attr.attr.size < at_least || attr.attr.size > shared->truth[i]) ++shared->failures;
    if (attr.attr.mode != 0100644) ++shared->failures;
    uint32_t copied = 0;
    if (attr.cid == 0) continue;
    if (sf_find_data(&view, attr.cid, random() % 4, 0, SF_PAGE_BYTES, word, &copied) != SF_FIND_OK) continue;
    shared->page_hits.fetch_add(1, std::memory_order_relaxed);
    const int64_t state = state_of(word, i);
    if (state < static_cast<int64_t>(at_least) || copied != SF_PAGE_BYTES) ++shared->failures;
  }
}

TEST_F(Readers, ThreadsNeverSeeAnOlderStateThanTheLastEnded) {
  std::thread reader_one(read_all, std::cref(cache->view()), shared, 1);
  ClientView client(*cache);
  std::thread reader_two(read_all, std::cref(client.view), shared, 2);
  std::atomic<bool> stop{false};
  std::thread filler([&] {
    for (std::mt19937 random(3); !stop;) fill(random);
  });
  std::thread mutator([&] {
    std::mt19937 random(4);
    for (uint64_t round = 0; round < kRounds; ++round) {
      mutate(random);
      if (random() % 8 == 0) client.refresh();
      if (random() % 16 == 0) std::this_thread::yield();
    }
  });
  std::mt19937 random(5);
  for (uint64_t round = 0; round < kRounds; ++round) {
    mutate(random);
    fill(random);
    if (round % 1000 == 0) cache->drop_everything();
  }
  mutator.join();
  stop = true;
  filler.join();
  shared->stop = 1;
  reader_one.join();
  reader_two.join();
  EXPECT_EQ(0u, shared->failures);
  EXPECT_GT(shared->attr_hits, 100u);
  EXPECT_GT(shared->page_hits, 10u);
}

TEST_F(Readers, RecordsThatAreWrittenOverAreNeverTorn) {
  const Nid nid = shared->nid[0];
  auto all_alike = [](uint64_t value) {
    fuse_attr attr{};
    attr.ino = attr.size = attr.blocks = attr.atime = attr.mtime = attr.ctime = value;
    attr.atimensec = attr.mtimensec = attr.ctimensec = attr.mode = attr.nlink = attr.uid = attr.gid = attr.rdev =
        attr.blksize = attr.flags = static_cast<uint32_t>(value);
    return attr;
  };
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> hits{0}, torn{0};
  std::thread reader([&] {
    while (!stop) {
      sf_attr_view found{};
      if (find_attr(cache->view(), nid, &found) != SF_FIND_OK) continue;
      const fuse_attr expected = all_alike(found.attr.ino);
      if (std::memcmp(&expected, &found.attr, sizeof expected) != 0) ++torn;
      ++hits;
    }
  });
  for (uint64_t i = 0; i < 100 * kRounds || hits < 1000; ++i) {
    cache->fill_attr(cache->moment(), nid, all_alike(i & 0xffffff), kNever);
  }
  stop = true;
  reader.join();
  EXPECT_EQ(0u, torn);
}

TEST_F(Readers, NamesNeverLeadToAnOlderNode) {
  // A name means node after node; `ended` of slot 0 says how far it is.
  std::vector<Nid> lives(4000);
  for (size_t i = 0; i < lives.size(); ++i) {
    lives[i] = cache->learn(1000 + i, 0, "", false, Holder::Kernel);
  }
  std::map<Nid, uint64_t> number;
  for (size_t i = 0; i < lives.size(); ++i) number[lives[i]] = i;
  std::atomic<uint64_t> meaning{0}, ended{0}, hits{0}, wrong{0};
  std::atomic<bool> stop{false};
  auto reader = [&] {
    while (!stop) {
      const uint64_t at_least = ended;
      Nid child = 0;
      if (find_dentry(cache->view(), SF_NID_ROOT, "name", &child) != SF_FIND_OK) continue;
      const auto at = number.find(child);
      if (at == number.end() || at->second < at_least) ++wrong;
      ++hits;
    }
  };
  auto filler = [&] {
    while (!stop) {
      const Moment at = cache->moment();
      const uint64_t now = meaning;
      std::this_thread::yield();
      cache->fill_dentry(at, SF_NID_ROOT, "name", lives[now], kNever);
    }
  };
  std::thread one(reader), two(filler), three(filler);
  for (uint64_t i = 1; i < lives.size(); ++i) {
    const auto flux = cache->begin({}, std::vector<TouchedName>{{SF_NID_ROOT, "name"}});
    meaning = i;
    cache->end(flux);
    ended = i;
    std::this_thread::yield();
  }
  while (hits == 0) std::this_thread::yield();
  stop = true;
  one.join();
  two.join();
  three.join();
  EXPECT_EQ(0u, wrong);
  EXPECT_GT(hits, 0u);
}

#ifndef __SANITIZE_THREAD__

TEST_F(Readers, AnotherProcessNeverSeesAnOlderState) {
  std::mt19937 random(6);
  for (int i = 0; i < 2000; ++i) fill(random);  // so that the chunks are there
  ClientView client(*cache);
  const pid_t child = fork();
  if (child == 0) {
    read_all(client.view, shared, 7);
    _exit(0);
  }
  for (uint64_t round = 0; round < kRounds; ++round) {
    mutate(random);
    fill(random);
    fill(random);
  }
  while (shared->page_hits < 10) fill(random);
  shared->stop = 1;
  int status = 0;
  ASSERT_EQ(child, waitpid(child, &status, 0));
  EXPECT_EQ(0, status);
  EXPECT_EQ(0u, shared->failures);
  EXPECT_GT(shared->attr_hits, 10u);
}

TEST_F(Readers, KilledWriterLeavesNothingTornAndIsNoticed) {
  for (unsigned round = 0; round < 40; ++round) {
    cache = make_cache();
    new (shared) Shared{};
    for (uint64_t i = 0; i < kNodes; ++i) {
      shared->nid[i] = cache->learn(100 + i, SF_NID_ROOT, name_of(i), false, Holder::Kernel);
      shared->truth[i] = shared->ended[i] = 1;
    }
    std::mt19937 random(round);
    for (int i = 0; i < 200; ++i) fill(random);
    const pid_t writer = fork();
    if (writer == 0) {
      cache->hold_liveness();
      __atomic_store_n(&cache->header()->state, SF_SEG_SERVING, __ATOMIC_RELEASE);
      for (;;) {
        mutate(random);
        fill(random);
        fill(random);
      }
    }
    ClientView client(*cache);
    std::thread reader(read_all, std::cref(client.view), shared, round);
    while (!sf_view_serving(&client.view)) usleep(100);
    usleep(random() % 4000);
    ASSERT_EQ(0, kill(writer, SIGKILL));
    int status = 0;
    ASSERT_EQ(writer, waitpid(writer, &status, 0));
    EXPECT_FALSE(sf_view_serving(&client.view));
    // What it left behind: every call returns, and nothing that it returns is torn.
    usleep(200);
    shared->stop = 1;
    reader.join();
    EXPECT_EQ(0u, shared->failures);
    for (uint64_t i = 0; i < kNodes; ++i) {
      sf_attr_view attr{};
      if (find_attr(client.view, shared->nid[i], &attr) != SF_FIND_OK) continue;
      EXPECT_GE(attr.attr.size, shared->ended[i]);
      for (uint64_t page = 0; page < 4; ++page) {
        uint64_t word[kWords];
        uint32_t copied = 0;
        if (sf_find_data(&client.view, attr.cid, page, 0, SF_PAGE_BYTES, word, &copied) != SF_FIND_OK) continue;
        EXPECT_GE(state_of(word, i), static_cast<int64_t>(shared->ended[i]));
      }
    }
  }
}

#endif

}  // namespace
}  // namespace shortfuse::cache
