/* The rules of fills and mutations, one test each: every one fails when its rule is taken out. */
#include "shortfuse/cache/cache.h"

#include <pthread.h>
#include <unistd.h>

#include <thread>

#include "testing.h"

namespace shortfuse::cache {
namespace {

using namespace testing;

class CacheTest : public ::testing::Test {
 protected:
  std::unique_ptr<Cache> cache = make_cache();
  const sf_view &view = cache->view();

  Nid learn(uint64_t nodeid, std::string_view name, Nid dir = SF_NID_ROOT, bool is_directory = false) {
    return cache->learn(nodeid, dir, name, is_directory, Holder::Kernel, cache->moment());
  }
  /// A node with attributes; contents may be filled from now on.
  Nid known(uint64_t nodeid, std::string_view name, Nid dir = SF_NID_ROOT, bool is_directory = false) {
    const Nid nid = learn(nodeid, name, dir, is_directory);
    EXPECT_TRUE(cache->fill_attr(cache->moment(), nid, attr_of(100), kNever));
    return nid;
  }
  bool fill_page(Nid nid, Moment at) {
    return cache->fill_data(at, nid, 0, bytes_in("contents"), true);
  }
  enum sf_find find_page(Nid nid) {
    char buffer[64];
    uint32_t copied;
    const uint64_t cid = cid_of(view, nid);
    return cid == 0 ? SF_FIND_ABSENT : sf_find_data(&view, cid, 0, 0, sizeof buffer, buffer, &copied);
  }
  static std::vector<TouchedNode> node(Nid nid, uint32_t what) { return {{nid, what}}; }
  static std::vector<TouchedName> name(Nid dir, const char *text, bool exists = true, bool content = false) {
    return {{dir, text, content, exists}};
  }
};

TEST_F(CacheTest, EveryKindComesBackAsItWasFilled) {
  const Nid file = known(10, "file");
  const Moment now = cache->moment();
  sf_attr_view attr{};
  ASSERT_EQ(SF_FIND_OK, find_attr(view, file, &attr));
  const fuse_attr expected = attr_of(100);
  EXPECT_EQ(0, std::memcmp(&attr.attr, &expected, sizeof expected));
  EXPECT_EQ(0u, attr.flags);
  Nid nid = 0;
  EXPECT_EQ(SF_FIND_OK, sf_find_node(&view, 10, &nid));
  EXPECT_EQ(file, nid);
  EXPECT_EQ(SF_FIND_OK, sf_find_node(&view, FUSE_ROOT_ID, &nid));
  EXPECT_EQ(SF_NID_ROOT, nid);

  ASSERT_TRUE(cache->fill_dentry(now, SF_NID_ROOT, "file", file, kNever));
  ASSERT_TRUE(cache->fill_dentry(now, SF_NID_ROOT, "nothing", 0, kNever));
  EXPECT_EQ(SF_FIND_OK, find_dentry(view, SF_NID_ROOT, "file", &nid));
  EXPECT_EQ(file, nid);
  EXPECT_EQ(SF_FIND_OK, find_dentry(view, SF_NID_ROOT, "nothing", &nid));
  EXPECT_EQ(0u, nid);
  EXPECT_EQ(SF_FIND_ABSENT, find_dentry(view, SF_NID_ROOT, "fil", &nid));

  ASSERT_TRUE(cache->fill_link(now, file, "../target"));
  ASSERT_TRUE(cache->fill_xattr(now, file, "user.a", bytes_in("value"), 0));
  ASSERT_TRUE(cache->fill_xattr(now, file, "user.b", {}, -ENODATA));
  ASSERT_TRUE(cache->fill_xlist(now, file, bytes_in({"user.a\0", 7})));
  char buffer[64];
  uint32_t len = 0;
  int error = 1;
  ASSERT_EQ(SF_FIND_OK, sf_find_blob(&view, SF_REC_LINK, attr.cid, buffer, sizeof buffer, &len));
  EXPECT_EQ("../target", std::string_view(buffer, len));
  ASSERT_EQ(SF_FIND_OK, sf_find_xattr(&view, attr.cid, "user.a", 6, buffer, sizeof buffer, &len, &error));
  EXPECT_EQ("value", std::string_view(buffer, len));
  EXPECT_EQ(0, error);
  ASSERT_EQ(SF_FIND_OK, sf_find_xattr(&view, attr.cid, "user.b", 6, buffer, sizeof buffer, &len, &error));
  EXPECT_EQ(-ENODATA, error);
  EXPECT_EQ(0u, len);
  EXPECT_EQ(SF_FIND_ABSENT, sf_find_xattr(&view, attr.cid, "user.c", 6, buffer, sizeof buffer, &len, &error));
  ASSERT_EQ(SF_FIND_OK, sf_find_blob(&view, SF_REC_XLIST, attr.cid, buffer, 3, &len)) << "too small a buffer";
  EXPECT_EQ(7u, len);

  fuse_kstatfs statfs{}, found{};
  statfs.blocks = 12345;
  ASSERT_TRUE(cache->fill_statfs(now, statfs, kNever));
  sf_moment moment{};
  ASSERT_EQ(SF_FIND_OK, sf_find_statfs(&view, &moment, &found));
  EXPECT_EQ(12345u, found.blocks);
}

// ---- data and listings

TEST_F(CacheTest, DataIsCutIntoPages) {
  const Nid file = known(10, "file");
  const auto bytes = some_bytes(3 * SF_PAGE_BYTES + 100, 1);
  ASSERT_TRUE(cache->fill_data(cache->moment(), file, SF_PAGE_BYTES, bytes, true));
  const uint64_t cid = cid_of(view, file);
  std::vector<std::byte> page(SF_PAGE_BYTES);
  uint32_t copied = 0;
  EXPECT_EQ(SF_FIND_ABSENT, sf_find_data(&view, cid, 0, 0, SF_PAGE_BYTES, page.data(), &copied));
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_EQ(SF_FIND_OK, sf_find_data(&view, cid, 1 + i, 0, SF_PAGE_BYTES, page.data(), &copied));
    ASSERT_EQ(uint32_t{SF_PAGE_BYTES}, copied);
    EXPECT_EQ(0, std::memcmp(page.data(), bytes.data() + i * SF_PAGE_BYTES, SF_PAGE_BYTES));
  }
  ASSERT_EQ(SF_FIND_OK, sf_find_data(&view, cid, 4, 40, SF_PAGE_BYTES, page.data(), &copied));
  EXPECT_EQ(60u, copied);
  EXPECT_EQ(0, std::memcmp(page.data(), bytes.data() + 3 * SF_PAGE_BYTES + 40, 60));
  ASSERT_EQ(SF_FIND_OK, sf_find_data(&view, cid, 4, 100, 10, page.data(), &copied));
  EXPECT_EQ(0u, copied) << "beyond the end";
}

TEST_F(CacheTest, PartsOfPagesAreLeftOut) {
  const Nid file = known(10, "file");
  const auto bytes = some_bytes(2 * SF_PAGE_BYTES, 1);
  // From 100 on: the first whole page is page 1, and page 2 is cut off without being the end.
  ASSERT_TRUE(cache->fill_data(cache->moment(), file, 100, bytes, false));
  const uint64_t cid = cid_of(view, file);
  std::vector<std::byte> page(SF_PAGE_BYTES);
  uint32_t copied = 0;
  EXPECT_EQ(SF_FIND_ABSENT, sf_find_data(&view, cid, 0, 0, SF_PAGE_BYTES, page.data(), &copied));
  ASSERT_EQ(SF_FIND_OK, sf_find_data(&view, cid, 1, 0, SF_PAGE_BYTES, page.data(), &copied));
  EXPECT_EQ(0, std::memcmp(page.data(), bytes.data() + SF_PAGE_BYTES - 100, SF_PAGE_BYTES));
  EXPECT_EQ(SF_FIND_ABSENT, sf_find_data(&view, cid, 2, 0, SF_PAGE_BYTES, page.data(), &copied));
  EXPECT_FALSE(cache->fill_data(cache->moment(), file, 4096 * 9, bytes_in("short"), false));
  EXPECT_FALSE(cache->fill_data(cache->moment(), file, 4096 * 9 + 1, bytes_in("short"), true));
}

TEST_F(CacheTest, ListingsAreCutBetweenEntries) {
  const Nid dir = known(10, "dir", SF_NID_ROOT, true);
  const auto listing = listing_of(5000, 1);
  ASSERT_TRUE(cache->fill_listing(cache->moment(), dir, listing));
  const uint64_t cid = cid_of(view, dir);
  EXPECT_EQ(listing, read_listing(view, cid));
  std::vector<std::byte> part(SF_PAYLOAD_MAX);
  uint32_t len, parts;
  ASSERT_EQ(SF_FIND_OK, sf_find_listing(&view, cid, 0, part.data(), part.size(), &len, &parts));
  EXPECT_GT(parts, 1u);
  for (uint32_t at = 0; at < len;) {
    const auto *entry = reinterpret_cast<const sf_dirent *>(part.data() + at);
    ASSERT_EQ(0, entry->reclen % 8);
    at += entry->reclen;
    ASSERT_LE(at, len) << "an entry crosses the end of its part";
  }
  EXPECT_EQ(SF_FIND_ABSENT, sf_find_listing(&view, cid, parts, part.data(), part.size(), &len, &parts));
}

TEST_F(CacheTest, EmptyListingIsAListing) {
  const Nid dir = known(10, "dir", SF_NID_ROOT, true);
  ASSERT_TRUE(cache->fill_listing(cache->moment(), dir, {}));
  EXPECT_EQ(std::vector<std::byte>{}, read_listing(view, cid_of(view, dir)));
}

TEST_F(CacheTest, MalformedListingsAreRefused) {
  const Nid dir = known(10, "dir", SF_NID_ROOT, true);
  auto listing = listing_of(3, 1);
  auto fill = [&](auto change) {
    auto copy = listing;
    change(copy);
    return cache->fill_listing(cache->moment(), dir, copy);
  };
  auto set_reclen = [](std::vector<std::byte> &bytes, uint16_t reclen) {
    std::memcpy(bytes.data() + offsetof(sf_dirent, reclen), &reclen, sizeof reclen);
  };
  EXPECT_FALSE(fill([&](auto &bytes) { set_reclen(bytes, 0); }));
  EXPECT_FALSE(fill([&](auto &bytes) { set_reclen(bytes, 8); }));
  EXPECT_FALSE(fill([&](auto &bytes) { set_reclen(bytes, 33); }));
  EXPECT_FALSE(fill([&](auto &bytes) { set_reclen(bytes, 65528); }));
  EXPECT_FALSE(fill([&](auto &bytes) { bytes.pop_back(); }));
  EXPECT_TRUE(fill([&](auto &) {}));
}

TEST_F(CacheTest, SecondLongListingNeverMixesWithTheFirst) {
  const Nid dir = known(10, "dir", SF_NID_ROOT, true);
  const auto first = listing_of(3000, 1), second = listing_of(3000, 1'000'000);
  ASSERT_TRUE(cache->fill_listing(cache->moment(), dir, first));
  const uint64_t cid = cid_of(view, dir);
  ASSERT_TRUE(cache->fill_listing(cache->moment(), dir, second));
  EXPECT_EQ(first, read_listing(view, cid)) << "still whole: it stays";
  EXPECT_EQ(cid, cid_of(view, dir));
  // A part is lost. Who has read the parts before it must not go on in the new listing.
  const Nid other = known(11, "other");
  for (uint64_t offset = 0; read_listing(view, cid); offset += 16384) {
    cache->fill_xattr(cache->moment(), other, "user." + std::to_string(offset), some_bytes(16000, 1), 0);
  }
  cache->fill_attr(cache->moment(), dir, attr_of(100), kNever);
  ASSERT_TRUE(cache->fill_listing(cache->moment(), dir, second));
  EXPECT_NE(cid, cid_of(view, dir));
  EXPECT_EQ(second, read_listing(view, cid_of(view, dir)));
}

// ---- moments and flux

TEST_F(CacheTest, MutationHidesAttributesAndRefusesOlderFills) {
  const Nid file = known(10, "file");
  const Moment before = cache->moment();
  const auto flux = cache->begin(node(file, kTouchAttr), {});
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, file)) << "hidden while in flux";
  EXPECT_FALSE(cache->fill_attr(before, file, attr_of(1), kNever)) << "refused in flux";
  EXPECT_FALSE(cache->fill_attr(cache->moment(), file, attr_of(1), kNever)) << "also from requests that began since";
  const Moment during = cache->moment();
  cache->end(flux);
  EXPECT_FALSE(cache->fill_attr(before, file, attr_of(1), kNever)) << "read before the change";
  EXPECT_FALSE(cache->fill_attr(during, file, attr_of(1), kNever)) << "perhaps read before the change";
  EXPECT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(2), kNever));
  EXPECT_EQ(SF_FIND_OK, find_attr(view, file));
}

