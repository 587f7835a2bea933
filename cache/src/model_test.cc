/* Random histories against a model of the file system.
 *
 * The model is the truth: what the file system holds at this moment. A mutation begins, is executed at some later
 * step, and ends at some later step; a read request arrives, is executed, and its reply fills at still other
 * steps; many of both overlap. After every step: what the cache gives is the truth, and it gives nothing of what a
 * mutation in flight touches. Absence is always right; but the hits are counted, so that a cache that keeps nothing
 * fails too. */
#include <deque>
#include <map>
#include <random>

#include "testing.h"

namespace shortfuse::cache {
namespace {

using namespace testing;

#ifdef __SANITIZE_THREAD__
constexpr int kSteps = 30000;
#else
constexpr int kSteps = 150000;
#endif
constexpr int kDirs = 4, kNames = 12, kInodes = 30;

struct Inode {
  uint64_t nodeid;
  uint64_t attributes = 1;  ///< version of the attributes: st_size and times
  uint64_t contents = 1;    ///< version of the contents; every page and the link say it
  bool linked = false;
};

class History {
 public:
  History(uint64_t seed, uint64_t budget) : cache_(make_cache(budget)), random_(seed) {
    for (int i = 0; i < kInodes; ++i) inodes_.push_back({.nodeid = 100 + static_cast<uint64_t>(i)});
    for (int i = 0; i < kDirs; ++i) {
      dirs_.push_back(cache_->learn(10 + static_cast<uint64_t>(i), SF_NID_ROOT, "d" + std::to_string(i), true,
                                    Holder::Kernel));
    }
  }

  void run(int steps) {
    for (int step = 0; step < steps && !::testing::Test::HasFatalFailure(); ++step) {
      switch (pick(12)) {
        case 0: begin_mutation(); break;
        case 1:
        case 2: advance_mutation(); break;
        case 3:
        case 4:
        case 5: begin_read(); break;
        case 6:
        case 7:
        case 8: advance_read(); break;
        case 9: forget_or_drop(); break;
        case 10: open_or_release(); break;
        default: noise();
      }
      check(pick(kInodes));
      check_name(pick(kDirs), name_of(pick(kNames)));
    }
  }

  uint64_t attr_hits = 0, page_hits = 0, name_hits = 0;
  Stats stats() const { return cache_->stats(); }

 private:
  enum class What { Attr, Page, Link, Name };
  struct Mutation {
    Cache::Flux flux;
    int inode = -1;       ///< touched by itself
    bool contents = false;
    int dir = -1;         ///< or: a name
    std::string name;
    int target = 0;       ///< what the name is to mean; -1: nothing
    std::vector<int> hidden;  ///< inodes that may not be found with an older state
    bool executed = false;
  };
  struct Read {
    What what;
    int inode;
    int dir;
    std::string name;
    Moment at;
    Nid nid;
    bool executed = false;
    uint64_t attributes = 0, contents = 0;
    int meaning = -1;
  };