TEST_F(CacheTest, OverlappingMutationsHideUntilTheLastEnds) {
  const Nid file = known(10, "file");
  const auto one = cache->begin(node(file, kTouchAttr), {});
  const auto two = cache->begin(node(file, kTouchAttr), {});
  cache->end(one);
  EXPECT_FALSE(cache->fill_attr(cache->moment(), file, attr_of(1), kNever));
  cache->end(two);
  EXPECT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(1), kNever));
}

TEST_F(CacheTest, ContentMutationHidesContents) {
  const Nid file = known(10, "file");
  ASSERT_TRUE(fill_page(file, cache->moment()));
  ASSERT_EQ(SF_FIND_OK, find_page(file));
  const uint64_t cid = cid_of(view, file);
  const Moment before = cache->moment();
  const auto flux = cache->begin(node(file, kTouchContent), {});
  EXPECT_EQ(SF_FIND_ABSENT, find_page(file));
  EXPECT_FALSE(fill_page(file, before));
  EXPECT_FALSE(fill_page(file, cache->moment()));
  cache->end(flux);
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(100), kNever));
  EXPECT_EQ(SF_FIND_ABSENT, find_page(file)) << "the same size and times do not bring the old page back";
  EXPECT_NE(cid, cid_of(view, file));
  EXPECT_FALSE(fill_page(file, before));
  EXPECT_TRUE(fill_page(file, cache->moment()));
}

TEST_F(CacheTest, AttributeMutationKeepsContentsUnlessSizeOrMtimeMoved) {
  const Nid file = known(10, "file");
  ASSERT_TRUE(fill_page(file, cache->moment()));
  fuse_attr attr = attr_of(100);
  cache->end(cache->begin(node(file, kTouchAttr), {}));
  attr.mode = 0100600;
  ++attr.ctime;
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr, kNever));
  EXPECT_EQ(SF_FIND_OK, find_page(file)) << "a chmod of our own moves the ctime";
  ++attr.ctime;
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr, kNever));
  EXPECT_EQ(SF_FIND_ABSENT, find_page(file)) << "that ctime was moved by somebody else";
  ASSERT_TRUE(fill_page(file, cache->moment()));
  cache->end(cache->begin(node(file, kTouchAttr), {}));
  ++attr.mtime;
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr, kNever));
  EXPECT_EQ(SF_FIND_ABSENT, find_page(file));
}

TEST_F(CacheTest, MutationsOfOtherNodesDoNotDisturb) {
  const Nid file = known(10, "file"), other = known(11, "other");
  const Moment before = cache->moment();
  const auto flux = cache->begin(node(other, kTouchContent), {});
  EXPECT_TRUE(cache->fill_attr(before, file, attr_of(100), kNever));
  EXPECT_TRUE(fill_page(file, before));
  cache->end(flux);
  EXPECT_TRUE(cache->fill_attr(before, file, attr_of(100), kNever));
  EXPECT_EQ(SF_FIND_OK, find_page(file));
}