  int pick(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  static std::string name_of(int i) { return "name-" + std::to_string(i); }
  Nid nid_of(int inode) { return cache_->nid_of(inodes_[inode].nodeid); }
  int meaning_of(int dir, const std::string &name) {
    auto at = names_.find({dir, name});
    return at == names_.end() ? -1 : at->second;
  }
  static fuse_attr attr_for(const Inode &inode) {
    // Contents that change move the times; attributes that change move the size.
    return attr_of(inode.attributes, 1'000'000'000 + inode.contents);
  }

  void begin_mutation() {
    if (mutations_.size() >= busy_) return;
    if (pick(50) == 0) busy_ = 1 + random_() % 5;  // quiet times and busy ones
    Mutation m;
    if (pick(3) != 0) {
      m.inode = pick(kInodes);
      m.contents = pick(2) == 0;
      const Nid nid = nid_of(m.inode);
      if (nid == 0 && pick(100) != 0) return;  // the kernel changes what it knows, the cache mostly knows it too
      m.flux = cache_->begin(std::vector<TouchedNode>{{nid, m.contents ? kTouchContent : kTouchAttr}}, {});
      m.hidden.push_back(m.inode);
    } else {
      m.dir = pick(kDirs);
      m.name = name_of(pick(kNames));
      // As the kernel does: names in one directory change one at a time.
      for (const Mutation &other : mutations_) {
        if (other.dir == m.dir) return;
      }
      m.target = pick(3) == 0 ? -1 : pick(kInodes);
      if (m.target >= 0 && nid_of(m.target) == 0) return;
      const int old = meaning_of(m.dir, m.name);
      std::vector<TouchedNode> nodes;
      if (m.target >= 0) {
        nodes.push_back({nid_of(m.target), kTouchAttr});
        m.hidden.push_back(m.target);
      }
      if (old >= 0) m.hidden.push_back(old);
      m.flux = cache_->begin(nodes, std::vector<TouchedName>{{dirs_[m.dir], m.name, false, old >= 0}});
    }
    mutations_.push_back(std::move(m));
  }

  void advance_mutation() {
    if (mutations_.empty()) return;
    const int at = pick(static_cast<int>(mutations_.size()));
    Mutation &m = mutations_[at];
    if (!m.executed) {
      execute(m);
      return;
    }
    // A LINK or CREATE reply names the node: a reference, and the kernel knows the name from then on.
    if (m.dir >= 0 && m.target >= 0) {
      cache_->learn(inodes_[m.target].nodeid, dirs_[m.dir], m.name, false, Holder::Kernel, m.flux.at);
    }
    const Moment own = cache_->end(m.flux);
    const Mutation done = std::move(m);
    mutations_.erase(mutations_.begin() + at);
    // The reply's own attributes: as they were when it was executed; refused where something overlapped.
    if (done.inode >= 0 && pick(2) == 0) {
      cache_->fill_attr(own, nid_of(done.inode), reply_attr_[done.inode], kNever);
    }
  }

  void execute(Mutation &m) {
    m.executed = true;
    if (m.inode >= 0) {
      Inode &inode = inodes_[m.inode];
      ++inode.attributes;
      if (m.contents) ++inode.contents;
      reply_attr_[m.inode] = attr_for(inode);
      return;
    }
    const int old = meaning_of(m.dir, m.name);
    if (old >= 0) ++inodes_[old].attributes;
    if (m.target >= 0) {
      ++inodes_[m.target].attributes;
      names_[{m.dir, m.name}] = m.target;
    } else {
      names_.erase({m.dir, m.name});
    }
  }

  void begin_read() {
    if (reads_.size() > 12) return;
    Read r{.what = static_cast<What>(pick(4)),
           .inode = pick(kInodes),
           .dir = pick(kDirs),
           .name = name_of(pick(kNames)),
           .at = cache_->moment(),
           .nid = 0};
    r.nid = nid_of(r.inode);
    // Entries without a name come too, as from READDIRPLUS.
    if (r.nid == 0) r.nid = cache_->learn(inodes_[r.inode].nodeid, 0, "", false, Holder::Kernel, r.at);
    reads_.push_back(std::move(r));
  }

  void advance_read() {
    if (reads_.empty()) return;
    const int at = pick(static_cast<int>(reads_.size()));
    Read &r = reads_[at];
    if (!r.executed) {
      r.executed = true;
      if (r.what == What::Name) {
        r.meaning = meaning_of(r.dir, r.name);
        if (r.meaning >= 0) r.inode = r.meaning;
      }
      r.attributes = inodes_[r.inode].attributes;
      r.contents = inodes_[r.inode].contents;
      return;
    }
    fill(r);
    reads_.erase(reads_.begin() + at);
  }

  void fill(const Read &r) {
    const fuse_attr attr = attr_of(r.attributes, 1'000'000'000 + r.contents);
    std::vector<uint64_t> page(512, r.contents << 16 | static_cast<uint64_t>(r.inode));
    switch (r.what) {
      case What::Attr: cache_->fill_attr(r.at, r.nid, attr, kNever); break;
      case What::Page: cache_->fill_data(r.at, r.nid, 0, std::as_bytes(std::span(page)), false); break;
      case What::Link: cache_->fill_link(r.at, r.nid, std::to_string(r.contents)); break;
      case What::Name: {
        if (r.meaning < 0) {
          cache_->fill_dentry(r.at, dirs_[r.dir], r.name, 0, kNever);
          break;
        }
        // A LOOKUP: a reference, the attributes, the name.
        const Nid nid = cache_->learn(inodes_[r.meaning].nodeid, dirs_[r.dir], r.name, false, Holder::Kernel, r.at);
        cache_->fill_attr(r.at, nid, attr, kNever);
        cache_->fill_dentry(r.at, dirs_[r.dir], r.name, nid, kNever);
      }
    }
  }

  void forget_or_drop() {
    const int inode = pick(kInodes);
    switch (pick(8)) {
      case 0: cache_->drop_node(nid_of(inode)); break;
      case 1: cache_->drop_name(dirs_[pick(kDirs)], name_of(pick(kNames))); break;
      case 2:
        if (pick(50) == 0) cache_->drop_everything();
        break;
      case 3: cache_->forget(inodes_[inode].nodeid, 1000, Holder::Kernel); writers_.erase(inode); break;
      default: break;
    }
  }

  void open_or_release() {
    const int inode = pick(kInodes);
    const Nid nid = nid_of(inode);
    if (nid == 0) return;
    if (writers_.contains(inode)) {
      cache_->released_by_writer(nid);
      if (--writers_[inode] == 0) writers_.erase(inode);
    } else if (pick(4) == 0) {
      cache_->opened_for_write(nid);
      ++writers_[inode];
    }
  }

  /// Pressure: other records come, at a size that takes memory from everybody.
  void noise() {
    const std::vector<std::byte> bytes(SF_PAGE_BYTES);
    const Nid nid = dirs_[0];
    cache_->fill_attr(cache_->moment(), nid, attr_of(1), kNever);
    for (int i = 0; i < 3; ++i) {
      cache_->fill_data(cache_->moment(), nid, (noise_++ % 4096) * SF_PAGE_BYTES, bytes, false);
    }
  }

  bool hidden(int inode) const {
    for (const Mutation &m : mutations_) {
      for (int other : m.hidden) {
        if (other == inode) return true;
      }
    }
    return false;
  }

  void check(int i) {
    const Nid nid = nid_of(i);
    sf_attr_view attr{};
    if (nid == 0 || find_attr(cache_->view(), nid, &attr) != SF_FIND_OK) return;
    ASSERT_FALSE(hidden(i)) << "found while in flux";
    const fuse_attr expected = attr_for(inodes_[i]);
    ASSERT_EQ(expected.size, attr.attr.size) << "stale attributes";
    ASSERT_EQ(expected.mtime, attr.attr.mtime) << "stale attributes";
    ++attr_hits;
    ASSERT_EQ(writers_.contains(i), attr.cid == 0);
    if (attr.cid == 0) return;
    std::vector<uint64_t> page(512);
    uint32_t copied = 0;
    if (sf_find_data(&cache_->view(), attr.cid, 0, 0, SF_PAGE_BYTES, page.data(), &copied) == SF_FIND_OK) {
      ASSERT_EQ(inodes_[i].contents << 16 | static_cast<uint64_t>(i), page[0]) << "stale contents";
      ++page_hits;
    }
    char target[32];
    uint32_t len = 0;
    if (sf_find_blob(&cache_->view(), SF_REC_LINK, attr.cid, target, sizeof target, &len) == SF_FIND_OK) {
      ASSERT_EQ(std::to_string(inodes_[i].contents), std::string_view(target, len)) << "stale link";
    }
  }

  void check_name(int dir, const std::string &name) {
    Nid child = 0;
    if (find_dentry(cache_->view(), dirs_[dir], name, &child) != SF_FIND_OK) return;
    for (const Mutation &m : mutations_) ASSERT_FALSE(m.dir == dir && m.name == name) << "found while in flux";
    const int meaning = meaning_of(dir, name);
    if (meaning < 0) {
      ASSERT_EQ(0u, child) << "a name that is gone";
    } else {
      ASSERT_NE(0u, child) << "a name that exists is denied";
      const Nid now = nid_of(meaning);
      // A record of a life that is over leads to nothing.
      if (cache_->nodeid_of(child) != 0) {
        ASSERT_EQ(now, child) << "another node's name";
      }
    }
    ++name_hits;
  }

  std::unique_ptr<Cache> cache_;
  std::mt19937_64 random_;
  std::vector<Inode> inodes_;
  std::vector<Nid> dirs_;
  std::map<std::pair<int, std::string>, int> names_;
  std::deque<Mutation> mutations_;
  std::deque<Read> reads_;
  std::map<int, int> writers_;
  std::map<int, fuse_attr> reply_attr_;
  uint64_t noise_ = 0;
  size_t busy_ = 2;
};

TEST(Model, AmpleRoom) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(seed);
    History history(seed, 64 << 20);
    history.run(kSteps);
    EXPECT_GT(history.attr_hits, kSteps / 15u);
    EXPECT_GT(history.page_hits, kSteps / 500u);
    EXPECT_GT(history.name_hits, kSteps / 15u);
    EXPECT_EQ(0u, history.stats().evictions);
  }
}

TEST(Model, UnderPressure) {
  for (uint64_t seed = 11; seed <= 14; ++seed) {
    SCOPED_TRACE(seed);
    History history(seed, 4 << 20);
    history.run(kSteps);
    EXPECT_GT(history.attr_hits, kSteps / 30u);
    EXPECT_GT(history.stats().evictions, kSteps / 150u);
  }
}

}  // namespace
}  // namespace shortfuse::cache