TEST_F(CacheTest, OwnReplyMayFillWhenNothingOverlapped) {
  const Nid file = known(10, "file");
  const auto flux = cache->begin(node(file, kTouchAttr), {});
  const Moment own = cache->end(flux);
  EXPECT_TRUE(cache->fill_attr(own, file, attr_of(5), kNever));
}

TEST_F(CacheTest, OwnReplyMayNotFillWhenAnotherMutationOverlapped) {
  const Nid file = known(10, "file");
  const auto one = cache->begin(node(file, kTouchAttr), {});
  const auto two = cache->begin(node(file, kTouchAttr), {});
  const Moment at_two = cache->end(two);
  EXPECT_FALSE(cache->fill_attr(at_two, file, attr_of(5), kNever)) << "the other is still in flight";
  const Moment at_one = cache->end(one);
  EXPECT_FALSE(cache->fill_attr(at_one, file, attr_of(5), kNever)) << "the file system may have run it first";
  EXPECT_FALSE(cache->fill_attr(at_two, file, attr_of(5), kNever));
  // The same with the inner one wholly inside.
  const auto outer = cache->begin(node(file, kTouchAttr), {});
  cache->end(cache->begin(node(file, kTouchAttr), {}));
  EXPECT_FALSE(cache->fill_attr(cache->end(outer), file, attr_of(5), kNever));
  // A node that one mutation touches twice is still alone.
  const auto twice = cache->begin(std::vector<TouchedNode>{{file, kTouchAttr}, {file, kTouchContent}}, {});
  EXPECT_TRUE(cache->fill_attr(cache->end(twice), file, attr_of(6), kNever));
}

TEST_F(CacheTest, DefaultFluxIsIgnoredByEnd) {
  fuse_kstatfs statfs{};
  cache->end({});
  EXPECT_TRUE(cache->fill_statfs(cache->moment(), statfs, kNever));
}

TEST_F(CacheTest, NameMutationTouchesNameDirectoryAndChild) {
  const Nid dir = known(10, "dir", SF_NID_ROOT, true), file = known(11, "file", dir);
  Moment now = cache->moment();
  ASSERT_TRUE(cache->fill_dentry(now, dir, "file", file, kNever));
  ASSERT_TRUE(cache->fill_listing(now, dir, listing_of(2, 1)));
  const uint64_t dir_cid = cid_of(view, dir);
  const auto flux = cache->begin({}, name(dir, "file"));
  EXPECT_EQ(SF_FIND_ABSENT, find_dentry(view, dir, "file"));
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, dir));
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, file));
  EXPECT_FALSE(cache->fill_dentry(now, dir, "file", file, kNever));
  EXPECT_FALSE(cache->fill_dentry(cache->moment(), dir, "file", file, kNever));
  EXPECT_FALSE(cache->fill_attr(now, file, attr_of(1), kNever));
  EXPECT_FALSE(cache->fill_attr(now, dir, attr_of(1), kNever));
  cache->end(flux);
  EXPECT_FALSE(cache->fill_dentry(now, dir, "file", file, kNever));
  EXPECT_FALSE(cache->fill_dentry(now, dir, "unrelated", 0, kNever)) << "per directory";
  EXPECT_FALSE(cache->fill_attr(now, file, attr_of(1), kNever));
  ASSERT_TRUE(cache->fill_attr(cache->moment(), dir, attr_of(100), kNever));
  EXPECT_NE(dir_cid, cid_of(view, dir)) << "the listing has changed";
  EXPECT_TRUE(cache->fill_dentry(cache->moment(), dir, "file", 0, kNever));
  EXPECT_EQ(0u, cache->stats().epoch_bumps);
}

TEST_F(CacheTest, ExpiredDentryStillNamesTheChild) {
  const Nid file = known(11, "elsewhere");
  ASSERT_TRUE(cache->fill_dentry(cache->moment(), SF_NID_ROOT, "hard link", file, 1));
  await_tick(view);
  EXPECT_EQ(SF_FIND_EXPIRED, find_dentry(view, SF_NID_ROOT, "hard link"));
  const auto flux = cache->begin({}, name(SF_NID_ROOT, "hard link"));
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, file));
  EXPECT_FALSE(cache->fill_attr(cache->moment(), file, attr_of(1), kNever));
  cache->end(flux);
  EXPECT_EQ(0u, cache->stats().epoch_bumps);
}

TEST_F(CacheTest, ChildIsFoundByItsLearnedNameWithoutADentry) {
  const Nid file = known(11, "file");
  const auto flux = cache->begin({}, name(SF_NID_ROOT, "file"));
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, file));
  EXPECT_FALSE(cache->fill_attr(cache->moment(), file, attr_of(1), kNever));
  cache->end(flux);
  EXPECT_EQ(0u, cache->stats().epoch_bumps);
}

TEST_F(CacheTest, UnknownChildVoidsAllAttributes) {
  const Nid file = known(10, "file"), other = known(11, "other");
  const Moment before = cache->moment();
  const auto flux = cache->begin({}, name(SF_NID_ROOT, "a second name of file"));
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, file));
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, other));
  EXPECT_FALSE(cache->fill_attr(cache->moment(), file, attr_of(1), kNever));
  cache->end(flux);
  EXPECT_FALSE(cache->fill_attr(before, file, attr_of(1), kNever));
  EXPECT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(1), kNever));
  EXPECT_EQ(SF_FIND_OK, find_attr(view, file));
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, other));
  EXPECT_EQ(1u, cache->stats().epoch_bumps);
}

TEST_F(CacheTest, AMutationOfAnyNodeHidesAllOfThemAndKeepsNames) {
  const Nid file = known(10, "file"), other = known(11, "other");
  ASSERT_TRUE(cache->fill_dentry(cache->moment(), SF_NID_ROOT, "other", other, kNever));
  ASSERT_TRUE(fill_page(other, cache->moment()));
  const Moment before = cache->moment();
  const auto flux = cache->begin(node(file, kTouchContent), {}, Reach::AnyNode);
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, other));
  EXPECT_FALSE(cache->fill_attr(cache->moment(), other, attr_of(100), kNever));
  EXPECT_FALSE(fill_page(other, cache->moment()));
  cache->end(flux);
  EXPECT_FALSE(cache->fill_attr(before, other, attr_of(100), kNever));
  EXPECT_FALSE(fill_page(other, cache->moment())) << "nothing tells changes by yet";
  ASSERT_TRUE(cache->fill_attr(cache->moment(), other, attr_of(100), kNever));
  EXPECT_EQ(SF_FIND_ABSENT, find_page(other)) << "unchanged attributes must not bring contents back";
  EXPECT_TRUE(fill_page(other, cache->moment()));
  EXPECT_EQ(SF_FIND_OK, find_page(other));
  EXPECT_EQ(SF_FIND_OK, find_dentry(view, SF_NID_ROOT, "other"));
}

TEST_F(CacheTest, NewNamesVoidNothing) {
  const Nid file = known(10, "file");
  cache->end(cache->begin({}, name(SF_NID_ROOT, "created", false)));
  ASSERT_TRUE(cache->fill_dentry(cache->moment(), SF_NID_ROOT, "absent", 0, kNever));
  cache->end(cache->begin({}, name(SF_NID_ROOT, "absent", true)));
  EXPECT_EQ(SF_FIND_OK, find_attr(view, file));
  EXPECT_EQ(0u, cache->stats().epoch_bumps);
}

TEST_F(CacheTest, EpochWrapsWithoutBringingOldAttributesBack) {
  const Nid dir = known(10, "dir", SF_NID_ROOT, true);
  ASSERT_TRUE(cache->fill_dentry(cache->moment(), SF_NID_ROOT, "dir", dir, kNever));
  const uint16_t epoch = cache->header()->attr_epoch;
  do {
    cache->end(cache->begin({}, name(dir, "unknown")));
    ASSERT_NE(0, cache->header()->attr_epoch);
  } while (cache->header()->attr_epoch != epoch);
  sf_moment moment{};
  Nid parent;
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, dir));
  EXPECT_EQ(SF_FIND_ABSENT, sf_find_parent(&view, dir, &moment, &parent));
}

TEST_F(CacheTest, ReplacedChildLosesItsContentsWhenAsked) {
  const Nid file = known(10, "file");
  ASSERT_TRUE(fill_page(file, cache->moment()));
  const uint64_t cid = cid_of(view, file);
  cache->end(cache->begin({}, name(SF_NID_ROOT, "file", true, true)));
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(100), kNever));
  EXPECT_NE(cid, cid_of(view, file));
  EXPECT_EQ(SF_FIND_ABSENT, find_page(file));
}

TEST_F(CacheTest, UnknownNodeRefusesEverythingWhileInFlight) {
  const Nid file = known(10, "file");
  const Moment before = cache->moment();
  const auto flux = cache->begin(node(0, kTouchContent), {});
  EXPECT_FALSE(cache->fill_attr(cache->moment(), file, attr_of(1), kNever));
  EXPECT_FALSE(cache->fill_dentry(cache->moment(), SF_NID_ROOT, "x", 0, kNever));
  cache->end(flux);
  EXPECT_FALSE(cache->fill_attr(before, file, attr_of(1), kNever));
  EXPECT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(1), kNever));
}

TEST_F(CacheTest, StatfsFallsWithAnyMutation) {
  const Nid file = known(10, "file");
  fuse_kstatfs statfs{};
  sf_moment moment{};
  const Moment before = cache->moment();
  ASSERT_TRUE(cache->fill_statfs(before, statfs, kNever));
  const auto flux = cache->begin(node(file, kTouchContent), {});
  EXPECT_EQ(SF_FIND_ABSENT, sf_find_statfs(&view, &moment, &statfs));
  EXPECT_FALSE(cache->fill_statfs(cache->moment(), statfs, kNever));
  cache->end(flux);
  EXPECT_FALSE(cache->fill_statfs(before, statfs, kNever));
  EXPECT_TRUE(cache->fill_statfs(cache->moment(), statfs, kNever));
}

// ---- changes from outside

TEST_F(CacheTest, ContentsNeedAttributesFirst) {
  const Nid file = learn(10, "file");
  EXPECT_FALSE(fill_page(file, cache->moment()));
  const Moment before = cache->moment();
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(100), kNever));
  EXPECT_FALSE(fill_page(file, before)) << "may be older than the attributes, and nobody could tell";
  EXPECT_TRUE(fill_page(file, cache->moment()));
}

TEST_F(CacheTest, OutsideChangeOfAttributesVoidsContents) {
  const Nid file = known(10, "file");
  ASSERT_TRUE(fill_page(file, cache->moment()));
  const Moment before = cache->moment();
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(100), 1'000'000'000'000)) << "as before";
  EXPECT_EQ(SF_FIND_OK, find_page(file));
  EXPECT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(101), kNever));
  EXPECT_EQ(SF_FIND_ABSENT, find_page(file)) << "size";
  EXPECT_FALSE(fill_page(file, before)) << "read before the change was noticed";
  ASSERT_TRUE(fill_page(file, cache->moment()));
  EXPECT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(101, 1'000'000'001), kNever));
  EXPECT_EQ(SF_FIND_ABSENT, find_page(file)) << "time";
}

TEST_F(CacheTest, YoungAttributesDoNotVouchForContents) {
  const Nid file = learn(10, "file");
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  const fuse_attr young = attr_of(100, static_cast<uint64_t>(now.tv_sec));
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, young, 1'000'000'000'000));
  ASSERT_TRUE(fill_page(file, cache->moment()));
  EXPECT_EQ(SF_FIND_OK, find_page(file)) << "served for this time to live";
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, young, 1'000'000'000'000));
  EXPECT_EQ(SF_FIND_ABSENT, find_page(file)) << "a change in the same second would look the same";
  // Where nothing changes from outside, that is no reason.
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, young, kNever));
  ASSERT_TRUE(fill_page(file, cache->moment()));
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, young, kNever));
  EXPECT_EQ(SF_FIND_OK, find_page(file));
}

TEST_F(CacheTest, RecordsExpire) {
  const Nid file = learn(10, "file");
  fuse_kstatfs statfs{};
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(1), 1));
  ASSERT_TRUE(cache->fill_statfs(cache->moment(), statfs, 1));
  await_tick(view);
  EXPECT_EQ(SF_FIND_EXPIRED, find_attr(view, file));
  sf_moment moment{};
  EXPECT_EQ(SF_FIND_EXPIRED, sf_find_statfs(&view, &moment, &statfs));
  EXPECT_NE(0u, moment.now_ns);
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(1), ~0ull - 1)) << "no overflow";
  EXPECT_EQ(SF_FIND_OK, find_attr(view, file));
}

TEST_F(CacheTest, DropsRefuseOlderFillsToo) {
  const Nid file = known(10, "file");
  ASSERT_TRUE(fill_page(file, cache->moment()));
  Moment before = cache->moment();
  cache->drop_node(file);
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, file));
  EXPECT_FALSE(cache->fill_attr(before, file, attr_of(100), kNever));
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(100), kNever));
  EXPECT_EQ(SF_FIND_ABSENT, find_page(file));

  ASSERT_TRUE(cache->fill_dentry(cache->moment(), SF_NID_ROOT, "file", file, kNever));
  before = cache->moment();
  cache->drop_name(SF_NID_ROOT, "file");
  EXPECT_EQ(SF_FIND_ABSENT, find_dentry(view, SF_NID_ROOT, "file"));
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, file));
  EXPECT_FALSE(cache->fill_dentry(before, SF_NID_ROOT, "file", file, kNever));
}

TEST_F(CacheTest, DropEverythingLeavesNothing) {
  const Nid file = known(10, "file");
  ASSERT_TRUE(fill_page(file, cache->moment()));
  const uint64_t cid = cid_of(view, file);
  ASSERT_TRUE(cache->fill_dentry(cache->moment(), SF_NID_ROOT, "file", file, kNever));
  const Moment before = cache->moment();
  cache->drop_everything();
  char buffer[8];
  uint32_t copied;
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, file));
  EXPECT_EQ(SF_FIND_ABSENT, find_dentry(view, SF_NID_ROOT, "file"));
  EXPECT_EQ(SF_FIND_ABSENT, sf_find_data(&view, cid, 0, 0, 8, buffer, &copied));
  EXPECT_FALSE(cache->fill_attr(before, file, attr_of(100), kNever));
  EXPECT_FALSE(cache->fill_dentry(before, SF_NID_ROOT, "file", file, kNever));
  for (uint64_t count : cache->stats().records) EXPECT_EQ(0u, count);
  EXPECT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(100), kNever));
  Nid nid;
  EXPECT_EQ(SF_FIND_OK, sf_find_node(&view, 10, &nid)) << "published again with the attributes";
}

// ---- writers and atime

TEST_F(CacheTest, ContentsAreNotServedWhileOpenForWriting) {
  const Nid file = known(10, "file");
  ASSERT_TRUE(fill_page(file, cache->moment()));
  cache->opened_for_write(file);
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, file));
  EXPECT_TRUE(cache->has_writer(file));
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(100), kNever));
  sf_attr_view attr{};
  ASSERT_EQ(SF_FIND_OK, find_attr(view, file, &attr));
  EXPECT_EQ(0u, attr.cid);
  EXPECT_EQ(uint32_t{SF_RECF_WRITER}, attr.flags);
  EXPECT_FALSE(fill_page(file, cache->moment()));
  cache->opened_for_write(file);
  cache->released_by_writer(file);
  EXPECT_TRUE(cache->has_writer(file));
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(100), kNever));
  EXPECT_EQ(0u, cid_of(view, file)) << "one writer is left";

  const Moment before = cache->moment();
  cache->released_by_writer(file);
  EXPECT_FALSE(cache->has_writer(file));
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, file));
  EXPECT_FALSE(cache->fill_attr(before, file, attr_of(100), kNever)) << "may have been read before the last write";
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(100), kNever));
  EXPECT_NE(0u, cid_of(view, file));
  EXPECT_EQ(SF_FIND_ABSENT, find_page(file));
  cache->released_by_writer(file);
  EXPECT_FALSE(cache->has_writer(file)) << "one release too many does no harm";
}

TEST_F(CacheTest, AtimeMovedDemotesTheRecord) {
  const Nid file = known(10, "file");
  ASSERT_TRUE(fill_page(file, cache->moment()));
  const Moment before = cache->moment();
  EXPECT_TRUE(cache->atime_moved(file));
  EXPECT_FALSE(cache->atime_moved(file));
  sf_attr_view attr{};
  ASSERT_EQ(SF_FIND_OK, find_attr(view, file, &attr));
  EXPECT_EQ(uint32_t{SF_RECF_ATIME_STALE}, attr.flags);
  EXPECT_EQ(SF_FIND_OK, find_page(file));
  ASSERT_TRUE(cache->fill_attr(before, file, attr_of(100), kNever));
  ASSERT_EQ(SF_FIND_OK, find_attr(view, file, &attr));
  EXPECT_EQ(uint32_t{SF_RECF_ATIME_STALE}, attr.flags) << "read before the atime moved";
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(100), kNever));
  ASSERT_EQ(SF_FIND_OK, find_attr(view, file, &attr));
  EXPECT_EQ(0u, attr.flags);
}

// ---- identities

TEST_F(CacheTest, ReferencesOfBothHoldersKeepALife) {
  const Nid file = learn(10, "file");
  EXPECT_EQ(file, learn(10, "file"));
  EXPECT_EQ(file, cache->learn(10, SF_NID_ROOT, "file", false, Holder::Bridge));
  EXPECT_EQ(1u, cache->bridge_references(10));
  EXPECT_FALSE(cache->forget(10, 1, Holder::Kernel));
  EXPECT_FALSE(cache->forget(10, 1, Holder::Kernel));
  EXPECT_EQ(file, cache->nid_of(10));
  EXPECT_TRUE(cache->forget(10, 1, Holder::Bridge));
  EXPECT_EQ(0u, cache->nid_of(10));
  EXPECT_EQ(0u, cache->nodeid_of(file));
  EXPECT_FALSE(cache->forget(10, 1, Holder::Kernel));
  Nid nid;
  EXPECT_EQ(SF_FIND_ABSENT, sf_find_node(&view, 10, &nid));
  EXPECT_FALSE(cache->forget(FUSE_ROOT_ID, 1000, Holder::Kernel));
  EXPECT_EQ(SF_NID_ROOT, cache->nid_of(FUSE_ROOT_ID));
}

TEST_F(CacheTest, ReusedNodeIdIsAnotherNode) {
  const Nid first = known(10, "file");
  ASSERT_TRUE(fill_page(first, cache->moment()));
  ASSERT_TRUE(cache->fill_dentry(cache->moment(), SF_NID_ROOT, "file", first, kNever));
  ASSERT_TRUE(cache->forget(10, 1, Holder::Kernel));
  const Nid second = learn(10, "other");
  EXPECT_NE(first, second);
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, first));
  EXPECT_EQ(SF_FIND_ABSENT, find_attr(view, second));
  EXPECT_FALSE(cache->fill_attr(cache->moment(), first, attr_of(1), kNever)) << "that life is over";
  EXPECT_FALSE(cache->fill_dentry(cache->moment(), SF_NID_ROOT, "x", first, kNever));
  ASSERT_TRUE(cache->fill_attr(cache->moment(), second, attr_of(100), kNever));
  EXPECT_EQ(SF_FIND_ABSENT, find_page(second));
  Nid nid;
  EXPECT_EQ(SF_FIND_OK, sf_find_node(&view, 10, &nid));
  EXPECT_EQ(second, nid);
}

TEST_F(CacheTest, NewLifeRefusesFillsOlderThanTheOldOnesMutations) {
  const Nid first = known(10, "file");
  const Moment before = cache->moment();  // a LOOKUP arrives, and reads the file before the change
  cache->end(cache->begin(node(first, kTouchContent), {}));
  ASSERT_TRUE(cache->forget(10, 1, Holder::Kernel));
  const Nid second = learn(10, "file");  // its reply is seen only now
  EXPECT_FALSE(cache->fill_attr(before, second, attr_of(1), kNever));
  EXPECT_TRUE(cache->fill_attr(cache->moment(), second, attr_of(1), kNever));
}

TEST_F(CacheTest, MutationOfALifeThatEndsInFlightRefusesEverything) {
  const Nid first = known(10, "file");
  const Moment before = cache->moment();
  const auto flux = cache->begin(node(first, kTouchContent), {});
  ASSERT_TRUE(cache->forget(10, 1, Holder::Kernel));
  const Nid second = learn(10, "file");
  EXPECT_FALSE(cache->fill_attr(cache->moment(), second, attr_of(1), kNever));
  cache->end(flux);
  EXPECT_FALSE(cache->fill_attr(before, second, attr_of(1), kNever));
  EXPECT_TRUE(cache->fill_attr(cache->moment(), second, attr_of(1), kNever));
}

TEST_F(CacheTest, LearningAnotherChildDropsTheDentry) {
  const Nid file = known(10, "file");
  ASSERT_TRUE(cache->fill_dentry(cache->moment(), SF_NID_ROOT, "file", file, kNever));
  learn(10, "file");
  EXPECT_EQ(SF_FIND_OK, find_dentry(view, SF_NID_ROOT, "file"));
  learn(11, "file");
  EXPECT_EQ(SF_FIND_ABSENT, find_dentry(view, SF_NID_ROOT, "file"));
}

TEST_F(CacheTest, ParentComesWithTheDentryAndGoesWithTheName) {
  const Nid dir = known(10, "dir", SF_NID_ROOT, true), sub = known(11, "sub", dir, true);
  const Moment before = cache->moment();
  ASSERT_TRUE(cache->fill_dentry(before, dir, "sub", sub, kNever));
  sf_moment moment{};
  Nid parent = 0;
  ASSERT_EQ(SF_FIND_OK, sf_find_parent(&view, sub, &moment, &parent));
  EXPECT_EQ(dir, parent);
  EXPECT_EQ(SF_FIND_ABSENT, sf_find_parent(&view, SF_NID_ROOT, &moment, &parent));
  const uint64_t cid = cid_of(view, sub);
  std::vector<TouchedName> names = {{dir, "sub"}, {SF_NID_ROOT, "moved", false, false}};
  const auto flux = cache->begin({}, names);
  EXPECT_EQ(SF_FIND_ABSENT, sf_find_parent(&view, sub, &moment, &parent));
  cache->renamed(dir, "sub", SF_NID_ROOT, "moved", false);
  cache->end(flux);
  EXPECT_FALSE(cache->fill_dentry(before, dir, "sub", sub, kNever));
  EXPECT_EQ(SF_FIND_ABSENT, sf_find_parent(&view, sub, &moment, &parent));
  ASSERT_TRUE(cache->fill_dentry(cache->moment(), SF_NID_ROOT, "moved", sub, kNever));
  ASSERT_EQ(SF_FIND_OK, sf_find_parent(&view, sub, &moment, &parent));
  EXPECT_EQ(SF_NID_ROOT, parent);
  ASSERT_TRUE(cache->fill_attr(cache->moment(), sub, attr_of(100), kNever));
  EXPECT_NE(cid, cid_of(view, sub)) << "its listing names the parent";
}

// ---- the segment

TEST_F(CacheTest, ClientsWithoutAChunkAreTold) {
  ClientView client(*cache);
  const Nid file = known(10, "file");
  // Fill until a second chunk has come.
  for (int i = 0; cache->chunks().size() < 2; ++i) {
    ASSERT_TRUE(cache->fill_data(cache->moment(), file, static_cast<uint64_t>(i) * 4096, some_bytes(4096, 1), false));
  }
  const uint64_t cid = cid_of(client.view, file);
  ASSERT_NE(0u, cid);
  char buffer[4096];
  uint32_t copied;
  int unmapped = 0;
  const auto pages = cache->stats().records[SF_REC_DATA];
  for (uint64_t i = 0; i < pages; ++i) {
    unmapped += sf_find_data(&client.view, cid, i, 0, 4096, buffer, &copied) == SF_FIND_UNMAPPED;
  }
  EXPECT_GT(unmapped, 0);
  client.refresh();
  for (uint64_t i = 0; i < pages; ++i) {
    EXPECT_EQ(SF_FIND_OK, sf_find_data(&client.view, cid, i, 0, 4096, buffer, &copied));
  }
}

TEST_F(CacheTest, DroppedChunksGiveMemoryBackAndAreNoticed) {
  const Nid file = known(10, "file");
  for (int i = 0; cache->chunks().size() < 2; ++i) {
    ASSERT_TRUE(cache->fill_data(cache->moment(), file, static_cast<uint64_t>(i) * 4096, some_bytes(4096, 1), false));
  }
  ClientView client(*cache);
  cache->drop_everything();
  EXPECT_EQ(1u, cache->chunks().size());
  EXPECT_EQ(0u, cache->stats().used_bytes);
  // A chunk that comes in the place of the dropped one is another one.
  ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(100), kNever));
  for (int i = 0; cache->chunks().size() < 2; ++i) {
    ASSERT_TRUE(cache->fill_data(cache->moment(), file, static_cast<uint64_t>(i) * 4096, some_bytes(4096, 2), false));
  }
  char buffer[4096];
  uint32_t copied;
  const uint64_t cid = cid_of(view, file);
  int unmapped = 0;
  for (uint64_t i = 0; i < cache->stats().records[SF_REC_DATA]; ++i) {
    const auto found = sf_find_data(&client.view, cid, i, 0, 4096, buffer, &copied);
    unmapped += found == SF_FIND_UNMAPPED;
    EXPECT_TRUE(found == SF_FIND_OK || found == SF_FIND_UNMAPPED) << found;
  }
  EXPECT_GT(unmapped, 0);
}

TEST_F(CacheTest, ServingNeedsStateAndALivingHolder) {
  EXPECT_FALSE(sf_view_serving(&view));
  cache->header()->state = SF_SEG_SERVING;
  EXPECT_FALSE(sf_view_serving(&view)) << "nobody holds the liveness mutex";
  cache->hold_liveness();
  EXPECT_TRUE(sf_view_serving(&view));
  cache->header()->state = SF_SEG_GONE;
  EXPECT_FALSE(sf_view_serving(&view));
}

TEST_F(CacheTest, HolderThatEndsIsNoticed) {
  cache->header()->state = SF_SEG_SERVING;
  std::thread holder([&] {
    cache->hold_liveness();
    EXPECT_TRUE(sf_view_serving(&view));
  });
  holder.join();
  EXPECT_FALSE(sf_view_serving(&view));
}

}  // namespace
}  // namespace shortfuse::cache
